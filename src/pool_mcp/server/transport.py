"""Carries JSON-RPC between a host, behind its front, and the SDK.

The SDK's own stdio transport drops a line that it cannot read, and the host waits for a reply that never comes. Here
such a line is answered with an error under its own id, which is found without reading the rest.
"""

import asyncio
import contextlib
import json
import logging
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from pool_mcp.server.handshake import QUICK, Front

log = logging.getLogger(__name__)

_MAX_ID = 16 * 1024
"""A longer id is not repeated."""

_MOMENT_S = 0.05
"""How long after the end of input the reply to a call may come; then it is cut, as the SDK does."""
_LIST_S = 0.5
"""How long the reply to a request that is never waiting for anything may come; a list takes some 30 ms."""

Incoming = MemoryObjectReceiveStream[SessionMessage | Exception]
Outgoing = MemoryObjectSendStream[SessionMessage]


@asynccontextmanager
async def connect(front: Front) -> AsyncIterator[tuple[Incoming, Outgoing]]:
    """The host as a pair of streams, as the SDK's server takes them. Ends once both have been closed."""
    lines = _Lines(front)
    to_sdk, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, from_sdk = anyio.create_memory_object_stream[SessionMessage](0)
    unanswered = _Unanswered()

    async def read() -> None:
        async with to_sdk:
            async for line in lines:
                try:
                    message = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
                except ValidationError as error:
                    await _refuse(front, line, error)
                    continue
                unanswered.note(message)
                with contextlib.suppress(anyio.BrokenResourceError):
                    await to_sdk.send(message)
            await unanswered.wait()

    async def write() -> None:
        async with from_sdk:
            async for message in from_sdk:
                await anyio.to_thread.run_sync(front.send, _serialize(message))
                unanswered.note(message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(write)
        yield incoming, outgoing


class _Unanswered:
    """Requests that have no reply yet. The SDK drops them at the end of input, also those about to have one."""

    def __init__(self) -> None:
        self._methods: dict[RequestId | None, str] = {}
        self._has_changed = anyio.Event()

    def note(self, message: SessionMessage) -> None:
        """Take note of a request, or of a reply to one."""
        match message.message:
            case JSONRPCRequest(id=request_id, method=method):
                self._methods[request_id] = method
            case JSONRPCResponse(id=answered) | JSONRPCError(id=answered):
                self._methods.pop(answered, None)
                self._has_changed.set()
                self._has_changed = anyio.Event()

    async def wait(self) -> None:
        """Wait for replies, for a moment; for those that need nothing but this process, until they are there."""
        with anyio.move_on_after(_MOMENT_S):
            while self._methods:
                await self._has_changed.wait()
        with anyio.move_on_after(_LIST_S):
            while QUICK & set(self._methods.values()):
                await self._has_changed.wait()


class _Lines:
    """A front's lines, as they come."""

    def __init__(self, front: Front) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[str](math.inf)
        self._loop = asyncio.get_running_loop()
        for line in front.hand_over(self._deliver):
            self._put(line)

    def _deliver(self, line: bytes | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(
                self._put, line
            )  # a busy loop does not keep the end of input from being read

    def _put(self, line: bytes | None) -> None:
        if line is None:
            self._send.close()
        else:
            self._send.send_nowait(line.decode(errors="replace"))

    def __aiter__(self) -> AsyncIterator[str]:
        return self._receive.__aiter__()


async def _refuse(front: Front, line: str, error: ValidationError) -> None:
    """Answer a line that is no message of JSON-RPC, where it is a request; its content is not logged."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    is_json = first["type"] != "json_invalid"
    code = INVALID_REQUEST if is_json else PARSE_ERROR
    message = _FORM if is_json else f"{first['msg']}; nothing was done"
    request_id = await anyio.to_thread.run_sync(find_request_id, line)
    log.warning("a line of %d characters cannot be read: %s", len(line), message)
    if request_id is not None:
        reply = f'{{"jsonrpc":"2.0","id":{request_id},"error":{{"code":{code},"message":{json.dumps(message)}}}}}'
        await anyio.to_thread.run_sync(front.send, reply)


_FORM = 'Not a request of JSON-RPC 2.0: it needs jsonrpc "2.0", a method, and params that are an object, if any'

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{},:"]|[^\s\[\]{},:"]++', re.DOTALL)
"""A string, a sign of JSON's grammar (a lone quotation mark: a string without an end), or any other value."""
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")


def find_request_id(line: str) -> str | None:
    """The id in a line that may be broken, too deep or too large to be read, as JSON; None where it is no request.

    Goes through the signs of the whole line without reading its values: about a second for 10 MB of short ones.
    """
    found: dict[str, str] = {}
    depth, key, is_value = 0, "", False
    line = line.removeprefix("\ufeff").lstrip()
    if not line.startswith("{"):
        return None
    for match in _TOKEN.finditer(line):
        part = match[0]
        if part in "{[":
            if depth == 1:
                found[key] = part
            depth += 1
        elif part in "}]":
            depth -= 1
        elif depth == 1 and part in ",:":
            is_value = part == ":"
        elif depth == 1 and is_value:
            found[key] = part
        elif depth == 1:
            key = part
        if depth < 1 or part == '"':
            break
    is_request = '"method"' in found or not _ANSWERS & found.keys()
    return _as_json(found.get('"id"', "")) if is_request else None


_ANSWERS = frozenset({'"result"', '"error"'})


def _as_json(part: str) -> str | None:
    """An id that can be repeated, or None."""
    if len(part) > _MAX_ID:
        return None
    if _INTEGER.fullmatch(part):
        return part
    try:
        return json.dumps(json.loads(part, strict=False)) if part.startswith('"') else None
    except ValueError:
        return None


def _serialize(message: SessionMessage) -> str:
    """A message of the SDK's as a line; what cannot be written as JSON becomes an error, so that there is a reply."""
    try:
        return message.message.model_dump_json(by_alias=True, exclude_unset=True)
    except ValueError as error:
        log.error("a message to the host cannot be written: %s", type(error).__name__)
        request_id = getattr(message.message, "id", None)
        failure = ErrorData(code=INTERNAL_ERROR, message="The reply cannot be written as JSON.")
        return JSONRPCError(jsonrpc="2.0", id=request_id, error=failure).model_dump_json(exclude_unset=True)
