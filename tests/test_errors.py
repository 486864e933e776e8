"""What an error's message may hold, wherever it comes from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp.errors import MAX_MESSAGE_CHARS, InvalidRequest, safe_line

SECRETS = (
    "sk-ant-api03-AbCdEf0123456789_-AbCdEf0123456789",
    "sk-ant-oat01-AbCdEf0123456789_-AbCdEf0123456789",
    "sk-ant-admin01-AbCdEf0123456789",
    "sk-proj-AbCdEf0123456789",
    "ghp_AbCdEf0123456789",
    "github_pat_AbCdEf0123456789",
    "xoxb-0123456789-AbCdEf",
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "the value {!r} is wrong", "a={};b", "x\n{}\ny"])
def test_a_secret_is_never_repeated(secret: str, around: str) -> None:
    error = InvalidRequest(around.format(secret))
    assert secret not in error.message
    assert secret not in str(error)
    assert "[a secret, not shown]" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "run 7b0c1f6e-1f5d-4c6e-9a6e-0d8f2b7c9e11: it has ended",
        "The task-runner's risk-averse disk-image is full.",
        "No subscription 'personal'; there are: work, home.",
        "claude-sonnet-4-6 costs more than $0.25 at 2026-11-24T10:00:00Z",
    ],
)
def test_what_is_no_secret_is_shown_as_it_is(text: str) -> None:
    assert InvalidRequest(text).message == text


@given(st.text(max_size=5000))
def test_a_message_is_one_short_printable_line_whatever_was_passed_in(text: str) -> None:
    line = safe_line(text)
    assert line.isprintable()
    assert len(line) <= MAX_MESSAGE_CHARS + 10


def test_the_end_of_a_long_message_which_says_what_to_do_is_kept() -> None:
    message = InvalidRequest(f"{'x' * 10_000_000} is no effort; use one of low, high.").message
    assert message.endswith("is no effort; use one of low, high.")
    assert len(message) <= MAX_MESSAGE_CHARS + 10
