"""Answers a host's first requests while the rest of the server is still being loaded.

Importing the MCP SDK takes about half a second, and every host starts its own server, some several. What a host asks
first (``initialize``, ``tools/list``, …) gets the same answers every time. So the SDK's own answers are kept in a file,
and this module, which needs the standard library only, gives them again at once when a host begins exactly as one did
before: the same opening, the same request. Whatever else comes is left to the SDK, and so is all that follows it.

The SDK is given every request all the same, in order, those of a beginning under ids of our own. By these its answers
are known: each is compared with what is kept, and is sent on unless the host has its answer already.

Like the SDK's own stdio transport, this one takes file descriptors 0 and 1 out of reach: prints and child processes
meet ``/dev/null`` and stderr instead.
"""

import contextlib
import fcntl
import importlib.util
import itertools
import json
import logging
import os
import stat
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pool_mcp import __version__
from pool_mcp.system.private import make_directory

log = logging.getLogger(__name__)

_LISTS = frozenset({"tools/list", "resources/list", "resources/templates/list", "prompts/list"})
QUICK = _LISTS | {"initialize", "server/discover", "ping"}
"""Requests whose answers wait for nothing."""
_MAX_LINE = 8 * 1024
"""A longer line is no request of a beginning."""
_MAX_OPENINGS = 8
"""How many different openings are kept: one for each host and each of its versions. The oldest goes first."""
_MAX_FILE = 4 * 1024 * 1024

_CONNECTION_CLOSED = -32000
"""The error with which the SDK answers what was cut off by the end of input."""

_SWITCH_S = 0.0005
"""How long the importing thread may keep the interpreter from the one that answers."""
_PIPE = 60 * 1024
"""What a pipe takes from a host that reads nothing; with more, the end of input would not be read either."""
_LEAVE_S = 1.0
"""How long after the end of input the process may still be there; a stop takes 0.4 s where nothing is stuck."""

Deliver = Callable[[bytes | None], None]
"""Takes a line of the host's, or None at the end of input."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request of a beginning: its id, what the conversation was opened with, and what is asked.

    ``is_opening``: it may be the first.
    """

    id: int | str
    opening: str
    asked: str
    is_opening: bool
    message: dict[str, Any]


