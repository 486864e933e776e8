"""Writes docs/commands.md and the man page from the command line's own parser: ``./dev run python docs/manual.py``."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from pool_mcp import __version__
from pool_mcp.cli.main import EPILOG, SECTIONS, commands

ROOT = Path(__file__).parents[1]
COMMON = ("-v", "-q", "--color", "-h", "--help", "--version")
"""Options that every command takes; they are explained once."""


def main() -> None:
    """Write both files."""
    for file, text in texts().items():
        file.write_text(text, encoding="utf-8")


def texts() -> dict[Path, str]:
    """Both files as they must be."""
    return {ROOT / "docs" / "commands.md": document(), ROOT / "src" / "pool_mcp" / "cli" / "pool-mcp.1": page()}


def walk(group: click.Group, prefix: str, names: list[str]) -> Iterator[tuple[str, click.Command]]:
    """Every command by its whole name, those of a group right after it."""
    for name in names:
        command = group.commands[name]
        yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from walk(command, f"{prefix} {name}", list(command.commands))


def _context(command: click.Command) -> click.Context:
    """As the program makes it: a command keeps the names of its help option from the first context that it had."""
    return click.Context(command, help_option_names=["-h", "--help"])


def usage(name: str, command: click.Command) -> str:
    """One line: the command with its arguments."""
    return " ".join([name, *command.collect_usage_pieces(_context(command))])


def options(command: click.Command, *, common: bool = False) -> list[tuple[str, str]]:
    """Every option with what it does; without the common ones, or those alone."""
    context = _context(command)
    records = [one.get_help_record(context) for one in command.get_params(context) if isinstance(one, click.Option)]
    return [(name, text) for name, text in filter(None, records) if (name.split()[0].strip(",") in COMMON) is common]


def paragraphs(text: str | None) -> list[tuple[str, bool]]:
    """A help text's paragraphs, and whether each is to be left as it is laid out."""
    parts = inspect.cleandoc(text or "").replace("\b\n", "\b").split("\n\n")
    return [(part.strip("\b"), True) if part.startswith("\b") else (" ".join(part.split()), False) for part in parts]


def document() -> str:
    """``docs/commands.md``."""
    lines = ["# Commands", "Made from the program's own help. `man pool-mcp` shows the same."]
    lines += [_markdown(paragraphs(commands.help)), _markdown(paragraphs(EPILOG))]
    lines += ["## Options of every command", _table(options(commands, common=True))]
    for title, names in SECTIONS.items():
        lines.append(f"## {title}")
        for name, command in walk(commands, "pool-mcp", names):
            lines += [f"### {name}", f"```text\n{usage(name, command)}\n```", _markdown(paragraphs(command.help))]
            if own := options(command):
                lines.append(_table(own))
    return "\n\n".join(lines) + "\n"


def _markdown(parts: list[tuple[str, bool]]) -> str:
    return "\n\n".join(f"```text\n{text}\n```" if is_laid_out else _escaped(text) for text, is_laid_out in parts)


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| option | meaning |", "| --- | --- |", *(f"| `{_cell(a)}` | {_escaped(b)} |" for a, b in rows)])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    return _cell(text).replace("[", "\\[").replace("<", "&lt;")


def page() -> str:
    """``src/pool_mcp/cli/pool-mcp.1``: all commands on one page."""
    short = "ask Claude under whichever of your own subscriptions has the most room"
    lines = [
        f'.TH POOL\\-MCP 1 "" "pool\\-mcp {__version__}" "User Commands"',
        *(".SH NAME", f"pool\\-mcp \\- {short}", ".SH SYNOPSIS", ".B pool\\-mcp", "[OPTIONS] COMMAND [ARGS]..."),
        *(".SH DESCRIPTION", *_roff(paragraphs(commands.help)), ".SH OPTIONS OF EVERY COMMAND"),
        *_items(options(commands, common=True)),
    ]
    for title, names in SECTIONS.items():
        lines.append(f".SH {title.upper()}")
        for name, command in walk(commands, "pool-mcp", names):
            lines += [
                f".SS {_plain(usage(name, command))}",
                *_roff(paragraphs(command.help)),
                *_items(options(command)),
            ]
    return "\n".join([*lines, ".SH MORE", *_roff(paragraphs(EPILOG))]) + "\n"


def _roff(parts: list[tuple[str, bool]]) -> list[str]:
    lines: list[str] = []
    for text, is_laid_out in parts:
        lines += [".PP", *((".nf", *map(_plain, text.splitlines()), ".fi") if is_laid_out else (_plain(text),))]
    return lines


def _items(rows: list[tuple[str, str]]) -> list[str]:
    return [line for name, text in rows for line in (".TP", f".B {_plain(name)}", _plain(text))]


def _plain(text: str) -> str:
    """A line of text in roff; one that begins with a dot or a quote is not taken for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text[:1] in (".", "'") else text


if __name__ == "__main__":
    main()
