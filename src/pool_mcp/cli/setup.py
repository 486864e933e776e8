"""The commands of the way in: setup, add, login, remove, install, uninstall, doctor."""

import os
import shlex
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pool_mcp.cli import run
from pool_mcp.cli.options import Command

# Everything else is imported where it is used: this module is loaded by every server that a host starts.
if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.console import Console

    from pool_mcp.pool import Pool
    from pool_mcp.results.ledger import ImportResult
    from pool_mcp.results.setup import DoctorResult
    from pool_mcp.results.status import StatusResult
    from pool_mcp.settings import Settings
    from pool_mcp.setup import hosts
    from pool_mcp.setup.onboarding import Found

_LIMITS_S = 10.0
"""How long the first reading of the official limits may take; it takes about a second."""

_STYLES = {"ok": "green", "note": "yellow", "broken": "red"}
_MARKS = {"ok": "✓", "note": "·", "broken": "✗"}
_PLAIN_MARKS = {"ok": "ok", "note": "--", "broken": "NO"}


@click.command(cls=Command)
@click.option("--yes", "-y", is_flag=True, help="Write it without asking.")
def setup(yes: bool) -> None:
    """Find your Claude logins, and read what they have spent.

    Shows what will be written to pool.toml, and asks first.
    """
    from pool_mcp.setup import onboarding

    env = dict(os.environ)
    settings, text = _settings_and_text(env)
    out = _console()
    cli, found = onboarding.look(settings, text, env)
    _say(out, f"Claude Code: {_short(cli)}\n")
    for one in found:
        _show_found(out, one)
    after = onboarding.propose(text, cli, found, env)
    _say(out, "")
    if after == text:
        _say(out, f"{_short(settings.config_file)} has all of them; nothing to write.")
        _first_look(out)
        _next_steps(out, found)
        return
    _show_difference(out, settings.config_file, text, after)
    if not yes and not _confirmed(f"\nWrite {_short(settings.config_file)}?"):
        _say(out, "Nothing is written; `pool-mcp setup --yes` writes it without asking.")
        sys.exit(1)
    _write(settings, after)
    _say(out, f"\n{_short(settings.config_file)} is written.")
    _first_look(out)
    _next_steps(out, found)


def _first_look(out: "Console") -> None:
    """Read what has been spent already, and the official limits, so that the first status has real numbers."""
    from pool_mcp.views import tables
    from pool_mcp.views.status import Seen, StatusView

    _say(out, "\nReading what these logins have spent (it costs nothing)...")

    async def work(pool: "Pool") -> "tuple[ImportResult, StatusResult]":
        await pool.adopt()
        done = await pool.outside.import_all(progress)
        await pool.catch_up(_LIMITS_S)
        return done, await pool.status()

    with tables.import_progress() as progress:
        done, status = run.with_pool(work)
    out.print(tables.import_table(done))
    _say(out, "")
    out.print(StatusView(Seen(status, [])))
    _say(out, "")


def _confirmed(question: str) -> bool:
    """Whether the person says yes; where nobody can be asked, nobody does."""
    try:
        return click.confirm(question, default=True)
    except click.Abort:
        click.echo()
        return False


def _complete_id(_context: click.Context, _argument: click.Parameter, begun: str) -> list[str]:
    from pool_mcp.errors import PoolError
    from pool_mcp.settings import load

    try:
        return [one.id for one in load(dict(os.environ)).subscriptions if one.id.startswith(begun)]
    except PoolError:
        return []


@click.command(cls=Command)
@click.argument("subscription_id", metavar="ID")
@click.option("--config-dir", metavar="DIR", help="Where the CLI keeps this login. Default: ~/.claude-ID.")
@click.option("--api-key-env", metavar="NAME", help="The variable that holds an API key, instead of a login.")
@click.option("--oauth-token-env", metavar="NAME", help="The variable that holds a token of `claude setup-token`.")
@click.option("--plan", default="", help="A label, such as max_20x.")
def add(subscription_id: str, **options: str | None) -> None:
    """Add a subscription to pool.toml."""
    from pool_mcp.setup import onboarding

    env = dict(os.environ)
    settings, text = _settings_and_text(env)
    values = {"id": subscription_id, **{name: value for name, value in options.items() if value}}
    after, implied = onboarding.add(settings, text, values, env)
    out = _console()
    _show_difference(out, settings.config_file, text, after)
    _write(settings, after)
    if implied:
        _say(out, "\nYour own login was the only one until now; it is written down as `default`.")
    variable = options["api_key_env"] or options["oauth_token_env"]
    if variable:
        _say(out, f"\nNext: set {variable} where your hosts start pool-mcp; `pool-mcp doctor` looks for it.")
    else:
        _say(out, f"\nNext: pool-mcp login {subscription_id}")


