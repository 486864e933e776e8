"""Either half of a result is whole and fits what its tool declares, be it an answer or a failure."""

import re
from pathlib import Path
from typing import Any

import pytest
from hosting import Era, connect, data
from jsonschema import Draft202012Validator
from mcp import Client, MCPError
from mcp_types import INVALID_PARAMS, CallToolResult
from support import make_home, until

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Reply
from pool_mcp.errors import BY_KIND
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS
from pool_mcp.pool import PAGE_CHARS
from pool_mcp.results.base import NEXT_STEPS, error_result, internal_error
from pool_mcp.server import content, tools

NOW_MS = 1_790_000_000_000
NOBODY = "3f2b7c1e-0d4a-4a51-9a53-0b3d7f6a0001"
eras = pytest.mark.parametrize("era", ["legacy", "auto"])


class Checked:
    """Calls tools and compares each result with its tool's declared schema, as hosts on the TypeScript SDK do."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._schemas: dict[str, Draft202012Validator] = {}

    async def call(self, tool: str, **arguments: object) -> tuple[dict[str, Any], str]:
        """The data and the text."""
        if not self._schemas:
            listed = (await self._client.list_tools()).tools
            self._schemas = {one.name: Draft202012Validator(one.output_schema or False) for one in listed}
        result = await self._client.call_tool(tool, arguments)
        assert isinstance(result, CallToolResult)
        found = data(result)
        self._schemas[tool].validate(found)
        assert result.is_error == ("error" in found)
        (text,) = (block.text for block in result.content if block.type == "text")
        assert "structuredContent" not in text
        return found, text


@eras
@pytest.mark.anyio
async def test_an_answer_is_in_both_halves_with_all_that_an_agent_acts_on(
    era: Era, standin: Standin, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path, standin)
    async with connect(env, tmp_path, era) as client:
        answer, text = await Checked(client).call("ask_claude", prompt="Say something.")
    assert answer["text"].startswith("Answer 1 of the stand-in")
    assert text.startswith(answer["text"] + "\n\n--- pool-mcp ---\n")
    assert text.count(answer["text"]) == 1
    for said in (
        f"\nrun_id: {answer['run_id']}\n",
        f"\nsession_id: {answer['session_id']}\n",
        f"cost: ${answer['cost_usd']:.4f}",
        f"advice: {answer['advice']['action']}: {answer['advice']['reason']}",
    ):
        assert said in text
    assert "next_step" not in answer


@pytest.mark.anyio
async def test_a_running_ask_says_how_to_get_its_answer_and_a_page_how_to_get_the_next(
    standin: Standin, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path, standin)
    long = "".join(f"{number:07} " for number in range(PAGE_CHARS // 8 + 10)).rstrip()
    standin.accounts["alice"] = Behaviour(replies=(Reply(text=long),))
    async with connect(env, tmp_path) as client:
        checked = Checked(client)
        running, running_text = await checked.call("ask_claude", prompt="Say something.", background=True)
        run_id = running["run_id"]
        first, first_text = await checked.call("ask_result", run_id=run_id, wait_s=60)
        last, last_text = await checked.call("ask_result", run_id=run_id, offset=first["next_offset"])
    assert running["status"] == "running"
    assert running["next_step"] == f"Call ask_result with run_id {run_id} for the answer."
    assert f"status: running\nrun_id: {run_id}\n" in running_text
    assert running_text.endswith(f"next: {running['next_step']}")
    assert (
        first["next_step"] == f"Call ask_result with run_id {run_id} and offset {PAGE_CHARS} for the rest of the text."
    )
    assert first_text.endswith(f"next: {first['next_step']}")
    assert first["text"] + last["text"] == long
    assert last_text.startswith(last["text"])
    assert "next_step" not in last


@pytest.mark.anyio
async def test_a_structured_answer_is_in_the_text_once(standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with connect(env, tmp_path) as client:
        answer, text = await Checked(client).call("ask_claude", prompt="A number.", json_schema=schema)
    assert len(re.findall(rf'"n":\s*{answer["structured"]["n"]}\b', text)) == 1


@eras
@pytest.mark.anyio
async def test_what_the_other_tools_say_is_in_both_halves(era: Era, standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin, "alice", "bob", callers={"night-agent": {"daily_budget_usd": 5.0}})
    async with connect(env, tmp_path, era) as client:
        checked = Checked(client)
        await checked.call("ask_claude", prompt="Say something.", subscription="alice")
        status, status_text = await checked.call("usage_status", caller="night-agent")
        picked, picked_text = await checked.call("pick_subscription")
        report, report_text = await checked.call("usage_report", by="subscription")
    assert f"now: {status['generated_at']}\nadvice: proceed: {status['advice']['reason']}\n" in status_text
    for one in status["subscriptions"]:
        assert (
            f"\n{one['id']}: {one['status']}, {one['status_reason']}; health {one['health_score']:g}\n" in status_text
        )
        assert f"  block to {one['block']['ends_at']}: ${one['block']['cost_usd']:.2f} of $25.00" in status_text
    assert "official five_hour: " in status_text
    assert "caller night-agent: room for $5.00; today $0.00 of $5.00;" in status_text
    assert picked_text.startswith(f"subscription: {picked['subscription']}\nreason: {picked['reason']}\n")
    assert all(reason in picked_text for one in picked["candidates"] for reason in one["reasons"])
    assert all(f"{name}={value}" in picked_text for name, value in picked["env"].items())
    (row,) = report["rows"]
    assert f"\nalice,{row['calls']},{row['input_tokens']}," in report_text
    assert "\ntotal,1," in report_text


@eras
@pytest.mark.anyio
async def test_failures_fit_the_schema_and_their_text_is_whole(era: Era, standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin, callers={"night-agent": {"daily_budget_usd": 0.001}})
    standin.accounts["alice"] = Behaviour(mode="five_hour_limit")
    calls: list[tuple[str, dict[str, object], str]] = [
        ("ask_claude", {"prompt": "Say something."}, "limit"),
        ("ask_claude", {"prompt": "Say something.", "caller": "night-agent"}, "budget"),
        ("ask_claude", {"prompt": "Say something.", "session_id": NOBODY}, "unknown_session"),
        ("ask_claude", {"promt": "Say something."}, "invalid_request"),
        ("ask_result", {"run_id": NOBODY}, "invalid_request"),
        ("usage_status", {"subscription": "nobody"}, "invalid_request"),
        ("pick_subscription", {"session_id": NOBODY}, "unknown_session"),
        ("usage_report", {"by": "color"}, "invalid_request"),
        ("reconcile_usage", {}, "invalid_request"),
    ]
    async with connect(env, tmp_path, era) as client:
        checked = Checked(client)
        for tool, arguments, kind in calls:
            found, text = await checked.call(tool, **arguments)
            error = found["error"]
            assert (tool, error["kind"]) == (tool, kind)
            assert text.startswith(f"{error['message']}\n\nkind: {kind}\n")
            assert f"what to do: {error['next_step']}" in text
            if kind == "limit":
                assert re.search(rf"\nretry_at: {error['retry_at']} \(in \d+ (h|min|s)\b.*\)\n", text)
                assert f"\nrun_id: {error['run_id']}" in text


@pytest.mark.anyio
async def test_a_cut_ask_hands_over_what_there_was_and_a_used_up_pool_says_when(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="slow", chunks=600, chunk_delay_s=0.1)
    async with connect(env, tmp_path) as client:
        checked = Checked(client)
        running, _ = await checked.call("ask_claude", prompt="Say something.", background=True)
        written = settings.runs_dir / running["run_id"] / "stdout.jsonl"
        await until(lambda: written.exists() and b"text_delta" in written.read_bytes(), 60)
        cut, cut_text = await checked.call("ask_result", run_id=running["run_id"], cancel=True)
        standin.accounts["alice"] = Behaviour(mode="five_hour_limit")
        await checked.call("ask_claude", prompt="Say something.")
        status, status_text = await checked.call("usage_status")
        picked, picked_text = await checked.call("pick_subscription")
    error = cut["error"]
    assert (error["kind"], error["run_id"]) == ("cancelled", running["run_id"])
    assert error["partial_text"]
    assert cut_text.endswith(f"partial_text, what there was of the answer:\n{error['partial_text']}")
    advice = status["advice"]
    assert advice["action"] == "wait"
    assert f"advice: wait until {advice['retry_at']} (in " in status_text
    assert advice["retry_in_s"] > 0
    assert picked["subscription"] is None
    assert picked_text.startswith("subscription: none can serve now\n")
    assert f"next available: {picked['next_available_at']}" in picked_text


@eras
@pytest.mark.anyio
async def test_a_tool_that_is_not_there_is_an_error_of_the_protocol(era: Era, tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    async with connect(env, tmp_path, era) as client:
        with pytest.raises(MCPError, match="Unknown tool: 'ask_gpt'; there are ask_claude, ") as raised:
            await client.call_tool("ask_gpt", {})
    assert raised.value.error.code == INVALID_PARAMS


@pytest.mark.parametrize("kind", [*BY_KIND, "internal"])
def test_a_failure_of_any_kind_fits_every_tools_schema_and_says_what_to_do(kind: str) -> None:
    for retry_at_ms in (None, NOW_MS + HOUR_MS + 35 * MINUTE_MS):
        if kind == "internal":
            error = internal_error()
        else:
            error = error_result(
                BY_KIND[kind](
                    "It failed.",
                    retry_at_ms=retry_at_ms,
                    subscription="alice",
                    alternatives=("bob", "carol"),
                    run_id="the-run",
                    partial_text="The beginning of",
                ),
                NOW_MS,
            )
            text = content.text_of_error(error)
            assert text.endswith(
                "subscription: alice\nalternatives: bob, carol\nrun_id: the-run\n"
                "partial_text, what there was of the answer:\nThe beginning of"
            )
            assert ("retry_at: 2026-09-21T15:48:20Z (in 1 h 35 min)" in text) == (retry_at_ms is not None)
        dumped = {"error": error.model_dump(mode="json", exclude_none=True)}
        for tool in tools.TOOLS.values():
            Draft202012Validator(tools.output_schema(tool)).validate(dumped)
        assert f"kind: {kind}\n" in content.text_of_error(error)
    assert set(NEXT_STEPS) == {*BY_KIND, "internal"}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (5700, "1 h 35 min"),
        (DAY_MS // 1000, "1 d 0 h"),
        (183_600, "2 d 3 h"),
    ],
)
def test_a_time_span_is_told_in_its_two_largest_units(seconds: int, expected: str) -> None:
    assert content.duration(seconds) == expected
