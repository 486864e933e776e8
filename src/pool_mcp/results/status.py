"""The state of the pool as it leaves the program, and which subscription would be chosen."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from pool_mcp.choosing import budget, cooldowns, pacing, selection, yardsticks
from pool_mcp.choosing.allowances import Allowance
from pool_mcp.choosing.overage import OverageBalance
from pool_mcp.choosing.rates import Gauge
from pool_mcp.choosing.snapshot import Snapshot
from pool_mcp.choosing.windows import percent_now, week_start_ms
from pool_mcp.model import Cooldown, WindowReading
from pool_mcp.results.base import AdviceResult, Instant, Percent, Score, Shape, advice_result, maybe_usd, usd


class BlockResult(Shape):
    """The five-hour block."""

    id: str
    starts_at: Instant
    ends_at: Instant
    source: Literal["official", "utc-grid"]
    cost_usd: float
    budget_usd: float
    percent: Percent


class WeekResult(Shape):
    """The rolling seven days up to now."""

    starts_at: Instant
    cost_usd: float
    budget_usd: float
    percent: Percent


class OfficialWindowResult(Shape):
    """What Anthropic last reported of a window, and how full it is now by the ledger."""

    percent: Percent | None
    resets_at: Instant | None
    observed_at: Instant
    status: str
    percent_now: Percent | None = Field(default=None, description="percent and the ledger's own spend since then.")
    outside_percent: Percent | None = Field(default=None, description="The part that was used outside this pool.")
    usd_per_percent: float | None = None
    confidence: float | None = Field(default=None, description="0-1: how far usd_per_percent is learned.")
    kept_percent: Percent | None = Field(default=None, description="Kept for the person now; agents leave it.")


class CooldownResult(Shape):
    """Why a subscription is excluded."""

    cause: str
    since: Instant
    until: Instant | None = Field(description="null: until a person acts.")
    detail: str


class AlertResult(Shape):
    """Something that was told once."""

    at: Instant
    kind: str
    subscription: str
    message: str


class HealthResult(Shape):
    """The components of the health score."""

    week_percent: Percent
    block_percent: Percent
    in_flight: int
    burn_usd_per_hour: float
    unused_block_bonus: float


class OverageResult(Shape):
    """Use beyond the plan's limits, which is real money, in this calendar month (UTC)."""

    cost_usd: float
    budget_usd: float = Field(description="0: never.")
    in_use: bool
    resets_at: Instant | None = Field(description="When the account's own allowance for it begins again.")


class SubscriptionResult(Shape):
    """One subscription's state."""

    id: str
    plan: str
    status: budget.Status
    status_reason: str
    available_at: Instant | None
    health_score: Score
    health: HealthResult
    block: BlockResult
    week: WeekResult
    official: dict[str, OfficialWindowResult]
    in_flight: int
    reserved_usd: float
    burn_usd_per_hour: float
    exhausts_at: Instant | None
    last_used_at: Instant | None
    headroom_usd: float = 0.0
    organisation: str | None = None
    cooldown: CooldownResult | None = None
    overage: OverageResult | None = None
    is_real_money: bool = Field(
        default=False, description="Amounts are billed per call, and not list prices of use that a flat plan covers."
    )
    budgets_note: str | None = Field(default=None, description="What its budgets are a share of, where that is known.")


class PoolTotals(Shape):
    """All subscriptions together."""

    cost_today_usd: float
    week_cost_usd: float
    week_budget_usd: float
    week_percent: Percent
    in_flight: int
    reserved_usd: float
    week_real_money_usd: float = Field(
        default=0,
        description="What is billed of week_cost_usd: API keys, and use beyond plans. The rest is list price.",
    )
    waiting: int = Field(default=0, description="Asks that wait for their turn or for room.")


class CallerResult(Shape):
    """One caller's own budget."""

    id: str
    cost_today_usd: float
    daily_budget_usd: float | None
    week_cost_usd: float
    weekly_budget_usd: float | None
    reserved_usd: float
    headroom_usd: float | None
    month_cost_usd: float | None = Field(default=None, description="In this UTC month, where that has a budget.")
    monthly_budget_usd: float | None = None
    share_percent: Percent | None = Field(default=None, description="What it may use of each official window.")


class StatusResult(Shape):
    """The state of the pool."""

    generated_at: Instant
    advice: AdviceResult
    pool: PoolTotals
    subscriptions: list[SubscriptionResult]
    caller: CallerResult | None = None
    alerts: list[AlertResult] = Field(default_factory=list)
    imported_at: Instant | None = Field(default=None, description="When use outside the pool was last read.")


class CandidateResult(Shape):
    """The verdict on one subscription."""

    id: str
    eligible: bool
    score: Score
    reasons: list[str]
    available_at: Instant | None


class PickResult(Shape):
    """Which subscription would be chosen, and why each."""

    subscription: str | None
    env: dict[str, str] = Field(description="Export these to use the subscription by hand.")
    reason: str
    candidates: list[CandidateResult]
    next_available_at: Instant | None


def status_result(now: Snapshot, imported_at_ms: int | None = None) -> StatusResult:
    """The pool's state for the wire."""
    return StatusResult(
        generated_at=now.now_ms,
        advice=advice_result(now.advice, now.now_ms),
        pool=_totals(now.balances, now.spent_today, [one.week_spent for one in now.overage.values()], now.waiting),
        subscriptions=[_subscription(one, now.overage.get(one.subscription.id)) for one in now.balances],
        caller=None if now.caller is None else _caller(now.caller),
        alerts=[
            AlertResult(at=at_ms, kind=one.kind, subscription=one.subscription, message=one.message)
            for at_ms, one in now.alerts
        ],
        imported_at=imported_at_ms,
    )


