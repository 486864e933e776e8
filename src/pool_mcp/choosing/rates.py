"""What one percent of an official window is worth, and how full the window is now; pure, given ``now_ms``.

Anthropic reports percent and the ledger counts dollars. Between two readings of one window the percent rose by what
the pool spent, at some rate, plus whatever was used elsewhere (a phone, another machine). Use elsewhere comes in
sittings, so the rate is the median of percent per dollar over the newest such intervals, by own spend, and what the
pool's own spend does not explain is outside use.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pool_mcp.choosing.kept import NOTHING, Kept, kept
from pool_mcp.choosing.windows import FIVE_HOUR, has_reset, length_ms, percent_now, resets_next_ms
from pool_mcp.model import NANO, Subscription, WindowReading

PLAN_FIVE_HOUR_USD = {"pro": 18.0, "max_5x": 35.0, "max_20x": 140.0}
"""What five hours of a plan come to at list price: ``cost_limit`` in ``PLAN_LIMITS`` of Claude-Code-Usage-Monitor. A
starting point only: Anthropic publishes no figure."""

WEEK_IN_BLOCKS = 8.0
"""A week's limit in five-hour limits. A guess that a few percent of evidence outweigh: nobody publishes a figure."""

INTERVAL_PERCENT = 6.0
"""An interval is closed when its percent has risen this far: figures are whole percents at times. Of 3, 6, 12, 20 and
35 the least biased in the simulation."""

NEWEST_PERCENT = 120.0
"""Evidence is the newest intervals that make up this much of rise: plans are changed, and limits drift."""

PRIOR_PERCENT = 8.0
"""The prior weighs as much as this many percent of evidence."""

RESET_JITTER_MS = 10 * 60 * 1000
"""Two readings of one window may give its reset this far apart."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Nano-dollars to a percent of a window. ``confidence`` is the share, 0-1, that the ledger's evidence has in it."""

    nanousd_per_percent: float
    confidence: float
    source: Literal["learned", "plan", "budget"]


@dataclass(frozen=True, slots=True)
class Step:
    """A reading and what the ledger spent between the one before it and this one."""

    reading: WindowReading
    spent_nanousd: int


@dataclass(frozen=True, slots=True)
class Gauge:
    """How full a window is at an instant, ``at_ms``.

    ``official_percent`` is Anthropic's, aged; ``percent`` adds what the ledger has spent since, ``reserved_percent``
    is reserved for unfinished runs. ``outside_percent`` is the part of the official figure that own spend does not
    explain. ``kept`` is what agents leave to the person.
    """

    window: str
    at_ms: int
    official_percent: float
    percent: float
    reserved_percent: float
    outside_percent: float
    resets_at_ms: int | None
    observed_at_ms: int
    rate: Rate
    kept: Kept = NOTHING

    @property
    def usable_percent(self) -> float:
        """The part of the window that agents may use at all, 0-100."""
        return 100.0 - self.kept.percent

    @property
    def room_percent(self) -> float:
        """What is left to agents beside what is reserved, 0-100: whoever asks what may be used asks here."""
        return max(0.0, self.usable_percent - self.percent - self.reserved_percent)

    @property
    def percent_of_usable(self) -> float:
        """How full the window is for agents; 100 and more: they may use no more of it."""
        usable = self.usable_percent
        return 100.0 * self.percent / usable if usable > 0 else max(100.0, self.percent)

    @property
    def left_nanousd(self) -> int:
        """What is left, in money at the rate that is known."""
        return round(self.room_percent * self.rate.nanousd_per_percent)

    @property
    def frees_at_ms(self) -> int:
        """When it will have been emptied: at its reset, or, where that is not known, when its length has passed."""
        return self.at_ms + length_ms(self.window) if self.resets_at_ms is None else self.resets_at_ms

    def has_room_at_ms(self, needed_percent: float) -> int:
        """When there will be so much room if nothing more is used: as the kept share is given back, or at the reset."""
        given_back_ms = self.kept.falls_to_ms(100.0 - self.percent - self.reserved_percent - needed_percent)
        return self.frees_at_ms if given_back_ms is None else given_back_ms

    @property
    def share_of_time_left(self) -> float:
        """The part of the window, 0-1, that is still to come; 1 where its reset is not known."""
        if self.resets_at_ms is None:
            return 1.0
        return min(1.0, max(0.0, (self.resets_at_ms - self.at_ms) / length_ms(self.window)))


def prior(subscription: Subscription, window: str) -> Rate:
    """The rate to assume before anything is known: the plan's, else the person's budget, and never less than Pro's."""
    allowed = plan_nanousd(subscription.plan)
    if allowed is not None:
        five_hours, week = allowed
        return Rate((five_hours if window == FIVE_HOUR else week) / 100, 0.0, "plan")
    budget = subscription.block_budget_nanousd if window == FIVE_HOUR else subscription.weekly_budget_nanousd
    least = PLAN_FIVE_HOUR_USD["pro"] * NANO * (1 if window == FIVE_HOUR else WEEK_IN_BLOCKS)
    return Rate(max(budget, least) / 100, 0.0, "budget")


