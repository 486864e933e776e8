"""Where settings and state are on this machine."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pool_mcp.errors import SettingsError

if TYPE_CHECKING:
    from datetime import tzinfo

_LOCAL_ZONE = Path("/etc/localtime")


def read_env(env: Mapping[str, str], name: str) -> str | None:
    """A variable's value; None where it is unset, empty, or a reference that a host did not fill (``${…}``)."""
    value = env.get(name, "").strip()
    return None if not value or value.startswith("${") or value == f"${name}" else value


def directories(env: Mapping[str, str]) -> tuple[Path, Path]:
    """``(config, state)``: both are ``$POOL_MCP_HOME`` where that is set, else what the platform has for them.

    Raises:
        SettingsError: the variable names a home that is nobody's.
    """
    named = read_env(env, "POOL_MCP_HOME")
    if named:
        try:
            home = Path(named).expanduser()
        except RuntimeError:
            raise SettingsError(
                f"POOL_MCP_HOME: there is no home directory for {named!r}; write the whole path"
            ) from None
        if not home.is_absolute():
            raise SettingsError(f"POOL_MCP_HOME: {named!r} is another place for every host; write the whole path")
        return home, home
    import platformdirs  # needed only here

    return (
        Path(platformdirs.user_config_dir("pool-mcp", appauthor=False)),
        Path(platformdirs.user_state_dir("pool-mcp", appauthor=False)),
    )


def config_dir(said: str | None, name: str, base: Path, state_dir: Path, *, has_credential: bool) -> Path | None:
    """A subscription's config dir as settings say it; None is the CLI's own default.

    ``~`` is a home, and what is relative is so to ``base``. A key or token without a directory gets one of its own, so
    that its sessions do not mix with a login's.

    Raises:
        RuntimeError: there is no such home.
    """
    if said is not None:
        return Path(os.path.abspath(base / Path(said).expanduser()))  # noqa: PTH100  (keeps symlinks)
    return state_dir / "config" / name if has_credential else None


def time_zone(env: Mapping[str, str]) -> "tzinfo":
    """The person's time zone with its changes of clocks: ``$TZ``, else the machine's; UTC where neither can be told."""
    from datetime import UTC  # needed only here
    from zoneinfo import ZoneInfo

    try:
        if name := read_env(env, "TZ"):
            return ZoneInfo(name.removeprefix(":"))
        _, _, name = str(_LOCAL_ZONE.resolve()).partition("zoneinfo/")
        with _LOCAL_ZONE.open("rb") as file:
            return ZoneInfo.from_file(file, key=name or "local")
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        return UTC
