"""Every fault at every point of every short story: nothing is lost, doubled, leaked or left unanswered.

The world is virtual (``money_world.py``), the ledger is a real file. ``benchmarks/money_simulator.py`` does the same
with every pair of faults.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from money_stories import FAULTS, STORIES, play, points_of
from money_world import FaultKind, Plan

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Thousands of syncs to a disk would take minutes; what a power cut takes away is simulated."""


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_happens_at_whichever_point_every_cent_is_booked_once(story: str, fault: FaultKind) -> None:
    wrong = {}
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        for plan in points_of(story, fault, Path(folder) / "plain"):
            found = play(story, Path(folder) / f"{plan.point}", plan)
            if found:
                wrong[plan] = found
    assert wrong == {}


def test_a_clock_that_is_set_back_does_not_hide_a_power_cut() -> None:
    wrong = {}
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        points = [plan.point for plan in points_of("one ask", "power", Path(folder) / "plain")]
        back = Plan("clock back", points[len(points) // 4])
        for point in points[len(points) // 4 :: 5]:
            found = play("one ask", Path(folder) / f"{point}", back, Plan("power", point))
            if found:
                wrong[point] = found
    assert wrong == {}
