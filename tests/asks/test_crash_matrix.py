"""Killed with SIGKILL at every step of an ask: afterwards everything is booked once, and nothing is left behind."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from cli_versions import CLI_VERSIONS, NEWEST, CliVersion
from support import group_is_gone, is_gone, make_home, open_ledger, open_pool, spares, until

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.errors import PoolError
from pool_mcp.model import Ask, Run
from pool_mcp.settings import Settings
from pool_mcp.system.locks import is_held

pytestmark = pytest.mark.anyio

DRIVER = Path(__file__).parents[1] / "fakes" / "crash_driver.py"

NEVER_RAN = "there is no run at all"
NEVER_STARTED = "a run that ended without an entry"
ZERO = "an entry of nothing"
EXACT = "an entry of exactly what it cost"
FLOOR = "an entry of a part of what it cost, marked as an estimate"

# Before there is a CLI there is none to kill, and after its end nothing changes by killing it.
MATRIX = [
    ("before the reservation commits", ("server", "group"), NEVER_RAN),
    ("reserved", ("server", "group"), EXACT),
    ("files prepared", ("server", "group"), EXACT),
    ("marked running", ("server", "group"), ZERO),
    ("CLI started", ("server", "group"), EXACT),
    ("CLI started", ("cli", "both"), ZERO),
    ("first events", ("server", "group"), EXACT),
    ("first events", ("cli", "both"), FLOOR),
    ("result read", ("server", "cli", "both", "group"), EXACT),
    ("CLI ended", ("server", "group"), EXACT),
    ("before the settlement commits", ("server", "group"), EXACT),
    ("settled", ("server", "group"), EXACT),
]


@dataclass(frozen=True)
class Crashed:
    """What the driver said before its end, and how it ended."""

    exit_code: int
    cli_had_said: int | None
    ended: str | None


async def crash(env: Mapping[str, str], step: str, victim: str, *session_id: str) -> Crashed:
    driver = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, DRIVER, step, victim, *session_id],
            env={**env, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # a group of its own, that it may kill
            capture_output=True,
            timeout=60,
            check=False,
        )
    )
    lines = [json.loads(line) for line in driver.stdout.splitlines()]
    assert lines, driver.stderr.decode()
    return Crashed(driver.returncode, lines[0]["cli_has_said"], lines[1]["ended"] if len(lines) > 1 else None)


def runs(settings: Settings) -> list[Run]:
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx, closing(_query(settings)) as conn:
        found = [tx.runs.get(run_id) for (run_id,) in conn.execute("SELECT run_id FROM runs ORDER BY created_at_ms")]
    return [run for run in found if run is not None]


def _query(settings: Settings) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{settings.ledger_path}?mode=ro", uri=True)


async def adopt(settings: Settings, env: Mapping[str, str], waiting: list[Run]) -> None:
    """Let three find what was left at the same time: a process that is soon gone again, and two pools that stay."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_look_at_status, env)
        for _ in range(2):
            tasks.start_soon(_adopt_in_a_pool, settings, env, waiting)


