"""What a run cost, by every version of the CLI."""

import json

import pytest
from cli_output import MIDDLE, MIDDLE_COST, NEW, NEW_COST, OLD, OLD_COST, SPLIT, UNSPLIT, cost, line, price, read, spent
from support import capture

from pool_mcp.claude.cost import baseline, run_cost, session_cost
from pool_mcp.claude.stream import OpenCall
from pool_mcp.model import Cost, ModelCost, Tokens

ASKS = ("success", "resume-1", "resume-2")


def booked(lines: list[bytes]) -> Cost:
    """What the CLI had written into the transcript at the end of a run: the totals of its result."""
    result = json.loads(lines[-1])
    return session_cost({"totalCostUSD": result["total_cost_usd"], "modelUsage": result["modelUsage"]})


@pytest.mark.parametrize(("version", "each"), [(OLD, OLD_COST), (MIDDLE, MIDDLE_COST), (NEW, NEW_COST)])
def test_three_asks_on_one_session_cost_the_same_in_every_version(version: str, each: Cost) -> None:
    before, costs = None, []
    for case in ASKS:
        lines = capture(version, case)
        costs.append(cost(lines, before))
        before = booked(lines)
    assert costs == [each, each, each]


def test_without_its_history_a_resumed_session_is_never_counted_for_less_than_the_run() -> None:
    assert cost(capture(MIDDLE, "resume-1")) == spent("claude-sonnet-5", UNSPLIT + UNSPLIT, 55_800_000)


def test_a_total_below_what_was_booked_before_has_begun_anew() -> None:
    before = Cost(999_000_000, {"claude-sonnet-5": ModelCost(Tokens(input=10**9), 999_000_000)})
    assert cost(capture(MIDDLE, "success"), before) == MIDDLE_COST


def result(**said: object) -> bytes:
    return line(type="result", is_error=False, result="", **said)


HAIKU = {"inputTokens": 10, "outputTokens": 20, "costUSD": 0.5}


def test_results_after_results_are_added_up() -> None:
    lines = [result(model_usage_since_last_result={"claude-haiku-4-5": HAIKU}) for _ in range(2)]
    assert cost(lines) == spent("claude-haiku-4-5", Tokens(20, 40), 1_000_000_000)


def test_what_the_models_do_not_explain_of_a_total_is_booked_under_a_name_of_its_own() -> None:
    assert cost([result(total_cost_usd=0.75, modelUsage={"claude-haiku-4-5": HAIKU})]) == Cost(
        750_000_000,
        {
            "claude-haiku-4-5": ModelCost(Tokens(10, 20), 500_000_000),
            "unknown": ModelCost(Tokens(), 250_000_000),
        },
    )


def test_both_names_of_a_model_are_one_model() -> None:
    usage = {"claude-haiku-4-5": HAIKU, "claude-haiku-4-5[1m]": HAIKU}
    assert cost([result(modelUsage=usage)]) == spent("claude-haiku-4-5", Tokens(20, 40), 1_000_000_000)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"modelUsage": {}},
        {"modelUsage": "renamed", "total_cost_usd": None},
        {"model_usage_since_last_result": {"claude-sonnet-5": {"inputTokens": 1200, "renamedUSD": 1}}},
        {"model_usage_since_last_result": {"claude-sonnet-5": {"costUSD": 1e30}}},
    ],
)
def test_an_answer_without_an_amount_costs_what_its_calls_show(usage: dict[str, object]) -> None:
    *before, _ = capture(MIDDLE, "success")
    assert cost([*before, result(**usage)]) == spent("claude-sonnet-5", SPLIT, 27_900_000)


def test_a_run_of_an_unknown_version_is_taken_for_a_new_one() -> None:
    lines = [raw.replace(b"2.1.280", b"next") for raw in capture(MIDDLE, "resume-1")]
    assert cost(lines, booked(capture(MIDDLE, "success"))) == MIDDLE_COST


def test_a_call_cut_in_the_moment_the_budget_is_reached_is_a_floor() -> None:
    usage = {"input_tokens": 1000, "output_tokens": 1}
    lines = [
        line(type="system", subtype="init", claude_code_version=NEW, model="claude-sonnet-4-6"),
        line(type="system", subtype="status", status="requesting"),
        line(
            type="stream_event",
            event={"type": "message_start", "message": {"id": "m", "model": "claude-sonnet-4-6", "usage": usage}},
        ),
        line(type="stream_event", event={"type": "message_delta", "delta": {"stop_reason": None}, "usage": usage}),
        line(type="result", subtype="error_max_budget_usd", is_error=True, terminal_reason="budget_exhausted"),
    ]
    assert cost(lines).is_estimate


