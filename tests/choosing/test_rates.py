"""What a percent is worth: learned from readings and the ledger's own spend, whatever is used elsewhere."""

import random
from dataclasses import replace

import pytest
from balances import NOW, ONE, official
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp.choosing.rates import Rate, Step, gauge, learn, prior
from pool_mcp.choosing.windows import FIVE_HOUR, SEVEN_DAY, counts_from_ms, resets_next_ms
from pool_mcp.model import BLOCK_MS, DAY_MS, HOUR_MS, MINUTE_MS, NANO, WEEK_MS, WindowReading

ASSUMED = Rate(NANO, 0.0, "plan")


def steps(true_usd_per_percent: float, spends: list[float], elsewhere: list[float]) -> list[Step]:
    """Readings in whole percents, each after some own spend (dollars) and some use elsewhere (percent)."""
    percent, found = 0.0, [Step(official(0.0, resets_at_ms=NOW + BLOCK_MS), 0)]
    for spent, other in zip(spends, elsewhere, strict=True):
        percent += spent / true_usd_per_percent + other
        found.append(Step(official(float(round(percent)), resets_at_ms=NOW + BLOCK_MS), round(spent * NANO)))
    return found


@pytest.mark.parametrize(
    ("plan", "five_hour_usd", "source"),
    [
        ("pro", 18, "plan"),
        ("Max", 35, "plan"),
        ("max_5x", 35, "plan"),
        ("Max 20x", 140, "plan"),
        ("", 20, "budget"),
        ("enterprise", 20, "budget"),
    ],
)
def test_until_something_is_known_the_plan_is_assumed_and_else_the_budget(
    plan: str, five_hour_usd: int, source: str
) -> None:
    one = replace(ONE, plan=plan)
    five_hour, week = prior(one, FIVE_HOUR), prior(one, SEVEN_DAY)
    assert (five_hour.nanousd_per_percent, five_hour.confidence, five_hour.source) == (
        five_hour_usd * NANO / 100,
        0.0,
        source,
    )
    assert week.nanousd_per_percent == (five_hour_usd * 8 if source == "plan" else 400) * NANO / 100


@given(st.floats(0.05, 5.0), st.integers(0, 99))
def test_the_rate_is_learned_to_a_tenth_from_a_window_that_only_the_pool_uses(true: float, seed: int) -> None:
    draw = random.Random(seed)
    spends = [draw.uniform(0.2, 1.8) * true for _ in range(90)]
    rate = learn(steps(true, spends, [0.0] * 90), Rate(true * NANO, 0.0, "plan"))
    assert rate.nanousd_per_percent == pytest.approx(true * NANO, rel=0.15)
    assert rate.source == "learned"
    assert 0.85 < rate.confidence < 1


@given(st.integers(0, 99))
def test_use_elsewhere_does_not_bend_the_rate(seed: int) -> None:
    """Half of all that is used comes from elsewhere, in sittings; the rate is what it is between them."""
    draw = random.Random(seed)
    spends = [draw.uniform(0.2, 0.8) for _ in range(100)]
    elsewhere = [2.0 if at % 40 >= 28 else 0.0 for at in range(100)]
    plain = sum(spends) / (sum(spends) + sum(elsewhere))
    rate = learn(steps(1.0, spends, elsewhere), ASSUMED)
    assert plain < 0.55
    assert rate.nanousd_per_percent == pytest.approx(NANO, rel=0.25)


@given(st.lists(st.tuples(st.none() | st.floats(0, 110), st.integers(0, 9 * NANO)), max_size=30))
def test_whatever_is_read_the_rate_stays_a_rate(said: list[tuple[float | None, int]]) -> None:
    rate = learn([Step(official(percent), spent) for percent, spent in said], ASSUMED)
    assert rate.nanousd_per_percent > 0
    assert 0 <= rate.confidence < 1
    assert (rate == ASSUMED) == (rate.source == "plan")


def test_a_reset_between_two_readings_teaches_nothing() -> None:
    before = official(10.0, resets_at_ms=NOW + HOUR_MS)
    after = official(90.0, resets_at_ms=NOW + HOUR_MS + BLOCK_MS)
    lower = official(5.0, resets_at_ms=NOW + HOUR_MS)
    assert learn([Step(before, 0), Step(after, NANO)], ASSUMED) == ASSUMED
    assert learn([Step(before, 0), Step(lower, NANO)], ASSUMED) == ASSUMED
    jitter = official(90.0, resets_at_ms=NOW + HOUR_MS + MINUTE_MS)
    assert learn([Step(before, 0), Step(jitter, NANO)], ASSUMED).source == "learned"


# How full a window is now


def test_percent_now_is_the_official_one_and_what_was_spent_since() -> None:
    found = gauge(ONE, official(40.0), ASSUMED, NOW, spent_since=3 * NANO, spent_before=30 * NANO, reserved=2 * NANO)
    assert found is not None
    assert (found.official_percent, found.percent, found.reserved_percent) == (40.0, 43.0, 2.0)
    assert (found.outside_percent, found.room_percent, found.left_nanousd) == (10.0, 55.0, 55 * NANO)


def test_a_reset_empties_a_window_and_own_spend_counts_from_there() -> None:
    over = official(90.0, resets_at_ms=NOW - HOUR_MS, observed_at_ms=NOW - 2 * HOUR_MS)
    found = gauge(ONE, over, ASSUMED, NOW, spent_since=3 * NANO, spent_before=90 * NANO, reserved=0)
    assert found is not None
    assert (found.official_percent, found.percent, found.outside_percent, found.resets_at_ms) == (0.0, 3.0, 0.0, None)
    assert counts_from_ms(over, NOW) == NOW - HOUR_MS
    assert counts_from_ms(over, NOW + 9 * HOUR_MS) == NOW + 4 * HOUR_MS  # what is older is out of any five hours
    assert counts_from_ms(official(90.0), NOW) == NOW


def test_a_week_follows_on_a_week_and_a_five_hour_window_begins_with_its_first_use() -> None:
    week = WindowReading(SEVEN_DAY, 50.0, NOW - DAY_MS, "allowed", NOW - 2 * DAY_MS)
    assert resets_next_ms(week, NOW) == NOW - DAY_MS + WEEK_MS
    assert counts_from_ms(week, NOW) == NOW - DAY_MS
    assert resets_next_ms(week, NOW - 2 * DAY_MS) == NOW - DAY_MS
    assert resets_next_ms(official(5.0, resets_at_ms=NOW), NOW) is None


@given(st.none() | st.floats(0, 110), st.integers(0, 10**13), st.integers(0, 10**13), st.integers(0, 10**13))
def test_a_gauge_never_shows_less_than_anthropic_said(
    percent: float | None, since: int, before: int, reserved: int
) -> None:
    found = gauge(ONE, official(percent), ASSUMED, NOW, spent_since=since, spent_before=before, reserved=reserved)
    assert found.percent >= found.official_percent >= found.outside_percent >= 0
    assert 0 <= found.room_percent <= 100
    assert 0 <= found.share_of_time_left <= 1
