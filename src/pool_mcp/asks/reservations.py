"""Who pays for an ask: each method is one transaction on the ledger, in which it looks, decides and writes.

No other process can come between what a method reads and what it writes. Nothing here waits for a CLI or a host;
call it in a thread, since a write waits for other processes' writes.
"""

import logging
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import replace
from pathlib import Path

from pool_mcp.asks import machines
from pool_mcp.asks.admission import refusal
from pool_mcp.asks.idempotency import cost_of, fingerprint, known_attempt
from pool_mcp.asks.outcomes import FAILOVER
from pool_mcp.asks.runner import Runner
from pool_mcp.asks.spares import Spares
from pool_mcp.choosing import budget, cooldowns, overage, selection, windows
from pool_mcp.choosing.pacing import Alert
from pool_mcp.errors import BudgetExceeded, CliFailed, InvalidRequest, LedgerInDoubt, PoolError, UnknownSession
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import (
    NANO,
    SECOND_MS,
    Ask,
    Notice,
    Outcome,
    OverageReading,
    Run,
    RunState,
    Settlement,
    Subscription,
    WindowReading,
)
from pool_mcp.settings import Settings
from pool_mcp.state import State
from pool_mcp.system import locks
from pool_mcp.system.repositories import repository_of

log = logging.getLogger(__name__)

NO_CAP = 1 << 62

LIMIT_MARGIN = 1.5
"""An ask that a limit has cut is taken to need this many times what it had spent when it is tried elsewhere."""


