"""Writes what an entry has of one model, together with the sums of its hour, which are kept in the same transaction."""

import sqlite3

from pool_mcp.model import HOUR_MS, ModelCost

ADD_TO_HOUR = """
    INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET
        calls = calls + excluded.calls,
        unpriced_calls = unpriced_calls + excluded.unpriced_calls,
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens,
        cache_creation_tokens = cache_creation_tokens + excluded.cache_creation_tokens,
        cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
        cost_nanousd = cost_nanousd + excluded.cost_nanousd,
        estimated_nanousd = estimated_nanousd + excluded.estimated_nanousd
"""
"""Adds to the sums of an hour, whatever is booked."""

ADD_MODEL = "INSERT INTO entry_models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def add_model(
    conn: sqlite3.Connection,
    entry_id: int,
    at_ms: int,
    subscription: str,
    caller: str,
    model: str,
    part: ModelCost,
    *,
    is_estimate: bool,
    source: str = "pool",
    calls: int = 1,
) -> None:
    """Write one model's part of an entry; ``calls`` is what it adds to the hour's count, 0 for an adjustment."""
    tokens = part.tokens
    cost = part.cost_nanousd or 0
    conn.execute(ADD_MODEL, (entry_id, model, *tokens.counts, part.cost_nanousd))
    conn.execute(
        ADD_TO_HOUR,
        (
            subscription,
            at_ms - at_ms % HOUR_MS,
            caller,
            model,
            source,
            calls,
            part.cost_nanousd is None,
            tokens.input,
            tokens.output,
            tokens.cache_creation,
            tokens.cache_read,
            cost,
            cost if is_estimate else 0,
        ),
    )
