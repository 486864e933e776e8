"""Several hosts, each with a server of its own, ask at once while everything that can go wrong goes wrong.

The servers and the Claude Code CLI are real processes; Anthropic is the stand-in, which keeps exact books. A seeded
random schedule asks (inline, in the background, on sessions, with callers' budgets and with cost caps), polls, cancels,
kills servers and CLIs with SIGKILL, ends servers with SIGTERM and by closing their stdin, and switches limits, 529s,
expired logins, slow and hanging answers on and off. Servers that die are started again, as hosts do. At the end all is
adopted, every ask that has no answer yet is asked again under its idempotency key, and the ledger is held against the
books, run by run:

    lost        what was billed and is not covered by an entry (a cut run's floor, marked as an estimate, covers it)
    doubled     what the ledger has beyond what was billed
    leaked      reservations of runs that nobody settles
    orphaned    processes that are left
    unanswered  asks that came to no end
    overrun     what was billed beyond a budget

    python benchmarks/chaos.py --operations 1000 --servers 4 --seed 1

Exits with 1 where anything was lost, doubled, leaked, orphaned or left unanswered.
"""

import argparse
import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from pool_mcp.claude.find import bundled_cli, find_cli
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Call
from pool_mcp.model import NANO
from pool_mcp.system.locks import is_held

Json = dict[str, Any]

WEEKLY_USD = {"first": 0.6, "second": 1.2, "third": 2.0, "metered": 0.5}
"""Subscriptions, the most preferred first, each with a budget that is used up on the way; the last is an API key."""

CALLERS_USD = {"builder": 1.0, "reviewer": 0.5, "night-agent": 0.2}
"""Callers with budgets; ``host`` has none."""

LAST = "spare"
"""The subscription with room for whatever the others have not."""

OPERATIONS = {
    "ask": 26,
    "ask in the background": 20,
    "ask on a session": 14,
    "ask with a cap": 5,
    "ask for structure": 5,
    "ask by name": 6,
    "poll": 20,
    "cancel a run": 4,
    "withdraw a request": 3,
    "look at the status": 6,
    "kill a server": 3,
    "kill a CLI": 4,
    "kill a server and a CLI": 2,
    "terminate a server": 2,
    "close a server's stdin": 2,
    "change the weather": 10,
}
"""How often each is drawn."""

TIMEOUT_S = 20
MOST_IN_BACKGROUND = 6
REPLY_S = 90
"""No call takes longer than this; a server that does not reply by then never will."""
END_S = 180
"""How long everything may take to come to its end after the last operation."""

UNSEEN_NANOUSD = NANO // 1000
"""A request that was sent and never answered is booked with a floor by its prompt; the stand-in bills nothing."""

WEATHERS = (
    Behaviour(),
    Behaviour(),
    Behaviour(),
    Behaviour(mode="slow", chunks=10, chunk_delay_s=0.1),
    Behaviour(mode="slow", chunks=20, chunk_delay_s=0.2),
    Behaviour(mode="hang", calls=1),
    Behaviour(mode="hang_before_start", calls=1),
    Behaviour(mode="overloaded", calls=2),
    Behaviour(mode="error", calls=1),
    Behaviour(mode="burst", calls=1),
    Behaviour(mode="auth", calls=1),
    Behaviour(mode="billing", calls=1),
    Behaviour(mode="five_hour_limit"),
    Behaviour(mode="weekly_limit"),
)
"""What can befall an account."""

LIMIT_MS = 8000
"""How long a limit lasts."""

SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


T = TypeVar("T", "Call", "Booked")


class Gone(Exception):
    """A server ended before it replied."""


class Withdrawn(Exception):
    """The request was cancelled by its host."""


# A host and its server


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


# The asks


@dataclass(eq=False)
class Ask:
    """One ask and what its host was told of it. ``end`` is ``completed`` or an error's kind."""

    arguments: Json
    run_id: str | None = None
    session_id: str | None = None
    ends: list[str] = field(default_factory=list)
    is_withdrawn: bool = False
    is_busy: bool = False

    @property
    def end(self) -> str | None:
        """How it ended, by the first that was told."""
        return self.ends[0] if self.ends else None

    def hear(self, result: Json) -> None:
        """Take in what a tool said of it."""
        data = result.get("structuredContent") or {}
        if result.get("isError"):
            self.ends.append(data["error"]["kind"])
            self.run_id = data["error"].get("run_id") or self.run_id
            return
        self.run_id, self.session_id = data["run_id"], data["session_id"]
        if data["status"] == "completed":
            self.ends.append("completed")
            if not (data["text"] or data.get("structured")):
                self.ends.append("empty")


