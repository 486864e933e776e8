"""The human's door: the commands, and the only place where the real clock, ids and ledger are put together.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong use, 3 nothing left for now
(limit, budget, overloaded: try later), 4 a person must act (login, billing, no CLI), 130 cancelled.
"""

import json
import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from pool_mcp import __version__
from pool_mcp.cli import daily, setup
from pool_mcp.errors import PoolError
from pool_mcp.system import places

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pool_mcp.accounting.periods import By
    from pool_mcp.pool import Pool
    from pool_mcp.results import AskResult
    from pool_mcp.usage.charts import Chart

T = TypeVar("T")

BY = ("hour", "day", "week", "month", "block", "model", "subscription", "caller", "session", "source")
"""What a report can be by; written out, so that ``--help`` does not load what makes one."""

EXIT_CODES = {
    "invalid_request": 2,
    "unknown_session": 2,
    "limit": 3,
    "budget": 3,
    "overloaded": 3,
    "auth": 4,
    "billing": 4,
    "cli_missing": 4,
    "cancelled": 130,
}


def main() -> None:
    """Run the command line; every failure is one line on stderr and an exit code."""
    try:
        sys.exit(commands.main(prog_name="pool-mcp", standalone_mode=False))
    except PoolError as error:
        _fail(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("pool-mcp: cancelled", err=True)
        sys.exit(130)


class _Usd(click.ParamType[float]):
    """An amount of dollars: a number that is one."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            amount = float(value)
        except ValueError:
            amount = math.nan
        if not 0 < amount < math.inf:
            self.fail(f"{value!r} is no amount of dollars, such as 0.50", param, ctx)
        return amount


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="pool-mcp %(version)s")
@click.pass_context
def commands(context: click.Context) -> None:
    """Ask Claude under whichever of your own subscriptions has the most room, and keep the books.

    Without a command, serves MCP on stdin and stdout: that is what a host starts.
    """
    context.obj = _now_ms
    context.meta[daily.RUN] = _run
    if context.invoked_subcommand is None:
        context.invoke(serve)


@commands.command()
def serve() -> None:
    """Serve MCP on stdin and stdout (what a host starts)."""
    if sys.stdin.isatty():
        click.echo(
            "This serves MCP to a host that starts it; to set one up: pool-mcp install claude-code\n"
            "For yourself: pool-mcp status, pool-mcp ask, pool-mcp --help. Ctrl-C ends this.",
            err=True,
        )
    _log_to_stderr(logging.INFO)
    from pool_mcp.server.handshake import Front, Replies

    _, state_dir = places.directories(os.environ)
    front = Front(Replies(state_dir / "replies.json"))
    from pool_mcp.server.server import serve as serve_behind  # half a second, in which the front answers

    serve_behind(_open_pool, front)


@commands.command()
@click.argument("prompt", required=False)
@click.option("--session", "session_id", metavar="ID", help="Go on with this session.")
@click.option("--subscription", metavar="ID", help="Use this subscription only.")
@click.option("--model", help="Alias (opus, sonnet, haiku) or full name.")
@click.option("--effort", help="low, medium, high, xhigh or max.")
@click.option("--system-prompt", help="Instead of Claude Code's own.")
@click.option("--json-schema", "schema_file", type=click.Path(exists=True, dir_okay=False), help="File with a schema.")
@click.option("--max-cost", "max_cost_usd", type=_Usd(), metavar="USD", help="Stop at this cost.")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Stop after this time.")
@click.option("--working-dir", metavar="DIR", help="Where Claude's tools work, where it has any.")
@click.option("--tool-profile", type=click.Choice(["none", "read", "full"]), help="At most what pool.toml allows.")
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
        answer = _run(work, as_json=as_json)
    if as_json:
        _print_json(answer)
    else:
        click.echo(answer.text if answer.structured is None else json.dumps(answer.structured, indent=2))
        tables.console(stderr=True).print(tables.ask_line(answer))


_FOR_EVER_S = 7 * 86_400.0


@commands.command()
@click.option("--estimated-cost", "estimated_cost_usd", type=_Usd(), metavar="USD", help="What the ask may cost.")
@click.option("--model", help="The model it is for.")
@click.option("--session", "session_id", metavar="ID", help="The session it goes on with.")
@click.option("--json", "as_json", is_flag=True, help="Print choice, reasons and environment as JSON.")
def pick(estimated_cost_usd: float | None, model: str | None, session_id: str | None, as_json: bool) -> None:
    """Show which subscription the next ask would be given, and why."""
    choice = _run(lambda pool: pool.pick(estimated_cost_usd, model, session_id), as_json=as_json)
    if as_json:
        _print_json(choice)
    else:
        from pool_mcp.views import tables

        tables.console().print(tables.pick_table(choice))
        if choice.env:
            click.echo("By hand: " + " ".join(f"{name}={value}" for name, value in choice.env.items()) + " claude")
    if choice.subscription is None:
        sys.exit(EXIT_CODES["limit"])


@commands.command()
def statusline() -> None:
    """Be Claude Code's status line: its JSON on stdin, one line out, readings kept.

    In Claude Code's settings.json: {"statusLine": {"type": "command", "command": "pool-mcp statusline"}}
    """
    from pool_mcp import statusline as line

    line.main(os.environ, _now_ms())


@commands.command("import")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def import_(as_json: bool) -> None:
    """Book what was spent outside the pool, as Claude Code's own transcripts have it.

    Servers do this by themselves every few minutes. Each API call is booked once, however often it is imported.
    """
    from pool_mcp.views import tables

    with tables.import_progress() as told:
        found = _run(lambda pool: pool.import_outside(told), as_json=as_json)
    if as_json:
        _print_json(found)
    else:
        tables.console().print(tables.import_table(found))


@commands.command()
@click.option("--by", type=click.Choice(BY), default="day", show_default=True, help="One row for each.")
@click.option("--since", metavar="WHEN", help="Date, RFC 3339, 24h, 7d, 4w, today, yesterday; default: all.")
@click.option("--until", metavar="WHEN", help="The same; a date is included.")
@click.option("--subscription", metavar="ID", help="This subscription only.")
@click.option("--caller", help="This caller only.")
@click.option("--limit", type=click.IntRange(min=1), default=400, show_default=True, help="At most so many rows.")
@click.option("--csv", "as_csv", is_flag=True, help="Print rows and total as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, as the tool gives it.")
@click.option(
    "--chart",
    metavar="[FILE]",
    is_flag=False,
    flag_value="-",
    help="Draw it: into FILE (.svg or .png), or here where none is named.",
)
def report(
    by: "By",
    since: str | None,
    until: str | None,
    subscription: str | None,
    caller: str | None,
    limit: int,
    as_csv: bool,
    as_json: bool,
    chart: str | None,
) -> None:
    """Report what was spent, by time or by name; days in your time zone."""
    from pool_mcp.accounting.periods import Only
    from pool_mcp.views import tables

    only = Only(subscription, caller)
    if chart is not None:
        picture = _run(lambda pool: pool.chart(by, since, until, only), as_json=as_json)
        if chart == "-":
            tables.console().print(tables.chart(picture))
        else:
            _write_picture(Path(chart), picture)
        return
    found = _run(lambda pool: pool.report(by, since, until, only, limit), as_json=as_json)
    if as_json:
        _print_json(found)
    elif as_csv:
        click.echo(tables.report_csv(found), nl=False)
    else:
        out = tables.console()
        out.print(tables.report_table(found))
        for line in tables.report_lines(found):
            out.print(line)


@commands.command()
@click.option("--since", metavar="WHEN", help="From this UTC day on; default: the last 30 days.")
@click.option("--until", metavar="WHEN", help="Up to this UTC day.")
@click.option("--json", "as_json", is_flag=True, help="Print what was read as JSON.")
def sync(since: str | None, until: str | None, as_json: bool) -> None:
    """Read the organisation's reports now (servers do it every hour); needs an Admin key."""
    done = _run(lambda pool: pool.organisation.sync(since, until), as_json=as_json)
    if as_json:
        _print_json(done)
        return
    from pool_mcp.views import tables

    for line in tables.sync_lines(done):
        tables.console().print(line)


@commands.command()
@click.option("--since", metavar="WHEN", help="From this UTC day on; default: the last 7 days.")
@click.option("--until", metavar="WHEN", help="Up to this UTC day.")
@click.option("--adjust", is_flag=True, help="Book the difference.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON, as the tool gives it.")
def reconcile(since: str | None, until: str | None, adjust: bool, as_json: bool) -> None:
    """Hold the API-key subscriptions' ledger against the organisation's reports; exit code 1 on a warning."""
    found = _run(lambda pool: pool.organisation.reconcile(since, until, adjust=adjust), as_json=as_json)
    if as_json:
        _print_json(found)
    else:
        from pool_mcp.views import tables

        out = tables.console()
        out.print(tables.reconcile_table(found))
        for line in tables.reconcile_lines(found):
            out.print(line)
    if found.warnings and not adjust:
        sys.exit(1)


def _write_picture(path: Path, picture: "Chart") -> None:
    from pool_mcp.errors import InvalidRequest

    if path.suffix.lower() == ".svg":
        from pool_mcp.usage.charts import svg

        content = svg(picture).encode()
    elif path.suffix.lower() == ".png":
        from pool_mcp.views.png import png

        content = png(picture)
    else:
        raise InvalidRequest(f"{path} is neither .svg nor .png; name the chart's file so.")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}.") from None
    click.echo(f"{path}: {len(content)} bytes", err=True)


