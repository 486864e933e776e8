"""Reads ``pool.toml`` and the environment into one frozen value, or says in one line what is wrong there.

Names of environment variables that hold keys are settings; the keys themselves are read only where a child process
is started, and are kept nowhere.
"""

import difflib
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from pool_mcp.choices import NOTICE_KINDS, NoticeKind, Spares, Strategy, ToolProfile
from pool_mcp.choosing.kept import ALL_WINDOWS
from pool_mcp.errors import InvalidRequest, SettingsError
from pool_mcp.model import NANO, Budget, CallerBudget, DayHours, Subscription
from pool_mcp.system import places
from pool_mcp.values import (
    Argument,
    BaseUrl,
    DatabaseUrl,
    DayHoursText,
    EnvName,
    HeaderName,
    KeepPercent,
    Place,
    Receiver,
    Usd,
    Words,
    host_of,
    no_secret,
    read_usd,
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClaudeSettings(_Section):
    """``[claude]``: how the CLI is found and run."""

    path: Place = "claude"
    inline_wait_s: Annotated[float, Field(gt=0, le=3600)] = 45
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 1800
    tool_profile: ToolProfile = "none"
    base_url: BaseUrl = ""
    allowed_dirs: Annotated[tuple[Place, ...], Field(strict=False)] | None = None
    keep_answers_days: Annotated[float, Field(gt=0, le=3650)] = 7
    spares: Spares = "auto"
    spare_ttl_s: Annotated[float, Field(gt=0, le=3600)] = 120
    max_waiting: Annotated[int, Field(ge=0, le=100_000)] = 100


class SubscriptionSettings(_Section):
    """``[[subscriptions]]``: one login, token or key of the person's own."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"), AfterValidator(no_secret)]
    config_dir: Place | None = None
    api_key_env: EnvName | None = None
    console_key_id: Annotated[str, Field(pattern=r"^apikey_[A-Za-z0-9]{1,64}$")] | None = None
    oauth_token_env: EnvName | None = None
    plan: Words = ""
    weekly_budget_usd: Usd | None = None
    block_budget_usd: Usd | None = None
    priority: int = 0
    max_in_flight: Annotated[int, Field(ge=1, le=1000)] = 15
    enabled: bool = True
    overage_budget_usd: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = 0
    keep_percent: KeepPercent = 0
    keep_hours: DayHoursText | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "SubscriptionSettings":
        if self.api_key_env and self.oauth_token_env:
            raise ValueError("has both api_key_env and oauth_token_env; keep one")
        if self.keep_percent and self.api_key_env:
            raise ValueError("has keep_percent and api_key_env; a key has no windows of which to keep a part")
        if self.keep_hours and not self.keep_percent:
            raise ValueError("has keep_hours without keep_percent; set that, too")
        return self

    @property
    def kept(self) -> dict[str, float]:
        """What is kept, by window or ``*``."""
        kept = self.keep_percent
        return dict(kept) if isinstance(kept, dict) else {ALL_WINDOWS: kept} if kept else {}


class CallerSettings(_Section):
    """``[callers.NAME]``: what one agent may spend."""

    daily_budget_usd: Usd | None = None
    weekly_budget_usd: Usd | None = None
    monthly_budget_usd: Usd | None = None
    share: Annotated[float, Field(gt=0, le=100)] | None = None
    models: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")], ...], Field(strict=False)] = ()


class ProjectSettings(_Section):
    """``[projects.NAME]``: what may be spent in one repository, by the name of its root."""

    daily_budget_usd: Usd | None = None
    weekly_budget_usd: Usd | None = None
    monthly_budget_usd: Usd | None = None


class AdminSettings(_Section):
    """``[admin]``: where the organisation's reports are read from."""

    api_key_env: EnvName = "ANTHROPIC_ADMIN_KEY"
    base_url: BaseUrl = ""


class LedgerSettings(_Section):
    """``[ledger]``: where the ledger is; without a URL it is a file."""

    url: DatabaseUrl = ""


class NotifySettings(_Section):
    """``[[notify]]``: somebody who is sent notices, by HTTP or by a command."""

    url: Receiver | None = None
    command: Annotated[tuple[Argument, ...], Field(strict=False, min_length=1)] | None = None
    kind: Literal["webhook", "ntfy"] = "webhook"
    on: Annotated[tuple[NoticeKind, ...], Field(strict=False, min_length=1)] = NOTICE_KINDS
    headers: dict[HeaderName, EnvName] = {}
    quiet_hours: DayHoursText | None = None
    digest_s: Annotated[int, Field(ge=0, le=3600)] = 60

    @model_validator(mode="after")
    def _one_way(self) -> "NotifySettings":
        if (self.url is None) == (self.command is None):
            raise ValueError("needs either url or command")
        if self.command is not None and (self.headers or self.kind != "webhook"):
            raise ValueError("headers and kind belong to a url; a command gets the JSON on stdin")
        return self

    @property
    def name(self) -> str:
        """What it is called in the ledger and for a person; an address may be a secret and is not in it."""
        whole = self.url or "\0".join(self.command or ())
        return f"{self.where} {hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    @property
    def where(self) -> str:
        """The host of the address, or the name of the program."""
        return host_of(self.url) if self.url else Path((self.command or ("",))[0]).name


class MetricsSettings(_Section):
    """``[metrics]``: where gauges are sent by OTLP/HTTP."""

    otlp_endpoint: BaseUrl = ""
    headers: dict[HeaderName, EnvName] = {}
    interval_s: Annotated[float, Field(ge=1, le=3600)] = 60


class _File(_Section):
    """The whole of ``pool.toml``."""

    strategy: Strategy = "headroom"
    weekly_budget_usd: Usd = 456.0
    block_budget_usd: Usd = 25.0
    claude: ClaudeSettings = ClaudeSettings()
    subscriptions: Annotated[tuple[SubscriptionSettings, ...], Field(strict=False)] = (
        SubscriptionSettings(id="default"),
    )
    callers: dict[Words, CallerSettings] = {}
    projects: dict[Words, ProjectSettings] = {}
    admin: AdminSettings = AdminSettings()
    ledger: LedgerSettings = LedgerSettings()
    notify: Annotated[tuple[NotifySettings, ...], Field(strict=False)] = ()
    metrics: MetricsSettings = MetricsSettings()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the person has set, ready to use."""

    config_file: Path
    state_dir: Path
    strategy: Strategy
    claude: ClaudeSettings
    subscriptions: tuple[Subscription, ...]
    callers: Mapping[str, CallerBudget]
    admin: AdminSettings
    notify: tuple[NotifySettings, ...] = ()
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    projects: Mapping[str, Budget] = field(default_factory=dict)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)

    @property
    def ledger_path(self) -> Path:
        """The SQLite file."""
        return self.state_dir / "ledger.db"

    @property
    def runs_dir(self) -> Path:
        """Where each run has its directory."""
        return self.state_dir / "runs"

    @property
    def owners_dir(self) -> Path:
        """Where each running process holds its lock."""
        return self.state_dir / "owners"

    @property
    def wake_dir(self) -> Path:
        """Where each running process has the pipe on which others wake it."""
        return self.state_dir / "wake"

    def variables(self, env: Mapping[str, str]) -> list[str]:
        """The names of the variables that hold keys and tokens; the Admin key's only where it is set."""
        names = [name for one in self.subscriptions if (name := one.api_key_env or one.oauth_token_env)]
        names += [name for one in self.notify for name in one.headers.values()]
        names += self.metrics.headers.values()
        return [*names, *([self.admin.api_key_env] if places.read_env(env, self.admin.api_key_env) else [])]

    def subscription(self, subscription_id: str) -> Subscription:
        """The subscription of that id.

        Raises:
            InvalidRequest: there is none.
        """
        for subscription in self.subscriptions:
            if subscription.id == subscription_id:
                return subscription
        known = ", ".join(s.id for s in self.subscriptions)
        raise InvalidRequest(
            f"No subscription {subscription_id!r}; there are: {known}. Leave it out to let the pool choose."
        )


def load(env: Mapping[str, str], text: str | None = None) -> Settings:
    """Settings from ``pool.toml`` where there is one, else the defaults; or from what that file would say.

    Raises:
        SettingsError: the file or a variable is wrong; the message names file, key and what is allowed.
    """
    config_dir, state_dir = places.directories(env)
    config_file = config_dir / "pool.toml"
    content = _with_environment(_read_toml(config_file) if text is None else _parse_toml(config_file, text), env)
    try:
        parsed = _File.model_validate(content)
    except ValidationError as error:
        raise SettingsError(_explain(config_file, error)) from None
    return Settings(
        config_file=config_file,
        state_dir=state_dir,
        strategy=parsed.strategy,
        claude=parsed.claude,
        subscriptions=_subscriptions(config_file, state_dir, parsed, env),
        callers={
            name: CallerBudget(*_budgets(one), share_percent=one.share, models=one.models)
            for name, one in parsed.callers.items()
        },
        projects={name: Budget(*_budgets(one)) for name, one in parsed.projects.items()},
        admin=parsed.admin,
        ledger=parsed.ledger,
        notify=_receivers(config_file, parsed.notify),
        metrics=parsed.metrics,
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    return _parse_toml(path, text)


def _parse_toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise SettingsError(f"{path}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError is one; so is a number of thousands of digits
        raise SettingsError(f"{path}: not valid TOML: {error}") from None


def _with_environment(content: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """Lay the host's own settings (Claude Desktop's form) over the file."""
    if path := places.read_env(env, "POOL_MCP_CLAUDE_PATH"):
        claude = content.get("claude", {})
        content = {**content, "claude": {**claude, "path": path} if isinstance(claude, dict) else claude}
    if budget := places.read_env(env, "POOL_MCP_WEEKLY_BUDGET_USD"):
        try:
            content = {**content, "weekly_budget_usd": read_usd(budget)}
        except ValidationError:
            raise SettingsError(
                f"POOL_MCP_WEEKLY_BUDGET_USD is {budget!r}; it must be a number of dollars, such as 456"
            ) from None
    return content


def _subscriptions(
    config_file: Path, state_dir: Path, parsed: _File, env: Mapping[str, str]
) -> tuple[Subscription, ...]:
    if not parsed.subscriptions:
        raise SettingsError(f"{config_file}: subscriptions: at least one [[subscriptions]] table is needed")
    result: list[Subscription] = []
    for one in parsed.subscriptions:
        config_dir = _config_dir(config_file, state_dir, one)
        for earlier in result:
            if earlier.id == one.id:
                raise SettingsError(f"{config_file}: subscriptions: two have the id {one.id!r}; ids are unique")
            if earlier.config_dir == config_dir:
                raise SettingsError(
                    f"{config_file}: subscriptions: {earlier.id!r} and {one.id!r} share the config_dir "
                    f"{config_dir or '(the default)'}; each login needs its own"
                )
        result.append(
            Subscription(
                id=one.id,
                config_dir=config_dir,
                api_key_env=one.api_key_env,
                console_key_id=one.console_key_id,
                oauth_token_env=one.oauth_token_env,
                plan=one.plan,
                weekly_budget_nanousd=round((one.weekly_budget_usd or parsed.weekly_budget_usd) * NANO),
                block_budget_nanousd=round((one.block_budget_usd or parsed.block_budget_usd) * NANO),
                week_is_default=one.weekly_budget_usd is None and "weekly_budget_usd" not in parsed.model_fields_set,
                block_is_default=one.block_budget_usd is None and "block_budget_usd" not in parsed.model_fields_set,
                priority=one.priority,
                max_in_flight=one.max_in_flight,
                enabled=one.enabled,
                overage_budget_nanousd=round(one.overage_budget_usd * NANO),
                keep_percent=one.kept,
                keep_hours=_day_hours(one.keep_hours, env),
            )
        )
    return tuple(result)


def _day_hours(span: str | None, env: Mapping[str, str]) -> DayHours | None:
    if span is None:
        return None
    begin, end = (int(one[:2]) * 60 + int(one[3:]) for one in span.split("-"))
    return DayHours(begin, end, places.time_zone(env))


def _receivers(config_file: Path, notify: tuple[NotifySettings, ...]) -> tuple[NotifySettings, ...]:
    names = [one.name for one in notify]
    if twice := next((one for one in notify if names.count(one.name) > 1), None):
        raise SettingsError(f"{config_file}: notify: two are for the same receiver at {twice.where}; make them one")
    return notify


def _config_dir(config_file: Path, state_dir: Path, one: SubscriptionSettings) -> Path | None:
    has_credential = bool(one.api_key_env or one.oauth_token_env)
    try:
        return places.config_dir(one.config_dir, one.id, config_file.parent, state_dir, has_credential=has_credential)
    except RuntimeError:
        raise SettingsError(
            f"{config_file}: subscriptions: config_dir of {one.id!r}: there is no home directory for "
            f"{one.config_dir!r}; write the whole path"
        ) from None


def _budgets(one: CallerSettings | ProjectSettings) -> tuple[int | None, int | None, int | None]:
    return _nano(one.daily_budget_usd), _nano(one.weekly_budget_usd), _nano(one.monthly_budget_usd)


def _nano(usd: float | None) -> int | None:
    return None if usd is None else round(usd * NANO)


def _explain(path: Path, error: ValidationError) -> str:
    """The first problem of a file as one line: file, key, what is wrong, what is allowed."""
    problem = error.errors()[0]
    location = [part for part in problem["loc"] if part not in ("__root__", "[key]")]
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        allowed = sorted(_section_at(location[:-1]).model_fields)
        near = [name for name in (f"{location[-1]}_env",) if name in allowed]  # a key where its variable belongs
        near = near or difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{path}: {key}: unknown key{hint}; allowed here: {', '.join(allowed)}"
    if problem["type"] in ("model_type", "dict_type", "tuple_type"):
        lists = ("subscriptions", "notify")
        form = next((f"[[{name}]]" for name in lists if key.startswith(name)), f"[{key}]")
        return f"{path}: {key}: must be a table, written {form}"
    if (
        key.endswith("_env") or ".headers." in key
    ):  # what is there instead of a name may be the key itself, which is never repeated
        return f"{path}: {key}: must be the name of an environment variable (letters, digits, _), never a key itself"
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if key.endswith("url") else _shown(problem.get("input"))
    return f"{path}: {key or 'subscriptions'}: {message[:1].lower()}{message[1:]}{shown}"


def _shown(given: object) -> str:
    """What stands there, where it is short: a long word may be a key of a form that nobody here knows."""
    if isinstance(given, bool):
        return f", not {str(given).lower()}"
    if isinstance(given, float) or (isinstance(given, int) and abs(given) < 1e20):
        return f", not {given!r}"
    return f", not {given!r}" if isinstance(given, str) and len(given) <= 24 else ""


def _section_at(location: list[int | str]) -> type[_Section]:
    sections: dict[str, type[_Section]] = {
        "claude": ClaudeSettings,
        "subscriptions": SubscriptionSettings,
        "callers": CallerSettings,
        "projects": ProjectSettings,
        "admin": AdminSettings,
        "ledger": LedgerSettings,
        "notify": NotifySettings,
        "metrics": MetricsSettings,
    }
    return sections[str(location[0])] if location else _File


def shown(settings: Settings) -> dict[str, Any]:
    """The settings in force as they would stand in pool.toml; no key or token is among them."""
    return {
        "": {"strategy": settings.strategy},
        "claude": settings.claude.model_dump(),
        "subscriptions": [_as_settings(one) for one in settings.subscriptions],
        "callers": {name: _as_settings(one) for name, one in settings.callers.items()},
        "projects": {name: _as_settings(one) for name, one in settings.projects.items()},
        "admin": settings.admin.model_dump(),
        "ledger": settings.ledger.model_dump(),
        "notify": [_as_receiver(one) for one in settings.notify],
        "metrics": settings.metrics.model_dump(),
    }


def _as_receiver(one: NotifySettings) -> dict[str, Any]:
    """A receiver's settings; of its address, which may be a secret, only the host."""
    found = one.model_dump(mode="json", exclude_none=True)
    return {**found, "url": f"https://{one.where}/…"} if one.url else found


def _as_settings(noun: Subscription | Budget) -> dict[str, Any]:
    """A noun's fields as settings: dollars, and paths as text; without what is not set."""
    found: dict[str, Any] = {}
    for name, value in ((one.name, getattr(noun, one.name)) for one in fields(noun)):
        if value is None or value in ({}, ()):
            continue
        if name == "share_percent":
            found["share"] = value
        elif name == "keep_percent":
            found[name] = value.get(ALL_WINDOWS, value)
        elif name == "keep_hours":
            found[name] = "-".join(f"{at // 60:02}:{at % 60:02}" for at in (value.begin_minute, value.end_minute))
        elif name.endswith("_nanousd"):
            found[name.replace("_nanousd", "_budget_usd" if "budget" not in name else "_usd")] = value / NANO
        else:
            found[name] = str(value) if isinstance(value, Path) else value
    return found
