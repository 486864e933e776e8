"""Chooses a subscription for an ask: a pure function that gives its reasons for every candidate.

In order: eligible at all, fits every window and budget, the session's pin, the highest priority tier, the best score.

The score weighs how much room a window has against how much of its time is left. At a ratio of 1 a subscription is on
its pace; above, room will expire unused, so it goes first; below, it is ahead of its pace and is kept for later. The
weekly window and the five-hour one each give such a part, and the ask's own size is taken off first, so that a large
ask leaves a small plan alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pool_mcp.choices import Strategy
from pool_mcp.choosing import cooldowns
from pool_mcp.choosing.allowances import Allowance
from pool_mcp.choosing.budget import IN_FLIGHT_MS, Balance, health
from pool_mcp.choosing.rates import Gauge
from pool_mcp.choosing.windows import FIVE_HOUR, FULL_PERCENT, applies_to, rfc3339
from pool_mcp.model import HOUR_MS, MINUTE_MS, NANO, Cooldown

MARGIN_PERCENT = 0.5
"""What is left free in a window beside the ask: readings are whole percents at times, and others use it, too."""

MOST_NEEDED_SHARE = 0.95
"""No ask is taken to need more than this of what agents may use of a window, or one with a generous ``max_cost_usd``
would never fit."""

MOST_TIMES_LEFT = 4.0
"""An ask may use up the last of a week that is thought to need this many times what is left; estimates are high."""

WEEK_WEIGHT = 0.7
"""The weekly part's weight in the score; the five-hour part has the rest. Chosen with the simulation."""

WEEK_POWER = 2.0
"""How sharply the weekly part tells room that will expire from room that will not; likewise chosen."""

TIGHT_SHARE = 0.2
"""From here down, what a budget has left scales the score down."""

LEAST_TIME_SHARE = 0.01
"""Less time than this before a reset counts as this much."""

WARM_MS = 5 * MINUTE_MS
"""How long Anthropic keeps the cached beginning of a prompt, which every session of a subscription shares."""

WARM_BONUS = 1.0
"""What a warm cache is worth in points of the score, while nothing else is in flight there."""

IN_FLIGHT_PENALTY = 1.0
"""Points off for each run in flight: many requests at once are what Anthropic answers with a burst 429."""


HeldBy = Literal["subscription", "caller", "pool"]
"""What the room belongs to that only runs in flight, or asks before this one, are in the way of."""

