"""Directories that only the owner may enter."""

from pathlib import Path


def make_directory(path: Path) -> Path:
    """Make a directory and whatever is missing above it, all with mode 0700; what is there is left as it is."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)
    return missing[0] if missing else path
