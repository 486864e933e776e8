"""What a month and the windows will come to, through a real ledger, the command line and as text."""

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from ledger_writes import book
from support import now_ms as real_now_ms

from pool_mcp.cli.main import commands
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import DAY_MS, NANO, WindowReading
from pool_mcp.results.ledger import forecast_line
from pool_mcp.settings import Settings, load
from pool_mcp.state import State
from pool_mcp.usage.forecasts import Forecasts

NOW_MS = round(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)


def a_dollar_a_day(home: Path, now_ms: int) -> Settings:
    """Twenty-four days of it, and a weekly window of a Pro plan that ends in two days."""
    (home / "pool.toml").write_text('[[subscriptions]]\nid = "personal"\nplan = "pro"\n')
    settings = load({"POOL_MCP_HOME": str(home)})
    with closing(Ledger(settings.ledger_path)) as ledger:
        for age in range(1, 25):
            book(ledger, f"run {age}", NANO, now_ms - age * DAY_MS)
        reading = WindowReading("seven_day", 10.0, now_ms + 2 * DAY_MS, "allowed", now_ms)
        with ledger.write() as tx:
            tx.official.record("personal", [reading], now_ms)
    return settings


def test_the_month_and_each_window_are_told_with_what_held_before(tmp_path: Path) -> None:
    settings = a_dollar_a_day(tmp_path, NOW_MS)
    with closing(Ledger(settings.ledger_path)) as ledger:
        month, week = Forecasts(ledger, State(settings).balances, lambda: NOW_MS, UTC).all()
    # Nineteen dollars are spent this month, and ten and a half days are to come.
    assert (month.what, month.unit, month.now, month.subscription) == ("month", "usd", 19.0, None)
    assert month.low <= month.expected <= month.high
    assert month.expected == pytest.approx(29.5, abs=0.6)
    assert (week.what, week.subscription, week.unit, week.now) == ("seven_day", "personal", "percent", 10.0)
    assert week.expected == pytest.approx(10 + 2 / (18 * 8 / 100), abs=0.1)
    assert week.held == week.past_forecasts > 10
    told = month.model_copy(update={"expected": 29.5, "low": 28.0, "high": 31.0, "held": 9, "past_forecasts": 10})
    assert forecast_line(told, "its end") == (
        "the month: $29.50 at its end ($28.00 to $31.00 in 4 of 5 cases; now $19.00); 9 of 10 earlier forecasts held"
    )


def test_the_command_line_tells_forecasts_where_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_dollar_a_day(tmp_path, real_now_ms())
    monkeypatch.setenv("POOL_MCP_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    runner = CliRunner()
    plain = runner.invoke(commands, ["report", "--by", "month", "--json"])
    assert json.loads(plain.stdout).get("forecasts") is None
    asked = runner.invoke(commands, ["report", "--by", "month", "--json", "--forecast"])
    assert [one["what"] for one in json.loads(asked.stdout)["forecasts"]] == ["month", "seven_day"]
    shown = runner.invoke(commands, ["report", "--forecast"])
    assert "Forecast of personal seven_day: 11%" in " ".join(shown.stdout.split())