MOST_OBSTACLES = 50
"""More than can follow one another before everything that was spent has left every window and budget."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be placed.

    ``estimates`` is what it may cost under each subscription, in nano-dollars, ``likely`` what it most likely will.
    ``caller`` is who asks and ``project`` what for, where those have budgets. ``only`` pins it to one; ``by_name``
    says that the caller named that one, so that it is tried even while it is thought to need a login. ``tried`` have
    already refused it. ``pool_cooldown`` is the pool's own, while Anthropic is overloaded. ``may_probe`` lets the
    ask itself find out whether somebody has signed in, where every subscription waits for that. ``last_asked_ms`` is
    when its caller last asked, and ``active_callers`` how many share the pool, both for advice only.
    ``kept`` are subscriptions that asks before this one wait for, and ``is_behind`` says that one of its own caller
    waits for that one's budget. ``unspared`` are those whose room their owner's pace will use, for an ask that is to
    use up what would expire only.
    """

    estimates: Mapping[str, int]
    model: str | None = None
    likely: Mapping[str, int] = field(default_factory=dict)
    caller: Allowance | None = None
    project: Allowance | None = None
    only: str | None = None
    by_name: bool = False
    tried: frozenset[str] = frozenset()
    pool_cooldown: Cooldown | None = None
    may_probe: bool = False
    last_asked_ms: int | None = None
    active_callers: int = 1
    kept: frozenset[str] = frozenset()
    is_behind: bool = False
    unspared: frozenset[str] = frozenset()

    def without_reservations(self) -> "Request":
        """The same request if every run in flight ended now and had cost nothing, and nobody else waited."""
        caller, project = (None if one is None else replace(one, reserved=0) for one in (self.caller, self.project))
        cooldown = None if self.pool_cooldown is None else replace(self.pool_cooldown, is_probed=False)
        return replace(self, caller=caller, project=project, pool_cooldown=cooldown, kept=frozenset(), is_behind=False)

    def at(self, later_ms: int) -> "Request":
        """The same request at a later instant, when no other run tests whether an overload is over."""
        caller, project = (None if one is None else one.at(later_ms) for one in (self.caller, self.project))
        return replace(self, caller=caller, project=project, pool_cooldown=None, kept=frozenset(), is_behind=False)

    @property
    def allowances(self) -> list[Allowance]:
        """Whose own budgets it has to fit."""
        return [one for one in (self.caller, self.project) if one is not None]

    def fitting(self, subscription: str, left: int | None, reserved: int) -> int | None:
        """What to reserve within a budget that leaves so much (None: any amount); None where the ask has no room.

        Where it fits only if it costs what is likely, it may have all that is left, alone: the CLI is started with that
        as its cap. So a small budget can be used to its end, and overrun by one API call at most.
        """
        estimate = self.estimates[subscription]
        if left is None or estimate <= left:
            return estimate
        return left if not reserved and 0 < self.likely.get(subscription, estimate) <= left else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """The verdict on one subscription. ``blocked_by`` is the error kind that keeps it out, ``reserve`` what to reserve.

    ``available_at_ms`` is when it could serve this ask if nothing else is asked until then. ``held_by`` is set where
    only runs in flight, or asks that wait before this one, are in the way. ``is_paid`` says that it would serve beyond
    its plan, which its overage budget allows: so it comes after all that have room in theirs.
    """

    id: str
    eligible: bool
    score: float
    reasons: tuple[str, ...]
    blocked_by: str | None = None
    available_at_ms: int | None = None
    reserve: int = 0
    is_paid: bool = False
    held_by: HeldBy | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The subscription chosen, or None, and the verdict on each; ``reserve`` is what to reserve there.

    ``is_paid`` says that the ask goes beyond the plan and is paid for.
    """

    subscription: str | None
    reason: str
    candidates: tuple[Candidate, ...] = field(default_factory=tuple)
    reserve: int = 0
    is_paid: bool = False

    @property
    def next_available_at_ms(self) -> int | None:
        """When the first of those that are kept out may serve, where that is known."""
        times = [c.available_at_ms for c in self.candidates if not c.eligible and c.available_at_ms is not None]
        return min(times) if times else None


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """What keeps a subscription from serving: the error kind, why, and when it may have gone."""

    kind: str
    why: str
    until_ms: int | None = None
    passes: bool = False
    """Whether it may go by itself, though it is not known when: with the end of runs in flight."""
    where: HeldBy = "subscription"


def choose(
    request: Request,
    balances: Sequence[Balance],
    strategy: Strategy = "headroom",
) -> Choice:
    """The best subscription for an ask. The same input gives the same answer, whatever the order of candidates."""
    enabled = [b for b in balances if b.subscription.enabled]
    nobody_signed_in = request.may_probe and all(map(_needs_a_person, enabled))
    verdicts = {b.subscription.id: _judge(request, b, strategy, last_resort=nobody_signed_in) for b in balances}
    candidates = tuple(verdicts[key] for key in sorted(verdicts))
    able = [b for b in balances if verdicts[b.subscription.id].eligible]
    if not able:
        return Choice(None, _why_none(request, candidates), candidates)
    able = [b for b in able if not verdicts[b.subscription.id].is_paid] or able
    tier = max(b.subscription.priority for b in able)
    best = min(
        (b for b in able if b.subscription.priority == tier),
        key=lambda b: (-verdicts[b.subscription.id].score, b.last_used_ms or 0, b.subscription.id),
    )
    chosen = verdicts[best.subscription.id]
    return Choice(best.subscription.id, "; ".join(chosen.reasons), candidates, chosen.reserve, chosen.is_paid)


def most_nanousd(request: Request, chosen: Balance, choice: Choice, cap_nanousd: int | None) -> int | None:
    """The most that an ask may spend where it was placed: what the tightest of its bounds leaves, if it has any."""
    limits = [cap_nanousd, chosen.left, left_of_share(request, chosen), *(one.left for one in request.allowances)]
    if not choice.is_paid:
        limits.append(chosen.left_beside_kept(request.model))
    elif chosen.paid_use is not None:
        limits.append(chosen.paid_use.left)
    return min((limit for limit in limits if limit is not None), default=None)


def _judge(request: Request, balance: Balance, strategy: str, *, last_resort: bool) -> Candidate:
    name = balance.subscription.id
    gauges = _gauges(request, balance)
    score, reason = _score(request.estimates[name], balance, gauges, strategy)
    obstacle = _obstacle(request, balance, last_resort=last_resort)
    if obstacle is None:
        is_paid = _goes_beyond_plan(request, balance)
        if is_paid:
            reason += "; beyond its plan, for real money"
        return Candidate(name, True, score, (reason,), reserve=_reserve(request, balance), is_paid=is_paid)
    idle = _obstacle(request.without_reservations(), balance.without_reservations(), last_resort=last_resort)
    at_ms = _available_at_ms(request, balance, obstacle, idle, last_resort=last_resort)
    held_by = obstacle.where if idle is None else None
    return Candidate(name, False, score, (obstacle.why, reason), obstacle.kind, at_ms, held_by=held_by)


def _gauges(request: Request, balance: Balance) -> list[Gauge]:
    """Of the windows that count the model that is asked for."""
    return [one for one in balance.gauges.values() if applies_to(one.window, request.model)]


def _reserve(request: Request, balance: Balance) -> int:
    """What to reserve for an ask that fits: what it may cost, or what the tightest small budget leaves."""
    name = balance.subscription.id
    budgets: list[tuple[int | None, int]] = [(balance.left, balance.in_flight)]
    budgets += [(one.left, one.reserved) for one in request.allowances]
    beside_kept = balance.left_beside_kept(request.model)
    if balance.paid_use is not None and _goes_beyond_plan(request, balance):
        budgets.append((balance.paid_use.left, balance.in_flight))
        beside_kept = None
    fitting = [request.fitting(name, left, reserved) for left, reserved in budgets]
    shares = (beside_kept, left_of_share(request, balance))
    return min(amount for amount in (*fitting, *shares) if amount is not None)


def _available_at_ms(
    request: Request, balance: Balance, obstacle: _Obstacle, found: _Obstacle | None, *, last_resort: bool
) -> int | None:
    """The first instant at which the same request would be served, if nothing else is asked until then.

    ``found`` is what would be in the way without any run in flight. What is only reserved comes back with the end of a
    run: soon, nobody knows when. Each further obstacle can go at one instant only (a reset, a block's end, an hour that
    leaves the week), so going from one to the next finds the first.
    """
    if obstacle.until_ms is None and not obstacle.passes:
        return None  # a person has to act, or another subscription is meant
    soon_ms = balance.at_ms + IN_FLIGHT_MS
    if found is None:
        return soon_ms if obstacle.until_ms is None else min(obstacle.until_ms, soon_ms)
    later_ms = balance.at_ms
    for _ in range(MOST_OBSTACLES):
        if found is None:
            return later_ms
        if found.until_ms is None or found.until_ms <= later_ms:
            return None
        later_ms = found.until_ms
        found = _obstacle(request.at(later_ms), balance.at(later_ms), last_resort=last_resort)
    return None


# What keeps a subscription out


def _obstacle(request: Request, balance: Balance, *, last_resort: bool) -> _Obstacle | None:
    """The first thing that keeps a subscription from serving a request, at the balance's instant."""
    return (
        _not_meant(request, balance.subscription.id)
        or _over_own_budget(request, balance.subscription.id)
        or _over_share(request, balance)
        or _not_able(request, balance, last_resort=last_resort)
        or _no_room(request, balance)
        or _not_its_turn(request, balance.subscription.id)
    )


