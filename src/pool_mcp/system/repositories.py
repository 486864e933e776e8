"""Which git repository a directory is in, and on which branch, read from its files; git is never run."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

MAX_BYTES = 4096
"""No file that is read here is longer; of one that is, the rest is left."""

MAX_NAME = 200


class Repository(NamedTuple):
    """A repository by the name of its root directory, and the branch; None where that is not known."""

    project: str | None = None
    branch: str | None = None


UNKNOWN = Repository()


def repository_of(directory: str) -> Repository:
    """The repository that a directory is in, also one that is no longer there. A worktree is its repository's."""
    try:
        found = _git_of(Path(directory))
        if found is None:
            return UNKNOWN
        root, git = found
        common = _common_of(git)
        return Repository(_name(root if common is None else common), _branch(_first_line(git / "HEAD")))
    except (OSError, ValueError, RuntimeError):  # a NUL character, a link to itself
        return UNKNOWN


def branch_name(name: object) -> str | None:
    """A branch as a transcript or ``HEAD`` names it; None where it names none."""
    return name[:MAX_NAME] if isinstance(name, str) and name.isprintable() and name not in ("", "HEAD") else None


def _git_of(directory: Path) -> tuple[Path, Path] | None:
    """The nearest directory upwards that has ``.git``, and what that is or points to."""
    if not directory.is_absolute():
        return None
    for root in (directory, *directory.parents):
        git = root / ".git"
        if git.is_dir():
            return root, git
        if line := _first_line(git):
            named = line.removeprefix("gitdir: ")
            return (root, root / named) if named != line else None
    return None


def _common_of(git: Path) -> Path | None:
    """For a worktree's ``.git``, the root of the repository that it belongs to."""
    line = _first_line(git / "commondir")
    if not line:
        return None
    common = Path(os.path.normpath(git / line))
    return common.parent if common.name == ".git" else common


def _branch(head: str) -> str | None:
    named = head.removeprefix("ref: refs/heads/")
    return branch_name(named) if named != head else None


def _first_line(path: Path) -> str:
    """The first line of a plain file, "" where there is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode(errors="replace").partition("\n")[0].rstrip()
    except OSError:
        return ""


def _name(root: Path) -> str | None:
    name = os.fsencode(root.name).decode(errors="backslashreplace")[:MAX_NAME]
    return name if name and name.isprintable() else None
