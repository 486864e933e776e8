"""What leaves the program: the shapes of tool results and of ``--json``, in dollars, percent and RFC 3339.

Inside, money is integer nano-dollars and time is integer milliseconds; the functions here are where that ends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pool_mcp.accounting import reconcile
from pool_mcp.accounting.periods import ALWAYS, Span, Sums
from pool_mcp.choosing import budget, cooldowns, pacing, selection
from pool_mcp.choosing.rates import Gauge
from pool_mcp.choosing.snapshot import Snapshot
from pool_mcp.choosing.windows import percent_now, rfc3339, week_start_ms
from pool_mcp.errors import PoolError
from pool_mcp.model import NANO, SECOND_MS, Audit, Cooldown, Cost, Run, Tokens, WindowReading


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AdviceResult(_Result):
    """What to do next."""

    action: Literal["proceed", "slow_down", "wait", "stop"]
    reason: str
    retry_at: str | None = None
    retry_in_s: int | None = Field(default=None, description="retry_at from now, for whoever has no clock.")
    headroom_usd: float
    max_usd_per_hour: float | None = None
    exhausts_at: str | None = Field(default=None, description="When the room ends if spending goes on as it does.")


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
    next_step: str | None = Field(default=None, description="How to get the answer, or the rest of it.")


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
    """What Anthropic last reported of a window, and how full it is now by the ledger."""

    percent: float | None
    resets_at: str | None
    observed_at: str
    status: str
    percent_now: float | None = Field(default=None, description="percent and the ledger's own spend since then.")
    outside_percent: float | None = Field(default=None, description="The part that was used outside this pool.")
    usd_per_percent: float | None = None
    confidence: float | None = Field(default=None, description="0-1: how far usd_per_percent is learned.")


class CooldownResult(_Result):
    """Why a subscription is out of the choice."""

    cause: str
    since: str
    until: str | None = Field(description="null: until a person acts.")
    detail: str


class AlertResult(_Result):
    """Something that was told once."""

    at: str
    kind: str
    subscription: str
    message: str


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
    headroom_usd: float = 0.0
    organisation: str | None = None
    cooldown: CooldownResult | None = None


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
    alerts: list[AlertResult] = []


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


class RunResult(_Result):
    """One run of the CLI: where, for whom, how it ended, what it cost."""

    run_id: str
    ask_id: str
    subscription: str
    caller: str
    model: str | None = Field(description="The one that answered, else the one that was asked for.")
    state: str
    outcome: str | None
    message: str | None
    created_at: str
    started_at: str | None
    ended_at: str | None
    duration_ms: int
    cost_usd: float | None
    cost_is_estimate: bool
    reserved_usd: float = Field(description="What it may still cost; 0 once it has ended.")


class RunsResult(_Result):
    """What runs now, and what has ended; newest first."""

    generated_at: str
    running: list[RunResult]
    ended: list[RunResult]


class ModelResult(_Result):
    """What one model did in a run."""

    model: str
    tokens: TokensResult
    cost_usd: float | None


class RunDetails(RunResult):
    """All that is known of a run but what was said."""

    resumed: bool
    background: bool
    cancel_requested: bool
    deadline_at: str
    retry_at: str | None
    cli_version: str | None
    tokens: TokensResult
    models: list[ModelResult]
    files: str | None = Field(description="Null once they have been removed.")
    files_kept_until: str | None


class AskDetails(_Result):
    """One ask with its attempts, first to last."""

    generated_at: str
    ask_id: str
    caller: str
    session_id: str
    state: str
    outcome: str | None
    asked_at: str
    duration_ms: int
    cost_usd: float = Field(description="Of all attempts that have ended.")
    cost_is_estimate: bool
    attempts: list[RunDetails]
    text: str | None = Field(default=None, description="The answer, or what there is of it, where it was asked for.")
    structured: Any = None


class ErrorResult(_Result):
    """What went wrong, and what to do about it."""

    kind: str
    message: str
    next_step: str = Field(description="What to do about it.")
    retry_at: str | None = None
    retry_in_s: int | None = Field(default=None, description="retry_at from now, for whoever has no clock.")
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


class ImportResult(_Result):
    """What an import of the CLI's transcripts found."""

    running_elsewhere: bool = Field(default=False, description="Another process is importing; nothing was done here.")
    files: int = Field(default=0, description="Transcripts there are.")
    files_read: int = Field(default=0, description="Of these, those that were new or had changed.")
    files_waiting: int = Field(default=0, description="Of these, those left for later: a run is in flight on them.")
    files_unreadable: int = 0
    bytes_read: int = 0
    malformed_lines: int = 0
    new_calls: int = Field(default=0, description="API calls made outside the pool, now booked.")
    known_calls: int = Field(default=0, description="API calls that had been booked or stood there twice.")
    run_calls: int = Field(default=0, description="API calls of the pool's own runs, whose entries have them.")
    corrected_calls: int = Field(default=0, description="Known API calls of which more was found.")
    unpriced_calls: int = Field(default=0, description="New calls whose price is unknown; not in cost_usd.")
    cost_usd: float = Field(default=0, description="List price of the new calls.")


