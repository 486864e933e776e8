"""Looks an installation over and says of each part whether it is well, or which one command mends it.

It changes nothing, but for bringing the ledger's schema up to date, as every other command would.
"""

import os
import shlex
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from pool_mcp.accounting.cli_prices import differences
from pool_mcp.background.metrics import send as send_metrics
from pool_mcp.background.notify import missing
from pool_mcp.claude import transcripts
from pool_mcp.claude.fields import as_version
from pool_mcp.claude.find import find_cli
from pool_mcp.claude.login import Login, cli_version, login_of
from pool_mcp.claude.sessions import config_dir_or_default
from pool_mcp.errors import PoolError
from pool_mcp.ledger.engine import Database
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.ledger.write_ahead import sqlite_build
from pool_mcp.model import (
    BLOCK_MS,
    CLOCK_SLACK_MS,
    NANO,
    SECOND_MS,
    WEEK_MS,
    ReceiverState,
    Subscription,
    WindowReading,
)
from pool_mcp.results.setup import DoctorResult, FindingResult, broken, doctor_result, note, ok
from pool_mcp.settings import Settings, load
from pool_mcp.setup import hosts
from pool_mcp.system import locks, places
from pool_mcp.system.textfile import short
from pool_mcp.values import host_of
from pool_mcp.views.times import span

FIRST_WITH_WINDOWS = (2, 1, 248)
"""From this CLI on every answer carries every official window."""


def examine(env: Mapping[str, str], now_ms: int) -> DoctorResult:
    """Everything that can be wrong without anybody's fault, looked at once; takes a second or two."""
    findings: list[FindingResult] = []
    variables: list[str] = []
    try:
        settings = load(env)
    except PoolError as error:
        file = places.directories(env)[0] / "pool.toml"
        findings.append(broken("settings", error.message, f'"${{EDITOR:-vi}}" {shlex.quote(str(file))}'))
    else:
        variables = settings.variables(env)
        findings.append(_settings(settings))
        findings += _cli_and_logins(settings, env)
        findings += _ledger(settings, now_ms)
        findings += _receivers(settings, env)
        findings += _metrics(settings, env, now_ms)
        findings += _permissions(settings)
        findings.append(_transcripts(settings, env))
    findings += _hosts(env, variables)
    return doctor_result(findings)


def _settings(settings: Settings) -> FindingResult:
    file, count = settings.config_file, len(settings.subscriptions)
    if not file.exists():
        return note("settings", "no pool.toml; the CLI's own login is the one subscription", "pool-mcp setup")
    return ok("settings", f"{short(file)}: {count} subscription{'' if count == 1 else 's'}")


def _cli_and_logins(settings: Settings, env: Mapping[str, str]) -> Iterator[FindingResult]:
    try:
        cli = find_cli(settings.claude.path, env)
    except PoolError as error:
        yield broken("cli", error.message, "npm install -g @anthropic-ai/claude-code")
        return
    said = cli_version(cli, env)
    version = as_version(said)
    if version is None:
        yield broken("cli", f"{short(cli)} does not tell its version", f"{shlex.quote(str(cli))} update")
        return
    if version < FIRST_WITH_WINDOWS:
        yield note("cli", f"{said} ({short(cli)}) leaves out official windows", f"{shlex.quote(str(cli))} update")
    else:
        yield ok("cli", f"{said} ({short(cli)}); reports every official window")
    enabled = [one for one in settings.subscriptions if one.enabled]
    with ThreadPoolExecutor(4) as threads:
        logins = list(threads.map(lambda one: _login(cli, one, env), enabled))
    seen: list[tuple[str, Login]] = []
    for subscription, login in zip(enabled, logins, strict=True):
        yield _login_finding(subscription, login, seen)
        if isinstance(login, Login):
            seen.append((subscription.id, login))


def _login(cli: Path, subscription: Subscription, env: Mapping[str, str]) -> Login | PoolError | str:
    """The login; or the name of the variable that should hold it and does not."""
    variable = subscription.api_key_env or subscription.oauth_token_env
    if variable and places.read_env(env, variable) is None:
        return variable
    try:
        return login_of(cli, subscription, env)
    except PoolError as error:
        return error


