"""Answers a host's first questions while the rest of the server is still being loaded.

Importing the MCP SDK takes about half a second, and every host starts its own server, some several. What a host asks
first (``initialize``, ``tools/list``, …) always has the same answers. So the SDK's own answers of an earlier start are
kept in a file, and this module, which needs the standard library only, gives them again at once. Every line that comes
in is then handed to the SDK all the same, in order; its answers to what has been answered already are compared and
dropped, and when they differ, the file is put right. Nothing is ever answered that the SDK has not answered itself,
with this version of everything, on this machine.

Like the SDK's own stdio transport, this one takes file descriptors 0 and 1 out of reach: prints and child processes
meet ``/dev/null`` and stderr instead.
"""

import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pool_mcp import __version__

log = logging.getLogger(__name__)

_KEPT = frozenset(
    {"initialize", "server/discover", "tools/list", "resources/list", "resources/templates/list", "prompts/list"}
)
"""Requests whose answer depends on nothing but the version of the protocol."""

_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
_MAX_LINE = 64 * 1024
"""A longer request is none of these."""

_SWITCH_S = 0.0005
"""How long the importing thread may keep the interpreter from the one that answers."""

Deliver = Callable[[bytes | None], None]
"""Takes a line of the host's, or None at the end of input."""


class Replies:
    """The SDK's earlier replies, by request; kept in a file that only the owner may read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made_by = _fingerprint()
        self._known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(kept, dict) and kept.get("made_by") == self._made_by:
                self._known = kept["replies"]

    def get(self, key: str) -> Any:
        """The reply to a request, or None."""
        return self._known.get(key)

    def learn(self, key: str, reply: Any) -> None:
        """Keep a reply for the next start; a directory that cannot be written costs speed, nothing else."""
        if self._known.get(key) == reply:
            return
        self._known[key] = reply
        kept = json.dumps({"made_by": self._made_by, "replies": self._known})
        beside = self._path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            beside.touch(mode=0o600)
            beside.write_text(kept, encoding="utf-8")
            beside.replace(self._path)


class Front:
    """The process's standard input and output, from the first moment on."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._input = _take(0, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        self._output = _take(1, os.dup(2))
        self._lock = threading.Lock()
        self._deliver: Deliver | None = None
        self._waiting: list[bytes | None] = []
        self._is_owed = False
        """Whether a request waits that only the SDK can answer."""
        self._calls: list[Any] = []
        """Tool calls that wait, by their ids; the SDK drops them when the input ends."""
        self._version: str | None = None
        self._asked: dict[str, str] = {}
        """Requests whose answer is worth keeping: key by request id."""
        self._answered: set[str] = set()
        """Requests that were answered here; the SDK's answer is not sent again."""
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def hand_over(self, deliver: Deliver) -> list[bytes | None]:
        """Let the SDK answer from now on: the lines so far; ``deliver`` gets the rest, in the reading thread."""
        sys.setswitchinterval(self._switch_s)
        with self._lock:
            self._deliver = deliver
            return self._waiting

    def send(self, line: str) -> None:
        """Send a line of the SDK's, unless it answers what has been answered."""
        if self._asked or self._answered:
            message = json.loads(line)
            request = _id(message)
            key = self._asked.pop(request, None) if "method" not in message else None
            if key is not None and "result" in message:
                was_answered = request in self._answered
                if was_answered and self._replies.get(key) != message["result"]:
                    log.warning("the kept answer to %s was out of date; it is right from the next start on", key)
                self._replies.learn(key, message["result"])
                if was_answered:
                    self._answered.discard(request)
                    return
        self._write(line.encode() + b"\n")

    def _read(self) -> None:
        try:
            with os.fdopen(self._input, "rb", closefd=False) as lines:
                for line in lines:
                    self._take_in(line)
        finally:  # whatever ends the reading ends the input; else the server would never stop
            self._take_in(None)

    def _take_in(self, line: bytes | None) -> None:
        with self._lock:
            if self._deliver is not None:
                self._deliver(line)
                return
            self._waiting.append(line)
            if line is not None:
                self._is_owed |= not self._answer(line)
            elif not self._is_owed:
                self._leave()

    def _leave(self) -> NoReturn:
        """The host has gone: nothing has begun, and nobody waits for the rest to be loaded."""
        for request in self._calls:
            error = {"code": -32000, "message": "Connection closed"}  # as the SDK says it
            self._write(json.dumps({"jsonrpc": "2.0", "id": request, "error": error}).encode() + b"\n")
        os._exit(0)

    def _answer(self, line: bytes) -> bool:
        """Reply where an earlier reply is known; False where only the SDK can answer, even after the host has gone."""
        if len(line) > _MAX_LINE:
            return False
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
            message = json.loads(line)
            if isinstance(message, dict) and "id" not in message:
                return True
            if message["method"] == "tools/call":
                self._calls.append(message["id"])
                return True
            key = self._key(message)
            if key is None:
                return False
            request = _id(message)
            self._asked[request] = key
            answer = self._replies.get(key)
            if answer is None:
                return False
            if message["method"] == "initialize":
                self._version = answer["protocolVersion"]
            self._answered.add(request)
            reply = {"jsonrpc": "2.0", "id": message["id"], "result": answer}
            self._write(json.dumps(reply, separators=(",", ":")).encode() + b"\n")
            return True
        return False

    def _key(self, message: Any) -> str | None:
        """What an answer depends on: the method and the protocol's version. None for what is not kept."""
        method, params = message["method"], message.get("params") or {}
        if method not in _KEPT or "id" not in message:
            return None
        if method == "initialize":
            return f"initialize {params['protocolVersion']}"
        meta = params.get("_meta") or {}
        if set(params) - {"_meta"} or "progressToken" in meta:
            return None
        version = meta.get(_VERSION_KEY, self._version)
        return None if version is None else f"{method} {version}"

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads any more; the end of input follows
            while data:
                data = data[os.write(self._output, data) :]


def _id(message: Any) -> str:
    """A request's id as a key: 1 and "1" are two."""
    return json.dumps(message.get("id"))


def _take(fd: int, instead: int) -> int:
    """A private copy of a standard descriptor, which itself is pointed elsewhere."""
    own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.dup2(instead, fd)
    os.close(instead)
    return own


def _fingerprint() -> str:
    """What the answers depend on: the versions of Python, of the SDK and of our own words."""
    spec = importlib.util.find_spec("mcp")
    here = Path(__file__).parent
    files = [here.parent / "__init__.py", here.parent / "results.py", here / "server.py", here / "tools.py"]
    files += [Path(spec.origin)] if spec and spec.origin else []
    changed = [file.stat().st_mtime_ns for file in files]
    return json.dumps([__version__, sys.version, *changed])