@commands.command()
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="New directory for settings, ledger and log; stays. Default: one for temporary files.",
)
def demo(home: Path | None) -> None:
    """See it work: real server, real CLI, a stand-in for Anthropic; no account, no network."""
    from pool_mcp.demo.demo import run_demo

    run_demo(home)


@commands.group()
def ledger() -> None:
    """Check the ledger, or copy it while servers run."""


@ledger.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(as_json: bool) -> None:
    """Prove the sums against the entries, and tell of runs that are not settled."""
    found = _run(lambda pool: pool.check(), as_json=as_json)
    if as_json:
        _print_json(found)
    else:
        click.echo(f"{found.entries} entries, ${found.spent_usd:.6f} in all.")
        for run in found.unsettled:
            click.echo(
                f"not settled: run {run.run_id} under {run.subscription}, {run.state}, holds ${run.reserved_usd:.2f}"
            )
        for problem in found.problems:
            click.echo(f"wrong: {problem.meaning} ({problem.check}): {', '.join(problem.where)}")
        if not found.problems:
            click.echo("Every sum is what its entries say.")
    if found.problems:
        sys.exit(1)


@ledger.command()
@click.argument("file", type=click.Path(path_type=Path))
def backup(file: Path) -> None:
    """Write a consistent copy of the ledger to FILE, while servers run."""
    from pool_mcp.ledger.ledger import Ledger
    from pool_mcp.settings import load

    source = Ledger(load(dict(os.environ)).ledger_path)
    try:
        source.backup(file)
    finally:
        source.close()
    click.echo(f"{file}: {file.stat().st_size} bytes")


