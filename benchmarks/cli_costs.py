"""Compares what the ledger books with what the stand-in billed: CLI version by scenario, as a table.

``./dev run python benchmarks/cli_costs.py 2.1.206 2.1.315=/path/to/claude`` takes the versions that the tests use by
their names, and any other by the path of its executable; without arguments, the three that the tests use.

In the table ``=`` is exact to the nano-dollar, ``>=`` a floor that is marked as an estimate (with its share of what was
billed), and an amount in dollars is what is booked too much (+) or too little (-) without being marked.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path

import anyio
import anyio.to_thread

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))

from cli_versions import CLI_VERSIONS
from support import make_home, open_ledger, open_pool, until

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Reply
from pool_mcp.errors import PoolError
from pool_mcp.model import NANO, Ask, Tokens

MODEL = "claude-sonnet-4-6"
ASK_S = 60.0


class Desk:
    """One subscription of one CLI, used in the pool and by hand."""

    def __init__(self, home: Path, cli: Path, standin: Standin) -> None:
        self.home, self.cli, self.standin = home, cli, standin
        self.work = home / "work"
        self.work.mkdir()
        self.settings, self.env = make_home(home, standin, cli=cli, weekly_budget_usd=10_000.0)
        config_dir = self.settings.subscriptions[0].config_dir
        assert config_dir is not None
        self.config_dir = config_dir

    async def ask(self, session_id: str | None = None) -> str:
        """Ask in the pool; the session's id."""
        async with open_pool(self.settings, self.env) as pool:
            with anyio.fail_after(ASK_S):
                asked = Ask("ping", "benchmark", session_id, model=MODEL, working_dir=str(self.work))
                return (await pool.ask(asked)).session_id

    async def cut(self, how: str) -> str:
        """Ask in the pool and cut the run off in the middle of its answer; the session's id."""
        reply = Reply(text="word", text_size=4000, mode="slow", tokens=Tokens(1200, 1000, 300, 4000, 15_000))
        self.standin.accounts["alice"] = Behaviour(replies=(reply,), chunks=100)
        async with open_pool(self.settings, self.env) as pool:
            with anyio.fail_after(ASK_S):
                asked = Ask("ping", "benchmark", model=MODEL, working_dir=str(self.work), background=True)
                run = await pool.ask(asked)
                files = self.settings.runs_dir / run.run_id
                await until(lambda: b"content_block_delta" in _bytes(files / "stdout.jsonl"), ASK_S)
                transcripts = f"projects/*/{run.session_id}.jsonl"
                await until(lambda: any(b'"user"' in _bytes(one) for one in self.config_dir.glob(transcripts)), ASK_S)
                if how == "killed":
                    os.kill(int((files / "pid").read_text()), signal.SIGKILL)
                with suppress(PoolError):
                    await pool.result(run.run_id, wait_s=ASK_S, cancel=how == "interrupted")
        return str(run.session_id)

    async def by_hand(self, *arguments: str) -> str:
        """Use the CLI as a person would; the session's id."""
        env = {"PATH": os.defpath, "HOME": str(self.home), "CLAUDE_CONFIG_DIR": str(self.config_dir)}
        env |= {"CLAUDE_CODE_OAUTH_TOKEN": Standin.token("alice"), "ANTHROPIC_BASE_URL": self.standin.url}
        env |= {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
        command = [str(self.cli), "-p", "--output-format=json", f"--model={MODEL}", "--tools=", *arguments]
        with anyio.fail_after(ASK_S):
            done = await anyio.run_process(command, input=b"by hand", env=env, cwd=self.work)
        return str(json.loads(done.stdout)["session_id"])

    async def take(self) -> None:
        """Import what was done by hand."""
        async with open_pool(self.settings, self.env) as pool:
            await pool.outside.import_all(lambda _: None)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


async def fresh(desk: Desk) -> None:
    await desk.ask()


async def resumed(desk: Desk) -> None:
    session = await desk.ask()
    for _ in range(2):
        await desk.ask(session)


async def by_hand_first(desk: Desk) -> None:
    session = await desk.by_hand()
    await desk.ask(session)
    await desk.take()


async def by_hand_between(desk: Desk) -> None:
    session = await desk.ask()
    await desk.by_hand(f"--resume={session}")
    await desk.ask(session)
    await desk.take()


async def by_hand_at_once(desk: Desk) -> None:
    session = await desk.ask()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.by_hand, f"--resume={session}")
        await desk.ask(session)
    await desk.take()


async def forked(desk: Desk) -> None:
    session = await desk.ask()
    fork = await desk.by_hand(f"--resume={session}", "--fork-session")
    await desk.ask(fork)
    await desk.ask(session)
    await desk.take()


async def copied_folder(desk: Desk) -> None:
    session = await desk.ask()
    (project,) = (desk.config_dir / "projects").iterdir()
    for name in ("0-copy", "zz-copy"):
        shutil.copytree(project, project.with_name(name))
    for _ in range(2):
        await desk.ask(session)
    await desk.take()


async def interrupted(desk: Desk) -> None:
    session = await desk.cut("interrupted")
    await desk.ask(session)


async def killed(desk: Desk) -> None:
    session = await desk.cut("killed")
    await desk.ask(session)
    await desk.take()


SCENARIOS: tuple[Callable[[Desk], Awaitable[None]], ...] = (
    fresh,
    resumed,
    by_hand_first,
    by_hand_between,
    by_hand_at_once,
    forked,
    copied_folder,
    interrupted,
    killed,
)


async def compare(cli: Path, scenario: Callable[[Desk], Awaitable[None]]) -> str:
    """Play a scenario; how the ledger compares with what was billed, in a word."""
    with tempfile.TemporaryDirectory() as home, Standin() as standin:
        desk = Desk(Path(home), cli, standin)
        await scenario(desk)
        assert await anyio.to_thread.run_sync(standin.wait_idle)
        with closing(open_ledger(desk.settings)) as ledger:
            entries = [(row[0], row[1]) for row in _entries(ledger.path)]
        booked, billed = sum(cost for cost, _ in entries), standin.spent_nanousd()
    if booked == billed:
        return "="
    if any(is_estimate for _, is_estimate in entries) and booked < billed:
        return f">= {booked / billed:.1%}"
    return f"{(booked - billed) / NANO:+.4f}"


def _entries(path: Path) -> list[tuple[int, int]]:
    import sqlite3

    with closing(sqlite3.connect(path)) as conn:
        return conn.execute("SELECT cost_nanousd, is_estimate FROM entries").fetchall()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", metavar="VERSION[=PATH]", help="default: those of the tests")
    known = {version.name: version for version in CLI_VERSIONS}
    clis = {}
    for named in parser.parse_args().versions or known:
        name, _, path = named.partition("=")
        clis[name] = Path(path) if path else known[name].cli
    names = [scenario.__name__.replace("_", " ") for scenario in SCENARIOS]
    print("| CLI | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    for name, cli in clis.items():
        print(f"| {name} | " + " | ".join([await compare(cli, one) for one in SCENARIOS]) + " |", flush=True)


if __name__ == "__main__":
    anyio.run(main)
