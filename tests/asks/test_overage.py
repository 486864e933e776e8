"""Use beyond a plan's limits, which is real money, with the real CLI: never without a budget, and booked apart."""

import os
from contextlib import closing
from pathlib import Path

import pytest
from support import make_home, now_ms, open_ledger, open_pool

from pool_mcp.accounting.periods import Only
from pool_mcp.choosing.windows import month_start_ms
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Reply, ToolUse
from pool_mcp.errors import BudgetExceeded, LimitReached
from pool_mcp.model import NANO, Ask, Cooldown, Tokens
from pool_mcp.settings import Settings

pytestmark = pytest.mark.anyio

TOKENS = Tokens(input=1000, output=1000)
ACTS = Reply(tools=(ToolUse("Bash", {"command": "sleep 0.3", "description": "Wait"}),))
THREE_CALLS = (ACTS, ACTS, Reply(text="done"))


def waits(settings: Settings) -> Reply:
    """Use a tool that waits until the run is stopped."""
    config_dir, gate = settings.subscriptions[0].config_dir, settings.state_dir / "gate"
    assert config_dir is not None
    config_dir.mkdir(parents=True)
    (config_dir / "settings.json").write_text('{"permissions": {"allow": ["Bash"]}}')
    os.mkfifo(gate)
    return Reply(tools=(ToolUse("Bash", {"command": f"cat {gate}", "description": "Wait"}),))


def paid(settings: Settings) -> int:
    """What is booked as paid beyond the plan."""
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
        return tx.overage.spent_nanousd("alice", month_start_ms(now_ms()))


def cooldowns(settings: Settings) -> list[Cooldown]:
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
        return tx.cooldowns.open().get("alice", [])


async def test_without_a_budget_a_run_is_stopped_after_the_call_that_told_of_it(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin, claude={"tool_profile": "full"})
    standin.accounts["alice"] = Behaviour(replies=(waits(settings),), five_hour_utilization=1.0, has_overage=True)
    async with open_pool(settings, env) as pool:
        with pytest.raises(LimitReached, match="would cost real money") as caught:
            await pool.ask(Ask("ping", "tests"))
        assert len(standin.books) == 1
        assert paid(settings) == standin.spent_nanousd()
        (cooldown,) = cooldowns(settings)
        assert cooldown.cause == "five_hour"
        assert caught.value.retry_at_ms == cooldown.until_ms
        with pytest.raises(LimitReached):
            await pool.ask(Ask("ping", "tests"))
        notices = [one.message for one in (await pool.status()).alerts if one.kind == "overage"]
    assert len(notices) == 1
    assert "Anthropic began to bill real money" in notices[0]
    assert len(standin.books) == 1


async def test_without_a_budget_an_answer_that_told_of_it_is_handed_over_and_is_the_last(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1}})
    standin.accounts["alice"] = Behaviour(five_hour_utilization=1.0, has_overage=True)
    async with open_pool(settings, env) as pool:
        assert (await pool.ask(Ask("one", "tests"))).subscription == "alice"
        assert (await pool.ask(Ask("two", "tests"))).subscription == "bob"
    assert paid(settings) == standin.spent_nanousd(account="alice")
    assert len(cooldowns(settings)) == 1


async def test_with_a_budget_a_run_goes_on_and_only_what_is_beyond_the_plan_is_booked_as_that(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(
        tmp_path,
        standin,
        claude={"tool_profile": "full"},
        subscriptions={"alice": {"overage_budget_usd": 5.0}},
    )
    standin.accounts["alice"] = Behaviour(
        replies=THREE_CALLS, tokens=TOKENS, five_hour_capacity_usd=0.01, has_overage=True
    )
    async with open_pool(settings, env) as pool:
        answer = await pool.ask(Ask("ping", "tests"))
        assert answer.text == "done"
        status = await pool.status()
        notices = [one.message for one in status.alerts if one.kind == "overage"]
        shown = status.subscriptions[0].overage
        report = pool.figures.report("day")
        assert pool.figures.report("day", only=Only(caller="nobody")).real_money_usd == 0
    assert shown is not None
    assert (round(shown.cost_usd * NANO), shown.budget_usd, shown.in_use) == (paid(settings), 5.0, True)
    first, *rest = (call.cost_nanousd or 0 for call in standin.books)
    assert len(rest) == 2
    assert (report.real_money_usd, status.pool.week_real_money_usd) == (shown.cost_usd, shown.cost_usd)
    assert answer.cost_usd == pytest.approx((first + sum(rest)) / NANO)
    assert paid(settings) == pytest.approx(sum(rest), abs=3)
    assert ["up to $5.00 a month" in one for one in notices] == [True]
    assert cooldowns(settings) == []


async def test_a_run_is_stopped_where_its_next_call_may_exceed_the_months_budget(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(
        tmp_path,
        standin,
        claude={"tool_profile": "full"},
        subscriptions={"alice": {"overage_budget_usd": 0.04}},
    )
    standin.accounts["alice"] = Behaviour(
        replies=(ACTS, ACTS, waits(settings)), tokens=TOKENS, five_hour_utilization=1.0, has_overage=True
    )
    async with open_pool(settings, env) as pool:
        with pytest.raises(BudgetExceeded):
            await pool.ask(Ask("ping", "tests"))
    cost = standin.books[0].cost_nanousd or 0
    assert len(standin.books) == 40_000_000 // cost  # no call more than fits
    assert paid(settings) <= 40_000_000
