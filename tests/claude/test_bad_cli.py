"""A CLI that misbehaves in every way there is: each ask ends in one clear line, is booked, and leaves nothing behind."""

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from support import group_is_gone, make_home, open_ledger, open_pool, until

from pool_mcp.errors import PoolError
from pool_mcp.model import Ask, Cost, ModelCost, Outcome, RunState, Tokens

pytestmark = pytest.mark.anyio

HANG_S = 15
"""An ask that takes longer than this hangs."""

PRELUDE = """
import json, os, signal, subprocess, sys, time
session = next(a.split("=")[1] for a in sys.argv if a.startswith(("--session-id=", "--resume=")))
def say(type, **event):
    print(json.dumps({"type": type, "session_id": session, **event}), flush=True)
def begin():
    say("system", subtype="init", claude_code_version="2.1.330", model="claude-sonnet-5-5")
def start_message():
    usage = {"input_tokens": 1000, "output_tokens": 1}
    message = {"id": "msg_1", "model": "claude-sonnet-5-5", "usage": usage}
    say("stream_event", event={"type": "message_start", "message": message}, parent_tool_use_id=None)
def answer(text, **more):
    usage = {"claude-sonnet-5-5": {"inputTokens": 1000, "outputTokens": 100, "costUSD": 0.003}}
    said = {"is_error": False, "result": text, "modelUsage": usage, "model_usage_since_last_result": usage, **more}
    say("result", subtype="success", **said)
"""

ANSWERED = Cost(3_000_000, {"claude-sonnet-5-5": ModelCost(Tokens(input=1000, output=100), 3_000_000)})
CUT = Cost(2_010_000, {"claude-sonnet-5-5": ModelCost(Tokens(input=1000, output=1), 2_010_000)}, is_estimate=True)


def fake_cli(folder: Path, body: str) -> Path:
    """An executable where the CLI is expected to be, written in Python."""
    program, script = folder / "fake.py", folder / "claude"
    program.write_text(PRELUDE + body)
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -I -S '{program}' \"$@\"\n")
    script.chmod(0o755)
    return script


@dataclass(frozen=True)
class Ended:
    """How an ask ended for its caller, and what is in the ledger of it."""

    kind: str
    said: str
    state: RunState
    outcome: Outcome
    cost: Cost | None


async def ask(home: Path, cli: Path, timeout_s: float = 60) -> Ended:
    """Ask a CLI through a pool; nothing may be left in flight, and no process."""
    settings, env = make_home(home, cli=cli)
    async with open_pool(settings, env) as pool:
        with anyio.fail_after(HANG_S):
            try:
                answer = await pool.ask(Ask("ping", "test", timeout_s=timeout_s))
                kind, said, run_id = answer.status, answer.text, answer.run_id
            except PoolError as error:
                assert error.run_id is not None
                kind, said, run_id = error.kind, error.message, error.run_id
    with closing(open_ledger(settings)) as ledger, ledger.read() as books:
        assert books.unfinished() == []
        run = books.run(run_id)
    assert run is not None
    assert run.outcome is not None
    await until(lambda: group_is_gone(settings, run_id))
    return Ended(kind, said, run.state, run.outcome, run.cost)


def failed(said: str, state: RunState = RunState.FAILED, cost: Cost | None = None) -> Ended:
    return Ended("cli_failed", said, state, Outcome.CLI_FAILED, cost or Cost(is_estimate=True))


CHECK_IT = "ask again, or run `claude --version` to check it."


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("", failed(f"The CLI ended without an answer (exit code 0); {CHECK_IT}"), id="nothing"),
        pytest.param(
            "sys.stdout.buffer.write(b'\\x00\\xff\\xfe garbage\\n{]\\n\\n\"text\"\\n17\\nnull\\n')",
            failed(
                f"The CLI ended without an answer (exit code 0) and printed 5 lines that are not events; {CHECK_IT}"
            ),
            id="garbage",
        ),
        pytest.param(
            'begin()\nsys.stdout.write(\'{"type": "result", "is_err\')',
            failed(
                f"The CLI ended without an answer (exit code 0) and printed 1 lines that are not events; {CHECK_IT}"
            ),
            id="half a line",
        ),
        pytest.param(
            "sys.stdout.write('x' * 30_000_000 + '\\n')",
            failed(
                f"The CLI ended without an answer (exit code 0) and printed 1 lines that are not events; {CHECK_IT}"
            ),
            id="30 MB in one line",
        ),
        pytest.param(
            "sys.stdout.write('[' * 3_000_000 + '\\n' + '{\"a\":' * 300_000 + '\\n')",
            failed(
                f"The CLI ended without an answer (exit code 0) and printed 2 lines that are not events; {CHECK_IT}"
            ),
            id="nested deeply",
        ),
        pytest.param(
            "print('first line\\nno such option: --verbose', file=sys.stderr)\nsys.exit(3)",
            failed(f"The CLI ended without an answer (exit code 3): no such option: --verbose; {CHECK_IT}"),
            id="exit code and a complaint",
        ),
        pytest.param(
            "begin()\nstart_message()\nos.kill(os.getpid(), signal.SIGKILL)",
            failed(f"The CLI ended without an answer (exit code -9); {CHECK_IT}", RunState.INTERRUPTED, CUT),
            id="killed while it answers",
        ),
    ],
)
async def test_a_cli_that_gives_no_answer_is_reported_in_one_line(tmp_path: Path, body: str, expected: Ended) -> None:
    assert await ask(tmp_path, fake_cli(tmp_path, body)) == expected
