"""The README is true: its table is made from the tools, its commands exist, its settings load."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

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
    shown = README.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == tool_table()


def test_the_two_first_commands_are_the_demo_and_the_tests() -> None:
    assert [block.strip() for block in blocks("sh")[:2]] == ["./dev demo", "./dev test"]


@pytest.mark.parametrize("line", [line for block in blocks("sh") for line in block.splitlines() if "pool-mcp " in line])
def test_every_command_shown_exists_with_its_options(line: str) -> None:
    words = shlex.split(line, comments=True)
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
