"""What tells other programs how the pool is: the group ``notify``, and metrics."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pool_mcp.cli import run
from pool_mcp.cli.options import AS_JSON, Command, Group
from pool_mcp.errors import InvalidRequest

if TYPE_CHECKING:
    from pool_mcp.pool import Pool


@click.group(cls=Group)
def notify() -> None:
    """Try those who are sent notices: [[notify]] in pool.toml."""


@notify.command()
@AS_JSON
def test(as_json: bool) -> None:
    """Send every receiver a test notice now; exit code 1 where one does not take it."""
    import anyio

    from pool_mcp.background.notify import send, trial
    from pool_mcp.settings import load

    env = dict(os.environ)
    settings = load(env)
    if not settings.notify:
        raise click.UsageError(f"{settings.config_file} has no [[notify]] table.")
    problems: dict[str, str | None] = {}
    for receiver in settings.notify:
        problem = anyio.run(send, receiver, trial(run.now_ms()), env, settings.variables(env))
        problems[receiver.where] = problem
        if not as_json:
            click.echo(f"{receiver.where}: {'sent' if problem is None else problem}")
    if as_json:
        receivers = [{"receiver": name, "sent": said is None, "problem": said} for name, said in problems.items()]
        click.echo(json.dumps({"receivers": receivers}, indent=2, ensure_ascii=False))
    if any(problems.values()):
        raise SystemExit(1)


@click.command(cls=Command)
@click.option(
    "--file", type=click.Path(dir_okay=False, path_type=Path), help="Write into this file, new or of earlier metrics."
)
def metrics(file: Path | None) -> None:
    """Print limits, budgets, runs and costs in Prometheus' text format."""
    from pool_mcp.results.metrics import exposition
    from pool_mcp.system import textfile

    async def work(pool: "Pool") -> str:
        return exposition(await pool.gauges())

    found = run.with_pool(work)
    if file is None:
        run.print_data(found, nl=False)
    else:
        _refuse_others(file, found[:_HEAD])
        textfile.replace(file, found)


_HEAD = len("# HELP pool_mcp_")


def _refuse_others(file: Path, head: str) -> None:
    """Pass where a file is missing, empty or begins as metrics do; a slip of the finger must not cost a ledger."""
    try:
        with file.open("rb") as there:
            known = there.read(len(head))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}; name another file.") from None
    if known not in (b"", head.encode()):
        raise InvalidRequest(f"{file} holds something else than metrics; name a new file, or remove this one.")


COMMANDS: tuple[click.Command, ...] = (notify, metrics)