class Reservations:
    """Reserves for asks in the name of one owner, this process, and settles what the owner's runs cost."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        state: State,
        runner: Runner,
        clock: Callable[[], int],
        new_id: Callable[[], str],
        spares: Spares | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._state = state
        self._runner = runner
        self._clock = clock
        self._new_id = new_id
        self._spares = spares
        self.owner_id = new_id()
        self._doubtful: set[str] = set()
        """Runs that may have been reserved although we were not told so, and that nobody follows."""

    # Reserving

    def reserve(self, ask: Ask) -> tuple[Run, bool]:
        """Choose a subscription for an ask and reserve under it.

        Returns the run and whether it is new: an idempotency key that is known gives the latest run under it.

        Raises:
            PoolError: whatever keeps the ask from being served, by its kind.
        """
        outside = None if ask.session_id is None else self._runner.find_session(ask.session_id)
        ask = _in_repository(ask)
        self._state.learn(self._ledger, self._clock())
        run: Run | None = None
        try:
            with self._ledger.write() as tx:
                known = known_attempt(tx, ask)
                if known is not None:
                    return known, False
                run = self._reserve(tx, ask, outside)
        except LedgerInDoubt:
            if run is not None:
                self._doubtful.add(run.run_id)
            raise
        log.info("run %s: reserved $%.4f under %s", run.run_id, run.reserved_nanousd / NANO, run.subscription)
        return run, True

    def _reserve(self, tx: Transaction, ask: Ask, outside: Subscription | None) -> Run:
        if ask.working_dir is None and ask.session_id is not None:
            project, branch = tx.runs.repository_of_session(ask.session_id)
            ask = replace(ask, project=project, branch=branch)
        ask_id = self._new_id()
        tx.runs.insert_ask(ask_id, ask.caller, ask.idempotency_key or None, fingerprint(ask), self._clock())
        return self._place(tx, ask, ask_id, frozenset(), pinned=_pin(tx, self._settings, ask, outside))

    def preview(self, estimate_nanousd: int | None, model: str | None, session_id: str | None) -> selection.Choice:
        """The choice that an ask would meet now; nothing is reserved.

        Raises:
            UnknownSession: the session is nowhere to be found.
        """
        outside = None if session_id is None else self._runner.find_session(session_id)
        with self._ledger.read() as tx:
            now_ms = self._clock()
            pinned = _pin(tx, self._settings, Ask("", "", session_id=session_id), outside)
            request = replace(self._state.request(tx, None, model, now_ms), only=pinned)
            if estimate_nanousd is not None:
                given = dict.fromkeys(request.estimates, estimate_nanousd)
                request = replace(request, estimates=given, likely=given)
            return selection.choose(request, self._state.balances(tx, now_ms), self._settings.strategy)

    def _place(
        self,
        tx: Transaction,
        ask: Ask,
        ask_id: str,
        tried: frozenset[str],
        *,
        pinned: str | None,
        needs_nanousd: int = 0,
    ) -> Run:
        """Choose a subscription for an ask and reserve under it, in the transaction that is open.

        ``needs_nanousd`` is what it is known to need at least.
        """
        now_ms = self._clock()
        cap = _cap_left(tx, ask, ask_id)
        least = self._state.least_costs(tx, ask.model).values() if cap is not None else ()
        if cap is not None and least and cap < min(least):
            raise InvalidRequest(
                f"max_cost_usd leaves ${cap / NANO:.4f}, and one call has cost ${min(least) / NANO:.4f} at least; "
                "raise it, or leave it out."
            )
        balances = self._state.balances(tx, now_ms)
        request = replace(
            self._state.request(tx, ask.caller, ask.model, now_ms, cap_nanousd=cap, project=ask.project),
            only=pinned,
            by_name=ask.subscription is not None,
            tried=tried,
            may_probe=not tried,
        )
        needs_nanousd = needs_nanousd if cap is None else min(needs_nanousd, cap)
        estimates = {name: max(needs_nanousd, amount) for name, amount in request.estimates.items()}
        request = replace(request, estimates=estimates)
        choice = selection.choose(request, balances, self._settings.strategy)
        if choice.subscription is None:
            raise refusal(choice)
        chosen = next(b for b in balances if b.subscription.id == choice.subscription)
        self._runner.check(chosen.subscription)
        most = selection.most_nanousd(request, chosen, choice, cap)
        spare = self._spares.offer(chosen.subscription, ask, most) if self._spares and not choice.is_paid else None
        run = Run(
            run_id=self._new_id(),
            ask_id=ask_id,
            subscription=choice.subscription,
            session_id=spare.session_id if spare else ask.session_id or self._new_id(),
            resumed=ask.session_id is not None,
            caller=ask.caller,
            model=ask.model,
            state=RunState.RESERVED,
            owner_id=self.owner_id,
            background=ask.background,
            structured=ask.json_schema is not None,
            created_at_ms=now_ms,
            deadline_ms=now_ms + round((ask.timeout_s or self._settings.claude.timeout_s) * SECOND_MS),
            project=ask.project,
            branch=ask.branch,
            reserved_nanousd=choice.reserve,
            max_budget_nanousd=spare.max_budget_nanousd if spare else most,
        )
        tx.runs.insert(run)
        if choice.is_paid:
            tx.overage.reserve(run.run_id, choice.reserve)
        return run

    # While it runs

    def begin(self, run: Run, baseline_json: str | None) -> Run:
        """Record, before the CLI can spend, that it may: after a crash the run is known to have perhaps cost something.

        Raises:
            CliFailed: another process has taken the run over.
        """
        with self._ledger.write() as tx:
            now_ms = self._clock()
            if not tx.runs.mark_running(run.run_id, self.owner_id, baseline_json, now_ms):
                raise CliFailed("Another process took this run over before it began; ask again.")
        return replace(run, state=RunState.RUNNING, baseline_json=baseline_json, started_at_ms=now_ms)

    def record_readings(
        self, run: Run, readings: Sequence[WindowReading], paid_use: OverageReading | None
    ) -> list[Alert]:
        """Keep what Anthropic reported with a run; the alerts that this process is the first to raise for it."""
        self._state.learn(self._ledger, self._clock())
        with self._ledger.write() as tx:
            tx.official.record(run.subscription, readings, self._clock())
            raised = self._record_overage(tx, run, paid_use)
            return raised + self._state.tell_alerts(tx, self._clock())

    def _record_overage(self, tx: Transaction, run: Run, reading: OverageReading | None) -> list[Alert]:
        """Keep what Anthropic reported of paid use; where it has no budget, the subscription is out at once."""
        subscription = self._subscription(run)
        if reading is None or subscription is None or not tx.overage.record(run.subscription, reading, self._clock()):
            return []
        notice = overage.notice(subscription, reading)
        raised = [notice] if notice is not None and tx.notices.record(notice, self._clock()) else []
        cooldown = overage.cooldown(subscription, reading)
        if raised and cooldown is not None:
            tx.cooldowns.start(run.subscription, cooldown, run.run_id)
        return raised

    def extend(self, run: Run, spent_nanousd: int, next_nanousd: int, overage_nanousd: int = 0) -> bool:
        """Reserve for what a run has spent and may still spend; False where budgets have no room for its next call.

        It is given as much as :data:`~pool_mcp.choosing.budget.EXTENSION` says, or what there is, and no more than its
        own cap, at which the CLI stops by itself. So a reservation is never less than what its run has been seen to
        spend, and however many run at once, each overruns by one API call at most.
        """
        with self._ledger.write() as tx:
            if overage_nanousd and not self._extend_overage(tx, run, overage_nanousd, next_nanousd):
                return False
            reserved = tx.runs.reserved_nanousd(run.run_id)
            tx.spending.record(run.run_id, run.subscription, spent_nanousd, self._clock())
            cap = NO_CAP if run.max_budget_nanousd is None else max(run.max_budget_nanousd, spent_nanousd)
            wanted = min(round(spent_nanousd * budget.EXTENSION), cap)
            if wanted <= reserved:
                return True
            now_ms = self._clock()
            balances = [b for b in self._state.balances(tx, now_ms) if b.subscription.id == run.subscription]
            own = [self._state.caller(tx, run.caller, now_ms), self._state.project(tx, run.project, now_ms)]
            budgets = [one.left for one in (*balances, *own) if one is not None and one.left is not None]
            # Windows count a call when it is made, budgets when it is booked.
            of_windows = [left for one in balances if (left := one.left_beside_kept(run.model)) is not None]
            granted = min(
                wanted,
                reserved + min(budgets, default=wanted),
                max(reserved, spent_nanousd) + min(of_windows, default=wanted),
            )
            tx.runs.change_reservation(run.run_id, max(reserved, granted, spent_nanousd))
        log.info("run %s: reserves $%.4f in all", run.run_id, max(reserved, granted, spent_nanousd) / NANO)
        return granted >= min(spent_nanousd + next_nanousd, cap)

    def _subscription(self, run: Run) -> Subscription | None:
        return next((one for one in self._settings.subscriptions if one.id == run.subscription), None)

    def _extend_overage(self, tx: Transaction, run: Run, spent_nanousd: int, next_nanousd: int) -> bool:
        """Reserve of the month's budget what a run has paid beyond the plan and may pay for its next call."""
        subscription = self._subscription(run)
        left = 0 if subscription is None else subscription.overage_budget_nanousd
        left -= tx.overage.spent_nanousd(run.subscription, windows.month_start_ms(self._clock()))
        left -= tx.overage.reserved_nanousd(run.subscription, beside_run=run.run_id)
        has_room = spent_nanousd + next_nanousd <= left
        tx.overage.reserve(run.run_id, spent_nanousd + next_nanousd if has_room else spent_nanousd)
        return has_room

    def prove(self, run: Run, models: Collection[str]) -> None:
        """Lift the cooldowns that answers of these models prove to be over while their run still goes on.

        So a long run keeps no others out.
        """
        owners = (run.subscription, cooldowns.WHOLE_POOL)
        with self._ledger.read() as tx:
            if tx.cooldowns.open().keys().isdisjoint(owners):
                return
        with self._ledger.write() as tx:
            for owner in owners:
                known = {run.model, *models}
                tx.cooldowns.lift_after_answer(owner, run.run_id, known, run.created_at_ms, self._clock())

    def is_cancel_requested(self, run: Run) -> bool:
        """Whether somebody, in whatever process, wants the run stopped."""
        with self._ledger.read() as tx:
            return tx.runs.is_cancel_requested(run.run_id)

    def request_cancel(self, run_id: str) -> None:
        """Ask whoever owns a run to stop it."""
        with self._ledger.write() as tx:
            tx.runs.request_cancel(run_id)

    def detach(self, run_id: str) -> None:
        """From now on the run goes on when its server stops."""
        with self._ledger.write() as tx:
            tx.runs.detach(run_id)

    # Settling

    def settle(self, settlement: Settlement, ask: Ask | None, tried: frozenset[str]) -> Run | None:
        """Book what a run cost and, where another subscription is to be tried for its ask, reserve there.

        Both in one transaction, so that nobody who looks in between takes the ask for failed. ``ask`` is None where
        there is to be no other attempt. Returns the next attempt.
        """
        with self._ledger.write() as tx:
            run = _run(tx, settlement.run_id)
            self._record_overage(tx, run, settlement.overage)
            settlement = _with_backoff(tx, settlement, run)
            may_follow = ask is not None and _may_be_repeated(settlement, run, ask)
            if may_follow and settlement.has_acted:
                may_follow, settlement = False, replace(settlement, message=_not_repeated(settlement.message))
            tx.official.record(run.subscription, settlement.readings, self._clock())
            booked = tx.runs.settle(settlement, self.owner_id, self._clock())
            following = None
            if booked and ask is not None and may_follow:
                following = self._next_attempt(tx, settlement, run, ask, tried)
            elif not booked:
                following = self._attempt_after(tx, run)
            if booked and following is None and settlement.outcome not in (Outcome.OK, Outcome.CANCELLED):
                tx.outbox.add(_failure(run, settlement))
        _log_settlement(settlement, is_ours=booked)
        if following is not None:
            log.info("run %s: goes on as run %s under %s", run.run_id, following.run_id, following.subscription)
        return following

    def _next_attempt(
        self, tx: Transaction, settlement: Settlement, run: Run, ask: Ask, tried: frozenset[str]
    ) -> Run | None:
        """Reserve under the next best subscription after a limit, a missing login or a refused bill."""
        again = replace(ask, background=run.background, project=run.project, branch=run.branch)
        try:
            needs = round(settlement.cost.nanousd * LIMIT_MARGIN) if settlement.outcome is Outcome.LIMIT else 0
            return self._place(tx, again, run.ask_id, tried, pinned=None, needs_nanousd=needs)
        except PoolError as error:
            log.info("run %s: %s, and no other subscription: %s", run.run_id, settlement.outcome, error)
            return None  # the attempt's own outcome is the answer

    def _attempt_after(self, tx: Transaction, run: Run) -> Run | None:
        """The attempt that was reserved with a settlement of ours that was committed although it failed."""
        latest = tx.runs.of_ask(run.ask_id)[-1]
        is_ours = latest.owner_id == self.owner_id and latest.state is RunState.RESERVED
        return latest if is_ours and latest.run_id != run.run_id else None

    # Taking over

    def adopt(self, dropped: Container[str]) -> list[Run]:
        """Become the owner of every unfinished run whose owner is gone, and of our own that nobody follows any more.

        Only of this machine's: whether the CLI of another one is still spending, only that machine knows. What a
        machine holds that has not been heard of for long is written off, and what others have written off of ours,
        is taken up again, so that its true cost is booked.
        """
        with self._ledger.read() as tx:
            unfinished, mine = tx.runs.unfinished(), tx.machines.mine
            ours = [run for run in unfinished if run.machine_id == mine] + tx.runs.written_off()
        owners = {run.owner_id for run in ours} - {self.owner_id}
        gone = {owner for owner in owners if not locks.is_alive(self._settings.owners_dir, owner)}
        orphans = [
            run
            for run in ours
            if run.owner_id in gone or run.run_id in dropped or (run.run_id in self._doubtful and not run.finished)
        ]
        lost = machines.lost(unfinished, mine, self._clock())
        if not orphans and not lost:
            return []
        with self._ledger.write() as tx:
            for run in lost:
                machines.write_off(tx, run, self._clock())
            return [
                replace(run, owner_id=self.owner_id, background=True)
                for run in orphans
                if tx.runs.adopt(run.run_id, run.owner_id, self.owner_id)
            ]

    # Looking

    def elsewhere(self, run: Run) -> str | None:
        """What the machine is called that has a run's answer; None where that is this one."""
        with self._ledger.read() as tx:
            return tx.machines.elsewhere(run.machine_id)

    def attempts(self, run_id: str) -> list[Run]:
        """The runs of the ask that a run belongs to, first to last.

        Raises:
            InvalidRequest: there is no such run.
        """
        with self._ledger.read() as tx:
            return tx.runs.of_ask(_run(tx, run_id).ask_id)


