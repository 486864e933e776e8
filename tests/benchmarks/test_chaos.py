"""A small edition of ``benchmarks/chaos.py``: real servers and CLIs, killed at random, and an exact record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"

FAULTS = (
    "lost",
    "doubled",
    "misplaced",
    "leaked",
    "orphaned",
    "unanswered",
    "contradicted",
    "ends_by_themselves",
    "without_reply",
    "audit_problems",
)


@pytest.mark.parametrize("seed", [3])
def test_whatever_happens_every_call_is_booked_once_and_every_ask_is_answered(tmp_path: Path, seed: int) -> None:
    command = [sys.executable, str(CHAOS), "--operations", "40", "--servers", "2", "--seed", str(seed), "--json"]
    done = subprocess.run(
        [*command, "--home", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert {fault: found[fault] for fault in FAULTS} == dict.fromkeys(FAULTS, 0), (found["wrong"], done.stderr)
    assert found["runs"] == found["exact"] + found["estimated"]
    assert found["runs"] > 10
    assert done.returncode == 0
