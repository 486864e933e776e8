"""Sums of what was spent, for whatever needs them; loads nothing but SQLite."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pool_mcp.ledger.sql import Connection

HOUR_MS = 3_600_000  # as in model.py, which takes longer to load than a status line takes to draw


def spent_nanousd(conn: "Connection", column: str, value: str, since_ms: int) -> int:
    """What a subscription or a caller has spent since an instant: whole hours by their sums, the rest by entries."""
    first_whole_hour = -(-since_ms // HOUR_MS) * HOUR_MS
    # Two sums and not one join: each is a range scan of one index.
    hours = "subscription_hours" if column == "subscription" else "hours"
    (total,) = conn.execute(
        f"""
        SELECT (SELECT coalesce(sum(cost_nanousd), 0) FROM {hours} WHERE {column} = ? AND hour_ms >= ?)
             + (SELECT coalesce(sum(cost_nanousd), 0) FROM entries
                WHERE {column} = ? AND at_ms >= ? AND at_ms < ?)
        """,  # noqa: S608  (column is "subscription" or "caller")
        (value, first_whole_hour, value, since_ms, first_whole_hour),
    ).fetchone()
    return int(total)
