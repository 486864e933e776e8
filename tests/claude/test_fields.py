"""Values of any type, read into what they should be or nothing."""

import pytest

from pool_mcp.claude.fields import MAX_NAME, from_timestamp, plain_model


@pytest.mark.parametrize("name", ["claude-sonnet-5-5", "claude-sonnet-5-5[1m]", "claude-sonnet-5-5 [1m]"])
def test_a_model_has_one_name_however_the_cli_marks_its_context(name: str) -> None:
    assert plain_model(name) == "claude-sonnet-5-5"


@pytest.mark.parametrize(
    ("said", "kept"), [("evil\x1b]52;c;x\x07", "evil]52;c;x"), ("a\u202eb\x9b", "ab"), ("m" * 100_000, "m" * MAX_NAME)]
)
def test_a_models_name_can_be_shown_and_is_not_too_long(said: str, kept: str) -> None:
    assert plain_model(said) == kept


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-22T09:15:20.742Z", 1_795_338_920_742),
        ("2026-11-22T10:15:20.742+01:00", 1_795_338_920_742),
        ("soon", None),
        ("0001-01-01T00:00:00Z", None),
        (1_795_338_920, None),
        (None, None),
    ],
)
def test_a_timestamp_is_an_instant_or_nothing(value: object, expected: int | None) -> None:
    assert from_timestamp(value) == expected
