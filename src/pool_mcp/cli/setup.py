"""The commands of the way in: setup, add, login, remove, doctor."""

import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pool_mcp.cli import run
from pool_mcp.cli.options import AS_JSON, Command
from pool_mcp.cli.telling import Teller

# Everything else is imported where it is used: this module is loaded by every server that a host starts.
if TYPE_CHECKING:
    from rich.console import Console

    from pool_mcp.pool import Pool
    from pool_mcp.results.ledger import ImportResult
    from pool_mcp.results.setup import DoctorResult, LoginResult
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
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON; asks nothing.")
def setup(yes: bool, as_json: bool) -> None:
    """Find your Claude logins, and read what they have spent.

    Shows what will be written to pool.toml, and asks first.
    """
    from pool_mcp.results.setup import SettingsChange, SetupResult
    from pool_mcp.setup import onboarding
    from pool_mcp.system.textfile import difference, short

    env, tell = dict(os.environ), Teller(as_json=as_json)
    with run.errors_as_json(as_json):
        settings, text = _settings_and_text(env)
        cli, found = onboarding.look(settings, text, env)
        after = onboarding.propose(text, cli, found, env)
    tell.say(f"Claude Code: {short(cli)}\n")
    for one in found:
        _show_found(tell, one)
    tell.say("")
    change = SettingsChange(
        file=str(settings.config_file), changed=False, difference=difference(settings.config_file, text, after)
    )
    result = SetupResult(claude=str(cli), logins=[_login(one) for one in found], settings=change, next_steps=[])
    if after == text:
        tell.say(f"{short(settings.config_file)} has all of them; nothing to write.")
    else:
        tell.difference(settings.config_file, text, after)
        if not yes and (as_json or not _confirmed(f"\nWrite {short(settings.config_file)}?")):
            tell.say("Nothing is written; `pool-mcp setup --yes` writes it without asking.")
            tell.result(result.model_copy(update={"next_steps": ["pool-mcp setup --yes"]}))
            sys.exit(1)
        _write(settings, after)
        tell.say(f"\n{short(settings.config_file)} is written.")
        change = change.model_copy(update={"changed": True})
    imported, status = _first_look(tell)
    steps = _next_steps(found)
    tell.say("\n".join(["Next:", *(f"  {step}" for step in steps)]))
    tell.result(
        result.model_copy(update={"settings": change, "imported": imported, "status": status, "next_steps": steps})
    )


def _first_look(tell: Teller) -> "tuple[ImportResult, StatusResult]":
    """Read what has been spent already, and the official limits, so that the first status has real numbers."""
    from pool_mcp.views import tables
    from pool_mcp.views.status import Seen, StatusView

    tell.say("\nReading what these logins have spent (it costs nothing)...")

    async def work(pool: "Pool") -> "tuple[ImportResult, StatusResult]":
        await pool.adopt()
        done = await pool.outside.import_all(progress)
        await pool.catch_up(_LIMITS_S)
        return done, await pool.status()

    with tables.import_progress() as progress:
        done, status = run.with_pool(work, as_json=tell.as_json)
    tell.show(tables.import_table(done))
    tell.say("")
    tell.show(StatusView(Seen(status, [])))
    tell.say("")
    return done, status


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
@AS_JSON
def add(subscription_id: str, as_json: bool, **options: str | None) -> None:
    """Add a subscription to pool.toml."""
    from pool_mcp.setup import onboarding

    env, tell = dict(os.environ), Teller(as_json=as_json)
    with run.errors_as_json(as_json):
        settings, text = _settings_and_text(env)
        values = {"id": subscription_id, **{name: value for name, value in options.items() if value}}
        after, implied = onboarding.add(settings, text, values, env)
        _change(tell, settings, text, after)
    if implied:
        tell.say("\nYour own login was the only one until now; it is written down as `default`.")
    variable = options["api_key_env"] or options["oauth_token_env"]
    if variable:
        tell.say(f"\nNext: set {variable} where your hosts start pool-mcp; `pool-mcp doctor` looks for it.")
    else:
        tell.say(f"\nNext: pool-mcp login {subscription_id}")


