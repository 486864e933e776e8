"""Where a delegated Claude that has tools may work: in directories of the person's choice, never among logins."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pool_mcp.choices import ToolProfile
from pool_mcp.claude.sessions import config_dir_or_default
from pool_mcp.errors import InvalidRequest
from pool_mcp.model import Ask
from pool_mcp.settings import Settings
from pool_mcp.system.places import read_env


def check_working_dir(ask: Ask, settings: Settings, env: Mapping[str, str]) -> None:
    """Pass, or say why an ask's ``working_dir`` is not one to read in; without tools nothing can be read.

    Raises:
        InvalidRequest: it is, holds or is inside a directory with logins, keys or the ledger, or was not allowed.
    """
    profile: str | ToolProfile = ask.tool_profile or settings.claude.tool_profile
    if ask.working_dir is None or profile == "none":
        return
    wanted = Path(ask.working_dir).expanduser().resolve()
    for private in _private(settings, env):
        if wanted == private or wanted.is_relative_to(private) or private.is_relative_to(wanted):
            raise InvalidRequest(
                f"working_dir {ask.working_dir!r} would lay open {private}, where logins or the pool's own files are; "
                "name the project's own directory."
            )
    allowed = list(_allowed(settings, env))
    if not ask.from_terminal and not any(wanted.is_relative_to(one) for one in allowed):
        inside = f"inside {', '.join(map(str, allowed))} only" if allowed else "nowhere yet"
        raise InvalidRequest(
            f"working_dir {ask.working_dir!r} may not be used: Claude's tools work {inside}; "
            "the operator names further directories in pool.toml: [claude] allowed_dirs."
        )


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
