"""One writer at a time, who also makes the checkpoints: so nothing is lost on any SQLite, and nobody waits for ever."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ledger_writes import book, spent

from lost_commits import try_to_lose
from pool_mcp.errors import LedgerError
from pool_mcp.ledger import sqlite as ledger_module
from pool_mcp.ledger import write_ahead
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.quick_look import glance
from pool_mcp.model import NANO
from pool_mcp.system.locks import wait_for_lock

HOLD = """
import sys
from pathlib import Path
from pool_mcp.system.locks import wait_for_lock
with wait_for_lock(Path(sys.argv[1]), 10):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is writing and does not come to an end."""
    Ledger(path).close()
    command = [sys.executable, "-c", HOLD, str(write_ahead.lock_path(path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_no_commit_is_lost_however_many_write_and_however_often_the_log_starts_again(path: Path) -> None:
    found = try_to_lose(path, processes=3, transactions=1200)
    assert (found.lost, found.problems) == (0, ())


def test_a_write_waits_for_the_writer_before_it_and_says_who_is_in_the_way(
    path: Path, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Ledger(path)) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(ledger_module, "BUSY_TIMEOUT_S", 0.05)
            with pytest.raises(LedgerError, match=r"another process held it for 30 s; call again"):
                book(ledger, "run", NANO)
        assert spent(ledger) == 0, "readers wait for nobody"
        assert holder.stdin is not None
        release = threading.Timer(0.05, holder.stdin.close)
        release.start()
        book(ledger, "run", NANO)
        release.join()
        assert spent(ledger) == NANO


def test_a_reader_goes_on_while_its_own_process_waits_to_write(path: Path, holder: subprocess.Popen[bytes]) -> None:
    with closing(Ledger(path)) as ledger:
        writer = threading.Thread(target=book, args=(ledger, "run", NANO))
        writer.start()
        assert spent(ledger) == 0
        assert writer.is_alive()
        holder.kill()  # its lock ends with it
        writer.join()
        assert spent(ledger) == NANO


def test_the_status_line_reads_while_another_writes_and_records_nothing(
    path: Path, holder: subprocess.Popen[bytes]
) -> None:
    reached = []
    with glance(path, 0.05) as look:
        assert look is not None
        reached.append(look.spent_nanousd("personal", 0))
        look.record("personal", {"five_hour": (10.0, None)}, 0)
        reached.append(1)
    assert reached == [0]
    assert holder.poll() is None


def test_a_lock_is_released_though_a_child_was_forked_while_it_was_held(tmp_path: Path) -> None:
    lock, (ours, its) = tmp_path / "lock", multiprocessing.Pipe()
    with wait_for_lock(lock, 0):
        child = multiprocessing.get_context("fork").Process(target=its.recv)
        child.start()
    with wait_for_lock(lock, 0):
        assert child.is_alive()
    ours.send("go")
    child.join()


def test_a_lock_whose_file_was_removed_is_taken_on_the_new_file(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with wait_for_lock(lock, 0):
        lock.unlink()
        with wait_for_lock(lock, 0), pytest.raises(TimeoutError), wait_for_lock(lock, 0):
            pass


def pages_in_ledger(path: Path) -> int:
    return path.stat().st_size // 4096


def test_the_log_is_copied_into_the_ledger_once_it_is_long_and_never_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Ledger(path)) as ledger:
        before = path.read_bytes()
        for number in range(20):
            book(ledger, f"run-{number}", NANO)
        assert path.read_bytes() == before
        monkeypatch.setattr(write_ahead, "CHECKPOINT_FRAMES", 50)
        book(ledger, "last", NANO)
        assert path.read_bytes() != before
        size = (path.parent / "ledger.db-wal").stat().st_size
        for number in range(200):
            book(ledger, f"more-{number}", NANO)
        assert (path.parent / "ledger.db-wal").stat().st_size == size, "the log starts again and does not grow"


def test_the_last_to_close_leaves_one_whole_file(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        book(ledger, "run", NANO)
        with closing(Ledger(path)) as second:
            assert spent(second) == NANO
        assert (path.parent / "ledger.db-wal").exists()
    assert sorted(one.name for one in path.parent.iterdir()) == ["ledger.db", "ledger.lock"]
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        assert conn.execute("SELECT sum(cost_nanousd) FROM entries").fetchone() == (NANO,)


def test_who_may_not_close_under_the_lock_closes_all_the_same(path: Path, holder: subprocess.Popen[bytes]) -> None:
    ledger = Ledger(path)
    ledger.close()
    assert holder.poll() is None


def test_a_person_reads_with_any_program_while_servers_write(path: Path, holder: subprocess.Popen[bytes]) -> None:
    with closing(sqlite3.connect(path)) as person:
        assert person.execute("SELECT count(*) FROM entries").fetchone() == (0,)
    assert holder.poll() is None


def after_power_cut(path: Path, extra: int) -> Path:
    """A copy as a power cut leaves it: the log whole, and in the ledger the beginning of a page that the log holds."""
    with closing(Ledger(path)) as ledger:
        for number in range(30):
            book(ledger, f"run-{number}", NANO)
        copy = path.parent / "after"
        copy.mkdir()
        for name in ("ledger.db", "ledger.db-wal"):
            shutil.copy(path.parent / name, copy / name)
    with (copy / "ledger.db").open("ab") as file:
        file.write(b"\xaa" * extra)
    return copy / "ledger.db"


def test_a_page_that_is_cut_in_the_ledger_and_whole_in_the_log_is_no_damage(path: Path) -> None:
    for number in range(30):  # so that the log's pages lie behind the ledger's end
        with closing(Ledger(path)) as ledger:
            book(ledger, f"before-{number}", NANO)
    copy = after_power_cut(path, 1000)
    with closing(Ledger(copy)) as ledger:
        assert spent(ledger) == 60 * NANO
        assert ledger.audit().problems == ()


def test_a_killed_writer_leaves_the_lock_and_a_sound_ledger(path: Path) -> None:
    Ledger(path).close()
    code = """
import os, signal, sys
from pathlib import Path
from ledger_writes import reserve
from pool_mcp.ledger.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
with ledger.write() as tx:
    tx.runs.insert_ask("half", "host", None, "", 0)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "fakes")}
    killed = subprocess.run([sys.executable, "-c", code, str(path)], env=env, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    with closing(Ledger(path)) as ledger:
        book(ledger, "run", NANO)
        assert ledger.audit().problems == ()


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 1), True),
        ((3, 50, 4), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_builds_with_the_bug_are_known(version: tuple[int, int, int], has_it: bool) -> None:
    assert write_ahead.has_wal_reset_bug(version) == has_it


def test_sqlite_makes_no_checkpoint_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_ahead, "CHECKPOINT_FRAMES", 1_000_000)
    with closing(Ledger(path)) as ledger:
        before = path.read_bytes()
        with ledger.write() as tx:
            for number in range(1500):
                tx.runs.insert_ask(f"ask-{number}", "host", None, "x" * 4000, 0)
        assert path.with_name("ledger.db-wal").stat().st_size > 1000 * 4096
        assert path.read_bytes() == before
