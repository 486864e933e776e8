"""What runs spend call by call, long before the entry that their end books: to compare it with Anthropic's percents.

Percents rise with each call, while a run's entry has the time of its end. Entries stay the only record of money; these
rows say at which of a run's calls its money was spent, as far as its stream has shown it.
"""

from pool_mcp.ledger.sql import Connection
from pool_mcp.model import WEEK_MS

KEPT_MS = 2 * WEEK_MS
"""Rates are learned from readings that are younger than this."""


class Spending:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def record(self, run_id: str, subscription: str, spent_nanousd: int, now_ms: int) -> None:
        """Record what an unfinished run has spent in all; what it had not spent before counts from now."""
        self._conn.execute(
            """
            INSERT INTO call_spending
            SELECT :subscription, :now_ms, :run_id, :spent - before
            FROM (SELECT coalesce(sum(nanousd), 0) AS before FROM call_spending WHERE run_id = :run_id) AS spent
            WHERE :spent > before
            ON CONFLICT (subscription, at_ms, run_id) DO UPDATE SET nanousd = call_spending.nanousd + excluded.nanousd
            """,
            {"subscription": subscription, "now_ms": now_ms, "run_id": run_id, "spent": spent_nanousd},
        )
        self._conn.execute(
            "DELETE FROM call_spending WHERE subscription = ? AND at_ms < ?", (subscription, now_ms - KEPT_MS)
        )

    def moved_nanousd(self, subscription: str, since_ms: int, family: str | None = None) -> int:
        """What must be added to the entries since an instant to have what was spent since then, call by call.

        Calls of runs that have no entry yet are added; of runs whose entry is later, the calls before are taken off.
        """
        models = "" if family is None else f"%{family.lower()}%"
        (moved,) = self._conn.execute(
            """
            SELECT (SELECT coalesce(sum(nanousd), 0) FROM call_spending JOIN runs USING (run_id)
                    WHERE call_spending.subscription = :subscription AND at_ms >= :since
                        AND (:models = '' OR lower(model) LIKE :models))
                 - (SELECT coalesce(sum(nanousd), 0) FROM entries JOIN call_spending USING (run_id)
                    JOIN runs USING (run_id)
                    WHERE entries.subscription = :subscription AND entries.at_ms >= :since
                        AND (:models = '' OR lower(model) LIKE :models))
            """,
            {"subscription": subscription, "since": since_ms, "models": models},
        ).fetchone()
        return int(moved)

    def still_reserved(self) -> list[tuple[str, str | None, int]]:
        """Subscription, model asked for, and what it may still spend, of every unfinished run."""
        rows = self._conn.execute(
            """
            SELECT subscription, model, reserved_nanousd - coalesce(
                (SELECT sum(nanousd) FROM call_spending WHERE run_id = unfinished_runs.run_id), 0)
            FROM unfinished_runs
            """
        )
        return [(subscription, model, max(0, left)) for subscription, model, left in rows]
