"""Sums of the ledger for reports; used only inside a transaction.

Whole hours come from the sums that are kept with every booking: ``subscription_hours`` where no caller is asked for,
else ``hours``. What a span has before and after its whole hours comes from the entries, so every sum is exact.
Sessions, projects and branches, which the sums do not know, come from the entries alone.
"""

from dataclasses import dataclass

from pool_mcp.accounting.cli_prices import PricedByCli
from pool_mcp.accounting.periods import Only, Span, Sums, whole_hours
from pool_mcp.ledger.lists import marks
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import HOUR_MS, Tokens

_COLUMNS = (
    "calls",
    "unpriced_calls",
    "input_tokens",
    "output_tokens",
    "cache_creation_tokens",
    "cache_read_tokens",
    "cost_nanousd",
)
_PLAIN = ", ".join(_COLUMNS)
_SUMS = ", ".join(f"coalesce(sum({column}), 0)" for column in _COLUMNS)
# One model of one entry, in the columns of ``hours``. An adjustment is money, and no call.
_OF_ENTRIES = """
    CASE WHEN entries.kind = 'adjustment' THEN 0 ELSE 1 END AS calls,
    CASE WHEN m.cost_nanousd IS NULL THEN 1 ELSE 0 END AS unpriced_calls, input_tokens, output_tokens,
    cache_creation_5m_tokens + cache_creation_1h_tokens AS cache_creation_tokens, cache_read_tokens,
    coalesce(m.cost_nanousd, 0) AS cost_nanousd
"""
_OF_ENTRIES_ONLY = {
    "session": "coalesce(session_id, '(none)')",
    "project": "coalesce(project, '(unknown)')",
    "branch": "CASE WHEN project IS NULL THEN '(unknown)' ELSE project || '/' || coalesce(branch, '(none)') END",
}
"""Names that the sums of hours do not have, each as it is shown."""


@dataclass(frozen=True, slots=True)
class Among:
    """What is counted: subscriptions, and a caller, or every one."""

    subscriptions: tuple[str, ...]
    caller: str | None


@dataclass(frozen=True, slots=True)
class Named:
    """Rows by name, the most expensive first, and how many more there are."""

    rows: tuple[tuple[str, Sums], ...]
    left_out: int


