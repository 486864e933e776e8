"""What is left: balances, the size of a reservation, the health score, a subscription's availability; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from pool_mcp.choosing import cooldowns
from pool_mcp.choosing.rates import Gauge, Rate, gauge, prior
from pool_mcp.choosing.windows import (
    FIVE_HOUR,
    Block,
    Hours,
    applies_to,
    block_at,
    counts_from_ms,
    family_of,
    hours_since,
    percent_now,
    week_frees_at_ms,
    week_left_over,
)
from pool_mcp.model import (
    HOUR_MS,
    MINUTE_MS,
    NANO,
    Cooldown,
    Subscription,
    WindowReading,
)

DEFAULT_ESTIMATE_NANOUSD = NANO // 4
"""What an ask may cost while nothing is known of its like."""

DEFAULT_LIKELY_NANOUSD = NANO // 50
"""What an ask most likely costs while nothing is known of its like: a short answer to the CLI's own instructions."""

ESTIMATE_MARGIN = 1.25
FEW_SAMPLES = (5.0, 3.5, 2.5, 2.2)
"""What is reserved of one to four samples, as multiples of the most expensive."""

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


IN_FLIGHT_MS = MINUTE_MS
"""When to look again while what is left is reserved for runs in flight."""


@dataclass(frozen=True, slots=True)
class PaidUse:
    """Use beyond the plan that has a budget: what that leaves after reservations.

    ``until_ms`` is until when the subscription goes on beyond its plan, 0 where it does not.
    """

    left: int
    until_ms: int = 0


@dataclass(frozen=True)
class Balance:
    """All that is known of one subscription at one instant, ``at_ms``; money in nano-dollars.

    ``days`` is what was spent in each of the last seven times 24 hours, to the hour, the newest first; ``hours`` the
    same hour by hour, oldest first, each with its beginning. By official window there are the newest reading, what the
    ledger has spent since (``spent_since``) and before it (``spent_before``), and the rate between dollars and percent.
    Subscriptions of one ``organization`` are one quota, so these count all of them, and ``reserved_beside`` is what is
    reserved of it for the others. ``still_reserved`` is what unfinished runs may still spend of each window: without
    what they have spent, which ``spent_since`` counts call by call. ``paid_use`` is None where there is to be none.
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
    days: Sequence[int] = ()
    hours: Hours = ()
    spent_since: Mapping[str, int] = field(default_factory=dict)
    spent_before: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, Rate] = field(default_factory=dict)
    organization: str | None = None
    reserved_beside: int = 0
    still_reserved: Mapping[str, int] = field(default_factory=dict)
    paid_use: PaidUse | None = None

    @property
    def is_paid(self) -> bool:
        """Whether it goes on beyond its plan now, for real money that has a budget."""
        return self.paid_use is not None and self.at_ms < self.paid_use.until_ms

    @property
    def block_left(self) -> int:
        """What the block's budget leaves after reservations; negative when overdrawn."""
        return self.subscription.block_budget_nanousd - self.block_spent - self.reserved

    @property
    def week_left(self) -> int:
        """What the week's budget leaves after reservations; negative when overdrawn."""
        return self.subscription.weekly_budget_nanousd - self.week_spent - self.reserved

    @property
    def block_binds(self) -> bool:
        """Whether the block's budget refuses asks: a default is a yardstick where Anthropic reports a window."""
        return not (self.subscription.block_is_default and self.readings)

    @property
    def week_binds(self) -> bool:
        """Whether the week's budget refuses asks; as :attr:`block_binds`."""
        return not (self.subscription.week_is_default and self.readings)

    @property
    def left(self) -> int | None:
        """What the tighter of the budgets that bind leaves, at least 0; None where none does."""
        left = [
            amount
            for amount, binds in ((self.block_left, self.block_binds), (self.week_left, self.week_binds))
            if binds
        ]
        return max(0, min(left)) if left else None

    @property
    def week_percent(self) -> float:
        """Spent of the week's budget; over 100 when overdrawn."""
        return 100 * self.week_spent / self.subscription.weekly_budget_nanousd

    def at(self, later_ms: int) -> "Balance":
        """The balance at a later instant if nothing more is asked: what is reserved was spent, no run is in flight."""
        block = block_at(later_ms, self.readings.get(FIVE_HOUR))
        spent_since = {
            name: 0
            if counts_from_ms(reading, later_ms) > self.at_ms
            else self.spent_since.get(name, 0) + self._reserved_of(name)
            for name, reading in self.readings.items()
        }
        block_spent = self.block_spent
        if block.starts_at_ms != self.block.starts_at_ms:
            block_spent = hours_since(self.hours, block.starts_at_ms)
        if block.starts_at_ms <= self.at_ms:
            block_spent += self.reserved  # a run that is in flight now will have been paid by then
        return replace(
            self.without_reservations(),
            at_ms=later_ms,
            block=block,
            block_spent=block_spent,
            week_spent=week_left_over(self.hours, self.week_spent, later_ms) + self.reserved,
            hour_spent=0 if later_ms - self.at_ms >= HOUR_MS else self.hour_spent,
            spent_since=spent_since,
        )

    def _reserved_of(self, window: str) -> int:
        return self.still_reserved.get(window, self.reserved + self.reserved_beside)

    def without_reservations(self) -> "Balance":
        """The balance if every run in flight ended now and had cost nothing."""
        idle = [replace(one, is_probed=False) for one in self.cooldowns]
        return replace(self, reserved=0, reserved_beside=0, still_reserved={}, in_flight=0, cooldowns=idle)

    def week_frees_at_ms(self, needed: int) -> int | None:
        """When so much will fit into the week's budget, by the hours in which it was spent; None: never or unknown."""
        allowed = self.subscription.weekly_budget_nanousd - self.reserved - needed
        return week_frees_at_ms(self.hours, self.week_spent, allowed)

    @cached_property
    def gauges(self) -> Mapping[str, Gauge]:
        """How full each official window is, by name."""
        return {
            name: gauge(
                self.subscription,
                reading,
                self.rates.get(name) or prior(self.subscription, name),
                self.at_ms,
                spent_since=self.spent_since.get(name, 0),
                spent_before=self.spent_before.get(name, 0),
                reserved=self._reserved_of(name),
            )
            for name, reading in sorted(self.readings.items())
        }

    def left_beside_kept(self, model: str | None) -> int | None:
        """What is left, in money, of the tightest window of which a part is kept for the person; None where none is."""
        return min(
            (one.left_nanousd for one in self.gauges.values() if one.kept.percent and applies_to(one.window, model)),
            default=None,
        )

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