class Chaos:
    """The schedule and those who carry it out."""

    def __init__(self, home: Path, hosts: Sequence[Host], standin: Standin, seed: int) -> None:
        self.asks: list[Ask] = []
        self.done: Counter[str] = Counter()
        self._home = home
        self._hosts = hosts
        self._standin = standin
        self._random = random.Random(seed)
        self._room = anyio.Semaphore(2 * len(hosts))
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self, operations: int, tell: Callable[[int], None]) -> None:
        """Do that many operations, several at once, and wait for their replies."""
        async with anyio.create_task_group() as self._tasks:
            for number in range(operations):
                tell(number)
                (drawn,) = self._random.choices(list(OPERATIONS), list(OPERATIONS.values()))
                if len(self._in_background()) > MOST_IN_BACKGROUND:
                    drawn = "poll"
                await self._room.acquire()
                self.done[drawn] += 1
                self._tasks.start_soon(self._do, self._operation(drawn))
                # Give what has been started a moment, so that not all blows fall on the first millisecond of a run.
                await anyio.sleep(self._random.expovariate(1 / 0.03))
            tell(operations)

    async def _do(self, operation: Callable[[], Any]) -> None:
        try:
            await operation()
        finally:
            self._room.release()

    def _operation(self, drawn: str) -> Callable[[], Any]:
        """What is to be done; all that is random is drawn here, so that a seed always gives the same schedule."""
        draw, host = self._random, self._random.choice(self._hosts)
        if drawn.startswith("ask"):
            ask = Ask(self._arguments(drawn))
            self.asks.append(ask)
            return lambda: self._ask(host, ask)
        match drawn:
            case "poll":
                wait_s, at = draw.choice([0, 0.5, 2]), draw.random()
                return lambda: self._poll(host, at, {"wait_s": wait_s})
            case "cancel a run":
                at = draw.random()
                return lambda: self._poll(host, at, {"cancel": True, "wait_s": 5})
            case "withdraw a request":
                return lambda: self._withdraw(host)
            case "look at the status":
                return lambda: self._call(host, "usage_status", {"caller": "builder"})
            case "kill a server":
                return lambda: self._strike(server=host)
            case "kill a CLI":
                at = draw.random()
                return lambda: self._strike(cli=at)
            case "kill a server and a CLI":
                at = draw.random()
                return lambda: self._strike(server=host, cli=at)
            case "terminate a server":
                return lambda: self._strike(server=host, by=signal.SIGTERM)
            case "close a server's stdin":
                return host.close_stdin
            case "change the weather":
                account, weather = draw.choice([*WEEKLY_USD, LAST]), draw.choice(WEATHERS)
                return lambda: self._change(account, weather)
        raise AssertionError(drawn)

    def _arguments(self, drawn: str) -> Json:
        draw = self._random
        arguments: Json = {
            "prompt": f"Question {len(self.asks)}. " + "Think of everything. " * draw.randrange(40),
            "model": draw.choice(["sonnet", "sonnet", "haiku"]),
            "caller": draw.choice([*CALLERS_USD, "host", "host"]),
            "timeout_s": TIMEOUT_S,
            "idempotency_key": f"ask-{len(self.asks)}",
        }
        match drawn:
            case "ask in the background":
                arguments["background"] = True
            case "ask on a session":
                known = sorted({ask.session_id for ask in self.asks if ask.session_id and ask.end == "completed"})
                if known:
                    arguments["session_id"] = draw.choice(known)
            case "ask with a cap":
                arguments["max_cost_usd"] = draw.choice([0.002, 0.05, 0.5])
            case "ask for structure":
                arguments["json_schema"] = SCHEMA
            case "ask by name":
                arguments["subscription"] = draw.choice([*WEEKLY_USD, LAST])
        return arguments

    async def _change(self, account: str, weather: Behaviour) -> None:
        if weather.mode in ("five_hour_limit", "weekly_limit"):
            ends_at_ms = self._standin.now_ms() + LIMIT_MS
            weather = replace(weather, five_hour_resets_at_ms=ends_at_ms, seven_day_resets_at_ms=ends_at_ms)
            assert self._tasks is not None, "the schedule runs"
            self._tasks.start_soon(self._clear, account, weather)
        self._standin.accounts[account] = weather

    async def _clear(self, account: str, weather: Behaviour) -> None:
        """End a limit just before its window resets; what is refused later would be refused until the next reset."""
        await anyio.sleep(0.9 * LIMIT_MS / 1000)
        if self._standin.accounts[account] is weather:
            self._standin.accounts[account] = replace(weather, mode="answer")

    async def _call(self, host: Host, tool: str, arguments: Json) -> Json | None:
        with suppress(Gone, Withdrawn):
            return await host.call(tool, arguments)
        return None

    async def _ask(self, host: Host, ask: Ask) -> None:
        ask.is_busy = True
        try:
            ask.hear(await host.call("ask_claude", ask.arguments))
        except Gone:
            pass
        except Withdrawn:
            ask.is_withdrawn = True
        finally:
            ask.is_busy = False

    def _in_background(self) -> list[Ask]:
        return [ask for ask in self.asks if ask.run_id and not ask.ends and not ask.is_busy]

    async def _poll(self, host: Host, at: float, arguments: Json) -> None:
        waiting = self._in_background()
        if waiting:
            ask = waiting[int(at * len(waiting))]
            result = await self._call(host, "ask_result", {"run_id": ask.run_id, **arguments})
            if result is not None:
                ask.hear(result)

    async def _withdraw(self, host: Host) -> None:
        if host.pending:
            await host.withdraw(host.pending[0])

    async def _strike(
        self, server: Host | None = None, cli: float | None = None, by: signal.Signals = signal.SIGKILL
    ) -> None:
        if cli is not None and (running := self._running_clis()):
            with suppress(ProcessLookupError):
                os.killpg(running[int(cli * len(running))], signal.SIGKILL)
        if server is not None:
            server.signal(by)

    def _running_clis(self) -> list[int]:
        """Process groups of CLIs that run now."""
        found = []
        for folder in sorted((self._home / "runs").glob("*")):
            if is_held(folder / "stdout.jsonl"):
                with suppress(OSError, ValueError):
                    found.append(int((folder / "pid").read_text()))
        return found

    async def settle(self, tell: Callable[[str], None]) -> None:
        """Let everything come to its end: fair weather, new servers, a question after every ask that has no answer."""
        for account in [*WEEKLY_USD, LAST]:
            self._standin.accounts[account] = Behaviour()
        for host in self._hosts:
            host.signal(signal.SIGKILL)
        with anyio.move_on_after(END_S):
            waiting = [ask for ask in self.asks if not ask.ends]
            tell(f"{len(waiting)} of {len(self.asks)} asks have no answer yet; asking for them")
            async with anyio.create_task_group() as tasks:
                for number, ask in enumerate(waiting):
                    await self._room.acquire()
                    tasks.start_soon(self._do, self._until_answered(self._hosts[number % len(self._hosts)], ask))
            # Asking adopts what is left; what is still followed by a server needs until its end.
            while unfinished := _unfinished(self._home):
                result = await self._call(self._hosts[0], "ask_result", {"run_id": unfinished[0], "wait_s": 5})
                if result is None:
                    await anyio.sleep(0.1)

    def _until_answered(self, host: Host, ask: Ask) -> Callable[[], Any]:
        async def work() -> None:
            while not ask.ends:
                if ask.run_id is None:
                    result = await self._call(host, "ask_claude", ask.arguments)
                else:
                    result = await self._call(host, "ask_result", {"run_id": ask.run_id, "wait_s": 10})
                if result is not None:
                    ask.hear(result)

        return work


