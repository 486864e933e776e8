"""Reads what the CLI itself keeps of a session, under ``<config dir>/projects/<slug>/<session id>.jsonl``."""

import json
import mmap
from collections.abc import Iterator, Mapping
from datetime import datetime
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
                event = _event(content[start : end if end >= 0 else len(content)])
                if event.get("type") == "cost-state":
                    return event
                at = content.rfind(_COST_STATE, 0, start)
    return None


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def subagent_calls(transcript: Path, since_ms: int) -> Iterator[dict[str, Any]]:
    """The API calls of a session's subagents since an instant, as the CLI's own ``message`` objects.

    Subagents do not show in the stream of the run that started them; each has a file of its own beside the session's.
    A call can fill several lines, which repeat its id and its final usage.
    """
    for path in sorted((transcript.parent / transcript.stem / "subagents").glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            event = _event(line)
            message = event.get("message")
            if event.get("type") == "assistant" and isinstance(message, dict) and _at_ms(event) >= since_ms:
                yield message


def _at_ms(event: dict[str, Any]) -> int:
    try:
        return int(datetime.fromisoformat(str(event.get("timestamp"))).timestamp() * 1000)
    except ValueError:
        return 0
