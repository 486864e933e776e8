"""Who pays for an ask: each method is one transaction on the ledger, in which it looks, decides and writes.

No other process can come between what a method reads and what it writes. Nothing here waits for a CLI or a host;
call it in a thread, since a write waits for other processes' writes.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from pool_mcp.asks.admission import check_caller, refusal
from pool_mcp.asks.outcomes import FAILOVER
from pool_mcp.asks.runner import Runner
from pool_mcp.choosing import budget, cooldowns, selection
from pool_mcp.choosing.pacing import Alert
from pool_mcp.errors import CliFailed, InvalidRequest, PoolError, UnknownSession
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import NANO, SECOND_MS, Ask, Run, RunState, Settlement, Subscription, WindowReading
from pool_mcp.settings import Settings
from pool_mcp.state import State
from pool_mcp.system import locks

log = logging.getLogger(__name__)


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
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._state = state
        self._runner = runner
        self._clock = clock
        self._new_id = new_id
        self.owner_id = new_id()

    # Reserving

    def reserve(self, ask: Ask) -> tuple[Run, bool]:
        """Choose a subscription for an ask and reserve under it.

        Returns the run and whether it is new: an idempotency key that is known gives the latest run under it.

        Raises:
            PoolError: whatever keeps the ask from being served, by its kind.
        """
        outside = None if ask.session_id is None else self._runner.find_session(ask.session_id)
        self._state.learn(self._ledger, self._clock())
        with self._ledger.write() as tx:
            known = _known(tx, ask)
            if known is not None:
                return known, False
            ask_id = self._new_id()
            tx.runs.insert_ask(ask_id, ask.caller, ask.idempotency_key, _fingerprint(ask), self._clock())
            run = self._place(tx, ask, ask_id, frozenset(), pinned=self._pin(tx, ask, outside))
        log.info("run %s: reserved $%.4f under %s", run.run_id, run.reserved_nanousd / NANO, run.subscription)
        return run, True

    def preview(self, estimate_nanousd: int | None, model: str | None, session_id: str | None) -> selection.Choice:
        """The choice that an ask would meet now; nothing is reserved.

        Raises:
            UnknownSession: the session is nowhere to be found.
        """
        outside = None if session_id is None else self._runner.find_session(session_id)
        with self._ledger.read() as tx:
            now_ms = self._clock()
            pinned = self._pin(tx, Ask("", "", session_id=session_id), outside)
            estimates = self._estimates(tx, estimate_nanousd, model)
            pool_cooldown = self._state.pool_cooldown(tx, now_ms)
            request = selection.Request(estimates, model, pinned, pool_cooldown=pool_cooldown)
            return selection.choose(request, self._state.balances(tx, now_ms), self._settings.strategy)

    def _place(self, tx: Transaction, ask: Ask, ask_id: str, tried: frozenset[str], *, pinned: str | None) -> Run:
        """Choose a subscription for an ask and reserve under it, in the transaction that is open."""
        now_ms = self._clock()
        caller = self._state.caller(tx, ask.caller, now_ms)
        estimates = self._estimates(tx, ask.max_cost_nanousd, ask.model)
        check_caller(caller, min(estimates.values()), now_ms)
        balances = self._state.balances(tx, now_ms)
        request = selection.Request(
            estimates,
            ask.model,
            pinned,
            by_name=ask.subscription is not None,
            tried=tried,
            pool_cooldown=self._state.pool_cooldown(tx, now_ms),
            may_probe=not tried,
        )
        choice = selection.choose(request, balances, self._settings.strategy)
        if choice.subscription is None:
            raise refusal(choice)
        chosen = next(b for b in balances if b.subscription.id == choice.subscription)
        self._runner.check(chosen.subscription)
        limits = (chosen.left, ask.max_cost_nanousd, caller.left)
        timeout_s = ask.timeout_s or self._settings.claude.timeout_s
        run = Run(
            run_id=self._new_id(),
            ask_id=ask_id,
            subscription=choice.subscription,
            session_id=ask.session_id or self._new_id(),
            resumed=ask.session_id is not None,
            caller=ask.caller,
            model=ask.model,
            state=RunState.RESERVED,
            owner_id=self.owner_id,
            background=ask.background,
            structured=ask.json_schema is not None,
            created_at_ms=now_ms,
            deadline_ms=now_ms + round(timeout_s * SECOND_MS),
            reserved_nanousd=estimates[choice.subscription],
            max_budget_nanousd=min(limit for limit in limits if limit is not None),
        )
        tx.runs.insert(run)
        return run

    def _estimates(self, tx: Transaction, cap_nanousd: int | None, model: str | None) -> dict[str, int]:
        """What an ask may cost under each subscription."""
        return {
            s.id: budget.estimate_nanousd(cap_nanousd, tx.balances.recent_costs_nanousd(s.id, model))
            for s in self._settings.subscriptions
        }

    def _pin(self, tx: Transaction, ask: Ask, outside: Subscription | None) -> str | None:
        """The only subscription that can serve, where there is but one."""
        if ask.session_id is None:
            return ask.subscription
        belongs = tx.runs.subscription_of_session(ask.session_id) or (outside.id if outside else None)
        if belongs is None:
            raise UnknownSession(
                f"No subscription knows the session {ask.session_id}; leave session_id out to begin a new one."
            )
        if belongs not in {s.id for s in self._settings.subscriptions}:
            raise UnknownSession(
                f"The session {ask.session_id} belongs to {belongs!r}, which is no longer in pool.toml."
            )
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

    def record_readings(self, run: Run, readings: Sequence[WindowReading]) -> list[Alert]:
        """Keep what Anthropic reported with a run; the alerts that this process is the first to raise for it."""
        self._state.learn(self._ledger, self._clock())
        with self._ledger.write() as tx:
            tx.official.record(run.subscription, readings)
            return self._state.tell_alerts(tx, self._clock())

    def extend(self, run: Run, seen_nanousd: int) -> bool:
        """Reserve enough for what a run has spent and its next call; False where a budget has no room for that.

        So a reservation is never less than what its run has been seen to spend, and however many run at once, each
        overruns by one API call at most.
        """
        with self._ledger.write() as tx:
            held = tx.runs.reserved_nanousd(run.run_id)
            needed = round(seen_nanousd * budget.EXTENSION) - held
            if needed <= 0:
                return True
            now_ms = self._clock()
            balances = [b for b in self._state.balances(tx, now_ms) if b.subscription.id == run.subscription]
            caller = self._state.caller(tx, run.caller, now_ms)
            limits = [balance.left for balance in balances]
            if caller.left is not None:
                limits.append(caller.left)
            if any(needed > left for left in limits):
                return False
            tx.runs.change_reservation(run.run_id, held + needed)
        log.info("run %s: reserves $%.4f more", run.run_id, needed / NANO)
        return True

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
            settlement = _with_backoff(tx, settlement, run)
            booked = tx.runs.settle(settlement, self.owner_id)
            following = self._next_attempt(tx, settlement, run, ask, tried) if booked and ask is not None else None
        log.info(
            "run %s: %s (%s) for $%.6f%s",
            settlement.run_id,
            settlement.state if booked else "was settled by another process",
            settlement.outcome,
            settlement.cost.nanousd / NANO,
            " at least" if settlement.cost.is_estimate else "",
        )
        if following is not None:
            log.info("run %s: goes on as run %s under %s", run.run_id, following.run_id, following.subscription)
        return following

    def _next_attempt(
        self, tx: Transaction, settlement: Settlement, run: Run, ask: Ask, tried: frozenset[str]
    ) -> Run | None:
        """Reserve under the next best subscription after a limit, a missing login or a refused bill."""
        is_bound = ask.session_id is not None or ask.subscription is not None
        if settlement.outcome not in FAILOVER or is_bound:
            return None
        again = replace(ask, background=run.background)
        try:
            return self._place(tx, again, run.ask_id, tried, pinned=None)
        except PoolError as error:
            log.info("run %s: %s, and no other subscription: %s", run.run_id, settlement.outcome, error)
            return None  # the attempt's own outcome is the answer

    # Taking over

    def adopt(self, dropped: Container[str]) -> list[Run]:
        """Become the owner of every unfinished run whose owner is gone, and of our own that nobody follows any more."""
        with self._ledger.read() as tx:
            unfinished = tx.runs.unfinished()
        owners = {run.owner_id for run in unfinished} - {self.owner_id}
        gone = {owner for owner in owners if not locks.is_alive(self._settings.owners_dir, owner)}
        orphans = [run for run in unfinished if run.owner_id in gone or run.run_id in dropped]
        if not orphans:
            return []
        with self._ledger.write() as tx:
            return [
                replace(run, owner_id=self.owner_id, background=True)
                for run in orphans
                if tx.runs.adopt(run.run_id, run.owner_id, self.owner_id)
            ]

    # Looking

    def attempts(self, run_id: str) -> list[Run]:
        """The runs of the ask that a run belongs to, first to last.

        Raises:
            InvalidRequest: there is no such run.
        """
        with self._ledger.read() as tx:
            return tx.runs.of_ask(_run(tx, run_id).ask_id)


def _run(tx: Transaction, run_id: str) -> Run:
    run = tx.runs.get(run_id)
    if run is None:
        raise InvalidRequest(f"No run {run_id!r} in this ledger; pass the run_id that ask_claude gave.")
    return run


def _known(tx: Transaction, ask: Ask) -> Run | None:
    """The latest run under the ask's idempotency key."""
    known = tx.runs.ask_by_key(ask.caller, ask.idempotency_key) if ask.idempotency_key else None
    if known is None:
        return None
    ask_id, fingerprint = known
    if fingerprint != _fingerprint(ask):
        raise InvalidRequest(
            f"The idempotency_key {ask.idempotency_key!r} was used for a different ask; take a new one."
        )
    return tx.runs.of_ask(ask_id)[-1]


def _fingerprint(ask: Ask) -> str:
    """A digest of an ask's arguments; not the arguments themselves."""
    parts = (
        ask.prompt,
        ask.session_id,
        ask.subscription,
        ask.model,
        ask.effort,
        ask.system_prompt,
        ask.json_schema,
        ask.working_dir,
        ask.tool_profile,
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _with_backoff(tx: Transaction, settlement: Settlement, run: Run) -> Settlement:
    """The settlement with its cooldown made longer by those before it, where it is of what passes by itself."""
    if settlement.cooldown is None:
        return settlement
    owner = cooldowns.owner_after(settlement.outcome, run.subscription)
    before = tx.cooldowns.latest(owner, settlement.cooldown.cause)
    cooldown = cooldowns.with_backoff(settlement.cooldown, before, run.created_at_ms)
    return replace(settlement, cooldown=cooldown, retry_at_ms=cooldown.until_ms)
