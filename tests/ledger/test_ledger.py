"""The ledger's file: private, shared by many processes, and never made worse by a disk, a person or a clock."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

import pytest
from ledger_writes import NOW_MS, book, new_run, reserve, settle, spent

from pool_mcp.errors import LedgerError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import DAY_MS, HOUR_MS, NANO, WEEK_MS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of three entries that nobody has open."""
    path = tmp_path / "ledger.db"
    with closing(Ledger(path)) as ledger:
        for number in range(3):
            book(ledger, f"run-{number}", NANO)
    return path


# Who may read it


def modes(folder: Path) -> dict[str, str]:
    return {str(one.relative_to(folder)): f"{one.stat().st_mode & 0o777:o}" for one in sorted(folder.rglob("*"))}


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_open_umask")
def test_every_file_and_folder_is_for_the_owner_only(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "state" / "pool" / "ledger.db")) as ledger:
        book(ledger, "run", NANO)
        ledger.backup(tmp_path / "state" / "copies" / "ledger.db")
        assert modes(tmp_path) == {
            "state": "700",
            "state/copies": "700",
            "state/copies/ledger.db": "600",
            "state/pool": "700",
            "state/pool/ledger.db": "600",
            "state/pool/ledger.db-shm": "600",
            "state/pool/ledger.db-wal": "600",
            "state/pool/ledger.lock": "600",
        }


def test_a_ledger_that_was_copied_for_all_to_read_is_made_private_again(path: Path) -> None:
    path.chmod(0o644)
    with closing(Ledger(path)) as ledger:
        book(ledger, "run", NANO)
        assert set(modes(path.parent).values()) == {"600"}


