"""Asks that cannot work are refused before anything is spent, each in one line that says what to do instead."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import make_home

from pool_mcp.asks.admission import check_ask
from pool_mcp.errors import InvalidRequest, PoolError, UnknownSession, safe_line
from pool_mcp.model import Ask, CallerBudget
from pool_mcp.settings import Settings, load

ASK = Ask("ping", "test")
SESSION = "0c0d579b-433f-4365-928a-1cbe2a7ec9de"
OBJECT: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}, "b": True}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({"POOL_MCP_HOME": str(tmp_path)})


def refusal(ask: Ask, settings: Settings) -> PoolError | None:
    try:
        check_ask(ask, settings)
    except (InvalidRequest, UnknownSession) as error:
        return error
    return None


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = OBJECT
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "-p --help"},
        {"prompt": "x" * 4_000_000},
        {"system_prompt": ""},
        {"system_prompt": "ä" * 50_000},
        {"model": "claude-opus-4-8[1m]"},
        {"model": "anthropic/claude@2026:x_1"},
        {"effort": "max"},
        {"json_schema": OBJECT},
        {"json_schema": {**OBJECT, "$schema": "http://json-schema.org/draft-07/schema#"}},
        {"max_cost_nanousd": 1},
        {"max_cost_nanousd": 1_000_000_000_000_000},
        {"timeout_s": 0.001},
        {"timeout_s": 86_400.0},
        {"working_dir": "~"},
        {"working_dir": "/"},
        {"tool_profile": "none"},
        {"session_id": SESSION},
        {"session_id": SESSION.upper()},
        {"subscription": "default"},
        {"idempotency_key": "a key"},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_what_can_be_served_passes(settings: Settings, changed: dict[str, Any]) -> None:
    check_ask(replace(ASK, **changed), settings)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-sonnet-4-6", None),
        ("Haiku", None),
        ("opus", "Caller 'night' may use sonnet, haiku only, not opus; pass model."),
        (None, "Caller 'night' may use sonnet, haiku only, and the ask names none; pass model."),
    ],
)
def test_a_caller_asks_the_models_that_are_named_for_it(settings: Settings, model: str | None, expected: str) -> None:
    settings = replace(settings, callers={"night": CallerBudget(models=("sonnet", "haiku"))})
    ask = replace(ASK, caller="night", model=model)
    if expected is None:
        check_ask(ask, settings)
    else:
        with pytest.raises(InvalidRequest) as caught:
            check_ask(ask, settings)
        assert caught.value.message == expected
    check_ask(replace(ask, caller="day"), settings)


TOO_LONG = "The prompt has 5.0 MB; at most 4 MB can be sent: shorten it, or let Claude read files (tool_profile read)."
NO_SESSION = "is no session id; pass one that an earlier answer gave, or none for a new one."
NO_DIRECTORY = "is not a directory on this machine; give a whole path."
NOT_ALLOWED = "is not allowed here (allowed: none); the operator sets claude.tool_profile in pool.toml."
BAD_SCHEMA = "The json_schema is not a valid JSON Schema:"
NO_OBJECT = 'The json_schema must describe an object: {"type": "object", "properties": ...}.'
BAD_COST = "max_cost_usd must be more than 0 and at most 1000000."
BAD_TIMEOUT = "timeout_s must be more than 0 and at most 86400 (a day)."


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"prompt": ""}, "The prompt is empty; say what Claude should do."),
        ({"prompt": " \n\t"}, "The prompt is empty; say what Claude should do."),
        (
            {"prompt": "x" * 5_000_000},
            TOO_LONG,
        ),
        ({"prompt": "a\0b"}, "The prompt holds a NUL character; remove it."),
        ({"prompt": "a \ud83d"}, "The prompt holds half a surrogate pair; send valid Unicode."),
        (
            {"system_prompt": "ä" * 60_000},
            "The system_prompt has 0.1 MB; at most 0.1 MB can be sent: move the long part into the prompt.",
        ),
        ({"system_prompt": "\0"}, "The system_prompt holds a NUL character; remove it."),
        ({"model": "-m"}, "'-m' is no model name; use an alias such as sonnet, or a full name."),
        ({"model": "a b"}, "'a b' is no model name; use an alias such as sonnet, or a full name."),
        ({"model": ""}, "'' is no model name; use an alias such as sonnet, or a full name."),
        ({"effort": "ultra"}, "'ultra' is no effort; use one of low, medium, high, xhigh, max."),
        ({"json_schema": {}}, NO_OBJECT),
        ({"json_schema": {"type": "array"}}, NO_OBJECT),
        (
            {"json_schema": {"type": "objekt"}},
            f"{BAD_SCHEMA} 'objekt' is not valid under any of the given schemas (at type).",
        ),
        (
            {"json_schema": {**OBJECT, "properties": {"a\nb": {"minLength": "1"}}}},
            f"{BAD_SCHEMA} '1' is not of type 'integer' (at properties/a b/minLength).",
        ),
        ({"json_schema": {**OBJECT, "required": "a"}}, f"{BAD_SCHEMA} 'a' is not of type 'array' (at required)."),
        (
            {"json_schema": {**OBJECT, "description": "x" * 100_000}},
            "The json_schema is larger than 100 kB; make it smaller.",
        ),
        ({"json_schema": nested(2000)}, "The json_schema is nested too deeply; make it flatter."),
        ({"max_cost_nanousd": 0}, BAD_COST),
        ({"max_cost_nanousd": -1}, BAD_COST),
        ({"max_cost_nanousd": 10**30}, BAD_COST),
        ({"timeout_s": 0.0}, BAD_TIMEOUT),
        ({"timeout_s": 86_400.1}, BAD_TIMEOUT),
        ({"timeout_s": float("nan")}, BAD_TIMEOUT),
        ({"working_dir": "/no/such/place"}, f"working_dir '/no/such/place' {NO_DIRECTORY}"),
        ({"working_dir": "."}, f"working_dir '.' {NO_DIRECTORY}"),
        ({"working_dir": ""}, f"working_dir '' {NO_DIRECTORY}"),
        ({"working_dir": __file__}, f"working_dir {__file__!r} {NO_DIRECTORY}"),
        ({"working_dir": "~no-such-user/x"}, f"working_dir '~no-such-user/x' {NO_DIRECTORY}"),
        ({"working_dir": "a\0b"}, f"working_dir 'a\\x00b' {NO_DIRECTORY}"),
        ({"working_dir": "x" * 5000}, safe_line(f"working_dir {'x' * 5000!r} {NO_DIRECTORY}")),
        ({"tool_profile": "read"}, f"tool_profile 'read' {NOT_ALLOWED}"),
        ({"tool_profile": "all"}, f"tool_profile 'all' {NOT_ALLOWED}"),
        ({"session_id": "latest"}, f"'latest' {NO_SESSION}"),
        ({"session_id": SESSION + "\n"}, f"{SESSION + chr(10)!r} {NO_SESSION}"),
        ({"session_id": "../" + SESSION}, f"'../{SESSION}' {NO_SESSION}"),
        (
            {"subscription": "other"},
            "No subscription 'other'; there are: default. Leave it out to let the pool choose.",
        ),
        ({"caller": "a\0"}, "The caller holds a NUL character; remove it."),
        ({"caller": "\udcff"}, "The caller holds half a surrogate pair; send valid Unicode."),
        ({"idempotency_key": "\udcff"}, "The idempotency_key holds half a surrogate pair; send valid Unicode."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_served_is_refused_in_one_line(
    settings: Settings, changed: dict[str, Any], expected: str
) -> None:
    error = refusal(replace(ASK, **changed), settings)
    assert error is not None
    assert (error.kind, error.message) == (
        "unknown_session" if "session_id" in changed else "invalid_request",
        expected,
    )


@pytest.mark.parametrize(
    ("operator", "allowed"), [("none", {"none"}), ("read", {"none", "read"}), ("full", {"none", "read", "full"})]
)
def test_a_caller_may_ask_for_less_than_the_operator_allows_and_never_for_more(
    tmp_path: Path, operator: str, allowed: set[str]
) -> None:
    settings, _ = make_home(tmp_path, claude={"tool_profile": operator})

    profiles = ("none", "read", "full", "")
    assert {name for name in profiles if refusal(replace(ASK, tool_profile=name), settings) is None} == allowed


texts = st.none() | st.text(max_size=20) | st.text(st.characters(exclude_categories=()), max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
words = st.sampled_from(["type", "properties", "required", "$ref", "anyOf", "pattern", "object", "#", "("])


@given(
    st.fixed_dictionaries(
        {"prompt": st.text(max_size=20)},
        optional={
            "model": texts,
            "effort": texts,
            "system_prompt": texts,
            "session_id": texts,
            "subscription": texts,
            "working_dir": texts,
            "tool_profile": texts,
            "idempotency_key": texts,
            "caller": texts.map(lambda text: text or ""),
            "timeout_s": st.floats(),
            "max_cost_nanousd": st.integers(),
            "json_schema": st.dictionaries(words, json_values | words),
        },
    )
)
def test_any_ask_passes_or_is_refused_as_the_callers_mistake(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, Any]
) -> None:
    settings = load({"POOL_MCP_HOME": str(tmp_path_factory.getbasetemp())})
    error = refusal(replace(ASK, **said), settings)
    assert error is None or "\n" not in error.message
