"""Asking: ask, pick, exec."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pool_mcp.choices import EFFORTS, TOOL_PROFILES
from pool_mcp.cli import run
from pool_mcp.cli.options import Usd

if TYPE_CHECKING:
    from pool_mcp.pool import Pool
    from pool_mcp.results.asks import AskResult

_FOR_EVER_S = 7 * 86_400.0


@click.command()
@click.argument("prompt", required=False)
@click.option("--session", "session_id", metavar="ID", help="Go on with this session.")
@click.option("--subscription", metavar="ID", help="Use this subscription only.")
@click.option("--model", help="Alias (opus, sonnet, haiku) or full name.")
@click.option("--effort", type=click.Choice(EFFORTS), help="How hard Claude should think.")
@click.option("--system-prompt", help="Instead of Claude Code's own.")
@click.option("--json-schema", "schema_file", type=click.Path(exists=True, dir_okay=False), help="File with a schema.")
@click.option("--max-cost", "max_cost_usd", type=Usd(), metavar="USD", help="Stop at this cost.")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Stop after this time.")
@click.option("--working-dir", metavar="DIR", help="Where Claude's tools work, where it has any.")
@click.option("--tool-profile", type=click.Choice(TOOL_PROFILES), help="At most what pool.toml allows.")
@click.option("--caller", default="command line", show_default=True, help="Who asks, for budgets and reports.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON.")
def ask(prompt: str | None, max_cost_usd: float | None, schema_file: str | None, as_json: bool, **options: Any) -> None:
    """Ask Claude; PROMPT, or standard input where it is left out or "-"."""
    from pool_mcp.model import Ask, nanousd
    from pool_mcp.views import tables

    text = sys.stdin.read() if prompt in (None, "-") else prompt
    schema = None if schema_file is None else _read_schema(Path(schema_file))
    if options["working_dir"] is not None:
        options["working_dir"] = str(Path(options["working_dir"]).absolute())
    question = Ask(
        prompt=text or "",
        max_cost_nanousd=None if max_cost_usd is None else nanousd(max_cost_usd),
        json_schema=schema,
        **options,
    )
    waiting = tables.console(stderr=True).status("starting the CLI")

    async def progress(elapsed_s: float, message: str) -> None:
        waiting.update(f"{message} ({elapsed_s:.0f} s)")

    async def work(pool: "Pool") -> "AskResult":
        answer = await pool.ask(question, progress, wait_s=_FOR_EVER_S)
        pages = [answer.text]
        while (offset := answer.next_offset) is not None:
            answer = await pool.result(answer.run_id, offset=offset)
            pages.append(answer.text)
        return answer.model_copy(update={"text": "".join(pages), "next_offset": None})

    with waiting:
        answer = run.with_pool(work, as_json=as_json)
    if as_json:
        run.print_json(answer)
    else:
        click.echo(answer.text if answer.structured is None else json.dumps(answer.structured, indent=2))
        tables.console(stderr=True).print(tables.ask_line(answer))


@click.command()
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

        tables.console().print(tables.pick_table(choice))
        if choice.env:
            click.echo("By hand: " + " ".join(f"{name}={value}" for name, value in choice.env.items()) + " claude")
    if choice.subscription is None:
        sys.exit(run.EXIT_CODES["limit"])


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--subscription", metavar="ID", help="This one, whatever the pool would choose.")
@click.option("--model", help="The model it is for.")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND [ARG]...")
def execute(subscription: str | None, model: str | None, command: tuple[str, ...]) -> None:
    """Run a command, such as claude, by hand under the best subscription.

    The command takes this one's place, in an environment with that subscription's login and no other.
    """
    from pool_mcp.claude.find import find_cli
    from pool_mcp.claude.process import become
    from pool_mcp.errors import LimitReached
    from pool_mcp.settings import load

    async def choose(pool: "Pool") -> tuple[str, str, dict[str, str]]:
        choice = await pool.pick(model=model)
        if subscription is not None:
            env = pool.by_hand(subscription)
            reasons = next("; ".join(one.reasons) for one in choice.candidates if one.id == subscription)
            return subscription, f"as you say ({reasons})", env
        if choice.subscription is None:
            raise LimitReached(f"None can serve now: {choice.reason}. Name one with --subscription to use it anyway.")
        return choice.subscription, choice.reason, choice.env

    chosen, why, env = run.with_pool(choose)
    click.echo(f"pool-mcp: under {chosen}: {why}", err=True)
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
