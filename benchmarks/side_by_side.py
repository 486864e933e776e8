"""Times things in turn, A B A B …, and reports each one's median and the ratio pair by pair.

Pairs taken moments apart see the same machine, so their ratio holds where absolute times drift.
"""

import json
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

Measure = Callable[[], Awaitable[float]]
"""Does a thing once and gives the milliseconds it took."""

Measured = Mapping[str, Sequence[float]]
"""Milliseconds of each round, by the name of what was timed."""


async def in_turn(rounds: int, subjects: Mapping[str, Measure]) -> dict[str, list[float]]:
    """Milliseconds of each subject in each round, after one round that does not count."""
    for measure in subjects.values():
        await measure()
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, measure in subjects.items():
            times[name].append(await measure())
    return times


def report(title: str, times: Measured, base: str, *, as_json: bool) -> None:
    """Print medians, the slowest, and the difference from ``base`` and the ratio to it, pair by pair."""
    rows = {}
    for name, values in times.items():
        pairs = list(zip(values, times[base], strict=True))
        ratios = [one / other for one, other in pairs]
        rows[name] = {
            "median_ms": round(statistics.median(values), 2),
            "min_ms": round(min(values), 2),
            "max_ms": round(max(values), 2),
            "difference_ms": round(statistics.median(one - other for one, other in pairs), 2),
            f"ratio_to_{base}": round(statistics.median(ratios), 3),
        }
    if as_json:
        print(json.dumps({"title": title, "rounds": len(times[base]), "rows": rows}, indent=2))
        return
    table = Table(title=f"{title} ({len(times[base])} rounds)", title_justify="left", box=None, header_style="bold")
    table.add_column("")
    for head in ("median ms", "min", "max", "difference", f"ratio to {base}"):
        table.add_column(head, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:g}" for value in row.values()))
    Console().print(table)
