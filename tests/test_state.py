"""What is known of all subscriptions at one instant, as it is read within a transaction."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from balances import NOW
from support import make_home, open_ledger

from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import (
    HOUR_MS,
    MINUTE_MS,
    NANO,
    Cost,
    ModelCost,
    Outcome,
    Run,
    RunState,
    Settlement,
    Tokens,
    WindowReading,
)
from pool_mcp.state import RATES_MS, State


def test_rates_are_learned_before_a_write_so_that_nobody_waits_for_it(tmp_path: Path) -> None:
    settings, _ = make_home(tmp_path)
    state = State(settings)
    with closing(open_ledger(settings)) as ledger:
        with ledger.write() as tx:
            for at in range(10):
                reading = WindowReading("five_hour", at * 2.0, NOW + 60 * MINUTE_MS, "allowed", NOW - (10 - at))
                tx.official.record("alice", [reading], reading.observed_at_ms)
        state.learn(ledger, NOW)
        with ledger.write() as tx:
            assert not goes_through_readings(state, tx, NOW + RATES_MS - 1)
            assert goes_through_readings(state, tx, NOW + RATES_MS)
            assert not goes_through_readings(state, tx, NOW + RATES_MS)
            assert goes_through_readings(state, tx, NOW)  # the clock was set back


def goes_through_readings(state: State, tx: Transaction, now_ms: int) -> bool:
    statements: list[str] = []
    conn = tx.official._conn
    assert isinstance(conn, sqlite3.Connection)
    conn.set_trace_callback(statements.append)
    assert list(state.balances(tx, now_ms)[0].rates) == ["five_hour"]
    conn.set_trace_callback(None)
    return any("official_readings" in statement for statement in statements)


def run_of(run_id: str, model: str | None, reserved: int, created_at_ms: int = NOW) -> Run:
    return Run(
        run_id,
        "ask-" + run_id,
        "alice",
        "session-" + run_id,
        resumed=False,
        caller="me",
        model=model,
        state=RunState.RESERVED,
        owner_id="us",
        background=False,
        structured=False,
        created_at_ms=created_at_ms,
        deadline_ms=NOW + HOUR_MS,
        reserved_nanousd=reserved,
    )


def test_what_a_run_spends_counts_call_by_call_and_once(tmp_path: Path) -> None:
    """A run of three calls beside a reading in its middle: before it two dollars, after it three."""
    settings, _ = make_home(tmp_path)
    state = State(settings)
    window = WindowReading("five_hour", 10.0, NOW + HOUR_MS, "allowed", NOW + 2 * MINUTE_MS)
    with closing(open_ledger(settings)) as ledger:
        with ledger.write() as tx:
            tx.runs.insert_ask("ask-r", "me", None, "f", NOW)
            tx.runs.insert(run_of("r", "opus", 9 * NANO))
            tx.runs.mark_running("r", "us", None, NOW)
            tx.spending.record("r", "alice", 2 * NANO, NOW + MINUTE_MS)
            tx.official.record("alice", [window], NOW + 2 * MINUTE_MS)
            tx.spending.record("r", "alice", 4 * NANO, NOW + 3 * MINUTE_MS)
            tx.spending.record("r", "alice", 4 * NANO, NOW + 3 * MINUTE_MS)  # said twice
        with ledger.read() as tx:
            (running,) = state.balances(tx, NOW + 4 * MINUTE_MS)
        assert (running.spent_since, running.spent_before) == ({"five_hour": 2 * NANO}, {"five_hour": 2 * NANO})
        assert (running.reserved, running.still_reserved) == (9 * NANO, {"five_hour": 5 * NANO})
        cost = Cost(5 * NANO, {"claude-opus-5-5": ModelCost(Tokens(), 5 * NANO)})
        with ledger.write() as tx:
            tx.runs.settle(Settlement("r", RunState.SETTLED, Outcome.OK, None, cost, NOW + 5 * MINUTE_MS), "us")
        with ledger.read() as tx:
            (ended,) = state.balances(tx, NOW + 6 * MINUTE_MS)
            later = WindowReading("five_hour", 14.0, NOW + HOUR_MS, "allowed", NOW + 6 * MINUTE_MS)
        assert (ended.spent_since, ended.spent_before) == ({"five_hour": 3 * NANO}, {"five_hour": 2 * NANO})
        assert (ended.reserved, ended.still_reserved, ended.block_spent) == (0, {"five_hour": 0}, 5 * NANO)
        with ledger.write() as tx:
            tx.official.record("alice", [later], NOW + 6 * MINUTE_MS)
        with ledger.read() as tx:
            steps = {
                family: [one.spent_nanousd for one in tx.official.steps("alice", "five_hour", family, NOW - HOUR_MS)]
                for family in (None, "opus", "haiku")
            }
        assert steps == {None: [0, 3 * NANO], "opus": [0, 3 * NANO], "haiku": [0, 0]}


def test_a_familys_window_counts_reservations_of_its_family_only(tmp_path: Path) -> None:
    settings, _ = make_home(tmp_path)
    state = State(settings)
    readings = [WindowReading(name, 10.0, NOW + HOUR_MS, "allowed", NOW) for name in ("seven_day", "seven_day_opus")]
    with closing(open_ledger(settings)) as ledger:
        with ledger.write() as tx:
            tx.official.record("alice", readings, NOW)
            for name, model in (("r", "haiku"), ("s", "claude-opus-5-5"), ("t", None)):
                tx.runs.insert_ask("ask-" + name, "me", None, "f", NOW)
                tx.runs.insert(run_of(name, model, NANO))
        with ledger.read() as tx:
            (balance,) = state.balances(tx, NOW)
    assert balance.still_reserved == {"seven_day": 3 * NANO, "seven_day_opus": NANO}


def test_an_agent_is_given_its_part_of_the_pace_and_the_model_that_it_asked_for(tmp_path: Path) -> None:
    settings, _ = make_home(tmp_path)
    with closing(open_ledger(settings)) as ledger:
        with ledger.write() as tx:
            for name, caller, at_ms in (("r", "me", NOW - MINUTE_MS), ("s", "you", NOW - 3 * HOUR_MS)):
                tx.runs.insert_ask("ask-" + name, caller, None, "f", NOW)
                tx.runs.insert(replace(run_of(name, "opus", NANO, at_ms), caller=caller))
        now = State(settings).look(ledger, lambda: NOW, "me")
        assert (now.request.model, now.request.last_asked_ms, now.request.active_callers) == (
            "opus",
            NOW - MINUTE_MS,
            2,
        )
        assert State(settings).look(ledger, lambda: NOW, "her").request.active_callers == 3
