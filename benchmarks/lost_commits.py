"""Tries to lose a committed transaction: many processes write one ledger whose log starts again all the time.

Nearly every SQLite in use can lose one where a checkpoint meets a commit that starts the log again (the WAL-reset bug).
Here some processes commit rows, read now and then, close and open again, and others make one checkpoint after the
other, so that the log is never longer than a few pages. In the end every row that was committed has to be there, and
the file has to be sound. Without the lock (``--plain``) a build with the bug damages the file within a minute.

    python benchmarks/lost_commits.py --transactions 300000 --dir /dev/shm
    python benchmarks/lost_commits.py --plain --processes 1 --transactions 40000 --dir /dev/shm   (without the lock)
"""

import argparse
import multiprocessing
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from pool_mcp.ledger import write_ahead
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.sqlite import Sqlite

REOPEN_EVERY, READ_EVERY = 97, 5

CHECKPOINTERS = 3


@dataclass(frozen=True)
class Trial:
    """What became of the rows."""

    transactions: int
    lost: int
    problems: tuple[str, ...]
    seconds: float


def try_to_lose(path: Path, *, processes: int, transactions: int, plain: bool = False) -> Trial:
    """Commit rows from many processes, then count what is there."""
    Ledger(path).close()
    context = multiprocessing.get_context("spawn")
    began_s = time.monotonic()
    each, is_over = transactions // processes, context.Event()
    writers = [context.Process(target=_commit_rows, args=(path, f"{n}", each, plain)) for n in range(processes)]
    others = [context.Process(target=_make_checkpoints, args=(path, is_over, plain)) for _ in range(CHECKPOINTERS)]
    for worker in (*others, *writers):
        worker.start()
    for worker in writers:
        worker.join()
    is_over.set()
    for worker in others:
        worker.join()
    seconds = time.monotonic() - began_s
    problems = [f"a process ended with {worker.exitcode}" for worker in (*others, *writers) if worker.exitcode]
    there = 0
    with closing(sqlite3.connect(path)) as conn:
        try:
            problems += [str(line) for (line,) in conn.execute("PRAGMA integrity_check(5)") if line != "ok"]
            (there,) = conn.execute("SELECT count(*) FROM asks").fetchone()
        except sqlite3.DatabaseError as error:
            problems.append(str(error))
    return Trial(each * processes, each * processes - there, tuple(problems), seconds)


def _make_checkpoints(path: Path, is_over: Event, plain: bool) -> None:
    ledger = _open(path, plain)
    while not is_over.is_set():
        with write_ahead.sole_writer(path, 30.0):
            assert isinstance(ledger.engine, Sqlite)
            write_ahead.checkpoint(ledger.engine._conn)
    ledger.close()


def _commit_rows(path: Path, name: str, count: int, plain: bool) -> None:
    ledger = _open(path, plain)
    for number in range(count):
        with ledger.write() as tx:
            tx.runs.insert_ask(f"{name}-{number}", name, None, "x" * 500, number)
        if number % READ_EVERY == 0:
            with ledger.read() as tx:
                assert tx.runs.with_prefix(f"{name}-{number}", 1) == []  # asks only, no runs
        if number % REOPEN_EVERY == 0:
            ledger.close()
            ledger = _open(path, plain)
    ledger.close()


def _open(path: Path, plain: bool) -> Ledger:
    if plain:
        write_ahead.sole_writer = lambda *_: nullcontext()
    return Ledger(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--plain", action="store_true", help="without the lock")
    parser.add_argument("--dir", type=Path, help="where the ledger is put (default: where temporary files go)")
    options = parser.parse_args(arguments)
    bug = "has" if write_ahead.has_wal_reset_bug() else "does not have"
    print(f"SQLite {sqlite3.sqlite_version}, which {bug} the WAL-reset bug; {options.processes} processes")
    with tempfile.TemporaryDirectory(prefix="lost-commits-", dir=options.dir) as folder:
        found = try_to_lose(
            Path(folder) / "ledger.db",
            processes=options.processes,
            transactions=options.transactions,
            plain=options.plain,
        )
    print(
        f"{found.transactions:,} committed in {found.seconds:.0f} s, {found.lost} lost, {len(found.problems)} problems"
    )
    for problem in found.problems:
        print(f"  {problem}")
    if found.lost or found.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
