"""The tools as hosts see them: small, valid, and strict about arguments."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mcp import Client
from support import now_ms

from pool_mcp.errors import InvalidRequest
from pool_mcp.pool import Pool
from pool_mcp.server import tools
from pool_mcp.server.server import make_server

TOOLS = list(tools.TOOLS.values())


def least(tool: tools.Tool) -> dict[str, Any]:
    """The arguments that the tool cannot do without."""
    schema = tools.input_schema(tool)
    return {name: schema["properties"][name].get("enum", ["x"])[0] for name in schema["required"]}


def refusal(tool: str, arguments: dict[str, Any] | None) -> str | None:
    try:
        tools.TOOLS[tool].parse(arguments)
    except InvalidRequest as error:
        return error.message
    return None


# What a host lists


@pytest.mark.anyio
async def test_the_whole_list_stays_under_8_kb_without_output_schemas() -> None:
    async def no_pool() -> Pool:
        raise InvalidRequest("no pool is needed to list tools")

    async with Client(make_server(no_pool, now_ms)) as client:
        listed = (await client.list_tools()).tools
    dumped = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed]
    assert [tool["name"] for tool in dumped] == list(tools.TOOLS)
    without_output = [{key: value for key, value in tool.items() if key != "outputSchema"} for tool in dumped]
    assert len(json.dumps(without_output)) < 8 * 1024


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_tools_schemas_are_valid(tool: tools.Tool) -> None:
    for schema in (tools.input_schema(tool), tools.output_schema(tool)):
        Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"


def test_input_schemas_hold_nothing_that_only_costs_context() -> None:
    said = json.dumps([tools.input_schema(tool) for tool in TOOLS])
    assert [waste for waste in ('"title"', '"null"', '"anyOf"', '"default": null') if waste in said] == []


def test_every_argument_that_has_a_choice_names_it() -> None:
    schema = tools.input_schema(tools.TOOLS["ask_claude"])["properties"]
    assert {name: said["enum"] for name, said in schema.items() if "enum" in said} == {
        "effort": ["low", "medium", "high", "xhigh", "max"],
        "tool_profile": ["none", "read", "full"],
        "wait_for": ["none", "turn", "room"],
        "urgency": ["urgent", "normal", "idle"],
    }


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_argument_is_described(tool: tools.Tool) -> None:
    arguments = tools.input_schema(tool)["properties"]
    assert [name for name, said in arguments.items() if not said.get("description")] == []


# Arguments


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        (
            "ask_result",
            {"run": "x"},
            "ask_result has no argument 'run' (did you mean run_id?); it takes run_id, wait_s, offset, cancel.",
        ),
        ("usage_status", {"a\nb": 1}, "usage_status has no argument 'a\\nb'; it takes subscription, caller."),
        ("ask_claude", None, "ask_claude needs the argument 'prompt'."),
        ("ask_claude", {"prompt": None}, "ask_claude: prompt: input should be a valid string."),
        (
            "ask_claude",
            {"prompt": "x", "effort": "ultra"},
            "ask_claude: effort: input should be 'low', 'medium', 'high', 'xhigh' or 'max'.",
        ),
        (
            "ask_claude",
            {"prompt": "x", "max_cost_usd": float("inf")},
            "ask_claude: max_cost_usd: input should be a finite number.",
        ),
        ("ask_claude", {"prompt": "x", "max_cost_usd": 1e300}, "ask_claude: max_cost_usd: must be at most 1000000."),
        (
            "pick_subscription",
            {"estimated_cost_usd": "nan"},
            "pick_subscription: estimated_cost_usd: input should be a finite number.",
        ),
        (
            "ask_claude",
            {"prompt": "x", "caller": "sk-ant-api03-0123456789abcdef"},
            "ask_claude: caller: looks like a key, which no name is; it is not kept.",
        ),
        (
            "ask_result",
            {"run_id": "x", "wait_s": 3601},
            "ask_result: wait_s: input should be less than or equal to 3600.",
        ),
        (
            "ask_result",
            {"run_id": "x", "offset": -1},
            "ask_result: offset: input should be greater than or equal to 0.",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(tool: str, arguments: dict[str, Any] | None, expected: str) -> None:
    assert refusal(tool, arguments) == expected


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_an_unknown_argument_is_named_and_so_are_the_known_ones(tool: tools.Tool) -> None:
    known = ", ".join(tools.input_schema(tool)["properties"])
    assert refusal(tool.name, {"zzz": 1}) == f"{tool.name} has no argument 'zzz'; it takes {known}."


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_null_is_what_leaving_an_optional_argument_out_is(tool: tools.Tool) -> None:
    required, arguments = least(tool), tools.input_schema(tool)["properties"]
    optional = [name for name, said in arguments.items() if name not in required and "default" not in said]
    assert tool.parse({**required, **dict.fromkeys(optional)}) == tool.parse(required)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5000) | st.floats(-5, 5000) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)
names = sorted({name for tool in TOOLS for name in tools.input_schema(tool)["properties"]})
values = json_values | st.sampled_from(["low", "max", "none", "full", "x", 0, 3600])


@given(st.sampled_from(TOOLS), st.dictionaries(st.sampled_from(names) | st.text(max_size=3), values, max_size=4))
def test_what_the_schema_allows_is_accepted_and_all_else_is_accepted_or_refused_in_one_line(
    tool: tools.Tool, arguments: dict[str, Any]
) -> None:
    arguments = {**least(tool), **arguments}
    said = refusal(tool.name, arguments)
    assert said is None or "\n" not in said
    if Draft202012Validator(tools.input_schema(tool)).is_valid(arguments):
        assert said is None


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_an_optional_string_that_is_empty_is_absent(tool: tools.Tool) -> None:
    properties = tools.input_schema(tool)["properties"]
    optional = [name for name, schema in properties.items() if schema.get("type") == "string"]
    empty = {name: "" for name in optional if name not in least(tool)}
    assert tool.parse({**least(tool), **empty}) == tool.parse(least(tool))
