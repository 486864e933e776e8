"""Advice an agent can act on without thinking, forecasts, and alerts; pure, given ``now_ms``.

Every constraint (a budget, an official window) is room, a time at which it is filled up again, and a rate at which it
is being used. What can be spent an hour until then without running dry is its pace.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pool_mcp.choosing.budget import (
    APPROACHING_PERCENT,
    LIMITED_PERCENT,
    NEEDS_A_PERSON,
    Balance,
    CallerBalance,
    Standing,
    Status,
    standing,
)
from pool_mcp.choosing.rates import RESET_JITTER_MS
from pool_mcp.choosing.windows import FIVE_HOUR, FULL_PERCENT, day_start_ms, length_ms, rfc3339
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO, WEEK_MS, Cooldown

FAST = 1.1
"""A burn this many times what the room bears is too fast; less is within what one hour's burn tells."""

LEAST_HOURS = 1.0
"""A pace is told for at least an hour, or the last minutes of a block would allow any."""

WEEK_DAYS = WEEK_MS // DAY_MS
SPARED_SHARE = 1 - LIMITED_PERCENT / 100
"""The part of a budget or window with no more than which a subscription counts as limited."""

HELD_MS = MINUTE_MS
"""When to look again while only runs in flight hold what is left."""

THRESHOLDS = (90.0, 80.0)
"""Alerts are given at these percents, and where nothing is left."""


class Action(StrEnum):
    """What an agent should do next."""

    PROCEED = "proceed"
    SLOW_DOWN = "slow_down"
    WAIT = "wait"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Advice:
    """What an agent should do next, and why; ``max_nanousd_per_hour`` for ``slow_down`` only.

    ``exhausts_at_ms`` is when the room is used up if the burn goes on, None where it is refilled before that.
    """

    action: Action
    reason: str
    headroom_nanousd: int
    retry_at_ms: int | None = None
    max_nanousd_per_hour: int | None = None
    exhausts_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _Constraint:
    """Something that can run out: what is left, when it is filled up again, how fast it is being used (an hour).

    ``quota`` names what it belongs to where several subscriptions can share it. ``returns`` is what comes back bit by
    bit until the refill, as spend falls out of a rolling budget. ``spared`` is the last of the room, which a pace
    leaves alone: with no more than that a subscription counts as limited.
    """

    left: int
    refills_at_ms: int
    burn: float
    is_weekly: bool
    quota: str | None = None
    returns: int = 0
    spared: float = 0.0

    def pace(self, now_ms: int) -> float:
        """What can be spent an hour without running dry before the refill."""
        return max(0.0, self.left + self.returns - self.spared) / self._hours(now_ms)

    def exhausts_at_ms(self, now_ms: int) -> int | None:
        """When it runs dry at its burn, or None where it is refilled first."""
        burn = self.burn - self.returns / self._hours(now_ms)
        if burn <= 0:
            return None
        at_ms = now_ms + round(self.left / burn * HOUR_MS)
        return at_ms if at_ms < self.refills_at_ms else None

    def _hours(self, now_ms: int) -> float:
        return max(LEAST_HOURS, (self.refills_at_ms - now_ms) / HOUR_MS)


def _rolling_week(left: int, days: Sequence[int], now_ms: int, spared: float = 0.0) -> _Constraint:
    """What a budget over the last seven days runs out of first: what is left and what comes back, by some day's end.

    Without what comes back, whoever kept to the pace would never spend more than half of the budget.
    """
    burn = days[0] / 24 if days else 0.0
    ends = (
        _Constraint(left, now_ms + day * DAY_MS, burn, True, None, sum(days[WEEK_DAYS - day :]), spared)
        for day in range(1, WEEK_DAYS + 1)
    )
    return min(ends, key=lambda one: one.pace(now_ms))


def _constraints(balance: Balance, now_ms: int) -> list[_Constraint]:
    """What a subscription can run out of. A week is measured by the day's burn, five hours by the hour's."""
    hour, day = float(balance.hour_spent), balance.days[0] / 24 if balance.days else 0.0
    subscription, block_left, week_left = balance.subscription, max(0, balance.block_left), max(0, balance.week_left)
    spared = SPARED_SHARE * subscription.block_budget_nanousd
    found = [_Constraint(block_left, balance.block.ends_at_ms, hour, is_weekly=False, spared=spared)]
    spared = SPARED_SHARE * subscription.weekly_budget_nanousd
    found.append(_rolling_week(week_left, balance.days, now_ms, spared))
    for name, gauge in balance.gauges(now_ms).items():
        refills_at_ms = gauge.resets_at_ms or now_ms + length_ms(name)
        is_weekly = name != FIVE_HOUR
        quota = balance.organisation or subscription.id
        spared = SPARED_SHARE * 100 * gauge.rate.nanousd_per_percent
        burn = day if is_weekly else hour
        found.append(_Constraint(gauge.left_nanousd, refills_at_ms, burn, is_weekly, quota, spared=spared))
    return found


