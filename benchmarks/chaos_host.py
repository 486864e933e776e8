"""A host of the chaos benchmark: keeps one real server running and speaks JSON-RPC with it over pipes."""

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

Json = dict[str, Any]

REPLY_S = 90
"""No call takes longer than this; a server that does not reply by then never will."""


class Gone(Exception):
    """A server ended before it replied."""


class Withdrawn(Exception):
    """The request was cancelled by its host."""


@dataclass(eq=False)
class Request:
    """A request on its way."""

    number: int
    done: anyio.Event = field(default_factory=anyio.Event)
    reply: Json | None = None
    is_withdrawn: bool = False


class Host:
    """A host that keeps one server running and speaks JSON-RPC with it."""

    def __init__(self, name: str, env: Mapping[str, str], log: IO[bytes]) -> None:
        self.name = name
        self.unexpected_ends = 0
        self.without_reply = 0
        self.protocol_errors: Counter[str] = Counter()
        self.slowest_stop_ms: dict[str, int] = {}
        self._env = env
        self._log = log
        self._process: anyio.abc.Process | None = None
        self._ready = anyio.Event()
        self._pending: dict[int, Request] = {}
        self._number = 0
        self._told_to_end_s: float | None = None
        self._told_how = ""
        self._has_served = False
        self._writing = anyio.Lock()

    @property
    def pending(self) -> list[Request]:
        """Requests without a reply, but for the first."""
        return [request for number, request in self._pending.items() if number > 0]

    async def keep_running(self) -> None:
        """Start the server, again and again, until cancelled."""
        command = [sys.executable, "-m", "pool_mcp", "serve"]
        while True:
            async with await anyio.open_process(command, env=self._env, stderr=self._log) as process:
                self._process = process
                try:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._greet)
                        await self._read(process)
                        tasks.cancel_scope.cancel()
                finally:
                    self._end()
                await process.wait()

    async def _greet(self) -> None:
        who = {"name": self.name, "version": "1"}
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": who}
        with suppress(Gone):
            await self._exchange(Request(0), "initialize", hello)
            await self._send({"method": "notifications/initialized"})
            self._ready.set()

    async def _read(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None, "its stdout is a pipe"
        lines = BufferedByteReceiveStream(process.stdout)
        with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                message = json.loads(await lines.receive_until(b"\n", 64_000_000))
                request = self._pending.get(message.get("id"))
                if request is not None and "method" not in message:
                    request.reply = message
                    request.done.set()

    def _end(self) -> None:
        if self._told_to_end_s is None:
            self.unexpected_ends += 1
        elif not self._told_how.startswith("SIGKILL"):
            took_ms = round(1000 * (time.monotonic() - self._told_to_end_s))
            self.slowest_stop_ms[self._told_how] = max(took_ms, self.slowest_stop_ms.get(self._told_how, 0))
        self._ready.set()  # whoever waits looks again, and waits for the next server
        self._process, self._told_to_end_s = None, None
        self._ready, self._has_served = anyio.Event(), False
        for request in self._pending.values():
            request.done.set()
        self._pending = {}

    async def call(self, tool: str, arguments: Json) -> Json:
        """A tool's result.

        Raises:
            Gone: the server ended first.
            Withdrawn: the request was cancelled meanwhile.
        """
        while not self._ready.is_set():
            await self._ready.wait()
        self._number += 1
        said = await self._exchange(Request(self._number), "tools/call", {"name": tool, "arguments": arguments})
        self._has_served = True
        if "error" in said:
            # No answer to the tool's call, but something about the protocol: asked again like an ask that got lost.
            self.protocol_errors[said["error"]["message"]] += 1
            raise Gone
        result: Json = said["result"]
        return result

    async def _exchange(self, request: Request, method: str, params: Json) -> Json:
        self._pending[request.number] = request
        try:
            await self._send({"id": request.number, "method": method, "params": params})
            with anyio.move_on_after(REPLY_S):
                await request.done.wait()
        finally:
            self._pending.pop(request.number, None)
        if not request.done.is_set():
            self.without_reply += 1
            self.signal(signal.SIGKILL)
        if request.is_withdrawn:
            raise Withdrawn
        if request.reply is None:
            raise Gone
        return request.reply

    async def _send(self, message: Json) -> None:
        process = self._process
        if process is None or process.stdin is None:
            raise Gone
        try:
            async with self._writing:
                await process.stdin.send(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise Gone from None

    async def withdraw(self, request: Request) -> None:
        """Cancel a request, as a host does whose user pressed Escape."""
        request.is_withdrawn = True
        request.done.set()
        with suppress(Gone):
            await self._send({"method": "notifications/cancelled", "params": {"requestId": request.number}})

    def signal(self, number: signal.Signals) -> None:
        """Signal the server, if it runs."""
        if self._process is not None:
            self._is_told(number.name if self._has_served else f"{number.name}, on start-up")
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the server's process for as long as the block takes, if it runs."""
        process = self._process
        with suppress(ProcessLookupError):
            if process is not None:
                process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                if process is not None:
                    process.send_signal(signal.SIGCONT)

    async def close_stdin(self) -> None:
        """Tell the server to end, as hosts do first."""
        if self._process is not None and self._process.stdin is not None:
            self._is_told("EOF" if self._has_served else "EOF, on start-up")
            await self._process.stdin.aclose()

    def _is_told(self, how: str) -> None:
        if self._told_to_end_s is None:
            self._told_to_end_s, self._told_how = time.monotonic(), how
        elif how.startswith("SIGKILL"):
            self._told_how = how
