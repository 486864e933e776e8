"""``pool-mcp demo``: the main job from end to end, on this machine alone.

The server and the Claude Code CLI are the real ones, started as a host starts them. Only Anthropic is not: a
:class:`~pool_mcp.demo.standin.Standin` answers in its place, tells three accounts apart, and keeps books of its own,
which are compared with the ledger at the end.
"""

import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import anyio.to_thread
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from pool_mcp import __version__
from pool_mcp.claude.find import bundled_cli, find_cli
from pool_mcp.errors import BY_KIND, CliFailed, CliMissing, InvalidRequest, LedgerError, PoolError, RunCancelled
from pool_mcp.model import DAY_MS, HOUR_MS, NANO
from pool_mcp.results.asks import AskResult
from pool_mcp.results.status import PickResult, StatusResult
from pool_mcp.system.private import make_directory
from pool_mcp.views import tables
from pool_mcp.views.status import Seen, StatusView

if TYPE_CHECKING:
    from pool_mcp.demo.standin import Standin

HOW_TO_INSTALL = "`pip install 'pool-mcp[demo]'`, or `uvx --from 'pool-mcp[demo]' pool-mcp demo`"

SETTINGS = """\
# Three accounts of a stand-in for Anthropic that runs only as long as the demo.
[claude]
path = {cli}
base_url = {url}
inline_wait_s = 90
timeout_s = 60
spares = "off"

[[subscriptions]]
id = "personal"
plan = "max"
oauth_token_env = "DEMO_PERSONAL_TOKEN"

[[subscriptions]]
id = "work"
plan = "team"
oauth_token_env = "DEMO_WORK_TOKEN"
weekly_budget_usd = 250
block_budget_usd = 15

[[subscriptions]]
id = "spare"
plan = "pro"
oauth_token_env = "DEMO_SPARE_TOKEN"
weekly_budget_usd = 60
block_budget_usd = 6
"""

CALL_TIMEOUT_S = 100.0
"""Longer than the server lets any ask take."""

COST_BY = "select {0}, sum(cost_nanousd) as nanousd from entries group by {0}"


def run_demo(home: Path | None = None) -> None:
    """Show the main job step by step; settings, ledger and log stay in ``home``, a fresh directory by default.

    Raises:
        PoolError: something kept the demo from its end, or the ledger is not equal to the stand-in's books.
    """
    cli = _find_cli()
    with _make_standin() as standin:
        directory = _make_home(home)
        log_file = directory / "server.log"
        try:
            # What the client library has to say goes there, too, and not between the lines that a person reads.
            logging.basicConfig(filename=log_file, encoding="utf-8", level=logging.WARNING)
            anyio.run(_show, standin, cli, directory, log_file)
        except KeyboardInterrupt:
            raise RunCancelled(f"The demo was stopped; what it wrote is in {directory}.") from None
        except (Exception, BaseExceptionGroup) as error:
            _give_up(error, log_file)


def _find_cli() -> Path:
    """The CLI that the extra carries, else whichever there is.

    Raises:
        CliMissing: there is none.
    """
    try:
        return bundled_cli() or find_cli("claude", os.environ)
    except CliMissing:
        raise CliMissing(f"The demo needs the Claude Code CLI, which the extra brings: {HOW_TO_INSTALL}.") from None


def _make_standin() -> "Standin":
    try:
        from pool_mcp.demo.standin import Standin

        return Standin()
    except ImportError as error:
        raise CliMissing(f"The demo needs {error.name}, which the extra brings: {HOW_TO_INSTALL}.") from None
    except OSError as error:
        raise PoolError(f"The demo needs a port on this machine's loopback and got none: {error}.") from None


def _make_home(home: Path | None) -> Path:
    """An empty directory for the demo; a person's own settings are never written over."""
    try:
        if home is None:
            return Path(tempfile.mkdtemp(prefix="pool-mcp-demo-"))
        home = home.absolute()
        make_directory(home)
        is_empty = not any(home.iterdir())
    except OSError as error:
        raise InvalidRequest(f"The demo's directory cannot be made: {error}.") from None
    if not is_empty:
        raise InvalidRequest(f"{home} is not empty; name a new directory, or leave --home out.")
    return home


