"""Says what went wrong with a database, and what to do, in one line that holds no password."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import conninfo, errors

from pool_mcp.errors import LedgerError, safe_line

_ADVICE: tuple[tuple[type[psycopg.Error], str], ...] = (
    (errors.LockNotAvailable, "other machines held it for half a minute; call again"),
    (errors.InvalidPassword, "it refuses the password; put the right one into ~/.pgpass or a service file"),
    (errors.InvalidAuthorizationSpecification, "it refuses the role; check the URL's user and pg_hba.conf"),
    (errors.InvalidCatalogName, "it has no such database; make it with createdb, or correct the URL"),
    (errors.InsufficientPrivilege, "the role may not do this; it has to own its schema (docs/several-machines.md)"),
    (errors.ReadOnlySqlTransaction, "it takes no writes; point the URL at the primary server"),
    (errors.DiskFull, "its disk is full; free some space and call again"),
    (errors.TooManyConnections, "it has no connection left; raise max_connections"),
    (errors.QueryCanceled, "it ended a statement that took too long; call again"),
)
AWAY = "cannot be reached; it is tried again with the next call. Check that it runs and that this machine has a network"


class Lost(psycopg.OperationalError):
    """The database is away, or has taken the connection."""


def place_of(url: str) -> str:
    """Where the database is, for a person; no user, no password, no option.

    Raises:
        LedgerError: the URL is none that libpq reads.
    """
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.Error:  # its words may hold a part of the password
        raise LedgerError(
            "[ledger] url in pool.toml is not a PostgreSQL URL; write postgresql://user@host/database, with %-escapes "
            "for what is special, and the password into ~/.pgpass"
        ) from None
    host, port = given.get("host") or given.get("hostaddr"), given.get("port")
    where = (given.get("service") and f"of service {given['service']}") or host or "on this machine"
    return f"{given.get('dbname') or ''}{' at ' if host else ' '}{where}{f':{port}' if port else ''}".strip()


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turn the database's and the network's errors into one line that says what to do."""
    try:
        yield
    except psycopg.Error as error:
        advice = next((advice for kind, advice in _ADVICE if isinstance(error, kind)), None)
        if advice is None and not isinstance(error, psycopg.OperationalError):
            raise
        raise LedgerError(f"The ledger {place}: {advice or AWAY} ({_reason(error)})") from None


def _reason(error: psycopg.Error) -> str:
    """The first line, as short as it may be."""
    said = error.diag.message_primary or str(error).strip().split("\n")[0]
    return safe_line(said.rpartition("failed: ")[2] or said)
