"""The agents' door, over real stdio with the real CLI behind it, in both eras of the protocol."""

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from hosting import SERVE, Era, connect, data
from mcp import MCPError
from mcp_types import TextResourceContents
from support import CLAUDE, make_home

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Reply, ToolUse
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.server.tools import TOOLS
from pool_mcp.setup import hosts

pytestmark = pytest.mark.anyio


def spent_nanousd(ledger_path: Path) -> int:
    ledger = Ledger(ledger_path)
    try:
        return ledger.audit().spent_nanousd
    finally:
        ledger.close()


@pytest.mark.parametrize(("era", "version"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
async def test_an_agent_asks_and_the_ledger_holds_what_the_books_hold(
    era: Era, version: str, standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin, "alice", "bob")
    async with connect(env, tmp_path, era) as client:
        assert client.protocol_version == version
        answer = data(await client.call_tool("ask_claude", {"prompt": "Say something."}))
        again = data(await client.call_tool("ask_claude", {"prompt": "And again.", "session_id": answer["session_id"]}))
    assert answer["status"] == again["status"] == "completed"
    assert answer["text"].startswith("Answer 1 of the stand-in")
    assert again["subscription"] == answer["subscription"]
    assert (again["session_id"], again["cost_is_estimate"]) == (answer["session_id"], False)
    assert round((answer["cost_usd"] + again["cost_usd"]) * 1e9) == standin.spent_nanousd()
    assert spent_nanousd(settings.ledger_path) == standin.spent_nanousd()


async def test_the_tools_are_listed_with_schemas_and_true_annotations(standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin)
    async with connect(env, tmp_path) as client:
        listed = (await client.list_tools()).tools
    assert [tool.name for tool in listed] == list(TOOLS)
    assert all(tool.output_schema and tool.title and tool.description for tool in listed)
    hints = {tool.name: tool.annotations and tool.annotations.model_dump(exclude_none=True) for tool in listed}
    assert hints["usage_status"] == {
        "read_only_hint": True,
        "destructive_hint": False,
        "idempotent_hint": True,
        "open_world_hint": False,
    }
    assert hints["ask_claude"] == {
        "read_only_hint": False,
        "destructive_hint": False,
        "idempotent_hint": False,
        "open_world_hint": True,
    }
    without_output = [tool.model_dump(mode="json", by_alias=True, exclude={"output_schema"}) for tool in listed]
    assert len(json.dumps(without_output)) < 8_000


async def test_a_used_up_limit_sends_the_ask_to_the_next_subscription(standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1}})
    standin.accounts["alice"] = Behaviour(mode="five_hour_limit")
    async with connect(env, tmp_path) as client:
        answer = data(await client.call_tool("ask_claude", {"prompt": "Say something."}))
        status = data(await client.call_tool("usage_status", {}))
        picked = data(await client.call_tool("pick_subscription", {}))
    assert [(one["subscription"], one["outcome"]) for one in answer["attempts"]] == [("alice", "limit"), ("bob", "ok")]
    states = {one["id"]: (one["status"], one["available_at"]) for one in status["subscriptions"]}
    assert states["alice"][0] == "cooldown"
    assert states["alice"][1] is not None
    assert states["bob"] == ("available", None)
    assert picked["subscription"] == "bob"
    assert {one["id"]: one["eligible"] for one in picked["candidates"]} == {"alice": False, "bob": True}


async def test_failures_are_errors_with_a_kind_and_one_line(standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin, callers={"night-agent": {"daily_budget_usd": 0.001}})
    standin.accounts["alice"] = Behaviour(mode="weekly_limit")
    nobody = "3f2b7c1e-0d4a-4a51-9a53-0b3d7f6a0001"
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("ask_claude", {"prompt": "Say something."}, "limit"),
        ("ask_claude", {"prompt": "Say something.", "caller": "night-agent"}, "budget"),
        ("ask_claude", {"prompt": "Say something.", "session_id": nobody}, "unknown_session"),
        ("ask_claude", {"promt": "Say something."}, "invalid_request"),
        ("ask_claude", {"prompt": " "}, "invalid_request"),
        ("ask_result", {"run_id": nobody}, "invalid_request"),
        ("usage_status", {"subscription": "nobody"}, "invalid_request"),
    ]
    async with connect(env, tmp_path) as client:
        results = [(await client.call_tool(name, arguments), kind) for name, arguments, kind in calls]
    for result, kind in results:
        error = data(result)["error"]
        assert result.is_error
        assert error["kind"] == kind
        assert "\n" not in error["message"]
    assert data(results[0][0])["error"]["retry_at"] is not None
    assert "did you mean prompt?" in data(results[3][0])["error"]["message"]


