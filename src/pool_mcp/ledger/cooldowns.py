"""Which subscriptions are out for a while, and why: every statement on cooldowns."""

from collections.abc import Collection, Sequence
from typing import Any

from pool_mcp.choosing.cooldowns import WHOLE_POOL, is_lifted_by_answer, with_probe
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import CLOCK_SLACK_MS, Cooldown, WindowReading

_COLUMNS = """
cause, since_ms, until_ms, detail, EXISTS (SELECT 1 FROM runs WHERE run_id = cooldowns.run_id AND model IS NULL)
"""

_HERE = "(machine_id IS NULL OR machine_id = ?)"


class Cooldowns:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection, machine_id: str) -> None:
        self._conn = conn
        self._machine_id = machine_id

    def start(self, subscription: str, cooldown: Cooldown, run_id: str | None) -> None:
        """Take a subscription out of the choice, with the cause on record."""
        self._conn.execute(
            """
            INSERT INTO cooldowns (cooldown_id, subscription, cause, detail, run_id, since_ms, until_ms,
                machine_id)
            VALUES ((SELECT coalesce(max(cooldown_id), 0) + 1 FROM cooldowns), ?, ?, ?, ?, ?, ?, ?)
            """,
            (
                *(subscription, cooldown.cause, cooldown.detail, run_id, cooldown.since_ms, cooldown.until_ms),
                self._machine_id if cooldown.cause == "auth" else None,  # a login is missing on one machine
            ),
        )

    def open(self) -> dict[str, list[Cooldown]]:
        """Those that no proof has lifted, by subscription (``WHOLE_POOL``: all), the one that ends last at the end."""
        in_flight: dict[str, list[tuple[str | None, int]]] = {WHOLE_POOL: []}
        for subscription, model, created_at_ms in self._conn.execute(
            "SELECT subscription, model, created_at_ms FROM unfinished_runs"
        ):
            in_flight.setdefault(subscription, []).append((model, created_at_ms))
            in_flight[WHOLE_POOL].append((model, created_at_ms))
        result: dict[str, list[Cooldown]] = {}
        for subscription, *rest in self._conn.execute(
            f"""
            SELECT subscription, {_COLUMNS} FROM cooldowns WHERE lifted_at_ms IS NULL AND {_HERE}
            ORDER BY until_ms IS NULL, until_ms, since_ms
            """,  # noqa: S608
            (self._machine_id,),
        ):
            found = with_probe(_cooldown(rest), in_flight.get(subscription, ()))
            result.setdefault(subscription, []).append(found)
        return result

    def latest(self, subscription: str, cause: str) -> Cooldown | None:
        """The newest cooldown of one cause that no proof has lifted."""
        row = self._conn.execute(
            f"""
            SELECT {_COLUMNS} FROM cooldowns
            WHERE subscription = ? AND cause = ? AND lifted_at_ms IS NULL AND {_HERE} ORDER BY cooldown_id DESC LIMIT 1
            """,  # noqa: S608
            (subscription, cause, self._machine_id),
        ).fetchone()
        return _cooldown(row) if row else None

    def lift(self, subscription: str, cause: str, by: str, now_ms: int) -> bool:
        """End a subscription's cooldowns of one cause; whether there were any."""
        return (
            self._conn.execute(
                f"""
                UPDATE cooldowns SET lifted_at_ms = ?, lifted_by = ?
                WHERE subscription = ? AND cause = ? AND lifted_at_ms IS NULL AND {_HERE}
                """,  # noqa: S608
                (now_ms, by, subscription, cause, self._machine_id),
            ).rowcount
            > 0
        )

    def lift_after_answer(
        self, subscription: str, run_id: str, models: Collection[str | None], began_at_ms: int, now_ms: int
    ) -> None:
        """End the cooldowns that were in force when a run began which has been answered, and that count its models."""
        rows = self._conn.execute(
            f"""
            SELECT cooldown_id, {_COLUMNS} FROM cooldowns
            WHERE subscription = ? AND lifted_at_ms IS NULL AND (since_ms <= ? OR since_ms > ?) AND {_HERE}
            """,  # noqa: S608
            (subscription, began_at_ms, now_ms + CLOCK_SLACK_MS, self._machine_id),
        ).fetchall()
        lifted = [(now_ms, run_id, key) for key, *rest in rows if is_lifted_by_answer(_cooldown(rest), models)]
        self._conn.executemany("UPDATE cooldowns SET lifted_at_ms = ?, lifted_by = ? WHERE cooldown_id = ?", lifted)

    def lift_after_reading(self, subscription: str, reading: WindowReading, now_ms: int) -> None:
        """A reading that shows room proves that a window's limit is over, however early."""
        self._conn.execute(
            """
            UPDATE cooldowns SET lifted_at_ms = ?, lifted_by = 'a reading'
            WHERE subscription = ? AND cause = ? AND lifted_at_ms IS NULL AND (since_ms < ? OR since_ms > ?)
            """,
            (
                *(reading.observed_at_ms, subscription, reading.window),
                *(reading.observed_at_ms, now_ms + CLOCK_SLACK_MS),
            ),
        )


def _cooldown(row: Sequence[Any]) -> Cooldown:
    cause, since_ms, until_ms, detail, refused_default_model = row
    return Cooldown(cause, since_ms, until_ms, detail, refused_default_model=bool(refused_default_model))
