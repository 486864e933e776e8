"""Reads values of any type out of the CLI's JSON: each function gives a plain value, or None where there is none; pure.

The CLI changes daily, so a field may be missing, of another type, or out of all bounds. Nothing here raises.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pool_mcp.model import Tokens, nanousd

MAX_TOKENS = 10**12
MAX_USD = 1_000_000
LAST_SECOND = 253_402_300_800
"""More than these (a session's tokens and dollars, the year 10000) is no such value and would not fit the ledger."""

MAX_MS = LAST_SECOND * 1000


def parse_object(line: bytes) -> dict[str, Any]:
    """A line of JSON as an object; an empty one where it is none."""
    try:
        return as_object(json.loads(line))
    except (ValueError, RecursionError):
        return {}


def as_object(value: Any) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> Sequence[Any]:
    """The value if it is a JSON list, else an empty one."""
    return value if isinstance(value, list) else ()


def as_text(value: Any) -> str | None:
    """The value if it is a string."""
    return value if isinstance(value, str) else None


def as_integer(value: Any) -> int | None:
    """The value if it is an integer; ``true`` is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def as_number(value: Any) -> float | None:
    """The value if it is a number of a sensible size."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        return float(value)
    return None


def as_count(value: Any) -> int:
    """A number of tokens or requests; 0 where the value is not one."""
    count = as_integer(value) or 0
    return count if 0 <= count <= MAX_TOKENS else 0


def as_nanousd(value: Any) -> int | None:
    """An amount in dollars as nano-dollars."""
    number = as_number(value)
    return None if number is None or not 0 <= number <= MAX_USD else nanousd(number)


def as_percent(value: Any) -> float | None:
    """The CLI's share of 1 as a percentage."""
    number = as_number(value)
    return None if number is None else number * 100


def from_epoch_s(value: Any) -> int | None:
    """An instant in Unix seconds as Unix milliseconds."""
    number = as_number(value)
    return None if number is None or not 0 < number < LAST_SECOND else int(number * 1000)


def from_timestamp(value: Any) -> int | None:
    """An instant in RFC 3339 as Unix milliseconds."""
    try:
        at_ms = round(datetime.fromisoformat(value).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return at_ms if 0 <= at_ms < MAX_MS else None


def as_version(text: str | None) -> tuple[int, ...] | None:
    """A CLI version such as ``"2.1.330"`` as numbers."""
    try:
        return tuple(int(part) for part in (text or "").split(".")[:3]) or None
    except ValueError:
        return None


def plain_model(model: str) -> str:
    """A model's name without the mark of its long-context form (``[1m]``), which some CLI versions add.

    It is kept for good and shown, so it is cut where it is far too long, and holds nothing that cannot be printed.
    """
    name = model.partition("[")[0].strip()[:MAX_NAME]
    return name if name.isprintable() else "".join(filter(str.isprintable, name)).strip()


MAX_NAME = 128
"""Of a model's name so much is kept; the longest known has 40 characters."""


def as_tokens(usage: dict[str, Any], known: Tokens | None = None) -> Tokens:
    """The tokens of one API call by its ``usage`` object, together with what was known of the same call.

    Within a call usage only grows and an event may have a part of it, so field by field the larger count holds. Cache
    writes that come without their split into lifetimes are counted as the cheaper 5-minute ones, and only as far as
    they go beyond what is known.
    """
    before = known or Tokens()
    split = as_object(usage.get("cache_creation"))
    one_hour = max(before.cache_creation_1h, as_count(split.get("ephemeral_1h_input_tokens")))
    creation = max(before.cache_creation, as_count(usage.get("cache_creation_input_tokens")))
    searches = as_count(as_object(usage.get("server_tool_use")).get("web_search_requests"))
    return Tokens(
        input=max(before.input, as_count(usage.get("input_tokens"))),
        output=max(before.output, as_count(usage.get("output_tokens"))),
        cache_creation_5m=max(creation - one_hour, 0),
        cache_creation_1h=one_hour,
        cache_read=max(before.cache_read, as_count(usage.get("cache_read_input_tokens"))),
        web_search_requests=max(before.web_search_requests, searches),
    )
