"""The commands of every day: status, runs, show, cancel."""

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pool_mcp.choices import RunState
from pool_mcp.cli import run, watching
from pool_mcp.cli.options import AS_JSON, Command

if TYPE_CHECKING:
    from pool_mcp.pool import Pool
    from pool_mcp.results.asks import AskDetails
    from pool_mcp.views.status import Seen


@click.command(cls=Command)
@click.argument("subscription", required=False)
@click.option("--caller", help="Show this caller's own budget, too.")
@click.option("--watch", is_flag=True, help="Show it live until q or Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0.2), default=2.0, show_default=True, metavar="SECONDS", help="For --watch."
)
@click.option("--svg", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Write it as a picture.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the whole state as JSON; with --watch, one line each time."
)
def status(
    subscription: str | None,
    caller: str | None,
    watch: bool,
    interval: float,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Show what is spent and left, and what runs.

    Money is in dollars at list price, which a flat plan does not bill; percentages are Anthropic's. A pace above 1x
    uses a window up before it resets.
    """
    from pool_mcp.accounting.periods import Only
    from pool_mcp.asks.history import Which
    from pool_mcp.views.status import Seen, StatusView

    has_caught_up = False

    async def look(pool: "Pool") -> "Seen":
        nonlocal has_caught_up
        if not has_caught_up:
            await pool.catch_up()
            has_caught_up = True
        state = await pool.status(subscription, caller)
        runs = await pool.look(pool.history.runs, Which(subscription), limit=0)
        return Seen(state, runs.running, await pool.look(pool.figures.activity, Only(subscription)))

    if watch:
        number = run.with_pool(lambda pool: watching.watch(pool, look, interval, as_json=as_json), as_json=as_json)
        sys.exit(0 if number == signal.SIGINT else 128 + number)
    seen = run.with_pool(look, as_json=as_json)
    if as_json:
        run.print_json(seen.status)
        return
    from pool_mcp.views import tables

    view = StatusView(seen)
    if picture is not None:
        tables.save_picture(view, "pool-mcp status", picture)
        click.echo(f"{picture}: {picture.stat().st_size} bytes", err=True)
    else:
        run.terminal.console().print(view)


@click.command(cls=Command)
@click.option("--subscription", metavar="ID", help="Of this subscription only.")
@click.option("--caller", help="Of this caller only.")
@click.option(
    "--state",
    type=click.Choice([state.value for state in RunState]),
    help="In this state only.",
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many that ended."
)
@AS_JSON
def runs(subscription: str | None, caller: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List what runs now and what ran last, with its cost."""
    from pool_mcp.asks.history import Which

    which = Which(subscription, caller, RunState(state) if state else None)
    found = run.with_pool(lambda pool: pool.look(pool.history.runs, which, limit), as_json=as_json)
    if as_json:
        run.print_json(found)
    else:
        from pool_mcp.views.runs import RunsView

        run.terminal.console().print(RunsView(found))


@click.command(cls=Command)
@click.argument("run_id", metavar="RUN")
@click.option("--answer", is_flag=True, help="The answer's text, too; of one that runs, what there is of it.")
@AS_JSON
def show(run_id: str, answer: bool, as_json: bool) -> None:
    """Show one ask with its attempts.

    RUN is the id of a run or an ask, or the beginning of one.
    """
    found = run.with_pool(lambda pool: pool.look(pool.history.ask, run_id, with_answer=answer), as_json=as_json)
    if as_json:
        run.print_json(found)
        return
    from pool_mcp.views.runs import ask_view

    run.terminal.console(stderr=answer).print(ask_view(found))
    if answer:
        run.print_data((found.text or "") if found.structured is None else json.dumps(found.structured, indent=2))


@click.command(cls=Command)
@click.argument("run_id", metavar="RUN")
@AS_JSON
def cancel(run_id: str, as_json: bool) -> None:
    """Stop a run, in whatever process, and say what it cost."""

    async def stop(pool: "Pool") -> "tuple[AskDetails, bool]":
        before = await pool.look(pool.history.ask, run_id)
        latest = before.attempts[-1]
        await pool.supervision.cancel(latest.run_id)
        return await pool.look(pool.history.ask, latest.run_id), latest.ended_at is not None

    found, had_ended = run.with_pool(stop, as_json=as_json)
    if as_json:
        run.print_json(found)
    else:
        from pool_mcp.views.runs import cancel_line

        run.terminal.console().print(cancel_line(found, had_ended=had_ended))
    if found.attempts[-1].ended_at is None:
        sys.exit(1)


COMMANDS: tuple[click.Command, ...] = (status, runs, show, cancel)
