"""What is left: balances, the size of a reservation, the health score, a subscription's availability; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from pool_mcp.choosing import cooldowns
from pool_mcp.choosing.rates import Gauge, Rate, gauge, prior
from pool_mcp.choosing.windows import FIVE_HOUR, Block, family_of, percent_now
from pool_mcp.model import NANO, CallerBudget, Cooldown, Subscription, WindowReading

DEFAULT_ESTIMATE_NANOUSD = NANO // 4
"""What an ask may cost while nothing is known of its like."""

ESTIMATE_MARGIN = 1.25
ENOUGH_SAMPLES = 5

EXTENSION = 1.5
"""What is reserved for a run, as a multiple of its spend so far: its past and half as much again."""

APPROACHING_PERCENT = 80.0
LIMITED_PERCENT = 95.0


class Status(StrEnum):
    """What a subscription is good for at the moment, worst last."""

    AVAILABLE = "available"
    APPROACHING = "approaching"
    LIMITED = "limited"
    COOLDOWN = "cooldown"
    NEEDS_LOGIN = "needs_login"
    DISABLED = "disabled"


@dataclass(frozen=True)
class Balance:
    """All that is known of one subscription at one instant, ``at_ms``; money in nano-dollars.

    ``days`` is what was spent in each of the last seven times 24 hours, to the hour, the newest first.
    ``week_frees_at_ms`` is when enough of the rolling week's spend will have passed out of it, where it is full. By
    official window there are the newest reading, what the ledger has spent since (``spent_since``) and before it
    (``spent_before``), and the rate between dollars and percent. Subscriptions of one ``organization`` are one quota,
    so these count all of them, and ``reserved_beside`` is what is reserved of it for the others.
    """

    subscription: Subscription
    at_ms: int
    block: Block
    block_spent: int = 0
    week_spent: int = 0
    hour_spent: int = 0
    reserved: int = 0
    in_flight: int = 0
    readings: Mapping[str, WindowReading] = field(default_factory=dict)
    cooldowns: Sequence[Cooldown] = ()
    last_used_ms: int | None = None
    week_frees_at_ms: int | None = None
    days: Sequence[int] = ()
    spent_since: Mapping[str, int] = field(default_factory=dict)
    spent_before: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, Rate] = field(default_factory=dict)
    organization: str | None = None
    reserved_beside: int = 0

    @property
    def block_left(self) -> int:
        """What the block's budget leaves after reservations; negative when overdrawn."""
        return self.subscription.block_budget_nanousd - self.block_spent - self.reserved

    @property
    def week_left(self) -> int:
        """What the week's budget leaves after reservations; negative when overdrawn."""
        return self.subscription.weekly_budget_nanousd - self.week_spent - self.reserved

    @property
    def left(self) -> int:
        """What the tighter of the two budgets leaves, at least 0."""
        return max(0, min(self.block_left, self.week_left))

    @property
    def week_percent(self) -> float:
        """Spent of the week's budget; over 100 when overdrawn."""
        return 100 * self.week_spent / self.subscription.weekly_budget_nanousd

    @cached_property
    def gauges(self) -> Mapping[str, Gauge]:
        """How full each official window is, by name; a window without a percentage is no limit."""
        found = (
            gauge(
                reading,
                self.rates.get(name) or prior(self.subscription, name),
                self.at_ms,
                spent_since=self.spent_since.get(name, 0),
                spent_before=self.spent_before.get(name, 0),
                reserved=self.reserved + self.reserved_beside,
            )
            for name, reading in sorted(self.readings.items())
        )
        return {one.window: one for one in found if one is not None}

    def official_percent(self, window: str) -> float | None:
        """What Anthropic last reported of a window, or None where it reported nothing."""
        reading = self.readings.get(window)
        return None if reading is None else percent_now(reading, self.at_ms)

    @property
    def block_percent(self) -> float:
        """The official five-hour figure while its window runs, else spent of the block's budget; at most 100."""
        if self.block.source == "official" and (official := self.official_percent(FIVE_HOUR)) is not None:
            return min(100.0, official)
        return min(100.0, 100 * self.block_spent / self.subscription.block_budget_nanousd)


