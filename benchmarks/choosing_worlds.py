"""The project's own choice against other policies and against the most that anybody could do; deterministic.

./dev run python benchmarks/choosing_worlds.py [--tuning] [--ours] [--world NAME] [--load NAME] [--processes N] [--json]

Weights and margins in `pool_mcp/choosing/` were chosen on the tuning seeds; what is reported is from other seeds.

The bound knows all that will come. No ask is worked on before it comes, but it may be held back although there is room
for it now, because room will be cheaper in an hour.
"""

import argparse
import functools
import json
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace

from rich.console import Console
from rich.table import Table

from bound import bound_usd
from policies import OTHERS, Ours
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO, WEEK_MS
from simulator import Policy, Report, Simulation
from world import EPOCH_MS, Account, Conditions, Job, Span, World, make_world

TUNING_SEEDS = (100, 101)
REPORT_SEEDS = (301, 302)

LOADS = {"heavy": 1.15, "light": 0.65}
"""What is asked for, as a part of what the weekly windows hold."""

WEIGHTS = (("opus", 1.4), ("haiku", 0.8))

Kinds = Mapping[str, tuple[float, float, int, int]]
"""By kind of job: mean cost in dollars, its spread (sigma of the log), API calls, minutes."""

SHORT: Kinds = {"haiku": (0.15, 0.5, 2, 2), "sonnet": (0.55, 0.5, 4, 5), "opus": (1.8, 0.6, 8, 12)}
LONG: Kinds = {"haiku": (0.15, 0.5, 2, 2), "sonnet": (0.9, 0.7, 10, 15), "opus": (3.0, 0.8, 20, 40)}
"""Agents whose runs go on for up to an hour."""

MOST_TIMES_MEAN = 6.0
"""No run costs more than this many times the mean, or one alone would not fit into a window."""


# What is asked


def _job(
    draw: random.Random,
    at_ms: float,
    patience_ms: float,
    kinds: Kinds = SHORT,
    shares: tuple[float, ...] = (0.4, 0.45, 0.15),
) -> Job:
    kind = draw.choices(list(kinds), shares)[0]
    mean, sigma, calls, minutes = kinds[kind]
    cost = round(mean * min(MOST_TIMES_MEAN, draw.lognormvariate(-sigma * sigma / 2, sigma)) * NANO)
    duration_ms = round(minutes * MINUTE_MS * draw.uniform(0.5, 1.5))
    return Job(0, kind, round(at_ms), cost, calls, duration_ms, round(at_ms + patience_ms))


Jobs = Callable[[random.Random, int, int], list[Job]]
"""Draws the jobs of so many days, so many of them."""


def overnight(draw: random.Random, days: int, count: int) -> list[Job]:
    """Each night from ten until five long runs come in; what is left at seven is dropped."""
    found = []
    for _ in range(count):
        after_ms = draw.uniform(0, 7) * HOUR_MS
        begin_ms = EPOCH_MS + (draw.randrange(days) * 24 + 22) * HOUR_MS
        found.append(_job(draw, begin_ms + after_ms, 9 * HOUR_MS - after_ms, LONG))
    return found


