"""The group ``notify``."""

import os

import click

from pool_mcp.cli import run
from pool_mcp.cli.options import Group


@click.group(cls=Group)
def notify() -> None:
    """Try those who are sent notices: [[notify]] in pool.toml."""


@notify.command()
def test() -> None:
    """Send every receiver a test notice now; exit code 1 where one does not take it."""
    import anyio

    from pool_mcp.background.notify import send, trial
    from pool_mcp.settings import load

    env = dict(os.environ)
    settings = load(env)
    if not settings.notify:
        raise click.UsageError(f"{settings.config_file} has no [[notify]] table.")
    has_failed = False
    for receiver in settings.notify:
        problem = anyio.run(send, receiver, trial(run.now_ms()), env, settings.variables(env))
        click.echo(f"{receiver.where}: {'sent' if problem is None else problem}")
        has_failed |= problem is not None
    if has_failed:
        raise SystemExit(1)


COMMANDS: tuple[click.Command, ...] = (notify,)
