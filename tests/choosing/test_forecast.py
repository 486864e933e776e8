"""Forecasts: they hold about as often as they say, use nothing of the future, and say what held before."""

import random

import pytest

from pool_mcp.choosing.forecast import Spend, held, to_come
from pool_mcp.model import DAY_MS, HOUR_MS, NANO

USERS = ("office", "steady", "bursts")
LENGTHS = {"3 hours": 3 * HOUR_MS, "a day": DAY_MS, "4 days 5 hours": 4 * DAY_MS + 5 * HOUR_MS, "20 days": 20 * DAY_MS}


def days_of(user: str, seed: int, days: int = 120) -> list[tuple[int, int]]:
    draw = random.Random(f"{user} {seed}")
    found = []
    for day in range(days):
        if user == "office":
            size, hours = (1 if day % 7 < 5 else 0.1) * draw.lognormvariate(0, 0.5), list(range(9, 18))
        elif user == "steady":
            size, hours = draw.lognormvariate(0, 0.2), list(range(24))
        else:
            size, hours = draw.choice((0, 0, 1, 4)), sorted({draw.randrange(24) for _ in range(3)})
        found += [
            (day * DAY_MS + hour * HOUR_MS, round(size * draw.lognormvariate(0, 0.6) * NANO / 10)) for hour in hours
        ]
    return found


@pytest.mark.parametrize("length", list(LENGTHS))
@pytest.mark.parametrize("user", USERS)
def test_four_of_five_forecasts_hold(user: str, length: str) -> None:
    right = count = 0
    for seed in range(10):
        spend = Spend(days_of(user, seed), 0)
        for day in range(40, 96, 4):
            now_ms = day * DAY_MS + day * 5 % 24 * HOUR_MS
            forecast = to_come(spend, now_ms, now_ms + LENGTHS[length])
            assert forecast is not None
            assert 0 <= forecast.low <= forecast.high
            count += 1
            right += forecast.low <= spend.between(now_ms, now_ms + LENGTHS[length]) <= forecast.high
    assert 0.7 <= right / count <= 0.97


def test_a_forecast_knows_nothing_of_what_comes_after_it() -> None:
    hours = days_of("office", 1)
    now_ms, until_ms = 50 * DAY_MS + 7 * HOUR_MS, 53 * DAY_MS + 12 * HOUR_MS
    past = [(hour_ms, cost) for hour_ms, cost in hours if hour_ms < now_ms]
    assert to_come(Spend(hours, 0), now_ms, until_ms) == to_come(Spend(past, 0), now_ms, until_ms)


def test_what_held_is_the_same_forecast_at_earlier_times() -> None:
    now_ms, length_ms = 60 * DAY_MS, 2 * DAY_MS + HOUR_MS
    even = Spend([(hour * HOUR_MS, NANO) for hour in range(60 * 24)], 0)
    assert held(even, now_ms, now_ms + length_ms) == (28, 28)
    # The last three days were ten times as busy: no forecast that reached into them can have held.
    busy = Spend([(hour * HOUR_MS, NANO * (10 if hour >= 57 * 24 else 1)) for hour in range(60 * 24)], 0)
    count, of = held(busy, now_ms, now_ms + length_ms)
    assert (count, of) == (25, 28)


def test_nothing_is_told_of_a_ledger_that_has_just_begun_or_of_a_span_that_is_over() -> None:
    spend = Spend([(10 * DAY_MS, NANO)], 10 * DAY_MS)
    assert to_come(spend, 14 * DAY_MS - 1, 20 * DAY_MS) is None
    assert held(spend, 13 * DAY_MS, 14 * DAY_MS) == (0, 0)
    found = to_come(spend, 14 * DAY_MS, 20 * DAY_MS)
    assert found is not None
    assert found.expected == 6 * NANO / 4
    assert to_come(spend, 14 * DAY_MS, 14 * DAY_MS) is None


def test_within_an_hour_spend_is_even() -> None:
    spend = Spend([(0, 60), (2 * HOUR_MS, 120)], 0)
    assert spend.between(-HOUR_MS, HOUR_MS // 2) == 30
    assert spend.between(HOUR_MS, 2 * HOUR_MS + HOUR_MS // 4) == 30
    assert spend.between(0, 10 * HOUR_MS) == 180