def _not_its_turn(request: Request, name: str) -> _Obstacle | None:
    if name in request.unspared:
        return _Obstacle("limit", "its owner's pace will use its room (urgency idle)", passes=True)
    if name in request.kept:
        return _Obstacle("limit", "asks before this one wait for it", passes=True)
    return None


def _over_own_budget(request: Request, name: str) -> _Obstacle | None:
    for own in request.allowances:
        if own.left is None:
            continue
        if request.is_behind:
            why = f"earlier asks wait for the budget of {own.label}"
            return _Obstacle("budget", why, passes=True, where="caller")
        if request.fitting(name, own.left, own.reserved) is not None:
            continue
        estimate = request.estimates[name]
        why = f"the budget of {own.label} leaves ${own.left / NANO:.2f}, the ask may need ${estimate / NANO:.2f}"
        needed = min(estimate, request.likely.get(name, estimate))
        return _Obstacle("budget", why, own.frees_at_ms(needed), passes=True, where="caller")
    return None


def _over_share(request: Request, balance: Balance) -> _Obstacle | None:
    """Whether the caller would use more than its share of an official window."""
    name, caller = balance.subscription.id, request.caller
    if caller is None or caller.share_percent is None:
        return None
    for gauge in _gauges(request, balance):
        used = caller.used_percent(name, gauge)
        needed = min(_needed_percent(request.estimates[name], gauge), MOST_NEEDED_SHARE * caller.share_percent)
        if used + needed > caller.share_percent:
            why = (
                f"{caller.label} has used {used:.1f}% of its {gauge.window} window and may use "
                f"{caller.share_percent:g}% (share), the ask may need {needed:.1f}%"
            )
            return _Obstacle("budget", why, gauge.frees_at_ms, passes=True, where="caller")
    return None