def _in_repository(ask: Ask) -> Ask:
    """The ask with the repository that its working directory is in."""
    if ask.working_dir is None:
        return ask
    found = repository_of(str(Path(ask.working_dir).expanduser()))
    return replace(ask, project=found.project, branch=found.branch)


def _log_settlement(settlement: Settlement, *, is_ours: bool) -> None:
    log.info(
        "run %s: %s (%s) for $%.6f%s",
        settlement.run_id,
        settlement.state if is_ours else "was settled by another process",
        settlement.outcome,
        settlement.cost.nanousd / NANO,
        " at least" if settlement.cost.is_estimate else "",
    )


def _run(tx: Transaction, run_id: str) -> Run:
    run = tx.runs.get(run_id)
    if run is None:
        raise InvalidRequest(f"No run {run_id!r} in this ledger; pass the run_id that ask_claude gave.")
    return run


def _failure(run: Run, settlement: Settlement) -> Notice:
    """That an ask has failed, without a word of what was asked or answered."""
    message = f"{run.subscription}: an ask of {run.caller} failed ({settlement.outcome}); pool-mcp show {run.run_id}"
    return Notice.of(run.run_id, "run_failed", run.subscription, message, settlement.ended_at_ms)


def _pin(tx: Transaction, settings: Settings, ask: Ask, outside: Subscription | None) -> str | None:
    """The only subscription that can serve, where there is but one."""
    if ask.session_id is None:
        return ask.subscription
    if elsewhere := tx.machines.elsewhere(tx.runs.machine_of_session(ask.session_id)):
        raise InvalidRequest(
            f"The session {ask.session_id} is on {elsewhere}; go on with it there, or begin a new one."
        )
    belongs = tx.runs.subscription_of_session(ask.session_id) or (outside.id if outside else None)
    if belongs is None:
        raise UnknownSession(
            f"No subscription knows the session {ask.session_id}; leave session_id out to begin a new one."
        )
    if belongs not in {s.id for s in settings.subscriptions}:
        raise UnknownSession(f"The session {ask.session_id} belongs to {belongs!r}, which is no longer in pool.toml.")
    if ask.subscription not in (None, belongs):
        raise InvalidRequest(
            f"The session {ask.session_id} belongs to {belongs!r} and cannot go on under {ask.subscription!r}; "
            "leave subscription out.",
            subscription=belongs,
        )
    if other := tx.runs.on_session(ask.session_id):
        raise InvalidRequest(
            f"The session {ask.session_id} is busy with run {other}; wait for it with ask_result.", run_id=other
        )
    return belongs


