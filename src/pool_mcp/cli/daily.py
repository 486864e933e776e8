"""The commands of every day: status, runs, show, cancel."""

import json
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from pool_mcp.choices import RunState
from pool_mcp.cli import run
from pool_mcp.cli.options import AS_JSON, Command
from pool_mcp.errors import PoolError

if TYPE_CHECKING:
    from pool_mcp.pool import Pool
    from pool_mcp.results.asks import AskDetails, RunsResult
    from pool_mcp.results.status import StatusResult

Look = Callable[["Pool"], Awaitable[tuple["StatusResult", "RunsResult"]]]


@click.command(cls=Command)
@click.argument("subscription", required=False)
@click.option("--caller", help="Show this caller's own budget, too.")
@click.option("--watch", is_flag=True, help="Show it again and again until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0.2), default=2.0, show_default=True, metavar="SECONDS", help="For --watch."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the whole state as JSON; with --watch, one line each time."
)
def status(subscription: str | None, caller: str | None, watch: bool, interval: float, as_json: bool) -> None:
    """Show what is spent and left, and what runs."""
    from pool_mcp.asks.history import Which

    has_caught_up = False

    async def look(pool: "Pool") -> "tuple[StatusResult, RunsResult]":
        nonlocal has_caught_up
        if not has_caught_up:
            await pool.catch_up()
            has_caught_up = True
        state = await pool.status(subscription, caller)
        return state, await pool.look(pool.history.runs, Which(subscription), limit=0)

    if watch:
        number = run.with_pool(lambda pool: _watch(pool, look, interval, as_json=as_json), as_json=as_json)
        sys.exit(0 if number == signal.SIGINT else 128 + number)
    state, runs = run.with_pool(look, as_json=as_json)
    if as_json:
        run.print_json(state)
        return
    from pool_mcp.views import status as status_view

    run.terminal.console().print(status_view.StatusView(state, runs.running))


async def _watch(pool: "Pool", look: "Look", interval: float, *, as_json: bool) -> signal.Signals:
    """Look at every interval until a signal comes, and give it: in place on a terminal, else block after block."""
    import anyio

    from pool_mcp.views import status as status_view

    out = run.terminal.console()
    show = (
        status_view.Screen(out)
        if out.is_terminal and not out.is_dumb_terminal and not as_json
        else status_view.Scroll(out)
    )
    ended_by: signal.Signals | PoolError = signal.SIGPIPE

    async def look_on() -> None:
        nonlocal ended_by
        try:
            while True:
                state, found = await look(pool)
                if as_json:
                    out.out(json.dumps(state.model_dump(mode="json"), ensure_ascii=False), highlight=False)
                else:
                    show(state, found.running)
                await anyio.sleep(interval)
        except PoolError as error:
            ended_by = error
        except (BrokenPipeError, SystemExit):  # the console makes the latter of the former
            pass
        tasks.cancel_scope.cancel()

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals, show:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look_on)
            ended_by = await anext(signals)
            tasks.cancel_scope.cancel()
    if isinstance(ended_by, PoolError):
        raise ended_by
    return ended_by


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
        from pool_mcp.views import status as status_view

        run.terminal.console().print(status_view.RunsView(found))


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
    from pool_mcp.views import status as status_view

    run.terminal.console(stderr=answer).print(status_view.ask_view(found))
    if answer:
        click.echo((found.text or "") if found.structured is None else json.dumps(found.structured, indent=2))


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
        from pool_mcp.views import status as status_view

        run.terminal.console().print(status_view.cancel_line(found, had_ended=had_ended))
    if found.attempts[-1].ended_at is None:
        sys.exit(1)


COMMANDS: tuple[click.Command, ...] = (status, runs, show, cancel)
