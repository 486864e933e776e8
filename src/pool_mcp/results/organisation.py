"""The organization's figures as they leave the program: what was read of them, and the ledger beside them."""

from collections.abc import Iterable, Sequence

from pydantic import Field

from pool_mcp.accounting import reconcile
from pool_mcp.accounting.periods import Span
from pool_mcp.choosing.windows import rfc3339
from pool_mcp.results.base import Instant, Shape, TokensResult, maybe_usd, tokens_result, usd


class SyncedReport(Shape):
    """One of the organization's reports: what was read of it, or why it was not."""

    report: str
    since: Instant
    until: Instant
    rows: int
    refreshed_at: Instant | None = Field(description="Until when Anthropic says that its data go.")
    problem: str | None


class SyncResult(Shape):
    """What was read of the organization's reports."""

    synced_at: Instant
    reports: list[SyncedReport]


class MatchResult(Shape):
    """Which key is which subscription."""

    subscription: str
    api_key_id: str


class DifferenceResult(Shape):
    """The ledger and the organization on one UTC day, or hour, subscription and model."""

    at: Instant
    subscription: str
    api_key_id: str
    model: str
    ledger_usd: float | None
    official_usd: float | None
    difference_usd: float | None = Field(description="Official less ledger; null: a price is unknown.")
    ledger_tokens: TokensResult
    official_tokens: TokensResult


class BilledResult(Shape):
    """What the whole organization was billed for a UTC day."""

    day: str
    billed_usd: float


class AdjustedResult(Shape):
    """What was booked."""

    entries: int
    cost_usd: float


class ReconcileResult(Shape):
    """The ledger compared with the organization's figures."""

    since: Instant
    until: Instant
    final_until: Instant = Field(description="Later hours are not final yet and not compared.")
    source: str
    official_is_estimate: bool = Field(description="Tokens are the organization's, the price is the list's.")
    synced_at: Instant
    refreshed_at: Instant | None
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
"""Days, hours and warnings of one reconciliation: so many of each are shown, the latest."""


def report_read(report: str, span: Span, rows: int, refreshed_at_ms: int | None) -> SyncedReport:
    """A report that was read, for the wire."""
    return SyncedReport(
        report=report,
        since=span.since_ms,
        until=span.until_ms,
        rows=rows,
        refreshed_at=refreshed_at_ms,
        problem=None,
    )


def report_not_read(report: str, span: Span, problem: str) -> SyncedReport:
    """A report that could not be read, for the wire."""
    return SyncedReport(
        report=report, since=span.since_ms, until=span.until_ms, rows=0, refreshed_at=None, problem=problem
    )


def sync_result(reports: Sequence[SyncedReport], now_ms: int) -> SyncResult:
    """What was read of the organization's reports, for the wire."""
    return SyncResult(synced_at=now_ms, reports=list(reports))


def reconcile_result(
    found: reconcile.Reconciliation,
    matches: reconcile.Matches,
    basis: reconcile.Basis,
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
        since=basis.asked.since_ms,
        until=basis.asked.until_ms,
        final_until=basis.final.until_ms,
        source=basis.source,
        official_is_estimate=basis.is_estimate,
        synced_at=basis.synced_at_ms,
        refreshed_at=basis.refreshed_at_ms,
        matched=[MatchResult(subscription=one, api_key_id=key) for key, one in matches.subscription_of.items()],
        not_compared=list(matches.not_compared),
        warnings=list(found.warnings[:MAX_DIFFERENCES]),
        ledger_usd=usd(sum(hour.ledger.nanousd or 0 for hour in known)),
        official_usd=usd(sum(hour.official.nanousd or 0 for hour in known)),
        difference_usd=usd(sum(hour.nanousd or 0 for hour in known)),
        days=[_difference(day) for day in found.days[-MAX_DIFFERENCES:]],
        hours=[_difference(hour) for hour in off[-MAX_DIFFERENCES:]],
        rows_left_out=left_out,
        billed=[BilledResult(day=rfc3339(day)[:10], billed_usd=usd(cost)) for day, cost in sorted(by_day.items())],
        adjusted=None
        if adjusted is None
        else AdjustedResult(entries=len(adjusted), cost_usd=usd(sum(one.cost.nanousd for one in adjusted))),
    )


def _difference(one: reconcile.Difference) -> DifferenceResult:
    return DifferenceResult(
        at=one.starts_at_ms,
        subscription=one.subscription,
        api_key_id=one.key_id,
        model=one.model,
        ledger_usd=maybe_usd(one.ledger.nanousd),
        official_usd=maybe_usd(one.official.nanousd),
        difference_usd=maybe_usd(one.nanousd),
        ledger_tokens=tokens_result(one.ledger.tokens),
        official_tokens=tokens_result(one.official.tokens),
    )
