"""The queue: runs that wait, until something is reserved for them or they end without having begun."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from pool_mcp.choices import Urgency, WaitFor
from pool_mcp.ledger.runs import Runs
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import Outcome, Run, RunState, Waiting


class Queue:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection, runs: Runs) -> None:
        self._conn = conn
        self._runs = runs

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return self._conn.execute("SELECT 1 FROM queue LIMIT 1").fetchone() is None

    def add(self, waiting: Waiting) -> Waiting:
        """Put a run at the end of those of its urgency; with the place that it got."""
        self._runs.insert(waiting.run)
        (place,) = self._conn.execute(
            """
            INSERT INTO queue (run_id, place, wait_for, not_before_ms, give_up_at_ms, only_subscription, by_name,
                max_cost_nanousd, timeout_ms, tried, claim)
            VALUES (?, (SELECT coalesce(max(place), 0) + 1 FROM queue), ?, ?, ?, ?, ?, ?, ?, ?, ?)
            RETURNING place
            """,
            (
                waiting.run.run_id,
                waiting.wait_for,
                waiting.not_before_ms,
                waiting.give_up_at_ms,
                waiting.only,
                int(waiting.by_name),
                waiting.max_cost_nanousd,
                waiting.timeout_ms,
                ",".join(sorted(waiting.tried)),
                waiting.claim,
            ),
        ).fetchone()
        return replace(waiting, place=place)

    def line(self) -> list[Waiting]:
        """All that wait, the first to be served first."""
        rows = self._conn.execute(
            """
            SELECT run_id, place, wait_for, give_up_at_ms, timeout_ms, not_before_ms, only_subscription, by_name,
                max_cost_nanousd, tried, claim
            FROM queue
            """
        ).fetchall()
        runs = {run.run_id: run for run in self._runs.waiting()} if rows else {}
        return sorted((_waiting(runs[row[0]], row[1:]) for row in rows), key=lambda one: one.order)

    def __len__(self) -> int:
        """How many wait."""
        (count,) = self._conn.execute("SELECT count(*) FROM queue").fetchone()
        return int(count)

    def claims(self) -> frozenset[str]:
        """The subscriptions that are kept for those that wait."""
        return frozenset(name for (name,) in self._conn.execute("SELECT claim FROM queue WHERE claim IS NOT NULL"))

    def count(self, caller: str) -> int:
        """How many asks of a caller wait."""
        (count,) = self._conn.execute(
            "SELECT count(*) FROM queue JOIN runs ON runs.run_id = queue.run_id WHERE caller = ?", (caller,)
        ).fetchone()
        return int(count)

    def reserve(self, run: Run) -> bool:
        """Turn a run that waits into this one, which is reserved; False where it waits no more.

        In a process that nobody has asked, nobody waits for it: it does not end with that process.
        """
        is_ours = (
            self._conn.execute(
                """
                UPDATE runs SET state = 'reserved', subscription = ?,
                    background = CASE WHEN owner_id = ? THEN background ELSE 1 END, owner_id = ?,
                    created_at_ms = ?, deadline_ms = ?, reserved_nanousd = ?, max_budget_nanousd = ?
                WHERE run_id = ? AND state = 'waiting'
                """,
                (
                    run.subscription,
                    run.owner_id,
                    run.owner_id,
                    run.created_at_ms,
                    run.deadline_ms,
                    run.reserved_nanousd,
                    run.max_budget_nanousd,
                    run.run_id,
                ),
            ).rowcount
            == 1
        )
        self._remove(run.run_id)
        return is_ours

    def end(self, run_id: str, outcome: Outcome, message: str, now_ms: int, retry_at_ms: int | None = None) -> bool:
        """End a run that waits: it has cost nothing. False where it waits no more."""
        is_ended = (
            self._conn.execute(
                """
                UPDATE runs SET state = ?, outcome = ?, message = ?, ended_at_ms = ?, retry_at_ms = ?
                WHERE run_id = ? AND state = 'waiting'
                """,
                (RunState.FAILED, outcome, message, now_ms, retry_at_ms, run_id),
            ).rowcount
            == 1
        )
        self._remove(run_id)
        return is_ended

    def claim(self, run_id: str, subscription: str | None) -> None:
        """Note which subscription those behind a run leave to it."""
        self._conn.execute("UPDATE queue SET claim = ? WHERE run_id = ?", (subscription, run_id))

    def put_in_order(self, run_ids: Sequence[str]) -> None:
        """Have all that wait stand in this order, within each urgency."""
        places = [(place, run_id) for place, run_id in enumerate(run_ids, 1)]
        self._conn.executemany("UPDATE queue SET place = ? WHERE run_id = ?", places)

    def change_urgency(self, run_id: str, urgency: Urgency) -> None:
        """Have a run that waits go before or after others."""
        self._conn.execute("UPDATE runs SET urgency = ? WHERE run_id = ? AND state = 'waiting'", (urgency, run_id))

    def _remove(self, run_id: str) -> None:
        self._conn.execute("DELETE FROM queue WHERE run_id = ?", (run_id,))


def _waiting(run: Run, row: Sequence[Any]) -> Waiting:
    place, wait_for, give_up_at_ms, timeout_ms, not_before_ms, only, by_name, max_cost_nanousd, tried, claim = row
    return Waiting(
        run=run,
        place=place,
        wait_for=cast("WaitFor", wait_for),
        give_up_at_ms=give_up_at_ms,
        timeout_ms=timeout_ms,
        not_before_ms=not_before_ms,
        only=only,
        by_name=bool(by_name),
        max_cost_nanousd=max_cost_nanousd,
        tried=frozenset(filter(None, tried.split(","))),
        claim=claim,
    )
