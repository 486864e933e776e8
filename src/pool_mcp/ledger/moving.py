"""Moves a whole ledger into a database, or back into a file: in one transaction, and proven before it is committed."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pool_mcp.errors import InvalidRequest, LedgerError
from pool_mcp.ledger.audit import audit
from pool_mcp.ledger.copying import DERIVED, copy_rows, tables
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.sql import Connection
from pool_mcp.model import Audit

_OF_ITS_OWN = ("machines", "leases")
"""What a ledger has before anything is put into it."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved, and where the file is now that nobody is to use any more."""

    rows: int
    audit: Audit
    aside: Path | None


def move_to_database(path: Path, url: str, clock: Callable[[], int]) -> Moved:
    """Copy the file's ledger into an empty database, and put the file aside.

    Raises:
        InvalidRequest: there is no file, or the database has a ledger with something in it.
        LedgerError: one of both cannot be used, or what was copied is not what was there; nothing is changed then.
    """
    if not path.exists():
        raise InvalidRequest(
            f"There is no ledger at {path}; write the url into pool.toml, and a new one is made there."
        )
    with closing(Ledger(path)) as source, closing(Ledger(path, url, clock)) as target:
        found = _move(source, target, to_file=False)
    aside = path.with_name(f"{path.stem}-moved-{clock()}{path.suffix}")
    if Path(f"{path}-wal").exists():
        raise LedgerError(f"{path} is copied, but another program has it open: close that, then move {path} to {aside}")
    path.rename(aside)
    return Moved(*found, aside)


def move_to_file(path: Path, url: str, clock: Callable[[], int]) -> Moved:
    """Copy a database's ledger into a file, where there is none.

    Raises:
        InvalidRequest: there is a file already, or another machine has runs that are not booked.
        LedgerError: as :func:`move_to_database`.
    """
    if path.exists():
        raise InvalidRequest(f"There is a ledger at {path} already; move it aside first.")
    with closing(Ledger(path, url, clock)) as source:
        with source.read() as tx:
            busy = [one.name for one in tx.machines.known() if one.in_flight and one.machine_id != tx.machines.mine]
        if busy:
            raise InvalidRequest(
                f"{', '.join(busy)} has runs that are not booked; wait for them, or pool-mcp machine forget"
            )
        try:
            with closing(Ledger(path)) as target:
                return Moved(*_move(source, target, to_file=True), None)
        except BaseException:
            for name in ("", "-wal", "-shm"):
                Path(f"{path}{name}").unlink(missing_ok=True)
            raise


def _move(source: Ledger, target: Ledger, *, to_file: bool) -> tuple[int, Audit]:
    with source.engine.patiently(), target.engine.patiently(), source.write() as before, target.write() as after:
        if any(count for name, count in _counts(after.connection).items() if name not in _OF_ITS_OWN):
            raise InvalidRequest("There is a ledger with something in it already; give an empty database.")
        for table in _OF_ITS_OWN:
            after.connection.execute(f"DELETE FROM {table}")  # noqa: S608
        mine = before.machines.mine or after.machines.mine
        copy_rows(before.connection, after.connection, machine=(mine, "") if to_file else ("", mine))
        counts, copied = _counts(before.connection), _counts(after.connection)
        proven, wanted = audit(after.connection), audit(before.connection)
        if counts != copied or proven != wanted or proven.problems:
            raise LedgerError("What was copied is not what was there, so nothing is moved; run pool-mcp ledger check")
    return sum(counts.values()), proven


def _counts(conn: Connection) -> dict[str, int]:
    names = [*tables(), DERIVED]
    return {name: conn.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}  # noqa: S608
