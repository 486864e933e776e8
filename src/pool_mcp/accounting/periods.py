"""Reports: what a person means by "since" and "by day", in their time zone, and the sums that answer it.

Everything here is a pure function of its arguments; ``now_ms`` and the time zone are always given. A span is
``[since_ms, until_ms)``. Days, weeks and months begin at local midnight, so that a day has 23 or 25 hours when the
clocks change. Hours are the ledger's own, whole hours of UTC; their key shows their local time (``14:30:00+05:30`` in a
zone of half hours). Blocks are those of the UTC grid.
"""

import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta, tzinfo

from pool_mcp.choices import By
from pool_mcp.choosing.windows import grid_block
from pool_mcp.errors import InvalidRequest
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

_FAR_PAST_MS = 0
_FAR_FUTURE_MS = 253_370_764_800_000
"""The start of the year 9999: where the calendar of Python's datetime still has room for a further month."""

_RELATIVE = re.compile(r"(\d{1,5})([hdw])")
_ALLOWED = "a date (2026-11-22), an instant (2026-11-22T15:00:00Z), 24h, 7d, 4w, today, yesterday or now"


@dataclass(frozen=True, slots=True)
class Span:
    """``[since_ms, until_ms)``."""

    since_ms: int
    until_ms: int

    def within(self, other: "Span") -> "Span":
        """The part of it that lies in another; empty (until before since) where none does."""
        return Span(max(self.since_ms, other.since_ms), min(self.until_ms, other.until_ms))


ALWAYS = Span(_FAR_PAST_MS, _FAR_FUTURE_MS)
"""All that a ledger can hold, whatever a wrong clock has dated."""


@dataclass(frozen=True, slots=True)
class Period:
    """One row's span, and its key."""

    key: str
    span: Span


@dataclass(frozen=True, slots=True)
class Sums:
    """What entries add up to; tokens by class, money in nano-dollars.

    ``unpriced_calls`` are calls for which no price is known: their cost is not in ``cost_nanousd``.
    """

    calls: int = 0
    unpriced_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_tokens: int = 0
    cache_read_tokens: int = 0
    cost_nanousd: int = 0

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) for one in fields(self))


@dataclass(frozen=True, slots=True)
class Only:
    """What a report is narrowed to; None is everything."""

    subscription: str | None = None
    caller: str | None = None


def whole_hours(span: Span) -> tuple[Span, tuple[Span, ...]]:
    """Take a span apart into its whole hours and what is left of it before and after them."""
    first, last = -(-span.since_ms // HOUR_MS) * HOUR_MS, span.until_ms // HOUR_MS * HOUR_MS
    if first > last:  # within one hour
        return Span(first, first), (span,)
    ends = (Span(span.since_ms, first), Span(last, span.until_ms))
    return Span(first, last), tuple(end for end in ends if end.since_ms < end.until_ms)


def span_of(since: str | None, until: str | None, now_ms: int, zone: tzinfo) -> Span:
    """What a person means by since and until; a day that is given as ``until`` is included whole.

    Raises:
        InvalidRequest: one of them is none of the forms, or they are the wrong way round.
    """
    since_ms = _FAR_PAST_MS if since is None else _instant("since", since, now_ms, zone, after=False)
    until_ms = _FAR_FUTURE_MS if until is None else _instant("until", until, now_ms, zone, after=True)
    if since_ms >= until_ms:
        raise InvalidRequest(f"since ({since or 'the beginning'}) is not before until ({until or 'the end'}).")
    return Span(since_ms, until_ms)


def _instant(name: str, said: str, now_ms: int, zone: tzinfo, *, after: bool) -> int:
    said = said.strip()
    now = datetime.fromtimestamp(now_ms / 1000, zone)
    try:
        if said == "now":
            return now_ms
        if said in ("today", "yesterday"):
            day = now.date() - timedelta(days=said == "yesterday")
            return _midnight(day.year, day.month, day.day, zone, days=after)
        if relative := _RELATIVE.fullmatch(said):
            number, unit = int(relative[1]), relative[2]
            if unit == "h":
                return max(_FAR_PAST_MS, now_ms - number * HOUR_MS)
            # The same time of day on an earlier day, whether or not the clocks changed in between.
            return max(_FAR_PAST_MS, _ms(now - timedelta(days=number * (7 if unit == "w" else 1))))
        at = datetime.fromisoformat(said)
        if len(said) <= len("2026-11-22"):
            return _midnight(at.year, at.month, at.day, zone, days=after)
        return min(_FAR_FUTURE_MS, max(_FAR_PAST_MS, _ms(at if at.tzinfo else at.replace(tzinfo=zone))))
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name} is {said!r}; give {_ALLOWED}.") from None


