"""What will be spent until an instant, with an interval, and how often such forecasts have held; pure.

A span is whole days and a rest. A day is taken to be like one of the last four weeks, and the rest like the same hours
of those days. The interval is to hold four times in five. Days in a row are alike (a project lasts a week), so their
variance is at least that of weeks. What held is looked up by making the same forecast at earlier instants, from what
was known then.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, quantiles, variance

from pool_mcp.choosing.windows import Hours
from pool_mcp.model import DAY_MS, HOUR_MS

HISTORY_DAYS = 28
"""How far a forecast looks back."""

LEAST_DAYS = 4
"""Nothing is told from less than this."""

PAST_FORECASTS = 28
"""So many earlier forecasts are looked at, a day apart."""

Z = 1.2816
"""Four fifths of a normal distribution are within this many standard deviations."""

WEEK_DAYS = 7


class Spend:
    """What was spent hour by hour; within an hour evenly."""

    def __init__(self, hours: Hours, begins_ms: int) -> None:
        self.begins_ms = begins_ms
        self._starts = [hour_ms for hour_ms, _ in hours]
        self._costs = [cost for _, cost in hours]
        self._sums = [0]
        for cost in self._costs:
            self._sums.append(self._sums[-1] + cost)

    def between(self, since_ms: int, until_ms: int) -> float:
        """What was spent from one instant to another."""
        return self._until(until_ms) - self._until(since_ms)

    def _until(self, at_ms: int) -> float:
        at = bisect_right(self._starts, at_ms - HOUR_MS)
        part = (at_ms - self._starts[at]) / HOUR_MS if at < len(self._starts) else 0.0
        return self._sums[at] + (max(0.0, part) * self._costs[at] if at < len(self._starts) else 0.0)


@dataclass(frozen=True, slots=True)
class Interval:
    """An expected amount, and what it is within four times in five."""

    expected: float
    low: float
    high: float


def to_come(spend: Spend, now_ms: int, until_ms: int) -> Interval | None:
    """What will be spent from now until an instant, by what was spent before now; None where too little is known."""
    known = min(HISTORY_DAYS, (now_ms - spend.begins_ms) // DAY_MS)
    if known < LEAST_DAYS or until_ms <= now_ms:
        return None
    whole, rest_ms = divmod(until_ms - now_ms, DAY_MS)
    starts = [now_ms - (age + 1) * DAY_MS for age in range(known)]
    rests = [spend.between(start, start + rest_ms) for start in starts]
    if not whole:
        cuts = quantiles(rests, n=10)
        return Interval(mean(rests), max(0.0, cuts[0]), max(0.0, cuts[-1]))
    days = [spend.between(start, start + DAY_MS) for start in starts]
    expected = whole * mean(days) + mean(rests)
    doubt = whole * _variance_of_a_day(days) * (1 + whole / known) + variance(rests) * (1 + 1 / known)
    margin = (Z + (Z**3 + Z) / (4 * (known - 1))) * doubt**0.5  # Student's t, to its first term
    return Interval(expected, max(0.0, expected - margin), expected + margin)


def _variance_of_a_day(days: Sequence[float]) -> float:
    weeks = [sum(days[at : at + WEEK_DAYS]) for at in range(len(days) - WEEK_DAYS + 1)]
    return max(variance(days), variance(weeks) / WEEK_DAYS if len(weeks) > 1 else 0.0)


def held(spend: Spend, now_ms: int, until_ms: int) -> tuple[int, int]:
    """Of how many earlier forecasts over as long a span as many held, and how many there were."""
    length_ms = until_ms - now_ms
    count = of = 0
    for age in range(PAST_FORECASTS):
        then_ms = now_ms - length_ms - age * DAY_MS
        forecast = to_come(spend, then_ms, then_ms + length_ms)
        if forecast is not None:
            of += 1
            count += forecast.low <= spend.between(then_ms, then_ms + length_ms) <= forecast.high
    return count, of
