"""Who is signed in under a config dir, and the CLI's own sign-in there. No credential passes through here."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pool_mcp.claude.process import environment
from pool_mcp.claude.stream import usage_readings
from pool_mcp.errors import CliFailed
from pool_mcp.model import Subscription, WindowReading
from pool_mcp.system import commands
from pool_mcp.system.commands import Finished

STATUS_TIMEOUT_S = 20.0
"""How long the CLI may take to tell who is signed in; it takes about 0.1 s."""

USAGE_TIMEOUT_S = 20.0
"""How long the CLI may take to tell what it knows of the limits; it takes about half a second."""

_FOR_A_BROWSER = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_CURRENT_DESKTOP", "SSH_CONNECTION")


@dataclass(frozen=True, slots=True)
class Login:
    """What the CLI says of itself under a config dir, key or token."""

    signed_in: bool
    email: str = ""
    organization_id: str = ""
    organization: str = ""
    plan: str = ""

    @property
    def who(self) -> str:
        """The login in a few words."""
        return " · ".join(part for part in (self.email or self.organization, self.plan) if part) or "signed in"

    def shares_quota_with(self, other: "Login") -> bool:
        """Whether both draw on one quota: it belongs to the organisation (Claude Code's documentation)."""
        return bool(self.organization_id) and self.organization_id == other.organization_id


def login_of(
    cli: Path, subscription: Subscription, env: Mapping[str, str], run: Callable[..., Finished] = commands.run
) -> Login:
    """Ask the CLI (``claude auth status``: about 0.3 s, costs nothing, asks nobody else).

    Raises:
        CliFailed: the CLI said nothing that can be understood.
    """
    done = run([str(cli), "auth", "status"], _environment(subscription, env), STATUS_TIMEOUT_S)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        said = None
    if not isinstance(said, dict) or "loggedIn" not in said:
        about = (done.stderr or done.stdout).strip().splitlines()
        raise CliFailed(
            f"`{cli} auth status` gave no answer ({about[-1] if about else f'exit code {done.code}'}); "
            "run `claude update` and try again."
        )
    return Login(
        signed_in=said["loggedIn"] is True,
        email=_text(said, "email"),
        organization_id=_text(said, "orgId"),
        organization=_text(said, "orgName"),
        plan=_text(said, "planTier") or _text(said, "subscriptionType"),
    )


def written_at_ms(config_dir: Path) -> int | None:
    """When the CLI last wrote a login under a config dir, or None where it keeps it elsewhere (macOS: the keychain).

    The file itself is never opened.
    """
    try:
        return int((config_dir / ".credentials.json").stat().st_mtime * 1000)
    except OSError:
        return None


def usage_of(
    cli: Path,
    subscription: Subscription,
    env: Mapping[str, str],
    base_url: str,
    cwd: Path,
    clock: Callable[[], int],
    timeout_s: float = USAGE_TIMEOUT_S,
    run: Callable[..., Finished] = commands.run,
) -> list[WindowReading]:
    """What the CLI's own ``/usage`` tells of a stored login's windows; it asks no model. Empty where it tells nothing.

    Experimental by the CLI's own naming, so nothing it does or leaves out is an error.
    """
    arguments = ["-p", "/usage", "--output-format", "stream-json", "--verbose", "--no-session-persistence"]
    arguments += ["--tools=", "--strict-mcp-config", "--setting-sources="]
    child = _environment(subscription, env, base_url)
    del child["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"]  # which asking for the limits counts as
    child["DISABLE_TELEMETRY"] = "1"
    done = run([str(cli), *arguments], child, timeout_s=timeout_s, cwd=cwd)
    return usage_readings(done.stdout, clock())


def sign_in(cli: Path, subscription: Subscription, env: Mapping[str, str]) -> int:
    """Run the CLI's own sign-in on the person's terminal; its exit code."""
    child = _environment(subscription, env)
    child.pop("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", None)  # the account's name and plan are asked for, too
    child |= {name: env[name] for name in _FOR_A_BROWSER if name in env}
    return commands.run_attached([str(cli), "auth", "login"], child)


def cli_version(cli: Path, env: Mapping[str, str], run: Callable[..., Finished] = commands.run) -> str:
    """The CLI's version, such as ``2.1.330``; empty where it does not say."""
    words = run([str(cli), "--version"], env).stdout.split()
    return words[0] if words else ""


def _environment(subscription: Subscription, env: Mapping[str, str], base_url: str = "") -> dict[str, str]:
    return environment(
        env,
        config_dir=subscription.config_dir,
        api_key_env=subscription.api_key_env,
        oauth_token_env=subscription.oauth_token_env,
        base_url=base_url,
        attachments=False,
    )


def _text(said: Mapping[str, object], key: str) -> str:
    value = said.get(key)
    return value if isinstance(value, str) else ""
