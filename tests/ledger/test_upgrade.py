"""A ledger of every released version opens, keeps what is in it, and ends with the schema of a new one."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ledger_writes import book

from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import NANO, Cooldown, Cost, ModelCost, Tokens

DATA = Path(__file__).parents[1] / "data"


def old_ledger(tmp_path: Path, version: str) -> Path:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.executescript((DATA / f"ledger-{version}.sql").read_text())
    return path


def schema(path: Path) -> set[tuple[str, str, str]]:
    with closing(sqlite3.connect(path)) as conn:
        rows = conn.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {(kind, name, re.sub(r"[\\s\"]+", " ", sql)) for kind, name, sql in rows}


@pytest.mark.parametrize("version", [path.stem.removeprefix("ledger-") for path in sorted(DATA.glob("ledger-*.sql"))])
def test_an_old_ledger_gets_the_schema_of_a_new_one_and_every_sum_stays_true(tmp_path: Path, version: str) -> None:
    path, new = old_ledger(tmp_path, version), tmp_path / "new.db"
    with closing(sqlite3.connect(path)) as conn:
        before = conn.execute("SELECT * FROM entries").fetchall(), conn.execute("SELECT * FROM hours").fetchall()
    Ledger(new).close()
    with closing(Ledger(path)) as ledger:
        assert ledger.audit().problems == ()
        book(ledger, "one more", NANO)
        assert ledger.audit().problems == ()
    with closing(sqlite3.connect(path)) as conn:
        after = conn.execute("SELECT * FROM entries").fetchall(), conn.execute("SELECT * FROM hours").fetchall()
    assert schema(path) == schema(new)
    assert {(*row, None, None, "") for row in before[0]} <= set(after[0])  # their repositories are not known
    assert set(before[1]) <= set(after[1])


def test_what_0_1_0_kept_means_the_same_now(tmp_path: Path) -> None:
    with closing(Ledger(old_ledger(tmp_path, "0.1.0"))) as ledger, ledger.read() as tx:
        assert sorted(run.run_id for run in tx.runs.unfinished()) == ["reserved", "running"]
        assert {name: one.nanousd for name, one in tx.balances.reserved().items()} == {"personal": NANO // 2}
        settled, floor, began = tx.runs.get("settled"), tx.runs.get("floor"), tx.runs.get("never-began")
        assert settled is not None
        assert settled.cost == Cost(
            31_000_000,
            {
                "claude-haiku-4-5": ModelCost(Tokens(1, 2), 1_000_000),
                "claude-opus-4-5": ModelCost(Tokens(10, 20, 30, 0, 40), 30_000_000),
            },
        )
        assert floor is not None
        assert floor.cost is not None
        assert (floor.caller, floor.cost.nanousd, floor.cost.is_estimate) == ("night", 2_000_000, True)
        assert began is not None
        assert (began.state, began.cost) == ("failed", None)
        spent = {name: tx.balances.spent_nanousd(name, 0) for name in ("personal", "work", "work-key")}
        assert spent == {"personal": 38_000_000, "work": 2_000_000, "work-key": 5_000_000}
        ((whose, (limit,)),) = tx.cooldowns.open().items()
        assert (whose, limit.cause) == ("personal", "five_hour")
        assert isinstance(limit, Cooldown)
        assert tx.official.latest()["personal"]["five_hour"].status == "rejected"
        assert tx.runs.ask_by_key("host", "key") == ("settled", "fp")
