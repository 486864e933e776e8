"""Hosts: install, uninstall."""

import os
import shlex
from typing import TYPE_CHECKING

import click

from pool_mcp.cli import run
from pool_mcp.cli.options import AS_JSON, Command
from pool_mcp.cli.telling import Teller

# Everything else is imported where it is used: this module is loaded by every server that a host starts.
if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from pool_mcp.results.setup import HostChange
    from pool_mcp.setup import hosts


class _HostName(click.ParamType[str]):
    name = "host"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from pool_mcp.setup import hosts

        return str(click.Choice(hosts.NAMES).convert(value, param, ctx))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from pool_mcp.setup import hosts

        return click.Choice(hosts.NAMES).shell_complete(ctx, param, incomplete)


_HOSTS = click.argument("names", metavar="HOST...", nargs=-1, required=True, type=_HostName())
_NAME = click.option("--name", default="pool", show_default=True, help="What the server is called there.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")


@click.command(cls=Command)
@_HOSTS
@_NAME
@_DRY_RUN
@AS_JSON
def install(names: tuple[str, ...], name: str, dry_run: bool, as_json: bool) -> None:
    """Put pool-mcp into the configuration of MCP hosts.

    HOST is claude-code, claude-desktop, codex, cursor, gemini, vscode, windsurf or zed; several at once will do.
    """
    _change(names, name, dry_run=dry_run, as_json=as_json, is_wanted=True)


@click.command(cls=Command)
@_HOSTS
@_NAME
@_DRY_RUN
@AS_JSON
def uninstall(names: tuple[str, ...], name: str, dry_run: bool, as_json: bool) -> None:
    """Take pool-mcp out of the configuration of MCP hosts.

    HOST is one of those that `pool-mcp install` knows; several at once will do.
    """
    _change(names, name, dry_run=dry_run, as_json=as_json, is_wanted=False)


def _change(names: tuple[str, ...], entry: str, *, dry_run: bool, as_json: bool, is_wanted: bool) -> None:
    from pool_mcp.results.setup import HostsResult
    from pool_mcp.setup import hosts

    env, tell = dict(os.environ), Teller(as_json=as_json)
    variables = _variables(env) if is_wanted else []
    changes: list[HostChange] = []
    with run.errors_as_json(as_json):
        for name in names:
            wanted = hosts.launch(env, variables) if is_wanted else None
            changes.append(_change_host(tell, name, entry, wanted, dry_run=dry_run))
    if is_wanted and any(one.changed for one in changes):
        tell.say("Restart every host that is running.")
        if variables:
            tell.say(f"It needs {', '.join(variables)} in its environment, as pool.toml says.")
    tell.result(HostsResult(dry_run=dry_run, hosts=changes, variables=variables))


def _variables(env: dict[str, str]) -> list[str]:
    """The variables that hold keys or tokens; a host may pass on few of those that your shell has."""
    from pool_mcp.errors import PoolError
    from pool_mcp.settings import load

    try:
        return load(env).variables(env)
    except PoolError:
        return []


def _change_host(tell: Teller, name: str, entry: str, wanted: "hosts.Launch | None", *, dry_run: bool) -> "HostChange":
    """Change one host's configuration, or show how."""
    from pool_mcp.results.setup import HostChange
    from pool_mcp.setup import hosts
    from pool_mcp.system.textfile import short

    env = dict(os.environ)
    host = hosts.find(name, env)
    plan = hosts.plan(host, entry, wanted, env)
    change = HostChange(host=name, file=str(host.file), changed=False, difference=plan.difference)
    if not plan.difference:
        said = "starts pool-mcp already" if wanted else "does not start pool-mcp"
        tell.say(f"{host.title}: {said}; nothing to do.")
        return change
    if dry_run:
        if plan.command:
            tell.say(f"{host.title} would be told by its own command:\n  {shlex.join(plan.command)}\nwhich comes to:")
        tell.difference(host.file, plan.before, plan.after)
        return change
    was_here = host.is_here
    by_command, copy = hosts.carry_out(plan, env)
    how = f"by its own command, in {short(host.file)}" if by_command else f"in {short(host.file)}"
    tell.say(f"{host.title}: {'put in' if wanted else 'taken out'}, {how}")
    if wanted and not was_here:
        tell.say(f"  {host.title} does not seem to be on this machine; it will find this once it is.", "yellow")
    if copy:
        tell.say(f"  as it was: {short(copy)}", "dim")
    missing = hosts.missing_variables(host, hosts.entries(host)[entry], wanted.variables) if wanted else []
    if missing:
        named = ", ".join(missing)
        tell.say(f"  {host.title} passes no variable of yours on; write {named} into the entry's env there yourself.")
    return change.model_copy(
        update={"changed": True, "copy_of_before": str(copy) if copy else None, "missing_variables": missing}
    )


COMMANDS: tuple[click.Command, ...] = (install, uninstall)
