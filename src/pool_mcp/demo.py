"""``pool-mcp demo``: the main job from end to end, on this machine alone.

The server and the Claude Code CLI are the real ones, started as a host starts them. Only Anthropic is not: a
:class:`~pool_mcp.standin.Standin` answers, tells three accounts apart, and keeps books of its own that the ledger is
held against at the end.
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
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import anyio
import mcp.types
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from pool_mcp import __version__, render
from pool_mcp.claude.find import bundled_cli, find_cli
from pool_mcp.errors import BY_KIND, CliFailed, CliMissing, InvalidRequest, LedgerError, PoolError, RunCancelled
from pool_mcp.model import DAY_MS, HOUR_MS, NANO
from pool_mcp.private import make_directory
from pool_mcp.results import AskResult, PickResult, StatusResult

if TYPE_CHECKING:
    from pool_mcp.standin import Behaviour, Standin

EXTRA = "`pip install 'pool-mcp[demo]'`, or `uvx --from 'pool-mcp[demo]' pool-mcp demo`"

SETTINGS = """\
# Three accounts of the stand-in, which runs only as long as the demo.
[claude]
path = {cli}
base_url = {url}
inline_wait_s = 90
timeout_s = 60

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

SQL = """\
select subscription, count(*) as runs, sum(cost_nanousd) as nanousd
from entries group by subscription order by subscription"""


def run_demo(home: Path | None = None) -> None:
    """Show the main job step by step; settings, ledger and log stay in ``home``, a fresh directory by default.

    Raises:
        PoolError: something kept the demo from its end, or the ledger does not say what the stand-in's books say.
    """
    cli = _find_cli()
    directory = _make_home(home)
    log_file = directory / "server.log"
    try:
        from pool_mcp.standin import Standin

        logging.basicConfig(filename=log_file, level=logging.WARNING)
        with Standin() as standin:
            anyio.run(_show, standin, cli, directory, log_file)
    except ImportError as error:
        raise CliMissing(f"The demo needs {error.name}; install the package's extra: {EXTRA}.") from None
    except KeyboardInterrupt:
        raise RunCancelled(f"the demo was stopped; what it has written is in {directory}") from None
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
        raise CliMissing(f"The demo needs the Claude Code CLI, which the package's extra carries: {EXTRA}.") from None


def _make_home(home: Path | None) -> Path:
    """An empty directory for the demo; a person's own settings are never written over."""
    try:
        if home is None:
            return Path(tempfile.mkdtemp(prefix="pool-mcp-demo-"))
        home = home.absolute()
        make_directory(home)
        occupied = any(home.iterdir())
    except OSError as error:
        raise InvalidRequest(f"The demo's directory cannot be made: {error}.") from None
    if occupied:
        raise InvalidRequest(f"{home} is not empty; name a new directory, or leave --home out.")
    return home


