"""Asking: ask, pick, exec."""

import json
import os
import select
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pool_mcp.choices import EFFORTS, TOOL_PROFILES, URGENCIES
from pool_mcp.cli import run
from pool_mcp.cli.options import Command, Usd

if TYPE_CHECKING:
    from pool_mcp.pool import Pool
    from pool_mcp.results.asks import AskResult

_FOR_EVER_S = 7 * 86_400.0
_PIPE_S = 3.0
"""After this long without any input a person hears what is waited for."""


@click.command(cls=Command)
@click.argument("prompt", nargs=-1)
@click.option("-c", "--continue", "go_on", is_flag=True, help="Go on with this caller's last conversation.")
@click.option("--session", metavar="ID", help="Go on with this session: its id, a run's, or the beginning of one.")
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Add a text file.",
)
@click.option("--subscription", metavar="ID", help="Use this subscription only.")
@click.option("--model", help="Alias (opus, sonnet, haiku) or full name.")
@click.option("--effort", type=click.Choice(EFFORTS), help="How hard Claude should think.")
@click.option("--system-prompt", help="Instead of Claude Code's own.")
@click.option("--json-schema", "schema_file", type=click.Path(exists=True, dir_okay=False), help="File with a schema.")
@click.option("--max-cost", "max_cost_usd", type=Usd(), metavar="USD", help="Stop at this cost, at list price.")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Stop after this time. [default: 1800]")
@click.option("--working-dir", metavar="DIR", help="Where Claude's tools work, where it has any.")
@click.option("--tool-profile", type=click.Choice(TOOL_PROFILES), help="At most what pool.toml allows.")
@click.option("--when-room", is_flag=True, help="Where windows or budgets are used up, wait until they open.")
@click.option("--no-wait", is_flag=True, help="Do not even wait for asks that run now.")
@click.option("--not-before", metavar="WHEN", help="A date and time, or 30m, 8h, 2d from now.")
@click.option("--give-up-at", metavar="WHEN", help="Wait until then at most; the same forms.")
@click.option("--urgency", type=click.Choice(URGENCIES), default="normal", help="Who goes first of those that wait.")
@click.option("--background", is_flag=True, help="Print the run's id and end; whatever server is open answers it.")
@click.option("--caller", default="command line", show_default=True, help="Who asks, for budgets and reports.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as one JSON object, at the end.")
def ask(
    prompt: tuple[str, ...],
    files: tuple[str, ...],
    max_cost_usd: float | None,
    schema_file: str | None,
    as_json: bool,
    session: str | None,
    go_on: bool,
    when_room: bool,
    no_wait: bool,
    not_before: str | None,
    give_up_at: str | None,
    **options: Any,
) -> None:
    """Ask Claude, and print the answer as it is written.

    The prompt is PROMPT, then the files, then what is piped in: git diff | pool-mcp ask "Review this."
    """
    from pool_mcp.model import Ask, nanousd
    from pool_mcp.views import tables
    from pool_mcp.views.answers import Answer

    if go_on and session is not None:
        raise click.UsageError("--continue and --session are two ways to say which conversation; use one.")
    if when_room and no_wait:
        raise click.UsageError("--when-room and --no-wait cannot both be meant; use one.")
    if options["working_dir"] is not None:
        options["working_dir"] = str(Path(options["working_dir"]).absolute())
    question = Ask(
        prompt=_prompt(prompt, files),
        max_cost_nanousd=None if max_cost_usd is None else nanousd(max_cost_usd),
        json_schema=None if schema_file is None else _read_schema(Path(schema_file)),
        from_terminal=True,
        wait_for="room" if when_room else "none" if no_wait else None,
        **options,
    )
    is_plain_text = not as_json and schema_file is None
    out, about = run.terminal.console(), run.terminal.console(stderr=True)
    shown = Answer(out, about, is_quiet=run.terminal.quiet)

    async def work(pool: "Pool") -> "AskResult":
        begins_ms, ends_ms = pool.when("--not-before", not_before), pool.when("--give-up-at", give_up_at)
        ask = replace(question, not_before_ms=begins_ms, give_up_at_ms=ends_ms)
        if go_on:
            ask = replace(ask, session_id=await pool.look(pool.history.latest_session, question.caller))
        elif session is not None:
            ask = replace(ask, session_id=await pool.look(pool.history.session, session))
        answer = await pool.ask(ask, shown.progress, wait_s=_FOR_EVER_S, on_text=shown.add if is_plain_text else None)
        pages = [answer.text]
        while (offset := answer.next_offset) is not None:
            answer = await pool.result(answer.run_id, offset=offset)
            pages.append(answer.text)
        return answer.model_copy(update={"text": "".join(pages), "next_offset": None})

    with shown:
        answer = run.with_pool(work, as_json=as_json)
    if as_json:
        run.print_json(answer)
    elif answer.status != "completed":
        click.echo(answer.run_id)
        return
    elif answer.structured is not None:
        run.print_data(json.dumps(answer.structured, indent=2, ensure_ascii=False))
    else:
        shown.finish(answer.text)
    if not as_json and not run.terminal.quiet:
        about.print(tables.ask_line(answer))