@click.command(cls=Command)
@click.argument("subscription_id", metavar="ID", shell_complete=_complete_id)
@AS_JSON
def login(subscription_id: str, as_json: bool) -> None:
    """Sign in under a subscription, with the CLI's own sign-in."""
    from pool_mcp.results.setup import LoginResult

    tell = Teller(as_json=as_json)
    with run.errors_as_json(as_json):
        who, config_dir = _sign_in(subscription_id)
    tell.say(f"{subscription_id}: {who}")
    tell.result(
        LoginResult(config_dir=config_dir, subscription=subscription_id, signed_in=True, who=who, is_listed=True)
    )


def _sign_in(subscription_id: str) -> tuple[str, str | None]:
    """Have the CLI sign in; who is signed in then, and where."""
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
    return now.who, str(subscription.config_dir) if subscription.config_dir else None


@click.command(cls=Command)
@click.argument("subscription_id", metavar="ID", shell_complete=_complete_id)
@AS_JSON
def remove(subscription_id: str, as_json: bool) -> None:
    """Take a subscription out of pool.toml.

    Its login stays in the CLI, and what it has spent in the ledger.
    """
    from pool_mcp.setup import onboarding

    env, tell = dict(os.environ), Teller(as_json=as_json)
    with run.errors_as_json(as_json):
        settings, text = _settings_and_text(env)
        _change(tell, settings, text, onboarding.remove(settings, text, subscription_id, env))
    tell.say("\nIts entries stay in the ledger, and its login in the CLI.")


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Check everything, and print a fix for each problem."""
    from pool_mcp.setup.doctor import examine

    found = examine(dict(os.environ), run.now_ms())
    if as_json:
        run.print_json(found)
    else:
        _show_findings(run.terminal.console(), found)
    if not found.ok:
        sys.exit(1)


COMMANDS: tuple[click.Command, ...] = (setup, add, login, remove, doctor)


# What they share


def _settings_and_text(env: dict[str, str]) -> "tuple[Settings, str]":
    from pool_mcp.settings import load
    from pool_mcp.system import textfile

    settings = load(env)
    return settings, textfile.read(settings.config_file)


def _change(tell: Teller, settings: "Settings", before: str, after: str) -> None:
    """Write ``pool.toml``, and show what changes in it."""
    from pool_mcp.results.setup import SettingsChange
    from pool_mcp.system.textfile import difference

    tell.difference(settings.config_file, before, after)
    _write(settings, after)
    said = difference(settings.config_file, before, after)
    tell.result(SettingsChange(file=str(settings.config_file), changed=True, difference=said))


def _write(settings: "Settings", text: str) -> None:
    from pool_mcp.system import textfile

    textfile.replace(settings.config_file, text)


def _show_found(tell: Teller, one: "Found") -> None:
    from pool_mcp.system.textfile import short

    where = short(Path(one.config_dir)) if one.config_dir else "~/.claude"
    if not one.login.signed_in:
        tell.say(f"  {where:<20} not signed in", "dim")
        return
    known = " (in pool.toml)" if one.is_listed else ""
    tell.say(f"  {where:<20} {one.login.who} → {one.id}{known}")
    if one.shares_with:
        tell.say(f"  {'':<20} the same organization as {one.shares_with}: one quota, not two", "yellow")


def _login(one: "Found") -> "LoginResult":
    from pool_mcp.results.setup import LoginResult

    return LoginResult(
        config_dir=str(one.config_dir) if one.config_dir else None,
        subscription=one.id,
        signed_in=one.login.signed_in,
        who=one.login.who,
        is_listed=one.is_listed,
        shares_quota_with=one.shares_with,
    )


def _next_steps(found: "list[Found]") -> list[str]:
    from pool_mcp.setup import hosts

    env = dict(os.environ)
    steps = [] if any(one.login.signed_in for one in found) else [f"pool-mcp login {found[0].id}"]
    here = [host for host in (hosts.find(name, env) for name in hosts.NAMES) if host.is_here]
    if missing := [host.name for host in here if not _is_connected(host)]:
        steps.append(f"pool-mcp install {' '.join(missing)}")
    return [*steps, "pool-mcp doctor"]


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
            out.print(f"    {one.fix}", style="bold", markup=False, soft_wrap=True)
    broken = sum(one.status == "broken" for one in found.findings)
    out.print("\nAll is well." if not broken else f"\n{broken} to fix; the command is under each.")
