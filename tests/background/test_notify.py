"""Notices reach receivers outside: each at least once under one id, whatever receivers and servers do."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest
from hosting import host
from ledger_writes import new_run
from receiver import Mode, Receiver
from support import make_home, now_ms, until

from pool_mcp.background.notify import TIMEOUT_S, Notifying, is_quiet, send, trial
from pool_mcp.background.webhook import post
from pool_mcp.choosing.pacing import Alert
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.outbox import BACKOFF_MS, CLAIM_MS
from pool_mcp.model import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    NANO,
    SECOND_MS,
    Budget,
    CallerBudget,
    Cost,
    ModelCost,
    Notice,
    Outcome,
    RunState,
    Settlement,
    Tokens,
)
from pool_mcp.settings import Settings, load
from pool_mcp.setup.doctor import examine
from pool_mcp.state import State

pytestmark = pytest.mark.anyio


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def add(settings: Settings, env: dict[str, str], **table: object) -> Settings:
    """The settings with a receiver more, also in the file."""
    with settings.config_file.open("a") as file:
        file.write("\n[[notify]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items()))
    return load(env)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {json.dumps(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


@dataclass
class Home:
    """A ledger, a receiver, and a clock that stands still unless a test moves it on."""

    settings: Settings
    env: dict[str, str]
    ledger: Ledger
    now_ms: int = field(default_factory=now_ms)

    def __post_init__(self) -> None:
        self.ours = self.server()
        self.ours.begin(self.settings.notify[0])

    def server(self) -> Notifying:
        return Notifying(self.settings, self.ledger, self.env, lambda: self.now_ms)

    def cause(self, *messages: str, kind: str = "limit") -> None:
        with self.ledger.write() as tx:
            for message in messages:
                tx.outbox.add(Notice.of(message, kind, "alice", message, self.now_ms))

    async def look(self, after_ms: int = 0) -> None:
        self.now_ms += after_ms
        await self.ours.look(self.settings.notify[0])

    def problem(self) -> str | None:
        with self.ledger.read() as tx:
            (state,) = tx.outbox.receivers().values()
        return state.problem


@pytest.fixture
def homes(tmp_path: Path, receiver: Receiver) -> Iterator[Any]:
    """Makes a home with a receiver's further settings."""
    opened: list[Ledger] = []

    def make(**table: object) -> Home:
        settings, env = make_home(tmp_path)
        settings = add(settings, env, **({"url": receiver.url} | table))
        opened.append(Ledger(settings.ledger_path))
        return Home(settings, env | {"TZ": "Europe/Berlin"}, opened[-1])

    yield make
    for ledger in opened:
        ledger.close()


# One receiver that does not take what it is sent


async def test_a_notice_is_tried_again_later_and_later_under_one_id_until_it_is_taken(
    homes: Any, receiver: Receiver
) -> None:
    home = homes()
    home.cause("it is used up")
    tries: tuple[tuple[Mode, str, int], ...] = (
        ("fail", "HTTP 503", BACKOFF_MS[0]),
        ("redirect", "HTTP 307, a redirect; write the address that it leads to", BACKOFF_MS[1]),
    )
    for mode, problem, wait_ms in tries:
        receiver.mode = mode
        before = len(receiver.tried)
        await home.look()
        await home.look(wait_ms - 1)
        assert len(receiver.tried) == before + 1
        assert home.problem() == problem
        home.now_ms += 1
    receiver.mode = "ok"
    await home.look()
    await home.look(DAY_MS)
    assert len(receiver.tried) == 3
    assert len({one["id"] for one in receiver.tried}) == 1
    (taken,) = receiver.taken
    assert {**taken, "id": "", "at": ""} == {
        "id": "", "kind": "limit", "subscription": "alice", "message": "it is used up", "at": "", "notices": [],
    }  # fmt: skip
    assert home.problem() is None


async def test_a_notice_that_nobody_takes_within_a_day_is_given_up_and_what_is_new_is_sent(
    homes: Any, receiver: Receiver
) -> None:
    home = homes()
    home.cause("too old")
    receiver.mode = "fail"
    await home.look()
    receiver.mode = "ok"
    home.now_ms += DAY_MS + 1
    home.cause("new")
    await home.look()
    await home.look(HOUR_MS)
    assert [one["message"] for one in receiver.taken] == ["new"]
    with home.ledger.read() as tx:
        assert [one.given_up for one in tx.outbox.receivers().values()] == [1]


