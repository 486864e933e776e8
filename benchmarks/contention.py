"""How many asks a second one ledger can place and book, from 1, 4 and 16 processes at once.

An ask here is what the pool does to the ledger for it, without the CLI, in four write transactions: one reads every
balance, chooses and reserves; one marks the run as started; one keeps what Anthropic reported; one books the run and
looks for alerts. Every commit is on the disk before the next step (``synchronous = FULL``), so the disk's own time to
flush is printed beside the figures.

    python benchmarks/contention.py --seconds 5
    python benchmarks/contention.py --beside --processes 1 16     (and with SQLite's own locks alone, as ratios)
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

from pool_mcp.choosing import budget, selection
from pool_mcp.ledger import write_ahead
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.sqlite import Sqlite
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import (
    HOUR_MS,
    MINUTE_MS,
    NANO,
    WEEK_MS,
    Cost,
    ModelCost,
    Outcome,
    Run,
    RunState,
    Settlement,
    Tokens,
    WindowReading,
)
from pool_mcp.settings import Settings, load
from pool_mcp.state import State

PROCESSES = (1, 4, 16)
CALLERS = ("host", "reviewer", "night-agent")
SUBSCRIPTIONS = ("personal", "work", "spare")
BUDGETS = "weekly_budget_usd = 1000000\nblock_budget_usd = 1000000\n"


@dataclass(frozen=True)
class Sample:
    """What one process did: the time that each ask's transactions took, in seconds."""

    reserve_s: list[float]
    settle_s: list[float]


@dataclass(frozen=True)
class Row:
    """The figures for one number of processes."""

    processes: int
    asks: int
    asks_per_s: float
    reserve_median_ms: float
    reserve_p99_ms: float
    reserve_worst_ms: float
    settle_median_ms: float
    settle_p99_ms: float
    settle_worst_ms: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number of processes (default: 5)")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES, metavar="N", help="default: 1 4 16")
    parser.add_argument("--entries", type=int, default=20_000, help="in the ledger beforehand, over eight days")
    parser.add_argument("--dir", type=Path, help="where the ledger is put (default: where temporary files go)")
    parser.add_argument("--beside", action="store_true", help="measure SQLite's own locks and checkpoints, too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="contention-", dir=options.dir) as folder:
        settings = _settings(Path(folder))
        flush_ms = _flush_ms(Path(folder))
        _fill(settings.ledger_path, options.entries)
        plain, rows = [], []
        for count in options.processes:
            if options.beside:
                plain.append(_measure(settings, count, options.seconds, plain=True))
            rows.append(_measure(settings, count, options.seconds))
        ledger = Ledger(settings.ledger_path)
        problems = ledger.audit().problems
        ledger.close()
    if options.json:
        said = {"entries": options.entries, "flush_ms": flush_ms, "rows": [asdict(row) for row in rows]}
        print(json.dumps({**said, "plain": [asdict(row) for row in plain], "problems": len(problems)}, indent=2))
    else:
        _print(rows, options.entries, flush_ms)
        for before, after in zip(plain, rows, strict=False):
            _print_beside(before, after)
    if problems:
        sys.exit(f"the ledger is wrong afterwards: {problems}")


def _print(rows: Sequence[Row], entries: int, flush_ms: float) -> None:
    print(f"{entries:,} entries beforehand; the disk flushes 4 kB in {flush_ms:.2f} ms (median)")
    print()
    print("           asks    |     reserve, ms       |      settle, ms       | against")
    print("processes  a second|  median   99%   worst |  median   99%   worst | the first")
    for row in rows:
        print(
            f"{row.processes:9d}  {row.asks_per_s:8.0f}"
            f"| {row.reserve_median_ms:7.1f} {row.reserve_p99_ms:6.1f} {row.reserve_worst_ms:7.1f} "
            f"| {row.settle_median_ms:7.1f} {row.settle_p99_ms:6.1f} {row.settle_worst_ms:7.1f} "
            f"| {row.asks_per_s / rows[0].asks_per_s:6.2f}x"
        )


def _print_beside(plain: Row, row: Row) -> None:
    print(
        f"beside SQLite's own locks, {row.processes} processes: {row.asks_per_s / plain.asks_per_s:.2f}x asks a second "
        f"({plain.asks_per_s:.0f}), slowest 1% {row.reserve_p99_ms / plain.reserve_p99_ms:.2f}x "
        f"({plain.reserve_p99_ms:.0f} ms), worst {row.reserve_worst_ms / plain.reserve_worst_ms:.2f}x "
        f"({plain.reserve_worst_ms:.0f} ms)"
    )


def _settings(folder: Path) -> Settings:
    tables = [f'[[subscriptions]]\nid = "{name}"\nconfig_dir = "{folder}/{name}"\n' for name in SUBSCRIPTIONS]
    (folder / "pool.toml").write_text(BUDGETS + "".join(tables))
    return load({"POOL_MCP_HOME": str(folder)})


def _flush_ms(folder: Path) -> float:
    times = []
    fd = os.open(folder / "flush", os.O_WRONLY | os.O_CREAT)
    for _ in range(50):
        began_s = time.perf_counter()
        os.pwrite(fd, b"x" * 4096, 0)
        os.fsync(fd)
        times.append(time.perf_counter() - began_s)
    os.close(fd)
    return round(1000 * statistics.median(times), 3)


def _fill(path: Path, entries: int) -> None:
    ledger = Ledger(path)
    now_ms = _now_ms()
    with ledger.write() as tx:
        for number in range(entries):
            at_ms = now_ms - (WEEK_MS + 24 * HOUR_MS) * (entries - number) // entries
            run = _run(f"before-{number}", SUBSCRIPTIONS[number % 3], CALLERS[number % 3], at_ms)
            _insert(tx, run)
            tx.runs.mark_running(run.run_id, run.owner_id, None, at_ms)
            tx.runs.settle(_settlement(run, at_ms), run.owner_id)
    ledger.close()


def _measure(settings: Settings, count: int, seconds: float, *, plain: bool = False) -> Row:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(count + 1), context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(settings, f"{plain}-{count}-{number}", seconds, barrier, answers, plain))
        for number in range(count)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    samples: list[Sample] = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    reserve_s = [one for sample in samples for one in sample.reserve_s]
    settle_s = [one for sample in samples for one in sample.settle_s]
    return Row(count, len(settle_s), round(len(settle_s) / seconds, 1), *_figures(reserve_s), *_figures(settle_s))


