"""Tells alerts: puts them on record, logs what this process is the first to tell, and passes all on to who listens.

What is worth an alert is in ``pacing.py``. The record is the ledger, so every listener hears of each alert once,
whichever process has told it.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.abc
import anyio.to_thread

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
        self._news = anyio.Event()

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
        """Have every alert from now on told to a listener, once, by a task that is started here.

        Raises:
            LedgerError: what has been told so far cannot be read.
        """
        known = {alert.key for alert in await anyio.to_thread.run_sync(self._told)}
        tasks.start_soon(self._pass_on, listener, known)

    def wake(self) -> None:
        """Have listeners look at once; what others tell they hear of a little later."""
        self._news.set()
        self._news = anyio.Event()

    async def _pass_on(self, listener: Listener, known: set[str]) -> None:
        while True:
            news = self._news
            try:
                alerts = [alert for alert in await anyio.to_thread.run_sync(self._told) if alert.key not in known]
                known.update(alert.key for alert in alerts)
                if alerts:
                    await listener(alerts)
            except LedgerError as error:
                log.warning("alerts could not be looked for: %s", error)
            except Exception:  # the top of this task: who listens is no reason to stop serving
                log.exception("alerts could not be passed on")
            with anyio.move_on_after(LOOK_S):
                await news.wait()

    def _told(self) -> list[Alert]:
        with self._ledger.read() as tx:
            return [alert for _, alert in tx.notices.current(self._clock())]


def log_told(alerts: Sequence[Alert]) -> None:
    """Log what this process is the first to tell, once the record of it is committed."""
    for alert in alerts:
        log.warning("alert (%s): %s", alert.kind, alert.message)
