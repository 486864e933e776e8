"""Advice an agent can act on without thinking, forecasts, and alerts; pure.

Every constraint (a budget, an official window) is room, a time at which it is filled up again, and a rate at which it
is being used. What can be spent an hour until then without running dry is its pace.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from pool_mcp.choices import NoticeKind
from pool_mcp.choosing import cooldowns
from pool_mcp.choosing.allowances import Allowance
from pool_mcp.choosing.budget import (
    APPROACHING_PERCENT,
    LIMITED_PERCENT,
    Balance,
    Status,
    availability,
)
from pool_mcp.choosing.rates import RESET_JITTER_MS
from pool_mcp.choosing.selection import Request, choose
from pool_mcp.choosing.windows import FIVE_HOUR, FULL_PERCENT, applies_to, day_start_ms, month_end_ms, rfc3339
from pool_mcp.model import DAY_MS, HOUR_MS, NANO, WEEK_MS

FAST = 1.1
"""A burn this many times what the room bears is too fast; less is within what one hour's burn tells."""

NO_LIMIT = float(10**6 * NANO)
"""The pace, in nano-dollars an hour, of what nothing limits over a span: a plan without five-hour windows."""

LEAST_HOURS = 1.0
"""A pace is told for at least an hour, or the last minutes of a block would allow any."""

OWNERS_MARGIN = 1.25
"""How much more than at its pace an owner is taken to use before room counts as spare."""

WEEK_DAYS = WEEK_MS // DAY_MS
BUFFER_SHARE = 1 - LIMITED_PERCENT / 100
"""The part of a budget or window with no more than which a subscription counts as limited."""

THRESHOLDS = (90.0, 80.0)
"""Alerts are given at these percents, and where nothing is left."""


BLOCK_BUDGET, WEEKLY_BUDGET = "the block budget", "the weekly budget"

ROOM_SUFFIX = " room"
"""What the key of a limit's end has after the limit's own."""


class Action(StrEnum):
    """What an agent should do next."""

    PROCEED = "proceed"
    SLOW_DOWN = "slow_down"
    WAIT = "wait"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Advice:
    """What an agent should do next, and why; ``max_nanousd_per_hour`` for ``slow_down`` only.

    ``next_ask_at_ms`` is when an ask of the usual size is due. ``exhausts_at_ms`` is when the room is used up if the
    burn goes on, None where it is refilled before that.
    """

    action: Action
    reason: str
    headroom_nanousd: int
    retry_at_ms: int | None = None
    max_nanousd_per_hour: int | None = None
    exhausts_at_ms: int | None = None
    next_ask_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _Constraint:
    """Something that can run out: what is left, when it is filled up again, how fast it is being used (an hour).

    ``quota`` names what it belongs to where several subscriptions can share it. ``returns`` is what comes back bit by
    bit until the refill, as spend falls out of a rolling budget. ``buffer`` is the last of the room, which a pace
    leaves alone: with no more than that a subscription counts as limited.
    """

    at_ms: int
    left: int
    refills_at_ms: int
    burn: float
    is_weekly: bool
    quota: str | None = None
    returns: int = 0
    buffer: float = 0.0

    @property
    def pace(self) -> float:
        """What can be spent an hour without running dry before the refill."""
        room = self.left + self.returns
        # The closer to the end, the smaller the buffer: where an ask would be served there is always a pace.
        return (room - min(self.buffer, room / 2)) / self._hours

    @property
    def exhausts_at_ms(self) -> int | None:
        """When it runs dry at its burn, or None where it is refilled first."""
        burn = self.burn - self.returns / self._hours
        if burn <= 0:
            return None
        at_ms = self.at_ms + round(self.left / burn * HOUR_MS)
        return at_ms if at_ms < self.refills_at_ms else None

    @property
    def _hours(self) -> float:
        return max(LEAST_HOURS, (self.refills_at_ms - self.at_ms) / HOUR_MS)


def _rolling_week(at_ms: int, left: int, days: Sequence[int], buffer: float = 0.0) -> _Constraint:
    """What a budget over the last seven days runs out of first: what is left and what comes back, by some day's end.

    Without what comes back, whoever kept to the pace would never spend more than half of the budget.
    """
    burn = days[0] / 24 if days else 0.0
    ends = (
        _Constraint(at_ms, left, at_ms + day * DAY_MS, burn, True, None, sum(days[WEEK_DAYS - day :]), buffer)
        for day in range(1, WEEK_DAYS + 1)
    )
    return min(ends, key=lambda one: one.pace)


