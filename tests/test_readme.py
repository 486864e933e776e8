"""The README is true: it names the tools, its settings load, its links lead where they say."""

import json
import re
import tomllib
from pathlib import Path

import click
from click.testing import CliRunner

from pool_mcp import __version__
from pool_mcp.cli.main import SECTIONS, commands
from pool_mcp.cli.run import EXIT_CODES
from pool_mcp.errors import BY_KIND
from pool_mcp.server.tools import TOOLS
from pool_mcp.settings import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_tool_is_named() -> None:
    assert all(f"`{name}`" in README for name in TOOLS)


def test_the_two_first_commands_are_the_demo_and_the_tests() -> None:
    assert [block.strip() for block in blocks("sh")[:2]] == ["./dev demo", "./dev test"]


def test_the_settings_shown_load(tmp_path: Path) -> None:
    (shown,) = blocks("toml")
    (tmp_path / "pool.toml").write_text(shown)
    settings = load({"POOL_MCP_HOME": str(tmp_path)})
    assert [s.id for s in settings.subscriptions] == [one["id"] for one in tomllib.loads(shown)["subscriptions"]]


def test_every_error_kind_is_named_and_has_an_exit_code_that_is_explained() -> None:
    assert all(f"`{kind}`" in README for kind in BY_KIND)
    assert all(re.search(rf"\b{code} ", README) for code in {0, 1, *EXIT_CODES.values()})


SAYS_SOMETHING_ELSE = {"serve", "statusline", "metrics", "completion", "demo"}
"""They speak a protocol, a format of others, or tell a story."""


def test_every_command_that_says_anything_can_say_it_as_json() -> None:
    def without(group: click.Group, prefix: str = "") -> list[str]:
        found = []
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                found += without(command, f"{prefix}{name} ")
            elif not any("--json" in one.opts for one in command.params):
                found.append(prefix + name)
        return found

    assert set(without(commands)) == SAYS_SOMETHING_ELSE


def test_every_command_has_a_place_in_the_help() -> None:
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(commands.commands)


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
