"""The story: how an ask is placed, run, booked and answered, and how the pool's state is found.

Read from top to bottom, as one ask goes. What happens inside a transaction is in ``asks/reservations.py``; how a run is
followed to its end is in ``asks/supervision.py``. What only reads is in parts of the pool: ``history``, ``figures``.
"""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

import anyio
import anyio.abc
from anyio.to_thread import run_sync as in_thread

from pool_mcp.accounting.periods import instant_to_come
from pool_mcp.asks.admission import check_ask, check_session_id
from pool_mcp.asks.directories import check_working_dir
from pool_mcp.asks.driving import Driver
from pool_mcp.asks.history import History
from pool_mcp.asks.outcomes import CUT, FAILOVER
from pool_mcp.asks.queue import Queue
from pool_mcp.asks.reservations import Reservations
from pool_mcp.asks.runner import Runner
from pool_mcp.asks.spares import Spares
from pool_mcp.asks.supervision import Supervision
from pool_mcp.background.alerts import Alerting, Listener
from pool_mcp.background.every import Sleep, every, once
from pool_mcp.background.logins import Upkeep
from pool_mcp.background.metrics import Sending
from pool_mcp.background.notify import Notifying
from pool_mcp.choices import By
from pool_mcp.claude import process as cli
from pool_mcp.errors import BY_KIND, InvalidRequest, LedgerError, PoolError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import DAY_MS, HOUR_MS, NANO, Ask, Outcome, Run, RunState
from pool_mcp.organisation.sync import SYNC_LOOK_S, Organisation
from pool_mcp.results.asks import AskResult, Place, ask_result, with_page
from pool_mcp.results.metrics import Gauge, gauges
from pool_mcp.results.status import PickResult, StatusResult, pick_result, status_result
from pool_mcp.settings import Settings
from pool_mcp.state import State
from pool_mcp.system import locks, places
from pool_mcp.system.wakeup import Wakeup
from pool_mcp.usage.forecasts import Forecasts
from pool_mcp.usage.import_schedule import IMPORT_AFTER_S, Outside
from pool_mcp.usage.reports import Figures

Clock = Callable[[], int]
"""The time in Unix milliseconds."""

Progress = Callable[[float, str], Awaitable[None]]
"""Called every few seconds with how long an ask has taken, and what it is doing."""

