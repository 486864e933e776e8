"""The check of what is locked: a license that is not on the list fails, and so does a known vulnerability."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "locked.py"

_spec = importlib.util.spec_from_file_location("locked", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
locked: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(locked)


def checked(tmp_path: Path, uv: str, *arguments: str) -> tuple[int, str]:
    """Run the script with a program in uv's place, which makes the list and asks; the last line."""
    program = tmp_path / "uv"
    program.write_text(f"#!/bin/sh\ntest $1 = export && exit\n{uv}\n")
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(SCRIPT), *arguments]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.startswith("licenses: "), ran.stderr
    return ran.returncode, ran.stdout.splitlines()[-1]


def answer(*packages: dict[str, Any]) -> str:
    return f"echo '{json.dumps({'dependencies': packages})}'"


SOUND: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
VULNERABLE: dict[str, Any] = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
SKIPPED: dict[str, Any] = {"name": "c", "skip_reason": "not found"}
OFFLINE = "echo 'requests.exceptions.ConnectionError: Failed to resolve' >&2; exit 1"


@pytest.mark.parametrize(
    ("uv", "arguments", "expected"),
    [
        (answer(SOUND), (), (0, "vulnerabilities: 0 known in 1 packages")),
        (answer(SOUND, VULNERABLE), (), (1, "vulnerabilities: 1 known in 2 packages")),
        (answer(SOUND, SKIPPED), (), (0, "vulnerabilities: 0 known in 1 packages; not checked: c")),
        (answer(SOUND, SKIPPED), ("--must-check",), (1, "vulnerabilities: 0 known in 1 packages; not checked: c")),
        (OFFLINE, (), (0, "vulnerabilities: not checked: no network (the vulnerability service cannot be reached)")),
        (
            OFFLINE,
            ("--must-check",),
            (1, "vulnerabilities: not checked: no network (the vulnerability service cannot be reached)"),
        ),
        ("echo 'TypeError: x' >&2; exit 1", (), (1, "TypeError: x")),
    ],
)
def test_what_is_vulnerable_or_not_checked_is_said_and_never_passed_over(
    tmp_path: Path, uv: str, arguments: tuple[str, ...], expected: tuple[int, str]
) -> None:
    assert checked(tmp_path, uv, *arguments) == expected


@pytest.mark.parametrize(
    ("name", "expression", "allowed"),
    [
        ("a", "MIT", True),
        ("a", "GPL-3.0-only", False),
        ("a", "GPL-3.0-only OR MIT", True),
        ("a", "BSD-3-Clause AND (MIT)", True),
        ("a", "MIT AND AGPL-3.0-or-later", False),
        ("psycopg", "LGPL-3.0-only", True),
        ("a", "LGPL-3.0-only", False),
        ("a", "none at all", False),
    ],
)
def test_a_license_is_allowed_by_name(name: str, expression: str, allowed: bool) -> None:
    assert locked.is_allowed(name, expression) is allowed


def test_a_license_that_is_not_on_the_list_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locked.check_licenses(locked.locked())
    monkeypatch.setattr(locked, "ALLOWED", locked.ALLOWED - {"MIT"})
    assert not locked.check_licenses(locked.locked())
    assert "license not allowed: anyio: MIT" in capsys.readouterr().out


def test_on_github_nothing_may_be_left_unchecked() -> None:
    workflow = (SCRIPT.parents[1] / ".github" / "workflows" / "locked.yml").read_text(encoding="utf-8")
    assert ".ci/locked.py --must-check" in workflow
