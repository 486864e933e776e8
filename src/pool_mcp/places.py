"""Where settings and state are on this machine."""

from collections.abc import Mapping
from pathlib import Path

from pool_mcp.errors import SettingsError


def read_env(env: Mapping[str, str], name: str) -> str | None:
    """A variable's value; None where it is unset, empty, or a host's unfilled ``${user_config.…}``."""
    value = env.get(name, "").strip()
    return None if not value or value.startswith("${") else value


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
        return home, home
    import platformdirs  # needed only here

    return (
        Path(platformdirs.user_config_dir("pool-mcp", appauthor=False)),
        Path(platformdirs.user_state_dir("pool-mcp", appauthor=False)),
    )
