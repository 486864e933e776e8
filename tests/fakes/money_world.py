"""A deterministic world for the money path: virtual servers, CLIs and time over one real ledger file.

The servers are the product's own pools, each with its own connection to the ledger, in one thread and one event loop
whose time is virtual. The CLI is virtual: it writes what the real one writes, at virtual times, and goes on when its
server dies. The world counts *points*, the places at which something can happen to a server: before each SQL
statement that begins, writes or commits, after each commit, at each step of a run's files. A fault is planned for one
point:

    crash       the server is gone from this point on; nothing more of it is executed
    power       so are all servers and CLIs; files that were not synced to the disk are gone, too
    disk full   statements that write, and files, fail for a while
    clock       the wall clock jumps, and stays so

One plan always gives the same story, so a failure is replayed by its name.
"""

import asyncio
import contextlib
import contextvars
import errno
import json
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import anyio
import anyio.to_thread
import pytest

from pool_mcp import pool as pool_module
from pool_mcp.accounting.pricing import price_nanousd
from pool_mcp.asks import driving, spares, supervision
from pool_mcp.asks import runner as runner_module
from pool_mcp.background.every import every
from pool_mcp.claude import login
from pool_mcp.claude import process as process_module
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Call
from pool_mcp.errors import PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.sqlite import Sqlite
from pool_mcp.model import NANO, Ask, Tokens
from pool_mcp.pool import Pool
from pool_mcp.settings import load
from pool_mcp.system import locks, memory
from pool_mcp.system.wakeup import Wakeup

FaultKind = Literal["crash", "power", "disk full", "clock ahead", "clock back"]
T = TypeVar("T")

EPOCH_MS = 1_795_000_000_000
MODEL = "claude-sonnet-5-5"
TOKENS = Tokens(1200, 300, 1000, 4000, 20000)
"""Of each virtual call."""
CALL_NANOUSD = price_nanousd(MODEL, TOKENS, EPOCH_MS) or 0
CUT_NANOUSD = price_nanousd(MODEL, replace(TOKENS, output=1), EPOCH_MS) or 0
"""Of a call whose CLI was killed before the first word of its answer."""
JUMP_MS = 3 * 3_600_000
FULL_S = 5.0
"""How long a full disk stays so, in virtual seconds."""

_current: contextvars.ContextVar["Server | None"] = contextvars.ContextVar("server", default=None)


