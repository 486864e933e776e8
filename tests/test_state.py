"""What is known of all subscriptions at one instant, as it is read within a transaction."""

from contextlib import closing
from pathlib import Path

from balances import NOW
from support import make_home, open_ledger

from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import MINUTE_MS, WindowReading
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
    tx.official._conn.set_trace_callback(statements.append)
    assert list(state.balances(tx, now_ms)[0].rates) == ["five_hour"]
    tx.official._conn.set_trace_callback(None)
    return any("official_readings" in statement for statement in statements)
