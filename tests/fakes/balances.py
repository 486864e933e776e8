"""Balances for tests, in dollars and percent."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from pool_mcp.choosing.budget import Balance
from pool_mcp.choosing.windows import Block
from pool_mcp.model import HOUR_MS, MINUTE_MS, NANO, Cooldown, Subscription, WindowReading

NOW = int(datetime.fromisoformat("2026-01-28T12:00:00Z").timestamp() * 1000)
GRID = Block(NOW - 2 * HOUR_MS, NOW + 3 * HOUR_MS, "utc-grid")
OFFICIAL = Block(NOW - HOUR_MS, NOW + 4 * HOUR_MS, "official")
ONE = Subscription(
    id="one",
    config_dir=None,
    api_key_env=None,
    oauth_token_env=None,
    plan="max",
    weekly_budget_nanousd=400 * NANO,
    block_budget_nanousd=20 * NANO,
    priority=0,
    max_in_flight=15,
    enabled=True,
)


def balance(*readings: WindowReading, name: str = "one", block: Block = GRID, **said: Any) -> Balance:
    """Money in dollars: ``block``, ``week``, ``hour`` and ``reserved``; other keywords as they are."""
    spent = {f"{key}_spent": round(said.pop(key, 0) * NANO) for key in ("week", "hour")}
    spent["block_spent"] = round(said.pop("spent", 0) * NANO)
    spent["reserved"] = round(said.pop("reserved", 0) * NANO)
    own = {reading.window: reading for reading in readings}
    at_ms = said.pop("at_ms", NOW)
    return Balance(replace(ONE, id=name), at_ms, block, readings=own, **spent, **said)


def official(percent: float | None, window: str = "five_hour", **said: Any) -> WindowReading:
    return WindowReading(
        window, percent, **{"resets_at_ms": NOW + HOUR_MS, "status": "allowed", "observed_at_ms": NOW, **said}
    )


def cooldown(cause: str, until_ms: int | None = NOW + MINUTE_MS) -> Cooldown:
    return Cooldown(cause, NOW, until_ms, f"because of {cause}")
