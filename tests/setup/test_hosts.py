"""Putting pool-mcp into hosts: read back by the host itself where its command line is here, else by its schema."""

import json
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from machine import Machine

from pool_mcp.errors import InvalidRequest
from pool_mcp.setup import hosts, jsonc

SCRIPT = str(Path(sys.executable).with_name("pool-mcp"))

FILES = {
    "claude-code": ".claude.json",
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "codex": ".codex/config.toml",
    "cursor": ".cursor/mcp.json",
    "gemini": ".gemini/settings.json",
    "vscode": ".config/Code/User/mcp.json",
    "windsurf": ".codeium/windsurf/mcp_config.json",
    "zed": ".config/zed/settings.json",
}
KEYS = {"codex": "mcp_servers", "vscode": "servers", "zed": "context_servers"}
TYPED = {"claude-code", "vscode"}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "home", monkeypatch)


def read(machine: Machine, host: str) -> Any:
    text = (machine.home / FILES[host]).read_text()
    return tomllib.loads(text) if host == "codex" else jsonc.loads(text)


def without_programs(machine: Machine) -> None:
    (machine.bin / "claude").unlink()


def test_every_host_that_is_known_is_in_the_help_and_here(machine: Machine) -> None:
    said = machine.say("install", "--help")
    assert set(FILES) == set(hosts.NAMES)
    assert all(name in said for name in hosts.NAMES)


@pytest.mark.parametrize("host", hosts.NAMES)
def test_a_host_gets_the_entry_where_its_documentation_says_and_loses_it_again(machine: Machine, host: str) -> None:
    without_programs(machine)
    machine.set(POOL_MCP_HOME=str(machine.home / "pool"))
    said = machine.say("install", host)
    entry = {"command": SCRIPT, "args": [], "env": {"POOL_MCP_HOME": str(machine.home / "pool")}}
    wanted = {"type": "stdio", **entry} if host in TYPED else entry
    assert read(machine, host) == {KEYS.get(host, "mcpServers"): {"pool": wanted}}
    assert FILES[host] in said
    assert "nothing to do" in machine.say("install", host)
    machine.say("uninstall", host)
    assert read(machine, host) in ({KEYS.get(host, "mcpServers"): {}}, {})
    assert "nothing to do" in machine.say("uninstall", host)


def test_on_a_mac_the_graphical_hosts_are_in_application_support() -> None:
    env = {"HOME": "/Users/ann"}
    found = {name: str(hosts.find(name, env, "darwin").file) for name in ("claude-desktop", "vscode", "zed")}
    assert found == {
        "claude-desktop": "/Users/ann/Library/Application Support/Claude/claude_desktop_config.json",
        "vscode": "/Users/ann/Library/Application Support/Code/User/mcp.json",
        "zed": "/Users/ann/.config/zed/settings.json",
    }


def test_hosts_that_were_moved_by_their_own_variables_are_found_there(machine: Machine) -> None:
    env = {"HOME": "/h", "CLAUDE_CONFIG_DIR": "/c", "CODEX_HOME": "/x", "XDG_CONFIG_HOME": "/g"}
    assert [str(hosts.find(name, env, "linux").file) for name in ("claude-code", "codex", "zed")] == [
        "/c/.claude.json",
        "/x/config.toml",
        "/g/zed/settings.json",
    ]


def test_claude_code_is_told_by_its_own_command_and_reads_it_back(machine: Machine) -> None:
    machine.set(POOL_MCP_HOME=str(machine.home / "pool"))
    assert "by its own command" in machine.say("install", "claude-code")
    assert list(machine.home.glob(".claude.json.before*")) == []
    assert read_back(machine) == {"Command": SCRIPT, "Args": "", "Status": "✔ Connected"}
    assert "nothing to do" in machine.say("install", "claude-code")
    assert "by its own command" in machine.say("uninstall", "claude-code")
    assert read_back(machine) == {}


def test_without_its_command_claude_codes_file_gets_what_the_command_would_have_written(machine: Machine) -> None:
    machine.set(POOL_MCP_HOME=str(machine.home / "pool"))
    machine.say("install", "claude-code")
    by_command = read(machine, "claude-code")["mcpServers"]
    machine.say("uninstall", "claude-code")
    without_programs(machine)
    assert "own command" not in machine.say("install", "claude-code")
    assert read(machine, "claude-code")["mcpServers"] == by_command


def read_back(machine: Machine) -> dict[str, str]:
    """What Claude Code itself says of the server, which it starts to find out."""
    command = [str(machine.bin / "claude"), "mcp", "get", "pool"]
    said = subprocess.run(command, env=machine.env, capture_output=True, text=True, check=False, cwd=machine.home)
    pairs = (line.strip().partition(":") for line in said.stdout.splitlines())
    return {key: value.strip() for key, _, value in pairs if key in {"Command", "Args", "Status"}}