class Crash(BaseException):
    """Nothing more of this server is executed."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which time passes only while nobody has anything to do, and then at once."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_s = 0.0

    def time(self) -> float:
        return self._virtual_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._virtual_s = max(self._virtual_s, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


@dataclass(frozen=True)
class Plan:
    """One fault at one point of one server."""

    fault: FaultKind
    point: int
    server: str = "first"


@dataclass
class Server:
    """A virtual server process."""

    name: str
    world: "World"
    owner_id: str = ""
    points: int = 0
    is_dead: bool = False

    def point(self, what: str, *, writes: bool = False) -> None:
        """Something can happen here."""
        if self.is_dead:
            raise Crash
        self.world.trace.append(f"{self.name} {self.points}: {what}")
        for plan in self.world.plans:
            if plan.server == self.name and plan.point == self.points:
                self.world.strike(plan.fault, self)
        self.points += 1
        if self.is_dead:
            raise Crash
        if writes and self.world.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")


@dataclass
class VirtualCli:
    """A CLI that runs, whoever started it."""

    files: process_module.RunFiles
    session_id: str
    account: str
    script: "Script"
    is_alive: bool = True
    is_told_to_stop: bool = False
    wakes: anyio.Event = field(default_factory=anyio.Event)


@dataclass(frozen=True)
class Script:
    """What a CLI does: ``calls`` API calls of ``call_s`` seconds, then an answer, or a refusal by a used-up window."""

    calls: int = 1
    call_s: float = 2.0
    is_refused: bool = False


class World:
    """Everything there is; ``run`` plays one story."""

    def __init__(self, folder: Path, plans: Sequence[Plan] = ()) -> None:
        self.folder = folder
        self.plans = plans
        self.trace: list[str] = []
        self.calls: list[Call] = []
        self.scripts: dict[str, list[Script]] = {}
        self.servers: list[Server] = []
        self.clis: dict[Path, VirtualCli] = {}
        self.handed_over = 0
        """Prompts that went to a CLI that waited for one."""
        self.unsynced: dict[Path, process_module.RunFiles] = {}
        self.bad_ends: list[str] = []
        """Servers that ended with an error instead of by themselves."""
        self.is_full = False
        self.boots = 1
        self._offset_ms = 0
        self._ids = 0
        self._tasks: anyio.abc.TaskGroup | None = None
        self._written: dict[str, int] = {}

    # Time, ids, faults

    def now_ms(self) -> int:
        """The wall clock, which jumps."""
        return self.true_ms() + self._offset_ms

    def true_ms(self) -> int:
        """The time that Anthropic has."""
        return EPOCH_MS + round(anyio.current_time() * 1000)

    def new_id(self) -> str:
        self._ids += 1
        return str(uuid.UUID(int=self._ids))

    def strike(self, fault: FaultKind, server: Server) -> None:
        match fault:
            case "crash":
                server.is_dead = True
            case "power":
                self._cut_power()
            case "disk full":
                self.is_full = True
                assert self._tasks is not None
                self._tasks.start_soon(self._make_room)
            case "clock ahead":
                self._offset_ms += JUMP_MS
            case "clock back":
                self._offset_ms -= JUMP_MS

    async def _make_room(self) -> None:
        await anyio.sleep(FULL_S)
        self.is_full = False

    def _cut_power(self) -> None:
        for server in self.servers:
            server.is_dead = True
        for path, cli in self.clis.items():
            cli.is_alive = False
            cli.wakes.set()
            # Made after the last sync of their folder.
            for name in (path, cli.files.pid, cli.files.stderr):
                name.unlink(missing_ok=True)
        self.boots += 1
        for files in self.unsynced.values():
            for name in (files.prompt, files.ask, files.facts):
                name.unlink(missing_ok=True)

    # The CLI

    def start_cli(self, run_account: str, session_id: str, files: process_module.RunFiles) -> None:
        scripts = self.scripts.get(run_account, [])
        script = scripts.pop(0) if scripts else Script()
        cli = VirtualCli(files, session_id, run_account, script)
        self.clis[files.stdout] = cli
        assert self._tasks is not None
        self._tasks.start_soon(self._play, cli)

    async def _play(self, cli: VirtualCli) -> None:
        token = _current.set(None)
        try:
            with contextlib.suppress(Crash):
                await self._play_script(cli)
        finally:
            _current.reset(token)
            cli.is_alive = False

    async def _play_script(self, cli: VirtualCli) -> None:
        say = _Output(self, cli)
        await anyio.sleep(0.3)
        say.init()
        if cli.script.is_refused:
            say.refusal(self.true_ms() + 3_600_000)
            return
        spent = 0
        for number in range(cli.script.calls):
            started_ms = self.true_ms()
            message_id = f"msg_{cli.session_id[-4:]}_{len(self.calls)}"
            say.request(message_id)
            was_cut = await self._call(cli)
            cost = CALL_NANOUSD
            if not cli.is_alive and not cli.is_told_to_stop:
                state: Literal["complete", "cut"] = "cut"
                cost = CUT_NANOUSD
            else:
                state = "cut" if was_cut else "complete"
            self.calls.append(
                Call(
                    len(self.calls), cli.account, message_id, f"req_{len(self.calls)}", MODEL, TOKENS, cost,
                    cli.session_id, started_ms, self.true_ms(), state,
                )
            )  # fmt: skip
            if not cli.is_alive:
                return
            spent += cost
            say.answer(message_id, is_last=number == cli.script.calls - 1 or was_cut)
            if was_cut:
                break
        say.result(spent, is_cut=cli.is_told_to_stop)

    async def _call(self, cli: VirtualCli) -> bool:
        """Wait for an answer; True where the CLI was told to stop meanwhile."""
        with anyio.move_on_after(cli.script.call_s):
            await cli.wakes.wait()
        return cli.is_told_to_stop

    # Servers

    async def serve(self, name: str, env: dict[str, str], body: Callable[[Pool], Awaitable[None]]) -> None:
        """A server process, and what its host does with it. A crash ends both where they stand."""
        server = Server(name, self)
        self.servers.append(server)
        token = _current.set(server)
        settings = load(env)
        ledger: Ledger | None = None
        try:
            ledger = Ledger(settings.ledger_path)
            pool = Pool(settings, ledger, env, self.now_ms, self.new_id)
            server.owner_id = pool._reservations.owner_id
            async with pool.open():
                await body(pool)
        except PoolError:
            return  # it could not be opened, and said so
        except BaseException as error:
            if not _is_crash(error):
                self.bad_ends.append(f"{name}: {_deepest(error)!r}")
        finally:
            server.is_dead = True
            if ledger is not None:
                assert isinstance(ledger.engine, Sqlite)
                sqlite3.Connection.close(ledger.engine._conn)
            _current.reset(token)

    def is_owner_alive(self, owner_id: str) -> bool:
        return any(server.owner_id == owner_id and not server.is_dead for server in self.servers)

    async def run(self, story: Callable[["World"], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as self._tasks:
            await story(self)
            self._tasks.cancel_scope.cancel()


def _is_crash(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_crash(one) or isinstance(one, asyncio.CancelledError) for one in error.exceptions)
    return isinstance(error, Crash)


def _deepest(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Output:
    """What a CLI of version 2.1.330 prints, and what it writes down in its transcript."""

    def __init__(self, world: World, cli: VirtualCli) -> None:
        self._world = world
        self._cli = cli
        folder = world.folder / "pool" / "config" / cli.account / "projects" / "x"
        folder.mkdir(parents=True, exist_ok=True)
        self._transcript = folder / f"{cli.session_id}.jsonl"

    def _say(self, kind: str, **fields: Any) -> None:
        if self._cli.is_alive and not self._world.is_full:
            with self._cli.files.stdout.open("ab") as file:
                file.write(json.dumps({"type": kind, "session_id": self._cli.session_id, **fields}).encode() + b"\n")

    def _note(self, **fields: Any) -> None:
        if self._cli.is_alive and not self._world.is_full:
            with self._transcript.open("ab") as file:
                file.write(
                    json.dumps({"sessionId": self._cli.session_id, "version": "2.1.330", **fields}).encode() + b"\n"
                )

    def init(self) -> None:
        self._cli.files.pid.write_text("0")
        self._say("system", subtype="init", claude_code_version="2.1.330", model=MODEL)

    def request(self, message_id: str) -> None:
        self._say("system", subtype="status", status="requesting")
        self._say("stream_event", event={"type": "message_start", "message": _message(message_id, 1)})

    def answer(self, message_id: str, *, is_last: bool) -> None:
        reason = "end_turn" if is_last else "tool_use"
        usage = {"output_tokens": TOKENS.output}
        self._say("assistant", message={**_message(message_id, 1), "content": [{"type": "text", "text": "Answer"}]})
        self._say("stream_event", event={"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage})
        at = f"2026-11-24T00:00:{len(self._world.calls) % 60:02}.000Z"
        message = {**_message(message_id, TOKENS.output), "content": [{"type": "text", "text": "Answer"}]}
        self._note(type="assistant", message=message, requestId=f"req_{len(self._world.calls) - 1}", timestamp=at)

    def result(self, nanousd: int, *, is_cut: bool) -> None:
        usage = {MODEL: _model_usage(nanousd)} if nanousd else {}
        total = self._world._written.get(self._cli.session_id, 0) + nanousd
        self._world._written[self._cli.session_id] = total
        so_far = {MODEL: _model_usage(total)} if total else {}
        self._note(type="cost-state", totalCostUSD=total / NANO, modelUsage=so_far)
        reason = {"terminal_reason": "aborted_streaming", "is_error": True} if is_cut else {"is_error": False}
        self._say(
            "result", subtype="success", result="Answer", total_cost_usd=total / NANO, modelUsage=so_far,
            model_usage_since_last_result=usage, **reason,
        )  # fmt: skip

    def refusal(self, resets_at_ms: int) -> None:
        info = {"status": "rejected", "resetsAt": resets_at_ms // 1000, "rateLimitType": "five_hour"}
        self._say("rate_limit_event", rate_limit_info=info)
        self._say(
            "result", subtype="success", is_error=True, api_error_status=429, api_error="usage_limit_reached",
            result="You've hit your limit", total_cost_usd=0, modelUsage={}, model_usage_since_last_result={},
        )  # fmt: skip


def _message(message_id: str, output: int) -> dict[str, Any]:
    usage = {
        "input_tokens": TOKENS.input,
        "output_tokens": output,
        "cache_creation_input_tokens": 5000,
        "cache_read_input_tokens": TOKENS.cache_read,
        "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 4000},
    }
    return {"id": message_id, "type": "message", "role": "assistant", "model": MODEL, "usage": usage, "content": []}


def _model_usage(nanousd: int) -> dict[str, Any]:
    calls = max(1, round(nanousd / CALL_NANOUSD))
    return {
        "inputTokens": TOKENS.input * calls,
        "outputTokens": TOKENS.output * calls,
        "cacheReadInputTokens": TOKENS.cache_read * calls,
        "cacheCreationInputTokens": 5000 * calls,
        "cacheCreationEphemeral1hInputTokens": 4000 * calls,
        "costUSD": nanousd / NANO,
    }


class _Connection(sqlite3.Connection):
    """A server's connection, at each statement of which something can happen."""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        self._pass(sql)
        done = super().execute(sql, *arguments)
        if sql == "COMMIT" and (server := _current.get()) is not None:
            server.point("after COMMIT")
        return done

    def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        self._pass(sql)
        return super().executemany(sql, *arguments)

    def _pass(self, sql: str) -> None:
        server = _current.get()
        words = " ".join(sql.split())[:60]
        writes = words.startswith(("INSERT", "UPDATE", "DELETE", "COMMIT"))
        # What only reads makes no difference; a rollback is what the system does for a dead process.
        if server is None or not (writes or words.startswith("BEGIN")):
            if server is not None and server.is_dead and words != "ROLLBACK":
                raise Crash
            return
        try:
            server.point(words, writes=writes)
        except OSError:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error from None


