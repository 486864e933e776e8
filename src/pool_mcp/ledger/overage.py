"""Use beyond a plan's limits, which is real money: what Anthropic says of it, and what was paid for it."""

from pool_mcp.ledger.sql import Connection
from pool_mcp.model import CLOCK_SLACK_MS, OverageReading


class Overage:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def record(self, subscription: str, reading: OverageReading, now_ms: int) -> bool:
        """Keep what Anthropic reported; False where something newer is known, or a wrong clock has dated it ahead."""
        latest_ms = now_ms + CLOCK_SLACK_MS
        if reading.observed_at_ms > latest_ms:
            return False
        return (
            self._conn.execute(
                """
                INSERT INTO overage_readings VALUES (?, ?, ?, ?, ?, ?)
                ON CONFLICT (subscription) DO UPDATE SET in_use = excluded.in_use, window = excluded.window,
                    window_resets_at_ms = excluded.window_resets_at_ms, resets_at_ms = excluded.resets_at_ms,
                    observed_at_ms = excluded.observed_at_ms
                WHERE excluded.observed_at_ms >= overage_readings.observed_at_ms OR overage_readings.observed_at_ms > ?
                """,
                (
                    subscription,
                    reading.in_use,
                    reading.window,
                    reading.window_resets_at_ms,
                    reading.resets_at_ms,
                    reading.observed_at_ms,
                    latest_ms,
                ),
            ).rowcount
            == 1
        )

    def latest(self) -> dict[str, OverageReading]:
        """The newest reading of each subscription."""
        rows = self._conn.execute(
            """
            SELECT subscription, in_use, window, window_resets_at_ms, resets_at_ms, observed_at_ms
            FROM overage_readings
            """
        )
        return {row[0]: OverageReading(bool(row[1]), *row[2:]) for row in rows}

    def book(self, entry_id: int, subscription: str, at_ms: int, nanousd: int) -> None:
        """Book what of an entry was paid beyond the plan."""
        self._conn.execute("INSERT INTO overage VALUES (?, ?, ?, ?)", (entry_id, subscription, at_ms, nanousd))

    def reserve(self, run_id: str, nanousd: int) -> None:
        """Reserve so much in all for what an unfinished run may pay beyond the plan; never less than before."""
        self._conn.execute(
            """
            INSERT INTO overage_reservations VALUES (?, ?)
            ON CONFLICT (run_id) DO UPDATE SET nanousd = excluded.nanousd
            WHERE excluded.nanousd > overage_reservations.nanousd
            """,
            (run_id, nanousd),
        )

    def reserved_nanousd(self, subscription: str, beside_run: str = "") -> int:
        """What a subscription's unfinished runs may pay beyond its plan, one of them left out."""
        (total,) = self._conn.execute(
            """
            SELECT coalesce(sum(nanousd), 0) FROM overage_reservations JOIN unfinished_runs USING (run_id)
            WHERE subscription = ? AND run_id <> ?
            """,
            (subscription, beside_run),
        ).fetchone()
        return int(total)

    def paid_nanousd(self, since_ms: int, until_ms: int, subscription: str | None, caller: str | None) -> int:
        """What was paid beyond plans in a span, by one subscription or caller or all."""
        (total,) = self._conn.execute(
            """
            SELECT coalesce(sum(overage.cost_nanousd), 0) FROM overage JOIN entries USING (entry_id)
            WHERE overage.at_ms >= ? AND overage.at_ms < ? AND entries.subscription = coalesce(?, entries.subscription)
                AND caller = coalesce(?, caller)
            """,
            (since_ms, until_ms, subscription, caller),
        ).fetchone()
        return int(total)

    def spent_nanousd(self, subscription: str, since_ms: int) -> int:
        """What a subscription has paid beyond its plan since an instant."""
        (total,) = self._conn.execute(
            "SELECT coalesce(sum(cost_nanousd), 0) FROM overage WHERE subscription = ? AND at_ms >= ?",
            (subscription, since_ms),
        ).fetchone()
        return int(total)
