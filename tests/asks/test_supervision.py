"""Following runs to their end, with the real CLI: with the ledger away or held, after an owner's death, in floods."""

import os
import shlex
import sqlite3
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import pytest
from support import CAPTURES, group_is_gone, make_home, new_id, now_ms, open_ledger, open_pool, until

from pool_mcp.asks import runner
from pool_mcp.asks.reservations import Reservations
from pool_mcp.asks.runner import Runner
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Reply, ToolUse
from pool_mcp.errors import CliFailed, LedgerError, LimitReached, NeedsLogin, RunTimeout
from pool_mcp.model import DAY_MS, HOUR_MS, SECOND_MS, Ask, Cooldown, Run, WindowReading
from pool_mcp.pool import Pool
from pool_mcp.settings import Settings
from pool_mcp.state import State

pytestmark = pytest.mark.anyio

SLOWLY = Behaviour(mode="slow", chunks=100)
"""Ten seconds."""


async def the_running_run(settings: Settings) -> str:
    """The id of the one run whose CLI has begun to answer."""
    await until(lambda: any(path.stat().st_size for path in settings.runs_dir.glob("*/stdout.jsonl")), 20)
    (directory,) = settings.runs_dir.glob("*")
    return directory.name


async def test_a_run_is_stopped_in_time_while_another_process_holds_the_ledger(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = SLOWLY

    async def held() -> None:
        run_id = await the_running_run(settings)
        with closing(sqlite3.connect(settings.ledger_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await until(partial(group_is_gone, settings, run_id), 8)  # and not the 30 s that a write waits for another

    async with open_pool(settings, env) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(held)
        with pytest.raises(RunTimeout):
            await pool.ask(Ask("ping", "tests", timeout_s=3))


async def test_an_error_while_a_run_goes_on_names_it(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="slow", chunks=20)
    aside = settings.ledger_path.with_suffix(".aside")

    async with open_pool(settings, env) as pool:
        await pool.ask(Ask("ping", "tests", background=True))
        run_id = await the_running_run(settings)
        settings.ledger_path.rename(aside)
        with pytest.raises(LedgerError, match=f"Run {run_id} is not affected") as caught:
            await pool.result(run_id)
        assert caught.value.run_id == run_id
        aside.rename(settings.ledger_path)
        answer = await pool.result(run_id, wait_s=20)
        assert (answer.status, len(standin.books)) == ("completed", 1)


async def test_a_long_run_that_is_being_answered_proves_that_a_burst_is_over(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="slow", calls=1, chunks=600)
    with closing(open_ledger(settings)) as ledger, ledger.write() as tx:
        tx.cooldowns.start("alice", Cooldown("burst", now_ms() - 2000, now_ms() - 1000, "too many requests"), None)
    async with open_pool(settings, env) as pool:
        long = await pool.ask(Ask("one", "tests", background=True))

        def is_over() -> bool:
            with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
                return not tx.cooldowns.open()

        await until(is_over, 60)
        assert (await pool.ask(Ask("two", "tests"))).status == "completed"
        assert (await pool.result(long.run_id)).status == "running"
        await pool.supervision.cancel(long.run_id)


async def test_a_key_whose_ask_failed_for_nothing_asks_again(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="auth")
    ask = Ask("ping", "tests", idempotency_key="k")
    async with open_pool(settings, env) as pool:
        with pytest.raises(NeedsLogin):
            await pool.ask(ask)
        standin.accounts["alice"] = Behaviour()
        answer = await pool.ask(ask)
        assert (await pool.ask(ask)).run_id == answer.run_id
    assert len(standin.books) == 1


async def test_what_an_ask_cost_is_what_all_its_attempts_cost(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1}})
    structured = Reply(tools=(ToolUse("StructuredOutput", {"n": "five"}),))  # does not fit, so a second call follows
    standin.accounts["alice"] = Behaviour(replies=(structured, Reply(mode="five_hour_limit")))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with open_pool(settings, env) as pool:
        answer = await pool.ask(Ask("ping", "tests", json_schema=schema))
    assert [(one.subscription, one.outcome) for one in answer.attempts] == [("alice", "limit"), ("bob", "ok")]
    spent = {name: standin.spent_nanousd(account=name) for name in ("alice", "bob")}
    assert all(spent.values())
    assert answer.cost_usd == pytest.approx(sum(spent.values()) / 1e9)


async def test_an_attempt_that_has_acted_is_not_repeated_under_another_subscription(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(
        tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1}}, claude={"tool_profile": "full"}
    )
    acts = Reply(tools=(ToolUse("Write", {"file_path": str(tmp_path / "made"), "content": "x"}),))
    standin.accounts["alice"] = Behaviour(replies=(acts, Reply(mode="five_hour_limit")))
    async with open_pool(settings, env) as pool:
        with pytest.raises(LimitReached, match="had used tools already"):
            await pool.ask(Ask("ping", "tests"))
    assert standin.spent_nanousd(account="bob") == 0


