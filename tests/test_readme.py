"""The README is true: its table is made from the tools, its commands exist, its settings load."""

import json
import os
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pool_mcp import __version__
from pool_mcp.cli.main import commands
from pool_mcp.cli.run import EXIT_CODES
from pool_mcp.errors import BY_KIND
from pool_mcp.server.tools import TOOLS
from pool_mcp.settings import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BEGIN, END = "<!-- tools: begin -->", "<!-- tools: end -->"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def tool_table() -> str:
    rows = ["| tool | what it is for | arguments |", "| --- | --- | --- |"]
    for tool in TOOLS.values():
        fields = tool.arguments.model_fields
        names = ", ".join(f"`{name}`" if field.is_required() else f"`{name}?`" for name, field in fields.items())
        rows.append(f"| `{tool.name}` | {tool.description} | {names} |")
    return "\n".join(rows)


def test_the_tool_table_is_what_the_tools_say() -> None:
    if os.environ.get("UPDATE_DOCS"):
        before, _, rest = README.partition(BEGIN)
        text = f"{before}{BEGIN}\n{tool_table()}\n{END}{rest.partition(END)[2]}"
        (ROOT / "README.md").write_text(text, encoding="utf-8")
        return
    shown = README.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == tool_table()


def test_the_two_first_commands_are_the_demo_and_the_tests() -> None:
    assert [block.strip() for block in blocks("sh")[:2]] == ["./dev demo", "./dev test"]


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if "pool-mcp " in line])
def test_every_command_shown_exists_with_its_options(line: str) -> None:
    words = shlex.split(line.rpartition(" | ")[2], comments=True)
    if words[0] != "pool-mcp":
        assert words[-1] == "pool-mcp"  # another program's command, which starts ours without arguments
        return
    command: click.Command = commands
    arguments = words[1:]
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    command.make_context("pool-mcp", arguments)  # raises on an unknown option or a missing argument


def test_the_settings_shown_load(tmp_path: Path) -> None:
    (shown,) = blocks("toml")
    (tmp_path / "pool.toml").write_text(shown)
    settings = load({"POOL_MCP_HOME": str(tmp_path)})
    assert [s.id for s in settings.subscriptions] == [one["id"] for one in tomllib.loads(shown)["subscriptions"]]


def test_every_error_kind_is_named_and_has_an_exit_code_that_is_explained() -> None:
    assert all(f"`{kind}`" in README for kind in BY_KIND)
    assert all(re.search(rf"\b{code} ", README) for code in {0, 1, *EXIT_CODES.values()})


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(commands, ["--help"]).output
    assert all(name in shown for name in commands.commands)


def test_the_blocks_of_json_are_whole_and_the_server_starts_as_they_say() -> None:
    found = [json.loads(block) for block in blocks("json")]
    (server,) = [one["mcpServers"]["pool"] for one in found if "mcpServers" in one]
    command = commands.commands[server["args"][0]]
    assert (server["command"], command.name) == ("pool-mcp", "serve")


def test_the_plugin_starts_the_same_server_and_its_version_is_the_packages() -> None:
    plugin = json.loads((ROOT / "plugin" / ".claude-plugin" / "plugin.json").read_text())
    marketplace = json.loads((ROOT / ".claude-plugin" / "marketplace.json").read_text())
    assert plugin["version"] == __version__
    assert plugin["mcpServers"] == {"pool": {"command": "pool-mcp", "args": ["serve"]}}
    assert [(one["name"], (ROOT / one["source"]).is_dir()) for one in marketplace["plugins"]] == [
        (plugin["name"], True)
    ]
