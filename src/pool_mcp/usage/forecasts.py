"""What the month will cost and how full each official window will be at its reset, from the ledger; blocking."""

from collections.abc import Callable, Iterator
from datetime import tzinfo

from pool_mcp.accounting import periods
from pool_mcp.choosing import forecast, windows
from pool_mcp.choosing.budget import Balance
from pool_mcp.choosing.forecast import Spend
from pool_mcp.choosing.rates import Gauge
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import DAY_MS, HOUR_MS, NANO
from pool_mcp.results.ledger import ForecastResult

SINCE_MS = (forecast.HISTORY_DAYS + forecast.PAST_FORECASTS + 32) * DAY_MS
"""How far back the spend is read: for the oldest of the earlier forecasts of a month."""

FULL = 100.0


class Forecasts:
    """Forecasts from one ledger; a month is that of one time zone."""

    def __init__(
        self,
        ledger: Ledger,
        balances: Callable[[Transaction, int], list[Balance]],
        clock: Callable[[], int],
        zone: tzinfo,
    ) -> None:
        self._ledger = ledger
        self._balances = balances
        self._clock = clock
        self._zone = zone

    def all(self) -> list[ForecastResult]:
        """Of the calendar month, all subscriptions together, then of each official window that is running."""
        with self._ledger.read() as tx:
            now_ms = self._clock()
            balances = self._balances(tx, now_ms)
            found = list(self._month(tx, now_ms))
            for balance in balances:
                for gauge in balance.gauges.values():
                    found += self._window(tx, balance, _quota(balance, balances), gauge)
        return found

    def _month(self, tx: Transaction, now_ms: int) -> Iterator[ForecastResult]:
        month = periods.period_at(now_ms, "month", self._zone).span
        hours = tx.balances.spend_by_hour(None, now_ms - SINCE_MS, None)
        spend = _spend(hours, now_ms)
        to_come = forecast.to_come(spend, now_ms, month.until_ms)
        if to_come is None:
            return
        spent = spend.between(month.since_ms, now_ms + HOUR_MS)
        held, of = forecast.held(spend, now_ms, month.until_ms)
        yield ForecastResult(
            what="month",
            unit="usd",
            ends_at=month.until_ms,
            now=spent / NANO,
            expected=(spent + to_come.expected) / NANO,
            low=(spent + to_come.low) / NANO,
            high=(spent + to_come.high) / NANO,
            held=held,
            past_forecasts=of,
        )

    def _window(self, tx: Transaction, balance: Balance, quota: list[str], gauge: Gauge) -> Iterator[ForecastResult]:
        now_ms, ends_at_ms = balance.at_ms, gauge.resets_at_ms
        if ends_at_ms is None:
            return
        family = windows.family_of(gauge.window)
        spend = _spend(tx.balances.spend_by_hour(quota, now_ms - SINCE_MS, family), now_ms)
        to_come = forecast.to_come(spend, now_ms, ends_at_ms)
        if to_come is None:
            return
        held, of = forecast.held(spend, now_ms, ends_at_ms)

        def percent(nanousd: float) -> float:
            return min(FULL, gauge.percent + nanousd / gauge.rate.nanousd_per_percent)

        yield ForecastResult(
            what=gauge.window,
            subscription=balance.subscription.id,
            unit="percent",
            ends_at=ends_at_ms,
            now=min(FULL, gauge.percent),
            expected=percent(to_come.expected),
            low=percent(to_come.low),
            high=percent(to_come.high),
            held=held,
            past_forecasts=of,
        )


def _quota(balance: Balance, balances: list[Balance]) -> list[str]:
    """Whose spend counts in a subscription's windows."""
    if balance.organization is None:
        return [balance.subscription.id]
    return [one.subscription.id for one in balances if one.organization == balance.organization]


def _spend(hours: windows.Hours, now_ms: int) -> Spend:
    """Spend since the first booking that is known; nothing before that is taken for nothing spent."""
    return Spend(hours, hours[0][0] if hours else now_ms)