def _give_up(error: BaseException, log_file: Path) -> NoReturn:
    """Turn whatever went wrong into one line that says where to look."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, Exception):
        raise error
    said = (str(error).splitlines() or [""])[0].rstrip(".")
    look = f"The server's log: {log_file}"
    match error:
        case PoolError():
            raise type(error)(f"{said}. {look}") from None
        case MCPError():
            raise CliFailed(f"The server broke off: {said}. {look}") from None
    raise CliFailed(f"The demo failed: {type(error).__name__}: {said}. {look}") from None


# The story


async def _show(standin: "Standin", cli: Path, directory: Path, log_file: Path) -> None:
    began_s = time.monotonic()
    screen = _Screen()
    screen.title(f"pool-mcp {__version__}, a demonstration")
    screen.say(
        "Every answer comes from a stand-in on this machine: no model is asked, no account is used, and nothing costs "
        "anything. Amounts are what the same tokens would cost at list price. The MCP server and the Claude Code CLI "
        "are the real ones. Three subscriptions are set up, in a directory that stays:"
    )
    screen.verbatim(str(directory))
    _open_accounts(standin)
    settings = SETTINGS.format(cli=json.dumps(str(cli)), url=json.dumps(standin.url))
    (directory / "pool.toml").write_text(settings, encoding="utf-8")
    async with AsyncExitStack() as stack:
        with screen.busy("starting the server"):
            host = await stack.enter_async_context(_start_host(directory, standin, log_file))
        answered = await _ask_once(screen, host)
        picture = directory / "status.svg"
        await _show_what_is_left(screen, host, sorted({*standin.accounts} - {answered}), picture)
        await _run_into_a_limit(screen, host, standin)
        await _show_who_is_next(screen, host)
    await _compare_books(screen, directory, standin)
    await _show_the_ledger(screen, directory)
    screen.gap()
    took_s = time.monotonic() - began_s
    screen.say(f"Done in {took_s:.0f} seconds. Nothing is left running; the directory stays until you remove it.")


async def _ask_once(screen: "_Screen", host: "_Host") -> str:
    """Ask, and tell under which subscription it was answered."""
    screen.step("An ask, answered")
    screen.say("An agent calls ask_claude. The pool picks a subscription and runs the CLI under it.")
    screen.gap()
    prompt = "Which test would you write first?"
    with screen.busy(f"reviewer asks: {prompt}"):
        answer = await host.ask(prompt, "reviewer")
    screen.pair("reviewer", prompt)
    screen.pair("Claude", answer.text)
    screen.pair("", tables.ask_line(answer, with_session=False))
    return answer.subscription or ""


async def _show_what_is_left(screen: "_Screen", host: "_Host", others: list[str], picture: Path) -> None:
    screen.step("What is left")
    screen.say("Two more agents ask at the same time, each under a subscription that it names:")
    screen.gap()

    async def ask(caller: str, subscription: str) -> None:
        answer = await host.ask("Summarize what changed this week.", caller, subscription)
        screen.pair(caller, tables.ask_line(answer, with_session=False))

    with screen.busy("two agents ask"):
        async with anyio.create_task_group() as tasks:
            for caller, subscription in zip(("writer", "planner"), others, strict=True):
                tasks.start_soon(ask, caller, subscription)
    screen.gap()
    screen.say("Then usage_status tells where everything stands:")
    screen.gap()
    status = await host.status()
    view = StatusView(Seen(status, []))
    screen.show(view)
    tables.save_picture(view, "pool-mcp status", picture)


async def _run_into_a_limit(screen: "_Screen", host: "_Host", standin: "Standin") -> None:
    """Use up an account without the pool's knowledge, and see the next ask answered all the same.

    Raises:
        CliFailed: it was not first refused there and then answered elsewhere.
    """
    screen.step("One runs into its five-hour limit")
    full = (await host.pick()).subscription
    assert full is not None, "there are three accounts with room"
    standin.accounts[full] = replace(standin.accounts[full], five_hour_utilization=1.0)
    screen.say(
        f"The next ask would go to {full}. Its five hours are now used up, as if by hand in a terminal, so the pool "
        "cannot know. It finds out by asking, and asks elsewhere:"
    )
    screen.gap()
    with screen.busy("planner asks"):
        answer = await host.ask("What should we do next?", "planner")
    screen.show(tables.attempts_table(answer))
    screen.gap()
    if [(one.subscription, one.outcome) for one in answer.attempts[:-1]] != [(full, "limit")]:
        raise CliFailed(f"The ask should have failed under {full} and been answered elsewhere; it was not.")
    screen.pair("Claude", answer.text)
    screen.pair("", tables.ask_line(answer, with_session=False))


async def _show_who_is_next(screen: "_Screen", host: "_Host") -> None:
    screen.step("Which one is next, and why")
    screen.say("pick_subscription reserves nothing, it only tells:")
    screen.gap()
    screen.show(tables.pick_table(await host.pick(), time.time_ns() // 1_000_000))


async def _compare_books(screen: "_Screen", directory: Path, standin: "Standin") -> None:
    """Hold the ledger's sums against the stand-in's.

    Raises:
        LedgerError: they differ.
    """
    screen.step("The ledger against the stand-in's books")
    await anyio.to_thread.run_sync(standin.wait_idle)
    rows = json.loads(await _output(_query(directory, COST_BY.format("subscription"))))
    booked: dict[str, int] = {row["subscription"]: row["nanousd"] for row in rows}
    accounts = sorted({*booked, *standin.accounts})
    sums = [(name, booked.get(name, 0), standin.spent_nanousd(name)) for name in accounts]
    both = (sum(booked.values()), standin.spent_nanousd())
    screen.show(
        tables.rows_table(
            ("subscription", "ledger", "stand-in"),
            [(name, *map(_exact, amounts)) for name, *amounts in [*sums, ("sum", *both)]],
        )
    )
    screen.gap()
    if any(ours != theirs for _, ours, theirs in [*sums, ("sum", *both)]):
        ledger, books = map(_exact, both)
        raise LedgerError(f"The ledger ({ledger}) and the stand-in's books ({books}) are not equal.")
    screen.show(Text("Equal, to the billionth of a dollar.", style="green"))


async def _show_the_ledger(screen: "_Screen", directory: Path) -> None:
    screen.step("Look for yourself")
    screen.say("The ledger is a SQLite file. What has each agent cost?")
    screen.gap()
    *program, sql = command = _query(directory, COST_BY.format("caller"), "--table")
    screen.verbatim(f"{shlex.join(program)} \\\n  {shlex.quote(sql)}")
    screen.gap()
    screen.verbatim(await _output(command))


# What the story is told with


class _Screen:
    """What the person sees: numbered steps, indented text, and a spinner where there is a terminal."""

    def __init__(self) -> None:
        self._console = tables.console()
        self._steps = 0

    def title(self, text: str) -> None:
        self._console.print(Text(text, style="bold"))

    def step(self, title: str) -> None:
        self._steps += 1
        self._console.print(tables.heading(f"{self._steps}. {title}"))

    def say(self, text: str) -> None:
        self.show(Text(text))

    def show(self, what: RenderableType) -> None:
        self._console.print(Padding(what, (0, 0, 0, 2), expand=False))

    def gap(self) -> None:
        self._console.print()

    def pair(self, name: str, said: str | Text) -> None:
        """Who, and what, beside each other."""
        self.show(tables.pair(name, said))

    def verbatim(self, text: str) -> None:
        """Print what may be copied: a line that is too long for the screen is not broken."""
        for line in text.splitlines():
            self._console.print(Text(f"  {line}"), soft_wrap=True)

    def busy(self, doing: str) -> AbstractContextManager[object]:
        return self._console.status(Text(doing))


class _Host:
    """A host of the server: calls its tools as an agent's host would."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, prompt: str, caller: str, subscription: str | None = None) -> AskResult:
        asked = {"prompt": prompt, "caller": caller, "subscription": subscription}
        return AskResult.model_validate(await self._call("ask_claude", **asked))

    async def status(self) -> StatusResult:
        return StatusResult.model_validate(await self._call("usage_status"))

    async def pick(self) -> PickResult:
        return PickResult.model_validate(await self._call("pick_subscription"))

    async def _call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool.

        Raises:
            PoolError: it failed, with the kind and the words that it failed with.
        """
        result = await self._client.call_tool(tool, arguments)
        data = result.structured_content or {}
        if result.is_error:
            error = data.get("error", {})
            raise BY_KIND.get(error.get("kind"), CliFailed)(error.get("message", f"{tool} failed"))
        return data


@asynccontextmanager
async def _start_host(directory: Path, standin: "Standin", log_file: Path) -> AsyncIterator[_Host]:
    """Start the server as a host does, with its log in a file."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "pool_mcp", "serve"],
        env={
            "POOL_MCP_HOME": str(directory),
            **{f"DEMO_{name.upper()}_TOKEN": standin.token(name) for name in standin.accounts},
        },
    )
    with log_file.open("a", encoding="utf-8") as log:
        async with Client(stdio_client(server, errlog=log), read_timeout_seconds=CALL_TIMEOUT_S) as client:
            yield _Host(client)