# Holding the ledger against the books


@dataclass(frozen=True)
class Booked:
    """A started run: what the ledger has of it."""

    run_id: str
    session_id: str
    subscription: str
    caller: str
    started_at_ms: int
    ended_at_ms: int
    state: str
    outcome: str | None
    cost_nanousd: int | None
    is_estimate: int


@dataclass(frozen=True)
class Overrun:
    """A budget, what was billed against it, and the calls that went beyond it; likewise for what was booked.

    Cut runs are booked with a floor, so a little more may be billed than can be known.
    """

    budget: str
    budget_usd: float
    billed_usd: float
    booked_usd: float
    overrun_usd: float
    overrun_calls: int
    known_overrun_usd: float
    known_overrun_runs: int


@dataclass
class Findings:
    """The ledger against the books. ``wrong`` says what is not as it should be, one line each."""

    calls: int = 0
    billed_usd: float = 0.0
    booked_usd: float = 0.0
    runs: int = 0
    exact: int = 0
    estimated: int = 0
    estimated_short_usd: float = 0.0
    lost: int = 0
    lost_usd: float = 0.0
    doubled: int = 0
    doubled_usd: float = 0.0
    leaked: int = 0
    orphaned: int = 0
    unanswered: int = 0
    contradicted: int = 0
    ends_by_themselves: int = 0
    without_reply: int = 0
    protocol_errors: dict[str, int] = field(default_factory=dict)
    audit_problems: int = 0
    slowest_stop_ms: dict[str, int] = field(default_factory=dict)
    overruns: list[Overrun] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost, doubled, leaked, orphaned or left unanswered."""
        faults = (self.lost, self.doubled, self.leaked, self.orphaned, self.unanswered, self.audit_problems)
        return not any(faults)


def _query(home: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{home}/ledger.db?mode=ro", uri=True)) as conn:
        return conn.execute(sql).fetchall()


def _unfinished(home: Path) -> list[str]:
    rows = _query(home, "SELECT run_id FROM runs WHERE state IN ('reserved', 'running') ORDER BY created_at_ms")
    return [run_id for (run_id,) in rows]


def hold_against(home: Path, calls: Sequence[Call], findings: Findings) -> None:
    """Compare every started run with the calls that were billed while it was its session's latest."""
    runs = [
        Booked(*row)
        for row in _query(
            home,
            """
            SELECT run_id, runs.session_id, runs.subscription, runs.caller, started_at_ms,
                coalesce(ended_at_ms, 0), state, outcome, entries.cost_nanousd,
                coalesce(is_estimate, 0)
            FROM runs LEFT JOIN entries USING (run_id) WHERE started_at_ms IS NOT NULL ORDER BY started_at_ms
            """,
        )
    ]
    of_session: dict[str, list[Booked]] = {}
    for run in runs:
        of_session.setdefault(run.session_id, []).append(run)
    of_run: dict[str, list[Call]] = {run.run_id: [] for run in runs}
    for call in calls:
        before = [run for run in of_session.get(call.session_id or "", ()) if run.started_at_ms <= call.started_at_ms]
        if before:
            of_run[before[-1].run_id].append(call)
        else:
            _lose(findings, call.cost_nanousd or 0, f"a call of session {call.session_id} belongs to no run")
    for run in runs:
        _compare(run, of_run[run.run_id], findings)
    # Nothing was asked outside the pool, so whatever was imported as if it had been is counted twice.
    for session_id, cost in _query(home, "SELECT session_id, cost_nanousd FROM entries WHERE kind <> 'run'"):
        if cost:
            _double(findings, cost, f"an entry of ${cost / NANO:.6f} beside the runs of session {session_id}")
    findings.calls, findings.runs = len(calls), len(runs)
    findings.billed_usd = sum(call.cost_nanousd or 0 for call in calls) / NANO
    ((booked,),) = _query(home, "SELECT coalesce(sum(cost_nanousd), 0) FROM entries")
    findings.booked_usd = booked / NANO
    budgets = [("subscription", name, usd) for name, usd in WEEKLY_USD.items()]
    budgets += [("caller", name, usd) for name, usd in CALLERS_USD.items()]
    for kind, name, budget_usd in budgets:
        own = [run for run in runs if getattr(run, kind) == name]
        billed = _beyond(
            budget_usd, [call for run in own for call in of_run[run.run_id]], lambda call: call.ended_at_ms
        )
        booked = _beyond(budget_usd, own, lambda run: run.ended_at_ms)
        findings.overruns.append(Overrun(f"{kind} {name}", budget_usd, billed[0], booked[0], *billed[1:], *booked[1:]))


