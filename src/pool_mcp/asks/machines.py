"""What becomes of the runs of a machine that is not heard of any more."""

import logging
from collections.abc import Callable

from pool_mcp.errors import InvalidRequest
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import DAY_MS, Run

log = logging.getLogger(__name__)

GONE_MS = DAY_MS
"""How long after its deadline a run of another machine is written off: a day to come back in."""


def lost(runs: list[Run], mine: str, now_ms: int) -> list[Run]:
    """Runs of other machines that have been over for so long that nobody will say how they ended."""
    return [run for run in runs if run.machine_id != mine and run.deadline_ms < now_ms - GONE_MS]


def write_off(tx: Transaction, run: Run, now_ms: int) -> None:
    """Book a run at all that it held; where its machine comes back, the difference is booked then."""
    name = tx.machines.name(run.machine_id)
    if tx.runs.write_off(run, f"{name} has not said how this ended; it is booked at all that it held", now_ms):
        log.warning("run %s: %s has not been heard of; written off", run.run_id, name)


def forget(ledger: Ledger, name: str, clock: Callable[[], int]) -> list[Run]:
    """Write off what a machine still holds, and take it off the list; its runs that were written off.

    Raises:
        InvalidRequest: no other machine is called so.
    """
    with ledger.write() as tx:
        known = [one.machine_id for one in tx.machines.known() if name in (one.name, one.machine_id)]
        if len(known) != 1 or known[0] == tx.machines.mine:
            raise InvalidRequest(f"{name!r} is not one other machine's name or id; `pool-mcp machine list` has them.")
        held = [run for run in tx.runs.unfinished() if run.machine_id == known[0]]
        for run in held:
            write_off(tx, run, clock())
        tx.machines.forget(known[0])
    return held