def _open_accounts(standin: "Standin") -> None:
    """Three accounts in the middle of their week; what they spend from here on fills them further."""
    now_ms = standin.now_ms()
    hour_ms, day_ms = now_ms - now_ms % HOUR_MS, now_ms - now_ms % DAY_MS
    for name, five_hour, block_usd, hours, seven_day, week_usd, days in (
        ("personal", 0.58, 25, 2, 0.41, 456, 3),
        ("work", 0.23, 15, 4, 0.84, 250, 2),
        ("spare", 0.36, 6, 3, 0.12, 60, 5),
    ):
        standin.accounts[name] = replace(
            standin.accounts[name],
            five_hour_utilization=five_hour,
            five_hour_capacity_usd=block_usd,
            five_hour_resets_at_ms=hour_ms + hours * HOUR_MS,
            seven_day_utilization=seven_day,
            seven_day_capacity_usd=week_usd,
            seven_day_resets_at_ms=day_ms + days * DAY_MS,
        )


def _query(directory: Path, sql: str, *options: str) -> list[str]:
    """A command that puts a question to the ledger, and that works in the person's shell, too."""
    program = ["sqlite-utils"] if shutil.which("sqlite-utils") else [sys.executable, "-m", "sqlite_utils"]
    return [*program, "query", str(directory / "ledger.db"), *options, sql]


async def _output(command: list[str]) -> str:
    ended = await anyio.run_process(command, check=False)
    if ended.returncode != 0:
        raise LedgerError(f"{command[0]} could not read the ledger: {ended.stderr.decode(errors='replace').strip()}")
    return ended.stdout.decode()


def _exact(nanousd: int) -> str:
    return f"${nanousd // NANO}.{nanousd % NANO:09}"
