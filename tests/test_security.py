"""docs/security.md is true: each row names the tests that hold it, and what no package owns is tried here."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import anyio
import pytest
from hosting import host
from receiver import Receiver
from support import make_home, open_pool, token_env, until

from pool_mcp.choices import TOOL_PROFILES
from pool_mcp.claude.command import Command, argv
from pool_mcp.claude.process import _INHERITED, environment
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Reply, ToolUse
from pool_mcp.model import Ask

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "security.md"
PROMPT, ANSWER, HEADER = (
    "a prompt that nobody else may read",
    "an answer that nobody else may read",
    "Bearer of-secrets",
)


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of each table, without the head."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        for line in table.splitlines()[2:]:
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


# The document


def test_each_claim_names_tests_and_each_of_them_is_there() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").partition("<!-- fuzz: begin -->")[0]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)\(", sources))
    claims = list(rows(text))
    assert len(claims) > 30
    for *claim, held_by in claims:
        named = re.findall(r"`(test_\w+)`", held_by)
        assert named, claim
        assert set(named) <= there, claim


def test_each_section_of_claims_has_a_table() -> None:
    sections = re.split(r"^## ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [one.splitlines()[0] for one in sections if "\n| " not in one] == ["Terms"]


def test_the_list_of_the_clis_variables_is_the_programs() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    begin, end = "<!-- inherited: begin -->", "<!-- inherited: end -->"
    before, _, rest = text.partition(begin)
    names = ", ".join(f"`{name}`" for name in sorted(_INHERITED))
    expected = f"{before}{begin}{names}{end}{rest.partition(end)[2]}"
    if os.environ.get("UPDATE_DOCS"):
        DOCUMENT.write_text(expected, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == expected


# The disk, the log and the ports


@pytest.mark.anyio
async def test_every_path_on_the_disk_is_on_the_list(standin: Standin, tmp_path: Path) -> None:
    """A pool at work: every path is on the list with its mode, what is secret is where it belongs, no port is open."""
    settings, env = make_home(tmp_path, standin)
    env |= {"NOTIFY_AUTHORIZATION": HEADER}
    standin.accounts["alice"] = Behaviour(five_hour_utilization=0.85, replies=(Reply(text=ANSWER),) * 2)
    with Receiver() as receiver:
        table = f'\n[[notify]]\nurl = "{receiver.url}"\nheaders = {{ Authorization = "NOTIFY_AUTHORIZATION" }}\n'
        settings.config_file.write_text(settings.config_file.read_text() + table)
        settings.config_file.chmod(0o600)
        settings.state_dir.chmod(0o700)
        before = os.umask(0)
        try:
            async with host(env, tmp_path / "server.log") as agent:
                await agent.call("ask_claude", prompt=PROMPT)
                running = await agent.call("ask_claude", prompt=PROMPT, background=True)
                await agent.call("ask_result", run_id=running["run_id"])
                assert listening(os.getpid()) == []
                check_paths(settings.state_dir)
                await until(lambda: receiver.taken, 60)
            for arguments in (("import",), ("ledger", "backup", str(tmp_path / "copy.db"))):
                await anyio.to_thread.run_sync(partial(command, env, *arguments))
        finally:
            os.umask(before)
        check_paths(settings.state_dir)
        assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
        assert receiver.headers[-1]["authorization"] == HEADER
        secrets = (env[token_env("alice")], HEADER, PROMPT, ANSWER)
        assert not any(one in str(receiver.taken) for one in secrets)
    assert not list(settings.runs_dir.glob("*/prompt"))
    for path in (*settings.state_dir.rglob("*"), tmp_path / "server.log"):
        if path.is_file() and "config" not in path.relative_to(tmp_path).parts:  # which is the CLI's
            found = [one for one in secrets if one.encode() in path.read_bytes()]
            assert found in ([], [ANSWER] if path.name == "stdout.jsonl" else []), path


def command(env: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pool_mcp", *arguments], env=env, capture_output=True, check=True)


def check_paths(home: Path) -> None:
    listed: dict[str, int] = {}
    for names, said, *_ in rows(DOCUMENT.read_text(encoding="utf-8").partition("## What is on the disk")[2]):
        if said.startswith("0"):
            listed |= {name: int(said, 8) for name in re.findall(r"`([^`]+)`", names)}
    for path in home.rglob("*"):
        name = str(path.relative_to(home))
        if name.startswith("config/") and name.count("/") > 1:
            continue
        mode = next((mode for pattern, mode in listed.items() if fnmatch(name, pattern)), None)
        directory = 0o700 if name.startswith("runs/") and path.is_dir() else mode
        assert stat.S_IMODE(path.stat().st_mode) == directory, name
        assert path.stat().st_uid == os.getuid()


def listening(parent: int) -> list[str]:
    """The TCP ports on which a server that this process has started takes connections, on Linux."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if above != parent or b"serve" not in (folder / "cmdline").read_bytes():
                continue
            sockets = {str(one.readlink()) for one in (folder / "fd").iterdir()}
            lines = [
                line.split() for name in ("tcp", "tcp6") for line in (folder / "net" / name).read_text().splitlines()
            ]
        except OSError:  # it has ended
            continue
        found += [line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]
    return found


# What the CLI is started with


def test_the_cli_gets_the_variables_of_the_list_and_one_credential(tmp_path: Path) -> None:
    ours = dict.fromkeys(
        (*_INHERITED, "LC_ALL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "AWS_SECRET", "MY_KEY"), "x"
    )
    ours |= {
        "CLAUDECODE": "1",
        "CLAUDE_CONFIG_DIR": "elsewhere",
        "POOL_MCP_HOME": "x",
        "LD_PRELOAD": "x",
        "WORK": "key",
    }
    given = environment(
        ours, config_dir=tmp_path, api_key_env="WORK", oauth_token_env=None, base_url="", attachments=False
    )
    assert given == {
        **dict.fromkeys((*_INHERITED, "LC_ALL"), "x"),
        "ANTHROPIC_API_KEY": "key",
        "CLAUDE_CONFIG_DIR": str(tmp_path),
        "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "POOL_MCP_DEPTH": "1",
    }


def test_no_profile_skips_permissions() -> None:
    for profile in TOOL_PROFILES:
        arguments = argv(Command("s", resume=False, tool_profile=profile))
        assert not [one for one in arguments if "dangerous" in one or "bypass" in one or "allowedTools" in one]
        assert ("--strict-mcp-config" in arguments) == (profile != "full")


@pytest.mark.anyio
async def test_without_a_working_dir_there_is_nothing_to_read(tmp_path: Path) -> None:
    with Standin(keep_requests=True) as standin:
        settings, env = make_home(tmp_path, standin, claude={"tool_profile": "read"})
        pool_toml = str(settings.config_file)
        tools = (
            ToolUse("Glob", {"pattern": "**/*"}),
            ToolUse("Read", {"file_path": pool_toml}),
            ToolUse("Grep", {"pattern": "subscriptions", "path": str(settings.state_dir), "output_mode": "content"}),
        )
        standin.accounts["alice"] = Behaviour(replies=(Reply(tools=tools), Reply(text="Done.")))
        async with open_pool(settings, env) as pool:
            await pool.ask(Ask("Look around.", "tests"))
        seen = str(standin.requests[-1][1]["messages"][-1])
    assert "No files found" in seen
    assert seen.count("has been denied") == 2
    assert "oauth_token_env" not in seen