PAGE_CHARS = 48_000
"""One page of an answer's text: well inside the 25,000 tokens that hosts show."""
_PARTIAL_BYTES = 8 * 1024**2
"""How far back the text of a run that was cut is looked for."""
METRICS_BY: tuple[By, ...] = ("model", "subscription", "caller")
PROGRESS_S = 5.0
LOOK_AFTER_S = 60.0
"""How often an idle server looks for runs that others have left, and after logins and stale readings."""
CATCH_UP_S = 1.0
"""How long a person's command reads what is new in transcripts; for official limits it waits twice that."""
SERVE_AFTER_S = 1.0
"""When it serves the queue first; a person's look is over by then, and leaves that to those that stay."""
UPKEEP_S = 3.0
"""When it looks after logins first; a command is over by then and needs none of it."""

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """Everything the tools and the command line can do. Use inside ``async with pool.open()``."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        env: Mapping[str, str],
        clock: Clock,
        new_id: Callable[[], str],
        sleep: Sleep = anyio.sleep,
    ) -> None:
        clock = ledger.clock(clock)
        self._settings = settings
        self._ledger = ledger
        self._env = env
        self._clock = clock
        self._sleep = sleep
        self._runner = Runner(settings, env, clock)
        self._state = State(settings)
        self._alerts = Alerting(ledger, self._state, clock)
        self._logins = Upkeep(settings, ledger, self._state, env, clock)
        self._notifying = Notifying(settings, ledger, env, clock)
        self._spares = Spares(settings, ledger, self._state, self._runner, env, clock, new_id)
        self._reservations = Reservations(
            *(settings, ledger, self._state, self._runner, clock, new_id, self._spares),
            about_to_wait=lambda: self.driver.wake_others(),
        )
        self._tasks: anyio.abc.TaskGroup | None = None
        self.queue = Queue(ledger, self._reservations.placing, self._runner, clock)
        self.driver = Driver(self.queue, ledger, clock, lambda run: self.supervision.serve_from_queue(run))
        self.supervision = Supervision(
            self._reservations, self._runner, self._spares, self._alerts, self.queue, self.driver, clock
        )
        self.history = History(settings, ledger, self._runner, clock)
        self.outside = Outside(settings, ledger, env, clock, lambda run: self._runner.read(run.run_id).calls)
        self.forecasts = Forecasts(ledger, self._state.balances, clock, places.time_zone(env))
        self.figures = Figures(settings, ledger, clock, places.time_zone(env), self.outside.imported_at_ms)
        self.organisation = Organisation(settings, ledger, env, clock)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Pool"]:
        """Adopt what dead servers left, serve, and at the end interrupt inline runs; background runs go on."""
        owners = self._settings.owners_dir
        try:
            gone = locks.sweep(owners)
            lock = locks.OwnerLock(owners, self._reservations.owner_id)
            wakeup = self.driver.wakeup = Wakeup(self._settings.wake_dir, self._reservations.owner_id)
        except OSError as error:
            raise LedgerError(f"{owners} cannot be written: {error.strerror}; make it writable for you.") from None
        failure: Exception | None = None
        try:
            if gone:
                await in_thread(self._reservations.drop_left_by, gone)
            async with anyio.create_task_group() as tasks:
                self._tasks = self.supervision.tasks = tasks
                self._start_background(tasks)
                try:
                    yield self
                except Exception as error:
                    failure = error
                finally:
                    with anyio.CancelScope(shield=True):
                        await self.stop()
                    tasks.cancel_scope.cancel()
        finally:
            wakeup.close()
            lock.release()
        if failure is not None:
            raise failure

    def _start_background(self, tasks: anyio.abc.TaskGroup) -> None:
        """What an open pool does by itself."""

        def start(seconds: float, what: str, step: Callable[[], Awaitable[object]], first_after_s: float) -> None:
            tasks.start_soon(every, seconds, what, step, self._sleep, first_after_s)

        if cli.depth(self._env) == 0:
            tasks.start_soon(self.driver.run, SERVE_AFTER_S)
        start(LOOK_AFTER_S, "look after earlier runs", self._look_after_runs, 0)
        start(LOOK_AFTER_S, "look after logins", self._look_after_logins, UPKEEP_S)
        start(IMPORT_AFTER_S, "import what was spent outside", self.outside.import_if_due, IMPORT_AFTER_S)
        self._notifying.start(tasks, self._sleep)
        if self._settings.metrics.otlp_endpoint:
            sending = Sending(self._settings, self._ledger, self._env, self._clock, self.gauges)
            start(self._settings.metrics.interval_s, "send metrics", sending.send_if_due, UPKEEP_S)
        if self.organisation.has_key:
            start(SYNC_LOOK_S, "read the organization's reports", self.organisation.sync_if_due, SYNC_LOOK_S)

    def keep_spares(self) -> None:
        """From now on have a CLI started before the next ask, as far as the settings want that."""
        assert self._tasks is not None, "the pool is not open"
        if self._settings.claude.spares != "off":
            self._tasks.start_soon(self._spares.keep)

    async def stop(self) -> None:
        """Interrupt what somebody was waiting for here, for a bounded time; background runs go on into their files."""
        self.outside.stop()
        self._logins.stop()
        self._spares.close()
        await self.supervision.stop()
        await in_thread(self._spares.stop)

    # One ask

    async def ask(
        self,
        ask: Ask,
        progress: Progress | None = None,
        wait_s: float | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> AskResult:
        """Ask Claude; the answer, or ``running`` once ``wait_s`` (default: the setting ``inline_wait_s``) has passed.

        ``on_text`` is called with the answer's text as it is written, the last of which may come with the answer only.
        Cancelling the call stops the run; it is booked all the same.

        Raises:
            PoolError: whatever kept the ask from being answered, by its kind.
        """
        if cli.depth(self._env) > 0:
            raise InvalidRequest("This Claude was itself started by pool-mcp and may not ask another one.")
        await in_thread(check_ask, ask, self._settings)
        await in_thread(check_working_dir, ask, self._settings, self._env)
        self._logins.asked()
        await in_thread(self._runner.check)
        # From the reservation on there is always someone in charge of the run, even if the host cancels right here.
        with anyio.CancelScope(shield=True):
            await self.adopt()
            run, is_new = await in_thread(self._reservations.reserve, ask)
            if is_new and run.state is RunState.WAITING:
                self.supervision.park(run)
            elif is_new:
                self.supervision.serve(run, ask)
        if on_text is not None and self._tasks is not None:
            self._tasks.start_soon(self.supervision.tell_text, run.run_id, on_text)
        wait_s = 0 if ask.background else wait_s or self._settings.claude.inline_wait_s
        try:
            with _naming(run.run_id):
                return await self._wait(run.run_id, wait_s, progress)
        except anyio.get_cancelled_exc_class():
            if is_new:
                self.supervision.cancel_here(run.run_id)
            raise

    async def result(
        self, run_id: str, *, wait_s: float = 0, offset: int = 0, cancel: bool = False, progress: Progress | None = None
    ) -> AskResult:
        """An ask's answer by the id of any of its runs, whichever process ran it.

        Raises:
            InvalidRequest: there is no such run, or its answer has been removed.
            PoolError: the ask failed.
        """
        if offset < 0 or not 0 <= wait_s <= 3600:
            raise InvalidRequest("offset must be at least 0, and wait_s from 0 to 3600.")
        with _naming(run_id):
            await self.look(self._reservations.attempts, run_id)
            if cancel:
                await self.supervision.cancel(run_id)
            return await self._wait(run_id, wait_s, progress, offset)

    async def _wait(self, run_id: str, wait_s: float, progress: Progress | None, offset: int = 0) -> AskResult:
        """Wait for an ask to end, for a bounded time; then its answer, or ``running``."""
        began_s = anyio.current_time()
        while (left_s := began_s + wait_s - anyio.current_time()) > 0:
            if await self.supervision.wait(run_id, min(PROGRESS_S, left_s)):
                break
            if progress is not None and left_s > PROGRESS_S:
                await progress(anyio.current_time() - began_s, self.supervision.doing(run_id))
        return await self._answer(run_id, offset)

    async def _answer(self, run_id: str, offset: int = 0) -> AskResult:
        """What is known of an ask now: its answer, ``running``, or the failure that it ended in."""
        run, answer = await in_thread(self._known, run_id, offset)
        if not run.finished:
            self.supervision.detach(run)
        return answer

    def _known(self, run_id: str, offset: int) -> tuple[Run, AskResult]:
        """What the ledger and the run's file say of an ask, and its latest run."""
        attempts = self._reservations.attempts(run_id)
        run = attempts[-1]
        if run.outcome is Outcome.OK and (elsewhere := self._reservations.elsewhere(run)):
            raise InvalidRequest(
                f"The answer of run {run.run_id} is on {elsewhere}; ask there with ask_result.", run_id=run.run_id
            )
        if run.finished and run.outcome is not Outcome.OK:
            raise self._failure(run)
        snapshot = self._state.look(self._ledger, self._clock, run.caller, model=run.model)
        place = self._place(run) if run.state is RunState.WAITING else None
        answer = ask_result(attempts, snapshot.advice, snapshot.now_ms, place)
        if not run.finished:
            return run, answer
        verdict = self._runner.verdict(run.run_id)
        if verdict is None:
            raise InvalidRequest(
                f"The answer of run {run.run_id} was removed; answers are kept for "
                f"{self._settings.claude.keep_answers_days:g} days. Ask again.",
                run_id=run.run_id,
            )
        return run, with_page(answer, verdict.text, verdict.structured, offset, PAGE_CHARS)

    def _place(self, run: Run) -> Place | None:
        """Where a run stands that waits; None where its turn has just come."""
        return next((one for one in self.queue.places() if one.waiting.run.run_id == run.run_id), None)

    def _failure(self, run: Run) -> PoolError:
        """The error a failed ask ends in, with the subscriptions that could serve another try."""
        assert run.outcome is not None, "a finished run has an outcome"
        usable = self._state.look(self._ledger, self._clock).usable
        text = self._runner.read(run.run_id, _PARTIAL_BYTES).last_text if run.outcome in CUT else ""
        return BY_KIND[run.outcome](
            run.message or "The run failed; ask again.",
            partial_text=text[:PAGE_CHARS] or None,
            retry_at_ms=run.retry_at_ms,
            subscription=run.subscription,
            alternatives=tuple(one for one in usable if one != run.subscription) if run.outcome in FAILOVER else (),
            run_id=run.run_id,
        )

    @property
    def keep_answers_days(self) -> float:
        """How long an answer can be fetched."""
        return self._settings.claude.keep_answers_days

    def when(self, name: str, said: str | None) -> int | None:
        """An instant that is still to come, as a caller gives it; ``name`` is the argument's.

        Raises:
            InvalidRequest: it is no instant.
        """
        return None if said is None else instant_to_come(name, said, self._clock(), places.time_zone(self._env))

    # The pool's state

    async def status(self, subscription: str | None = None, caller: str | None = None) -> StatusResult:
        """The state of the pool, of one subscription, and of one caller."""
        if subscription is not None:
            self._settings.subscription(subscription)
        now = await self.look(self._state.look, self._ledger, self._clock, caller, only=subscription)
        return status_result(now, self.outside.imported_at_ms())

    async def gauges(self) -> list[Gauge]:
        """The pool's state as gauges."""
        status = await self.status()
        reports = [await in_thread(self.figures.report, by) for by in METRICS_BY]

        def outcomes() -> dict[str, int]:
            with self._ledger.read() as tx:
                return tx.runs.outcomes()

        return gauges(status, reports, await in_thread(outcomes))

    async def pick(
        self, estimated_cost_usd: float | None = None, model: str | None = None, session_id: str | None = None
    ) -> PickResult:
        """Which subscription an ask would be given now, with the verdict on each; nothing is reserved.

        Raises:
            UnknownSession: the session is nowhere to be found.
        """
        if estimated_cost_usd is not None and not 0 < estimated_cost_usd <= 1_000_000:
            raise InvalidRequest("estimated_cost_usd must be more than 0.")
        check_session_id(session_id)
        self._logins.asked()
        estimate = None if estimated_cost_usd is None else round(estimated_cost_usd * NANO)
        choice = await self.look(self._reservations.preview, estimate, model, session_id)
        return pick_result(choice, {} if choice.subscription is None else self.by_hand(choice.subscription))

    def by_hand(self, subscription: str) -> dict[str, str]:
        """What to export to use a subscription with the CLI by hand; ``$NAME`` stands for a variable, never its value.

        Raises:
            InvalidRequest: there is no such subscription.
        """
        return cli.by_hand(self._settings.subscription(subscription), self._settings.claude.base_url)

    async def look(self, read: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call what reads the ledger, in a thread, once what happened without this process has been taken in."""
        await self.adopt()
        return await in_thread(partial(read, *arguments, **named))

    async def listen(self, listener: Listener) -> None:
        """Have a listener called with every alert from now on, once, whichever process raises it first."""
        assert self._tasks is not None, "the pool is not open"
        await self._alerts.listen(listener, self._tasks)

    # What happened without this process

    async def adopt(self) -> None:
        """Notice new logins, and take charge of runs whose server is gone."""
        await in_thread(self._logins.notice_logins)
        await self.supervision.adopt()

    async def catch_up(self, at_most_s: float = CATCH_UP_S) -> None:
        """Take in what is new elsewhere, for a person who looks: stale official limits, and transcripts.

        Both at once and within a time; what cannot be had in it is left to the next time.
        """
        await self.adopt()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(once, "import what is new", partial(self.outside.catch_up, at_most_s))
            limits = partial(in_thread, self._logins.refresh, 2 * at_most_s)
            tasks.start_soon(once, "read the official limits", limits)

    async def _look_after_runs(self) -> None:
        await self.adopt()
        await in_thread(self._remove_old_answers)

    async def _look_after_logins(self) -> None:
        await in_thread(self._logins.look)
        await self._alerts.tell()  # of use elsewhere, which no run of the pool brings along

    def _remove_old_answers(self) -> None:
        """Remove the files of runs that ended longer ago than answers are kept; the ledger keeps its entries."""
        before_ms = self._clock() - round(self._settings.claude.keep_answers_days * DAY_MS)
        for directory in self._settings.runs_dir.glob("*"):
            with self._ledger.read() as tx:
                run = tx.runs.get(directory.name)
            if run is None and directory.stat().st_mtime * 1000 < self._clock() - HOUR_MS:
                shutil.rmtree(directory, ignore_errors=True)  # of an ask that a server was killed before it placed
            if run is None or run.ended_at_ms is None:
                continue
            self._runner.files(run.run_id).forget_ask()  # left by a server that was killed right after booking
            if self._runner.files(run.run_id).fetchable_since_ms(run.ended_at_ms) < before_ms:
                shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _naming(run_id: str) -> Iterator[None]:
    """An error of this machine names the run that is being paid for, so that nobody asks, and pays, once more."""
    try:
        yield
    except (LedgerError, OSError) as error:
        what = error.message if isinstance(error, LedgerError) else f"{error.strerror or error}."
        message = f"{what} Run {run_id} is not affected: call ask_result with its id."
        raise LedgerError(message, run_id=run_id) from error