for _command in (*daily.COMMANDS, *setup.COMMANDS):
    commands.add_command(_command)


# Wiring


def _open_pool() -> "Pool":
    """The pool with the real settings, clock, ids and ledger."""
    from pool_mcp.ledger.ledger import Ledger
    from pool_mcp.pool import Pool
    from pool_mcp.settings import load

    env = dict(os.environ)
    settings = load(env)
    return Pool(settings, Ledger(settings.ledger_path), env, _now_ms, _new_id)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _new_id() -> str:
    return str(uuid.uuid4())


def _run(work: Callable[["Pool"], Awaitable[T]], *, as_json: bool) -> T:
    """Do one thing with an open pool; under ``--json`` a failure is JSON, too."""
    import anyio

    _log_to_stderr(logging.WARNING)

    async def inside() -> T:
        async with _open_pool().open() as pool:
            return await work(pool)

    try:
        return anyio.run(inside)
    except PoolError as error:
        if as_json:
            from pool_mcp.results import error_result

            said = error_result(error).model_dump(mode="json", exclude_none=True)
            click.echo(json.dumps({"error": said}, indent=2, ensure_ascii=False))
        raise


def _fail(error: PoolError) -> NoReturn:
    click.echo(f"pool-mcp: {error.message}", err=True)
    sys.exit(EXIT_CODES.get(error.kind, 1))


def _print_json(result: "BaseModel") -> None:
    click.echo(json.dumps(result.model_dump(mode="json"), indent=2, ensure_ascii=False))


def _read_schema(path: Path) -> dict[str, Any]:
    from pool_mcp.errors import InvalidRequest

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidRequest(f"{path} is not JSON: {error}.") from None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{path} holds no JSON object, which a schema is.")
    return schema


def _log_to_stderr(level: int) -> None:
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
