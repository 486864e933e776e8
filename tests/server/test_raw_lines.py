"""Whatever a host sends, each of its requests is answered, and no content reaches the log."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beginnings import INITIALIZED, META, initialize, line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool_mcp.server.transport import find_request_id

CASES = int(os.environ.get("POOL_MCP_FUZZ_CASES", "60"))
"""How many random lines a server gets in each protocol version; more, for a longer run."""

SECRET = "what-the-person-asked"


class Server:
    """A real server, of which every reply is awaited."""

    def __init__(self, home: Path, meta: dict[str, Any] | None) -> None:
        self.meta = meta
        self.log = home / "server.log"
        self._number = 0
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pool_mcp", "serve"],
                env={"PATH": "/usr/bin:/bin", "HOME": str(home), "POOL_MCP_HOME": str(home / "pool")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        if meta is None:
            self.send(line(initialize(0)))
            self.send(line(INITIALIZED))
            assert "result" in self.receive()

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        reply: dict[str, Any] = json.loads(self.process.stdout.readline(), parse_int=str)
        return reply

    def call(self, arguments: str) -> bytes:
        """A call of a tool that takes no such arguments; ``arguments`` is JSON, or nearly."""
        self._number += 1
        meta = "" if self.meta is None else f',"_meta":{json.dumps(self.meta)}'
        params = f'{{"name":"usage_status","arguments":{arguments}{meta}}}'
        return f'{{"jsonrpc":"2.0","method":"tools/call","params":{params},"id":{self._number}}}\n'.encode()

    def replies_to(self, data: bytes, request_id: str | None) -> list[dict[str, Any]]:
        """What comes until a ping behind the line is answered, and the line itself, where it is a request."""
        ping = json.dumps({"jsonrpc": "2.0", "id": "ping", "method": "ping"} | self._params()).encode()
        self.send(data + ping + b"\n")
        awaited = {"ping", "ping" if request_id is None else str(json.loads(request_id, parse_int=str))}
        got: list[dict[str, Any]] = []
        while awaited:
            got.append(self.receive())
            awaited.discard(got[-1].get("id"))
        return [reply for reply in got if reply.get("id") != "ping"]

    def answer(self, arguments: str) -> dict[str, Any]:
        """The one reply to a call, which may come after that to a ping."""
        self.send(self.call(arguments))
        reply = self.receive()
        assert reply["id"] == str(self._number)
        return reply

    def _params(self) -> dict[str, Any]:
        return {} if self.meta is None else {"params": {"_meta": self.meta}}


@pytest.fixture(scope="module", params=[None, META], ids=["legacy", "modern"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("home"), request.param)
    with server.process:
        yield server
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(30) == 0
    assert SECRET not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f'{{"caller":"{SECRET} \\ud83d"}}', "escape"),
        (f'{{"caller":"{SECRET}","x":{"[" * 200}{"]" * 200}}}', "recursion limit"),
        (f'{{"caller":"{SECRET}","x":{"[" * 100_000}{"]" * 100_000}}}', "recursion limit"),
        (f'{{"caller":"{SECRET}","x":{"7" * 5000}}}', None),
        (f'{{"caller":"{SECRET}","x":-1e{"9" * 5000}}}', None),
        (f'{{"caller":"{SECRET}","x":NaN}}', None),
        (f'{{"caller":"{SECRET}', "control character"),
        ("[]", None),
        ("7", None),
        (f'{{"{SECRET * 500_000}":1}}', None),
        (f'{{"caller":"{SECRET}\\u0000"}}', None),
    ],
)
def test_a_request_that_cannot_be_read_is_answered_under_its_id(
    server: Server, arguments: str, message: str | None
) -> None:
    reply = (
        server.answer(arguments)
        if message != "control character"
        else server.replies_to(cut(server, arguments), '"cut"')[0]
    )
    assert {"result", "error"} & reply.keys()
    if message is not None:
        assert reply["error"]["code"] == "-32700"
        assert message in reply["error"]["message"]
    assert len(json.dumps(reply)) < 20_000  # what was sent is not sent back


def cut(server: Server, arguments: str) -> bytes:
    """A call whose id comes first and whose end is missing."""
    whole = server.call(arguments)
    return b'{"id":"cut",' + whole[1 : whole.index(arguments.encode()) + len(arguments)] + b"\n"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(VALUES, st.integers(0, 400), st.binary(max_size=3).filter(lambda data: b"\n" not in data))
def test_random_lines_are_answered_too(server: Server, value: Any, at: int, put: bytes) -> None:
    whole = server.call(json.dumps({"nonsense": value}))[:-1]
    line = whole[: at % len(whole)] + put + whole[at % len(whole) :] + b"\n"
    request_id = None if is_notification(line) else find_request_id(line.decode(errors="replace"))
    got = server.replies_to(line, request_id)  # hangs where the request is not answered
    assert len([reply for reply in got if "id" in reply]) == (request_id is not None)


def is_notification(line: bytes) -> bool:
    """Whether a line is one that JSON-RPC allows no reply to."""
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return not isinstance(message, dict) or type(message.get("id")) not in (int, str)


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.integers(-(10**30), 10**30) | st.text(), st.booleans())
def test_the_id_is_found_wherever_it_stands(other: dict[str, Any], request_id: int | str, is_first: bool) -> None:
    others = {key: value for key, value in other.items() if key not in ("id", "result", "error")}
    message = {"id": request_id} | others if is_first else others | {"id": request_id}
    for text in (json.dumps(message), json.dumps(message, ensure_ascii=False, indent=1)):
        found = find_request_id(text)
        assert found is not None
        assert json.loads(found) == request_id


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '{"id":1.5}', '{"id":null}', '{"id":[1]}', '{"id":"', '{"a":{"id":1}}', '{"id":1,"result":{}}'],
)
def test_what_is_no_request_has_no_id(text: str) -> None:
    assert find_request_id(text) is None
