"""What is left: the health score, availability, the size of a reservation."""

from dataclasses import replace

import pytest
from balances import GRID, NOW, OFFICIAL, ONE, balance, cooldown, official
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp.choosing.allowances import Allowance
from pool_mcp.choosing.budget import (
    Availability,
    Balance,
    Health,
    Status,
    availability,
    estimate_nanousd,
    health,
)
from pool_mcp.choosing.selection import Request, choose
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO, Budget

# The health score


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param(balance(), Health(100.0, 0, 0, 0, 0, 10.0), id="unused: 110, at most 100"),
        pytest.param(balance(week=40), Health(100.0, 10, 0, 0, 0, 10.0), id="week 10 %: 105, at most 100"),
        pytest.param(balance(week=200), Health(85.0, 50, 0, 0, 0, 10.0), id="week 50 %"),
        pytest.param(balance(spent=10, week=10), Health(83.75, 2.5, 50, 0, 0, 0), id="block 50 %"),
        pytest.param(balance(spent=30, week=30), Health(66.25, 7.5, 100, 0, 0, 0), id="block over its budget"),
        pytest.param(balance(in_flight=3), Health(95.0, 0, 0, 3, 0, 10.0), id="three in flight"),
        pytest.param(balance(hour=3, spent=3, week=3), Health(95.125, 0.75, 15, 0, 3, 0), id="burn 3: free"),
        pytest.param(balance(hour=5, spent=5, week=5), Health(87.875, 1.25, 25, 0, 5, 0), id="burn 5: 2 each above 3"),
        pytest.param(balance(week=400, spent=20), Health(20.0, 100, 100, 0, 0, 0), id="both used up"),
        pytest.param(balance(week=800, spent=20), Health(0.0, 200, 100, 0, 0, 0), id="week overdrawn: at least 0"),
        pytest.param(balance(in_flight=40), Health(0.0, 0, 0, 40, 0, 10.0), id="many in flight: at least 0"),
        pytest.param(
            balance(official(60), block=OFFICIAL, spent=1, week=4),
            Health(81.5, 1, 60, 0, 0, 0),
            id="official figure",
        ),
        pytest.param(
            balance(official(110), block=OFFICIAL), Health(70.0, 0, 100, 0, 0, 0), id="official figure over 100"
        ),
        pytest.param(
            balance(official(0), block=OFFICIAL, spent=1, week=4),
            Health(100.0, 1, 0, 0, 0, 10.0),
            id="official: unused",
        ),
        pytest.param(
            balance(official(None), block=OFFICIAL, spent=5), Health(92.5, 0, 25, 0, 0, 0), id="official without figure"
        ),
        pytest.param(
            balance(official(60), spent=5), Health(92.5, 0, 25, 0, 0, 0), id="figure of another block than the grid's"
        ),
    ],
)
def test_health_is_the_formula_clamped(state: Balance, expected: Health) -> None:
    assert health(state) == expected


money = st.integers(0, 1000 * NANO)


@given(money, money, money, st.integers(0, 100), st.none() | st.floats(0, 110), money)
def test_health_stays_within_its_scale_and_falls_with_use(
    block: int, week: int, hour: int, in_flight: int, percent: float | None, more: int
) -> None:
    readings = {} if percent is None else {"five_hour": official(percent)}
    some = Balance(ONE, NOW, OFFICIAL, block, week, hour, in_flight=in_flight, readings=readings)
    worse = [
        replace(some, week_spent=week + more),
        replace(some, block_spent=block + more),
        replace(some, hour_spent=hour + more),
        replace(some, in_flight=in_flight + 1),
    ]
    scores = [health(one).score for one in (some, *worse)]
    assert all(0 <= score <= scores[0] <= 100 for score in scores)


# Availability


OFF = replace(balance(week=400, cooldowns=[cooldown("auth")]), subscription=replace(ONE, enabled=False))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (balance(), Availability(Status.AVAILABLE, "nothing used yet")),
        (balance(spent=10, week=10), Availability(Status.AVAILABLE, "the block budget is 50% used")),
        (balance(spent=15.8, week=15.8), Availability(Status.AVAILABLE, "the block budget is 79% used")),
        (balance(spent=16, week=16), Availability(Status.APPROACHING, "the block budget is 80% used")),
        (balance(spent=18.8), Availability(Status.APPROACHING, "the block budget is 94% used")),
        (balance(spent=19), Availability(Status.LIMITED, "the block budget is 95% used", GRID.ends_at_ms)),
        (balance(spent=40), Availability(Status.LIMITED, "the block budget is 200% used", GRID.ends_at_ms)),
        (
            balance(week=390, hours=[(NOW - DAY_MS, 390 * NANO)]),
            Availability(Status.LIMITED, "the weekly budget is 98% used", NOW + 6 * DAY_MS + HOUR_MS),
        ),
        (
            balance(official(97, "seven_day"), spent=10),
            Availability(Status.LIMITED, "the seven_day window is 97% used", NOW + HOUR_MS),
        ),
        (
            balance(official(None, "seven_day_opus", status="rejected")),
            Availability(Status.AVAILABLE, "nothing used yet"),
        ),
        (
            balance(official(62, status="rejected")),
            Availability(Status.LIMITED, "the five_hour window is 100% used", NOW + HOUR_MS),
        ),
        (balance(official(97, resets_at_ms=NOW)), Availability(Status.AVAILABLE, "nothing used yet")),
        (balance(official(None)), Availability(Status.AVAILABLE, "nothing used yet")),
        (
            balance(spent=40, cooldowns=[cooldown("five_hour")]),
            Availability(Status.COOLDOWN, "because of five_hour", NOW + MINUTE_MS),
        ),
        (balance(cooldowns=[cooldown("burst")]), Availability(Status.COOLDOWN, "because of burst", NOW + MINUTE_MS)),
        (balance(cooldowns=[cooldown("burst", NOW)]), Availability(Status.AVAILABLE, "nothing used yet")),
        (balance(cooldowns=[cooldown("auth", None)]), Availability(Status.NEEDS_LOGIN, "because of auth")),
        (
            balance(cooldowns=[cooldown("billing")]),
            Availability(Status.NEEDS_LOGIN, "because of billing", NOW + MINUTE_MS),
        ),
        (balance(cooldowns=[cooldown("auth", NOW)]), Availability(Status.NEEDS_LOGIN, "because of auth", NOW)),
        (
            balance(official(70), spent_since={"five_hour": round(3.5 * NANO)}, reserved=5),
            Availability(Status.APPROACHING, "the five_hour window is 80% used"),  # max: $0.35 a percent
        ),
        (OFF, Availability(Status.DISABLED, "switched off in pool.toml")),
    ],
)
def test_availability_says_what_is_closest_to_its_end_and_when_that_changes(
    state: Balance, expected: Availability
) -> None:
    assert availability(state) == expected


