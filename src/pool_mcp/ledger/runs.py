"""Asks, their runs and the sessions they are on: a reservation, then one settlement."""

from dataclasses import replace

from pool_mcp.choosing.cooldowns import WHOLE_POOL, owner_after
from pool_mcp.ledger.cooldowns import Cooldowns
from pool_mcp.ledger.entries import Entry, add_entry
from pool_mcp.ledger.imports import Imports
from pool_mcp.ledger.overage import Overage
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import UNATTRIBUTED, Cost, ModelCost, Outcome, Run, RunState, Settlement, Tokens

_IF_UNFINISHED = "run_id IN (SELECT run_id FROM unfinished_runs WHERE run_id = ?)"
_UNFINISHED_OF_ASK = """ask_id = (SELECT ask_id FROM runs WHERE run_id = ?)
    AND state IN ('waiting', 'reserved', 'running')"""


class Runs:
    """Reads and writes within the transaction that is open."""

    def __init__(
        self, conn: Connection, machine_id: str, cooldowns: Cooldowns, imports: Imports, overage: Overage
    ) -> None:
        self._conn = conn
        self._machine_id = machine_id
        self._cooldowns = cooldowns
        self._imports = imports
        self._overage = overage

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

    def release_key(self, ask_id: str) -> None:
        """Let the idempotency key of an ask that came to nothing be used for another one."""
        self._conn.execute("UPDATE asks SET idempotency_key = NULL WHERE ask_id = ?", (ask_id,))

    def insert(self, run: Run) -> None:
        """Reserve: the run's row holds what it may cost until it is settled."""
        self._conn.execute(
            """
            INSERT INTO runs (run_id, ask_id, subscription, session_id, resumed, caller, model, state, owner_id,
                background, structured, created_at_ms, deadline_ms, reserved_nanousd, max_budget_nanousd,
                baseline_json, project, branch, machine_id, seq, urgency, queued_at_ms)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
                (SELECT coalesce(max(seq), 0) + 1 FROM runs), ?, ?)
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
                run.project,
                run.branch,
                self._machine_id,
                run.urgency,
                run.queued_at_ms,
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

    def settle(self, settlement: Settlement, owner_id: str, now_ms: int | None = None) -> bool:
        """Book what a run cost and drop its reservation; False where another process has settled it or owns it.

        A run that never started costs nothing and gets no entry. ``now_ms`` is long after its end where its server was
        gone; None is its end.
        """
        is_back = False
        if not self._end(settlement, owner_id, _IF_UNFINISHED):
            is_back = self._end(settlement, owner_id, "run_id = ? AND written_off = 1")
            if not is_back:
                return False
        columns = "subscription, session_id, caller, model, created_at_ms, started_at_ms, project, branch, machine_id"
        subscription, session_id, caller, model, created_at_ms, started_at_ms, *where = self._conn.execute(
            f"SELECT {columns} FROM runs WHERE run_id = ?",  # noqa: S608
            (settlement.run_id,),
        ).fetchone()
        project, branch, machine_id = where
        if started_at_ms is not None:
            entry = Entry(
                kind="run",
                at_ms=settlement.ended_at_ms,
                subscription=subscription,
                caller=caller,
                source="pool",
                cost=settlement.cost,
                session_id=session_id,
                run_id=settlement.run_id,
                project=project,
                branch=branch,
                machine_id=machine_id,
            )
            entry_id = self._book_truth(entry) if is_back else add_entry(self._conn, entry)
            self._imports.keep_calls_of_run(entry_id, settlement.message_keys)
            if settlement.overage_nanousd:
                self._overage.book(entry_id, subscription, settlement.ended_at_ms, settlement.overage_nanousd)
        if settlement.outcome is Outcome.OK:
            self._conn.execute(
                """
                INSERT INTO sessions VALUES (?, ?, ?, ?, ?)
                ON CONFLICT (session_id) DO UPDATE SET last_used_at_ms = excluded.last_used_at_ms
                """,
                (session_id, subscription, settlement.ended_at_ms, settlement.ended_at_ms, machine_id),
            )
            # An answer proves that whatever was wrong before the run began is over, here and with Anthropic.
            models = {model, *settlement.cost.models}
            times = created_at_ms, settlement.ended_at_ms if now_ms is None else now_ms
            for proven in (subscription, WHOLE_POOL):
                self._cooldowns.lift_after_answer(proven, settlement.run_id, models, *times)
        if settlement.cooldown is not None:
            owner = owner_after(settlement.outcome, subscription)
            self._cooldowns.start(owner, settlement.cooldown, settlement.run_id)
        return True

    def _end(self, settlement: Settlement, owner_id: str, which: str) -> bool:
        updated = self._conn.execute(
            f"""
            UPDATE runs SET state = ?, outcome = ?, message = ?, ended_at_ms = ?, cli_version = ?, retry_at_ms = ?,
                written_off = 0
            WHERE {which} AND owner_id = ?
            """,  # noqa: S608
            (
                *(settlement.state, settlement.outcome, settlement.message, settlement.ended_at_ms),
                *(settlement.cli_version, settlement.retry_at_ms, settlement.run_id, owner_id),
            ),
        ).rowcount
        return updated == 1

    def _book_truth(self, entry: Entry) -> int:
        """Book the difference between what a run was written off at and what it cost; its entry's id."""
        entry_id, at_ms, nanousd = self._conn.execute(
            "SELECT entry_id, at_ms, cost_nanousd FROM entries WHERE run_id = ?", (entry.run_id,)
        ).fetchone()
        written = self._models_of(entry_id)
        undone = {model: ModelCost(Tokens(), -(part.cost_nanousd or 0)) for model, part in written.items()}
        note = f"run {entry.run_id}: it was written off, and its machine is back"
        for cost in (Cost(-nanousd, undone, is_estimate=True), entry.cost):
            add_entry(self._conn, replace(entry, kind="adjustment", at_ms=at_ms, run_id=None, cost=cost, note=note))
        return int(entry_id)

    def write_off(self, run: Run, why: str, now_ms: int) -> bool:
        """Book a run of another machine as an estimate, at all that it held; False where it has been booked.

        When its machine is back, it settles the run all the same: the difference is booked then.
        """
        held = self.reserved_nanousd(run.run_id)
        cost = Cost(held, {UNATTRIBUTED: ModelCost(Tokens(), held)}, is_estimate=True)
        state = RunState.FAILED if run.state is RunState.RESERVED else RunState.INTERRUPTED
        settlement = Settlement(run.run_id, state, Outcome.CLI_FAILED, why, cost, now_ms)
        if not self.settle(settlement, run.owner_id):
            return False
        self._conn.execute(
            "UPDATE runs SET written_off = 1 WHERE run_id = ? AND started_at_ms IS NOT NULL", (run.run_id,)
        )
        return True

    def written_off(self) -> list[Run]:
        """Runs of this machine that others have written off, and whose true cost is not booked yet."""
        return self._runs("WHERE written_off = 1 AND runs.machine_id = ? ORDER BY seq", (self._machine_id,))

    def get(self, run_id: str) -> Run | None:
        """One run with its cost, or None."""
        runs = self._runs("WHERE run_id = ?", (run_id,))
        return runs[0] if runs else None

    def of_ask(self, ask_id: str) -> list[Run]:
        """An ask's attempts, first to last: in the order of the rows, since a clock can be set back between two."""
        return self._runs("WHERE ask_id = ? ORDER BY seq", (ask_id,))

    def unfinished(self) -> list[Run]:
        """Every run that holds a reservation."""
        return self._runs("WHERE run_id IN (SELECT run_id FROM unfinished_runs) ORDER BY created_at_ms", ())

    def waiting(self) -> list[Run]:
        """Every run that waits, in no order."""
        return self._runs("WHERE run_id IN (SELECT run_id FROM queue)", ())

    def typical_ms(self, subscription: str, limit: int = 20) -> int | None:
        """How long an answer of a subscription has taken of late: the median; None while there is none."""
        rows = self._conn.execute(
            """
            SELECT ended_at_ms - started_at_ms FROM runs WHERE subscription = ? AND state = 'settled'
            ORDER BY created_at_ms DESC LIMIT ?
            """,
            (subscription, limit),
        ).fetchall()
        lengths = sorted(length for (length,) in rows if length is not None)
        return int(lengths[len(lengths) // 2]) if lengths else None

    def ended(self, subscription: str | None, caller: str | None, state: str | None, limit: int) -> list[Run]:
        """The latest settled, interrupted or failed runs, newest first; None is any."""
        return self._runs(
            """
            WHERE state IN ('settled', 'interrupted', 'failed')
                AND runs.subscription = coalesce(?, runs.subscription)
                AND runs.caller = coalesce(?, runs.caller) AND state = coalesce(?, state)
            ORDER BY seq DESC LIMIT ?
            """,
            (subscription, caller, state, limit),
        )

    def with_prefix(self, begun: str, limit: int) -> list[str]:
        """The latest run of each ask whose id, or one of whose runs' ids, begins so; a few at most."""
        rows = self._conn.execute(
            """
            SELECT (SELECT run_id FROM runs WHERE ask_id = found.ask_id ORDER BY seq DESC LIMIT 1)
            FROM (
                SELECT ask_id FROM runs WHERE run_id >= :begun AND run_id < :past
                UNION SELECT ask_id FROM runs WHERE ask_id >= :begun AND ask_id < :past
                LIMIT :limit
            ) AS found
            """,
            {"begun": begun, "past": begun + "\U0010ffff", "limit": limit},
        )
        return [run_id for (run_id,) in rows]

    def sessions_with_prefix(self, begun: str, limit: int) -> list[str]:
        """Sessions whose ids begin so; a few at most."""
        rows = self._conn.execute(
            "SELECT DISTINCT session_id FROM runs WHERE session_id >= ? AND session_id < ? LIMIT ?",
            (begun, begun + "\U0010ffff", limit),
        )
        return [session_id for (session_id,) in rows]

    def latest_session(self, caller: str) -> str | None:
        """The session of a caller's last run that was answered."""
        row = self._conn.execute(
            "SELECT session_id FROM runs WHERE caller = ? AND state = 'settled' ORDER BY seq DESC LIMIT 1", (caller,)
        ).fetchone()
        return None if row is None else str(row[0])

    def adopt(self, run_id: str, from_owner_id: str, to_owner_id: str) -> bool:
        """Adopt a run whose owner is gone; False where another process was faster.

        Nobody waits for it in the adopting process, so it is not stopped together with that.
        """
        return (
            self._conn.execute(
                f"""
                UPDATE runs SET owner_id = ?, background = 1
                WHERE ({_IF_UNFINISHED} OR run_id = ? AND written_off = 1) AND owner_id = ?
                """,  # noqa: S608
                (to_owner_id, run_id, run_id, from_owner_id),
            ).rowcount
            == 1
        )

    def reserved_nanousd(self, run_id: str) -> int:
        """What one run may still cost, 0 once it is settled."""
        row = self._conn.execute("SELECT reserved_nanousd FROM unfinished_runs WHERE run_id = ?", (run_id,)).fetchone()
        return int(row[0]) if row else 0

    def change_reservation(self, run_id: str, nanousd: int) -> None:
        """Change what an unfinished run may still cost."""
        self._conn.execute("UPDATE runs SET reserved_nanousd = ? WHERE run_id = ?", (nanousd, run_id))

    def request_cancel(self, run_id: str) -> None:
        """Ask whoever owns the run, or the attempt that has taken its place meanwhile, to stop it."""
        self._conn.execute(
            f"UPDATE runs SET cancel_requested = 1 WHERE {_UNFINISHED_OF_ASK}",  # noqa: S608
            (run_id,),
        )

    def detach(self, run_id: str) -> None:
        """From now on the run, or the attempt that has taken its place meanwhile, goes on when its server stops."""
        self._conn.execute(f"UPDATE runs SET background = 1 WHERE {_UNFINISHED_OF_ASK}", (run_id,))  # noqa: S608

    def is_cancel_requested(self, run_id: str) -> bool:
        """Whether somebody has asked for the run to be stopped."""
        row = self._conn.execute("SELECT cancel_requested FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return bool(row and row[0])

    def busy_sessions(self) -> frozenset[str]:
        """The sessions that unfinished runs are on."""
        return frozenset(session for (session,) in self._conn.execute("SELECT session_id FROM unfinished_runs"))

    def idle_nanousd(self, subscription: str, since_ms: int) -> int:
        """What runs of urgency ``idle`` have spent under a subscription since an instant."""
        (amount,) = self._conn.execute(
            """
            SELECT coalesce(sum(cost_nanousd), 0) FROM entries JOIN runs ON runs.run_id = entries.run_id
            WHERE entries.subscription = ? AND at_ms >= ? AND urgency = 'idle'
            """,
            (subscription, since_ms),
        ).fetchone()
        return int(amount)

    def outcomes(self) -> dict[str, int]:
        """How many runs have ended in which way."""
        return dict(self._conn.execute("SELECT outcome, count(*) FROM runs WHERE outcome IS NOT NULL GROUP BY outcome"))

    def machine_of_session(self, session_id: str) -> str:
        """The machine whose CLI has a session: this one, where no other is known to."""
        row = self._conn.execute("SELECT machine_id FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
        return str(row[0]) if row else self._machine_id

    def subscription_of_session(self, session_id: str) -> str | None:
        """The subscription a session belongs to, as far as the pool has seen it."""
        row = self._conn.execute("SELECT subscription FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
        return row[0] if row else None

    def repository_of_session(self, session_id: str) -> tuple[str | None, str | None]:
        """The project and branch of what was booked last of a session."""
        row = self._conn.execute(
            "SELECT project, branch FROM entries WHERE session_id = ? ORDER BY entry_id DESC LIMIT 1", (session_id,)
        ).fetchone()
        return (row[0], row[1]) if row else (None, None)

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
        del row["seq"]
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
                "written_off": bool(row["written_off"]),
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
