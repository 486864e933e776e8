"""Puts together from the ledger what is known of every subscription and caller at one instant."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pool_mcp.choosing import cooldowns, rates, windows
from pool_mcp.choosing.allowances import Allowance, InWindow
from pool_mcp.choosing.budget import Balance, PaidUse, estimate_nanousd, like_it, likely_nanousd
from pool_mcp.choosing.overage import OverageBalance, goes_on_until_ms
from pool_mcp.choosing.pacing import Alert, alerts, own_alerts, room_again
from pool_mcp.choosing.selection import Request
from pool_mcp.choosing.snapshot import Snapshot
from pool_mcp.ledger.balances import Reserved
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    WEEK_MS,
    CallerBudget,
    Cooldown,
    OverageReading,
    Subscription,
    WindowReading,
)
from pool_mcp.settings import Settings

RATES_MS = 5 * MINUTE_MS
"""How long a learned rate is used before the readings are gone through again, which takes some milliseconds."""

HISTORY_MS = 2 * WEEK_MS
"""From how far back rates are learned: plans change."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is read once for all subscriptions, by subscription."""

    reserved: Mapping[str, Reserved]
    still_reserved: Sequence[tuple[str, str | None, int]]
    last_used: Mapping[str, int]
    readings: Mapping[str, dict[str, WindowReading]]
    cooldowns: Mapping[str, Sequence[Cooldown]]
    organizations: Mapping[str, str]
    of_others: Mapping[str, str]
    overage: Mapping[str, OverageReading]


