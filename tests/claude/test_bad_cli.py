"""A CLI that misbehaves in every way: each ask ends in one clear line, is booked, and leaves nothing behind."""

import shlex
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import group_is_gone, make_home, new_id, open_ledger, open_pool, until

from pool_mcp.demo.standin import Standin
from pool_mcp.errors import PoolError
from pool_mcp.model import Ask, Cost, ModelCost, Outcome, Run, RunState, Tokens
from pool_mcp.settings import Settings

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
    said = {"subtype": "success", "is_error": False, "result": text, "modelUsage": usage}
    say("result", **{**said, "model_usage_since_last_result": usage, **more})
def limit(**info):
    say("rate_limit_event", rate_limit_info=info)
"""

USED = Tokens(input=1000, output=100)
ANSWERED = Cost(3_000_000, {"claude-sonnet-5-5": ModelCost(USED, 3_000_000)})
CUT = Cost(2_010_000, {"claude-sonnet-5-5": ModelCost(Tokens(input=1000, output=1), 2_010_000)}, is_estimate=True)
FREE = Cost()
UNHEARD = Cost(is_estimate=True)
"""A CLI of which there is no event may have spent something."""
"""No request was announced, so none was sent."""


def fake_cli(folder: Path, body: str) -> Path:
    """An executable where the CLI is expected to be, written in Python."""
    program, script = folder / "fake.py", folder / "claude"
    program.write_text(PRELUDE + body)
    script.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-I", "-S", str(program)])} "$@"\n')
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
                kind, said, run_id = str(answer.status), answer.text, answer.run_id
            except PoolError as error:
                kind, said, run_id = error.kind, error.message, str(error.run_id)
    run = finished_run(settings, run_id)
    await until(lambda: group_is_gone(settings, run_id))
    assert run.outcome is not None
    return Ended(kind, said, run.state, run.outcome, run.cost)


def finished_run(settings: Settings, run_id: str) -> Run:
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
        assert tx.runs.unfinished() == []
        run = tx.runs.get(run_id)
    assert run is not None
    return run


# Without an answer


def failed(said: str, state: RunState = RunState.FAILED, cost: Cost = FREE) -> Ended:
    return Ended("cli_failed", said, state, Outcome.CLI_FAILED, cost)


def no_answer(how: str, state: RunState = RunState.FAILED, cost: Cost = FREE) -> Ended:
    advice = "ask again, or run `claude --version` to check it."
    return failed(f"The CLI ended without an answer ({how}; {advice}", state, cost)


def garbage(lines: int, cost: Cost = UNHEARD) -> Ended:
    return no_answer(f"exit code 0) and printed {lines} lines that are not events", cost=cost)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("", no_answer("exit code 0)", cost=UNHEARD), id="nothing"),
        pytest.param(
            "sys.stdout.buffer.write(b'\\x00\\xff\\xfe garbage\\n{]\\n\\n\"text\"\\n17\\nnull\\n')",
            garbage(5),
            id="garbage",
        ),
        pytest.param('begin()\nsys.stdout.write(\'{"type": "result", "is_err\')', garbage(1, FREE), id="half a line"),
        pytest.param("sys.stdout.write('x' * 30_000_000 + '\\n')", garbage(1), id="30 MB in one line"),
        pytest.param("sys.stdout.write('x' * 30_000_000)", garbage(1), id="30 MB in half a line"),
        pytest.param(
            "sys.stdout.write('[' * 3_000_000 + '\\n' + '{\"a\":' * 300_000 + '\\n')", garbage(2), id="nested deeply"
        ),
        pytest.param(
            "print('first line\\nno such option: --verbose', file=sys.stderr)\nsys.exit(3)",
            no_answer("exit code 3): no such option: --verbose"),
            id="exit code and a complaint",
        ),
        pytest.param(
            "sys.stderr.write('x' * 5_000_000)", no_answer(f"exit code 0): {'x' * 300}"), id="5 MB of complaint"
        ),
        pytest.param(
            "begin()\nstart_message()\nos.kill(os.getpid(), signal.SIGKILL)",
            no_answer("exit code -9)", RunState.INTERRUPTED, CUT),
            id="killed while it answers",
        ),
        pytest.param(
            "begin()\nsay('result', is_error='no', result=5, modelUsage=[1], total_cost_usd={}, api_error_status='4',"
            "model_usage_since_last_result='x', errors={'a': 1}, terminal_reason=7)",
            failed("The run failed; ask again."),
            id="a result of wrong types",
        ),
        pytest.param(
            "answer('boom', is_error=True, subtype=None)", failed("boom", cost=ANSWERED), id="an error before the start"
        ),
        pytest.param(
            "begin()\nanswer('half \\ud83d\\nand\\x1b[1m more\\0', is_error=True)",
            failed("half ? and [1m more", cost=ANSWERED),
            id="an error in strange letters",
        ),
    ],
)
async def test_a_cli_that_gives_no_answer_is_reported_in_one_line(tmp_path: Path, body: str, expected: Ended) -> None:
    assert await ask(tmp_path, fake_cli(tmp_path, body)) == expected


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("#!/no/such/interpreter\n", "not found"),
        ("this is no program\n", "not found"),
        ("#!/bin/sh\nexec no-such-program-either\n", "not found"),
    ],
)
async def test_a_cli_that_cannot_start_is_reported_with_the_systems_word(
    tmp_path: Path, program: str, complaint: str
) -> None:
    script = fake_cli(tmp_path, "")
    script.write_text(program)
    ended = await ask(tmp_path, script)
    assert (ended.kind, ended.outcome, ended.cost) == ("cli_failed", Outcome.CLI_FAILED, FREE)
    assert complaint in ended.said
    assert len(ended.said.splitlines()) == 1


# With an answer in spite of everything


def answered(said: str = "pong", cost: Cost = ANSWERED) -> Ended:
    return Ended("completed", said, RunState.SETTLED, Outcome.OK, cost)


def one_model(nanousd: int | None, tokens: Tokens, model: str = "m") -> Cost:
    return Cost(nanousd or 0, {model: ModelCost(tokens, nanousd)})


USAGE = "model_usage_since_last_result"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("print('warning: old terminal')\nbegin()\nanswer('pong')", answered(), id="garbage before it"),
        pytest.param("begin()\nanswer('pong')\nprint('bye')\nsys.exit(1)", answered(), id="garbage after it"),
        pytest.param(
            "begin()\nsays = sys.stdout.write\nsys.stdout.write = lambda text: says(text.replace('\\n', '\\r\\n'))\n"
            "answer('pong')",
            answered(),
            id="lines that end as on Windows",
        ),
        pytest.param(
            "begin()\nanswer('pong', modelUsage=None)\nsys.stdout.flush()\nos._exit(1)", answered(), id="exit code 1"
        ),
        pytest.param(
            "begin()\nsubprocess.Popen(['sleep', '600'])\nanswer('pong')", answered(), id="a grandchild holds stdout"
        ),
        pytest.param(
            "begin()\nsubprocess.Popen(['sh', '-c', 'trap \"\" INT TERM HUP; sleep 600; sleep 600'])\nanswer('pong')",
            answered(),
            id="a grandchild that ignores signals",
        ),
        pytest.param("begin()\nanswer('half \\ud83d')", answered("half ?"), id="half a surrogate pair"),
        pytest.param(
            "begin()\nlimit(unifiedWindows={'\\ud83d': {'utilization': 'much', 'resetsAt': []}, 'x': 5})\n"
            "limit(rateLimitType=5)\nlimit(rateLimitType='five_hour', status=[], resetsAt=1e300)\nanswer('pong')",
            answered(),
            id="impossible windows",
        ),
        pytest.param(
            f"begin()\nanswer('pong', {USAGE}={{'m': {{'inputTokens': 10**30, 'costUSD': 0.1}}}})",
            answered(cost=one_model(100_000_000, Tokens())),
            id="more tokens than there are",
        ),
        pytest.param(
            f"begin()\nanswer('pong', {USAGE}={{'m\\ud83d': {{'inputTokens': 7, 'costUSD': 1e14}}}})",
            answered(cost=one_model(None, Tokens(input=7), "m?")),
            id="more dollars than there are",
        ),
        pytest.param(
            f"begin()\nanswer('pong', {USAGE}={{'m': {{'inputTokens': True, 'costUSD': float('nan')}}}})",
            answered(cost=one_model(None, Tokens())),
            id="no number of dollars",
        ),
        pytest.param(
            f"begin()\nstart_message()\nanswer('pong', {USAGE}={{}}, modelUsage=[])",
            answered(cost=CUT),
            id="no word of what it cost",
        ),
    ],
)
async def test_an_answer_is_given_and_booked_whatever_else_is_wrong(tmp_path: Path, body: str, expected: Ended) -> None:
    assert await ask(tmp_path, fake_cli(tmp_path, body)) == expected


async def test_an_answer_of_30_mb_is_given_page_by_page(tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, cli=fake_cli(tmp_path, "begin()\nanswer('pong! ' * 5_000_000)"))
    async with open_pool(settings, env) as pool:
        first = await pool.ask(Ask("ping", "test"))
        assert first.next_offset is not None
        last = await pool.result(first.run_id, offset=30_000_000 - 10)
    assert (first.text[:12], first.text[-6:], len(first.text)) == ("pong! pong! ", "pong! ", first.next_offset)
    assert (last.text, last.next_offset) == ("ng! pong! ", None)


@pytest.mark.parametrize("resets_at", ["1_795_340_014_000", "5", "4_000_000_000", "'soon'", "None", "2 ** 200"])
async def test_a_limit_that_resets_at_no_possible_time_cools_down_for_a_minute(tmp_path: Path, resets_at: str) -> None:
    body = f"begin()\nlimit(rateLimitType='five_hour', status='rejected', resetsAt={resets_at})\n"
    settings, env = make_home(tmp_path, cli=fake_cli(tmp_path, body + "answer('no', is_error=True)"))
    async with open_pool(settings, env) as pool:
        with pytest.raises(PoolError) as caught:
            await pool.ask(Ask("ping", "test"))
    assert finished_run(settings, str(caught.value.run_id)).outcome is Outcome.LIMIT
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
        ((cooldown,),) = tx.cooldowns.open().values()
    assert cooldown.until_ms == caught.value.retry_at_ms == cooldown.since_ms + 60_000
    assert (caught.value.kind, cooldown.cause) == ("limit", "burst")


# Without an end

TIMED_OUT = "The run did not end in its time and was stopped; give a longer timeout_s, or ask for less."


def timed_out(cost: Cost = FREE) -> Ended:
    return Ended("timeout", TIMED_OUT, RunState.INTERRUPTED, Outcome.TIMEOUT, cost)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("begin()\ntime.sleep(600)", timed_out(), id="never ends"),
        pytest.param("begin()\nos.close(1)\ntime.sleep(600)", timed_out(), id="closes its stdout"),
        pytest.param("begin()\nstart_message()\ntime.sleep(600)", timed_out(CUT), id="never ends answering"),
        pytest.param("begin()\nwhile True: say('new', text='x' * 100)", timed_out(), id="endless events"),
        pytest.param("begin()\nwhile True: print('x' * 1000)", timed_out(), id="endless garbage"),
        pytest.param(
            "begin()\nwhile True: time.sleep(0.001), sys.stdout.write('x' * 9999)", timed_out(), id="an endless line"
        ),
        pytest.param(
            "begin()\nsubprocess.Popen(['sleep', '600'])\ntime.sleep(600)", timed_out(), id="nor does its grandchild"
        ),
        pytest.param(
            "signal.signal(signal.SIGINT, lambda *_: (answer('pong'), os._exit(0)))\nbegin()\ntime.sleep(600)",
            answered(),
            id="answers when it is interrupted",
        ),
        # The last of the steps by which a CLI is stopped comes after six seconds.
        pytest.param(
            "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)\n"
            "begin()\nsubprocess.Popen(['sleep', '600'])\ntime.sleep(600)",
            timed_out(),
            id="ignores signals",
        ),
    ],
)
async def test_a_cli_that_does_not_end_is_stopped_when_its_time_is_over(
    tmp_path: Path, body: str, expected: Ended
) -> None:
    assert await ask(tmp_path, fake_cli(tmp_path, body), timeout_s=0.4) == expected


# Before anything is spent


@dataclass(frozen=True)
class Refused:
    """Why an ask was refused. No run is in the ledger and no file of one on the disk."""

    kind: str
    said: str


async def refused(settings: Settings, env: dict[str, str], **asked: Any) -> Refused:
    async with open_pool(settings, env) as pool:
        with pytest.raises(PoolError) as caught:
            await pool.ask(Ask(**{"prompt": "ping", "caller": "test", **asked}))
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
        assert tx.balances.last_used_ms() == {}
    assert list(settings.runs_dir.glob("*")) == []
    return Refused(caught.value.kind, caught.value.message)


HOW_TO_INSTALL = (
    "Install it with `npm install -g @anthropic-ai/claude-code` (or `pip install claude-agent-sdk`, which carries it), "
    'or name it in pool.toml: [claude] path = "/path/to/claude".'
)
UNKNOWN = "0c0d579b-433f-4365-928a-1cbe2a7ec9de"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"prompt": ""}, Refused("invalid_request", "The prompt is empty; say what Claude should do.")),
        (
            {"prompt": "x" * 5_000_000},
            Refused(
                "invalid_request",
                "The prompt has 5.0 MB; at most 4 MB can be sent: shorten it, or let Claude read files (tool_profile "
                "read).",
            ),
        ),
        (
            {"json_schema": {"type": "objekt"}},
            Refused(
                "invalid_request",
                "The json_schema is not a valid JSON Schema: 'objekt' is not valid under any of the given schemas (at "
                "type).",
            ),
        ),
        (
            {"working_dir": "/no/such/place"},
            Refused(
                "invalid_request", "working_dir '/no/such/place' is not a directory on this machine; give a whole path."
            ),
        ),
        (
            {"subscription": "bob"},
            Refused("invalid_request", "No subscription 'bob'; there are: alice. Leave it out to let the pool choose."),
        ),
        (
            {"session_id": UNKNOWN},
            Refused(
                "unknown_session",
                f"No subscription knows the session {UNKNOWN}; leave session_id out to begin a new one.",
            ),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_an_ask_that_cannot_work_spends_nothing(tmp_path: Path, asked: dict[str, Any], expected: Refused) -> None:
    settings, env = make_home(tmp_path)
    assert await refused(settings, env, **asked) == expected


@pytest.mark.parametrize("there", ["nothing", "a directory", "a file that cannot be run"])
async def test_a_missing_cli_is_said_before_anything_is_spent(tmp_path: Path, there: str) -> None:
    cli = tmp_path / "claude"
    if there == "a directory":
        cli.mkdir()
    elif there == "a file that cannot be run":
        cli.touch(0o644)
    settings, env = make_home(tmp_path, cli=cli)
    assert await refused(settings, env) == Refused(
        "cli_missing", f"The setting claude.path names {cli}, which is not an executable. {HOW_TO_INSTALL}"
    )


@pytest.mark.parametrize("value", [None, "", "$TOKEN_ALICE", "${env:TOKEN_ALICE}"])
async def test_a_missing_variable_is_said_before_anything_is_spent(tmp_path: Path, value: str | None) -> None:
    settings, env = make_home(tmp_path)
    del env["TOKEN_ALICE"]
    env |= {} if value is None else {"TOKEN_ALICE": value}  # a host may hand on a reference that it could not fill
    assert await refused(settings, env) == Refused(
        "invalid_request",
        "The variable TOKEN_ALICE of subscription 'alice' is not set for this server; add it to the host's "
        "configuration of pool-mcp.",
    )


async def test_a_config_dir_that_is_not_signed_in_costs_nothing_and_says_how_to_sign_in(
    tmp_path: Path, standin: Standin
) -> None:
    settings, env = make_home(tmp_path, standin, subscriptions={"bare": {"config_dir": "bare"}})
    async with open_pool(settings, env) as pool:
        with pytest.raises(PoolError) as caught:
            await pool.ask(Ask("ping", "test", subscription="bare"))
        status = await pool.status("bare")
    run = finished_run(settings, str(caught.value.run_id))
    assert (caught.value.kind, caught.value.message, caught.value.alternatives) == (
        "auth",
        "bare: Not logged in · Please run /login; run `pool-mcp login bare`.",
        ("alice",),
    )
    assert (run.state, run.outcome, run.cost) == (RunState.FAILED, Outcome.AUTH, Cost())
    assert status.subscriptions[0].status_reason == "not signed in: run `pool-mcp login bare`"
    assert (standin.books, standin.refused) == ([], [])


@pytest.mark.parametrize("prompt", ["-p", "--help", "--resume=x", "-"])
async def test_a_prompt_that_begins_with_a_dash_is_a_prompt(tmp_path: Path, prompt: str) -> None:
    body = "begin()\nanswer(sys.stdin.read() + ' ' + str(session in sys.argv[6]))"
    settings, env = make_home(tmp_path, cli=fake_cli(tmp_path, body))
    async with open_pool(settings, env) as pool:
        answer = await pool.ask(Ask(prompt, "test", idempotency_key=new_id()))
    assert answer.text == f"{prompt} True"
