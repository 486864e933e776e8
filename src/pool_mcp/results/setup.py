"""The way in as it leaves the program: what was set up, and the health of an installation."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from pool_mcp.results.base import Shape
from pool_mcp.results.ledger import ImportResult
from pool_mcp.results.status import StatusResult


class SettingsChange(Shape):
    """What a command did, or would do, to ``pool.toml``."""

    file: str
    changed: bool
    difference: str = ""


class LoginResult(Shape):
    """A config dir in which somebody may be signed in; null is the CLI's own."""

    config_dir: str | None
    subscription: str
    signed_in: bool
    who: str
    is_listed: bool = False
    shares_quota_with: str | None = None


class SetupResult(Shape):
    """What ``pool-mcp setup`` found and wrote, and the first look at it."""

    claude: str
    logins: list[LoginResult]
    settings: SettingsChange
    imported: ImportResult | None = None
    status: StatusResult | None = None
    next_steps: list[str]


class HostChange(Shape):
    """What was done, or would be, to one host's configuration."""

    host: str
    file: str
    changed: bool
    difference: str
    copy_of_before: str | None = None
    missing_variables: list[str] = Field(default_factory=list)


class HostsResult(Shape):
    """What was done, or would be, to hosts' configurations."""

    dry_run: bool
    hosts: list[HostChange]
    variables: list[str] = Field(description="Those that a server needs in its environment.")


class FindingResult(Shape):
    """One thing that was looked at, and the command that fixes it."""

    check: str
    status: Literal["ok", "note", "broken"]
    text: str
    fix: str | None = None


class DoctorResult(Shape):
    """The health of an installation; ``ok`` is false where something is broken."""

    ok: bool
    findings: list[FindingResult]


def ok(check: str, text: str) -> FindingResult:
    """Something that is well."""
    return FindingResult(check=check, status="ok", text=text)


def note(check: str, text: str, fix: str | None = None) -> FindingResult:
    """Something that a person may want to know or to change."""
    return FindingResult(check=check, status="note", text=text, fix=fix)


def broken(check: str, text: str, fix: str) -> FindingResult:
    """Something that is broken, and the command that fixes it."""
    return FindingResult(check=check, status="broken", text=text, fix=fix)


def doctor_result(findings: Sequence[FindingResult]) -> DoctorResult:
    """All that was looked at."""
    return DoctorResult(ok=all(one.status != "broken" for one in findings), findings=list(findings))
