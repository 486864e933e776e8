"""The four APIs by which hosts talk to a model: which tools a request offers, what calls gave, and how to reply.

Each API reads a request's body and writes the smallest stream that its clients take.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one of the host's tools. ``namespace`` is for hosts that list tools in groups."""

    id: str
    name: str
    arguments: dict[str, Any]
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool as the host offers it to the model."""

    name: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave. ``id`` is the call's, with whatever an API puts before it."""

    id: str
    text: str


Reply = ToolCall | str
"""What the model says: a call, or a text that ends the conversation."""


class ModelApi(Protocol):
    """One API."""

    def is_path(self, path: str) -> bool:
        """Whether a POST to this path asks the model."""

    def tools(self, body: Body) -> list[OfferedTool]:
        """The tools that the model may call."""

    def results(self, body: Body) -> list[ToolResult]:
        """What the calls so far gave, in their order, exactly as the model gets it (JSON where it is no text)."""

    def stream(self, body: Body, reply: Reply) -> Iterator[bytes]:
        """The reply as server-sent events."""


def _event(data: Body | str, name: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def _text(value: Any) -> str:
    """A result's text: text blocks are joined, anything else is kept as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, dict) and isinstance(one.get("text"), str) for one in value):
        return "\n".join(one["text"] for one in value)
    return json.dumps(value, ensure_ascii=False)


class AnthropicMessages:
    """``POST /v1/messages`` (Claude Code)."""

    def is_path(self, path: str) -> bool:
        return path == "/v1/messages"

    def tools(self, body: Body) -> list[OfferedTool]:
        found = [OfferedTool(tool["name"]) for tool in body.get("tools") or () if not tool.get("defer_loading")]
        loaded = [
            OfferedTool(one["tool_name"])
            for result in self._blocks(body)
            if isinstance(result.get("content"), list)
            for one in result["content"]
            if one.get("type") == "tool_reference"
        ]
        return found + loaded

    def results(self, body: Body) -> list[ToolResult]:
        return [ToolResult(block["tool_use_id"], _text(block.get("content"))) for block in self._blocks(body)]

    def _blocks(self, body: Body) -> list[Body]:
        contents = [message["content"] for message in body["messages"] if isinstance(message["content"], list)]
        return [block for content in contents for block in content if block.get("type") == "tool_result"]

    def stream(self, body: Body, reply: Reply) -> Iterator[bytes]:
        block: Body
        if isinstance(reply, ToolCall):
            block = {"type": "tool_use", "id": f"toolu_{reply.id}", "name": reply.name, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(reply.arguments)}
            stop_reason = "tool_use"
        else:
            block = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": reply}
            stop_reason = "end_turn"
        message: Body = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
        usage = {"input_tokens": 10, "output_tokens": 1}
        events: list[Body] = [
            {
                "type": "message_start",
                "message": {**message, "model": body["model"], "stop_reason": None, "usage": usage},
            },
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": {"output_tokens": 5}},
            {"type": "message_stop"},
        ]
        for event in events:
            yield _event(event, event["type"])


class OpenAIResponses:
    """``POST /v1/responses`` (Codex)."""

    def is_path(self, path: str) -> bool:
        return path == "/v1/responses"

    def tools(self, body: Body) -> list[OfferedTool]:
        found: list[OfferedTool] = []
        for tool in body.get("tools") or ():
            if tool.get("type") == "namespace":
                found += [OfferedTool(one["name"], tool["name"]) for one in tool["tools"]]
            elif "name" in tool:
                found.append(OfferedTool(tool["name"]))
        return found

    def results(self, body: Body) -> list[ToolResult]:
        items = [item for item in body["input"] if item.get("type") == "function_call_output"]
        return [ToolResult(item["call_id"], _text(item["output"])) for item in items]

    def stream(self, body: Body, reply: Reply) -> Iterator[bytes]:
        item: Body
        if isinstance(reply, ToolCall):
            item = {"type": "function_call", "id": f"fc_{reply.id}", "call_id": f"call_{reply.id}", "name": reply.name}
            item |= {"arguments": json.dumps(reply.arguments), "status": "completed"}
            item |= {"namespace": reply.namespace} if reply.namespace else {}
        else:
            content = [{"type": "output_text", "text": reply, "annotations": []}]
            item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        response = {"id": "resp_1", "object": "response", "model": body.get("model"), "output": [item], "usage": usage}
        events: list[Body] = [
            {"type": "response.created", "response": {"id": "resp_1", "output": []}},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": "response.completed", "response": {**response, "status": "completed"}},
        ]
        for event in events:
            yield _event(event, event["type"])


class GeminiGenerateContent:
    """``POST …/models/MODEL:streamGenerateContent`` and ``:generateContent`` (Gemini CLI)."""

    def is_path(self, path: str) -> bool:
        return path.endswith((":generateContent", ":streamGenerateContent"))

    def tools(self, body: Body) -> list[OfferedTool]:
        groups: Sequence[Body] = body.get("tools") or ()
        return [OfferedTool(one["name"]) for group in groups for one in group.get("functionDeclarations") or ()]

    def results(self, body: Body) -> list[ToolResult]:
        parts = [part for content in body["contents"] for part in content.get("parts") or ()]
        found = [part["functionResponse"] for part in parts if "functionResponse" in part]
        return [ToolResult(one.get("id", ""), json.dumps(one["response"], ensure_ascii=False)) for one in found]

    def stream(self, body: Body, reply: Reply) -> Iterator[bytes]:
        part: Body
        if isinstance(reply, ToolCall):
            part = {"functionCall": {"id": reply.id, "name": reply.name, "args": reply.arguments}}
        else:
            part = {"text": reply}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
        yield _event({"candidates": [candidate], "usageMetadata": usage, "modelVersion": body.get("model", "scripted")})


class OpenAIChat:
    """``POST /v1/chat/completions`` (opencode, Continue, Qwen Code)."""

    def is_path(self, path: str) -> bool:
        return path == "/v1/chat/completions"

    def tools(self, body: Body) -> list[OfferedTool]:
        return [OfferedTool(tool["function"]["name"]) for tool in body.get("tools") or ()]

    def results(self, body: Body) -> list[ToolResult]:
        found = [message for message in body["messages"] if message["role"] == "tool"]
        return [ToolResult(message["tool_call_id"], _text(message["content"])) for message in found]

    def stream(self, body: Body, reply: Reply) -> Iterator[bytes]:
        delta: Body
        if isinstance(reply, ToolCall):
            function = {"name": reply.name, "arguments": json.dumps(reply.arguments)}
            calls = [{"index": 0, "id": f"call_{reply.id}", "type": "function", "function": function}]
            delta, reason = {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls"
        else:
            delta, reason = {"role": "assistant", "content": reply}, "stop"
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body.get("model")}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        yield _event({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        yield _event({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage})
        yield _event("[DONE]")


APIS: tuple[ModelApi, ...] = (AnthropicMessages(), OpenAIResponses(), GeminiGenerateContent(), OpenAIChat())