async def test_what_hangs_is_left_after_a_bounded_time_and_says_nothing_of_the_address(receiver: Receiver) -> None:
    receiver.mode = "hang"
    assert await post(receiver.url, b"{}", {"content-type": "application/json"}, 0.3) == "no answer within 0.3 s"
    assert await post("http://127.0.0.1:1/SECRET", b"", {}, 5) == "no connection (ConnectError)"


async def test_who_takes_over_from_a_process_that_died_while_sending_sends_the_same_message(
    homes: Any, receiver: Receiver
) -> None:
    home = homes()
    receiver.mode = "hang"
    home.cause("one", "two")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(home.look)
        await until(lambda: receiver.tried)
        receiver.mode = "ok"
        home.cause("three")
        await home.look(CLAIM_MS - 1)
        assert len(receiver.tried) == 1  # it is still claimed
        tasks.cancel_scope.cancel()
    home.now_ms += 1
    for _ in range(2):
        await home.server().look(home.settings.notify[0])
        home.now_ms += MINUTE_MS
    assert [[one["message"] for one in said["notices"]] or said["message"] for said in receiver.taken] == [
        "three", ["one", "two"],
    ]  # fmt: skip
    assert receiver.taken[1]["id"] == receiver.tried[0]["id"]


# When


async def test_what_comes_within_a_minute_of_a_notice_is_one_digest(homes: Any, receiver: Receiver) -> None:
    home = homes()
    home.cause("first")
    await home.look()
    for number in range(3):
        home.cause(f"burst {number}")
        await home.look(10 * SECOND_MS)
    await home.look(MINUTE_MS)
    first, digest = receiver.taken
    assert (first["kind"], first["message"]) == ("limit", "first")
    assert (digest["kind"], digest["message"]) == ("digest", "burst 0\nburst 1\nburst 2")
    assert len({first["id"], digest["id"], *(one["id"] for one in digest["notices"])}) == 5


async def test_a_night_of_notices_is_one_digest_when_the_quiet_hours_end(homes: Any, receiver: Receiver) -> None:
    home = homes(quiet_hours="22:00-07:00")
    home.now_ms = round(anyio_time(2026, 3, 28, 21, 59) * 1000)  # clocks go forward in this night
    home.ours.begin(home.settings.notify[0])
    home.cause("evening")
    await home.look()
    for minute in range(1, 9 * 60):
        if minute % 60 == 0:
            home.cause(f"night {minute}")
        await home.look(MINUTE_MS)
        expected = 1 if anyio_time(2026, 3, 29, 7, 0) * 1000 > home.now_ms else 2
        assert len(receiver.taken) == expected
    assert [one["message"] for one in receiver.taken[1]["notices"]] == [f"night {60 * hour}" for hour in range(1, 9)]