def exhausts_at_ms(balance: Balance, now_ms: int) -> int | None:
    """When a subscription runs out of something at its burn, or None where everything is refilled before that."""
    times = [one.exhausts_at_ms(now_ms) for one in _constraints(balance, now_ms)]
    return min((at_ms for at_ms in times if at_ms is not None), default=None)


def headroom_nanousd(balance: Balance, now_ms: int) -> int:
    """What a subscription can spend now: the least that any budget or window leaves."""
    return min(one.left for one in _constraints(balance, now_ms))


@dataclass(frozen=True, slots=True)
class _Horizon:
    """Several subscriptions together, over five hours or over a week (or, for what is left now, both)."""

    left: int
    pace: float
    burn: float
    refills_at_ms: int

    @property
    def is_too_fast(self) -> bool:
        return self.burn > FAST * self.pace

    def exhausts_at_ms(self, now_ms: int) -> int | None:
        """When the room is gone at this burn, or None where some of it is refilled before."""
        at_ms = now_ms + round(self.left / self.burn * HOUR_MS) if self.burn > 0 else None
        return at_ms if at_ms is not None and at_ms < self.refills_at_ms else None


def _horizon(balances: Sequence[Balance], now_ms: int, *, is_weekly: bool | None) -> _Horizon:
    """What there is until the next refill; what subscriptions of one organisation share is counted once."""
    quotas: dict[str, list[list[_Constraint]]] = {}
    for balance in balances:
        constraints = [one for one in _constraints(balance, now_ms) if is_weekly in (None, one.is_weekly)]
        quotas.setdefault(balance.organisation or balance.subscription.id, []).append(constraints)
    left, pace, burn = 0, 0.0, 0.0
    for members in quotas.values():
        budgets = [[one for one in of_one if one.quota is None] for of_one in members]
        shared = [one for one in members[0] if one.quota is not None]
        left += min([sum(min(c.left for c in of_one) for of_one in budgets), *(c.left for c in shared)])
        pace += min([sum(min(c.pace(now_ms) for c in of_one) for of_one in budgets), *(c.pace(now_ms) for c in shared)])
        burn += sum(of_one[0].burn for of_one in members)
    refills = [one.refills_at_ms for members in quotas.values() for of_one in members for one in of_one]
    return _Horizon(left, pace, burn, min(refills))


def advise(
    balances: Sequence[Balance], caller: CallerBalance | None, now_ms: int, patience: Cooldown | None = None
) -> Advice:
    """Advice for whoever may use these subscriptions, within the caller's own budget where it has one.

    ``patience`` is the pool's cooldown while Anthropic is overloaded.
    """
    if caller is not None and caller.left == 0:
        return _caller_used_up(caller, now_ms)
    if patience is not None and patience.until_ms is not None and patience.until_ms > now_ms:
        return Advice(Action.WAIT, patience.detail, 0, patience.until_ms)
    standings = [(balance, standing(balance, now_ms)) for balance in balances]
    usable = [
        b
        for b, s in standings
        if s.status in (Status.AVAILABLE, Status.APPROACHING) and headroom_nanousd(b, now_ms) > 0
    ]
    if not usable:
        return _none_usable(standings, now_ms)
    block, week = (_horizon(usable, now_ms, is_weekly=is_weekly) for is_weekly in (False, True))
    headroom = _horizon(usable, now_ms, is_weekly=None).left
    own = None if caller is None else _caller_constraint(caller, now_ms)
    if caller is not None and caller.left is not None:
        headroom = min(headroom, caller.left)
    if caller is not None and own is not None and own.burn > FAST * own.pace(now_ms):
        until = rfc3339(own.refills_at_ms)
        reason = f"At ${own.burn / NANO:.2f} an hour {caller.caller}'s own budget would not last until {until}."
        most = round(min(block.pace, own.pace(now_ms)))
        return Advice(Action.SLOW_DOWN, reason, headroom, None, most, own.exhausts_at_ms(now_ms))
    if block.is_too_fast:
        reason = (
            f"At ${block.burn / NANO:.2f} an hour the room of ${headroom / NANO:.2f} would not last until "
            f"{rfc3339(block.refills_at_ms)}."
        )
        return Advice(Action.SLOW_DOWN, reason, headroom, None, round(block.pace), block.exhausts_at_ms(now_ms))
    if week.is_too_fast:
        reason = (
            f"At ${week.burn / NANO:.2f} an hour, the last day's mean, the week's room of ${week.left / NANO:.2f} "
            "would not last until it is filled up again."
        )
        return Advice(Action.SLOW_DOWN, reason, headroom, None, round(week.pace), week.exhausts_at_ms(now_ms))
    if all(s.status is Status.APPROACHING for b, s in standings if b in usable):
        reason = f"Every subscription that is left is over {APPROACHING_PERCENT:.0f}% used."
        return Advice(Action.SLOW_DOWN, reason, headroom, None, round(min(block.pace, week.pace)))
    return Advice(Action.PROCEED, f"There is room for ${headroom / NANO:.2f}.", headroom)


