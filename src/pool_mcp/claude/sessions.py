"""Reads what the CLI keeps of one session, to say what one run on it did and what the CLI had booked before and after.

A session's transcript is ``<config dir>/projects/<slug>/<session id>.jsonl``; its subagents have files of their own, in
``<session id>/subagents/``, up to CLI 2.1.1 beside it as ``agent-*.jsonl``. At its end a CLI from 2.1.277 on writes
down what the session has cost so far (``cost-state``); the next one that resumes it starts from the last such line.
Other processes may write into the same file at the same time, so a run's own lines are followed by their parents.
"""

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pool_mcp.claude.fields import as_list, as_object, as_text, from_timestamp, parse_object, plain_model
from pool_mcp.claude.stream import OpenCall
from pool_mcp.claude.transcripts import list_folder

_COST_STATE = b'"cost-state"'
_CANDIDATES = 8
"""How many accounts other processes may have written meanwhile; a CLI writes its lines a moment after it read them."""
_QUEUE_LINES = 12
"""Between the line in which a CLI notes its prompt, right after it restored the session's total, and the prompt's own
lie a few lines at most."""


def config_dir_or_default(config_dir: Path | None, env: Mapping[str, str]) -> Path:
    """Where the CLI keeps its files when no directory is given: ``~/.claude``."""
    return config_dir or Path(env.get("HOME") or Path.home()) / ".claude"


def find_transcripts(config_dir: Path, session_id: str) -> list[Path]:
    """A session's transcripts within one config dir, the last written first.

    A project folder that was copied or renamed leaves several, of which the CLI goes on with one.
    """
    found = []
    for slug in list_folder(str(config_dir / "projects")):
        path = Path(slug.path, f"{session_id}.jsonl")
        try:
            if path.is_file():
                found.append((path.stat().st_mtime_ns, path))
        except OSError:
            continue  # a folder that may not be entered is some other program's, or root's
    return [path for _, path in sorted(found, reverse=True)]


def last_cost_state(transcript: Path) -> dict[str, Any] | None:
    """The CLI's newest note of what the session has cost so far, or None where there is none or the file is unreadable.

    Found from the end of the file, so that a long transcript costs no more than a short one.
    """
    account = read_account(transcript)
    return None if account is None else account.cost_state


@dataclass(frozen=True, slots=True)
class Account:
    """The CLI's newest account of a session, and when it was written, as far as that is known."""

    cost_state: dict[str, Any]
    at_ms: int | None


def read_account(transcript: Path) -> Account | None:
    """The CLI's own account of a session; None where there is none or the file cannot be read."""
    try:
        with _content(transcript) as content:
            at = len(content)
            while (at := content.rfind(_COST_STATE, 0, at)) >= 0:
                start, event = _line_at(content, at)
                if event.get("type") == "cost-state":
                    times = (from_timestamp(line.get("timestamp")) for _, line in _lines_back(content, start))
                    return Account(event, next((time for time in times if time is not None), None))
    except OSError:
        pass
    return None


@dataclass(slots=True)
class RunTrace:
    """What a session's transcript shows of one run."""

    before: list[dict[str, Any]] = field(default_factory=list)
    """Each ``cost-state`` from which the run's CLI may have started, the likeliest first."""
    after: dict[str, Any] | None = None
    """The ``cost-state`` that the run's CLI wrote at its end."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """The run's API calls, subagents' not included, as the CLI's ``message`` objects."""


def trace_run(
    transcripts: Iterable[Path], message_ids: Iterable[str], prompt: str, started_at_ms: int
) -> RunTrace | None:
    """Find a run's lines in its session's transcripts, by its first API call, else by its prompt; None without any."""
    first_id = next(iter(message_ids), None)
    for path in transcripts:
        try:
            with _content(path) as content:
                start = None if first_id is None else _start_of_call(content, first_id)
                if start is None and prompt:
                    start = _start_of_prompt(content, prompt, started_at_ms)
                if start is not None:
                    trace = _trace(content, start)
                    trace.before = list(islice(_cost_states_before(content, _enqueued(content, start)), _CANDIDATES))
                    return trace
        except OSError:
            continue
    return None


def _trace(content: "mmap.mmap | bytes", start: int) -> RunTrace:
    """Follow a run's lines from its prompt to its end."""
    trace, own = RunTrace(), set[str]()
    is_foreign = False
    for _, event in _lines_from(content, start):
        kind, uuid = event.get("type"), as_text(event.get("uuid"))
        if kind == "cost-state":
            if not is_foreign:
                trace.after = event
                break
        elif uuid is not None:
            is_own = not own or event.get("parentUuid") in own
            if is_own and own and _is_prompt(event) and "<task-notification>" not in json.dumps(event.get("message")):
                break  # somebody goes on with the session
            if is_own:
                own.add(uuid)
                if kind == "assistant":
                    trace.calls.append(as_object(event.get("message")))
            if kind in ("assistant", "user"):
                is_foreign = not is_own
    return trace


