"""Blocks, the rolling week, and what an official reading says about now."""

from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp.choosing.windows import (
    FULL_PERCENT,
    Block,
    block_at,
    counts_from_ms,
    day_start_ms,
    grid_block,
    has_reset,
    is_plausible,
    length_ms,
    percent_now,
    resets_next_ms,
    rfc3339,
    week_start_ms,
)
from pool_mcp.model import BLOCK_MS, DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS, WindowReading

instants = st.integers(0, 4_102_444_800_000)  # to the year 2100


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def reading(
    percent: float | None = 50.0,
    resets_at_ms: int | None = None,
    *,
    window: str = "five_hour",
    status: str = "allowed",
    observed_at_ms: int = 0,
) -> WindowReading:
    return WindowReading(window, percent, resets_at_ms, status, observed_at_ms)


# The block


@pytest.mark.parametrize(
    ("at", "starts", "ends"),
    [
        ("2026-01-28T00:00:00Z", "2026-01-28T00:00:00Z", "2026-01-28T05:00:00Z"),
        ("2026-01-28T04:59:59.999Z", "2026-01-28T00:00:00Z", "2026-01-28T05:00:00Z"),
        ("2026-01-28T15:00:00Z", "2026-01-28T15:00:00Z", "2026-01-28T20:00:00Z"),
        ("2026-01-28T20:00:00Z", "2026-01-28T20:00:00Z", "2026-01-29T00:00:00Z"),
        ("2026-01-28T23:59:59.999Z", "2026-01-28T20:00:00Z", "2026-01-29T00:00:00Z"),
    ],
)
def test_the_grid_has_five_blocks_a_day_of_which_the_last_ends_at_midnight(at: str, starts: str, ends: str) -> None:
    block = grid_block(ms(at))
    assert (block, block.id) == (Block(ms(starts), ms(ends), "utc-grid"), starts)


@given(instants)
def test_every_instant_is_in_exactly_one_block_of_the_grid(at_ms: int) -> None:
    block = grid_block(at_ms)
    assert block.starts_at_ms <= at_ms < block.ends_at_ms
    assert {grid_block(block.starts_at_ms), grid_block(block.ends_at_ms - 1)} == {block}
    assert grid_block(block.ends_at_ms).starts_at_ms == block.ends_at_ms
    assert datetime.fromtimestamp(block.starts_at_ms / 1000, UTC).hour in (0, 5, 10, 15, 20)


NOW = ms("2026-01-28T12:34:56Z")
SEEN = NOW - MINUTE_MS
GRID = Block(ms("2026-01-28T10:00:00Z"), ms("2026-01-28T15:00:00Z"), "utc-grid")


@pytest.mark.parametrize(
    ("resets_at_ms", "source"),
    [
        (NOW + 1, "official"),
        (NOW + BLOCK_MS, "official"),
        (NOW + BLOCK_MS + 1, "utc-grid"),  # it would begin in the future
        (NOW, "utc-grid"),  # it is over
        (NOW - DAY_MS, "utc-grid"),
        (None, "utc-grid"),
    ],
)
def test_the_block_is_the_official_window_while_that_runs(
    resets_at_ms: int | None, source: Literal["official", "utc-grid"]
) -> None:
    official = Block((resets_at_ms or 0) - BLOCK_MS, resets_at_ms or 0, "official")
    assert block_at(NOW, reading(resets_at_ms=resets_at_ms)) == (official if source == "official" else GRID)


def test_without_a_reading_the_block_is_the_grids() -> None:
    assert block_at(NOW, None) == GRID


@given(instants, st.none() | st.integers(-2 * BLOCK_MS, 2 * BLOCK_MS))
def test_now_is_always_inside_its_block(now_ms: int, ahead_ms: int | None) -> None:
    five_hour = None if ahead_ms is None else reading(resets_at_ms=now_ms + ahead_ms)
    block = block_at(now_ms, five_hour)
    assert block.starts_at_ms <= now_ms < block.ends_at_ms <= block.starts_at_ms + BLOCK_MS


# Days, weeks, words


