"""Which files a ledger consists of, and whether they are still those that a connection has open.

SQLite keeps no eye on the names of its files: where somebody removes the log or moves the ledger, it goes on with files
that nobody else can find.
"""

import os
from pathlib import Path
from typing import NamedTuple

from pool_mcp.errors import LedgerError
from pool_mcp.ledger.failures import READ_ONLY
from pool_mcp.system.disks import network_file_system
from pool_mcp.system.locks import locks_work
from pool_mcp.system.private import make_directory

Identity = tuple[int, int]
"""Device and inode."""


class Files(NamedTuple):
    """What has the names of a ledger's files; None where nothing has."""

    ledger: Identity | None
    log: Identity | None
    log_index: Identity | None
    ledger_bytes: int
    log_bytes: int

    @property
    def names(self) -> tuple[Identity | None, Identity | None, Identity | None]:
        """Which files they are, whatever their lengths."""
        return self.ledger, self.log, self.log_index

    @classmethod
    def of(cls, path: Path) -> "Files":
        """The files as they are now."""
        name = str(path)
        ledger, ledger_bytes = _look(name)
        log, log_bytes = _look(f"{name}-wal")
        return cls(ledger, log, _look(f"{name}-shm")[0], ledger_bytes, log_bytes)


def _look(name: str) -> tuple[Identity | None, int]:
    try:
        found = os.stat(name)  # noqa: PTH116  (six times a transaction; a Path takes twice as long)
    except FileNotFoundError:
        return None, 0
    return (found.st_dev, found.st_ino), found.st_size


def check_disk(path: Path, lock: Path) -> None:
    """Refuse a disk on which SQLite or the locks that say who is alive can't be relied on.

    Raises:
        LedgerError: it is a network disk, or a lock on it keeps nobody out.
    """
    make_directory(path.parent)
    advice = "set POOL_MCP_HOME to a folder on a disk of this machine"
    if kind := network_file_system(path.parent):
        raise LedgerError(
            f"The ledger {path} is on a network disk ({kind}), where SQLite can lose what is booked; {advice}. "
            "For several machines see docs/several-machines.md"
        )
    if not locks_work(lock if lock.exists() else path.parent):
        raise LedgerError(
            f"File locks do nothing on the disk of {path.parent}, so nobody can tell who is alive; {advice}"
        )


def make_private(path: Path) -> None:
    """Make the ledger's file where there is none; SQLite gives its other files the same mode.

    A file that is there is not opened here: to close it would drop every lock that this process holds on it through
    another connection, and a third process could then take away the log that is being written.

    Raises:
        LedgerError: it may not be written, or it is gone or empty while its log is there, which SQLite would remove.
    """
    make_directory(path.parent)
    if _look(str(path))[1] == 0 and _look(f"{path}-wal")[1] > 0:
        raise LedgerError(
            f"The ledger {path} is missing or empty, and its log {path.name}-wal is there: put the ledger back "
            "where it was, or stop all servers, move both aside, and put a backup in their place"
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK):
            raise LedgerError(f"The ledger {path}: {READ_ONLY}") from None
        if path.stat().st_mode & 0o077:
            try:
                path.chmod(0o600)
            except PermissionError:
                return
