"""Somebody who is sent notices by HTTP, on loopback: takes them, fails, hangs or redirects, as a test says."""

import json
import threading
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

Mode = Literal["ok", "fail", "hang", "redirect"]


@dataclass
class Receiver:
    """The server; use as a context manager. ``mode`` may be changed at any time."""

    mode: Mode = "ok"
    failure: int = 503
    taken: list[Any] = field(default_factory=list)
    """What it has answered with success: the JSON, or ``{"text": …}``."""
    tried: list[Any] = field(default_factory=list)
    """Everything that came, as it came."""
    headers: list[dict[str, str]] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    """Ends what hangs."""

    def __enter__(self) -> Self:
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                ours._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/topic-SECRET"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _read(self, headers: Message, content: bytes) -> Any:
        return json.loads(content) if headers["content-type"] == "application/json" else {"text": content.decode()}

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        said = self._read(request.headers, request.rfile.read(int(request.headers["content-length"])))
        mode = self.mode
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if mode == "ok":
            self.taken.append(said)
        self.tried.append(said)
        if mode == "hang":
            self.release.wait()
            return
        request.send_response({"ok": 200, "fail": self.failure, "redirect": 307}[mode])
        if mode == "redirect":
            request.send_header("location", self.url + "/elsewhere")
        request.send_header("content-length", "0")
        request.end_headers()
