"""Proves a ledger: its sums against its entries, its entries against its runs, and the file itself."""

from collections.abc import Sequence

from pool_mcp.errors import safe_line
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import Audit, Problem

_CHECKS = (
    (
        "hours",
        "the sums of an hour differ from its entries",
        """
        SELECT subscription || ' ' || hour_ms || ' ' || caller || ' ' || model || ' ' || source FROM (
            SELECT subscription, hour_ms, caller, model, source, calls, unpriced_calls, input_tokens, output_tokens,
                cache_creation_tokens, cache_read_tokens, cost_nanousd, estimated_nanousd FROM hours
            UNION ALL
            SELECT subscription, at_ms - at_ms % 3600000, caller, model, source,
                CASE WHEN kind = 'adjustment' THEN 0 ELSE -1 END, CASE WHEN m.cost_nanousd IS NULL THEN -1 ELSE 0 END,
                -input_tokens, -output_tokens, -(cache_creation_5m_tokens + cache_creation_1h_tokens),
                -cache_read_tokens, -coalesce(m.cost_nanousd, 0),
                CASE WHEN is_estimate = 1 THEN -coalesce(m.cost_nanousd, 0) ELSE 0 END
            FROM entries JOIN entry_models m USING (entry_id)
        ) AS sums GROUP BY subscription, hour_ms, caller, model, source
        HAVING sum(calls) <> 0 OR sum(unpriced_calls) <> 0 OR sum(input_tokens) <> 0 OR sum(output_tokens) <> 0
            OR sum(cache_creation_tokens) <> 0 OR sum(cache_read_tokens) <> 0 OR sum(cost_nanousd) <> 0
            OR sum(estimated_nanousd) <> 0
        """,
    ),
    (
        "subscription_hours",
        "the sums of a subscription's hour differ from its hours",
        """
        SELECT subscription || ' ' || hour_ms FROM (
            SELECT subscription, hour_ms, calls, unpriced_calls, input_tokens, output_tokens,
                cache_creation_tokens, cache_read_tokens, cost_nanousd FROM subscription_hours
            UNION ALL
            SELECT subscription, hour_ms, -calls, -unpriced_calls, -input_tokens, -output_tokens,
                -cache_creation_tokens, -cache_read_tokens, -cost_nanousd FROM hours
        ) AS sums GROUP BY subscription, hour_ms
        HAVING sum(calls) <> 0 OR sum(unpriced_calls) <> 0 OR sum(input_tokens) <> 0 OR sum(output_tokens) <> 0
            OR sum(cache_creation_tokens) <> 0 OR sum(cache_read_tokens) <> 0 OR sum(cost_nanousd) <> 0
        """,
    ),
    (
        "models",
        "an entry's amount differs from its models'",
        """
        SELECT 'entry ' || entry_id FROM entries LEFT JOIN entry_models m USING (entry_id)
        GROUP BY entry_id, entries.cost_nanousd HAVING entries.cost_nanousd <> coalesce(sum(m.cost_nanousd), 0)
        """,
    ),
    (
        "entries",
        "a run that was started and has ended has no entry",
        """
        SELECT 'run ' || run_id FROM runs LEFT JOIN entries USING (run_id)
        WHERE run_id NOT IN (SELECT run_id FROM unfinished_runs) AND started_at_ms IS NOT NULL AND entry_id IS NULL
        """,
    ),
    (
        "runs",
        "a run that is booked has not ended",
        """
        SELECT 'run ' || run_id FROM unfinished_runs JOIN entries USING (run_id)
        """,
    ),
)


def audit(conn: Connection, damage: Sequence[Problem] = ()) -> Audit:
    """Check all rows; reads the whole ledger once. Use inside one transaction, so that it sees one state.

    ``damage`` is what the engine itself has found.
    """
    problems = list(damage)
    for name, meaning, sql in _CHECKS:
        where = [safe_line(str(found)) for (found,) in conn.execute(f"{sql} LIMIT 5")]
        if where:
            problems.append(Problem(name, meaning, tuple(where)))
    entries, spent = conn.execute("SELECT count(*), coalesce(sum(cost_nanousd), 0) FROM entries").fetchone()
    return Audit(entries, spent, tuple(problems))


def damage_of_file(conn: Connection) -> list[Problem]:
    """What SQLite finds wrong with its file."""
    problems = []
    damage = [safe_line(str(line)) for (line,) in conn.execute("PRAGMA integrity_check(5)") if line != "ok"]
    if damage:
        problems.append(Problem("file", "SQLite finds the file damaged", tuple(damage)))
    dangling = [safe_line(f"{table} {rowid}") for table, rowid, *_ in conn.execute("PRAGMA foreign_key_check")]
    if dangling:
        problems.append(Problem("references", "a row refers to one that is not there", tuple(dangling[:5])))
    return problems
