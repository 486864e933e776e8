"""Serializes writes and checkpoints, because nearly every SQLite in use can lose a transaction where they meet.

SQLite 3.7.0 to 3.51.2 has the WAL-reset bug: while one connection makes a checkpoint, a second one commits and starts
the write-ahead log again from its beginning; the checkpoint then notes frames of the new log as copied that it has
never read, and they are lost. So nobody in this program writes, makes a checkpoint, or closes a connection (the last
one to close makes a checkpoint) but under one file lock, and SQLite makes none by itself. Readers take no lock.

The lock is on a file of its own, ``ledger.lock``: to close any descriptor of the ledger would drop SQLite's own locks.
"""

import os
import sqlite3
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import lru_cache
from pathlib import Path

from pool_mcp.ledger.files import Identity
from pool_mcp.system.locks import is_byte_locked, wait_for_lock

CHECKPOINT_FRAMES = 1000
"""From this many pages in the log on a commit is followed by a checkpoint; SQLite's own default."""

CLOSE_WAIT_S = 0.1
"""How long closing waits for the lock.

Whoever has the lock has the ledger open, so that ours is not the last connection. Where that one closes just now, ours
is the last, and SQLite makes its checkpoint under its own exclusive lock, which keeps every other connection out.
"""


_IN_USE_BYTE = 128
"""Every connection holds a shared lock on this byte of the index (SQLite's ``UNIX_SHM_DMS``)."""


@lru_cache(maxsize=8)
def lock_path(ledger: Path) -> Path:
    """The file whose lock a writer holds."""
    return ledger.with_suffix(".lock")


def configure(conn: sqlite3.Connection) -> None:
    """Have SQLite make no checkpoint of its own, and flush to the platter where the system has a call for that."""
    conn.execute("PRAGMA wal_autocheckpoint = 0")
    # FULL: a reservation and a settlement are on the disk before what follows them is done.
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("PRAGMA fullfsync = ON")  # macOS; elsewhere it does nothing
    conn.execute("PRAGMA checkpoint_fullfsync = ON")


def sole_writer(ledger: Path, wait_s: float) -> AbstractContextManager[None]:
    """Be the only one, of all processes and threads, that writes, makes a checkpoint or closes.

    Raises:
        TimeoutError: others were at it for all that time.
    """
    return wait_for_lock(lock_path(ledger), wait_s)


def checkpoint(conn: sqlite3.Connection) -> None:
    """Copy the log into the ledger, as far as no reader still needs it; for whoever is the sole writer.

    What fails here is only put off: what was committed is safe in the log, and the next commit tries again.
    """
    with suppress(sqlite3.OperationalError):
        conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def checkpoint_if_long(conn: sqlite3.Connection, ledger: Path) -> None:
    """Keep the log short; called by the sole writer after every commit."""
    if _is_long(ledger):
        checkpoint(conn)


def close(conn: sqlite3.Connection, ledger: Path, guard: AbstractContextManager[object] | None = None) -> None:
    """Close a connection, which ``guard`` keeps from other threads; the last one copies the log into the ledger."""
    with ExitStack() as stack:
        try:
            stack.enter_context(sole_writer(ledger, CLOSE_WAIT_S))
            is_sole = True
        except OSError:
            is_sole = False
        stack.enter_context(guard or nullcontext())
        if not is_sole and sys.version_info >= (3, 12):
            conn.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        conn.close()


def is_copied(conn: sqlite3.Connection) -> bool:
    """Copy the log into the ledger; whether all of it is copied now."""
    busy, frames, copied = conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return bool(busy == 0 and frames == copied)


def is_index_in_use(ledger: Path) -> bool:
    """Whether any connection uses the log's index that has the name now; ask only where this process does not."""
    return is_byte_locked(Path(f"{ledger}-shm"), _IN_USE_BYTE)


def note_rescued(ledger: Path, log: Identity | None) -> None:
    """Note for others, in the lock's file, that all of a log which has lost its name was copied into the ledger."""
    lock_path(ledger).write_text("" if log is None else f"{log[0]} {log[1]}")


def rescued(ledger: Path) -> Identity | None:
    """Which log was copied after it had lost its name."""
    device, _, inode = lock_path(ledger).read_text().partition(" ")
    return (int(device), int(inode)) if inode.isdecimal() else None


def abandon(conn: sqlite3.Connection) -> None:
    """Never close a connection, not even when Python ends: SQLite would copy its log over what others have written."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(conn))


def _is_long(ledger: Path) -> bool:
    """Whether the log holds that many frames: whether the last of them carries the salts of the log as it is now.

    The log's size does not tell, because SQLite writes it again from its beginning and leaves the rest as it was. It is
    the one file of the three on which SQLite holds no locks, so it may be opened and closed.
    """
    try:
        fd = os.open(f"{ledger}-wal", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        header = os.pread(fd, 32, 0)
        page_bytes = int.from_bytes(header[8:12], "big")
        frame = os.pread(fd, 24, 32 + (CHECKPOINT_FRAMES - 1) * (24 + page_bytes))
    finally:
        os.close(fd)
    return len(frame) == 24 and frame[8:16] == header[16:24]


def sqlite_build() -> tuple[str, bool]:
    """The version of the SQLite that is linked, and whether it has the bug."""
    return sqlite3.sqlite_version, has_wal_reset_bug()


def has_wal_reset_bug(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Whether a build of SQLite has it; fixed in 3.51.3, 3.50.7 and 3.44.6."""
    if version[:2] in ((3, 44), (3, 50)):
        return version < {44: (3, 44, 6), 50: (3, 50, 7)}[version[1]]
    return (3, 7, 0) <= version < (3, 51, 3)
