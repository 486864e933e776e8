"""Each fault by its nature, with the real CLI: limits, early resets, 529, missing logins, several servers at once."""

import logging
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path

import anyio
import pytest
from support import CLAUDE, make_home, now_ms, open_ledger, open_pool, sign_in

from pool_mcp.background.logins import Upkeep
from pool_mcp.choosing.cooldowns import LONGEST_MS, WHOLE_POOL, with_backoff
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.errors import NeedsLogin, Overloaded
from pool_mcp.model import HOUR_MS, MINUTE_MS, Ask, Cooldown, WindowReading
from pool_mcp.pool import Pool
from pool_mcp.results.asks import AskResult
from pool_mcp.results.status import StatusResult, SubscriptionResult
from pool_mcp.settings import Settings
from pool_mcp.state import State

pytestmark = pytest.mark.anyio


async def ask(pool: Pool, **said: object) -> AskResult:
    return await pool.ask(Ask("Say something.", "tests", **said))  # type: ignore[arg-type]


def of(status: StatusResult, name: str) -> SubscriptionResult:
    return next(one for one in status.subscriptions if one.id == name)


def attempts(answer: AskResult) -> list[tuple[str, str]]:
    return [(one.subscription, one.outcome) for one in answer.attempts]


async def test_a_used_up_limit_cools_until_its_reset_and_a_reading_lifts_it_early(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1}})
    standin.accounts["alice"] = Behaviour(mode="five_hour_limit")
    async with open_pool(settings, env) as pool:
        answer = await ask(pool)
        alice = of(await pool.status(), "alice")
        assert attempts(answer) == [("alice", "limit"), ("bob", "ok")]
        assert alice.status == "cooldown"
        assert alice.cooldown is not None
        assert (alice.cooldown.cause, alice.cooldown.until) == ("five_hour", alice.available_at)
        assert attempts(await ask(pool)) == [("bob", "ok")]
        told = [(one.kind, one.subscription) for one in (await pool.status()).alerts]
        assert sorted(told) == [("failover", "alice"), ("limit", "alice")]
        # Anthropic gives everybody a new window, and some use of the account elsewhere shows it.
        standin.accounts["alice"] = Behaviour()
        hears(settings, "alice", WindowReading("five_hour", 1.0, now_ms() + 5 * HOUR_MS, "allowed", now_ms()))
        alice = of(await pool.status(), "alice")
        assert (alice.status, alice.cooldown) == ("available", None)
        assert attempts(await ask(pool)) == [("alice", "ok")]


def hears(settings: Settings, name: str, *readings: WindowReading) -> None:
    with closing(open_ledger(settings)) as ledger, ledger.write() as tx:
        tx.official.record(name, readings, now_ms())


async def test_after_a_cooldown_one_run_at_a_time_tries_whether_it_is_over(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1}})
    standin.accounts["alice"] = Behaviour(mode="hang_before_start")
    with closing(open_ledger(settings)) as ledger, ledger.write() as tx:
        tx.cooldowns.start("alice", Cooldown("burst", now_ms() - 2000, now_ms() - 1000, "too many requests"), None)
    async with open_pool(settings, env) as pool, open_pool(settings, env) as another:
        probe = await ask(pool, background=True)
        assert probe.subscription == "alice"
        assert attempts(await ask(another)) == [("bob", "ok")]
        picked = await another.pick()
        assert [one.reasons[0] for one in picked.candidates if not one.eligible] == [
            "one run is testing whether this is over: too many requests"
        ]
        with pytest.raises(Exception, match="cancelled"):
            await pool.result(probe.run_id, cancel=True)
        standin.accounts["alice"] = Behaviour()
        assert attempts(await ask(another)) == [("alice", "ok")]
        assert of(await pool.status(), "alice").cooldown is None


async def test_an_overloaded_service_is_retried_by_the_cli_and_no_subscription_is_to_blame(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1}})
    standin.accounts["alice"] = Behaviour(mode="overloaded", calls=1)
    async with open_pool(settings, env) as pool:
        assert attempts(await ask(pool)) == [("alice", "ok")]
        assert of(await pool.status(), "alice").cooldown is None
    assert [(one.account, one.status) for one in standin.refused] == [("alice", 529)]


