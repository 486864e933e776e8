"""The project's own choice against other policies and against the most that anybody could do; deterministic.

./dev run python benchmarks/selection.py [--quick] [--tuning] [--workload NAME] [--json]

Weights and margins in `pool_mcp/selection.py` and `pool_mcp/rates.py` were chosen on the tuning seeds; what is
reported is from seeds that were not used for it.
"""

import argparse
import functools
import json
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields

from rich.console import Console
from rich.table import Table

from policies import OTHERS, Ours
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO
from simulator import (
    EPOCH_MS,
    Account,
    Conditions,
    Job,
    Report,
    Simulation,
    World,
    make_outside,
    make_windows,
    numbered,
)

TUNING_SEEDS = tuple(range(100, 106))
REPORT_SEEDS = tuple(range(1, 9))
QUICK_SEEDS = (1,)

ACCOUNTS = (
    Account("pro", "pro", 16 * NANO, 140 * NANO),
    Account("five", "max_5x", 40 * NANO, 260 * NANO),
    Account("six", "max_5x", 30 * NANO, 300 * NANO),
    Account("twenty", "max_20x", 120 * NANO, 900 * NANO),
)
"""Four plans whose true size is not what is assumed of them."""

KINDS = {"haiku": (0.15, 0.5, 2, 2), "sonnet": (0.55, 0.5, 4, 5), "opus": (1.8, 0.6, 8, 12)}
"""Mean cost in dollars, its spread (sigma of the log), API calls, minutes."""


def _job(draw: random.Random, at_ms: float, patience_ms: float, kind: str | None = None) -> Job:
    kind = kind or draw.choices(list(KINDS), (0.4, 0.45, 0.15))[0]
    mean, sigma, calls, minutes = KINDS[kind]
    cost = round(mean * draw.lognormvariate(-sigma * sigma / 2, sigma) * NANO)
    duration_ms = round(minutes * MINUTE_MS * draw.uniform(0.5, 1.5))
    return Job(0, kind, round(at_ms), cost, calls, duration_ms, round(at_ms + patience_ms))


def overnight(draw: random.Random, days: int) -> list[Job]:
    """Each night from ten on a batch that workers go through until five; what is left at seven is dropped."""
    found = []
    for day in range(days):
        begin_ms = EPOCH_MS + (day * 24 + 22) * HOUR_MS
        for _ in range(500):
            after_ms = draw.uniform(0, 7) * HOUR_MS
            found.append(_job(draw, begin_ms + after_ms, 9 * HOUR_MS - after_ms))
    return found


def bursts(draw: random.Random, days: int) -> list[Job]:
    """Thirty asks at once, a dozen times a day, that can wait for two hours."""
    times = [EPOCH_MS + draw.uniform(0, days * DAY_MS) for _ in range(12 * days)]
    return [_job(draw, at_ms, 2 * HOUR_MS) for at_ms in times for _ in range(30)]


def interactive(draw: random.Random, days: int) -> list[Job]:
    """A working day's asks, which are given up after a quarter of an hour; every few days a crunch."""
    found = []
    for day in range(days):
        for _ in range(round(320 * draw.choice((0.5, 1, 1, 2.5)))):
            at_ms = EPOCH_MS + day * DAY_MS + draw.triangular(8, 19, 11) * HOUR_MS
            found.append(_job(draw, at_ms, 15 * MINUTE_MS))
    return found