class State:
    """Reads balances within a transaction of the caller's; remembers nothing but learned rates, for a while."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rates: dict[tuple[str, str], rates.Rate] = {}
        self._learned_at_ms: int | None = None
        self.cli_missing: str | None = None
        """Why no subscription can serve on this machine, while it has no CLI."""

    def look(
        self,
        ledger: Ledger,
        clock: Callable[[], int],
        caller: str | None = None,
        *,
        only: str | None = None,
        model: str | None = None,
    ) -> Snapshot:
        """The state of all subscriptions, or of one, and of a caller that asks for a model (None: as it last did)."""
        with ledger.read() as tx:
            now_ms = clock()
            if caller is not None and model is None:
                _, model = tx.balances.last_asked(caller)
            balances = [one for one in self.balances(tx, now_ms) if only in (None, one.subscription.id)]
            day_ms = windows.day_start_ms(now_ms)
            return Snapshot(
                now_ms,
                balances,
                replace(self.request(tx, caller, model, now_ms), kept=tx.queue.claims()),
                self._settings.strategy,
                sum(tx.balances.spent_nanousd(one.subscription.id, day_ms) for one in balances),
                [
                    one
                    for one in tx.notices.current(now_ms)
                    if (only is None and not one[1].subscription)
                    or one[1].subscription in {balance.subscription.id for balance in balances}
                ],
                self._overage(tx, now_ms),
                len(tx.queue),
            )

    def _overage(self, tx: Transaction, now_ms: int) -> dict[str, OverageBalance]:
        readings, month_ms, week_ms = tx.overage.latest(), windows.month_start_ms(now_ms), windows.week_start_ms(now_ms)
        paid = tx.overage.spent_nanousd
        known = (
            OverageBalance(one, paid(one.id, month_ms), readings.get(one.id), paid(one.id, week_ms))
            for one in self._settings.subscriptions
        )
        return {one.subscription.id: one for one in known if one.is_worth_telling}

    def learn(self, ledger: Ledger, now_ms: int) -> None:
        """Learn the rates again where that is due. Called before a write, during which others wait."""
        if self._is_due(now_ms):
            with ledger.read() as tx:
                self.balances(tx, now_ms)

    def _is_due(self, now_ms: int) -> bool:
        return self._learned_at_ms is None or not 0 <= now_ms - self._learned_at_ms < RATES_MS

    def balances(self, tx: Transaction, now_ms: int) -> list[Balance]:
        """Every subscription's, in the order of the settings. Those of one organization share readings and limits."""
        if self._is_due(now_ms):
            self._rates, self._learned_at_ms = {}, now_ms
        known = _Known(
            reserved=tx.balances.reserved(),
            still_reserved=tx.spending.still_reserved(),
            last_used=tx.balances.last_used_ms(),
            readings=tx.official.latest(),
            cooldowns=tx.cooldowns.open(),
            organizations=tx.logins.organisations(),
            of_others=tx.logins.of_others() if tx.machines.mine else {},
            overage=tx.overage.latest(),
        )
        return [self._balance(tx, one, known, now_ms) for one in self._settings.subscriptions]

    def _balance(self, tx: Transaction, subscription: Subscription, known: "_Known", now_ms: int) -> Balance:
        name = subscription.id
        quota = self._quota(subscription, known.organizations)
        readings = _newest([known.readings.get(one, {}) for one in quota])
        block = windows.block_at(now_ms, readings.get(windows.FIVE_HOUR))
        reserved = known.reserved.get(name, Reserved())
        since = {window: windows.counts_from_ms(one, now_ms) for window, one in readings.items()}
        spent_since = {window: _spent(tx, quota, at_ms, window) for window, at_ms in since.items()}
        return Balance(
            subscription=subscription,
            at_ms=now_ms,
            block=block,
            block_spent=tx.balances.spent_nanousd(name, block.starts_at_ms),
            week_spent=tx.balances.spent_nanousd(name, windows.week_start_ms(now_ms)),
            hour_spent=tx.balances.spent_nanousd(name, now_ms - HOUR_MS),
            days=tx.balances.days_of_subscription(name, now_ms),
            hours=tx.balances.hours_of_subscription(name, now_ms),
            reserved=reserved.nanousd,
            in_flight=reserved.in_flight,
            readings=readings,
            cooldowns=cooldowns.of_subscription(
                (*self._no_cli(), *_of_other_account(name, known), *known.cooldowns.get(name, ())),
                [cooldown for other in quota[1:] for cooldown in known.cooldowns.get(other, ())],
                now_ms,
            ),
            last_used_ms=known.last_used.get(name),
            spent_since=spent_since,
            spent_before={
                window: max(0, _spent(tx, quota, windows.begins_ms(one, now_ms), window) - spent_since[window])
                for window, one in readings.items()
                if not windows.has_reset(one, now_ms)
            },
            rates={window: self._rate(tx, subscription, window, now_ms) for window in readings},
            organization=None if subscription.is_api_key else known.organizations.get(name),
            still_reserved={
                window: sum(
                    amount
                    for owner, model, amount in known.still_reserved
                    if owner in quota and windows.applies_to(window, model)
                )
                for window in readings
            },
            paid_use=_paid_use(tx, subscription, known.overage.get(name), now_ms),
            reserved_beside=sum(known.reserved.get(one, Reserved()).nanousd for one in quota[1:]),
        )

    def _quota(self, subscription: Subscription, organizations: Mapping[str, str]) -> list[str]:
        """Whose spend counts in one's windows: its own, first, and that of the others in its organization."""
        organization = organizations.get(subscription.id)
        if subscription.is_api_key or not organization:
            return [subscription.id]
        others = (one for one in self._settings.subscriptions if one.id != subscription.id and not one.is_api_key)
        return [subscription.id, *(one.id for one in others if organizations.get(one.id) == organization)]

    def request(
        self,
        tx: Transaction,
        caller: str | None,
        model: str | None,
        now_ms: int,
        *,
        cap_nanousd: int | None = None,
        project: str | None = None,
    ) -> Request:
        """An ask of a caller's, for a project where that is known, and what it may and most likely will cost."""
        recent = {one.id: tx.balances.recent_costs_nanousd(one.id, model) for one in self._settings.subscriptions}
        everywhere = [cost for costs in recent.values() for cost in costs]
        like = {name: like_it(costs, everywhere) for name, costs in recent.items()}
        least = {} if cap_nanousd is None else self.least_costs(tx, model)
        return Request(
            {name: estimate_nanousd(cap_nanousd, costs, least.get(name)) for name, costs in like.items()},
            model,
            {name: likely_nanousd(cap_nanousd, costs) for name, costs in like.items()},
            None if caller is None else self.caller(tx, caller, now_ms),
            self.project(tx, project, now_ms),
            pool_cooldown=self.pool_cooldown(tx, now_ms),
            last_asked_ms=None if caller is None else tx.balances.last_asked(caller)[0],
            active_callers=1 if caller is None else tx.balances.active_callers(caller, now_ms - HOUR_MS),
        )

    def least_costs(self, tx: Transaction, model: str | None) -> dict[str, int]:
        """What the cheapest late run of a model has cost, by subscription, where there was one."""
        found = {one.id: tx.balances.least_cost_nanousd(one.id, model) for one in self._settings.subscriptions}
        return {name: cost for name, cost in found.items() if cost is not None}

    def caller(self, tx: Transaction, caller: str, now_ms: int) -> Allowance:
        """A caller's own budget and what it has used of it."""
        budget = self._settings.callers.get(caller, CallerBudget())
        has_days = budget.weekly_nanousd is not None or budget.monthly_nanousd is not None
        month_ms = windows.month_start_ms(now_ms)
        return Allowance(
            caller,
            now_ms,
            budget,
            day_spent=tx.balances.caller_spent_nanousd(caller, windows.day_start_ms(now_ms)),
            week_spent=tx.balances.caller_spent_nanousd(caller, windows.week_start_ms(now_ms)),
            month_spent=0 if budget.monthly_nanousd is None else tx.balances.caller_spent_nanousd(caller, month_ms),
            hour_spent=tx.balances.caller_spent_nanousd(caller, now_ms - HOUR_MS),
            reserved=tx.balances.caller_reserved_nanousd(caller),
            days=tx.balances.days_of_caller(caller, now_ms) if has_days else (),
            hours=tx.balances.hours_of_caller(caller, now_ms) if budget.weekly_nanousd is not None else (),
            share_percent=budget.share_percent,
            in_windows={} if budget.share_percent is None else self._in_windows(tx, caller, now_ms),
        )

    def _in_windows(self, tx: Transaction, caller: str, now_ms: int) -> dict[tuple[str, str], InWindow]:
        """What a caller has used of each official window that is running."""
        organizations, readings = tx.logins.organisations(), tx.official.latest()
        found = {}
        for subscription in self._settings.subscriptions:
            quota = self._quota(subscription, organizations)
            reserved = sum(tx.balances.caller_reserved_nanousd(caller, one) for one in quota)
            for window, reading in _newest([readings.get(one, {}) for one in quota]).items():
                family = windows.family_of(window)
                ends_at_ms = windows.resets_next_ms(reading, now_ms) or now_ms + windows.length_ms(window)
                since_ms = ends_at_ms - windows.length_ms(window)
                if windows.has_reset(reading, now_ms):
                    since_ms = windows.counts_from_ms(reading, now_ms)
                spent = sum(tx.balances.caller_spent_under_nanousd(caller, one, since_ms, family) for one in quota)
                found[subscription.id, window] = InWindow(spent, reserved, ends_at_ms)
        return found

    def project(self, tx: Transaction, project: str | None, now_ms: int) -> Allowance | None:
        """A project's own budget and what was spent of it, by whomever; None where it has none."""
        budget = None if project is None else self._settings.projects.get(project)
        if project is None or budget is None:
            return None
        hours = tx.balances.hours_of_project(project, now_ms)
        day_ms, month_ms = windows.day_start_ms(now_ms), windows.month_start_ms(now_ms)
        return Allowance(
            project,
            now_ms,
            budget,
            day_spent=tx.balances.project_spent_nanousd(project, day_ms),
            week_spent=tx.balances.project_spent_nanousd(project, windows.week_start_ms(now_ms)),
            month_spent=tx.balances.project_spent_nanousd(project, month_ms),
            hour_spent=tx.balances.project_spent_nanousd(project, now_ms - HOUR_MS),
            reserved=tx.balances.project_reserved_nanousd(project),
            days=_days(hours, now_ms),
            hours=hours,
            is_project=True,
        )

    def pool_cooldown(self, tx: Transaction, now_ms: int) -> Cooldown | None:
        """The pool's own cooldown, while Anthropic is overloaded."""
        return cooldowns.of_pool(tx.cooldowns.open(), now_ms)

    def tell_alerts(self, tx: Transaction, now_ms: int) -> list[Alert]:
        """Put on record what the pool's state calls for; those that no process has told yet."""
        balances = self.balances(tx, now_ms)
        own = [self.caller(tx, name, now_ms) for name in self._settings.callers]
        own += [one for name in self._settings.projects if (one := self.project(tx, name, now_ms)) is not None]
        found = alerts(balances) + own_alerts(own)
        told = [alert for alert in found if tx.notices.record(alert, now_ms)]
        ended = tx.notices.ended_limits(now_ms - HISTORY_MS, now_ms)
        return told + [alert for alert in room_again(ended, balances) if tx.notices.record(alert, now_ms)]

    def _no_cli(self) -> tuple[Cooldown, ...]:
        return () if self.cli_missing is None else (Cooldown("cli_missing", 0, None, self.cli_missing),)

    def _rate(self, tx: Transaction, subscription: Subscription, window: str, now_ms: int) -> rates.Rate:
        rate = self._rates.get((subscription.id, window))
        if rate is None:
            steps = tx.official.steps(subscription.id, window, windows.family_of(window), now_ms - HISTORY_MS)
            rate = self._rates[subscription.id, window] = rates.learn(steps, rates.prior(subscription, window))
        return rate


