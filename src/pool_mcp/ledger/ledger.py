"""Opens the ledger, on the engine that keeps it, and hands out transactions on it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from pool_mcp.errors import LedgerError
from pool_mcp.ledger.engine import Database, Engine
from pool_mcp.ledger.sqlite import Sqlite
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import Audit
from pool_mcp.system.machine import this_machine


class Ledger:
    """One open ledger. Safe to call from any thread; closes with :meth:`close`.

    Whatever reads in order to decide and then writes does both inside :meth:`write`.
    """

    def __init__(self, path: Path, url: str = "", clock: Callable[[], int] = lambda: 0) -> None:
        """Open the file, or the database at ``url``, making what is missing or bringing its schema up to date.

        ``clock`` is this machine's; a database's is known by how far it is ahead of that.

        Raises:
            LedgerError: it cannot be opened or reached, is damaged, or was written by a newer pool-mcp.
        """
        self.path = path
        """The file; where the ledger is a database, where that would be."""
        self.engine: Engine = _postgres(url, clock, path.parent) if url else Sqlite(path)

    def write(self) -> AbstractContextManager[Transaction]:
        """Be the only writer for the block; commit at its end, roll back if it raises.

        Raises:
            LedgerError: the ledger cannot be written or reached, or others held the lock for too long.
        """
        return self.engine.write()

    def read(self) -> AbstractContextManager[Transaction]:
        """See one consistent state of the ledger for the length of the block."""
        return self.engine.read()

    def changes(self) -> int:
        """A number that is another one once another connection has committed a change."""
        return self.engine.changes()

    def take_lease(self, name: str, for_ms: int, clock: Callable[[], int], *, for_all: bool = False) -> bool:
        """Take what one process at a time does, for a while; False while another has it.

        It is one process of this machine, or ``for_all`` of all that share the ledger.

        Raises:
            LedgerError: as :meth:`write`.
        """
        with self.write() as tx:
            now_ms = clock()  # under the lock, for which it may have waited
            whose = name if for_all or not tx.machines.mine else f"{name} on {tx.machines.mine}"
            return tx.leases.take(whose, now_ms, for_ms)

    def clock(self, local: Callable[[], int]) -> Callable[[], int]:
        """The clock that all who share the ledger go by, made from this machine's."""
        return self.engine.clock(local)

    def database(self) -> Database | None:
        """What there is to know of the database that keeps it; None where that is a file.

        Raises:
            LedgerError: it is away.
        """
        return self.engine.database()

    def audit(self) -> Audit:
        """Prove the sums against the entries, on one consistent state; reads the whole ledger."""
        return self.engine.audit()

    def backup(self, target: Path) -> None:
        """Write a consistent copy as a SQLite file for the owner only, while others go on reading and writing.

        Raises:
            LedgerError: the copy cannot be written, or there is a file already.
        """
        self.engine.backup(target)

    def close(self) -> None:
        """Close the connection; what is committed stays."""
        self.engine.close()


def _postgres(url: str, clock: Callable[[], int], state_dir: Path) -> Engine:
    try:
        from pool_mcp.ledger.postgres import Postgres  # loaded only where it is asked for
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise LedgerError(
            "[ledger] url in pool.toml needs the extra postgres: install pool-mcp[postgres] in place of pool-mcp"
        ) from None

    try:
        machine = this_machine(state_dir)
    except (OSError, ValueError, KeyError) as error:
        raise LedgerError(f"{state_dir}/machine.json cannot be made or read: {error}; make the folder yours") from None
    return Postgres(url, clock, machine)
