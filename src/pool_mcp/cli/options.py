"""What several commands share: options, types, the sections of ``--help``."""

import math
from collections.abc import Mapping
from typing import Any

import click

from pool_mcp.cli import run

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")

CLAUDE_FLAGS = {
    "-p": "leave it out; `pool-mcp ask` always prints and ends",
    "--print": "leave it out; `pool-mcp ask` always prints and ends",
    "-r": "use --session ID",
    "--resume": "use --session ID",
    "--output-format": "use --json for the whole result",
    "--append-system-prompt": "use --system-prompt, which replaces Claude Code's own",
    "--max-budget-usd": "use --max-cost USD",
    "--tools": "use --tool-profile",
    "--allowedTools": "use --tool-profile",
    "--allowed-tools": "use --tool-profile",
    "--permission-mode": "use --tool-profile",
    "--dangerously-skip-permissions": "pool-mcp never skips permissions; use --tool-profile",
    "--add-dir": "use --working-dir DIR",
    "--verbose": "use -v",
}
"""Flags of ``claude -p`` that people try, and what to use here."""


class Usd(click.ParamType[float]):
    """An amount of dollars: a number above zero."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or a message that shows what one looks like."""
        try:
            amount = float(value)
        except ValueError:
            amount = math.nan
        if not 0 < amount < math.inf:
            self.fail(f"{value!r} is not a dollar amount, such as 0.50", param, ctx)
        return amount


def _common() -> list[click.Parameter]:
    """The options that every command takes, before or after its name."""

    def verbose(_context: click.Context, _parameter: click.Parameter, count: int) -> None:
        run.terminal.verbosity += count

    def quiet(_context: click.Context, _parameter: click.Parameter, is_quiet: bool) -> None:
        run.terminal.quiet |= is_quiet

    def color(_context: click.Context, _parameter: click.Parameter, when: str | None) -> None:
        run.terminal.color = when or run.terminal.color

    return [
        click.Option(["-v"], count=True, expose_value=False, callback=verbose, help="Log more to stderr (-vv: all)."),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=quiet,
            help="Print results and errors only.",
        ),
        click.Option(
            ["--color"],
            type=click.Choice(["auto", "always", "never"]),
            expose_value=False,
            callback=color,
            help="Color the output; auto: on a terminal, unless NO_COLOR is set.",
        ),
    ]


class Command(click.Command):
    """A command with the common options, and a hint where somebody types a flag of ``claude -p``."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.params += _common()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click, but for the hint."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if self.name == "ask" and (hint := CLAUDE_FLAGS.get(error.option_name)):
                raise click.UsageError(f"{error.option_name} is a flag of `claude`; here {hint}.", ctx) from None
            raise


class Group(click.Group):
    """Commands under headings, and after them examples, exit codes and environment variables."""

    command_class = Command

    def __init__(self, *arguments: Any, sections: Mapping[str, list[str]] | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.params += _common()
        self._sections = sections

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click; a new command line begins with nothing said."""
        if ctx.parent is None:
            run.terminal = run.Terminal()
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by section, each with its first sentence."""
        if self._sections is None:
            super().format_commands(ctx, formatter)
            return
        for title, names in self._sections.items():
            rows = [(name, self.commands[name].get_short_help_str(formatter.width)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows, col_max=20)
