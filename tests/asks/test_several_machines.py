"""Two machines over one ledger, each a pool with a state directory and runs of its own, with the real CLI."""

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from database import Server
from support import make_home, open_ledger, open_pool, until
from wire import Wire

from pool_mcp.choices import By
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.errors import BudgetExceeded, InvalidRequest, LedgerError
from pool_mcp.model import Ask
from pool_mcp.pool import Pool
from pool_mcp.settings import Settings

pytestmark = pytest.mark.anyio

Home = tuple[Settings, dict[str, str]]
SLOWLY = Behaviour(mode="slow", chunks=10)
"""One second."""


def machine(folder: Path, name: str, standin: Standin, url: str, **top: Any) -> Home:
    given: dict[str, Any] = {"ledger.url": url, **top}
    settings, env = make_home(folder / name, standin, **given)
    (settings.state_dir / "machine.json").write_text(json.dumps({"id": f"id-{name}", "name": name}))
    return settings, env


def compare_with_the_record(settings: Settings) -> None:
    """A copy where the file would be is compared, at the test's end, with what was billed."""
    with closing(open_ledger(settings)) as ledger:
        assert ledger.audit().problems == ()
        ledger.backup(settings.ledger_path)


async def read_everything(pool: Pool) -> None:
    """Whatever the tools and the commands read."""
    await pool.status()
    await pool.gauges()
    await pool.pick(1.0, "opus", None)
    for by in get_args(By):
        await pool.look(pool.figures.report, by)
    await pool.look(pool.figures.chart, "day")
    await pool.look(pool.figures.activity)
    await pool.look(pool.forecasts.all)
    assert (await pool.look(pool.history.check)).problems == []
    await pool.outside.import_all()


async def test_a_run_is_seen_everywhere_and_touched_by_nobody_but_its_machine(
    standin: Standin, postgres: Server, tmp_path: Path
) -> None:
    url = postgres.new_database()
    laptop, tower = (machine(tmp_path, name, standin, url) for name in ("laptop", "tower"))
    standin.accounts["alice"] = SLOWLY
    async with open_pool(*laptop) as here, open_pool(*tower) as there:
        asked = await here.ask(Ask("ping", "tests", background=True, idempotency_key="key"))
        await there.adopt()
        assert (await there.status()).pool.in_flight == 1
        assert (await there.result(asked.run_id)).status == "running"
        answer = await here.result(asked.run_id, wait_s=60)
        assert answer.status == "completed"
        with pytest.raises(InvalidRequest, match=r"^The answer of run .* is on laptop; ask there"):
            await there.result(asked.run_id)
        with pytest.raises(InvalidRequest, match=r"^The session .* is on laptop; go on with it there"):
            await there.ask(Ask("and?", "tests", session_id=answer.session_id))
        with pytest.raises(InvalidRequest, match="is on laptop"):
            await there.ask(Ask("ping", "tests", background=False, idempotency_key="key"))
        await here.ask(Ask("and?", "tests", session_id=answer.session_id))
        await there.ask(Ask("ping", "tests"))
        for one in (here, there):
            await read_everything(one)
    assert len(standin.books) == 3
    compare_with_the_record(laptop[0])


async def test_a_run_is_cancelled_from_another_machine(standin: Standin, postgres: Server, tmp_path: Path) -> None:
    url = postgres.new_database()
    laptop, tower = (machine(tmp_path, name, standin, url) for name in ("laptop", "tower"))
    standin.accounts["alice"] = Behaviour(mode="slow", chunks=600)
    async with open_pool(*laptop) as here, open_pool(*tower) as there:
        asked = await here.ask(Ask("ping", "tests", background=True))
        with anyio.fail_after(60):
            await until(lambda: len(standin.books) == 1, 60)
            await there.supervision.cancel(asked.run_id)
            await until(partial(_is_finished, laptop[0], asked.run_id), 60)
    compare_with_the_record(laptop[0])


def _is_finished(settings: Settings, run_id: str) -> bool:
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
        run = tx.runs.get(run_id)
        return run is not None and run.finished


async def test_no_budget_is_overrun_by_more_than_a_call_a_machine(
    standin: Standin, postgres: Server, tmp_path: Path
) -> None:
    url = postgres.new_database()
    budget = {"weekly_budget_usd": 0.30}
    homes = [machine(tmp_path, name, standin, url, **budget) for name in ("laptop", "tower")]
    refused = 0

    async def ask_until_refused(pool: Pool) -> None:
        nonlocal refused
        for _ in range(50):
            try:
                await pool.ask(Ask("ping", "tests"))
            except BudgetExceeded:
                refused += 1
                return

    async with open_pool(*homes[0]) as one, open_pool(*homes[1]) as other, anyio.create_task_group() as tasks:
        for pool in (one, other):
            tasks.start_soon(ask_until_refused, pool)
    assert refused == 2
    with closing(open_ledger(homes[0][0])) as ledger, ledger.read() as tx:
        costs = tx.balances.recent_costs_nanousd("alice", None)
        assert sum(costs) <= 0.30e9 + 2 * max(costs)
    compare_with_the_record(homes[0][0])


async def test_a_run_goes_on_while_the_database_is_away_and_is_booked_once_when_it_is_back(
    standin: Standin, postgres: Server, tmp_path: Path
) -> None:
    url = postgres.new_database()
    with closing(Wire(postgres.port)) as wire:
        laptop = machine(tmp_path, "laptop", standin, wire.url(url, 4))
        standin.accounts["alice"] = SLOWLY
        async with open_pool(*laptop) as pool:
            asked = await pool.ask(Ask("ping", "tests", background=True))
            await until(lambda: len(standin.books) == 1, 60)
            wire.go_silent()
            with pytest.raises(LedgerError, match="cannot be reached"):
                await pool.ask(Ask("refused", "tests"))
            await until(lambda: _has_result(laptop[0], asked.run_id), 60)
            wire.come_back()
            assert (await pool.result(asked.run_id, wait_s=60)).status == "completed"
        assert len(standin.books) == 1
        compare_with_the_record(laptop[0])


def _has_result(settings: Settings, run_id: str) -> bool:
    return b'"type":"result"' in (settings.runs_dir / run_id / "stdout.jsonl").read_bytes()


async def test_what_a_lost_commit_reserved_is_given_back(standin: Standin, postgres: Server, tmp_path: Path) -> None:
    url = postgres.new_database()
    with closing(Wire(postgres.port)) as wire:
        laptop = machine(tmp_path, "laptop", standin, wire.url(url, 4))
        async with open_pool(*laptop) as pool:
            await pool.status()
            wire.lose_next_commit()
            with pytest.raises(LedgerError, match="nobody knows yet"):
                await pool.ask(Ask("in doubt", "tests"))
            wire.come_back()
            with anyio.fail_after(60):
                while (await pool.status()).pool.in_flight:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
    assert standin.books == []
    with closing(open_ledger(laptop[0])) as ledger, ledger.read() as tx:
        (run,) = tx.runs.ended(None, None, None, 10)
        assert (run.state, run.cost) == ("failed", None)