class ReportTotal(_Result):
    """What entries add up to."""

    calls: int
    input_tokens: int
    output_tokens: int
    cache_creation_tokens: int
    cache_read_tokens: int
    cost_usd: float = Field(description="List price; without unpriced_calls.")
    unpriced_calls: int = Field(description="Calls whose price is unknown: the cost is at least cost_usd.")


class ReportRow(ReportTotal):
    """One row of a report."""

    key: str


class ReportResult(_Result):
    """Spend by one dimension; ``total`` is of everything in the span, also of rows that are left out."""

    by: str
    since: str | None
    until: str | None
    time_zone: str
    rows: list[ReportRow]
    rows_left_out: int = Field(description="Older, or cheaper, rows that are in the total only.")
    total: ReportTotal


class FindingResult(_Result):
    """One thing that was looked at, and the command that mends it."""

    check: str
    status: Literal["ok", "note", "broken"]
    text: str
    fix: str | None = None


class DoctorResult(_Result):
    """The health of an installation; ``ok`` is false where something is broken."""

    ok: bool
    findings: list[FindingResult]


class SyncedReport(_Result):
    """One of the organisation's reports: what was read of it, or why it was not."""

    report: str
    since: str
    until: str
    rows: int
    refreshed_at: str | None = Field(description="Until when Anthropic says that its data go.")
    problem: str | None


class SyncResult(_Result):
    """What was read of the organisation's reports."""

    synced_at: str
    reports: list[SyncedReport]


class MatchResult(_Result):
    """Which key is which subscription."""

    subscription: str
    api_key_id: str


class DifferenceResult(_Result):
    """The ledger and the organisation on one UTC day, or hour, subscription and model."""

    at: str
    subscription: str
    api_key_id: str
    model: str
    ledger_usd: float | None
    official_usd: float | None
    difference_usd: float | None = Field(description="Official less ledger; null: a price is unknown.")
    ledger_tokens: TokensResult
    official_tokens: TokensResult


class BilledResult(_Result):
    """What the whole organisation was billed for a UTC day."""

    day: str
    billed_usd: float


class AdjustedResult(_Result):
    """What was booked."""

    entries: int
    cost_usd: float


class ReconcileResult(_Result):
    """The ledger against the organisation's figures."""

    since: str
    until: str
    final_until: str = Field(description="Later hours are not final yet and not compared.")
    source: str
    official_is_estimate: bool = Field(description="Tokens are the organisation's, the price is the list's.")
    synced_at: str
    refreshed_at: str | None
    matched: list[MatchResult]
    not_compared: list[str]
    warnings: list[str]
    ledger_usd: float
    official_usd: float
    difference_usd: float
    days: list[DifferenceResult]
    hours: list[DifferenceResult] = Field(description="Those that differ.")
    rows_left_out: int
    billed: list[BilledResult] = Field(description="By UTC day, all keys, after discounts; for comparison only.")
    adjusted: AdjustedResult | None