class Beginning:
    """Recognizes the requests with which a conversation begins, as long as each has the one narrow form.

    That is ``initialize`` and then lists without arguments; or, in the later protocol version, ``server/discover`` or
    lists that all carry one and the same ``_meta``. The first line of any other form is the end of the beginning.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._opening: str | None = None
        self._has_handshake = False

    def take(self, line: bytes) -> Question | None:
        """The request in a line; None for the notification that goes with the handshake, and for all that ends it."""
        if self.is_over:
            return None
        message = _parse(line)
        if self._has_handshake and message in _INITIALIZED:
            return None
        question = self._question(message)
        if question is None:
            self.is_over = True
            return None
        self._opening = question.opening
        self._has_handshake |= message["method"] == "initialize"
        return question

    def _question(self, message: Any) -> Question | None:
        match message:
            case {"jsonrpc": "2.0", "id": int() | str() as request_id, "method": str(method), **rest}:
                if not _is_plain(request_id):
                    return None
            case _:
                return None
        match rest:
            case {"params": dict(params), **others} if method == "initialize" and not others:
                opening = _text(params)
            case {"params": {"_meta": dict(meta), **arguments}, **others} if not arguments and not others:
                # Names that are not the protocol's own may have another value in each request.
                if not (method == "server/discover" or method in _LISTS) or not all(map(_is_reserved, meta)):
                    return None
                opening = f"_meta {_text(meta)}"
            case {} if self._has_handshake and method in _LISTS and rest in ({}, {"params": {}}):
                assert self._opening is not None
                return Question(request_id, self._opening, _text([method, rest]), False, message)
            case _:
                return None
        if self._opening is not None and (self._opening != opening or method == "initialize"):
            return None
        return Question(request_id, opening, method, True, message)


class Replies:
    """The SDK's earlier replies, by opening and request; kept in a file that only the owner may write.

    Whatever is at the file's place, and whatever is in it, costs speed and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made_by = _fingerprint()
        self._known: dict[str, dict[str, str]] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            kept = json.loads(_read_own(path))
            if kept["made_by"] == self._made_by and kept["sum"] == _sum(kept["replies"]):
                self._known = kept["replies"]

    def get(self, question: Question) -> str | None:
        """The reply to a request as JSON, or None."""
        return self._known.get(question.opening, {}).get(question.asked)

    def learn(self, question: Question, reply: str | None) -> None:
        """Keep a reply for the next start, or forget it: None says that there is no such reply any more."""
        known = self._known.get(question.opening, {})
        if known.get(question.asked) == reply:
            return
        if reply is None:
            del known[question.asked]
        elif question.is_opening and _is_in_version_asked(reply, question):
            self._known.setdefault(question.opening, known)[question.asked] = reply
        elif question.opening in self._known:
            known[question.asked] = reply
        else:
            return  # what opens it is not kept
        while len(self._known) > _MAX_OPENINGS:
            del self._known[next(iter(self._known))]
        with contextlib.suppress(OSError):
            self._write()

    def _write(self) -> None:
        kept = {"made_by": self._made_by, "sum": _sum(self._known), "replies": self._known}
        make_directory(self._path.parent)
        beside = self._path.with_suffix(".new")  # one name for all: a killed server leaves at most one
        beside.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump(kept, file)
            beside.replace(self._path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


@dataclass(slots=True)
class _Asked:
    question: Question
    is_answered: bool


class Front:
    """The process's standard input and output, from the first moment on."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._input = _take(0, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        self._output = _take(1, os.dup(2))
        self._lock = threading.Lock()
        self._deliver: Deliver | None = None
        self._is_loaded = threading.Event()
        self._waiting: list[bytes | None] = []
        self._beginning = Beginning()
        self._is_behind = False
        """Whether the host waits for something that only the SDK can answer."""
        self._asked: dict[str, _Asked] = {}
        """Requests of the beginning that the SDK has not answered yet, by the ids under which it knows them."""
        self._ids = (f"{os.urandom(8).hex()}-{number}" for number in itertools.count())
        self._room = _PIPE
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def hand_over(self, deliver: Deliver) -> list[bytes | None]:
        """Let the SDK answer from now on: the lines so far; ``deliver`` gets the rest, in the reading thread."""
        sys.setswitchinterval(self._switch_s)
        with self._lock:
            self._deliver = deliver
            self._is_loaded.set()
            return self._waiting

    def send(self, line: str) -> None:
        """Send a line of the SDK's, unless the host has that answer already."""
        if self._asked:
            message: dict[str, Any] = {}
            with contextlib.suppress(
                ValueError
            ):  # an id that is too long to be a number answers nothing of a beginning
                message = json.loads(line)
            asked = self._asked.pop(str(message.get("id")), None) if "method" not in message else None
            if asked is not None:
                self._learn(asked, message)
                if asked.is_answered:
                    return
                line = _text(message | {"id": asked.question.id})
        self.write(line.encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Write to the host as it is; for as long as the host takes to read it."""
        with contextlib.suppress(BrokenPipeError):  # nobody reads any more; the end of input follows
            while data:
                data = data[os.write(self._output, data) :]

    def _learn(self, asked: _Asked, message: dict[str, Any]) -> None:
        reply = _text(message["result"]) if "result" in message else None
        if reply is None and message["error"]["code"] == _CONNECTION_CLOSED:
            return
        if asked.is_answered and self._replies.get(asked.question) != reply:
            method = asked.question.message["method"]
            log.warning("the kept answer to %s was out of date; it is right from the next start on", method)
        self._replies.learn(asked.question, reply)

    def _read(self) -> None:
        try:
            with os.fdopen(self._input, "rb", closefd=False) as lines:
                for line in lines:
                    self._take_in(line)
        finally:  # whatever ends the reading ends the input; else the server would never stop
            self._take_in(None)
            self._leave()

    def _take_in(self, line: bytes | None) -> None:
        with self._lock:
            if line is None and self._deliver is None and not self._is_behind:
                os._exit(0)  # the host has all its answers and has gone: nothing has begun
            question = None if line is None else self._beginning.take(line)
            if question is not None:
                line = self._answer(question)
            self._is_behind |= self._beginning.is_over
            if self._deliver is not None:
                self._deliver(line)
            else:
                self._waiting.append(line)

    def _answer(self, question: Question) -> bytes:
        """Reply where an earlier reply is known and the SDK is not there yet; the line as the SDK shall see it."""
        can_answer = not self._is_behind and self._deliver is None
        reply = self._replies.get(question) if can_answer else None
        if reply is not None:
            line = f'{{"jsonrpc":"2.0","id":{json.dumps(question.id)},"result":{reply}}}\n'.encode()
            self._room -= len(line)
            reply = reply if self._room >= 0 else None
        own_id = next(self._ids)
        self._asked[own_id] = _Asked(question, is_answered=reply is not None)
        if reply is None:
            self._is_behind = True
        else:
            self.write(line)
        return _text(question.message | {"id": own_id}).encode() + b"\n"

    def _leave(self) -> None:
        """Be gone in a bounded time after the host, whatever is stuck: a write that nobody reads, a thread, a lock.

        What was not booked by then, the next server books.
        """
        self._is_loaded.wait()
        threading.Event().wait(_LEAVE_S)
        os._exit(0)


_INITIALIZED: tuple[dict[str, Any], ...] = (
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "method": "notifications/initialized", "params": {}},
)


def _parse(line: bytes) -> Any:
    """A line as a value, or None where two readers could disagree on it: a name twice, bad UTF-8, a BOM, a NaN."""
    if len(line) > _MAX_LINE:
        return None
    try:
        return json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _is_plain(request_id: int | str) -> bool:
    if isinstance(request_id, str):
        return len(request_id) <= 64 and request_id.isascii() and request_id.isprintable()
    return type(request_id) is int and abs(request_id) < 2**53


def _is_in_version_asked(reply: str, question: Question) -> bool:
    """Whether it is not a reply to a protocol version that the SDK does not know, of which there may be many."""
    if question.message["method"] != "initialize":
        return True
    version: bool = json.loads(reply).get("protocolVersion") == question.message["params"].get("protocolVersion")
    return version


def _is_reserved(name: str) -> bool:
    return name.startswith("io.modelcontextprotocol/")


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _sum(replies: dict[str, dict[str, str]]) -> int:
    """A checksum, so that what was damaged or edited by hand is not sent to a host.

    Raises:
        TypeError: these are no replies.
    """
    total = 0
    for opening, answers in sorted(replies.items()):
        for part in (opening, *(part for answer in sorted(answers.items()) for part in answer)):
            total = zlib.crc32(part.encode("utf-8", "surrogatepass") + b"\0", total)
    return total


def _read_own(path: Path) -> bytes:
    """A file that nobody else can have written.

    Raises:
        OSError: it is no such file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{path} may be somebody else's")
        return file.read(_MAX_FILE)


def _take(fd: int, instead: int) -> int:
    """A private copy of a standard descriptor, which itself is pointed elsewhere."""
    own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.dup2(instead, fd)
    os.close(instead)
    return own


def _fingerprint() -> str:
    """What the answers depend on: Python, every file of this package, and what is installed beside the SDK."""
    spec = importlib.util.find_spec("mcp")
    installed = [Path(spec.origin).parent, Path(spec.origin).parents[1]] if spec and spec.origin else []
    parts = [(str(path), path.stat().st_mtime_ns) for path in installed]
    own = [(name, found.st_mtime_ns, found.st_size) for name, found in _files(str(Path(__file__).parents[1]))]
    return f"{__version__} {sys.version} {zlib.crc32(repr((parts, sorted(own))).encode()):08x}"


def _files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _files(entry.path)
            else:
                yield entry.path, entry.stat()