def instant_to_come(name: str, said: str, now_ms: int, zone: tzinfo) -> int:
    """An instant as a person gives it: RFC 3339 (without an offset: in the zone), or a time span from now.

    Raises:
        InvalidRequest: it is neither.
    """
    try:
        if span := _SPAN.fullmatch(said.strip()):
            return min(_FAR_FUTURE_MS, now_ms + int(span[1]) * _SPAN_MS[span[2]])
        at = datetime.fromisoformat(said.strip())
        if len(said.strip()) <= len("2026-11-22"):
            raise ValueError
        return min(_FAR_FUTURE_MS, max(_FAR_PAST_MS, _ms(at if at.tzinfo else at.replace(tzinfo=zone))))
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{name} is {said[:40]!r}; give a date and time in RFC 3339, or a time span from now such as 30m, 8h, 2d."
        ) from None


_SPAN = re.compile(r"(\d{1,9})([smhd])")
_SPAN_MS = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


def period_at(at_ms: int, by: By, zone: tzinfo) -> Period:
    """The hour, day, week, month or block that holds an instant."""
    if by == "hour":
        start = at_ms - at_ms % HOUR_MS
        local = datetime.fromtimestamp(start // 1000, zone)
        return Period(local.isoformat().replace("+00:00", "Z"), Span(start, start + HOUR_MS))
    if by == "block":
        block = grid_block(at_ms)
        return Period(block.id, Span(block.starts_at_ms, block.ends_at_ms))
    day = datetime.fromtimestamp(at_ms // 1000, zone).date()
    if by == "day":
        return Period(day.isoformat(), _days(day.year, day.month, day.day, 1, zone))
    if by == "week":
        monday = day - timedelta(days=day.weekday())
        year, week, _ = day.isocalendar()
        return Period(f"{year}-W{week:02}", _days(monday.year, monday.month, monday.day, 7, zone))
    if by == "month":
        after = day.replace(day=28) + timedelta(days=4)
        span = Span(_midnight(day.year, day.month, 1, zone), _midnight(after.year, after.month, 1, zone))
        return Period(f"{day.year}-{day.month:02}", span)
    raise AssertionError(f"{by} is no span of time")


def _days(year: int, month: int, day: int, count: int, zone: tzinfo) -> Span:
    return Span(_midnight(year, month, day, zone), _midnight(year, month, day, zone, days=count))


def _midnight(year: int, month: int, day: int, zone: tzinfo, days: int = 0) -> int:
    """Local midnight some days on; where the clocks leap over it, the instant of the leap."""
    return _ms((datetime(year, month, day) + timedelta(days=days)).replace(tzinfo=zone))  # noqa: DTZ001


def _ms(at: datetime) -> int:
    since_1970 = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return since_1970 // timedelta(milliseconds=1)


def label(period: Period, by: By, zone: tzinfo) -> str:
    """A period in a few characters, for an axis: ``14:00``, ``22 Nov``, ``W47``, ``Nov 2026``."""
    start = datetime.fromtimestamp(period.span.since_ms // 1000, zone)
    if by == "week":
        return f"W{start.isocalendar().week}"
    form = {"hour": "%H:%M", "day": "%-d %b", "month": "%b %Y", "block": "%a %H:%M"}[by]
    return start.strftime(form)
