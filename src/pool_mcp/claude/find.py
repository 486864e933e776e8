"""Finds the Claude Code CLI: the setting, PATH, where its installers put it, and the copy that an SDK carries."""

import importlib.util
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from pool_mcp.errors import CliMissing

HOW_TO_INSTALL = (
    "Install it with `npm install -g @anthropic-ai/claude-code` (or `pip install claude-agent-sdk`, which carries "
    'it), or name it in pool.toml: [claude] path = "/path/to/claude".'
)


def find_cli(path: str, env: Mapping[str, str]) -> Path:
    """The CLI's executable. A GUI host's PATH is short, hence the further places.

    Raises:
        CliMissing: there is none; the message says how to install it.
    """
    if os.sep in path or path.startswith("~"):
        named = Path(os.path.expanduser(path))  # noqa: PTH111  (pathlib raises where there is no such home)
        if not _is_executable(named):
            raise CliMissing(f"The setting claude.path names {named}, which is not an executable. {HOW_TO_INSTALL}")
        return named
    if found := shutil.which(path, path=env.get("PATH", os.defpath)):
        return Path(found)
    for candidate in _usual_places(env):
        if _is_executable(candidate):
            return candidate
    raise CliMissing(f"The Claude Code CLI ({path!r}) was not found on this machine. {HOW_TO_INSTALL}")


def bundled_cli() -> Path | None:
    """The CLI inside an installed ``claude-agent-sdk``, found without importing it."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        candidate = Path(folder) / "_bundled" / "claude"
        if _is_executable(candidate):
            return candidate
    return None


def _usual_places(env: Mapping[str, str]) -> Iterator[Path]:
    home = Path(env.get("HOME") or Path.home())
    yield home / ".local" / "bin" / "claude"
    yield home / ".claude" / "local" / "claude"
    yield Path("/opt/homebrew/bin/claude")
    yield Path("/usr/local/bin/claude")
    yield Path("/home/linuxbrew/.linuxbrew/bin/claude")
    if bundled := bundled_cli():
        yield bundled


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
