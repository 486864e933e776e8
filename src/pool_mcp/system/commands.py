"""Other programs' commands that are run to their end: the CLI's sign-in and status, hosts' configuration, notices."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended and what it said; exit code 127 where it could not be run, 124 where it took too long."""

    code: int
    stdout: str
    stderr: str


class Commands:
    """Commands that ask nothing and say little, which can be ended all at once. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_ended = False

    def run(
        self, command: Sequence[str], env: Mapping[str, str], timeout_s: float = 60.0, cwd: Path | None = None
    ) -> Finished:
        """Run a command to its end, or kill it with whatever it has started when its time is over."""
        try:
            child = self._start(command, env, cwd)
        except OSError as error:
            return Finished(127, "", f"{command[0]}: {error.strerror or error}")
        if child is None:
            return Finished(130, "", f"{command[0]} was not run: the process is about to end")
        with child:
            try:
                stdout, stderr = child.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                return Finished(124, "", f"{command[0]} did not end within {timeout_s:.0f} s")
            finally:
                _kill(child)
                with self._lock:
                    self._running.discard(child)
        return Finished(child.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def end(self) -> None:
        """Kill every command that runs, and start no other."""
        with self._lock:
            self._is_ended = True
            for child in self._running:
                _kill(child)

    def _start(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None
    ) -> "subprocess.Popen[bytes] | None":
        with self._lock:
            if self._is_ended:
                return None
            child = subprocess.Popen(
                list(command),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            self._running.add(child)
            return child


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """Kill a command with its process group; nothing where it has ended."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


run = Commands().run
"""Run a command that nothing ends early."""


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


async def feed(command: Sequence[str], env: Mapping[str, str], stdin: bytes, timeout_s: float) -> int:
    """Give a command a small input; its exit code, 127 where it could not be run, 124 where it took too long.

    What it prints goes nowhere. When it is late, or the call is cancelled, it is killed with all that it has started.
    """
    quiet = subprocess.DEVNULL
    try:
        child = await anyio.open_process(
            list(command), env=dict(env), stdout=quiet, stderr=quiet, start_new_session=True
        )
    except OSError:
        return 127
    try:
        with anyio.move_on_after(timeout_s):
            await _write(child, stdin)
            return await child.wait()
        return 124
    finally:
        with anyio.CancelScope(shield=True):
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            with anyio.move_on_after(1):
                await child.wait()
                await child.aclose()


async def _write(child: anyio.abc.Process, stdin: bytes) -> None:
    assert child.stdin is not None, "it is a pipe"
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await child.stdin.send(stdin)  # a command may end without reading it
    with contextlib.suppress(OSError, anyio.BrokenResourceError):
        await child.stdin.aclose()
