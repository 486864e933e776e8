"""A clock that was ahead or is set back: no date of its decides anything once it is known to be wrong."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ledger_writes import NOW_MS, reserve, settle

from pool_mcp.choosing.cooldowns import is_in_force
from pool_mcp.choosing.overage import goes_on_until_ms
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.organisation import Sync
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, Cooldown, OverageReading, WindowReading

YEAR_MS = 365 * DAY_MS


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        yield ledger


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, YEAR_MS])
def test_a_lease_that_a_clock_ahead_took_keeps_nobody_out(ledger: Ledger, ahead_ms: int) -> None:
    assert ledger.take_lease("import", 10 * MINUTE_MS, lambda: NOW_MS + ahead_ms)
    assert ledger.take_lease("import", 10 * MINUTE_MS, lambda: NOW_MS)
    assert not ledger.take_lease("import", 10 * MINUTE_MS, lambda: NOW_MS + MINUTE_MS)
    assert not ledger.take_lease("import", 10 * MINUTE_MS, lambda: NOW_MS - MINUTE_MS), "a little is no wrong clock"
    assert ledger.take_lease("import", 10 * MINUTE_MS, lambda: NOW_MS + 10 * MINUTE_MS)


def test_a_reading_of_a_clock_ahead_gives_way_to_the_next_and_leaves_no_trace(ledger: Ledger) -> None:
    def observed(at_ms: int, percent: float) -> WindowReading:
        return WindowReading("five_hour", percent, NOW_MS + 2 * HOUR_MS, "allowed", at_ms)

    with ledger.write() as tx:
        tx.official.record("alice", [observed(NOW_MS + HOUR_MS, 80.0)], NOW_MS + HOUR_MS)
        tx.official.record("alice", [observed(NOW_MS - MINUTE_MS, 40.0)], NOW_MS)
        assert tx.official.latest()["alice"]["five_hour"] == observed(NOW_MS - MINUTE_MS, 40.0)
        tx.official.record("alice", [observed(NOW_MS + HOUR_MS, 90.0)], NOW_MS)  # adopted from a file of that time
        tx.official.record("alice", [observed(NOW_MS - HOUR_MS, 10.0)], NOW_MS)  # older than what is known
        assert tx.official.latest()["alice"]["five_hour"] == observed(NOW_MS - MINUTE_MS, 40.0)
        assert [step.reading.percent for step in tx.official.steps("alice", "five_hour", None, 0)] == [40.0]


def test_what_a_clock_ahead_said_of_paid_use_gives_way_to_the_next(ledger: Ledger) -> None:
    def observed(at_ms: int, *, in_use: bool) -> OverageReading:
        return OverageReading(in_use, "five_hour", None, None, at_ms)

    ahead, now = observed(NOW_MS + YEAR_MS, in_use=True), observed(NOW_MS, in_use=False)
    with ledger.write() as tx:
        assert tx.overage.record("alice", ahead, NOW_MS + YEAR_MS)
        assert goes_on_until_ms(tx.overage.latest()["alice"], NOW_MS) == 0
        assert tx.overage.record("alice", now, NOW_MS)
        assert not tx.overage.record("alice", ahead, NOW_MS)
        assert not tx.overage.record("alice", observed(NOW_MS - 1, in_use=True), NOW_MS)
        assert tx.overage.latest() == {"alice": now}


def test_a_cooldown_of_a_clock_ahead_is_not_in_force_and_an_answer_ends_it(ledger: Ledger) -> None:
    since_ms = NOW_MS + 10 * DAY_MS
    cooldown = Cooldown("burst", since_ms, since_ms + MINUTE_MS, "too many requests")
    assert is_in_force(cooldown, since_ms)
    assert not is_in_force(cooldown, NOW_MS)
    with ledger.write() as tx:
        tx.cooldowns.start("personal", cooldown, None)
    reserve(ledger, "run", 1)
    settle(ledger, "run", 1)
    with ledger.read() as tx:
        assert tx.cooldowns.open() == {}


def test_what_only_a_person_can_end_stays_whatever_its_date() -> None:
    assert is_in_force(Cooldown("auth", NOW_MS + YEAR_MS, None, "not signed in"), NOW_MS)


def test_a_room_that_is_read_ends_a_limit_of_a_clock_ahead(ledger: Ledger) -> None:
    limit = Cooldown("five_hour", NOW_MS + DAY_MS, NOW_MS + DAY_MS + HOUR_MS, "used up")
    reading = WindowReading("five_hour", 3.0, NOW_MS + HOUR_MS, "allowed", NOW_MS)
    with ledger.write() as tx:
        tx.cooldowns.start("alice", limit, None)
        tx.official.record("alice", [reading], NOW_MS)
        assert tx.cooldowns.open() == {}


def test_a_sync_of_a_clock_ahead_is_none_and_the_newest_row_is_the_newest_sync(ledger: Ledger) -> None:
    def sync(at_ms: int) -> Sync:
        return Sync(NOW_MS - DAY_MS, NOW_MS + at_ms % 1000, at_ms, None)

    with ledger.write() as tx:
        tx.organisation.replace("messages", sync(NOW_MS + YEAR_MS + 3), [])
        assert tx.organisation.last_synced_ms(NOW_MS) is None
        tx.organisation.replace("messages", sync(NOW_MS + 2), [])
        assert tx.organisation.last_synced_ms(NOW_MS) == NOW_MS + 2
        assert tx.organisation.latest_sync("messages", NOW_MS - HOUR_MS) == sync(NOW_MS + 2)