def _give_up(error: BaseException, log_file: Path) -> NoReturn:
    """Turn whatever went wrong into one line that says where to look."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error
    kind, said = type(error), str(error)
    if isinstance(error, PoolError):
        raise kind(f"{said} The server's log: {log_file}") from None
    if isinstance(error, MCPError):
        raise CliFailed(f"The server broke off: {said}. Its log: {log_file}") from None
    raise CliFailed(f"The demo failed: {kind.__name__}: {said}. The server's log: {log_file}") from None


# The steps


async def _show(standin: "Standin", cli: Path, directory: Path, log_file: Path) -> None:
    began_s = time.monotonic()
    _open_accounts(standin)
    settings = directory / "pool.toml"
    settings.write_text(SETTINGS.format(cli=json.dumps(str(cli)), url=json.dumps(standin.url)), encoding="utf-8")
    screen = _Screen(render.console())
    screen.introduce(directory)

    async with _Host.start(screen, directory, standin, log_file) as host:
        screen.step("An ask, answered")
        screen.say("An agent calls ask_claude; the pool picks a subscription and runs the CLI under it.")
        prompt = "Which test would you write first?"
        answer = await host.ask(prompt, caller="reviewer")
        screen.show(Text(f"reviewer  {prompt}\nClaude    {answer.text}"))
        screen.show(render.ask_line(answer))

        screen.step("What is left")
        screen.say("Two more agents ask at the same time. Then usage_status tells where everybody stands.")
        async with anyio.create_task_group() as tasks:
            for caller in ("writer", "night-agent"):
                tasks.start_soon(host.ask_and_report, "Summarise the change.", caller)
        screen.gap()
        status = await host.status()
        screen.show(render.status_table(status))
        screen.gap()
        for line in render.status_lines(status):
            screen.show(line)

        screen.step("One runs into its limit")
        full = (await host.pick()).subscription
        assert full is not None, "three accounts with room"
        standin.accounts[full] = replace(standin.accounts[full], five_hour_utilization=1.0)
        screen.say(
            f"The next ask would go to {full}. Behind the pool's back its five hours are now used up, as if by hand. "
            "The pool finds out by asking, and goes elsewhere:"
        )
        answer = await host.ask("Which test would you write second?", caller="reviewer")
        screen.show(render.attempts_table(answer))
        screen.gap()
        screen.show(Text(f"reviewer has its answer all the same, from {answer.subscription}."))
        if [(one.subscription, one.outcome) for one in answer.attempts[:-1]] != [(full, "limit")]:
            raise CliFailed(f"The ask was to fail under {full} at its limit and be answered elsewhere, and was not.")

        screen.step("Who is next, and why")
        screen.say("pick_subscription reserves nothing; it only tells.")
        screen.show(render.pick_table(await host.pick()))

    ledger = directory / "ledger.db"
    command = [*_sqlite_utils(), "query", str(ledger), SQL, "--table"]
    screen.step("The ledger against the stand-in's books")
    with screen.busy("adding up"):
        rows = json.loads(await _output([*command[:-1]]))
        await anyio.to_thread.run_sync(standin.wait_idle)
    _compare(screen, rows, standin)

    screen.step("Look for yourself")
    screen.say("The ledger is a SQLite file, and a tool to look into it came with pool-mcp:")
    screen.verbatim(_for_a_shell(command))
    screen.gap()
    screen.verbatim(await _output(command))
    screen.gap()
    screen.say(f"That took {time.monotonic() - began_s:.0f} s. All of it stays in")
    screen.verbatim(f"{directory}")


def _compare(screen: "_Screen", rows: list[dict[str, Any]], standin: "Standin") -> None:
    """Hold the ledger's sums against the stand-in's, by subscription.

    Raises:
        LedgerError: they differ.
    """
    ours = {row["subscription"]: int(row["nanousd"]) for row in rows}
    theirs = {account: standin.spent_nanousd(account) for account in sorted(standin.accounts)}
    table = [(name, _exact(ours.get(name, 0)), _exact(theirs.get(name, 0))) for name in sorted(ours | theirs)]
    total, booked = sum(ours.values()), standin.spent_nanousd()
    screen.show(
        render.rows_table(("subscription", "ledger", "stand-in"), [*table, ("sum", _exact(total), _exact(booked))])
    )
    screen.gap()
    if {name: cost for name, cost in ours.items() if cost} != {name: cost for name, cost in theirs.items() if cost}:
        raise LedgerError(
            f"The ledger says {_exact(total)}, the stand-in's books {_exact(booked)}: they are not equal."
        )
    screen.say("Equal, to the billionth of a dollar.", style="green")


def _exact(nanousd: int) -> str:
    return f"${nanousd // NANO}.{nanousd % NANO:09}"


def _open_accounts(standin: "Standin") -> None:
    """Three accounts in the middle of their week; what they spend moves their windows on."""
    from pool_mcp.standin import Behaviour

    now_ms = standin.now_ms()
    hour_ms, day_ms = now_ms - now_ms % HOUR_MS, now_ms - now_ms % DAY_MS

    def account(used: tuple[float, float], capacity_usd: tuple[float, float], left: tuple[int, int]) -> Behaviour:
        return Behaviour(
            five_hour_utilization=used[0],
            five_hour_capacity_usd=capacity_usd[0],
            five_hour_resets_at_ms=hour_ms + left[0] * HOUR_MS,
            seven_day_utilization=used[1],
            seven_day_capacity_usd=capacity_usd[1],
            seven_day_resets_at_ms=day_ms + left[1] * DAY_MS,
        )

    standin.accounts["personal"] = account((0.58, 0.41), (25, 450), (2, 3))
    standin.accounts["work"] = account((0.23, 0.84), (15, 250), (4, 1))
    standin.accounts["spare"] = account((0.36, 0.12), (6, 60), (3, 5))


# The parts: a screen, a host, a shell


class _Screen:
    """What the person sees."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps = 0

    def introduce(self, directory: Path) -> None:
        self.show(render.heading(f"pool-mcp {__version__}, a demonstration"), indent=0)
        self.say(
            "Every answer here comes from a stand-in on this machine. No model is asked, no account is used, nothing "
            "leaves this machine, and nothing costs anything: the dollars are what the tokens would cost at list price."
        )
        self.say("The MCP server and the Claude Code CLI are the real ones. Settings and ledger are in")
        self.verbatim(str(directory))

    def step(self, title: str) -> None:
        self._steps += 1
        self.show(render.heading(f"{self._steps}. {title}"), indent=0)
