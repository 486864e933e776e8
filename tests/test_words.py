"""What people and agents read is in plain words and American spelling: help, documents, tools, messages."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pool_mcp.cli.main import commands
from pool_mcp.server.tools import INSTRUCTIONS, TOOLS

ROOT = Path(__file__).parent.parent

RETIRED = {
    r"hold(s|ing)? .{0,60}\bagainst\b": "compares … with",
    r"held against": "compared with",
    r"\bdearest\b": "the most expensive",
    r"\bmend(s|ed)?\b": "fix",
    r"\banew\b": "again",
    r"\beras?\b": "protocol version",
    r"\bgenerations?\b": "CLI version",
    r"\bout of the choice\b": "excluded",
    r"\bis no (amount|dollar)": "is not a dollar amount",
    r"\bkeeps? (the|its) books\b": "records what was spent",
    r"\b(dis)?colour": "color",
    r"\bbehaviour": "behavior",
    r"\borganisation": "organization",
    r"\blicence\b": "license",
    r"\bsummaris": "summariz",
    r"\ba tick\b": "a check mark",
}
"""What is not said, as a pattern, and what is said instead."""


def retired(text: str) -> list[str]:
    """Retired words in a text; what stands in code is a name and may be one of a contract."""
    prose = re.sub(r"```.*?```|`[^`]*`|\(docs/[^)]*\)|https?:\S+", "", text, flags=re.DOTALL)
    prose = " ".join(prose.split())
    return [
        f"{found[0]!r}: say {better!r}"
        for word, better in RETIRED.items()
        for found in re.finditer(word, prose, re.IGNORECASE)
    ]


def every_command(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from every_command(command)


@pytest.mark.parametrize(
    "document",
    [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda one: one.name,
)
def test_the_documents_are_in_plain_words(document: Path) -> None:
    assert retired(document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("command", [commands, *every_command(commands)], ids=lambda one: one.name)
def test_the_help_is_in_plain_words(command: click.Command) -> None:
    assert retired(command.get_help(click.Context(command, help_option_names=["-h", "--help"]))) == []


def test_the_tools_are_described_in_plain_words() -> None:
    assert [
        found for text in (INSTRUCTIONS, *(tool.description for tool in TOOLS.values())) for found in retired(text)
    ] == []


def test_what_a_registry_shows_is_in_plain_words() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = [(ROOT / name).read_text(encoding="utf-8") for name in ("manifest.json", "server.json")]
    assert [found for text in (*shown, project["description"]) for found in retired(text)] == []


_SQL = re.compile(r"\b(SELECT|FROM|INSERT|DELETE|ALTER|CREATE)\b")


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """Every piece of text in a module that is no docstring and has more than one word: what may be printed."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    unread = docstrings | {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in unread)
    for node in texts:
        if isinstance(node.value, str) and " " in node.value.strip() and not _SQL.search(node.value):
            yield node.lineno, node.value


def test_messages_are_in_plain_words() -> None:
    found = {
        f"{file.relative_to(ROOT)}:{line}: {problem}"
        for file in sorted((ROOT / "src").rglob("*.py"))
        for line, text in messages(file)
        for problem in retired(text)
    }
    assert sorted(found) == []
