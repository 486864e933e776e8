"""Time windows: the five-hour block, the rolling week, and what an official reading says about now.

Everything here is a pure function of its arguments; ``now_ms`` is always given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from pool_mcp.model import BLOCK_MS, DAY_MS, HOUR_MS, WEEK_MS, WindowReading

FIVE_HOUR = "five_hour"
SEVEN_DAY = "seven_day"

LENGTH_MS = {FIVE_HOUR: BLOCK_MS}
"""How long each official window lasts; every other known one lasts a week."""

FULL_PERCENT = 99.5
"""An official window this full is used up: an ask would be cut."""

MAX_NAME = 64
"""The longest name of a window."""

MAX_PERCENT = 110.0
"""Anthropic reports a little over 100 at times; anything above this is not a percentage."""


@dataclass(frozen=True, slots=True)
class Block:
    """A five-hour block: ``[starts_at_ms, ends_at_ms)``."""

    starts_at_ms: int
    ends_at_ms: int
    source: Literal["official", "utc-grid"]

    @property
    def id(self) -> str:
        """The start, as RFC 3339."""
        return rfc3339(self.starts_at_ms)


def rfc3339(at_ms: int) -> str:
    """Unix milliseconds as ``2026-01-28T15:00:00Z``; fractions of a second are cut."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def grid_block(at_ms: int) -> Block:
    """The block of the UTC grid 00, 05, 10, 15, 20 that holds an instant; the day's last ends at midnight."""
    midnight = at_ms - at_ms % DAY_MS
    start = midnight + (at_ms - midnight) // BLOCK_MS * BLOCK_MS
    return Block(start, min(start + BLOCK_MS, midnight + DAY_MS), "utc-grid")


def block_at(now_ms: int, five_hour: WindowReading | None) -> Block:
    """The block that is running: the official five-hour window where one is fresh, else the grid's."""
    if five_hour is not None and five_hour.resets_at_ms is not None:
        start = five_hour.resets_at_ms - BLOCK_MS
        if start <= now_ms < five_hour.resets_at_ms:
            return Block(start, five_hour.resets_at_ms, "official")
    return grid_block(now_ms)


def week_start_ms(now_ms: int) -> int:
    """Where the rolling week up to now begins."""
    return now_ms - WEEK_MS


def day_start_ms(now_ms: int) -> int:
    """Where the UTC day begins; a caller's daily budget runs from here."""
    return now_ms - now_ms % DAY_MS


def is_name(window: str) -> bool:
    """Whether this can be what Anthropic calls a window: it is shown to people and kept for good."""
    return len(window) <= MAX_NAME and window.isascii() and window.replace("_", "a").replace("-", "a").isalnum()


def month_start_ms(now_ms: int) -> int:
    """Where the UTC calendar month begins."""
    return _first_of_month_ms(now_ms, 0)


def month_end_ms(now_ms: int) -> int:
    """Where the next UTC calendar month begins."""
    return _first_of_month_ms(now_ms, 1)


def _first_of_month_ms(now_ms: int, later: int) -> int:
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    years, month = divmod(now.month - 1 + later, 12)
    return round(datetime(now.year + years, month + 1, 1, tzinfo=UTC).timestamp() * 1000)


# A budget over the last seven days, by the hours in which it was spent

Hours = Sequence[tuple[int, int]]
"""The beginning of an hour and what was spent in it, oldest first."""


def hours_since(hours: Hours, since_ms: int) -> int:
    """What was spent in hours that end after an instant."""
    return sum(cost for hour_ms, cost in hours if hour_ms + HOUR_MS > since_ms)


def week_left_over(hours: Hours, week_spent: int, later_ms: int) -> int:
    """What of a rolling week's spend still counts at a later instant; an hour counts until all of it is a week old."""
    return min(week_spent, hours_since(hours, later_ms - WEEK_MS)) if hours else week_spent


def week_frees_at_ms(hours: Hours, week_spent: int, allowed: int) -> int | None:
    """When no more than so much of a rolling week's spend counts; None: never or unknown."""
    if allowed < 0:
        return None
    left = sum(cost for _, cost in hours)
    for hour_ms, cost in hours:
        left -= cost
        if min(left, week_spent) <= allowed:
            return hour_ms + HOUR_MS + WEEK_MS
    return None


def is_plausible(reading: WindowReading) -> bool:
    """Whether a reading can be true: a name, a percentage that is one, a reset within the window's length from then."""
    if not is_name(reading.window):
        return False
    if reading.percent is not None and not 0 <= reading.percent <= MAX_PERCENT:
        return False
    if reading.resets_at_ms is not None:
        ahead = reading.resets_at_ms - reading.observed_at_ms
        return -DAY_MS <= ahead <= LENGTH_MS.get(reading.window, WEEK_MS) + DAY_MS
    return True


def has_reset(reading: WindowReading, now_ms: int) -> bool:
    """Whether the window that was read has ended, so that it is empty until something is heard again.

    One whose reset was not told has ended for certain when its whole length has passed since.
    """
    if reading.resets_at_ms is None:
        return reading.observed_at_ms + length_ms(reading.window) <= now_ms
    return reading.resets_at_ms <= now_ms


def length_ms(window: str) -> int:
    """How long an official window lasts."""
    return LENGTH_MS.get(window, WEEK_MS)


def resets_next_ms(reading: WindowReading, now_ms: int) -> int | None:
    """The next reset. A week's follow one another; after a five-hour window nothing runs until the next use."""
    if reading.resets_at_ms is None or not has_reset(reading, now_ms):
        return reading.resets_at_ms
    length = length_ms(reading.window)
    if length != WEEK_MS:
        return None
    return reading.resets_at_ms + ((now_ms - reading.resets_at_ms) // length + 1) * length


def begins_ms(reading: WindowReading, now_ms: int) -> int:
    """When a window that has not reset began, at the earliest."""
    return (now_ms if reading.resets_at_ms is None else reading.resets_at_ms) - length_ms(reading.window)


def counts_from_ms(reading: WindowReading, now_ms: int) -> int:
    """From when on spend is not in the reading: when it was observed, or where the window that now runs began."""
    if not has_reset(reading, now_ms):
        return reading.observed_at_ms
    following = resets_next_ms(reading, now_ms)
    if following is not None:
        return following - length_ms(reading.window)
    return max(reading.resets_at_ms or 0, now_ms - length_ms(reading.window))


FAMILIES = ("opus", "sonnet", "haiku", "fable", "mythos")
"""Families of models that have weekly windows of their own."""


@lru_cache(maxsize=64)
def family_of(window: str) -> str | None:
    """The family of models that a window counts, or None where it counts all."""
    return next((name for name in FAMILIES if window.endswith(f"_{name}")), None)


def applies_to(window: str, model: str | None) -> bool:
    """Whether a window counts a model's use: ``seven_day_opus`` counts Opus only, the plain ones everything."""
    family = family_of(window)
    return family is None or (model is not None and family in model)


def percent_now(reading: WindowReading, now_ms: int) -> float | None:
    """Percent used as last heard; 0 after the reset, None where unknown.

    A window that refuses is full whatever percent comes with it, as long as it is known until when. Where that is not
    known, only trying can tell, and the cooldown that the refused run leaves behind says when.
    """
    if has_reset(reading, now_ms):
        return 0.0
    if reading.status == "rejected" and reading.resets_at_ms is not None:
        return max(100.0, reading.percent or 0.0)
    return reading.percent
