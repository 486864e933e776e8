"""What has been spent and what is reserved, by subscription and by caller.

Sums over time are exact at a cost that does not grow with the ledger: whole hours come from ``hours``, the one
partial hour at the start of a span from ``entries``. Spans have no upper end, so that an entry which a wrong clock
dated ahead still counts as spent.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from pool_mcp.ledger.lists import marks
from pool_mcp.ledger.sql import Connection
from pool_mcp.ledger.sums import spent_nanousd
from pool_mcp.model import DAY_MS, HOUR_MS, WEEK_MS

_END_OF_TIME_MS = 1 << 62


@dataclass(frozen=True, slots=True)
class Reserved:
    """What unfinished runs may still cost."""

    in_flight: int = 0
    nanousd: int = 0


class Balances:
    """Reads within the transaction that is open."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def spent_nanousd(self, subscription: str, since_ms: int) -> int:
        """What a subscription has spent since an instant."""
        return spent_nanousd(self._conn, "subscription", subscription, since_ms)

    def family_spent_nanousd(self, subscription: str, since_ms: int, family: str) -> int:
        """What a subscription has spent on one family of models (``opus``) since an instant."""
        first_whole_hour = -(-since_ms // HOUR_MS) * HOUR_MS
        (total,) = self._conn.execute(
            """
            SELECT (SELECT coalesce(sum(cost_nanousd), 0) FROM hours
                    WHERE subscription = :subscription AND hour_ms >= :first_whole_hour AND lower(model) LIKE :models)
                 + (SELECT coalesce(sum(m.cost_nanousd), 0) FROM entries JOIN entry_models m USING (entry_id)
                    WHERE subscription = :subscription AND at_ms >= :since AND at_ms < :first_whole_hour
                        AND lower(model) LIKE :models)
            """,
            {
                "subscription": subscription,
                "since": since_ms,
                "first_whole_hour": first_whole_hour,
                "models": f"%{family.lower()}%",
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

    def hours_of_subscription(self, subscription: str, now_ms: int) -> list[tuple[int, int]]:
        """What a subscription has spent in each hour that is less than a week old, oldest first, with its beginning."""
        return self._conn.execute(
            "SELECT hour_ms, cost_nanousd FROM subscription_hours WHERE subscription = ? AND hour_ms > ? ORDER BY 1",
            (subscription, now_ms - WEEK_MS - HOUR_MS),
        ).fetchall()

    def spend_by_hour(
        self, subscriptions: Sequence[str] | None, since_ms: int, family: str | None
    ) -> list[tuple[int, int]]:
        """What subscriptions, or all, have spent in each hour, on one family of models or all, oldest first."""
        table, models = ("subscription_hours", "") if family is None else ("hours", "AND lower(model) LIKE ?")
        whose = "" if subscriptions is None else f"AND subscription IN ({marks(subscriptions)})"
        return self._conn.execute(
            f"SELECT hour_ms, sum(cost_nanousd) FROM {table} WHERE hour_ms > ? {whose} {models} "  # noqa: S608
            "GROUP BY hour_ms ORDER BY hour_ms",
            (since_ms, *(subscriptions or ()), *([] if family is None else [f"%{family.lower()}%"])),
        ).fetchall()

    def hours_of_caller(self, caller: str, now_ms: int) -> list[tuple[int, int]]:
        """What a caller has spent in each hour that is less than a week old, oldest first, with its beginning."""
        return self._conn.execute(
            "SELECT hour_ms, sum(cost_nanousd) FROM hours WHERE caller = ? AND hour_ms > ? GROUP BY 1 ORDER BY 1",
            (caller, now_ms - WEEK_MS - HOUR_MS),
        ).fetchall()

    def reserved(self) -> dict[str, Reserved]:
        """Unfinished runs and what they may still cost, by subscription."""
        rows = self._conn.execute(
            "SELECT subscription, count(*), sum(reserved_nanousd) FROM unfinished_runs GROUP BY 1"
        )
        return {subscription: Reserved(count, amount) for subscription, count, amount in rows}

    def caller_reserved_nanousd(self, caller: str, subscription: str | None = None) -> int:
        """What a caller's unfinished runs may still cost, under one subscription or all."""
        (amount,) = self._conn.execute(
            """
            SELECT coalesce(sum(reserved_nanousd), 0) FROM unfinished_runs
            WHERE caller = ? AND subscription = coalesce(?, subscription)
            """,
            (caller, subscription),
        ).fetchone()
        return int(amount)

    def caller_spent_under_nanousd(self, caller: str, subscription: str, since_ms: int, family: str | None) -> int:
        """What a caller has spent under one subscription since an instant, on one family of models or all."""
        (total,) = self._conn.execute(
            """
            SELECT (SELECT coalesce(sum(cost_nanousd), 0) FROM hours
                    WHERE subscription = :subscription AND hour_ms >= :first_whole_hour AND caller = :caller
                        AND lower(model) LIKE :models)
                 + (SELECT coalesce(sum(m.cost_nanousd), 0) FROM entries JOIN entry_models m USING (entry_id)
                    WHERE subscription = :subscription AND at_ms >= :since AND at_ms < :first_whole_hour
                        AND caller = :caller AND lower(model) LIKE :models)
            """,
            {
                "caller": caller,
                "subscription": subscription,
                "since": since_ms,
                "first_whole_hour": -(-since_ms // HOUR_MS) * HOUR_MS,
                "models": f"%{family or ''}%",
            },
        ).fetchone()
        return int(total)

    def project_spent_nanousd(self, project: str, since_ms: int) -> int:
        """What was spent in a repository since an instant, by whomever."""
        (total,) = self._conn.execute(
            "SELECT coalesce(sum(cost_nanousd), 0) FROM entries WHERE project = ? AND at_ms >= ?", (project, since_ms)
        ).fetchone()
        return int(total)

    def project_reserved_nanousd(self, project: str) -> int:
        """What unfinished runs in a repository may still cost."""
        (amount,) = self._conn.execute(
            """
            SELECT coalesce(sum(unfinished_runs.reserved_nanousd), 0)
            FROM unfinished_runs JOIN runs ON runs.run_id = unfinished_runs.run_id WHERE runs.project = ?
            """,
            (project,),
        ).fetchone()
        return int(amount)

    def hours_of_project(self, project: str, now_ms: int) -> list[tuple[int, int]]:
        """What was spent in a repository in each hour that is less than a week old, oldest first."""
        return self._conn.execute(
            """
            SELECT at_ms - at_ms % 3600000, sum(cost_nanousd) FROM entries
            WHERE project = ? AND at_ms > ? GROUP BY 1 ORDER BY 1
            """,
            (project, now_ms - WEEK_MS - HOUR_MS),
        ).fetchall()

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

    def least_cost_nanousd(self, subscription: str, model: str | None, limit: int = 50) -> int | None:
        """The least that a late run of one subscription and asked-for model has cost, also one stopped by its cap."""
        (least,) = self._conn.execute(
            f"""
            SELECT min(cost_nanousd) FROM (
                SELECT cost_nanousd FROM runs JOIN entries USING (run_id)
                WHERE runs.subscription = ? AND {_is_model(model)} AND outcome IN ('ok', 'budget') AND is_estimate = 0
                    AND cost_nanousd > 0
                ORDER BY ended_at_ms DESC LIMIT ?
            ) AS late
            """,  # noqa: S608
            (subscription, *_given(model), limit),
        ).fetchone()
        return None if least is None else int(least)

    def last_asked(self, caller: str) -> tuple[int | None, str | None]:
        """When a caller last asked, and for which model."""
        row = self._conn.execute(
            "SELECT created_at_ms, model FROM runs WHERE caller = ? ORDER BY created_at_ms DESC LIMIT 1", (caller,)
        ).fetchone()
        return (row[0], row[1]) if row else (None, None)

    def active_callers(self, caller: str, since_ms: int) -> int:
        """How many callers have spent since an instant, to the hour, or are asking; ``caller`` is one of them."""
        (count,) = self._conn.execute(
            """
            SELECT count(*) FROM (
                SELECT caller FROM hours JOIN (SELECT DISTINCT subscription FROM subscription_hours)
                    USING (subscription)
                WHERE hour_ms > :since - :hour AND source = 'pool'
                UNION SELECT caller FROM unfinished_runs UNION SELECT :caller
            ) AS active
            """,
            {"since": since_ms, "hour": HOUR_MS, "caller": caller},
        ).fetchone()
        return int(count)

    def recent_costs_nanousd(self, subscription: str, model: str | None, limit: int = 50) -> list[int]:
        """Costs of the latest answered runs of one subscription and asked-for model, newest first."""
        rows = self._conn.execute(
            f"""
            SELECT cost_nanousd FROM runs JOIN entries USING (run_id)
            WHERE runs.subscription = ? AND {_is_model(model)} AND state = 'settled'
            ORDER BY ended_at_ms DESC LIMIT ?
            """,  # noqa: S608
            (subscription, *_given(model), limit),
        )
        return [cost for (cost,) in rows]


def _is_model(model: str | None) -> str:
    """NULL equals nothing, and no form for that is known to every engine."""
    return "model IS NULL" if model is None else "model = ?"


def _given(model: str | None) -> tuple[str, ...]:
    return () if model is None else (model,)
