"""Use beyond a plan's limits, which Anthropic bills in real money: whether it may go on, and what is said of it; pure.

A subscription has none unless it is given an ``overage_budget_usd``, for each calendar month (UTC).
"""

from dataclasses import dataclass

from pool_mcp.choosing.pacing import Alert
from pool_mcp.choosing.windows import rfc3339
from pool_mcp.model import CLOCK_SLACK_MS, HOUR_MS, NANO, Cooldown, OverageReading, Subscription


@dataclass(frozen=True, slots=True)
class OverageBalance:
    """What a subscription may pay beyond its plan in this month, and has paid; nano-dollars.

    ``week_spent`` is what it has paid in the last seven days.
    """

    subscription: Subscription
    spent: int
    reading: OverageReading | None = None
    week_spent: int = 0

    @property
    def is_worth_telling(self) -> bool:
        """Whether there is a budget, or anything was paid or is being paid."""
        is_used = self.reading is not None and self.reading.in_use
        return bool(self.subscription.overage_budget_nanousd or self.spent or self.week_spent or is_used)

    def in_use(self, now_ms: int) -> bool:
        """Whether the subscription goes on beyond its plan now, as far as is known."""
        return now_ms < goes_on_until_ms(self.reading, now_ms)


def goes_on_until_ms(reading: OverageReading | None, now_ms: int) -> int:
    """Until when a subscription goes on beyond its plan, 0 where it does not.

    What a wrong clock has dated ahead says nothing.
    """
    is_told = reading is not None and reading.in_use and reading.observed_at_ms <= now_ms + CLOCK_SLACK_MS
    return ends_at_ms(reading) if reading is not None and is_told else 0


def ends_at_ms(reading: OverageReading) -> int:
    """When the plan has room again: the reset of the window that was used up, or an hour where none was named."""
    return reading.window_resets_at_ms or reading.observed_at_ms + HOUR_MS


def cooldown(subscription: Subscription, reading: OverageReading) -> Cooldown | None:
    """What keeps a subscription out that would go on for real money and has no budget for it."""
    if not reading.in_use or subscription.overage_budget_nanousd:
        return None
    detail = (
        f"its {reading.window} window is used up, and going on would be paid beyond the plan (overage_budget_usd is 0)"
    )
    return Cooldown(reading.window, reading.observed_at_ms, ends_at_ms(reading), detail)


def notice(subscription: Subscription, reading: OverageReading) -> Alert | None:
    """What the person hears, once for each window that is used up."""
    if not reading.in_use:
        return None
    name, until_ms = subscription.id, ends_at_ms(reading)
    if budget := subscription.overage_budget_nanousd:
        what = f"it goes on for real money, up to ${budget / NANO:.2f} a month"
    else:
        what = (
            f"Anthropic began to bill real money, so it is not used until {rfc3339(until_ms)}; set overage_budget_usd "
            "to allow it, or switch extra usage off for the account"
        )
    message = f"{name}: the {reading.window} window is used up; {what}"
    return Alert(f"{name} overage {reading.window} {until_ms}", "overage", name, message, until_ms, "overage")