def _cap_left(tx: Transaction, ask: Ask, ask_id: str) -> int | None:
    """What ``max_cost_usd`` leaves after the ask's attempts so far.

    Raises:
        BudgetExceeded: nothing.
    """
    if ask.max_cost_nanousd is None:
        return None
    left = ask.max_cost_nanousd - cost_of(tx.runs.of_ask(ask_id)).nanousd
    if left <= 0:
        raise BudgetExceeded("The attempts so far have used up max_cost_usd.")
    return left


def _may_be_repeated(settlement: Settlement, run: Run, ask: Ask) -> bool:
    """Whether the subscription is to blame, nobody has cancelled, and another one can serve."""
    is_bound = ask.session_id is not None or ask.subscription is not None
    return settlement.outcome in FAILOVER and not run.cancel_requested and not is_bound


def _not_repeated(message: str | None) -> str:
    return f"{message or ''} It had used tools already, so it was not repeated under another subscription.".strip()


def _with_backoff(tx: Transaction, settlement: Settlement, run: Run) -> Settlement:
    """The settlement with its cooldown made longer by those before it, where it is of what passes by itself."""
    if settlement.cooldown is None:
        return settlement
    owner = cooldowns.owner_after(settlement.outcome, run.subscription)
    before = tx.cooldowns.latest(owner, settlement.cooldown.cause)
    if before is not None and before.until_ms is not None and before.until_ms == settlement.cooldown.until_ms:
        return replace(settlement, cooldown=None)  # it is in force already
    cooldown = cooldowns.with_backoff(settlement.cooldown, before, run.created_at_ms)
    return replace(settlement, cooldown=cooldown, retry_at_ms=cooldown.until_ms)
