"""The organisation's own figures: read every hour by one of the servers, and held against the ledger.

What is read is kept in tables of its own and is never spend: only ``adjust`` books anything, one entry per subscription
and hour that differs, with its evidence. Afterwards nothing differs, so adjusting again books nothing.
"""

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING

import anyio.to_thread

from pool_mcp.accounting import periods, reconcile
from pool_mcp.accounting.periods import Span
from pool_mcp.accounting.pricing import price_nanousd
from pool_mcp.accounting.reconcile import ANALYTICS, BILLED, MESSAGES, Basis, Figure
from pool_mcp.choosing.windows import rfc3339
from pool_mcp.errors import InvalidRequest, NeedsLogin, PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.organisation import Sync
from pool_mcp.model import CLOCK_SLACK_MS, DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS, Notice
from pool_mcp.results.organisation import (
    ReconcileResult,
    SyncedReport,
    SyncResult,
    reconcile_result,
    report_not_read,
    report_read,
    sync_result,
)
from pool_mcp.settings import Settings
from pool_mcp.system import places

if TYPE_CHECKING:
    from pool_mcp.organisation.admin_api import AdminApi, Fetched

log = logging.getLogger(__name__)

SYNC_MS = HOUR_MS
"""How often a server reads the reports."""
SYNC_LOOK_S = 20.0
"""How often a server looks whether they are due; so commands, which are shorter, never do."""
AGAIN_MS = 5 * MINUTE_MS
"""How often it is tried by itself where that fails: with a refused key it always does."""
FIRST_DAYS, AGAIN_DAYS, REVISED_DAYS = 30, 3, 30
"""How far back: the first time; every hour; once a day, because figures are revised for so long."""
FRESH_MS = 5 * MINUTE_MS
"""A reconciliation reads the reports again when they were read longer ago than this."""
NOTICE_USD = 1.0
"""A larger difference within the last week is a notice."""
MAX_DAYS = 92
"""The longest span that is reconciled at once."""


