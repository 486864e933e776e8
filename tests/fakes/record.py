"""Compares every ledger that a test's runs were booked in with the stand-in's record of calls."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pool_mcp.demo.judge import Fault, OutsideEntry, judge
from pool_mcp.demo.standin import Standin
from pool_mcp.errors import LedgerError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import Run

_LEDGERS: dict[str, set[Path]] = {}
"""The ledgers of homes that were made for a stand-in, by its URL."""


def remember(standin: Standin, ledger: Path) -> None:
    """Have a ledger compared when the test is over."""
    _LEDGERS.setdefault(standin.url, set()).add(ledger)


def faults(standin: Standin) -> list[Fault]:
    """What is wrong in any ledger of a stand-in's; runs that a test leaves unfinished are not."""
    standin.wait_idle()
    found: list[Fault] = []
    for path in _LEDGERS.pop(standin.url, ()):
        found += _faults_of(path, standin)
    return found


def _faults_of(path: Path, standin: Standin) -> list[Fault]:
    try:
        runs, outside = _content(path)
    except (LedgerError, sqlite3.Error):
        return []  # the test has damaged or removed it
    finished = [run for run in runs if run.finished]
    sessions = {run.session_id for run in finished} | {entry.session_id for entry in outside}
    calls = [call for call in standin.books if call.session_id in sessions]
    judgement = judge(calls, finished, outside, refused=standin.refused, hand_use="unknown")
    return list(judgement.faults)


def _content(path: Path) -> tuple[list[Run], list[OutsideEntry]]:
    if not path.exists():
        return [], []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        ids = [run_id for (run_id,) in conn.execute("SELECT run_id FROM runs ORDER BY rowid")]
        rows = conn.execute("SELECT session_id, subscription, cost_nanousd FROM entries WHERE kind = 'call'")
        outside = [OutsideEntry(*row) for row in rows]
    with closing(Ledger(path)) as ledger, ledger.read() as tx:
        return [run for run in map(tx.runs.get, ids) if run is not None], outside