@given(instants)
def test_the_week_rolls_and_the_day_is_utcs(now_ms: int) -> None:
    midnight = datetime.fromtimestamp(now_ms // 1000, UTC).replace(hour=0, minute=0, second=0)
    assert (week_start_ms(now_ms), day_start_ms(now_ms)) == (now_ms - WEEK_MS, int(midnight.timestamp()) * 1000)


@given(instants)
def test_instants_are_written_to_the_second_that_has_begun(at_ms: int) -> None:
    assert ms(rfc3339(at_ms)) == at_ms // 1000 * 1000


# Official readings


@pytest.mark.parametrize(
    ("percent", "believed"),
    [(0.0, True), (100.0, True), (110.0, True), (110.1, False), (-0.1, False), (4500.0, False), (None, True)],
)
def test_only_a_percentage_is_believed(percent: float | None, believed: bool) -> None:
    assert is_plausible(reading(percent)) is believed


@pytest.mark.parametrize(
    ("window", "ahead_ms", "believed"),
    [
        ("five_hour", BLOCK_MS, True),
        ("five_hour", BLOCK_MS + DAY_MS, True),
        ("five_hour", BLOCK_MS + DAY_MS + 1, False),
        ("five_hour", -DAY_MS, True),
        ("five_hour", -DAY_MS - 1, False),
        ("seven_day", WEEK_MS + DAY_MS, True),
        ("seven_day", WEEK_MS + DAY_MS + 1, False),
        ("seven_day_opus", WEEK_MS, True),
        ("a_new_one", WEEK_MS, True),
    ],
)
def test_a_reset_is_believed_within_a_day_of_where_the_window_can_end(
    window: str, ahead_ms: int, believed: bool
) -> None:
    assert is_plausible(reading(window=window, resets_at_ms=NOW + ahead_ms, observed_at_ms=NOW)) is believed


@pytest.mark.parametrize(
    ("said", "reset", "percent"),
    [
        (reading(62.0, NOW + 1), False, 62.0),
        (reading(62.0, NOW), True, 0.0),
        (reading(62.0, None, observed_at_ms=SEEN), False, 62.0),
        (reading(62.0, None, observed_at_ms=NOW - BLOCK_MS), True, 0.0),  # a window of five hours is over by now
        (reading(62.0, None, window="seven_day", observed_at_ms=NOW - BLOCK_MS), False, 62.0),
        (reading(None, NOW + 1), False, None),
        (reading(None, NOW + 1, status="rejected"), False, 100.0),
        (reading(62.0, NOW + 1, status="rejected"), False, 100.0),
        (reading(104.0, NOW + 1, status="rejected"), False, 104.0),
        (reading(62.0, NOW, status="rejected"), True, 0.0),
        (reading(62.0, NOW + 1, status="allowed_warning"), False, 62.0),
        # Until when is not known: the cooldown says when to try.
        (reading(None, None, status="rejected", observed_at_ms=SEEN), False, None),
        (reading(None, NOW - MINUTE_MS), True, 0.0),
    ],
)
def test_a_window_holds_what_was_heard_until_it_resets(said: WindowReading, reset: bool, percent: float | None) -> None:
    assert (has_reset(said, NOW), percent_now(said, NOW)) == (reset, percent)


@given(
    st.sampled_from(["five_hour", "seven_day", "seven_day_opus"]),
    st.none() | st.floats(0, 110),
    st.integers(-DAY_MS, WEEK_MS),
    st.integers(0, WEEK_MS),
)
def test_a_window_that_refuses_is_full_until_it_resets_and_empty_from_then_on(
    window: str, percent: float | None, ahead_ms: int, age_ms: int
) -> None:
    said = reading(percent, NOW + ahead_ms, window=window, status="rejected", observed_at_ms=NOW - age_ms)
    now = percent_now(said, NOW)
    assert now is not None
    assert now >= FULL_PERCENT if ahead_ms > 0 else now == 0


@pytest.mark.parametrize(
    ("window", "resets_at_ms", "next_ms", "counts_ms"),
    [
        ("five_hour", NOW + 1, NOW + 1, SEEN),
        ("five_hour", NOW, None, NOW),  # nothing runs until the next use
        ("five_hour", NOW - HOUR_MS, None, NOW - HOUR_MS),
        ("five_hour", NOW - DAY_MS, None, NOW - BLOCK_MS),
        ("seven_day", NOW + 1, NOW + 1, SEEN),
        ("seven_day", NOW, NOW + WEEK_MS, NOW),
        ("seven_day", NOW - DAY_MS, NOW + WEEK_MS - DAY_MS, NOW - DAY_MS),
        ("seven_day_opus", NOW - WEEK_MS - 1, NOW + WEEK_MS - 1, NOW - 1),
        ("seven_day", None, None, SEEN),
    ],
)
def test_a_week_follows_a_week_and_what_is_spent_counts_from_the_reading_or_the_new_window(
    window: str, resets_at_ms: int | None, next_ms: int | None, counts_ms: int
) -> None:
    said = reading(window=window, resets_at_ms=resets_at_ms, observed_at_ms=SEEN)
    assert (resets_next_ms(said, NOW), counts_from_ms(said, NOW)) == (next_ms, counts_ms)


@given(
    instants,
    st.sampled_from(["five_hour", "seven_day", "seven_day_sonnet"]),
    st.none() | st.integers(-3 * WEEK_MS, WEEK_MS),
    st.integers(0, 3 * WEEK_MS),
)
def test_a_next_reset_is_ahead_by_a_window_at_most_and_spend_is_counted_for_no_longer(
    now_ms: int, window: str, ahead_ms: int | None, age_ms: int
) -> None:
    resets_at_ms = None if ahead_ms is None else now_ms + min(ahead_ms, length_ms(window))
    said = reading(window=window, resets_at_ms=resets_at_ms, observed_at_ms=now_ms - age_ms)
    next_ms, counts_ms = resets_next_ms(said, now_ms), counts_from_ms(said, now_ms)
    assert next_ms is None or now_ms < next_ms <= now_ms + length_ms(window)
    assert counts_ms <= now_ms
    if has_reset(said, now_ms):
        assert counts_ms >= now_ms - length_ms(window)


def test_a_grid_block_is_an_hour_shorter_at_the_end_of_the_day() -> None:
    lengths = [grid_block(ms(f"2026-01-28T{hour:02}:00:00Z")) for hour in (0, 5, 10, 15, 20)]
    assert [(block.ends_at_ms - block.starts_at_ms) // HOUR_MS for block in lengths] == [5, 5, 5, 5, 4]
