"""The stand-in, driven by the real Claude Code CLI and over plain HTTP."""

import json
import os
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pool_mcp.demo.standin import Standin, example_of
from pool_mcp.demo.standin_accounts import Behaviour, Mode, Reply, ToolUse
from pool_mcp.model import BLOCK_MS, HOUR_MS, Tokens, nanousd

claude_agent_sdk = pytest.importorskip("claude_agent_sdk")
CLAUDE = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"

MODEL = "claude-sonnet-5-5"
FLAGS = [
    "-p",
    *("--output-format", "stream-json", "--verbose", "--include-partial-messages"),
    *("--tools", "", "--strict-mcp-config", "--setting-sources", ""),
]

Event = dict[str, Any]


@pytest.fixture(scope="module")
def shared() -> Iterator[Standin]:
    with Standin() as standin:
        yield standin


@pytest.fixture
def standin(shared: Standin) -> Iterator[Standin]:
    yield shared
    assert shared.wait_idle()


class Claude:
    """The CLI, signed in as one account."""

    def __init__(self, standin: Standin, home: Path, account: str, *, api_key: bool = False) -> None:
        self.home = home
        self.env = {
            "PATH": os.defpath,
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / "claude"),
            "ANTHROPIC_BASE_URL": standin.url,
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        if api_key:
            self.env["ANTHROPIC_API_KEY"] = standin.api_key(account)
        else:
            self.env["CLAUDE_CODE_OAUTH_TOKEN"] = standin.token(account)

    def start(self, *flags: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [CLAUDE, *FLAGS, *flags],
            cwd=self.home,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, *flags: str) -> list[Event]:
        with self.start(*flags) as process:
            out, err = process.communicate(b"ping", timeout=30)
        assert err == b""
        return [json.loads(line) for line in out.splitlines()]


def limits(events: list[Event]) -> dict[str, Any]:
    found: dict[str, Any] = [e["rate_limit_info"] for e in events if e["type"] == "rate_limit_event"][-1]
    return found


def outcome(events: list[Event]) -> tuple[bool, int | None, str | None]:
    """Whether it is an error, Anthropic's status, and the assistant event's error."""
    error = next((e["error"] for e in events if e["type"] == "assistant" and "error" in e), None)
    return events[-1]["is_error"], events[-1].get("api_error_status"), error


# The CLI


def test_an_answer_costs_what_the_books_say_to_the_nano_dollar(standin: Standin, tmp_path: Path) -> None:
    result = Claude(standin, tmp_path, "plain").ask("--model", MODEL)[-1]
    (call,) = [call for call in standin.books if call.account == "plain"]
    assert result["result"] == "Answer 1 of the stand-in for plain: no model was asked."
    assert (call.model, call.state, call.session_id) == (MODEL, "complete", result["session_id"])
    usage = result["usage"]
    assert call.tokens == Tokens(
        input=usage["input_tokens"],
        output=usage["output_tokens"],
        cache_creation_5m=usage["cache_creation"]["ephemeral_5m_input_tokens"],
        cache_creation_1h=usage["cache_creation"]["ephemeral_1h_input_tokens"],
        cache_read=usage["cache_read_input_tokens"],
    )
    spent = standin.spent_nanousd(session_id=result["session_id"])
    assert abs(nanousd(result["total_cost_usd"]) - spent) <= 1


