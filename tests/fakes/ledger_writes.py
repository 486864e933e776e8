"""Runs written straight into a ledger, without a CLI."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pool_mcp.ledger import copying
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import HOUR_MS, Cost, ModelCost, Outcome, Run, RunState, Settlement, Tokens

NOW_MS = 1_790_000_000_000


def book(ledger: Ledger, run_id: str, nanousd: int, at_ms: int = NOW_MS) -> None:
    """A run from its reservation to its entry."""
    reserve(ledger, run_id, nanousd, at_ms)
    settle(ledger, run_id, nanousd, at_ms)


def reserve(ledger: Ledger, run_id: str, nanousd: int, at_ms: int = NOW_MS) -> None:
    with ledger.write() as tx:
        tx.runs.insert_ask(run_id, "host", None, "", at_ms)
        tx.runs.insert(new_run(run_id, nanousd, at_ms))
        assert tx.runs.mark_running(run_id, "owner", None, at_ms)


def new_run(run_id: str, nanousd: int, at_ms: int = NOW_MS) -> Run:
    return Run(
        run_id=run_id,
        ask_id=run_id,
        subscription="personal",
        session_id=run_id,
        resumed=False,
        caller="host",
        model=None,
        state=RunState.RESERVED,
        owner_id="owner",
        background=False,
        structured=False,
        created_at_ms=at_ms,
        deadline_ms=at_ms + HOUR_MS,
        reserved_nanousd=nanousd,
    )


def settle(ledger: Ledger, run_id: str, nanousd: int, at_ms: int = NOW_MS) -> None:
    cost = Cost(nanousd, {"sonnet": ModelCost(Tokens(input=1), nanousd)})
    with ledger.write() as tx:
        assert tx.runs.settle(Settlement(run_id, RunState.SETTLED, Outcome.OK, None, cost, at_ms), "owner")


def spent(ledger: Ledger, since_ms: int = 0) -> int:
    with ledger.read() as tx:
        return tx.balances.spent_nanousd("personal", since_ms)


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All that a ledger's file holds, table by table."""
    with closing(sqlite3.connect(path)) as conn:
        names = [*copying.tables(), "subscription_hours"]
        return {name: sorted(conn.execute(f"SELECT * FROM {name}"), key=repr) for name in names}
