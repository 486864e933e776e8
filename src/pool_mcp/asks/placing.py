"""Gives an ask its place in the transaction that is open: a reservation under a subscription, or one in the queue."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

from pool_mcp.asks import turns
from pool_mcp.asks.idempotency import cost_of
from pool_mcp.asks.runner import Runner
from pool_mcp.asks.spares import Spares
from pool_mcp.choosing import pacing
from pool_mcp.choosing.budget import Balance
from pool_mcp.choosing.selection import Request, most_nanousd
from pool_mcp.choosing.windows import rfc3339
from pool_mcp.errors import BudgetExceeded, InvalidRequest, LimitReached, UnknownSession
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    NANO,
    SECOND_MS,
    WEEK_MS,
    Ask,
    Run,
    RunState,
    Subscription,
    Waiting,
)
from pool_mcp.settings import Settings
from pool_mcp.state import State

WAITS_FOR_ROOM_MS = 7 * DAY_MS
"""How long an ask waits for room where nothing else is said."""
LONGEST_WAIT_MS = 30 * DAY_MS

_LAST = 1 << 62
"""The place of one that comes now: after all others of its urgency."""


class Placing:
    """Chooses for asks in the name of one owner, this process."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        runner: Runner,
        clock: Callable[[], int],
        new_id: Callable[[], str],
        owner_id: str,
        spares: Spares | None,
        about_to_wait: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._state = state
        self._runner = runner
        self._clock = clock
        self._new_id = new_id
        self._owner_id = owner_id
        self._spares = spares
        self._about_to_wait = about_to_wait

    def place(
        self,
        tx: Transaction,
        ask: Ask,
        run_id: str,
        ask_id: str,
        *,
        pinned: str | None,
        tried: frozenset[str] = frozenset(),
        needs_nanousd: int = 0,
    ) -> Run:
        """Reserve for an ask that comes now, or let it wait, behind those that wait already.

        ``needs_nanousd`` is what it is known to need at least.

        Raises:
            PoolError: whatever keeps the ask from being served, by its kind.
        """
        now_ms = self._clock()
        waiting = self._waiting(ask, run_id, ask_id, pinned, tried, now_ms)
        line = [one for one in tx.queue.line() if one.order < waiting.order]
        pool = self._pool(tx, now_ms, waiting, needs_nanousd, may_probe=not tried)
        round_ = turns.Round(pool)
        round_.all(line)
        turn = round_.next(waiting)
        if turn.error is not None:
            raise turn.error
        if turn.choice is not None:
            self._runner.check(self._settings.subscription(str(turn.choice.subscription)))
            run = replace(self._reserved(tx, pool, turn), queued_at_ms=None)
            run = run if turn.choice.is_paid else self._with_spare(run, ask)
            tx.runs.insert(run)
            if turn.choice.is_paid:
                tx.overage.reserve(run_id, turn.choice.reserve)
            return run
        return self._let_wait(tx, ask, turn, now_ms)

    def give(self, tx: Transaction, pool: turns.Pool, turn: turns.Turn) -> Run | None:
        """Reserve for one that waits what its turn gives it; None where it waits no more."""
        run = self._reserved(tx, pool, turn)
        if not tx.queue.reserve(run):
            return None
        if turn.choice is not None and turn.choice.is_paid:
            tx.overage.reserve(run.run_id, turn.choice.reserve)
        return tx.runs.get(run.run_id)

    def _let_wait(self, tx: Transaction, ask: Ask, turn: turns.Turn, now_ms: int) -> Run:
        if ask.waits_for == "none":
            raise turn.refusal or LimitReached(f"This ask cannot be served now: {turn.reason}.")
        most = self._settings.claude.max_waiting
        if tx.queue.count(ask.caller) >= most:
            raise LimitReached(
                f"{most} asks of caller {ask.caller!r} wait already (max_waiting); wait for one of them with "
                "ask_result, or cancel one.",
                retry_at_ms=turn.expected_at_ms or now_ms + MINUTE_MS,
            )
        self._runner.files(turn.waiting.run.run_id).sync()
        self._about_to_wait()  # other processes watch from now on, whatever becomes of this one
        return tx.queue.add(replace(turn.waiting, claim=turn.claim)).run

    def _waiting(
        self, ask: Ask, run_id: str, ask_id: str, pinned: str | None, tried: frozenset[str], now_ms: int
    ) -> Waiting:
        """An ask that comes now as one that waits."""
        _check_times(ask, now_ms)
        give_up_at_ms = self.gives_up_at_ms(ask, now_ms)
        run = Run(
            run_id=run_id,
            ask_id=ask_id,
            subscription="",
            session_id=ask.session_id or self._new_id(),
            resumed=ask.session_id is not None,
            caller=ask.caller,
            model=ask.model,
            state=RunState.WAITING,
            owner_id=self._owner_id,
            background=ask.background,
            structured=ask.json_schema is not None,
            created_at_ms=now_ms,
            deadline_ms=give_up_at_ms,
            reserved_nanousd=0,
            urgency=ask.urgency,
            queued_at_ms=now_ms,
            project=ask.project,
            branch=ask.branch,
        )
        return Waiting(
            run=run,
            place=_LAST,
            wait_for=ask.waits_for,
            give_up_at_ms=give_up_at_ms,
            timeout_ms=self._timeout_ms(ask),
            not_before_ms=ask.not_before_ms,
            only=pinned,
            by_name=ask.subscription is not None and not tried,
            max_cost_nanousd=ask.max_cost_nanousd,
            tried=frozenset() if ask.waits_for == "room" else tried,
        )

    def gives_up_at_ms(self, ask: Ask, asked_at_ms: int) -> int:
        """Until when an ask waits that was asked at an instant."""
        if ask.give_up_at_ms is not None:
            return ask.give_up_at_ms
        waits_ms = WAITS_FOR_ROOM_MS if ask.waits_for == "room" else self._timeout_ms(ask)
        return (ask.not_before_ms or asked_at_ms) + waits_ms

    def _timeout_ms(self, ask: Ask) -> int:
        return round((ask.timeout_s or self._settings.claude.timeout_s) * SECOND_MS)

    def _reserved(self, tx: Transaction, pool: turns.Pool, turn: turns.Turn) -> Run:
        """The run of a turn that is given a subscription, as it is once that is reserved."""
        waiting, choice, now_ms = turn.waiting, turn.choice, pool.now_ms
        assert choice is not None, "something was chosen"
        chosen = next(one for one in pool.balances if one.subscription.id == choice.subscription)
        return replace(
            waiting.run,
            subscription=str(choice.subscription),
            state=RunState.RESERVED,
            owner_id=self._owner_id,
            created_at_ms=now_ms,
            deadline_ms=now_ms + waiting.timeout_ms,
            reserved_nanousd=choice.reserve,
            max_budget_nanousd=most_nanousd(pool.request(waiting), chosen, choice, _cap_left(tx, waiting)),
        )

    def _with_spare(self, run: Run, ask: Ask) -> Run:
        """A run that is reserved, on the session of the CLI that waits for such an ask, where one does."""
        subscription = self._settings.subscription(run.subscription)
        spare = self._spares.offer(subscription, ask, run.max_budget_nanousd) if self._spares else None
        if spare is None:
            return run
        return replace(run, session_id=spare.session_id, max_budget_nanousd=spare.max_budget_nanousd)

    def here(self) -> frozenset[str]:
        """The subscriptions that this process can serve."""
        return frozenset(one.id for one in self._settings.subscriptions if self._runner.can_serve(one))

    def pool(self, tx: Transaction, now_ms: int, here: frozenset[str]) -> turns.Pool:
        """What decides about those that wait."""
        return replace(self._pool(tx, now_ms), here=here, is_here=lambda run_id: self._runner.files(run_id).is_stored())

    def _pool(
        self,
        tx: Transaction,
        now_ms: int,
        newcomer: Waiting | None = None,
        needs_nanousd: int = 0,
        *,
        may_probe: bool = False,
    ) -> turns.Pool:
        balances = self._state.balances(tx, now_ms)

        @cache
        def request(one: Waiting) -> Request:
            is_new = one is newcomer
            found = self._request(tx, one, now_ms, needs_nanousd if is_new else 0, may_probe=is_new and may_probe)
            if one.run.urgency != "idle":
                return found
            return replace(found, unspared=frozenset(self._unspared(tx, found, balances)))

        return turns.Pool(
            now_ms=now_ms,
            balances=balances,
            strategy=self._settings.strategy,
            request=request,
            busy=tx.runs.busy_sessions(),
            here=frozenset(one.id for one in self._settings.subscriptions),
            typical_ms=tx.runs.typical_ms,
        )

    def _unspared(self, tx: Transaction, request: Request, balances: Sequence[Balance]) -> Iterator[str]:
        """The subscriptions whose room their owner's pace will use."""
        for balance in balances:
            name, now_ms = balance.subscription.id, balance.at_ms
            idle = tuple(tx.runs.idle_nanousd(name, now_ms - span_ms) for span_ms in (HOUR_MS, DAY_MS, WEEK_MS))
            if not pacing.spares(balance, request.model, request.estimates[name], idle):
                yield name

    def _request(
        self, tx: Transaction, waiting: Waiting, now_ms: int, needs_nanousd: int, *, may_probe: bool
    ) -> Request:
        """What one asks for.

        Raises:
            InvalidRequest: ``max_cost_usd`` leaves less than any call has cost.
            BudgetExceeded: it leaves nothing.
        """
        run, cap = waiting.run, _cap_left(tx, waiting)
        least = self._state.least_costs(tx, run.model).values() if cap is not None else ()
        if cap is not None and least and cap < min(least):
            raise InvalidRequest(
                f"max_cost_usd leaves ${cap / NANO:.4f}, and one call has cost ${min(least) / NANO:.4f} at least; "
                "raise it, or leave it out."
            )
        request = replace(
            self._state.request(tx, run.caller, run.model, now_ms, cap_nanousd=cap, project=run.project),
            only=waiting.only,
            by_name=waiting.by_name,
            tried=waiting.tried,
            may_probe=may_probe,
        )
        needs_nanousd = needs_nanousd if cap is None else min(needs_nanousd, cap)
        return replace(
            request, estimates={name: max(needs_nanousd, amount) for name, amount in request.estimates.items()}
        )