def test_structured_output_conforms_to_the_schema_asked_for(standin: Standin, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 12},
            "size": {"enum": ["small", "large"]},
            "count": {"type": "integer", "minimum": 7},
            "share": {"type": "number"},
            "done": {"type": "boolean"},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 2},
        },
        "required": ["name", "size", "count", "share", "done", "tags"],
        "$defs": {"tag": {"type": "object", "properties": {"at": {"type": ["string", "null"]}}}},
        "additionalProperties": False,
    }
    result = Claude(standin, tmp_path, "structured").ask("--json-schema", json.dumps(schema))[-1]
    jsonschema.validate(result["structured_output"], schema)
    spent = standin.spent_nanousd("structured")
    assert abs(nanousd(result["total_cost_usd"]) - spent) <= 1


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (Behaviour(mode="five_hour_limit"), (True, 429, "rate_limit")),
        (Behaviour(mode="weekly_limit"), (True, 429, "rate_limit")),
        (Behaviour(mode="billing"), (True, 400, "billing_error")),
        (Behaviour(mode="auth"), (True, 401, "authentication_failed")),
        (Behaviour(mode="unknown_model"), (True, 404, "model_not_found")),
        (Behaviour(mode="prompt_too_long"), (True, 400, "invalid_request")),
        (Behaviour(mode="overloaded", calls=1), (False, None, None)),
        (Behaviour(mode="error", calls=1), (False, None, None)),
        (Behaviour(mode="burst", calls=1, retry_after_s=0.1), (False, None, None)),
    ],
    ids=lambda value: value.mode if isinstance(value, Behaviour) else "",
)
def test_a_fault_reaches_the_clis_result(
    standin: Standin, tmp_path: Path, behaviour: Behaviour, expected: tuple[bool, int | None, str | None]
) -> None:
    account = f"fault-{behaviour.mode}"
    standin.accounts[account] = behaviour
    events = Claude(standin, tmp_path, account).ask()
    assert outcome(events) == expected
    assert {refusal.account for refusal in standin.refused} >= {account}
    assert len([call for call in standin.books if call.account == account]) == (not expected[0])


def test_a_used_up_limit_names_its_window_and_reset(standin: Standin, tmp_path: Path) -> None:
    resets_at_ms = standin.now_ms() + HOUR_MS
    standin.accounts["week"] = Behaviour(mode="weekly_limit", seven_day_resets_at_ms=resets_at_ms)
    found = limits(Claude(standin, tmp_path, "week").ask())
    assert (found["status"], found["rateLimitType"], found["resetsAt"]) == (
        "rejected",
        "seven_day",
        resets_at_ms // 1000,
    )


def test_an_account_fills_up_by_its_own_spend_and_runs_into_its_limit(standin: Standin, tmp_path: Path) -> None:
    standin.accounts["full"] = Behaviour(
        tokens=Tokens(input=100_000), five_hour_capacity_usd=0.4, seven_day_utilization=0.5
    )
    claude = Claude(standin, tmp_path, "full")
    first, second, third = (claude.ask("--model", MODEL) for _ in range(3))
    assert limits(first)["unifiedWindows"]["five_hour"]["utilization"] == 0
    assert limits(second)["unifiedWindows"]["five_hour"]["utilization"] == pytest.approx(0.5, abs=0.001)
    assert limits(second)["unifiedWindows"]["seven_day"]["utilization"] == 0.5
    assert outcome(third) == (True, 429, "rate_limit")
    assert limits(third)["status"] == "rejected"


def test_a_warning_carries_the_surpassed_threshold(standin: Standin, tmp_path: Path) -> None:
    standin.accounts["warned"] = Behaviour(mode="warning", seven_day_utilization=None)
    found = limits(Claude(standin, tmp_path, "warned").ask())
    assert (found["status"], found["utilization"], found["surpassedThreshold"]) == (
        "allowed_warning",
        0.92,
        0.9,
    )
    assert set(found["unifiedWindows"]) == {"five_hour"}


def test_an_api_key_has_no_windows(standin: Standin, tmp_path: Path) -> None:
    events = Claude(standin, tmp_path, "key", api_key=True).ask()
    assert outcome(events) == (False, None, None)
    assert not [event for event in events if event["type"] == "rate_limit_event"]
    assert standin.spent_nanousd("key") > 0


def test_an_interrupted_answer_is_booked_as_cut(standin: Standin, tmp_path: Path) -> None:
    standin.accounts["cut"] = Behaviour(mode="slow", chunks=50, tokens=Tokens(input=1000, output=5000))
    with Claude(standin, tmp_path, "cut").start("--model", MODEL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"ping")
        process.stdin.close()
        for line in process.stdout:
            if b"content_block_delta" in line:
                break
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.read()
    assert standin.wait_idle()
    (call,) = [call for call in standin.books if call.account == "cut"]
    assert call.state == "cut"
    assert call.tokens.input == 1000
    assert 100 <= call.tokens.output < 5000