def left_of_share(request: Request, balance: Balance) -> int | None:
    """What the caller's share of the tightest window leaves, in money; None where it has no share."""
    caller = request.caller
    if caller is None or caller.share_percent is None:
        return None
    left = (
        (caller.share_percent - caller.used_percent(balance.subscription.id, one)) * one.rate.nanousd_per_percent
        for one in _gauges(request, balance)
    )
    return min((max(0, round(amount)) for amount in left), default=None)


def _not_meant(request: Request, name: str) -> _Obstacle | None:
    if request.only is not None and name != request.only:
        return _Obstacle("pinned", f"the ask is bound to {request.only}")
    if name in request.tried:
        return _Obstacle("limit", "has already refused this ask")
    return None


def _needs_a_person(balance: Balance) -> bool:
    return any(map(cooldowns.needs_a_person, balance.cooldowns))


def _not_able(request: Request, balance: Balance, *, last_resort: bool) -> _Obstacle | None:
    """Whether it can serve at all. After a cooldown one run at a time tests whether that is over."""
    subscription, pool_cooldown = balance.subscription, request.pool_cooldown
    if not subscription.enabled:
        return _Obstacle("invalid_request", "switched off in pool.toml")
    if pool_cooldown is not None and pool_cooldown.is_probed:
        return _Obstacle("overloaded", pool_cooldown.detail, pool_cooldown.until_ms, where="pool")
    cooldown = cooldowns.worst(balance.cooldowns, request.model, balance.at_ms)
    if cooldown is not None:
        kind, may_try = cooldowns.kind_of(cooldown), request.by_name or last_resort
        if cooldowns.is_in_force(cooldown, balance.at_ms) and not (may_try and cooldowns.needs_a_person(cooldown)):
            return _Obstacle(kind, cooldown.detail, cooldown.until_ms)
        if cooldown.is_probed:
            why = f"one run is testing whether this is over: {cooldown.detail}"
            return _Obstacle(kind, why, balance.at_ms + cooldowns.PROBE_MS)
    if balance.in_flight >= subscription.max_in_flight:
        return _Obstacle("limit", f"has its {subscription.max_in_flight} runs in flight (max_in_flight)", passes=True)
    return None


def _no_room(request: Request, balance: Balance) -> _Obstacle | None:
    if _goes_beyond_plan(request, balance):
        return _over_paid_budget(request, balance) or _over_own_budgets(request, balance)
    return _no_room_in_windows(request, balance) or _over_own_budgets(request, balance)


def _goes_beyond_plan(request: Request, balance: Balance) -> bool:
    """Whether a subscription that may be paid for beyond its plan would have to be; not for what its person keeps."""
    if balance.paid_use is None or balance.is_paid:
        return balance.is_paid
    within_plan = _no_room_in_windows(request, balance)
    return within_plan is not None and within_plan.kind != "budget"


