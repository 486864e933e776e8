"""The machines that share a ledger: the group ``machine``, and the way of a ledger into a database and back."""

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from pool_mcp.choosing.windows import rfc3339
from pool_mcp.cli import run
from pool_mcp.cli.figures import ledger
from pool_mcp.cli.options import AS_JSON, Group
from pool_mcp.errors import InvalidRequest

if TYPE_CHECKING:
    from pool_mcp.ledger.ledger import Ledger


@click.group(cls=Group)
def machine() -> None:
    """List the machines that share the ledger, or write off what one of them holds."""


@machine.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List every machine, when it last used the ledger, and what its unfinished runs hold."""
    from pool_mcp.model import NANO

    with _shared() as shared, shared.read() as tx:
        known, mine = tx.machines.known(), tx.machines.mine
    rows = [
        {
            "name": one.name,
            "machine_id": one.machine_id,
            "is_this_one": one.machine_id == mine,
            "last_used_at": rfc3339(one.last_used_at_ms),
            "in_flight": one.in_flight,
            "reserved_usd": one.reserved_nanousd / NANO,
        }
        for one in known
    ]
    if as_json:
        run.print_data(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        here = " (this one)" if row["is_this_one"] else ""
        held = f", {row['in_flight']} runs hold ${row['reserved_usd']:.2f}" if row["in_flight"] else ""
        run.print_data(f"{row['name']}{here}  {row['machine_id']}  last used {row['last_used_at']}{held}")


@machine.command()
@click.argument("name")
@AS_JSON
def forget(name: str, as_json: bool) -> None:
    """Write off what the machine NAME still holds, and take it off the list."""
    from pool_mcp.asks import machines
    from pool_mcp.model import NANO

    with run.errors_as_json(as_json), _shared() as shared:
        written_off = machines.forget(shared, name, shared.clock(run.now_ms))
    total = sum(one.reserved_nanousd for one in written_off) / NANO
    if as_json:
        run.print_data(json.dumps({"machine": name, "runs_written_off": len(written_off), "cost_usd": total}))
        return
    click.echo(f"{name}: {len(written_off)} runs written off at ${total:.2f}.", err=True)


@ledger.command()
@click.argument("to", metavar="URL|file")
@AS_JSON
def move(to: str, as_json: bool) -> None:
    """Move the ledger into the empty database at URL, or from there back into this machine's file."""
    from pool_mcp.ledger.moving import move_to_database, move_to_file
    from pool_mcp.model import NANO
    from pool_mcp.settings import load
    from pool_mcp.system import locks

    settings = load(dict(os.environ))
    url = settings.ledger.url
    if (to == "file") != bool(url):
        raise InvalidRequest("pool.toml says that the ledger is there already." if url else "It is a file already.")
    if to != "file":
        load(dict(os.environ), f"ledger.url = {json.dumps(to)}")  # refuses what pool.toml could not say
    if busy := sum(locks.is_held(one) for one in settings.owners_dir.glob("*")):
        raise InvalidRequest(f"{busy} servers use the ledger; stop them first (close the hosts that started them).")
    moved = (
        move_to_file(settings.ledger_path, url, run.now_ms)
        if url
        else move_to_database(settings.ledger_path, to, run.now_ms)
    )
    spent = moved.audit.spent_nanousd / NANO
    if as_json:
        said = {"rows": moved.rows, "entries": moved.audit.entries, "cost_usd": spent}
        run.print_data(json.dumps(said | {"file_is_now": str(moved.aside) if moved.aside else None}))
        return
    click.echo(f"{moved.rows} rows, {moved.audit.entries} entries, ${spent:.6f} in all; every sum proven.")
    if moved.aside is not None:
        click.echo(f"The file is now {moved.aside}. Write into {settings.config_file}:\n\n[ledger]")
        click.echo(f"url = {json.dumps(to)}")
    else:
        click.echo(f"Take [ledger] url out of {settings.config_file}.")


@contextmanager
def _shared() -> "Iterator[Ledger]":
    from pool_mcp.ledger.ledger import Ledger
    from pool_mcp.settings import load

    settings = load(dict(os.environ))
    if not settings.ledger.url:
        raise InvalidRequest("The ledger is a file, which one machine has; docs/several-machines.md says how to share.")
    with closing(Ledger(settings.ledger_path, settings.ledger.url, run.now_ms)) as found:
        yield found


COMMANDS: tuple[click.Command, ...] = (machine,)
