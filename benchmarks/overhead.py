"""What one ask costs in time on top of the bare CLI: the same prompt, the same CLI, the same stand-in, in turn.

./dev run python benchmarks/overhead.py [--rounds N] [--json]
"""

import argparse
import functools
import sys
import tempfile
import time
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


async def main(rounds: int, *, as_json: bool) -> None:
    """Measure both, in turn."""
    cli = bundled_cli()
    if cli is None:
        sys.exit("The CLI is missing: install the extra `demo`.")
    with Standin() as standin, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        config_dir = home / "claude"
        (home / "pool.toml").write_text(
            f'[claude]\npath = "{cli}"\nbase_url = "{standin.url}"\nspares = "off"\n'
            f'[[subscriptions]]\nid = "one"\nconfig_dir = "{config_dir}"\noauth_token_env = "TOKEN"\n'
            "weekly_budget_usd = 1000\nblock_budget_usd = 1000\n"
        )
        env = {"PATH": "/usr/bin:/bin", "HOME": folder, "POOL_MCP_HOME": folder, "TOKEN": Standin.token("one")}
        child_env = environment(
            env,
            config_dir=config_dir,
            api_key_env=None,
            oauth_token_env="TOKEN",
            base_url=standin.url,
            attachments=False,
        )

        async def bare() -> float:
            arguments = argv(Command(session_id=_new_session(), resume=False))
            began = time.perf_counter()
            await anyio.run_process([str(cli), *arguments], input=PROMPT.encode(), env=child_env, cwd=folder)
            return (time.perf_counter() - began) * 1000

        with (home / "server.log").open("w") as log:
            server = StdioServerParameters(command=sys.executable, args=["-m", "pool_mcp", "serve"], env=env)
            async with Client(stdio_client(server, errlog=log), mode="legacy") as client:

                async def through_the_pool() -> float:
                    began = time.perf_counter()
                    result = await client.call_tool("ask_claude", {"prompt": PROMPT})
                    assert not result.is_error, result
                    return (time.perf_counter() - began) * 1000

                async def status() -> float:
                    began = time.perf_counter()
                    await client.call_tool("usage_status", {})
                    return (time.perf_counter() - began) * 1000

                subjects = {"bare CLI": bare, "ask_claude": through_the_pool, "usage_status": status}
                times = await in_turn(rounds, subjects)
        report("one ask", times, "bare CLI", as_json=as_json)


def _new_session() -> str:
    import uuid

    return str(uuid.uuid4())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    anyio.run(functools.partial(main, chosen.rounds, as_json=chosen.json))
