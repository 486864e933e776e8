"""The story: how an ask is placed, run, booked and answered, and how the pool's state is told.

An ask is served by a task of its own, not by the call that made it: the call may return ``running``, be cancelled, or
vanish with its host, and the run is still followed to its end and booked. Reads from top to bottom as one ask goes.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import anyio
import anyio.abc
import anyio.to_thread

from pool_mcp import results
from pool_mcp.accounting.periods import Only
from pool_mcp.asks.admission import check_ask, check_caller, refusal
from pool_mcp.asks.history import History, Which
from pool_mcp.asks.outcomes import CUT, FAILOVER, lengthened
from pool_mcp.asks.runner import Control, Runner
from pool_mcp.background.alerts import Alerting, Listener, log_told
from pool_mcp.background.logins import Upkeep
from pool_mcp.choices import By
from pool_mcp.choosing import budget, pacing, selection, windows
from pool_mcp.claude import process as cli
from pool_mcp.claude.verdict import judge
from pool_mcp.errors import BY_KIND, CliFailed, InvalidRequest, LedgerError, PoolError, UnknownSession
from pool_mcp.ledger.cooldowns import WHOLE_POOL
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import (
    DAY_MS,
    NANO,
    SECOND_MS,
    Ask,
    Cost,
    Outcome,
    Run,
    RunState,
    Settlement,
    Subscription,
    WindowReading,
)
from pool_mcp.organisation.sync import Organisation
from pool_mcp.settings import Settings
from pool_mcp.state import State
from pool_mcp.system import locks, places
from pool_mcp.usage import charts
from pool_mcp.usage.import_schedule import Outside
from pool_mcp.usage.importing import Imported
from pool_mcp.usage.reports import MAX_ROWS, Figures

log = logging.getLogger(__name__)

Clock = Callable[[], int]
"""The time in Unix milliseconds."""

Progress = Callable[[float, str], Awaitable[None]]
"""Told every few seconds how long an ask has taken and what it is doing."""

PAGE_CHARS = 48_000
"""One page of an answer's text: well inside the 25,000 tokens that hosts show."""
PROGRESS_S = 5.0
POLL_S = 0.25
"""How often a run that another process follows is looked at."""
STOP_S = 0.3
"""How long a stopping server waits for its inline runs to report what they cost."""
LOOK_AFTER_S = 60.0
"""How often an idle server looks for runs that others have left."""
UPKEEP_S = 3.0
"""How long after that the server asks the CLI about logins and stale readings."""
SETTLE_S = 2.0
"""How long an adopter waits for runs whose CLI has ended; reading one takes milliseconds."""
CANCEL_S = 7.0
"""How long cancelling waits for a run to be booked: every step of stopping a CLI, and a little."""

T = TypeVar("T")


@dataclass(slots=True)
class _Live:
    """An ask, or an adopted run, that this process is serving."""

    run: Run
    ask: Ask | None = None
    control: Control = field(default_factory=Control)
    done: anyio.Event = field(default_factory=anyio.Event)
    tried: frozenset[str] = frozenset()


