"""Small pictures made of text: bars in eighths of a character, sparklines and columns."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from pool_mcp.model import BLOCK_MS, WEEK_MS
from pool_mcp.results.status import SubscriptionResult

_EIGHTHS = " ▏▎▍▌▋▊▉"
_SPARKS = "▁▂▃▄▅▆▇█"
_PLAIN_SPARKS = "_-~=+*%#"
SHARE_WIDTH = 7
"""What the percentage after a bar takes."""
_LEAST_SHARE = 0.02
"""Before this share of a window has passed, its pace says nothing."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a subscription at ``now_ms``: its official figures, or its own budget's where there are none.

    ``reported`` is what Anthropic said, ``percent`` what it is now by all that is known. ``resets_at`` and
    ``starts_at`` are None for the rolling week, which has no such moments.
    """

    reported: float | None
    percent: float
    spent_usd: float
    budget_usd: float
    starts_at: int | None
    resets_at: int | None
    now_ms: int

    @property
    def is_own(self) -> bool:
        """Whether its percentage is more than what Anthropic reported."""
        return self.reported is None or self.percent - self.reported >= 0.5

    @property
    def pace(self) -> float | None:
        """How fast it is used: at 1 it lasts exactly until its reset; None where that cannot be said yet."""
        if self.starts_at is None or self.resets_at is None:
            return None
        share = (self.now_ms - self.starts_at) / (self.resets_at - self.starts_at)
        return self.percent / 100 / share if _LEAST_SHARE <= share <= 1 else None

    @property
    def runs_out_at(self) -> int | None:
        """When it is used up at its pace so far, where that is before its reset."""
        if self.pace is None or self.starts_at is None or self.percent <= 0 or self.pace <= 1:
            return None
        return max(self.now_ms, self.starts_at + round((self.now_ms - self.starts_at) * 100 / self.percent))


def window_of(one: SubscriptionResult, name: str, now_ms: int) -> Window:
    """A subscription's ``five_hour`` or ``seven_day`` window."""
    read = one.official.get(name)
    own = one.block if name == "five_hour" else one.week
    starts_at, resets_at = (one.block.starts_at, one.block.ends_at) if name == "five_hour" else (None, None)
    if read is None or read.percent is None:
        return Window(None, own.percent, own.cost_usd, own.budget_usd, starts_at, resets_at, now_ms)
    if read.resets_at is not None:
        length_ms = BLOCK_MS if name == "five_hour" else WEEK_MS
        starts_at, resets_at = read.resets_at - length_ms, read.resets_at
    percent = read.percent if read.percent_now is None else max(read.percent, read.percent_now)
    return Window(read.percent, percent, own.cost_usd, own.budget_usd, starts_at, resets_at, now_ms)


class Ink:
    """What bars are drawn with; readable without color, and where there is ASCII only."""

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain
        self.official, self.own, self.free = ("#", "=", ".") if plain else ("█", "▒", "░")

    def bar(self, window: Window, cells: int) -> Text:
        """What Anthropic reported, then what our own figures add to it, then what is free; and the percentage."""
        now = window.percent
        style = "red" if now >= 95 else "yellow" if now >= 80 else "green"
        bar = Text(style=style)
        if window.is_own or self._plain:
            solid = min(cells, round((window.reported or 0) / 100 * cells))
            filled = max(solid, min(cells, round(now / 100 * cells)))
            bar.append(self.official * solid + self.own * (filled - solid))
        else:
            filled, eighths = divmod(min(8 * cells, round(now / 100 * 8 * cells)), 8)
            bar.append(self.official * filled + (_EIGHTHS[eighths] if eighths else ""))
            filled += bool(eighths)
        bar.append(self.free * (cells - filled), style="dim")
        share = f"{now:.0f}%" if now < 999.5 else f"{now / 1000:.0f}k%" if now < 999_500 else ">999k%"
        return bar.append(f" {'~' if window.is_own else ''}{share}".rjust(6))

    def spark(self, values: Sequence[float]) -> str:
        """A line of small columns, the highest value at full height; nothing is a dot."""
        sparks, nothing = (_PLAIN_SPARKS, ".") if self._plain else (_SPARKS, "·")
        top = max(values, default=0.0)
        return "".join(nothing if one <= 0 else sparks[min(7, int(one / top * 7.999))] for one in values)

    def columns(self, values: Sequence[float], rows: int, cells: int) -> list[str]:
        """Columns some rows high and cells wide, top row first, the highest value at full height; nothing is a dot."""
        sparks, nothing, full = (_PLAIN_SPARKS, ".", "#") if self._plain else (_SPARKS, "·", "█")
        top, filled = max(values, default=0.0), cells - 1 if cells > 2 else cells
        heights = [0 if one <= 0 else max(1, round(one / top * 8 * rows)) for one in values]
        lines = []
        for row in reversed(range(rows)):
            parts = [min(8, height - 8 * row) for height in heights]
            empty = nothing if row == 0 else " "
            drawn = ((empty if n <= 0 else full if n == 8 else sparks[n - 1]) * filled for n in parts)
            lines.append("".join(f"{one:<{cells}}" for one in drawn))
        return lines

    def share(self, percent: float, cells: int) -> str:
        """A bar that is as long as what it stands for."""
        if self._plain:
            return "#" * max(1, round(percent / 100 * cells))
        filled, eighths = divmod(max(1, round(percent / 100 * 8 * cells)), 8)
        return "█" * filled + (_EIGHTHS[eighths] if eighths else "")
