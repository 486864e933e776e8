"""A pool in a process of its own that asks several things at once: ``asking_server.py COUNT [ASK'S FIELDS AS JSON]``.

Prints a line of JSON for each ask as it ends: when, under which run, and how.
"""

import json
import os
import sys
import time
import uuid
from typing import Any

import anyio

from pool_mcp.errors import PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import Ask
from pool_mcp.pool import Pool
from pool_mcp.settings import load


async def main(count: int, fields: dict[str, Any]) -> None:
    """Ask, and say how each ask ended."""
    env = dict(os.environ)
    settings = load(env)
    pool = Pool(settings, Ledger(settings.ledger_path), env, lambda: time.time_ns() // 1_000_000, _new_id)

    async def ask(number: int) -> None:
        try:
            answer = await pool.ask(Ask(f"number {number}", "asking", **fields), wait_s=120)
            said: dict[str, Any] = {"ended": answer.status, "run_id": answer.run_id}
        except PoolError as error:
            said = {"ended": error.kind, "retry_at_ms": error.retry_at_ms, "now_ms": time.time_ns() // 1_000_000}
        os.write(1, json.dumps(said).encode() + b"\n")

    async with pool.open(), anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(ask, number)


def _new_id() -> str:
    return str(uuid.uuid4())


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]), json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
