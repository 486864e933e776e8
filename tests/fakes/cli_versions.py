"""The versions of the CLI, which report what a run cost in three different ways.

The newest comes with the environment. The older ones are carried in older wheels of claude-agent-sdk; each is fetched
once and kept outside the tree (about 250 MB each), in the user's cache directory or in ``POOL_MCP_TEST_CACHE``.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from support import CLAUDE
from uv import find_uv_bin


@dataclass(frozen=True, slots=True)
class CliVersion:
    """One version of the CLI; ``sdk`` is the claude-agent-sdk that carries it, None for the environment's own."""

    name: str
    sdk: str | None = None

    @property
    def cli(self) -> Path:
        """Its executable. The first call on a machine downloads it, whichever of the test processes makes it."""
        if self.sdk is None:
            return CLAUDE
        folder = cache_dir() / f"claude-{self.name}"
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with (folder.parent / f"{folder.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not folder.exists():
                    self._fetch(folder)
        return folder / "claude"

    def _fetch(self, folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            wheel, ready = Path(temporary, "wheel"), Path(temporary, "ready")
            command = [find_uv_bin(), "pip", "install", f"--python={sys.executable}", "--quiet", "--no-cache"]
            command += ["--no-deps", f"--target={wheel}", f"claude-agent-sdk=={self.sdk}"]
            subprocess.run(command, check=True, cwd=temporary)
            ready.mkdir()
            (wheel / "claude_agent_sdk" / "_bundled" / "claude").rename(ready / "claude")
            said = subprocess.run([ready / "claude", "--version"], check=True, capture_output=True, text=True).stdout
            assert said.startswith(f"{self.name} "), f"claude-agent-sdk {self.sdk} carries {said}"
            ready.rename(folder)


def cache_dir() -> Path:
    """Where downloads of the tests are kept, for all checkouts of this user."""
    return Path(os.environ.get("POOL_MCP_TEST_CACHE") or platformdirs.user_cache_dir("pool-mcp-tests"))


THIS_RUN = CliVersion("2.1.206", sdk="0.2.115")
"""Reports what the run cost, and keeps no sum of a session."""

SESSION_SO_FAR = CliVersion("2.1.280", sdk="0.2.158")
"""Reports what the session has cost so far, from a sum that it keeps in the transcript."""

NEWEST = CliVersion("newest")
"""Reports the session's cost so far, and the run's beside it."""

CLI_VERSIONS = (THIS_RUN, SESSION_SO_FAR, NEWEST)
