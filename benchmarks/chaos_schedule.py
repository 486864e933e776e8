"""The schedule of the chaos benchmark: seeded random asks, and the faults that befall them."""

import os
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from chaos_host import Gone, Host, Json, Withdrawn
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.system.locks import is_held

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
    "freeze a server": 2,
    "freeze a CLI": 2,
    "replace the CLI": 1,
    "fill the disk": 1,
    "change the weather": 10,
}
"""How often each is drawn."""

TIMEOUT_S = 20
MOST_IN_BACKGROUND = 6
END_S = 180
"""How long everything may take to come to its end after the last operation."""

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

BROKEN_CLI = "#!/bin/sh\necho 'Segmentation fault' >&2\nexit 139\n"
"""What stands in the CLI's place for a moment."""

SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


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

    def __init__(
        self,
        home: Path,
        hosts: Sequence[Host],
        standin: Standin,
        seed: int,
        unfinished: Callable[[Path], list[str]],
        *,
        small_disk: bool = False,
    ) -> None:
        self.asks: list[Ask] = []
        self.reached: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By fault: how often it struck a run in each state."""
        self._home = home
        self._hosts = hosts
        self._standin = standin
        self._random = random.Random(seed)
        self._small_disk = small_disk
        self._unfinished = unfinished
        self._room = anyio.Semaphore(2 * len(hosts))
        self._tasks: anyio.abc.TaskGroup | None = None

    async def run(self, operations: int, until_s: float, tell: Callable[[int], None]) -> int:
        """Do that many operations, or until a time, several at once, and wait for their replies; how many were done."""
        number = 0
        async with anyio.create_task_group() as self._tasks:
            while number < operations and anyio.current_time() < until_s:
                tell(number)
                number += 1
                (drawn,) = self._random.choices(list(OPERATIONS), list(OPERATIONS.values()))
                if len(self._in_background()) > MOST_IN_BACKGROUND:
                    drawn = "poll"
                await self._room.acquire()
                self._tasks.start_soon(self._do, self._operation(drawn))
                # Give what has been started a moment, so that not all blows fall on the first millisecond of a run.
                await anyio.sleep(self._random.expovariate(1 / 0.03))
            tell(number)
        return number

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
                return lambda: self._strike(drawn, server=host)
            case "kill a CLI":
                at = draw.random()
                return lambda: self._strike(drawn, cli=at)
            case "kill a server and a CLI":
                at = draw.random()
                return lambda: self._strike(drawn, server=host, cli=at)
            case "terminate a server":
                return lambda: self._strike(drawn, server=host, by=signal.SIGTERM)
            case "close a server's stdin":
                return lambda: self._close_stdin(drawn, host)
            case "freeze a server":
                for_s = draw.uniform(0.2, 3)
                return lambda: self._freeze(drawn, for_s, server=host)
            case "freeze a CLI":
                for_s, at = draw.uniform(0.2, 3), draw.random()
                return lambda: self._freeze(drawn, for_s, cli=at)
            case "replace the CLI":
                for_s = draw.uniform(0.2, 2)
                return lambda: self._replace_cli(drawn, for_s)
            case "fill the disk":
                for_s = draw.uniform(0.2, 2)
                return lambda: self._fill_disk(drawn, for_s)
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
        self, fault: str, *, server: Host | None = None, cli: float | None = None, by: signal.Signals = signal.SIGKILL
    ) -> None:
        self._note(fault)
        if cli is not None:
            self._signal_cli(cli, by)
        if server is not None:
            server.signal(by)

    async def _close_stdin(self, fault: str, host: Host) -> None:
        self._note(fault)
        await host.close_stdin()

    async def _freeze(self, fault: str, for_s: float, server: Host | None = None, cli: float | None = None) -> None:
        """Stop a process for a while, as a laptop's sleep or a debugger does."""
        self._note(fault)
        if server is not None:
            with server.frozen():
                await anyio.sleep(for_s)
        elif cli is not None and (group := self._signal_cli(cli, signal.SIGSTOP)):
            await anyio.sleep(for_s)
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGCONT)

    async def _replace_cli(self, fault: str, for_s: float) -> None:
        """Put a CLI that fails in the place of the real one, as a broken update does."""
        cli = self._home / "claude"
        if not cli.is_symlink():
            return  # it is replaced already
        self._note(fault)
        real, beside = cli.readlink(), self._home / "claude.new"
        beside.write_text(BROKEN_CLI)
        beside.chmod(0o755)
        beside.replace(cli)
        await anyio.sleep(for_s)
        beside.symlink_to(real)
        beside.replace(cli)

    async def _fill_disk(self, fault: str, for_s: float) -> None:
        """Take all room on the disk of ledger and runs, where that disk is one of its own."""
        filler = self._home / "filler"
        if not self._small_disk or filler.exists():
            return
        self._note(fault)
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))
        await anyio.sleep(for_s)
        filler.unlink()

    def _note(self, fault: str) -> None:
        """Count the states of the runs that a fault finds."""
        states = [_state_of(folder) for folder in (self._home / "runs").glob("*")]
        self.reached[fault].update([state for state in states if state] or ["nothing runs"])

    def _signal_cli(self, at: float, number: signal.Signals) -> int | None:
        """Signal the process group of one of the CLIs that run, chosen by a share of 1; the group."""
        running = self._running_clis()
        if not running:
            return None
        group = running[int(at * len(running))]
        with suppress(ProcessLookupError):
            os.killpg(group, number)
        return group

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
            while left := self._unfinished(self._home):
                result = await self._call(self._hosts[0], "ask_result", {"run_id": left[0], "wait_s": 5})
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


def _state_of(folder: Path) -> str | None:
    """How far a run has come, by its files; None where it has ended."""
    try:
        written = (folder / "stdout.jsonl").read_bytes()
    except FileNotFoundError:
        return "prepared" if (folder / "prompt").exists() else None
    except OSError:
        return None
    if not is_held(folder / "stdout.jsonl"):
        return "not settled" if (folder / "prompt").exists() else None
    if b'"type":"result"' in written:
        return "result written"
    return "answering" if b'"type":"assistant"' in written or b"message_start" in written else "started"
