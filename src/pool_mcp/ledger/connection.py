"""Opens a connection to a ledger whose files are sound, with its schema up to date."""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from pool_mcp.errors import LedgerError
from pool_mcp.ledger import migrations, write_ahead
from pool_mcp.ledger.failures import BUSY_TIMEOUT_S, damaged
from pool_mcp.ledger.files import Files

Turn = Callable[[], AbstractContextManager[None]]
"""Waits until this thread is the sole writer."""


def connect(path: Path, turn: Turn) -> sqlite3.Connection:
    """Open the file, which exists.

    Raises:
        LedgerError: it is damaged, or was written by a newer pool-mcp.
    """
    conn = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
    try:
        _prepare(conn, path, turn)
    except BaseException:
        conn.close()
        raise
    return conn


def _prepare(conn: sqlite3.Connection, path: Path, turn: Turn) -> None:
    write_ahead.configure(conn)
    conn.execute("PRAGMA foreign_keys = ON")
    if _last_page_is_cut(conn, path) and not _is_whole_in_log(conn, path):
        raise damaged(path, "its last page is cut")
    if not _writes_ahead(conn):
        with turn():
            _write_ahead(conn, path)
    known, taken = [step.name for step in migrations.STEPS], migrations.applied(conn)
    if set(known) - set(taken):
        with turn():
            _migrate(conn)
    if newer := [name for name in taken if name not in known]:
        raise LedgerError(f"{path} was written by a newer pool-mcp (it has the step {newer[0]}); upgrade this one")


def _last_page_is_cut(conn: sqlite3.Connection, path: Path) -> bool:
    """SQLite itself notices a cut within the last page only when it reads that page."""
    (page_bytes,) = conn.execute("PRAGMA page_size").fetchone()
    return bool(path.stat().st_size % page_bytes)


def _is_whole_in_log(conn: sqlite3.Connection, path: Path) -> bool:
    """Whether the log holds what is cut in the ledger, as after a power cut in a checkpoint; reads everything."""
    return Files.of(path).log_bytes > 0 and bool(conn.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))


def _writes_ahead(conn: sqlite3.Connection) -> bool:
    return bool(conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


EMPTIED_S = 1.0
"""How long an empty file that others have open is waited for: none of ours is making it, so nothing will come of it."""


def _write_ahead(conn: sqlite3.Connection, path: Path) -> None:
    is_emptied = Files.of(path).log_index is not None and path.stat().st_size == 0
    conn.execute(f"PRAGMA busy_timeout = {1000 * (EMPTIED_S if is_emptied else BUSY_TIMEOUT_S):.0f}")
    try:
        while not _writes_ahead(conn):
            try:
                conn.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                # SQLite does not always wait here, and others may just be opening the file. So wait, for the time-out
                # at most.
                conn.execute("BEGIN EXCLUSIVE")
                conn.execute("ROLLBACK")
    except sqlite3.OperationalError:
        if is_emptied:
            raise damaged(path, "it is empty, and another process has it open") from None
        raise
    conn.execute(f"PRAGMA busy_timeout = {1000 * BUSY_TIMEOUT_S:.0f}")


def _migrate(conn: sqlite3.Connection) -> None:
    conn.execute("BEGIN IMMEDIATE")
    try:
        migrations.apply(conn)
        conn.execute("COMMIT")
    except BaseException:
        conn.execute("ROLLBACK")
        raise
