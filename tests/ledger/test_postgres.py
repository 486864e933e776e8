"""The ledger on PostgreSQL: the same rows as on SQLite, and what happens when the database is away."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from database import Server
from ledger_writes import NOW_MS, book, new_run, reserve, rows, settle, spent
from wire import Wire

from pool_mcp.errors import LedgerError, LedgerInDoubt
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import NANO

SILENCE_S = 4
"""What is taken for a partition here, where a busy machine is none."""
REFUSED_S = 10.0
"""Within which an ask is refused while the database is away: far less than a network would take to say so."""


def local_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def url(postgres: Server) -> str:
    return postgres.new_database()


@pytest.fixture
def ledger(url: str, tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db", url, local_ms)) as ledger:
        yield ledger


@pytest.fixture
def wire(postgres: Server) -> Iterator[Wire]:
    with closing(Wire(postgres.port)) as wire:
        yield wire


@pytest.fixture
def remote(wire: Wire, url: str, tmp_path: Path) -> Iterator[Ledger]:
    """The same ledger, through a network that the test controls."""
    with closing(Ledger(tmp_path / "ledger.db", wire.url(url, SILENCE_S), local_ms)) as ledger:
        yield ledger


def test_nothing_of_postgres_is_loaded_for_a_file(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from pool_mcp.ledger.ledger import Ledger; Ledger(Path(sys.argv[1]))"
    code += "; print(*{'psycopg', 'pool_mcp.ledger.postgres', 'pool_mcp.ledger.dialect'} & set(sys.modules))"
    command = [sys.executable, "-c", code, str(tmp_path / "ledger.db")]
    assert subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.split() == []


def test_a_backup_is_a_sqlite_ledger_with_the_same_rows(ledger: Ledger, tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "file.db")) as file:
        for one in (ledger, file):
            book(one, "first", 3 * NANO)
            book(one, "second", NANO, NOW_MS + 1)
            reserve(one, "third", NANO)
        file_rows = rows(tmp_path / "file.db")
    ledger.backup(tmp_path / "copy.db")
    assert {**rows(tmp_path / "copy.db"), "machines": []} == file_rows
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    with closing(Ledger(tmp_path / "copy.db")) as copy:
        assert copy.audit() == ledger.audit()


def test_machines_write_one_after_the_other(url: str, tmp_path: Path) -> None:
    """Each reads a sum and writes what it makes of it: where two did so at once, one would be lost."""

    def work(name: str) -> None:
        with closing(Ledger(tmp_path / "ledger.db", url, local_ms)) as ledger:
            for number in range(10):
                with ledger.write() as tx:
                    sofar = tx.balances.caller_reserved_nanousd("host")
                    tx.runs.insert_ask(f"{name}-{number}", "host", None, "", NOW_MS)
                    tx.runs.insert(new_run(f"{name}-{number}", sofar + 1))

    threads = [threading.Thread(target=work, args=(f"machine-{one}",)) for one in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    with closing(Ledger(tmp_path / "ledger.db", url, local_ms)) as ledger, ledger.read() as tx:
        assert tx.balances.caller_reserved_nanousd("host") == 2**40 - 1


def test_a_reader_sees_one_state(ledger: Ledger, url: str, tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db", url, local_ms)) as other:
        book(other, "first", NANO)
        with ledger.read() as tx:
            assert tx.balances.spent_nanousd("personal", 0) == NANO
            book(other, "second", NANO)
            assert tx.balances.spent_nanousd("personal", 0) == NANO
        assert spent(ledger) == 2 * NANO


# The time


def test_all_machines_go_by_the_database_s_clock(url: str, tmp_path: Path) -> None:
    def slow() -> int:
        return local_ms() - 600_000

    with closing(Ledger(tmp_path / "ledger.db", url, slow)) as ledger:
        assert ledger.take_lease("import", 60_000, ledger.clock(slow))
        with closing(Ledger(tmp_path / "ledger.db", url, local_ms)) as other:
            assert not other.take_lease("import", 60_000, other.clock(local_ms))
            assert abs(ledger.clock(slow)() - other.clock(local_ms)()) < 60_000


# When it is away


def refused_in_s(ledger: Ledger) -> float:
    began = time.monotonic()
    with pytest.raises(LedgerError, match=r"^The ledger ledger_\d+ at 127\.0\.0\.1:\d+: cannot be reached"):
        book(ledger, "refused", NANO)
    return time.monotonic() - began


def test_a_partition_refuses_at_once_and_leaves_nothing(remote: Ledger, ledger: Ledger, wire: Wire) -> None:
    book(remote, "before", NANO)
    wire.go_silent()
    assert refused_in_s(remote) < REFUSED_S
    assert refused_in_s(remote) < REFUSED_S
    wire.come_back()
    book(remote, "after", NANO)
    assert spent(ledger) == 2 * NANO
    with ledger.read() as tx:
        assert tx.runs.unfinished() == []


def test_a_partition_in_the_middle_of_a_transaction_undoes_it_and_frees_the_lock(
    remote: Ledger, ledger: Ledger, wire: Wire
) -> None:
    with pytest.raises(LedgerError, match="cannot be reached"), remote.write() as tx:  # noqa: PT012
        tx.runs.insert_ask("lost", "host", None, "", NOW_MS)
        wire.go_silent()
        tx.runs.insert(new_run("lost", NANO))
    wire.come_back()
    book(ledger, "next", NANO)
    with remote.read() as tx:
        assert tx.runs.get("lost") is None


def test_a_commit_whose_answer_is_lost_is_one_that_was_made(remote: Ledger, ledger: Ledger, wire: Wire) -> None:
    reserve(remote, "run", NANO)
    with remote.write() as tx:
        tx.runs.change_reservation("run", 7)
        wire.lose_replies()
    with ledger.read() as tx:
        assert tx.runs.reserved_nanousd("run") == 7
    settle(remote, "run", 7)
    assert spent(ledger) == 7


def test_a_commit_that_did_not_arrive_is_undone_for_ever(remote: Ledger, ledger: Ledger, wire: Wire) -> None:
    reserve(remote, "run", NANO)
    with pytest.raises(LedgerInDoubt, match="nobody knows yet"), remote.write() as tx:  # noqa: PT012
        tx.runs.change_reservation("run", 7)
        wire.go_silent()
    wire.come_back()
    with remote.read() as tx:
        assert tx.runs.reserved_nanousd("run") == NANO
    with ledger.write() as tx:
        assert tx.runs.reserved_nanousd("run") == NANO


def test_a_server_that_is_started_again_is_found_again(tmp_path: Path) -> None:
    import database

    with database.running() as server:
        url = server.new_database()
        with closing(Ledger(tmp_path / "ledger.db", url, local_ms)) as ledger:
            book(ledger, "before", NANO)
            server.stop()
            assert refused_in_s(ledger) < REFUSED_S
            server.start()
            book(ledger, "after", NANO)
            assert spent(ledger) == 2 * NANO
            server.rows(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            book(ledger, "after a killed backend", NANO)
            assert ledger.audit().problems == ()


# What it says


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://pool:hunter2@127.0.0.1:1/pool", r"The ledger pool at 127\.0\.0\.1:1: cannot be reached; .*"),
        ("postgresql://pool:hunter2%zz@host/pool", r"\[ledger\] url in pool\.toml is not a PostgreSQL URL; .*"),
        ("postgresql://pool@127.0.0.1:1/pool?nonsense=hunter2", r"\[ledger\] url in pool\.toml is not .*"),
    ],
)
def test_a_failure_says_where_and_never_holds_a_password(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(LedgerError, match=said) as failure:
        Ledger(tmp_path / "ledger.db", url, local_ms)
    chain = [failure.value, failure.value.__cause__]
    assert not any("hunter2" in str(one) for one in chain)


def test_a_ledger_of_a_newer_program_is_refused(ledger: Ledger, postgres: Server, url: str, tmp_path: Path) -> None:
    postgres.rows(url, "INSERT INTO pool_mcp_steps VALUES (999, 'm_later', '2099')")
    with pytest.raises(LedgerError, match=r"written by a newer pool-mcp \(it has the step m_later\); upgrade this one"):
        Ledger(tmp_path / "ledger.db", url, local_ms)


def test_a_role_that_may_not_make_tables_is_told_so(postgres: Server, url: str, tmp_path: Path) -> None:
    postgres.rows(url, "CREATE ROLE guest LOGIN")
    with pytest.raises(LedgerError, match=r"the role may not do this; it has to own its schema"):
        Ledger(tmp_path / "ledger.db", url.replace("pool@", "guest@"), local_ms)
