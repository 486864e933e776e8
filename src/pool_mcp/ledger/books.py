"""Every statement on the ledger's tables; used only inside a transaction of :class:`~pool_mcp.ledger.ledger.Ledger`.

Sums over time are exact at a cost that does not grow with the ledger: whole hours come from ``hours``, the one
partial hour at the start of a span from ``entries``. Spans have no upper end, so that an entry which a wrong clock
dated ahead still counts as spent.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from pool_mcp.model import (
    HOUR_MS,
    WEEK_MS,
    Cooldown,
    Cost,
    ModelCost,
    Outcome,
    Run,
    RunState,
    Settlement,
    Tokens,
    WindowReading,
)
from pool_mcp.windows import grid_block, is_plausible

_UNFINISHED = "state IN ('reserved', 'running')"


@dataclass(frozen=True, slots=True)
class Reserved:
    """What unfinished runs may still cost."""

    in_flight: int = 0
    nanousd: int = 0


class Books:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    # Balances

    def spent_nanousd(self, subscription: str, since_ms: int) -> int:
        """What a subscription has spent since an instant."""
        return self._spent("subscription", subscription, since_ms)

    def caller_spent_nanousd(self, caller: str, since_ms: int) -> int:
        """What a caller has spent since an instant, under any subscription."""
        return self._spent("caller", caller, since_ms)

    def _spent(self, column: str, value: str, since_ms: int) -> int:
        first_whole_hour = -(-since_ms // HOUR_MS) * HOUR_MS
        # Two sums and not one join: each is a range scan of one covering index.
        (total,) = self._conn.execute(
            f"""
            SELECT (SELECT coalesce(sum(cost_nanousd), 0) FROM hours WHERE {column} = ? AND hour_ms >= ?)
                 + (SELECT coalesce(sum(cost_nanousd), 0) FROM entries
                    WHERE {column} = ? AND at_ms >= ? AND at_ms < ?)
            """,  # noqa: S608  (column is one of two literals above)
            (value, first_whole_hour, value, since_ms, first_whole_hour),
        ).fetchone()
        return int(total)

    def week_frees_at_ms(self, subscription: str, since_ms: int, amount_nanousd: int) -> int | None:
        """When the rolling week will have let go of an amount, by the hours in which it was spent."""
        freed = 0
        for hour_ms, cost in self._conn.execute(
            "SELECT hour_ms, sum(cost_nanousd) FROM hours WHERE subscription = ? AND hour_ms > ? GROUP BY 1 ORDER BY 1",
            (subscription, since_ms - HOUR_MS),
        ):
            freed += cost
            if freed >= amount_nanousd:
                return int(hour_ms) + HOUR_MS + WEEK_MS
        return None

    def reserved(self) -> dict[str, Reserved]:
        """Unfinished runs and what they may still cost, by subscription."""
        rows = self._conn.execute(
            f"SELECT subscription, count(*), sum(reserved_nanousd) FROM runs WHERE {_UNFINISHED} GROUP BY 1"  # noqa: S608
        )
        return {subscription: Reserved(count, amount) for subscription, count, amount in rows}

    def caller_reserved_nanousd(self, caller: str) -> int:
        """What a caller's unfinished runs may still cost."""
        (amount,) = self._conn.execute(
            f"SELECT coalesce(sum(reserved_nanousd), 0) FROM runs WHERE {_UNFINISHED} AND caller = ?",  # noqa: S608
            (caller,),
        ).fetchone()
        return int(amount)

    def last_used_ms(self) -> dict[str, int]:
        """When each subscription was last given a run."""
        return dict(self._conn.execute("SELECT subscription, max(created_at_ms) FROM runs GROUP BY 1"))

    def recent_costs_nanousd(self, subscription: str, model: str | None, limit: int = 50) -> list[int]:
        """Costs of the latest answered runs of one subscription and asked-for model, newest first."""
        rows = self._conn.execute(
            """
            SELECT cost_nanousd FROM runs JOIN entries USING (run_id)
            WHERE runs.subscription = ? AND model IS ? AND state = 'settled'
            ORDER BY ended_at_ms DESC LIMIT ?
            """,
            (subscription, model, limit),
        )
        return [cost for (cost,) in rows]

    # Asks and runs

    def ask_by_key(self, caller: str, key: str) -> tuple[str, str] | None:
        """``(ask_id, fingerprint)`` of the ask that a caller made under an idempotency key."""
        row = self._conn.execute(
            "SELECT ask_id, fingerprint FROM asks WHERE caller = ? AND idempotency_key = ?", (caller, key)
        ).fetchone()
        return (row[0], row[1]) if row else None

    def insert_ask(self, ask_id: str, caller: str, idempotency_key: str | None, fingerprint: str, now_ms: int) -> None:
        """Record an ask, before its first run."""
        self._conn.execute(
            "INSERT INTO asks VALUES (?, ?, ?, ?, ?)", (ask_id, caller, idempotency_key, fingerprint, now_ms)
        )

    def insert_run(self, run: Run) -> None:
        """Reserve: the run's row holds what it may cost until it is settled."""
        self._conn.execute(
            """
            INSERT INTO runs (run_id, ask_id, subscription, session_id, resumed, caller, model, state, owner_id,
                background, structured, created_at_ms, deadline_ms, reserved_nanousd, max_budget_nanousd,
                baseline_json)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (
                run.run_id,
                run.ask_id,
                run.subscription,
                run.session_id,
                run.resumed,
                run.caller,
                run.model,
                run.state,
                run.owner_id,
                run.background,
                run.structured,
                run.created_at_ms,
                run.deadline_ms,
                run.reserved_nanousd,
                run.max_budget_nanousd,
                run.baseline_json,
            ),
        )

    def mark_running(self, run_id: str, owner_id: str, baseline_json: str | None, now_ms: int) -> bool:
        """Say, before the CLI is started, that it may be spending; False where the run is no longer this owner's."""
        return (
            self._conn.execute(
                """
                UPDATE runs SET state = 'running', started_at_ms = ?, baseline_json = ?
                WHERE run_id = ? AND owner_id = ? AND state = 'reserved'
                """,
                (now_ms, baseline_json, run_id, owner_id),
            ).rowcount
            == 1
        )

    def settle(self, settlement: Settlement, owner_id: str) -> bool:
        """Book what a run cost and drop its reservation; False where another process has settled it or owns it.

        A run that never started costs nothing and gets no entry.
        """
        updated = self._conn.execute(
            f"""
            UPDATE runs SET state = ?, outcome = ?, message = ?, ended_at_ms = ?, cli_version = ?, retry_at_ms = ?
            WHERE run_id = ? AND owner_id = ? AND {_UNFINISHED}
            """,  # noqa: S608
            (
                settlement.state,
                settlement.outcome,
                settlement.message,
                settlement.ended_at_ms,
                settlement.cli_version,
                settlement.retry_at_ms,
                settlement.run_id,
                owner_id,
            ),
        ).rowcount
        if updated != 1:
            return False
        subscription, session_id, caller, created_at_ms, started_at_ms = self._conn.execute(
            "SELECT subscription, session_id, caller, created_at_ms, started_at_ms FROM runs WHERE run_id = ?",
            (settlement.run_id,),
        ).fetchone()
        if started_at_ms is not None:
            self._book(settlement, subscription, session_id, caller)
        if settlement.outcome is Outcome.OK:
            self._conn.execute(
                """
                INSERT INTO sessions VALUES (?, ?, ?, ?)
                ON CONFLICT (session_id) DO UPDATE SET last_used_at_ms = excluded.last_used_at_ms
                """,
                (session_id, subscription, settlement.ended_at_ms, settlement.ended_at_ms),
            )
            # An answer proves that whatever was wrong before the run began is over.
            self._lift_cooldowns(subscription, settlement.run_id, created_at_ms, settlement.ended_at_ms)
        if settlement.cooldown is not None:
            self.start_cooldown(subscription, settlement.cooldown, settlement.run_id)
        return True

    def _book(self, settlement: Settlement, subscription: str, session_id: str, caller: str) -> None:
        cost, at_ms = settlement.cost, settlement.ended_at_ms
        entry_id = self._conn.execute(
            """
            INSERT INTO entries (kind, run_id, at_ms, block_start_ms, subscription, session_id, caller, source,
                cost_nanousd, is_estimate)
            VALUES ('run', ?, ?, ?, ?, ?, ?, 'pool', ?, ?)
            """,
            (
                settlement.run_id,
                at_ms,
                grid_block(at_ms).starts_at_ms,
                subscription,
                session_id,
                caller,
                cost.nanousd,
                cost.is_estimate,
            ),
        ).lastrowid
        assert entry_id is not None
        for model, part in cost.models.items():
            self._add_model(entry_id, at_ms, subscription, caller, model, part, is_estimate=cost.is_estimate)

    def _add_model(
        self,
        entry_id: int,
        at_ms: int,
        subscription: str,
        caller: str,
        model: str,
        part: ModelCost,
        *,
        is_estimate: bool,
    ) -> None:
        tokens = part.tokens
        cost = part.cost_nanousd or 0
        self._conn.execute(
            "INSERT INTO entry_models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                entry_id,
                model,
                tokens.input,
                tokens.output,
                tokens.cache_creation_5m,
                tokens.cache_creation_1h,
                tokens.cache_read,
                tokens.web_search_requests,
                part.cost_nanousd,
            ),
        )
        self._conn.execute(
            """
            INSERT INTO hours VALUES (?, ?, ?, ?, 'pool', 1, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET
                calls = calls + 1,
                unpriced_calls = unpriced_calls + excluded.unpriced_calls,
                input_tokens = input_tokens + excluded.input_tokens,
                output_tokens = output_tokens + excluded.output_tokens,
                cache_creation_tokens = cache_creation_tokens + excluded.cache_creation_tokens,
                cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
                cost_nanousd = cost_nanousd + excluded.cost_nanousd,
                estimated_nanousd = estimated_nanousd + excluded.estimated_nanousd
            """,
            (
                subscription,
                at_ms - at_ms % HOUR_MS,
                caller,
                model,
                part.cost_nanousd is None,
                tokens.input,
                tokens.output,
                tokens.cache_creation,
                tokens.cache_read,
                cost,
                cost if is_estimate else 0,
            ),
        )

    def run(self, run_id: str) -> Run | None:
        """One run with its cost, or None."""
        runs = self._runs("WHERE run_id = ?", (run_id,))
        return runs[0] if runs else None

    def runs_of_ask(self, ask_id: str) -> list[Run]:
        """An ask's attempts, first to last."""
        return self._runs("WHERE ask_id = ? ORDER BY created_at_ms, runs.rowid", (ask_id,))

    def unfinished(self) -> list[Run]:
        """Every run that is not settled."""
        return self._runs(f"WHERE {_UNFINISHED} ORDER BY created_at_ms", ())

    def _runs(self, where: str, parameters: tuple[object, ...]) -> list[Run]:
        cursor = self._conn.execute(
            f"""
            SELECT runs.*, entry_id, entries.cost_nanousd, entries.is_estimate
            FROM runs LEFT JOIN entries USING (run_id) {where}
            """,  # noqa: S608  (where is one of the literals above)
            parameters,
        )
        names = [column[0] for column in cursor.description]
        return [self._run_from(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]

    def _run_from(self, row: dict[str, object]) -> Run:
        entry_id = row.pop("entry_id")
        nanousd, is_estimate = row.pop("cost_nanousd"), row.pop("is_estimate")
        cost = None
        if isinstance(entry_id, int) and isinstance(nanousd, int):
            cost = Cost(nanousd, self._models_of(entry_id), bool(is_estimate))
        return Run(
            **{
                **row,
                "state": RunState(str(row["state"])),
                "outcome": Outcome(str(row["outcome"])) if row["outcome"] else None,
                "resumed": bool(row["resumed"]),
                "background": bool(row["background"]),
                "cancel_requested": bool(row["cancel_requested"]),
                "structured": bool(row["structured"]),
                "cost": cost,
            }  # type: ignore[arg-type]
        )

    def _models_of(self, entry_id: int) -> dict[str, ModelCost]:
        rows = self._conn.execute(
            """
            SELECT model, input_tokens, output_tokens, cache_creation_5m_tokens, cache_creation_1h_tokens,
                cache_read_tokens, web_search_requests, cost_nanousd
            FROM entry_models WHERE entry_id = ?
            """,
            (entry_id,),
        )
        return {row[0]: ModelCost(Tokens(*row[1:7]), row[7]) for row in rows}

    def take_over(self, run_id: str, from_owner_id: str, to_owner_id: str) -> bool:
        """Adopt a run whose owner is gone; False where another process was faster."""
        return (
            self._conn.execute(
                f"UPDATE runs SET owner_id = ? WHERE run_id = ? AND owner_id = ? AND {_UNFINISHED}",  # noqa: S608
                (to_owner_id, run_id, from_owner_id),
            ).rowcount
            == 1
        )

    def reserved_by(self, run_id: str) -> int:
        """What one run holds, 0 once it is settled."""
        row = self._conn.execute(
            f"SELECT reserved_nanousd FROM runs WHERE run_id = ? AND {_UNFINISHED}",  # noqa: S608
            (run_id,),
        ).fetchone()
        return int(row[0]) if row else 0

    def hold(self, run_id: str, nanousd: int) -> None:
        """Change what an unfinished run holds."""
        self._conn.execute("UPDATE runs SET reserved_nanousd = ? WHERE run_id = ?", (nanousd, run_id))

    def request_cancel(self, run_id: str) -> None:
        """Ask whoever owns the run to stop it."""
        self._conn.execute(f"UPDATE runs SET cancel_requested = 1 WHERE run_id = ? AND {_UNFINISHED}", (run_id,))  # noqa: S608

    def detach(self, run_id: str) -> None:
        """From now on the run goes on when its server stops."""
        self._conn.execute("UPDATE runs SET background = 1 WHERE run_id = ?", (run_id,))

    def cancel_requested(self, run_id: str) -> bool:
        """Whether somebody has asked for the run to be stopped."""
        row = self._conn.execute("SELECT cancel_requested FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return bool(row and row[0])

    def run_on_session(self, session_id: str) -> str | None:
        """The unfinished run on a session, if there is one."""
        row = self._conn.execute(
            f"SELECT run_id FROM runs WHERE {_UNFINISHED} AND session_id = ?",  # noqa: S608
            (session_id,),
        ).fetchone()
        return row[0] if row else None

    def session_subscription(self, session_id: str) -> str | None:
        """The subscription a session belongs to, as far as the pool has seen it."""
        row = self._conn.execute("SELECT subscription FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
        return row[0] if row else None

    # Official windows and cooldowns

    def record_readings(self, subscription: str, readings: Iterable[WindowReading]) -> None:
        """Keep what Anthropic reported; an older or impossible reading never replaces a newer one."""
        for reading in readings:
            if not is_plausible(reading):
                continue
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
                ON CONFLICT DO UPDATE SET percent = excluded.percent, resets_at_ms = excluded.resets_at_ms,
                    status = excluded.status, observed_at_ms = excluded.observed_at_ms
                WHERE excluded.observed_at_ms >= observed_at_ms
                """,
                values,
            ).rowcount
            if changed:
                self._conn.execute(
                    """
                    INSERT OR REPLACE INTO official_readings
                        (subscription, window, percent, resets_at_ms, status, observed_at_ms)
                    VALUES (?, ?, ?, ?, ?, ?)
                    """,
                    values,
                )

    def latest_readings(self) -> dict[str, dict[str, WindowReading]]:
        """The newest reading of every official window, by subscription and window."""
        result: dict[str, dict[str, WindowReading]] = {}
        for subscription, *rest in self._conn.execute(
            "SELECT subscription, window, percent, resets_at_ms, status, observed_at_ms FROM official_windows"
        ):
            reading = WindowReading(*rest)
            result.setdefault(subscription, {})[reading.window] = reading
        return result

    def start_cooldown(self, subscription: str, cooldown: Cooldown, run_id: str | None) -> None:
        """Take a subscription out of the choice, with the cause on record."""
        self._conn.execute(
            """
            INSERT INTO cooldowns (subscription, cause, detail, run_id, since_ms, until_ms)
            VALUES (?, ?, ?, ?, ?, ?)
            """,
            (subscription, cooldown.cause, cooldown.detail, run_id, cooldown.since_ms, cooldown.until_ms),
        )

    def _lift_cooldowns(self, subscription: str, by: str, begun_before_ms: int, now_ms: int) -> None:
        self._conn.execute(
            """
            UPDATE cooldowns SET lifted_at_ms = ?, lifted_by = ?
            WHERE subscription = ? AND lifted_at_ms IS NULL AND since_ms <= ?
            """,
            (now_ms, by, subscription, begun_before_ms),
        )

    def cooldowns(self, now_ms: int) -> dict[str, Cooldown]:
        """Those in force, by subscription; of several the one that ends last."""
        result: dict[str, Cooldown] = {}
        for subscription, *rest in self._conn.execute(
            """
            SELECT subscription, cause, since_ms, until_ms, detail FROM cooldowns
            WHERE lifted_at_ms IS NULL AND (until_ms IS NULL OR until_ms > ?)
            ORDER BY until_ms IS NULL, until_ms
            """,
            (now_ms,),
        ):
            result[subscription] = Cooldown(*rest)
        return result
