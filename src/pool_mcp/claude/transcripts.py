"""Reads what the CLI itself keeps of a session, under ``<config dir>/projects/<slug>/<session id>.jsonl``.

A subagent's transcript stands in ``<session id>/subagents/`` beside its session's. An API call fills a line for each
block of its answer; the lines repeat its ids, and the last tells all its tokens (those before it may tell fewer). A
fork's transcript begins with a copy of its parent's lines under the fork's own session id; ids and timestamps stay.
"""

import json
import mmap
import os
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydantic_core import from_json

from pool_mcp.claude import stream
from pool_mcp.claude.fields import MAX_TOKENS, as_tokens, from_timestamp, plain_model
from pool_mcp.model import UNATTRIBUTED, TokenCounts

BLOCK_BYTES = 1 << 20
"""How much of a transcript is read at a time."""

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
            message, at_ms = event.get("message"), from_timestamp(event.get("timestamp"))
            if event.get("type") == "assistant" and isinstance(message, dict) and (at_ms or 0) >= since_ms:
                yield message


# Every API call of every transcript


class TranscriptCall(NamedTuple):
    """One API call as a transcript shows it.

    ``key`` stands for its message id and request id; ``fast`` and ``us_only`` raise its price.
    """

    key: int
    message_id: str
    at_ms: int
    model: str
    tokens: TokenCounts
    fast: bool
    us_only: bool


class TranscriptFile(NamedTuple):
    """A transcript's file: where it is, what the system says of it, and whose calls it holds."""

    path: str
    session_id: str
    is_subagent: bool
    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class ReadPosition:
    """How far a transcript has been read, and a digest of what stands just before, by which to know it again."""

    offset: int = 0
    digest: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a stretch of a transcript says; reading goes on at ``position``."""

    calls: list[TranscriptCall]
    malformed: int
    position: ReadPosition
    read_bytes: int


def call_key(message_id: str, request_id: str) -> int:
    """A number of 63 bits that stands for an API call; of a million, two share one with a chance of 1 in 1000 at most.

    Anthropic's request ids begin with the time (``req_01`` and 128 bits in base 58, milliseconds in the upper 48: so
    in every id seen from October 2025 to August 2026). Of those the key begins with the four digits that turn every 31
    days to 14 seconds, so that calls made one after the other stand beside each other in the ledger: keys in no order
    would have every import rewrite all of their table.
    """
    digest = int.from_bytes(
        blake2b(f"{message_id}\0{request_id}".encode(errors="replace"), digest_size=8).digest(), "big"
    )
    if request_id.startswith("req_01") and len(request_id) > 12 and request_id.isascii():
        one, two, three, four = request_id[8:12].encode()
        return (one << 56 | two << 49 | three << 42 | four << 35) & _KEY_BITS | digest >> 29
    return digest >> 1


_KEY_BITS = (1 << 63) - 1


def message_key(message_id: str) -> int:
    """A number that stands for a message id alone, which is all that a run's stream tells."""
    return call_key(message_id, "")


FileVersion = tuple[int, int, int, int]
"""A file's device, inode, size and time of change (ns): another one wherever anything was written."""


def walk(config_dir: Path, seen: AbstractSet[FileVersion] = frozenset()) -> tuple[list[TranscriptFile], int]:
    """The transcripts within a config dir, subagents' too, that are not ``seen``, and how many there are in all.

    Those that vanish meanwhile are passed over. Where all are seen, nearly all of the time goes into listing the
    folders and asking the system about each file.
    """
    found: list[TranscriptFile] = []
    count = 0
    for slug in _listed(str(config_dir / "projects")):
        if slug.is_dir():
            count += _add_new(found, seen, slug.path, None)
    return found, count


