"""Captured output of real CLIs, and lines like it, read into streams and amounts."""

import json

from pool_mcp.accounting.pricing import price_nanousd
from pool_mcp.claude.cost import run_cost
from pool_mcp.claude.stream import RunStream
from pool_mcp.model import Cost, ModelCost, Tokens, WindowReading

NOW = 1_795_340_000_000
OLD, MIDDLE, NEW = "2.1.197", "2.1.280", "2.1.330"
"""This run's cost in each result; the session's; the session's, with this run's beside it."""


def price(model: str, tokens: Tokens) -> int | None:
    return price_nanousd(model, tokens, NOW)


def read(lines: list[bytes]) -> tuple[RunStream, list[WindowReading]]:
    stream = RunStream()
    return stream, [reading for line in lines for reading in stream.feed(line, NOW)]


def cost(lines: list[bytes], before: Cost | None = None) -> Cost:
    return run_cost(read(lines)[0], before=before, price=price)


def line(**event: object) -> bytes:
    return json.dumps(event).encode()


def spent(model: str, tokens: Tokens, nanousd: int, *, is_estimate: bool = False) -> Cost:
    return Cost(nanousd, {model: ModelCost(tokens, nanousd)}, is_estimate)


UNSPLIT = Tokens(1200, 300, cache_creation_5m=5000, cache_read=20_000)
"""Before 2.1.310 a result does not tell the two lifetimes of a cache write apart."""
SPLIT = Tokens(1200, 300, cache_creation_5m=1000, cache_creation_1h=4000, cache_read=20_000)
OLD_COST = spent("claude-sonnet-5", UNSPLIT, 41_850_000)
MIDDLE_COST = spent("claude-sonnet-5", UNSPLIT, 27_900_000)
NEW_COST = spent("claude-sonnet-5-5", SPLIT, 25_900_000)
