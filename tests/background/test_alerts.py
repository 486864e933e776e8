"""Alerts reach every host that asked for them, once, through real servers and in both eras of the protocol."""

import json
from pathlib import Path

import pytest
from hosting import Era, Host, host
from mcp import MCPDeprecationWarning
from mcp_types import TextResourceContents
from support import make_home, until

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour

pytestmark = pytest.mark.anyio

STATUS = "pool://status"
ALICE, BOB = "pool://subscriptions/alice", "pool://subscriptions/bob"
ERAS = pytest.mark.parametrize("era", ["legacy", "auto"])


async def alerts(host: Host, uri: str = STATUS) -> list[str]:
    """The kinds of the alerts that the status, read as a resource, shows now; newest first."""
    content = (await host.client.read_resource(uri)).contents[0]
    assert isinstance(content, TextResourceContents)
    return [one["kind"] for one in json.loads(content.text)["alerts"]]


async def hears(host: Host, *uris: str) -> None:
    """Wait until a host has heard this much; that it is no more shows when it hears the next."""
    await until(lambda: len(host.heard) >= len(uris), 20)
    assert host.heard == list(uris)


def told(*logs: Path) -> list[str]:
    """The alerts' lines in logs."""
    lines = [line for log in logs for line in log.read_text().splitlines()]
    assert not [line for line in lines if "Traceback" in line or "stopping on" in line]  # they end with their input
    return [line.partition("alert ")[2].partition(";")[0] for line in lines if "alert (" in line]


@ERAS
async def test_a_host_hears_of_each_threshold_of_a_window_once_and_then_reads_it_in_the_status(
    era: Era, standin: Standin, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path, standin)
    async with host(env, tmp_path / "log", era):
        pass  # from the second start on the first replies come before the SDK is there to be asked
    async with host(env, tmp_path / "log", era, STATUS) as ours:
        standin.accounts["alice"] = Behaviour(five_hour_utilization=0.5)
        await ours.ask()
        standin.accounts["alice"] = Behaviour(five_hour_utilization=0.85)
        for _ in range(2):
            await ours.ask()
            await hears(ours, STATUS)
        assert await alerts(ours) == ["80%"]
        standin.accounts["alice"] = Behaviour(five_hour_utilization=0.93)
        await ours.ask()
        await hears(ours, STATUS, STATUS)
        standin.accounts["alice"] = Behaviour(mode="five_hour_limit")
        await ours.ask()
        await hears(ours, STATUS, STATUS, STATUS)
        assert await alerts(ours) == ["limit", "90%", "80%"]
        assert [one["kind"] for one in (await ours.call("usage_status"))["alerts"]] == ["limit", "90%", "80%"]
    assert [line.split(":")[0] for line in told(ours.log)] == ["(80%)", "(90%)", "(limit)"]


async def test_a_host_hears_once_that_a_login_is_missing_and_again_only_after_there_was_one(
    standin: Standin, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path, standin)
    async with host(env, tmp_path / "log", "auto", STATUS) as ours:
        for lost in (1, 2):
            standin.accounts["alice"] = Behaviour(mode="auth")
            for _ in range(2):
                await ours.ask()
                await hears(ours, *[STATUS] * lost)
            standin.accounts["alice"] = Behaviour()
            assert await ours.ask() == [("alice", "ok")]
        assert await alerts(ours) == ["needs_login"] * 2
    assert len(told(ours.log)) == 2


@ERAS
async def test_a_host_hears_that_an_ask_went_on_elsewhere_and_of_what_it_asked_for_only(
    era: Era, standin: Standin, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1}})
    standin.accounts["alice"] = Behaviour(mode="five_hour_limit")
    async with host(env, tmp_path / "log", era, ALICE, BOB) as ours:
        assert await ours.ask() == [("alice", "limit"), ("bob", "ok")]
        await until(lambda: len(told(ours.log)) == 2)
        assert sorted(await alerts(ours)) == ["failover", "limit"]
        standin.accounts["bob"] = Behaviour(five_hour_utilization=0.85)
        await ours.ask()
        await until(lambda: BOB in ours.heard)
    # What was told at the same moment is one update.
    assert ours.heard in ([ALICE, BOB], [ALICE, ALICE, BOB])


async def test_hosts_of_both_eras_hear_once_of_what_either_ones_server_has_seen(
    standin: Standin, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path, standin)
    async with (
        host(env, tmp_path / "one", "legacy", STATUS) as one,
        host(env, tmp_path / "other", "auto", STATUS) as other,
    ):
        heard: list[str] = []
        for utilization in (0.85, 0.93):
            standin.accounts["alice"] = Behaviour(five_hour_utilization=utilization)
            heard += [STATUS]
            for asking in (one, other):
                await asking.ask()
                await hears(one, *heard)
                await hears(other, *heard)
        assert await alerts(one) == await alerts(other) == ["90%", "80%"]
    assert [line.split(":")[0] for line in sorted(told(one.log, other.log))] == ["(80%)", "(90%)"]


async def test_what_was_told_before_a_host_asked_is_in_the_status_and_is_no_news(
    standin: Standin, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(five_hour_utilization=0.85)
    async with host(env, tmp_path / "one") as one:
        await one.ask()
        async with host(env, tmp_path / "other", "auto", STATUS) as other:
            assert await alerts(other) == ["80%"]
            standin.accounts["alice"] = Behaviour(five_hour_utilization=0.93)
            await other.ask()
            await hears(other, STATUS)
        assert one.heard == []  # it never asked


async def test_a_host_that_asks_no_longer_hears_no_more(standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(five_hour_utilization=0.85)
    async with host(env, tmp_path / "log", "legacy", STATUS, ALICE) as ours:
        with pytest.warns(MCPDeprecationWarning, match="resources/unsubscribe is removed"):
            await ours.client.unsubscribe_resource(STATUS)
        await ours.ask()
        await hears(ours, ALICE)
