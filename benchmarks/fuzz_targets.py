"""The five inputs that ``fuzz.py`` spoils, and what must hold of each whatever comes."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from queue import Empty, Queue
from random import Random
from types import TracebackType
from typing import Any, Self

from pool_mcp.claude.cost import run_cost
from pool_mcp.claude.stream import LineBuffer, RunStream
from pool_mcp.claude.verdict import judge
from pool_mcp.errors import PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import Cost
from pool_mcp.server.tools import TOOLS, input_schema
from pool_mcp.server.transport import find_request_id
from pool_mcp.settings import load, shown
from pool_mcp.usage.importing import BRISK, Importer, Source

ROOT = Path(__file__).parents[1]
NOW_MS = 1_795_500_000_000
KEY = "sk-ant-api03-" + "0123456789abcdef" * 4
WAIT_S = 60.0
"""How long a reply may take before it is missing; on a busy machine."""

NUMBERS = (0, -1, 1, 100, 2**31, 2**63, 10**30, 10**400, 1e300, -1e300, 0.1, 1e-12, float("nan"), float("inf"))
TEXTS = (
    "",
    " ",
    KEY,
    "\x1b[31m",
    "a\0b",
    "\u202e",
    "\ud83d",
    "../../x",
    "[/x]",
    "x" * 5000,
    "1979-05-27",
    "claude",
    "~",
)
WORDS = ("type", "id", "usage", "message", "model", "result", "error", "timestamp", "content")
BYTES = (b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"{", b"}", b"[" * 300, b'"', b"\\", b"\n", b"\r", b"9" * 400, b"\x1b")


class Finding(Exception):
    """Something that must not be."""


def anything(random: Random, depth: int = 2) -> Any:
    """A value of any type, most of them awkward."""
    kind = random.randrange(7 if depth else 5)
    if kind == 0:
        return random.choice((None, True, False))
    if kind in (1, 2):
        return random.choice(NUMBERS)
    if kind in (3, 4):
        return random.choice(TEXTS)
    inner = [anything(random, depth - 1) for _ in range(random.randrange(4))]
    return inner if kind == 5 else {random.choice((*TEXTS, *WORDS)): one for one in inner}


def spoiled(random: Random, value: Any) -> Any:
    """A copy of a JSON value with one of its parts replaced, removed or put elsewhere."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.2:
        return anything(random)
    copy = value.copy()
    key = random.choice(list(copy)) if isinstance(copy, dict) else random.randrange(len(copy))
    if random.random() < 0.1:
        del copy[key]
    elif random.random() < 0.1 and isinstance(copy, dict):
        copy[random.choice((*TEXTS, *WORDS))] = copy[key]
    else:
        copy[key] = spoiled(random, copy[key])
    return copy


def garbled(random: Random, data: bytes) -> bytes:
    """Bytes with a few of them changed, cut out, put in or said twice."""
    for _ in range(random.randrange(1, 4)):
        at, to = sorted(random.randrange(len(data) + 1) for _ in range(2))
        match random.randrange(5):
            case 0:
                data = data[:at] + random.choice(BYTES) + data[at:]
            case 1:
                data = data[:at] + data[min(to, at + 20) :]
            case 2:
                data = data[:to]
            case 3:
                data = data[:at] + data[at:to][:2000] + data[at:]
            case _:
                data = data[:at] + random.randbytes(random.randrange(5)) + data[at:]
    return data


def must_be_a_line(message: str) -> None:
    """A message is one line that a terminal and a log can take, and repeats no key."""
    if not message.isprintable() or KEY in message or KEY[13:] in message:
        raise Finding(f"a message that acts, or repeats a key: {message[:200]!r}")


def unexpected(error: BaseException) -> Finding:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return Finding(f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:200]}")


class _Target:
    """One input. A context manager; :meth:`case` and :meth:`end` raise a :class:`Finding`."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Nothing to end."""

    def case(self, random: Random) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """What must hold after all cases."""


