"""What an open pool does by itself, and when: by a clock that stands still unless a test moves it on."""

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest
from support import new_id, until
from written import answer, dump

from organisation import ADMIN_KEY, Organisation, ms
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import HOUR_MS, MINUTE_MS, SECOND_MS, WindowReading
from pool_mcp.organisation.sync import AGAIN_MS, SYNC_LOOK_S, SYNC_MS
from pool_mcp.pool import LOOK_AFTER_S, UPKEEP_S, Pool
from pool_mcp.settings import load
from pool_mcp.usage.import_schedule import IMPORT_AFTER_S, IMPORT_EVERY_MS

pytestmark = pytest.mark.anyio

LOOPS = 4
"""What a pool does by itself: it looks after runs and after logins, reads the organization's reports, and imports."""


class Time:
    """A clock and the sleep that goes with it."""

    def __init__(self) -> None:
        self.now_ms = ms("2026-11-22T09:20:00Z")
        self._sleepers: dict[anyio.Event, int] = {}

    def __call__(self) -> int:
        return self.now_ms

    async def sleep(self, seconds: float) -> None:
        woken = anyio.Event()
        self._sleepers[woken] = self.now_ms + round(seconds * SECOND_MS)
        try:
            await woken.wait()
        finally:
            self._sleepers.pop(woken, None)

    async def all_asleep(self, many: int) -> None:
        """Wait until all that is to be done now has been done."""
        await until(lambda: len(self._sleepers) == many, 20)

    async def passes(self, by_ms: float) -> None:
        """Let time pass all at once, and what is due be done."""
        many = len(self._sleepers)
        self.now_ms += round(by_ms)
        for woken in [one for one, at_ms in self._sleepers.items() if at_ms <= self.now_ms]:
            del self._sleepers[woken]
            woken.set()
        await self.all_asleep(many)


class Home:
    """A subscription that pays by key, an organisation that knows it, transcripts, and a clock."""

    def __init__(self, path: Path, organisation: Organisation) -> None:
        self.organisation = organisation
        self.time = Time()
        self.projects = path / "config" / "projects" / "one"
        self.projects.mkdir(parents=True)
        (path / "pool.toml").write_text(
            f'[admin]\nbase_url = "{organisation.url}"\n'
            f'[[subscriptions]]\nid = "work"\napi_key_env = "WORK_KEY"\nconfig_dir = "{path / "config"}"\n'
        )
        self._env = {"POOL_MCP_HOME": str(path), "ANTHROPIC_ADMIN_KEY": ADMIN_KEY, "WORK_KEY": "sk-ant-api03-work"}
        self.ledger_path = load(self._env).ledger_path

    @asynccontextmanager
    async def open(self, pools: int) -> AsyncIterator[None]:
        """As many servers as that, once they have nothing more to do for the moment."""
        async with AsyncExitStack() as stack:
            for _ in range(pools):
                ledger = stack.enter_context(closing(Ledger(self.ledger_path)))
                pool = Pool(load(self._env), ledger, self._env, self.time, new_id, self.time.sleep)
                await stack.enter_async_context(pool.open())
            await self.time.all_asleep(pools * LOOPS)
            yield

    @property
    def syncs(self) -> int:
        """How often the organization's reports were asked for."""
        return self.organisation.paths().count("cost_report")

    def write_transcript(self, name: str) -> None:
        """An answer that somebody got outside the pool."""
        (self.projects / f"{name}.jsonl").write_bytes(dump(answer(f"msg_{name}", f"req_{name}")))

    @property
    def imported(self) -> int:
        with closing(Ledger(self.ledger_path)) as ledger:
            return ledger.audit().entries


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with Organisation() as organisation:
        yield Home(tmp_path, organisation)