def _constraints(balance: Balance, model: str | None = None) -> list[_Constraint]:
    """What a subscription can run out of that counts a model."""
    hour, day = (_burn(balance, is_weekly=is_weekly) for is_weekly in (False, True))
    subscription, now_ms = balance.subscription, balance.at_ms
    block_left, week_left = max(0, balance.block_left), max(0, balance.week_left)
    buffer = BUFFER_SHARE * subscription.block_budget_nanousd
    found = []
    if balance.block_binds:
        found.append(_Constraint(now_ms, block_left, balance.block.ends_at_ms, hour, is_weekly=False, buffer=buffer))
    if balance.week_binds:
        buffer = BUFFER_SHARE * subscription.weekly_budget_nanousd
        found.append(_rolling_week(now_ms, week_left, balance.days, buffer))
    for name, gauge in balance.gauges.items():
        if not applies_to(name, model):
            continue
        is_weekly = name != FIVE_HOUR
        quota = balance.organization or subscription.id
        buffer = BUFFER_SHARE * gauge.usable_percent * gauge.rate.nanousd_per_percent
        burn = day if is_weekly else hour
        found.append(_Constraint(now_ms, gauge.left_nanousd, gauge.frees_at_ms, burn, is_weekly, quota, buffer=buffer))
    return found


def exhausts_at_ms(balance: Balance) -> int | None:
    """When a subscription runs out of something at its burn, or None where everything is refilled before that."""
    times = [one.exhausts_at_ms for one in _constraints(balance)]
    return min((at_ms for at_ms in times if at_ms is not None), default=None)


def headroom_nanousd(balance: Balance) -> int:
    """What a subscription can spend now: the least that any budget or window leaves."""
    return min((one.left for one in _constraints(balance)), default=0)