class Organisation:
    """Sync and reconciliation over one ledger."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        env: Mapping[str, str],
        clock: Callable[[], int],
        backoff_s: float = 1.0,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._env = env
        self._clock = clock
        self._backoff_s = backoff_s

    @property
    def has_key(self) -> bool:
        """Whether the variable that the settings name holds something."""
        return places.read_env(self._env, self._settings.admin.api_key_env) is not None

    # Reading the reports

    async def sync_if_due(self) -> None:
        """Read the reports if nobody has within the hour, and nobody is at it or has just failed.

        Raises:
            PoolError: as :meth:`sync`.
        """
        if not await anyio.to_thread.run_sync(self._is_due):
            return
        take = functools.partial(self._ledger.take_lease, "sync", AGAIN_MS, self._clock, for_all=True)
        if await anyio.to_thread.run_sync(take):
            now_ms = self._clock()
            await self._sync(Span(now_ms - await anyio.to_thread.run_sync(self._reach_ms), now_ms))
            await anyio.to_thread.run_sync(self._notice_difference)

    def _notice_difference(self) -> None:
        """Put it into the outbox, once a UTC day, where the last week's figures differ from the ledger."""
        now_ms = self._clock()
        try:
            found = self._reconcile(Span((now_ms - WEEK_MS) // HOUR_MS * HOUR_MS, now_ms), adjust=False)
        except InvalidRequest:
            return  # there is nothing to compare
        if abs(found.difference_usd) <= NOTICE_USD:
            return
        more = "more" if found.difference_usd > 0 else "less"
        message = (
            f"the organization reports ${abs(found.difference_usd):.2f} {more} than the ledger since "
            f"{rfc3339(found.since)}; see pool-mcp reconcile"
        )
        of_day = Notice.of("organization", "organization", "", message, now_ms // DAY_MS * DAY_MS)
        with self._ledger.write() as tx:
            tx.outbox.add(replace(of_day, at_ms=now_ms))

    def _is_due(self) -> bool:
        with self._ledger.read() as tx:
            now_ms = self._clock()
            last_ms = tx.organisation.last_synced_ms(now_ms)
        return last_ms is None or last_ms <= now_ms - SYNC_MS

    def _reach_ms(self) -> int:
        now_ms = self._clock()
        with self._ledger.read() as tx:
            if tx.organisation.last_synced_ms(now_ms) is None:
                return FIRST_DAYS * DAY_MS
            old = tx.organisation.latest_sync(BILLED, now_ms - (REVISED_DAYS - 2) * DAY_MS)
        is_fresh = old is not None and now_ms - DAY_MS <= old.synced_at_ms <= now_ms + CLOCK_SLACK_MS
        return (AGAIN_DAYS if is_fresh else REVISED_DAYS) * DAY_MS

    async def sync(self, since: str | None = None, until: str | None = None) -> SyncResult:
        """Read the reports for a span of UTC days (default: the last 30).

        Raises:
            NeedsLogin: there is no key, or it is refused.
            PoolError: none of the reports could be read; the first reason.
        """
        now_ms = self._clock()
        span = self._span(since or f"{FIRST_DAYS}d", until, now_ms)
        return await self._sync(span)

    def _span(self, since: str, until: str | None, now_ms: int) -> Span:
        asked = periods.span_of(since, until, now_ms, UTC)
        span = Span(asked.since_ms // HOUR_MS * HOUR_MS, min(asked.until_ms, now_ms))
        if span.since_ms >= span.until_ms:
            raise InvalidRequest(f"since ({since}) is not in the past.")
        if span.until_ms - span.since_ms > MAX_DAYS * DAY_MS:
            raise InvalidRequest(f"That is longer than {MAX_DAYS} days; ask for less at once.")
        return span

    async def _sync(self, span: Span) -> SyncResult:
        synced: list[SyncedReport] = []
        problems: list[PoolError] = []
        days = Span(span.since_ms // DAY_MS * DAY_MS, -(-span.until_ms // DAY_MS) * DAY_MS)
        hours = Span(span.since_ms // HOUR_MS * HOUR_MS, -(-span.until_ms // HOUR_MS) * HOUR_MS)
        async with self._api() as api:
            plan: tuple[tuple[str, Span, Callable[[int, int], Awaitable[Fetched]]], ...] = (
                (ANALYTICS, hours, api.analytics),
                (MESSAGES, hours, api.messages),
                (BILLED, days, api.cost_report),
            )
            for report, part, fetch in plan:
                try:
                    fetched = await fetch(part.since_ms, part.until_ms)
                except NeedsLogin:
                    raise
                except PoolError as error:
                    log.info("%s could not be read: %s", report, error)
                    problems.append(error)
                    synced.append(report_not_read(report, part, error.message))
                    continue
                sync = Sync(part.since_ms, part.until_ms, self._clock(), fetched.refreshed_at_ms)
                await anyio.to_thread.run_sync(self._keep, report, sync, fetched.figures)
                synced.append(report_read(report, part, len(fetched.figures), fetched.refreshed_at_ms))
        if len(problems) == len(plan):
            raise problems[0]
        return sync_result(synced, self._clock())

    def _keep(self, report: str, sync: Sync, figures: tuple[Figure, ...]) -> None:
        with self._ledger.write() as tx:
            tx.organisation.replace(report, sync, figures)

    @asynccontextmanager
    async def _api(self) -> "AsyncIterator[AdminApi]":
        from pool_mcp.organisation.admin_api import AdminApi  # loads the HTTP client

        admin = self._settings.admin
        key = places.read_env(self._env, admin.api_key_env)
        if key is None:
            raise NeedsLogin(
                f"There is no Admin key in ${admin.api_key_env}; set it to read the organization's reports "
                "(individual accounts have none)."
            )
        async with AdminApi(key, admin.api_key_env, admin.base_url, self._clock, self._backoff_s) as api:
            yield api

    # Holding them against the ledger

    async def reconcile(
        self, since: str | None = None, until: str | None = None, *, adjust: bool = False
    ) -> ReconcileResult:
        """Compare the ledger's API-key subscriptions with the organisation's figures; book the difference if asked.

        Reads the reports first where they were last read more than five minutes ago and there is a key.

        Raises:
            InvalidRequest: there is nothing to compare.
            PoolError: the reports could not be read.
        """
        now_ms = self._clock()
        span = self._span(since or "7d", until, now_ms)
        subscriptions = [s for s in self._settings.subscriptions if s.is_api_key]
        if not subscriptions:
            raise InvalidRequest(
                "No subscription in pool.toml has an api_key_env: the organization's reports know nothing of others."
            )
        if self.has_key and not await anyio.to_thread.run_sync(self._is_fresh, span, now_ms):
            await self._sync(span)
        return await anyio.to_thread.run_sync(self._reconcile, span, adjust)

    def _is_fresh(self, span: Span, now_ms: int) -> bool:
        with self._ledger.read() as tx:
            syncs = [tx.organisation.latest_sync(report, span.since_ms) for report in (ANALYTICS, MESSAGES)]
        return any(
            one is not None and one.synced_at_ms > now_ms - FRESH_MS and one.until_ms >= span.until_ms for one in syncs
        )

    def _reconcile(self, span: Span, adjust: bool) -> ReconcileResult:
        subscriptions = [s for s in self._settings.subscriptions if s.is_api_key]
        with self._ledger.write() if adjust else self._ledger.read() as tx:
            source, sync = ANALYTICS, tx.organisation.latest_sync(ANALYTICS, span.since_ms)
            if sync is None:
                source, sync = MESSAGES, tx.organisation.latest_sync(MESSAGES, span.since_ms)
            if sync is None:
                raise InvalidRequest(
                    f"The organization's figures since {rfc3339(span.since_ms)} are not known; "
                    f"set ${self._settings.admin.api_key_env} and run pool-mcp sync."
                )
            ids = [s.id for s in subscriptions]
            final_ms = reconcile.settled_until_ms(
                self._clock(),
                source,
                sync.synced_at_ms,
                sync.refreshed_at_ms,
                tx.organisation.oldest_unfinished_ms(ids),
            )
            final = Span(span.since_ms, max(span.since_ms, min(final_ms, span.until_ms, sync.until_ms)))
            basis = Basis(source, span, final, sync.synced_at_ms, sync.refreshed_at_ms)
            figures = tx.organisation.figures(source, final.since_ms, final.until_ms)
            if source == MESSAGES:
                figures = [_priced(one) for one in figures]
            matches = reconcile.match_keys(subscriptions, [one.key_id for one in figures])
            booked = tx.organisation.booked(ids, final.since_ms, final.until_ms)
            found = reconcile.compare(booked, figures, matches)
            todo = reconcile.adjustments(found, basis) if adjust else []
            for one in todo:
                tx.organisation.adjust(one.subscription, one.at_ms, one.cost, one.note)
            billed = tx.organisation.figures(BILLED, final.since_ms // DAY_MS * DAY_MS, final.until_ms)
        for one in todo:
            log.info("adjusted %s at %s by $%.4f", one.subscription, rfc3339(one.at_ms), one.cost.nanousd / 1e9)
        return reconcile_result(found, matches, basis, billed, todo if adjust else None)


def _priced(figure: Figure) -> Figure:
    """A row of tokens at list price; batches cost half. Long prompts' surcharges cannot be told from a sum."""
    price = price_nanousd(figure.model, figure.tokens, figure.starts_at_ms) if figure.model else None
    if price is not None and '"service_tier": "batch"' in figure.detail:
        price //= 2
    return replace(figure, cost_nanousd=price)
