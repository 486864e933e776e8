"""Notices on their way to receivers outside: what is to be sent, by whom now, and what became of it.

A receiver is sent one message at a time. Whoever claims it has it until the claim ends; a process that dies while it
is sending leaves the message to the next one, which sends it again under the same id.
"""

from collections.abc import Collection

from pool_mcp.ledger.lists import named_marks
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import CLOCK_SLACK_MS, DAY_MS, HOUR_MS, SECOND_MS, Message, Notice, ReceiverState

KEEP_MS = 30 * DAY_MS
"""How long notices and what became of them are kept."""

CLAIM_MS = 60 * SECOND_MS
"""How long one process has a receiver to itself; sending takes much less."""

FURTHEST_MS = HOUR_MS + CLOCK_SLACK_MS
"""A receiver that is to be left alone for longer than this from now was put off by a clock that was ahead."""

BACKOFF_MS = (10 * SECOND_MS, 30 * SECOND_MS, 120 * SECOND_MS, 300 * SECOND_MS, 900 * SECOND_MS)
"""How long a receiver is left alone after so many failures in a row; the last is for all further ones."""

_PENDING = """
FROM outbox CROSS JOIN receivers LEFT JOIN deliveries USING (receiver, notice_id)
WHERE receiver = :receiver AND outbox.at_ms >= since_ms AND kind IN ({kinds})
    AND coalesce(state, 'sending') = 'sending'
"""


class Outbox:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def add(self, notice: Notice) -> None:
        """Write a notice with what caused it; one that is there already stays as it is."""
        self._conn.execute(
            """
            INSERT INTO outbox VALUES (?, ?, ?, ?, ?, (SELECT coalesce(max(seq), 0) + 1 FROM outbox))
            ON CONFLICT (notice_id) DO NOTHING
            """,
            (notice.notice_id, notice.kind, notice.subscription, notice.message, notice.at_ms),
        )

    def receivers(self) -> dict[str, ReceiverState]:
        """Every receiver that was ever set, by name."""
        rows = self._conn.execute(
            """
            SELECT receiver, failures, problem,
                (SELECT count(*) FROM deliveries WHERE receiver = receivers.receiver AND state = 'given_up')
            FROM receivers
            """
        )
        return {row[0]: ReceiverState(*row[1:]) for row in rows}

    def begin(self, receiver: str, now_ms: int) -> None:
        """Let a receiver have what is written from now on; one that is known goes on. Forget what is old."""
        self._conn.execute(
            """
            INSERT INTO receivers VALUES (?, ?, 0, 0, NULL)
            ON CONFLICT (receiver) DO UPDATE SET since_ms = excluded.since_ms
            WHERE excluded.since_ms < receivers.since_ms
            """,
            (receiver, now_ms),
        )
        self._conn.execute("DELETE FROM outbox WHERE at_ms < ?", (now_ms - KEEP_MS,))

    def is_due(self, receiver: str, kinds: Collection[str], now_ms: int) -> bool:
        """Whether there is something to send to a receiver, and nobody is at it or has just been.

        ``kinds`` are those that it wants.
        """
        pending, named = _pending(receiver, kinds)
        row = self._conn.execute(
            f"SELECT 1 {pending} AND (next_at_ms <= :now_ms OR next_at_ms > :furthest_ms) LIMIT 1",
            {**named, "now_ms": now_ms, "furthest_ms": now_ms + FURTHEST_MS},
        ).fetchone()
        return row is not None

    def claim(self, receiver: str, kinds: Collection[str], now_ms: int, keep_ms: int, most: int) -> Message | None:
        """Take a receiver's next message for a while; None where there is none, or another process has it.

        What is new comes first, up to ``most`` notices in one message. What was tried before stays in the message in
        which it was. What is older than ``keep_ms`` is given up.
        """
        if not self.is_due(receiver, kinds, now_ms):
            return None
        pending, named = _pending(receiver, kinds)
        named |= {"before_ms": now_ms - keep_ms, "most": most}
        self._conn.execute(
            f"""
            INSERT INTO deliveries
            SELECT receiver, notice_id, coalesce(message_id, notice_id), 'given_up', coalesce(attempts, 0)
            {pending} AND at_ms < :before_ms
            ON CONFLICT (receiver, notice_id) DO UPDATE SET state = 'given_up'
            """,
            named,
        )
        columns = "notice_id, kind, outbox.subscription, outbox.message, outbox.at_ms"
        rows = self._conn.execute(
            f"SELECT {columns} {pending} AND message_id IS NULL ORDER BY at_ms, outbox.seq LIMIT :most",
            named,
        ).fetchall()
        message = Message.of([Notice(*row) for row in rows]) if rows else self._tried_least(columns, pending, named)
        if message is None:
            return None
        self._conn.executemany(
            """
            INSERT INTO deliveries VALUES (?, ?, ?, 'sending', 1)
            ON CONFLICT (receiver, notice_id) DO UPDATE SET attempts = deliveries.attempts + 1
            """,
            [(receiver, notice.notice_id, message.message_id) for notice in message.notices],
        )
        self._wait(receiver, now_ms + CLAIM_MS)
        return message

    def _tried_least(self, columns: str, pending: str, named: dict[str, object]) -> Message | None:
        """What was tried before, in the message in which it was."""
        row = self._conn.execute(
            f"SELECT message_id {pending} ORDER BY attempts, at_ms LIMIT 1",
            named,
        ).fetchone()
        if row is None:
            return None
        rows = self._conn.execute(
            f"SELECT {columns} {pending} AND message_id = :message_id ORDER BY at_ms, outbox.seq",
            {**named, "message_id": row[0]},
        )
        return Message(row[0], tuple(Notice(*one) for one in rows))

    def delivered(self, receiver: str, message: Message, next_at_ms: int) -> None:
        """A receiver has taken a message; the next goes to it from then on."""
        self._conn.execute(
            "UPDATE deliveries SET state = 'delivered' WHERE receiver = ? AND message_id = ?",
            (receiver, message.message_id),
        )
        self._conn.execute("UPDATE receivers SET failures = 0, problem = NULL WHERE receiver = ?", (receiver,))
        self._wait(receiver, next_at_ms)

    def failed(self, receiver: str, problem: str, now_ms: int) -> None:
        """A receiver has not taken its message; it is tried again a little later than after the failure before."""
        (failures,) = self._conn.execute(
            "UPDATE receivers SET failures = failures + 1, problem = ? WHERE receiver = ? RETURNING failures",
            (problem, receiver),
        ).fetchone()
        self._wait(receiver, now_ms + BACKOFF_MS[min(failures, len(BACKOFF_MS)) - 1])

    def _wait(self, receiver: str, next_at_ms: int) -> None:
        self._conn.execute("UPDATE receivers SET next_at_ms = ? WHERE receiver = ?", (next_at_ms, receiver))


def _pending(receiver: str, kinds: Collection[str]) -> tuple[str, dict[str, object]]:
    """Where to look for a receiver's notices that are still to be sent, and the values for that."""
    marks, named = named_marks("kind", kinds)
    return _PENDING.format(kinds=marks), {"receiver": receiver, **named}
