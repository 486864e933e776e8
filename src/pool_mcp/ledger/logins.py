"""What the CLI says of each subscription's login."""

from pool_mcp.ledger.sql import Connection


class Logins:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def record(self, subscription: str, organisation: str, *, signed_in: bool, now_ms: int) -> bool:
        """Keep what the CLI says of a subscription's login; whether somebody has signed in since it was last asked."""
        before = self._conn.execute("SELECT signed_in FROM logins WHERE subscription = ?", (subscription,)).fetchone()
        self._conn.execute(
            """
            INSERT INTO logins VALUES (?, ?, ?, ?)
            ON CONFLICT (subscription) DO UPDATE SET organisation = excluded.organisation,
                signed_in = excluded.signed_in, checked_at_ms = excluded.checked_at_ms
            """,
            (subscription, organisation or None, signed_in, now_ms),
        )
        return signed_in and before is not None and not before[0]

    def known(self) -> dict[str, tuple[bool, int]]:
        """Whether each subscription was signed in when the CLI was last asked, and when that was."""
        rows = self._conn.execute("SELECT subscription, signed_in, checked_at_ms FROM logins")
        return {subscription: (bool(signed_in), at_ms) for subscription, signed_in, at_ms in rows}

    def organisations(self) -> dict[str, str]:
        """The organisation of each subscription, where the CLI has told it."""
        return dict(self._conn.execute("SELECT subscription, organisation FROM logins WHERE organisation IS NOT NULL"))
