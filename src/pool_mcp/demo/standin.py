"""A loopback stand-in for the Anthropic Messages API: the demo's and the tests' Anthropic.

It answers the real Claude Code CLI, tells accounts apart by their credential, plays every fault an account
can have, lets an account fill up and run into its limits, and keeps exact books of what each call would have
cost::

    with Standin() as standin:
        standin.accounts["alice"] = Behaviour(mode="slow", chunks=20)
        # ANTHROPIC_BASE_URL=standin.url CLAUDE_CODE_OAUTH_TOKEN=standin.token("alice") claude -p …
        standin.books

``Authorization: Bearer sk-ant-oat01-NAME`` is subscription NAME's; ``x-api-key: sk-ant-api03-NAME`` is a
key's, to which no rate-limit windows apply. Names that were never set up behave as ``Behaviour()``. This module
serves; what an account does with a call is decided in ``standin_accounts.py``.
"""

import asyncio
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pool_mcp.accounting.pricing import price_nanousd
from pool_mcp.demo.standin_accounts import Accounts, Call, Plan, Refusal, Reply, ToolUse
from pool_mcp.model import Tokens


class Standin:
    """The stand-in; a context manager that serves from a thread of its own.

    ``url`` is valid from construction on. ``keep_requests``
    keeps the bodies of the requests for ``requests``. Every method may be called from any thread.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        seed: int = 0,
        keep_requests: bool = False,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._clock = clock
        self._changed = threading.Condition(threading.RLock())
        self._books: list[Call] = []
        self._refused: list[Refusal] = []
        self._unknown: list[str] = []
        self._requests: list[tuple[str, dict[str, Any]]] | None = [] if keep_requests else None
        self._in_flight = 0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.accounts = Accounts(clock, seed)
        self._socket = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(self._app(), log_config=None, log_level="critical", access_log=False, lifespan="off")
        )

    # What tests read

    @staticmethod
    def token(account: str) -> str:
        """Return the OAuth token by which ``account`` is known."""
        return f"sk-ant-oat01-{account}"

    @staticmethod
    def api_key(account: str) -> str:
        """Return the API key by which ``account`` is known."""
        return f"sk-ant-api03-{account}"

    @property
    def books(self) -> list[Call]:
        """Every billed call that has ended, in the order they ended."""
        with self._changed:
            return list(self._books)

    @property
    def refused(self) -> list[Refusal]:
        """Every call that was turned away, at no cost."""
        with self._changed:
            return list(self._refused)

    @property
    def unknown_requests(self) -> list[str]:
        """What else the client asked for (``"HEAD /api/hello"``); answered 404."""
        with self._changed:
            return list(self._unknown)

    @property
    def requests(self) -> list[tuple[str, dict[str, Any]]]:
        """Every call's account and body, with ``keep_requests``."""
        with self._changed:
            return list(self._requests or ())

    def spent_nanousd(self, account: str | None = None, session_id: str | None = None) -> int:
        """Sum the books, of one account or session where given. Calls without a price count 0."""
        return sum(
            call.cost_nanousd or 0
            for call in self.books
            if account in (None, call.account) and session_id in (None, call.session_id)
        )

    def wait_idle(self, timeout_s: float = 5.0) -> bool:
        """Wait until no call is being served, so that the books are complete; False after the time-out."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout_s)

    def wait_in_flight(self, count: int = 1, timeout_s: float = 5.0) -> bool:
        """Wait until at least ``count`` calls are being served; False after the time-out."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight >= count, timeout_s)

    # Serving

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve, name="standin", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def close(self) -> None:
        """Cut every open call and stop, in about 0.2 s."""
        self._stopping = True
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._socket.close()

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", _count_tokens, methods=["POST"]),
                Route("/{path:path}", self._not_found, methods=["HEAD", "GET", "POST", "PUT", "DELETE"]),
            ]
        )

    async def _not_found(self, request: Request) -> JSONResponse:
        with self._changed:
            self._unknown.append(f"{request.method} {request.url.path}")
        return _error(404, "not_found_error", f"No such path here: {request.url.path}")

    async def _messages(self, request: Request) -> "JSONResponse | _Answering":
        body = json.loads(await request.body())
        account, is_key = _account_of(request)
        if account is None:
            return _error(401, "authentication_error", "x-api-key header is required")
        plan = self._plan(account, is_key, body)
        if plan.refusal is not None:
            status, kind, message = plan.refusal
            with self._changed:
                self._refused.append(Refusal(account, status, self._clock()))
            return _error(status, kind, message, plan.headers)
        session_id = request.headers.get("x-claude-code-session-id") or _session_of(body)
        return _Answering(self, plan, body, session_id)

    def _plan(self, account: str, is_key: bool, body: dict[str, Any]) -> Plan:
        request_id = f"req_{uuid.uuid4().hex[:24]}"
        with self._changed:
            if self._requests is not None:
                self._requests.append((account, body))
            return self.accounts.plan(account, str(body.get("model")), request_id, self._books, is_key=is_key)

    def started(self) -> None:
        """Note that a call is being served."""
        with self._changed:
            self._in_flight += 1
            self._changed.notify_all()

    def hung(self, account: str) -> None:
        """Note the end of a call that never began to answer."""
        with self._changed:
            self._in_flight -= 1
            self._refused.append(Refusal(account, 0, self._clock()))
            self._changed.notify_all()

    def book(self, call: Call) -> None:
        """Enter a call that has ended."""
        with self._changed:
            call = replace(call, index=len(self._books))
            self._books.append(call)
            self._in_flight -= 1
            self._changed.notify_all()

    def now_ms(self) -> int:
        """Return the stand-in's time."""
        return self._clock()

    @property
    def stopping(self) -> bool:
        """Whether open calls are to be cut."""
        return self._stopping


