"""Follows runs to their end: starts the CLI, follows it, has it booked, adopts what other servers left, stops.

An ask is served by a task of its own, not by the call that made it: the call may return ``running``, be cancelled, or
vanish with its host, and the run is still followed to its end and booked.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import anyio
import anyio.abc
from anyio.to_thread import run_sync as in_thread

from pool_mcp.asks.reservations import Reservations
from pool_mcp.asks.runner import Control, Runner
from pool_mcp.background.alerts import Alerting, log_told
from pool_mcp.choosing import pacing
from pool_mcp.claude import process as cli
from pool_mcp.errors import CliFailed, InvalidRequest, LedgerError, PoolError
from pool_mcp.model import Ask, Cost, Outcome, Run, RunState, Settlement, WindowReading

log = logging.getLogger(__name__)

POLL_S = 0.25
"""How often a run that another process follows is looked at."""
STOP_S = 0.3
"""How long a stopping server waits for its inline runs to report what they cost."""
SETTLE_S = 2.0
"""How long an adopter waits for runs whose CLI has ended; reading one takes milliseconds."""
CANCEL_S = 7.0
"""How long cancelling waits for a run to be booked: every step of stopping a CLI, and a little."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _LiveAsk:
    """An ask, or an adopted run, that this process is serving; ``run`` is its latest attempt."""

    run: Run
    ask: Ask | None = None
    control: Control = field(default_factory=Control)
    done: anyio.Event = field(default_factory=anyio.Event)
    tried: frozenset[str] = frozenset()


class _RunSupervisor:
    """In charge of one followed run, with its disk work done in threads.

    A ledger that cannot be reached for a while does not end a run that is being paid for: what it holds stays held.
    """

    def __init__(self, reservations: Reservations, alerts: Alerting, run: Run) -> None:
        self._reservations = reservations
        self._alerts = alerts
        self._run = run

    async def keep(self, readings: list[WindowReading]) -> None:
        log_told(await self._try([], self._reservations.record_readings, self._run, readings))
        self._alerts.wake()

    async def is_cancelled(self) -> bool:
        return await self._try(False, self._reservations.is_cancel_requested, self._run)

    async def can_afford(self, seen_nanousd: int) -> bool:
        return await self._try(True, self._reservations.extend, self._run, seen_nanousd)

    async def _try(self, otherwise: T, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await in_thread(function, *arguments)
        except LedgerError as error:
            log.warning("run %s: goes on without the ledger: %s", self._run.run_id, error)
            return otherwise


class Supervision:
    """All runs that this process is in charge of. Give it the pool's ``tasks`` before anything else."""

    def __init__(self, reservations: Reservations, runner: Runner, alerts: Alerting, clock: Callable[[], int]) -> None:
        self._reservations = reservations
        self._runner = runner
        self._alerts = alerts
        self._clock = clock
        self._live: dict[str, _LiveAsk] = {}
        self._dropped: set[str] = set()
        """Runs of ours that nobody follows any more."""
        self.tasks: anyio.abc.TaskGroup | None = None

    # Starting and following

    def serve(self, run: Run, ask: Ask | None = None) -> None:
        """See a reserved run of an ask, or an adopted run, through to its end, in a task of its own."""
        assert self.tasks is not None, "the pool is not open"
        live = self._live[run.run_id] = _LiveAsk(run, ask)
        self.tasks.start_soon(self._drive, live)

    async def _drive(self, live: _LiveAsk) -> None:
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

    async def _execute(self, live: _LiveAsk) -> Run | None:
        """Start the CLI, or find the one that was started; follow it to its end; book it.

        Returns the ask's next attempt, where there is to be one.
        """
        run, files = live.run, self._runner.files(live.run.run_id)
        try:
            if live.ask is not None:
                run, process = await in_thread(self._start, run, live.ask)
            elif files.stdout.exists():
                process = cli.CliProcess(files)
            else:
                raise CliFailed("The server stopped before the CLI was started; ask again.")
        except (OSError, ValueError, PoolError) as error:
            message = error.message if isinstance(error, PoolError) else f"The CLI could not be started: {error}"
            outcome = Outcome.INVALID_REQUEST if isinstance(error, InvalidRequest) else Outcome.CLI_FAILED
            settlement = Settlement(run.run_id, RunState.FAILED, outcome, message, Cost(), self._clock())
        else:
            supervisor = _RunSupervisor(self._reservations, self._alerts, run)
            settlement = await self._runner.follow(run, process, live.control, supervisor)
        following = await self._settle(settlement, live)
        files.prompt.unlink(missing_ok=True)
        return following

    def _start(self, run: Run, ask: Ask) -> tuple[Run, cli.CliProcess]:
        started = self._reservations.begin(run, self._runner.prepare(run, ask))
        return started, self._runner.start(started, ask)

    async def _settle(self, settlement: Settlement, live: _LiveAsk) -> Run | None:
        """Book a run, however long the ledger cannot be written; until then its reservation stands."""
        delay_s = 1.0
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
        if following is not None:
            went = (live.run.run_id, live.run.subscription, following.subscription, str(settlement.outcome))
            failover = [pacing.failover(*went, self._clock())]
        await self._alerts.tell(*failover)
        return following

    # Waiting

    def doing(self, run_id: str) -> str:
        """What a run is doing, in words."""
        live = self._live.get(run_id)
        return live.control.doing if live else "running in another server"

    async def wait(self, run_id: str, at_most_s: float) -> bool:
        """Wait for a run's ask to end, in whatever process; False where it has not in that time."""
        with anyio.move_on_after(at_most_s):
            while True:
                if live := self._live.get(run_id):
                    await live.done.wait()
                    return True
                if (await self._latest(run_id)).finished:
                    return True
                await anyio.sleep(POLL_S)
                await self.adopt()
        return False

    async def _latest(self, run_id: str) -> Run:
        return (await in_thread(self._reservations.attempts, run_id))[-1]

    async def detach(self, run: Run) -> None:
        """Let a run whose caller was asked to come back outlive this server."""
        if not run.background:
            await in_thread(self._reservations.detach, run.run_id)
            if live := self._live.get(run.run_id):
                live.run = replace(live.run, background=True)

    # Stopping

    def cancel_here(self, run_id: str) -> None:
        """Stop a run's ask, where this process serves it."""
        if live := self._live.get(run_id):
            live.control.stop = live.control.stop or Outcome.CANCELLED

    async def cancel(self, run_id: str) -> None:
        """Stop an ask's current run, in whatever process, and wait, for a bounded time, until it is booked."""
        run = await self._latest(run_id)
        if run.finished:
            return
        await in_thread(self._reservations.request_cancel, run.run_id)
        self.cancel_here(run.run_id)
        with anyio.move_on_after(CANCEL_S):
            while not (await self._latest(run_id)).finished:  # noqa: ASYNC110  (another process may settle it)
                await anyio.sleep(POLL_S / 5)

    async def stop(self) -> None:
        """Interrupt what somebody was waiting for here, for a bounded time; background runs go on into their files."""
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
                    await in_thread(self._reservations.request_cancel, live.run.run_id, abandon_on_cancel=True)

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
