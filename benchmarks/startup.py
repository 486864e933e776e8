"""Time from spawn to the replies to ``initialize`` and ``tools/list``, beside a bare server of the SDK.

./dev run python benchmarks/startup.py [--rounds N] [--json]
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio
import anyio.to_thread

from side_by_side import in_turn, report

_BARE = """
from mcp.server import MCPServer
server = MCPServer("bare")
@server.tool()
def hello(name: str) -> str:
    return f"Hello, {name}"
server.run()
"""

_INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


def measure(command: list[str], env: dict[str, str], *, until: str) -> float:
    """Milliseconds from spawn to one reply."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        messages: list[dict[str, object]] = [{"id": 1, "method": "initialize", "params": _INITIALIZE}]
        if until == "tools/list":
            messages += [{"method": "notifications/initialized"}, {"id": 2, "method": "tools/list", "params": {}}]
        for message in messages:
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        server.stdin.flush()
        wanted = 2 if until == "tools/list" else 1
        while json.loads(server.stdout.readline()).get("id") != wanted:
            pass
        took = time.perf_counter() - began
        server.stdin.close()
        server.wait(10)
    return took * 1000


async def main(rounds: int, *, as_json: bool) -> None:
    """Measure both, in turn."""
    with tempfile.TemporaryDirectory() as home:
        env = {"PATH": "/usr/bin:/bin", "HOME": home, "POOL_MCP_HOME": str(Path(home) / "pool")}
        commands = {
            "pool-mcp": [sys.executable, "-m", "pool_mcp", "serve"],
            "bare SDK": [sys.executable, "-c", _BARE],
        }
        for until in ("initialize", "tools/list"):
            subjects = {
                name: functools.partial(anyio.to_thread.run_sync, functools.partial(measure, command, env, until=until))
                for name, command in commands.items()
            }
            report(f"spawn to {until}", await in_turn(rounds, subjects), "bare SDK", as_json=as_json)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    anyio.run(functools.partial(main, chosen.rounds, as_json=chosen.json))
