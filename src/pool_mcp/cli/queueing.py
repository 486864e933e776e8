"""What waits: queue (list, move, cancel), and the worker that answers it where no host is open."""

import json
import signal
import sys
from typing import TYPE_CHECKING

import click

from pool_mcp.cli import run
from pool_mcp.cli.options import AS_JSON, Group

if TYPE_CHECKING:
    from pool_mcp.pool import Pool
    from pool_mcp.results.asks import QueueResult


@click.group(cls=Group, invoke_without_command=True)
@AS_JSON
@click.pass_context
def queue(context: click.Context, as_json: bool) -> None:
    """List the asks that wait for their turn or for room; move or cancel them."""
    if context.invoked_subcommand is None:
        _show(run.with_pool(lambda pool: pool.look(pool.queue.shown), as_json=as_json), as_json=as_json)


@queue.command()
@click.argument("run_id", metavar="RUN")
@click.argument("position", type=click.IntRange(min=1))
@AS_JSON
def move(run_id: str, position: int, as_json: bool) -> None:
    """Put an ask that waits at POSITION; 1 is the next one.

    It takes on the urgency of the one that was there. RUN is an id or the beginning of one.
    """

    async def work(pool: "Pool") -> "QueueResult":
        found = await pool.look(pool.history.find, run_id)
        await pool.look(pool.queue.move, found, position)
        pool.driver.wake_others()
        return await pool.look(pool.queue.shown)

    _show(run.with_pool(work, as_json=as_json), as_json=as_json)


@queue.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@AS_JSON
def cancel(run_ids: tuple[str, ...], as_json: bool) -> None:
    """Take asks out of the queue; they have cost nothing. RUN is an id or the beginning of one."""

    async def work(pool: "Pool") -> tuple[list[str], list[str]]:
        found = [await pool.look(pool.history.find, run_id) for run_id in run_ids]
        cancelled = await pool.supervision.cancel_waiting(found)
        pool.driver.wake_others()
        return list(cancelled), [one for one in found if one not in cancelled]

    cancelled, late = run.with_pool(work, as_json=as_json)
    if as_json:
        run.print_data(json.dumps({"cancelled": cancelled, "not_waiting": late}))
    for run_id in late:
        click.echo(f"pool-mcp: {run_id} waits no more; stop it with: pool-mcp cancel {run_id}", err=True)
    if late:
        sys.exit(1)


def _show(found: "QueueResult", *, as_json: bool) -> None:
    if as_json:
        run.print_json(found)
        return
    from pool_mcp.views.runs import QueueView

    run.terminal.console().print(QueueView(found))


@click.group(cls=Group, invoke_without_command=True)
@click.option("--until-empty", is_flag=True, help="End once nothing waits or runs any more.")
@click.pass_context
def worker(context: click.Context, until_empty: bool) -> None:
    """Answer the asks that wait, where no host is open; Ctrl-C or SIGTERM ends it at once, and nothing is lost."""
    if context.invoked_subcommand is not None:
        return
    number = run.with_pool(lambda pool: _work(pool, until_empty=until_empty))
    if number is not None:
        sys.exit(0 if number == signal.SIGTERM else 128 + number)


async def _work(pool: "Pool", *, until_empty: bool) -> signal.Signals | None:
    """Serve the queue until a signal comes, or until nothing is left."""
    import anyio

    ended_by: signal.Signals | None = None
    pool.driver.wake()
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as tasks:

            async def until_signal() -> None:
                nonlocal ended_by
                ended_by = await anext(signals)
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_signal)
            if until_empty:
                await pool.supervision.until_all_have_ended()
            else:
                await anyio.sleep_forever()
            tasks.cancel_scope.cancel()
    return ended_by


COMMANDS: tuple[click.Command, ...] = (queue, worker)
