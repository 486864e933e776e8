"""What was spent outside the pool is booked once, whatever the transcripts look like and whoever else is at work."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from cli_versions import CLI_VERSIONS, NEWEST, CliVersion
from support import make_home, new_id, now_ms, open_ledger, open_pool, until
from written import answer, dump

from pool_mcp.claude.transcripts import message_key
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Reply, ToolUse
from pool_mcp.errors import LedgerError
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import DAY_MS, Ask, Cost, ModelCost, Outcome, Run, RunState, Settlement, Tokens
from pool_mcp.usage.importing import BRISK, QUIET, Imported, Importer, Pace, Source
from transcript_generator import generate

ASK_S = 60
MODEL = "claude-sonnet-4-6"
TINY = Pace(block_bytes=3000, batch_bytes=4000, batch_calls=3, batch_files=2, apart_bytes=float("inf"))
APART = Pace(block_bytes=1 << 20, batch_bytes=1 << 22, batch_calls=500, apart_bytes=0)

COLUMNS = (
    "input_tokens, output_tokens, cache_creation_5m_tokens, cache_creation_1h_tokens, cache_read_tokens, "
    "web_search_requests"
)


def query(ledger: Ledger, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    import sqlite3

    with closing(sqlite3.connect(ledger.path)) as conn:
        return conn.execute(sql, parameters).fetchall()


def booked(ledger: Ledger) -> dict[str, Tokens]:
    """The tokens of every entry, by model."""
    sums = ", ".join(f"sum({column})" for column in COLUMNS.split(", "))
    return {
        model: Tokens(*tokens)
        for model, *tokens in query(ledger, f"SELECT model, {sums} FROM entry_models GROUP BY model")
    }


def kinds(ledger: Ledger) -> dict[str, int]:
    return dict(query(ledger, "SELECT kind, count(*) FROM entries GROUP BY kind"))


def assert_sound(ledger: Ledger) -> None:
    assert ledger.audit().problems == ()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "state" / "ledger.db")) as ledger:
        yield ledger


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    return tmp_path / "config"


def run_import(
    ledger: Ledger, config_dir: Path, pace: Pace = BRISK, go_on: Callable[[Imported], bool] = lambda _: True
) -> Imported:
    done = Importer(ledger, [Source("alice", config_dir)], lambda _: (), now_ms).run(pace, go_on)
    assert done is not None
    return done


# Against a manifest


@pytest.mark.parametrize("pace", [BRISK, QUIET, TINY, APART], ids=["brisk", "quiet", "tiny", "apart"])
def test_every_class_of_tokens_is_exactly_what_was_generated_and_a_second_import_books_nothing(
    ledger: Ledger, config_dir: Path, pace: Pace
) -> None:
    manifest = generate(config_dir, 2000 if pace is TINY else 5000, seed=7)
    assert (manifest.forks, manifest.subagent_calls, manifest.malformed_lines, manifest.partial_lines) > (0, 0, 0, 0)
    done = run_import(ledger, config_dir, pace)
    assert booked(ledger) == manifest.by_model
    assert (done.new_calls, kinds(ledger)["call"]) == (manifest.calls, manifest.calls)
    assert done.malformed_lines == manifest.malformed_lines
    assert done.unpriced_calls == manifest.calls_by_model.get("claude-unheard-of-9", 0) > 0
    again = run_import(ledger, config_dir, pace)
    assert (again.files, again.files_read, again.new_calls) == (manifest.files, 0, 0)
    assert_sound(ledger)


def test_calls_are_their_repositorys_and_their_branchs(ledger: Ledger, config_dir: Path, tmp_path: Path) -> None:
    for project in ("pool", "site"):
        (tmp_path / project / ".git").mkdir(parents=True)
        (tmp_path / project / "src").mkdir()
    sessions = config_dir / "projects" / "slug"
    sessions.mkdir(parents=True)
    lines = [
        answer("m1", "r1", cwd=str(tmp_path / "pool"), gitBranch="main"),
        answer("m2", "r2", cwd=str(tmp_path / "pool" / "src"), gitBranch='feature/"x"'),
        answer("m3", "r3", cwd=str(tmp_path / "site" / "gone"), gitBranch="HEAD"),
        answer("m4", "r4", cwd=str(tmp_path), gitBranch=""),
        answer("m5", "r5", cwd=5, gitBranch=["x"]),
        answer("m6", "r6"),
    ]
    before = answer("m7", "r7")  # some versions write where they are before the message
    lines.append({"parentUuid": None, "cwd": str(tmp_path / "site"), "gitBranch": 'a"b', **before})
    (sessions / "a.jsonl").write_bytes(dump(*lines))
    run_import(ledger, config_dir)
    found = dict(query(ledger, "SELECT project, count(*) FROM entries GROUP BY project"))
    assert found == {"pool": 2, "site": 2, None: 3}
    rows = query(ledger, "SELECT project, branch FROM entries WHERE branch IS NOT NULL ORDER BY project, branch")
    assert rows == [("pool", 'feature/"x"'), ("pool", "main"), ("site", 'a"b')]
    assert_sound(ledger)


def test_transcripts_that_grow_between_imports_come_to_the_same(ledger: Ledger, config_dir: Path) -> None:
    manifest = generate(config_dir, 3000, seed=3)
    whole = {path: path.read_bytes() for path in (config_dir / "projects").rglob("*.jsonl")}
    draw = random.Random(0)
    shown = dict.fromkeys(whole, 0)
    for path in whole:
        path.unlink()
    for _ in range(6):
        for path, content in whole.items():
            shown[path] = min(len(content), shown[path] + draw.choice((0, 100, 5000, 50_000)))
            path.write_bytes(content[: shown[path]])
        run_import(ledger, config_dir)
    for path, content in whole.items():
        path.write_bytes(content)
    run_import(ledger, config_dir)
    assert booked(ledger) == manifest.by_model
    assert kinds(ledger)["call"] == manifest.calls
    assert_sound(ledger)


def test_an_import_that_is_killed_over_and_over_loses_and_doubles_nothing(ledger: Ledger, config_dir: Path) -> None:
    manifest = generate(config_dir, 4000, seed=5)
    code = """
