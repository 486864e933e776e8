"""The commands of every day: status, runs, show, cancel, exec."""

import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import click
from click.decorators import pass_meta_key

from pool_mcp.errors import PoolError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pool_mcp.pool import Pool
    from pool_mcp.results import RunsResult, StatusResult

T = TypeVar("T")

RUN = "pool_mcp.run"
"""Under this key of the command line's context is what does one thing with an open pool."""


Look = Callable[["Pool"], Awaitable[tuple["StatusResult", "RunsResult"]]]


class Run(Protocol):
    """Does one thing with an open pool; under ``as_json`` a failure is JSON, too."""

    def __call__(self, work: "Callable[[Pool], Awaitable[T]]", *, as_json: bool) -> T:
        """The result of ``work``."""


_pass_run = pass_meta_key(RUN, doc_description="what opens the pool")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


@click.command()
@click.argument("subscription", required=False)
@click.option("--caller", help="Show this caller's own budget, too.")
@click.option("--watch", is_flag=True, help="Show it again and again until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0.2), default=2.0, show_default=True, metavar="SECONDS", help="For --watch."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the whole state as JSON; with --watch, one line each time."
)
@_pass_run
def status(run: Run, subscription: str | None, caller: str | None, watch: bool, interval: float, as_json: bool) -> None:
    """Show what is spent and left, of all subscriptions or of one, and what runs."""
    from pool_mcp.asks.history import Which

    async def look(pool: "Pool") -> "tuple[StatusResult, RunsResult]":
        return await pool.status(subscription, caller), await pool.runs(Which(subscription), limit=0)

    if watch:
        number = run(lambda pool: _watch(pool, look, interval, as_json=as_json), as_json=as_json)
        sys.exit(0 if number == signal.SIGINT else 128 + number)
    state, runs = run(look, as_json=as_json)
    if as_json:
        _print_json(state)
        return
    from pool_mcp.views import status as status_view
    from pool_mcp.views import tables

    tables.console().print(status_view.StatusView(state, runs.running))


async def _watch(pool: "Pool", look: "Look", interval: float, *, as_json: bool) -> signal.Signals:
    """Look at every interval until a signal comes, and give it: in place on a terminal, else block after block."""
    import anyio

    from pool_mcp.views import status as status_view
    from pool_mcp.views import tables

    out = tables.console()
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


@click.command()
@click.option("--subscription", metavar="ID", help="Of this subscription only.")
@click.option("--caller", help="Of this caller only.")
@click.option(
    "--state",
    type=click.Choice(["reserved", "running", "settled", "interrupted", "failed"]),
    help="In this state only.",
)
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many that ended."
)
@_JSON
@_pass_run
def runs(run: Run, subscription: str | None, caller: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List what runs now and the latest runs, with what each cost."""
    from pool_mcp.asks.history import Which
    from pool_mcp.model import RunState

    which = Which(subscription, caller, RunState(state) if state else None)
    found = run(lambda pool: pool.runs(which, limit), as_json=as_json)
    if as_json:
        _print_json(found)
    else:
        from pool_mcp.views import status as status_view
        from pool_mcp.views import tables

        tables.console().print(status_view.RunsView(found))


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--answer", is_flag=True, help="The answer's text, too; of one that runs, what there is of it.")
@_JSON
@_pass_run
def show(run: Run, run_id: str, answer: bool, as_json: bool) -> None:
    """Show one ask with its attempts; RUN is the id of a run or an ask, or the beginning of one."""
    found = run(lambda pool: pool.show(run_id, with_answer=answer), as_json=as_json)
    if as_json:
        _print_json(found)
        return
    from pool_mcp.views import status as status_view
    from pool_mcp.views import tables

    tables.console(stderr=answer).print(status_view.ask_view(found))
    if answer:
        click.echo((found.text or "") if found.structured is None else json.dumps(found.structured, indent=2))


@click.command()
@click.argument("run_id", metavar="RUN")
@_JSON
@_pass_run
def cancel(run: Run, run_id: str, as_json: bool) -> None:
    """Stop a run, whichever process follows it, and say what it cost."""
    found = run(lambda pool: pool.cancel(run_id), as_json=as_json)
    if as_json:
        _print_json(found)
    else:
        from pool_mcp.views import status as status_view
        from pool_mcp.views import tables

        tables.console().print(status_view.cancel_line(found))
    if found.attempts[-1].ended_at is None:
        sys.exit(1)


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--subscription", metavar="ID", help="This one, whatever the pool would choose.")
@click.option("--model", help="The model it is for.")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND [ARG]...")
@_pass_run
def execute(run: Run, subscription: str | None, model: str | None, command: tuple[str, ...]) -> None:
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

    chosen, why, env = run(choose, as_json=False)
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


COMMANDS: tuple[click.Command, ...] = (status, runs, show, cancel, execute)


def _print_json(result: "BaseModel") -> None:
    click.echo(json.dumps(result.model_dump(mode="json"), indent=2, ensure_ascii=False))
