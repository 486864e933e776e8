"""What a subscription's windows keep for its person: room that agents leave, until it would expire unused; pure.

The share is kept in full as long as the person has time to use it before the window resets: an hour of theirs for a
five-hour window, a day of theirs for a week. In that last hour or day it is given back bit by bit. The person's time is
``keep_hours`` where they are set, so a window that ends before their day begins keeps nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pool_mcp.choosing.windows import FIVE_HOUR, length_ms
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, DayHours, Subscription

ALL_WINDOWS = "*"
"""Stands for every window in ``keep_percent``: what a plain number sets."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Kept:
    """What one window keeps at an instant, in percent of the window.

    ``share`` is what is kept in full, ``spans`` is the person's time until the reset, oldest first, and ``needed_ms``
    how much of it they need. ``is_given_back`` is False where the reset is not known.
    """

    share: float = 0.0
    spans: tuple[Span, ...] = ()
    needed_ms: int = HOUR_MS
    is_given_back: bool = True

    @property
    def percent(self) -> float:
        """What is kept now."""
        left_ms = sum(end - begin for begin, end in self.spans)
        return self.share * min(1.0, left_ms / self.needed_ms)

    def falls_to_ms(self, percent: float) -> int | None:
        """When so little is kept at last, where that is before the reset and the reset is known."""
        if not self.is_given_back or percent < 0 or not self.share:
            return None
        left_ms = int(min(1.0, percent / self.share) * self.needed_ms)
        for begin_ms, end_ms in reversed(self.spans):
            if left_ms <= end_ms - begin_ms:
                return end_ms - left_ms + 1
            left_ms -= end_ms - begin_ms
        return None


NOTHING = Kept()


def kept(subscription: Subscription, window: str, now_ms: int, resets_at_ms: int | None) -> Kept:
    """What a window keeps now. One that has not begun would begin with the next ask, and last its whole length."""
    share = subscription.keep_percent.get(window, subscription.keep_percent.get(ALL_WINDOWS, 0.0))
    if not share:
        return NOTHING
    until_ms = now_ms + length_ms(window) if resets_at_ms is None else resets_at_ms
    hours = subscription.keep_hours
    spans = [(now_ms, max(now_ms, until_ms))] if hours is None else _days(hours, now_ms, until_ms)
    day_ms = DAY_MS if hours is None else _length_ms(hours)
    return Kept(share, tuple(spans), HOUR_MS if window == FIVE_HOUR else day_ms, resets_at_ms is not None)


def _length_ms(hours: DayHours) -> int:
    return (hours.end_minute - hours.begin_minute) % (24 * 60) * MINUTE_MS


def _days(hours: DayHours, since_ms: int, until_ms: int) -> Iterator[Span]:
    """The person's hours of each day, as far as they are within a span."""
    day = datetime.fromtimestamp((since_ms - DAY_MS) / 1000, hours.zone).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    while _ms(day) < until_ms:
        following = day + timedelta(days=1)
        ends_on = day if hours.end_minute > hours.begin_minute else following
        begin_ms = max(since_ms, _ms(_at(day, hours.begin_minute)))
        end_ms = min(until_ms, _ms(_at(ends_on, hours.end_minute)))
        if begin_ms < end_ms:
            yield begin_ms, end_ms
        day = following


def _at(day: datetime, minute: int) -> datetime:
    return day.replace(hour=minute // 60, minute=minute % 60)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
