"""A ledger whose files are moved, removed, replaced or cut while servers have it open: nothing is lost in silence."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from ledger_writes import book, reserve, settle, spent

from pool_mcp.errors import LedgerError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import NANO
from pool_mcp.system.disks import network_file_system

SERVER = """
import sys
from pathlib import Path
from ledger_writes import book, spent
from pool_mcp.errors import LedgerError
from pool_mcp.ledger.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
print("open", flush=True)
for name in sys.stdin:
    try:
        if name.strip():
            book(ledger, name.strip(), 1_000_000_000)
        print(spent(ledger), flush=True)
    except LedgerError as error:
        print(error.message, flush=True)
ledger.close()
"""


MAKE_SMALLER = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
for sql in ("DELETE FROM asks WHERE ask_id LIKE 'ask-%'", "VACUUM", "PRAGMA wal_checkpoint"):
    conn.execute(sql)
"""


class Server:
    """Another process that has the ledger open."""

    def __init__(self, path: Path) -> None:
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "fakes")}
        command = [sys.executable, "-c", SERVER, str(path)]
        self.process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._answer() == "open"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def book(self, name: str) -> str:
        """Book a dollar; what has been spent then, or the error."""
        assert self.process.stdin is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.communicate(timeout=120)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    return path


@pytest.fixture
def servers(path: Path) -> Iterator[tuple[Server, Server]]:
    with ExitStack() as stack:
        found = (Server(path), Server(path))
        for server in found:
            stack.callback(server.close)
        yield found


def remove(path: Path, *sides: str) -> None:
    for side in sides:
        path.with_name(path.name + side).unlink()


@pytest.mark.parametrize("sides", [("-wal",), ("-shm",), ("-wal", "-shm")], ids=" ".join)
def test_whatever_is_removed_beside_the_ledger_no_booking_is_lost(
    path: Path, servers: tuple[Server, Server], sides: tuple[str, ...]
) -> None:
    one, two = servers
    assert [one.book("a"), two.book("b")] == [f"{NANO}", f"{2 * NANO}"]
    for turn in range(2):
        remove(path, *sides)
        assert one.book(f"c{turn}") == f"{(3 + 3 * turn) * NANO}"
        assert two.book(f"d{turn}") == f"{(4 + 3 * turn) * NANO}"
        assert one.book(f"e{turn}") == f"{(5 + 3 * turn) * NANO}"
    for server in servers:
        server.close()
    with closing(Ledger(path)) as ledger:
        assert spent(ledger) == 8 * NANO
        assert ledger.audit().problems == ()


