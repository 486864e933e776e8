"""Reads every API call out of the transcripts that the CLI keeps, under ``<config dir>/projects/``.

A subagent's transcript stands in ``<session id>/subagents/`` beside its session's. An API call fills a line for each
block of its answer; the lines repeat its ids, and the last tells all its tokens (those before it may tell fewer). A
fork's transcript begins with a copy of its parent's lines under the fork's own session id; ids and timestamps stay.
"""

import os
import re
import stat
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydantic_core import from_json

from pool_mcp.claude import stream
from pool_mcp.claude.fields import MAX_TOKENS, as_tokens, from_timestamp, parse_object, plain_model
from pool_mcp.model import UNATTRIBUTED, TokenCounts

BLOCK_BYTES = 1 << 20
"""How much of a transcript is read at a time."""


class TranscriptCall(NamedTuple):
    """One API call as a transcript shows it.

    ``key`` stands for its message id and request id; ``fast`` and ``us_only`` raise its price. ``working_dir`` and
    ``branch`` are where the session was then, "" where the line does not say.
    """

    key: int
    message_id: str
    at_ms: int
    model: str
    tokens: TokenCounts
    fast: bool
    us_only: bool
    working_dir: str = ""
    branch: str = ""


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


@dataclass(slots=True)
class Walk:
    """What is within a config dir: the transcripts that are not known, the number of all, and what is unreadable."""

    found: list[TranscriptFile] = field(default_factory=list)
    count: int = 0
    unreadable: list[str] = field(default_factory=list)


def walk(config_dir: Path, known: AbstractSet[FileVersion] = frozenset()) -> Walk:
    """The transcripts within a config dir, subagents' too, that are not ``known``.

    Those that vanish meanwhile are passed over. Where all are known, nearly all of the time goes into listing the
    folders and asking the system about each file. What is no plain file or folder, or may not be entered, is told.
    """
    walk = Walk()
    for slug in list_folder(str(config_dir / "projects"), walk.unreadable):
        if _is_folder(slug, walk.unreadable):
            _add_new(walk, known, slug.path, None)
    return walk


def _add_new(walk: Walk, known: AbstractSet[FileVersion], folder: str, session_id: str | None) -> None:
    """Add what is not known. Below a session's folder all are its subagents'."""
    for entry in list_folder(folder, walk.unreadable):
        if entry.name.endswith(".jsonl"):
            try:
                status = entry.stat()
            except FileNotFoundError:
                if entry.is_symlink():
                    walk.unreadable.append(entry.path)
                continue
            except OSError:
                walk.unreadable.append(entry.path)
                continue
            if not stat.S_ISREG(status.st_mode):  # a named pipe would be waited for
                walk.unreadable.append(entry.path)
                continue
            walk.count += 1
            version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if version not in known:
                parent = session_id or _parent_session(entry)
                walk.found.append(TranscriptFile(entry.path, parent or entry.name[:-6], parent is not None, *version))
        elif _is_folder(entry, walk.unreadable, follow_symlinks=session_id is None):
            _add_new(walk, known, entry.path, session_id or entry.name)


def _parent_session(entry: "os.DirEntry[str]") -> str | None:
    """The session of a subagent whose transcript lies beside it, as CLIs up to 2.1.1 kept them; else None."""
    if not entry.name.startswith("agent-"):
        return None
    try:
        with Path(entry.path).open("rb") as file:
            session_id = from_json(file.readline()).get("sessionId")
    except (OSError, ValueError, AttributeError):
        return None
    return session_id if isinstance(session_id, str) else None


def _is_folder(entry: "os.DirEntry[str]", unreadable: list[str], *, follow_symlinks: bool = True) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_symlinks)
    except OSError:  # a link to itself
        unreadable.append(entry.path)
        return False


def list_folder(folder: str, unreadable: list[str] | None = None) -> "list[os.DirEntry[str]]":
    """What is in a folder; nothing where it is not there, or, which is noted, may not be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:
        if unreadable is not None:
            unreadable.append(folder)
        return []


def read_calls(path: str, position: ReadPosition, block_bytes: int = BLOCK_BYTES) -> Iterator[Chunk]:
    """What has been added to a transcript since ``position``, in chunks of about a block; all where it was rewritten.

    A last line that is not ended yet is left for the next time. Of a call's lines within a chunk the fullest
    counts; a call whose lines lie in two chunks comes twice: chunks end where a turn does.

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
    fullest: dict[tuple[bytes, bytes], tuple[bytes, re.Match[bytes]]] = {}
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
            key = (begun[2] or begun[3], request_id)
            if key not in fullest or _output_of(line) >= _output_of(fullest[key][0]):
                fullest[key] = (line, begun)
    for line, begun in fullest.values():
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


_OUTPUT_TOKENS = re.compile(rb'"output_tokens":(\d{1,13})')


def _output_of(line: bytes) -> int:
    """The output tokens that a line shows, found without reading it as JSON; 0 where they are not found."""
    found = _OUTPUT_TOKENS.search(line, max(line.rfind(_USAGE), 0))
    return int(found[1]) if found else 0


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
        if "cwd" not in event and (found := _CWD.search(begun[0])):  # before the message, as some versions write it
            event |= {"cwd": from_json(found[1])}
        if "gitBranch" not in event and (found := _GIT_BRANCH.search(begun[0])):
            event |= {"gitBranch": from_json(found[1])}
        return _call(message_id.decode(), _decoded(model), event["message"]["usage"], event)
    except ValueError:
        return None


_CWD = re.compile(rb',"cwd":("(?:[^"\\]|\\.)*")')
_GIT_BRANCH = re.compile(rb',"gitBranch":("(?:[^"\\]|\\.)*")')


@lru_cache(maxsize=256)
def _decoded(model: bytes) -> str:
    """One string for all calls of a model: what is sent on is the shorter for it."""
    return model.decode()


def _from_any(line: bytes) -> TranscriptCall | None:
    """A line in whatever order; None where it is no answer.

    Raises:
        ValueError: it is no JSON object, or an answer without a time.
    """
    event = parse_object(line)
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
        _word(event.get("cwd")),
        _word(event.get("gitBranch")),
    )


def _word(value: object) -> str:
    """A directory or branch that can be kept: half a surrogate pair does not fit the ledger."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


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
