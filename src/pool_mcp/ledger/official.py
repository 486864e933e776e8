"""What Anthropic has reported of its windows: the newest reading of each, and every one that said something new."""

from collections.abc import Iterable

from pool_mcp.choosing.cooldowns import shows_room
from pool_mcp.choosing.rates import Step
from pool_mcp.choosing.windows import is_plausible
from pool_mcp.ledger.cooldowns import Cooldowns
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import CLOCK_SLACK_MS, WindowReading

MOST_STEPS = 300
"""How many changes of a window's readings are looked at to learn its rate."""


class Official:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection, cooldowns: Cooldowns) -> None:
        self._conn = conn
        self._cooldowns = cooldowns

    def record(self, subscription: str, readings: Iterable[WindowReading], now_ms: int) -> None:
        """Keep what Anthropic reported; an older or impossible reading never replaces a newer one."""
        for reading in readings:
            if not is_plausible(reading) or reading.observed_at_ms > now_ms + CLOCK_SLACK_MS:
                continue
            self._forget_impossible(subscription, reading.window, now_ms)
            values = (
                subscription,
                reading.window,
                reading.percent,
                reading.resets_at_ms,
                reading.status,
                reading.observed_at_ms,
            )
            changed = self._conn.execute(
                """
                INSERT INTO official_windows VALUES (?, ?, ?, ?, ?, ?)
                ON CONFLICT (subscription, window) DO UPDATE SET percent = excluded.percent,
                    resets_at_ms = excluded.resets_at_ms, status = excluded.status,
                    observed_at_ms = excluded.observed_at_ms
                WHERE excluded.observed_at_ms >= official_windows.observed_at_ms
                """,
                values,
            ).rowcount
            if changed:
                self._conn.execute(
                    """
                    INSERT INTO official_readings
                        (subscription, window, percent, resets_at_ms, status, observed_at_ms)
                    VALUES (?, ?, ?, ?, ?, ?)
                    ON CONFLICT (subscription, window, observed_at_ms) DO UPDATE SET percent = excluded.percent,
                        resets_at_ms = excluded.resets_at_ms, status = excluded.status
                    """,
                    values,
                )
            if changed and shows_room(reading):
                self._cooldowns.lift_after_reading(subscription, reading, now_ms)

    def _forget_impossible(self, subscription: str, window: str, now_ms: int) -> None:
        """Readings that a wrong clock dated ahead would otherwise be the newest for as long as that lasts."""
        for table in ("official_windows", "official_readings"):
            self._conn.execute(
                f"DELETE FROM {table} WHERE subscription = ? AND window = ? AND observed_at_ms > ?",  # noqa: S608
                (subscription, window, now_ms + CLOCK_SLACK_MS),
            )

    def steps(self, subscription: str, window: str, family: str | None, since_ms: int) -> list[Step]:
        """A window's changes since an instant, oldest first, each with what was spent since the one before it."""
        span = "subscription = :subscription AND {0}.at_ms > before_ms AND {0}.at_ms <= observed_at_ms"
        of_entries = f"SELECT sum(cost_nanousd) FROM entries WHERE {span.format('entries')}"  # noqa: S608
        of_family = "" if family is None else "AND lower(runs.model) LIKE :family"
        of_calls, booked = (
            f"""SELECT sum(nanousd) FROM {tables} JOIN runs USING (run_id)
            WHERE {table}.{span.format(table)} {of_family}"""  # noqa: S608
            for tables, table in (
                ("call_spending", "call_spending"),
                ("call_spending JOIN entries USING (run_id)", "entries"),
            )
        )
        if family is not None:
            of_entries = f"""SELECT sum(m.cost_nanousd) FROM entries JOIN entry_models m USING (entry_id)
            WHERE lower(model) LIKE :family AND {span.format("entries")}"""  # noqa: S608
        # An entry has the time of its run's end; what the run's calls had spent before is counted at theirs.
        spent = f"coalesce(({of_entries}), 0) + coalesce(({of_calls}), 0) - coalesce(({booked}), 0)"
        rows = self._conn.execute(
            f"""
            SELECT window, percent, resets_at_ms, status, observed_at_ms,
                {spent}
            FROM (
                SELECT *, lag(observed_at_ms) OVER (ORDER BY observed_at_ms) AS before_ms FROM (
                    SELECT *, lag(percent) OVER earlier AS was_percent, lag(resets_at_ms) OVER earlier AS was_reset_ms
                    FROM official_readings
                    WHERE subscription = :subscription AND window = :window AND observed_at_ms >= :since_ms
                    WINDOW earlier AS (ORDER BY observed_at_ms)
                ) AS of_window WHERE {_differs("percent", "was_percent")} OR {_differs("resets_at_ms", "was_reset_ms")}
                ORDER BY observed_at_ms DESC LIMIT {MOST_STEPS}
            ) AS steps ORDER BY observed_at_ms
            """,  # noqa: S608  (spent is made of the literals above)
            {
                "subscription": subscription,
                "window": window,
                "family": None if family is None else f"%{family.lower()}%",
                "since_ms": since_ms,
            },
        )
        return [Step(WindowReading(*row[:5]), max(0, int(row[5]))) for row in rows]

    def latest(self) -> dict[str, dict[str, WindowReading]]:
        """The newest reading of every official window, by subscription and window."""
        result: dict[str, dict[str, WindowReading]] = {}
        for subscription, *rest in self._conn.execute(
            "SELECT subscription, window, percent, resets_at_ms, status, observed_at_ms FROM official_windows"
        ):
            reading = WindowReading(*rest)
            result.setdefault(subscription, {})[reading.window] = reading
        return result


def _differs(one: str, other: str) -> str:
    """Whether two columns differ, of which either may be NULL, in words that every engine knows."""
    return f"{one} <> {other} OR ({one} IS NULL) <> ({other} IS NULL)"
