"""The ledger's figures for a person or an agent: reports and their pictures.

Reads are one transaction each. Rows are bounded; the total beside them is always of everything in the span.
"""

from collections.abc import Callable
from datetime import tzinfo

from pool_mcp.accounting import periods
from pool_mcp.accounting.periods import Only, Span, Sums
from pool_mcp.choices import TIMES, By
from pool_mcp.choosing import windows
from pool_mcp.errors import InvalidRequest
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.reports import Among
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO, WEEK_MS
from pool_mcp.results.ledger import ReportResult, report_result
from pool_mcp.settings import Settings
from pool_mcp.usage import charts

MAX_ROWS = 100
"""Rows of one report for an agent: about 6,000 tokens."""

_CHART_DAYS = 30
_STEP_MS = 10 * MINUTE_MS
_AHEAD_MS = 2 * DAY_MS


class Figures:
    """Reports on one ledger in one time zone; blocking, so call it in a thread."""

    def __init__(self, settings: Settings, ledger: Ledger, clock: Callable[[], int], zone: tzinfo) -> None:
        self._settings = settings
        self._ledger = ledger
        self._clock = clock
        self._zone = zone

    def report(
        self,
        by: By,
        since: str | None = None,
        until: str | None = None,
        only: Only = Only(),  # noqa: B008  (a frozen value)
        *,
        limit: int = MAX_ROWS,
    ) -> ReportResult:
        """Spend by one dimension: times in order (of too many the latest), names by what they cost.

        Raises:
            InvalidRequest: the span is none, or nobody ever had this subscription.
        """
        span = periods.span_of(since, until, self._clock(), self._zone)
        with self._ledger.read() as tx:
            self._check(tx, only)
            among = tx.reports.among(only)
            total = tx.reports.total(span, among)
            if by in TIMES:
                rows, left_out = self._by_time(tx, by, span, among, limit)
            else:
                named = tx.reports.by_name(by, span, among, limit)
                rows, left_out = list(named.rows), named.left_out
        return report_result(by, span, str(self._zone), rows, left_out, total)

    def _by_time(
        self, tx: Transaction, by: By, span: Span, among: Among, limit: int
    ) -> tuple[list[tuple[str, Sums]], int]:
        """From the latest period back to the first, leaping over what is empty."""
        rows: list[tuple[str, Sums]] = []
        left_out = 0
        before_ms = self._leap(tx, span.until_ms, among)
        while before_ms > span.since_ms:
            period = periods.period_at(before_ms - 1, by, self._zone)
            before_ms = max(period.span.since_ms, span.since_ms)
            if len(rows) == limit:
                left_out += 1
            elif sums := tx.reports.total(period.span.within(span), among):
                rows.append((period.key, sums))
                continue
            before_ms = self._leap(tx, before_ms, among)
        return rows[::-1], left_out

    def _leap(self, tx: Transaction, before_ms: int, among: Among) -> int:
        """Back to the end of the last hour in which there is anything; the hour may lie partly after the instant."""
        hour_ms = tx.reports.latest_hour_ms(before_ms, among)
        return periods.ALWAYS.since_ms if hour_ms is None else min(before_ms, hour_ms + HOUR_MS)

    def _check(self, tx: Transaction, only: Only) -> None:
        known = [s.id for s in self._settings.subscriptions]
        if only.subscription is not None and only.subscription not in known + tx.reports.subscriptions():
            raise InvalidRequest(f"No subscription {only.subscription!r}; there are: {', '.join(known)}.")

    # Pictures

    def chart(self, by: By, since: str | None = None, until: str | None = None, only: Only = Only()) -> charts.Chart:  # noqa: B008
        """The picture that goes with a report.

        By hour or block the course of the five-hour window, by week the seven days against the budget, and else the
        spend by day, stacked by subscription.
        """
        now_ms = self._clock()
        span = periods.span_of(since, until, now_ms, self._zone)
        with self._ledger.read() as tx:
            self._check(tx, only)
            if by in ("hour", "block"):
                return self._course_of_blocks(tx, only, now_ms)
            if by == "week":
                return self._course_of_week(tx, only, now_ms)
            return self._days(tx, span, only)

    def _days(self, tx: Transaction, span: Span, only: Only) -> charts.Bars:
        rows, left_out = self._by_time(tx, "day", span, tx.reports.among(only), _CHART_DAYS)
        names = tx.reports.subscriptions() if only.subscription is None else [only.subscription]
        keys = [key for key, _ in rows]
        values = {}
        for name in names:
            among = tx.reports.among(Only(name, only.caller))
            own, _ = self._by_time(tx, "day", span, among, 2 * _CHART_DAYS)
            found = dict(own)
            values[name] = [found[key].cost_nanousd / NANO if key in found else 0.0 for key in keys]
        return charts.Bars(
            "Spend by day" + (f" (the last {_CHART_DAYS} with any)" if left_out else ""),
            keys,
            {name: own for name, own in values.items() if any(own)},
        )

    def _course_of_week(self, tx: Transaction, only: Only, now_ms: int) -> charts.Lines:
        """The rolling seven-day sum over the last week, and where it goes at the last day's rate."""
        mine = [s for s in self._settings.subscriptions if only.subscription in (None, s.id)]
        budget = sum(s.weekly_budget_nanousd for s in mine)
        span = Span(now_ms - 2 * WEEK_MS - HOUR_MS, now_ms + HOUR_MS)
        spent = tx.reports.hourly_spend(span, tx.reports.among(only))
        past = [at for at in range(now_ms - WEEK_MS, now_ms, 6 * HOUR_MS)] + [now_ms]  # noqa: C416
        ahead = range(now_ms, now_ms + _AHEAD_MS + 1, 6 * HOUR_MS)
        rate = periods.sum_between(spent, now_ms - DAY_MS, now_ms) / DAY_MS
        return charts.Lines(
            "Seven-day spend against the budget",
            "$",
            self._zone,
            {"spent": [(at, periods.sum_between(spent, at - WEEK_MS, at) / NANO) for at in past]},
            {
                "at the last day's rate": [
                    (at, (periods.sum_between(spent, at - WEEK_MS, now_ms) + rate * (at - now_ms)) / NANO)
                    for at in ahead
                ]
            },
            budget / NANO,
        )

    def _course_of_blocks(self, tx: Transaction, only: Only, now_ms: int) -> charts.Lines:
        """Each subscription's share of its block, as Anthropic reported it, or of its own budget where it did not."""
        lines: dict[str, list[tuple[int, float]]] = {}
        readings = tx.official.latest()
        for one in self._settings.subscriptions:
            if only.subscription not in (None, one.id):
                continue
            block = windows.block_at(now_ms, readings.get(one.id, {}).get(windows.FIVE_HOUR))
            span = Span(block.starts_at_ms, now_ms + 1)
            seen = tx.reports.readings(one.id, windows.FIVE_HOUR, span)
            official = [(r.observed_at_ms, r.percent) for r in seen if r.percent is not None]
            if official and block.source == "official":
                lines[one.id] = [(block.starts_at_ms, 0.0), *official]
                continue
            course, spent = [(block.starts_at_ms, 0.0)], 0
            for at_ms, cost in sorted(tx.reports.spend_in_steps(one.id, span, _STEP_MS).items()):
                spent += cost
                course.append((min(at_ms + _STEP_MS, now_ms), 100 * spent / one.block_budget_nanousd))
            if spent:
                lines[f"{one.id} (own budget)"] = [*course, (now_ms, course[-1][1])]
        return charts.Lines("The five-hour window", "%", self._zone, lines, {}, 100.0)
