"""What is told once, by whichever process comes first."""

import sqlite3

from pool_mcp.choosing.pacing import Alert


class Notices:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def record(self, alert: Alert, now_ms: int) -> bool:
        """Put an alert on record; False where it was told already, by whatever process."""
        return (
            self._conn.execute(
                "INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (alert.key, alert.kind, alert.subscription, alert.message, now_ms, alert.until_ms),
            ).rowcount
            == 1
        )

    def current(self, now_ms: int) -> list[tuple[int, Alert]]:
        """Alerts that still hold, newest first, each with when it was told."""
        rows = self._conn.execute(
            """
            SELECT at_ms, key, kind, subscription, message, until_ms FROM alerts
            WHERE until_ms > ? ORDER BY at_ms DESC, key LIMIT 50
            """,
            (now_ms,),
        )
        return [(row[0], Alert(*row[1:])) for row in rows]