def test_a_host_whose_command_does_nothing_gets_its_file_edited(machine: Machine) -> None:
    (machine.bin / "code").write_text("#!/bin/sh\nexit 0\n")
    (machine.bin / "code").chmod(0o755)
    said = machine.say("install", "vscode")
    assert "own command" not in said
    assert "pool" in read(machine, "vscode")["servers"]


@pytest.mark.parametrize("host", ["codex", "zed"])
def test_other_entries_and_comments_stay_and_the_file_as_it_was_is_kept(machine: Machine, host: str) -> None:
    texts = {
        "codex": '# mine\nmodel = "x" # which\n\n[mcp_servers.other] # keep\ncommand = "y"\n\n[tui]\na = 1 # one\n',
        "zed": '// mine\n{\n  "theme": "One", // which\n  "context_servers": {\n    "o": {"command": "y",},\n  }\n}\n',
    }
    (machine.bin / "codex").write_text('#!/bin/sh\ntouch "$HOME/called"\nexit 1\n')
    (machine.bin / "codex").chmod(0o755)
    file = machine.home / FILES[host]
    file.parent.mkdir(parents=True)
    file.write_text(texts[host])
    file.chmod(0o640)
    machine.say("install", host)
    assert [line for line in texts[host].splitlines() if line not in file.read_text().splitlines()] == []
    assert file.with_name(f"{file.name}.before-pool-mcp").read_text() == texts[host]
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    machine.say("uninstall", host)
    assert file.read_text() == texts[host]
    assert not (machine.home / "called").exists()  # it would have dropped the comment behind a server of its own


def test_codex_is_told_which_variables_to_pass_on_and_keeps_those_that_it_was_told_before(machine: Machine) -> None:
    (machine.bin / "codex").write_text('#!/bin/sh\ntouch "$HOME/called"\n')
    (machine.bin / "codex").chmod(0o755)
    machine.set(WORK_KEY="k", BUILD_TOKEN="t", POOL_MCP_HOME=str(machine.home / "pool"))
    machine.say("add", "work", "--api-key-env", "WORK_KEY")
    machine.say("install", "codex")
    assert read(machine, "codex")["mcp_servers"]["pool"]["env_vars"] == ["WORK_KEY"]
    assert not (machine.home / "called").exists()  # its own command has no word for them
    assert "nothing to do" in machine.say("install", "codex")
    machine.say("add", "build", "--oauth-token-env", "BUILD_TOKEN")
    machine.say("install", "codex")
    assert read(machine, "codex")["mcp_servers"]["pool"]["env_vars"] == ["WORK_KEY", "BUILD_TOKEN"]


@pytest.mark.parametrize(
    ("host", "reference"), [("gemini", "$WORK_KEY"), ("cursor", "${env:WORK_KEY}"), ("windsurf", "${env:WORK_KEY}")]
)
def test_a_host_that_keeps_keys_back_gets_a_reference_to_each_and_never_its_value(
    machine: Machine, host: str, reference: str
) -> None:
    machine.set(WORK_KEY="sk-ant-of-nobody", BUILD_TOKEN="t", ANTHROPIC_ADMIN_KEY="a")
    machine.say("add", "work", "--api-key-env", "WORK_KEY")
    machine.say("install", host)
    admin = reference.replace("WORK_KEY", "ANTHROPIC_ADMIN_KEY")
    wanted = {"WORK_KEY": reference, "ANTHROPIC_ADMIN_KEY": admin}
    assert read(machine, host)["mcpServers"]["pool"] == {"command": SCRIPT, "args": [], "env": wanted}
    assert "nothing to do" in machine.say("install", host)
    machine.say("add", "build", "--oauth-token-env", "BUILD_TOKEN")
    machine.say("install", host)
    wanted |= {"BUILD_TOKEN": reference.replace("WORK_KEY", "BUILD_TOKEN")}
    assert read(machine, host)["mcpServers"]["pool"]["env"] == wanted


def test_a_host_that_passes_no_variable_on_has_the_person_write_the_value(machine: Machine) -> None:
    machine.set(WORK_KEY="sk-ant-of-nobody")
    machine.say("add", "work", "--api-key-env", "WORK_KEY")
    assert "write WORK_KEY into the entry's env there yourself" in machine.say("install", "claude-desktop")
    assert read(machine, "claude-desktop")["mcpServers"]["pool"] == {"command": SCRIPT, "args": []}
    assert "nothing to do" in machine.say("install", "claude-desktop")


def test_a_file_that_is_a_link_stays_one(machine: Machine) -> None:
    (machine.home / "dotfiles").mkdir()
    (machine.home / "dotfiles" / "mcp.json").write_text("{}\n")
    (machine.home / ".cursor").mkdir()
    (machine.home / ".cursor" / "mcp.json").symlink_to("../dotfiles/mcp.json")
    machine.say("install", "cursor")
    assert (machine.home / ".cursor" / "mcp.json").is_symlink()
    assert "pool" in (machine.home / "dotfiles" / "mcp.json").read_text()


