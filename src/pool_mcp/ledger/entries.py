"""Books entries: an entry, what it has of each model, and the sums of its hour, in the transaction that is open."""

from dataclasses import dataclass

from pool_mcp.choosing.windows import grid_block
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import HOUR_MS, Cost

INSERT_ENTRY = """
    INSERT INTO entries (entry_id, kind, run_id, at_ms, block_start_ms, subscription, session_id, caller, source,
        cost_nanousd, is_estimate, note, project, branch, machine_id)
    VALUES (coalesce(?, (SELECT coalesce(max(entry_id), 0) + 1 FROM entries)), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
"""The entry alone; its models and hours are the caller's to add."""

ADD_MODEL = "INSERT INTO entry_models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

ADD_TO_HOUR = """
    INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (subscription, hour_ms, caller, model, source) DO UPDATE SET
        calls = hours.calls + excluded.calls,
        unpriced_calls = hours.unpriced_calls + excluded.unpriced_calls,
        input_tokens = hours.input_tokens + excluded.input_tokens,
        output_tokens = hours.output_tokens + excluded.output_tokens,
        cache_creation_tokens = hours.cache_creation_tokens + excluded.cache_creation_tokens,
        cache_read_tokens = hours.cache_read_tokens + excluded.cache_read_tokens,
        cost_nanousd = hours.cost_nanousd + excluded.cost_nanousd,
        estimated_nanousd = hours.estimated_nanousd + excluded.estimated_nanousd
"""
"""Adds to the sums of an hour, whatever is booked."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry to book. ``kind`` is ``run``, ``call`` or ``adjustment``, which does not count as a call.

    ``project`` is the repository in which it was spent, by the name of its root; None where that is not known.
    """

    kind: str
    at_ms: int
    subscription: str
    caller: str
    source: str
    cost: Cost
    session_id: str | None = None
    run_id: str | None = None
    note: str | None = None
    project: str | None = None
    branch: str | None = None
    machine_id: str = ""


def add_entry(conn: Connection, entry: Entry) -> int:
    """Book an entry with its models, and add it to its hour; its id."""
    cost, at_ms = entry.cost, entry.at_ms
    (entry_id,) = conn.execute(
        f"{INSERT_ENTRY} RETURNING entry_id",
        (
            *(None, entry.kind, entry.run_id, at_ms, grid_block(at_ms).starts_at_ms, entry.subscription),
            *(entry.session_id, entry.caller, entry.source, cost.nanousd, cost.is_estimate, entry.note),
            *(entry.project, entry.branch, entry.machine_id),
        ),
    ).fetchone()
    calls = 0 if entry.kind == "adjustment" else 1
    for model, part in cost.models.items():
        tokens, nanousd = part.tokens, part.cost_nanousd or 0
        conn.execute(ADD_MODEL, (entry_id, model, *tokens.counts, part.cost_nanousd))
        conn.execute(
            ADD_TO_HOUR,
            (
                *(entry.subscription, at_ms - at_ms % HOUR_MS, entry.caller, model, entry.source),
                *(calls, part.cost_nanousd is None),
                *(tokens.input, tokens.output, tokens.cache_creation, tokens.cache_read),
                *(nanousd, nanousd if cost.is_estimate else 0),
            ),
        )
    return int(entry_id)