def plan_nanousd(label: str) -> tuple[int, int] | None:
    """What five hours and a week of a plan come to at list price, by its label; None where that is not known."""
    plan = _known_plan(label)
    if plan is None:
        return None
    five_hours = round(PLAN_FIVE_HOUR_USD[plan] * NANO)
    return five_hours, round(five_hours * WEEK_IN_BLOCKS)


def _known_plan(label: str) -> str | None:
    """A plan by the person's own words for it: ``Max 20x``, ``max_5x``, ``pro``; plain ``max`` is the smaller one."""
    said = label.lower()
    if "20" in said:
        return "max_20x"
    if "max" in said or "5x" in said:
        return "max_5x"
    return "pro" if "pro" in said else None


def learn(steps: Sequence[Step], assumed: Rate) -> Rate:
    """The rate that consecutive readings (oldest first) and the own spend between them show, tempered by a prior."""
    newest = _newest(list(_intervals(steps)))
    spent = sum(own for _, own in newest)
    if spent <= 0:
        return assumed
    ordered = sorted((rise / own, own) for rise, own in newest if own > 0)
    passed, percent_per_nanousd = 0.0, ordered[-1][0]
    for ratio, own in ordered:
        passed += own
        if passed >= spent / 2:
            percent_per_nanousd = ratio
            break
    evidence = percent_per_nanousd * spent
    if evidence <= 0:
        return assumed
    weight = evidence / (evidence + PRIOR_PERCENT)
    # The geometric middle: a rate that is half or double is equally wrong.
    value = (1 / percent_per_nanousd) ** weight * assumed.nanousd_per_percent ** (1 - weight)
    return Rate(value, weight, "learned")


def _newest(intervals: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """The last intervals, back to :data:`NEWEST_PERCENT` of rise."""
    found: list[tuple[float, int]] = []
    for rise, own in reversed(intervals):
        found.append((rise, own))
        if sum(one for one, _ in found) >= NEWEST_PERCENT:
            break
    return found


def _intervals(steps: Iterable[Step]) -> Iterable[tuple[float, int]]:
    """Rise in percent and own spend of each interval within which the window did not reset.

    The last one may have risen less than the others: what a window has moved so far is learned with little weight.
    """
    before: WindowReading | None = None
    rise, spent = 0.0, 0
    for step in steps:
        now = step.reading
        if now.percent is None:
            spent += step.spent_nanousd
            continue
        if before is None or not _same_window(before, now):
            if rise > 0:
                yield rise, spent
            rise, spent = 0.0, 0
        else:
            rise += now.percent - (before.percent or 0.0)
            spent += step.spent_nanousd
            if now.percent >= 100:
                rise, spent = 0.0, 0  # what comes on top of 100 is not shown
            elif rise >= INTERVAL_PERCENT:
                yield rise, spent
                rise, spent = 0.0, 0
        before = now
    if rise > 0:
        yield rise, spent


def _same_window(before: WindowReading, now: WindowReading) -> bool:
    if before.percent is None or now.percent is None or now.percent < before.percent:
        return False
    if before.resets_at_ms is None or now.resets_at_ms is None:
        return before.resets_at_ms == now.resets_at_ms
    return abs(before.resets_at_ms - now.resets_at_ms) <= RESET_JITTER_MS


def gauge(
    subscription: Subscription,
    reading: WindowReading,
    rate: Rate,
    now_ms: int,
    *,
    spent_since: int,
    spent_before: int,
    reserved: int,
) -> Gauge:
    """How full a window is now; where no percentage was reported, by own spend alone.

    ``spent_since`` is the ledger's spend that the reading cannot hold (from :func:`~pool_mcp.windows.counts_from_ms`
    on), ``spent_before`` what it spent in the window until the reading; nano-dollars.
    """
    own_before = 0.0 if has_reset(reading, now_ms) else spent_before / rate.nanousd_per_percent
    official = percent_now(reading, now_ms)
    if official is None:
        official = own_before  # older CLIs and some tokens give no percentage: own spend is all that is known
    resets_at_ms = resets_next_ms(reading, now_ms)
    return Gauge(
        window=reading.window,
        at_ms=now_ms,
        official_percent=official,
        percent=official + spent_since / rate.nanousd_per_percent,
        reserved_percent=reserved / rate.nanousd_per_percent,
        outside_percent=max(0.0, official - own_before),
        resets_at_ms=resets_at_ms,
        observed_at_ms=reading.observed_at_ms,
        rate=rate,
        kept=kept(subscription, reading.window, now_ms, resets_at_ms),
    )
