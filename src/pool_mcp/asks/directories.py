"""Where a delegated Claude that has tools may work: in directories of the person's choice, never among logins.

Directories are compared as the system knows them, by device and inode, from one that is held open until the CLI is in
it. So a link that is changed in between leads nowhere else, and neither do other spellings of a name or mounts.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pool_mcp.claude.sessions import config_dir_or_default
from pool_mcp.errors import InvalidRequest
from pool_mcp.model import Ask
from pool_mcp.settings import Settings
from pool_mcp.system.places import read_env

Identity = tuple[int, int]
"""Device and inode."""
_OPEN: int = getattr(os, "O_PATH", os.O_RDONLY)
"""Linux can hold a directory that may be entered and not listed."""


def check_working_dir(ask: Ask, settings: Settings, env: Mapping[str, str]) -> None:
    """Pass, or say why an ask's ``working_dir`` is not one to read in; without tools nothing can be read.

    Raises:
        InvalidRequest: it is, holds or is inside a directory with logins, keys or the ledger, or was not allowed.
    """
    if ask.working_dir is not None:
        with working_dir(ask, ask.working_dir, settings, env):
            pass


@contextmanager
def working_dir(ask: Ask, name: str, settings: Settings, env: Mapping[str, str]) -> Iterator[Path]:
    """A path of the directory that was checked, to start the CLI in within the block.

    On Linux it is that directory whatever happens to its name meanwhile; elsewhere its name is looked up once more.

    Raises:
        InvalidRequest: as :func:`check_working_dir`, or it has gone.
    """
    try:
        fd = os.open(Path(name).expanduser(), _OPEN | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidRequest(f"working_dir {name!r} cannot be entered: {error.strerror}; name another.") from None
    try:
        held = Path(f"/proc/self/fd/{fd}")
        whole = held.resolve() if held.exists() else Path(name).expanduser().resolve()
        if (ask.tool_profile or settings.claude.tool_profile) != "none":
            _check(ask, whole, fd, settings, env)
        yield held if held.exists() else whole
    finally:
        os.close(fd)


def _check(ask: Ask, wanted: Path, fd: int, settings: Settings, env: Mapping[str, str]) -> None:
    around = _lineage(fd)
    for private in _private(settings, env):
        is_related = wanted.is_relative_to(private) or private.is_relative_to(wanted)
        if is_related or _identity(private) in around or around[0] in _lineage_of(private):
            raise InvalidRequest(
                f"working_dir {ask.working_dir!r} would lay open {private}, where logins or the pool's own files are; "
                "name the project's own directory."
            )
    allowed = list(_allowed(settings, env))
    if not ask.from_terminal and not any(_identity(one) in around for one in allowed):
        inside = f"inside {', '.join(map(str, allowed))} only" if allowed else "nowhere yet"
        raise InvalidRequest(
            f"working_dir {ask.working_dir!r} may not be used: Claude's tools work {inside}; "
            "the operator names further directories in pool.toml: [claude] allowed_dirs."
        )


def _lineage(fd: int) -> list[Identity]:
    """A directory that is open and all above it, up to the root."""
    found, way = [_of(os.fstat(fd))], ".."
    while (above := _of(os.stat(way, dir_fd=fd))) != found[-1]:
        found.append(above)
        way += "/.."
    return found


def _lineage_of(path: Path) -> list[Identity | None]:
    return [_identity(one) for one in (path, *path.parents)]


def _identity(path: Path) -> Identity | None:
    """What has a name; None where nothing has."""
    try:
        return _of(path.stat())
    except OSError:
        return None


def _of(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _private(settings: Settings, env: Mapping[str, str]) -> Iterator[Path]:
    """The pool's home, every config dir, the CLI's own, and the one of a host that is Claude Code."""
    yield settings.config_file.parent.resolve()
    yield settings.state_dir.resolve()
    for config_dir in {None, *(one.config_dir for one in settings.subscriptions)}:
        yield config_dir_or_default(config_dir, env).resolve()
    if of_host := read_env(env, "CLAUDE_CONFIG_DIR"):
        yield Path(of_host).resolve()


def _allowed(settings: Settings, env: Mapping[str, str]) -> Iterator[Path]:
    """What ``allowed_dirs`` names, else the project that the host is in, where that is one."""
    if settings.claude.allowed_dirs is not None:
        for name in settings.claude.allowed_dirs:
            yield (settings.config_file.parent / Path(name).expanduser()).resolve()
        return
    project = Path(read_env(env, "CLAUDE_PROJECT_DIR") or Path.cwd()).resolve()
    home = Path(env.get("HOME", "/")).resolve()
    if not home.is_relative_to(project):  # a host that is started from the desktop is in no project
        yield project
