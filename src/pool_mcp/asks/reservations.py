"""Who pays for an ask: each method is one transaction on the ledger, in which it looks, decides and writes.

No other process can come between what a method reads and what it writes. Nothing here waits for a CLI or a host;
call it in a thread, since a write waits for other processes' writes.
"""

import logging
from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import replace
from pathlib import Path

from pool_mcp.asks import machines
from pool_mcp.asks.idempotency import fingerprint, known_attempt
from pool_mcp.asks.outcomes import FAILOVER
from pool_mcp.asks.placing import Placing, pin
from pool_mcp.asks.runner import Runner
from pool_mcp.asks.spares import Spares
from pool_mcp.choosing import budget, cooldowns, overage, selection, windows
from pool_mcp.choosing.pacing import Alert
from pool_mcp.errors import CliFailed, InvalidRequest, LedgerError, LedgerInDoubt, PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import (
    NANO,
    Ask,
    Cost,
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
        about_to_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._state = state
        self._runner = runner
        self._clock = clock
        self._new_id = new_id
        self.owner_id = new_id()
        self._doubtful: set[str] = set()
        """Runs that may have been reserved although we were not told so, and that nobody follows."""
        self.placing = Placing(settings, state, runner, clock, new_id, self.owner_id, spares, about_to_wait)

    # Reserving

    def reserve(self, ask: Ask) -> tuple[Run, bool]:
        """Choose a subscription for an ask and reserve under it, or let it wait, with the ask on the disk before.

        Returns the run and whether it is new: an idempotency key that is known gives the latest run under it.

        Raises:
            PoolError: whatever keeps the ask from being served, by its kind.
        """
        outside = None if ask.session_id is None else self._runner.find_session(ask.session_id)
        ask = _in_repository(ask)
        self._state.learn(self._ledger, self._clock())
        run_id = self._store(ask)
        try:
            run = self._reserve(ask, run_id, outside)
        except LedgerInDoubt:
            self._doubtful.add(run_id)
            raise
        except LedgerError:
            raise  # it may be committed all the same
        except PoolError:
            self._runner.drop(run_id)
            raise
        if run.run_id != run_id:
            self._runner.drop(run_id)
            return run, False
        if run.state is RunState.WAITING:
            log.info("run %s: waits", run_id)
        else:
            log.info("run %s: reserved $%.4f under %s", run_id, run.reserved_nanousd / NANO, run.subscription)
        return run, True

    def _reserve(self, ask: Ask, run_id: str, outside: Subscription | None) -> Run:
        with self._ledger.write() as tx:
            known = known_attempt(tx, ask)
            if known is not None:
                return known
            if ask.working_dir is None and ask.session_id is not None:
                project, branch = tx.runs.repository_of_session(ask.session_id)
                ask = replace(ask, project=project, branch=branch)
            ask_id = self._new_id()
            tx.runs.insert_ask(ask_id, ask.caller, ask.idempotency_key or None, fingerprint(ask), self._clock())
            return self.placing.place(tx, ask, run_id, ask_id, pinned=pin(tx, self._settings, ask, outside))

    def _store(self, ask: Ask) -> str:
        """Put an ask on the disk under the id of its next run.

        Raises:
            LedgerError: the disk does not take it.
        """
        run_id = self._new_id()
        try:
            self._runner.store(run_id, ask, self.owner_id)
        except OSError as error:
            self._runner.drop(run_id)
            raise LedgerError(
                f"The ask cannot be stored in {self._settings.runs_dir}: {error.strerror or error}; free some space "
                "there or make it writable for you; run `pool-mcp doctor`."
            ) from None
        return run_id

    def preview(self, estimate_nanousd: int | None, model: str | None, session_id: str | None) -> selection.Choice:
        """The choice that an ask would meet now; nothing is reserved.

        Raises:
            UnknownSession: the session is nowhere to be found.
        """
        outside = None if session_id is None else self._runner.find_session(session_id)
        with self._ledger.read() as tx:
            now_ms = self._clock()
            pinned = pin(tx, self._settings, Ask("", "", session_id=session_id), outside)
            request = replace(self._state.request(tx, None, model, now_ms), only=pinned, kept=tx.queue.claims())
            if estimate_nanousd is not None:
                given = dict.fromkeys(request.estimates, estimate_nanousd)
                request = replace(request, estimates=given, likely=given)
            return selection.choose(request, self._state.balances(tx, now_ms), self._settings.strategy)

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
        there is to be no other attempt. Returns the next attempt, which may have to wait.
        """
        next_id = self._store_again(settlement, ask)
        following = self._settle(settlement, ask, tried, next_id)
        if next_id is not None and (following is None or following.run_id != next_id):
            self._runner.drop(next_id)
        if following is not None:
            where = f"under {following.subscription}" if following.subscription else "once there is room"
            log.info("run %s: goes on as run %s %s", settlement.run_id, following.run_id, where)
        return following

    def _store_again(self, settlement: Settlement, ask: Ask | None) -> str | None:
        """Put an ask on the disk for a next attempt, where there may be one; None where there can be none."""
        if ask is None or settlement.outcome not in FAILOVER or settlement.has_acted:
            return None
        try:
            return self._store(ask)
        except LedgerError as error:
            log.warning("run %s: no other attempt: %s", settlement.run_id, error)
            return None

    def _settle(
        self, settlement: Settlement, ask: Ask | None, tried: frozenset[str], next_id: str | None
    ) -> Run | None:
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
            if booked and ask is not None and may_follow and next_id is not None:
                following = self._next_attempt(tx, settlement, run, ask, tried, next_id)
            elif not booked:
                following = self._attempt_after(tx, run)
            if booked and following is None and settlement.outcome not in (Outcome.OK, Outcome.CANCELLED):
                tx.outbox.add(_failure(run, settlement))
        _log_settlement(settlement, is_ours=booked)
        return following

    def _next_attempt(
        self, tx: Transaction, settlement: Settlement, run: Run, ask: Ask, tried: frozenset[str], next_id: str
    ) -> Run | None:
        """Reserve under the next best subscription after a limit, a missing login or a refused bill, or wait for it."""
        attempts = tx.runs.of_ask(run.ask_id)
        first = attempts[0]
        tried |= {one.subscription for one in attempts}
        asked_at_ms = first.queued_at_ms or first.created_at_ms
        again = replace(
            ask,
            background=run.background,
            not_before_ms=None,
            give_up_at_ms=self.placing.gives_up_at_ms(ask, asked_at_ms),
            project=run.project,
            branch=run.branch,
        )
        try:
            needs = round(settlement.cost.nanousd * LIMIT_MARGIN) if settlement.outcome is Outcome.LIMIT else 0
            pinned = run.subscription if _is_bound(ask) else None
            return self.placing.place(tx, again, next_id, run.ask_id, pinned=pinned, tried=tried, needs_nanousd=needs)
        except PoolError as error:
            log.info("run %s: %s, and no other subscription: %s", run.run_id, settlement.outcome, error)
            return None  # the attempt's own outcome is the answer

    def _attempt_after(self, tx: Transaction, run: Run) -> Run | None:
        """The attempt that was reserved with a settlement of ours that was committed although it failed."""
        latest = tx.runs.of_ask(run.ask_id)[-1]
        is_ours = latest.owner_id == self.owner_id and latest.state in (RunState.WAITING, RunState.RESERVED)
        return latest if is_ours and latest.run_id != run.run_id else None

    # Taking over

    def adopt(self, dropped: Container[str]) -> list[Run]:
        """Become the owner of every unfinished run whose owner is gone, and of our own that nobody follows any more.

        Only of this machine's: whether the CLI of another one is still spending, only that machine knows. What a
        machine holds that has not been heard of for long is written off, and what others have written off of ours,
        is taken up again, so that its true cost is booked.
        """
        self._give_back()
        with self._ledger.read() as tx:
            unfinished, mine = tx.runs.unfinished(), tx.machines.mine
            ours = [run for run in unfinished if run.machine_id == mine] + tx.runs.written_off()
        owners = {run.owner_id for run in ours} - {self.owner_id}
        gone = {owner for owner in owners if not locks.is_alive(self._settings.owners_dir, owner)}
        orphans = [run for run in ours if (run.owner_id in gone or run.run_id in dropped) and self._can_take(run)]
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

    def _give_back(self) -> None:
        """End what was reserved, or put into the queue, although its caller had to be told that nobody knows."""
        doubtful = set(self._doubtful)
        if not doubtful:
            return
        message = "The ledger went away before it was known that this was reserved; it cost nothing. Ask again."
        with self._ledger.write() as tx:
            now_ms = self._clock()
            for run_id in doubtful:
                tx.queue.end(run_id, Outcome.CLI_FAILED, message, now_ms)
                ended = Settlement(run_id, RunState.FAILED, Outcome.CLI_FAILED, message, Cost(), now_ms)
                run = tx.runs.get(run_id)
                if run is not None and run.state is RunState.RESERVED:
                    tx.runs.settle(ended, self.owner_id)
        for run_id in doubtful:
            self._runner.drop(run_id)
        self._doubtful -= doubtful

    def _can_take(self, run: Run) -> bool:
        """Whether a run whose CLI may have to be started can be started here; one that is late ends anywhere."""
        subscription = self._subscription(run)
        is_late = run.deadline_ms < self._clock()
        may_start = run.state is RunState.RESERVED and subscription is not None and not is_late
        return not may_start or subscription is None or self._runner.can_serve(subscription)

    def drop_left_by(self, owners: Collection[str]) -> None:
        """Remove the asks of processes that were killed before they had placed them; no run is known of those."""
        for run_id in self._runner.left_by(owners):
            with self._ledger.read() as tx:
                is_unknown = tx.runs.get(run_id) is None
            if is_unknown:
                self._runner.drop(run_id)

    # Looking

    def elsewhere(self, run: Run) -> str | None:
        """What the machine is called that has a run's answer; None where that is this one."""
        with self._ledger.read() as tx:
            return tx.machines.elsewhere(run.machine_id)

    def are_there_any(self) -> bool:
        """Whether a run waits or has not ended."""
        with self._ledger.read() as tx:
            return bool(tx.runs.busy_sessions()) or not tx.queue.is_empty()

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


def _may_be_repeated(settlement: Settlement, run: Run, ask: Ask) -> bool:
    """Whether the subscription is to blame, nobody has cancelled, and another one can serve, or the same one later."""
    may_wait = settlement.outcome is Outcome.LIMIT and ask.waits_for == "room"
    return settlement.outcome in FAILOVER and not run.cancel_requested and (may_wait or not _is_bound(ask))


def _is_bound(ask: Ask) -> bool:
    return ask.session_id is not None or ask.subscription is not None


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
