"""Every statement on what the organisation has reported, and on the ledger's side of a reconciliation."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pool_mcp.accounting.reconcile import Amount, Booked, Figure
from pool_mcp.ledger.entries import Entry, add_entry
from pool_mcp.ledger.lists import marks
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import CLOCK_SLACK_MS, Cost, Tokens

_COLUMNS = (
    "report, starts_at_ms, ends_at_ms, key_id, model, detail, input_tokens, output_tokens, "
    "cache_creation_5m_tokens, cache_creation_1h_tokens, cache_read_tokens, web_search_requests, cost_nanousd, "
    "list_nanousd"
)


@dataclass(frozen=True, slots=True)
class Sync:
    """When a report was read for a span, and until when Anthropic said its data went."""

    since_ms: int
    until_ms: int
    synced_at_ms: int
    refreshed_at_ms: int | None


class Organisation:
    """Reads and writes within the transaction that is open."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def replace(self, report: str, sync: Sync, figures: Iterable[Figure]) -> None:
        """Put a report's rows for a span in the place of those from before; what is revised, or gone, is so here."""
        self._conn.execute(
            "DELETE FROM organisation_figures WHERE report = ? AND starts_at_ms >= ? AND starts_at_ms < ?",
            (report, sync.since_ms, sync.until_ms),
        )
        self._conn.executemany(
            f"""
            INSERT INTO organisation_figures ({_COLUMNS}) VALUES ({", ".join("?" * 14)})
            ON CONFLICT (report, starts_at_ms, ends_at_ms, key_id, model, detail) DO UPDATE
            SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[6:])}
            """,  # noqa: S608  (column names)
            _rows(figures),
        )
        # What is wholly inside has nothing left to say.
        self._conn.execute(
            "DELETE FROM organisation_syncs WHERE report = ? AND since_ms >= ? AND until_ms <= ?",
            (report, sync.since_ms, sync.until_ms),
        )
        self._conn.execute(
            """
            INSERT INTO organisation_syncs
            VALUES (?, ?, ?, ?, ?, (SELECT coalesce(max(seq), 0) + 1 FROM organisation_syncs))
            """,
            (report, sync.since_ms, sync.until_ms, sync.synced_at_ms, sync.refreshed_at_ms),
        )

    def adjust(self, subscription: str, at_ms: int, cost: Cost, note: str) -> None:
        """Book a difference, of money and tokens by model, as an adjustment; ``note`` is its evidence.

        Amounts may be negative. It counts as no call, and its caller and source are ``reconciliation``.
        """
        name = "reconciliation"
        add_entry(self._conn, Entry("adjustment", at_ms, subscription, name, name, cost, note=note))

    def latest_sync(self, report: str, since_ms: int) -> Sync | None:
        """The newest reading of a report that holds an instant."""
        row = self._conn.execute(
            """
            SELECT since_ms, until_ms, synced_at_ms, refreshed_at_ms FROM organisation_syncs
            WHERE report = ? AND since_ms <= ? AND until_ms > ? ORDER BY seq DESC LIMIT 1
            """,
            (report, since_ms, since_ms),
        ).fetchone()
        return None if row is None else Sync(*row)

    def last_synced_ms(self, now_ms: int) -> int | None:
        """When any report was last read, by a clock that can have been right."""
        (at_ms,) = self._conn.execute(
            "SELECT max(synced_at_ms) FROM organisation_syncs WHERE synced_at_ms <= ?", (now_ms + CLOCK_SLACK_MS,)
        ).fetchone()
        return None if at_ms is None else int(at_ms)

    def figures(self, report: str, since_ms: int, until_ms: int) -> list[Figure]:
        """A report's rows that begin in a span."""
        rows = self._conn.execute(
            f"""
            SELECT {_COLUMNS} FROM organisation_figures
            WHERE report = ? AND starts_at_ms >= ? AND starts_at_ms < ? ORDER BY starts_at_ms
            """,  # noqa: S608
            (report, since_ms, until_ms),
        )
        return [_figure(*row) for row in rows]

    def booked(self, subscriptions: Sequence[str], since_ms: int, until_ms: int) -> list[Booked]:
        """The ledger's hours of some subscriptions by model, adjustments included; whole hours."""
        rows = self._conn.execute(
            f"""
            SELECT subscription, hour_ms, model, sum(unpriced_calls), sum(cost_nanousd), sum(input_tokens),
                sum(output_tokens), sum(cache_creation_tokens), sum(cache_read_tokens)
            FROM hours
            WHERE subscription IN ({marks(subscriptions)}) AND hour_ms >= ? AND hour_ms < ? GROUP BY 1, 2, 3
            """,  # noqa: S608
            (*subscriptions, since_ms, until_ms),
        )
        return [
            Booked(
                row[0], row[1], row[2], Amount(None if row[3] else row[4], Tokens(row[5], row[6], row[7], 0, row[8]))
            )
            for row in rows
        ]

    def oldest_unfinished_ms(self, subscriptions: Sequence[str]) -> int | None:
        """When the oldest run that is not booked yet was reserved."""
        (at_ms,) = self._conn.execute(
            f"SELECT min(created_at_ms) FROM unfinished_runs WHERE subscription IN ({marks(subscriptions)})",  # noqa: S608
            (*subscriptions,),
        ).fetchone()
        return None if at_ms is None else int(at_ms)


def _figure(
    report: str, starts_at_ms: int, ends_at_ms: int, key_id: str, model: str, detail: str, *rest: int
) -> Figure:
    *tokens, cost, at_list = rest
    return Figure(report, starts_at_ms, ends_at_ms, key_id, model, detail, Tokens(*tokens), cost, at_list)


def _rows(figures: Iterable[Figure]) -> Iterator[tuple[object, ...]]:
    for one in figures:
        t = one.tokens
        yield (
            *(one.report, one.starts_at_ms, one.ends_at_ms, one.key_id, one.model, one.detail),
            *(t.input, t.output, t.cache_creation_5m, t.cache_creation_1h, t.cache_read, t.web_search_requests),
            *(one.cost_nanousd, one.list_nanousd),
        )