@dataclass(frozen=True, slots=True)
class CallerBalance:
    """One caller's own budget and what it has used of it, at one instant; nano-dollars.

    ``days`` is as in :class:`Balance`.
    """

    caller: str
    at_ms: int
    budget: CallerBudget
    day_spent: int = 0
    week_spent: int = 0
    reserved: int = 0
    hour_spent: int = 0
    days: Sequence[int] = ()

    @property
    def left(self) -> int | None:
        """What the tighter of its budgets leaves, or None where it has none."""
        left = [
            budget - spent - self.reserved
            for budget, spent in (
                (self.budget.daily_nanousd, self.day_spent),
                (self.budget.weekly_nanousd, self.week_spent),
            )
            if budget is not None
        ]
        return max(0, min(left)) if left else None


def estimate_nanousd(max_cost_nanousd: int | None, recent: Sequence[int]) -> int:
    """What to reserve for an ask: its own cap, else the 95th percentile of its like with a margin, else a default."""
    if max_cost_nanousd is not None:
        return max_cost_nanousd
    if len(recent) < ENOUGH_SAMPLES:
        return max(DEFAULT_ESTIMATE_NANOUSD, *recent, 0)
    ordered = sorted(recent)
    return max(1, round(ordered[(len(ordered) * 95 - 1) // 100] * ESTIMATE_MARGIN))


@dataclass(frozen=True, slots=True)
class Health:
    """The health score, 0–100, and what it is made of."""

    score: float
    week_percent: float
    block_percent: float
    in_flight: int
    burn_usd_per_hour: float
    unused_block_bonus: float


def health(balance: Balance) -> Health:
    """How well a subscription is off.

    ``100 − 0.5·week_percent − 0.3·block_percent − 5·in_flight − 2·max(0, burn − 3) + (10 if the block is unused)``,
    clamped to 0–100; burn is dollars in the last hour.
    """
    burn = balance.hour_spent / NANO
    block_percent = balance.block_percent
    bonus = 10.0 if block_percent == 0 else 0.0
    score = (
        100 - 0.5 * balance.week_percent - 0.3 * block_percent - 5 * balance.in_flight - 2 * max(0.0, burn - 3) + bonus
    )
    return Health(min(100.0, max(0.0, score)), balance.week_percent, block_percent, balance.in_flight, burn, bonus)


@dataclass(frozen=True, slots=True)
class Availability:
    """A subscription's status, why, and when that will have changed."""

    status: Status
    reason: str
    available_at_ms: int | None = None


def availability(balance: Balance) -> Availability:
    """What a subscription is good for at the moment, in words for a person; a family's own limit is no one's status."""
    cooldown = cooldowns.worst(balance.cooldowns, None, balance.at_ms)
    if not balance.subscription.enabled:
        return Availability(Status.DISABLED, "switched off in pool.toml")
    if cooldown is not None and cooldowns.needs_a_person(cooldown):
        return Availability(Status.NEEDS_LOGIN, cooldown.detail, cooldown.until_ms)
    if cooldown is not None and cooldowns.is_in_force(cooldown, balance.at_ms):
        return Availability(Status.COOLDOWN, cooldown.detail, cooldown.until_ms)
    percent, what, frees_at_ms = _fullest(balance)
    if percent >= LIMITED_PERCENT:
        return Availability(Status.LIMITED, f"{what} is {percent:.0f}% used", frees_at_ms)
    if percent >= APPROACHING_PERCENT:
        return Availability(Status.APPROACHING, f"{what} is {percent:.0f}% used")
    return Availability(Status.AVAILABLE, f"{what} is {percent:.0f}% used" if percent else "nothing used yet")


def _fullest(balance: Balance) -> tuple[float, str, int | None]:
    """The share, the name and the reset of whichever budget, or window of all models, is closest to its end."""
    subscription = balance.subscription
    found = [
        (
            100 * balance.block_spent / subscription.block_budget_nanousd,
            "the block budget",
            balance.block.ends_at_ms,
        ),
        (balance.week_percent, "the weekly budget", balance.week_frees_at_ms),
    ]
    found += [
        (one.percent, f"the {name} window", one.resets_at_ms)
        for name, one in balance.gauges.items()
        if family_of(name) is None
    ]
    return max(found, key=lambda one: one[0])
