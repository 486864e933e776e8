"""The project's own choice against other policies and against the most that anybody could do; deterministic.

./dev run python benchmarks/choosing_worlds.py [--quick] [--tuning] [--workload NAME] [--json]

Weights and margins in `pool_mcp/choosing/` were chosen on the tuning seeds; what is reported is from other seeds.

There are two bounds. The plain one knows all that will come and may hold an ask back although there is room for it now,
because room will be cheaper in an hour. The other one knows as much, but no ask may start later than it did under the
policy; those that were never answered may start until they are given up.
"""

import argparse
import functools
import json
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields

from rich.console import Console
from rich.table import Table

from bound import bound_usd
from policies import OTHERS, Ours
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO
from simulator import (
    EPOCH_MS,
    Account,
    Conditions,
    Job,
    Policy,
    Report,
    Simulation,
    World,
    make_outside,
    make_windows,
    numbered,
)

TUNING_SEEDS = tuple(range(100, 116))
REPORT_SEEDS = tuple(range(301, 309))
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


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a policy in one world, and the most that could have come of it; see the module's docstring."""

    report: Report
    bound_usd: float
    bound_same_waits_usd: float


def play(workload: str, seed: int, days: int, *, only_ours: bool = False) -> tuple[str, list[Played]]:
    """Every policy in one world."""
    world = make_world(workload, seed, days)
    others = [] if only_ours else [other(ACCOUNTS, seed) for other in OTHERS]
    return workload, [play_one(world, policy) for policy in (Ours(ACCOUNTS), *others)]


def play_one(world: World, policy: Policy) -> Played:
    """One policy in one world."""
    simulation = Simulation(world, policy)
    report = simulation.run()
    began = simulation.started_at_ms
    return Played(
        report,
        bound_usd(world, simulation.elsewhere, lambda job: job.deadline_ms),
        bound_usd(
            world,
            simulation.elsewhere,
            lambda job: max(job.arrives_at_ms, min(job.deadline_ms, began.get(job.number, job.deadline_ms))),
        ),
    )


def total(results: Sequence[list[Played]]) -> list[dict[str, float | str]]:
    """Sums over seeds, a row for each policy, with its shares of the bounds."""
    rows: list[dict[str, float | str]] = []
    for those in zip(*results, strict=True):
        work = sum(one.report.work_usd for one in those)
        row: dict[str, float | str] = {
            "policy": those[0].report.policy,
            "share_of_bound_percent": round(100 * work / sum(one.bound_usd for one in those), 2),
            "share_with_same_waits_percent": round(100 * work / sum(one.bound_same_waits_usd for one in those), 2),
        }
        for field in fields(Report)[1:]:
            row[field.name] = round(sum(float(getattr(one.report, field.name)) for one in those), 2)
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
    found = {name: total([those for what, those in played if what == name]) for name in workloads}
    if chosen.json:
        print(json.dumps({"seeds": seeds, "days": days, "workloads": found}, indent=2))
        return
    for name, rows in found.items():
        table = Table(title=f"{name}: {WORKLOADS[name].__doc__}", title_justify="left", box=None, header_style="bold")
        for head in (
            "policy",
            "work $",
            "of the bound",
            "with the same waits",
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
                f"{row['work_usd']:.0f}",
                f"{row['share_of_bound_percent']:.1f}%",
                f"{row['share_with_same_waits_percent']:.1f}%",
                *(
                    f"{row[key]:.0f}"
                    for key in ("killed", "failed_starts", "expired_usd", "overrun_usd", "cold_usd", "dropped")
                ),
            )
        Console().print(table)
        print()


if __name__ == "__main__":
    main()
