"""A person's own questions to the ledger: any SQL that reads."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pool_mcp.errors import InvalidRequest

MAX_ROWS = 100_000


def query(path: Path, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """The columns and rows of one statement, which cannot change anything; at most ``MAX_ROWS``.

    Raises:
        InvalidRequest: there is no ledger yet, or SQLite refuses the statement.
    """
    if not path.exists():
        raise InvalidRequest(f"There is no ledger at {path} yet; the first command that needs one makes it.")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as conn:
            cursor = conn.execute(sql)
            return [name for name, *_ in cursor.description or ()], cursor.fetchmany(MAX_ROWS)
    except sqlite3.Error as error:
        raise InvalidRequest(f"SQLite refuses this: {error}. docs/ledger.md has the tables.") from None
