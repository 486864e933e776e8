"""What one transaction does for an ask: reservations, caps, failover, idempotency keys, cancelling, adopting."""

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from support import make_home, new_id, now_ms, open_ledger

from pool_mcp.asks.reservations import Reservations
from pool_mcp.asks.runner import Runner
from pool_mcp.errors import BudgetExceeded, InvalidRequest, LimitReached
from pool_mcp.model import (
    DAY_MS,
    HOUR_MS,
    NANO,
    Ask,
    Budget,
    Cost,
    ModelCost,
    Outcome,
    OverageReading,
    Run,
    RunState,
    Settlement,
    Tokens,
    WindowReading,
)
from pool_mcp.state import State
from pool_mcp.system.locks import OwnerLock
from pool_mcp.usage.reports import Figures


class Desk:
    """Reservations over a real ledger, by a clock that the test sets."""

    def __init__(self, home: Path, **more: Any) -> None:
        more = {"subscriptions": {"alice": {"priority": 1}}, **more}
        self.settings, env = make_home(home, None, "alice", "bob", **more)
        self.ledger = open_ledger(self.settings)
        self.now_ms = now_ms()
        runner = Runner(self.settings, env, self.clock)
        self.reservations = Reservations(self.settings, self.ledger, State(self.settings), runner, self.clock, new_id)

    def clock(self) -> int:
        return self.now_ms

    def begin(self, ask: Ask) -> Run:
        """Reserve for an ask and record that its CLI may spend."""
        run, is_new = self.reservations.reserve(ask)
        assert is_new
        return self.reservations.begin(run, None)

    def settle(self, run: Run, ask: Ask | None, outcome: Outcome, usd: float = 0, **more: Any) -> Run | None:
        state = RunState.SETTLED if outcome is Outcome.OK else RunState.FAILED
        cost = Cost(round(usd * NANO), {"sonnet": ModelCost(Tokens(1), round(usd * NANO))})
        settlement = Settlement(run.run_id, state, outcome, "what happened.", cost, self.now_ms, **more)
        return self.reservations.settle(settlement, ask, frozenset({run.subscription}))

    def get(self, run: Run) -> Run:
        with self.ledger.read() as tx:
            found = tx.runs.get(run.run_id)
        assert found is not None
        return found

    def reserved(self, run: Run) -> int:
        with self.ledger.read() as tx:
            return tx.runs.reserved_nanousd(run.run_id)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    with closing(desk.ledger):
        yield desk


ASK = Ask("ping", "tests")


def test_runs_of_the_dead_and_those_that_nobody_follows_are_adopted_and_no_others(desk: Desk, tmp_path: Path) -> None:
    other = Desk(tmp_path)
    run = other.begin(ASK)
    with closing(other.ledger):
        alive = OwnerLock(desk.settings.owners_dir, other.reservations.owner_id)
        assert desk.reservations.adopt(frozenset()) == []
        alive.release()
        (adopted,) = desk.reservations.adopt(frozenset())
        assert (adopted.run_id, adopted.owner_id) == (run.run_id, desk.reservations.owner_id)
        assert desk.reservations.adopt(frozenset()) == []
        (again,) = desk.reservations.adopt(frozenset({run.run_id}))
        assert again.run_id == run.run_id


def test_an_ask_that_names_its_subscription_is_not_repeated_under_another(desk: Desk) -> None:
    bound = replace(ASK, subscription="alice")
    assert desk.settle(desk.begin(bound), bound, Outcome.LIMIT) is None
    following = desk.settle(desk.begin(ASK), ASK, Outcome.LIMIT)
    assert following is not None
    assert following.subscription == "bob"


