"""Plants realistic faults in the money path, one at a time, runs the tests of their module, and says which are caught.

    python benchmarks/mutants.py                      all; prints the survivors and the score
    python benchmarks/mutants.py --only selection     those whose name, which begins with the module, has this in it
    python benchmarks/mutants.py --reverts            faults that there once were, against the simulator alone
    python benchmarks/mutants.py --check              only whether every fault still has its place

The faults are in ``mutants.toml``, with those that nobody could notice, and why.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "pool_mcp"
SIMULATOR = ("tests/asks/test_money_simulator.py",)


class Fault(NamedTuple):
    """A piece of a module, and what stands there instead."""

    module: str
    what: str
    before: str
    after: str

    @property
    def name(self) -> str:
        """Names it and no other."""
        return f"{self.module}: {self.what}"


PLANTED = tomllib.loads((ROOT / "benchmarks" / "mutants.toml").read_text())
TESTS: dict[str, list[str]] = PLANTED["tests"]
HARMLESS: dict[str, str] = PLANTED["harmless"]
FAULTS = tuple(Fault(**one) for one in PLANTED["fault"])
REVERTS = tuple(Fault(**one) for one in PLANTED.get("revert", ()))


def misplaced() -> dict[str, str]:
    """The faults whose place is gone, or is no longer the only one of its kind, or whose code would not compile."""
    wrong = {}
    for fault in (*FAULTS, *REVERTS):
        file = SOURCE / fault.module
        text = file.read_text() if file.exists() else ""
        if text.count(fault.before) != 1:
            wrong[fault.name] = f"{fault.name}: its place is there {text.count(fault.before)} times"
            continue
        try:
            compile(text.replace(fault.before, fault.after), fault.module, "exec")
        except SyntaxError as error:
            wrong[fault.name] = f"{fault.name}: {error}"
    known = {fault.name for fault in FAULTS}
    return wrong | {name: f"{name}: no such fault" for name in HARMLESS if name not in known}


class Overlay:
    """A copy of the package that comes before the real one, with one fault in it at a time."""

    def __init__(self, folder: Path) -> None:
        self._package = folder / "pool_mcp"
        shutil.copytree(SOURCE, self._package, ignore=shutil.ignore_patterns("__pycache__"))
        self._env = {**os.environ, "PYTHONPATH": str(folder)}
        self._stamp_s = 1_000_000_000

    def is_caught(self, fault: Fault, tests: tuple[str, ...], timeout_s: float) -> bool:
        """Whether a test fails, or hangs, with the fault in place."""
        file = self._package / fault.module
        text = file.read_text()
        try:
            self._write(file, text.replace(fault.before, fault.after))
            return not self.passes(tests, timeout_s)
        finally:
            self._write(file, text)

    def passes(self, tests: tuple[str, ...], timeout_s: float) -> bool:
        """Whether the tests pass with the package as it stands."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode not in (0, 1, 2):
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        return done.returncode == 0

    def _write(self, file: Path, text: str) -> None:
        file.write_text(text)
        self._stamp_s += 1
        os.utime(file, (self._stamp_s, self._stamp_s))  # or the compiled code of the fault before would be taken


def play(faults: tuple[Fault, ...], tests: tuple[str, ...] | None, timeout_s: float) -> Iterator[tuple[Fault, bool]]:
    """Each fault, and whether it was caught."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        overlay = Overlay(Path(folder))
        for own in sorted({tests or tuple(TESTS[fault.module]) for fault in faults}):
            assert overlay.passes(own, timeout_s), f"without a fault, too, a test fails: {' '.join(own)}"
        for fault in faults:
            began_s = time.monotonic()
            caught = overlay.is_caught(fault, tests or tuple(TESTS[fault.module]), timeout_s)
            print(
                f"{'caught  ' if caught else 'SURVIVED'} {time.monotonic() - began_s:6.1f} s  {fault.name}", flush=True
            )
            yield fault, caught


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a fault's name, which begins with its module")
    parser.add_argument("--reverts", action="store_true", help="old faults, against the simulator")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the tests of one fault")
    options = parser.parse_args()
    wrong = misplaced()
    print("\n".join(wrong.values()))
    if options.check:
        sys.exit(bool(wrong))
    planted = REVERTS if options.reverts else FAULTS
    chosen = tuple(one for one in planted if options.only in one.name and one.name not in wrong)
    results = dict(play(chosen, SIMULATOR if options.reverts else None, options.timeout))
    survivors = [fault for fault, caught in results.items() if not caught]
    harmful = [fault for fault in survivors if fault.name not in HARMLESS]
    for fault in survivors:
        print(f"\n{fault.name}: {HARMLESS.get(fault.name, 'nothing is known that would make it harmless')}")
    counted = len(results) - (len(survivors) - len(harmful))
    caught = len(results) - len(survivors)
    print(
        f"\n{caught} of {counted} caught ({100 * caught / max(1, counted):.1f}%), "
        f"{len(survivors) - len(harmful)} harmless, {len(harmful)} not caught"
    )
    sys.exit(bool(harmful))


if __name__ == "__main__":
    main()
