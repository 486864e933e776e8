"""A person's own SQL reads the ledger, and can change neither it nor anything else on the disk."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import make_home, open_ledger

from pool_mcp.errors import InvalidRequest
from pool_mcp.ledger.query import query


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    settings, _ = make_home(tmp_path)
    open_ledger(settings).close()
    return settings.ledger_path


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM entries",
        "SELECT 1; DROP TABLE entries",
        "VACUUM INTO 'copy.db'",
        "ATTACH 'other.db' AS other",
        "CREATE TEMP TABLE t AS SELECT 1",
        "PRAGMA user_version = 5",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA writable_schema = 1",
        "BEGIN IMMEDIATE",
        "REINDEX",
        "SELECT load_extension('x')",
        "SELECT zeroblob(1000000000)",
        "SELECT '\udcff'",
    ],
)
def test_what_does_more_than_read_is_refused_and_leaves_nothing(
    ledger: Path, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ledger.parent)
    query(ledger, "SELECT count(*) FROM entries")  # which leaves SQLite's own index of the log
    before = content(ledger.parent)
    with pytest.raises(InvalidRequest, match="SQLite refuses this"):
        query(ledger, sql)
    assert content(ledger.parent) == before


def content(folder: Path) -> dict[str, bytes]:
    """The files and what is in them, but for the index, in which SQLite notes who reads."""
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    return {name: b"" if name.endswith("-shm") else path.read_bytes() for name, path in files.items()}


@pytest.mark.parametrize("sql", ["SELECT count(*) FROM entries", "PRAGMA table_info(runs)", "EXPLAIN SELECT 1"])
def test_what_reads_is_answered(ledger: Path, sql: str) -> None:
    assert query(ledger, sql)[1]


def command(ledger: Path, *arguments: str) -> "subprocess.Popen[str]":
    env = {"PATH": "/usr/bin:/bin", "HOME": str(ledger.parent), "POOL_MCP_HOME": str(ledger.parent)}
    program = [sys.executable, "-m", "pool_mcp", "ledger", "query", *arguments]
    return subprocess.Popen(program, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_every_value_has_a_form_in_json(ledger: Path) -> None:
    with command(ledger, "SELECT x'00ff' AS b, 9e999 AS i, NULL AS n, 1.5 AS f", "--json") as ran:
        assert json.loads(ran.communicate()[0]) == [{"b": "00ff", "i": None, "n": None, "f": 1.5}]


def test_ctrl_c_ends_a_query_without_an_end(ledger: Path) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    with command(ledger, endless) as ran:
        try:
            while not has_open(ran.pid, ledger):
                assert ran.poll() is None
            ran.send_signal(signal.SIGINT)
            assert "Traceback" not in ran.communicate(timeout=60)[1]
        finally:
            ran.kill()


def has_open(pid: int, file: Path) -> bool:
    """Whether a process has a file open."""
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if one.samefile(file):
                return True
    return False