def _over_paid_budget(request: Request, balance: Balance) -> _Obstacle | None:
    name, paid = balance.subscription.id, balance.paid_use
    if paid is None or request.fitting(name, paid.left, balance.in_flight) is not None:
        return None
    within_plan = _no_room_in_windows(request, balance)
    why = "its plan is used up" if within_plan is None else within_plan.why
    left = f"{why}, and its overage budget leaves ${paid.left / NANO:.2f} of real money"
    return _Obstacle("limit", left, within_plan.until_ms if within_plan else paid.until_ms, passes=True)


def _no_room_in_windows(request: Request, balance: Balance) -> _Obstacle | None:
    estimate = request.estimates[balance.subscription.id]
    for gauge in _gauges(request, balance):
        if _may_use_the_last(estimate, balance, gauge):
            continue
        until = f" until {rfc3339(gauge.resets_at_ms)}" if gauge.resets_at_ms else ""
        if gauge.percent >= FULL_PERCENT:
            return _Obstacle("limit", f"its {gauge.window} window is used up{until}", gauge.frees_at_ms)
        needed = _needed_percent(estimate, gauge)
        if needed + MARGIN_PERCENT > gauge.room_percent:
            return _too_little_left(gauge, needed, until)
    return None


def _over_own_budgets(request: Request, balance: Balance) -> _Obstacle | None:
    name = balance.subscription.id
    estimate = request.estimates[name]
    needs = f"needs ${estimate / NANO:.2f}"
    needed = min(estimate, request.likely.get(name, estimate))
    if balance.week_binds and request.fitting(name, balance.week_left, balance.in_flight) is None:
        left = f"its weekly budget leaves ${max(0, balance.week_left) / NANO:.2f}, the ask {needs}"
        return _Obstacle("budget", left, balance.week_frees_at_ms(needed), passes=True)
    if balance.block_binds and request.fitting(name, balance.block_left, balance.in_flight) is None:
        left = f"its block budget leaves ${max(0, balance.block_left) / NANO:.2f}, the ask {needs}"
        until_ms = balance.block.ends_at_ms if needed <= balance.subscription.block_budget_nanousd else None
        return _Obstacle("budget", left, until_ms, passes=True)
    return None


def _may_use_the_last(estimate: int, balance: Balance, gauge: Gauge) -> bool:
    """Whether one ask at a time may use up what is left of a week, though it may need more; not what is kept.

    Half of all asks that were refused in the simulation in spite of room were refused over a week's last percents. Five
    hours come back soon, and there it had more runs cut.
    """
    reading = balance.readings[gauge.window]
    return (
        gauge.window != FIVE_HOUR
        and not gauge.kept.percent
        and balance.in_flight == 0
        and not balance.reserved_beside
        and reading.status != "rejected"
        and gauge.official_percent < 100
        and gauge.percent < 100
        and _needed_percent(estimate, gauge) <= MOST_TIMES_LEFT * max(1.0, 100 - gauge.percent)
    )


def _too_little_left(gauge: Gauge, needed: float, until: str) -> _Obstacle:
    """A window that has no room for the ask, or none beside what is kept for the person."""
    kept, room = gauge.kept.percent, gauge.room_percent
    beside = f" beside the {kept:.0f}% kept for its person (keep_percent)" if kept else ""
    why = f"its {gauge.window} window has {room:.1f}% left{beside}{until}, the ask may need {needed:.1f}%"
    # What is kept is the person's rule; nobody goes on beyond the plan, either, before they have used it up.
    return _Obstacle("budget" if kept else "limit", why, gauge.has_room_at_ms(needed + MARGIN_PERCENT), passes=True)


def _needed_percent(estimate: int, gauge: Gauge) -> float:
    usable = 100.0 - gauge.kept.share
    most = max(0.0, min(MOST_NEEDED_SHARE * usable, usable - MARGIN_PERCENT))
    return min(most, estimate / gauge.rate.nanousd_per_percent)


# Which is best


