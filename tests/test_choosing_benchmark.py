"""The simulation that compares policies: deterministic, bounded, and won by the project's own choice."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from flow import Flow
from policies import OTHERS, Ours
from selection import ACCOUNTS, WORKLOADS, make_world
from simulator import Simulation

DAYS = 3
CENT = 0.01


@pytest.mark.parametrize("workload", list(WORKLOADS))
def test_no_other_policy_does_more_work_and_all_stay_within_the_bound(workload: str) -> None:
    world = make_world(workload, 1, DAYS)
    ours = Simulation(world, Ours(ACCOUNTS)).run()
    assert ours == Simulation(world, Ours(ACCOUNTS)).run()
    assert 0.9 * ours.bound_usd <= ours.work_usd <= ours.bound_usd + CENT
    for other in OTHERS:
        report = Simulation(world, other(ACCOUNTS, 1)).run()
        assert report.work_usd <= report.bound_usd + CENT
        assert report.work_usd <= ours.work_usd * 1.001
        assert ours.killed <= report.killed


def test_the_most_that_can_flow_is_what_the_narrowest_cut_lets_through() -> None:
    flow = Flow()
    source, left, right, sink = (flow.node() for _ in range(4))
    for begin, end, capacity in (
        (source, left, 10),
        (source, right, 5),
        (left, right, 4),
        (left, sink, 3),
        (right, sink, 9),
    ):
        flow.edge(begin, end, capacity)
    assert flow.maximum(source, sink) == 12