@pytest.mark.parametrize("host", ["codex", "cursor"])
def test_what_the_person_added_to_our_entry_stays_when_it_is_brought_up_to_date(machine: Machine, host: str) -> None:
    before = {
        "command": "/gone/pool-mcp",
        "args": ["x"],
        "env": {"WORK_KEY": "k", "POOL_MCP_HOME": "/old"},
        "timeout": 9,
    }
    file = machine.home / FILES[host]
    file.parent.mkdir(parents=True)
    if host == "codex":
        file.write_text(
            '[mcp_servers.pool]\ncommand = "/gone/pool-mcp"\nargs = ["x"]\ntimeout = 9\n\n'
            '[mcp_servers.pool.env]\nWORK_KEY = "k"\nPOOL_MCP_HOME = "/old"\n'
        )
    else:
        file.write_text(json.dumps({"mcpServers": {"pool": before}}))
    machine.say("install", host)
    assert read(machine, host)[KEYS.get(host, "mcpServers")]["pool"] == {
        "command": SCRIPT,
        "args": [],
        "env": {"WORK_KEY": "k"},
        "timeout": 9,
    }


def test_a_dry_run_shows_the_difference_and_changes_nothing(machine: Machine) -> None:
    (machine.home / ".cursor").mkdir()
    (machine.home / ".cursor" / "mcp.json").write_text('{\n  "mcpServers": {\n    "x": {}\n  }\n}\n')
    before = machine.files()
    said = machine.say("install", "cursor", "claude-code", "--dry-run")
    assert machine.files() == before
    assert f"{machine.bin}/claude mcp add -s user pool -- {SCRIPT}" in said
    assert [line for line in said.splitlines() if line.startswith(("+ ", "- "))][:6] == [
        '-    "x": {}',
        '+    "x": {},',
        '+    "pool": {',
        f'+      "command": "{SCRIPT}",',
        '+      "args": []',
        "+    }",
    ]


def test_a_host_that_has_to_pass_on_a_key_is_said_to(machine: Machine) -> None:
    machine.write_settings('[[subscriptions]]\nid = "work"\napi_key_env = "WORK_KEY"\n')
    machine.set(WORK_KEY="sk-ant-of-nobody")
    assert "It needs WORK_KEY in its environment" in machine.say("install", "cursor")
    assert not [name for name, text in machine.files().items() if "sk-ant-of-nobody" in text]


def test_somebody_elses_server_of_that_name_is_left_alone(machine: Machine) -> None:
    (machine.home / ".cursor").mkdir()
    text = '{"mcpServers": {"pool": {"command": "swimming"}}}'
    (machine.home / ".cursor" / "mcp.json").write_text(text)
    for command in ("install", "uninstall"):
        result = machine.run(command, "cursor")
        assert isinstance(result.exception, InvalidRequest)
        assert "not pool-mcp" in result.exception.message
        assert "--name" in result.exception.message
    assert (machine.home / ".cursor" / "mcp.json").read_text() == text
    machine.say("install", "cursor", "--name", "claude-pool")
    assert sorted(read(machine, "cursor")["mcpServers"]) == ["claude-pool", "pool"]


@pytest.mark.parametrize(
    ("host", "text", "says"),
    [
        ("cursor", "{ not json", "line 1, column 3"),
        ("cursor", '{"mcpServers": []}', "mcpServers is not an object"),
        ("codex", "a = ", "Invalid value"),
        ("codex", "mcp_servers = {}\n", "mcp_servers"),
    ],
)
def test_a_file_that_cannot_be_edited_safely_is_refused_in_a_line_and_left_alone(
    machine: Machine, host: str, text: str, says: str
) -> None:
    file = machine.home / FILES[host]
    file.parent.mkdir(parents=True)
    file.write_text(text)
    result = machine.run("install", host)
    assert isinstance(result.exception, InvalidRequest)
    assert str(file) in result.exception.message
    assert says in result.exception.message
    assert "\n" not in result.exception.message
    assert file.read_text() == text
    assert list(file.parent.iterdir()) == [file]


def test_a_host_that_is_not_known_is_answered_with_those_that_are(machine: Machine) -> None:
    result = machine.run("install", "emacs")
    assert result.exit_code == 2
    assert "'claude-desktop', 'codex', 'cursor'" in result.output


def test_what_runs_from_uvs_cache_is_started_through_uvx(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.bin / "uvx").symlink_to(shutil.which("true") or "true")
    monkeypatch.setattr(sys, "executable", "/home/ann/.cache/uv/archive-v0/abc/bin/python")
    launch = hosts.launch(machine.env)
    assert launch.command == str(machine.bin / "uvx")
    assert launch.args[-1] == "pool-mcp"


def test_a_python_without_the_script_beside_it_starts_the_module(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/python/bin/python")
    assert hosts.launch(machine.env) == hosts.Launch("/opt/python/bin/python", ["-m", "pool_mcp"], {})
