"""What one process at a time does: it takes a lease on it, for a while."""

from pool_mcp.ledger.sql import Connection
from pool_mcp.model import CLOCK_SLACK_MS


class Leases:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def take(self, name: str, now_ms: int, for_ms: int) -> bool:
        """Become the only process to do something for a while; False where another one has done it.

        A lease that ends later than the one that is asked for was dated by a wrong clock, or was taken for longer: it
        is no longer in the way.
        """
        return (
            self._conn.execute(
                """
                INSERT INTO leases VALUES (:name, :until_ms)
                ON CONFLICT (name) DO UPDATE SET until_ms = excluded.until_ms
                WHERE leases.until_ms <= :now_ms OR leases.until_ms > excluded.until_ms + :slack_ms
                """,
                {"name": name, "until_ms": now_ms + for_ms, "now_ms": now_ms, "slack_ms": CLOCK_SLACK_MS},
            ).rowcount
            == 1
        )