def _login_finding(
    subscription: Subscription, login: Login | PoolError | str, seen: list[tuple[str, Login]]
) -> FindingResult:
    name = subscription.id
    if isinstance(login, str):
        return broken("login", f"{name}: {login} is not set in this environment", f"export {login}=…")
    if isinstance(login, PoolError):
        return broken("login", f"{name}: {login.message}", f"pool-mcp login {name}")
    if not login.signed_in:
        return broken("login", f"{name}: not signed in", f"pool-mcp login {name}")
    if other := next((earlier for earlier, one in seen if one.shares_quota_with(login)), None):
        return note("login", f"{name}: {login.who}; the same organization as {other}, so the same quota")
    if subscription.is_api_key:
        return ok("login", f"{name}: an API key, from {subscription.api_key_env}")
    if subscription.oauth_token_env:
        return ok("login", f"{name}: a token, from {subscription.oauth_token_env}")
    return ok("login", f"{name}: {login.who}")


def _sqlite() -> FindingResult:
    """Which SQLite is linked, and whether it has the WAL-reset bug, which the ledger never gives a chance."""
    version, has_bug = sqlite_build()
    if has_bug:
        text = f"SQLite {version} has the WAL-reset bug; the ledger is safe: writes and checkpoints take turns"
    else:
        text = f"SQLite {version}, without the WAL-reset bug"
    return ok("sqlite", text)


def _database(database: Database) -> FindingResult:
    """How the ledger's database is, and how far its clock, which all machines go by, is from this machine's."""
    text = (
        f"PostgreSQL {database.version}, {database.place}; {'TLS' if database.is_encrypted else 'not encrypted'}, "
        f"round trip {database.round_trip_ms:.1f} ms, its clock {database.ahead_ms / SECOND_MS:+.1f} s from this one"
    )
    if not database.is_encrypted and not database.is_local:
        return note("database", f"{text}; add ?sslmode=verify-full to [ledger] url", "pool-mcp config path")
    return ok("database", text)


def _ledger(settings: Settings, now_ms: int) -> Iterator[FindingResult]:
    path, url = settings.ledger_path, settings.ledger.url
    if not url:
        yield _sqlite()
        if not path.exists():
            yield ok("ledger", f"none yet; the first ask makes it ({short(path)})")
            return
    try:
        ledger = Ledger(path, url, lambda: now_ms)
    except PoolError as error:
        yield broken("ledger", error.message, "pool-mcp ledger check")
        return
    try:
        if database := ledger.database():
            yield _database(database)
        found = ledger.audit()
        with ledger.read() as tx:
            unfinished = [run for run in tx.runs.unfinished() if run.machine_id == tx.machines.mine]
            readings = [one for windows in tx.official.latest().values() for one in windows.values()]
            said = tx.reports.priced_by_cli()
            newest_ms = max(tx.balances.last_used_ms().values(), default=0)
    except PoolError as error:
        yield broken("ledger", error.message, "pool-mcp ledger check")
        return
    finally:
        ledger.close()
    if found.problems:
        first = found.problems[0]
        yield broken("ledger", f"{first.meaning}: {', '.join(first.where)}", "pool-mcp ledger check")
    else:
        yield ok("ledger", f"{found.entries} entries, ${found.spent_nanousd / NANO:.2f}; every sum proven")
    left = [run for run in unfinished if not locks.is_alive(settings.owners_dir, run.owner_id)]
    if left:
        yield broken("runs", f"{len(left)} without a server that follows them; not booked yet", "pool-mcp status")
    elif unfinished:
        yield ok("runs", f"{len(unfinished)} in flight, each followed by a live server")
    else:
        yield ok("runs", "all booked")
    yield _stale_locks(settings)
    yield _clock(readings, newest_ms, now_ms)
    for one in differences(one for one in said if one.cli_version == said[0].cli_version):
        yield note("prices", f"{one.text}; so it is booked", "claude update")