async def test_while_anthropic_is_overloaded_one_ask_tries_it_out_and_the_others_wait(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin, "alice", "bob")
    standin.accounts["alice"] = standin.accounts["bob"] = Behaviour(mode="hang_before_start", calls=1)
    with closing(open_ledger(settings)) as ledger, ledger.write() as tx:
        overload = Cooldown("overloaded", now_ms(), now_ms() + MINUTE_MS, "overloaded")
        tx.cooldowns.start(WHOLE_POOL, overload, None)
    async with open_pool(settings, env) as pool:
        assert (await pool.status()).advice.action == "wait"
        probe = await ask(pool, background=True)
        with pytest.raises(Overloaded) as caught:
            await ask(pool, wait_for="none")
        assert caught.value.retry_at_ms == overload.until_ms
        with pytest.raises(Exception, match="cancelled"):
            await pool.result(probe.run_id, cancel=True)
        standin.accounts["alice"] = standin.accounts["bob"] = Behaviour()
        await ask(pool)
        assert (await pool.status()).advice.action == "proceed"


async def test_a_token_that_is_refused_is_out_until_a_person_acts_and_the_next_ask_finds_out(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin, "alice")
    standin.accounts["alice"] = Behaviour(mode="auth")
    async with open_pool(settings, env) as pool:
        for _ in range(2):
            with pytest.raises(NeedsLogin) as caught:
                await ask(pool)
            assert caught.value.retry_at_ms is None
        alice = of(await pool.status(), "alice")
        assert (alice.status, alice.available_at) == ("needs_login", None)
        assert "claude setup-token" in alice.status_reason
        assert (await pool.status()).advice.action == "stop"
        assert (await pool.pick()).subscription is None
        standin.accounts["alice"] = Behaviour()
        assert attempts(await ask(pool)) == [("alice", "ok")]
        assert of(await pool.status(), "alice").status == "available"


async def test_a_login_that_was_lost_is_back_as_soon_as_somebody_signs_in(standin: Standin, tmp_path: Path) -> None:
    folder = tmp_path / "carol"
    settings, env = make_home(
        tmp_path, standin, "bob", subscriptions={"carol": {"config_dir": str(folder), "priority": 1}}
    )
    async with open_pool(settings, env) as pool:
        carol = of(await pool.status(), "carol")
        assert (carol.status, carol.available_at) == ("needs_login", None)
        assert carol.status_reason == "not signed in: run `pool-mcp login carol`"
        assert (await pool.pick()).subscription == "bob"
        assert attempts(await ask(pool)) == [("bob", "ok")]
        sign_in(folder, "carol", "org-1")
        assert attempts(await ask(pool)) == [("carol", "ok")]


