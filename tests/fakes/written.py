"""Lines of transcripts, as the CLI writes them."""

import json
from typing import Any

from pool_mcp.model import Tokens

AT = "2026-11-22T09:15:20.742Z"
AT_MS = 1_795_338_920_742
TOKENS = Tokens(
    input=1634, output=69, cache_creation_5m=1009, cache_creation_1h=3953, cache_read=297, web_search_requests=2
)


def usage_of(tokens: Tokens, **more: object) -> dict[str, Any]:
    return {
        "input_tokens": tokens.input,
        "cache_creation_input_tokens": tokens.cache_creation,
        "cache_read_input_tokens": tokens.cache_read,
        "output_tokens": tokens.output,
        "server_tool_use": {"web_search_requests": tokens.web_search_requests, "web_fetch_requests": 0},
        "service_tier": "standard",
        "cache_creation": {
            "ephemeral_1h_input_tokens": tokens.cache_creation_1h,
            "ephemeral_5m_input_tokens": tokens.cache_creation_5m,
        },
        "inference_geo": "",
        "iterations": [],
        "speed": "standard",
        **more,
    }


def answer(message_id: str = "msg_1", request_id: str | None = "req_1", tokens: Tokens = TOKENS, **more: Any) -> Any:
    """An answer's line as an object, its fields in the CLI's order."""
    event = {
        "parentUuid": "586afc23-ba79-4170-840e-7a5de8fb6538",
        "isSidechain": False,
        "message": {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": more.pop("model", "claude-sonnet-4-6"),
            "content": more.pop("content", [{"type": "text", "text": "hello"}]),
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": more.pop("usage", usage_of(tokens)),
            "stop_details": None,
        },
        "requestId": request_id,
        "type": "assistant",
        "uuid": "7d19acc1-1d87-45d1-93fb-5a6a5f62b76d",
        "timestamp": AT,
        "sessionId": "9b2006f4-8099-489e-9cb3-64e8039e70f3",
        "version": "2.1.330",
        **more,
    }
    if request_id is None:
        del event["requestId"]
    return event


def dump(*events: Any) -> bytes:
    return b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events)