def _start_of_call(content: "mmap.mmap | bytes", message_id: str) -> int | None:
    """Where the prompt begins that led to an API call, by the lines' parents."""
    at = content.find(b'"id":' + json.dumps(message_id).encode())
    if at < 0:
        return None
    start, event = _line_at(content, at)
    wanted = as_text(event.get("parentUuid"))
    found = start
    for before, event in _lines_back(content, start):
        if wanted is None:
            break
        if event.get("uuid") == wanted:
            found, wanted = before, as_text(event.get("parentUuid"))
            if _is_prompt(event):
                break
    return found


def _start_of_prompt(content: "mmap.mmap | bytes", prompt: str, since_ms: int) -> int | None:
    """Where a prompt stands that was given since an instant."""
    for start, event in _lines_back(content, len(content)):
        at_ms = from_timestamp(event.get("timestamp"))
        if at_ms is not None and at_ms < since_ms and event.get("type") == "user":
            return None
        if _is_prompt(event) and _text_of(event) == prompt:
            return start
    return None


def _enqueued(content: "mmap.mmap | bytes", start: int) -> int:
    """Where the CLI first noted the prompt that stands at ``start``; there where it did not."""
    _, prompt = _line_at(content, start)
    text = _text_of(prompt)
    for (before, event), _ in zip(_lines_back(content, start), range(_QUEUE_LINES), strict=False):
        if event.get("operation") == "enqueue" and event.get("content") == text:
            return before
    return start


def _is_prompt(event: dict[str, Any]) -> bool:
    """Whether a line is what a person or program said, not a tool's result."""
    content = as_object(event.get("message")).get("content")
    blocks = [as_object(block).get("type") for block in as_list(content)]
    return event.get("type") == "user" and "tool_result" not in blocks


def _text_of(event: dict[str, Any]) -> str:
    content = as_object(event.get("message")).get("content")
    return as_text(content) or "".join(as_text(as_object(block).get("text")) or "" for block in as_list(content))


# Subagents


def subagent_files(transcript: Path) -> list[Path]:
    """The transcripts of a session's subagents."""
    files = sorted((transcript.parent / transcript.stem / "subagents").rglob("agent-*.jsonl"))
    marker = f'"sessionId":"{transcript.stem}"'.encode()
    for path in sorted(transcript.parent.glob("agent-*.jsonl")):
        try:
            with path.open("rb") as file:
                if marker in file.readline():
                    files.append(path)
        except OSError:
            continue
    return files


def subagent_calls(transcript: Path, agent_ids: Iterable[str], since_ms: int) -> Iterator[dict[str, Any]]:
    """The API calls of the named subagents, and of all of the session's since an instant, as ``message`` objects.

    A call can fill several lines, which repeat its id and its final usage.
    """
    names = {f"agent-{agent_id}" for agent_id in agent_ids}
    for path in subagent_files(transcript):
        for event in _events(path):
            at_ms = from_timestamp(event.get("timestamp")) or 0
            message = event.get("message")
            is_asked_for = at_ms >= since_ms or path.stem in names
            if event.get("type") == "assistant" and isinstance(message, dict) and is_asked_for:
                yield message


def open_calls(transcript: Path, agent_ids: Iterable[str]) -> list[OpenCall]:
    """The calls of the named subagents that were never answered."""
    names = {f"agent-{agent_id}" for agent_id in agent_ids}
    calls = []
    for path in subagent_files(transcript):
        if path.stem not in names:
            continue
        model: str | None = None
        repeated, new, is_answered = 0, 0, True
        for event in _events(path):
            message, kind = as_object(event.get("message")), event.get("type")
            model = as_text(as_object(as_object(event.get("attachment")).get("identity")).get("modelId")) or model
            if kind not in ("assistant", "user"):
                continue
            is_answered = kind == "assistant"
            if is_answered:
                model = as_text(message.get("model")) or model
                repeated, new = repeated + new, 0
            new += len(json.dumps(message.get("content"), ensure_ascii=False).encode(errors="replace"))
        if not is_answered:
            calls.append(OpenCall(None if model is None else plain_model(model), new, repeated))
    return calls


# Lines


@contextmanager
def _content(path: Path) -> Iterator["mmap.mmap | bytes"]:
    """A file's bytes, of which only those that are looked at are read.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """Every line of a file; none where it cannot be read."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return
    yield from map(parse_object, lines)


def _line_at(content: "mmap.mmap | bytes", at: int) -> tuple[int, dict[str, Any]]:
    """The line in which a byte is, and where it begins."""
    start, end = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at)
    return start, parse_object(content[start : end if end >= 0 else len(content)])


def _lines_back(content: "mmap.mmap | bytes", end: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines that end before a byte, the last first."""
    while end > 0:
        start, event = _line_at(content, end - 1)
        yield start, event
        end = start


def _lines_from(content: "mmap.mmap | bytes", start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    while start < len(content):
        _, event = _line_at(content, start)
        yield start, event
        end = content.find(b"\n", start)
        start = end + 1 if end >= 0 else len(content)


def _cost_states_before(content: "mmap.mmap | bytes", end: int) -> Iterator[dict[str, Any]]:
    """The accounts that stand before a line, the last first."""
    at = content.rfind(_COST_STATE, 0, end)
    while at >= 0:
        start, event = _line_at(content, at)
        if event.get("type") == "cost-state":
            yield event
        at = content.rfind(_COST_STATE, 0, start)