async def test_where_nobody_is_signed_in_or_there_is_no_cli_no_room_is_claimed_and_nothing_is_started(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(
        tmp_path, standin, subscriptions={"alice": {"enabled": False}, "carol": {"config_dir": str(tmp_path / "carol")}}
    )
    async with open_pool(settings, env) as pool:
        status = await pool.status()
        assert of(status, "carol").status == "needs_login"
        assert status.advice.action == "stop"
        assert "run `pool-mcp login carol`" in status.advice.reason
        assert (await pool.pick()).subscription is None
        sign_in(tmp_path / "carol", "carol", "org-1")
        assert of(await pool.status(), "carol").status == "available"
    (tmp_path / "claude").symlink_to(CLAUDE)
    settings, env = make_home(tmp_path, standin, cli=tmp_path / "claude")
    async with open_pool(settings, env) as pool:
        assert of(await pool.status(), "alice").status == "available"
        (tmp_path / "claude").unlink()
        status = await pool.status()
        assert (of(status, "alice").status, status.advice.action) == ("needs_login", "stop")
        assert "npm install -g @anthropic-ai/claude-code" in status.advice.reason
        assert (await pool.pick()).subscription is None
        assert [one for one in status.alerts if one.kind == "needs_login" and one.subscription == "alice"] == []
    assert list(settings.runs_dir.glob("*")) == []


def look(settings: Settings, env: dict[str, str]) -> None:
    with closing(open_ledger(settings)) as ledger:
        Upkeep(settings, ledger, State(settings), env, now_ms).look()


async def test_two_logins_of_one_organisation_are_one_quota(standin: Standin, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("carol", "dave")}
    for name, folder in folders.items():
        sign_in(folder, name, "org-1")
    settings, env = make_home(
        tmp_path, standin, "bob", subscriptions={name: {"config_dir": str(at)} for name, at in folders.items()}
    )
    standin.accounts["carol"] = Behaviour(five_hour_utilization=0.4)
    async with open_pool(settings, env) as pool:
        look(settings, env)
        await ask(pool, subscription="carol")
        status = await pool.status()
        assert {one.id: one.organisation for one in status.subscriptions} == {
            "bob": None,
            "carol": "org-1",
            "dave": "org-1",
        }
        assert of(status, "dave").official["five_hour"].percent == 40.0
        standin.accounts["carol"] = Behaviour(mode="five_hour_limit")
        with pytest.raises(Exception, match="limit"):
            await ask(pool, subscription="carol")
        assert of(await pool.status(), "dave").status == "cooldown"


async def test_an_alert_is_told_once_whatever_process_sees_it(
    standin: Standin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings, env = make_home(tmp_path, standin, "alice")
    standin.accounts["alice"] = Behaviour(five_hour_utilization=0.85)
    caplog.set_level(logging.WARNING, "pool_mcp.background.alerts")
    async with open_pool(settings, env) as pool, open_pool(settings, env) as another:
        await ask(pool)
        await ask(another)
        standin.accounts["alice"] = Behaviour(five_hour_utilization=0.93)
        await ask(another)
        await ask(pool)
        status = await pool.status()
    told = [line.getMessage() for line in caplog.records if line.getMessage().startswith("alert")]
    assert [line.split(";")[0] for line in told] == [
        "alert (80%): alice: the five_hour window is 85% used",
        "alert (90%): alice: the five_hour window is 93% used",
    ]
    assert [one.kind for one in status.alerts] == ["90%", "80%"]
    assert status.advice.action == "slow_down"


async def test_thirty_asks_at_once_through_three_servers_are_spread_by_what_is_reserved(
    standin: Standin, tmp_path: Path
) -> None:
    names = ("alice", "bob", "carol")
    settings, env = make_home(tmp_path, standin, *names)
    for name in names:
        standin.accounts[name] = Behaviour(mode="slow", chunks=10)
    answers: list[AskResult] = []

    async def answer(pool: Pool) -> None:
        answers.append(await ask(pool))

    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(open_pool(settings, env)) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for at in range(30):
                tasks.start_soon(answer, pools[at % 3])
    assert [len(one.attempts) for one in answers] == [1] * 30
    assert all(8 <= [one.subscription for one in answers].count(name) <= 12 for name in names)


def test_a_burst_doubles_up_to_a_bound_and_runs_from_before_it_add_nothing() -> None:
    begun = round(time.time() * 1000)
    first = Cooldown("burst", begun, begun + MINUTE_MS, "burst")
    assert with_backoff(first, None, begun - 1) == first
    beside = Cooldown("burst", begun + 5, begun + 5 + MINUTE_MS, "burst")
    assert with_backoff(beside, first, begun - 1).until_ms == first.until_ms
    lengths, last = [], first
    for _ in range(6):
        at_ms = last.until_ms or 0
        last = with_backoff(Cooldown("burst", at_ms, at_ms + MINUTE_MS, "burst"), last, at_ms - 1)
        lengths.append(((last.until_ms or 0) - at_ms) // MINUTE_MS)
    assert lengths == [2, 4, 8, 15, 15, 15]
    later = Cooldown("burst", begun + HOUR_MS, begun + HOUR_MS + MINUTE_MS, "burst")
    assert with_backoff(later, first, begun + 1) == later
    assert LONGEST_MS == 15 * MINUTE_MS
