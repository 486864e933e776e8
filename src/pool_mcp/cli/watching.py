"""``status --watch``: looks again and again, draws in place, and does what a few keys say."""

import json
import os
import signal
import sys
import termios
import tty
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pool_mcp.cli import run
from pool_mcp.errors import PoolError

if TYPE_CHECKING:
    from pool_mcp.pool import Pool
    from pool_mcp.results.status import SubscriptionResult
    from pool_mcp.views.screen import Display
    from pool_mcp.views.status import Seen


async def watch(
    pool: "Pool", look: "Callable[[Pool], Awaitable[Seen]]", interval: float, *, as_json: bool
) -> signal.Signals:
    """Look at every interval until a signal or ``q`` comes, and give it: in place on a terminal, else in blocks."""
    import anyio

    from pool_mcp.views.screen import Screen, Scroll

    out = run.terminal.console()
    in_place = out.is_terminal and not out.is_dumb_terminal and not as_json
    display = Screen(out) if in_place else Scroll(out)
    watched = _Watch(pool, display)
    ended_by: signal.Signals | PoolError = signal.SIGPIPE

    async def look_on() -> None:
        nonlocal ended_by
        try:
            while True:
                seen = await look(pool)
                if as_json:
                    out.out(json.dumps(seen.status.model_dump(mode="json"), ensure_ascii=False), highlight=False)
                else:
                    watched.show(seen)
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
            for key in os.read(sys.stdin.fileno(), 64).decode(errors="replace") or "q":
                is_wanted = is_wanted and await watched.obey(key)
        ended_by = signal.SIGINT
        tasks.cancel_scope.cancel()

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals, _single_keys(), display:
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


_ORDERS: "tuple[tuple[str, Callable[[SubscriptionResult], float] | None], ...]" = (
    ("as in pool.toml", None),
    ("the fullest first", _by_use),
    ("the healthiest first", lambda one: -one.health_score),
)


class _Watch:
    """What is shown now, in which order, and what the keys do to it."""

    def __init__(self, pool: "Pool", display: "Display") -> None:
        import anyio

        self._pool = pool
        self._display = display
        self._seen: Seen | None = None
        self._order = 0
        self._is_choosing = False
        self._has_help = False
        self.again = anyio.Event()
        """Set where the next look is to come at once."""

    def show(self, seen: "Seen | None" = None, note: str = "") -> None:
        """Draw what was seen, or the last of it again."""
        self._seen = seen = seen or self._seen
        if seen is None:
            return
        _, key = _ORDERS[self._order]
        if key is not None:
            ordered = sorted(seen.status.subscriptions, key=key)
            seen = replace(seen, status=seen.status.model_copy(update={"subscriptions": ordered}))
        if self._is_choosing:
            note = "cancel which run? its number, or any other key for none"
        self._display(seen, note, choosing=self._is_choosing, with_help=self._has_help)

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
            self._is_choosing = bool(self._seen and self._seen.running)
            self._has_help = False
            self.show(note="nothing is running")
        elif key in "?h":
            self._has_help = not self._has_help
            self.show()
        elif key == "r":
            self.again.set()
        return True

    async def _cancel(self, key: str) -> None:
        running = self._seen.running if self._seen else []
        if key.isdigit() and 0 < int(key) <= len(running):
            chosen = running[int(key) - 1].run_id
            self.show(note=f"canceling {chosen[:8]}...")
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
