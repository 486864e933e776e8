"""Metrics, read back by Prometheus' own parser: documented names, true values, any label."""

import json
import re
import sys
from pathlib import Path

import anyio
import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import make_home, open_pool

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.model import Ask
from pool_mcp.results.metrics import exposition

pytestmark = pytest.mark.anyio

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


async def test_the_gauges_are_those_documented_and_hold_what_the_status_does(standin: Standin, tmp_path: Path) -> None:
    caller = 'night "agent"\\\n'
    settings, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(five_hour_utilization=0.42)
    async with open_pool(settings, env) as pool:
        answer = await pool.ask(Ask("Say something.", caller))
        status, text = await pool.status(), exposition(await pool.gauges())
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


def test_every_expression_of_the_dashboard_is_promql_of_documented_gauges_and_every_gauge_is_shown() -> None:
    dashboard = json.loads((DOCUMENT.parent / "grafana.json").read_text(encoding="utf-8"))
    documented = set(re.findall(r"`(pool_mcp_\w+)`", DOCUMENT.read_text(encoding="utf-8")))
    panels = dashboard["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    for expression in expressions:
        promql_parser.parse(expression.replace("$__range", "1h").replace("$subscription", ".+"))
    shown = {name for expression in expressions for name in re.findall(r"pool_mcp_\w+", expression)}
    assert shown == documented
    legends = [target["legendFormat"] for panel in panels for target in panel["targets"]]
    used = {label for legend in legends for label in re.findall(r"{{(\w+)}}", legend)}
    assert used <= {"subscription", "window", "period", "model", "caller", "outcome"}
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "subscription"]
    boxes = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in range(b["y"], b["y"] + b["h"])]
    assert len(cells) == len(set(cells))  # no panel lies on another
    assert max(x for x, _ in cells) == 23
