"""What happens to a pool, before any policy has chosen anything: accounts, asks, use elsewhere, and what makes it hard.

Money is nano-dollars at list price, time Unix milliseconds. A window counts a dollar of one model more than a dollar of
another, and no policy is told how much.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pool_mcp.choosing.windows import FIVE_HOUR, SEVEN_DAY, applies_to
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO, WEEK_MS

SEVEN_DAY_OPUS = "seven_day_opus"

EPOCH_MS = 1_767_571_200_000
"""Where every simulation begins: Monday 2026-01-05, midnight UTC."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time: ``[starts_at_ms, ends_at_ms)``."""

    starts_at_ms: int
    ends_at_ms: int

    def holds(self, at_ms: int) -> bool:
        """Whether an instant lies in it."""
        return self.starts_at_ms <= at_ms < self.ends_at_ms


@dataclass(frozen=True, slots=True)
class Account:
    """One subscription as it really is; capacities in nano-dollars, of Opus's own week 0 where there is none."""

    name: str
    plan: str
    five_hour_capacity: int
    seven_day_capacity: int
    opus_capacity: int = 0
    absent: tuple[Span, ...] = ()
    """When it is not in the pool: it has not joined, or is signed out."""

    @property
    def capacities(self) -> dict[str, int]:
        """By window."""
        found = {FIVE_HOUR: self.five_hour_capacity, SEVEN_DAY: self.seven_day_capacity}
        return {**found, SEVEN_DAY_OPUS: self.opus_capacity} if self.opus_capacity else found

    def is_absent(self, at_ms: int) -> bool:
        """Whether it is not in the pool at an instant."""
        return any(span.holds(at_ms) for span in self.absent)

    def windows(self, kind: str | None) -> list[str]:
        """The windows that count a kind of job; use elsewhere is of no kind, and never Opus."""
        return [one for one in self.capacities if applies_to(one, kind)]


@dataclass(frozen=True, slots=True)
class Job:
    """Something that is asked: its kind, what it will cost, in how many API calls, how long it takes and may wait.

    ``session`` chains jobs: each waits for the one before it and costs ``context`` more where its cache is not warm.
    """

    number: int
    kind: str
    arrives_at_ms: int
    cost: int
    calls: int
    duration_ms: int
    deadline_ms: int
    session: int | None = None
    context: int = 0


@dataclass(frozen=True, slots=True)
class Conditions:
    """What makes a pool's life hard."""

    weights: tuple[tuple[str, float], ...] = ()
    """By kind of job: what a dollar of it counts in the windows."""
    cut_at_ms: int | None = None
    """When every limit is cut to ``cut_to``."""
    cut_to: float = 1.0
    drift_a_week: float = 1.0
    """What every limit is multiplied by, in the course of a week."""
    outside_share: float = 0.0
    """Part of each week's capacity that is used elsewhere, unseen."""
    stale_share: float = 0.0
    """Part of the readings that never arrive."""
    early_resets: int = 0
    """How many five-hour windows of each account are reset early."""
    skew_ms: int = 0
    """How far the pool's clock is ahead of Anthropic's."""
    servers: int = 1
    """How many processes share the work; what they do not share is each one's own."""

    def weigh(self, kind: str | None, amount: int) -> int:
        """What an amount counts in the windows."""
        return round(amount * dict(self.weights).get(kind or "", 1.0))

    def shrink(self, at_ms: int) -> float:
        """What every limit is multiplied by at an instant, once limits have been cut or have drifted."""
        is_cut = self.cut_at_ms is not None and at_ms >= self.cut_at_ms
        drift: float = self.drift_a_week ** ((at_ms - EPOCH_MS) / WEEK_MS)
        return drift * (self.cut_to if is_cut else 1.0)


@dataclass(frozen=True, slots=True)
class World:
    """All that will happen.

    ``weeks`` has the weekly windows by account and name. A five-hour window begins with its first use; ``early`` is, by
    account, when the one that runs then ends before its time. ``outside`` is use elsewhere by account: when, how much.
    """

    accounts: tuple[Account, ...]
    jobs: tuple[Job, ...]
    conditions: Conditions
    seed: int
    ends_at_ms: int
    weeks: Mapping[tuple[str, str], tuple[Span, ...]]
    early: Mapping[str, tuple[int, ...]]
    outside: Mapping[str, tuple[tuple[int, int], ...]]

    def work(self, job: Job) -> float:
        """What a job counts in the windows at the time when it is asked, in dollars of their size at the beginning."""
        return self.conditions.weigh(job.kind, job.cost) / self.conditions.shrink(job.arrives_at_ms) / NANO


def make_world(
    accounts: tuple[Account, ...], jobs: Iterable[Job], conditions: Conditions, seed: int, days: int
) -> World:
    """A world of so many days, with what is left to chance drawn by its seed."""
    draw, ends_at_ms = random.Random(seed), EPOCH_MS + days * DAY_MS
    return World(
        accounts,
        tuple(
            replace(job, number=number) for number, job in enumerate(sorted(jobs, key=lambda one: one.arrives_at_ms))
        ),
        conditions,
        seed,
        ends_at_ms,
        _weeks(accounts, ends_at_ms, draw),
        {
            one.name: tuple(sorted(draw.randrange(EPOCH_MS, ends_at_ms) for _ in range(conditions.early_resets)))
            for one in accounts
        },
        {one.name: _outside(one, conditions.outside_share, ends_at_ms, draw) for one in accounts},
    )


def _weeks(
    accounts: tuple[Account, ...], ends_at_ms: int, draw: random.Random
) -> dict[tuple[str, str], tuple[Span, ...]]:
    """Each account's weekly windows, from a full hour on."""
    found = {}
    for account in accounts:
        for window in account.capacities:
            if window != FIVE_HOUR:
                begins = range(EPOCH_MS - draw.randrange(168) * HOUR_MS, ends_at_ms + 3 * DAY_MS, WEEK_MS)
                found[account.name, window] = tuple(Span(at_ms, at_ms + WEEK_MS) for at_ms in begins)
    return found


def _outside(account: Account, share: float, ends_at_ms: int, draw: random.Random) -> tuple[tuple[int, int], ...]:
    """Use elsewhere: sittings of an hour or two by day, of twenty small calls each."""
    left = round(share * account.seven_day_capacity * (ends_at_ms - EPOCH_MS) / WEEK_MS)
    calls: list[tuple[int, int]] = []
    while left > 0:
        day_ms = draw.randrange(EPOCH_MS, ends_at_ms) // DAY_MS * DAY_MS
        begin_ms = day_ms + round(draw.uniform(7, 21) * HOUR_MS)
        size = min(left, round(account.five_hour_capacity * draw.uniform(0.1, 0.4)))
        calls += [(begin_ms + step * 4 * MINUTE_MS, size // 20) for step in range(20)]
        left -= max(size, NANO)
    return tuple(sorted(calls))
