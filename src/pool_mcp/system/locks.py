"""Who is alive, told by locks of the operating system that die with their holder.

A lock on an open file (``flock``) is held until the last process that has that file open is gone: no time-out, no
process id that may have been used again. Each process of the pool holds one under its ``owner_id``; each CLI process
holds one on its own output file, through the standard output it was given.
"""

import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pool_mcp.system.private import make_directory


class OwnerLock:
    """This process's proof of life: a locked file named after its ``owner_id``."""

    def __init__(self, directory: Path, owner_id: str) -> None:
        make_directory(directory)
        self.owner_id = owner_id
        self._path = directory / owner_id
        while True:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            # A sweeper may have removed the file between open and lock; then the lock is on nothing.
            if _is_named(self._fd, self._path):
                return
            os.close(self._fd)

    def release(self) -> None:
        """Give up the lock and remove its file."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def is_alive(directory: Path, owner_id: str) -> bool:
    """Whether the process that took this ``owner_id`` still lives."""
    return is_held(directory / owner_id)


def is_held(path: Path) -> bool:
    """Whether any process holds the lock on a file; False where the file is not there."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who look at once do not take each other for the holder.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def locks_work(path: Path) -> bool:
    """Whether a lock on a file or folder that is there keeps a second one out; some network disks take any number."""
    flags = (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_CLOEXEC
    first, second = os.open(path, flags), os.open(path, flags)
    try:
        fcntl.flock(first, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # the first, where somebody else has one
        return True
    except OSError:
        return False
    finally:
        os.close(first)
        os.close(second)
    return False


def is_byte_locked(path: Path, offset: int) -> bool:
    """Whether another process has a POSIX lock on a byte of a file.

    Looking drops this process's own POSIX locks on the file.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(fd)
    return False


def sweep(directory: Path) -> list[str]:
    """Remove the lock files of processes that are gone; whose they were."""
    gone = []
    for path in directory.glob("*"):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have made the file anew meanwhile; under this lock the name can no longer change hands.
            if _is_named(fd, path):
                path.unlink(missing_ok=True)
                gone.append(path.name)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
    return gone


FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.0005, 0.01
"""How often a lock that another process holds is tried: often while that process may be about to release it."""


@contextmanager
def wait_for_lock(path: Path, wait_s: float) -> Iterator[None]:
    """Hold a lock for the block, once whoever holds it has released it. The file is made if it is missing, and stays.

    It excludes the threads of one process, too, since each opens the file for itself. It ends with its holder.

    Raises:
        TimeoutError: others held it all the time.
    """
    fd = _open_locked(path, wait_s)
    try:
        yield
    finally:
        # A child that was forked meanwhile has the file open as well; to close it would leave the lock to the child.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _open_locked(path: Path, wait_s: float) -> int:
    waited_s, pause_s = 0.0, FIRST_PAUSE_S
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try(fd):
                if waited_s >= wait_s:
                    raise TimeoutError(f"{path} was locked for {wait_s:g} s")
                select.select((), (), (), pause_s)
                waited_s += pause_s
                pause_s = min(1.1 * pause_s, LONGEST_PAUSE_S)
            if _is_named(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # somebody has removed the file meanwhile: then the lock is on nothing


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold a lock for the block, where no other process does: then True. The file stays."""
    make_directory(path.parent)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _is_named(fd: int, path: Path) -> bool:
    """Whether a path still names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))  # noqa: PTH116  (twice as fast as a Path's)
    except FileNotFoundError:
        return False
