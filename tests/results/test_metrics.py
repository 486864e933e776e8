"""Metrics, read back by Prometheus' own parser: documented names, true values, any label."""

import re
import sys
from pathlib import Path

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import make_home, open_pool

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.model import Ask

pytestmark = pytest.mark.anyio

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


async def test_the_gauges_are_those_documented_and_hold_what_the_status_does(standin: Standin, tmp_path: Path) -> None:
    caller = 'night "agent"\\\n'
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(five_hour_utilization=0.42)
    async with open_pool(settings, env) as pool:
        answer = await pool.ask(Ask("Say something.", caller))
        status, text = await pool.status(), await pool.metrics()
    families = {one.name: one for one in text_string_to_metric_families(text)}
    documented = set(re.findall(r"`(pool_mcp_\w+)`", DOCUMENT.read_text(encoding="utf-8")))
    assert set(families) == documented
    found = {(one.name, *one.labels.values()): one.value for family in families.values() for one in family.samples}
    assert answer.cost_usd
    (alice,) = status.subscriptions
    assert found["pool_mcp_window_used_percent", "alice", "five_hour"] == alice.official["five_hour"].percent_now
    assert found["pool_mcp_budget_spent_usd", "alice", "week"] == answer.cost_usd
    assert found["pool_mcp_caller_cost_usd", caller] == answer.cost_usd
    assert found["pool_mcp_runs", "ok"] == 1
    file = tmp_path / "pool.prom"
    command = [sys.executable, "-m", "pool_mcp", "metrics", "--file", str(file)]
    assert (await anyio.run_process(command, env=env)).stdout == b""
    assert {one.name for one in text_string_to_metric_families(file.read_text())} == documented
    assert (await anyio.run_process(command, env=env)).returncode == 0
    slip = await anyio.run_process([*command[:-1], str(settings.ledger_path)], env=env, check=False)
    assert slip.returncode == 2  # the ledger is not replaced
    assert b"holds something else than metrics" in slip.stderr
    assert settings.ledger_path.read_bytes()[:6] == b"SQLite"
