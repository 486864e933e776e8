"""The health of an installation as it leaves the program."""

from collections.abc import Sequence
from typing import Literal

from pool_mcp.results.base import Shape


class FindingResult(Shape):
    """One thing that was looked at, and the command that mends it."""

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
