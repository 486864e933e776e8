"""Every statement on the ledger's tables; used only inside a transaction of :class:`~pool_mcp.ledger.ledger.Ledger`.

Sums over time are exact at a cost that does not grow with the ledger: whole hours come from ``hours``, the one
partial hour at the start of a span from ``entries``. Spans have no upper end, so that an entry which a wrong clock
dated ahead still counts as spent.
"""

import itertools
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from pool_mcp.choosing.pacing import Alert
from pool_mcp.choosing.rates import Step
from pool_mcp.choosing.windows import grid_block, is_plausible
from pool_mcp.ledger.entries import add_model
from pool_mcp.ledger.imports import Imports
from pool_mcp.ledger.organisation import Organisation
from pool_mcp.ledger.quick_look import spent_nanousd
from pool_mcp.ledger.reports import Reports
from pool_mcp.model import (
    DAY_MS,
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

_UNFINISHED = "state IN ('reserved', 'running')"

WHOLE_POOL = "*"
"""Whose cooldown it is when Anthropic is overloaded; no subscription can have that id."""

ROOM_PERCENT = 95.0
"""A reading below this proves that a window which was used up has room again."""

MOST_STEPS = 300
"""How many changes of a window's readings are looked at to learn its rate."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """What unfinished runs may still cost."""

    in_flight: int = 0
    nanousd: int = 0


_END_OF_TIME_MS = 1 << 62


class Transaction:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self.reports = Reports(conn)
        self.organisation = Organisation(conn)
        self.imports = Imports(conn)

    # Balances

    def spent_nanousd(self, subscription: str, since_ms: int) -> int:
        """What a subscription has spent since an instant."""
        return spent_nanousd(self._conn, "subscription", subscription, since_ms)

    def family_spent_nanousd(self, subscription: str, since_ms: int, family: str) -> int:
        """What a subscription has spent on one family of models (``opus``) since an instant."""
        first_whole_hour = -(-since_ms // HOUR_MS) * HOUR_MS
        (total,) = self._conn.execute(
            """
            SELECT (SELECT coalesce(sum(cost_nanousd), 0) FROM hours
                    WHERE subscription = :subscription AND hour_ms >= :first_whole_hour AND model LIKE :models)
                 + (SELECT coalesce(sum(m.cost_nanousd), 0) FROM entries JOIN entry_models m USING (entry_id)
                    WHERE subscription = :subscription AND at_ms >= :since AND at_ms < :first_whole_hour
                        AND model LIKE :models)
            """,
            {
                "subscription": subscription,
                "since": since_ms,
                "first_whole_hour": first_whole_hour,
                "models": f"%{family}%",
            },
        ).fetchone()
        return int(total)

    def caller_spent_nanousd(self, caller: str, since_ms: int) -> int:
        """What a caller has spent since an instant, under any subscription."""
        return spent_nanousd(self._conn, "caller", caller, since_ms)

    def days_of_subscription(self, subscription: str, now_ms: int) -> list[int]:
        """What a subscription has spent in each of the last seven times 24 hours, to the hour, the newest first."""
        return self._days("subscription_hours WHERE subscription = ?", subscription, now_ms)

    def days_of_caller(self, caller: str, now_ms: int) -> list[int]:
        """What a caller has spent in each of the last seven times 24 hours, to the hour, the newest first."""
        return self._days("hours WHERE caller = ?", caller, now_ms)

    def _days(self, whose: str, name: str, now_ms: int) -> list[int]:
        # Seven sums and not one by groups, for which SQLite would sort: 17 µs and not 30.
        one = f"(SELECT coalesce(sum(cost_nanousd), 0) FROM {whose} AND hour_ms > ? AND hour_ms <= ?)"  # noqa: S608
        ends = [now_ms - age * DAY_MS - (now_ms - age * DAY_MS) % HOUR_MS for age in range(WEEK_MS // DAY_MS + 1)]
        spans = [(name, begin, end) for end, begin in itertools.pairwise([_END_OF_TIME_MS, *ends[1:]])]
        row = self._conn.execute(f"SELECT {', '.join([one] * len(spans))}", [value for span in spans for value in span])
        return list(row.fetchone())

    def week_frees_at_ms(self, subscription: str, since_ms: int, amount_nanousd: int) -> int | None:
        """When the rolling week will have let go of an amount, by the hours in which it was spent."""
        freed = 0
        for hour_ms, cost in self._conn.execute(
            "SELECT hour_ms, cost_nanousd FROM subscription_hours WHERE subscription = ? AND hour_ms > ? ORDER BY 1",
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
        # One step of the index per subscription, however many runs each has had.
        rows = self._conn.execute(
            """
            WITH RECURSIVE found (id) AS (
                SELECT min(subscription) FROM runs
                UNION ALL
                SELECT (SELECT min(subscription) FROM runs WHERE subscription > id) FROM found WHERE id IS NOT NULL
            ) SELECT id, (SELECT max(created_at_ms) FROM runs WHERE subscription = id) FROM found WHERE id IS NOT NULL
            """
        )
        return dict(rows.fetchall())

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
            # An answer proves that whatever was wrong before the run began is over, here and with Anthropic.
            for proven in (subscription, WHOLE_POOL):
                self._lift_cooldowns(proven, settlement.run_id, created_at_ms, settlement.ended_at_ms)
        if settlement.cooldown is not None:
            whose = WHOLE_POOL if settlement.outcome is Outcome.OVERLOADED else subscription
            self.start_cooldown(whose, settlement.cooldown, settlement.run_id)
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
        self.imports.keep_calls_of_run(entry_id, settlement.message_keys)
        for model, part in cost.models.items():
            add_model(self._conn, entry_id, at_ms, subscription, caller, model, part, is_estimate=cost.is_estimate)

    def adjust(self, subscription: str, at_ms: int, cost: Cost, note: str) -> None:
        """Book a difference, of money and tokens by model, as an adjustment; ``note`` is its evidence.

        Amounts may be negative. It counts as no call, and its caller and source are ``reconciliation``.
        """
        caller = source = "reconciliation"
        entry_id = self._conn.execute(
            """
            INSERT INTO entries (kind, at_ms, block_start_ms, subscription, caller, source, cost_nanousd, is_estimate,
                note)
            VALUES ('adjustment', ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (
                at_ms,
                grid_block(at_ms).starts_at_ms,
                subscription,
                caller,
                source,
                cost.nanousd,
                cost.is_estimate,
                note,
            ),
        ).lastrowid
        assert entry_id is not None
        for model, part in cost.models.items():
            add_model(
                self._conn,
                entry_id,
                at_ms,
                subscription,
                caller,
                model,
                part,
                is_estimate=cost.is_estimate,
                source=source,
                calls=0,
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

    def ended_runs(self, subscription: str | None, caller: str | None, state: str | None, limit: int) -> list[Run]:
        """The latest settled, interrupted or failed runs, newest first; None is any."""
        return self._runs(
            f"""
            WHERE NOT ({_UNFINISHED}) AND runs.subscription = coalesce(?, runs.subscription)
                AND runs.caller = coalesce(?, runs.caller) AND state = coalesce(?, state)
            ORDER BY runs.rowid DESC LIMIT ?
            """,
            (subscription, caller, state, limit),
        )

    def runs_beginning(self, begun: str, limit: int) -> list[str]:
        """The latest run of each ask whose id, or one of whose runs' ids, begins so; a few at most."""
        rows = self._conn.execute(
            """
            SELECT (SELECT run_id FROM runs WHERE ask_id = found.ask_id ORDER BY created_at_ms DESC, rowid DESC LIMIT 1)
            FROM (
                SELECT ask_id FROM runs WHERE run_id >= :begun AND run_id < :past
                UNION SELECT ask_id FROM runs WHERE ask_id >= :begun AND ask_id < :past
                LIMIT :limit
            ) AS found
            """,
            {"begun": begun, "past": begun + "\U0010ffff", "limit": limit},
        )
        return [run_id for (run_id,) in rows]

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
        """Adopt a run whose owner is gone; False where another process was faster.

        Nobody waits for it in the adopting process, so it is not stopped together with that.
        """
        return (
            self._conn.execute(
                f"UPDATE runs SET owner_id = ?, background = 1 WHERE run_id = ? AND owner_id = ? AND {_UNFINISHED}",  # noqa: S608
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
            if (
                changed
                and reading.status != "rejected"
                and reading.percent is not None
                and reading.percent < ROOM_PERCENT
            ):
                self._lift_window(subscription, reading)

    def _lift_window(self, subscription: str, reading: WindowReading) -> None:
        """A reading that shows room proves that a window's limit is over, however early."""
        self._conn.execute(
            """
            UPDATE cooldowns SET lifted_at_ms = ?, lifted_by = 'a reading'
            WHERE subscription = ? AND cause = ? AND lifted_at_ms IS NULL AND since_ms < ?
            """,
            (reading.observed_at_ms, subscription, reading.window, reading.observed_at_ms),
        )

    def steps(self, subscription: str, window: str, family: str | None, since_ms: int) -> list[Step]:
        """A window's changes since an instant, oldest first, each with what was spent since the one before it."""
        of_all = "SELECT coalesce(sum(cost_nanousd), 0) FROM entries WHERE true"
        of_family = (
            "SELECT coalesce(sum(m.cost_nanousd), 0) FROM entries JOIN entry_models m USING (entry_id)"
            " WHERE model LIKE :family"
        )
        spent = of_all if family is None else of_family
        rows = self._conn.execute(
            f"""
            SELECT window, percent, resets_at_ms, status, observed_at_ms,
                ({spent} AND subscription = :subscription AND at_ms > before_ms AND at_ms <= observed_at_ms)
            FROM (
                SELECT *, lag(observed_at_ms) OVER (ORDER BY observed_at_ms) AS before_ms FROM (
                    SELECT *, lag(percent) OVER earlier AS was_percent, lag(resets_at_ms) OVER earlier AS was_reset_ms
                    FROM official_readings
                    WHERE subscription = :subscription AND window = :window AND observed_at_ms >= :since_ms
                    WINDOW earlier AS (ORDER BY observed_at_ms)
                ) WHERE percent IS NOT was_percent OR resets_at_ms IS NOT was_reset_ms
                ORDER BY observed_at_ms DESC LIMIT {MOST_STEPS}
            ) ORDER BY observed_at_ms
            """,  # noqa: S608  (spent is one of two literals above)
            {"subscription": subscription, "window": window, "family": f"%{family}%", "since_ms": since_ms},
        )
        return [Step(WindowReading(*row[:5]), int(row[5])) for row in rows]

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

    def cooldowns(self) -> dict[str, Cooldown]:
        """Those that no proof has lifted, by subscription (``WHOLE_POOL``: all); of several the one that ends last."""
        result: dict[str, Cooldown] = {}
        for subscription, cause, since_ms, until_ms, detail, is_probed in self._conn.execute(
            f"""
            SELECT subscription, cause, since_ms, until_ms, detail, EXISTS (
                SELECT 1 FROM runs WHERE {_UNFINISHED} AND created_at_ms >= since_ms
                AND cooldowns.subscription IN (runs.subscription, '{WHOLE_POOL}')
            )
            FROM cooldowns WHERE lifted_at_ms IS NULL
            ORDER BY until_ms IS NULL, until_ms, since_ms
            """  # noqa: S608
        ):
            result[subscription] = Cooldown(cause, since_ms, until_ms, detail, bool(is_probed))
        return result

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

    # Logins, alerts, leases

    def record_login(self, subscription: str, organisation: str, *, signed_in: bool, now_ms: int) -> bool:
        """Keep what the CLI says of a subscription's login; whether somebody has signed in since it was last asked."""
        before = self._conn.execute("SELECT signed_in FROM logins WHERE subscription = ?", (subscription,)).fetchone()
        self._conn.execute(
            "INSERT OR REPLACE INTO logins VALUES (?, ?, ?, ?)",
            (subscription, organisation or None, signed_in, now_ms),
        )
        return signed_in and before is not None and not before[0]

    def organisations(self) -> dict[str, str]:
        """The organisation of each subscription, where the CLI has told it."""
        return dict(self._conn.execute("SELECT subscription, organisation FROM logins WHERE organisation IS NOT NULL"))

    def tell(self, alert: Alert, now_ms: int) -> bool:
        """Put an alert on record; False where it was told already, by whatever process."""
        return (
            self._conn.execute(
                "INSERT OR IGNORE INTO alerts VALUES (?, ?, ?, ?, ?, ?)",
                (alert.key, alert.kind, alert.subscription, alert.message, now_ms, alert.until_ms),
            ).rowcount
            == 1
        )

    def latest_cooldown(self, subscription: str, cause: str) -> Cooldown | None:
        """The newest cooldown of one cause that no proof has lifted."""
        row = self._conn.execute(
            """
            SELECT cause, since_ms, until_ms, detail FROM cooldowns
            WHERE subscription = ? AND cause = ? AND lifted_at_ms IS NULL ORDER BY since_ms DESC LIMIT 1
            """,
            (subscription, cause),
        ).fetchone()
        return Cooldown(*row) if row else None

    def alerts(self, now_ms: int) -> list[tuple[int, Alert]]:
        """Alerts that still hold, newest first, each with when it was told."""
        rows = self._conn.execute(
            """
            SELECT at_ms, key, kind, subscription, message, until_ms FROM alerts
            WHERE until_ms > ? ORDER BY at_ms DESC, key LIMIT 50
            """,
            (now_ms,),
        )
        return [(row[0], Alert(*row[1:])) for row in rows]

    def take_lease(self, name: str, now_ms: int, until_ms: int) -> bool:
        """Become the only process to do something until then; False where another one has done it."""
        return (
            self._conn.execute(
                """
                INSERT INTO leases VALUES (?, ?)
                ON CONFLICT DO UPDATE SET until_ms = excluded.until_ms WHERE leases.until_ms <= ?
                """,
                (name, until_ms, now_ms),
            ).rowcount
            == 1
        )
