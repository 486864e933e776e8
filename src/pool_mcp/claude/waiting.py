"""A CLI that is started before there is a prompt for it, and becomes a run's when there is one."""

import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pool_mcp.claude.process import CliProcess, RunFiles, pipe_bytes, spawn
from pool_mcp.system.private import make_directory


class WaitingCli:
    """A CLI that waits for its prompt on a pipe of which this process alone has the other end; it ends with that."""

    END_S = 2.0
    """How long a CLI whose pipe was closed may take to end; it takes 0.03 to 0.12 s once it has started."""

    def __init__(self, files: RunFiles, process: CliProcess, pipe: int) -> None:
        self._files = files
        self._process = process
        self._pipe: int | None = pipe
        self._using_pipe = threading.Lock()
        self.capacity_bytes = pipe_bytes(pipe)
        """The longest message that is written whole or not at all, and without waiting."""

    @property
    def is_alive(self) -> bool:
        """Whether it still waits."""
        return self._process.is_alive

    @property
    def is_ready(self) -> bool:
        """Whether it lives and its files may be renamed: the launcher has written the process id."""
        return self.is_alive and self._files.process_id is not None

    def become(self, files: RunFiles, message: bytes) -> CliProcess | None:
        """Make it the CLI of a prepared run: rename its files, then write its one message and close the pipe.

        From then on it may spend, and ends by itself once it has answered. None where it cannot be had; it is gone then
        and has sent nothing.
        """
        with self._using_pipe:
            has_taken = self._pipe is not None and self.is_ready and self._take(self._pipe, files, message)
        if not has_taken:
            self._process.wait_or_kill(0)
            self.end()
            return None
        self._close_pipe()
        shutil.rmtree(self._files.directory, ignore_errors=True)
        return self._process.renamed(files)

    def _take(self, pipe: int, files: RunFiles, message: bytes) -> bool:
        if len(message) > self.capacity_bytes:
            return False
        # The output last: a run without that file was never started.
        names = ((self._files.pid, files.pid), (self._files.stderr, files.stderr), (self._files.stdout, files.stdout))
        try:
            for mine, its in names:
                mine.rename(its)
            return os.write(pipe, message) == len(message)
        except OSError:  # it has just died, or the folders are on two disks
            return False

    def let_go(self) -> None:
        """Close the pipe, which ends it soon; waits for nothing."""
        self._close_pipe()

    def end(self, wait_s: float = END_S) -> None:
        """End it, for a bounded time in peace; its files are gone afterwards."""
        self._close_pipe()
        self._process.wait_or_kill(wait_s)
        shutil.rmtree(self._files.directory, ignore_errors=True)

    def _close_pipe(self) -> None:
        with self._using_pipe:
            pipe, self._pipe = self._pipe, None
            if pipe is not None:
                os.close(pipe)


def start_waiting(
    cli: Path, arguments: Sequence[str], files: RunFiles, env: Mapping[str, str], cwd: Path
) -> WaitingCli:
    """Start the CLI before there is a prompt for it, on files that a run may take over."""
    make_directory(files.directory)
    theirs, ours = os.pipe()  # nobody inherits our end
    try:
        os.set_blocking(ours, False)
        return WaitingCli(files, spawn(cli, arguments, files, env, cwd, theirs), ours)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