import sys
import time
from pathlib import Path
from pool_mcp.usage.importing import QUIET, Importer, Source
from pool_mcp.ledger.ledger import Ledger

def go_on(done):
    print(done.new_calls, flush=True)
    return True

ledger, sources = Ledger(Path(sys.argv[1])), [Source("alice", Path(sys.argv[2]))]
Importer(ledger, sources, lambda _: (), lambda: time.time_ns() // 1_000_000).run(QUIET, go_on)
"""
    for _ in range(4):
        command = [sys.executable, "-c", code, str(ledger.path), str(config_dir)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline()
            child.kill()
    assert 0 < kinds(ledger)["call"] < manifest.calls
    run_import(ledger, config_dir)
    assert booked(ledger) == manifest.by_model
    assert_sound(ledger)


def test_an_import_that_is_told_to_stop_is_gone_on_with_by_the_next(ledger: Ledger, config_dir: Path) -> None:
    manifest = generate(config_dir, 2000, seed=1)
    for pace in (QUIET, APART):
        assert 0 < run_import(ledger, config_dir, pace, lambda _: False).new_calls < manifest.calls
    run_import(ledger, config_dir)
    assert booked(ledger) == manifest.by_model


def test_an_import_whose_reading_process_is_killed_says_so_and_is_gone_on_with(
    ledger: Ledger, config_dir: Path
) -> None:
    manifest = generate(config_dir, 4000, seed=4)

    def go_on(_: Imported) -> bool:
        for reader in multiprocessing.active_children():
            reader.kill()
        return True

    with pytest.raises(LedgerError, match="import again"):
        run_import(ledger, config_dir, replace(APART, batch_calls=1), go_on)
    assert multiprocessing.active_children() == []
    run_import(ledger, config_dir)
    assert booked(ledger) == manifest.by_model
    assert_sound(ledger)


def test_of_several_imports_at_once_one_works_and_the_others_say_so(ledger: Ledger, config_dir: Path) -> None:
    manifest = generate(config_dir, 1000, seed=2)
    others: list[object] = []

    def go_on(_: Imported) -> bool:
        with closing(Ledger(ledger.path)) as other:
            others.append(Importer(other, [Source("alice", config_dir)], lambda _: (), now_ms).run())
        return True

    run_import(ledger, config_dir, BRISK, go_on)
    assert set(others) == {None}
    assert booked(ledger) == manifest.by_model


def test_history_outlives_its_transcripts_and_their_return_books_nothing(
    ledger: Ledger, config_dir: Path, tmp_path: Path
) -> None:
    manifest = generate(config_dir, 500)
    run_import(ledger, config_dir)
    (config_dir / "projects").rename(tmp_path / "away")
    assert run_import(ledger, config_dir).files == 0
    shutil.copytree(tmp_path / "away", config_dir / "projects")  # other inodes, other times
    done = run_import(ledger, config_dir)
    assert (done.new_calls, booked(ledger)) == (0, manifest.by_model)
    shutil.copytree(tmp_path / "away", config_dir / "projects" / "moved" / "session")  # elsewhere
    assert run_import(ledger, config_dir).new_calls == 0
    assert_sound(ledger)


def test_two_names_of_one_config_dir_are_imported_once(ledger: Ledger, config_dir: Path, tmp_path: Path) -> None:
    manifest = generate(config_dir, 300)
    (tmp_path / "link").symlink_to(config_dir)
    sources = [Source("alice", config_dir), Source("bob", tmp_path / "link")]
    done = Importer(ledger, sources, lambda _: (), now_ms).run()
    assert done is not None
    assert (done.files, done.new_calls) == (manifest.files, manifest.calls)
    assert query(ledger, "SELECT DISTINCT subscription FROM entries") == [("alice",)]


# Call by call


class Notebook:
    """Transcripts written by hand."""

    def __init__(self, config_dir: Path, ledger: Ledger) -> None:
        self.folder = config_dir / "projects" / "slug"
        self.folder.mkdir(parents=True)
        self.config_dir = config_dir
        self.ledger = ledger

    def add(self, name: str, *events: Any) -> None:
        path = self.folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(dump(*events))

    def read(self) -> Imported:
        done = run_import(self.ledger, self.config_dir)
        assert_sound(self.ledger)
        return done


@pytest.fixture
def notebook(config_dir: Path, ledger: Ledger) -> Notebook:
    return Notebook(config_dir, ledger)


def test_an_entry_tells_when_by_whom_and_in_which_session_a_call_was_made_and_at_what_price(
    notebook: Notebook, ledger: Ledger
) -> None:
    notebook.add("session-1", answer())
    notebook.read()
    assert query(
        ledger,
        "SELECT kind, at_ms, block_start_ms, subscription, session_id, caller, source, cost_nanousd, is_estimate "
        "FROM entries",
    ) == [
        ("call", 1_795_338_920_742, 1_795_323_600_000, "alice", "session-1", "outside", "transcript",
         1634 * 3000 + 69 * 15_000 + 1009 * 3750 + 3953 * 6000 + 297 * 300 + 2 * 10_000_000, 0)
    ]  # fmt: skip


def test_an_unknown_model_has_no_price_and_says_so_in_the_hours(notebook: Notebook, ledger: Ledger) -> None:
    notebook.add("s", answer(model="claude-unheard-of-9"), answer("msg_2"))
    done = notebook.read()
    assert done.unpriced_calls == 1
    assert query(ledger, "SELECT model, cost_nanousd IS NULL FROM entry_models ORDER BY 1") == [
        (MODEL, 0),
        ("claude-unheard-of-9", 1),
    ]
    assert query(ledger, "SELECT sum(calls), sum(unpriced_calls) FROM hours") == [(2, 1)]


def test_a_call_that_goes_on_after_an_import_is_corrected_by_a_further_entry(
    notebook: Notebook, ledger: Ledger
) -> None:
    for output in (1, 40, 40, 69):
        notebook.add("s", answer(tokens=Tokens(10, output, 20, 30, 40, int(output == 69))))
        notebook.read()
    notebook.add("fork", answer(tokens=Tokens(10, 69, 20, 30, 40, 1)))
    notebook.read()
    assert kinds(ledger) == {"call": 1, "adjustment": 2}
    assert booked(ledger) == {MODEL: Tokens(10, 69, 20, 30, 40, 1)}
    whole = 10 * 3000 + 69 * 15_000 + 20 * 3750 + 30 * 6000 + 40 * 300 + 10_000_000
    assert query(ledger, "SELECT sum(cost_nanousd) FROM entries") == [(whole,)]
    assert query(ledger, "SELECT sum(calls), sum(cost_nanousd) FROM hours") == [(1, whole)]


@pytest.mark.parametrize(("parent", "fork"), [("one", "two"), ("two", "one")])
def test_a_call_that_a_fork_copied_is_its_parent_s(notebook: Notebook, ledger: Ledger, parent: str, fork: str) -> None:
    notebook.add(fork, answer())
    notebook.add(parent, answer())
    os.utime(notebook.folder / f"{parent}.jsonl", (1, 1))
    notebook.read()
    assert query(ledger, "SELECT session_id FROM entries") == [(parent,)]


def test_a_rewritten_transcript_is_read_again(notebook: Notebook, ledger: Ledger) -> None:
    notebook.add("s", answer("msg_1"), answer("msg_2"))
    notebook.read()
    path = notebook.folder / "s.jsonl"
    path.write_bytes(dump(answer("msg_1")))  # shrunk
    assert notebook.read().new_calls == 0
    path.write_bytes(dump(answer("msg_3"), answer("msg_4"), answer("msg_5")))  # and replaced by a longer one
    assert notebook.read().new_calls == 3
    other = notebook.folder / "other"
    other.write_bytes(dump(answer("msg_6"), answer("msg_7"), answer("msg_8")))
    other.rename(path)  # of the very same size
    assert notebook.read().new_calls == 3
    assert kinds(ledger) == {"call": 8}


def test_a_transcript_that_cannot_be_opened_is_counted_and_the_others_are_read(notebook: Notebook) -> None:
    (notebook.folder / "a-folder.jsonl").mkdir()
    notebook.add("s", answer())
    done = notebook.read()
    assert (done.files_unreadable, done.new_calls) == (1, 1)


def test_a_name_that_is_not_utf_8_is_no_hindrance(notebook: Notebook) -> None:
    name = os.fsencode(notebook.folder) + b"/\xff.jsonl"
    try:
        Path(os.fsdecode(name)).write_bytes(dump(answer()))
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    assert [notebook.read().new_calls, notebook.read().files_read] == [1, 0]


# The pool's own runs

NOTHING = Tokens()
BEGAN_MS = 1_795_338_920_000  # 0.7 s before the answer's time


def settle(
    ledger: Ledger,
    session_id: str,
    *message_ids: str,
    tokens: Tokens = NOTHING,
    cost_nanousd: int = 0,
    is_estimate: bool = False,
    settled: bool = True,
    began_ms: int = BEGAN_MS,
) -> str:
    run_id, ask_id = new_id(), new_id()
    run = Run(
        run_id, ask_id, "alice", session_id, False, "agent", None, RunState.RESERVED, "owner", False, False, began_ms,
        began_ms + 60_000, 1,
    )  # fmt: skip
    with ledger.write() as tx:
        tx.runs.insert_ask(ask_id, "agent", None, "", began_ms)
        tx.runs.insert(run)
        assert tx.runs.mark_running(run_id, "owner", None, began_ms)
    if settled:
        finish(ledger, run_id, *message_ids, tokens=tokens, cost_nanousd=cost_nanousd, is_estimate=is_estimate)
    return run_id


def finish(
    ledger: Ledger,
    run_id: str,
    *message_ids: str,
    tokens: Tokens = NOTHING,
    cost_nanousd: int = 0,
    is_estimate: bool = False,
) -> None:
    cost = Cost(cost_nanousd, {MODEL: ModelCost(tokens, cost_nanousd)}, is_estimate)
    keys = tuple(map(message_key, message_ids))
    with ledger.write() as tx:
        settlement = Settlement(run_id, RunState.SETTLED, Outcome.OK, None, cost, BEGAN_MS + 5000, message_keys=keys)
        assert tx.runs.settle(settlement, "owner")


def test_the_calls_of_a_run_are_its_entry_s_wherever_they_turn_up(notebook: Notebook, ledger: Ledger) -> None:
    settle(ledger, "s", "msg_1", "msg_2")
    notebook.add("s", answer("msg_1"), answer("msg_2"), answer("msg_by_hand"))
    notebook.add("a-fork", answer("msg_1"), answer("msg_2"), answer("msg_in_fork"))
    done = notebook.read()
    assert (done.new_calls, done.run_calls, done.known_calls) == (2, 2, 2)
    assert kinds(ledger) == {"run": 1, "call": 2}


def test_a_subagent_that_a_run_started_is_the_run_s_and_one_started_by_hand_later_is_not(
    notebook: Notebook, ledger: Ledger
) -> None:
    settle(ledger, "s", "msg_1")
    notebook.add("s/subagents/agent-1", answer("msg_2"))
    notebook.add("s/subagents/agent-2", answer("msg_3", timestamp="2026-11-22T09:16:00.000Z"))
    notebook.add("other/subagents/agent-3", answer("msg_4"))
    done = notebook.read()
    assert (done.new_calls, done.run_calls) == (2, 1)


def test_a_run_whose_stream_is_lost_covers_its_session_for_its_time(notebook: Notebook, ledger: Ledger) -> None:
    settle(ledger, "s")
    notebook.add("s", answer("msg_1"), answer("msg_2", timestamp="2026-11-22T09:16:00.000Z"))
    done = notebook.read()
    assert (done.new_calls, done.run_calls) == (1, 1)


@pytest.mark.parametrize("pace", [BRISK, TINY], ids=["brisk", "tiny"])
def test_what_a_run_in_flight_writes_waits_until_it_is_booked(
    notebook: Notebook, ledger: Ledger, config_dir: Path, pace: Pace
) -> None:
    run_id = settle(ledger, "s", settled=False)
    lines = [answer(f"msg_{n}") for n in range(9)]
    notebook.add("s", answer("msg_before", timestamp="2026-11-22T08:00:00.000Z"), *lines)
    notebook.add("s/subagents/agent-1", answer("msg_sub"))
    notebook.add("a-fork", lines[0], answer("msg_by_hand"))

    def take() -> Imported:
        done = Importer(ledger, [Source("alice", config_dir)], lambda run: {run_id: ["msg_0"]}[run.run_id], now_ms).run(
            pace
        )
        assert done is not None
        return done

    done = take()
    assert (done.new_calls, done.run_calls, done.files_waiting) == (1, 1, 2)
    assert query(ledger, "SELECT session_id FROM entries") == [("a-fork",)]
    finish(ledger, run_id, *(f"msg_{n}" for n in range(9)))
    done = take()
    assert (done.new_calls, done.run_calls, done.files_waiting) == (1, 10, 0)
    assert kinds(ledger) == {"run": 1, "call": 2}
    assert_sound(ledger)


def test_a_run_that_is_booked_while_its_transcript_is_being_read_makes_nothing_of_it_be_missed(
    notebook: Notebook, ledger: Ledger, config_dir: Path
) -> None:
    run_id = settle(ledger, "s", settled=False)
    notebook.add("s", *(answer(f"msg_by_hand_{n}", timestamp="2026-11-22T08:00:00.000Z") for n in range(9)))

    def go_on(done: Imported) -> bool:
        if done.bytes_read and kinds(ledger).get("run") is None:
            finish(ledger, run_id, "msg_1")
        return True

    run_import(ledger, config_dir, TINY, go_on)
    notebook.read()
    assert kinds(ledger) == {"run": 1, "call": 9}


def test_a_cut_run_of_which_its_transcript_shows_more_is_corrected_upwards_once(
    notebook: Notebook, ledger: Ledger
) -> None:
    floor = Tokens(input=1000, output=10)
    settle(ledger, "s", "msg_1", tokens=floor, cost_nanousd=1000 * 3000 + 10 * 15_000, is_estimate=True)
    settle(ledger, "dear", "msg_9", tokens=floor, cost_nanousd=10**12, is_estimate=True)
    notebook.add("s", answer("msg_1", tokens=Tokens(input=1000, output=1)))
    notebook.add("dear", answer("msg_9", tokens=Tokens(input=1000, output=900)))
    assert (notebook.read().run_calls, kinds(ledger)) == (2, {"run": 2})
    notebook.add("s/subagents/agent-1", answer("msg_2", tokens=Tokens(input=500, output=50)))
    notebook.read()
    notebook.read()
    assert kinds(ledger) == {"run": 2, "adjustment": 1}
    assert query(
        ledger, "SELECT caller, source, session_id, is_estimate, cost_nanousd FROM entries WHERE kind = 'adjustment'"
    ) == [("agent", "transcript", "s", 1, 1500 * 3000 + 51 * 15_000 - (1000 * 3000 + 10 * 15_000))]


def test_a_cut_run_s_call_that_comes_in_two_imports_is_priced_in_both(notebook: Notebook, ledger: Ledger) -> None:
    settle(ledger, "s", "msg_1", tokens=Tokens(input=10), cost_nanousd=30_000, is_estimate=True)
    for output in (1, 69):
        notebook.add("s", answer("msg_1", tokens=Tokens(10, output)))
        notebook.read()
    assert query(ledger, "SELECT sum(cost_nanousd) FROM entries") == [(10 * 3000 + 69 * 15_000,)]


def test_the_result_of_an_import_has_the_cost_of_corrections(notebook: Notebook, ledger: Ledger) -> None:
    notebook.add("s", answer(tokens=Tokens(10, 1)))
    notebook.read()
    notebook.add("s", answer(tokens=Tokens(10, 69)))
    assert notebook.read().cost_nanousd == 68 * 15_000


def test_a_call_that_is_dated_years_ahead_is_dated_now(notebook: Notebook, ledger: Ledger) -> None:
    notebook.add("s", answer(timestamp="2031-01-01T00:00:00Z"))
    notebook.read()
    ((at_ms,),) = query(ledger, "SELECT at_ms FROM entries")
    assert abs(at_ms - now_ms()) < 60_000


def test_a_run_whose_clock_was_set_back_since_is_counted_once(notebook: Notebook, ledger: Ledger) -> None:
    settle(ledger, "s", "msg_1")
    notebook.add("s", answer("msg_1", timestamp="2026-11-20T01:00:00Z"))
    assert notebook.read().new_calls == 0


def test_a_first_run_whose_clock_was_ahead_is_counted_once_in_a_fork_too(notebook: Notebook, ledger: Ledger) -> None:
    settle(ledger, "s", "msg_1", began_ms=now_ms() + 30 * DAY_MS)
    notebook.add("a-fork", answer("msg_1"), answer("msg_in_fork"))
    done = notebook.read()
    assert (done.run_calls, done.new_calls) == (1, 1)


def test_a_lost_run_that_began_its_session_has_the_calls_that_a_clock_set_back_dates_before_it(
    notebook: Notebook, ledger: Ledger
) -> None:
    settle(ledger, "s")
    notebook.add("s", answer("msg_1", timestamp="2026-11-22T09:01:00.000Z"))
    assert (notebook.read().run_calls, kinds(ledger)) == (1, {"run": 1})


def test_a_session_that_was_imported_before_its_run_was_lost_is_counted_once(
    notebook: Notebook, ledger: Ledger
) -> None:
    settle(ledger, "another")
    notebook.add("s", answer("msg_by_hand", timestamp="2026-11-22T09:15:00.000Z"))
    assert notebook.read().new_calls == 1
    settle(ledger, "s")
    notebook.add("s", answer("msg_1"))
    assert notebook.read().run_calls == 1


def cost_state(**tokens: int) -> dict[str, Any]:
    return {"type": "cost-state", "sessionId": "s", "totalCostUSD": 1.0, "modelUsage": {MODEL: tokens}}


def test_what_only_the_cli_s_own_account_of_a_session_shows_is_booked_once(notebook: Notebook, ledger: Ledger) -> None:
    notebook.add("s", answer(tokens=Tokens(10, 20)), cost_state(inputTokens=110, outputTokens=25))
    done = notebook.read()
    assert (done.accounts, done.cost_nanousd) == (1, 110 * 3000 + 25 * 15_000)
    notebook.add("s", {"type": "mode"})
    assert notebook.read().accounts == 0
    fork = cost_state(inputTokens=117, outputTokens=25)
    notebook.add("fork", answer(tokens=Tokens(10, 20)), answer("msg_2", tokens=Tokens(7, 0)), fork)
    assert notebook.read().accounts == 0
    assert booked(ledger) == {MODEL: Tokens(117, 25)}


# Through the real CLI


class Desk:
    """One subscription that is used in the pool and by hand."""

    def __init__(self, home: Path, standin: Standin, version: CliVersion = NEWEST) -> None:
        self.home, self.standin, self.cli = home, standin, version.cli
        self.work = home / "work"
        self.work.mkdir()
        self.settings, self.env = make_home(
            home, standin, cli=self.cli, claude={"tool_profile": "full"}, weekly_budget_usd=10_000.0
        )
        config_dir = self.settings.subscriptions[0].config_dir
        assert config_dir is not None
        self.config_dir = config_dir

    async def ask(self, session_id: str | None = None, **more: Any) -> str:
        said = {"model": MODEL, "tool_profile": "none", "working_dir": str(self.work), **more}
        async with open_pool(self.settings, self.env) as pool:
            with anyio.fail_after(ASK_S):
                answered = await pool.ask(Ask("ping", "test", session_id, **said))
        return answered.session_id

    async def by_hand(self, *arguments: str) -> str:
        env = {
            "PATH": os.defpath,
            "HOME": str(self.home),
            "CLAUDE_CONFIG_DIR": str(self.config_dir),
            "CLAUDE_CODE_OAUTH_TOKEN": Standin.token("alice"),
            "ANTHROPIC_BASE_URL": self.standin.url,
            "DISABLE_AUTOUPDATER": "1",
        }
        command = [str(self.cli), "-p", "--output-format=json", f"--model={MODEL}", *arguments]
        with anyio.fail_after(ASK_S):
            done = await anyio.run_process(command, input=b"ping", env=env, cwd=self.work)
        return str(json.loads(done.stdout)["session_id"])

    async def take(self) -> Any:
        async with open_pool(self.settings, self.env) as pool:
            await pool.adopt()
            return await pool.outside.import_all()

    async def assert_exact(self) -> None:
        """The ledger has what the stand-in served, to the token and the nano-dollar, and no call twice."""
        assert await anyio.to_thread.run_sync(self.standin.wait_idle)
        with closing(open_ledger(self.settings)) as ledger:
            assert query(ledger, "SELECT sum(cost_nanousd) FROM entries") == [(self.standin.spent_nanousd(),)]
            served: Counter[str] = Counter()
            for call in self.standin.books:
                served[call.model] += call.tokens.output
            assert {model: tokens.output for model, tokens in booked(ledger).items()} == served
            assert_sound(ledger)

    def with_subagent(self, *, background: bool) -> list[str]:
        """Let the next ask start a subagent; the arguments by which the CLI has one to start."""
        use = {
            "description": "d", "prompt": "help", "subagent_type": "general-purpose", "model": "haiku",
            "run_in_background": background,
        }  # fmt: skip
        replies = (Reply(tools=(ToolUse("Agent", use),), for_model="sonnet"), Reply(text="done", for_model="sonnet"))
        self.standin.accounts["alice"] = Behaviour(replies=replies)
        return ["--allowedTools=Task,Agent"]


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@pytest.fixture
def desk(tmp_path: Path, standin: Standin) -> Desk:
    return Desk(tmp_path, standin)


@pytest.mark.anyio
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", CLI_VERSIONS, ids=lambda version: version.name)
async def test_what_is_done_in_the_pool_by_hand_and_in_forks_adds_up_to_what_was_served(
    tmp_path: Path, standin: Standin, version: CliVersion
) -> None:
    desk = Desk(tmp_path, standin, version)
    by_hand = await desk.by_hand()
    assert (await desk.take()).new_calls == 1
    await desk.assert_exact()
    in_pool = await desk.ask()
    found = await desk.take()
    assert (found.new_calls, found.run_calls) == (0, 1)
    await desk.by_hand(f"--resume={in_pool}")
    await desk.ask(in_pool)
    fork = await desk.by_hand(f"--resume={in_pool}", "--fork-session")
    await desk.by_hand(f"--resume={fork}")
    await desk.ask(fork)
    await desk.ask(by_hand)
    found = await desk.take()
    assert (found.new_calls, found.run_calls) == (3, 3)
    await desk.assert_exact()
    assert (await desk.take()).files_read == 0


@pytest.mark.anyio
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
async def test_subagents_are_counted_once_whether_the_pool_or_a_person_started_them(
    desk: Desk, background: bool
) -> None:
    arguments = desk.with_subagent(background=background)
    await desk.by_hand("--tools=Task,Agent", *arguments)
    by_hand = len(desk.standin.books)
    desk.with_subagent(background=background)
    (desk.config_dir / "settings.json").write_text(json.dumps({"permissions": {"allow": ["Agent", "Task"]}}))
    session_id = await desk.ask(tool_profile="full")
    assert len(list(desk.config_dir.glob("projects/*/*/subagents/*.jsonl"))) == 2
    await desk.by_hand(f"--resume={session_id}", "--fork-session")
    found = await desk.take()
    assert (found.new_calls, found.run_calls) == (by_hand + 1, len(desk.standin.books) - by_hand - 1)
    await desk.assert_exact()


@pytest.mark.anyio
async def test_an_import_while_a_run_is_at_work_takes_nothing_of_it(desk: Desk) -> None:
    desk.config_dir.mkdir(parents=True)
    (desk.config_dir / "settings.json").write_text(json.dumps({"permissions": {"allow": ["Bash"]}}))
    gate = desk.work / "gate"
    os.mkfifo(gate)
    waits = Reply(text="x", tools=(ToolUse("Bash", {"command": f"cat {gate}"}),))
    desk.standin.accounts["alice"] = Behaviour(replies=(waits,))
    async with open_pool(desk.settings, desk.env) as pool:
        asked = Ask("ping", "test", model=MODEL, working_dir=str(desk.work), tool_profile="full", background=True)
        running = await pool.ask(asked)
        with anyio.fail_after(ASK_S):
            await until(lambda: len(desk.standin.books) == 1, ASK_S)
            await until(lambda: any(desk.config_dir.glob("projects/*/*.jsonl")), ASK_S)
            fork = await desk.by_hand(f"--resume={running.session_id}", "--fork-session")
            await pool.adopt()
            found = await pool.outside.import_all()
            assert (found.new_calls, found.files_waiting) == (1, 1)
            await anyio.Path(gate).write_text("go on\n")
            await pool.result(running.run_id, wait_s=ASK_S)
    assert fork != running.session_id
    await desk.take()
    await desk.assert_exact()


@pytest.mark.anyio
async def test_a_killed_run_and_what_is_done_by_hand_after_it_are_each_booked_once(desk: Desk) -> None:
    reply = Reply(text="word", text_size=4000, mode="slow", tokens=Tokens(1200, 1000, 300, 4000, 15_000))
    desk.standin.accounts["alice"] = Behaviour(replies=(reply,))
    async with open_pool(desk.settings, desk.env) as pool:
        with anyio.fail_after(ASK_S):
            running = await pool.ask(Ask("ping", "test", model=MODEL, working_dir=str(desk.work), background=True))
            files = desk.settings.runs_dir / running.run_id
            await until(lambda: b"content_block_delta" in _bytes(files / "stdout.jsonl"), ASK_S)
            pattern = f"projects/*/{running.session_id}.jsonl"
            await until(lambda: any(b'"user"' in path.read_bytes() for path in desk.config_dir.glob(pattern)), ASK_S)
            os.kill(int((files / "pid").read_text()), signal.SIGKILL)
            with pytest.raises(Exception, match="CLI"):
                await pool.result(running.run_id, wait_s=ASK_S)
    assert await anyio.to_thread.run_sync(desk.standin.wait_idle)
    await desk.by_hand(f"--resume={running.session_id}")
    assert (await desk.take()).new_calls == 1
    with closing(open_ledger(desk.settings)) as ledger:
        assert kinds(ledger) == {"run": 1, "call": 1}
        assert query(ledger, "SELECT cost_nanousd FROM entries WHERE kind = 'call'") == [
            (desk.standin.books[-1].cost_nanousd,)
        ]


@pytest.mark.anyio
async def test_an_open_pool_imports_by_itself(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pool_mcp.usage.import_schedule.IMPORT_AFTER_S", 0.1)
    await desk.by_hand()
    async with open_pool(desk.settings, desk.env) as pool, open_pool(desk.settings, desk.env):
        with anyio.fail_after(ASK_S):
            while (await pool.status()).pool.week_cost_usd == 0:  # noqa: ASYNC110  (it imports when it is its turn)
                await anyio.sleep(0.05)
    await desk.assert_exact()


@pytest.mark.anyio
async def test_the_command_tells_what_was_found(desk: Desk) -> None:
    await desk.by_hand()
    command = [sys.executable, "-m", "pool_mcp", "import"]
    said = await anyio.run_process(command, env=desk.env)
    assert b"1  new calls, $0." in said.stdout
    found = json.loads((await anyio.run_process([*command, "--json"], env=desk.env)).stdout)
    assert (found["new_calls"], found["files"], found["files_read"]) == (0, 1, 0)
    await desk.assert_exact()
