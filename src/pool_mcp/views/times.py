"""Durations as a person reads them."""


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
