"""Use outside the pool: when it is imported and by which process; the import itself is in ``importing.py``.

A command imports at once and briskly. Open pools take turns, one every few minutes, and import a little at a time.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from pool_mcp.accounting.cli_prices import differences
from pool_mcp.choosing.pacing import Alert
from pool_mcp.claude.sessions import config_dir_or_default
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import MINUTE_MS, NANO, WEEK_MS, Run
from pool_mcp.results.ledger import ImportResult, import_result
from pool_mcp.settings import Settings
from pool_mcp.usage.importing import BRISK, QUIET, SHORT, Imported, Importer, Pace, Source

log = logging.getLogger(__name__)

IMPORT_AFTER_S = 30.0
"""How often an open pool asks whether it is its turn to import; the first time keeps clear of the start."""
IMPORT_EVERY_MS = 5 * MINUTE_MS
"""How often what was spent outside is imported, by one of all processes."""
REST_S = 0.05
"""How long a quiet import rests after each few milliseconds of work."""


class Outside:
    """What was spent outside the pool under its subscriptions, imported into one ledger."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        env: Mapping[str, str],
        clock: Callable[[], int],
        shown: Callable[[Run], Iterable[str]],
    ) -> None:
        """``shown`` gives the message ids that the stream of an unfinished run shows so far."""
        self._settings = settings
        self._ledger = ledger
        self._env = env
        self._clock = clock
        self._shown = shown
        self._stopping = threading.Event()
        self._mark = settings.state_dir / "imported"

    async def import_all(self, told: Callable[[Imported], None] = lambda _: None) -> ImportResult:
        """Import at once, unless another process is at it. ``told`` hears, in another thread, of every batch."""

        def go_on(done: Imported) -> bool:
            told(done)
            return not self._stopping.is_set()

        done = await anyio.to_thread.run_sync(self._import, BRISK, go_on, abandon_on_cancel=True)
        return import_result(None if done is None else asdict(done))

    async def catch_up(self, at_most_s: float) -> None:
        """Import what is new for a short time; the rest is left to the next import.

        Raises:
            PoolError: the ledger cannot be reached.
        """
        end_s = anyio.current_time() + at_most_s
        token = anyio.lowlevel.current_token()

        def go_on(_: Imported) -> bool:
            is_time_left = anyio.from_thread.run_sync(anyio.current_time, token=token) < end_s
            return is_time_left and not self._stopping.is_set()

        await anyio.to_thread.run_sync(self._import, SHORT, go_on)

    def imported_at_ms(self) -> int | None:
        """When all transcripts on this machine had been read, or None where they never were."""
        try:
            return int(self._mark.stat().st_mtime * 1000)
        except FileNotFoundError:
            return None

    def _import(self, pace: Pace, go_on: Callable[[Imported], bool]) -> Imported | None:
        """Import at a pace, and leave a mark where that comes to its end."""
        was_stopped = False

        def go_on_or_note(done: Imported) -> bool:
            nonlocal was_stopped
            was_stopped = not go_on(done)
            return not was_stopped

        done = self._importer().run(pace, go_on_or_note)
        if done is not None and done.bytes_read:  # which has loaded the prices
            self._tell_price_differences()
        if done is not None and not was_stopped:
            self._mark.touch(mode=0o600)
            now_s = self._clock() / 1000
            os.utime(self._mark, (now_s, now_s))
        return done

    def _tell_price_differences(self) -> None:
        """Tell, once for each, which CLI version prices a model otherwise than the list; what it says stays booked."""
        with self._ledger.read() as tx:
            found = differences(tx.reports.priced_by_cli())
        for one in found:
            now_ms = self._clock()
            message = f"{one.subscription}: {one.text}, and so it is booked; update it"
            with self._ledger.write() as tx:
                tx.notices.record(Alert(one.key, "prices", one.subscription, message, now_ms + WEEK_MS), now_ms)

    async def import_if_due(self) -> None:
        """Import a little at a time, where it is this process's turn.

        Raises:
            PoolError: the ledger cannot be reached.
        """
        if await anyio.to_thread.run_sync(self._ledger.take_lease, "import", IMPORT_EVERY_MS, self._clock):
            done = await anyio.to_thread.run_sync(self._import, QUIET, self._rest)
            if done is not None and done.new_calls:
                log.info("imported %d calls from outside, $%.4f", done.new_calls, done.cost_nanousd / NANO)

    def stop(self) -> None:
        """End an import that is under way after its batch; the next one goes on from there."""
        self._stopping.set()

    def _importer(self) -> Importer:
        sources = [
            Source(one.id, config_dir_or_default(one.config_dir, self._env)) for one in self._settings.subscriptions
        ]
        return Importer(self._ledger, sources, self._shown, self._clock)

    def _rest(self, _: Imported) -> bool:
        return not self._stopping.wait(REST_S)
