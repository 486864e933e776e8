"""Wakes the other processes of this machine: each has a named pipe under its ``owner_id``, on which it sleeps.

It costs nothing while nobody is woken. A pipe whose process is gone has no reader, and whoever finds that removes it.
"""

import contextlib
import errno
import os
from pathlib import Path

import anyio

from pool_mcp.system.private import make_directory


class Wakeup:
    """This process's pipe; where the disk takes no pipes it can't be woken, and :meth:`wait` waits for ever."""

    def __init__(self, directory: Path, owner_id: str) -> None:
        self._directory = directory
        self._path = directory / owner_id
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            self._fd = self._open()

    def _open(self) -> int:
        make_directory(self._directory)
        new = self._path.with_suffix(".new")  # nobody may find it before it has a reader
        os.mkfifo(new, 0o600)
        fd = os.open(new, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        new.rename(self._path)
        return fd

    async def wait(self) -> None:
        """Wait until another process wakes this one."""
        if self._fd is None:
            await anyio.sleep_forever()
            return
        await anyio.wait_readable(self._fd)
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 4096)

    def wake_others(self) -> None:
        """Wake every other process."""
        for path in self._directory.glob("*"):
            if path != self._path and path.suffix != ".new":
                _wake(path)

    def close(self) -> None:
        """Remove the pipe."""
        if self._fd is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None


def _wake(path: Path) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            path.unlink(missing_ok=True)
        return
    try:
        os.write(fd, b".")
    except OSError:
        pass  # it is full, so that its process will wake anyway
    finally:
        os.close(fd)