def test_a_server_loads_nothing_that_takes_long_before_it_is_needed(path: Path) -> None:
    code = """
import sys
from pathlib import Path
import pool_mcp.cli.main, pool_mcp.server.server
from pool_mcp.ledger.ledger import Ledger
Ledger(Path(sys.argv[1])).close()
heavy = {"genai_prices", "jsonschema", "numpy", "PIL", "rich", "sqlite_utils"}
print(*heavy & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == []


# What it refuses, without touching it


def test_a_ledger_of_a_newer_program_is_refused_and_left_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('pool_mcp', 'm999_later', '2099')"
        )
    before = contents(path.parent)
    with pytest.raises(
        LedgerError, match=r"ledger\.db was written by a newer pool-mcp .*m999_later.*; upgrade this one"
    ):
        Ledger(path)
    assert contents(path.parent) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir()}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"subscription,cost\npersonal,1.25\n" * 100, id="text"),
        pytest.param(b"\0" * 8192, id="zeros"),
        pytest.param(os.urandom(8192), id="noise"),
        pytest.param(b"SQLite format 3\0" + b"\xff" * 8176, id="a header and nothing behind it"),
    ],
)
def test_what_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"The ledger .*ledger\.db: it is (not a SQLite file|damaged)"):
        Ledger(path)
    assert contents(tmp_path) == {"ledger.db": content}


@pytest.mark.parametrize("share", [0.999, 0.5, 0.1, 0.01])
def test_a_ledger_that_was_cut_short_is_refused_and_left_as_it_is(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))
    before = contents(path.parent)
    with pytest.raises(LedgerError, match=r"it is (damaged|not a SQLite file).*put a backup in its place"):
        Ledger(path)
    assert contents(path.parent) == before


def test_a_ledger_cut_at_a_page_is_refused_and_left_as_it_is(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2 * 4096)
    before = contents(path.parent)
    with pytest.raises(LedgerError, match="it is damaged"):
        Ledger(path)
    assert contents(path.parent) == before


def test_wherever_a_page_is_damaged_it_is_told_and_never_answered_with_a_wrong_sum(path: Path) -> None:
    whole = path.read_bytes()
    for page in range(len(whole) // 4096):
        for damage in (b"\0" * 4096, b"\xa5" * 4096):
            path.write_bytes(whole[: page * 4096] + damage + whole[(page + 1) * 4096 :])
            assert _what_a_damaged_ledger_says(path) in ("refused", "found by the audit")
            assert path.stat().st_size >= len(whole)
    path.write_bytes(whole)
    assert _what_a_damaged_ledger_says(path) == "sound"


def _what_a_damaged_ledger_says(path: Path) -> str:
    for side in ("-wal", "-shm"):
        path.with_name(path.name + side).unlink(missing_ok=True)
    try:
        with closing(Ledger(path)) as ledger:
            problems = ledger.audit().problems
            if not problems:
                assert spent(ledger) == 3 * NANO
                assert spent(ledger, NOW_MS) == 3 * NANO
            return "found by the audit" if problems else "sound"
    except LedgerError as error:
        assert "it is damaged" in error.message or "not a SQLite file" in error.message  # noqa: PT017
        return "refused"


def test_a_ledger_that_is_moved_away_under_a_server_takes_no_more_until_it_is_back(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        reserve(ledger, "run", NANO)
        path.rename(path.with_suffix(".aside"))
        with pytest.raises(LedgerError, match="was moved or replaced while it was in use; put it back, or restart"):
            settle(ledger, "run", NANO)
        path.with_suffix(".aside").rename(path)
        settle(ledger, "run", NANO)
    with closing(Ledger(path)) as ledger:
        assert spent(ledger) == 4 * NANO


def test_a_backup_put_in_place_under_a_server_is_not_written_to(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.backup(path.with_suffix(".bak"))
        reserve(ledger, "run", NANO)
        path.with_suffix(".bak").rename(path)
        with pytest.raises(LedgerError, match="restart every server that uses it"):
            settle(ledger, "run", NANO)


def test_entries_can_be_neither_changed_nor_given_a_second_time(path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        with pytest.raises(sqlite3.IntegrityError, match="entries are never changed; book a further one"):
            conn.execute("UPDATE entries SET cost_nanousd = 0")
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            conn.execute(
                "INSERT INTO entries SELECT 99, kind, run_id, at_ms, block_start_ms, subscription, session_id, caller,"
                " source, cost_nanousd, is_estimate, note, project, branch, machine_id FROM entries LIMIT 1"
            )


# Disks

CHILD = """
import json, os, resource, sqlite_utils, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[1])
from ledger_writes import book, reserve, settle, spent
from pool_mcp.errors import LedgerError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import NANO
uid, folder = int(sys.argv[2]), Path(sys.argv[3])
if os.geteuid() == 0:
    # Root may write what is read-only; so be somebody else, now that everything is imported.
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
path = folder / "ledger.db"
def attempt(function, *arguments):
    try:
        function(*arguments)
    except LedgerError as error:
        return error.message
    return "done"
"""

NOBODY = 65534


def run_child(folder: Path, program: str, *prefix: str) -> Any:
    """Run a program as an ordinary user on a folder of its own, and give what it printed as JSON."""
    command = [*prefix, sys.executable, "-c", CHILD + program, json.dumps(sys.path), str(NOBODY), str(folder)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.fixture
def users_folder() -> Iterator[Path]:
    """A folder that an ordinary user owns and reaches, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-"))
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    yield folder
    for one in (folder, *folder.rglob("*")):
        one.chmod(0o700)
    shutil.rmtree(folder)


def test_a_read_only_ledger_or_folder_is_told_and_nothing_is_lost(users_folder: Path) -> None:
    said = run_child(
        users_folder,
        """
ledger = Ledger(path); book(ledger, "one", NANO); ledger.close()
said = {}
path.chmod(0o400)
said["file"] = attempt(Ledger, path)
path.chmod(0o600); folder.chmod(0o500)
said["folder"] = attempt(lambda: book(Ledger(path), "two", NANO))
said["new ledger"] = attempt(Ledger, folder / "deeper" / "ledger.db")
folder.chmod(0o000)
said["closed folder"] = attempt(Ledger, path)
folder.chmod(0o700)
ledger = Ledger(path)
said["spent"] = spent(ledger)
print(json.dumps(said))
""",
    )
    path = users_folder / "ledger.db"
    assert said == {
        "file": f"The ledger {path}: it is read-only; make the file and its folder writable for you",
        "folder": f"The ledger {path}: it is read-only; make the file and its folder writable for you "
        "(attempt to write a readonly database)",
        "new ledger": f"The ledger {users_folder / 'deeper' / 'ledger.db'}: Permission denied; check its folder",
        "closed folder": f"The ledger {path}: Permission denied; check its folder",
        "spent": NANO,
    }


