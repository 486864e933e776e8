"""The first replies come early and are the SDK's own; standard input and output stay out of reach."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pool_mcp.server.handshake import Beginning, Question, Replies

LEGACY: list[dict[str, Any]] = [
    {
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    },
    {"method": "notifications/initialized"},
    {"id": "two", "method": "tools/list"},
    {"id": 3, "method": "resources/list", "params": {}},
    {"id": 4, "method": "resources/templates/list"},
    {"id": 5, "method": "tools/call", "params": {"name": "usage_status", "arguments": {"nonsense": 1}}},
]
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
MODERN: list[dict[str, Any]] = [
    {"id": 1, "method": "server/discover", "params": {"_meta": META}},
    {"id": 2, "method": "tools/list", "params": {"_meta": META}},
    {"id": 3, "method": "resources/list", "params": {"_meta": META}},
    {"id": 4, "method": "tools/list", "params": {"_meta": META, "cursor": "from elsewhere"}},
]


def line(message: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"


def questions(messages: list[dict[str, Any]]) -> list[Question | None]:
    """What an early reply is possible for, by message."""
    beginning = Beginning()
    return [beginning.take(line(message)) for message in messages]


def serve(home: Path) -> "subprocess.Popen[str]":
    """A real server of a home, with pipes to it."""
    return subprocess.Popen(
        [sys.executable, "-m", "pool_mcp", "serve"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "POOL_MCP_HOME": str(home / "pool")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def converse(home: Path, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """All replies of a fresh server to a host that says everything at once, by request id, with their order."""
    lines = "".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages)
    with serve(home) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(lines)
        server.stdin.flush()
        wanted = sum("id" in message for message in messages)
        replies = [json.loads(server.stdout.readline()) for _ in range(wanted)]
        rest, log = server.communicate(timeout=20)
    assert rest == ""
    assert "out of date" not in log
    return {json.dumps(reply["id"]): reply for reply in replies}


@pytest.mark.parametrize("messages", [LEGACY, MODERN], ids=["legacy", "modern"])
def test_a_later_start_replies_what_the_sdk_replied_itself(tmp_path: Path, messages: list[dict[str, Any]]) -> None:
    by_the_sdk = converse(tmp_path, messages)
    # A host that does not wait for the reply to initialize has its lists kept one start later.
    assert [converse(tmp_path, messages) for _ in range(2)] == [by_the_sdk] * 2
    replies = Replies(tmp_path / "pool" / "replies.json")
    asked = [question for question in questions(messages) if question is not None]
    assert len(asked) >= 3
    for question in asked:
        assert json.loads(replies.get(question) or "null") == by_the_sdk[json.dumps(question.id)]["result"]


def test_the_early_replies_come_from_the_file_and_are_put_right_when_they_are_wrong(tmp_path: Path) -> None:
    by_the_sdk = [converse(tmp_path, LEGACY) for _ in range(2)][-1]
    tools_list = questions(LEGACY)[2]
    assert tools_list is not None
    Replies(tmp_path / "pool" / "replies.json").learn(tools_list, '{"tools":[]}')
    with pytest.raises(AssertionError, match="out of date"):  # the server's log says so
        converse(tmp_path, LEGACY)
    assert converse(tmp_path, LEGACY) == by_the_sdk


def test_what_is_kept_can_be_read_by_the_owner_only(tmp_path: Path) -> None:
    converse(tmp_path, LEGACY)
    assert (tmp_path / "pool" / "replies.json").stat().st_mode & 0o077 == 0


def test_prints_and_children_cannot_reach_the_hosts_streams(tmp_path: Path) -> None:
    program = """
import subprocess, sys
from pathlib import Path
from pool_mcp.server.handshake import Front, Replies
front = Front(Replies(Path(sys.argv[1])))
print("a stray print", flush=True)
subprocess.run(["sh", "-c", "echo a stray child; cat"], check=True)
front.send('{"jsonrpc": "2.0", "method": "ours"}')
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "replies.json")],
        input="the host's words\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert ran.stdout == '{"jsonrpc": "2.0", "method": "ours"}\n'
    assert ran.stderr == "a stray print\na stray child\n"


@pytest.mark.parametrize(
    ("messages", "ended"),
    [
        ([], 0),
        (LEGACY[:2], 0),
        (LEGACY[:3], 3),
        ([{"id": 1, "method": "initialize", "params": {"protocolVersion": "of another time"}}], 3),
        ([LEGACY[0], LEGACY[5]], 3),
        ([{"id": 1, "method": "resources/read", "params": {"uri": "pool://status"}}], 3),
    ],
)
def test_a_host_that_leaves_while_the_rest_is_loaded_is_waited_for_only_where_it_is_owed_a_reply(
    tmp_path: Path, messages: list[dict[str, Any]], ended: int
) -> None:
    program = """
import sys, time
from pathlib import Path
from pool_mcp.server.handshake import Front, Replies
front = Front(Replies(Path(sys.argv[1])))
while None not in front._waiting:
    time.sleep(0.01)
sys.exit(3)
"""
    initialize = questions(LEGACY)[0]
    assert initialize is not None
    Replies(tmp_path / "replies.json").learn(initialize, '{"protocolVersion":"2025-06-18"}')
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "replies.json")],
        input=b"".join(map(line, messages)),
        timeout=20,
        check=False,
    )
    assert ran.returncode == ended


def test_a_host_that_dies_before_it_reads_the_first_reply_leaves_no_server_behind(tmp_path: Path) -> None:
    converse(tmp_path, LEGACY)
    with serve(tmp_path) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdout.close()
        server.stdin.write("".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in LEGACY))
        server.stdin.close()
        try:
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()
