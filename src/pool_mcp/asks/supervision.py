"""Follows runs to their end: starts the CLI, follows it, has it booked, adopts what other servers left, stops.

An ask is served by a task of its own, not by the call that made it: the call may return ``running``, be cancelled, or
vanish with its host, and the run is still followed to its end and booked.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NoReturn

import anyio
import anyio.abc
from anyio.to_thread import run_sync as in_thread

from pool_mcp.asks.driving import Driver
from pool_mcp.asks.live_text import LiveText
from pool_mcp.asks.queue import Queue
from pool_mcp.asks.reservations import Reservations
from pool_mcp.asks.runner import Control, Runner
from pool_mcp.asks.spares import Spares
from pool_mcp.background.alerts import Alerting, log_told
from pool_mcp.choosing import pacing
from pool_mcp.claude import process as cli
from pool_mcp.errors import CliFailed, LedgerError, PoolError, RunCancelled
from pool_mcp.model import Ask, Cost, Outcome, OverageReading, Run, RunState, Settlement, WindowReading

log = logging.getLogger(__name__)

CANCEL_POLL_S = 0.5
"""How often a followed run asks whether another process wants it stopped."""
GATHER_S = 0.1
"""How long readings wait to be written, so that an answer that comes at once takes them into its settlement."""
WAITING_POLL_S = 2.0
"""How often a run that waits is looked at where nothing is heard of it; changes are heard of."""
POLL_S = 0.25
"""How often a run that another process follows is looked at."""
TEXT_S = 0.1
"""How often an answer that is being written is read."""
STOP_S = 0.3
"""How long a stopping server waits for its inline runs to report what they cost."""
SETTLE_S = 2.0
"""How long an adopter waits for runs whose CLI has ended; reading one takes milliseconds."""
CANCEL_S = 7.0
"""How long cancelling waits for a run to be booked: every step of stopping a CLI, and a little."""


@dataclass(slots=True, eq=False)
class _LiveAsk:
    """An ask, or an adopted run, that this process is serving; ``run`` is its latest attempt.

    ``is_inline`` is whether somebody waits for it, so that it is stopped with this server.
    """

    run: Run
    is_inline: bool
    ask: Ask | None = None
    control: Control = field(default_factory=Control)
    done: anyio.Event = field(default_factory=anyio.Event)
    tried: frozenset[str] = frozenset()


class _Watch:
    """In charge of one followed run: takes to the ledger what it reports, and has it stopped, in a task of its own.

    So a ledger that cannot be reached for a while, or that another process holds, neither ends a run that is being paid
    for nor keeps it from being stopped in time. What could not be written is written at the next look.
    """

    def __init__(self, reservations: Reservations, alerts: Alerting, run: Run, control: Control) -> None:
        self._reservations = reservations
        self._alerts = alerts
        self._run = run
        self._control = control
        self._news = anyio.Event()
        self._has_spent = anyio.Event()
        self.readings: list[WindowReading] = []
        """What is not in the ledger yet."""
        self.overage: OverageReading | None = None
        self._models: set[str] = set()
        self._spending: tuple[int, int, int] | None = None

    def heard(self, readings: list[WindowReading], overage: OverageReading | None, models: set[str]) -> None:
        self.readings += readings
        self.overage = overage
        if readings or models - self._models:
            self._news.set()
        self._models |= models

    def spent(self, nanousd: int, next_nanousd: int, overage_nanousd: int) -> None:
        self._spending = (nanousd, next_nanousd, overage_nanousd)
        self._news.set()
        self._has_spent.set()

    async def keep(self) -> NoReturn:
        """Write what was heard, spend at once; look now and then whether another process wants the run stopped."""
        proven: set[str] = set()
        while True:
            with anyio.move_on_after(CANCEL_POLL_S):
                await self._news.wait()
            with anyio.move_on_after(GATHER_S):
                await self._has_spent.wait()
            self._news, self._has_spent = anyio.Event(), anyio.Event()
            try:
                if self._spending is not None:
                    await self._extend(self._spending)
                if self.readings:
                    await self._record()
                if models := self._models - proven:
                    await in_thread(self._reservations.prove, self._run, models)
                    proven |= models
                if await in_thread(self._reservations.is_cancel_requested, self._run):
                    self._control.stop = self._control.stop or Outcome.CANCELLED
            except LedgerError as error:
                log.warning("run %s: goes on without the ledger: %s", self._run.run_id, error)
                await anyio.sleep(CANCEL_POLL_S)

    async def _extend(self, spending: tuple[int, int, int]) -> None:
        nanousd, next_nanousd, overage_nanousd = spending
        if not await in_thread(self._reservations.extend, self._run, nanousd, next_nanousd, overage_nanousd):
            self._control.stop = self._control.stop or Outcome.BUDGET
        if self._spending == spending:
            self._spending = None

    async def _record(self) -> None:
        many = len(self.readings)
        log_told(await in_thread(self._reservations.record_readings, self._run, self.readings[:many], self.overage))
        del self.readings[:many]
        self._alerts.wake()


class Supervision:
    """All runs that this process is in charge of. Give it the pool's ``tasks`` before anything else."""

    def __init__(
        self,
        reservations: Reservations,
        runner: Runner,
        spares: Spares,
        alerts: Alerting,
        queue: Queue,
        driver: Driver,
        clock: Callable[[], int],
    ) -> None:
        self._reservations = reservations
        self._queue = queue
        self._driver = driver
        self._runner = runner
        self._spares = spares
        self._alerts = alerts
        self._clock = clock
        self._live: dict[str, _LiveAsk] = {}
        self._dropped: set[str] = set()
        """Runs of ours that nobody follows any more."""
        self._parked: set[str] = set()
        """Runs that wait and that somebody here waits for."""
        self.tasks: anyio.abc.TaskGroup | None = None

    # Starting and following

    def serve(self, run: Run, ask: Ask | None = None) -> None:
        """See a reserved run of an ask, or an adopted run, through to its end, in a task of its own."""
        assert self.tasks is not None, "the pool is not open"
        live = self._live[run.run_id] = _LiveAsk(run, not run.background, ask)
        self.tasks.start_soon(self._drive, live)

    def serve_from_queue(self, run: Run) -> None:
        """See a run through whose turn has come."""
        is_inline = run.run_id in self._parked
        self._parked.discard(run.run_id)
        self.serve(replace(run, background=not is_inline))

    def park(self, run: Run) -> None:
        """Have a run served when its turn comes, here or in another process; inline ones go with this server."""
        if not run.background:
            self._parked.add(run.run_id)
        self._driver.wake()
        self._driver.wake_others()

    async def _drive(self, live: _LiveAsk) -> None:
        """Run an ask's attempts one after the other until one answers or no other subscription can."""
        try:
            while await self._execute(live):
                pass
        except Exception:  # the top of this task: the run stays reserved until it is adopted, here or elsewhere
            log.exception("run %s: could not be followed to its end", live.run.run_id)
            self._dropped.add(live.run.run_id)
        finally:
            live.done.set()
            for run_id in [key for key, value in self._live.items() if value is live]:
                del self._live[run_id]

    async def _execute(self, live: _LiveAsk) -> bool:
        """See one attempt of an ask through: start it or find it started, follow it, book it.

        True where the ask has a next attempt, which is in ``live`` then.
        """
        run, files = live.run, self._runner.files(live.run.run_id)
        try:
            run, process = await self._begin(live)
        except (OSError, ValueError, PoolError) as error:
            settlement = _not_started(run, error, self._clock())
            await in_thread(self._spares.drop, run.session_id)
        else:
            settlement = await self._follow(run, process, live.control)
        goes_on = await self._settle(settlement, live)
        if live.ask is not None and settlement.outcome is Outcome.OK:
            self._spares.asked(live.ask, run.subscription)
        with contextlib.suppress(OSError):
            files.forget_ask()
        self._driver.wake()  # it may have made room
        return goes_on

    async def _begin(self, live: _LiveAsk) -> tuple[Run, cli.CliProcess]:
        if live.control.stop is not None:
            raise RunCancelled("The run was cancelled before it began; it cost nothing.")
        if live.run.state is RunState.RESERVED:
            live.ask = live.ask or await in_thread(self._runner.load, live.run.run_id)
            if live.ask is None:
                raise CliFailed("The server stopped before the CLI was started; ask again.")
            return await in_thread(self._start, live.run, live.ask)
        return live.run, cli.CliProcess(self._runner.files(live.run.run_id))

    async def _follow(self, run: Run, process: cli.CliProcess, control: Control) -> Settlement:
        watch = _Watch(self._reservations, self._alerts, run, control)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.keep)
            settlement = await self._runner.follow(run, process, control, watch)
            tasks.cancel_scope.cancel()
        return replace(settlement, readings=tuple(watch.readings))

    def _start(self, run: Run, ask: Ask) -> tuple[Run, cli.CliProcess]:
        baseline_json = self._runner.prepare(run, ask)
        # Two waits for the disk at once. Where a power cut comes between them, neither alone says that the CLI began.
        with ThreadPoolExecutor(1) as threads:
            synced = threads.submit(self._runner.files(run.run_id).sync)
            started = self._reservations.begin(run, baseline_json)
        synced.result()
        waited = self._spares.take(run, ask, self._runner.files(run.run_id))
        return started, waited or self._runner.start(started, ask)

    async def _settle(self, settlement: Settlement, live: _LiveAsk) -> bool:
        """Book a run, however long the ledger cannot be written; until then its reservation stands.

        True where another attempt is reserved; from then on it is the ask's, whatever fails.
        """
        before = live.run
        delay_s = 1.0
        live.ask = live.ask or await in_thread(self._runner.load, before.run_id)
        live.tried |= {live.run.subscription}
        while True:
            ask = live.ask if live.control.stop is None else None
            try:
                following = await in_thread(self._reservations.settle, settlement, ask, live.tried)
                break
            except LedgerError as error:
                log.error("run %s: not booked yet: %s", settlement.run_id, error)
                await anyio.sleep(delay_s)
                delay_s = min(delay_s * 2, 60.0)
        failover = []
        if following is not None and following.state is RunState.WAITING:
            self.park(replace(following, background=not live.is_inline))
            following = None
        if following is not None:
            live.run = following
            self._live[following.run_id] = live
            went = (before.run_id, before.subscription, following.subscription, str(settlement.outcome))
            failover = [pacing.failover(*went, self._clock())]
        await self._alerts.tell(*failover)
        return following is not None

    # Waiting

    async def tell_text(self, run_id: str, listener: Callable[[str], None]) -> None:
        """Call a listener with an answer's text as it is written, for as long as this process serves the run's ask."""
        texts: dict[str, LiveText] = {}
        while True:
            live = self._live.get(run_id)
            if live is None:
                run = await self._latest(run_id)
                if run.state is not RunState.WAITING:
                    return
                await self._driver.news(WAITING_POLL_S)
                continue
            now = live.run.run_id
            text = texts.setdefault(now, LiveText(self._runner.files(now).stdout))
            if written := await in_thread(text.read):
                listener(written)
            with anyio.move_on_after(TEXT_S):
                await live.done.wait()

    def doing(self, run_id: str) -> str:
        """What a run is doing, in words."""
        if live := self._live.get(run_id):
            return live.control.doing
        if place := self._driver.places.get(run_id):
            return f"waiting as number {place.position}: {place.reason}"
        return "running in another server"

    async def wait(self, run_id: str, at_most_s: float) -> bool:
        """Wait for a run's ask to end, in whatever process; False where it has not in that time."""
        with anyio.move_on_after(at_most_s):
            while True:
                if live := self._live.get(run_id):
                    await live.done.wait()
                run = await self._latest(run_id)
                if run.finished:
                    return True
                if live := self._live.get(run.run_id):
                    await live.done.wait()
                elif run.state is RunState.WAITING:
                    await self._driver.news(WAITING_POLL_S)
                else:
                    await anyio.sleep(POLL_S)
                    await self.adopt()
        return False

    async def until_all_have_ended(self) -> None:
        """Wait until nothing waits or runs any more, in whatever process; what is left by others is adopted."""
        while await in_thread(self._reservations.are_there_any):
            await self._driver.news(POLL_S)
            await self.adopt()

    async def _latest(self, run_id: str) -> Run:
        return (await in_thread(self._reservations.attempts, run_id))[-1]

    def detach(self, run: Run) -> None:
        """Let an ask whose caller was asked to come back outlive this server; waits for nothing."""
        self._parked.discard(run.run_id)
        if live := self._live.get(run.run_id):
            live.is_inline = False
        if not run.background and self.tasks is not None:
            self.tasks.start_soon(self._detach, run.run_id)

    async def _detach(self, run_id: str) -> None:
        try:
            await in_thread(self._reservations.detach, run_id)
        except LedgerError as error:  # whoever adopts it lets it go on all the same
            log.warning("run %s: not marked as one that goes on: %s", run_id, error)

    # Stopping

    def cancel_here(self, run_id: str) -> None:
        """Stop a run's ask, where this process serves it or has it wait."""
        if live := self._live.get(run_id):
            live.control.stop = live.control.stop or Outcome.CANCELLED
        elif run_id in self._parked and self.tasks is not None:
            self.tasks.start_soon(self._cancel_parked, [run_id])

    async def cancel(self, run_id: str) -> None:
        """Stop an ask's current run, in whatever process, and wait, for a bounded time, until it is booked."""
        run = await self._latest(run_id)
        if run.finished or (run.state is RunState.WAITING and await self.cancel_waiting([run.run_id])):
            return
        await in_thread(self._reservations.request_cancel, run.run_id)
        self.cancel_here(run.run_id)
        with anyio.move_on_after(CANCEL_S):
            while not (await self._latest(run_id)).finished:  # noqa: ASYNC110  (another process may settle it)
                await anyio.sleep(POLL_S / 5)

    async def cancel_waiting(self, run_ids: Sequence[str]) -> list[str]:
        """Take runs out of the queue; those that were still in it."""
        cancelled = await in_thread(self._queue.cancel, run_ids, abandon_on_cancel=True)
        for run_id in cancelled:
            self._parked.discard(run_id)
            with contextlib.suppress(OSError):
                self._runner.files(run_id).forget_ask()
        self._driver.wake()
        return cancelled

    async def _cancel_parked(self, run_ids: Sequence[str]) -> None:
        """Cancel runs that were waiting, also those whose turn has come meanwhile, in whatever process."""
        try:
            for run_id in set(run_ids) - set(await self.cancel_waiting(run_ids)):
                self.cancel_here(run_id)
                await self._request_cancel(run_id)
        except LedgerError as error:
            log.warning("runs that wait are left to the next server: %s", error)

    async def stop(self) -> None:
        """Interrupt what somebody was waiting for here, for a bounded time; background runs go on into their files."""
        with anyio.move_on_after(STOP_S):
            if self._parked:
                await self._cancel_parked(list(self._parked))
        inline = [live for live in set(self._live.values()) if live.is_inline]
        for live in inline:
            live.control.stop = live.control.stop or Outcome.CANCELLED
        with anyio.move_on_after(STOP_S):
            for live in inline:
                await live.done.wait()
        # Whoever adopts what has not ended by now will go on stopping it.
        with anyio.move_on_after(STOP_S / 3):
            for live in inline:
                if not live.done.is_set():
                    await self._request_cancel(live.run.run_id)

    async def _request_cancel(self, run_id: str) -> None:
        try:
            await in_thread(self._reservations.request_cancel, run_id, abandon_on_cancel=True)
        except LedgerError as error:
            log.warning("run %s: left to the next server: %s", run_id, error)

    # Adopting

    async def adopt(self) -> None:
        """Take charge of every run whose server is gone: settle what has ended, follow what has not."""
        ended = []
        for run in await in_thread(self._reservations.adopt, self._dropped):
            self._dropped.discard(run.run_id)
            log.info("run %s: adopted", run.run_id)
            self.serve(run)
            if not cli.CliProcess(self._runner.files(run.run_id)).is_alive:
                ended.append(self._live[run.run_id])
        with anyio.move_on_after(SETTLE_S):
            for live in ended:
                await live.done.wait()


def _not_started(run: Run, error: Exception, now_ms: int) -> Settlement:
    """How a run ends whose CLI was surely never started, so that it has cost nothing."""
    message = (
        error.message
        if isinstance(error, PoolError)
        else f"The CLI could not be started: {error}; run `pool-mcp doctor`."
    )
    kind = error.kind if isinstance(error, PoolError) else Outcome.CLI_FAILED
    outcome = Outcome(kind) if kind in set(Outcome) else Outcome.CLI_FAILED
    return Settlement(run.run_id, RunState.FAILED, outcome, message, Cost(), now_ms)