MAX_DIFFERENCES = 60


def usd(nanousd: int) -> float:
    """Integer nano-dollars as dollars."""
    return nanousd / NANO


def instant(at_ms: int | None) -> str | None:
    """Unix milliseconds as RFC 3339, None as None."""
    return None if at_ms is None else rfc3339(at_ms)


def _maybe_usd(nanousd: int | None) -> float | None:
    return None if nanousd is None else usd(nanousd)


def seconds_until(at_ms: int | None, now_ms: int) -> int | None:
    """Whole seconds from now until an instant, rounded up; 0 where it has passed."""
    return None if at_ms is None else max(0, -((now_ms - at_ms) // SECOND_MS))


NEXT_STEPS = {
    "invalid_request": "Change the call as the message says.",
    "unknown_session": "Leave session_id out to begin a new session, with all the context that it needs.",
    "limit": "Look at usage_status for when there is room again.",
    "budget": "Ask for less, or tell the person that the budget is used up.",
    "auth": "Tell the person: somebody has to sign in, as the message says.",
    "billing": "Tell the person: somebody has to look at the account's billing.",
    "overloaded": "Ask again in a few minutes; another subscription would not help.",
    "timeout": "What was spent is booked. Ask for less, or give a longer timeout_s.",
    "cancelled": "What was spent is booked. Ask again only if the answer is still wanted.",
    "cli_missing": "Tell the person: the Claude Code CLI has to be installed.",
    "cli_failed": "Ask again once; if that fails too, tell the person.",
    "ledger": "Ask again once; if that fails too, tell the person.",
    "internal": "Ask again once; if that fails too, tell the person.",
}
"""What to do about a failure that does not say when to try again, by its kind."""


def error_result(error: PoolError, now_ms: int) -> ErrorResult:
    """An error for the wire."""
    waits = error.retry_at_ms is not None
    return ErrorResult(
        kind=error.kind,
        message=error.message,
        next_step="Ask again at retry_at, not before." if waits else NEXT_STEPS[error.kind],
        retry_at=instant(error.retry_at_ms),
        retry_in_s=seconds_until(error.retry_at_ms, now_ms),
        subscription=error.subscription,
        alternatives=list(error.alternatives) or None,
        run_id=error.run_id,
        partial_text=error.partial_text,
    )


def internal_error() -> ErrorResult:
    """What a caller hears of a failure that nobody foresaw."""
    message = "pool-mcp failed unexpectedly; its log (stderr) has the details."
    return ErrorResult(kind="internal", message=message, next_step=NEXT_STEPS["internal"])


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


def report_result(
    by: str, span: Span, time_zone: str, rows: Iterable[tuple[str, Sums]], left_out: int, total: Sums
) -> ReportResult:
    """A report for the wire."""
    return ReportResult(
        by=by,
        since=None if span.since_ms == ALWAYS.since_ms else rfc3339(span.since_ms),
        until=None if span.until_ms == ALWAYS.until_ms else rfc3339(span.until_ms),
        time_zone=time_zone,
        rows=[ReportRow(key=key, **_sums(sums)) for key, sums in rows],
        rows_left_out=left_out,
        total=ReportTotal(**_sums(total)),
    )


def _sums(sums: Sums) -> dict[str, Any]:
    said = asdict(sums)
    return {"cost_usd": usd(said.pop("cost_nanousd")), **said}


def now(at_ms: int) -> str:
    """An instant that is there, as RFC 3339."""
    return rfc3339(at_ms)


def synced_report(report: str, span: Span, refreshed_at_ms: int | None, rows: int, problem: str | None) -> SyncedReport:
    """One report's sync for the wire."""
    return SyncedReport(
        report=report,
        since=rfc3339(span.since_ms),
        until=rfc3339(span.until_ms),
        rows=rows,
        refreshed_at=instant(refreshed_at_ms),
        problem=problem,
    )


def reconcile_result(
    found: reconcile.Reconciliation,
    matches: reconcile.Matches,
    span: Span,
    final: Span,
    source: str,
    synced_at_ms: int,
    refreshed_at_ms: int | None,
    billed: Iterable[reconcile.Figure],
    adjusted: Sequence[reconcile.Adjustment] | None,
) -> ReconcileResult:
    """A reconciliation for the wire, as it was found: before what was adjusted."""
    off = [hour for hour in found.hours if hour.nanousd is None or abs(hour.nanousd) >= reconcile.BOOK_NANOUSD]
    known = [hour for hour in found.hours if hour.nanousd is not None]
    by_day: dict[int, int] = {}
    for figure in billed:
        by_day[figure.starts_at_ms] = by_day.get(figure.starts_at_ms, 0) + (figure.cost_nanousd or 0)
    left_out = max(0, len(found.days) - MAX_DIFFERENCES) + max(0, len(off) - MAX_DIFFERENCES)
    return ReconcileResult(
        since=rfc3339(span.since_ms),
        until=rfc3339(span.until_ms),
        final_until=rfc3339(final.until_ms),
        source=source,
        official_is_estimate=source != reconcile.ANALYTICS,
        synced_at=rfc3339(synced_at_ms),
        refreshed_at=instant(refreshed_at_ms),
        matched=[MatchResult(subscription=one, api_key_id=key) for key, one in matches.subscription_of.items()],
        not_compared=list(matches.not_compared),
        warnings=list(found.warnings[:MAX_DIFFERENCES]),
        ledger_usd=usd(sum(hour.ledger.nanousd or 0 for hour in known)),
        official_usd=usd(sum(hour.official.nanousd or 0 for hour in known)),
        difference_usd=usd(sum(hour.nanousd or 0 for hour in known)),
        days=[difference_result(day) for day in found.days[-MAX_DIFFERENCES:]],
        hours=[difference_result(hour) for hour in off[-MAX_DIFFERENCES:]],
        rows_left_out=left_out,
        billed=[BilledResult(day=rfc3339(day)[:10], billed_usd=usd(cost)) for day, cost in sorted(by_day.items())],
        adjusted=None
        if adjusted is None
        else AdjustedResult(entries=len(adjusted), cost_usd=usd(sum(one.cost.nanousd for one in adjusted))),
    )


def difference_result(one: reconcile.Difference) -> DifferenceResult:
    """One difference for the wire."""
    return DifferenceResult(
        at=rfc3339(one.starts_at_ms),
        subscription=one.subscription,
        api_key_id=one.key_id,
        model=one.model,
        ledger_usd=_maybe_usd(one.ledger.nanousd),
        official_usd=_maybe_usd(one.official.nanousd),
        difference_usd=_maybe_usd(one.nanousd),
        ledger_tokens=tokens_result(one.ledger.tokens),
        official_tokens=tokens_result(one.official.tokens),
    )


def advice_result(advice: pacing.Advice, now_ms: int) -> AdviceResult:
    """Advice for the wire."""
    return AdviceResult(
        action=advice.action.value,
        reason=advice.reason,
        retry_at=instant(advice.retry_at_ms),
        retry_in_s=seconds_until(advice.retry_at_ms, now_ms),
        headroom_usd=usd(advice.headroom_nanousd),
        max_usd_per_hour=_maybe_usd(advice.max_nanousd_per_hour),
        exhausts_at=instant(advice.exhausts_at_ms),
    )


def alert_results(alerts: Sequence[tuple[int, pacing.Alert]]) -> list[AlertResult]:
    """Alerts for the wire, each with when it was told."""
    return [
        AlertResult(at=rfc3339(at_ms), kind=one.kind, subscription=one.subscription, message=one.message)
        for at_ms, one in alerts
    ]


def _official_result(reading: WindowReading, gauge: Gauge | None, now_ms: int) -> OfficialWindowResult:
    return OfficialWindowResult(
        percent=percent_now(reading, now_ms),
        resets_at=instant(reading.resets_at_ms),
        observed_at=rfc3339(reading.observed_at_ms),
        status=reading.status,
        percent_now=None if gauge is None else round(gauge.percent, 2),
        outside_percent=None if gauge is None else round(gauge.outside_percent, 2),
        usd_per_percent=None if gauge is None else round(usd(round(gauge.rate.nanousd_per_percent)), 6),
        confidence=None if gauge is None else round(gauge.rate.confidence, 2),
    )


def _cooldown_result(cooldown: Cooldown | None, now_ms: int) -> CooldownResult | None:
    if cooldown is None or not cooldowns.is_in_force(cooldown, now_ms):
        return None
    return CooldownResult(
        cause=cooldown.cause,
        since=rfc3339(cooldown.since_ms),
        until=instant(cooldown.until_ms),
        detail=cooldown.detail,
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


def ask_result(attempts: Sequence[Run], advice: pacing.Advice, now_ms: int) -> AskResult:
    """An ask for the wire by its attempts, first to last; the text is for the caller to add."""
    run = attempts[-1]
    costs = [one.cost for one in attempts if one.cost is not None]
    cost = sum(costs, Cost()) if run.cost is not None else Cost(is_estimate=True)
    main = max(cost.models, key=lambda model: cost.models[model].tokens.output, default=run.model)
    return AskResult(
        status="completed" if run.finished else "running",
        run_id=run.run_id,
        text="",
        session_id=run.session_id,
        subscription=run.subscription,
        model=main,
        cost_usd=_maybe_usd(cost.nanousd if run.cost else None),
        cost_is_estimate=cost.is_estimate,
        tokens=tokens_result(cost.tokens),
        duration_ms=max(0, (run.ended_at_ms or now_ms) - attempts[0].created_at_ms),
        attempts=[attempt_result(one) for one in attempts],
        next_step=None if run.finished else f"Call ask_result with run_id {run.run_id} for the answer.",
        advice=advice_result(advice, now_ms),
    )


def with_page(answer: AskResult, text: str, structured: object, offset: int, page_chars: int) -> AskResult:
    """A finished ask with one page of its text; the structured answer comes with the first."""
    end = offset + page_chars
    has_more = end < len(text)
    following = f"Call ask_result with run_id {answer.run_id} and offset {end} for the rest of the text."
    page = {
        "text": text[offset:end],
        "structured": structured if offset == 0 else None,
        "next_offset": end if has_more else None,
        "next_step": following if has_more else None,
    }
    return answer.model_copy(update=page)


def _main_model(run: Run) -> str | None:
    """The model that wrote most of the answer, else the one that was asked for."""
    models = run.cost.models if run.cost else {}
    return max(models, key=lambda model: models[model].tokens.output, default=run.model)


def _run_fields(run: Run, now_ms: int) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "ask_id": run.ask_id,
        "subscription": run.subscription,
        "caller": run.caller,
        "model": _main_model(run),
        "state": run.state.value,
        "outcome": run.outcome.value if run.outcome else None,
        "message": run.message,
        "created_at": rfc3339(run.created_at_ms),
        "started_at": instant(run.started_at_ms),
        "ended_at": instant(run.ended_at_ms),
        "duration_ms": max(0, (run.ended_at_ms or now_ms) - run.created_at_ms),
        "cost_usd": _maybe_usd(run.cost.nanousd if run.cost else None),
        "cost_is_estimate": run.cost is not None and run.cost.is_estimate,
        "reserved_usd": 0.0 if run.finished else usd(run.reserved_nanousd),
    }


def run_result(run: Run, now_ms: int) -> RunResult:
    """One run for the wire."""
    return RunResult(**_run_fields(run, now_ms))


def ask_details(attempts: Sequence[tuple[Run, str | None, int | None]], now_ms: int) -> AskDetails:
    """An ask for the wire, by its attempts, first to last, each with where its files are and until when."""
    first, last = attempts[0][0], attempts[-1][0]
    costs = [run.cost for run, _, _ in attempts if run.cost]
    return AskDetails(
        generated_at=rfc3339(now_ms),
        ask_id=last.ask_id,
        caller=last.caller,
        session_id=last.session_id,
        state=last.state.value,
        outcome=last.outcome.value if last.outcome else None,
        asked_at=rfc3339(first.created_at_ms),
        duration_ms=max(0, (last.ended_at_ms or now_ms) - first.created_at_ms),
        cost_usd=usd(sum(cost.nanousd for cost in costs)),
        cost_is_estimate=any(cost.is_estimate for cost in costs),
        attempts=[_run_details(*attempt, now_ms) for attempt in attempts],
    )


def _run_details(run: Run, files: str | None, kept_until_ms: int | None, now_ms: int) -> RunDetails:
    models = run.cost.models if run.cost else {}
    return RunDetails(
        **_run_fields(run, now_ms),
        resumed=run.resumed,
        background=run.background,
        cancel_requested=run.cancel_requested,
        deadline_at=rfc3339(run.deadline_ms),
        retry_at=instant(run.retry_at_ms),
        cli_version=run.cli_version,
        tokens=tokens_result(run.cost.tokens if run.cost else Tokens()),
        models=[
            ModelResult(model=model, tokens=tokens_result(part.tokens), cost_usd=_maybe_usd(part.cost_nanousd))
            for model, part in models.items()
        ],
        files=files,
        files_kept_until=instant(kept_until_ms),
    )


def subscription_result(balance: budget.Balance) -> SubscriptionResult:
    """One subscription's state for the wire."""
    available, now_ms = budget.availability(balance), balance.at_ms
    health = budget.health(balance)
    subscription, block = balance.subscription, balance.block
    gauges = balance.gauges
    return SubscriptionResult(
        id=subscription.id,
        plan=subscription.plan,
        status=available.status.value,
        status_reason=available.reason,
        available_at=instant(available.available_at_ms),
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
            percent=round(balance.block_percent, 2),
        ),
        week=WeekResult(
            starts_at=rfc3339(week_start_ms(now_ms)),
            cost_usd=usd(balance.week_spent),
            budget_usd=usd(subscription.weekly_budget_nanousd),
            percent=round(balance.week_percent, 2),
        ),
        official={
            name: _official_result(reading, gauges.get(name), now_ms)
            for name, reading in sorted(balance.readings.items())
        },
        in_flight=balance.in_flight,
        reserved_usd=usd(balance.reserved),
        burn_usd_per_hour=usd(balance.hour_spent),
        exhausts_at=instant(pacing.exhausts_at_ms(balance)),
        last_used_at=instant(balance.last_used_ms),
        headroom_usd=usd(pacing.headroom_nanousd(balance)),
        organisation=balance.organization,
        cooldown=_cooldown_result(cooldowns.worst(balance.cooldowns, None, now_ms), now_ms),
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


def status_result(now: Snapshot) -> StatusResult:
    """The pool's state for the wire."""
    return StatusResult(
        generated_at=rfc3339(now.now_ms),
        advice=advice_result(now.advice, now.now_ms),
        pool=totals_result(now.balances, now.spent_today),
        subscriptions=[subscription_result(one) for one in now.balances],
        caller=None if now.caller is None else caller_result(now.caller),
        alerts=alert_results(now.alerts),
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
