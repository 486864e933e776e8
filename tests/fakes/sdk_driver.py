"""Holds many conversations with servers that begin in a moment: each is a fork of a process that has loaded all.

Run as a program: reads conversations as JSON on standard input, writes what each host got on standard output.
"""

import gc
import json
import os
import select
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import anyio
from mcp.server.stdio import stdio_server

from pool_mcp.errors import LedgerError
from pool_mcp.pool import Pool
from pool_mcp.server import server, tools
from pool_mcp.server.handshake import Front, Replies

END = b'{"jsonrpc":"2.0","id":"the end","method":"ping"}\n'
DEADLINE_S = 30.0


async def no_pool() -> Pool:
    raise LedgerError("there is no ledger")


@asynccontextmanager
async def open_nothing() -> AsyncIterator[Pool]:
    yield await no_pool()


def stock() -> None:
    """The same server behind the SDK's own transport."""

    async def serve() -> None:
        ours = server.make_server(no_pool, lambda: 0)
        async with stdio_server() as (incoming, outgoing):
            await ours.run(incoming, outgoing, ours.create_initialization_options())

    anyio.run(serve)


def ours(lines: int, replies: Path) -> None:
    """Our server, which has not loaded before the host has said everything."""
    front = Front(Replies(replies))
    while len(front._waiting) < lines:
        time.sleep(0.0005)
    server.serve(open_nothing, front, lambda: 0)


def converse(serve: Callable[[], None], said: bytes, *, leaves_at_once: bool) -> list[str]:
    """Everything that a server wrote; a host that does not leave at once waits for the reply to ``END``."""
    from_host, to_server = os.pipe()
    from_server, to_host = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(serve, from_host, to_host, {to_server, from_server})
    os.close(from_host)
    os.close(to_host)
    os.write(to_server, said if leaves_at_once else said + END)
    if leaves_at_once:
        os.close(to_server)
    got = b""
    while True:
        readable, _, _ = select.select([from_server], [], [], DEADLINE_S)
        if not readable:
            os.kill(pid, 9)
            got += b'"nothing more came"\n'
        part = os.read(from_server, 1 << 20)
        if not part:
            break
        got += part
        if not leaves_at_once and got.endswith(b"\n") and b'"id":"the end"' in got:
            os.close(to_server)
            leaves_at_once = True
    os.close(from_server)
    _, status = os.waitpid(pid, 0)
    lines = got.decode().splitlines()
    return lines if status == 0 else [*lines, f'"ended with {status}"']


def _become(serve: Callable[[], None], stdin: int, stdout: int, others: set[int]) -> NoReturn:
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    for fd in {stdin, stdout} | others:
        os.close(fd)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    code = 1
    try:
        serve()
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    task = json.load(sys.stdin)
    gc.disable()  # a collection in a fork would copy the memory of everything that is loaded
    for tool in tools.TOOLS.values():  # which takes a while the first time
        tools.input_schema(tool)
        tools.output_schema(tool)
    home, results = Path(task["home"]), []
    for number, (lines, leaves_at_once) in enumerate(task["conversations"]):
        said, count = "".join(lines).encode("latin-1"), len(lines) + 1
        kept = home / f"{number}" / "replies.json"
        start = partial(ours, count, kept)
        # The SDK's own transport drops, now and then, what it has not written when a host leaves.
        of_the_sdk = converse(stock, said, leaves_at_once=False)
        of_starts = [converse(start, said, leaves_at_once=leaves_at_once) for _ in range(task["starts"])]
        results.append([[line for line in got if '"id":"the end"' not in line] for got in (of_the_sdk, *of_starts)])
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
