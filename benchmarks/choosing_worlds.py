"""The project's own choice against other policies and against the most that anybody could do; deterministic.

./dev run python benchmarks/choosing_worlds.py [--quick] [--tuning] [--hard] [--workload NAME] [--json]

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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace

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

Kinds = Mapping[str, tuple[float, float, int, int]]
"""By kind of job: mean cost in dollars, its spread (sigma of the log), API calls, minutes."""

KINDS: Kinds = {
    "haiku": (0.15, 0.5, 2, 2),
    "sonnet": (0.55, 0.5, 4, 5),
    "opus": (1.8, 0.6, 8, 12),
}


LONG_KINDS: Kinds = {"haiku": (0.15, 0.5, 2, 2), "sonnet": (0.9, 0.7, 10, 15), "opus": (3.0, 0.8, 20, 40)}
"""Agents whose runs go on for up to an hour."""


def _job(
    draw: random.Random,
    at_ms: float,
    patience_ms: float,
    kind: str | None = None,
    kinds: Kinds = KINDS,
    shares: tuple[float, ...] = (0.4, 0.45, 0.15),
) -> Job:
    kind = kind or draw.choices(list(kinds), shares)[0]
    mean, sigma, calls, minutes = kinds[kind]
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


def agents(draw: random.Random, days: int, a_day: int = 300) -> list[Job]:
    """Agents with long runs, most at night, that can wait for six hours."""
    found = []
    for day in range(days):
        for _ in range(a_day):
            at_ms = EPOCH_MS + (day + draw.betavariate(2, 2)) * DAY_MS
            found.append(_job(draw, at_ms, 6 * HOUR_MS, kinds=LONG_KINDS, shares=(0.3, 0.5, 0.2)))
    return found


def big_bursts(draw: random.Random, days: int) -> list[Job]:
    """Fifty asks at once, sixteen times a day, that can wait for an hour."""
    times = [EPOCH_MS + draw.uniform(0, days * DAY_MS) for _ in range(16 * days)]
    return [_job(draw, at_ms, HOUR_MS) for at_ms in times for _ in range(50)]


def few(draw: random.Random, days: int) -> list[Job]:
    """Agents with long runs on one account."""
    return agents(draw, days, 90)


def many(draw: random.Random, days: int) -> list[Job]:
    """Agents with long runs on twelve accounts."""
    return agents(draw, days, 700)


def _twelve() -> tuple[Account, ...]:
    sizes = (("pro", 16, 140), ("max_5x", 40, 260), ("max_5x", 30, 300), ("max_20x", 120, 900))
    return tuple(
        Account(f"{plan}-{at}", plan, five_hour * NANO, week * NANO)
        for at, (plan, five_hour, week) in enumerate(sizes * 3)
    )


OPUS_ACCOUNTS = tuple(replace(one, opus_capacity=one.seven_day_capacity // 3) for one in ACCOUNTS)
"""Each with a weekly window of Opus's own."""

SIZES = (Account("pro", "pro", 16 * NANO, 100 * NANO), Account("ultra", "max_20x", 240 * NANO, 1400 * NANO))
WEIGHTS = (("opus", 1.4), ("haiku", 0.8))


@dataclass(frozen=True, slots=True)
class Setting:
    """A world with features of its own, beside those that are drawn by its seed."""

    accounts: tuple[Account, ...]
    jobs: Callable[[random.Random, int], list[Job]]
    conditions: Conditions
    what: str


HARD = {
    "agents": Setting(ACCOUNTS, agents, Conditions(weights=WEIGHTS), "long runs; models count differently"),
    "opus": Setting(OPUS_ACCOUNTS, agents, Conditions(weights=WEIGHTS), "Opus has a weekly window of its own"),
    "bursts of 50": Setting(ACCOUNTS, big_bursts, Conditions(weights=WEIGHTS), "fifty asks at once"),
    "twelve": Setting(_twelve(), many, Conditions(weights=WEIGHTS), "twelve accounts"),
    "one": Setting(ACCOUNTS[1:2], few, Conditions(weights=WEIGHTS), "one account"),
    "sizes": Setting(SIZES, agents, Conditions(), "a small account beside a large one"),
    "cut": Setting(
        ACCOUNTS, agents, Conditions(cut_at_ms=EPOCH_MS + 5 * DAY_MS // 2, cut_to=0.5), "limits are cut by half"
    ),
    "drift": Setting(ACCOUNTS, agents, Conditions(drift_a_week=0.8), "limits shrink by a fifth a week"),
    "hand use": Setting(ACCOUNTS, agents, Conditions(outside_share=0.4), "two fifths are used by hand"),
}
"""Worlds in which choosing goes wrong more easily."""

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
    setting = HARD.get(workload) or Setting(ACCOUNTS, WORKLOADS[workload], Conditions(), "")
    drawn = Conditions(
        outside_share=draw.choice((0.0, 0.1, 0.2)),
        stale_share=draw.choice((0.0, 0.3, 0.7)),
        early_resets=draw.choice((0, 2)),
        skew_ms=draw.choice((0, -90_000, 90_000)),
        servers=draw.choice((1, 2, 4)),
    )
    conditions = replace(
        drawn,
        outside_share=max(drawn.outside_share, setting.conditions.outside_share),
        weights=setting.conditions.weights,
        cut_at_ms=setting.conditions.cut_at_ms,
        cut_to=setting.conditions.cut_to,
        drift_a_week=setting.conditions.drift_a_week,
    )
    ends_at_ms = EPOCH_MS + days * DAY_MS
    jobs = tuple(numbered(setting.jobs(draw, days)))
    return World(
        setting.accounts,
        jobs,
        conditions,
        seed,
        ends_at_ms,
        make_windows(setting.accounts, conditions, ends_at_ms, draw),
        make_outside(setting.accounts, conditions.outside_share, ends_at_ms, draw),
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
    others = [] if only_ours else [other(world.accounts, seed) for other in OTHERS]
    return workload, [play_one(world, policy) for policy in (Ours(world.accounts), *others)]


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


SHOWN = ("killed", "failed_starts", "expired_usd", "overrun_usd", "cold_usd", "dropped", "unneeded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, three days")
    parser.add_argument("--tuning", action="store_true", help="the tuning seeds, our own policy only")
    parser.add_argument("--workload", choices=[*WORKLOADS, *HARD])
    parser.add_argument("--hard", action="store_true", help="the harder worlds")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    seeds = QUICK_SEEDS if chosen.quick else TUNING_SEEDS if chosen.tuning else REPORT_SEEDS
    workloads = [chosen.workload] if chosen.workload else list(HARD if chosen.hard else WORKLOADS)
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
        what = WORKLOADS[name].__doc__ if name in WORKLOADS else HARD[name].what
        table = Table(
            title=f"{name}: {what}",
            title_justify="left",
            box=None,
            header_style="bold",
        )
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
            "unneeded refusals",
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
                    for key in (
                        "killed",
                        "failed_starts",
                        "expired_usd",
                        "overrun_usd",
                        "cold_usd",
                        "dropped",
                        "unneeded",
                    )
                ),
            )
        Console().print(table)
        print()


if __name__ == "__main__":
    main()
