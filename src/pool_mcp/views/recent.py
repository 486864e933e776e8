"""What was spent lately: the last day by the hour, the last two weeks by the day, and the week's shares."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pool_mcp.usage.reports import Activity
from pool_mcp.views import tables
from pool_mcp.views.gauges import Ink

RECENT_HEIGHT = 10
"""Lines that it takes where it is tall."""
_ROWS = 3
_HOUR_CELLS, _DAY_CELLS = 2, 3
_WIDE = 24 * _HOUR_CELLS + 2 + 14 * _DAY_CELLS


def recent(activity: Activity, ink: Ink, width: int, *, tall: bool) -> Iterator[RenderableType]:
    """Two charts side by side where there is room, else two lines; then the shares of models."""
    if tall and width >= _WIDE:
        yield _charts(activity, ink)
    else:
        for title, values in (("24 hours", activity.hours), ("14 days", activity.days)):
            yield Text.assemble(
                (f"{title:<9}", "dim"), (ink.spark(values), "green"), f" {tables.money(sum(values))}", no_wrap=True
            )
    if activity.shares:
        yield _shares(activity, ink, width)


def _charts(activity: Activity, ink: Ink) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    hours, days = ink.columns(activity.hours, _ROWS, _HOUR_CELLS), ink.columns(activity.days, _ROWS, _DAY_CELLS)
    grid.add_row(_title("24 hours", activity.hours), _title("14 days", activity.days))
    grid.add_row(Text("\n".join(hours), "green"), Text("\n".join(days), "green"))
    grid.add_row(
        _axis(activity.by_hour.keys, 24 * _HOUR_CELLS, "now"),
        _axis(activity.by_day.keys, 14 * _DAY_CELLS, "today"),
    )
    return grid


def _title(name: str, values: list[float]) -> Text:
    highest = max(values, default=0.0)
    return Text.assemble(
        (name, "bold"), f"  {tables.money(sum(values))}", (f"  highest {tables.money(highest)}", "dim")
    )


def _axis(keys: Sequence[str], cells: int, end: str) -> Text:
    begin = keys[0] if keys else ""
    return Text(f"{begin}{end:>{cells - len(begin)}}", "dim")


def _shares(activity: Activity, ink: Ink, width: int) -> Text:
    """Each model's part of the week's spend, as a bar where there is room."""
    line = Text.assemble((f"{'7 days':<9}", "dim"))
    for name, share in activity.shares:
        bar = f"{ink.share(share, 8)} " if width >= _WIDE else ""
        line.append(f"{name} ").append(bar, "green").append(f"{share:.0f}%  ")
    return line.append(f"outside the pool {activity.outside_percent:.0f}%", "dim")
