"""What a subscription's budgets are a share of: what its plan's windows allow in dollars, where that is known; pure."""

from pool_mcp.choosing.budget import Balance
from pool_mcp.choosing.rates import prior
from pool_mcp.choosing.windows import FIVE_HOUR, SEVEN_DAY
from pool_mcp.model import NANO

SOURCES = {"plan": "typical of the plan, not published", "learned": "learned from its own use"}


def window_nanousd(balance: Balance, window: str) -> tuple[int, str] | None:
    """What a whole window allows at list price, and from where that is known; None where it is not."""
    if balance.subscription.is_api_key or (balance.readings and window not in balance.readings):
        return None
    rate = balance.rates.get(window) or prior(balance.subscription, window)
    return None if rate.source == "budget" else (round(100 * rate.nanousd_per_percent), SOURCES[rate.source])


def explain(balance: Balance) -> str | None:
    """The budgets as shares of the plan, in a sentence; None where nothing is known of the plan."""
    subscription = balance.subscription
    parts = []
    for window, budget, name in (
        (SEVEN_DAY, subscription.weekly_budget_nanousd, "a week"),
        (FIVE_HOUR, subscription.block_budget_nanousd, "five hours"),
    ):
        if known := window_nanousd(balance, window):
            whole, source = known
            percent = 100 * budget / whole
            parts.append(f"${budget / NANO:.2f} is {percent:.0f}% of the ${whole / NANO:.0f} of {name} ({source})")
    return f"At list price, {', and '.join(parts)}." if parts else None
