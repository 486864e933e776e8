"""Several machines over one ledger: whose is what, what becomes of one that is gone, and the way there and back."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from database import Server
from ledger_writes import NOW_MS, book, reserve, rows

from pool_mcp.asks import machines
from pool_mcp.errors import InvalidRequest, LedgerError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.moving import move_to_database, move_to_file
from pool_mcp.model import DAY_MS, HOUR_MS, NANO, Cooldown, Cost, ModelCost, Outcome, RunState, Settlement, Tokens


def opened(folder: Path, url: str, name: str) -> Ledger:
    home = folder / name
    home.mkdir(exist_ok=True)
    if not (home / "machine.json").exists():
        (home / "machine.json").write_text(json.dumps({"id": f"id-{name}", "name": name}))
    return Ledger(home / "ledger.db", url, lambda: NOW_MS)


@pytest.fixture
def url(postgres: Server) -> str:
    return postgres.new_database()


@pytest.fixture
def laptop(url: str, tmp_path: Path) -> Iterator[Ledger]:
    with closing(opened(tmp_path, url, "laptop")) as ledger:
        yield ledger


@pytest.fixture
def tower(url: str, tmp_path: Path) -> Iterator[Ledger]:
    with closing(opened(tmp_path, url, "tower")) as ledger:
        yield ledger


def spent(ledger: Ledger) -> tuple[int, int]:
    """By a subscription's hours and by entries."""
    with ledger.read() as tx:
        return tx.balances.spent_nanousd("personal", 0), tx.balances.caller_spent_nanousd("host", 0)


def truth(nanousd: int) -> Settlement:
    cost = Cost(nanousd, {"sonnet": ModelCost(Tokens(input=5), nanousd)})
    return Settlement("run", RunState.SETTLED, Outcome.OK, None, cost, NOW_MS + DAY_MS)


def test_an_id_is_made_once_and_a_run_says_where_it_is(url: str, tmp_path: Path) -> None:
    for _ in range(2):
        with closing(Ledger(tmp_path / "ledger.db", url, lambda: NOW_MS)) as ledger, ledger.read() as tx:
            (one,) = tx.machines.known()
            assert one.machine_id == tx.machines.mine
    assert (tmp_path / "machine.json").stat().st_mode & 0o777 == 0o600


def test_budgets_are_of_all_machines_and_runs_of_one(laptop: Ledger, tower: Ledger) -> None:
    reserve(laptop, "run", NANO)
    with tower.read() as tx:
        (run,) = tx.runs.unfinished()
        assert tx.machines.elsewhere(run.machine_id) == "laptop"
        assert tx.balances.reserved()["personal"].nanousd == NANO
        assert [(one.name, one.in_flight, one.reserved_nanousd) for one in tx.machines.known()] in (
            [("laptop", 1, NANO), ("tower", 0, 0)],
            [("tower", 0, 0), ("laptop", 1, NANO)],
        )


def test_a_missing_login_is_of_one_machine_and_a_limit_of_all(laptop: Ledger, tower: Ledger) -> None:
    with laptop.write() as tx:
        tx.cooldowns.start("personal", Cooldown("auth", NOW_MS, None, "not signed in"), None)
        tx.cooldowns.start("work", Cooldown("five_hour", NOW_MS, NOW_MS + HOUR_MS, "used up"), None)
    with tower.write() as tx:
        assert list(tx.cooldowns.open()) == ["work"]
        assert not tx.cooldowns.lift("personal", "auth", "a new login", NOW_MS)
    with laptop.read() as tx:
        assert sorted(tx.cooldowns.open()) == ["personal", "work"]


def test_an_id_that_means_another_account_is_refused_on_the_machine_that_came_later(
    laptop: Ledger, tower: Ledger
) -> None:
    book(laptop, "first", NANO)
    for ledger, organization in ((laptop, "ours"), (tower, "theirs")):
        with ledger.write() as tx:
            tx.logins.record("personal", organization, signed_in=True, now_ms=NOW_MS)
    with laptop.read() as tx:
        assert tx.logins.of_others() == {}
    with tower.read() as tx:
        assert tx.logins.of_others() == {"personal": "laptop"}


def test_each_machine_reads_its_own_transcripts_and_a_call_in_both_counts_once(laptop: Ledger, tower: Ledger) -> None:
    from pool_mcp.ledger.imports import FileState, ImportChunk

    call = (7, NOW_MS, "sonnet", 1, 2, 0, 0, 0, 0, NANO, None, None)
    for ledger in (laptop, tower):
        chunk = ImportChunk("/s.jsonl", "personal", "session", False, [call], FileState(1, 2, 3, 4, 5, 6))
        with ledger.write() as tx:
            assert tx.imports.seen() == set()
            tx.imports.book([chunk], {}, set())
            assert tx.imports.seen() == {(1, 2, 3, 4)}
    assert spent(laptop)[0] == NANO


