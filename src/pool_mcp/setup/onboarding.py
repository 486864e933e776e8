"""Writes ``pool.toml`` for the person: what is signed in on this machine, one subscription more, one less.

Texts go in and come out here, so that they can be looked at before anything is written; a text that the settings would
refuse never comes out.
"""

import re
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool_mcp.choosing import rates
from pool_mcp.claude.find import find_cli
from pool_mcp.claude.login import Login, login_of
from pool_mcp.errors import CliMissing, InvalidRequest
from pool_mcp.model import NANO, Subscription
from pool_mcp.settings import Settings, load
from pool_mcp.setup import hosts, toml_text

HEADER = """\
# What pool-mcp may use, and how much of it. Behind a "#" are the defaults.
# strategy = "headroom"       # or "health"
# weekly_budget_usd = 456.0   # of each subscription, in any seven days
# block_budget_usd = 25.0     # of each subscription, in five hours
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A config dir on this machine: who is signed in there, and the subscription that it is or would be.

    ``config_dir`` is None for the CLI's own. ``shares_with`` is an earlier subscription of the same organisation.
    """

    config_dir: Path | None
    id: str
    login: Login
    is_listed: bool
    shares_with: str | None = None


def look(settings: Settings, text: str, env: Mapping[str, str]) -> tuple[Path, list[Found]]:
    """The CLI, and every config dir that is there, asked for its login; about 0.3 s, which they wait together.

    Raises:
        CliMissing: there is no CLI to ask.
    """
    cli = find_cli(settings.claude.path, env)
    listed = settings.subscriptions if _tables(text) else ()
    by_dir = {_place(one.config_dir, env): one.id for one in listed if not one.is_api_key and not one.oauth_token_env}
    taken = [one.id for one in listed]
    result: list[Found] = []
    config_dirs = _config_dirs(env)
    with ThreadPoolExecutor(4) as threads:
        logins = list(threads.map(lambda one: login_of(cli, _subscription(one), env), config_dirs))
    for config_dir, login in zip(config_dirs, logins, strict=True):
        known = by_dir.get(_place(config_dir, env))
        name = known or _free_id(config_dir, taken)
        shares = next((one.id for one in result if one.login.shares_quota_with(login)), None)
        result.append(Found(config_dir, name, login, known is not None, shares))
        taken.append(name)
    return cli, result


def propose(text: str, cli: Path, found: list[Found], env: Mapping[str, str]) -> str:
    """The ``pool.toml`` that has every login that was found; a second one on the same quota is there but disabled.

    Raises:
        InvalidRequest: the text cannot take it.
    """
    new = [one for one in found if one.login.signed_in and not one.is_listed]
    if not new and not _tables(text):
        new = [one for one in found if one.config_dir is None]
    if not text.strip():
        text = HEADER
    if not _tables(text, "claude") and not _is_found_by_all(cli, env):
        note = "Where this shell finds it; a host's PATH may be shorter."
        text = _append(text, "[claude]", {"path": str(cli)}, note)
    for one in new:
        values = {"id": one.id, **_dir(one.config_dir, env), **({"plan": one.login.plan} if one.login.plan else {})}
        text = _append(text, "[[subscriptions]]", values, _budgets_of(one.login.plan))
    return _checked(text, env)


def _budgets_of(plan: str | None) -> str:
    """Budgets that fit a plan, for a comment; nothing where the plan is not known."""
    allowed = rates.plan_nanousd(plan or "")
    if allowed is None:
        return ""
    five_hours, week = (amount / NANO for amount in allowed)
    budgets = f"weekly_budget_usd = {week:g}, block_budget_usd = {five_hours:g}"
    return f"About all of its plan, as people have measured it: {budgets}."


def add(settings: Settings, text: str, values: Mapping[str, object], env: Mapping[str, str]) -> tuple[str, bool]:
    """The text with one more subscription; and whether the CLI's own login, until now implied, was written down, too.

    Raises:
        InvalidRequest: there is one of that id, or the settings refuse it.
    """
    names = [table.get("id") for table in _tables(text)]
    if values["id"] in names:
        raise InvalidRequest(f"{settings.config_file} has a subscription {values['id']!r}; choose another id.")
    values = dict(values)
    if isinstance(config_dir := values.get("config_dir"), str):
        values |= _dir(Path(config_dir).expanduser().absolute(), env)
    elif "api_key_env" not in values and "oauth_token_env" not in values:
        values["config_dir"] = f"~/.claude-{values['id']}"
    # A file without subscriptions stands for the CLI's own login, and would cease to with the first one in it.
    implied = not names and values["id"] != "default" and _own_login(settings, env).signed_in
    if implied:
        text = _append(text or HEADER, "[[subscriptions]]", {"id": "default"})
    order = ("id", "config_dir", "api_key_env", "oauth_token_env", "plan")
    text = _append(text or HEADER, "[[subscriptions]]", {name: values[name] for name in order if values.get(name)})
    return _checked(text, env), implied


