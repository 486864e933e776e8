"""The ledger in a PostgreSQL database, which machines share.

``write()`` is one transaction under one advisory lock, so that reading, choosing and reserving are one step for all
machines, as they are on one under ``BEGIN IMMEDIATE``. ``read()`` is one state of the database.

A database can go away at any moment. Before the first statement of a transaction a lost connection is made again; later
the transaction fails, and nothing of it stays. Where the answer to a ``COMMIT`` is lost, the next connection ends the
old one in the database and asks what became of its transaction; until then it is in doubt.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.types.numeric import Int8Dumper

from pool_mcp.errors import InvalidRequest, LedgerError, LedgerInDoubt
from pool_mcp.ledger import dialect, migrations
from pool_mcp.ledger.audit import audit
from pool_mcp.ledger.copying import copy_to_file
from pool_mcp.ledger.database_failures import Lost, explained, place_of
from pool_mcp.ledger.engine import Database
from pool_mcp.ledger.sql import Cursor, Values
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import Audit
from pool_mcp.system.machine import Machine

T = TypeVar("T")

SILENCE_S = 2.4
"""How long one statement is waited for, where the URL's connect_timeout is not longer; then the database is away."""
CONNECT_S = 2
"""How long a connection may take to be made; libpq's least."""
PATIENCE_S = 600.0
"""How long a statement that reads or writes the whole ledger is waited for."""
LOCK_S = 1.5
"""How long one try for the write lock takes; shorter than the silence that means that the database is away."""
TRIES = 20
"""How often the write lock is tried for, while the database answers."""

IDLE_MS = 10_000
"""After which the database ends a transaction whose machine says nothing, so that the lock is free again."""

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_LOCK = "pg_advisory_xact_lock(7303014, hashtext(current_schema()))"
_BEGIN_WRITE = f"BEGIN; SELECT {_LOCK}, pg_current_xact_id()::text, pg_backend_pid(), {_NOW}"
_BEGIN_READ = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT NULL, NULL, pg_backend_pid(), {_NOW}"

_SESSION = f"""
SET lock_timeout = {round(LOCK_S * 1000)};
SET idle_in_transaction_session_timeout = {IDLE_MS};
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_schema(),
    to_regclass('pool_mcp_steps') IS NOT NULL
"""
_HERE = f"""
INSERT INTO machines VALUES (%s, %s, {_NOW})
ON CONFLICT (machine_id) DO UPDATE SET name = excluded.name, last_used_at_ms = excluded.last_used_at_ms
"""  # noqa: S608
OLDEST = 140000
"""PostgreSQL 14: ``pg_terminate_backend`` waits for the end of what it ends."""

_STEPS = """
CREATE TABLE IF NOT EXISTS pool_mcp_steps (
    number BIGINT PRIMARY KEY, name TEXT NOT NULL UNIQUE, applied_at TEXT NOT NULL
)
"""


class _Boolean(Dumper):
    """Truth is 0 or 1 in the ledger."""

    oid = 20  # bigint

    def dump(self, obj: Any) -> bytes:
        return b"1" if obj else b"0"


class _Number(Loader):
    """Sums of whole numbers are whole numbers."""

    def load(self, data: Any) -> int | float:
        text = bytes(data)
        return float(text) if b"." in text or text == b"NaN" else int(text)


