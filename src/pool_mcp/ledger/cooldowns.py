"""Which subscriptions are out for a while, and why: every statement on cooldowns."""

import sqlite3

from pool_mcp.model import Cooldown, WindowReading

WHOLE_POOL = "*"
"""Whose cooldown it is when Anthropic is overloaded; no subscription can have that id."""


class Cooldowns:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def start(self, subscription: str, cooldown: Cooldown, run_id: str | None) -> None:
        """Take a subscription out of the choice, with the cause on record."""
        self._conn.execute(
            """
            INSERT INTO cooldowns (subscription, cause, detail, run_id, since_ms, until_ms)
            VALUES (?, ?, ?, ?, ?, ?)
            """,
            (subscription, cooldown.cause, cooldown.detail, run_id, cooldown.since_ms, cooldown.until_ms),
        )

    def open(self) -> dict[str, Cooldown]:
        """Those that no proof has lifted, by subscription (``WHOLE_POOL``: all); of several the one that ends last."""
        result: dict[str, Cooldown] = {}
        for subscription, cause, since_ms, until_ms, detail, is_probed in self._conn.execute(
            f"""
            SELECT subscription, cause, since_ms, until_ms, detail, EXISTS (
                SELECT 1 FROM unfinished_runs run WHERE created_at_ms >= since_ms
                AND cooldowns.subscription IN (run.subscription, '{WHOLE_POOL}')
            )
            FROM cooldowns WHERE lifted_at_ms IS NULL
            ORDER BY until_ms IS NULL, until_ms, since_ms
            """  # noqa: S608
        ):
            result[subscription] = Cooldown(cause, since_ms, until_ms, detail, bool(is_probed))
        return result

    def latest(self, subscription: str, cause: str) -> Cooldown | None:
        """The newest cooldown of one cause that no proof has lifted."""
        row = self._conn.execute(
            """
            SELECT cause, since_ms, until_ms, detail FROM cooldowns
            WHERE subscription = ? AND cause = ? AND lifted_at_ms IS NULL ORDER BY since_ms DESC LIMIT 1
            """,
            (subscription, cause),
        ).fetchone()
        return Cooldown(*row) if row else None

    def lift(self, subscription: str, cause: str, by: str, now_ms: int) -> bool:
        """End a subscription's cooldowns of one cause; whether there were any."""
        return (
            self._conn.execute(
                """
                UPDATE cooldowns SET lifted_at_ms = ?, lifted_by = ?
                WHERE subscription = ? AND cause = ? AND lifted_at_ms IS NULL
                """,
                (now_ms, by, subscription, cause),
            ).rowcount
            > 0
        )

    def lift_after_answer(self, subscription: str, run_id: str, began_at_ms: int, now_ms: int) -> None:
        """End the cooldowns that were in force when a run began which has been answered."""
        self._conn.execute(
            """
            UPDATE cooldowns SET lifted_at_ms = ?, lifted_by = ?
            WHERE subscription = ? AND lifted_at_ms IS NULL AND since_ms <= ?
            """,
            (now_ms, run_id, subscription, began_at_ms),
        )

    def lift_after_reading(self, subscription: str, reading: WindowReading) -> None:
        """A reading that shows room proves that a window's limit is over, however early."""
        self._conn.execute(
            """
            UPDATE cooldowns SET lifted_at_ms = ?, lifted_by = 'a reading'
            WHERE subscription = ? AND cause = ? AND lifted_at_ms IS NULL AND since_ms < ?
            """,
            (reading.observed_at_ms, subscription, reading.window, reading.observed_at_ms),
        )
