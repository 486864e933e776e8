"""Asks that are cancelled, cut off, left behind or repeated, with real servers over stdio and the newest real CLI.

Whatever a host does: what was spent is booked once, no process is left over, and what was paid for can be had.
"""

import errno
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from support import make_home, open_ledger, open_pool, until

from pool_mcp.claude.command import SYSTEM_PROMPT_TOKENS
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Call, Reply, ToolUse
from pool_mcp.model import NANO, Cost, ModelCost, Outcome, Run, RunState, Tokens
from pool_mcp.settings import Settings
from pool_mcp.system import locks

pytestmark = pytest.mark.anyio

MODEL = "claude-sonnet-4-6"
PROMPT = "What is a pool? " * 500
"""Long enough that a request which was sent, and never heard of again, costs something to speak of."""

DEADLINE_S = 60.0
"""What takes longer hangs."""
GONE_S = 10.0
"""A stopped server is gone in 0.4 s where nothing else is going on; on a busy machine it takes its turn."""

UNHEARD_TOKENS = SYSTEM_PROMPT_TOKENS + len(PROMPT) // 8
UNHEARD = ModelCost(Tokens(input=UNHEARD_TOKENS), UNHEARD_TOKENS * 3000)
"""What is booked of a request that was sent and never heard of again: the CLI's own prompt and ours."""

SLOWLY = Reply(text="word", text_size=4000, mode="slow", tokens=Tokens(1200, 1000, 300, 4000, 15_000))
"""An answer of four characters a token, as the CLI counts what it cannot know."""
TWO_SECONDS = Behaviour(replies=(SLOWLY,), chunks=20)
TEN_SECONDS = Behaviour(replies=(SLOWLY,), chunks=100)


class Host:
    """A host's end of one server, as lines of JSON-RPC over its pipes."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self.process = process
        self._answers: dict[int, dict[str, Any]] = {}
        self._answered: dict[int, anyio.Event] = {}

    async def listen(self) -> None:
        assert self.process.stdout is not None
        lines = BufferedByteReceiveStream(self.process.stdout)
        while True:
            try:
                message = json.loads(await lines.receive_until(b"\n", 10_000_000))
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError):
                return
            if "method" not in message:
                self._answers[message["id"]] = message
                self._answered[message["id"]].set()

    async def tell(self, method: str, **params: Any) -> None:
        await self._send({"method": f"notifications/{method}", "params": params})

    async def begin(self, method: str, **params: Any) -> int:
        """Send a request; its id."""
        request_id = len(self._answered)
        self._answered[request_id] = anyio.Event()
        await self._send({"id": request_id, "method": method, "params": params})
        return request_id

    async def answer(self, request_id: int) -> dict[str, Any]:
        with anyio.fail_after(DEADLINE_S):
            await self._answered[request_id].wait()
        result: dict[str, Any] = self._answers[request_id]["result"]
        return result

    async def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def begin_ask(self, **arguments: Any) -> int:
        asked = {"prompt": PROMPT, "model": MODEL, **arguments}
        return await self.begin("tools/call", name="ask_claude", arguments=asked)

    async def ask(self, **arguments: Any) -> dict[str, Any]:
        """The structured result of an ask, or of its failure."""
        return await self._structured(await self.begin_ask(**arguments))

    async def result(self, run_id: str, **arguments: Any) -> dict[str, Any]:
        asked = {"run_id": run_id, "wait_s": DEADLINE_S, **arguments}
        return await self._structured(await self.begin("tools/call", name="ask_result", arguments=asked))

    async def _structured(self, request_id: int) -> dict[str, Any]:
        structured: dict[str, Any] = (await self.answer(request_id))["structuredContent"]
        return structured

    async def stop(self, how: signal.Signals | None) -> int:
        """Close the server's standard input, or send it a signal; its exit code, once it is gone."""
        if how is None:
            assert self.process.stdin is not None
            await self.process.stdin.aclose()
        else:
            self.process.send_signal(how)
        with anyio.fail_after(GONE_S):
            return await self.process.wait()


