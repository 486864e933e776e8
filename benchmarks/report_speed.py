"""How fast the ledger's figures are, and that they stay so: a year of 10 thousand to 10 million entries.

./dev run python benchmarks/report_speed.py [--quick] [--json] [--keep DIR]

For each size: the sums of the block and of the week of one subscription, inside an open transaction as the server asks
for them; the whole of ``usage_status``, and of what a choice rests on where the dollars per percent have to be learned
anew, as they are every few minutes; and a report by day over the year. The ledgers are filled by SQL: three
subscriptions with three official windows each, two callers, three models. The first two are also measured as they would
be from the sums of ``hours``, which are per caller, model and source ("before").
"""

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import BLOCK_MS, DAY_MS, HOUR_MS, WEEK_MS
from pool_mcp.pool import Pool
from pool_mcp.settings import load
from pool_mcp.state import State
from pool_mcp.usage.reports import Figures

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
NOW_MS = 1_795_340_000_000
YEAR_MS = 365 * DAY_MS
POOL_TOML = "".join(f'[[subscriptions]]\nid = "sub-{n}"\nconfig_dir = "config-{n}"\n' for n in range(3))

_FILL = (
    """
    WITH RECURSIVE numbers (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i < :count - 1)
    INSERT INTO entries (kind, at_ms, block_start_ms, subscription, session_id, caller, source, cost_nanousd,
        is_estimate)
    SELECT 'call', at, at - at % 86400000 + at % 86400000 / 18000000 * 18000000, 'sub-' || (i % 3),
        'session-' || (i / 40), 'caller-' || (i / 3 % 2), 'transcript', 1000000 + i * 7919 % 50000000, 0
    FROM (SELECT i, :now - :length + CAST(i * 1.0 * :length / :count AS INTEGER) AS at FROM numbers)
    """,
    """
    INSERT INTO entry_models
    SELECT entry_id, 'claude-' || substr('opus  sonnethaiku ', entry_id / 6 % 3 * 6 + 1, 6), 100, 200, 300, 0, 4000, 0,
        cost_nanousd
    FROM entries
    """,
    """
    INSERT INTO hours
    SELECT subscription, at_ms - at_ms % 3600000, caller, model, source, count(*), 0, sum(input_tokens),
        sum(output_tokens), sum(cache_creation_5m_tokens + cache_creation_1h_tokens), sum(cache_read_tokens),
        sum(m.cost_nanousd), 0
    FROM entries JOIN entry_models m USING (entry_id) GROUP BY 1, 2, 3, 4, 5
    """,
    """
    WITH RECURSIVE numbers (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i < 1000),
        windows (window, length) AS (VALUES ('five_hour', 18000000), ('seven_day', 604800000),
            ('seven_day_opus', 604800000))
    INSERT INTO official_readings
    SELECT 'sub-' || sub, window, at, round(100.0 * (at % length) / length, 1), at - at % length + length, 'allowed'
    FROM (SELECT i % 3 AS sub, window, length, :now - 300000 - i / 3 * 1200000 AS at FROM numbers JOIN windows)
    """,
    """
    INSERT INTO official_windows
    SELECT subscription, window, percent, resets_at_ms, status, max(observed_at_ms) FROM official_readings GROUP BY 1, 2
    """,
)


def fill(path: Path, count: int) -> None:
    """A ledger with so many entries, evenly over the year before ``NOW_MS``."""
    Ledger(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA synchronous = OFF")
        conn.execute("PRAGMA cache_size = -400000")
        indexes = conn.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'entries' AND sql IS NOT NULL"
        ).fetchall()
        conn.execute("BEGIN")
        for name, _ in indexes:
            conn.execute(f"DROP INDEX {name}")
        conn.execute(_FILL[0], {"count": count, "now": NOW_MS, "length": YEAR_MS})
        conn.execute(_FILL[1])
        for _, sql in indexes:
            conn.execute(sql)
        conn.execute(_FILL[2])
        conn.execute(_FILL[3], {"now": NOW_MS})
        conn.execute(_FILL[4])
        conn.execute("COMMIT")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def median_ms(work: Callable[[], object], rounds: int) -> float:
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _from_hours(conn: sqlite3.Connection, since_ms: int) -> object:
    first = -(-since_ms // HOUR_MS) * HOUR_MS
    return conn.execute(
        """
        SELECT (SELECT coalesce(sum(cost_nanousd), 0) FROM hours WHERE subscription = ? AND hour_ms >= ?)
             + (SELECT coalesce(sum(cost_nanousd), 0) FROM entries WHERE subscription = ? AND at_ms >= ? AND at_ms < ?)
        """,
        ("sub-1", first, "sub-1", since_ms, first),
    ).fetchone()


def measure(home: Path, count: int) -> dict[str, float]:
    """Median milliseconds of each read on a ledger of that size."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "pool.toml").write_text(POOL_TOML)
    env = {"POOL_MCP_HOME": str(home), "TZ": "UTC"}
    settings = load(env)
    if not settings.ledger_path.exists():
        fill(settings.ledger_path, count)
    block_ms = NOW_MS - BLOCK_MS + HOUR_MS // 3  # an official window begins at any minute
    with closing(Ledger(settings.ledger_path)) as ledger, ledger.read() as tx:
        result = {
            "block": median_ms(lambda: tx.balances.spent_nanousd("sub-1", block_ms), 400),
            "week": median_ms(lambda: tx.balances.spent_nanousd("sub-1", NOW_MS - WEEK_MS), 400),
        }
    with closing(sqlite3.connect(settings.ledger_path)) as conn:
        result["block_before"] = median_ms(lambda: _from_hours(conn, block_ms), 400)
        result["week_before"] = median_ms(lambda: _from_hours(conn, NOW_MS - WEEK_MS), 400)
    with closing(Ledger(settings.ledger_path)) as ledger:
        figures = Figures(settings, ledger, lambda: NOW_MS, UTC)
        result["usage_status"] = anyio.run(_status_ms, Pool(settings, ledger, env, lambda: NOW_MS, lambda: "bench"))
        with ledger.read() as tx:
            result["balances, rates learned"] = median_ms(lambda: State(settings).balances(tx, NOW_MS), 7)
        result["by_day_over_a_year"] = median_ms(lambda: figures.report("day", limit=400), 7)
        result["by_model_over_a_year"] = median_ms(lambda: figures.report("model"), 3)
    return {name: round(value, 4) for name, value in result.items()}


async def _status_ms(pool: Pool) -> float:
    times = []
    async with pool.open():
        for _ in range(60):
            began = time.perf_counter()
            await pool.status()
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 100 thousand entries only")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the ledgers here, and use those that are")
    chosen = parser.parse_args()
    sizes = SIZES[:2] if chosen.quick else SIZES
    with tempfile.TemporaryDirectory() as folder:
        home = chosen.keep or Path(folder)
        measured = {size: measure(home / str(size), size) for size in sizes}
    names = list(next(iter(measured.values())))
    flat = {name: round(measured[sizes[-1]][name] / measured[sizes[0]][name], 2) for name in names}
    if chosen.json:
        print(json.dumps({"title": "figures of a year", "median_ms": measured, "largest_to_smallest": flat}, indent=2))
        return
    table = Table(title="Milliseconds (median), a year of entries", title_justify="left", box=None)
    table.add_column("")
    for size in sizes:
        table.add_column(f"{size:,}", justify="right")
    table.add_column("largest to smallest", justify="right")
    for name in names:
        table.add_row(name, *(f"{measured[size][name]:.3f}" for size in sizes), f"{flat[name]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
