"""What is known of all subscriptions at one instant, as it is read within a transaction."""

from contextlib import closing
from pathlib import Path

from balances import NOW
from support import make_home, open_ledger

from pool_mcp.ledger.books import Books
from pool_mcp.model import MINUTE_MS, WindowReading
from pool_mcp.state import RATES_MS, State


def test_rates_are_learned_before_a_write_so_that_nobody_waits_for_it(tmp_path: Path) -> None:
    settings, _ = make_home(tmp_path)
    state = State(settings)
    with closing(open_ledger(settings)) as ledger:
        with ledger.write() as books:
            for at in range(10):
                reading = WindowReading("five_hour", at * 2.0, NOW + 60 * MINUTE_MS, "allowed", NOW - (10 - at))
                books.record_readings("alice", [reading])
        state.learn(ledger, NOW)
        with ledger.write() as books:
            assert not goes_through_readings(state, books, NOW + RATES_MS - 1)
            assert goes_through_readings(state, books, NOW + RATES_MS)
            assert not goes_through_readings(state, books, NOW + RATES_MS)
            assert goes_through_readings(state, books, NOW)  # the clock was set back


def goes_through_readings(state: State, books: Books, now_ms: int) -> bool:
    statements: list[str] = []
    books._conn.set_trace_callback(statements.append)
    assert list(state.balances(books, now_ms)[0].rates) == ["five_hour"]
    books._conn.set_trace_callback(None)
    return any("official_readings" in statement for statement in statements)