def anyio_time(*parts: int) -> float:
    """An instant of a person's day in Berlin, in Unix seconds."""
    from datetime import datetime

    return datetime(*parts, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(("hours", "quiet"), [("22:00-07:00", [0, 6, 22, 23]), ("09:00-12:00", [9, 10, 11])])
def test_quiet_hours_may_go_over_midnight(hours: str, quiet: list[int]) -> None:
    zone = ZoneInfo("Europe/Berlin")
    found = [hour for hour in range(24) if is_quiet(hours, round(anyio_time(2026, 7, 1, hour) * 1000), zone)]
    assert sorted({*found} & {0, 6, 7, 9, 10, 11, 12, 21, 22, 23}) == quiet


async def test_a_receiver_gets_what_it_asked_for_and_nothing_from_before_it_was_set(
    homes: Any, receiver: Receiver
) -> None:
    home = homes(on=["budget"], digest_s=0)
    with home.ledger.write() as tx:
        tx.outbox.add(Notice.of("early", "budget", "", "early", home.now_ms - 1))
    home.cause("a limit")
    home.cause("one", "two", kind="budget")
    for _ in range(4):
        await home.look()
    assert sorted(one["message"] for one in receiver.taken) == ["one", "two"]


# Ways


async def test_ntfy_gets_text_with_its_own_headers_and_headers_come_from_variables(
    homes: Any, receiver: Receiver
) -> None:
    home = homes(kind="ntfy", headers={"Authorization": "NTFY_TOKEN"})
    home.cause("it is used up – now")
    await home.look()
    assert home.problem() == "NTFY_TOKEN is not set in this environment"
    home.env["NTFY_TOKEN"] = "Bearer tk_1"  # the same mapping as the server's
    home.ours = home.server()
    await home.look(BACKOFF_MS[0])
    assert receiver.taken == [{"text": "it is used up – now"}]
    (headers,) = receiver.headers
    names = ("title", "priority", "authorization", "content-type")
    assert [headers[name] for name in names] == [
        "pool-mcp: limit", "high", "Bearer tk_1", "text/plain; charset=utf-8",
    ]  # fmt: skip
    assert headers["x-sequence-id"] == headers["x-notice-id"]


def command(tmp_path: Path, text: str) -> list[str]:
    script = tmp_path / "receiver.py"
    script.write_text(text)
    return [sys.executable, str(script)]


async def test_a_command_gets_the_json_and_none_of_our_keys(tmp_path: Path) -> None:
    settings, env = make_home(tmp_path)
    out = tmp_path / "out"
    said = f"import json, os, sys; open({str(out)!r}, 'w').write(json.dumps([json.load(sys.stdin), list(os.environ)]))"
    settings = add(settings, env, command=command(tmp_path, said))
    assert await send(settings.notify[0], trial(0), env, settings.variables(env)) is None
    message, names = json.loads(out.read_text())
    assert message["kind"] == "test"
    assert "PATH" in names
    assert "TOKEN_ALICE" not in names


async def test_a_command_that_hangs_is_killed_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, env = make_home(tmp_path)
    out = tmp_path / "pid"
    hangs = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(out)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    settings = add(settings, env, command=command(tmp_path, hangs))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send, settings.notify[0], trial(0), env, [])
        await until(lambda: out.exists() and out.read_text(), 20)
        tasks.cancel_scope.cancel()
    await until(lambda: not _lives(int(out.read_text())), 20)
    monkeypatch.setattr("pool_mcp.background.notify.TIMEOUT_S", 0.2)
    assert await send(settings.notify[0], trial(0), env, []) == "it did not end within 0.2 s"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize(("text", "problem"), [("raise SystemExit(3)", "it ended with exit code 3"), ("pass", None)])
async def test_a_command_that_fails_says_how(tmp_path: Path, text: str, problem: str | None) -> None:
    settings, env = make_home(tmp_path)
    settings = add(settings, env, command=command(tmp_path, text))
    assert await send(settings.notify[0], trial(0), env, []) == problem


async def test_the_doctor_names_a_receiver_that_takes_nothing_but_not_its_address(
    homes: Any, receiver: Receiver
) -> None:
    home = homes()
    home.cause("it is used up")
    receiver.mode = "fail"
    await home.look()

    def found() -> list[tuple[str, str]]:
        return [(one.status, one.text) for one in examine(home.env, now_ms()).findings if one.check == "notify"]

    assert found() == [("broken", "127.0.0.1: HTTP 503 (1 try in a row)")]
    receiver.mode = "ok"
    await home.look(BACKOFF_MS[0])
    ((status, text),) = found()
    assert (status, text.startswith("127.0.0.1: threshold, limit, ")) == ("ok", True)


# What causes notices


async def test_the_end_of_a_limit_is_a_notice_once_when_its_subscription_can_be_used(homes: Any) -> None:
    home = homes(on=["limit", "room"])
    state = State(home.settings)
    with home.ledger.write() as tx:
        limit = Alert("alice x limit", "limit", "alice", "alice: x is used up", home.now_ms + HOUR_MS, "limit")
        assert tx.notices.record(limit, home.now_ms)
        assert state.tell_alerts(tx, home.now_ms) == []
        later_ms = home.now_ms + HOUR_MS
        assert [one.message for one in state.tell_alerts(tx, later_ms)] == ["alice: there is room again"]
        assert state.tell_alerts(tx, later_ms) == []
        assert tx.notices.current(later_ms) == []  # it is not shown in the status