def remove(settings: Settings, text: str, subscription_id: str, env: Mapping[str, str]) -> str:
    """The text without one subscription.

    Raises:
        InvalidRequest: there is none of that id, or it is the last one.
    """
    names = [table.get("id") for table in _tables(text)]
    if subscription_id not in names:
        there = f"there are: {', '.join(map(str, names))}" if names else "it lists none"
        raise InvalidRequest(f"{settings.config_file} has no subscription {subscription_id!r}; {there}.")
    if len(names) == 1:
        raise InvalidRequest(
            f"{subscription_id!r} is the only subscription in {settings.config_file}; add another one first."
        )
    try:
        text = toml_text.remove(
            text, lambda path, values: path == ("subscriptions",) and values.get("id") == subscription_id
        )
    except ValueError as error:
        raise InvalidRequest(f"{settings.config_file}: {error}; edit it by hand.") from None
    if any(table.get("id") == subscription_id for table in _tables(text)):
        raise InvalidRequest(f"{settings.config_file}: {subscription_id!r} is not in a table of its own; edit by hand.")
    return _checked(text, env)


def _config_dirs(env: Mapping[str, str]) -> list[Path | None]:
    """The CLI's own directory, the one that the environment names, and what lies beside the first."""
    home = _home(env)
    result: list[Path | None] = [None]
    named = env.get("CLAUDE_CONFIG_DIR")
    beside = sorted(path for path in home.glob(".claude-*") if path.is_dir())
    for path in [*([Path(named).expanduser().absolute()] if named else []), *beside]:
        if _place(path, env) not in {_place(one, env) for one in result}:
            result.append(path)
    return result


def _place(config_dir: Path | None, env: Mapping[str, str]) -> Path:
    return (config_dir or _home(env) / ".claude").resolve()


def _home(env: Mapping[str, str]) -> Path:
    return Path(env.get("HOME") or Path.home())


def _dir(config_dir: Path | None, env: Mapping[str, str]) -> dict[str, object]:
    """The setting for a directory, written from the home directory on where it is in there."""
    if config_dir is None:
        return {}
    home = _home(env)
    inside = config_dir.is_relative_to(home)
    return {"config_dir": f"~/{config_dir.relative_to(home)}" if inside else str(config_dir)}


def _free_id(config_dir: Path | None, taken: list[str]) -> str:
    name = "default" if config_dir is None else re.sub(r"^\.?claude-", "", config_dir.name)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:60] or "claude"
    return next(one for one in [name, *(f"{name}-{n}" for n in range(2, 1000))] if one not in taken)


def _own_login(settings: Settings, env: Mapping[str, str]) -> Login:
    try:
        return login_of(find_cli(settings.claude.path, env), _subscription(None), env)
    except CliMissing:
        return Login(signed_in=False)


def _subscription(config_dir: Path | None) -> Subscription:
    return Subscription("", config_dir, None, None, "", 1, 1, 0, 1, enabled=True)


def _is_found_by_all(cli: Path, env: Mapping[str, str]) -> bool:
    """Whether a host with a short PATH finds this same CLI."""
    try:
        return find_cli("claude", {**env, "PATH": hosts.SHORT_PATH}) == cli
    except CliMissing:
        return False


def _tables(text: str, key: str = "subscriptions") -> list[dict[str, Any]]:
    found = tomllib.loads(text).get(key, [])
    return found if isinstance(found, list) else [found]


def _append(text: str, header: str, values: Mapping[str, object], above: str = "") -> str:
    try:
        return toml_text.append(text, header, values, above=above)
    except ValueError as error:
        raise InvalidRequest(f"pool.toml takes no {header} after what is in it ({error}); edit it by hand.") from None


def _checked(text: str, env: Mapping[str, str]) -> str:
    load(env, text)
    return text