def test_a_log_that_is_removed_within_a_transaction_is_saved_with_it(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        book(ledger, "before", NANO)
        with ledger.write() as tx:
            tx.runs.insert_ask("within", "host", "key", "", 0)
            remove(path, "-wal", "-shm")
    with closing(Ledger(path)) as ledger, ledger.read() as tx:
        assert tx.runs.ask_by_key("host", "key") == ("within", "")
        assert tx.balances.spent_nanousd("personal", 0) == NANO


def test_a_reader_finds_a_log_that_was_removed(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        book(ledger, "run", NANO)
        remove(path, "-wal", "-shm")
        assert spent(ledger) == NANO
    assert path.stat().st_size > 0
    with closing(Ledger(path)) as ledger:
        assert spent(ledger) == NANO


def test_a_look_at_the_ledger_after_its_log_was_removed_takes_nothing_away(
    path: Path, servers: tuple[Server, Server]
) -> None:
    one, two = servers
    assert [one.book("a"), two.book("b")] == [f"{NANO}", f"{2 * NANO}"]
    remove(path, "-wal", "-shm")
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM entries').fetchone())"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)
    assert path.with_name("ledger.db-wal").exists()
    assert [one.book("c"), two.book("d")] == [f"{3 * NANO}", f"{4 * NANO}"]


def test_where_others_have_begun_a_new_log_nothing_is_written_into_the_old_one_nor_copied_from_it(
    path: Path, servers: tuple[Server, Server]
) -> None:
    for number, server in enumerate(servers):
        server.book(f"lost-{number}")
    remove(path, "-wal", "-shm")
    with closing(Ledger(path)) as new:
        book(new, "kept", NANO)
        for name in ("refused", "again", ""):
            assert "others have begun a new one: restart every server" in servers[0].book(name)
    servers[0].close()
    assert "restart every server" in servers[1].book("")
    servers[1].close()
    with closing(Ledger(path)) as ledger:
        assert spent(ledger) == NANO
        assert ledger.audit().problems == ()


def test_a_ledger_that_is_moved_away_within_a_transaction_takes_none_of_it(path: Path) -> None:
    def move_away_within(ledger: Ledger) -> None:
        with ledger.write() as tx:
            tx.runs.insert_ask("within", "host", "key", "", 0)
            path.rename(path.with_suffix(".aside"))

    with closing(Ledger(path)) as ledger:
        with pytest.raises(LedgerError, match="moved or replaced"):
            move_away_within(ledger)
        path.with_suffix(".aside").rename(path)
        with ledger.read() as tx:
            assert tx.runs.ask_by_key("host", "key") is None


def test_while_the_ledger_is_moved_away_no_new_server_removes_its_log(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        reserve(ledger, "run", NANO)
        path.rename(path.with_suffix(".aside"))
        with pytest.raises(LedgerError, match=r"is missing or empty, and its log ledger.db-wal is there"):
            Ledger(path)
        path.with_suffix(".aside").rename(path)
        settle(ledger, "run", NANO)
        with closing(Ledger(path)) as second:
            assert spent(second) == NANO


@pytest.mark.timeout(90)
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9])
def test_a_ledger_that_is_cut_under_a_server_is_refused_by_it_and_at_once_by_every_new_one(
    path: Path, share: float
) -> None:
    with closing(Ledger(path)) as ledger:  # all pages are in the ledger, so that what is cut away is in no log
        for number in range(20):
            book(ledger, f"before-{number}", NANO)
    ledger = Ledger(path)
    book(ledger, "run", NANO)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(LedgerError, match=r"damaged|missing or empty|not a SQLite file"):
        refuse_what_the_audit_refuses(path)
    with pytest.raises(LedgerError, match=r"damaged|not a SQLite file"):
        book(ledger, "refused", NANO)
    ledger.close()


@pytest.mark.timeout(20)
def test_a_ledger_that_is_emptied_under_a_server_with_nothing_in_its_log_is_refused_at_once(path: Path) -> None:
    server = Server(path)
    server.book("run")
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(path, 0)
    with pytest.raises(LedgerError, match="it is empty, and another process has it open"):
        Ledger(path)
    server.close()


def refuse_what_the_audit_refuses(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        assert ledger.audit().problems
    raise LedgerError("damaged")


def test_a_ledger_that_a_person_made_smaller_is_in_use_as_before(path: Path) -> None:
    with closing(Ledger(path)) as ledger, ledger.write() as tx:
        for number in range(2000):
            tx.runs.insert_ask(f"ask-{number}", "host", None, "x" * 100, 0)
    with closing(Ledger(path)) as ledger:
        book(ledger, "run", NANO)
        before = path.stat().st_size
        subprocess.run([sys.executable, "-c", MAKE_SMALLER, str(path)], check=True, timeout=120)
        assert path.stat().st_size < before
        book(ledger, "after", NANO)
        assert spent(ledger) == 2 * NANO


def test_a_copy_with_its_log_is_a_ledger(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        book(ledger, "run", NANO)
        (path.parent / "copy").mkdir()
        for name in ("ledger.db", "ledger.db-wal"):
            shutil.copy(path.with_name(name), path.parent / "copy" / name)
    with closing(Ledger(path.parent / "copy" / "ledger.db")) as ledger:
        assert spent(ledger) == NANO


# On which disks


@pytest.mark.parametrize("is_new", [True, False])
def test_a_disk_on_which_locks_do_nothing_is_refused_and_left_as_it_is(path: Path, is_new: bool) -> None:
    if is_new:
        for one in path.parent.iterdir():
            one.unlink()
    code = """
import fcntl, sys
from pathlib import Path
from pool_mcp.errors import LedgerError
from pool_mcp.ledger.ledger import Ledger
fcntl.flock = lambda *_: None
try:
    Ledger(Path(sys.argv[1]))
except LedgerError as error:
    print(error.message)
"""
    before = sorted(path.parent.iterdir())
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"File locks do nothing on the disk of {path.parent}")
    assert "set POOL_MCP_HOME to a folder on a disk of this machine" in done.stdout
    assert sorted(path.parent.iterdir()) == before


MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:5 / /proc rw - proc proc rw
40 22 0:40 / /home rw,relatime shared:2 - nfs4 server:/home rw,vers=4.2
41 40 8:2 / /home/ann/local\040disk rw shared:3 - xfs /dev/vdb rw
42 22 0:41 / /mnt/box rw - fuse.sshfs box:/ rw
43 22 8:3 / /mnt/box rw - ext4 /dev/vdc rw
44 22 0:44 / /homes rw - cifs //server/homes rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", None),
        ("/home", "nfs4"),
        ("/home/ann/.local/state", "nfs4"),
        ("/home/ann/local disk/pool", None),
        ("/mnt/box/pool", None),
        ("/homes/ann", "cifs"),
        ("/homework", None),
    ],
)
def test_a_network_disk_is_known_by_the_mount_that_a_folder_is_in(
    tmp_path: Path, folder: str, kind: str | None
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert network_file_system(Path(folder), mounts) == kind
    assert network_file_system(Path(folder), tmp_path / "not Linux") is None


def test_a_ledger_on_a_network_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"44 22 0:44 / {tmp_path} rw - nfs server:/home rw")
    monkeypatch.setattr(network_file_system, "__defaults__", (mounts,))
    with pytest.raises(LedgerError, match=r"is on a network disk \(nfs\).*set POOL_MCP_HOME"):
        Ledger(tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == [mounts]