async def test_a_callers_and_a_projects_budget_are_told_once_and_of_no_subscription(homes: Any) -> None:
    home = homes(on=["threshold", "budget"])
    budgets: dict[str, Any] = {
        "callers": {"night": CallerBudget(daily_nanousd=NANO)},
        "projects": {"site": Budget(None, None, NANO)},
    }
    state = State(replace(home.settings, **budgets))
    cost = Cost.of({"sonnet": ModelCost(Tokens(1), NANO)})
    with home.ledger.write() as tx:
        assert state.tell_alerts(tx, home.now_ms) == []
        tx.runs.insert_ask("a", "night", None, "", home.now_ms)
        run = replace(new_run("a", NANO, home.now_ms), caller="night", project="site", subscription="alice")
        tx.runs.insert(run)
        assert tx.runs.mark_running("a", run.owner_id, None, home.now_ms)
        assert tx.runs.settle(Settlement("a", RunState.SETTLED, Outcome.OK, None, cost, home.now_ms), run.owner_id)
        told = [one.message for one in state.tell_alerts(tx, home.now_ms)]
        assert told == ["the daily budget of caller 'night' is spent", "the monthly budget of project 'site' is spent"]
        assert state.tell_alerts(tx, home.now_ms) == []


async def test_four_servers_tell_each_receiver_each_notice_once(
    standin: Standin, tmp_path: Path, receiver: Receiver
) -> None:
    settings, env = make_home(tmp_path, standin)
    settings = add(settings, env, url=receiver.url, digest_s=0)
    with Receiver() as other:
        add(settings, env, url=other.url, digest_s=0, on=["threshold", "login", "run_failed"])
        async with AsyncExitStack() as stack:
            hosts = [await stack.enter_async_context(host(env, tmp_path / f"log{n}")) for n in range(4)]
            await until(lambda: _receivers(settings) == 2, 20)
            standin.accounts["alice"] = Behaviour(five_hour_utilization=0.85)
            for one in hosts:
                await one.ask()
            standin.accounts["alice"] = Behaviour(mode="auth")
            await hosts[0].ask()
            await until(lambda: len(other.taken) == 3 and len(receiver.taken) == 3, 60)
        kinds = ["login", "run_failed", "threshold"]
        assert sorted(one["kind"] for one in other.taken) == sorted(one["kind"] for one in receiver.taken) == kinds
        assert {one["id"] for one in other.taken} == {one["id"] for one in receiver.taken}
        assert len(other.tried) == len(receiver.tried) == 3
        assert "Say something" not in json.dumps(receiver.taken)
    assert not any("SECRET" in (tmp_path / f"log{n}").read_text() for n in range(4))  # an address may be one


def _receivers(settings: Settings) -> int:
    ledger = Ledger(settings.ledger_path)
    try:
        with ledger.read() as tx:
            return len(tx.outbox.receivers())
    finally:
        ledger.close()


async def test_an_ask_is_answered_while_a_receiver_hangs(standin: Standin, tmp_path: Path, receiver: Receiver) -> None:
    settings, env = make_home(tmp_path, standin)
    add(settings, env, url=receiver.url)
    receiver.mode = "hang"
    async with host(env, tmp_path / "log") as ours:
        await until(lambda: _receivers(settings) == 1, 20)
        standin.accounts["alice"] = Behaviour(five_hour_utilization=0.85)
        await ours.ask()
        await until(lambda: receiver.tried, 30)
        began_s = anyio.current_time()
        assert await ours.ask() == [("alice", "ok")]  # and the server ends while the receiver hangs
    assert anyio.current_time() - began_s < TIMEOUT_S
    assert len(receiver.tried) == 1


async def test_notify_test_sends_every_receiver_a_notice_now(tmp_path: Path, receiver: Receiver) -> None:
    settings, env = make_home(tmp_path)

    async def test() -> tuple[int, str, str]:
        done = await anyio.run_process([sys.executable, "-m", "pool_mcp", "notify", "test"], env=env, check=False)
        return done.returncode, done.stdout.decode(), done.stderr.decode().splitlines()[-1] if done.stderr else ""

    assert await test() == (2, "", f"Error: {settings.config_file} has no [[notify]] table.")
    add(settings, env, url=receiver.url)
    assert await test() == (0, "127.0.0.1: sent\n", "")
    assert [one["kind"] for one in receiver.taken] == ["test"]
    receiver.mode = "fail"
    add(settings, env, command=["no-such-program"])
    problem = "127.0.0.1: HTTP 503\nno-such-program: the program is not there, or not executable\n"
    assert await test() == (1, problem, "")