FILL = """
ledger = Ledger(path)
book(ledger, "first", NANO)
reserve(ledger, "last", NANO)
{fill}
booked, said = 0, "done"
while said == "done":
    said = attempt(book, ledger, f"run-{{booked}}", NANO)
    booked += said == "done"
again = attempt(settle, ledger, "last", NANO)
seen = spent(ledger)
{empty}
late = attempt(settle, ledger, "last", NANO) if again != "done" else again
ledger.close()
ledger = Ledger(path)
problems = [problem.meaning for problem in ledger.audit().problems]
with ledger.read() as tx:
    unfinished = [run.run_id for run in tx.runs.unfinished()]
print(json.dumps([said, booked, seen, late, spent(ledger), problems, unfinished]))
"""


def assert_nothing_was_lost(result: Any, advice: str) -> None:
    said, booked, seen, late, spent_after, problems, unfinished = result
    assert advice in said
    assert booked > 5, "the disk was full before it began"
    assert late == "done", "what could not be booked is booked once there is room"
    assert seen in ((1 + booked) * NANO, (2 + booked) * NANO), "what is committed can be read on a full disk"
    assert spent_after == (2 + booked) * NANO
    assert problems == []
    # The run that met the full disk may have got as far as its reservation; it is still there to be settled.
    assert len(unfinished) <= 1


SMALL_DISK = """
mount -t tmpfs -o size=3m,mode=777 none "$0"
head -c 1m /dev/zero >"$0/ballast"
chmod 666 "$0/ballast"
exec "$@"
"""


def test_a_full_disk_is_told_and_nothing_is_lost(users_folder: Path) -> None:
    program = FILL.format(fill="", empty="(folder / 'ballast').unlink()")
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    try:
        possible = subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", users_folder], check=False).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("no small disk can be mounted here; a file that may not grow stands for it")
    result = run_child(users_folder, program, *unshare, "sh", "-ec", SMALL_DISK, str(users_folder))
    assert_nothing_was_lost(result, "the disk is full; free some space and call again")


def test_a_file_that_may_not_grow_is_told_and_nothing_is_lost(users_folder: Path) -> None:
    result = run_child(
        users_folder,
        FILL.format(
            fill="soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))",
            empty="resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))",
        ),
    )
    assert_nothing_was_lost(result, "the disk cannot be read or written; check its space and health")


# Many processes

PROCESSES = 6


@pytest.fixture(scope="module")
def manager() -> Iterator[SyncManager]:
    with multiprocessing.get_context("spawn").Manager() as manager:
        yield manager


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """As many processes as tasks, each with the module imported."""
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as processes:
        yield processes