async def test_the_reports_are_read_at_the_first_look_and_every_hour_by_one_server_of_several(home: Home) -> None:
    async with home.open(2):
        await home.time.passes((SYNC_LOOK_S - 1) * SECOND_MS)
        assert home.syncs == 0  # a command is over by now
        await home.time.passes(SECOND_MS)
        assert home.syncs == 1
        for _ in range(10):
            await home.time.passes(SYNC_LOOK_S * SECOND_MS)
        await home.time.passes(SYNC_MS - 11 * SYNC_LOOK_S * SECOND_MS)
        assert home.syncs == 1
        await home.time.passes(SYNC_LOOK_S * SECOND_MS)
        assert home.syncs == 2
    async with home.open(1):
        await home.time.passes(SYNC_LOOK_S * SECOND_MS)
        assert home.syncs == 2  # a server that comes later knows


async def test_reports_that_cannot_be_read_are_tried_again_in_a_while_by_one_server(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    reports = ("usage_report/messages", "cost_report", "analytics/usage", "analytics/cost")
    home.organisation.missing |= set(reports)
    async with home.open(2):
        for _ in range(5):
            await home.time.passes(SYNC_LOOK_S * SECOND_MS)
        assert home.syncs == 1
        told = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
        assert [line.partition(":")[0] for line in told] == ["could not read the organization's reports"]
        home.organisation.missing.clear()
        await home.time.passes(AGAIN_MS)
        assert home.syncs == 2
        await home.time.passes(AGAIN_MS)
        assert home.syncs == 2  # that worked


async def test_a_server_that_stops_does_not_wait_for_reports_that_do_not_come(home: Home) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def hang(_: int) -> None:
        asked.set()
        go_on.wait(20)

    home.organisation.before_page = hang
    try:
        with anyio.fail_after(10):
            async with home.open(1), anyio.create_task_group() as tasks:
                tasks.start_soon(home.time.passes, SYNC_LOOK_S * SECOND_MS)
                assert await anyio.to_thread.run_sync(asked.wait, 10)
                tasks.cancel_scope.cancel()
        assert not go_on.is_set()
        await home.time.all_asleep(0)
    finally:
        go_on.set()


async def test_what_was_spent_outside_is_imported_every_five_minutes_by_one_server_of_several(home: Home) -> None:
    home.write_transcript("first")
    async with home.open(2):
        await home.time.passes((IMPORT_AFTER_S - 1) * SECOND_MS)
        assert home.imported == 0
        await home.time.passes(SECOND_MS)
        assert home.imported == 1
        home.write_transcript("second")
        await home.time.passes(IMPORT_EVERY_MS - SECOND_MS)
        assert home.imported == 1
        await home.time.passes(IMPORT_AFTER_S * SECOND_MS)
        assert home.imported == 2
    home.write_transcript("third")
    await home.time.passes(HOUR_MS)
    assert home.imported == 2  # with the servers their timers have stopped


async def test_use_elsewhere_that_passes_a_threshold_is_told_at_the_next_look_by_one_server_of_several(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    async with home.open(2):
        await home.time.passes(UPKEEP_S * SECOND_MS)
        with closing(Ledger(home.ledger_path)) as ledger, ledger.write() as tx:  # as the status line does
            now_ms = home.time.now_ms
            reading = WindowReading("five_hour", 85.0, now_ms + HOUR_MS, "allowed", now_ms)
            tx.official.record("work", [reading], now_ms)
        for _ in range(3):
            await home.time.passes(LOOK_AFTER_S * SECOND_MS)
    told = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    assert told == ["alert (80%): work: the five_hour window is 85% used; it resets at 2026-11-22T10:20:03Z"]


async def test_a_ledger_that_is_away_for_a_while_stops_none_of_it(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    home.write_transcript("first")
    aside = home.ledger_path.with_suffix(".aside")
    async with home.open(1):
        home.ledger_path.rename(aside)
        await home.time.passes(MINUTE_MS)
        told = {line.getMessage().partition(":")[0] for line in caplog.records if line.levelno >= logging.WARNING}
        assert told == {
            "could not look after earlier runs",
            "could not look after logins",
            "could not read the organization's reports",
            "could not import what was spent outside",
        }
        aside.rename(home.ledger_path)
        await home.time.passes(MINUTE_MS)
        assert (home.syncs, home.imported) == (1, 1)
