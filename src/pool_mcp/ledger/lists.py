"""Lists of values in SQL, in the form that every engine knows."""

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from pool_mcp.ledger.sql import Connection

PART = 500
"""How many values one statement is given: few enough for every engine, and enough to be quick."""


def marks(values: Collection[object]) -> str:
    """What stands between the parentheses of ``IN`` for so many values; for none something that nothing equals."""
    return ", ".join("?" * len(values)) or "NULL"


def named_marks(name: str, values: Collection[object]) -> tuple[str, dict[str, object]]:
    """As :func:`marks` for named parameters, and their values by name."""
    named: dict[str, object] = {f"{name}_{number}": value for number, value in enumerate(values)}
    return ", ".join(f":{one}" for one in named) or "NULL", named


def rows_among(conn: Connection, sql: str, values: Iterable[object], *others: object) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, whose ``{marks}`` are values of which there may be many; ``others`` come behind them.

    It is asked part by part, so that it cannot sort or count over all of them.
    """
    left = iter(values)
    while part := tuple(itertools.islice(left, PART)):
        yield from conn.execute(sql.replace("{marks}", marks(part)), (*part, *others))