# What another server left


def leave(
    settings: Settings, env: dict[str, str], captured: str, ended_ms: int, subscription: str | None = None
) -> Run:
    """A run whose CLI has ended as a captured one did, and whose server is gone since, without having booked it."""
    with closing(open_ledger(settings)) as ledger:
        there = Runner(settings, env, lambda: ended_ms - SECOND_MS)
        gone = Reservations(settings, ledger, State(settings), there, lambda: ended_ms - SECOND_MS, new_id)
        run, _ = gone.reserve(Ask("ping", "tests", timeout_s=60, subscription=subscription))
        files = there.files(run.run_id)
        gone.begin(run, there.prepare(run, Ask("ping", "tests")))
    files.pid.write_text("1")
    files.stdout.write_bytes((CAPTURES / "2.1.330" / f"{captured}.jsonl").read_bytes())
    for path in (files.stdout, files.prompt, files.directory):
        os.utime(path, (ended_ms / 1000, ended_ms / 1000))
    return run


async def test_an_answer_is_kept_for_its_days_from_when_it_could_first_be_fetched(tmp_path: Path) -> None:
    settings, env = make_home(tmp_path)
    run = leave(settings, env, "success", now_ms() - 30 * DAY_MS)
    async with open_pool(settings, env) as pool:
        assert (await pool.result(run.run_id, wait_s=10)).status == "completed"
    async with open_pool(settings, env) as pool:
        await pool._look_after_runs()
        assert (await pool.result(run.run_id)).text
    long_ago_s = now_ms() / 1000 - 8 * 86_400
    os.utime(settings.runs_dir / run.run_id, (long_ago_s, long_ago_s))
    async with open_pool(settings, env) as pool:
        await pool._look_after_runs()
        with pytest.raises(Exception, match="was removed"):
            await pool.result(run.run_id)


async def test_what_a_dead_server_left_is_of_its_own_time_and_changes_nothing_newer(tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, None, "alice", "bob")
    ended_ms, newer_ms = now_ms() - DAY_MS, now_ms() - HOUR_MS
    newer = WindowReading("five_hour", 96.0, now_ms() + HOUR_MS, "allowed_warning", newer_ms)
    cooldown = Cooldown("five_hour", newer_ms, now_ms() + HOUR_MS, "used up")
    with closing(open_ledger(settings)) as ledger, ledger.write() as tx:
        tx.official.record("alice", [newer], now_ms())
        tx.cooldowns.start("alice", cooldown, None)
    left = [leave(settings, env, "success", ended_ms, "alice"), leave(settings, env, "auth-expired", ended_ms, "bob")]
    async with open_pool(settings, env) as pool:
        for run in left:
            await pool.supervision.wait(run.run_id, 10)
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
        assert tx.official.latest()["alice"]["five_hour"] == newer
        assert tx.cooldowns.open()["alice"] == [cooldown]
        (missing,) = tx.cooldowns.open()["bob"]
        assert missing.since_ms <= ended_ms, "so a login that was written since lets it in again"


async def test_a_run_that_ended_in_time_and_is_adopted_after_it_ended_as_it_did(tmp_path: Path) -> None:
    settings, env = make_home(tmp_path)
    run = leave(settings, env, "limit-reached", now_ms() - DAY_MS)
    async with open_pool(settings, env) as pool:
        with pytest.raises(LimitReached):
            await pool.result(run.run_id, wait_s=10)


async def test_a_started_run_whose_files_are_gone_ends_all_the_same(tmp_path: Path) -> None:
    settings, env = make_home(tmp_path)
    run = leave(settings, env, "success", now_ms())
    Runner(settings, env, now_ms).files(run.run_id).stdout.unlink()
    async with open_pool(settings, env) as pool:
        with pytest.raises(CliFailed):
            await pool.result(run.run_id, wait_s=10)


# A CLI that never stops writing


FLOOD = """
import os, signal
for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
while True: os.write(1, b'{"type":"new"}\\n' * 10_000)
"""


@pytest.mark.parametrize("error", [CliFailed, RunTimeout])
async def test_a_cli_that_never_stops_writing_is_killed_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    program, script = tmp_path / "fake.py", tmp_path / "claude"
    program.write_text(FLOOD)
    script.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-I", "-S", str(program)])} "$@"\n')
    script.chmod(0o755)
    settings, env = make_home(tmp_path, cli=script)
    monkeypatch.setattr(runner, "MAX_OUTPUT_BYTES", 32 * 1024**2)
    async with open_pool(settings, env) as pool:
        with anyio.fail_after(20), pytest.raises(error):
            await ask_for(pool, 0.001 if error is RunTimeout else 60)
    (output,) = settings.runs_dir.glob("*/stdout.jsonl")
    assert output.stat().st_size <= 32 * 1024**2


async def ask_for(pool: Pool, timeout_s: float) -> None:
    await pool.ask(Ask("ping", "tests", timeout_s=timeout_s))
