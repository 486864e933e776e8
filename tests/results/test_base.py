"""What the shapes are made of: instants, percents, and what to do about a failure."""

import json
import re
from pathlib import Path
from typing import get_args

import pool_mcp.results
from pool_mcp.choosing.budget import Status
from pool_mcp.choosing.pacing import Action
from pool_mcp.results.base import Instant, Percent, Shape, seconds_until

AT_MS = 1_790_000_000_123
SOURCE = Path(pool_mcp.results.__file__).parent


class Example(Shape):
    at: Instant | None = None
    percent: Percent = 0.0


def test_an_instant_is_a_number_inside_and_rfc_3339_in_json() -> None:
    example = Example(at=AT_MS)
    assert example.at == AT_MS
    assert example.model_dump() == {"at": AT_MS, "percent": 0.0}
    assert example.model_dump(mode="json")["at"] == "2026-09-21T14:13:20Z"
    assert Example.model_validate(json.loads(example.model_dump_json())).at == AT_MS // 1000 * 1000
    assert Example.model_json_schema(mode="serialization")["properties"]["at"]["anyOf"] == [
        {"type": "string"},
        {"type": "null"},
    ]


def test_a_percent_leaves_with_two_decimals() -> None:
    assert Example(percent=100 / 3).percent == 33.33
    assert Example(percent=0.29 * 100).percent == 29.0


def test_every_percent_that_leaves_is_rounded() -> None:
    fields = [
        (shape.__name__, name, field)
        for module in SOURCE.glob("*.py")
        for shape in vars(__import__(f"pool_mcp.results.{module.stem}", fromlist=["*"])).values()
        if isinstance(shape, type) and issubclass(shape, Shape)
        for name, field in shape.model_fields.items()
        if re.search(r"(^|_)percent(_|$)|score", name) and name != "usd_per_percent"
    ]
    assert len(fields) > 8
    is_rounded = {
        (shape, name): field.metadata or any(getattr(one, "__metadata__", ()) for one in get_args(field.annotation))
        for shape, name, field in fields
    }
    assert [key for key, rounded in is_rounded.items() if not rounded] == []


def test_what_a_status_and_an_action_can_be_is_written_once() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in SOURCE.glob("*.py"))
    assert [one for one in (*Status, *Action) if f'"{one}"' in sources] == []


def test_the_time_until_an_instant_is_rounded_up_and_never_negative() -> None:
    assert seconds_until(None, AT_MS) is None
    assert [seconds_until(AT_MS + ms, AT_MS) for ms in (-5000, 0, 1, 1000, 1001)] == [0, 0, 1, 1, 2]