def test_a_subagents_call_that_an_interrupt_cut_is_as_large_as_the_newest_clis_account_has_it() -> None:
    cut = line(
        type="result",
        is_error=True,
        terminal_reason="aborted_streaming",
        total_cost_usd=0.000005,
        modelUsage={"claude-haiku-4-5": {"inputTokens": 5, "costUSD": 0.000005}},
    )
    started = line(type="system", subtype="task_started", task_type="local_agent", task_id="a")
    stream, _ = read([line(type="system", subtype="init", claude_code_version=NEW), started, cut])
    told = run_cost(stream, before=None, price=price, open_calls=[OpenCall("claude-haiku-4-5", 64, 0)])
    assert told == Cost.of({"claude-haiku-4-5": ModelCost(Tokens(5), 5000)}, is_estimate=True)


def test_a_session_that_others_use_is_counted_from_the_account_that_leaves_the_runs_own_calls() -> None:
    lines = capture(MIDDLE, "resume-1")
    stream, _ = read(lines)
    right, now = booked(capture(MIDDLE, "success")), booked(lines)
    other = right.since(spent("claude-sonnet-5", Tokens(1), 2000))
    assert baseline(stream, [other, right]) == right
    assert baseline(stream, [other, now]) == other, "of none that is right the likeliest, which is the first"
    fresh, _ = read(capture(MIDDLE, "success"))
    assert baseline(fresh, [other]) == Cost(), "where it alone is the run's, it began from nothing"
    assert baseline(stream, []) is None


def test_a_request_that_was_never_answered_is_a_floor_by_its_size() -> None:
    stream, _ = read(
        [
            line(type="system", subtype="init", claude_code_version=NEW, model="claude-sonnet-4-6"),
            line(type="system", subtype="status", status="requesting"),
        ]
    )
    cut = run_cost(stream, before=None, price=price, request_tokens=1000)
    assert cut == Cost.of({"claude-sonnet-4-6": ModelCost(Tokens(1000), 3_000_000)}, is_estimate=True)


def test_of_a_cut_run_with_a_call_that_no_stream_shows_both_that_and_the_cut_call_are_counted() -> None:
    usage = {"input_tokens": 1000, "output_tokens": 1}
    message = {"id": "m", "model": "claude-sonnet-4-6", "usage": usage}
    lines = [
        line(type="system", subtype="init", claude_code_version="2.1.315", model="claude-sonnet-4-6"),
        line(type="system", subtype="status", status="requesting"),
        line(type="stream_event", event={"type": "message_start", "message": message}),
        line(
            type="result",
            subtype="error_during_execution",
            is_error=True,
            terminal_reason="aborted_streaming",
            total_cost_usd=0.0000322,
            modelUsage={
                "claude-haiku-4-5": {"inputTokens": 8, "costUSD": 0.0000082},
                "claude-sonnet-4-6": {"inputTokens": 8, "costUSD": 0.000024},
            },
        ),
    ]
    floor = 1000 * 3000 + 15_000
    assert cost(lines) == Cost.of(
        {
            "claude-haiku-4-5": ModelCost(Tokens(8), 8200),
            "claude-sonnet-4-6": ModelCost(Tokens(1008, 1), floor + 24_000),
        },
        is_estimate=True,
    )


@pytest.mark.parametrize("has_it", [False, True], ids=["left out", "already there"])
def test_a_subagents_call_that_a_budget_cut_is_counted_once_whether_the_cli_has_it_or_not(has_it: bool) -> None:
    usage = {"claude-haiku-4-5": HAIKU} if has_it else {}
    budget = result(subtype="error_max_budget_usd", total_cost_usd=0.5 * has_it, modelUsage=usage)
    started = line(type="system", subtype="task_started", task_type="local_agent", task_id="a")
    stream, _ = read([line(type="system", subtype="init", claude_code_version=NEW), started, budget])
    cut = run_cost(stream, before=None, price=price, open_calls=[OpenCall("claude-haiku-4-5", 64, 0)])
    floor = 8 * 1000  # eight tokens at $1 a million
    assert (cut.nanousd, cut.is_estimate) == (500_000_000 if has_it else floor, True)
