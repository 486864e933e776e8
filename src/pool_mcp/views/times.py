"""Durations, and instants on a person's own clock. What machines read has RFC 3339 in UTC instead."""

import re
from datetime import UTC, datetime


def until(start_ms: int, end_ms: int) -> str:
    """From one instant to a later one, as :func:`span`."""
    return span(round((end_ms - start_ms) / 1000))


def span(seconds: float) -> str:
    """A duration in at most six characters: ``12s``, ``28m``, ``1h28m``, ``3d4h``."""
    seconds = max(0, int(seconds))
    if seconds < 60:
        return f"{seconds}s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes}m"
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60}h"


def took(ms: int) -> str:
    """How long something took, with tenths of a second below a minute."""
    return f"{ms / 1000:.1f}s" if ms < 60_000 else span(ms // 1000)


def local(at_ms: int, now_ms: int) -> str:
    """An instant on the person's own clock: ``15:00`` today, ``Thu 15:00`` within a week, else ``22 Nov 15:00``."""
    at, now = (datetime.fromtimestamp(ms / 1000, UTC).astimezone() for ms in (at_ms, now_ms))
    days = (at.date() - now.date()).days
    if days == 0:
        return f"{at:%H:%M}"
    if abs(days) < 7:
        return f"{at:%a %H:%M}"
    return f"{at.day} {at:%b %H:%M}" if at.year == now.year else f"{at.day} {at:%b %Y %H:%M}"


def clock(at_ms: int) -> str:
    """The date and the time, to the second, of now."""
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC).astimezone():%a %d %b, %H:%M:%S}"


def localized(text: str, now_ms: int) -> str:
    """A message with its RFC 3339 instants, which are for machines, on the person's own clock."""

    def replaced(found: re.Match[str]) -> str:
        try:
            return local(round(datetime.fromisoformat(found[0]).timestamp() * 1000), now_ms)
        except ValueError:
            return found[0]

    return _INSTANT.sub(replaced, text)


_INSTANT = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