# Reservations


@pytest.mark.parametrize(
    ("cap", "recent", "expected"),
    [
        (None, [], NANO // 4),
        (None, [NANO], 5 * NANO),  # of a few samples a multiple of the most expensive
        (None, [NANO, NANO // 2], round(3.5 * NANO)),
        (None, [NANO, 2 * NANO, 1, 1], round(4.4 * NANO)),
        (None, [100] * 5, 125),
        (None, list(range(1, 21)), round(19 * 1.25)),  # the 95th percentile of 20 is the 19th
        (None, list(range(1, 51)), round(48 * 1.25)),
        (None, list(range(100, 0, -1)), round(95 * 1.25)),
        (None, [0] * 10, 1),
        (NANO, [], NANO),
        (7, [], NANO // 50),  # no call costs less, and a cap is looked at after a call only
        (7 * NANO, [NANO] * 10, round(1.25 * NANO)),  # a cap makes no ask larger than its like
        (7, [NANO] * 10, NANO),  # what the like is known to cost is reserved
        (NANO, [NANO], NANO),
    ],
)
def test_a_reservation_is_the_cap_or_the_95th_percentile_with_a_margin(
    cap: int | None, recent: list[int], expected: int
) -> None:
    assert estimate_nanousd(cap, recent) == expected


@given(st.lists(st.integers(0, 100 * NANO), max_size=60))
def test_at_least_19_of_20_recent_runs_would_have_fitted_their_reservation(recent: list[int]) -> None:
    estimate = estimate_nanousd(None, recent)
    assert estimate > 0
    assert sum(cost > estimate for cost in recent) * 20 <= len(recent)


def test_what_is_left_is_the_tighter_budget_and_never_less_than_nothing() -> None:
    states = [balance(), balance(spent=5, reserved=1), balance(spent=5, week=390, reserved=1), balance(spent=30)]
    assert [one.left for one in states] == [20 * NANO, 14 * NANO, 9 * NANO, 0]
    caller = Allowance("me", NOW, Budget(5 * NANO, 8 * NANO), day_spent=NANO, week_spent=7 * NANO, reserved=1)
    assert (caller.left, replace(caller, reserved=9 * NANO).left) == (NANO - 1, 0)


# Defaults that nobody wrote down

DEFAULTS = replace(ONE, week_is_default=True, block_is_default=True)


def test_a_default_budget_refuses_only_where_anthropic_reports_no_window() -> None:
    over = replace(balance(spent=30, week=500), subscription=DEFAULTS)
    assert (over.left, over.block_binds, over.week_binds) == (0, True, True)
    reported = replace(balance(official(40), spent=30, week=500), subscription=DEFAULTS)
    assert (reported.left, reported.block_binds, reported.week_binds) == (None, False, False)
    assert choose(Request({"one": NANO // 4}), [over]).subscription is None
    assert choose(Request({"one": NANO // 4}), [reported]).subscription == "one"
    written = replace(reported, subscription=replace(DEFAULTS, week_is_default=False))
    assert choose(Request({"one": NANO // 4}), [written]).candidates[0].blocked_by == "budget"
    assert health(reported) == health(balance(official(40), spent=30, week=500))


def test_a_plan_without_five_hours_is_chosen_by_its_week_alone() -> None:
    ultra = replace(balance(official(30, "seven_day", resets_at_ms=NOW + 3 * DAY_MS), spent=40), subscription=DEFAULTS)
    scores = [choose(Request({"one": NANO}), [replace(ultra, block_spent=spent)]).candidates[0] for spent in (0, 40)]
    assert scores[0] == scores[1]
    assert scores[0].eligible


def test_a_window_without_a_percentage_is_as_full_as_own_spend_made_it() -> None:
    before, since = {"five_hour": 30 * NANO}, {"five_hour": 5 * NANO}
    state = replace(
        balance(official(None), spent_before=before, spent_since=since), subscription=replace(DEFAULTS, plan="max_5x")
    )  # $35
    assert state.gauges["five_hour"].percent == pytest.approx(100)
    assert choose(Request({"one": NANO}), [state]).candidates[0].blocked_by == "limit"


def test_what_runs_have_spent_is_not_reserved_a_second_time_in_a_window() -> None:
    reserved = balance(official(40), reserved=3.5, still_reserved={"five_hour": NANO // 2})
    assert reserved.gauges["five_hour"].reserved_percent == pytest.approx(100 * 0.5 / 35)
    assert reserved.block_left == round(16.5 * NANO)
