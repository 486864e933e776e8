"""A person reads their own clock, whatever the program knows in UTC."""

import time
from collections.abc import Iterator

import pytest

from pool_mcp.choosing.windows import rfc3339
from pool_mcp.model import DAY_MS, HOUR_MS
from pool_mcp.views.times import clock, local, localized

NOW = 1_796_000_000_000
"""2026-11-30T00:53:20Z"""


@pytest.fixture(params=["Asia/Kolkata", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


def test_an_instant_is_told_by_the_clock_on_the_wall(zone: str) -> None:
    said = [local(NOW + ahead, NOW) for ahead in (HOUR_MS, DAY_MS, 8 * DAY_MS, 60 * DAY_MS)]
    assert (
        said
        == {
            "Asia/Kolkata": ["07:23", "Tue 06:23", "8 Dec 06:23", "29 Jan 2027 06:23"],
            "America/New_York": ["20:53", "Mon 19:53", "7 Dec 19:53", "28 Jan 2027 19:53"],
        }[zone]
    )
    assert clock(NOW) == {"Asia/Kolkata": "Mon 30 Nov, 06:23:20", "America/New_York": "Sun 29 Nov, 19:53:20"}[zone]


def test_instants_within_a_message_are_told_so_too_and_nothing_else_is_changed(zone: str) -> None:
    message = f"used up until {rfc3339(NOW + HOUR_MS)}; see 2026-13-99T99:99:99Z, run 2026-01"
    assert (
        localized(message, NOW) == f"used up until {local(NOW + HOUR_MS, NOW)}; see 2026-13-99T99:99:99Z, run 2026-01"
    )