def long_session(draw: random.Random, days: int) -> list[Job]:
    """One conversation that goes on all day, with a large context, beside some background work."""
    found = [
        _job(draw, EPOCH_MS + day * DAY_MS + draw.uniform(0, 24) * HOUR_MS, 4 * HOUR_MS)
        for day in range(days)
        for _ in range(290)
    ]
    for day in range(days):
        begin_ms = EPOCH_MS + (day * 24 + 8) * HOUR_MS
        for at in range(80):
            one = _job(draw, begin_ms + at * 8 * MINUTE_MS, 6 * HOUR_MS, "sonnet")
            found.append(
                Job(0, "session", one.arrives_at_ms, one.cost, 3, one.duration_ms // 2, one.deadline_ms, day, NANO // 2)
            )
    return found


def backlog(draw: random.Random, days: int) -> list[Job]:
    """More work than there is room for, round the clock; it can wait for a day."""
    return [_job(draw, EPOCH_MS + draw.uniform(0, days * DAY_MS), DAY_MS) for _ in range(520 * days)]


WORKLOADS: dict[str, Callable[[random.Random, int], list[Job]]] = {
    "overnight": overnight,
    "bursts": bursts,
    "interactive": interactive,
    "session": long_session,
    "backlog": backlog,
}


def make_world(workload: str, seed: int, days: int) -> World:
    """A world by its seed: what is asked, and what makes it hard."""
    draw = random.Random(f"{workload} {seed}")
    conditions = Conditions(
        outside_share=draw.choice((0.0, 0.1, 0.2)),
        stale_share=draw.choice((0.0, 0.3, 0.7)),
        early_resets=draw.choice((0, 2)),
        skew_ms=draw.choice((0, -90_000, 90_000)),
        servers=draw.choice((1, 2, 4)),
    )
    ends_at_ms = EPOCH_MS + days * DAY_MS
    jobs = tuple(numbered(WORKLOADS[workload](draw, days)))
    return World(
        ACCOUNTS,
        jobs,
        conditions,
        seed,
        ends_at_ms,
        make_windows(ACCOUNTS, conditions, ends_at_ms, draw),
        make_outside(ACCOUNTS, conditions.outside_share, ends_at_ms, draw),
    )


def play(workload: str, seed: int, days: int, *, only_ours: bool = False) -> tuple[str, list[Report]]:
    """Every policy in one world."""
    world = make_world(workload, seed, days)
    others = [] if only_ours else [other(ACCOUNTS, seed) for other in OTHERS]
    reports = [Simulation(world, policy).run() for policy in (Ours(ACCOUNTS), *others)]
    return workload, reports


def total(results: Sequence[list[Report]]) -> list[dict[str, float | str]]:
    """Sums over seeds, a row for each policy, with its share of the bound."""
    rows: list[dict[str, float | str]] = []
    for reports in zip(*results, strict=True):
        row: dict[str, float | str] = {"policy": reports[0].policy, "share_of_bound_percent": 0.0}
        for one in fields(Report)[1:]:
            row[one.name] = round(sum(float(asdict(report)[one.name]) for report in reports), 2)
        row["share_of_bound_percent"] = round(100 * float(row["work_usd"]) / float(row["bound_usd"]), 2)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, three days")
    parser.add_argument("--tuning", action="store_true", help="the tuning seeds, our own policy only")
    parser.add_argument("--workload", choices=list(WORKLOADS))
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    seeds = QUICK_SEEDS if chosen.quick else TUNING_SEEDS if chosen.tuning else REPORT_SEEDS
    workloads = [chosen.workload] if chosen.workload else list(WORKLOADS)
    days = 3 if chosen.quick else 10
    worlds = [(workload, seed) for workload in workloads for seed in seeds]
    one = functools.partial(play, days=days, only_ours=chosen.tuning)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        played = list(pool.map(one, *zip(*worlds, strict=True)))
    found = {name: total([reports for what, reports in played if what == name]) for name in workloads}
    if chosen.json:
        print(json.dumps({"seeds": seeds, "days": days, "workloads": found}, indent=2))
        return
    for name, rows in found.items():
        table = Table(title=f"{name}: {WORKLOADS[name].__doc__}", title_justify="left", box=None, header_style="bold")
        for head in (
            "policy",
            "of the bound",
            "killed",
            "failed starts",
            "expired $",
            "overrun $",
            "cold $",
            "dropped",
        ):
            table.add_column(head, justify="left" if head == "policy" else "right")
        for row in rows:
            table.add_row(
                str(row["policy"]),
                f"{row['share_of_bound_percent']:.1f}%",
                *(
                    f"{row[key]:.0f}"
                    for key in ("killed", "failed_starts", "expired_usd", "overrun_usd", "cold_usd", "dropped")
                ),
            )
        Console().print(table)
        print()


if __name__ == "__main__":
    main()
