"""Reads what the CLI itself keeps of a session, under ``<config dir>/projects/<slug>/<session id>.jsonl``."""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COST_STATE = b'"cost-state"'


def config_dir_or_default(config_dir: Path | None, env: Mapping[str, str]) -> Path:
    """Where the CLI keeps its files when it is told nothing: ``~/.claude``."""
    return config_dir or Path(env.get("HOME") or Path.home()) / ".claude"


def find_transcript(config_dir: Path, session_id: str) -> Path | None:
    """A session's transcript within one config dir, or None."""
    projects = config_dir / "projects"
    if not projects.is_dir():
        return None
    name = f"{session_id}.jsonl"
    return next((folder / name for folder in projects.iterdir() if (folder / name).is_file()), None)


def last_cost_state(transcript: Path) -> dict[str, Any] | None:
    """The CLI's newest note of what the session has cost so far (``cost-state``), or None.

    This is the sum that a CLI which reports whole-session totals starts from when it resumes the session. Found from
    the end of the file, so that a long transcript costs no more than a short one.
    """
    with transcript.open("rb") as file:
        if file.seek(0, 2) == 0:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            at = content.rfind(_COST_STATE)
            while at >= 0:
                start = content.rfind(b"\n", 0, at) + 1
                end = content.find(b"\n", at)
                found = _cost_state(content[start : end if end >= 0 else len(content)])
                if found is not None:
                    return found
                at = content.rfind(_COST_STATE, 0, start)
    return None


def _cost_state(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and event.get("type") == "cost-state" else None
