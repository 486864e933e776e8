"""What a caller or a project may spend of its own, beside what the subscriptions leave; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pool_mcp.choosing.rates import Gauge
from pool_mcp.choosing.windows import (
    Hours,
    day_start_ms,
    month_end_ms,
    month_start_ms,
    week_frees_at_ms,
    week_left_over,
)
from pool_mcp.model import DAY_MS, Budget


@dataclass(frozen=True, slots=True)
class InWindow:
    """What a caller has spent in an official window of a subscription and has reserved of it; nano-dollars."""

    spent: int
    reserved: int
    ends_at_ms: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """A caller's or a project's own budget and what it has used of it, at one instant; nano-dollars.

    A day and a month are UTC's, a week is the last seven days. ``days`` and ``hours`` are as in
    :class:`~pool_mcp.choosing.budget.Balance`. ``share_percent`` is what a caller may use of each official window, and
    ``in_windows`` what it has used, by subscription and window.
    """

    name: str
    at_ms: int
    budget: Budget
    day_spent: int = 0
    week_spent: int = 0
    month_spent: int = 0
    reserved: int = 0
    hour_spent: int = 0
    days: Sequence[int] = ()
    hours: Hours = ()
    is_project: bool = False
    share_percent: float | None = None
    in_windows: Mapping[tuple[str, str], InWindow] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Whose it is, in words."""
        return f"{'project' if self.is_project else 'caller'} {self.name!r}"

    def at(self, later_ms: int) -> "Allowance":
        """The same at a later instant if nothing more is asked, and what is reserved was spent."""
        same_day = day_start_ms(later_ms) == day_start_ms(self.at_ms)
        same_month = month_start_ms(later_ms) == month_start_ms(self.at_ms)
        return replace(
            self,
            at_ms=later_ms,
            day_spent=self.day_spent + self.reserved if same_day else 0,
            week_spent=week_left_over(self.hours, self.week_spent, later_ms) + self.reserved,
            month_spent=self.month_spent + self.reserved if same_month else 0,
            reserved=0,
            in_windows={
                key: replace(one, spent=one.spent + (one.reserved if self.reserved else 0), reserved=0)
                for key, one in self.in_windows.items()
                if one.ends_at_ms > later_ms
            },
        )

    def frees_at_ms(self, needed: int) -> int | None:
        """When so much will fit into the first budget that has no room for it; None: never or unknown."""
        budget = self.budget
        for most, spent, ends_at_ms in (
            (budget.daily_nanousd, self.day_spent, day_start_ms(self.at_ms) + DAY_MS),
            (budget.monthly_nanousd, self.month_spent, month_end_ms(self.at_ms)),
        ):
            if most is not None and spent + self.reserved + needed > most:
                return ends_at_ms if needed <= most else None
        return week_frees_at_ms(self.hours, self.week_spent, (budget.weekly_nanousd or 0) - self.reserved - needed)

    @property
    def left(self) -> int | None:
        """What the tightest of its budgets leaves, or None where it has none."""
        left = [
            budget - spent - self.reserved
            for budget, spent in (
                (self.budget.daily_nanousd, self.day_spent),
                (self.budget.weekly_nanousd, self.week_spent),
                (self.budget.monthly_nanousd, self.month_spent),
            )
            if budget is not None
        ]
        return max(0, min(left)) if left else None

    def used_percent(self, subscription: str, gauge: Gauge) -> float:
        """What a caller has used of a window, with what is reserved for it."""
        found = self.in_windows.get((subscription, gauge.window))
        if found is None:
            return 0.0
        return (found.spent + (found.reserved if self.reserved else 0)) / gauge.rate.nanousd_per_percent
