"""What a delegated Claude may do, seen from what the real CLI sends to the model."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import make_home, open_pool

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Reply, ToolUse
from pool_mcp.errors import InvalidRequest
from pool_mcp.model import Ask

pytestmark = pytest.mark.anyio

SECRET = "the content of a file that is nobody's business"


async def sent_to_the_model(
    tmp_path: Path,
    prompt: str,
    *,
    tools: tuple[ToolUse, ...] = (),
    allowed: str = "none",
    **asked: Any,
) -> list[dict[str, Any]]:
    """The requests that the CLI made for one ask, when the model wants to use some tools."""
    with Standin(keep_requests=True) as standin:
        replies = (Reply(tools=tools), Reply(text="Done.")) if tools else (Reply(text="Done."),)
        standin.accounts["alice"] = Behaviour(replies=replies)
        settings, env = make_home(tmp_path, standin, claude={"tool_profile": allowed})
        async with open_pool(settings, env) as pool:
            answer = await pool.ask(Ask(prompt, "test", **asked))
        assert answer.text == "Done."
        return [body for _, body in standin.requests]


def tool_names(request: dict[str, Any]) -> set[str]:
    return {tool["name"] for tool in request.get("tools", [])}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret.txt"
    file.write_text(SECRET)
    return file


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "notes.txt").write_text("what the project notes say")
    (folder / "CLAUDE.md").write_text("Words of the project's own CLAUDE.md.")
    return folder


async def test_by_default_a_delegated_claude_has_no_tools_and_reads_no_files(secret: Path, tmp_path: Path) -> None:
    (request,) = await sent_to_the_model(tmp_path, f"What does @{secret} say?")
    assert tool_names(request) == set()
    assert SECRET not in json.dumps(request)


async def test_a_prompt_that_looks_like_a_command_or_an_option_reaches_the_model_as_words(tmp_path: Path) -> None:
    for number, prompt in enumerate(("/cost", "--help", "-p hello")):
        (request,) = await sent_to_the_model(tmp_path / str(number), prompt)
        assert prompt in json.dumps(request["messages"])


async def test_profile_read_reads_inside_the_working_directory_only(
    secret: Path, project: Path, tmp_path: Path
) -> None:
    (project / "link").symlink_to(secret)
    (project / "folder").symlink_to(tmp_path)
    tools = (
        ToolUse("Read", {"file_path": str(project / "notes.txt")}),
        ToolUse("Read", {"file_path": str(secret)}),
        ToolUse("Read", {"file_path": str(project / "link")}),
        ToolUse("Grep", {"pattern": "nobody", "path": str(project / "folder"), "output_mode": "content"}),
        ToolUse("Grep", {"pattern": "nobody", "path": str(project), "output_mode": "content"}),
        ToolUse("Grep", {"pattern": "nobody", "path": str(tmp_path), "output_mode": "content"}),
        ToolUse("Glob", {"pattern": "*.txt", "path": str(tmp_path)}),
    )
    first, second = await sent_to_the_model(
        tmp_path, f"Read @{secret}.", tools=tools, allowed="read", working_dir=str(project)
    )
    assert tool_names(first) == {"Read", "Grep", "Glob"}
    seen = json.dumps(second["messages"])
    assert "what the project notes say" in seen
    assert SECRET not in seen
    assert seen.count("has been denied") == 5


async def test_profile_full_allows_what_the_operators_settings_allow_and_nothing_they_would_ask_about(
    project: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "made-by-a-tool"
    tools = (ToolUse("Bash", {"command": f"touch {mark}"}),)
    first, second = await sent_to_the_model(
        tmp_path, "Make a file.", tools=tools, allowed="full", working_dir=str(project)
    )
    assert "Bash" in tool_names(first)
    assert "has been denied" in json.dumps(second["messages"])
    assert not mark.exists()


@pytest.mark.parametrize(("allowed", "asked"), [("none", "read"), ("none", "full"), ("read", "full")])
async def test_a_caller_cannot_ask_for_more_than_the_operator_allows(
    allowed: str, asked: str, standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin, claude={"tool_profile": allowed})
    async with open_pool(settings, env) as pool:
        with pytest.raises(InvalidRequest, match=f"tool_profile '{asked}' is not allowed here"):
            await pool.ask(Ask("Hello.", "test", tool_profile=asked))
    assert standin.books == []


async def test_a_caller_may_ask_for_less(project: Path, tmp_path: Path) -> None:
    (request,) = await sent_to_the_model(
        tmp_path, "Hello.", allowed="full", working_dir=str(project), tool_profile="none"
    )
    assert tool_names(request) == set()


async def test_a_delegated_claude_cannot_delegate_again(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin)
    async with open_pool(settings, {**env, "POOL_MCP_DEPTH": "1"}) as pool:
        with pytest.raises(InvalidRequest, match="may not ask another one"):
            await pool.ask(Ask("Hello.", "test"))


async def test_the_hosts_credentials_do_not_reach_the_cli(tmp_path: Path) -> None:
    with Standin(keep_requests=True) as standin:
        settings, env = make_home(tmp_path, standin)
        env |= {"ANTHROPIC_API_KEY": Standin.api_key("somebody-else"), "CLAUDE_CODE_SESSION_ID": "x", "CLAUDECODE": "1"}
        async with open_pool(settings, env) as pool:
            await pool.ask(Ask("Hello.", "test"))
        assert {call.account for call in standin.books} == {"alice"}