def _add_new(found: list[TranscriptFile], seen: AbstractSet[FileVersion], folder: str, session_id: str | None) -> int:
    """Add what is not seen; how many transcripts there are. Below a session's folder all are its subagents'."""
    count = 0
    for entry in _listed(folder):
        if entry.name.endswith(".jsonl"):
            try:
                status = entry.stat()
            except OSError:
                continue
            count += 1
            version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if version not in seen:
                is_subagent = session_id is not None
                found.append(TranscriptFile(entry.path, session_id or entry.name[:-6], is_subagent, *version))
        elif entry.is_dir(follow_symlinks=session_id is None):
            count += _add_new(found, seen, entry.path, session_id or entry.name)
    return count


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def read_calls(path: str, position: ReadPosition, block_bytes: int = BLOCK_BYTES) -> Iterator[Chunk]:
    """What has been added to a transcript since ``position``, in chunks of about a block; all where it was rewritten.

    A last line that is not ended yet is left for the next time. Of a call's lines within a chunk the last counts; a
    call whose lines lie in two chunks is told twice, with the smaller count first: chunks end where a turn does.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb", buffering=0) as file:
        offset = position.offset if position == _position(file, position.offset) else 0
        file.seek(offset)
        rest, dropped = b"", 0
        while data := file.read(block_bytes):
            goes_on = len(data) == block_bytes
            end = (goes_on and _last_turn(data)) or data.rfind(b"\n") + 1
            if end:
                block, rest = rest + data[:end], data[end:]
                offset += dropped + len(block)
                yield _chunk(file, block, offset, dropped + len(block))
                dropped = 0
            elif dropped or len(rest) + len(data) > stream.MAX_LINE_BYTES:
                rest, dropped = b"", dropped + len(rest) + len(data)
            else:
                rest += data
        if end := rest.rfind(b"\n") + 1:
            yield _chunk(file, rest[:end], offset + end, end)


def _last_turn(data: bytes) -> int:
    """Where the last line of a user (or of a tool's result) begins: what came before is answered; 0 without one."""
    return data.rfind(b"\n", 0, max(0, data.rfind(b'"type":"user"'))) + 1


def _chunk(file: BinaryIO, block: bytes, offset: int, length: int) -> Chunk:
    calls, malformed = _calls_in(block)
    return Chunk(calls, malformed, _position(file, offset), length)


_BEFORE_BYTES = 2048


def _position(file: BinaryIO, offset: int) -> ReadPosition:
    """The digest of the end of what was read: other bytes there mean that the file was rewritten."""
    start = max(0, offset - _BEFORE_BYTES)
    before = os.pread(file.fileno(), offset - start, start)
    if len(before) < offset - start:
        return ReadPosition()
    return ReadPosition(offset, int.from_bytes(blake2b(before, digest_size=8).digest(), "big") >> 1 if before else 0)


_ASSISTANT = b'"type":"assistant"'
_FRESH = re.compile(
    rb'\{"parentUuid":(?:null|"[^"\\]*"),(?:"\w+":(?:null|true|false|\d+|"(?:[^"\\]|\\.)*"),)*"message":\{'
    rb'(?:"model":"([^"\\]+)","id":"([^"\\]+)","type":"message","role":"assistant",'
    rb'|"id":"([^"\\]+)","type":"message","role":"assistant","model":"([^"\\]+)",)"content":\['
)
"""How the CLI begins an answer's line. Any other beginning is read as JSON from end to end."""
_BEGINNING = b'{"parentUuid":'
_REQUEST_ID = b'"requestId":"'
_USAGE = b'"usage":{"'
_BEFORE_USAGE = (b'"stop_sequence":null,', b'"stop_details":null,')


def _calls_in(block: bytes) -> tuple[list[TranscriptCall], int]:
    """The API calls of whole lines, each once, and how many lines are broken."""
    calls: dict[int, TranscriptCall] = {}
    malformed = 0
    last_lines: dict[tuple[bytes, bytes], tuple[bytes, re.Match[bytes]]] = {}
    others: list[bytes] = []
    for line in block.split(b"\n"):
        if not line.endswith(b"}"):
            cut = line.rstrip()
            malformed += cut != b"" and not cut.endswith(b"}")
        if _ASSISTANT not in line:
            continue
        begun = _FRESH.match(line)
        if begun is None or line.rfind(_BEGINNING) != 0:
            others.append(line)
        else:
            at = line.rfind(_REQUEST_ID) + len(_REQUEST_ID)
            request_id = line[at : line.find(b'"', at)] if at >= len(_REQUEST_ID) else b""
            last_lines[begun[2] or begun[3], request_id] = (line, begun)
    for line, begun in last_lines.values():
        call = _from_usual(line, begun)
        if call is None:
            others.append(line)
        else:
            _keep_fuller(calls, call)
    for line in others:
        try:
            found = _from_any(line)
        except ValueError:
            malformed += line.rstrip().endswith(b"}")
            begins = line.rfind(_BEGINNING)
            try:  # a line that was cut short may have another one appended
                found = _from_any(line[begins:]) if begins > 0 else None
            except ValueError:
                continue
        if found is not None:
            _keep_fuller(calls, found)
    return list(calls.values()), malformed


def _keep_fuller(calls: dict[int, TranscriptCall], call: TranscriptCall) -> None:
    known = calls.get(call.key)
    if known is None or call.tokens[1] >= known.tokens[1]:
        calls[call.key] = call


def _from_usual(line: bytes, begun: re.Match[bytes]) -> TranscriptCall | None:
    """A line in the CLI's usual order of fields, of which only the end is read as JSON; None where it surprises."""
    at = line.rfind(_USAGE)
    if at < 0 or not line.endswith(_BEFORE_USAGE, 0, at) or _REQUEST_ID in begun[0]:
        return None
    try:
        # What follows the content closes the message, and then the line, only if this usage is the message's own.
        event = from_json(b'{"message":{' + line[at:], cache_strings="keys")
        if not (event.get("type") == "assistant" or _ASSISTANT in begun[0]):
            return None
        model, message_id = (begun[1], begun[2]) if begun[1] else (begun[4], begun[3])
        return _call(message_id.decode(), _decoded(model), event["message"]["usage"], event)
    except ValueError:
        return None


@lru_cache(maxsize=256)
def _decoded(model: bytes) -> str:
    """One string for all calls of a model: what is sent on is the shorter for it."""
    return model.decode()


def _from_any(line: bytes) -> TranscriptCall | None:
    """A line in whatever order; None where it is no answer.

    Raises:
        ValueError: it is no JSON object, or an answer without a time.
    """
    event = _event(line)
    if not event:
        raise ValueError("not an object")
    message = event.get("message")
    if event.get("type") != "assistant" or not isinstance(message, dict):
        return None
    message_id, model = message.get("id"), message.get("model")
    return _call(
        message_id if isinstance(message_id, str) else "",
        model if isinstance(model, str) and model else UNATTRIBUTED,
        message.get("usage"),
        event,
    )


def _call(message_id: str, model: str, usage: Any, event: dict[str, Any]) -> TranscriptCall | None:
    """The call of an answer's line; None where it is none that costs anything (the CLI's own error messages).

    Raises:
        ValueError: it has no time.
    """
    if model == "<synthetic>" or not isinstance(usage, dict):
        return None
    tokens = _tokens(usage)
    if tokens == _NOTHING:
        return None
    at_ms = from_timestamp(event.get("timestamp"))
    if at_ms is None:
        raise ValueError(event.get("timestamp"))
    request_id = event.get("requestId")
    if not isinstance(request_id, str):
        request_id = ""
    if not message_id and not request_id:
        message_id = str(event.get("uuid"))  # a line of its own, as far as can be told
    if not model.isascii():
        model = model.encode(errors="replace").decode()  # half a surrogate pair does not fit the ledger
    return TranscriptCall(
        call_key(message_id, request_id),
        message_id,
        at_ms,
        plain_model(model),
        tokens,
        usage.get("speed") == "fast",
        usage.get("inference_geo") == "us",
    )


_NOTHING = (0, 0, 0, 0, 0, 0)


def _tokens(usage: dict[str, Any]) -> TokenCounts:
    """The tokens of a usage object as the API sends it; :func:`as_tokens`, in five times the time, for others."""
    try:
        split = usage["cache_creation"]
        counts = (
            usage["input_tokens"],
            usage["output_tokens"],
            split["ephemeral_5m_input_tokens"],
            split["ephemeral_1h_input_tokens"],
            usage["cache_read_input_tokens"],
            usage["server_tool_use"]["web_search_requests"],
        )
        total = sum(counts)
        if (
            type(total) is int  # and so is each
            and min(counts) >= 0
            and total <= MAX_TOKENS
            and counts[2] + counts[3] == usage["cache_creation_input_tokens"]
        ):
            return counts
    except (KeyError, TypeError):
        pass
    return as_tokens(usage).counts
