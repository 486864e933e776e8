"""Asks that do not fit now wait, in order, for as long as they are to, whatever happens to the processes."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import make_home, new_id, now_ms, open_ledger, open_pool, until

from pool_mcp.asks.queue import Queue
from pool_mcp.asks.reservations import Reservations
from pool_mcp.asks.runner import Runner
from pool_mcp.demo.standin import Standin
from pool_mcp.errors import InvalidRequest, LimitReached
from pool_mcp.model import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    NANO,
    SECOND_MS,
    Ask,
    Cooldown,
    Cost,
    ModelCost,
    Outcome,
    Run,
    RunState,
    Settlement,
    Tokens,
)
from pool_mcp.settings import Settings
from pool_mcp.state import State

SERVER = Path(__file__).parents[1] / "fakes" / "asking_server.py"
ASK = Ask("ping", "tests")
ONE_AT_A_TIME: Mapping[str, Mapping[str, object]] = {"alice": {"max_in_flight": 1}}


def runs(settings: Settings) -> list[Run]:
    """All runs, in the order in which they were asked."""
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
        found = [*tx.runs.ended(None, None, None, 1000), *tx.runs.unfinished(), *tx.runs.waiting()]
    return sorted(found, key=lambda run: run.queued_at_ms or run.created_at_ms)


@pytest.mark.anyio
async def test_asks_that_find_everything_in_flight_are_answered_in_their_order(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin, subscriptions=ONE_AT_A_TIME)
    async with open_pool(settings, env) as pool:
        asked = [await pool.ask(replace(ASK, background=True)) for _ in range(3)]
        assert [(one.status, one.position) for one in asked] == [("running", None), ("waiting", 1), ("waiting", 2)]
        assert asked[2].reason == "alice: has its 1 runs in flight (max_in_flight)"
        assert asked[2].expected_at is not None
        assert [(await pool.result(one.run_id, wait_s=60)).status for one in asked] == ["completed"] * 3
    found = {run.run_id: run for run in runs(settings)}
    order = sorted(found.values(), key=lambda run: run.started_at_ms or 0)
    assert [run.run_id for run in order] == [one.run_id for one in asked]


class Desk:
    """Reservations and the queue over a real ledger, by a clock that the test sets."""

    def __init__(self, home: Path, **more: Any) -> None:
        self.settings, env = make_home(home, None, "alice", "bob", **more)
        self.ledger = open_ledger(self.settings)
        self.now_ms = now_ms() // DAY_MS * DAY_MS + HOUR_MS
        runner = Runner(self.settings, env, self.clock)
        self.reservations = Reservations(self.settings, self.ledger, State(self.settings), runner, self.clock, new_id)
        self.queue = Queue(self.ledger, self.reservations.placing, runner, self.clock)

    def clock(self) -> int:
        return self.now_ms

    def ask(self, **said: Any) -> Run:
        return self.reservations.reserve(replace(ASK, **{"subscription": "alice", **said}))[0]

    def end(self, run: Run, outcome: Outcome = Outcome.OK, usd: float = 0.0, **more: Any) -> Run | None:
        """Have a reserved run begin and end."""
        begun = self.reservations.begin(run, None)
        state = RunState.SETTLED if outcome is Outcome.OK else RunState.FAILED
        cost = Cost.of({"sonnet": ModelCost(Tokens(1), round(usd * NANO))})
        settlement = Settlement(begun.run_id, state, outcome, "what happened.", cost, self.now_ms, **more)
        return self.reservations.settle(settlement, None, frozenset())

    def state(self, run: Run) -> str:
        return self.get(run).state

    def get(self, run: Run) -> Run:
        with self.ledger.read() as tx:
            found = tx.runs.get(run.run_id)
        assert found is not None
        return found

    def served(self) -> list[str]:
        """The runs whose turn it is now."""
        return [run.run_id for run in self.queue.serve().reserved]

    def cool(self, subscription: str, for_ms: int, cause: str = "five_hour") -> None:
        with self.ledger.write() as tx:
            tx.cooldowns.start(subscription, Cooldown(cause, self.now_ms, self.now_ms + for_ms, "used up"), None)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, subscriptions={"alice": {"max_in_flight": 2}})
    with closing(desk.ledger):
        yield desk


def test_a_large_ask_gets_its_turn_among_small_ones_that_keep_coming(tmp_path: Path) -> None:
    desk = Desk(tmp_path, subscriptions={"alice": {"weekly_budget_usd": 1.0, "block_budget_usd": 1.0}})
    with closing(desk.ledger):
        running = [desk.ask(max_cost_nanousd=NANO // 10) for _ in range(8)]
        large = desk.ask(max_cost_nanousd=NANO // 2)
        assert desk.state(large) == "waiting"
        late = []
        while desk.state(large) == "waiting":
            late.append(desk.ask(max_cost_nanousd=NANO // 10))
            assert desk.state(late[-1]) == "waiting", "there would be room for it, which is kept for the large one"
            desk.end(running.pop(), usd=0.001)
            served = desk.served()
            assert served[:1] in ([], [large.run_id])
        assert served[1:] == [one.run_id for one in late[: len(served) - 1]], "what is left goes to the next"
        desk.end(desk.get(large), usd=0.001)
        assert desk.served() == [one.run_id for one in late[len(served) - 1 :]]


def test_who_is_urgent_goes_first_and_who_fits_elsewhere_passes(desk: Desk) -> None:
    running = [desk.ask(), desk.ask()]
    first, urgent = desk.ask(), desk.ask(urgency="urgent")
    assert desk.state(desk.ask(subscription=None)) == "reserved", "bob has room"
    assert [place.waiting.run.run_id for place in desk.queue.places()] == [urgent.run_id, first.run_id]
    desk.end(running[0])
    assert desk.served() == [urgent.run_id]
    desk.end(running[1])
    assert desk.served() == [first.run_id]
    assert desk.served() == []


def test_what_waits_for_a_window_keeps_nobody_back_and_begins_when_it_opens_one_first(desk: Desk) -> None:
    desk.cool("alice", HOUR_MS)
    asked = [desk.ask(wait_for="room") for _ in range(3)]
    assert {desk.state(one) for one in asked} == {"waiting"}
    (first, *_) = desk.queue.places()
    assert first.expected_at_ms == desk.now_ms + HOUR_MS
    assert desk.served() == []
    desk.now_ms += HOUR_MS
    assert desk.served() == [asked[0].run_id], "one finds out whether the window is open"
    desk.end(desk.get(asked[0]))
    assert desk.served() == [one.run_id for one in asked[1:]]


def test_who_waits_its_turn_is_refused_once_the_room_is_really_gone(desk: Desk) -> None:
    running = [desk.ask(), desk.ask()]
    waiting, patient = desk.ask(), desk.ask(wait_for="room")
    desk.cool("alice", HOUR_MS)
    served = desk.queue.serve()
    assert (served.reserved, served.ended) == ([], [waiting.run_id])
    ended = desk.get(waiting)
    assert (ended.state, ended.outcome, ended.retry_at_ms) == ("failed", "limit", desk.now_ms + HOUR_MS)
    assert (ended.started_at_ms, ended.cost) == (None, None)
    assert desk.state(patient) == "waiting"
    assert [desk.state(one) for one in running] == ["reserved"] * 2


def test_an_ask_that_must_not_wait_hears_when_to_try_again(desk: Desk) -> None:
    running = [desk.ask(), desk.ask()]
    with pytest.raises(LimitReached) as caught:
        desk.ask(wait_for="none")
    assert caught.value.retry_at_ms is not None
    assert desk.now_ms < caught.value.retry_at_ms <= desk.now_ms + MINUTE_MS
    left = {path.name for path in desk.settings.runs_dir.glob("*")}
    assert left == {run.run_id for run in running}, "of the one that was refused there is nothing"
    assert desk.queue.places() == []


def test_times_are_kept(desk: Desk) -> None:
    later = desk.ask(not_before_ms=desk.now_ms + HOUR_MS)
    assert desk.state(desk.ask()) == "reserved", "it does not wait for what is not to begin yet"
    running = [desk.ask()]
    impatient = desk.ask(give_up_at_ms=desk.now_ms + MINUTE_MS)
    desk.now_ms += MINUTE_MS
    assert desk.queue.serve().ended == [impatient.run_id]
    assert "gave up" in str(desk.get(impatient).message)
    desk.end(running[0])
    assert desk.served() == []
    desk.now_ms += HOUR_MS
    assert desk.served() == [later.run_id]
    assert desk.get(later).deadline_ms == desk.now_ms + 1800 * SECOND_MS, "its time counts from its start"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"not_before_ms": -1}, "not_before .* is in the past"),
        ({"give_up_at_ms": -1}, "give_up_at .* is not after now"),
        ({"not_before_ms": 2000, "give_up_at_ms": 1000}, "give_up_at .* is not after not_before"),
        ({"not_before_ms": 1000, "wait_for": "none"}, "not_before needs wait_for"),
        ({"give_up_at_ms": 31 * DAY_MS}, "within 30 days"),
    ],
)
def test_times_that_cannot_be_are_refused(desk: Desk, said: dict[str, Any], problem: str) -> None:
    said = {name: value if isinstance(value, str) else desk.now_ms + value for name, value in said.items()}
    with pytest.raises(InvalidRequest, match=problem):
        desk.ask(**said)


def test_a_callers_asks_wait_up_to_a_bound(tmp_path: Path) -> None:
    desk = Desk(tmp_path, claude={"max_waiting": 1}, subscriptions={"alice": {"max_in_flight": 1}})
    with closing(desk.ledger):
        desk.ask()
        waiting = desk.ask()
        with pytest.raises(LimitReached, match="1 asks of caller 'tests' wait already"):
            desk.ask()
        assert desk.state(desk.ask(caller="somebody else")) == "waiting"
        assert desk.queue.cancel([waiting.run_id, "nobody"]) == [waiting.run_id]
        assert (desk.get(waiting).outcome, desk.queue.cancel([waiting.run_id])) == ("cancelled", [])
        assert desk.state(desk.ask()) == "waiting"


def test_what_waits_can_be_moved(desk: Desk) -> None:
    running = [desk.ask(), desk.ask()]
    asked = [desk.ask(), desk.ask(urgency="urgent"), desk.ask()]
    desk.queue.move(asked[2].run_id, 1)
    order = [asked[2].run_id, asked[1].run_id, asked[0].run_id]
    assert [place.waiting.run.run_id for place in desk.queue.places()] == order
    with pytest.raises(InvalidRequest, match="no position 4"):
        desk.queue.move(asked[2].run_id, 4)
    with pytest.raises(InvalidRequest, match="does not wait"):
        desk.queue.move(running[0].run_id, 1)
    for run in running:
        desk.end(run)
    assert desk.served() == order[:2]


def test_an_ask_on_a_busy_session_waits_for_it(desk: Desk) -> None:
    first = desk.ask(subscription=None)
    with desk.ledger.write() as tx:
        tx.runs.adopt(first.run_id, first.owner_id, first.owner_id)
    desk.end(first)
    following = desk.ask(subscription=None, session_id=first.session_id)
    behind = desk.ask(subscription=None, session_id=first.session_id)
    assert (desk.state(following), desk.state(behind)) == ("reserved", "waiting")
    assert desk.served() == []
    desk.end(following)
    assert desk.served() == [behind.run_id]


def test_a_limit_sends_an_ask_that_waits_for_room_back_into_the_queue(desk: Desk) -> None:
    ask = replace(ASK, subscription="alice", wait_for="room")
    run = desk.reservations.begin(desk.reservations.reserve(ask)[0], None)
    cooldown = Cooldown("five_hour", desk.now_ms, desk.now_ms + HOUR_MS, "used up")
    ended = Settlement(run.run_id, RunState.FAILED, Outcome.LIMIT, "used up", Cost(), desk.now_ms, cooldown=cooldown)
    following = desk.reservations.settle(ended, ask, frozenset({"alice"}))
    assert following is not None
    assert (following.ask_id, following.state) == (run.ask_id, "waiting")
    desk.now_ms += HOUR_MS
    assert desk.served() == [following.run_id]


def test_idle_asks_use_only_what_their_owners_pace_leaves(tmp_path: Path) -> None:
    desk = Desk(tmp_path, subscriptions={"alice": {"weekly_budget_usd": 20.0, "block_budget_usd": 20.0}})
    with closing(desk.ledger):
        assert desk.state(desk.ask(urgency="idle")) == "reserved", "nobody uses it"
        for _ in range(8):
            desk.end(desk.ask(), usd=0.75)
        assert desk.state(desk.ask(urgency="idle")) == "waiting", "at $6 an hour the block is used up"
        assert desk.state(desk.ask()) == "reserved", "and others are not kept back by it"
        desk.now_ms += 8 * DAY_MS
        assert len(desk.served()) == 1


def test_what_was_asked_is_on_the_disk_and_goes_with_the_end(desk: Desk) -> None:
    running = [desk.ask(), desk.ask()]
    waiting = desk.ask(system_prompt="be brief", effort="low")
    runner = Runner(desk.settings, {}, desk.clock)
    stored = runner.load(waiting.run_id)
    assert stored == replace(ASK, subscription="alice", system_prompt="be brief", effort="low")
    desk.queue.serve()
    (shown,) = desk.queue.shown().waiting
    assert (shown.prompt, shown.position, shown.reason) == (
        "ping",
        1,
        "alice: has its 2 runs in flight (max_in_flight)",
    )
    assert len(running) == 2


def test_a_subscription_that_is_gone_ends_the_asks_that_waited_for_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, subscriptions={"alice": {"max_in_flight": 1}})
    with closing(desk.ledger):
        desk.ask()
        waiting = desk.ask()
        settings, env = make_home(tmp_path, None, "bob")
        runner = Runner(settings, env, desk.clock)
        other = Reservations(settings, desk.ledger, State(settings), runner, desk.clock, new_id)
        assert Queue(desk.ledger, other.placing, runner, desk.clock).serve().ended == [waiting.run_id]
        assert "no longer in pool.toml" in str(desk.get(waiting).message)


# Real processes


def child(env: Mapping[str, str]) -> dict[str, str]:
    return {**env, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.anyio
async def test_a_window_that_opens_is_used_by_those_that_wait_though_their_server_was_killed(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin)
    with closing(open_ledger(settings)) as ledger, ledger.write() as tx:
        cooldown = Cooldown("five_hour", now_ms() - SECOND_MS, now_ms() + HOUR_MS, "it is used up")
        tx.cooldowns.start("alice", cooldown, None)
    server = await anyio.open_process([sys.executable, SERVER, "3", json.dumps({"wait_for": "room"})], env=child(env))
    await until(lambda: [run.state for run in runs(settings)] == ["waiting"] * 3, 30)
    os.kill(server.pid, signal.SIGKILL)
    await server.wait()
    with closing(open_ledger(settings)) as ledger, ledger.write() as tx:
        tx.cooldowns.lift("alice", "five_hour", "the test", now_ms())
    command = [sys.executable, "-m", "pool_mcp", "worker", "--until-empty"]
    await anyio.run_process(command, env=child(env))
    assert [run.state for run in runs(settings)] == ["settled"] * 3
    assert len({call.session_id for call in standin.books}) == len(standin.books) == 3