def spares(balance: Balance, model: str | None, needed: int, idle: tuple[int, ...]) -> bool:
    """Whether a subscription can spare so much of what would expire unused at its owner's pace.

    The pace is the faster of a short and a long mean (an hour and a day for five hours, a day and a week for a week),
    with a margin. ``idle`` is what such use as this has spent in the last hour, day and week, which is nobody's pace.
    """
    spent = (balance.hour_spent, balance.days[0] if balance.days else 0, sum(balance.days))
    hour, day, week = (
        max(0, own - spare) / hours for own, spare, hours in zip(spent, idle, (1, 24, WEEK_MS // HOUR_MS), strict=True)
    )
    for one in _constraints(balance, model):
        pace = max(day, week) if one.is_weekly else max(hour, day)
        hours = max(0, one.refills_at_ms - balance.at_ms) / HOUR_MS
        if one.left + one.returns - one.buffer - OWNERS_MARGIN * pace * hours < needed:
            return False
    return True


@dataclass(frozen=True, slots=True)
class _Horizon:
    """Several subscriptions together, over five hours or over a week (or, for what is left now, both)."""

    at_ms: int
    left: int
    pace: float
    burn: float
    refills_at_ms: int

    @property
    def is_too_fast(self) -> bool:
        return self.burn > FAST * self.pace

    @property
    def exhausts_at_ms(self) -> int | None:
        """When the room is gone at this burn, or None where some of it is refilled before."""
        at_ms = self.at_ms + round(self.left / self.burn * HOUR_MS) if self.burn > 0 else None
        return at_ms if at_ms is not None and at_ms < self.refills_at_ms else None


def _horizon(
    able: Sequence[Balance], balances: Sequence[Balance], model: str | None, *, is_weekly: bool | None
) -> _Horizon:
    """What there is until the next refill; what subscriptions of one organization share is counted once."""
    quotas: dict[str, list[list[_Constraint]]] = {}
    for balance in able:
        constraints = [one for one in _constraints(balance, model) if is_weekly in (None, one.is_weekly)]
        quotas.setdefault(balance.organization or balance.subscription.id, []).append(constraints)
    left, pace = 0, 0.0
    for members in quotas.values():
        own = [[one for one in of_one if one.quota is None] for of_one in members]
        shared = [one for of_one in members for one in of_one if one.quota is not None]
        budgets = [of_one for of_one in own if of_one]
        if len(budgets) == len(own):  # a member without a budget that binds has what its organization's windows leave
            left += min([sum(min(c.left for c in of_one) for of_one in budgets), *(c.left for c in shared)])
            pace += min([sum(min(c.pace for c in of_one) for of_one in budgets), *(c.pace for c in shared)])
        else:
            left += min((c.left for c in shared), default=0)
            pace += min((c.pace for c in shared), default=NO_LIMIT)
    burn = sum(_burn(one, is_weekly=bool(is_weekly)) for one in balances)
    refills = [one.refills_at_ms for members in quotas.values() for of_one in members for one in of_one]
    return _Horizon(able[0].at_ms, left, pace, burn, min(refills, default=able[0].at_ms + WEEK_MS))


def _burn(balance: Balance, *, is_weekly: bool) -> float:
    """What a subscription spends an hour: a week is measured by the day's mean, five hours by the last hour."""
    day = balance.days[0] / 24 if balance.days else 0.0
    return day if is_weekly else float(balance.hour_spent)


def advise(
    request: Request, balances: Sequence[Balance], strategy: Literal["headroom", "health"] = "headroom"
) -> Advice:
    """Advice for whoever makes a request of the usual size: what :func:`~pool_mcp.choosing.selection.choose` would do.

    Where it would be refused, the advice is to wait until the first instant at which it would be served; where only a
    person can change that, to stop. Else the pace decides.
    """
    choice = choose(request, balances, strategy)
    if request.pool_cooldown is not None:
        until_ms = request.pool_cooldown.until_ms
        return Advice(Action.WAIT, request.pool_cooldown.detail, 0, until_ms, next_ask_at_ms=until_ms)
    if choice.subscription is None:
        retry_at_ms = choice.next_available_at_ms
        if retry_at_ms is None:
            reasons = {one.reason for one in map(availability, balances) if one.status is not Status.DISABLED}
            why = reasons.pop() if len(reasons) == 1 else "see each one's status_reason"
            return Advice(Action.STOP, f"No subscription can be used until a person acts: {why.rstrip('.')}.", 0)
        is_held = any(one.held_by is not None for one in choice.candidates)
        meets = "have to wait its turn, until about" if is_held else "be refused until"
        reason = f"The next ask would {meets} {rfc3339(retry_at_ms)}: {choice.reason}."
        return Advice(Action.WAIT, reason, 0, retry_at_ms, next_ask_at_ms=retry_at_ms)
    able = {one.id for one in choice.candidates if one.eligible}
    advice = _paced(request, balances, [one for one in balances if one.subscription.id in able])
    likely = request.likely.get(choice.subscription, request.estimates[choice.subscription])
    return replace(advice, next_ask_at_ms=_next_ask_ms(advice, request, likely, balances[0].at_ms))


def _next_ask_ms(advice: Advice, request: Request, likely: int, now_ms: int) -> int:
    """When the next ask of the usual size is due: at once, or as long after the last one as the pace says.

    Never more than a day after it: one expensive ask is no reason for weeks of silence.
    """
    if advice.max_nanousd_per_hour is None:
        return now_ms
    pause_ms = min(DAY_MS, likely * HOUR_MS // max(1, advice.max_nanousd_per_hour))
    return max(now_ms, (now_ms if request.last_asked_ms is None else request.last_asked_ms) + pause_ms)


def _paced(request: Request, balances: Sequence[Balance], able: Sequence[Balance]) -> Advice:
    """Advice where the next ask would be served: go on, or no faster than the room bears.

    All subscriptions' burn counts, also of those that cannot serve: what is asked goes on to those that can. Each
    caller is given its part of the pace: agents do not know of each other.
    """
    block, week = (_horizon(able, balances, request.model, is_weekly=is_weekly) for is_weekly in (False, True))
    block_pace, week_pace = block.pace / request.active_callers, week.pace / request.active_callers
    headroom = _horizon(able, balances, request.model, is_weekly=None).left
    headroom = min([headroom, *(one.left for one in request.allowances if one.left is not None)])
    for allowance in request.allowances:
        own = _own_constraint(allowance)
        if own is not None and own.burn > FAST * own.pace:
            until = rfc3339(own.refills_at_ms)
            reason = f"At ${own.burn / NANO:.2f} an hour {allowance.name}'s own budget would not last until {until}."
            most = round(min(block_pace, own.pace))
            return Advice(Action.SLOW_DOWN, reason, headroom, None, most, own.exhausts_at_ms)
    if block.is_too_fast:
        reason = (
            f"At ${block.burn / NANO:.2f} an hour the room of ${headroom / NANO:.2f} would not last until "
            f"{rfc3339(block.refills_at_ms)}."
        )
        return Advice(Action.SLOW_DOWN, reason, headroom, None, round(block_pace), block.exhausts_at_ms)
    if week.is_too_fast:
        reason = (
            f"At ${week.burn / NANO:.2f} an hour, the last day's mean, the week's room of ${week.left / NANO:.2f} "
            "would not last until it is filled up again."
        )
        return Advice(Action.SLOW_DOWN, reason, headroom, None, round(week_pace), week.exhausts_at_ms)
    if all(availability(one).status is not Status.AVAILABLE for one in able):
        reason = f"Every subscription that is left is over {APPROACHING_PERCENT:.0f}% used."
        return Advice(Action.SLOW_DOWN, reason, headroom, None, round(min(block_pace, week_pace)))
    return Advice(Action.PROCEED, f"There is room for ${headroom / NANO:.2f}.", headroom)


def _own_constraint(caller: Allowance) -> _Constraint | None:
    """The tightest of a caller's or a project's own budgets."""
    found = []
    if caller.budget.daily_nanousd is not None:
        left = max(0, caller.budget.daily_nanousd - caller.day_spent - caller.reserved)
        refills_at_ms = day_start_ms(caller.at_ms) + DAY_MS
        found.append(_Constraint(caller.at_ms, left, refills_at_ms, float(caller.hour_spent), is_weekly=False))
    if caller.budget.weekly_nanousd is not None:
        left = max(0, caller.budget.weekly_nanousd - caller.week_spent - caller.reserved)
        found.append(_rolling_week(caller.at_ms, left, caller.days))
    if caller.budget.monthly_nanousd is not None:
        left = max(0, caller.budget.monthly_nanousd - caller.month_spent - caller.reserved)
        burn = caller.days[0] / 24 if caller.days else 0.0
        found.append(_Constraint(caller.at_ms, left, month_end_ms(caller.at_ms), burn, is_weekly=True))
    return min(found, key=lambda one: one.pace, default=None)


# Alerts


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should hear of once.

    ``key`` is the same for the same event in every process: a threshold of one window, told once however often it is
    seen. Until ``until_ms`` it is shown in the status. ``notice`` is the kind under which receivers ask for it.
    """

    key: str
    kind: str
    subscription: str
    message: str
    until_ms: int
    notice: NoticeKind | None = None


def alerts(balances: Sequence[Balance]) -> list[Alert]:
    """Every alert that the pool's state calls for, told already or not."""
    return [alert for balance in balances for alert in _alerts(balance)]


def _alerts(balance: Balance) -> Iterator[Alert]:
    name, cooldown = balance.subscription.id, cooldowns.worst(balance.cooldowns, None, balance.at_ms)
    # Without a CLI it is the machine that needs a person, and the next one on the same ledger may have it.
    if cooldown is not None and cooldowns.needs_a_person(cooldown) and cooldown.cause != "cli_missing":
        yield Alert(
            f"{name} needs_login {cooldown.since_ms}",
            "needs_login",
            name,
            f"{name}: {cooldown.detail}",
            balance.at_ms + DAY_MS,
            "login",
        )
    for what, percent, resets_at_ms in _levels(balance):
        # A reset may be given a little differently each time; within ten minutes it is the same one.
        key = f"{name} {what} {round(resets_at_ms / RESET_JITTER_MS)}"
        if percent >= 100:
            message = f"{name}: {what} is used up until {rfc3339(resets_at_ms)}"
            notice: NoticeKind = "budget" if what in (BLOCK_BUDGET, WEEKLY_BUDGET) else "limit"
            yield Alert(f"{key} limit", "limit", name, message, resets_at_ms, notice)
        elif passed := [threshold for threshold in THRESHOLDS if percent >= threshold]:
            message = f"{name}: {what} is {percent:.0f}% used; it resets at {rfc3339(resets_at_ms)}"
            yield Alert(f"{key} {passed[0]:.0f}", f"{passed[0]:.0f}%", name, message, resets_at_ms, "threshold")
    for window, gauge in balance.gauges.items():
        reset_ms = gauge.resets_at_ms
        if gauge.kept.percent and reset_ms is not None and gauge.percent_of_usable >= LIMITED_PERCENT:
            message = (
                f"{name}: agents have used what they may of the {window} window, {gauge.percent:.0f}% is used; "
                f"{gauge.kept.percent:.0f}% is kept for you until {rfc3339(reset_ms)}"
            )
            yield Alert(
                f"{name} {window} {round(reset_ms / RESET_JITTER_MS)} kept", "kept", name, message, reset_ms, "budget"
            )


def own_alerts(allowances: Sequence[Allowance]) -> list[Alert]:
    """Every alert that callers' and projects' own budgets call for, told already or not; they are no subscription's."""
    return [alert for allowance in allowances for alert in _own_alerts(allowance)]


def _own_alerts(own: Allowance) -> Iterator[Alert]:
    budget, now_ms = own.budget, own.at_ms
    for period, most, spent, resets_at_ms in (
        ("daily", budget.daily_nanousd, own.day_spent, day_start_ms(now_ms) + DAY_MS),
        ("weekly", budget.weekly_nanousd, own.week_spent, now_ms - now_ms % WEEK_MS + WEEK_MS),
        ("monthly", budget.monthly_nanousd, own.month_spent, month_end_ms(now_ms)),
    ):
        percent = 100 * spent / most if most is not None else 0.0
        key, what = f"{own.label} {period} {resets_at_ms}", f"the {period} budget of {own.label}"
        if percent >= 100:
            yield Alert(f"{key} spent", "spent", "", f"{what} is spent", resets_at_ms, "budget")
        elif passed := [threshold for threshold in THRESHOLDS if percent >= threshold]:
            message = f"{what} is {percent:.0f}% used"
            yield Alert(f"{key} {passed[0]:.0f}", f"{passed[0]:.0f}%", "", message, resets_at_ms, "threshold")


def _levels(balance: Balance) -> Iterator[tuple[str, float, int]]:
    """What can run out, how full it is, and when it is filled up again; a rolling week counts from Thursday on."""
    subscription, now_ms = balance.subscription, balance.at_ms
    spent = 100 * balance.block_spent / subscription.block_budget_nanousd
    if balance.block_binds:
        yield BLOCK_BUDGET, spent, balance.block.ends_at_ms
    if balance.week_binds:
        yield WEEKLY_BUDGET, balance.week_percent, now_ms - now_ms % WEEK_MS + WEEK_MS
    for name, gauge in balance.gauges.items():
        if gauge.resets_at_ms is not None:
            # Only Anthropic says that its window is used up.
            percent = 100.0 if gauge.official_percent >= FULL_PERCENT else min(99.0, gauge.percent)
            yield f"the {name} window", percent, gauge.resets_at_ms


def failover(run_id: str, before: str, after: str, why: str, now_ms: int) -> Alert:
    """An ask that went on under another subscription."""
    message = f"{before} refused an ask ({why}); it went on under {after}"
    return Alert(f"{run_id} failover", "failover", before, message, now_ms + HOUR_MS, "failover")


def room_again(limits: Sequence[Alert], balances: Sequence[Balance]) -> list[Alert]:
    """For each limit that was told and no longer holds, that its subscription can be used again; it is not shown."""
    usable = {
        one.subscription.id: one.at_ms
        for one in balances
        if availability(one).status in (Status.AVAILABLE, Status.APPROACHING)
    }
    return [
        Alert(
            f"{limit.key}{ROOM_SUFFIX}",
            "room",
            limit.subscription,
            f"{limit.subscription}: there is room again",
            usable[limit.subscription],
            "room",
        )
        for limit in limits
        if limit.subscription in usable
    ]