class _Process:
    """The door to processes, with virtual ones behind it."""

    def __init__(self, files: process_module.RunFiles, world: World, *, is_own: bool = False) -> None:
        self._cli = world.clis.get(files.stdout)
        self.is_own = is_own
        self.child_pid = None

    @property
    def is_alive(self) -> bool:
        return self._cli is not None and self._cli.is_alive

    @property
    def exit_code(self) -> int | None:
        return None

    def signal(self, _: int) -> None:
        server = _current.get()
        if self._cli is not None and not (server and server.is_dead):
            self._cli.is_told_to_stop = True
            self._cli.wakes.set()

    def kill_leftovers(self) -> None:
        """Nothing is left."""


class _Late:
    """Does a thread's work as late as it can be done: after everything else in its block."""

    def __init__(self, _: int) -> None:
        self._jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def __enter__(self) -> Self:
        return self

    def submit(self, job: Callable[[], Any]) -> "Future[Any]":
        self._jobs.append((Future(), job))
        return self._jobs[-1][0]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for future, job in self._jobs if kind is None else ():
            try:
                future.set_result(job())
            except OSError as error:
                future.set_exception(error)


class _Waiting:
    """A virtual CLI that waits for its prompt."""

    capacity_bytes = 1 << 16
    is_alive = is_ready = True

    def __init__(self, world: World, account: str, session_id: str) -> None:
        self._world = world
        self._account = account
        self._session_id = session_id

    def become(self, files: process_module.RunFiles, _: bytes) -> _Process | None:
        server = _current.get()
        assert server is not None
        try:
            server.point("before the spare's files are renamed", writes=True)
            files.stdout.touch()
            server.point("the spare's files are the run's", writes=True)
        except OSError:
            return None
        self._world.handed_over += 1
        self._world.start_cli(self._account, self._session_id, files)
        server.point("the spare has its prompt")
        return _Process(files, self._world, is_own=True)

    def let_go(self) -> None:
        """It has sent nothing."""

    def end(self, _: float = 0) -> None:
        """It has sent nothing."""


