"""Chooses a subscription for an ask: a pure function that gives its reasons for every candidate.

In order: eligible at all, fits every budget and window, the session's pin, the highest priority tier, the best score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pool_mcp.budget import Balance, Standing, Status, health, standing
from pool_mcp.model import NANO
from pool_mcp.windows import percent_now, rfc3339

FULL_PERCENT = 99.5
"""An official window this full is not worth a start: the ask would be cut."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be placed.

    ``estimates`` is what it may cost under each subscription, in nano-dollars. ``only`` pins it to one; ``by_name``
    says that the caller named that one, so that it is tried even while it is thought to need a login. ``tried`` have
    already refused it.
    """

    estimates: Mapping[str, int]
    model: str | None = None
    only: str | None = None
    by_name: bool = False
    tried: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Candidate:
    """The verdict on one subscription. ``blocked_by`` is the error kind that keeps it out."""

    id: str
    eligible: bool
    score: float
    reasons: tuple[str, ...]
    blocked_by: str | None = None
    available_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The subscription chosen, or None, and the verdict on each."""

    subscription: str | None
    reason: str
    candidates: tuple[Candidate, ...] = field(default_factory=tuple)

    @property
    def next_available_at_ms(self) -> int | None:
        """When the first of those that are kept out may serve, where that is known."""
        times = [c.available_at_ms for c in self.candidates if not c.eligible and c.available_at_ms is not None]
        return min(times) if times else None


def choose(
    request: Request,
    balances: Sequence[Balance],
    now_ms: int,
    strategy: Literal["headroom", "health"] = "headroom",
) -> Choice:
    """The best subscription for an ask. The same input gives the same answer, whatever the order of candidates."""
    verdicts = {b.subscription.id: _judge(request, b, now_ms, strategy) for b in balances}
    candidates = tuple(verdicts[key] for key in sorted(verdicts))
    able = [b for b in balances if verdicts[b.subscription.id].eligible]
    if not able:
        return Choice(None, _why_none(request, candidates), candidates)
    tier = max(b.subscription.priority for b in able)
    best = min(
        (b for b in able if b.subscription.priority == tier),
        key=lambda b: (-verdicts[b.subscription.id].score, b.last_used_ms or 0, b.subscription.id),
    )
    chosen = verdicts[best.subscription.id]
    return Choice(best.subscription.id, "; ".join(chosen.reasons), candidates)


def _judge(request: Request, balance: Balance, now_ms: int, strategy: str) -> Candidate:
    subscription = balance.subscription
    obstacle = _obstacle(request, balance, now_ms)
    score, reason = _score(balance, now_ms, strategy)
    if obstacle is None:
        return Candidate(subscription.id, True, score, (reason,))
    kind, why, available_at_ms = obstacle
    return Candidate(subscription.id, False, score, (why, reason), kind, available_at_ms)


def _obstacle(request: Request, balance: Balance, now_ms: int) -> tuple[str, str, int | None] | None:
    """What keeps a subscription from serving: error kind, reason, when it may have gone."""
    subscription = balance.subscription
    if request.only is not None and subscription.id != request.only:
        return "pinned", f"the ask is bound to {request.only}", None
    if subscription.id in request.tried:
        return "limit", "has already refused this ask", None
    stands = standing(balance, now_ms)
    if stands.status is Status.NEEDS_LOGIN and request.by_name:
        return None
    if stands.status in (Status.DISABLED, Status.NEEDS_LOGIN, Status.COOLDOWN):
        return _kind_of(balance, stands), stands.reason, stands.available_at_ms
    if balance.in_flight >= subscription.max_in_flight:
        return "limit", f"has its {subscription.max_in_flight} runs in flight (max_in_flight)", None
    for reading in balance.readings.values():
        percent = percent_now(reading, now_ms)
        if percent is not None and percent >= FULL_PERCENT and applies_to(reading.window, request.model):
            reset = f" until {rfc3339(reading.resets_at_ms)}" if reading.resets_at_ms else ""
            return "limit", f"its {reading.window} window is used up{reset}", reading.resets_at_ms
    estimate = request.estimates[subscription.id]
    needed = f"needs ${estimate / NANO:.2f}"
    if estimate > balance.week_left:
        left = f"its weekly budget leaves ${max(0, balance.week_left) / NANO:.2f}, the ask {needed}"
        return "budget", left, balance.week_frees_at_ms
    if estimate > balance.block_left:
        left = f"its block budget leaves ${max(0, balance.block_left) / NANO:.2f}, the ask {needed}"
        return "budget", left, balance.block.ends_at_ms
    return None


def _kind_of(balance: Balance, stands: Standing) -> str:
    if balance.cooldown is not None and balance.cooldown.cause in ("auth", "billing"):
        return balance.cooldown.cause
    return "invalid_request" if stands.status is Status.DISABLED else "limit"


def applies_to(window: str, model: str | None) -> bool:
    """Whether a window counts a model's use: ``seven_day_opus`` counts Opus only, the plain ones everything."""
    for family in ("opus", "sonnet", "haiku", "fable", "mythos"):
        if window.endswith(f"_{family}"):
            return model is not None and family in model
    return True


def _score(balance: Balance, now_ms: int, strategy: str) -> tuple[float, str]:
    if strategy == "health":
        score = health(balance, now_ms).score
        return score, f"health {score:.0f}"
    subscription = balance.subscription
    used = {
        "block budget": 100 * (balance.block_spent + balance.reserved) / subscription.block_budget_nanousd,
        "weekly budget": 100 * (balance.week_spent + balance.reserved) / subscription.weekly_budget_nanousd,
    }
    for reading in balance.readings.values():
        percent = percent_now(reading, now_ms)
        if percent is not None:
            used[f"{reading.window} window"] = percent
    name, percent = max(used.items(), key=lambda one: one[1])
    score = max(0.0, 100.0 - percent)
    return score, f"{score:.0f}% room, tightest is the {name}"


def _why_none(request: Request, candidates: Sequence[Candidate]) -> str:
    return "; ".join(f"{c.id}: {c.reasons[0]}" for c in candidates if c.blocked_by != "pinned" or request.only is None)