def _receivers(settings: Settings, env: Mapping[str, str]) -> Iterator[FindingResult]:
    """Whether those who are to be sent notices can be, and have taken the last."""
    states: dict[str, ReceiverState] = {}
    if settings.notify and (settings.ledger.url or settings.ledger_path.exists()):
        try:
            ledger = Ledger(settings.ledger_path, settings.ledger.url)
        except PoolError:
            return  # told already
        with closing(ledger), ledger.read() as tx:
            states = tx.outbox.receivers()
    for one in settings.notify:
        state = states.get(one.name, ReceiverState(0, None, 0))
        if problem := missing(one, env):
            edit = f'"${{EDITOR:-vi}}" {shlex.quote(str(settings.config_file))}'
            yield broken("notify", f"{one.where}: {problem}", edit)
        elif state.problem is not None:
            tries = f"{state.failures} tr{'y' if state.failures == 1 else 'ies'}"
            yield broken("notify", f"{one.where}: {state.problem} ({tries} in a row)", "pool-mcp notify test")
        elif state.given_up:
            yield note("notify", f"{one.where}: {state.given_up} notices of the last 30 days never arrived")
        else:
            yield ok("notify", f"{one.where}: {', '.join(one.on)}")


def _metrics(settings: Settings, env: Mapping[str, str], now_ms: int) -> Iterator[FindingResult]:
    """Whether the collector takes metrics: it is sent none."""
    if settings.metrics.otlp_endpoint:
        where = host_of(settings.metrics.otlp_endpoint)
        if problem := send_metrics(settings.metrics, env, [], now_ms):
            edit = f'"${{EDITOR:-vi}}" {shlex.quote(str(settings.config_file))}'
            yield broken("metrics", f"{where}: {problem}", edit)
        else:
            yield ok("metrics", f"{where} takes them")


def _stale_locks(settings: Settings) -> FindingResult:
    files = list(settings.owners_dir.glob("*"))
    held = sum(locks.is_held(path) for path in files)
    if stale := len(files) - held:
        return note("locks", f"{stale} of processes that are gone; harmless", "pool-mcp status")
    return ok("locks", f"{held} live" if held else "none held")


def _clock(readings: list[WindowReading], newest_ms: int, now_ms: int) -> FindingResult:
    """The clock against the ledger's own times, and against the resets that Anthropic's clock has set."""
    fix = "sudo sntp -sS time.apple.com" if sys.platform == "darwin" else "sudo timedatectl set-ntp true"
    latest_ms = max([newest_ms, *(one.observed_at_ms for one in readings)])
    if latest_ms > now_ms + CLOCK_SLACK_MS:
        return broken("clock", f"{span((latest_ms - now_ms) / SECOND_MS)} behind what the ledger has seen", fix)
    lengths = {"five_hour": BLOCK_MS, "seven_day": WEEK_MS}
    for one in readings:
        if one.window not in lengths or one.resets_at_ms is None:
            continue
        left_ms = one.resets_at_ms - one.observed_at_ms
        if left_ms > lengths[one.window] + CLOCK_SLACK_MS:
            return broken(
                "clock", f"at least {span((left_ms - lengths[one.window]) / SECOND_MS)} behind Anthropic's", fix
            )
        if left_ms < -CLOCK_SLACK_MS:
            return broken("clock", f"at least {span(-left_ms / SECOND_MS)} ahead of Anthropic's", fix)
    return ok("clock", "agrees with Anthropic's resets" if readings else "nothing seen yet that it disagrees with")