def _prompt(words: tuple[str, ...], files: tuple[str, ...]) -> str:
    """The words, the files and standard input, in this order; ``-`` among the words asks for the last."""
    text = " ".join(word for word in words if word != "-")
    parts = [text] if text else []
    for name in files:
        try:
            parts.append(f'<file path="{name}">\n{Path(name).read_text(encoding="utf-8")}\n</file>')
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"{name} cannot be read as text: {error}", param_hint="--file") from None
    if "-" in words or not sys.stdin.isatty():
        parts.append(_piped())
    elif not parts:
        raise click.UsageError('Ask what? pool-mcp ask "your question", or pipe it in.')
    return "\n\n".join(part for part in parts if part)


def _piped() -> str:
    """All of standard input; whoever waits for it without knowing is told."""
    try:
        if not sys.stdin.isatty() and not select.select([sys.stdin], [], [], _PIPE_S)[0]:
            click.echo("pool-mcp: reading standard input; end it, or ask with < /dev/null", err=True)
    except (OSError, ValueError):
        pass  # a file, or a test's: there is nothing to wait for
    return sys.stdin.read().strip("\n")


@click.command(cls=Command)
@click.option("--estimated-cost", "estimated_cost_usd", type=Usd(), metavar="USD", help="What the ask may cost.")
@click.option("--model", help="The model it is for.")
@click.option("--session", "session_id", metavar="ID", help="The session it goes on with.")
@click.option("--json", "as_json", is_flag=True, help="Print choice, reasons and environment as JSON.")
def pick(estimated_cost_usd: float | None, model: str | None, session_id: str | None, as_json: bool) -> None:
    """Show which subscription the next ask would be given, and why."""
    choice = run.with_pool(lambda pool: pool.pick(estimated_cost_usd, model, session_id), as_json=as_json)
    if as_json:
        run.print_json(choice)
    else:
        from pool_mcp.views import tables

        run.terminal.console().print(tables.pick_table(choice, run.now_ms()))
        if choice.env:
            click.echo(
                "By hand: " + " ".join(f"{name}={_quoted(value)}" for name, value in choice.env.items()) + " claude"
            )
    if choice.subscription is None:
        sys.exit(run.EXIT_CODES["auth" if choice.next_available_at is None else "limit"])


def _quoted(value: str) -> str:
    """A value as a shell takes it; ``$NAME`` stays one that the shell fills in."""
    return f'"{value}"' if value.startswith("$") else shlex.quote(value)


@click.command("exec", cls=Command, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--subscription", metavar="ID", help="This one, whatever the pool would choose.")
@click.option("--model", help="The model it is for.")
@click.option("--json", "as_json", is_flag=True, help="Say on stderr as JSON which one it is, and why.")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND [ARG]...")
def execute(subscription: str | None, model: str | None, as_json: bool, command: tuple[str, ...]) -> None:
    """Run a command, such as claude, by hand under the best subscription.

    The command takes this one's place, in an environment with that subscription's login and no other.
    """
    from pool_mcp.claude.find import find_cli
    from pool_mcp.claude.process import become
    from pool_mcp.errors import LimitReached, NeedsLogin
    from pool_mcp.settings import load
    from pool_mcp.views.times import localized

    async def choose(pool: "Pool") -> tuple[str, str, dict[str, str]]:
        choice = await pool.pick(model=model)
        if subscription is not None:
            env = pool.by_hand(subscription)
            reasons = next("; ".join(one.reasons) for one in choice.candidates if one.id == subscription)
            return subscription, f"as you say ({reasons})", env
        if choice.subscription is None:
            kind = NeedsLogin if choice.next_available_at is None else LimitReached
            raise kind(f"None can serve now: {choice.reason}. Name one with --subscription to use it anyway.")
        return choice.subscription, choice.reason, choice.env

    chosen, why, env = run.with_pool(choose, as_json=as_json)
    said = json.dumps({"subscription": chosen, "reason": why}, ensure_ascii=False)
    click.echo(said if as_json else f"pool-mcp: under {chosen}: {localized(why, run.now_ms())}", err=True)
    program, *arguments = command
    if program == "claude":
        program = str(find_cli(load(dict(os.environ)).claude.path, os.environ))
    try:
        become([program, *arguments], os.environ, env)
    except FileNotFoundError:
        click.echo(f"pool-mcp: {program}: not found", err=True)
        sys.exit(127)
    except OSError as error:
        click.echo(f"pool-mcp: {program}: {error.strerror}", err=True)
        sys.exit(126)


def _read_schema(path: Path) -> dict[str, Any]:
    from pool_mcp.errors import InvalidRequest

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidRequest(f"{path} is not JSON: {error}.") from None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{path} holds no JSON object, which a schema is.")
    return schema


COMMANDS: tuple[click.Command, ...] = (ask, pick, execute)
