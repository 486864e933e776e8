"""The ledger's figures for a person or an agent: reports and their pictures.

Reads are one transaction each. Rows are bounded; the total beside them is always of everything in the span.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo

from pool_mcp.accounting import periods
from pool_mcp.accounting.periods import Only, Span, Sums
from pool_mcp.choices import TIMES, By
from pool_mcp.errors import InvalidRequest
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.reports import Among
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import HOUR_MS, NANO
from pool_mcp.results.ledger import ReportResult, report_result
from pool_mcp.settings import Settings
from pool_mcp.usage import charts

MAX_ROWS = 100
"""Rows of one report for an agent: about 6,000 tokens."""

_CHART_LAST: dict[By, int] = {"hour": 48, "day": 30, "week": 12, "month": 12, "block": 28}
"""How many columns a chart has where no beginning is given."""
_CHART_COLUMNS = 366
_CHART_ROWS = 15


@dataclass(frozen=True, slots=True)
class Activity:
    """Recent spend in dollars, for a person's view.

    ``by_hour`` are the last 24 hours and ``by_day`` the last 14 days, each with every subscription's part. ``shares``
    is each model's percentage of the last seven days, and ``outside_percent`` what was used outside the pool then.
    """

    by_hour: charts.Chart
    by_day: charts.Chart
    shares: list[tuple[str, float]]
    outside_percent: float

    @property
    def hours(self) -> list[float]:
        """Every hour's spend, the newest last."""
        return self.by_hour.totals

    @property
    def days(self) -> list[float]:
        """Every day's spend, the newest last."""
        return self.by_day.totals


class Figures:
    """Reports on one ledger in one time zone; blocking, so call it in a thread."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        clock: Callable[[], int],
        zone: tzinfo,
        imported_at_ms: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._clock = clock
        self._zone = zone
        self._imported_at_ms = imported_at_ms

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
            real = self._real_nanousd(tx, span, only)
            if by in TIMES:
                rows, left_out = self._by_time(tx, by, span, among, limit)
            else:
                named = tx.reports.by_name(by, span, among, limit)
                rows, left_out = list(named.rows), named.left_out
        return report_result(by, span, str(self._zone), rows, left_out, total, real, self._imported_at_ms())

    def _real_nanousd(self, tx: Transaction, span: Span, only: Only) -> int:
        """What Anthropic bills of a span: API keys' use, as far as they are in the settings, and use beyond plans."""
        keys = tuple(one.id for one in self._settings.subscriptions if one.is_api_key)
        billed = tuple(one for one in keys if only.subscription in (None, one))
        of_keys = tx.reports.total(span, Among(billed, only.caller)).cost_nanousd if billed else 0
        return of_keys + tx.overage.paid_nanousd(span.since_ms, span.until_ms, only.subscription, only.caller)

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

    def activity(self, only: Only = Only()) -> Activity:  # noqa: B008
        """What was spent lately, by the hour, by the day, by model, and outside the pool."""
        models, sources = (self.report(by, "7d", only=only, limit=4) for by in ("model", "source"))
        total = models.total.cost_usd or 1.0
        outside = sum(row.cost_usd for row in sources.rows if row.key == "transcript")
        return Activity(
            self.chart("hour", "23h", only=only),
            self.chart("day", "13d", only=only),
            [
                (row.key.removeprefix("claude-"), 100 * row.cost_usd / total)
                for row in models.rows
                if row.cost_usd >= total / 200
            ],
            100 * outside / total,
        )

    def _check(self, tx: Transaction, only: Only) -> None:
        known = [s.id for s in self._settings.subscriptions]
        if only.subscription is not None and only.subscription not in known + tx.reports.subscriptions():
            raise InvalidRequest(f"No subscription {only.subscription!r}; there are: {', '.join(known)}.")

    # Pictures

    def chart(self, by: By, since: str | None = None, until: str | None = None, only: Only = Only()) -> charts.Chart:  # noqa: B008
        """The picture that goes with a report, by the same dimension and of the same span.

        Times are a true axis, stacked by subscription: from ``since``, or the last so many, up to now. Names are the
        most expensive ones, and the rest together.

        Raises:
            InvalidRequest: as :meth:`report`, or the span has too many columns.
        """
        now_ms = self._clock()
        span = periods.span_of(since, until, now_ms, self._zone)
        with self._ledger.read() as tx:
            self._check(tx, only)
            if by in TIMES:
                return self._columns(tx, by, span, only, now_ms)
            named = tx.reports.by_name(by, span, tx.reports.among(only), _CHART_ROWS)
            total = tx.reports.total(span, tx.reports.among(only))
        costs = {key: sums.cost_nanousd / NANO for key, sums in named.rows}
        if named.left_out:
            costs[f"{named.left_out} others"] = total.cost_nanousd / NANO - sum(costs.values())
        return charts.Chart(f"Spend by {by}{_said(since, until)}", list(costs), {"spent": list(costs.values())}, False)

    def _columns(self, tx: Transaction, by: By, span: Span, only: Only, now_ms: int) -> charts.Chart:
        """Every period of the span up to now, with or without spend; the last of them where no beginning is given."""
        number = _CHART_LAST[by]
        found: list[periods.Period] = []
        before_ms = min(span.until_ms, now_ms + 1)
        while before_ms > span.since_ms and (span.since_ms > periods.ALWAYS.since_ms or len(found) < number):
            if len(found) == _CHART_COLUMNS:
                raise InvalidRequest(
                    f"That is more than {_CHART_COLUMNS} columns; choose a longer step (by), or a later since."
                )
            found.append(periods.period_at(before_ms - 1, by, self._zone))
            before_ms = found[-1].span.since_ms
        found.reverse()
        names = tx.reports.subscriptions() if only.subscription is None else [only.subscription]
        values = {}
        for name in names:
            among = tx.reports.among(Only(name, only.caller))
            own = [tx.reports.total(one.span.within(span), among).cost_nanousd / NANO for one in found]
            if any(own):
                values[name] = own
        is_all = span.since_ms > periods.ALWAYS.since_ms
        title = f"Spend by {by}" + ("" if is_all else f", the last {len(found)}")
        return charts.Chart(title, [periods.label(one, by, self._zone) for one in found], values, True)


def _said(since: str | None, until: str | None) -> str:
    return (f" since {since}" if since else "") + (f" until {until}" if until else "")
