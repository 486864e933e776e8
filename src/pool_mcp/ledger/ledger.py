"""Opens the SQLite ledger safely and hands out transactions on it.

Several processes write one ledger. Whatever reads in order to decide and then writes does both inside
:meth:`Ledger.write`, which takes the lock of :mod:`~pool_mcp.ledger.write_ahead`, then SQLite's (``BEGIN IMMEDIATE``,
since who only looks at the ledger with other programs may write, too): a transaction that begins deferred fails with
"database is locked" the moment it wants to write, whatever the time-out. Within a process one connection serves one
caller at a time.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pool_mcp.errors import LedgerError
from pool_mcp.ledger import migrations, write_ahead
from pool_mcp.ledger.audit import audit
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import Audit
from pool_mcp.system.private import make_directory

BUSY_TIMEOUT_S = 30.0
"""How long a write waits for other processes' writes; they take well under a millisecond each."""


class Ledger:
    """One open ledger. Safe to call from any thread; closes with :meth:`close`."""

    def __init__(self, path: Path) -> None:
        """Open the ledger, making it (readable by the owner only) or bringing its schema up to date.

        Raises:
            LedgerError: the file cannot be opened, is damaged, or was written by a newer pool-mcp.
        """
        self.path = path
        self._writing = threading.Lock()  # taken before the next, so that readers do not wait for other processes
        self._lock = threading.Lock()
        with _explained(path):
            _make_private_file(path)
            self._identity = _identity(path)
            self._conn = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._conn.close()
                raise
        self._tx = Transaction(self._conn)

    def close(self) -> None:
        """Close the connection; what is committed stays."""
        write_ahead.close(self._conn, self.path, self._lock)

    def audit(self) -> Audit:
        """Prove the sums against the entries, on one consistent state; reads the whole ledger."""
        with self._transaction("BEGIN"):
            return audit(self._conn)

    def backup(self, target: Path) -> None:
        """Write a consistent copy, readable by the owner only, while others go on reading and writing.

        Raises:
            LedgerError: the copy cannot be written, or there is a file already.
        """
        if target.exists():
            raise LedgerError(f"{target} is there already; name a new file for the backup.")
        with _explained(target):
            _make_private_file(target)
            copy = sqlite3.connect(target)
            try:
                with self._lock:
                    self._conn.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
            except BaseException:
                target.unlink(missing_ok=True)
                raise
            finally:
                copy.close()

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Hold the write lock for the block; commit at its end, roll back if it raises.

        Raises:
            LedgerError: the disk is full, the file is read-only or damaged, or others held the lock for 30 s.
        """
        with self._sole_writer():
            with self._transaction("BEGIN IMMEDIATE") as tx:
                yield tx
            with self._lock:
                write_ahead.checkpoint_if_long(self._conn, self.path)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """See one consistent state of the ledger for the length of the block."""
        with self._transaction("BEGIN") as tx:
            yield tx

    def take_lease(self, name: str, for_ms: int, clock: Callable[[], int]) -> bool:
        """Take what one process at a time does, for a while; False while another has it.

        Raises:
            LedgerError: as :meth:`write`.
        """
        with self.write() as tx:
            now_ms = clock()  # under the lock, for which it may have waited
            return tx.leases.take(name, now_ms, now_ms + for_ms)

    @contextmanager
    def _sole_writer(self) -> Iterator[None]:
        with _explained(self.path):
            if not self._writing.acquire(timeout=BUSY_TIMEOUT_S):
                raise TimeoutError
            try:
                with write_ahead.sole_writer(self.path, BUSY_TIMEOUT_S):
                    yield
            finally:
                self._writing.release()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        with self._lock, _explained(self.path):
            # What is written into a file that has been moved away or replaced, nobody else sees.
            if _identity(self.path) != self._identity:
                raise LedgerError(
                    f"The ledger {self.path} was moved or replaced while it was in use; put it back, or restart every "
                    "server that uses it"
                )
            self._conn.execute(begin)
            try:
                yield self._tx
                self._conn.execute("COMMIT")
            except BaseException:
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK")
                raise

    def _prepare(self) -> None:
        write_ahead.configure(self._conn)
        self._conn.execute("PRAGMA foreign_keys = ON")
        if self._last_page_is_cut():
            with self._sole_writer():
                write_ahead.checkpoint(self._conn)  # the log may hold the whole page: a power cut in a checkpoint
            if self._last_page_is_cut():
                raise LedgerError(f"The ledger {self.path}: {_ADVICE[sqlite3.SQLITE_CORRUPT]} (its last page is cut)")
        if not self._writes_ahead():
            with self._sole_writer():
                self._write_ahead()
        known, taken = [step.__name__ for step in migrations.STEPS], migrations.applied(self._conn)
        if set(known) - set(taken):
            with self._sole_writer():
                self._migrate()
        if newer := [name for name in taken if name not in known]:
            raise LedgerError(
                f"{self.path} was written by a newer pool-mcp (it has the step {newer[0]}); upgrade this one"
            )

    def _migrate(self) -> None:
        self._conn.execute("BEGIN IMMEDIATE")
        try:
            migrations.apply(self._conn)
            self._conn.execute("COMMIT")
        except BaseException:
            self._conn.execute("ROLLBACK")
            raise

    def _last_page_is_cut(self) -> bool:
        """SQLite itself notices a cut within the last page only when it reads that page."""
        (page_bytes,) = self._conn.execute("PRAGMA page_size").fetchone()
        return bool(self.path.stat().st_size % page_bytes)

    def _writes_ahead(self) -> bool:
        return bool(self._conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal")

    def _write_ahead(self) -> None:
        while not self._writes_ahead():
            try:
                self._conn.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                # SQLite waits for nobody here: of several that open a new ledger at once, all but one fail. So wait,
                # for the time-out at most, until whoever is at it has finished.
                self._conn.execute("BEGIN EXCLUSIVE")
                self._conn.execute("ROLLBACK")


def _make_private_file(path: Path) -> None:
    """SQLite gives its side files the mode of the main one, so making that private makes all of them so.

    A file that is there is not opened here: to close it would drop every lock that this process holds on it through
    another connection, and a third process could then take away the log that is being written.
    """
    make_directory(path.parent)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK):
            raise LedgerError(f"The ledger {path}: {_ADVICE[sqlite3.SQLITE_READONLY]}") from None
        if path.stat().st_mode & 0o077:
            with contextlib.suppress(PermissionError):
                path.chmod(0o600)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has that name now."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space and call again",
    sqlite3.SQLITE_READONLY: "it is read-only; make the file and its folder writable for you",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder exists and is yours",
    sqlite3.SQLITE_PERM: "it may not be read; check its permissions",
    sqlite3.SQLITE_BUSY: f"another process held it for {BUSY_TIMEOUT_S:.0f} s; call again",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite file; move it aside, or put a backup in its place",
    sqlite3.SQLITE_CORRUPT: "it is damaged; stop all servers, move it aside, and put a backup in its place",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written; check its space and health",
}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
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