class _Settings(_Target):
    """The documented ``pool.toml``, spoiled."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        document = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
        (self.text,) = re.findall(r"```toml\n(.*?)```", document, re.DOTALL)

    def case(self, random: Random) -> None:
        lines = self.text.splitlines()
        for _ in range(random.randrange(1, 4)):
            at = random.randrange(len(lines))
            if random.random() < 0.6 and "=" in lines[at]:
                lines[at] = f"{lines[at].partition('=')[0]}= {self._value(random)}"
            elif random.random() < 0.5:
                lines.insert(at, random.choice(lines))
            else:
                lines[at] = garbled(random, lines[at].encode()).decode(errors="replace")
        try:
            settings = load({"POOL_MCP_HOME": str(self.home), "HOME": str(self.home)}, "\n".join(lines))
        except PoolError as error:
            must_be_a_line(error.message)
            return
        except Exception as error:
            raise unexpected(error) from error
        try:
            seen = json.dumps(shown(settings))
        except Exception as error:
            raise unexpected(error) from error
        if KEY in seen:
            raise Finding("a key is among the settings that are shown")

    def _value(self, random: Random) -> str:
        value = anything(random, 1)
        if isinstance(value, float | dict) or value is None:
            return str(value)
        return json.dumps(value)


class _Streams(_Target):
    """What real CLIs printed, spoiled, in pieces."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        captures = sorted((ROOT / "tests" / "data" / "cli").glob("*/*.jsonl"))
        self.runs = [path.read_bytes().splitlines() for path in captures]

    def case(self, random: Random) -> None:
        lines = list(random.choice(self.runs))
        for _ in range(random.randrange(1, 5)):
            at = random.randrange(len(lines))
            if random.random() < 0.7:
                try:
                    lines[at] = json.dumps(spoiled(random, json.loads(lines[at]))).encode()
                except ValueError:
                    lines[at] = random.choice(BYTES)
            elif random.random() < 0.5:
                lines[at] = garbled(random, lines[at])
            else:
                lines.insert(at, random.choice(random.choice(self.runs)))
        try:
            self._read(random, b"\n".join(lines))
        except Finding:
            raise
        except Exception as error:
            raise unexpected(error) from error

    def _read(self, random: Random, data: bytes) -> None:
        stream, buffer = RunStream(at_ms=NOW_MS), LineBuffer()
        while data:
            size = random.randrange(1, 5000)
            for line in buffer.feed(data[:size]):
                stream.feed(line, NOW_MS)
            data = data[size:]
        stream.feed(buffer.rest(), None)
        verdict = judge(stream)
        if verdict is not None:
            must_be_a_line(verdict.message or "")
            json.dumps([verdict.text, verdict.structured], ensure_ascii=False).encode()
        for before in (None, Cost(5, {})):
            cost = run_cost(stream, before=before, price=lambda *_: 7)
            numbers = [cost.nanousd, *(one.cost_nanousd or 0 for one in cost.models.values())]
            if not all(0 <= number < 2**63 for number in numbers):
                raise Finding(f"an amount that the ledger cannot hold: {numbers}")


class _Transcripts(_Target):
    """Transcripts as the CLI keeps them, spoiled, imported into a real ledger."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        from transcript_generator import generate

        generate(home / "source", 300, seed=5)
        self.lines = [line for path in (home / "source").rglob("*.jsonl") for line in path.read_bytes().splitlines()]
        self.folder = home / "config" / "projects" / "-a"
        self.folder.mkdir(parents=True)
        self.ledger = Ledger(home / "ledger.db")
        self.number = 0

    def __exit__(self, *_: object) -> None:
        self.ledger.close()

    def case(self, random: Random) -> None:
        self.number += 1
        lines = [random.choice(self.lines) for _ in range(random.randrange(1, 12))]
        for _ in range(random.randrange(1, 5)):
            at = random.randrange(len(lines))
            if random.random() < 0.7:
                try:
                    lines[at] = json.dumps(spoiled(random, json.loads(lines[at]))).encode()
                except ValueError:
                    lines[at] = random.choice(BYTES)
            else:
                lines[at] = garbled(random, lines[at])
        (self.folder / f"0c0d579b-433f-4365-928a-{self.number:012}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        if self.number % 10 == 0:
            self._import()

    def end(self) -> None:
        self._import()
        if problems := self.ledger.audit().problems:
            raise Finding(f"the ledger's sums are wrong: {problems}")

    def _import(self) -> None:
        try:
            Importer(self.ledger, [Source("a", self.home / "config")], lambda _: (), lambda: NOW_MS).run(BRISK)
        except Exception as error:
            raise unexpected(error) from error


class _Served(_Target):
    """A real server over stdio. There is no CLI, so nothing is asked in earnest."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        pool = home / "pool"
        pool.mkdir()
        (pool / "pool.toml").write_text('[claude]\npath = "/nowhere/claude"\ninline_wait_s = 1\n')
        self.log = home / "server.log"
        self.replies: Queue[bytes | None] = Queue()
        self.number = 0

    def __enter__(self) -> Self:
        env = {"PATH": os.defpath, "HOME": str(self.home), "POOL_MCP_HOME": str(self.home / "pool")}
        env["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        command = [sys.executable, "-m", "pool_mcp", "serve"]
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=self.home
            )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "fuzz", "version": "1"}}
        self.send(json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).encode())
        self.reply("0")
        self.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()
        self.server.wait()
        self.reader.join()
        for pipe in (self.server.stdin, self.server.stdout):
            assert pipe is not None
            pipe.close()

    def send(self, line: bytes) -> None:
        assert self.server.stdin is not None
        try:
            self.server.stdin.write(line + b"\n")
            self.server.stdin.flush()
        except OSError:
            raise Finding("the server is gone") from None

    def reply(self, request_id: str) -> dict[str, Any]:
        """The reply to a request; its id as JSON."""
        ends_s = time.monotonic() + WAIT_S
        while True:
            try:
                line = self.replies.get(timeout=max(0.01, ends_s - time.monotonic()))
            except Empty:
                raise Finding(f"no reply within {WAIT_S:g} s") from None
            if line is None:
                raise Finding("the server is gone")
            found: dict[str, Any] = json.loads(line, parse_int=str)
            if found.get("id") == json.loads(request_id, parse_int=str):
                return found

    def end(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        try:
            code = self.server.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            raise Finding("the server stays though its host has closed its input") from None
        log = self.log.read_text(errors="replace")
        if code or "Traceback" in log or KEY in log:
            raise Finding(f"exit code {code}; the log: {log[-500:]}")

    def _read(self) -> None:
        assert self.server.stdout is not None
        for line in self.server.stdout:
            self.replies.put(line)
        self.replies.put(None)

    def _judge(self, reply: dict[str, Any]) -> None:
        error = reply.get("error") or reply.get("result", {}).get("structuredContent", {}).get("error")
        # Its id is a request's own, and the SDK names an unknown method.
        text = json.dumps({key: value for key, value in reply.items() if key != "id"})
        if error is not None and error.get("message") == "Method not found":
            return
        if KEY in text or len(text) > 100_000:
            raise Finding(f"a reply that repeats a key, or is {len(text)} characters long: {text[:300]}")
        if error is not None:
            must_be_a_line(error["message"])
            if error.get("kind") == "internal":
                raise Finding(f"an error of our own: {error['message']}")


class _Arguments(_Served):
    """Calls of every tool with arguments of every kind."""

    def case(self, random: Random) -> None:
        tool = random.choice(list(TOOLS.values()))
        names = list(input_schema(tool)["properties"])
        given = {random.choice(names): anything(random) for _ in range(random.randrange(4))}
        if tool.name == "ask_claude" and random.random() < 0.8:
            given = {"prompt": "Hello.", "background": True, **given}
        if random.random() < 0.1:
            given[random.choice(TEXTS)] = anything(random)
        self.number += 1
        params = {"name": tool.name, "arguments": given}
        self.send(json.dumps({"jsonrpc": "2.0", "id": self.number, "method": "tools/call", "params": params}).encode())
        self._judge(self.reply(str(self.number)))


class _Lines(_Served):
    """Requests of every kind, garbled: each that is still a request has a reply under its id."""

    REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
        ("ping", {}),
        ("tools/list", {}),
        ("tools/call", {"name": "usage_status", "arguments": {"caller": KEY}}),
        ("resources/read", {"uri": "pool://status"}),
        ("resources/templates/list", {}),
        ("nothing/such", {"a": [1, {"b": None}]}),
    )

    def case(self, random: Random) -> None:
        self.number += 1
        method, params = random.choice(self.REQUESTS)
        request: Any = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        if random.random() < 0.5:
            request = spoiled(random, request)
        line = json.dumps(request).encode()
        if random.random() < 0.7:
            line = garbled(random, line).replace(b"\n", b" ")
        self.send(line)
        ping = f'"ping {self.number}"'
        self.send(f'{{"jsonrpc":"2.0","id":{ping},"method":"ping"}}'.encode())
        request_id = self._id_of(line)
        if request_id is not None:
            self._judge(self.reply(request_id))
        else:
            self.reply(ping)

    def _id_of(self, line: bytes) -> str | None:
        """The id under which a line must be answered; None where JSON-RPC allows no reply, or none can be told."""
        text = line.decode(errors="replace")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return find_request_id(text)
        if not isinstance(message, dict) or type(message.get("id")) not in (int, str):
            return None
        return None if {"result", "error"} & message.keys() and "method" not in message else find_request_id(text)


Make = Callable[[Path], AbstractContextManager[_Target]]
TARGETS: dict[str, Make] = {
    "settings": _Settings,
    "arguments": _Arguments,
    "lines": _Lines,
    "streams": _Streams,
    "transcripts": _Transcripts,
}
