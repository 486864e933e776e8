"""Drives the queue in one process: serves it when something has changed, and sleeps while it is empty.

What happens here wakes it at once. What other processes do, it notices by the ledger's own count of changes, twice a
second while something waits; while nothing does, it sleeps until another process wakes it.
"""

import logging
from collections.abc import Callable, Mapping
from typing import NoReturn

import anyio
from anyio.to_thread import run_sync as in_thread

from pool_mcp.asks.queue import Queue
from pool_mcp.background.every import once
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import SECOND_MS, Run
from pool_mcp.results.asks import Place
from pool_mcp.system.wakeup import Wakeup

log = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often it is asked, while something waits, whether another process has changed the ledger."""
ANYHOW_S = 15.0
"""How often the queue is served though nothing is known to have changed."""
SOON_MS = 100
"""Where something should have changed already, it is looked at again after this long."""
STAY_S = 3.0
"""How long an empty queue is watched after another process said that something is about to wait."""


class Driver:
    """Serves the queue for as long as its pool is open; ``start`` sees a run through to its end."""

    def __init__(
        self,
        queue: Queue,
        ledger: Ledger,
        clock: Callable[[], int],
        start: Callable[[Run], None],
    ) -> None:
        self._queue = queue
        self._ledger = ledger
        self._clock = clock
        self._start = start
        self._woken = anyio.Event()
        self._news = anyio.Event()
        self._stay_until_s = 0.0
        self.places: Mapping[str, Place] = {}
        """Where those that wait stood at the last look, by run."""
        self.wakeup: Wakeup | None = None

    def wake(self) -> None:
        """Serve the queue now: something has changed in this process."""
        self._woken.set()

    def wake_others(self) -> None:
        """Have the other processes watch the queue: something is about to wait, or waits."""
        if self.wakeup is not None:
            self.wakeup.wake_others()

    async def news(self, at_most_s: float) -> None:
        """Wait until something may have changed for those that wait, for a bounded time."""
        with anyio.move_on_after(at_most_s):
            await self._news.wait()

    async def run(self, first_after_s: float) -> NoReturn:
        """Serve the queue whenever there is one."""
        await self._sleep(first_after_s)
        while True:
            await once("serve the queue", self.serve_until_empty)
            await self._sleep()

    async def serve_until_empty(self) -> None:
        """Serve the queue until nothing waits any more."""
        while True:
            self._woken = anyio.Event()
            changes = await in_thread(self._ledger.changes)
            served = await in_thread(self._queue.serve)
            for run in served.reserved:
                self._start(run)
            self.places = {place.waiting.run.run_id: place for place in served.left}
            self._tell()
            if not served.left and anyio.current_time() >= self._stay_until_s:
                return
            await self._until_changed(changes, served.look_at_ms)

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def _sleep(self, at_most_s: float | None = None) -> None:
        """Sleep until woken, here or by another process."""
        async with anyio.create_task_group() as tasks:
            if self.wakeup is not None:
                tasks.start_soon(self._be_woken, self.wakeup)
            with anyio.move_on_after(at_most_s):
                await self._woken.wait()
            tasks.cancel_scope.cancel()

    async def _be_woken(self, wakeup: Wakeup) -> None:
        await wakeup.wait()
        self._stay_until_s = anyio.current_time() + STAY_S
        self.wake()

    async def _until_changed(self, changes: int, look_at_ms: int | None) -> None:
        anyhow_s = anyio.current_time() + ANYHOW_S
        look_at_ms = None if look_at_ms is None else max(look_at_ms, self._clock() + SOON_MS)
        while anyio.current_time() < anyhow_s:
            left_ms = LOOK_S * SECOND_MS if look_at_ms is None else look_at_ms - self._clock()
            await self._sleep(max(0.0, min(LOOK_S, left_ms / SECOND_MS)))
            is_time = look_at_ms is not None and self._clock() >= look_at_ms
            if self._woken.is_set() or is_time or await in_thread(self._ledger.changes) != changes:
                return
