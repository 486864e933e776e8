"""The judge finds every kind of fault, and nothing where there is none."""

from dataclasses import replace

import pytest

from pool_mcp.demo.judge import Judgement, OutsideEntry, judge
from pool_mcp.demo.standin_accounts import Call, Refusal
from pool_mcp.model import NANO, SECOND_MS, Cost, Outcome, Run, RunState, Tokens

T = 1_790_000_000_000
CENT = NANO // 100


def run(name: str, cents: int | None, at_s: int = 0, *, estimate: bool = False, session: str = "s") -> Run:
    return Run(
        run_id=name,
        ask_id=name,
        subscription="alice",
        session_id=session,
        resumed=False,
        caller="host",
        model=None,
        state=RunState.SETTLED if cents is not None else RunState.RUNNING,
        owner_id="owner",
        background=False,
        structured=False,
        created_at_ms=T + at_s * SECOND_MS,
        started_at_ms=T + at_s * SECOND_MS,
        ended_at_ms=None if cents is None else T + (at_s + 10) * SECOND_MS,
        deadline_ms=T + 1000 * SECOND_MS,
        reserved_nanousd=0,
        outcome=Outcome.OK,
        cost=None if cents is None else Cost(cents * CENT, is_estimate=estimate),
    )


def call(cents: int, at_s: int = 1, *, account: str = "alice", session: str = "s") -> Call:
    at_ms = T + at_s * SECOND_MS
    return Call(0, account, f"m{at_s}", f"r{at_s}", "sonnet", Tokens(), cents * CENT, session, at_ms, at_ms, "complete")


def kinds(judgement: Judgement) -> list[str]:
    return [fault.kind for fault in judgement.faults]


def test_runs_on_one_session_are_told_apart_by_time() -> None:
    judgement = judge([call(3, 1), call(4, 2), call(5, 21)], [run("a", 7), run("b", 5, 20)])
    assert (kinds(judgement), judgement.exact) == ([], 2)


def test_a_floor_may_be_short_and_is_counted() -> None:
    judgement = judge([call(3)], [run("a", 1, estimate=True)])
    assert (kinds(judgement), judgement.estimated, judgement.estimated_short_nanousd) == ([], 1, 2 * CENT)


@pytest.mark.parametrize(
    ("calls", "runs", "fault"),
    [
        pytest.param([call(3)], [run("a", 2)], "lost", id="an exact entry that is short"),
        pytest.param([call(3)], [run("a", 6)], "doubled", id="twice"),
        pytest.param([call(3)], [run("a", 6, estimate=True)], "doubled", id="a floor above what was billed"),
        pytest.param([], [run("a", 6)], "invented", id="nothing was billed"),
        pytest.param([], [run("a", 6, estimate=True)], "invented", id="a floor of nothing"),
        pytest.param([call(3, account="bob")], [run("a", 3)], "wrong subscription", id="billed elsewhere"),
        pytest.param([call(3)], [run("a", None)], "no entry", id="not settled"),
        pytest.param([call(3)], [replace(run("a", 0), cost=None)], "no entry", id="ended without an entry"),
        pytest.param([call(3, 60)], [run("a", 0)], "lost", id="a call after its run's end is nobody's"),
        pytest.param([call(3, session="other")], [run("a", 0)], "lost", id="a call of no run's session"),
    ],
)
def test_each_kind_of_fault_is_found(calls: list[Call], runs: list[Run], fault: str) -> None:
    assert kinds(judge(calls, runs)) == [fault]


def test_a_request_left_hanging_may_stand_in_a_floor_and_only_in_a_floor() -> None:
    hung = [Refusal("alice", 0, T + SECOND_MS)]
    assert kinds(judge([], [run("a", 3, estimate=True)], refused=hung)) == []
    assert kinds(judge([], [run("a", 3)], refused=hung)) == ["invented"]
    assert kinds(judge([], [run("a", 5, estimate=True)], refused=hung)) == ["invented"]


def test_use_by_hand_is_imported_once_and_what_is_not_known_is_no_fault() -> None:
    by_hand, entry = call(3, session="hand"), OutsideEntry("hand", "alice", 3 * CENT)
    assert kinds(judge([by_hand], [], [entry], hand_use="imported")) == []
    assert kinds(judge([by_hand], [], [entry, entry], hand_use="imported")) == ["doubled"]
    assert kinds(judge([], [], [entry], hand_use="imported")) == ["invented"]
    assert kinds(judge([by_hand], [], [], hand_use="imported")) == ["lost"]
    assert kinds(judge([by_hand], [], [], hand_use="unknown")) == []