def _figures(times_s: list[float]) -> tuple[float, float, float]:
    ordered = sorted(1000 * time_s for time_s in times_s)
    return (
        round(statistics.median(ordered), 3),
        round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 3),
        round(ordered[-1], 3),
    )


def _work(
    settings: Settings,
    name: str,
    seconds: float,
    barrier: Barrier,
    answers: "multiprocessing.SimpleQueue[Sample]",
    plain: bool,
) -> None:
    ledger, state = Ledger(settings.ledger_path), State(settings)
    if plain:
        write_ahead.sole_writer = lambda *_: nullcontext()
        write_ahead.checkpoint_if_long = lambda *_: None
        assert isinstance(ledger.engine, Sqlite)
        ledger.engine._conn.execute(f"PRAGMA wal_autocheckpoint = {write_ahead.CHECKPOINT_FRAMES}")
    sample, number = Sample([], []), 0
    barrier.wait()
    ends_s = time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < ends_s:
        number += 1
        run = _reserve(ledger, state, f"{name}-{number}", CALLERS[number % 3])
        reserved_s = time.perf_counter()
        with ledger.write() as tx:
            tx.runs.mark_running(run.run_id, run.owner_id, None, _now_ms())
        started_s = time.perf_counter()
        with ledger.write() as tx:
            tx.official.record(run.subscription, _readings(), _now_ms())
        with ledger.write() as tx:
            assert tx.runs.settle(_settlement(run, _now_ms()), run.owner_id)
            state.tell_alerts(tx, _now_ms())
        sample.reserve_s.append(reserved_s - began_s)
        sample.settle_s.append(time.perf_counter() - started_s)
    ledger.close()
    answers.put(sample)


def _reserve(ledger: Ledger, state: State, run_id: str, caller: str) -> Run:
    """Look, choose and reserve, as the pool does it."""
    with ledger.write() as tx:
        now_ms = _now_ms()
        state.caller(tx, caller, now_ms)
        estimates = {
            one: budget.estimate_nanousd(None, tx.balances.recent_costs_nanousd(one, None)) for one in SUBSCRIPTIONS
        }
        request = selection.Request(estimates, pool_cooldown=state.pool_cooldown(tx, now_ms))
        choice = selection.choose(request, state.balances(tx, now_ms))
        assert choice.subscription is not None, choice.reason
        run = _run(run_id, choice.subscription, caller, now_ms)
        _insert(tx, run)
    return run


def _insert(tx: Transaction, run: Run) -> None:
    tx.runs.insert_ask(run.ask_id, run.caller, None, "", run.created_at_ms)
    tx.runs.insert(run)


def _run(run_id: str, subscription: str, caller: str, now_ms: int) -> Run:
    return Run(
        run_id=run_id,
        ask_id=run_id,
        subscription=subscription,
        session_id=run_id,
        resumed=False,
        caller=caller,
        model=None,
        state=RunState.RESERVED,
        owner_id="a process",
        background=False,
        structured=False,
        created_at_ms=now_ms,
        deadline_ms=now_ms + 30 * MINUTE_MS,
        reserved_nanousd=NANO // 4,
    )


def _settlement(run: Run, at_ms: int) -> Settlement:
    models = {"claude-sonnet-5-5": ModelCost(Tokens(100, 900, 2000, 0, 30_000), 31_000_000)}
    return Settlement(run.run_id, RunState.SETTLED, Outcome.OK, None, Cost(31_000_000, models), at_ms)


def _readings() -> list[WindowReading]:
    now_ms = _now_ms()
    return [
        WindowReading("five_hour", 20.0, now_ms + 2 * HOUR_MS, "allowed", now_ms),
        WindowReading("seven_day", 40.0, now_ms + 48 * HOUR_MS, "allowed", now_ms),
    ]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    main()