async def test_the_state_is_also_there_as_resources(standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin, "alice", "bob")
    async with connect(env, tmp_path) as client:
        answer = data(await client.call_tool("ask_claude", {"prompt": "Say something."}))
        contents = {}
        for uri in ("pool://status", "pool://subscriptions/bob", f"pool://runs/{answer['run_id']}"):
            content = (await client.read_resource(uri)).contents[0]
            assert isinstance(content, TextResourceContents)
            contents[uri] = json.loads(content.text)
        with pytest.raises(MCPError, match="No subscription 'carol'"):
            await client.read_resource("pool://subscriptions/carol")
    assert [one["id"] for one in contents["pool://status"]["subscriptions"]] == ["alice", "bob"]
    assert contents["pool://subscriptions/bob"]["id"] == "bob"
    assert contents[f"pool://runs/{answer['run_id']}"]["text"] == answer["text"]


def test_a_person_who_starts_the_server_by_hand_is_told_how_to_set_up_a_host(tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    ours, theirs = pty.openpty()
    with subprocess.Popen(SERVE, env=env, stdin=theirs, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        os.close(theirs)
        assert server.stderr is not None
        assert server.stdout is not None
        said = [server.stderr.readline().decode() for _ in range(2)]
        os.write(ours, b"\x04")  # Ctrl-D
        assert (server.wait(timeout=20), server.stdout.read(), server.stderr.read()) == (0, b"", b"")
    os.close(ours)
    assert said == [
        "This serves MCP to a host that starts it; to set one up: pool-mcp install claude-code\n",
        "For yourself: pool-mcp status, pool-mcp ask, pool-mcp --help. Ctrl-C ends this.\n",
    ]
    assert "claude-code" in hosts.NAMES


def test_a_person_who_names_no_command_sees_the_help(tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    ours, theirs = pty.openpty()
    ended = subprocess.run(SERVE[:-1], env=env, stdin=theirs, capture_output=True, text=True, timeout=60, check=False)
    os.close(theirs)
    os.close(ours)
    assert (ended.returncode, ended.stderr, ended.stdout.startswith("Usage: pool-mcp")) == (0, "", True)


async def test_a_server_whose_settings_are_wrong_says_so_in_every_call(tmp_path: Path) -> None:
    home = tmp_path / "pool"
    home.mkdir()
    (home / "pool.toml").write_text('stratgy = "health"\n')
    async with connect({"POOL_MCP_HOME": str(home)}, tmp_path) as client:
        assert len((await client.list_tools()).tools) == len(TOOLS)
        result = await client.call_tool("usage_status", {})
    assert result.is_error
    assert "did you mean strategy?" in data(result)["error"]["message"]


async def test_a_long_wait_reports_progress_to_the_host(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="slow", chunks=70, chunk_delay_s=0.1)
    told: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        told.append(message)

    async with connect(env, tmp_path) as client:
        result = await client.call_tool("ask_claude", {"prompt": "Say something."}, progress_callback=hear)
    assert data(result)["status"] == "completed"
    assert told
    assert all(message and "characters" in message for message in told)


async def test_a_structured_answer_conforms_to_the_schema_that_was_asked_for(standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with connect(env, tmp_path) as client:
        answer = data(await client.call_tool("ask_claude", {"prompt": "A number.", "json_schema": schema}))
    assert set(answer["structured"]) == {"n"}
    assert isinstance(answer["structured"]["n"], int)
    assert round(answer["cost_usd"] * 1e9) == standin.spent_nanousd()


async def test_claude_code_as_the_host_calls_the_tools_and_sees_the_answer(tmp_path: Path) -> None:
    with Standin(keep_requests=True) as standin:
        _, env = make_home(tmp_path, standin)
        standin.accounts["host"] = Behaviour(
            replies=(
                Reply(tools=(ToolUse("mcp__pool__usage_status"),)),
                Reply(tools=(ToolUse("mcp__pool__ask_claude", {"prompt": "What is the delegated answer?"}),)),
                Reply(text="The host's last word."),
            )
        )
        standin.accounts["alice"] = Behaviour(replies=(Reply(text="The delegated answer."),))
        servers = {"mcpServers": {"pool": {"command": SERVE[0], "args": SERVE[1:], "env": env}}}
        config = tmp_path / "mcp.json"
        config.write_text(json.dumps(servers))
        arguments = ["-p", "--model=sonnet", "--strict-mcp-config", f"--mcp-config={config}", "--setting-sources="]
        arguments += ["--allowedTools=mcp__pool__usage_status,mcp__pool__ask_claude", "--output-format=json"]
        process = await anyio.run_process(
            [str(CLAUDE), *arguments],
            input=b"Ask the pool.",
            cwd=tmp_path,
            env={
                "PATH": env["PATH"],
                "HOME": str(tmp_path),
                "CLAUDE_CONFIG_DIR": str(tmp_path / "host-config"),
                "CLAUDE_CODE_OAUTH_TOKEN": Standin.token("host"),
                "ANTHROPIC_BASE_URL": standin.url,
                "DISABLE_AUTOUPDATER": "1",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            },
        )
        assert json.loads(process.stdout)["result"] == "The host's last word."
        seen_by_the_model = json.dumps(standin.requests[-1])
        assert "The delegated answer." in seen_by_the_model
        assert "health_score" in seen_by_the_model
        delegated = [call for call in standin.books if call.account == "alice"]
        assert len(delegated) == 1
