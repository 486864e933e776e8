"""What a CLI that waits saves: asks of a burst, and the first ask in a new host, beside the bare CLI and a cold ask.

In each round: the bare CLI, a cold ask, the second ask of a burst, the first ask in a new host that keeps its spare
``eager``. Before the last two an agent thinks, or a host opens, for some seconds. Then what an idle spare takes.

./dev run python benchmarks/spares.py [--rounds N] [--servers N] [--think SECONDS] [--idle SECONDS] [--json]
"""

import argparse
import functools
import os
import sys
import tempfile
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from pool_mcp.claude.command import Command, argv
from pool_mcp.claude.find import bundled_cli
from pool_mcp.claude.process import environment
from pool_mcp.demo.standin import Standin
from side_by_side import in_turn, report

PROMPT = "Say something."


class Desk:
    """A folder with a home for each way of keeping spares, and what runs in them."""

    def __init__(self, folder: Path, standin: Standin, cli: Path) -> None:
        self.folder = folder
        self.standin = standin
        self.cli = cli
        self.config_dir = folder / "claude"

    def env(self, spares: str) -> dict[str, str]:
        """The environment of a home with this setting, which is written into its pool.toml."""
        home = self.folder / spares
        home.mkdir(exist_ok=True)
        (home / "pool.toml").write_text(
            f'[claude]\npath = "{self.cli}"\nbase_url = "{self.standin.url}"\nspares = "{spares}"\n'
            f'[[subscriptions]]\nid = "one"\nconfig_dir = "{self.config_dir}"\noauth_token_env = "TOKEN"\n'
            "weekly_budget_usd = 1000\nblock_budget_usd = 1000\n"
        )
        path = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "POOL_MCP_HOME": str(home)}
        return {**path, "TOKEN": Standin.token("one")}

    def server(self, spares: str) -> Client:
        """A host with a server of its own."""
        command = StdioServerParameters(
            command=sys.executable, args=["-m", "pool_mcp", "serve"], env=self.env(spares), cwd=self.folder
        )
        log = (self.folder / "server.log").open("a")
        return Client(stdio_client(command, errlog=log), mode="legacy")

    async def bare(self) -> float:
        """Milliseconds of the CLI alone."""
        child_env = environment(
            self.env("off"),
            config_dir=self.config_dir,
            api_key_env=None,
            oauth_token_env="TOKEN",
            base_url=self.standin.url,
            attachments=False,
        )
        command = [str(self.cli), *argv(Command(session_id=str(uuid.uuid4()), resume=False))]
        began = time.perf_counter()
        await anyio.run_process(command, input=PROMPT.encode(), env=child_env, cwd=self.folder)
        return (time.perf_counter() - began) * 1000

    async def ask(self, client: Client) -> float:
        """Milliseconds of one ask."""
        began = time.perf_counter()
        result = await client.call_tool("ask_claude", {"prompt": PROMPT})
        took = (time.perf_counter() - began) * 1000
        assert not result.is_error, result
        return took

    def spare(self, spares: str) -> int | None:
        """The process id of the spare that waits in a home."""
        found = [path.read_text() for path in (self.folder / spares / "spare").glob("*/pid")]
        return int(found[0]) if found and found[0] else None


async def main(rounds: int, servers: int, think_s: float, idle_s: float, *, as_json: bool) -> None:
    """Measure all, in turn; then let a spare idle."""
    cli = bundled_cli()
    if cli is None:
        sys.exit("The CLI is missing: install the extra `demo`.")
    with Standin() as standin, tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder), standin, cli)
        async with AsyncExitStack() as stack:
            cold = await stack.enter_async_context(desk.server("off"))
            bursting = [await stack.enter_async_context(desk.server("auto")) for _ in range(servers)]
            turn = 0

            async def in_a_burst() -> float:
                nonlocal turn
                client = bursting[turn % servers]
                turn += 1
                await desk.ask(client)
                await anyio.sleep(think_s)
                return await desk.ask(client)

            async def in_a_new_host() -> float:
                async with desk.server("eager") as client:
                    await anyio.sleep(think_s)
                    return await desk.ask(client)

            subjects = {
                "bare CLI": desk.bare,
                "ask, cold": lambda: desk.ask(cold),
                "ask, in a burst": in_a_burst,
                "ask, first in a new host": in_a_new_host,
            }
            times = await in_turn(rounds, subjects)
            report(f"one ask, {servers} servers with spares", times, "bare CLI", as_json=as_json)
            if idle_s and servers == 1:  # several give way to each other
                await _idle(desk, bursting[0], standin, idle_s)


async def _idle(desk: Desk, client: Client, standin: Standin, idle_s: float) -> None:
    """Print what a waiting CLI takes of memory and of a core, once it has started."""
    await desk.ask(client)
    while (pid := desk.spare("auto")) is None:  # noqa: ASYNC110  (another process makes it)
        await anyio.sleep(0.1)
    await anyio.sleep(5)
    calls, before, began = len(standin.books), _cpu_s(pid), time.perf_counter()
    await anyio.sleep(idle_s)
    share = (_cpu_s(pid) - before) / (time.perf_counter() - began)
    print(f"idle spare: {_megabytes(pid):.0f} MB, {before:.2f} s of CPU to start, then {share:.2%} of a core;", end=" ")
    print(f"{len(standin.books) - calls} requests in {idle_s:g} s")


def _megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--think", type=float, default=3.0)
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    anyio.run(functools.partial(main, chosen.rounds, chosen.servers, chosen.think, chosen.idle, as_json=chosen.json))
