"""Time from spawn to a host's first replies and to its first tool call, beside a bare server of the SDK.

``first start`` has no replies kept from an earlier one: everything comes from the SDK.

./dev run python benchmarks/startup.py [--rounds N] [--json]
"""

import argparse
import functools
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio
import anyio.to_thread

from side_by_side import Measure, in_turn, report

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


def measure(command: list[str], env: dict[str, str], *, until: str, params: dict[str, object]) -> float:
    """Milliseconds from spawn to the reply to one request."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        messages: list[dict[str, object]] = [{"id": 1, "method": "initialize", "params": _INITIALIZE}]
        if until != "initialize":
            messages += [{"method": "notifications/initialized"}, {"id": 2, "method": until, "params": params}]
        for message in messages:
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        server.stdin.flush()
        while json.loads(server.stdout.readline()).get("id") != messages[-1]["id"]:
            pass
        took = time.perf_counter() - began
        server.stdin.close()
        server.wait(10)
    return took * 1000


async def main(rounds: int, *, as_json: bool) -> None:
    """Measure all, in turn."""
    serve = [sys.executable, "-m", "pool_mcp", "serve"]
    bare = [sys.executable, "-c", _BARE]
    with tempfile.TemporaryDirectory() as folder:
        fresh = itertools.count()

        def env(home: str) -> dict[str, str]:
            return {"PATH": "/usr/bin:/bin", "HOME": folder, "POOL_MCP_HOME": str(Path(folder) / home)}

        def timed(command: list[str], home: str | None, until: str, params: dict[str, object]) -> Measure:
            async def measured() -> float:
                where = env(home or f"fresh-{next(fresh)}")
                return await anyio.to_thread.run_sync(
                    functools.partial(measure, command, where, until=until, params=params)
                )

            return measured

        call: dict[str, object] = {"name": "usage_status", "arguments": {}}
        hello: dict[str, object] = {"name": "hello", "arguments": {"name": "you"}}
        for until, ours, theirs in (("initialize", {}, {}), ("tools/list", {}, {}), ("tools/call", call, hello)):
            subjects = {
                "pool-mcp": timed(serve, "kept", until, ours),
                "pool-mcp, first start": timed(serve, None, until, ours),
                "bare SDK": timed(bare, "kept", until, theirs),
            }
            report(f"spawn to {until}", await in_turn(rounds, subjects), "bare SDK", as_json=as_json)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    anyio.run(functools.partial(main, chosen.rounds, as_json=chosen.json))
