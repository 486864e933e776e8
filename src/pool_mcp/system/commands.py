"""Other programs' commands that are run to their end: the CLI's sign-in and status, a host's own configuration."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended and what it said; exit code 127 where it could not be run, 124 where it took too long."""

    code: int
    stdout: str
    stderr: str


def run(command: Sequence[str], env: Mapping[str, str], timeout_s: float = 60.0, cwd: Path | None = None) -> Finished:
    """Run a command that asks nothing and says little."""
    try:
        done = subprocess.run(
            list(command),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        return Finished(127, "", f"{command[0]}: {error.strerror or error}")
    except subprocess.TimeoutExpired:
        return Finished(124, "", f"{command[0]} did not end within {timeout_s:.0f} s")
    return Finished(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def run_attached(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a command on the person's own terminal, for as long as it takes; its exit code.

    Ctrl-C reaches the command, which decides what that means; here it is waited for all the same.
    """
    try:
        child = subprocess.Popen(list(command), env=dict(env))
    except OSError:
        return 127
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue
