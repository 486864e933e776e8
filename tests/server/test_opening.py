"""A server that cannot open its pool serves all the same and tries again; told to leave, it leaves in bounded time."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from beginnings import INITIALIZED, Lines, beginnings, initialize, line
from support import make_home, sign_in

from pool_mcp.server.handshake import Beginning, Replies

CALL = {"id": 2, "method": "tools/call", "params": {"name": "usage_status", "arguments": {}}}
GONE_S = 2.0


class Served(subprocess.Popen[bytes]):
    """A real server, initialized."""

    def __init__(self, home: Path, env: dict[str, str] | None = None) -> None:
        env = env or {"PATH": os.defpath, "HOME": str(home), "POOL_MCP_HOME": str(home / "pool")}
        self.log = home / "server.log"
        with self.log.open("wb") as log:
            super().__init__(
                [sys.executable, "-m", "pool_mcp", "serve"],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.say(initialize())
        assert "result" in self.hear()
        self.say(INITIALIZED)
        self.say({"id": "loaded", "method": "ping"})  # which only the SDK answers
        assert self.hear()["id"] == "loaded"

    def say(self, message: dict[str, Any]) -> None:
        assert self.stdin is not None
        self.stdin.write(line(message))
        self.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.stdout is not None
        reply: dict[str, Any] = json.loads(self.stdout.readline())
        return reply

    def call(self) -> dict[str, Any]:
        self.say(CALL)
        result: dict[str, Any] = self.hear()["result"]
        return result

    def leave(self, how: signal.Signals | None) -> tuple[int, float]:
        """Close the input or send a signal; the exit code, and how many seconds it took to be gone."""
        assert self.stdin is not None
        began = time.monotonic()
        if how is None:
            self.stdin.close()
        else:
            self.send_signal(how)
        return self.wait(20), time.monotonic() - began


@contextmanager
def served(home: Path, env: dict[str, str] | None = None) -> Iterator[Served]:
    with Served(home, env) as server:
        try:
            yield server
        finally:
            server.kill()
    assert "Traceback" not in server.log.read_text()


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """What another process does that writes into the ledger and does not end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def test_a_pool_that_could_not_be_opened_is_opened_by_the_next_call(tmp_path: Path) -> None:
    settings = tmp_path / "pool" / "pool.toml"
    settings.parent.mkdir()
    settings.write_text("strategy = 1\n")
    with served(tmp_path) as server:
        assert "strategy" in server.call()["structuredContent"]["error"]["message"]
        assert server.call()["isError"] is True
        settings.unlink()
        (settings.parent / "ledger.db").mkdir()
        assert server.call()["structuredContent"]["error"]["kind"] == "ledger"
        (settings.parent / "ledger.db").rmdir()
        assert "advice" in server.call()["structuredContent"]
        assert server.leave(None)[0] == 0


@pytest.mark.parametrize("how", [None, signal.SIGTERM])
def test_a_server_leaves_while_it_waits_for_the_ledger_to_be_opened(tmp_path: Path, how: signal.Signals | None) -> None:
    with served(tmp_path) as server:
        server.call()
    with write_lock(tmp_path / "pool" / "ledger.db"), served(tmp_path) as server:
        server.say(CALL)
        code, took_s = server.leave(how)
        assert (code, took_s < GONE_S) == (0 if how is None else 128 + how, True), took_s


def test_a_server_leaves_while_a_call_waits_for_the_ledger(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        server.call()
        with write_lock(tmp_path / "pool" / "ledger.db"):
            server.say(CALL)
            code, took_s = server.leave(None)
    assert (code, took_s < GONE_S) == (0, True), took_s


def test_a_server_leaves_though_its_host_reads_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        for number in range(100):  # far more than a pipe takes
            server.say({"id": number, "method": "tools/list"})
        code, took_s = server.leave(None)
    assert (code, took_s < GONE_S) == (0, True), took_s


def test_a_server_ends_what_it_asks_the_cli_about_logins(tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    cli = tmp_path / "claude"
    cli.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > {started}\nwait\n")
    cli.chmod(0o755)
    sign_in(tmp_path / "carol", "carol", "org-1")
    _, env = make_home(
        tmp_path, cli=cli, subscriptions={"alice": {"enabled": False}, "carol": {"config_dir": str(tmp_path / "carol")}}
    )
    with served(tmp_path, env) as server:
        helper = int(started.read_text())  # waits until the CLI has been started
        code, took_s = server.leave(None)
    assert (code, took_s < GONE_S / 2) == (0, True), took_s
    stat = Path(f"/proc/{helper}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.parametrize("command", [["serve"], ["status"], ["statusline"], ["--help"]], ids=lambda one: one[0])
def test_an_interrupt_while_the_program_is_loaded_prints_no_traceback(tmp_path: Path, command: list[str]) -> None:
    """The interrupt comes as the modules that take longest are imported, at a different one each time."""
    for module in ("pool_mcp.cli", "click", "pool_mcp.cli.main", "pool_mcp.server.server", "mcp", "pool_mcp.settings"):
        program = f"""
import importlib.abc, os, runpy, signal, sys
class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.argv = ["pool-mcp", *{command!r}]
runpy.run_module("pool_mcp", run_name="__main__", alter_sys=False)
"""
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env={"PATH": os.defpath, "HOME": str(tmp_path), "POOL_MCP_HOME": str(tmp_path / "pool")},
            input=b"",
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert b"Traceback" not in ran.stderr, (module, ran.stderr.decode())
        assert ran.returncode in (0, 130, -signal.SIGINT), (module, ran.returncode)


# What is kept of earlier replies


def kept(folder: Path) -> tuple[Replies, Path]:
    """Replies with one that is on the disk, and their file."""
    replies = Replies(folder / "replies.json")
    replies.learn(question(), '{"tools":[]}')
    assert Replies(folder / "replies.json").get(question()) == '{"tools":[]}'
    return replies, folder / "replies.json"


def question() -> Any:
    found = Beginning().take(beginnings()["later: tools/list"][0])
    assert found is not None
    return found


def named_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def edited(path: Path) -> None:
    path.write_text(path.read_text().replace("tools", "fools"))


def foreign(path: Path) -> None:
    os.chown(path, 12345, 12345)


CONTENTS = ["", "{", "[]", "null", '"x"', "7", "[" * 100_000, '{"made_by":1}', "\0" * 10, '{"replies":[]}']
SPOILT: list[Any] = [None, [], "x", 7, {"a": 1}, {"a": {"b": None}}, {"a": {"b": {"c": 1}}}, {"a": ["b"]}]


@pytest.mark.parametrize("spoil", [named_pipe, folder, link, edited, foreign, lambda path: path.chmod(0o666)])
def test_a_file_that_somebody_else_may_have_written_is_not_used(tmp_path: Path, spoil: Any) -> None:
    if spoil is foreign and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    _, path = kept(tmp_path)
    spoil(path)
    assert Replies(path).get(question()) is None
    Replies(path).learn(question(), '{"tools":[]}')
    assert Replies(path).get(question()) in (None, '{"tools":[]}')
    assert {one.name for one in tmp_path.iterdir()} <= {"replies.json", "elsewhere"}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_that_cannot_be_read_is_not_used(tmp_path: Path, content: str) -> None:
    _, path = kept(tmp_path)
    path.write_text(content)
    assert Replies(path).get(question()) is None


@pytest.mark.parametrize("replies", SPOILT, ids=json.dumps)
def test_replies_of_another_form_are_not_used(tmp_path: Path, replies: Any) -> None:
    _, path = kept(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"replies": replies}))
    assert Replies(path).get(question()) is None


def test_a_full_disk_costs_speed_and_leaves_no_file(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
from beginnings import beginnings
from pool_mcp.server.handshake import Beginning, Replies
Replies(Path(sys.argv[1]) / "replies.json").learn(Beginning().take(beginnings()["later: tools/list"][0]), "{}" * 5000)
"""
    fakes = Path(__file__).parents[1] / "fakes"
    subprocess.run([sys.executable, "-c", program, tmp_path, fakes], check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_an_error_unlearns_and_the_oldest_opening_goes_first(tmp_path: Path) -> None:
    replies, path = kept(tmp_path)
    replies.learn(question(), None)
    assert Replies(path).get(question()) is None
    cases: Lines = [line(initialize(clientInfo={"name": "test", "version": str(number)})) for number in range(20)]
    asked = [Beginning().take(one) for one in cases]
    for one in asked:
        assert one is not None
        replies.learn(one, '{"protocolVersion":"2025-06-18"}')
    again = Replies(path)
    assert [again.get(one) is not None for one in asked if one is not None] == [False] * 12 + [True] * 8
