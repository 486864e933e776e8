"""Linux's own notice of a file that grows and a process that ends, so that nobody has to look again and again.

Both are behind one epoll: inotify for the file, a process descriptor for the child. Elsewhere, and where the system has
no more of them to give, there is no notice, and the caller looks every so often.
"""

import contextlib
import os
import select
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio

_IN_MODIFY, _IN_CLOSE_WRITE = 0x2, 0x8
"""A file was written to; somebody who could write to it has closed it (``sys/inotify.h``)."""


class Changes:
    """Waits for a file to be written or a child to end; a context manager. ``are_told`` is whether there is notice."""

    def __init__(self, path: Path, pid: int | None) -> None:
        self._held = contextlib.ExitStack()
        self._poll = self._inotify = -1
        self.are_told = False
        if sys.platform == "linux":
            try:
                self._watch(path, pid)
            except OSError:  # a person may have only so many (max_user_instances)
                self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    async def wait(self, at_most_s: float) -> None:
        """Wait for a change since the last call, for a bounded time; where there is no notice, just for that time."""
        if not self.are_told:
            await anyio.sleep(at_most_s)
            return
        with anyio.move_on_after(at_most_s):
            await anyio.wait_readable(self._poll)
        with contextlib.suppress(BlockingIOError):
            os.read(self._inotify, 64 * 1024)

    if sys.platform == "linux":

        def _watch(self, path: Path, pid: int | None) -> None:
            import ctypes  # some milliseconds, in which a CLI has been started already

            libc = ctypes.CDLL(None)
            self._inotify = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
            self._held.callback(os.close, self._inotify)
            _checked(libc.inotify_add_watch(self._inotify, os.fsencode(path), _IN_MODIFY | _IN_CLOSE_WRITE))
            poll = self._held.enter_context(select.epoll())
            poll.register(self._inotify, select.EPOLLIN)
            if pid is not None:
                with contextlib.suppress(OSError):  # Linux 5.3; it may have ended already
                    child = os.pidfd_open(pid)
                    self._held.callback(os.close, child)
                    poll.register(child, select.EPOLLIN)
            self._poll = poll.fileno()
            self.are_told = True


def _checked(returned: int) -> int:
    if returned < 0:
        raise OSError("the system gives no notice of changes")
    return returned
