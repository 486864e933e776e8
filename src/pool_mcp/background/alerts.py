"""Tells alerts: puts them on record, logs what this process is the first to tell, and passes all on to who listens.

What is worth an alert is in ``pacing.py``. The record is the ledger, so every listener hears of each alert once,
whichever process has told it.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.abc
import anyio.to_thread

from pool_mcp.background.every import every
from pool_mcp.choosing.pacing import Alert
from pool_mcp.errors import LedgerError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.state import State

log = logging.getLogger(__name__)

Listener = Callable[[Sequence[Alert]], Awaitable[None]]
"""Told new alerts."""

LOOK_S = 2.0
"""How often alerts that other processes have told are looked for, where somebody listens."""


class Alerting:
    """Call :meth:`tell` after what may be worth an alert, or :meth:`wake` once one was put on record elsewhere."""

    def __init__(self, ledger: Ledger, state: State, clock: Callable[[], int]) -> None:
        self._ledger = ledger
        self._state = state
        self._clock = clock
        self._bells: list[_Bell] = []

    async def tell(self, *more: Alert) -> None:
        """Tell what has become worth telling, in a transaction that no booking depends on."""
        await anyio.to_thread.run_sync(self._tell, *more)
        self.wake()

    def _tell(self, *more: Alert) -> None:
        try:
            self._state.learn(self._ledger, self._clock())
            with self._ledger.write() as tx:
                now_ms = self._clock()
                alerts = self._state.tell_alerts(tx, now_ms)
                alerts += [alert for alert in more if tx.notices.record(alert, now_ms)]
        except LedgerError as error:
            log.warning("alerts could not be looked for: %s", error)
        else:
            log_told(alerts)

    async def listen(self, listener: Listener, tasks: anyio.abc.TaskGroup) -> None:
        """Have a listener called with every alert from now on, once, by a task that is started here.

        Raises:
            LedgerError: the alerts so far cannot be read.
        """
        known = {alert.key for alert in await anyio.to_thread.run_sync(self._told)}
        bell = _Bell()
        self._bells.append(bell)

        async def pass_on() -> None:
            alerts = [alert for alert in await anyio.to_thread.run_sync(self._told) if alert.key not in known]
            known.update(alert.key for alert in alerts)
            if alerts:
                await listener(alerts)

        tasks.start_soon(every, LOOK_S, "pass alerts on", pass_on, bell.sleep)

    def wake(self) -> None:
        """Have listeners look at once; what others raise they hear of a little later."""
        for bell in self._bells:
            bell.ring()

    def _told(self) -> list[Alert]:
        with self._ledger.read() as tx:
            return [alert for _, alert in tx.notices.current(self._clock())]


class _Bell:
    """Cuts a listener's sleep short; one that rings while the listener is at work is heard right after."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def sleep(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._rung.wait()
        self._rung = anyio.Event()


def log_told(alerts: Sequence[Alert]) -> None:
    """Log what this process is the first to tell, once the record of it is committed."""
    for alert in alerts:
        log.warning("alert (%s): %s", alert.kind, alert.message)
