"""How a run ended, by the codes in its result."""

import pytest
from cli_output import line, read

from pool_mcp.claude.verdict import Verdict, judge
from pool_mcp.model import Outcome


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"api_error_status": 429}, Outcome.LIMIT),
        ({"api_error_status": 401}, Outcome.AUTH),
        ({"api_error_status": 403}, Outcome.AUTH),
        ({"api_error_status": 402}, Outcome.BILLING),
        ({"api_error_status": 413}, Outcome.INVALID_REQUEST),
        ({"api_error_status": 529}, Outcome.OVERLOADED),
        ({"api_error_status": 500}, Outcome.OVERLOADED),
        ({"api_error": "usage_limit_reached"}, Outcome.LIMIT),
        ({"terminal_reason": "aborted_tools"}, Outcome.CANCELLED),
        ({"api_error_status": "429"}, Outcome.CLI_FAILED),
        ({}, Outcome.CLI_FAILED),
    ],
)
def test_an_error_is_judged_by_its_codes(said: dict[str, object], expected: Outcome) -> None:
    error = line(type="result", subtype="success", is_error=True, result="why", **said)
    assert judge(read([error])[0]) == Verdict(expected, "why", None, "why")


@pytest.mark.parametrize(("text", "expected"), [("The whole answer.", Outcome.OK), ("", Outcome.CANCELLED)])
def test_a_run_interrupted_in_its_last_moment_is_answered_only_if_there_is_an_answer(
    text: str, expected: Outcome
) -> None:
    said = {"subtype": "success", "is_error": False, "terminal_reason": "aborted_streaming", "result": text}
    verdict = judge(read([line(type="result", **said)])[0])
    assert verdict is not None
    assert (verdict.outcome, verdict.text) == (expected, text)


def test_what_a_cli_says_of_an_error_reaches_a_person_as_one_short_line() -> None:
    said = "first \x1b[31mline\n\n  second\tline\0" + "x" * 10_000
    verdict = judge(read([line(type="result", is_error=True, result=said)])[0])
    assert verdict is not None
    assert verdict.message == f"first [31mline second line {'x' * 473}"


@pytest.mark.parametrize("said", [{"text": "hi"}, ["hi"], 17, None])
def test_a_result_that_is_no_text_is_no_answer(said: object) -> None:
    verdict = judge(read([line(type="result", subtype="success", is_error=False, result=said)])[0])
    assert verdict is not None
    assert verdict.outcome is Outcome.CLI_FAILED


@pytest.mark.parametrize("name", ["overloaded", "server_error"])
def test_an_overload_is_nobodys_limit(name: str) -> None:
    message = {"id": "m", "model": "<synthetic>", "content": []}
    lines = [line(type="assistant", error=name, message=message), line(type="result", is_error=True, result="why")]
    assert judge(read(lines)[0]) == Verdict(Outcome.OVERLOADED, "why", None, "why")


def test_a_budget_that_is_reached_is_told_from_a_failure() -> None:
    verdict = judge(read([line(type="result", subtype="error_max_budget_usd", is_error=True)])[0])
    assert verdict is not None
    assert verdict.outcome is Outcome.BUDGET


def test_a_key_in_what_a_cli_says_of_an_error_is_not_kept() -> None:
    error = line(type="result", subtype="success", is_error=True, result="Invalid key sk-ant-api03-0123456789 was sent")
    verdict = judge(read([error])[0])
    assert verdict is not None
    assert verdict.message == "Invalid key [a secret, not shown] was sent"
