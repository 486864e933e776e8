"""What one process at a time does: it takes a lease on it, for a while."""

import sqlite3


class Leases:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def take(self, name: str, now_ms: int, until_ms: int) -> bool:
        """Become the only process to do something until then; False where another one has done it."""
        return (
            self._conn.execute(
                """
                INSERT INTO leases VALUES (?, ?)
                ON CONFLICT DO UPDATE SET until_ms = excluded.until_ms WHERE leases.until_ms <= ?
                """,
                (name, until_ms, now_ms),
            ).rowcount
            == 1
        )
