"""What leaves the program: the shapes of tool results and of ``--json``, in dollars, percent and RFC 3339.

Inside, money is integer nano-dollars and time is integer milliseconds; the functions here are where that ends.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pool_mcp import budget, selection
from pool_mcp.errors import PoolError
from pool_mcp.model import NANO, Audit, Cost, Run, Tokens
from pool_mcp.windows import percent_now, rfc3339, week_start_ms


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AdviceResult(_Result):
    """What to do next."""

    action: Literal["proceed", "slow_down", "wait", "stop"]
    reason: str
    retry_at: str | None = None
    headroom_usd: float
    max_usd_per_hour: float | None = None


class TokensResult(_Result):
    """Token counts of a run, all models together."""

    input: int = 0
    output: int = 0
    cache_creation: int = 0
    cache_read: int = 0


class AttemptResult(_Result):
    """One execution of the CLI for this ask."""

    run_id: str
    subscription: str
    outcome: str
    cost_usd: float | None = None
    message: str | None = None


class AskResult(_Result):
    """An answer, or word that it is still being made."""

    status: Literal["completed", "running"]
    run_id: str
    text: str = Field(description="The answer, or this page of it.")
    structured: Any = None
    session_id: str = Field(description="Pass it to the next ask to go on with this conversation.")
    subscription: str
    model: str | None
    cost_usd: float | None = Field(description="List-price cost; null until the run has ended.")
    cost_is_estimate: bool
    tokens: TokensResult
    duration_ms: int
    attempts: list[AttemptResult]
    advice: AdviceResult
    next_offset: int | None = Field(default=None, description="Pass as offset to ask_result for the rest of the text.")


class BlockResult(_Result):
    """The five-hour block."""

    id: str
    starts_at: str
    ends_at: str
    source: Literal["official", "utc-grid"]
    cost_usd: float
    budget_usd: float
    percent: float


class WeekResult(_Result):
    """The rolling seven days up to now."""

    starts_at: str
    cost_usd: float
    budget_usd: float
    percent: float


class OfficialWindowResult(_Result):
    """What Anthropic last reported of a window."""

    percent: float | None
    resets_at: str | None
    observed_at: str
    status: str


class HealthResult(_Result):
    """The components of the health score."""

    week_percent: float
    block_percent: float
    in_flight: int
    burn_usd_per_hour: float
    unused_block_bonus: float


class SubscriptionResult(_Result):
    """One subscription's state."""

    id: str
    plan: str
    status: Literal["available", "approaching", "limited", "cooldown", "needs_login", "disabled"]
    status_reason: str
    available_at: str | None
    health_score: float
    health: HealthResult
    block: BlockResult
    week: WeekResult
    official: dict[str, OfficialWindowResult]
    in_flight: int
    reserved_usd: float
    burn_usd_per_hour: float
    exhausts_at: str | None
    last_used_at: str | None


class PoolTotals(_Result):
    """All subscriptions together."""

    cost_today_usd: float
    week_cost_usd: float
    week_budget_usd: float
    week_percent: float
    in_flight: int
    reserved_usd: float


class CallerResult(_Result):
    """One caller's own budget."""

    id: str
    cost_today_usd: float
    daily_budget_usd: float | None
    week_cost_usd: float
    weekly_budget_usd: float | None
    reserved_usd: float
    headroom_usd: float | None


class StatusResult(_Result):
    """The state of the pool."""

    generated_at: str
    advice: AdviceResult
    pool: PoolTotals
    subscriptions: list[SubscriptionResult]
    caller: CallerResult | None = None


class CandidateResult(_Result):
    """The verdict on one subscription."""

    id: str
    eligible: bool
    score: float
    reasons: list[str]
    available_at: str | None


class PickResult(_Result):
    """Which subscription would be chosen, and why each."""

    subscription: str | None
    env: dict[str, str] = Field(description="Export these to use the subscription by hand.")
    reason: str
    candidates: list[CandidateResult]
    next_available_at: str | None


class ErrorResult(_Result):
    """What went wrong; ``structuredContent.error`` of a failed call."""

    kind: str
    message: str
    retry_at: str | None = None
    subscription: str | None = None
    alternatives: list[str] | None = None
    run_id: str | None = None
    partial_text: str | None = Field(default=None, description="What a run that was cut had answered until then.")


class ProblemResult(_Result):
    """Something in the ledger that should not be."""

    check: str
    meaning: str
    where: list[str]


class UnsettledResult(_Result):
    """A run whose cost is not booked yet."""

    run_id: str
    subscription: str
    state: str
    reserved_usd: float
    created_at: str


class CheckResult(_Result):
    """What a check of the ledger found."""

    entries: int
    spent_usd: float
    problems: list[ProblemResult]
    unsettled: list[UnsettledResult]


def usd(nanousd: int) -> float:
    """Integer nano-dollars as dollars."""
    return nanousd / NANO


def instant(at_ms: int | None) -> str | None:
    """Unix milliseconds as RFC 3339, None as None."""
    return None if at_ms is None else rfc3339(at_ms)


def _maybe_usd(nanousd: int | None) -> float | None:
    return None if nanousd is None else usd(nanousd)


def error_result(error: PoolError) -> ErrorResult:
    """An error for the wire."""
    return ErrorResult(
        kind=error.kind,
        message=error.message,
        retry_at=instant(error.retry_at_ms),
        subscription=error.subscription,
        alternatives=list(error.alternatives) or None,
        run_id=error.run_id,
        partial_text=error.partial_text,
    )


