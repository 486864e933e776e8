"""Says what went wrong with a ledger, and what to do, in one line."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pool_mcp.errors import LedgerError

BUSY_TIMEOUT_S = 30.0
"""How long a write waits for other processes' writes; they take well under a millisecond each."""

DAMAGED = "it is damaged; stop all servers, move it aside, and put a backup in its place"
READ_ONLY = "it is read-only; make the file and its folder writable for you"

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space and call again",
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder exists and is yours",
    sqlite3.SQLITE_PERM: "it may not be read; check its permissions",
    sqlite3.SQLITE_BUSY: f"another process held it for {BUSY_TIMEOUT_S:.0f} s; call again",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite file; move it aside, or put a backup in its place",
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written; check its space and health",
}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into one line that says what to do."""
    try:
        yield
    except TimeoutError as error:
        raise LedgerError(f"The ledger {path}: {_ADVICE[sqlite3.SQLITE_BUSY]}") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            raise
        advice = _ADVICE.get(code & 0xFF)
        if advice is None:
            raise
        raise LedgerError(f"The ledger {path}: {advice} ({error})") from error
    except OSError as error:
        raise LedgerError(f"The ledger {path}: {error.strerror or error}; check its folder") from error


def moved(path: Path) -> LedgerError:
    """Nobody else sees what is written into a file that has been moved away or replaced."""
    return LedgerError(
        f"The ledger {path} was moved or replaced while it was in use; put it back, or restart every "
        "server that uses it"
    )


def log_replaced(path: Path) -> LedgerError:
    """Others write into another log, so that nothing may be written into this one, or copied from it."""
    return LedgerError(
        f"The log of the ledger {path} was removed while it was in use, and others have begun a new one: restart every "
        "server that uses it, then run pool-mcp ledger check; what was booked last may be missing"
    )


def damaged(path: Path, why: str) -> LedgerError:
    """The file is not what SQLite left."""
    return LedgerError(f"The ledger {path}: {DAMAGED} ({why})")