def _totals(
    balances: Sequence[budget.Balance], today_nanousd: int, beyond_plans: Sequence[int], waiting: int
) -> PoolTotals:
    spent = sum(b.week_spent for b in balances)
    allowed = sum(b.subscription.weekly_budget_nanousd for b in balances)
    return PoolTotals(
        cost_today_usd=usd(today_nanousd),
        week_cost_usd=usd(spent),
        week_budget_usd=usd(allowed),
        week_percent=100 * spent / allowed if allowed else 0.0,
        in_flight=sum(b.in_flight for b in balances),
        reserved_usd=usd(sum(b.reserved for b in balances)),
        week_real_money_usd=usd(
            sum(b.week_spent for b in balances if b.subscription.is_api_key) + sum(beyond_plans),
        ),
        waiting=waiting,
    )


def _subscription(balance: budget.Balance, paid: OverageBalance | None) -> SubscriptionResult:
    available, now_ms = budget.availability(balance), balance.at_ms
    health = budget.health(balance)
    subscription, block = balance.subscription, balance.block
    gauges = balance.gauges
    return SubscriptionResult(
        id=subscription.id,
        plan=subscription.plan,
        status=available.status,
        status_reason=available.reason,
        available_at=available.available_at_ms,
        health_score=health.score,
        health=HealthResult(
            week_percent=health.week_percent,
            block_percent=health.block_percent,
            in_flight=health.in_flight,
            burn_usd_per_hour=health.burn_usd_per_hour,
            unused_block_bonus=health.unused_block_bonus,
        ),
        block=BlockResult(
            id=block.id,
            starts_at=block.starts_at_ms,
            ends_at=block.ends_at_ms,
            source=block.source,
            cost_usd=usd(balance.block_spent),
            budget_usd=usd(subscription.block_budget_nanousd),
            percent=balance.block_percent,
        ),
        week=WeekResult(
            starts_at=week_start_ms(now_ms),
            cost_usd=usd(balance.week_spent),
            budget_usd=usd(subscription.weekly_budget_nanousd),
            percent=balance.week_percent,
        ),
        official={
            name: _official(reading, gauges.get(name), now_ms) for name, reading in sorted(balance.readings.items())
        },
        in_flight=balance.in_flight,
        reserved_usd=usd(balance.reserved),
        burn_usd_per_hour=usd(balance.hour_spent),
        exhausts_at=pacing.exhausts_at_ms(balance),
        last_used_at=balance.last_used_ms,
        headroom_usd=usd(pacing.headroom_nanousd(balance)),
        organisation=balance.organization,
        cooldown=_cooldown(cooldowns.worst(balance.cooldowns, None, now_ms), now_ms),
        overage=None if paid is None else _overage(paid, now_ms),
        is_real_money=subscription.is_api_key,
        budgets_note=yardsticks.explain(balance),
    )


def _overage(paid: OverageBalance, now_ms: int) -> OverageResult:
    return OverageResult(
        cost_usd=usd(paid.spent),
        budget_usd=usd(paid.subscription.overage_budget_nanousd),
        in_use=paid.in_use(now_ms),
        resets_at=None if paid.reading is None else paid.reading.resets_at_ms,
    )


def _official(reading: WindowReading, gauge: Gauge | None, now_ms: int) -> OfficialWindowResult:
    return OfficialWindowResult(
        percent=percent_now(reading, now_ms),
        resets_at=reading.resets_at_ms,
        observed_at=reading.observed_at_ms,
        status=reading.status,
        percent_now=None if gauge is None else gauge.percent,
        outside_percent=None if gauge is None else gauge.outside_percent,
        usd_per_percent=None if gauge is None else round(usd(round(gauge.rate.nanousd_per_percent)), 6),
        confidence=None if gauge is None else round(gauge.rate.confidence, 2),
        kept_percent=gauge.kept.percent if gauge is not None and gauge.kept.share else None,
    )


def _cooldown(cooldown: Cooldown | None, now_ms: int) -> CooldownResult | None:
    if cooldown is None or not cooldowns.is_in_force(cooldown, now_ms):
        return None
    return CooldownResult(
        cause=cooldown.cause,
        since=cooldown.since_ms,
        until=cooldown.until_ms,
        detail=cooldown.detail,
    )


def _caller(caller: Allowance) -> CallerResult:
    return CallerResult(
        id=caller.name,
        cost_today_usd=usd(caller.day_spent),
        daily_budget_usd=maybe_usd(caller.budget.daily_nanousd),
        week_cost_usd=usd(caller.week_spent),
        weekly_budget_usd=maybe_usd(caller.budget.weekly_nanousd),
        month_cost_usd=None if caller.budget.monthly_nanousd is None else usd(caller.month_spent),
        monthly_budget_usd=maybe_usd(caller.budget.monthly_nanousd),
        share_percent=caller.share_percent,
        reserved_usd=usd(caller.reserved),
        headroom_usd=maybe_usd(caller.left),
    )


def pick_result(choice: selection.Choice, env: dict[str, str]) -> PickResult:
    """A choice for the wire."""
    return PickResult(
        subscription=choice.subscription,
        env=env,
        reason=choice.reason,
        candidates=[
            CandidateResult(
                id=c.id,
                eligible=c.eligible,
                score=c.score,
                reasons=list(c.reasons),
                available_at=c.available_at_ms,
            )
            for c in choice.candidates
        ],
        next_available_at=choice.next_available_at_ms,
    )