async def _look_at_status(env: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "pool_mcp", "status", "--json"]
    done = await anyio.run_process(command, env={**env, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert len(json.loads(done.stdout)["subscriptions"]) == 1


async def _adopt_in_a_pool(settings: Settings, env: Mapping[str, str], waiting: list[Run]) -> None:
    async with open_pool(settings, env) as pool:
        for run in waiting:
            try:
                answer = await pool.result(run.run_id, wait_s=30)
            except PoolError:
                continue  # it was cut; what is booked of it is looked at afterwards
            assert (answer.status, answer.text[:7]) == ("completed", "Answer ")
        status = await pool.status()
        assert (status.pool.in_flight, status.pool.reserved_usd) == (0, 0)


def what_is_booked(settings: Settings, standin: Standin, run: Run | None) -> str:
    """How a run's entry stands against the stand-in's books."""
    if run is None:
        return NEVER_RAN
    assert run.finished
    with closing(_query(settings)) as conn:
        rows = conn.execute("SELECT cost_nanousd, is_estimate FROM entries WHERE run_id = ?", (run.run_id,)).fetchall()
    assert len(rows) == (run.started_at_ms is not None), "exactly one entry for a started run"
    truth = standin.spent_nanousd(session_id=run.session_id)
    match rows:
        case []:
            assert truth == 0
            return NEVER_STARTED
        case [(0, _)] if truth == 0:
            return ZERO
        case [(cost, 0)] if cost == truth:
            return EXACT
        case [(cost, 1)] if 0 < cost <= truth:
            return FLOOR
    return f"{rows} against {truth}"


def assert_nothing_is_left(settings: Settings) -> None:
    with closing(open_ledger(settings)) as ledger:
        assert ledger.audit().problems == ()
        with ledger.read() as tx:
            assert tx.runs.unfinished() == []
            assert tx.balances.reserved() == {}
    assert list(settings.runs_dir.glob("*/prompt")) == [], "a prompt is kept only while it is needed"
    # Locks of processes that are gone are removed by the next that opens a pool; none may be held.
    assert not any(is_held(path) for path in settings.owners_dir.glob("*"))


async def until_gone(settings: Settings, found: list[Run]) -> None:
    for run in found:
        pid = settings.runs_dir / run.run_id / "pid"
        # A CLI that was killed in its first millisecond has not even written its process id.
        if pid.exists() and pid.read_text():
            await until(partial(group_is_gone, settings, run.run_id))


@pytest.mark.parametrize(
    ("step", "victim", "expected"),
    [
        pytest.param(step, victim, expected, id=f"{step}-{victim}")
        for step, victims, expected in MATRIX
        for victim in victims
    ],
)
async def test_whoever_is_killed_whenever_all_is_booked_once(
    tmp_path: Path, standin: Standin, step: str, victim: str, expected: str
) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="slow", chunks=8, chunk_delay_s=0.05)

    crashed = await crash(env, step, victim)

    left = runs(settings)
    if victim == "cli":
        assert crashed.exit_code == 0, "the server outlives its CLI, and says how the ask ended"
        assert crashed.ended == ("completed" if expected is EXACT else "cli_failed")
        assert all(run.finished for run in left)
    else:
        assert crashed.exit_code == -9
        assert [run.finished for run in left] == ([] if expected is NEVER_RAN else [step == "settled"])
    if step == "CLI started":
        assert crashed.cli_had_said == 0
        assert left[0].started_at_ms is not None, "it is on record that it may spend, before it can"

    await adopt(settings, env, left)

    assert await anyio.to_thread.run_sync(standin.wait_idle)
    found = runs(settings)
    assert len(found) == len(left)
    assert what_is_booked(settings, standin, found[0] if found else None) == expected
    assert_nothing_is_left(settings)
    await until_gone(settings, left)


@pytest.mark.parametrize("victim", ["server", "cli", "both"])
async def test_a_session_that_goes_on_after_a_crash_is_booked_run_by_run(
    tmp_path: Path, standin: Standin, victim: str
) -> None:
    """The CLI reports whole sessions, so what a crash cut out of one must not turn up in the next run, or vanish."""
    settings, env = make_home(tmp_path, standin)
    async with open_pool(settings, env) as pool:
        first = await pool.ask(Ask("one", "driver"), wait_s=60)
        standin.accounts["alice"] = Behaviour(mode="slow", chunks=8, chunk_delay_s=0.05, calls=1)
        await crash(env, "first events", victim, first.session_id)
        await adopt(settings, env, runs(settings))
        await pool.ask(Ask("three", "driver", session_id=first.session_id), wait_s=60)

    assert await anyio.to_thread.run_sync(standin.wait_idle)
    costs = [(run.cost.nanousd, run.cost.is_estimate) for run in runs(settings) if run.cost is not None]
    truth = [call.cost_nanousd or 0 for call in standin.books]
    was_cut = victim != "server"
    assert [cost for cost, _ in costs[::2]] == truth[::2]
    assert [is_estimate for _, is_estimate in costs] == [False, was_cut, False]
    assert 0 < costs[1][0] <= truth[1]
    assert was_cut or costs[1][0] == truth[1]
    assert_nothing_is_left(settings)


@pytest.mark.parametrize(
    ("step", "victim", "version", "expected"),
    [
        ("spare waits", "server", NEWEST, NEVER_RAN),
        ("spare taken", "server", NEWEST, ZERO),
        *(("CLI started", "server", version, EXACT) for version in CLI_VERSIONS),
        ("first events", "both", NEWEST, FLOOR),
    ],
    ids=lambda one: one.name if isinstance(one, CliVersion) else one,
)
async def test_a_spare_whose_server_is_killed_ends_or_finishes_its_answer(
    tmp_path: Path, standin: Standin, step: str, victim: str, version: CliVersion, expected: str
) -> None:
    settings, env = make_home(tmp_path, standin, cli=version.cli, claude={"spares": "auto"})
    standin.accounts["alice"] = Behaviour(mode="slow", chunks=8, chunk_delay_s=0.05)
    crashed = await crash(env, step, victim)
    assert crashed.exit_code == -9
    await until(lambda: all(map(is_gone, spares(settings).values())), 60)
    async with open_pool(settings, env) as pool:
        _, *found = runs(settings)
        for run in found:
            with suppress(PoolError):
                assert (await pool.result(run.run_id, wait_s=60)).text[:7] == "Answer "
    assert await anyio.to_thread.run_sync(standin.wait_idle)
    _, *found = runs(settings)
    assert what_is_booked(settings, standin, found[0] if found else None) == expected
    await until_gone(settings, found)


def test_every_step_of_the_driver_is_in_the_matrix() -> None:
    assert {step for step, _, _ in MATRIX} == set(re.findall(r'case "(.+)"', DRIVER.read_text()))
