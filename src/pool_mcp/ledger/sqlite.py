"""The ledger in one SQLite file, opened safely.

Several processes write one ledger. Whatever reads in order to decide and then writes does both inside
:meth:`Sqlite.write`, which takes the lock of :mod:`~pool_mcp.ledger.write_ahead`, then SQLite's (``BEGIN IMMEDIATE``,
since who only looks at the ledger with other programs may write, too): a transaction that begins deferred fails with
"database is locked" the moment it wants to write, whatever the time-out. Within a process one connection serves one
caller at a time.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from pool_mcp.errors import LedgerError
from pool_mcp.ledger import files, write_ahead
from pool_mcp.ledger.audit import audit, damage_of_file
from pool_mcp.ledger.connection import Turn, connect
from pool_mcp.ledger.failures import BUSY_TIMEOUT_S, damaged, explained, log_replaced, moved
from pool_mcp.ledger.files import Files
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import Audit


class Sqlite:
    """One open ledger. Safe to call from any thread; closes with :meth:`close`."""

    def __init__(self, path: Path) -> None:
        """Open the ledger, making it (readable by the owner only) or bringing its schema up to date.

        Raises:
            LedgerError: the file cannot be opened, is damaged, on a network disk, or written by a newer pool-mcp.
        """
        self.path = path
        self._writing = threading.Lock()  # taken before the next, so that readers do not wait for other processes
        self._lock = threading.Lock()
        self._is_lost = False
        with explained(path):
            files.check_disk(path, write_ahead.lock_path(path))
            self._connect(self._sole_writer)

    def close(self) -> None:
        """Close the connection; what is committed stays."""
        if self._is_lost:
            write_ahead.abandon(self._conn)
        else:
            write_ahead.close(self._conn, self.path, self._lock)

    def changes(self) -> int:
        """A number that is another one once another connection has committed a change."""
        with self._lock, explained(self.path):
            return int(self._conn.execute("PRAGMA data_version").fetchone()[0])

    def audit(self) -> Audit:
        """Prove the sums against the entries, on one consistent state; reads the whole ledger."""
        with self.read():
            return audit(self._conn, damage_of_file(self._conn))

    def backup(self, target: Path) -> None:
        """Write a consistent copy, readable by the owner only, while others go on reading and writing.

        Raises:
            LedgerError: the copy cannot be written, or there is a file already.
        """
        with explained(target):
            if target.exists():
                raise LedgerError(f"{target} is there already; name a new file for the backup.")
            files.make_private(target)
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
            with self._lock, explained(self.path):
                self._open_again_if_moved()
            with self._transaction(is_write=True) as tx:
                yield tx
            with self._lock, explained(self.path):
                self._open_again_if_moved()
                write_ahead.checkpoint_if_long(self._conn, self.path)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """See one consistent state of the ledger for the length of the block."""
        with self._lock, explained(self.path):
            are_ours = self._are_ours()
        if not are_ours:
            with self._sole_writer(), self._lock, explained(self.path):
                self._open_again_if_moved()
        with self._transaction(is_write=False) as tx:
            yield tx

    def patiently(self) -> AbstractContextManager[None]:
        """A statement may take as long as it takes."""
        return nullcontext()

    def database(self) -> None:
        """A file is no database that could be away."""
        return

    def clock(self, local: Callable[[], int]) -> Callable[[], int]:
        """This machine's clock: whoever shares the file has the same."""
        return local

    @contextmanager
    def _sole_writer(self) -> Iterator[None]:
        with explained(self.path):
            if not self._writing.acquire(timeout=BUSY_TIMEOUT_S):
                raise TimeoutError
            try:
                with write_ahead.sole_writer(self.path, BUSY_TIMEOUT_S):
                    yield
            finally:
                self._writing.release()

    @contextmanager
    def _transaction(self, *, is_write: bool) -> Iterator[Transaction]:
        with self._lock, explained(self.path):
            self._conn.execute("BEGIN IMMEDIATE" if is_write else "BEGIN")
            try:
                yield self._tx
                if is_write:
                    self._check_names()
                self._conn.execute("COMMIT")
            except BaseException:
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK")
                raise

    def _connect(self, turn: Turn) -> None:
        files.make_private(self.path)
        ledger = Files.of(self.path).ledger
        self._conn = connect(self.path, turn)
        self._tx = Transaction(self._conn)
        self._files = Files.of(self.path)
        if self._files.ledger != ledger or None in self._files.names:
            self._conn.close()
            raise moved(self.path)

    def _are_ours(self) -> bool:
        """Whether the ledger's names still are those of the files that are open; these have not been cut either."""
        now = Files.of(self.path)
        if now.ledger_bytes < self._files.ledger_bytes:
            self._conn.execute("PRAGMA shrink_memory")  # what is remembered of the pages proves nothing
            if self._conn.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise damaged(self.path, "it has become shorter while it was in use")
        is_same = now.names == self._files.names
        if is_same:
            self._files = now
        return is_same

    def _check_names(self) -> None:
        """Refuse to commit into files that nobody else sees; a log that can be saved is saved after the commit."""
        now = Files.of(self.path)
        if now.ledger != self._files.ledger:
            raise moved(self.path)
        if now.log != self._files.log and not self._has_no_other_log(now):
            self._is_lost = True
            raise log_replaced(self.path)

    def _has_no_other_log(self, now: Files) -> bool:
        """Whether nobody uses another log than the old one, whose pages therefore may be copied into the ledger.

        A program that only looked at the ledger meanwhile leaves an empty one. While somebody has that open with an
        index of its own, he would not notice that pages of the ledger change.
        """
        if now.log is None or now.log_bytes > 0:
            return now.log is None
        return now.log_index == self._files.log_index or not write_ahead.is_index_in_use(self.path)

    def _open_again_if_moved(self) -> None:
        """Where the log or its index has lost its name, save what is in them, and go on with new ones.

        For the sole writer, outside of a transaction.
        """
        if self._are_ours():
            return
        now = Files.of(self.path)
        if now.ledger != self._files.ledger:
            raise moved(self.path)
        if now.log != self._files.log and write_ahead.rescued(self.path) != self._files.log:
            if self._is_lost or not self._has_no_other_log(now) or not write_ahead.is_copied(self._conn):
                self._is_lost = True
                raise log_replaced(self.path)
            write_ahead.note_rescued(self.path, self._files.log)
        self._conn.close()
        self._connect(nullcontext)
        if self._files.log == write_ahead.rescued(self.path):
            write_ahead.note_rescued(self.path, None)  # the number of a file that is gone is used again