def _paid_use(
    tx: Transaction, subscription: Subscription, reading: OverageReading | None, now_ms: int
) -> PaidUse | None:
    """What a subscription's budget for use beyond its plan leaves; None where it has none."""
    if not subscription.overage_budget_nanousd:
        return None
    used = tx.overage.spent_nanousd(subscription.id, windows.month_start_ms(now_ms))
    used += tx.overage.reserved_nanousd(subscription.id)
    left = max(0, subscription.overage_budget_nanousd - used)
    return PaidUse(left, goes_on_until_ms(reading, now_ms))


def _days(hours: windows.Hours, now_ms: int) -> list[int]:
    """What was spent in each of the last seven times 24 hours, to the hour, the newest first."""
    days = [0] * (WEEK_MS // DAY_MS)
    for hour_ms, nanousd in hours:
        age = max(0, (now_ms - now_ms % HOUR_MS - hour_ms) // DAY_MS)
        if age < len(days):
            days[age] += nanousd
    return days


def _newest(readings: list[dict[str, WindowReading]]) -> dict[str, WindowReading]:
    """The newest reading of each window, whichever of one organization's subscriptions brought it."""
    result: dict[str, WindowReading] = {}
    for of_one in readings:
        for window, reading in of_one.items():
            if window not in result or reading.observed_at_ms > result[window].observed_at_ms:
                result[window] = reading
    return result


def _spent(tx: Transaction, subscriptions: list[str], since_ms: int, window: str) -> int:
    """What subscriptions have spent since an instant of what a window counts, each call at its time."""
    family = windows.family_of(window)
    spent = sum(tx.spending.moved_nanousd(one, since_ms, family) for one in subscriptions)
    if family is None:
        spent += sum(tx.balances.spent_nanousd(one, since_ms) for one in subscriptions)
    else:
        spent += sum(tx.balances.family_spent_nanousd(one, since_ms, family) for one in subscriptions)
    return max(0, spent)


def _of_other_account(name: str, known: _Known) -> tuple[Cooldown, ...]:
    """Out here, since what it spends would be counted as another account's."""
    if name not in known.of_others:
        return ()
    detail = f"{name!r} is another account on {known.of_others[name]}; give this one another id in pool.toml"
    return (Cooldown("auth", 0, None, detail),)