def _compare(run: Booked, calls: Sequence[Call], findings: Findings) -> None:
    billed = sum(call.cost_nanousd or 0 for call in calls)
    who = f"run {run.run_id} ({run.state}, {run.outcome}) under {run.subscription}"
    if run.cost_nanousd is None:
        if run.state not in ("reserved", "running"):
            _lose(findings, billed, f"{who} has no entry; billed ${billed / NANO:.6f}")
        elif billed:
            _lose(findings, billed, f"{who} is not settled; billed ${billed / NANO:.6f}")
        return
    difference = run.cost_nanousd - billed
    told = f"{who} is booked ${run.cost_nanousd / NANO:.6f}, billed ${billed / NANO:.6f}"
    if run.is_estimate:
        findings.estimated += 1
        if difference > UNSEEN_NANOUSD:
            _double(findings, difference, f"{told}, as an estimate")
        findings.estimated_short_usd += max(0, -difference) / NANO
    elif difference < 0:
        _lose(findings, -difference, told)
    elif difference > 0:
        _double(findings, difference, told)
    else:
        findings.exact += 1


def _lose(findings: Findings, nanousd: int, what: str) -> None:
    findings.lost += 1
    findings.lost_usd += nanousd / NANO
    findings.wrong.append(f"lost: {what}")