class _Answering:
    """One call's answer as an ASGI response, which notices when the client goes away."""

    def __init__(self, standin: Standin, plan: Plan, body: dict[str, Any], session_id: str | None) -> None:
        self.standin, self.plan, self.body, self.session_id = standin, plan, body, session_id
        self.model = str(body.get("model"))
        self.message_id = f"msg_{uuid.uuid4().hex[:24]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        gone = asyncio.create_task(_until_gone(receive))
        self.standin.started()
        try:
            if self.plan.mode == "hang_before_start":
                try:
                    await self._left_within(gone, None)
                finally:
                    self.standin.hung(self.plan.account)
            else:
                await self._answer(gone, send)
        finally:
            gone.cancel()

    async def _answer(self, gone: "asyncio.Task[None]", send: Send) -> None:
        started_at_ms = self.standin.now_ms()
        stream = bool(self.body.get("stream"))
        tokens, ended = replace(self.plan.tokens, output=1), False

        def end(state: Literal["complete", "cut"]) -> None:
            self.standin.book(
                Call(
                    index=0,
                    account=self.plan.account,
                    message_id=self.message_id,
                    request_id=self.plan.headers["request-id"],
                    model=self.model,
                    tokens=tokens,
                    cost_nanousd=price_nanousd(self.model, tokens, started_at_ms),
                    session_id=self.session_id,
                    started_at_ms=started_at_ms,
                    ended_at_ms=self.standin.now_ms(),
                    state=state,
                )
            )

        try:
            await _start(send, "text/event-stream" if stream else "application/json", self.plan.headers)
            for event, share in self._events():
                tokens = replace(tokens, output=max(1, int(self.plan.tokens.output * share)))
                if event["type"] == "message_stop":  # booked first: who has the answer finds it in the books
                    ended = True
                    end("complete")
                if stream:
                    await _send_event(send, event)
                if await self._left_within(gone, self._pause_s(event)):
                    return
            if not stream:
                await _send_body(send, json.dumps(self._message(self._blocks(), tokens)).encode())
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if not ended:
                end("cut")

    def _pause_s(self, event: dict[str, Any]) -> float | None:
        """How long to wait after an event; None: for ever."""
        if self.plan.mode == "hang":
            return None
        slow = self.plan.mode == "slow" and event["type"] == "content_block_delta"
        return self.plan.behaviour.chunk_delay_s if slow else 0

    async def _left_within(self, gone: "asyncio.Task[None]", pause_s: float | None) -> bool:
        """Wait, and tell whether the client (or the stand-in) went away meanwhile."""
        deadline = None if pause_s is None else time.monotonic() + pause_s
        while not gone.done() and not self.standin.stopping:
            left_s = 0.05 if deadline is None else deadline - time.monotonic()
            if left_s <= 0:
                await asyncio.sleep(0)
                return gone.done()
            await asyncio.wait({gone}, timeout=min(left_s, 0.05))
        return True

    def _text(self) -> str:
        reply = self.plan.reply
        text = reply.text
        if text is None and not (reply.tools and reply.text_size is None):
            text = f"Answer {self.plan.number} of the stand-in for {self.plan.account}: no model was asked."
        if reply.text_size is not None:
            line = f"{text} "
            text = (line * (reply.text_size // len(line) + 1))[: reply.text_size]
        return text or ""

    def _tools(self) -> tuple[ToolUse, ...]:
        """Return the scripted tool calls, or else the structured output that the client waits for."""
        if self.plan.reply != Reply():
            return self.plan.reply.tools
        last = json.dumps(self.body["messages"][-1:])
        for tool in self.body.get("tools") or ():
            if tool.get("name") == "StructuredOutput" and '"tool_result"' not in last:
                schema = tool["input_schema"]
                return (ToolUse("StructuredOutput", example_of(schema, schema)),)
        return ()

    def _blocks(self) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if text := self._text():
            blocks.append({"type": "text", "text": text})
        blocks += [
            {
                "type": "tool_use",
                "id": f"toolu_{uuid.uuid4().hex[:24]}",
                "name": tool.name,
                "input": tool.input,
            }
            for tool in self._tools()
        ]
        return blocks

    def _message(self, blocks: list[dict[str, Any]], tokens: Tokens) -> dict[str, Any]:
        """Make the message object; without blocks, as it is when it begins."""
        stop_reason = "tool_use" if any(block["type"] == "tool_use" for block in blocks) else "end_turn"
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": blocks,
            "stop_reason": stop_reason if blocks else None,
            "stop_sequence": None,
            "usage": _usage(tokens) | {"service_tier": "standard"},
        }

    def _events(self) -> Iterator[tuple[dict[str, Any], float]]:
        """Yield the stream's events, each with the share of the output that has been sent by then."""
        blocks, tokens = self._blocks(), self.plan.tokens
        yield {"type": "message_start", "message": self._message([], replace(tokens, output=1))}, 0
        for index, block in enumerate(blocks):
            empty: dict[str, Any] = {"text": ""} if block["type"] == "text" else {"input": {}}
            begun = block | empty
            yield {"type": "content_block_start", "index": index, "content_block": begun}, index / len(blocks)
            pieces = self._pieces(block)
            for number, delta in enumerate(pieces, start=1):
                share = (index + number / len(pieces)) / len(blocks)
                yield {"type": "content_block_delta", "index": index, "delta": delta}, share
            yield {"type": "content_block_stop", "index": index}, (index + 1) / len(blocks)
        stop = {"stop_reason": self._message(blocks, tokens)["stop_reason"], "stop_sequence": None}
        yield {"type": "message_delta", "delta": stop, "usage": _usage(tokens)}, 1
        yield {"type": "message_stop"}, 1

    def _pieces(self, block: dict[str, Any]) -> list[dict[str, str]]:
        if block["type"] == "tool_use":
            return [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        text: str = block["text"]
        size = -(-len(text) // self.plan.behaviour.chunks) if self.plan.mode == "slow" else 2000
        return [{"type": "text_delta", "text": text[i : i + size]} for i in range(0, len(text), max(1, size))]


def example_of(schema: Any, root: Any) -> Any:
    """Make the simplest value that conforms to a JSON schema; ``root`` is where its references point."""
    if not isinstance(schema, dict):
        return None
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].removeprefix("#").strip("/").split("/"):
            target = target[part] if part else target
        return example_of(target, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example_of(schema[key][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {key: example_of(value, root) for key, value in schema.get("properties", {}).items()}
    if kind == "array":
        return [example_of(schema.get("items"), root) for _ in range(max(1, schema.get("minItems", 1)))]
    if kind in ("integer", "number"):
        return max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
    if kind == "boolean":
        return True
    return None if kind == "null" else "stand-in".ljust(schema.get("minLength", 0), "!")[: schema.get("maxLength")]


def _usage(tokens: Tokens) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cache_creation_input_tokens": tokens.cache_creation,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_creation_5m,
            "ephemeral_1h_input_tokens": tokens.cache_creation_1h,
        },
    }
    if tokens.web_search_requests:
        usage["server_tool_use"] = {"web_search_requests": tokens.web_search_requests}
    return usage


def _account_of(request: Request) -> tuple[str | None, bool]:
    """Return the account's name and whether an API key named it, which wins as it does at Anthropic."""
    if key := request.headers.get("x-api-key"):
        return key.removeprefix("sk-ant-api03-"), True
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return (token.removeprefix("sk-ant-oat01-") or None if scheme == "Bearer" else None), False


def _session_of(body: dict[str, Any]) -> str | None:
    """Find the session in ``metadata.user_id``: JSON text, or ``…_session_<uuid>`` in older clients."""
    found = re.search(r'session_(?:id": ?")?([0-9a-f-]{36})', str((body.get("metadata") or {}).get("user_id")))
    return found[1] if found else None


async def _count_tokens(request: Request) -> JSONResponse:
    return JSONResponse({"input_tokens": max(1, len(await request.body()) // 4)})


def _error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {"type": "error", "error": {"type": kind, "message": message}}
    return JSONResponse(body, status, headers=headers)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, content_type: str, headers: dict[str, str]) -> None:
    named = {"content-type": content_type} | headers
    pairs = [(key.encode(), value.encode()) for key, value in named.items()]
    await send({"type": "http.response.start", "status": 200, "headers": pairs})


async def _send_event(send: Send, event: dict[str, Any]) -> None:
    await _send_body(send, f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
