"""Every tool's results and failures, as a client on the TypeScript SDK 1.x takes them.

That SDK compares each result with its tool's output schema, failures included, and throws where it does not fit.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import npm_packages
import pytest
from hosting import SERVE
from support import make_home

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.server.tools import TOOLS

SCRIPT = Path(__file__).with_name("call_tools.cjs")
NOBODY = "3f2b7c1e-0d4a-4a51-9a53-0b3d7f6a0001"
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def ask(**arguments: object) -> tuple[str, dict[str, object]]:
    return "ask_claude", {"prompt": "Say something.", **arguments}


def report(**arguments: object) -> tuple[str, dict[str, object]]:
    return "usage_report", arguments


CALLS: list[tuple[tuple[str, dict[str, object]], str]] = [
    (ask(subscription="alice"), "completed"),
    (("ask_result", {"run_id": "$RUN_ID"}), "completed"),
    (ask(subscription="alice", json_schema=NUMBER), "completed"),
    (ask(subscription="hangs", background=True), "running"),
    (("ask_result", {"run_id": "$RUN_ID"}), "running"),
    (("ask_result", {"run_id": "$RUN_ID", "cancel": True, "wait_s": 30}), "cancelled"),
    (ask(subscription="hangs", timeout_s=1), "timeout"),
    (ask(subscription="limited"), "limit"),
    (ask(subscription="stranger"), "auth"),
    (ask(subscription="broke"), "billing"),
    (ask(subscription="alice", caller="night-agent"), "budget"),
    (ask(session_id=NOBODY), "unknown_session"),
    (("ask_claude", {"promt": "Say something."}), "invalid_request"),
    (("ask_result", {"run_id": NOBODY}), "invalid_request"),
    (("usage_status", {}), "ok"),
    (("usage_status", {"subscription": "limited", "caller": "night-agent"}), "ok"),
    (("usage_status", {"subscription": "nobody"}), "invalid_request"),
    (("pick_subscription", {}), "ok"),
    (("pick_subscription", {"estimated_cost_usd": 10_000}), "ok"),
    (("pick_subscription", {"session_id": NOBODY}), "unknown_session"),
    *((report(by=by), "ok") for by in ("day", "block", "model", "subscription", "session", "source")),
    (report(by="hour", chart=True), "ok"),
    (report(by="color"), "invalid_request"),
    (("reconcile_usage", {}), "invalid_request"),
]
"""What is called, and what comes of it: a run's status, a failure's kind, or ``ok``."""


@pytest.mark.timeout(400)  # the first on a machine installs the packages
def test_every_result_and_failure_fits_its_tools_schema(standin: Standin, tmp_path: Path) -> None:
    if reason := npm_packages.missing():
        pytest.skip(reason)
    modes = {"hangs": "hang", "limited": "five_hour_limit", "stranger": "auth", "broke": "billing"}
    for account, mode in modes.items():
        standin.accounts[account] = Behaviour(mode=mode)  # type: ignore[arg-type]  # each is one of its modes
    _, env = make_home(tmp_path, standin, "alice", *modes, callers={"night-agent": {"daily_budget_usd": 0.001}})
    ended = call_tools(env, [call for call, _ in CALLS])
    assert {name for (name, _), _ in CALLS} == set(TOOLS)
    said = [(name, arguments, outcome(one)) for ((name, arguments), _), one in zip(CALLS, ended, strict=True)]
    assert said == [(name, arguments, wanted) for (name, arguments), wanted in CALLS]


def call_tools(env: dict[str, str], calls: list[tuple[str, dict[str, object]]]) -> list[dict[str, Any]]:
    server = {"command": SERVE[0], "args": SERVE[1:], "env": env, "calls": calls}
    ended = subprocess.run(
        ["node", str(SCRIPT), str(npm_packages.node_modules().parent)],
        input=json.dumps(server),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def outcome(said: dict[str, Any]) -> str:
    """What came of a call; what the SDK threw, where it did."""
    if "thrown" in said:
        return f"thrown: {said['thrown']}"
    found: dict[str, Any] = said["result"]["structuredContent"]
    assert bool(said["result"].get("isError")) == ("error" in found)
    return str(found["error"]["kind"] if "error" in found else found.get("status", "ok"))