@asynccontextmanager
async def host(env: Mapping[str, str]) -> AsyncIterator[Host]:
    """A server of one's own, initialised; its log goes where the test's own errors go."""
    command = [sys.executable, "-m", "pool_mcp", "serve"]
    async with await anyio.open_process(command, env=env, stderr=None) as process:
        it = Host(process)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.listen)
            client = {"name": "test", "version": "1"}
            await it.answer(
                await it.begin("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
            )
            await it.tell("initialized")
            yield it
            tasks.cancel_scope.cancel()


def runs(settings: Settings) -> list[Run]:
    """Every run there ever was, in their order."""
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
        found = [tx.runs.get(folder.name) for folder in settings.runs_dir.glob("*")]
    return sorted((run for run in found if run is not None), key=lambda run: run.created_at_ms)


def is_settled(settings: Settings) -> bool:
    return all(run.finished for run in runs(settings))


def output(settings: Settings, run_id: str = "*") -> bytes:
    """What the CLIs of all runs, or of one, have written so far."""
    return b"".join(path.read_bytes() for path in settings.runs_dir.glob(f"{run_id}/stdout.jsonl"))


def has_left_nothing(settings: Settings) -> bool:
    """Whether no CLI, nor anything that a CLI started, is left: each would hold the lock on its run's output."""
    return not any(locks.is_held(path) for path in settings.runs_dir.glob("*/stdout.jsonl"))


async def books(standin: Standin) -> list[Call]:
    assert await anyio.to_thread.run_sync(standin.wait_idle)
    return standin.books


def nanousd(calls: list[Call]) -> int:
    return sum(call.cost_nanousd or 0 for call in calls)


def spent_nanousd(settings: Settings) -> int:
    with closing(open_ledger(settings)) as ledger, ledger.read() as tx:
        return tx.balances.spent_nanousd("alice", 0)


class Fifo:
    """What a tool reads from until it is ended: nothing ever comes."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self._fd: int | None = None

    def is_being_read(self) -> bool:
        try:
            if self._fd is None:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            os.write(self._fd, b".")
        except BrokenPipeError:
            return False
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        return True

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)


USAGE = {"input_tokens": 1000, "output_tokens": 1}
STARTED = (
    {"type": "system", "subtype": "init", "claude_code_version": "2.1.330", "model": MODEL},
    {
        "type": "stream_event",
        "event": {"type": "message_start", "message": {"id": "1", "model": MODEL, "usage": USAGE}},
    },
)
STARTED_COST = Cost(3_015_000, {MODEL: ModelCost(Tokens(input=1000, output=1), 3_015_000)}, is_estimate=True)
REPORTED = {MODEL: {"inputTokens": 1000, "outputTokens": 100, "costUSD": 0.0045}}
RESULT = {"type": "result", "modelUsage": REPORTED, "model_usage_since_last_result": REPORTED}
RESULT_COST = Cost(4_500_000, {MODEL: ModelCost(Tokens(input=1000, output=100), 4_500_000)}, is_estimate=True)


def fake_cli(folder: Path, body: str) -> Path:
    """A CLI that begins an answer and then does what a shell script says."""
    cli = folder / "claude"
    began = "".join(f"echo '{json.dumps(event)}'\n" for event in STARTED)
    cli.write_text(f"#!/bin/sh\n{began}{body}\n")
    cli.chmod(0o755)
    return cli


# Cancelled by the host


async def cancel_when(ready: Callable[[], object], server: Host, settings: Settings, **arguments: Any) -> Cost:
    """Ask, cancel the call as soon as something is so, and see the run stopped and booked; what it cost."""
    asked = await server.begin_ask(**arguments)
    await until(ready, DEADLINE_S)
    await server.tell("cancelled", requestId=asked)
    await until(lambda: runs(settings) and is_settled(settings), DEADLINE_S)
    await until(lambda: has_left_nothing(settings), DEADLINE_S)
    [run] = runs(settings)
    assert (run.state, run.outcome) == (RunState.INTERRUPTED, Outcome.CANCELLED)
    assert run.cost is not None
    return run.cost


async def test_an_ask_cancelled_in_the_middle_of_its_answer_is_booked_as_far_as_it_was_written(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = TEN_SECONDS
    async with host(env) as server:
        cost = await cancel_when(lambda: b"content_block_delta" in output(settings), server, settings)
        [call] = await books(standin)
        assert 1 < cost.tokens.output <= call.tokens.output < 1000
        assert replace(cost.tokens, output=0) == replace(call.tokens, output=0)
        assert 0 < cost.nanousd <= nanousd([call])
        assert cost.is_estimate
        assert (await server.ask())["status"] == "completed"


async def test_an_ask_cancelled_before_its_first_word_is_booked_at_the_least_its_prompt_can_have_cost(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="hang_before_start", calls=1)
    async with host(env) as server:
        cost = await cancel_when(lambda: standin.wait_in_flight(timeout_s=0), server, settings)
        assert cost == Cost(UNHEARD.cost_nanousd or 0, {MODEL: UNHEARD}, is_estimate=True)
        assert (await server.ask())["status"] == "completed"


async def test_an_ask_cancelled_while_the_cli_starts_costs_nothing(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="hang_before_start")
    async with host(env) as server:
        cost = await cancel_when(lambda: any(settings.runs_dir.glob("*/pid")), server, settings)
        assert await books(standin) == []
        # Where the machine stood still meanwhile, it came as far as its request.
        assert cost.nanousd == 0 or b'"requesting"' in output(settings)
        standin.accounts["alice"] = Behaviour()
        assert (await server.ask())["status"] == "completed"


async def test_an_ask_cancelled_at_once_leaves_nothing_behind(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin)
    async with host(env) as server:
        await server.tell("cancelled", requestId=await server.begin_ask())
        assert (await server.ask())["status"] == "completed"
        await until(lambda: is_settled(settings) and has_left_nothing(settings), DEADLINE_S)
        # Whether the cancelled ask came as far as a run, only the other one was served.
        assert sorted(str(run.outcome) for run in runs(settings)) in (["ok"], ["cancelled", "ok"])
        assert spent_nanousd(settings) == nanousd(await books(standin))


async def test_an_ask_cancelled_while_it_waits_for_a_further_call_is_booked_at_its_finished_calls_and_the_prompt(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin)
    replies = (Reply(tools=(ToolUse("Unheard-of"),)), Reply(mode="hang_before_start"))
    standin.accounts["alice"] = Behaviour(replies=replies)
    async with host(env) as server:
        cost = await cancel_when(lambda: standin.books and standin.wait_in_flight(timeout_s=0), server, settings)
        finished = nanousd(await books(standin))
        assert finished <= cost.nanousd <= finished + (UNHEARD.cost_nanousd or 0)
        assert cost.is_estimate
        assert (await server.ask())["status"] == "completed"


async def test_an_ask_cancelled_while_a_tool_runs_is_booked_at_its_finished_call_and_the_tool_ends(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin, claude={"tool_profile": "full"})
    config_dir = settings.subscriptions[0].config_dir
    assert config_dir is not None
    config_dir.mkdir(parents=True)
    (config_dir / "settings.json").write_text(json.dumps({"permissions": {"allow": ["Bash(cat fifo)"]}}))
    use = ToolUse("Bash", {"command": "cat fifo", "description": "Wait"})
    standin.accounts["alice"] = Behaviour(replies=(Reply(tools=(use,)),))
    async with host(env) as server:
        (tmp_path / "project").mkdir()
        with closing(Fifo(tmp_path / "project" / "fifo")) as fifo:
            cost = await cancel_when(fifo.is_being_read, server, settings, working_dir=str(tmp_path / "project"))
            assert not fifo.is_being_read()
        assert cost.nanousd == nanousd(await books(standin)) > 0
        assert (await server.ask())["status"] == "completed"


async def test_a_run_is_cancelled_through_whichever_server(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="hang", calls=2)
    async with host(env) as server, host(env) as other:
        for canceller in (server, other):
            run_id = (await server.ask(background=True))["run_id"]
            await until(lambda: standin.wait_in_flight(timeout_s=0), DEADLINE_S)
            assert (await canceller.result(run_id, cancel=True))["error"]["kind"] == "cancelled"
            await until(lambda: has_left_nothing(settings), DEADLINE_S)
            await books(standin)
    assert [run.outcome for run in runs(settings)] == [Outcome.CANCELLED] * 2
    assert 0 < spent_nanousd(settings) <= nanousd(await books(standin))


# The server is told to stop, or dies

STOPS = [None, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
every_stop = pytest.mark.parametrize("how", STOPS, ids=["EOF", "SIGINT", "SIGTERM", "SIGHUP"])


@every_stop
async def test_a_server_that_is_stopped_interrupts_what_somebody_waits_for_and_is_gone(
    standin: Standin, tmp_path: Path, how: signal.Signals | None
) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="hang")
    async with host(env) as server:
        await server.begin_ask()
        await until(lambda: b"message_start" in output(settings), DEADLINE_S)
        assert await server.stop(how) == (0 if how is None else 128 + how)
    await until(lambda: has_left_nothing(settings), DEADLINE_S)
    async with open_pool(settings, env):  # a busy CLI takes longer to report than its server may wait
        await until(lambda: is_settled(settings), DEADLINE_S)
    assert_booked_as_cut(settings, Outcome.CANCELLED, await books(standin))


@every_stop
async def test_a_server_that_is_stopped_books_what_its_cli_reports_before_it_is_gone(
    tmp_path: Path, how: signal.Signals | None
) -> None:
    result = {**RESULT, "is_error": True, "terminal_reason": "aborted_streaming"}
    body = f"result='{json.dumps(result)}'\ntrap 'echo \"$result\"; kill $!; exit' INT\nsleep 100 &\nwait"
    settings, env = make_home(tmp_path, cli=fake_cli(tmp_path, body))
    for attempt in (1, 2, 3):  # 0.3 s are plenty, unless the machine stands still meanwhile
        async with host(env) as server:
            await server.begin_ask()
            await until(lambda: output(settings).count(b"message_start") == attempt, DEADLINE_S)  # noqa: B023
            await server.stop(how)
        run = runs(settings)[-1]
        if run.finished:
            break
    assert (run.state, run.outcome, run.cost) == (RunState.INTERRUPTED, Outcome.CANCELLED, RESULT_COST)


@every_stop
@pytest.mark.parametrize("is_moved", [False, True], ids=["held", "moved away"])
async def test_a_server_that_cannot_reach_its_ledger_leaves_without_a_traceback(
    standin: Standin, tmp_path: Path, how: signal.Signals | None, is_moved: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="hang")
    async with host(env) as server:
        await server.begin_ask()
        await until(lambda: b"message_start" in output(settings), DEADLINE_S)
        with closing(sqlite3.connect(settings.ledger_path, isolation_level=None)) as other:
            if is_moved:
                settings.ledger_path.rename(tmp_path / "elsewhere")
            else:
                other.execute("BEGIN IMMEDIATE")
            assert await server.stop(how) == (0 if how is None else 128 + how)
            if is_moved:
                (tmp_path / "elsewhere").rename(settings.ledger_path)
    assert "Traceback" not in capfd.readouterr().err
    async with open_pool(settings, env):
        await until(lambda: is_settled(settings), DEADLINE_S)
    # Whoever stopped it could not write that down; where the CLI gave no result either, only its end is known.
    outcome = runs(settings)[0].outcome
    assert outcome in (Outcome.CANCELLED, Outcome.CLI_FAILED)
    assert_booked_as_cut(settings, outcome, await books(standin))


async def test_background_runs_go_on_without_their_servers_and_a_later_one_hands_out_every_answer(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = replace(TWO_SECONDS, replies=(SLOWLY,) * 5)
    left: dict[str, str] = {}
    for how in (*STOPS, signal.SIGKILL):
        async with host(env) as server:
            run_id = (await server.ask(background=True))["run_id"]
            await until(lambda: b"content_block_delta" in output(settings, run_id), DEADLINE_S)  # noqa: B023
            await server.stop(how)
        left[str(how)] = run_id
    assert not is_settled(
        settings
    )  # the last one is still being written; the first have ended, with or without a server
    async with host(env) as server:
        answers = {name: await server.result(run_id) for name, run_id in left.items()}
    calls = {call.session_id: call for call in await books(standin)}
    assert len(calls) == len(left)
    for name, answer in answers.items():
        call = calls[answer["session_id"]]
        assert (name, answer["status"], answer["text"]) == (name, "completed", ("word " * 1000)[:4000])
        assert (name, answer["cost_usd"]) == (name, nanousd([call]) / NANO)
        assert (name, answer["cost_is_estimate"]) == (name, False)
    assert spent_nanousd(settings) == nanousd(await books(standin))


def assert_booked_as_cut(settings: Settings, outcome: Outcome, calls: list[Call]) -> None:
    """One run, whose only call began to be answered and was cut before its first word."""
    [run], [call] = runs(settings), calls
    assert (run.state, run.outcome) == (RunState.INTERRUPTED, outcome)
    assert run.cost == Cost(nanousd([call]), {MODEL: ModelCost(call.tokens, call.cost_nanousd)}, is_estimate=True)


def assert_answered_in_full(answer: dict[str, Any], settings: Settings, calls: list[Call]) -> None:
    assert (answer["status"], answer["text"]) == ("completed", ("word " * 1000)[:4000])
    [run], [call] = runs(settings), calls
    assert run.cost == Cost(nanousd([call]), {MODEL: ModelCost(call.tokens, call.cost_nanousd)})


# A CLI that does not stop, or not in time


async def test_a_run_that_does_not_end_in_its_time_is_stopped_and_booked(standin: Standin, tmp_path: Path) -> None:
    standin.accounts["alice"] = Behaviour(mode="hang")
    for timeout_s in (5, 20, 60):  # on a busy machine the CLI may not have asked by then
        settings, env = make_home(tmp_path / f"{timeout_s}", standin)
        async with host(env) as server:
            answer = await server.ask(timeout_s=timeout_s)
        assert answer["error"]["kind"] == "timeout"
        if await books(standin):
            break
    assert_booked_as_cut(settings, Outcome.TIMEOUT, await books(standin))
    await until(lambda: has_left_nothing(settings), DEADLINE_S)


async def test_a_cli_that_ignores_interruption_is_ended_all_the_same(tmp_path: Path) -> None:
    # What it ignores, what it starts ignores, too.
    cli = fake_cli(tmp_path, "read -r ignored\ntrap '' $ignored\necho ready\nwhile :; do sleep 1; done")
    settings, env = make_home(tmp_path, cli=cli)
    async with host(env) as server:
        run_ids = [(await server.ask(prompt=ignored, background=True))["run_id"] for ignored in ("INT\n", "INT TERM\n")]
        await until(lambda: output(settings).count(b"ready") == 2, DEADLINE_S)
        asked = [
            await server.begin("tools/call", name="ask_result", arguments={"run_id": run_id, "cancel": True})
            for run_id in run_ids
        ]
        for request_id in asked:
            assert (await server.answer(request_id))["structuredContent"]["error"]["kind"] == "cancelled"
    await until(lambda: has_left_nothing(settings), DEADLINE_S)
    assert [(run.state, run.cost) for run in runs(settings)] == [(RunState.INTERRUPTED, STARTED_COST)] * 2


# Answers that are long, late, or asked for twice


async def test_an_answer_that_is_late_and_long_is_had_page_by_page(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin, claude={"inline_wait_s": 0.05})
    text = "".join(f"Zeile {number} – schön.\n" for number in range(15_000))[:300_000]
    standin.accounts["alice"] = Behaviour(replies=(Reply(text),))
    async with host(env) as server:
        answer = await server.ask()
        assert (answer["status"], answer["text"], answer["cost_usd"]) == ("running", "", None)
        page = await server.result(answer["run_id"])
        pages = [page["text"]]
        while "next_offset" in page:
            page = await server.result(answer["run_id"], offset=page["next_offset"])
            pages.append(page["text"])
    assert "".join(pages) == text
    assert len(pages) > 5
    assert [run.outcome for run in runs(settings)] == [Outcome.OK]
    assert spent_nanousd(settings) == nanousd(await books(standin))


async def test_an_ask_that_is_repeated_under_its_key_is_one_run_also_through_two_servers_at_once(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = TWO_SECONDS
    async with host(env) as server, host(env) as other:
        asked = [await one.begin_ask(idempotency_key="monday") for one in (server, other)]
        answers = [
            (await one.answer(request_id))["structuredContent"]
            for one, request_id in zip((server, other), asked, strict=True)
        ]
        answers.append(await server.ask(idempotency_key="monday"))
        refused = await other.ask(prompt="Something else.", idempotency_key="monday")
    for answer in answers:
        assert answer["run_id"] == answers[0]["run_id"]
        assert_answered_in_full(answer, settings, await books(standin))
    assert refused["error"]["kind"] == "invalid_request"