def at_once(
    processes: ProcessPoolExecutor, manager: SyncManager, function: Callable[..., Any], *arguments: Any
) -> list[Any]:
    """Call a function in every process at the same moment: ``function(number, barrier, …)``."""
    barrier = manager.Barrier(PROCESSES)
    calls = [processes.submit(function, number, barrier, *arguments) for number in range(PROCESSES)]
    wrong = [error for call in calls if (error := call.exception(timeout=60)) is not None]
    # Whoever fails leaves the others before a barrier that breaks; that is not what went wrong.
    for error in sorted(wrong, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [call.result() for call in calls]


ROUNDS = 8


def open_new_ones(number: int, barrier: threading.Barrier, folder: Path) -> None:
    for turn in range(ROUNDS):
        barrier.wait(30)
        with closing(Ledger(folder / f"new-{turn}" / "ledger.db")) as ledger:
            book(ledger, f"run-{number}", NANO)


def test_processes_that_open_a_new_ledger_at_once_all_succeed(
    tmp_path: Path, processes: ProcessPoolExecutor, manager: SyncManager
) -> None:
    at_once(processes, manager, open_new_ones, tmp_path)
    for turn in range(ROUNDS):
        with closing(Ledger(tmp_path / f"new-{turn}" / "ledger.db")) as ledger:
            assert spent(ledger) == PROCESSES * NANO
            assert ledger.audit().problems == ()


BUDGET = 100 * NANO


def spend_while_there_is_room(number: int, barrier: threading.Barrier, path: Path) -> int:
    with closing(Ledger(path)) as ledger:
        barrier.wait(30)
        for turn in range(1000):
            run_id, price = f"run-{number}-{turn}", NANO * (1 + (number + turn) % 3)
            with ledger.write() as tx:
                held = tx.balances.reserved()
                used = tx.balances.spent_nanousd("personal", 0) + (held["personal"].nanousd if held else 0)
                if used + price > BUDGET:
                    return turn
                tx.runs.insert_ask(run_id, "host", None, "", NOW_MS)
                tx.runs.insert(new_run(run_id, price))
                assert tx.runs.mark_running(run_id, "owner", None, NOW_MS)
            settle(ledger, run_id, price - turn % 2)
        raise AssertionError("a budget that never ends")


def test_processes_that_reserve_at_once_never_exceed_a_budget(
    tmp_path: Path, processes: ProcessPoolExecutor, manager: SyncManager
) -> None:
    path = tmp_path / "ledger.db"
    taken = at_once(processes, manager, spend_while_there_is_room, path)
    with closing(Ledger(path)) as ledger:
        assert BUDGET - 3 * NANO < spent(ledger) <= BUDGET
        audit = ledger.audit()
    assert audit.entries == sum(taken)
    assert audit.problems == ()


TURNS = 15


def come_and_go(number: int, barrier: threading.Barrier, path: Path) -> None:
    """Some stay, some open and close it all the time: the last to close removes the log, if it believes it is last."""
    barrier.wait(30)
    ledger = Ledger(path)
    for turn in range(TURNS):
        if number % 2:
            ledger.close()
            ledger = Ledger(path)
        book(ledger, f"run-{number}-{turn}", NANO)
        assert spent(ledger) >= (turn + 1) * NANO
    ledger.close()


def test_a_locked_database_never_surfaces(path: Path, processes: ProcessPoolExecutor, manager: SyncManager) -> None:
    with closing(sqlite3.connect(path)) as by_hand:
        by_hand.execute("BEGIN")  # somebody looks at it with a tool, and leaves that open
        by_hand.execute("SELECT count(*) FROM entries").fetchone()
        at_once(processes, manager, come_and_go, path)
    with closing(Ledger(path)) as ledger:
        assert spent(ledger) == (3 + PROCESSES * TURNS) * NANO
        assert ledger.audit().problems == ()


def test_a_second_ledger_in_one_process_does_not_lay_the_first_one_open(
    path: Path, processes: ProcessPoolExecutor, manager: SyncManager
) -> None:
    # A process that closes any descriptor of a file loses all of its locks on it.
    with closing(Ledger(path)) as first:
        Ledger(path).close()
        at_once(processes, manager, come_and_go, path)
        book(first, "run", NANO)
        assert processes.submit(spent_in, path).result(timeout=60) == spent(first)


def spent_in(path: Path) -> int:
    with closing(Ledger(path)) as ledger:
        return spent(ledger)


# Clocks


def test_what_was_spent_while_a_clock_was_ahead_still_counts(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        for number, ahead_ms in enumerate((0, 1, HOUR_MS, 3 * DAY_MS, 400 * DAY_MS)):
            book(ledger, f"run-{number}", NANO, NOW_MS + ahead_ms)
        assert spent(ledger, NOW_MS) == 5 * NANO
        assert spent(ledger, NOW_MS - WEEK_MS) == 5 * NANO
        assert ledger.audit().problems == ()


def test_a_run_that_ended_before_it_began_by_the_clock_is_booked_once(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        reserve(ledger, "run", NANO, NOW_MS)
        settle(ledger, "run", NANO, NOW_MS - 2 * DAY_MS)
        assert spent(ledger, NOW_MS - WEEK_MS) == NANO
        with ledger.read() as tx:
            assert tx.balances.reserved() == {}
            assert tx.runs.unfinished() == []
