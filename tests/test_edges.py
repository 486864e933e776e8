"""Edges that no package owns: what is waited for, what stands in the way of a folder, any terminal."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import make_home

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "pool_mcp"]


def pool(env: dict[str, str], *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], env={**env, **more}, capture_output=True, text=True, check=False)


# The disk


@pytest.mark.parametrize("what", ["file", "loop"])
def test_something_in_the_place_of_the_runs_folder_is_said_and_doctor_moves_it(tmp_path: Path, what: str) -> None:
    settings, env = make_home(tmp_path)
    if what == "file":
        settings.runs_dir.touch()
    else:
        settings.runs_dir.symlink_to(settings.runs_dir.name)
    asked = pool(env, "ask", "hello")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert "Traceback" not in asked.stderr
    assert asked.stderr.splitlines()[-1].endswith("; run `pool-mcp doctor`.")
    doctor = pool(env, "doctor")
    assert "pool/runs is not a folder" in doctor.stdout
    fix = next(line.strip() for line in doctor.stdout.splitlines() if line.strip().startswith("mv "))
    subprocess.run(["/bin/sh", "-c", fix], check=True)
    assert "is not a folder" not in pool(env, "doctor").stdout


@pytest.mark.parametrize("columns", ["1", "12", "16", "40"])
def test_doctor_has_room_on_any_terminal(tmp_path: Path, columns: str) -> None:
    _, env = make_home(tmp_path)
    assert "Traceback" not in pool(env, "doctor", COLUMNS=columns).stderr


def test_a_backup_name_that_no_disk_takes_is_refused_in_one_line(tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    said = pool(env, "ledger", "backup", str(tmp_path / ("x" * 300))).stderr
    assert "File name too long" in said
    assert "Traceback" not in said


# Waits

_WAITS = {
    "OTLPMetricExporter",
    "subprocess.run",
    "subprocess.Popen",
    "sqlite3.connect",
    "psycopg.connect",
    "httpx2.AsyncClient",
    "select.select",
    "child.wait",
}
_BOUNDED_BY = {"subprocess.run": "timeout", "httpx2.AsyncClient": "timeout", "OTLPMetricExporter": "timeout"}


def waits() -> dict[str, list[ast.Call]]:
    """Calls that wait for something outside, by module."""
    package = ROOT / "src" / "pool_mcp"
    found: dict[str, list[ast.Call]] = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _is_wait(node):
                found.setdefault(str(path.relative_to(package)), []).append(node)
    return found


def _is_wait(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name == "fcntl.flock":
        return not re.search("LOCK_NB|LOCK_UN", ast.unparse(call.args[1]))
    return name in _WAITS or name.endswith(("_thread.join", "run_process"))


def test_every_wait_for_something_outside_is_bounded_and_on_the_list() -> None:
    found = waits()
    document = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = document[document.index("## What is waited for outside") : document.index("## Decisions")]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert sorted(found) == sorted(name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row))
    for module, calls in found.items():
        for call in calls:
            needed = _BOUNDED_BY.get(ast.unparse(call.func))
            assert needed is None or needed in {one.arg for one in call.keywords}, f"{module}: {ast.unparse(call)}"