def _check_times(ask: Ask, now_ms: int) -> None:
    """Pass, or say what is wrong with an ask's times.

    Raises:
        InvalidRequest: they cannot be.
    """
    begins_ms, ends_ms = ask.not_before_ms, ask.give_up_at_ms
    if begins_ms is not None and begins_ms <= now_ms:
        raise InvalidRequest(f"not_before {rfc3339(begins_ms)} is in the past (it is {rfc3339(now_ms)}); leave it out.")
    if ends_ms is not None and ends_ms <= max(now_ms, begins_ms or 0):
        after = f"not_before {rfc3339(begins_ms)}" if begins_ms else f"now, {rfc3339(now_ms)}"
        raise InvalidRequest(f"give_up_at {rfc3339(ends_ms)} is not after {after}; give a later one, or leave it out.")
    if max(begins_ms or 0, ends_ms or 0) > now_ms + LONGEST_WAIT_MS:
        raise InvalidRequest("not_before and give_up_at must be within 30 days; give an earlier one.")
    if begins_ms is not None and ask.waits_for == "none":
        raise InvalidRequest("not_before needs wait_for turn or room; an ask with wait_for none begins at once.")


def pin(tx: Transaction, settings: Settings, ask: Ask, outside: Subscription | None) -> str | None:
    """The only subscription that can serve, where there is but one.

    Raises:
        UnknownSession: the session is nowhere to be found.
        InvalidRequest: it belongs to another subscription than the one that was asked for.
    """
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
    return belongs


def _cap_left(tx: Transaction, waiting: Waiting) -> int | None:
    """What ``max_cost_usd`` leaves after the ask's attempts so far.

    Raises:
        BudgetExceeded: nothing.
    """
    if waiting.max_cost_nanousd is None:
        return None
    left = waiting.max_cost_nanousd - cost_of(tx.runs.of_ask(waiting.run.ask_id)).nanousd
    if left <= 0:
        raise BudgetExceeded("The attempts so far have used up max_cost_usd.")
    return left
