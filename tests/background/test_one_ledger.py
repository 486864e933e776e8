"""Two machines over one PostgreSQL ledger: budgets of projects and callers hold for both, a notice is sent once."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import anyio
import pytest
from database import Server
from ledger_writes import book, new_run
from receiver import Receiver
from support import make_home, now_ms

from pool_mcp.background.notify import Notifying
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import HOUR_MS, NANO, Budget, CallerBudget, Notice, WindowReading
from pool_mcp.settings import NotifySettings, Settings
from pool_mcp.state import State
from pool_mcp.usage.forecasts import Forecasts
from pool_mcp.usage.reports import Figures

pytestmark = pytest.mark.anyio


@pytest.fixture
def machines(postgres: Server, tmp_path: Path) -> Iterator[list[tuple[Settings, Ledger]]]:
    """The settings of two machines, each with its own connection to one ledger."""
    url = postgres.new_database()
    with ExitStack() as stack:
        found = []
        for name in ("one", "two"):
            settings, _ = make_home(tmp_path / name, None, "personal")
            found.append((settings, stack.enter_context(closing(Ledger(settings.ledger_path, url)))))
        yield found


async def test_each_notice_is_sent_once_under_one_id_whichever_machine_sends_it(
    machines: list[tuple[Settings, Ledger]],
) -> None:
    with Receiver() as receiver:
        to = NotifySettings(url=receiver.url, digest_s=0)
        servers = [
            Notifying(replace(settings, notify=(to,)), ledger, {}, now_ms)
            for settings, ledger in machines
            for _ in range(2)
        ]
        for server in servers:
            server.begin(to)
        with machines[0][1].write() as tx:
            for number in range(5):
                tx.outbox.add(Notice.of(f"{number}", "limit", "personal", f"notice {number}", now_ms()))
        while len(receiver.taken) < 5:
            async with anyio.create_task_group() as tasks:
                for server in servers:
                    tasks.start_soon(server.look, to)
        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(server.look, to)
        assert sorted(one["message"] for one in receiver.tried) == [f"notice {number}" for number in range(5)]
        assert len({one["id"] for one in receiver.tried}) == 5


def test_what_one_machine_spends_and_reserves_counts_on_the_other(machines: list[tuple[Settings, Ledger]]) -> None:
    (_, one), (settings, two) = machines
    at_ms = now_ms()
    with one.write() as tx:
        tx.official.record("personal", [WindowReading("five_hour", 20.0, at_ms + HOUR_MS, "allowed", at_ms)], at_ms)
        tx.runs.insert_ask("a", "host", None, "", at_ms)
        tx.runs.insert(replace(new_run("a", NANO, at_ms), project="site", branch="main"))
    book(one, "b", 2 * NANO, at_ms)
    budget = Budget(NANO, NANO, NANO)
    host = CallerBudget(monthly_nanousd=5 * NANO, share_percent=25)
    state = State(replace(settings, callers={"host": host}, projects={"site": budget}))
    with two.read() as tx:
        project, caller = state.project(tx, "site", at_ms), state.caller(tx, "host", at_ms)
        assert project is not None
        assert (project.left, project.reserved, project.month_spent, list(project.hours)) == (0, NANO, 0, [])
        assert (caller.left, caller.month_spent) == (2 * NANO, 2 * NANO)
        (window,) = caller.in_windows.values()
        assert (window.spent, window.reserved) == (2 * NANO, NANO)
        assert tx.balances.spend_by_hour(["personal"], 0, "sonnet") == tx.balances.spend_by_hour(None, 0, None)
        assert tx.runs.repository_of_session("b") == (None, None)
    figures = Figures(settings, two, lambda: at_ms, UTC)
    for by in ("project", "branch"):
        assert [(row.key, row.cost_usd) for row in figures.report(by).rows] == [("(unknown)", 2.0)]
    assert Forecasts(two, state.balances, lambda: at_ms, UTC).all() == []
