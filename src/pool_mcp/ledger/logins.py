"""What the CLI says of each subscription's login."""

from pool_mcp.ledger.sql import Connection


class Logins:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection, machine_id: str) -> None:
        self._conn = conn
        self._machine_id = machine_id

    def record(self, subscription: str, organisation: str, *, signed_in: bool, now_ms: int) -> bool:
        """Keep what the CLI says of a subscription's login; whether somebody has signed in since it was last asked."""
        before = self._conn.execute(
            "SELECT signed_in FROM logins WHERE subscription = ? AND machine_id = ?", (subscription, self._machine_id)
        ).fetchone()
        self._conn.execute(
            """
            INSERT INTO logins VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (subscription, machine_id) DO UPDATE SET organisation = excluded.organisation,
                signed_in = excluded.signed_in, checked_at_ms = excluded.checked_at_ms
            """,
            (subscription, self._machine_id, organisation or None, signed_in, now_ms),
        )
        return signed_in and before is not None and not before[0]

    def known(self) -> dict[str, tuple[bool, int]]:
        """Whether each subscription was signed in when the CLI was last asked, and when that was."""
        rows = self._conn.execute(
            "SELECT subscription, signed_in, checked_at_ms FROM logins WHERE machine_id = ?", (self._machine_id,)
        )
        return {subscription: (bool(signed_in), at_ms) for subscription, signed_in, at_ms in rows}

    def organisations(self) -> dict[str, str]:
        """The organisation of each subscription, where the CLI has told it, here or on another machine."""
        rows = self._conn.execute(
            """
            SELECT subscription, organisation FROM logins WHERE organisation IS NOT NULL
            ORDER BY CASE WHEN machine_id = ? THEN 1 ELSE 0 END, checked_at_ms
            """,
            (self._machine_id,),
        )
        return dict(rows)

    def of_others(self) -> dict[str, str]:
        """Subscriptions whose id means another account on another machine, each with that machine's name.

        Not those under which this machine was the first to ask: then the others have to change the id.
        """
        rows = self._conn.execute(
            """
            SELECT mine.subscription, coalesce(machines.name, other.machine_id)
            FROM logins AS mine JOIN logins AS other USING (subscription)
                LEFT JOIN machines ON machines.machine_id = other.machine_id
            WHERE mine.machine_id = ? AND other.machine_id <> mine.machine_id
                AND mine.organisation <> other.organisation AND mine.signed_in = 1 AND other.signed_in = 1
                AND coalesce((
                    SELECT runs.machine_id FROM runs WHERE runs.subscription = mine.subscription ORDER BY seq LIMIT 1
                ), '') <> mine.machine_id
            """,
            (self._machine_id,),
        )
        return dict(rows)