class _Impatient(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is given up where the database is silent for too long, whatever the network says."""

    silence_s = SILENCE_S

    def wait(self, gen: Generator[Any, Any, T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, timeout or self.silence_s)
        except psycopg.errors._WaitTimeout:
            self.close()
            raise Lost(f"it has not answered for {self.silence_s:g} s") from None


class _Statements:
    """Runs SQLite's statements on PostgreSQL."""

    def __init__(self, conn: _Impatient) -> None:
        self._conn = conn

    def execute(self, sql: str, parameters: Values = (), /) -> Cursor:
        return self._conn.execute(dialect.statement(sql), parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Cursor:
        cursor = self._conn.cursor()
        cursor.executemany(dialect.statement(sql), list(parameters))
        return cursor


class _Begun(NamedTuple):
    """A transaction that has begun: its number in the database, where it writes, and the process that serves it."""

    number: str | None
    pid: int


class Postgres:
    """One open ledger. Safe to call from any thread; closes with :meth:`close`."""

    def __init__(self, url: str, clock: Callable[[], int], machine: Machine) -> None:
        """Connect as one machine, making the schema or bringing it up to date.

        Raises:
            LedgerError: the database cannot be reached or used, or was written by a newer pool-mcp.
        """
        self._asked = 0
        self._url = url
        self._clock = clock
        self._machine = machine
        self.place = place_of(url)
        self._turn = threading.Lock()
        self._failures = 0
        self._last_failure: LedgerError | None = None
        self._ahead_ms = 0
        self._doubt: _Begun | None = None
        self._conn: _Impatient | None = None
        with self._explained():
            self._connect()

    def close(self) -> None:
        """Close the connection; what is committed stays."""
        if self._conn is not None:
            self._conn.close()

    def clock(self, local: Callable[[], int]) -> Callable[[], int]:
        """The database's clock, as it was at the last transaction's beginning."""
        return lambda: local() + self._ahead_ms

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Hold the write lock for the block; commit at its end, roll back if it raises.

        Raises:
            LedgerError: the database is away, refuses, or others held the lock for half a minute.
        """
        with self._taking_turns():
            begun = self._begin(_BEGIN_WRITE)
            with self._undone_where_it_fails():
                yield self._tx
            self._commit(begun)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """See one consistent state of the ledger for the length of the block."""
        with self._taking_turns():
            self._begin(_BEGIN_READ)
            with self._undone_where_it_fails():
                yield self._tx
                self._connection.execute("COMMIT")

    def database(self) -> Database:
        """How far away it is, and what it is."""
        with self.read():
            conn = self._connection
            took_ms = min(_round_trip_ms(conn) for _ in range(5))
            info = conn.info
            version = f"{info.server_version // 10000}.{info.server_version % 10000}"
            is_local = not info.host or info.host.startswith("/") or info.host in ("localhost", "127.0.0.1", "::1")
            return Database(self.place, version, took_ms, self._ahead_ms, bool(conn.pgconn.ssl_in_use), is_local)

    def changes(self) -> int:
        """Another number each time: to ask the database costs as much as to look."""
        self._asked += 1
        return self._asked

    def audit(self) -> Audit:
        """Prove the sums against the entries, on one consistent state; reads the whole ledger."""
        with self.patiently(), self.read():
            return audit(_Statements(self._connection))

    def backup(self, target: Path) -> None:
        """Write a consistent copy as a SQLite file, readable by the owner only."""
        with self.patiently(), self.read():
            copy_to_file(_Statements(self._connection), target, self._machine.machine_id)

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """Let statements that go through the whole ledger take their time."""
        with self._taking_turns():
            self._begin(_BEGIN_READ)  # connects again, where that is needed
            self._connection.execute("COMMIT; SET idle_in_transaction_session_timeout = 0")
            conn = self._connection
        before, conn.silence_s = conn.silence_s, PATIENCE_S
        try:
            yield
        finally:
            conn.silence_s = before
            with self._taking_turns():
                if not conn.closed:
                    conn.execute(f"SET idle_in_transaction_session_timeout = {IDLE_MS}")

    # Transactions

    @contextmanager
    def _taking_turns(self) -> Iterator[None]:
        """Be the only thread that uses the connection; where the one before has just failed, fail with it at once."""
        failures = self._failures
        with self._turn:
            if self._failures != failures and self._last_failure is not None:
                raise LedgerError(self._last_failure.message)
            with self._explained():
                yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with explained(self.place):
                yield
        except LedgerError as error:
            self._failures += 1
            self._last_failure = error
            raise

    def _begin(self, sql: str) -> _Begun:
        for tried in range(TRIES):
            if self._conn is None or self._conn.closed:
                self._connect()
            try:
                cursor = self._connection.execute(sql)
                cursor.nextset()
                _, number, pid, now_ms = cursor.fetchone() or (None, None, 0, 0)
            except psycopg.errors.LockNotAvailable:
                self._connection.execute("ROLLBACK")
                if tried == TRIES - 1:
                    raise
            except psycopg.OperationalError as error:
                if tried or isinstance(error, Lost) or not self._connection.closed:
                    raise
            else:
                self._ahead_ms = now_ms - self._clock()
                return _Begun(number, pid)
        raise Lost("the connection is lost as often as it is made")

    @contextmanager
    def _undone_where_it_fails(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self._conn is not None and not self._conn.closed:
                with suppress(psycopg.Error):
                    self._conn.execute("ROLLBACK")
            raise

    def _commit(self, begun: _Begun) -> None:
        try:
            self._connection.execute("COMMIT")
        except psycopg.Error:
            if not self._connection.closed:
                raise
            self._doubt = begun
            try:
                was_committed = self._connect()
            except (psycopg.Error, LedgerError):
                raise LedgerInDoubt(
                    f"The ledger {self.place}: it went away while this was written, so nobody knows yet whether it "
                    "was; look at pool-mcp runs before you ask again"
                ) from None
            if not was_committed:
                raise

    @property
    def _connection(self) -> _Impatient:
        assert self._conn is not None
        return self._conn

    # Connecting

    def _connect(self) -> bool:
        """Connect; whether the transaction that was in doubt, if there is one, was committed."""
        self._conn = None
        conn = _Impatient.connect(self._url, **_defaults(self._url))
        try:
            given = conn.info.get_parameters().get("connect_timeout")
            conn.silence_s = max(conn.silence_s, float(given or 0))
            self._prepare(conn)
            was_committed = self._end_doubt(conn)
        except BaseException:
            conn.close()
            raise
        self._conn = conn
        self._tx = Transaction(_Statements(conn), self._machine.machine_id)
        return was_committed

    def _end_doubt(self, conn: _Impatient) -> bool:
        """What became of the transaction whose commit was not answered; it cannot go on afterwards."""
        if self._doubt is None:
            return False
        status = _status(conn, self._doubt)
        if status == "in progress":
            conn.execute("SELECT pg_terminate_backend(%s, 1000)", (self._doubt.pid,))
            status = _status(conn, self._doubt)
        if status == "in progress":
            raise Lost("what was written last is not decided yet")
        self._doubt = None
        return status == "committed"

    def _prepare(self, conn: _Impatient) -> None:
        conn.adapters.register_dumper(bool, _Boolean)
        conn.adapters.register_dumper(int, Int8Dumper)
        conn.adapters.register_loader("numeric", _Number)
        cursor = conn.execute(_SESSION)
        while cursor.nextset():
            pass
        version, encoding, schema, has_steps = cursor.fetchone() or (0, "", None, False)
        if version < OLDEST:
            raise LedgerError(f"The ledger {self.place}: PostgreSQL 14 or newer is needed; upgrade it")
        if encoding != "UTF8":
            raise LedgerError(f"The ledger {self.place}: the database must be made with ENCODING 'UTF8'")
        if schema is None:
            raise LedgerError(f"The ledger {self.place}: the role has no schema; give it one that it owns")
        taken = _taken(conn) if has_steps else []
        known = [step.name for step in migrations.STEPS]
        if newer := [name for name in taken if name not in known]:
            raise LedgerError(
                f"The ledger {self.place} was written by a newer pool-mcp (it has the step {newer[0]}); "
                "upgrade this one"
            )
        if len(taken) < len(known):
            _migrate(conn)
        conn.execute(_HERE, tuple(self._machine))


def _round_trip_ms(conn: _Impatient) -> float:
    """By the database's clock alone: from a statement's beginning to the next one's."""
    times = [conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone() for _ in range(2)]
    return 1000 * (times[1][0] - times[0][0]) if times[0] and times[1] else 0.0


def _status(conn: _Impatient, begun: _Begun) -> str | None:
    row = conn.execute("SELECT pg_xact_status(%s::xid8)", (begun.number,)).fetchone()
    return None if row is None else row[0]


def _taken(conn: _Impatient) -> list[str]:
    return [name for (name,) in conn.execute("SELECT name FROM pool_mcp_steps ORDER BY number")]


def _migrate(conn: _Impatient) -> None:
    """Take the steps that the ledger has not taken yet, all or none, one machine at a time."""
    before, conn.silence_s = conn.silence_s, PATIENCE_S
    with conn.transaction():
        conn.execute("SET LOCAL lock_timeout = 60000")
        conn.execute(f"SELECT {_LOCK}")
        conn.execute(_STEPS)
        taken = _taken(conn)
        for number, step in enumerate(migrations.STEPS):
            if step.name not in taken:
                conn.execute(dialect.schema(step).encode())
                conn.execute(
                    "INSERT INTO pool_mcp_steps VALUES (%s, %s, %s)", (number, step.name, str(datetime.now(UTC)))
                )
        conn.execute(dialect.views(migrations.STEPS).encode())
    conn.silence_s = before


def _defaults(url: str) -> dict[str, Any]:
    """What the URL may say otherwise: quick to notice that the database is away, and known by its name there."""
    given = psycopg.conninfo.conninfo_to_dict(url)
    wanted: dict[str, Any] = {
        "connect_timeout": CONNECT_S,
        "application_name": "pool-mcp",
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "client_encoding": "UTF8",
    }
    return {"autocommit": True, **{name: value for name, value in wanted.items() if name not in given}}


def query(url: str, sql: str, most: int) -> tuple[list[str], list[tuple[object, ...]]]:
    """The columns and rows of one statement of a person's own, which cannot change anything.

    Raises:
        InvalidRequest: the database refuses the statement.
        LedgerError: the database is away.
    """
    with explained(place_of(url)), psycopg.connect(url, **_defaults(url)) as conn:
        conn.adapters.register_loader("numeric", _Number)
        conn.execute("SET default_transaction_read_only = on")
        try:
            cursor = conn.execute(sql.encode(), prepare=True)  # only one statement can be prepared
            return [column.name for column in cursor.description or ()], cursor.fetchmany(most)
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.InternalError) as error:
            said = error.diag.message_primary or str(error)
            raise InvalidRequest(f"PostgreSQL refuses this: {said}. docs/ledger.md has the tables.") from None