def bursts(draw: random.Random, days: int, count: int) -> list[Job]:
    """Fifty asks at once that can wait for an hour."""
    times = [EPOCH_MS + draw.uniform(0, days * DAY_MS) for _ in range(count // 50)]
    return [_job(draw, at_ms, HOUR_MS) for at_ms in times for _ in range(50)]


def agents(draw: random.Random, days: int, count: int) -> list[Job]:
    """Agents with long runs, most by day, that can wait for six hours."""
    return [
        _job(draw, EPOCH_MS + (draw.randrange(days) + draw.betavariate(2, 2)) * DAY_MS, 6 * HOUR_MS, LONG)
        for _ in range(count)
    ]


def mixed(draw: random.Random, days: int, count: int) -> list[Job]:
    """Opus beside Sonnet, round the clock, that can wait for three hours."""
    return [
        _job(draw, EPOCH_MS + draw.uniform(0, days) * DAY_MS, 3 * HOUR_MS, SHORT, (0.2, 0.6, 0.2)) for _ in range(count)
    ]


def person(draw: random.Random, days: int, count: int) -> list[Job]:
    """A person's day, whose asks are given up after a quarter of an hour, and agents."""
    found = [
        _job(draw, EPOCH_MS + (draw.randrange(days) * 24 + draw.triangular(8, 19, 11)) * HOUR_MS, 15 * MINUTE_MS)
        for _ in range(count // 2)
    ]
    return found + agents(draw, days, count // 3)


def session(draw: random.Random, days: int, count: int) -> list[Job]:
    """One conversation that goes on all day, with a large context, beside other work."""
    found = [_job(draw, EPOCH_MS + draw.uniform(0, days) * DAY_MS, 4 * HOUR_MS) for _ in range(count)]
    for day in range(days):
        begin_ms = EPOCH_MS + (day * 24 + 8) * HOUR_MS
        for at in range(60):
            one = _job(draw, begin_ms + at * 8 * MINUTE_MS, 6 * HOUR_MS, shares=(0, 1, 0))
            found.append(
                replace(one, calls=3, duration_ms=one.duration_ms // 2, kind="session", session=day, context=NANO // 2)
            )
    return found


# Whom it is asked


FOUR = (
    Account("pro", "pro", 16 * NANO, 140 * NANO),
    Account("five", "max_5x", 40 * NANO, 260 * NANO),
    Account("six", "max_5x", 30 * NANO, 300 * NANO),
    Account("twenty", "max_20x", 120 * NANO, 900 * NANO),
)
"""Four plans whose true size is not what is assumed of them."""

TWELVE = tuple(replace(one, name=f"{one.name}-{at}") for at in range(3) for one in FOUR)
SIZES = (Account("pro", "pro", 16 * NANO, 100 * NANO), Account("ultra", "max_20x", 240 * NANO, 1400 * NANO))


def _with_opus(part: int) -> tuple[Account, ...]:
    """Each with a weekly window of Opus's own, a part of its week."""
    return tuple(replace(one, opus_capacity=one.seven_day_capacity // part) for one in FOUR)


def _absent(name: str, first_day: float, last_day: float) -> tuple[Account, ...]:
    out = Span(EPOCH_MS + round(first_day * DAY_MS), EPOCH_MS + round(last_day * DAY_MS))
    return tuple(replace(one, absent=(out,)) if one.name == name else one for one in FOUR)


NOTHING_SPECIAL = Conditions()


@dataclass(frozen=True, slots=True)
class Setting:
    """A world with features of its own, beside those that are drawn by its seed."""

    accounts: tuple[Account, ...]
    jobs: Jobs
    what: str
    conditions: Conditions = NOTHING_SPECIAL
    days: int = 14


CUT = Conditions(cut_at_ms=EPOCH_MS + 9 * DAY_MS // 2, cut_to=0.5)

SETTINGS = {
    "overnight": Setting(FOUR, overnight, "a batch of long runs every night"),
    "overnight, Opus": Setting(_with_opus(3), overnight, "the same, and Opus has a weekly window of its own"),
    "bursts": Setting(FOUR, bursts, "fifty asks at once"),
    "mixed models": Setting(_with_opus(6), mixed, "Opus has a small weekly window of its own"),
    "person and agents": Setting(FOUR, person, "a person who does not wait, and agents who do"),
    "one session": Setting(FOUR, session, "one long conversation beside other work"),
    "sizes": Setting(SIZES, agents, "a small account beside a large one"),
    "limits cut": Setting(FOUR, agents, "every limit is cut by half in mid-week", CUT),
    "drift": Setting(FOUR, agents, "limits shrink by a fifth a week", Conditions(drift_a_week=0.8)),
    "hand use": Setting(FOUR, agents, "two fifths are used by hand", Conditions(outside_share=0.4)),
    "joins": Setting(_absent("twenty", -1, 3), agents, "the largest account joins on the fourth day"),
    "signed out": Setting(_absent("six", 4, 5), agents, "an account is signed out for a day"),
    "one account": Setting(FOUR[1:2], agents, "one account", days=42),
    "twelve accounts": Setting(TWELVE, agents, "twelve accounts", days=7),
}


def draw_world(name: str, load: str, seed: int, days: int | None = None) -> World:
    """A world by its name, load and seed: what is asked, and what makes it hard."""
    setting, draw = SETTINGS[name], random.Random(f"{name} {load} {seed}")
    given, days = setting.conditions, days or setting.days
    conditions = replace(
        given,
        weights=WEIGHTS,
        outside_share=max(given.outside_share, draw.choice((0.0, 0.1, 0.2))),
        stale_share=draw.choice((0.0, 0.3, 0.7)),
        early_resets=draw.choice((0, 2)),
        skew_ms=draw.choice((0, -90_000, 90_000)),
        servers=draw.choice((1, 2, 4)),
    )
    room = _room(setting.accounts, conditions, days)
    sample = setting.jobs(random.Random(0), days, 1000)
    mean = sum(conditions.weigh(job.kind, job.cost) for job in sample) / 1000
    jobs = setting.jobs(draw, days, round(LOADS[load] * room / mean))
    return make_world(setting.accounts, jobs, conditions, seed, days)


def _room(accounts: Sequence[Account], conditions: Conditions, days: int) -> float:
    """What the weekly windows that touch so many days hold, less use elsewhere: half a window more than the days."""
    hours = range(EPOCH_MS, EPOCH_MS + days * DAY_MS, HOUR_MS)
    return (
        sum(
            one.seven_day_capacity * conditions.shrink(at_ms) * HOUR_MS / WEEK_MS
            for one in accounts
            for at_ms in hours
            if not one.is_absent(at_ms)
        )
        * ((days + 3.5) / days)
        * (1 - conditions.outside_share)
    )


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a policy in one world, and the most that could have come of it; see the module's docstring."""

    report: Report
    bound_usd: float


def play(name: str, load: str, seed: int, *, only_ours: bool = False) -> list[Played]:
    """Every policy in one world."""
    world = draw_world(name, load, seed)
    others = [] if only_ours else [other(world.accounts, seed) for other in OTHERS]
    return [play_one(world, policy) for policy in (Ours(world.accounts), *others)]


def play_one(world: World, policy: Policy) -> Played:
    """One policy in one world."""
    simulation = Simulation(world, policy)
    report = simulation.run()
    return Played(report, bound_usd(world, simulation.elsewhere))


def total(results: Sequence[Sequence[Played]]) -> list[dict[str, float | str]]:
    """Sums over worlds, a row for each policy, with its share of the bound."""
    rows: list[dict[str, float | str]] = []
    for those in zip(*results, strict=True):
        work = sum(one.report.work_usd for one in those)
        row: dict[str, float | str] = {
            "policy": those[0].report.policy,
            "share_percent": round(100 * work / sum(one.bound_usd for one in those), 2),
        }
        for field in fields(Report)[1:]:
            row[field.name] = round(sum(float(getattr(one.report, field.name)) for one in those), 2)
        rows.append(row)
    return rows


COLUMNS = {
    "of the bound": "share_percent",
    "asks": "asked",
    "killed": "killed",
    "failed starts": "failed_starts",
    "dropped": "dropped",
    "waited": "waited",
    "unneeded refusals": "unneeded",
}


def _show(title: str, rows: Sequence[tuple[str, Mapping[str, float | str]]]) -> None:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for head in ("", *COLUMNS):
        table.add_column(head, justify="right" if head else "left")
    for name, row in rows:
        cells = ((key, row[key]) for key in COLUMNS.values())
        table.add_row(name, *(f"{value:.1f}%" if key.endswith("percent") else f"{value:.0f}" for key, value in cells))
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning", action="store_true", help="the tuning seeds, our own policy only")
    parser.add_argument("--ours", action="store_true", help="our own policy only")
    parser.add_argument("--world", choices=SETTINGS)
    parser.add_argument("--load", choices=LOADS)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    keys = [
        (name, load, seed)
        for name in ([chosen.world] if chosen.world else SETTINGS)
        for load in ([chosen.load] if chosen.load else LOADS)
        for seed in (TUNING_SEEDS if chosen.tuning else REPORT_SEEDS)
    ]
    one = functools.partial(play, only_ours=chosen.tuning or chosen.ours)
    with ProcessPoolExecutor(chosen.processes) as pool:
        played = dict(zip(keys, pool.map(one, *zip(*keys, strict=True)), strict=True))
    sums = {
        "worlds": {name: total([those for key, those in played.items() if key[0] == name]) for name, _, _ in keys},
        "loads": {load: total([those for key, those in played.items() if key[1] == load]) for _, load, _ in keys},
        "all": {"all": total(list(played.values()))},
    }
    if chosen.json:
        print(json.dumps(sums, indent=2))
        return
    for group in sums.values():
        _show("pool-mcp", [(name, rows[0]) for name, rows in group.items()])
    _show("every policy, all worlds", [(str(row["policy"]), row) for row in sums["all"]["all"]])


if __name__ == "__main__":
    main()