def _score(estimate: int, balance: Balance, gauges: Sequence[Gauge], strategy: str) -> tuple[float, str]:
    if strategy == "health":
        score = health(balance).score
        return score, f"health {score:.0f}"
    five_hour = [_part(estimate, one) for one in gauges if one.window == FIVE_HOUR]
    weekly = [_part(estimate, one) for one in gauges if one.window != FIVE_HOUR]
    block_share, week_share = _budget_shares(estimate, balance)
    block, now_ms = balance.block, balance.at_ms
    block_time_left = (block.ends_at_ms - now_ms) / max(1, block.ends_at_ms - block.starts_at_ms)
    # Where Anthropic reports a week and no five hours, a plan has none, and its week alone decides.
    week_part = min(weekly, default=_pace(week_share, 1.0, WEEK_POWER))
    no_block = week_part if weekly and not balance.block_binds else _pace(block_share, block_time_left)
    block_part = min(five_hour, default=no_block)
    shares = ((block_share, balance.block_binds), (week_share, balance.week_binds))
    tight = min([1.0, *(share / TIGHT_SHARE for share, binds in shares if binds)])
    is_warm = balance.in_flight == 0 and balance.last_used_ms is not None and now_ms - balance.last_used_ms < WARM_MS
    score = 100 * tight * (WEEK_WEIGHT * week_part + (1 - WEEK_WEIGHT) * block_part)
    score = score + WARM_BONUS if is_warm else score - IN_FLIGHT_PENALTY * balance.in_flight
    return min(100.0, max(0.0, score)), _why(balance, gauges, week_part, is_warm=is_warm)


def _part(estimate: int, gauge: Gauge) -> float:
    """A window's part of the score, 0-1, with the ask's own size taken off."""
    room = max(0.0, gauge.room_percent - _needed_percent(estimate, gauge)) / 100
    return _pace(room, gauge.share_of_time_left, 1.0 if gauge.window == FIVE_HOUR else WEEK_POWER)


def _pace(room_share: float, time_share: float, power: float = 1.0) -> float:
    """0.5 where room and time left are in step, towards 1 where room will expire unused, 0 where there is none."""
    ratio: float = (room_share / max(LEAST_TIME_SHARE, time_share)) ** power
    return ratio / (1 + ratio)


def _budget_shares(estimate: int, balance: Balance) -> tuple[float, float]:
    """What the block's and the week's budget have left beside the ask, as shares of the whole."""
    subscription = balance.subscription
    return (
        max(0.0, (balance.block_left - estimate) / subscription.block_budget_nanousd),
        max(0.0, (balance.week_left - estimate) / subscription.weekly_budget_nanousd),
    )


def _why(balance: Balance, gauges: Sequence[Gauge], week_part: float, *, is_warm: bool) -> str:
    """The score in words: what is used, whether weekly room is about to expire or is used ahead of its pace."""
    reserved = f", ${balance.reserved / NANO:.2f} reserved" if balance.reserved else ""
    used = ", ".join(f"{one.window} {one.percent:.0f}%" for one in gauges) or (
        f"block budget {100 * balance.block_spent / balance.subscription.block_budget_nanousd:.0f}%, "
        f"weekly budget {balance.week_percent:.0f}%"
    )
    reason = f"used: {used}{reserved}"
    resets = [one.resets_at_ms for one in gauges if one.window != FIVE_HOUR and one.resets_at_ms is not None]
    if resets and week_part > 0.6:
        reason += f"; weekly room expires in {(min(resets) - balance.at_ms) / HOUR_MS:.0f} h"
    elif resets and week_part < 0.4:
        reason += "; ahead of its weekly pace, so it is kept for later"
    return reason + ("; its cache is warm" if is_warm else "")


def _why_none(request: Request, candidates: Sequence[Candidate]) -> str:
    meant = [c for c in candidates if c.blocked_by != "pinned" or request.only is None]
    reasons = {c.reasons[0] for c in meant}
    if request.allowances and len(reasons) == 1 and meant[0].reasons[0].startswith("the budget of "):
        return reasons.pop()
    return "; ".join(f"{c.id}: {c.reasons[0]}" for c in meant)