@click.command(cls=Command)
@click.argument("subscription_id", metavar="ID", shell_complete=_complete_id)
def login(subscription_id: str) -> None:
    """Sign in under a subscription, with the CLI's own sign-in."""
    from pool_mcp.claude.find import find_cli
    from pool_mcp.claude.login import login_of, sign_in
    from pool_mcp.errors import InvalidRequest, NeedsLogin
    from pool_mcp.settings import load
    from pool_mcp.system.private import make_directory

    env = dict(os.environ)
    settings = load(env)
    subscription = settings.subscription(subscription_id)
    if variable := subscription.api_key_env or subscription.oauth_token_env:
        raise InvalidRequest(f"{subscription_id!r} has no sign-in: it uses what is in the variable {variable}; set it.")
    cli = find_cli(settings.claude.path, env)
    if subscription.config_dir is not None:
        make_directory(subscription.config_dir)
    if sign_in(cli, subscription, env) != 0:
        raise NeedsLogin(f"The sign-in was not completed; run `pool-mcp login {subscription_id}` again.")
    now = login_of(cli, subscription, env)
    if not now.signed_in:
        raise NeedsLogin(f"{subscription_id!r} is not signed in; run `pool-mcp login {subscription_id}` again.")
    _say(_console(), f"{subscription_id}: {now.who}")


@click.command(cls=Command)
@click.argument("subscription_id", metavar="ID", shell_complete=_complete_id)
def remove(subscription_id: str) -> None:
    """Take a subscription out of pool.toml.

    Its login stays in the CLI, and what it has spent in the ledger.
    """
    from pool_mcp.setup import onboarding

    env = dict(os.environ)
    settings, text = _settings_and_text(env)
    after = onboarding.remove(settings, text, subscription_id, env)
    out = _console()
    _show_difference(out, settings.config_file, text, after)
    _write(settings, after)
    _say(out, "\nIts entries stay in the ledger, and its login in the CLI.")


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
def install(names: tuple[str, ...], name: str, dry_run: bool) -> None:
    """Put pool-mcp into the configuration of MCP hosts.

    HOST is claude-code, claude-desktop, codex, cursor, gemini, vscode, windsurf or zed; several at once will do.
    """
    from pool_mcp.setup import hosts

    env = dict(os.environ)
    variables = _variables(env)
    changed = [_change_host(host_name, name, hosts.launch(env, variables), dry_run) for host_name in names]
    if any(changed):
        _say(_console(), "Restart every host that is running.")
        if variables:
            _say(_console(), f"It needs {', '.join(variables)} in its environment, as pool.toml says.")


@click.command(cls=Command)
@_HOSTS
@_NAME
@_DRY_RUN
def uninstall(names: tuple[str, ...], name: str, dry_run: bool) -> None:
    """Take pool-mcp out of the configuration of MCP hosts.

    HOST is one of those that `pool-mcp install` knows; several at once will do.
    """
    for host_name in names:
        _change_host(host_name, name, None, dry_run)


def _variables(env: dict[str, str]) -> list[str]:
    """The variables that hold keys or tokens; a host may pass on few of those that your shell has."""
    from pool_mcp.errors import PoolError
    from pool_mcp.settings import load

    try:
        return load(env).variables(env)
    except PoolError:
        return []