def _double(findings: Findings, nanousd: int, what: str) -> None:
    findings.doubled += 1
    findings.doubled_usd += nanousd / NANO
    findings.wrong.append(f"doubled: {what}")


def _beyond(budget_usd: float, spends: Sequence[T], ended_at_ms: Callable[[T], int]) -> tuple[float, float, int]:
    """The sum of what was spent, how much of it is beyond a budget, and how many went beyond it."""
    spent, over = 0, 0
    for one in sorted(spends, key=ended_at_ms):
        spent += one.cost_nanousd or 0
        over += spent > budget_usd * NANO and bool(one.cost_nanousd)
    return spent / NANO, max(0.0, spent / NANO - budget_usd), over


def _judge_asks(home: Path, asks: Sequence[Ask], findings: Findings) -> None:
    rows = _query(home, "SELECT idempotency_key FROM asks JOIN runs USING (ask_id) WHERE outcome = 'ok'")
    answered = {key for (key,) in rows}
    for ask in asks:
        key = ask.arguments["idempotency_key"]
        if ask.end is None:
            findings.unanswered += 1
            findings.wrong.append(f"unanswered: {key}, run {ask.run_id}")
        elif "empty" in ask.ends or (ask.end != "completed" and key in answered):
            findings.contradicted += 1
            findings.wrong.append(f"contradicted: {key}, run {ask.run_id}, was told {ask.ends}, and it has an answer")
    findings.ends = dict(Counter(ask.end or "none" for ask in asks).most_common())


def _left_processes(home: Path) -> list[int]:
    """Processes that were started for this home and still run."""
    if not Path("/proc/self/environ").exists():
        groups = [int(path.read_text() or 0) for path in (home / "runs").glob("*/pid")]
        return [group for group in groups if group and _exists(group)]
    found, mark = [], str(home).encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if not is_zombie and mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# The command


def _make_home(folder: Path, url: str) -> tuple[Path, dict[str, str]]:
    home = folder / "pool"
    home.mkdir()
    cli = bundled_cli() or find_cli("claude", os.environ)
    lines = [
        "[claude]",
        f"path = {json.dumps(str(cli))}",
        f"base_url = {json.dumps(url)}",
        "inline_wait_s = 8",
        f"timeout_s = {TIMEOUT_S}",
    ]
    env = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    env |= {"HOME": str(folder), "POOL_MCP_HOME": str(home)}
    for number, name in enumerate([*WEEKLY_USD, LAST]):
        is_key = name == "metered"
        variable = f"CHAOS_{name.upper()}"
        env[variable] = Standin.api_key(name) if is_key else Standin.token(name)
        lines += [
            "[[subscriptions]]",
            f'id = "{name}"',
            f'{"api_key_env" if is_key else "oauth_token_env"} = "{variable}"',
            f"weekly_budget_usd = {WEEKLY_USD.get(name, 1000)}",
            f"priority = {10 - number}",
        ]
    for name, usd in CALLERS_USD.items():
        lines += [f"[callers.{json.dumps(name)}]", f"weekly_budget_usd = {usd}"]
    (home / "pool.toml").write_text("\n".join(lines) + "\n")
    return home, env