# A machine that is gone


def test_what_a_machine_held_is_written_off_a_day_after_its_deadline(laptop: Ledger, tower: Ledger) -> None:
    reserve(laptop, "run", NANO)
    with tower.read() as tx:
        runs, mine = tx.runs.unfinished(), tx.machines.mine
    deadline_ms = runs[0].deadline_ms
    assert machines.lost(runs, mine, deadline_ms + DAY_MS) == []
    assert machines.lost(runs, mine, deadline_ms + DAY_MS + 1) == runs
    assert machines.lost(runs, runs[0].machine_id, deadline_ms + 2 * DAY_MS) == []


@pytest.mark.parametrize("cost", [3 * NANO, NANO // 4])
def test_a_machine_that_comes_back_books_what_it_really_cost(laptop: Ledger, tower: Ledger, cost: int) -> None:
    reserve(laptop, "run", NANO)
    assert [run.run_id for run in machines.forget(tower, "laptop", lambda: NOW_MS)] == ["run"]
    assert spent(tower) == (NANO, NANO)
    with tower.read() as tx:
        assert tx.runs.unfinished() == []
        assert [one.name for one in tx.machines.known()] == ["tower"]
        assert tx.runs.written_off() == []
    with laptop.read() as tx:
        (run,) = tx.runs.written_off()
        assert (run.state, run.message) == (
            RunState.INTERRUPTED,
            "laptop has not said how this ended; it is booked at all that it held",
        )
    with laptop.write() as tx:
        assert tx.runs.adopt("run", "owner", "next")
        assert tx.runs.settle(truth(cost), "next")
    with laptop.write() as tx:
        assert not tx.runs.settle(truth(cost), "next")
        assert tx.runs.written_off() == []
    assert spent(tower) == (cost, cost)
    assert tower.audit().problems == ()


def test_a_run_that_had_not_begun_is_written_off_at_nothing_and_can_not_begin(laptop: Ledger, tower: Ledger) -> None:
    from ledger_writes import new_run

    with laptop.write() as tx:
        tx.runs.insert_ask("run", "host", None, "", NOW_MS)
        tx.runs.insert(new_run("run", NANO))
    machines.forget(tower, "laptop", lambda: NOW_MS)
    assert spent(tower) == (0, 0)
    with laptop.write() as tx:
        assert not tx.runs.mark_running("run", "owner", None, NOW_MS)


@pytest.mark.parametrize("name", ["tower", "nobody"])
def test_only_another_machine_can_be_forgotten(laptop: Ledger, tower: Ledger, name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not one other machine's name or id"):
        machines.forget(tower, name, lambda: NOW_MS)


# There and back


def test_a_ledger_moves_into_a_database_and_back(url: str, tmp_path: Path) -> None:
    home = tmp_path / "laptop"
    with closing(Ledger(home / "ledger.db")) as file:
        book(file, "booked", 3 * NANO)
        reserve(file, "running", NANO)
        before = rows(home / "ledger.db")
    moved = move_to_database(home / "ledger.db", url, lambda: NOW_MS)
    assert moved.aside is not None
    assert rows(moved.aside) == before
    assert not (home / "ledger.db").exists()
    with closing(Ledger(home / "ledger.db", url, lambda: NOW_MS)) as ledger, ledger.read() as tx:
        (run,) = tx.runs.unfinished()
        assert run.machine_id == tx.machines.mine != ""
    back = move_to_file(home / "ledger.db", url, lambda: NOW_MS)
    assert back.audit == moved.audit
    after = rows(home / "ledger.db")
    assert {**after, "machines": []} == before


def test_a_database_with_something_in_it_is_left_as_it_is(url: str, tmp_path: Path, laptop: Ledger) -> None:
    book(laptop, "there", NANO)
    with closing(Ledger(tmp_path / "file" / "ledger.db")) as file:
        book(file, "here", NANO)
    with pytest.raises(InvalidRequest, match="give an empty database"):
        move_to_database(tmp_path / "file" / "ledger.db", url, lambda: NOW_MS)
    with closing(Ledger(tmp_path / "file" / "ledger.db")) as file:
        assert spent(file) == spent(laptop) == (NANO, NANO)


def test_a_copy_that_is_not_proven_is_not_made(url: str, tmp_path: Path) -> None:
    path = tmp_path / "file" / "ledger.db"
    with closing(Ledger(path)) as file:
        book(file, "here", NANO)
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("UPDATE hours SET cost_nanousd = 1")
    with pytest.raises(LedgerError, match="run pool-mcp ledger check"):
        move_to_database(path, url, lambda: NOW_MS)
    with closing(Ledger(tmp_path / "other" / "ledger.db", url, lambda: NOW_MS)) as ledger:
        assert ledger.audit().entries == 0
    assert path.exists()
