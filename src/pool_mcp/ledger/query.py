"""A person's own questions to the ledger: any SQL that reads."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pool_mcp.errors import InvalidRequest

MAX_ROWS = 100_000
MAX_BYTES = 50_000_000
"""Of one value."""

_STEPS = 100_000
"""After so many instructions of SQLite's Python looks whether there was a Ctrl-C: a few milliseconds."""

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_PRAGMAS = {
    "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list",
    "integrity_check", "quick_check", "foreign_key_check", "compile_options", "function_list",
}  # fmt: skip
"""Those that tell and set nothing, whatever is put in."""


Answer = tuple[list[str], list[tuple[object, ...]]]


def query(path: Path, sql: str, url: str = "") -> Answer:
    """The columns and rows of one statement, which cannot change anything, here or in any other file.

    At most ``MAX_ROWS``. Ctrl-C ends it, however long it takes.

    Raises:
        InvalidRequest: there is no ledger yet, or its engine refuses the statement.
        LedgerError: the database is away.
    """
    if url:
        from pool_mcp.ledger.postgres import query as ask_database

        return ask_database(url, sql, MAX_ROWS)
    if not path.exists():
        raise InvalidRequest(f"There is no ledger at {path} yet; the first command that needs one makes it.")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as conn:
            conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
            conn.set_authorizer(_allow)
            conn.set_progress_handler(lambda: 0, _STEPS)
            cursor = conn.execute(sql)
            return [name for name, *_ in cursor.description or ()], cursor.fetchmany(MAX_ROWS)
    except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:  # several statements are a warning up to 3.11
        raise InvalidRequest(f"SQLite refuses this: {error}. docs/ledger.md has the tables.") from None


def _allow(action: int, name: str | None, *_: str | None) -> int:
    """Whether a step of a statement only reads: mode=ro alone lets VACUUM INTO and ATTACH make files."""
    is_reading = action in _READING or (action == sqlite3.SQLITE_PRAGMA and name in _PRAGMAS)
    return sqlite3.SQLITE_OK if is_reading else sqlite3.SQLITE_DENY