@contextlib.contextmanager
def virtual(world: World) -> Iterator[None]:
    """Put the world in the place of threads, processes, locks and the start of the machine."""
    connect = sqlite3.connect

    async def inline(function: Callable[..., T], *arguments: Any, **_: Any) -> T:
        await anyio.lowlevel.checkpoint()
        return function(*arguments)

    def start(_: Path, arguments: list[str], files: process_module.RunFiles, env: Any, __: Path) -> _Process:
        server = _current.get()
        assert server is not None
        server.point("before the CLI is started", writes=True)
        files.stdout.touch()
        server.point("output file made", writes=True)
        session_id = next(one.partition("=")[2] for one in arguments if one.startswith(("--session-id=", "--resume=")))
        account = str(env["CLAUDE_CODE_OAUTH_TOKEN"]).removeprefix(Standin.token(""))
        world.start_cli(account, session_id, files)
        server.point("CLI started")
        return _Process(files, world, is_own=True)

    def start_waiting(_: Path, arguments: list[str], __: process_module.RunFiles, env: Any, ___: Path) -> _Waiting:
        server = _current.get()
        assert server is not None
        server.point("before a spare is started", writes=True)
        session_id = next(one.partition("=")[2] for one in arguments if one.startswith("--session-id="))
        return _Waiting(world, str(env["CLAUDE_CODE_OAUTH_TOKEN"]).removeprefix(Standin.token("")), session_id)

    store = process_module.RunFiles.store

    def stored(self: process_module.RunFiles, *arguments: Any) -> None:
        server = _current.get()
        assert server is not None
        server.point("before the run's files", writes=True)
        world.unsynced[self.directory] = self
        store(self, *arguments)
        server.point("files stored")

    sync = process_module.RunFiles.sync

    def synced(self: process_module.RunFiles) -> None:
        server = _current.get()
        assert server is not None
        server.point("before the run's files are on the disk", writes=True)
        sync(self)
        world.unsynced.pop(self.directory, None)
        server.point("files on the disk")

    def start_background(self: Pool, tasks: anyio.abc.TaskGroup) -> None:
        tasks.start_soon(self.driver.run, 1.0)
        tasks.start_soon(every, 60.0, "look after earlier runs", self._look_after_runs, anyio.sleep, 0.0)

    def virtual_connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        opened: sqlite3.Connection = connect(*arguments, **{**named, "factory": _Connection})
        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", virtual_connect)
        patch.setattr(anyio.to_thread, "run_sync", inline)
        for module in (supervision, pool_module, driving, spares):
            patch.setattr(module, "in_thread", inline)
        patch.setattr(runner_module, "start", start)
        patch.setattr(runner_module, "start_waiting", start_waiting)
        patch.setattr(spares, "_identity", lambda _: (0, 0, 0))
        patch.setattr(login, "cli_version", lambda *_: "2.1.330")
        patch.setattr(memory, "is_short", lambda _: False)
        patch.setattr(runner_module, "find_cli", lambda *_: Path("claude"))
        patch.setattr(process_module, "boot_id", lambda: str(world.boots))
        patch.setattr(process_module, "CliProcess", lambda files, *_: _Process(files, world))
        patch.setattr(process_module.RunFiles, "store", stored)
        patch.setattr(process_module.RunFiles, "sync", synced)
        patch.setattr(supervision, "ThreadPoolExecutor", _Late)
        patch.setattr(Wakeup, "wait", lambda _: anyio.sleep_forever())
        patch.setattr(locks, "is_alive", lambda _, owner: world.is_owner_alive(owner))
        patch.setattr(locks, "sweep", lambda _: [])
        patch.setattr(Pool, "_start_background", start_background)
        yield


async def ask(pool: Pool, text: str = "What?", wait_s: float = 60, **more: Any) -> str:
    """How an ask ended: ``completed``, ``running``, or an error's kind."""
    try:
        return (await pool.ask(Ask(text, "host", **{"model": MODEL, **more}), wait_s=wait_s)).status
    except PoolError as error:
        return error.kind
