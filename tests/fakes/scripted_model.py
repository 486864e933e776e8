"""A model on loopback that plays a script: it calls a server's tools one after another and records what it got.

A host that is pointed at it believes that it talks to its own model. Each request that offers the wanted tool is
answered with the next call of the script, until every call has a result; the results are then what the host really
hands to a model, whatever the server had put on the wire.
"""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from model_apis import APIS, Body, ModelApi, OfferedTool, Reply, ToolCall

LOOKING = ("ToolSearch", "list_mcp_resources", "TaskList")
"""Tools of hosts that change nothing; after a call the host may offer more tools."""

PATIENCE_S = 30
"""How long the model goes on looking for a tool."""

WAITING = "look"
"""In the id of each call that only looks."""


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the script; ``tool`` is its name at the server, to which hosts add a prefix of theirs."""

    tool: str
    arguments: dict[str, Any]


class ScriptedModel:
    """The model; a context manager that serves from a thread of its own.

    ``got`` holds the result of each step so far, as the model got it. ``offered`` are the tools of the last request
    that offered any. ``outside`` lists what a host wanted from elsewhere, which is refused: point its proxy here, too.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = list(steps)
        self.got: list[str] = []
        self.offered: list[OfferedTool] = []
        self.outside: list[str] = []
        self._patience_until: float | None = None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="model", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reply(self, api: ModelApi, body: Body) -> Reply:
        """What the model says to a request."""
        tools = api.tools(body)
        with self._lock:
            if not tools:
                return "A title"
            results = api.results(body)
            self.offered = tools
            self.got = [one.text for one in results if WAITING not in one.id]
            if len(self.got) >= len(self.steps):
                return "The script is over."
            step = self.steps[len(self.got)]
            if tool := _find(tools, step.tool):
                return ToolCall(f"step{len(self.got) + 1}", tool.name, step.arguments, tool.namespace)
            return self._wait(tools, len(results), step)

    def _wait(self, tools: Sequence[OfferedTool], number: int, step: Step) -> Reply:
        """Look for a tool that is not offered yet: hosts load tools on demand, or start before their servers have."""
        self._patience_until = self._patience_until or time.monotonic() + PATIENCE_S
        searching = next((tool for name in LOOKING if (tool := _find(tools, name))), None)
        if searching is None or time.monotonic() > self._patience_until:
            return f"No tool {step.tool} is offered."
        time.sleep(0.1)
        arguments = {"query": f"+pool {step.tool}", "max_results": 10} if searching.name == "ToolSearch" else {}
        return ToolCall(f"{WAITING}{number}", searching.name, arguments, searching.namespace)


def _find(tools: Sequence[OfferedTool], name: str) -> OfferedTool | None:
    return next((tool for tool in tools if tool.name.endswith(name)), None)


def _handler(model: ScriptedModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0]
            api = next((one for one in APIS if one.is_path(path)), None)
            if api is None:
                self._answer(404, "application/json", b"{}")
                return
            body = json.loads(raw)
            reply = b"".join(api.stream(body, model.reply(api, body)))
            if path.endswith(":generateContent"):
                self._answer(200, "application/json", reply.removeprefix(b"data: ").strip())
            else:
                self._answer(200, "text/event-stream", reply)

        def do_GET(self) -> None:
            if self.path.startswith("http"):
                model.outside.append(self.path)
            self._answer(404, "application/json", b"{}")

        def do_HEAD(self) -> None:
            self._answer(404, "application/json", b"")

        def do_CONNECT(self) -> None:
            model.outside.append(self.path)
            self._answer(403, "text/plain", b"")

        def _answer(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
            pass

    return Handler
