"""Copies a whole ledger from one engine to another, table by table, within the transactions that are open.

What triggers keep is not copied: it is made again from what is.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from pool_mcp.errors import LedgerError
from pool_mcp.ledger import files, migrations
from pool_mcp.ledger.failures import explained
from pool_mcp.ledger.sql import Connection

PARENTS = ("asks", "runs", "entries", "outbox")
"""Tables that others refer to, each after those that it refers to."""
DERIVED = "subscription_hours"
ROWS = 1000
"""How many rows are written at once."""


def tables() -> list[str]:
    """Every table that is copied, in an order in which no row refers to one that is not there yet."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as new:
        migrations.apply(new)
        rows = new.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '!_%' ESCAPE '!'")
        names = {name for (name,) in rows} - {DERIVED, "sqlite_sequence"}
    return [*PARENTS, *sorted(names - set(PARENTS))]


def copy_rows(source: Connection, target: Connection, machine: tuple[str, str] = ("", "")) -> None:
    """Copy every row into a ledger that has none; what belongs to one machine's id there belongs to another's here."""
    for table in tables():
        cursor = source.execute(f"SELECT * FROM {table}")  # noqa: S608  (a name of the schema)
        columns = [column[0] for column in cursor.description]
        names = ", ".join(f'"{name}"' for name in columns)
        sql = f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
        at = columns.index("machine_id") if "machine_id" in columns else None
        part = []
        for row in cursor:
            if at is not None and row[at] == machine[0]:
                row = (*row[:at], machine[1], *row[at + 1 :])
            part.append(row)
            if len(part) == ROWS:
                target.executemany(sql, part)
                part = []
        target.executemany(sql, part)


def copy_to_file(source: Connection, target: Path, machine_id: str) -> None:
    """Write a ledger into a new SQLite file, readable by the owner only; it is that of one of its machines.

    Raises:
        LedgerError: there is a file already, or it cannot be written.
    """
    with explained(target):
        if target.exists():
            raise LedgerError(f"{target} is there already; name a new file for the backup.")
        files.make_private(target)
        try:
            with closing(sqlite3.connect(target, isolation_level=None)) as copy:
                copy.execute("BEGIN IMMEDIATE")
                migrations.apply(copy)
                copy_rows(source, copy, machine=(machine_id, ""))
                copy.execute("COMMIT")
        except BaseException:
            target.unlink(missing_ok=True)
            raise