def check_result(found: Audit, unsettled: Sequence[Run]) -> CheckResult:
    """A check of the ledger for the wire."""
    return CheckResult(
        entries=found.entries,
        spent_usd=usd(found.spent_nanousd),
        problems=[ProblemResult(check=p.check, meaning=p.meaning, where=list(p.where)) for p in found.problems],
        unsettled=[
            UnsettledResult(
                run_id=run.run_id,
                subscription=run.subscription,
                state=run.state.value,
                reserved_usd=usd(run.reserved_nanousd),
                created_at=rfc3339(run.created_at_ms),
            )
            for run in unsettled
        ],
    )


def advice_result(advice: budget.Advice) -> AdviceResult:
    """Advice for the wire."""
    return AdviceResult(
        action=advice.action.value,
        reason=advice.reason,
        retry_at=instant(advice.retry_at_ms),
        headroom_usd=usd(advice.headroom_nanousd),
        max_usd_per_hour=_maybe_usd(advice.max_nanousd_per_hour),
    )


def tokens_result(tokens: Tokens) -> TokensResult:
    """Token counts for the wire."""
    return TokensResult(
        input=tokens.input,
        output=tokens.output,
        cache_creation=tokens.cache_creation,
        cache_read=tokens.cache_read,
    )


def attempt_result(run: Run) -> AttemptResult:
    """One run of an ask for the wire."""
    return AttemptResult(
        run_id=run.run_id,
        subscription=run.subscription,
        outcome=run.outcome.value if run.outcome else run.state.value,
        cost_usd=_maybe_usd(run.cost.nanousd if run.cost else None),
        message=run.message,
    )


def ask_result(attempts: Sequence[Run], advice: budget.Advice, now_ms: int) -> AskResult:
    """An ask for the wire by its attempts, first to last; the text is for the caller to add."""
    run = attempts[-1]
    cost = run.cost or Cost(is_estimate=True)
    main = max(cost.models, key=lambda model: cost.models[model].tokens.output, default=run.model)
    return AskResult(
        status="completed" if run.finished else "running",
        run_id=run.run_id,
        text="",
        session_id=run.session_id,
        subscription=run.subscription,
        model=main,
        cost_usd=_maybe_usd(run.cost.nanousd if run.cost else None),
        cost_is_estimate=cost.is_estimate,
        tokens=tokens_result(cost.tokens),
        duration_ms=max(0, (run.ended_at_ms or now_ms) - attempts[0].created_at_ms),
        attempts=[attempt_result(one) for one in attempts],
        advice=advice_result(advice),
    )


def subscription_result(balance: budget.Balance, now_ms: int) -> SubscriptionResult:
    """One subscription's state for the wire."""
    stands = budget.standing(balance, now_ms)
    health = budget.health(balance, now_ms)
    subscription, block = balance.subscription, balance.block
    return SubscriptionResult(
        id=subscription.id,
        plan=subscription.plan,
        status=stands.status.value,
        status_reason=stands.reason,
        available_at=instant(stands.available_at_ms),
        health_score=round(health.score, 2),
        health=HealthResult(
            week_percent=round(health.week_percent, 2),
            block_percent=round(health.block_percent, 2),
            in_flight=health.in_flight,
            burn_usd_per_hour=health.burn_usd_per_hour,
            unused_block_bonus=health.unused_block_bonus,
        ),
        block=BlockResult(
            id=block.id,
            starts_at=rfc3339(block.starts_at_ms),
            ends_at=rfc3339(block.ends_at_ms),
            source=block.source,
            cost_usd=usd(balance.block_spent),
            budget_usd=usd(subscription.block_budget_nanousd),
            percent=round(balance.block_percent(now_ms), 2),
        ),
        week=WeekResult(
            starts_at=rfc3339(week_start_ms(now_ms)),
            cost_usd=usd(balance.week_spent),
            budget_usd=usd(subscription.weekly_budget_nanousd),
            percent=round(balance.week_percent, 2),
        ),
        official={
            name: OfficialWindowResult(
                percent=percent_now(reading, now_ms),
                resets_at=instant(reading.resets_at_ms),
                observed_at=rfc3339(reading.observed_at_ms),
                status=reading.status,
            )
            for name, reading in sorted(balance.readings.items())
        },
        in_flight=balance.in_flight,
        reserved_usd=usd(balance.reserved),
        burn_usd_per_hour=usd(balance.hour_spent),
        exhausts_at=instant(budget.exhausts_at_ms(balance, now_ms)),
        last_used_at=instant(balance.last_used_ms),
    )


def totals_result(balances: Sequence[budget.Balance], today_nanousd: int) -> PoolTotals:
    """All subscriptions together for the wire."""
    spent = sum(b.week_spent for b in balances)
    allowed = sum(b.subscription.weekly_budget_nanousd for b in balances)
    return PoolTotals(
        cost_today_usd=usd(today_nanousd),
        week_cost_usd=usd(spent),
        week_budget_usd=usd(allowed),
        week_percent=round(100 * spent / allowed, 2) if allowed else 0.0,
        in_flight=sum(b.in_flight for b in balances),
        reserved_usd=usd(sum(b.reserved for b in balances)),
    )


def caller_result(caller: budget.CallerBalance) -> CallerResult:
    """One caller's own budget for the wire."""
    return CallerResult(
        id=caller.caller,
        cost_today_usd=usd(caller.day_spent),
        daily_budget_usd=_maybe_usd(caller.budget.daily_nanousd),
        week_cost_usd=usd(caller.week_spent),
        weekly_budget_usd=_maybe_usd(caller.budget.weekly_nanousd),
        reserved_usd=usd(caller.reserved),
        headroom_usd=_maybe_usd(caller.left),
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
                score=round(c.score, 2),
                reasons=list(c.reasons),
                available_at=instant(c.available_at_ms),
            )
            for c in choice.candidates
        ],
        next_available_at=instant(choice.next_available_at_ms),
    )