class _Supervision:
    """The pool as the supervisor of one run, with its disk work done in threads.

    A ledger that cannot be reached for a while does not end a run that is being paid for: what it holds stays held.
    """

    def __init__(self, pool: "Pool", alerts: Alerting, run: Run) -> None:
        self._pool = pool
        self._alerts = alerts
        self._run = run

    async def keep(self, readings: list[WindowReading]) -> None:
        await self._try(None, self._pool.record_readings, self._run, readings)
        self._alerts.wake()

    async def is_cancelled(self) -> bool:
        return await self._try(False, self._pool.is_cancelled, self._run)

    async def can_afford(self, seen_nanousd: int) -> bool:
        return await self._try(True, self._pool.extend, self._run, seen_nanousd)

    async def _try(self, otherwise: T, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await anyio.to_thread.run_sync(function, *arguments)
        except LedgerError as error:
            log.warning("run %s: goes on without the ledger: %s", self._run.run_id, error)
            return otherwise


class Pool:
    """Everything the tools and the command line can do. Use inside ``async with pool.open()``."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        env: Mapping[str, str],
        clock: Clock,
        new_id: Callable[[], str],
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._env = env
        self._clock = clock
        self._new_id = new_id
        self._sleep = sleep
        self._executor = Runner(settings, env, clock)
        self._history = History(settings, ledger, clock)
        self._state = State(settings)
        self._alerts = Alerting(ledger, self._state, clock)
        self._upkeep = Upkeep(settings, ledger, self._state, env, clock)
        self._outside = Outside(settings, ledger, env, clock, lambda run: self._executor.read(run.run_id).calls)
        self._organisation = Organisation(settings, ledger, env, clock)
        self._figures = Figures(settings, ledger, clock, places.time_zone(env))
        self._lock: locks.OwnerLock | None = None
        self._live: dict[str, _Live] = {}
        self._dropped: set[str] = set()
        """Runs of ours that nobody follows any more."""
        self._tasks: anyio.abc.TaskGroup | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Pool"]:
        """Adopt what dead servers left, serve, and at the end interrupt inline runs; background runs go on."""
        try:
            locks.sweep(self._settings.owners_dir)
            self._lock = locks.OwnerLock(self._settings.owners_dir, self._new_id())
        except OSError as error:
            where = self._settings.owners_dir
            raise LedgerError(f"{where} cannot be written: {error.strerror}; make it writable for you.") from None
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._look_after_earlier_runs)
                if self._organisation.has_key:
                    tasks.start_soon(self._organisation.keep_synced, self._sleep)
                tasks.start_soon(self._outside.import_now_and_then, self._sleep)
                try:
                    yield self
                except Exception as error:
                    failure = error
                finally:
                    with anyio.CancelScope(shield=True):
                        await self.stop()
                    tasks.cancel_scope.cancel()
        finally:
            self._lock.release()
        if failure is not None:
            raise failure

    async def stop(self) -> None:
        """Interrupt what somebody was waiting for here, for a bounded time; background runs go on into their files."""
        self._outside.stop()
        inline = [live for live in self._live.values() if not live.run.background]
        for live in inline:
            live.control.stop = live.control.stop or Outcome.CANCELLED
        with anyio.move_on_after(STOP_S):
            for live in inline:
                await live.done.wait()
        # Whoever adopts what has not ended by now will go on stopping it.
        with anyio.move_on_after(STOP_S / 3):
            for live in inline:
                if not live.done.is_set():
                    await anyio.to_thread.run_sync(self._request_cancel, live.run.run_id, abandon_on_cancel=True)

    @property
    def _owner_id(self) -> str:
        assert self._lock is not None, "the pool is not open"
        return self._lock.owner_id

    # One ask

    async def ask(self, ask: Ask, progress: Progress | None = None, wait_s: float | None = None) -> results.AskResult:
        """Ask Claude; the answer, or ``running`` once ``wait_s`` (default: the setting ``inline_wait_s``) has passed.

        Cancelling the call stops the run; it is booked all the same.

        Raises:
            PoolError: whatever kept the ask from being answered, by its kind.
        """
        if cli.depth(self._env) > 0:
            raise InvalidRequest("This Claude was itself started by pool-mcp and may not ask another one.")
        await self._in_thread(check_ask, ask, self._settings)
        self._upkeep.asked()
        await self._in_thread(self._executor.check)
        # From the reservation on there is always someone in charge of the run, even if the host cancels right here.
        with anyio.CancelScope(shield=True):
            await self._adopt()
            run, is_new = await self._in_thread(self._reserve, ask, self._new_id())
            if is_new:
                self._serve(_Live(run, ask))
        if ask.background:
            return await self._answer(run.run_id)
        try:
            return await self._wait(run.run_id, wait_s or self._settings.claude.inline_wait_s, progress)
        except anyio.get_cancelled_exc_class():
            live = self._live.get(run.run_id)
            if is_new and live is not None:
                live.control.stop = live.control.stop or Outcome.CANCELLED
            raise

    def _reserve(self, ask: Ask, ask_id: str) -> tuple[Run, bool]:
        """Look, choose and reserve in one write transaction, so that no other process can come between.

        Returns the run and whether it is new: an idempotency key that is known gives the latest run under it.
        """
        outside = None if ask.session_id is None else self._executor.find_session(ask.session_id)
        self._state.learn(self._ledger, self._clock())
        with self._ledger.write() as tx:
            known = self._known(tx, ask)
            if known is not None:
                return known, False
            tx.runs.insert_ask(ask_id, ask.caller, ask.idempotency_key, _fingerprint(ask), self._clock())
            run = self._place(tx, ask, ask_id, frozenset(), pinned=self._pin(tx, ask, outside))
        log.info("run %s: reserved $%.4f under %s", run.run_id, run.reserved_nanousd / NANO, run.subscription)
        return run, True

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
            patience=self._state.patience(tx, now_ms),
            may_probe=not tried,
        )
        choice = selection.choose(request, balances, now_ms, self._settings.strategy)
        if choice.subscription is None:
            raise refusal(choice)
        chosen = next(b for b in balances if b.subscription.id == choice.subscription)
        self._executor.check(chosen.subscription)
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
            owner_id=self._owner_id,
            background=ask.background,
            structured=ask.json_schema is not None,
            created_at_ms=now_ms,
            deadline_ms=now_ms + round(timeout_s * SECOND_MS),
            reserved_nanousd=estimates[choice.subscription],
            max_budget_nanousd=min(limit for limit in limits if limit is not None),
        )
        tx.runs.insert(run)
        return run

    def _known(self, tx: Transaction, ask: Ask) -> Run | None:
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

    # Serving it

    def _serve(self, live: _Live) -> None:
        assert self._tasks is not None, "the pool is not open"
        self._live[live.run.run_id] = live
        self._tasks.start_soon(self._drive, live)

    async def _drive(self, live: _Live) -> None:
        """Run an ask's attempts one after the other until one answers or no other subscription can."""
        try:
            while (following := await self._execute(live)) is not None:
                live.run = following
                self._live[following.run_id] = live
        except Exception:  # the top of this task: the run stays reserved until it is adopted, here or elsewhere
            log.exception("run %s: could not be followed to its end", live.run.run_id)
            self._dropped.add(live.run.run_id)
        finally:
            live.done.set()
            for run_id in [key for key, value in self._live.items() if value is live]:
                del self._live[run_id]

    async def _execute(self, live: _Live) -> Run | None:
        """Start the CLI, or find the one that was started; follow it to its end; book it.

        Returns the ask's next attempt, where there is to be one.
        """
        run, files = live.run, self._executor.files(live.run.run_id)
        try:
            if live.ask is not None:
                run, process = await self._in_thread(self._start, run, live.ask)
            elif files.stdout.exists():
                process = cli.CliProcess(files)
            else:
                raise CliFailed("The server stopped before the CLI was started; ask again.")
        except (OSError, ValueError, PoolError) as error:
            message = error.message if isinstance(error, PoolError) else f"The CLI could not be started: {error}"
            outcome = Outcome.INVALID_REQUEST if isinstance(error, InvalidRequest) else Outcome.CLI_FAILED
            settlement = Settlement(run.run_id, RunState.FAILED, outcome, message, Cost(), self._clock())
        else:
            settlement = await self._executor.follow(run, process, live.control, _Supervision(self, self._alerts, run))
        following = await self._settle(settlement, live)
        files.prompt.unlink(missing_ok=True)
        return following

    def _start(self, run: Run, ask: Ask) -> tuple[Run, cli.CliProcess]:
        baseline = self._executor.prepare(run, ask)
        # On record before the CLI can spend: a crash from here on leaves a run that may have cost something.
        with self._ledger.write() as tx:
            if not tx.runs.mark_running(run.run_id, self._owner_id, baseline, self._clock()):
                raise CliFailed("Another process took this run over before it began; ask again.")
        started = self._run(run.run_id)
        return started, self._executor.start(started, ask)

    async def _settle(self, settlement: Settlement, live: _Live) -> Run | None:
        """Book a run, however long the ledger cannot be written; until then its reservation stands."""
        delay_s = 1.0
        while True:
            try:
                following = await self._in_thread(self._book, settlement, live)
                break
            except LedgerError as error:
                log.error("run %s: not booked yet: %s", settlement.run_id, error)
                await anyio.sleep(delay_s)
                delay_s = min(delay_s * 2, 60.0)
        failover = []
        if following is not None:
            went = (live.run.run_id, live.run.subscription, following.subscription, str(settlement.outcome))
            failover = [pacing.failover(*went, self._clock())]
        await self._alerts.tell(*failover)
        return following

    def _book(self, settlement: Settlement, live: _Live) -> Run | None:
        """Settle a run and, where another subscription is to be tried, reserve there: in one transaction.

        So nobody who looks in between takes the ask for failed.
        """
        with self._ledger.write() as tx:
            settlement = self._with_patience(tx, settlement)
            booked = tx.runs.settle(settlement, self._owner_id)
            following = self._next_attempt(tx, settlement, live) if booked else None
        log.info(
            "run %s: %s (%s) for $%.6f%s",
            settlement.run_id,
            settlement.state if booked else "was settled by another process",
            settlement.outcome,
            settlement.cost.nanousd / NANO,
            " at least" if settlement.cost.is_estimate else "",
        )
        if following is not None:
            log.info("run %s: goes on as run %s under %s", live.run.run_id, following.run_id, following.subscription)
        return following

    def _next_attempt(self, tx: Transaction, settlement: Settlement, live: _Live) -> Run | None:
        """Reserve under the next best subscription after a limit, a missing login or a refused bill."""
        ask = live.ask
        if ask is None or settlement.outcome not in FAILOVER or live.control.stop is not None:
            return None
        if ask.session_id is not None or ask.subscription is not None:
            return None
        live.tried |= {live.run.subscription}
        again = replace(ask, background=live.run.background)
        try:
            return self._place(tx, again, live.run.ask_id, live.tried, pinned=None)
        except PoolError as error:
            log.info("run %s: %s, and no other subscription: %s", live.run.run_id, settlement.outcome, error)
            return None  # the attempt's own outcome is the answer

    def _with_patience(self, tx: Transaction, settlement: Settlement) -> Settlement:
        """The settlement with its cooldown lengthened by those before it, where it is of what passes by itself."""
        run = tx.runs.get(settlement.run_id)
        if settlement.cooldown is None or run is None:
            return settlement
        whose = WHOLE_POOL if settlement.outcome is Outcome.OVERLOADED else run.subscription
        before = tx.cooldowns.latest(whose, settlement.cooldown.cause)
        cooldown = lengthened(settlement.cooldown, before, run.created_at_ms)
        return replace(settlement, cooldown=cooldown, retry_at_ms=cooldown.until_ms)

    # What a followed run asks for on its way

    def record_readings(self, run: Run, readings: list[WindowReading]) -> None:
        """Keep what Anthropic reported with a run."""
        self._state.learn(self._ledger, self._clock())
        with self._ledger.write() as tx:
            tx.official.record(run.subscription, readings)
            alerts = self._state.tell_alerts(tx, self._clock())
        log_told(alerts)

    def is_cancelled(self, run: Run) -> bool:
        """Whether somebody, in whatever process, wants the run stopped."""
        with self._ledger.read() as tx:
            return tx.runs.is_cancel_requested(run.run_id)

    def extend(self, run: Run, seen_nanousd: int) -> bool:
        """Hold enough for what a run has spent and its next call; False where a budget has no room for that.

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
        log.info("run %s: holds $%.4f more", run.run_id, needed / NANO)
        return True

    # Answering it

    async def result(
        self, run_id: str, *, wait_s: float = 0, offset: int = 0, cancel: bool = False, progress: Progress | None = None
    ) -> results.AskResult:
        """An ask's answer by the id of any of its runs, whichever process ran it.

        Raises:
            InvalidRequest: there is no such run, or its answer has been removed.
            PoolError: the ask failed.
        """
        if offset < 0 or not 0 <= wait_s <= 3600:
            raise InvalidRequest("offset must be at least 0, and wait_s from 0 to 3600.")
        await self._in_thread(self._run, run_id)
        await self._adopt()
        if cancel:
            await self._cancel(run_id)
        return await self._wait(run_id, wait_s, progress, offset)

    async def runs(self, which: Which, limit: int = 20) -> results.RunsResult:
        """What runs now, in whatever process, and the latest of what has ended."""
        await self._adopt()
        return await self._in_thread(self._history.runs, which, limit)

    async def show(self, begun: str, *, with_answer: bool = False) -> results.AskDetails:
        """One ask with its attempts, by the id of it or of any of its runs, or by the beginning of one.

        Raises:
            InvalidRequest: the id means no ask, or several.
        """
        await self._adopt()
        run_id = await self._in_thread(self._history.find, begun)
        details = await self._in_thread(self._history.ask, run_id)
        if not with_answer:
            return details
        stream = await self._in_thread(self._executor.read, run_id)
        verdict = judge(stream)
        text, structured = (verdict.text, verdict.structured) if verdict else (stream.last_text, None)
        return details.model_copy(update={"text": text, "structured": structured})

    async def cancel(self, begun: str) -> results.AskDetails:
        """Stop an ask's current run, whichever process has it, and tell what it cost; one that has ended stays as is.

        Raises:
            InvalidRequest: the id means no ask, or several.
        """
        await self._adopt()
        run_id = await self._in_thread(self._history.find, begun)
        await self._cancel(run_id)
        return await self._in_thread(self._history.ask, run_id)

    async def _cancel(self, run_id: str) -> None:
        """Stop an ask's current run and wait, for a bounded time, until it is booked."""
        run = await self._latest(run_id)
        if run.finished:
            return
        await self._in_thread(self._request_cancel, run.run_id)
        if live := self._live.get(run.run_id):
            live.control.stop = live.control.stop or Outcome.CANCELLED
        with anyio.move_on_after(CANCEL_S):
            while not (await self._latest(run_id)).finished:  # noqa: ASYNC110  (another process may settle it)
                await anyio.sleep(POLL_S / 5)

    async def _wait(self, run_id: str, wait_s: float, progress: Progress | None, offset: int = 0) -> results.AskResult:
        """Wait for an ask to end, for a bounded time; then its answer, or ``running``."""
        began_s = told_s = anyio.current_time()
        while (left_s := began_s + wait_s - anyio.current_time()) > 0:
            live = self._live.get(run_id)
            if live is not None:
                with anyio.move_on_after(min(PROGRESS_S, left_s)):
                    await live.done.wait()
                    break
            elif (await self._latest(run_id)).finished:
                break
            else:
                await anyio.sleep(min(POLL_S, left_s))
                await self._adopt()
            now_s = anyio.current_time()
            if progress is not None and now_s - told_s >= PROGRESS_S:
                told_s = now_s
                await progress(now_s - began_s, live.control.doing if live else "running in another server")
        return await self._answer(run_id, offset)

    async def _answer(self, run_id: str, offset: int = 0) -> results.AskResult:
        """What there is to tell of an ask now."""
        attempts = await self._in_thread(self._attempts, run_id)
        run = attempts[-1]
        if run.finished and run.outcome is not Outcome.OK:
            raise await self._in_thread(self._failure, run)
        advice = await self._in_thread(self._advice, run.caller)
        answer = results.ask_result(attempts, advice, self._clock())
        if not run.finished:
            await self._detach(run)
            return answer
        verdict = judge(await self._in_thread(self._executor.read, run.run_id))
        if verdict is None:
            raise InvalidRequest(
                f"The answer of run {run.run_id} was removed; answers are kept for "
                f"{self._settings.claude.keep_answers_days:g} days. Ask again.",
                run_id=run.run_id,
            )
        return results.with_page(answer, verdict.text, verdict.structured, offset, PAGE_CHARS)

    async def _detach(self, run: Run) -> None:
        """Let a run whose caller has been told to come back outlive this server."""
        if not run.background:
            await self._in_thread(self._mark_background, run.run_id)
            if live := self._live.get(run.run_id):
                live.run = replace(live.run, background=True)

    def _failure(self, run: Run) -> PoolError:
        """The error a failed ask ends in, with the subscriptions that could serve another try."""
        with self._ledger.read() as tx:
            now_ms = self._clock()
            balances = self._state.balances(tx, now_ms)
        usable = (budget.Status.AVAILABLE, budget.Status.APPROACHING)
        others = tuple(
            b.subscription.id
            for b in balances
            if b.subscription.id != run.subscription and budget.standing(b, now_ms).status in usable
        )
        assert run.outcome is not None, "a finished run has an outcome"
        text = self._executor.read(run.run_id).last_text if run.outcome in CUT else ""
        return BY_KIND[run.outcome](
            run.message or "The run failed; ask again.",
            partial_text=text[:PAGE_CHARS] or None,
            retry_at_ms=run.retry_at_ms,
            subscription=run.subscription,
            alternatives=others if run.outcome in FAILOVER else (),
            run_id=run.run_id,
        )

    # Adopting what others left

    async def _look_after_earlier_runs(self) -> None:
        """For as long as the pool is open: adopt what others leave, and remove answers that are past their time."""
        while True:
            try:
                await self._adopt()
                await self._in_thread(self._remove_old_answers)
                await self._sleep(UPKEEP_S)  # a command that is over in a moment needs none of it
                await self._in_thread(self._upkeep.look)
                await self._alerts.tell()  # of use elsewhere, which no run of the pool brings along
            except (PoolError, OSError) as error:
                log.warning("could not look after earlier runs: %s", error)
            except Exception:  # the top of this task: looking after others is no reason to stop serving
                log.exception("could not look after earlier runs")
            await self._sleep(LOOK_AFTER_S)

    async def _adopt(self) -> None:
        """Take charge of every run whose server is gone: settle what has ended, follow what has not."""
        await self._in_thread(self._upkeep.notice_logins)
        ended = []
        for run in await self._in_thread(self._take_orphans):
            self._dropped.discard(run.run_id)
            log.info("run %s: adopted", run.run_id)
            live = _Live(run)
            self._serve(live)
            if not cli.CliProcess(self._executor.files(run.run_id)).is_alive:
                ended.append(live)
        with anyio.move_on_after(SETTLE_S):
            for live in ended:
                await live.done.wait()

    def _take_orphans(self) -> list[Run]:
        with self._ledger.read() as tx:
            unfinished = tx.runs.unfinished()
        owners = {run.owner_id for run in unfinished} - {self._owner_id}
        gone = {owner for owner in owners if not locks.is_alive(self._settings.owners_dir, owner)}
        orphans = [run for run in unfinished if run.owner_id in gone or run.run_id in self._dropped]
        if not orphans:
            return []
        with self._ledger.write() as tx:
            return [
                replace(run, owner_id=self._owner_id, background=True)
                for run in orphans
                if tx.runs.adopt(run.run_id, run.owner_id, self._owner_id)
            ]

    def _remove_old_answers(self) -> None:
        """Remove the files of runs that ended longer ago than answers are kept; the ledger keeps its entries."""
        before_ms = self._clock() - round(self._settings.claude.keep_answers_days * DAY_MS)
        for directory in self._settings.runs_dir.glob("*"):
            with self._ledger.read() as tx:
                run = tx.runs.get(directory.name)
            if run is None or run.ended_at_ms is None:
                continue
            (directory / "prompt").unlink(missing_ok=True)  # left by a server that was killed right after booking
            if run.ended_at_ms < before_ms:
                shutil.rmtree(directory, ignore_errors=True)

    # The pool's state

    async def status(self, subscription: str | None = None, caller: str | None = None) -> results.StatusResult:
        """The state of the pool, of one subscription, and of one caller."""
        if subscription is not None:
            self._settings.subscription(subscription)
        await self._adopt()
        return await self._in_thread(self._status, subscription, caller)

    def _status(self, only: str | None, caller_id: str | None) -> results.StatusResult:
        with self._ledger.read() as tx:
            now_ms = self._clock()
            balances = [b for b in self._state.balances(tx, now_ms) if only in (None, b.subscription.id)]
            today = sum(tx.balances.spent_nanousd(b.subscription.id, windows.day_start_ms(now_ms)) for b in balances)
            caller = None if caller_id is None else self._state.caller(tx, caller_id, now_ms)
            patience = self._state.patience(tx, now_ms)
            told = [one for one in tx.notices.current(now_ms) if only in (None, one[1].subscription)]
        return results.StatusResult(
            generated_at=windows.rfc3339(now_ms),
            advice=results.advice_result(pacing.advise(balances, caller, now_ms, patience), now_ms),
            pool=results.totals_result(balances, today),
            subscriptions=[results.subscription_result(b, now_ms) for b in balances],
            caller=None if caller is None else results.caller_result(caller),
            alerts=results.alert_results(told),
        )

    async def pick(
        self, estimated_cost_usd: float | None = None, model: str | None = None, session_id: str | None = None
    ) -> results.PickResult:
        """Which subscription an ask would be given now, with the verdict on each; nothing is reserved.

        Raises:
            UnknownSession: the session is nowhere to be found.
        """
        if estimated_cost_usd is not None and not 0 < estimated_cost_usd <= 1_000_000:
            raise InvalidRequest("estimated_cost_usd must be more than 0.")
        self._upkeep.asked()
        await self._adopt()
        return await self._in_thread(self._pick, estimated_cost_usd, model, session_id)

    def _pick(self, estimated_cost_usd: float | None, model: str | None, session_id: str | None) -> results.PickResult:
        cap = None if estimated_cost_usd is None else round(estimated_cost_usd * NANO)
        outside = None if session_id is None else self._executor.find_session(session_id)
        with self._ledger.read() as tx:
            now_ms = self._clock()
            pinned = self._pin(tx, Ask("", "", session_id=session_id), outside)
            estimates = self._estimates(tx, cap, model)
            choice = selection.choose(
                selection.Request(estimates, model, pinned, patience=self._state.patience(tx, now_ms)),
                self._state.balances(tx, now_ms),
                now_ms,
                self._settings.strategy,
            )
        env = {} if choice.subscription is None else self.by_hand(choice.subscription)
        return results.pick_result(choice, env)

    def by_hand(self, subscription: str) -> dict[str, str]:
        """What to export to use a subscription with the CLI by hand; ``$NAME`` stands for a variable, never its value.

        Raises:
            InvalidRequest: there is no such subscription.
        """
        return cli.by_hand(self._settings.subscription(subscription), self._settings.claude.base_url)

    def _estimates(self, tx: Transaction, cap_nanousd: int | None, model: str | None) -> dict[str, int]:
        """What an ask may cost under each subscription."""
        return {
            s.id: budget.estimate_nanousd(cap_nanousd, tx.balances.recent_costs_nanousd(s.id, model))
            for s in self._settings.subscriptions
        }

    async def check(self) -> results.CheckResult:
        """Prove the ledger's sums, and tell of runs that are not settled."""
        await self._adopt()
        return await self._in_thread(self._check)

    def _check(self) -> results.CheckResult:
        found = self._ledger.audit()
        with self._ledger.read() as tx:
            return results.check_result(found, tx.runs.unfinished())

    def _advice(self, caller: str) -> pacing.Advice:
        with self._ledger.read() as tx:
            now_ms = self._clock()
            balances, patience = self._state.balances(tx, now_ms), self._state.patience(tx, now_ms)
            return pacing.advise(balances, self._state.caller(tx, caller, now_ms), now_ms, patience)

    async def listen(self, listener: Listener) -> None:
        """Have every alert from now on told to a listener, once, whichever process it is that tells it first."""
        assert self._tasks is not None, "the pool is not open"
        await self._alerts.listen(listener, self._tasks)

    # Figures, and what was spent elsewhere

    async def report(
        self,
        by: By,
        since: str | None = None,
        until: str | None = None,
        only: Only | None = None,
        limit: int = MAX_ROWS,
    ) -> results.ReportResult:
        """Spend by one dimension, in the person's time zone."""
        return await self._in_thread(lambda: self._figures.report(by, since, until, only or Only(), limit=limit))

    async def chart(
        self, by: By, since: str | None = None, until: str | None = None, only: Only | None = None
    ) -> charts.Chart:
        """The picture that goes with a report."""
        return await self._in_thread(lambda: self._figures.chart(by, since, until, only or Only()))

    @property
    def organisation(self) -> Organisation:
        """The organisation's reports, and the ledger held against them."""
        return self._organisation

    async def import_outside(self, told: Callable[[Imported], None] = lambda _: None) -> results.ImportResult:
        """Read what was spent outside the pool from the transcripts of every subscription into the ledger.

        ``told`` hears, in another thread, of every batch.
        """
        await self._adopt()
        return await self._outside.import_all(told)

    # Small things that the above is made of

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Call what reads or writes the disk, away from the event loop; never abandoned half-way."""
        return await anyio.to_thread.run_sync(function, *arguments)

    def _run(self, run_id: str) -> Run:
        with self._ledger.read() as tx:
            run = tx.runs.get(run_id)
        if run is None:
            raise InvalidRequest(f"No run {run_id!r} in this ledger; pass the run_id that ask_claude gave.")
        return run

    def _attempts(self, run_id: str) -> list[Run]:
        run = self._run(run_id)
        with self._ledger.read() as tx:
            return tx.runs.of_ask(run.ask_id)

    async def _latest(self, run_id: str) -> Run:
        return (await self._in_thread(self._attempts, run_id))[-1]

    def _request_cancel(self, run_id: str) -> None:
        with self._ledger.write() as tx:
            tx.runs.request_cancel(run_id)

    def _mark_background(self, run_id: str) -> None:
        with self._ledger.write() as tx:
            tx.runs.detach(run_id)


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
