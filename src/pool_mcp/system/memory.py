"""How much memory is free for something that could as well be left out."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def is_short(least_bytes: int) -> bool:
    """Whether less than that is free, on the machine or in this process's container; False where it cannot be told."""
    return any(free is not None and free < least_bytes for free in (_of_machine(), _of_container()))


def _of_machine() -> int | None:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _of_container() -> int | None:
    """What a control group leaves (version 2; at its root there is none). What it caches of files is not counted."""
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return limit - used + int(cached.get("inactive_file", 0))
    except (OSError, ValueError):  # "max" is no number
        return None
