"""The simulation that compares policies: deterministic, bounded, and won by the project's own choice."""

import pytest

from bound import bound_usd
from choosing_worlds import ACCOUNTS, WORKLOADS, make_world, play_one
from policies import OTHERS, Ours
from pool_mcp.choosing.windows import FIVE_HOUR, SEVEN_DAY
from pool_mcp.model import BLOCK_MS, HOUR_MS, NANO, WEEK_MS
from simulator import EPOCH_MS, Account, Conditions, Job, Span, World

DAYS = 3
CENT = 0.01


@pytest.mark.parametrize("workload", list(WORKLOADS))
def test_no_other_policy_does_more_work_and_all_stay_within_the_bounds(workload: str) -> None:
    world = make_world(workload, 1, DAYS)
    played = play_one(world, Ours(ACCOUNTS))
    ours = played.report
    assert played == play_one(world, Ours(ACCOUNTS))
    assert 0.9 * played.bound_usd <= ours.work_usd <= played.bound_same_waits_usd + CENT
    for other in OTHERS:
        one = play_one(world, other(ACCOUNTS, 1))
        assert one.report.work_usd <= one.bound_same_waits_usd + CENT
        assert one.bound_same_waits_usd <= one.bound_usd * 1.001  # demand is told apart in coarser steps there
        assert one.report.work_usd <= ours.work_usd * 1.001
        assert ours.killed <= one.report.killed


def test_no_more_can_be_done_than_the_narrower_of_two_windows_lets_through_on_either_side_of_a_reset() -> None:
    reset_ms = EPOCH_MS + HOUR_MS
    windows = {
        ("one", FIVE_HOUR): (Span(EPOCH_MS, EPOCH_MS + BLOCK_MS),),
        ("one", SEVEN_DAY): (Span(reset_ms - WEEK_MS, reset_ms), Span(reset_ms, reset_ms + WEEK_MS)),
    }
    jobs = tuple(
        Job(number, "any", at_ms, 10 * NANO, 1, 0, at_ms + HOUR_MS // 2)
        for number, at_ms in enumerate((EPOCH_MS, reset_ms))
    )
    world = World(
        (Account("one", "pro", 11 * NANO, 7 * NANO),), jobs, Conditions(), 0, EPOCH_MS + BLOCK_MS, windows, {}
    )
    both = bound_usd(world, {}, lambda job: job.deadline_ms)
    assert both == pytest.approx(11)  # the five-hour window's, of which each week lets 7 through
    assert bound_usd(world, {("one", SEVEN_DAY, 1): 6 * NANO}, lambda job: job.deadline_ms) == pytest.approx(7 + 1)