def _last_part(subscription: Subscription) -> int:
    """With less than this of its week left a subscription counts as limited."""
    return round(subscription.weekly_budget_nanousd * (1 - LIMITED_PERCENT / 100)) + 1


def like_it(own: Sequence[int], everywhere: Sequence[int]) -> Sequence[int]:
    """What the like of an ask has cost: under its own subscription, or, of a few samples, under all of them."""
    return own if len(own) > len(FEW_SAMPLES) else everywhere


def estimate_nanousd(max_cost_nanousd: int | None, recent: Sequence[int], least: int | None = None) -> int:
    """What to reserve for an ask: by what its like has cost, and no more than its cap.

    The 95th percentile with a margin; of a few samples a multiple of the most expensive. A cap below one call is no
    estimate: the CLI looks at it after a call only. So it is ``least``, what the cheapest of its like has cost, where
    that is more; while nothing is known, what a short answer costs.
    """
    known = min(recent, default=DEFAULT_LIKELY_NANOUSD) if least is None else least
    if not recent:
        return DEFAULT_ESTIMATE_NANOUSD if max_cost_nanousd is None else max(max_cost_nanousd, known)
    ordered = sorted(recent)
    if len(recent) <= len(FEW_SAMPLES):
        estimate = round(ordered[-1] * FEW_SAMPLES[len(recent) - 1])
    else:
        estimate = round(ordered[(len(ordered) * 95 - 1) // 100] * ESTIMATE_MARGIN)
    if max_cost_nanousd is not None:
        estimate = max(known, min(estimate, max_cost_nanousd))
    return max(1, estimate)


def likely_nanousd(max_cost_nanousd: int | None, recent: Sequence[int]) -> int:
    """What an ask most likely costs: the median of its like; while nothing is known, what a short answer costs."""
    likely = sorted(recent)[len(recent) // 2] if recent else DEFAULT_LIKELY_NANOUSD
    return max(1, likely if max_cost_nanousd is None else min(likely, max_cost_nanousd))


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
    if balance.paid_use is not None and balance.is_paid and balance.paid_use.left:
        left = f"${balance.paid_use.left / NANO:.2f} of its overage budget is left"
        return Availability(Status.APPROACHING, f"its plan is used up and it goes on for real money; {left}")
    percent, why, frees_at_ms = _fullest(balance)
    if percent >= LIMITED_PERCENT:
        return Availability(Status.LIMITED, why, frees_at_ms)
    if percent >= APPROACHING_PERCENT:
        return Availability(Status.APPROACHING, why)
    return Availability(Status.AVAILABLE, why if percent else "nothing used yet")


def _fullest(balance: Balance) -> tuple[float, str, int | None]:
    """The share, the name and the reset of what is closest to its end: a budget that binds, a window of all models."""
    subscription = balance.subscription
    found: list[tuple[float, str, int | None]] = []
    if balance.block_binds:
        block_percent = 100 * balance.block_spent / subscription.block_budget_nanousd
        found.append((block_percent, f"the block budget is {block_percent:.0f}% used", balance.block.ends_at_ms))
    if balance.week_binds:
        frees_at_ms = balance.week_frees_at_ms(_last_part(subscription))
        found.append((balance.week_percent, f"the weekly budget is {balance.week_percent:.0f}% used", frees_at_ms))
    found += [
        (
            one.percent_of_usable,
            f"the {name} window is {one.percent:.0f}% used"
            + (f", and {one.kept.percent:.0f}% is kept for you" if one.kept.percent else ""),
            one.resets_at_ms,
        )
        for name, one in balance.gauges.items()
        if family_of(name) is None
    ]
    return max(found, key=lambda one: one[0], default=(0.0, "nothing", None))
