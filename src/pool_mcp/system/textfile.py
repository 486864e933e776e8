"""A person's own small text files: read, compared, named and replaced with care."""

import contextlib
import difflib
import os
import shutil
import tempfile
from pathlib import Path

from pool_mcp.errors import InvalidRequest
from pool_mcp.system.private import make_directory


def read(path: Path) -> str:
    """What a file says; empty where there is none.

    Raises:
        InvalidRequest: it is there and cannot be read as text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}; fix it and try again.") from None


def replace(path: Path, text: str, *, backup: bool = False) -> Path | None:
    """Write a file whole or not at all, with the mode it had, through a link where it is one.

    Returns the copy of what was there before, where one was asked for and there was something.

    Raises:
        InvalidRequest: it cannot be written.
    """
    target, copy = path.resolve(), None
    try:
        make_directory(target.parent)
        if backup and target.exists():
            copy = target.with_name(f"{target.name}.before-pool-mcp")
            shutil.copy2(target, copy)
        fd, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)  # noqa: PTH105  (mkstemp gives a name)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108
            raise
    except OSError as error:
        raise InvalidRequest(
            f"{path} cannot be written: {error.strerror or error}; make it writable for you."
        ) from None
    return copy


def difference(path: Path, before: str, after: str) -> str:
    """What would change, as a unified diff; empty where nothing would."""
    old, new = before.splitlines(), after.splitlines()
    return "\n".join(difflib.unified_diff(old, new, str(path), str(path), lineterm=""))


def short(path: Path) -> str:
    """A path as one says it: from the home directory on."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