def test_a_run_goes_on_to_its_cap_though_half_as_much_again_would_be_more(desk: Desk) -> None:
    desk.settle(desk.begin(ASK), None, Outcome.OK, 0.01)
    run = desk.begin(replace(ASK, max_cost_nanousd=NANO))
    assert desk.reserved(run) < NANO // 2
    assert desk.reservations.extend(run, 72 * NANO // 100, 36 * NANO // 100)
    assert desk.reserved(run) == NANO


# Use beyond the plan

PAID = {"alice": {"overage_budget_usd": 0.3}, "bob": {"enabled": False}}


def test_two_asks_at_once_beyond_the_plan_never_reserve_more_than_the_months_budget(tmp_path: Path) -> None:
    desk = Desk(tmp_path, subscriptions=PAID)
    with closing(desk.ledger):
        with desk.ledger.write() as tx:
            in_use = OverageReading(True, "five_hour", desk.now_ms + HOUR_MS, None, desk.now_ms)
            assert tx.overage.record("alice", in_use, desk.now_ms)
        first = desk.begin(ASK)
        assert first.max_budget_nanousd == 3 * NANO // 10
        with pytest.raises(LimitReached, match=r"its overage budget leaves \$0\.05 of real money"):
            desk.reservations.reserve(replace(ASK, wait_for="none"))
        assert desk.reservations.extend(first, NANO // 10, NANO // 10, NANO // 10)
        assert not desk.reservations.extend(first, NANO // 4, NANO // 10, NANO // 4), "the next call has no room"
        desk.settle(first, None, Outcome.OK, 0.02, overage_nanousd=NANO // 50)
        second = desk.begin(ASK)
        assert second.max_budget_nanousd == 28 * NANO // 100
        assert not desk.reservations.extend(second, NANO // 5, NANO // 10, NANO // 5), "what was paid before counts"


def test_a_run_that_comes_to_its_plans_end_reserves_of_the_months_budget_for_its_next_call(tmp_path: Path) -> None:
    desk = Desk(tmp_path, subscriptions=PAID)
    with closing(desk.ledger):
        first, second = desk.begin(ASK), desk.begin(ASK)
        assert desk.reservations.extend(first, NANO // 10, NANO // 10, NANO // 10)
        assert not desk.reservations.extend(second, NANO // 10, NANO // 10, NANO // 10)
        assert desk.reservations.extend(second, NANO // 20, NANO // 20, NANO // 20)


# Idempotency keys


def test_a_key_whose_run_came_to_nothing_can_be_used_again(desk: Desk) -> None:
    ask = replace(ASK, idempotency_key="k")
    failed = desk.begin(ask)
    assert desk.reservations.reserve(ask) == (desk.get(failed), False)
    desk.settle(failed, None, Outcome.CLI_FAILED)
    again, is_new = desk.reservations.reserve(ask)
    assert is_new
    assert again.ask_id != failed.ask_id
    assert desk.reservations.attempts(failed.run_id) == [desk.get(failed)]


@pytest.mark.parametrize(
    ("outcome", "usd", "is_estimate"), [("ok", 0.1, False), ("timeout", 0.1, False), ("cli_failed", 0, True)]
)
def test_a_key_whose_run_has_or_may_have_cost_something_gives_that_run(
    desk: Desk, outcome: str, usd: float, is_estimate: bool
) -> None:
    ask = replace(ASK, idempotency_key="k")
    run = desk.begin(ask)
    state = RunState.SETTLED if outcome == "ok" else RunState.INTERRUPTED
    cost = Cost(round(usd * NANO), {}, is_estimate)
    desk.reservations.settle(
        Settlement(run.run_id, state, Outcome(outcome), None, cost, desk.now_ms), None, frozenset()
    )
    assert desk.reservations.reserve(ask) == (desk.get(run), False)


@pytest.mark.parametrize(
    "other", [{"prompt": "pong"}, {"max_cost_nanousd": NANO}, {"timeout_s": 3.0}, {"effort": "low"}]
)
def test_a_key_is_not_used_for_another_ask(desk: Desk, other: dict[str, Any]) -> None:
    ask = replace(ASK, idempotency_key="k")
    desk.begin(ask)
    with pytest.raises(InvalidRequest, match="used for a different ask"):
        desk.reservations.reserve(replace(ask, **other))
    _, is_new = desk.reservations.reserve(replace(ask, background=True))
    assert not is_new


def test_an_empty_key_is_no_key(desk: Desk) -> None:
    first, second = (desk.reservations.reserve(replace(ASK, idempotency_key=""))[0] for _ in range(2))
    assert first.ask_id != second.ask_id


# What a run may spend


def test_a_run_and_its_entry_know_the_repository_that_it_worked_in(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "site" / ".git").mkdir(parents=True)
    (tmp_path / "site" / ".git" / "HEAD").write_text("ref: refs/heads/fix\n")
    ask = replace(ASK, working_dir=str(tmp_path / "site"))
    first = desk.begin(ask)
    following = desk.settle(first, ask, Outcome.AUTH)
    assert following is not None
    desk.settle(desk.reservations.begin(following, None), None, Outcome.OK, 0.5)
    later = desk.begin(replace(ASK, session_id=following.session_id))
    assert [(run.project, run.branch) for run in map(desk.get, (first, following, later))] == [("site", "fix")] * 3
    desk.settle(later, None, Outcome.OK, 0.25)
    desk.settle(desk.begin(ASK), None, Outcome.OK, 0.125)
    figures = Figures(desk.settings, desk.ledger, desk.clock, UTC)
    assert [(row.key, row.cost_usd) for row in figures.report("project").rows] == [("site", 0.75), ("(unknown)", 0.125)]
    assert [row.key for row in figures.report("branch").rows] == ["site/fix", "(unknown)"]


def test_a_projects_budget_counts_all_that_was_spent_and_is_reserved_there_and_nothing_else(
    desk: Desk, tmp_path: Path
) -> None:
    object.__setattr__(desk.settings, "projects", {"site": Budget(monthly_nanousd=NANO)})
    for name in ("site", "other"):
        (tmp_path / name / ".git").mkdir(parents=True)
    site, other = (replace(ASK, working_dir=str(tmp_path / name)) for name in ("site", "other"))
    desk.settle(desk.begin(other), None, Outcome.OK, 0.5)
    run = desk.begin(site)
    assert run.max_budget_nanousd == NANO
    assert not desk.reservations.extend(run, 99 * NANO // 100, NANO // 10) or desk.reserved(run) <= NANO
    with pytest.raises(BudgetExceeded, match="the budget of project 'site' leaves"):
        desk.reservations.reserve(replace(site, wait_for="none"))
    desk.settle(run, None, Outcome.OK, 0.5)
    again = desk.begin(site)
    assert again.max_budget_nanousd == NANO // 2
    desk.settle(again, None, Outcome.OK, 0.5)
    with pytest.raises(BudgetExceeded, match=r"leaves \$0.00"):
        desk.reservations.reserve(replace(site, caller="somebody else"))
    desk.begin(ASK)


def test_a_callers_share_counts_its_own_runs_in_the_window_only(tmp_path: Path) -> None:
    desk = Desk(tmp_path, callers={"night": {"share": 10}}, subscriptions={"alice": {"plan": "pro"}})
    with closing(desk.ledger):
        reading = WindowReading("five_hour", 20.0, desk.now_ms + 3 * HOUR_MS, "allowed", desk.now_ms)
        with desk.ledger.write() as tx:
            tx.official.record("alice", [reading], desk.now_ms)
        night = replace(ASK, caller="night", subscription="alice")
        desk.settle(desk.begin(replace(night, caller="day")), None, Outcome.OK, 0.5)
        run = desk.begin(night)
        assert run.max_budget_nanousd == 10 * 18 * NANO // 100
        desk.settle(run, None, Outcome.OK, 1.7)
        with pytest.raises(BudgetExceeded, match=r"caller 'night' has used 9\.4% of its five_hour window"):
            desk.reservations.reserve(night)
        desk.begin(replace(night, caller="day"))


def test_a_run_leaves_what_is_kept_for_the_person(tmp_path: Path) -> None:
    desk = Desk(tmp_path, subscriptions={"alice": {"plan": "pro", "keep_percent": 30}})
    with closing(desk.ledger):
        reading = WindowReading("five_hour", 65.0, desk.now_ms + 3 * HOUR_MS, "allowed", desk.now_ms)
        with desk.ledger.write() as tx:
            tx.official.record("alice", [reading], desk.now_ms)
        run = desk.begin(replace(ASK, subscription="alice"))
        assert run.max_budget_nanousd == 5 * 18 * NANO // 100  # five percent of what a plan is taken to have
        assert desk.reservations.extend(run, 70 * NANO // 100, NANO // 10)
        assert desk.reservations.extend(run, 85 * NANO // 100, NANO // 10)  # its CLI stops at that by itself
        assert desk.reserved(run) == run.max_budget_nanousd
        with pytest.raises(BudgetExceeded, match=r"0\.0% left beside the 30% kept for its person"):
            desk.reservations.reserve(replace(ASK, subscription="alice"))


def test_a_run_is_not_stopped_inside_its_cap(tmp_path: Path) -> None:
    desk = Desk(tmp_path, weekly_budget_usd=1.0, block_budget_usd=1.0)
    with closing(desk.ledger):
        run = desk.begin(replace(ASK, max_cost_nanousd=NANO))
        for cents in (20, 72, 99):
            assert desk.reservations.extend(run, cents * NANO // 100, NANO // 5)
        assert desk.reserved(run) == NANO


def test_no_more_is_reserved_for_a_run_than_its_cap(desk: Desk) -> None:
    run = desk.begin(replace(ASK, max_cost_nanousd=NANO))
    assert desk.reservations.extend(run, 9 * NANO // 10, NANO // 10)
    assert desk.reserved(run) == NANO


def test_a_run_goes_on_while_its_next_call_fits_and_is_stopped_when_it_does_not(tmp_path: Path) -> None:
    desk = Desk(tmp_path, weekly_budget_usd=0.5, block_budget_usd=0.5)
    with closing(desk.ledger):
        run, beside = desk.begin(replace(ASK, subscription="alice")), desk.begin(replace(ASK, subscription="alice"))
        assert desk.reserved(run) == desk.reserved(beside) == NANO // 4
        assert desk.reservations.extend(run, 200_000_000, 40_000_000)  # of the 0.25 that it has reserved
        assert not desk.reservations.extend(run, 240_000_000, 40_000_000)
        desk.settle(beside, None, Outcome.OK, 0.1)
        assert desk.reservations.extend(run, 280_000_000, 40_000_000)
        assert desk.reserved(run) == 400_000_000


def test_what_a_run_has_spent_is_reserved_even_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, weekly_budget_usd=0.25, block_budget_usd=0.25)
    with closing(desk.ledger):
        run = desk.begin(ASK)
        desk.reservations.extend(run, 300_000_000, 100_000_000)
        assert desk.reserved(run) == 300_000_000


# Failover


def test_max_cost_is_for_all_attempts_of_an_ask_together(desk: Desk) -> None:
    ask = replace(ASK, max_cost_nanousd=NANO)
    first = desk.begin(ask)
    second = desk.settle(first, ask, Outcome.LIMIT, 0.6)
    assert second is not None
    assert (second.subscription, second.reserved_nanousd, second.max_budget_nanousd) == (
        "bob",
        4 * NANO // 10,
        4 * NANO // 10,
    )


def test_an_ask_that_has_used_up_its_max_cost_is_not_tried_again(desk: Desk) -> None:
    ask = replace(ASK, max_cost_nanousd=NANO)
    assert desk.settle(desk.begin(ask), ask, Outcome.LIMIT, 1.0) is None


def test_an_attempt_that_has_used_a_tool_is_never_repeated_by_itself(desk: Desk) -> None:
    run = desk.begin(ASK)
    assert desk.settle(run, ASK, Outcome.LIMIT, 0.1, has_acted=True) is None
    assert desk.get(run).message == (
        "what happened. It had used tools already, so it was not repeated under another subscription."
    )


def test_a_cancel_right_before_a_failover_is_heeded(desk: Desk) -> None:
    run = desk.begin(ASK)
    desk.reservations.request_cancel(run.run_id)
    assert desk.settle(run, ASK, Outcome.LIMIT) is None


def test_a_cancel_right_after_a_failover_reaches_the_new_attempt(desk: Desk) -> None:
    first = desk.begin(ASK)
    second = desk.settle(first, ASK, Outcome.LIMIT)
    assert second is not None
    desk.reservations.request_cancel(first.run_id)
    assert desk.reservations.is_cancel_requested(second)


def test_an_ask_that_was_said_to_go_on_right_before_a_failover_goes_on(desk: Desk) -> None:
    first = desk.begin(ASK)
    second = desk.settle(first, ASK, Outcome.LIMIT)
    assert second is not None
    assert not second.background
    desk.reservations.detach(first.run_id)
    assert desk.get(second).background


def test_attempts_are_in_their_order_though_the_clock_was_set_back_between_them(desk: Desk) -> None:
    first = desk.begin(ASK)
    desk.now_ms -= DAY_MS
    second = desk.settle(first, ASK, Outcome.LIMIT)
    assert second is not None
    assert [one.run_id for one in desk.reservations.attempts(first.run_id)] == [first.run_id, second.run_id]
    with desk.ledger.read() as tx:
        assert tx.runs.with_prefix(first.ask_id, 1) == [second.run_id]


def test_a_settlement_that_was_committed_though_it_failed_gives_its_attempt_when_it_is_tried_again(desk: Desk) -> None:
    first = desk.begin(ASK)
    second = desk.settle(first, ASK, Outcome.LIMIT, 0.1)
    assert second is not None
    assert desk.settle(first, ASK, Outcome.LIMIT, 0.1) == desk.get(second)
    with desk.ledger.read() as tx:
        assert [one.run_id for one in tx.runs.unfinished()] == [second.run_id]
        assert tx.balances.spent_nanousd("alice", 0) == NANO // 10


# Caps and small budgets


def test_a_cap_below_one_call_is_refused_once_it_is_known_what_one_costs(desk: Desk) -> None:
    cheap = replace(ASK, max_cost_nanousd=NANO // 1000)
    run = desk.begin(cheap)
    assert desk.reserved(run) == NANO // 50  # a short answer, while nothing is known
    desk.settle(run, None, Outcome.BUDGET, 0.035)
    with pytest.raises(InvalidRequest, match=r"one call has cost \$0.0350 at least"):
        desk.reservations.reserve(cheap)


def test_asks_at_once_whose_caps_are_below_one_call_do_not_overrun_their_callers_budget(tmp_path: Path) -> None:
    desk = Desk(tmp_path, callers={"tests": {"daily_budget_usd": 0.05}})
    with closing(desk.ledger):
        runs = []
        for _ in range(10):
            with suppress(BudgetExceeded):
                runs.append(desk.begin(replace(ASK, max_cost_nanousd=NANO // 1000, wait_for="none")))
        assert len(runs) == 2
        assert sum(map(desk.reserved, runs)) <= NANO // 20


def test_a_caller_with_less_than_the_default_estimate_gets_its_first_ask(tmp_path: Path) -> None:
    desk = Desk(tmp_path, callers={"tests": {"daily_budget_usd": 0.05}})
    with closing(desk.ledger):
        run = desk.begin(ASK)
        assert (run.reserved_nanousd, run.max_budget_nanousd) == (NANO // 20, NANO // 20)