def _permissions(settings: Settings) -> Iterator[FindingResult]:
    state = settings.state_dir
    own = [state / "runs", state / "owners", *state.glob("ledger.db*")]
    present = [path for path in own if path.exists()]
    if misplaced := [path for path in own[:2] if not path.is_dir() and (path.is_symlink() or path.exists())]:
        folder = shlex.quote(str(misplaced[0]))
        yield broken("permissions", f"{short(misplaced[0])} is not a folder", f"mv {folder} {folder}.moved")
    elif foreign := [path for path in (state, *present) if path.exists() and path.stat().st_uid != os.getuid()]:
        yield broken(
            "permissions",
            f"{short(foreign[0])} belongs to somebody else",
            f'sudo chown -R "$USER" {shlex.quote(str(state))}',
        )
    elif opened := [path for path in present if stat.S_IMODE(path.stat().st_mode) & 0o077]:
        yield broken(
            "permissions", f"others may read {short(opened[0])}", f"chmod -R go-rwx {shlex.join(map(str, opened))}"
        )
    elif settings.config_file.exists() and stat.S_IMODE(settings.config_file.stat().st_mode) & 0o022:
        # It names the program that is run.
        yield broken(
            "permissions",
            f"others may change {short(settings.config_file)}",
            f"chmod go-w {shlex.quote(str(settings.config_file))}",
        )
    else:
        yield ok("permissions", f"ledger and answers are yours alone ({short(state)})")


def _transcripts(settings: Settings, env: Mapping[str, str]) -> FindingResult:
    """Whether what the CLI keeps of its use can be read: what can't be is not counted."""
    config_dirs = {config_dir_or_default(one.config_dir, env).resolve() for one in settings.subscriptions}
    walks = [transcripts.walk(config_dir) for config_dir in sorted(config_dirs)]
    unreadable = [path for walk in walks for path in walk.unreadable]
    unreadable += [one.path for walk in walks for one in walk.found if not os.access(one.path, os.R_OK)]
    if not unreadable:
        return ok("transcripts", f"{sum(walk.count for walk in walks)}, all of which can be read")
    first = Path(os.fsdecode(os.fsencode(unreadable[0])))
    more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
    is_foreign = first.exists() and first.lstat().st_uid != os.getuid()
    fix = f'sudo chown -R "$USER" {shlex.quote(str(first))}' if is_foreign else f"ls -ld {shlex.quote(str(first))}"
    return note("transcripts", f"{short(first)}{more} cannot be read, so what is in there is not counted", fix)


def _hosts(env: Mapping[str, str], variables: Sequence[str]) -> Iterator[FindingResult]:
    """What starts pool-mcp, and from where; the hosts on this machine that do not are one note together."""
    here = [host for host in (hosts.find(name, env) for name in hosts.NAMES) if host.is_here]
    without: list[hosts.Host] = []
    for host in here:
        try:
            ours = hosts.ours(host)
        except PoolError as error:
            yield broken("hosts", f"{host.title}: {error.message}", f'"${{EDITOR:-vi}}" {shlex.quote(str(host.file))}')
            continue
        if not ours:
            without.append(host)
        for name, entry in ours.items():
            yield _host(host, name, entry, env, variables)
    if without:
        names = " ".join(host.name for host in without)
        yield note("hosts", f"not in {', '.join(host.title for host in without)}", f"pool-mcp install {names}")
    if not here:
        yield note("hosts", "none found on this machine", "pool-mcp install claude-code")


def _host(
    host: hosts.Host, name: str, entry: hosts.Entry, env: Mapping[str, str], variables: Sequence[str]
) -> FindingResult:
    fix = f"pool-mcp install {host.name}" + ("" if name == hosts.ENTRY else f" --name {shlex.quote(name)}")
    wanted = hosts.launch(env).env.get("POOL_MCP_HOME")
    if missing := hosts.missing_program(host, entry, env):
        return broken("hosts", f"{host.title}: its entry {name!r} starts {missing}, which it will not find", fix)
    if hosts.home_of(entry) != wanted:
        other = hosts.home_of(entry) or "the usual places"
        return broken("hosts", f"{host.title}: its entry {name!r} has its ledger in {other}", fix)
    if kept_back := hosts.missing_variables(host, entry, variables):
        if host.passes == "values":
            fix = f'"${{EDITOR:-vi}}" {shlex.quote(str(host.file))}'
        return broken("hosts", f"{host.title}: does not pass {', '.join(kept_back)} on to its entry {name!r}", fix)
    return ok("hosts", f"{host.title}: starts it as {name!r}")
