"""What is told once, by whichever process comes first."""

from pool_mcp.choosing.pacing import ROOM_SUFFIX, Alert
from pool_mcp.ledger.outbox import Outbox
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import Notice


class Notices:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection, outbox: Outbox) -> None:
        self._conn = conn
        self._outbox = outbox

    def record(self, alert: Alert, now_ms: int) -> bool:
        """Put an alert on record, and into the outbox; False where it was told already, by whatever process."""
        is_new = (
            self._conn.execute(
                "INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (alert.key, alert.kind, alert.subscription, alert.message, now_ms, alert.until_ms),
            ).rowcount
            == 1
        )
        if is_new and alert.notice is not None:
            self._outbox.add(Notice.of(alert.key, alert.notice, alert.subscription, alert.message, now_ms))
        return is_new

    def ended_limits(self, since_ms: int, now_ms: int) -> list[Alert]:
        """Limits told since an instant whose time has passed, and of which nobody has been told that there is room."""
        rows = self._conn.execute(
            """
            SELECT key, kind, subscription, message, until_ms FROM alerts
            WHERE kind = 'limit' AND at_ms > ? AND until_ms <= ?
                AND NOT EXISTS (SELECT 1 FROM alerts AS later WHERE later.key = alerts.key || ?)
            ORDER BY at_ms
            """,
            (since_ms, now_ms, ROOM_SUFFIX),
        )
        return [Alert(*row) for row in rows]

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
