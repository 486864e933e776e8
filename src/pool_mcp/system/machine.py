"""Which machine this is, for those with which it shares a ledger: an id, made once and kept beside the runs."""

import json
import os
import platform
import secrets
from pathlib import Path
from typing import NamedTuple

from pool_mcp.system.private import make_directory


class Machine(NamedTuple):
    """An id that no other state directory has, and what a person calls the machine."""

    machine_id: str
    name: str


def this_machine(state_dir: Path) -> Machine:
    """Read who this is, or decide it; of several processes that do, one decides for all.

    Raises:
        OSError: the file cannot be made or read.
    """
    path = state_dir / "machine.json"
    make_directory(state_dir)
    if not path.exists():
        made = state_dir / f"machine-{secrets.token_hex(4)}.json"
        content = json.dumps({"id": secrets.token_hex(8), "name": platform.node() or "unnamed"})
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(made, path)
        except FileExistsError:
            pass
        finally:
            made.unlink()
    found = json.loads(path.read_text(encoding="utf-8"))
    return Machine(str(found["id"]), str(found["name"]))