def _none_usable(standings: Sequence[tuple[Balance, Standing]], now_ms: int) -> Advice:
    times = [s.available_at_ms for _, s in standings if s.available_at_ms is not None]
    if times:
        reason = f"Every subscription is used up or cooling; the next is free at {rfc3339(min(times))}."
        return Advice(Action.WAIT, reason, 0, min(times))
    if any(balance.in_flight for balance, _ in standings):
        reason = "All room is held by runs in flight; ask again when one of them has ended."
        return Advice(Action.WAIT, reason, 0, now_ms + HELD_MS)
    return Advice(Action.STOP, "No subscription can be used until a person acts; see status_reason.", 0)


def _caller_constraint(caller: CallerBalance, now_ms: int) -> _Constraint | None:
    """The tighter of a caller's own budgets."""
    found = []
    if caller.budget.daily_nanousd is not None:
        left = max(0, caller.budget.daily_nanousd - caller.day_spent - caller.reserved)
        refills_at_ms = day_start_ms(now_ms) + DAY_MS
        found.append(_Constraint(left, refills_at_ms, float(caller.hour_spent), is_weekly=False))
    if caller.budget.weekly_nanousd is not None:
        left = max(0, caller.budget.weekly_nanousd - caller.week_spent - caller.reserved)
        found.append(_rolling_week(left, caller.days, now_ms))
    return min(found, key=lambda one: one.pace(now_ms), default=None)


def _caller_used_up(caller: CallerBalance, now_ms: int) -> Advice:
    """A day's budget begins anew at midnight; a rolling week has no such moment; what is only held comes back."""
    day, week = caller.budget.daily_nanousd, caller.budget.weekly_nanousd
    if week is not None and caller.week_spent >= week:
        return Advice(Action.STOP, f"The weekly budget of {caller.caller} is used up.", 0)
    if day is not None and caller.day_spent >= day:
        begins_ms = day_start_ms(now_ms) + DAY_MS
        reason = f"The daily budget of {caller.caller} is used up; the next day's begins at {rfc3339(begins_ms)}."
        return Advice(Action.STOP, reason, 0, begins_ms)
    reason = f"The budget of {caller.caller} is held by its runs in flight; ask again when one of them has ended."
    return Advice(Action.WAIT, reason, 0, now_ms + HELD_MS)


# Alerts


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should hear of once.

    ``key`` is the same for the same event in every process: a threshold of one window, told once however often it is
    seen. Until ``until_ms`` it is shown in the status.
    """

    key: str
    kind: str
    subscription: str
    message: str
    until_ms: int


def alerts(balances: Sequence[Balance], now_ms: int) -> list[Alert]:
    """Every alert that the pool's state calls for, told already or not."""
    return [alert for balance in balances for alert in _alerts(balance, now_ms)]


def _alerts(balance: Balance, now_ms: int) -> Iterator[Alert]:
    name, cooldown = balance.subscription.id, balance.cooldown
    if cooldown is not None and cooldown.cause in NEEDS_A_PERSON:
        yield Alert(
            f"{name} needs_login {cooldown.since_ms}",
            "needs_login",
            name,
            f"{name}: {cooldown.detail}",
            now_ms + DAY_MS,
        )
    for what, percent, resets_at_ms in _levels(balance, now_ms):
        # A reset may be given a little differently each time; within ten minutes it is the same one.
        key = f"{name} {what} {round(resets_at_ms / RESET_JITTER_MS)}"
        if percent >= 100:
            message = f"{name}: {what} is used up until {rfc3339(resets_at_ms)}"
            yield Alert(f"{key} limit", "limit", name, message, resets_at_ms)
        elif passed := [threshold for threshold in THRESHOLDS if percent >= threshold]:
            message = f"{name}: {what} is {percent:.0f}% used; it resets at {rfc3339(resets_at_ms)}"
            yield Alert(f"{key} {passed[0]:.0f}", f"{passed[0]:.0f}%", name, message, resets_at_ms)


def _levels(balance: Balance, now_ms: int) -> Iterator[tuple[str, float, int]]:
    """What can run out, how full it is, and when it is filled up again; a rolling week counts from Thursday on."""
    subscription = balance.subscription
    spent = 100 * balance.block_spent / subscription.block_budget_nanousd
    yield "the block budget", spent, balance.block.ends_at_ms
    yield "the weekly budget", balance.week_percent, now_ms - now_ms % WEEK_MS + WEEK_MS
    for name, gauge in balance.gauges(now_ms).items():
        if gauge.resets_at_ms is not None:
            # Only Anthropic says that its window is used up.
            percent = 100.0 if gauge.official_percent >= FULL_PERCENT else min(99.0, gauge.percent)
            yield f"the {name} window", percent, gauge.resets_at_ms


def failover(run_id: str, before: str, after: str, why: str, now_ms: int) -> Alert:
    """An ask that went on under another subscription."""
    message = f"{before} refused an ask ({why}); it went on under {after}"
    return Alert(f"{run_id} failover", "failover", before, message, now_ms + HOUR_MS)
