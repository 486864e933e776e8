"""The ledger's figures as they leave the program: checks, imports and reports."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pool_mcp.accounting.periods import ALWAYS, Span, Sums
from pool_mcp.model import Audit, Run
from pool_mcp.results.base import Instant, Shape, usd

Rounded = Annotated[float, AfterValidator(lambda value: round(value, 2))]


class ProblemResult(Shape):
    """Something in the ledger that should not be."""

    check: str
    meaning: str
    where: list[str]


class UnsettledResult(Shape):
    """A run whose cost is not booked yet."""

    run_id: str
    subscription: str
    state: str
    reserved_usd: float
    created_at: Instant


class CheckResult(Shape):
    """What a check of the ledger found."""

    entries: int
    spent_usd: float
    problems: list[ProblemResult]
    unsettled: list[UnsettledResult]


class ImportResult(Shape):
    """What an import of the CLI's transcripts found."""

    running_elsewhere: bool = Field(default=False, description="Another process is importing; nothing was done here.")
    files: int = Field(default=0, description="Transcripts there are.")
    files_read: int = Field(default=0, description="Of these, those that were new or had changed.")
    files_waiting: int = Field(default=0, description="Of these, those left for later: a run is in flight on them.")
    files_unreadable: int = 0
    unreadable: list[str] = Field(default=[], description="Where transcripts may be that cannot be read.")
    accounts: int = Field(
        default=0, description="Sessions of which the CLI's own account had more than its answers show."
    )
    bytes_read: int = 0
    malformed_lines: int = 0
    new_calls: int = Field(default=0, description="API calls made outside the pool, now booked.")
    known_calls: int = Field(default=0, description="API calls that had been booked or stood there twice.")
    run_calls: int = Field(default=0, description="API calls of the pool's own runs, whose entries have them.")
    corrected_calls: int = Field(default=0, description="Known API calls of which more was found.")
    unpriced_calls: int = Field(default=0, description="New calls whose price is unknown; not in cost_usd.")
    cost_usd: float = Field(default=0, description="List price of all that was booked, corrections included.")


class ReportTotal(Shape):
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


class ForecastResult(Shape):
    """What a month or an official window will come to, with what it is within four times in five."""

    what: str = Field(description='"month", or an official window.')
    subscription: str | None = None
    unit: Literal["usd", "percent"]
    ends_at: Instant
    now: Rounded
    expected: Rounded
    low: Rounded
    high: Rounded
    held: int = Field(description="How many of past_forecasts came true within their intervals.")
    past_forecasts: int


class ReportResult(Shape):
    """Spend by one dimension; ``total`` is of everything in the span, also of rows that are left out."""

    by: str
    since: Instant | None
    until: Instant | None
    time_zone: str
    rows: list[ReportRow]
    rows_left_out: int = Field(description="Older, or cheaper, rows that are in the total only.")
    total: ReportTotal
    real_money_usd: float = Field(
        default=0, description="What is billed of the total: API keys, and use beyond plans. The rest is list price."
    )
    imported_at: Instant | None = Field(default=None, description="When use outside the pool was last read.")
    forecasts: list[ForecastResult] | None = Field(default=None, description="With 80% intervals, where asked for.")


def forecast_line(one: ForecastResult, ends_at: str) -> str:
    """A forecast in a sentence; ``ends_at`` is its end as the reader writes times."""
    what = "the month" if one.what == "month" else f"{one.subscription} {one.what}"

    def amount(value: float) -> str:
        return f"${value:.2f}" if one.unit == "usd" else f"{value:.0f}%"

    held = f"{one.held} of {one.past_forecasts} earlier forecasts held" if one.past_forecasts else "none before it"
    return (
        f"{what}: {amount(one.expected)} at {ends_at} ({amount(one.low)} to {amount(one.high)} in 4 of 5 cases; now "
        f"{amount(one.now)}); {held}"
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
                created_at=run.created_at_ms,
            )
            for run in unsettled
        ],
    )


def report_result(
    by: str,
    span: Span,
    time_zone: str,
    rows: Iterable[tuple[str, Sums]],
    left_out: int,
    total: Sums,
    real_nanousd: int = 0,
    imported_at_ms: int | None = None,
) -> ReportResult:
    """A report for the wire."""
    return ReportResult(
        by=by,
        since=None if span.since_ms == ALWAYS.since_ms else span.since_ms,
        until=None if span.until_ms == ALWAYS.until_ms else span.until_ms,
        time_zone=time_zone,
        rows=[ReportRow(key=key, **_sums(sums)) for key, sums in rows],
        rows_left_out=left_out,
        total=ReportTotal(**_sums(total)),
        real_money_usd=usd(real_nanousd),
        imported_at=imported_at_ms,
    )


def _sums(sums: Sums) -> dict[str, Any]:
    said = asdict(sums)
    return {"cost_usd": usd(said.pop("cost_nanousd")), **said}


def import_result(counts: Mapping[str, Any] | None) -> ImportResult:
    """An import for the wire by what it has counted; None where another process imports."""
    if counts is None:
        return ImportResult(running_elsewhere=True)
    named = {name: counts[name] for name in ImportResult.model_fields if name in counts}
    return ImportResult.model_validate({**named, "cost_usd": usd(counts["cost_nanousd"])})