def _change_host(host_name: str, entry: str, wanted: "hosts.Launch | None", dry_run: bool) -> bool:
    """Change one host's configuration, or show how; whether it was changed."""
    from pool_mcp.setup import hosts

    env, out = dict(os.environ), _console()
    host = hosts.find(host_name, env)
    plan = hosts.plan(host, entry, wanted, env)
    if not plan.difference:
        said = "starts pool-mcp already" if wanted else "does not start pool-mcp"
        _say(out, f"{host.title}: {said}; nothing to do.")
        return False
    if dry_run:
        if plan.command:
            _say(out, f"{host.title} would be told by its own command:\n  {shlex.join(plan.command)}\nwhich comes to:")
        _show_difference(out, host.file, plan.before, plan.after)
        return False
    was_here = host.is_here
    by_command, copy = hosts.carry_out(plan, env)
    how = f"by its own command, in {_short(host.file)}" if by_command else f"in {_short(host.file)}"
    _say(out, f"{host.title}: {'put in' if wanted else 'taken out'}, {how}")
    if wanted and not was_here:
        _say(out, f"  {host.title} does not seem to be on this machine; it will find this once it is.", "yellow")
    if copy:
        _say(out, f"  as it was: {_short(copy)}", "dim")
    if wanted and (missing := hosts.missing_variables(host, hosts.entries(host)[entry], wanted.variables)):
        names = ", ".join(missing)
        _say(out, f"  {host.title} passes no variable of yours on; write {names} into the entry's env there yourself.")
    return True


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Check everything, and print a fix for each problem."""
    from pool_mcp.setup.doctor import examine

    found = examine(dict(os.environ), run.now_ms())
    if as_json:
        run.print_json(found)
    else:
        _show_findings(_console(), found)
    if not found.ok:
        sys.exit(1)


COMMANDS: tuple[click.Command, ...] = (setup, add, login, remove, install, uninstall, doctor)


# What they share


def _settings_and_text(env: dict[str, str]) -> "tuple[Settings, str]":
    from pool_mcp.settings import load
    from pool_mcp.system import textfile

    settings = load(env)
    return settings, textfile.read(settings.config_file)


def _write(settings: "Settings", text: str) -> None:
    from pool_mcp.system import textfile

    textfile.replace(settings.config_file, text)


def _console() -> "Console":

    return run.terminal.console()


def _say(out: "Console", text: str, style: str = "") -> None:
    """A line that is never broken: paths and commands are there to be copied."""
    out.print(text, style=style, markup=False, soft_wrap=True)


def _short(path: Path) -> str:
    from pool_mcp.system import textfile

    return textfile.short(path)


def _show_difference(out: "Console", file: Path, before: str, after: str) -> None:
    from pool_mcp.system import textfile

    if not before:
        _say(out, f"{_short(file)} (new)", "bold")
    lines = after.splitlines() if not before else textfile.difference(file, before, after).splitlines()
    for line in lines:
        style = "green" if line.startswith("+") else "red" if line.startswith("-") else ""
        _say(out, line, style)


def _show_found(out: "Console", one: "Found") -> None:
    where = _short(Path(one.config_dir)) if one.config_dir else "~/.claude"
    if not one.login.signed_in:
        _say(out, f"  {where:<20} not signed in", "dim")
        return
    known = " (in pool.toml)" if one.is_listed else ""
    _say(out, f"  {where:<20} {one.login.who} → {one.id}{known}")
    if one.shares_with:
        _say(out, f"  {'':<20} the same organization as {one.shares_with}: one quota, not two", "yellow")


def _next_steps(out: "Console", found: "list[Found]") -> None:
    from pool_mcp.setup import hosts

    env = dict(os.environ)
    steps = [] if any(one.login.signed_in for one in found) else [f"pool-mcp login {found[0].id}"]
    here = [host for host in (hosts.find(name, env) for name in hosts.NAMES) if host.is_here]
    if missing := [host.name for host in here if not _is_connected(host)]:
        steps.append(f"pool-mcp install {' '.join(missing)}")
    _say(out, "Next:")
    for step in [*steps, "pool-mcp doctor"]:
        _say(out, f"  {step}")


def _is_connected(host: "hosts.Host") -> bool:
    from pool_mcp.errors import PoolError
    from pool_mcp.setup import hosts

    try:
        return bool(hosts.ours(host))
    except PoolError:
        return False


def _show_findings(out: "Console", found: "DoctorResult") -> None:
    from rich.text import Text

    marks: dict[str, Any] = _MARKS
    try:
        "".join(_MARKS.values()).encode(out.encoding)
    except (UnicodeEncodeError, LookupError):
        marks = _PLAIN_MARKS
    for one in found.findings:
        lines = textwrap.wrap(one.text, max(20, out.width - 15), break_long_words=False, break_on_hyphens=False)
        text = f"\n{'':<15}".join(lines if out.is_terminal else [one.text])
        out.print(Text.assemble((marks[one.status], _STYLES[one.status]), f" {one.check:<12} {text}"), soft_wrap=True)
        if one.fix:
            _say(out, f"    {one.fix}", "bold")
    broken = sum(one.status == "broken" for one in found.findings)
    _say(out, "\nAll is well." if not broken else f"\n{broken} to fix; the command is under each.")
