"""The simulation that compares policies: deterministic, bounded, and won by the project's own choice."""

from dataclasses import replace

import pytest

from bound import Elsewhere, bound_usd
from choosing_worlds import draw_world, play_one
from policies import OTHERS, Ours
from pool_mcp.choosing.windows import SEVEN_DAY
from pool_mcp.model import BLOCK_MS, DAY_MS, HOUR_MS, NANO, WEEK_MS
from world import EPOCH_MS, Account, Conditions, Job, Span, World

CENT = 0.01


@pytest.mark.parametrize("name", ["bursts", "overnight, Opus"])
def test_no_other_policy_does_more_work_and_all_stay_within_the_bound(name: str) -> None:
    world = draw_world(name, "heavy", 1, days=2)
    played = play_one(world, Ours(world.accounts))
    ours = played.report
    assert played == play_one(world, Ours(world.accounts))
    assert 0.8 * played.bound_usd <= ours.work_usd <= played.bound_usd + CENT
    for other in OTHERS:
        one = play_one(world, other(world.accounts, 1))
        assert one.report.work_usd <= one.bound_usd + CENT
        assert one.report.work_usd <= ours.work_usd
        assert ours.killed <= one.report.killed


def a_world(capacity: tuple[int, int], *arrive_ms: int, conditions: Conditions | None = None) -> World:
    """One account, and asks of ten dollars that can wait for half an hour."""
    reset_ms = EPOCH_MS + HOUR_MS
    jobs = tuple(
        Job(number, "any", at_ms, 10 * NANO, 1, 0, at_ms + HOUR_MS // 2) for number, at_ms in enumerate(arrive_ms)
    )
    weeks = {("one", SEVEN_DAY): (Span(reset_ms - WEEK_MS, reset_ms), Span(reset_ms, reset_ms + WEEK_MS))}
    account = Account("one", "pro", capacity[0] * NANO, capacity[1] * NANO)
    return World((account,), jobs, conditions or Conditions(), 0, EPOCH_MS + DAY_MS, weeks, {"one": ()}, {})


def the_bound(world: World, *elsewhere: Elsewhere) -> float:
    return bound_usd(world, elsewhere)


def test_no_more_can_be_done_than_the_narrower_of_two_windows_lets_through_on_either_side_of_a_reset() -> None:
    world = a_world((11, 7), EPOCH_MS, EPOCH_MS + HOUR_MS)
    assert the_bound(world) == pytest.approx(11)  # the five-hour window's, of which each week lets 7 through
    used = Elsewhere(EPOCH_MS + HOUR_MS, "one", SEVEN_DAY, 6 / 7)
    assert the_bound(world, used) == pytest.approx(7 + 1)


def test_a_five_hour_window_begins_when_the_bound_likes() -> None:
    later_ms = EPOCH_MS + HOUR_MS + BLOCK_MS
    assert the_bound(a_world((12, 99), EPOCH_MS, EPOCH_MS + 4 * HOUR_MS)) == pytest.approx(12)
    assert the_bound(a_world((12, 99), EPOCH_MS, later_ms)) == pytest.approx(20)
    assert the_bound(a_world((12, 99), EPOCH_MS, EPOCH_MS + 4 * HOUR_MS, later_ms)) == pytest.approx(12 + 10)


def test_a_hurry_before_limits_are_cut_gains_nothing() -> None:
    begin_ms = EPOCH_MS + HOUR_MS
    half = Conditions(cut_at_ms=begin_ms + 2 * HOUR_MS, cut_to=0.5)
    cut = a_world((99, 16), begin_ms, begin_ms + 2 * HOUR_MS, conditions=half)
    assert the_bound(cut) == pytest.approx(
        16
    )  # six of the second ask, which counts double: three of eight that are left
    assert the_bound(replace(cut, conditions=Conditions())) == pytest.approx(16)