class Reports:
    """Reads for reports within the transaction that is open."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def subscriptions(self) -> list[str]:
        """Every subscription that has entries, whether or not it is still in the settings."""
        # One step of the index per subscription, however many hours each has.
        rows = self._conn.execute(
            """
            WITH RECURSIVE found (id) AS (
                SELECT min(subscription) FROM subscription_hours
                UNION ALL
                SELECT (SELECT min(subscription) FROM subscription_hours WHERE subscription > id) FROM found
                WHERE id IS NOT NULL
            ) SELECT id FROM found WHERE id IS NOT NULL
            """
        )
        return [subscription for (subscription,) in rows]

    def among(self, only: Only) -> Among:
        """What a report is narrowed to, looked up once for all of its rows."""
        subscriptions = self.subscriptions() if only.subscription is None else [only.subscription]
        return Among(tuple(subscriptions), only.caller)

    def total(self, span: Span, among: Among) -> Sums:
        """What everything in a span adds up to."""
        whole, ends = whole_hours(span)
        if among.caller is None:
            row = self._conn.execute(
                f"""
                SELECT {_SUMS} FROM subscription_hours
                WHERE subscription IN ({marks(among.subscriptions)}) AND hour_ms >= ? AND hour_ms < ?
                """,  # noqa: S608  (the columns above)
                (*among.subscriptions, whole.since_ms, whole.until_ms),
            ).fetchone()
        else:
            row = self._conn.execute(
                f"""
                SELECT {_SUMS} FROM hours WHERE subscription IN ({marks(among.subscriptions)})
                    AND hour_ms >= ? AND hour_ms < ? AND caller = ?
                """,  # noqa: S608
                (*among.subscriptions, whole.since_ms, whole.until_ms, among.caller),
            ).fetchone()
        for end in ends:
            row = map(sum, zip(row, self._of_entries(end, among), strict=True))
        return Sums(*row)

    def priced_by_cli(self, limit: int = 200) -> list[PricedByCli]:
        """What the CLI said of the latest runs whose cost it told, one by model."""
        rows = self._conn.execute(
            """
            SELECT cli_version, m.model, entries.subscription, entries.at_ms, m.cost_nanousd, input_tokens,
                output_tokens, cache_creation_5m_tokens, cache_creation_1h_tokens, cache_read_tokens,
                web_search_requests
            FROM entries JOIN runs USING (run_id) JOIN entry_models m USING (entry_id)
            WHERE entries.kind = 'run' AND is_estimate = 0 AND m.cost_nanousd > 0 AND cli_version IS NOT NULL
            ORDER BY entry_id DESC LIMIT ?
            """,
            (limit,),
        )
        return [PricedByCli(row[0], row[1], row[2], row[3], Tokens(*row[5:]), row[4]) for row in rows]

    def latest_hour_ms(self, before_ms: int, among: Among) -> int | None:
        """The last hour before an instant (which may lie within it) in which there is anything."""
        if not among.subscriptions:
            return None
        if among.caller is None:
            # One step of the index per subscription, however many hours each has.
            of_one = "SELECT max(hour_ms) FROM subscription_hours WHERE subscription = column1 AND hour_ms < ?"
            given = ", ".join(["(?)"] * len(among.subscriptions))
            sql = f"SELECT max(latest) FROM (SELECT ({of_one}) AS latest FROM (VALUES {given}) AS given) AS of_each"  # noqa: S608
            arguments = [before_ms, *among.subscriptions]
        else:
            sql = f"""
                SELECT max(hour_ms) FROM hours
                WHERE caller = ? AND hour_ms < ? AND subscription IN ({marks(among.subscriptions)})
            """  # noqa: S608
            arguments = [among.caller, before_ms, *among.subscriptions]
        (hour_ms,) = self._conn.execute(sql, arguments).fetchone()
        return None if hour_ms is None else int(hour_ms)

    def by_name(self, column: str, span: Span, among: Among, limit: int) -> Named:
        """By model, subscription, caller, source, session, project or branch."""
        of_entries = column in _OF_ENTRIES_ONLY
        of_hours, ends = (Span(0, 0), (span,)) if of_entries else whole_hours(span)
        key = {**_OF_ENTRIES_ONLY, "model": "m.model"}.get(column, column)
        parts = []
        arguments: list[object] = []
        if not of_entries:
            parts.append(
                f"""
                SELECT {column} AS key, {_PLAIN} FROM hours
                WHERE subscription IN ({marks(among.subscriptions)}) AND hour_ms >= ? AND hour_ms < ?
                    AND caller = coalesce(?, caller)
                """  # noqa: S608  (column is one of the names above)
            )
            arguments += [*among.subscriptions, of_hours.since_ms, of_hours.until_ms, among.caller]
        for end in ends:
            parts.append(f"SELECT {key} AS key, {_OF_ENTRIES} {_from_entries(among)}")
            arguments += [*among.subscriptions, end.since_ms, end.until_ms, among.caller]
        rows = self._conn.execute(
            f"""
            SELECT key, {_SUMS}, count(*) OVER () FROM ({" UNION ALL ".join(parts)}) AS parts
            GROUP BY key ORDER BY sum(cost_nanousd) DESC, key LIMIT ?
            """,  # noqa: S608
            [*arguments, limit],
        ).fetchall()
        found = rows[0][-1] if rows else 0
        return Named(tuple((row[0], Sums(*row[1:-1])) for row in rows), found - len(rows))

    def _of_entries(self, span: Span, among: Among) -> tuple[int, ...]:
        row: tuple[int, ...] = self._conn.execute(
            f"SELECT {_SUMS} FROM (SELECT {_OF_ENTRIES} {_from_entries(among)}) AS found",  # noqa: S608
            (*among.subscriptions, span.since_ms, span.until_ms, among.caller),
        ).fetchone()
        return row


def _from_entries(among: Among) -> str:
    return f"""
        FROM entries JOIN entry_models m USING (entry_id)
        WHERE subscription IN ({marks(among.subscriptions)}) AND at_ms >= ? AND at_ms < ?
            AND caller = coalesce(?, caller)
    """


assert HOUR_MS == 3_600_000, "the schema's hours are of this length"