def test_scripted_replies_can_call_tools(standin: Standin, tmp_path: Path) -> None:
    standin.accounts["host"] = Behaviour(
        replies=(Reply(tools=(ToolUse("Bash", {"command": "echo tool ran"}),)), Reply(text="done"))
    )
    events = Claude(standin, tmp_path, "host").ask("--tools", "Bash", "--allowedTools", "Bash")
    assert events[-1]["result"] == "done"
    assert events[-1]["num_turns"] == 2


def test_a_long_answer_arrives_whole(standin: Standin, tmp_path: Path) -> None:
    standin.accounts["long"] = Behaviour(replies=(Reply(text_size=300_000),))
    assert len(Claude(standin, tmp_path, "long").ask()[-1]["result"]) in (299_999, 300_000)


# Plain HTTP


def request(url: str, body: object, method: str = "POST", account: str = "http") -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {Standin.token(account)}", "content-type": "application/json"}
    call = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(call, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def message(standin: Standin, account: str) -> tuple[int, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "ping"}]}
    return request(f"{standin.url}/v1/messages", body, account=account)


def test_without_streaming_the_answer_is_one_object(standin: Standin) -> None:
    status, answer = message(standin, "http")
    assert (status, answer["stop_reason"]) == (200, "end_turn")
    assert answer["content"][0]["text"] == "Answer 1 of the stand-in for http: no model was asked."


def test_the_same_seed_makes_the_same_tokens_and_each_call_its_own() -> None:
    drawn = []
    for _ in range(2):
        with Standin(seed=7) as standin:
            for _ in range(3):
                message(standin, "seeded")
            drawn.append([call.tokens for call in standin.books])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3


def test_a_window_that_has_reset_is_empty_again() -> None:
    now = [1_795_340_000_000]
    with Standin(clock=lambda: now[0]) as standin:
        standin.accounts["a"] = Behaviour(five_hour_utilization=1.0, five_hour_resets_at_ms=now[0] + 1000)
        assert message(standin, "a")[0] == 429
        now[0] += 1000
        assert message(standin, "a")[0] == 200
        standin.accounts["a"] = Behaviour(five_hour_capacity_usd=1e-9, seven_day_utilization=None)
        assert message(standin, "a")[0] == 429
        now[0] += BLOCK_MS
        assert message(standin, "a")[0] == 200


def test_requests_are_kept_where_asked_for() -> None:
    with Standin(keep_requests=True) as standin:
        message(standin, "a")
        assert [(account, body["model"]) for account, body in standin.requests] == [("a", MODEL)]


def test_anything_else_is_answered_404(standin: Standin) -> None:
    assert request(f"{standin.url}/api/hello", {})[0] == 404
    assert "POST /api/hello" in standin.unknown_requests


@pytest.mark.parametrize(("mode", "booked"), [("hang", ["cut"]), ("hang_before_start", [])])
def test_closing_cuts_what_hangs_and_leaves_no_thread(mode: Mode, booked: list[str]) -> None:
    before = threading.active_count()
    body = json.dumps({"model": MODEL, "messages": [], "stream": True}).encode()
    with Standin() as standin:
        standin.accounts["a"] = Behaviour(mode=mode)
        host, port = standin.url.removeprefix("http://").split(":")
        client = socket.create_connection((host, int(port)))
        head = f"POST /v1/messages HTTP/1.1\r\nHost: x\r\nx-api-key: a\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        assert standin.wait_in_flight()
    client.close()
    assert threading.active_count() == before
    assert [call.state for call in standin.books] == booked


def test_examples_follow_the_schema() -> None:
    schema: dict[str, Any] = {"anyOf": [{"type": "array", "items": {"type": "number", "exclusiveMinimum": 3}}]}
    assert example_of(schema, schema) == [4]
