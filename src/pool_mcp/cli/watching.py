"""``status --watch``: looks again and again, draws in place, and obeys a few keys."""

import json
import os
import signal
import sys
import termios
import tty
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pool_mcp.cli import run
from pool_mcp.errors import PoolError

if TYPE_CHECKING:
    from pool_mcp.pool import Pool
    from pool_mcp.results.asks import RunsResult
    from pool_mcp.results.status import StatusResult, SubscriptionResult
    from pool_mcp.usage.reports import Activity
    from pool_mcp.views.status import Screen, Scroll

State = tuple["StatusResult", "RunsResult", "Activity"]


async def watch(
    pool: "Pool", look: "Callable[[Pool], Awaitable[State]]", interval: float, *, as_json: bool
) -> signal.Signals:
    """Look at every interval until a signal or ``q`` comes, and give it: in place on a terminal, else in blocks."""
    import anyio

    from pool_mcp.views import status as status_view

    out = run.terminal.console()
    in_place = out.is_terminal and not out.is_dumb_terminal and not as_json
    screen = status_view.Screen(out) if in_place else status_view.Scroll(out)
    watched = _Watch(pool, screen)
    ended_by: signal.Signals | PoolError = signal.SIGPIPE

    async def look_on() -> None:
        nonlocal ended_by
        try:
            while True:
                state = await look(pool)
                if as_json:
                    out.out(json.dumps(state[0].model_dump(mode="json"), ensure_ascii=False), highlight=False)
                else:
                    watched.show(state)
                with anyio.move_on_after(interval):
                    await watched.again.wait()
                watched.again = anyio.Event()
        except PoolError as error:
            ended_by = error
        except (BrokenPipeError, SystemExit):  # the console makes the latter of the former
            pass
        tasks.cancel_scope.cancel()

    async def obey() -> None:
        nonlocal ended_by
        is_wanted = True
        while is_wanted:
            await anyio.wait_readable(sys.stdin)
            for key in os.read(sys.stdin.fileno(), 64).decode(errors="replace"):
                is_wanted = is_wanted and await watched.obey(key)
        ended_by = signal.SIGINT
        tasks.cancel_scope.cancel()

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals, _single_keys(), screen:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look_on)
            if in_place and sys.stdin.isatty():
                tasks.start_soon(obey)
            ended_by = await anext(signals)
            tasks.cancel_scope.cancel()
    if isinstance(ended_by, PoolError):
        raise ended_by
    return ended_by


def _by_use(one: "SubscriptionResult") -> float:
    return -max([one.week.percent, *(window.percent or 0.0 for window in one.official.values())])


_ORDERS: "tuple[tuple[str, Callable[[SubscriptionResult], float | str] | None], ...]" = (
    ("as in pool.toml", None),
    ("the fullest first", _by_use),
    ("the healthiest first", lambda one: -one.health_score),
)


class _Watch:
    """What is shown now, in which order, and what the keys do to it."""

    def __init__(self, pool: "Pool", screen: "Screen | Scroll") -> None:
        import anyio

        self._pool = pool
        self._screen = screen
        self._state: State | None = None
        self._order = 0
        self._is_choosing = False
        self.again = anyio.Event()
        """Set where the next look is to come at once."""

    def show(self, state: State | None = None, note: str = "") -> None:
        """Draw a state, or the last one again."""
        self._state = state or self._state
        if self._state is None:
            return
        status, runs, activity = self._state
        _, key = _ORDERS[self._order]
        if key is not None:
            status = status.model_copy(update={"subscriptions": sorted(status.subscriptions, key=key)})
        self._screen(status, runs.running, activity, note)

    async def obey(self, key: str) -> bool:
        """Do what a key says; False where it says to end."""
        if self._is_choosing:
            self._is_choosing = False
            await self._cancel(key)
        elif key == "q":
            return False
        elif key == "s":
            self._order = (self._order + 1) % len(_ORDERS)
            self.show(note=f"sorted {_ORDERS[self._order][0]}")
        elif key == "c":
            self._is_choosing = True
            self.show(note="cancel which run? 1 to 9, from the top; any other key: none")
        elif key == "r":
            self.again.set()
        return True

    async def _cancel(self, key: str) -> None:
        running = self._state[1].running if self._state else []
        if key.isdigit() and 0 < int(key) <= len(running):
            chosen = running[int(key) - 1].run_id
            self.show(note=f"cancelling {chosen[:8]}...")
            await self._pool.supervision.cancel(chosen)
        self.again.set()


@contextmanager
def _single_keys() -> Iterator[None]:
    """Have keys read one by one and not shown; Ctrl-C stays what it is. Afterwards the terminal is as it was."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