async def run(operations: int, servers: int, seed: int, folder: Path, *, quiet: bool = False) -> Findings:
    """Make chaos and say what came of it."""
    began_s = time.monotonic()

    def tell(what: str) -> None:
        if not quiet:
            print(f"{time.monotonic() - began_s:6.1f} s  {what}", file=sys.stderr, flush=True)

    findings = Findings()
    with Standin(seed=seed) as standin, (folder / "servers.log").open("ab") as log:
        home, env = _make_home(folder, standin.url)
        hosts = [Host(f"host-{number}", env, log) for number in range(servers)]
        chaos = Chaos(home, hosts, standin, seed)

        def progress(number: int) -> None:
            if number % max(1, min(50, operations // 4)) == 0:
                ended = Counter(ask.end for ask in chaos.asks if ask.ends)
                told = ", ".join(f"{count} {end}" for end, count in ended.most_common(4))
                tell(f"{number} of {operations} operations; {len(chaos.asks)} asks: {told}")

        async with anyio.create_task_group() as tasks:
            for host in hosts:
                tasks.start_soon(host.keep_running)
            await chaos.run(operations, progress)
            await chaos.settle(tell)
            for host in hosts:
                await host.close_stdin()
            tasks.cancel_scope.cancel()
        for host in hosts:
            for how, took_ms in host.slowest_stop_ms.items():
                findings.slowest_stop_ms[how] = max(took_ms, findings.slowest_stop_ms.get(how, 0))
        findings.ends_by_themselves = sum(host.unexpected_ends for host in hosts)
        findings.without_reply = sum(host.without_reply for host in hosts)
        findings.protocol_errors = dict(sum((host.protocol_errors for host in hosts), Counter[str]()))
        await anyio.to_thread.run_sync(standin.wait_idle)
        for run_id in _unfinished(home):
            findings.leaked += 1
            findings.wrong.append(f"leaked: run {run_id} is not settled")
        hold_against(home, standin.books, findings)
        _judge_asks(home, chaos.asks, findings)
        command = [sys.executable, "-m", "pool_mcp", "ledger", "check", "--json"]
        checked = await anyio.run_process(command, env=env, check=False)
        problems = json.loads(checked.stdout)["problems"]
        findings.audit_problems = len(problems)
        findings.wrong += [f"audit: {problem}" for problem in problems]
        with anyio.move_on_after(5):
            while left := _left_processes(home):  # noqa: ASYNC110  (there is no event for it)
                await anyio.sleep(0.05)
        findings.orphaned = len(left)
        findings.wrong += [f"orphaned: process {pid}: {_command(pid)}" for pid in left]
    tell("done")
    return findings


def _command(pid: int) -> str:
    done = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:200]


def _print(findings: Findings) -> None:
    said = findings
    print(f"{said.calls} calls billed ${said.billed_usd:.6f}; {said.runs} runs booked ${said.booked_usd:.6f}")
    rows = [
        ("exact", said.exact, ""),
        ("estimated (floor)", said.estimated, f"${said.estimated_short_usd:.6f} short of what was billed"),
        ("lost", said.lost, f"${said.lost_usd:.6f}"),
        ("doubled", said.doubled, f"${said.doubled_usd:.6f}"),
        ("leaked reservations", said.leaked, ""),
        ("orphaned processes", said.orphaned, ""),
        ("unanswered asks", said.unanswered, ""),
        ("contradicted answers", said.contradicted, "told as failed, and answered all the same"),
        ("servers that ended by themselves", said.ends_by_themselves, ""),
        ("requests without a reply", said.without_reply, f"after {REPLY_S} s"),
        ("protocol errors", sum(said.protocol_errors.values()), ", ".join(said.protocol_errors)),
        ("problems found by the audit", said.audit_problems, ""),
        *((f"slowest stop, {how}", took_ms, "ms") for how, took_ms in sorted(said.slowest_stop_ms.items())),
    ]
    for name, count, note in rows:
        print(f"  {name:34}{count:6}  {note}".rstrip())
    print("asks ended: " + ", ".join(f"{count} {end}" for end, count in said.ends.items()))
    print(f"{'budget':24}{'usd':>7}{'billed':>10}{'overrun':>10}{'calls':>7}{'booked':>10}{'overrun':>10}{'runs':>6}")
    for one in said.overruns:
        print(
            f"{one.budget:24}{one.budget_usd:7.2f}{one.billed_usd:10.4f}{one.overrun_usd:10.4f}{one.overrun_calls:7}"
            f"{one.booked_usd:10.4f}{one.known_overrun_usd:10.4f}{one.known_overrun_runs:6}"
        )
    for line in said.wrong:
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path, help="a new directory for ledger, runs and log, which stays")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)  # asyncio warns of every pipe to a server that was killed
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = options.home or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        findings = anyio.run(run, options.operations, options.servers, options.seed, folder)
    if options.json:
        print(json.dumps(asdict(findings), indent=2))
    else:
        _print(findings)
    sys.exit(0 if findings.is_sound else 1)


if __name__ == "__main__":
    main()
