"""Choosing: whatever the candidates, the choice is allowed, explained, and the same each time."""

from dataclasses import replace
from datetime import UTC
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp.choosing.allowances import Allowance
from pool_mcp.choosing.budget import Balance, PaidUse, availability, health
from pool_mcp.choosing.pacing import Action, advise
from pool_mcp.choosing.rates import Rate
from pool_mcp.choosing.selection import Candidate, Choice, HeldBy, Request, choose
from pool_mcp.choosing.windows import FULL_PERCENT, Block, applies_to, percent_now
from pool_mcp.model import (
    BLOCK_MS,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    NANO,
    SECOND_MS,
    WEEK_MS,
    Budget,
    Cooldown,
    DayHours,
    Subscription,
    WindowReading,
)

NOW = 1_769_605_200_000
GRID = Block(NOW - 2 * HOUR_MS, NOW - 2 * HOUR_MS + BLOCK_MS, "utc-grid")
ONE = Subscription(
    id="one",
    config_dir=None,
    api_key_env=None,
    oauth_token_env=None,
    plan="",
    weekly_budget_nanousd=400 * NANO,
    block_budget_nanousd=20 * NANO,
    priority=0,
    max_in_flight=3,
    enabled=True,
)
NAMES = ("a", "b", "c", "d")
DOLLAR_A_PERCENT = Rate(NANO, 1.0, "learned")
Strategy = Literal["headroom", "health"]


def balance(name: str = "a", **said: Any) -> Balance:
    """In every window a percent is a dollar."""
    of_settings = ("priority", "enabled", "max_in_flight", "keep_percent", "keep_hours")
    own = {key: said.pop(key) for key in of_settings if key in said}
    rates = dict.fromkeys(said.get("readings", {}), DOLLAR_A_PERCENT)
    return Balance(replace(ONE, id=name, **own), NOW, GRID, rates=rates, **said)


def request(estimate: int = NANO, **said: Any) -> Request:
    return Request(dict.fromkeys(NAMES, estimate), **said)


def official(
    percent: float | None, window: str = "five_hour", status: str = "allowed", resets_at_ms: int = NOW + HOUR_MS
) -> dict[str, WindowReading]:
    return {window: WindowReading(window, percent, resets_at_ms, status, NOW)}


def choice(*balances: Balance, strategy: Strategy = "headroom", **said: Any) -> Choice:
    return choose(request(**said), balances, strategy)


def cooldown(cause: str, until_ms: int | None = NOW + HOUR_MS, *, is_probed: bool = False) -> Cooldown:
    return Cooldown(cause, NOW - DAY_MS, until_ms, f"because of {cause}", is_probed)


def ranking(*balances: Balance, **said: Any) -> list[str]:
    """The candidates by their scores, best first."""
    candidates = choice(*balances, **said).candidates
    return [one.id for one in sorted(candidates, key=lambda one: -one.score)]


# Use beyond the plan, for real money


def test_what_is_paid_beyond_a_plan_comes_after_every_plan_with_room() -> None:
    paid = balance("a", priority=9, readings=official(100), paid_use=PaidUse(5 * NANO, NOW + HOUR_MS))
    assert choice(paid, balance("b", readings=official(60))).subscription == "b"
    chosen = choice(paid, balance("b", readings=official(100)))
    assert (chosen.subscription, chosen.is_paid, chosen.reserve) == ("a", True, NANO)
    assert chosen.reason.endswith("beyond its plan, for real money")


def test_a_plan_that_is_used_up_is_paid_for_as_far_as_its_budget_has_room() -> None:
    full = balance(readings=official(98.9), paid_use=PaidUse(NANO))
    assert choice(full).is_paid
    assert not choice(balance(readings=official(60), paid_use=PaidUse(NANO))).is_paid
    refused = choice(replace(full, paid_use=PaidUse(NANO - 1))).candidates[0]
    assert (refused.blocked_by, refused.available_at_ms) == ("limit", NOW + HOUR_MS)
    assert refused.reasons[0].endswith("and its overage budget leaves $1.00 of real money")
    assert choice(replace(full, paid_use=None)).subscription is None
    kept = replace(
        full, subscription=replace(full.subscription, keep_percent={"five_hour": 30.0}), readings=official(75)
    )
    assert choice(kept).candidates[0].blocked_by == "budget", "what the person keeps is no reason to pay"


def test_a_plan_that_goes_on_for_real_money_is_usable_and_says_so() -> None:
    paid = balance(readings=official(100), paid_use=PaidUse(5 * NANO, NOW + HOUR_MS))
    available = availability(paid)
    assert (available.status, "$5.00 of its overage budget" in available.reason) == ("approaching", True)
    assert availability(replace(paid, paid_use=PaidUse(0, NOW + HOUR_MS))).status == "limited"
    assert not paid.at(NOW + HOUR_MS).is_paid


def test_a_default_budget_that_does_not_refuse_makes_no_subscription_limited() -> None:
    spent = balance(week_spent=500 * NANO, block_spent=50 * NANO, readings=official(10))
    yardstick = replace(spent.subscription, week_is_default=True, block_is_default=True)
    assert availability(spent).status == "limited"
    assert availability(replace(spent, subscription=yardstick)).status == "available"
    assert availability(replace(spent, subscription=yardstick, readings={})).status == "limited"


# What keeps a subscription out


@pytest.mark.parametrize(
    ("state", "asked", "kind", "why", "until_ms"),
    [
        pytest.param(balance(enabled=False), {}, "invalid_request", "switched off in pool.toml", None, id="disabled"),
        pytest.param(balance(cooldowns=[cooldown("auth")]), {}, "auth", "because of auth", None, id="not signed in"),
        pytest.param(
            balance(cooldowns=[cooldown("billing", None)]), {}, "billing", "because of billing", None, id="not billable"
        ),
        pytest.param(
            balance(cooldowns=[cooldown("five_hour")]), {}, "limit", "because of five_hour", NOW + HOUR_MS, id="cooling"
        ),
        pytest.param(
            balance(cooldowns=[cooldown("burst", NOW, is_probed=True)]),
            {},
            "limit",
            "one run is testing whether this is over: because of burst",
            NOW + 5 * SECOND_MS,
            id="being tried out after a cooldown",
        ),
        pytest.param(
            balance(),
            {"pool_cooldown": cooldown("overloaded", is_probed=True)},
            "overloaded",
            "because of overloaded",
            NOW + MINUTE_MS,
            id="Anthropic is overloaded and somebody is trying it out",
        ),
        pytest.param(
            balance(in_flight=3),
            {},
            "limit",
            "has its 3 runs in flight (max_in_flight)",
            NOW + MINUTE_MS,
            id="enough in flight",
        ),
        pytest.param(
            balance(readings=official(99.5)),
            {},
            "limit",
            "its five_hour window is used up until 2026-01-28T14:00:00Z",
            NOW + HOUR_MS,
            id="an official window is full",
        ),
        pytest.param(
            balance(readings=official(None, status="rejected")),
            {},
            "limit",
            "its five_hour window is used up until 2026-01-28T14:00:00Z",
            NOW + HOUR_MS,
            id="an official window has refused",
        ),
        pytest.param(
            balance(readings=official(62.0, status="rejected")),
            {},
            "limit",
            "its five_hour window is used up until 2026-01-28T14:00:00Z",
            NOW + HOUR_MS,
            id="an official window has refused whatever percent it gives",
        ),
        pytest.param(
            balance(readings=official(95.5), spent_since={"five_hour": NANO}, reserved=NANO),
            {"estimate": 2 * NANO + 1},
            "limit",
            "its five_hour window has 2.5% left until 2026-01-28T14:00:00Z, the ask may need 2.0%",
            NOW + MINUTE_MS,
            id="an official window has no room beside what is spent and held",
        ),
        pytest.param(
            balance(block_spent=19 * NANO, reserved=NANO // 2),
            {},
            "budget",
            "its block budget leaves $0.50, the ask needs $1.00",
            NOW + MINUTE_MS,
            id="the block is spent and reserved, which comes back",
        ),
        pytest.param(
            balance(block_spent=19 * NANO + 1),
            {},
            "budget",
            "its block budget leaves $1.00, the ask needs $1.00",
            GRID.ends_at_ms,
            id="the block is spent",
        ),
        pytest.param(
            balance(week_spent=399 * NANO + 1, hours=[(NOW - 3 * DAY_MS, 0), (NOW - DAY_MS, 399 * NANO + 1)]),
            {},
            "budget",
            "its weekly budget leaves $1.00, the ask needs $1.00",
            NOW + 6 * DAY_MS + HOUR_MS,
            id="the week is spent",
        ),
        pytest.param(
            balance(week_spent=401 * NANO),
            {},
            "budget",
            "its weekly budget leaves $0.00, the ask needs $1.00",
            None,
            id="the week is overdrawn",
        ),
        pytest.param(balance(), {"only": "b"}, "pinned", "the ask is bound to b", None, id="another one is meant"),
        pytest.param(
            balance(), {"tried": frozenset("a")}, "limit", "has already refused this ask", None, id="it refused before"
        ),
    ],
)
def test_what_is_kept_out_says_why_and_until_when(
    state: Balance, asked: dict[str, Any], kind: str, why: str, until_ms: int | None
) -> None:
    found = choice(state, **asked)
    (one,) = found.candidates
    assert found == Choice(None, "" if kind == "pinned" else f"a: {why}", (one,))
    passes_soon = until_ms is not None and until_ms <= NOW + MINUTE_MS
    held_by: HeldBy | None = None if not passes_soon else "pool" if kind == "overloaded" else "subscription"
    assert one == Candidate("a", False, one.score, (why, one.reasons[1]), kind, until_ms, held_by=held_by)
    assert found.next_available_at_ms == until_ms


@pytest.mark.parametrize(
    ("window", "model", "counts"),
    [
        ("five_hour", None, True),
        ("seven_day", "claude-haiku-4-5", True),
        ("seven_day_opus", "claude-opus-5-5", True),
        ("seven_day_opus", "opus", True),
        ("seven_day_opus", "sonnet", False),
        ("seven_day_opus", None, False),
        ("seven_day_overage", "opus", True),
    ],
)
def test_a_window_of_one_family_counts_for_that_family_only(window: str, model: str | None, counts: bool) -> None:
    assert applies_to(window, model) is counts
    state = balance(readings=official(None, window, "rejected"))
    assert (choice(state, model=model).subscription is None) is counts


def test_an_ask_of_exactly_what_is_left_fits() -> None:
    budget = balance(block_spent=19 * NANO)
    window = balance(readings=official(95.5), spent_since={"five_hour": NANO}, reserved=NANO)
    assert [choice(budget, estimate=estimate).subscription for estimate in (NANO, NANO + 1)] == ["a", None]
    assert [choice(window, estimate=estimate).subscription for estimate in (2 * NANO, 2 * NANO + 1)] == ["a", None]


def test_no_ask_is_taken_to_need_more_than_nearly_all_of_a_window() -> None:
    state = balance(readings=official(4.0, "seven_day"))
    state = replace(state, rates={"seven_day": Rate(NANO / 100, 1.0, "learned")})
    assert choice(state, estimate=15 * NANO).subscription == "a"


NEEDS_LOGIN = balance(cooldowns=[cooldown("auth", None)])


def test_a_subscription_that_is_named_is_tried_though_it_needs_a_login() -> None:
    assert choice(NEEDS_LOGIN, only="a", by_name=True).subscription == "a"
    assert choice(NEEDS_LOGIN, only="a").subscription is None


def test_where_nobody_is_signed_in_an_ask_may_find_out_whether_somebody_has() -> None:
    off, works = balance("b", enabled=False), balance("c")
    assert choice(NEEDS_LOGIN, off, may_probe=True).subscription == "a"
    assert choice(NEEDS_LOGIN, off).subscription is None
    assert choice(NEEDS_LOGIN, off, works, may_probe=True).subscription == "c"
    full = replace(works, block_spent=20 * NANO)
    assert choice(NEEDS_LOGIN, off, full, may_probe=True).subscription is None


@pytest.mark.parametrize(
    "full",
    [
        {"week_spent": 400 * NANO},
        {"in_flight": 3},
        {"readings": official(100)},
        {"block_spent": 20 * NANO},
        {"cooldowns": [cooldown("auth", is_probed=True)]},
    ],
)
@pytest.mark.parametrize("asked", [{"only": "a", "by_name": True}, {"may_probe": True}])
def test_to_be_tried_without_a_login_lifts_no_other_limit(full: dict[str, Any], asked: dict[str, Any]) -> None:
    assert choice(balance(**{"cooldowns": NEEDS_LOGIN.cooldowns, **full}), **asked).subscription is None


# Which of several


def test_a_choice_tells_what_it_weighed() -> None:
    soon, late = NOW + DAY_MS, NOW + 6 * DAY_MS
    states = (
        balance("a", block_spent=5 * NANO, week_spent=100 * NANO),
        balance("b", readings=official(30, "seven_day", resets_at_ms=soon), reserved=NANO),
        balance("c", readings=official(60, "seven_day", resets_at_ms=late), last_used_ms=NOW - SECOND_MS),
    )
    found = choice(*states)
    assert (found.subscription, found.reason) == (
        "b",
        "used: seven_day 30%, $1.00 reserved; weekly room expires in 24 h",
    )
    assert [(one.id, one.eligible, one.reasons) for one in found.candidates] == [
        ("a", True, ("used: block budget 25%, weekly budget 25%",)),
        ("b", True, ("used: seven_day 30%, $1.00 reserved; weekly room expires in 24 h",)),
        ("c", True, ("used: seven_day 60%; ahead of its weekly pace, so it is kept for later; its cache is warm",)),
    ]


def test_more_room_goes_before_less() -> None:
    spent = {"a": 9 * NANO, "b": NANO, "c": 5 * NANO}
    states = [balance(name, block_spent=amount, week_spent=amount) for name, amount in spent.items()]
    assert ranking(*states) == ["b", "c", "a"]


def test_weekly_room_that_will_expire_unused_goes_first() -> None:
    late, soon = (official(50, "seven_day", resets_at_ms=NOW + days * DAY_MS) for days in (6, 1))
    assert ranking(balance("a", readings=late), balance("b", readings=soon)) == ["b", "a"]


def test_the_tightest_of_a_plans_windows_decides() -> None:
    def weeks(plain: float, opus: float, five_hour: float = 0) -> dict[str, Any]:
        later = NOW + 3 * DAY_MS
        windows = official(plain, "seven_day", resets_at_ms=later) | official(
            opus, "seven_day_opus", resets_at_ms=later
        )
        return {"readings": windows | official(five_hour)}

    tight, even = balance("a", **weeks(10, 90)), balance("b", **weeks(60, 60))
    assert ranking(tight, even, model="opus") == ["b", "a"]
    assert ranking(tight, even, model="sonnet") == ["a", "b"]


def test_the_pool_is_available_when_the_first_of_those_kept_out_is() -> None:
    late, soon = (balance(name, cooldowns=[cooldown("five_hour", NOW + wait)]) for name, wait in (("a", 9), ("b", 5)))
    assert choice(late, soon).next_available_at_ms == NOW + 5
    assert choice(late, soon, balance("c")).next_available_at_ms == NOW + 5


def test_a_small_plan_is_left_alone_by_a_large_ask() -> None:
    states = [balance(name, readings=official(10, "five_hour")) for name in "ab"]
    large = replace(states[1], rates={"five_hour": Rate(10 * NANO, 1.0, "learned")})
    assert ranking(states[0], large, estimate=15 * NANO) == ["b", "a"]
    assert ranking(states[0], states[1], estimate=15 * NANO) == ["a", "b"]


def test_among_equals_the_one_with_a_warm_cache_goes_first() -> None:
    warm, cold = balance("b", last_used_ms=NOW - SECOND_MS), balance("a", last_used_ms=NOW - HOUR_MS)
    assert choice(warm, cold).subscription == "b"
    assert choice(replace(warm, in_flight=1), cold).subscription == "a"


def test_asks_at_once_are_spread_by_what_each_subscription_holds() -> None:
    held = dict.fromkeys("abc", 0)
    for at in range(30):
        states = [
            balance(name, max_in_flight=30, reserved=count * NANO // 4, in_flight=count, last_used_ms=NOW - 30 + at)
            for name, count in held.items()
        ]
        held[choice(*states, estimate=NANO // 4).subscription or ""] += 1
    assert held == {"a": 10, "b": 10, "c": 10}


def test_under_health_the_highest_score_is_chosen() -> None:
    states = (balance("a", block_spent=2 * NANO), balance("b", in_flight=2), balance("c", hour_spent=10 * NANO))
    assert choice(*states, strategy="health") == Choice(
        "b",
        "health 100",
        (
            Candidate("a", True, 97, ("health 97",), reserve=NANO),
            Candidate("b", True, 100, ("health 100",), reserve=NANO),
            Candidate("c", True, 96, ("health 96",), reserve=NANO),
        ),
        NANO,
    )


def test_a_higher_priority_goes_before_more_room_until_it_is_full() -> None:
    first, second = balance("a", priority=1, block_spent=15 * NANO), balance("b")
    assert choice(first, second).subscription == "a"
    assert choice(first, second, estimate=6 * NANO).subscription == "b"


def test_a_pin_goes_before_priority_and_room() -> None:
    assert choice(balance("a", priority=9), balance("b", block_spent=15 * NANO), only="b").subscription == "b"


@pytest.mark.parametrize(
    ("hours_ago", "expected"),
    [((1, 3, 2), "b"), ((1, None, 2), "b"), ((None, None, None), "a"), ((1, 1, 1), "a")],
)
def test_a_tie_goes_to_the_one_used_longest_ago_and_then_by_name(
    hours_ago: tuple[int | None, ...], expected: str
) -> None:
    states = [
        balance(name, last_used_ms=None if ago is None else NOW - ago * HOUR_MS)
        for name, ago in zip("abc", hours_ago, strict=True)
    ]
    assert choice(*reversed(states)).subscription == expected


def test_out_of_nothing_nothing_is_chosen() -> None:
    assert choice() == Choice(None, "", ())


# Whatever the candidates

amounts = st.integers(0, 25 * NANO) | st.sampled_from([0, 10 * NANO, 20 * NANO, 400 * NANO])
readings = st.builds(
    WindowReading,
    st.sampled_from(["five_hour", "seven_day", "seven_day_opus"]),
    st.none() | st.floats(0, 110) | st.sampled_from([0.0, 50.0, 99.5, 100.0]),
    st.none() | st.integers(NOW - DAY_MS, NOW + WEEK_MS),
    st.sampled_from(["allowed", "rejected"]),
    st.just(NOW),
)
cooldowns = st.builds(
    cooldown,
    st.sampled_from(["auth", "billing", "burst", "five_hour"]),
    st.sampled_from([None, NOW - 1, NOW, NOW + HOUR_MS]),
    is_probed=st.booleans(),
)
# Before the block that runs, of which `block_spent` is all that is known.
week_hours = st.lists(st.tuples(st.integers(4, 168).map(lambda ago: NOW - ago * HOUR_MS), amounts)).map(sorted)
candidates = st.builds(
    lambda said, many: balance(**said, readings={reading.window: reading for reading in many}),
    st.fixed_dictionaries(
        {"name": st.sampled_from(NAMES)},
        optional={
            "priority": st.integers(-1, 1),
            "enabled": st.booleans(),
            "block_spent": amounts,
            "week_spent": amounts,
            "hour_spent": amounts,
            "reserved": amounts,
            "in_flight": st.integers(0, 4),
            "cooldowns": st.lists(cooldowns, max_size=2),
            "last_used_ms": st.none() | st.integers(NOW - 3, NOW),
            "hours": week_hours,
            "spent_since": st.dictionaries(st.sampled_from(["five_hour", "seven_day"]), amounts),
            "reserved_beside": amounts,
            "keep_percent": st.dictionaries(st.sampled_from(["*", "five_hour"]), st.sampled_from([5.0, 30.0, 100.0])),
            "keep_hours": st.none() | st.just(DayHours(9 * 60, 18 * 60, UTC)),
        },
    ),
    st.lists(readings, max_size=2),
)
callers = st.builds(
    Allowance,
    st.just("me"),
    st.just(NOW),
    st.builds(Budget, st.none() | amounts, st.none() | amounts, st.none() | amounts),
    day_spent=amounts,
    week_spent=amounts,
    month_spent=amounts,
    reserved=amounts,
    hours=week_hours,
    is_project=st.booleans(),
)
pools = st.lists(candidates, max_size=4, unique_by=lambda one: one.subscription.id)
asks = st.builds(
    Request,
    st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(1, 30 * NANO) | st.just(NANO))),
    model=st.sampled_from([None, "opus", "sonnet"]),
    likely=st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(1, 30 * NANO))) | st.just({}),
    caller=st.none() | callers,
    project=st.none() | callers,
    only=st.none() | st.sampled_from(NAMES),
    by_name=st.booleans(),
    tried=st.frozensets(st.sampled_from(NAMES), max_size=2),
    pool_cooldown=st.none() | st.builds(cooldown, st.just("overloaded"), is_probed=st.booleans()),
    may_probe=st.booleans(),
)
strategies: st.SearchStrategy[Strategy] = st.sampled_from(["headroom", "health"])


@given(st.data(), pools, asks, strategies)
def test_the_order_of_the_candidates_makes_no_difference(
    data: st.DataObject, pool: list[Balance], ask: Request, strategy: Strategy
) -> None:
    shuffled = data.draw(st.permutations(pool))
    assert choose(ask, shuffled, strategy) == choose(ask, pool, strategy)


@given(pools, asks, strategies)
def test_every_candidate_is_explained_and_only_an_eligible_one_is_chosen(
    pool: list[Balance], ask: Request, strategy: Strategy
) -> None:
    found = choose(ask, pool, strategy)
    assert [one.id for one in found.candidates] == sorted(one.subscription.id for one in pool)
    assert all(one.reasons and all(one.reasons) for one in found.candidates)
    assert all(one.eligible == (one.blocked_by is None) for one in found.candidates)
    assert all(0 <= one.score <= 100 for one in found.candidates)
    eligible = {one.id for one in found.candidates if one.eligible}
    assert (found.subscription in eligible) if eligible else (found.subscription is None)


@given(pools, asks, strategies)
def test_whatever_is_chosen_may_serve_and_has_room_for_the_ask(
    pool: list[Balance], ask: Request, strategy: Strategy
) -> None:
    """Said once more from the outside, without the selection's own verdicts."""
    found = choose(ask, pool, strategy).subscription
    for chosen in [one for one in pool if one.subscription.id == found]:
        estimate, subscription = ask.estimates[chosen.subscription.id], chosen.subscription
        assert subscription.enabled
        assert subscription.id not in ask.tried
        assert ask.only in (None, subscription.id)
        assert not (ask.pool_cooldown and ask.pool_cooldown.is_probed)
        assert chosen.in_flight < subscription.max_in_flight
        likely = estimate if chosen.in_flight else min(estimate, ask.likely.get(subscription.id, estimate))
        assert chosen.block_spent + chosen.reserved + likely <= subscription.block_budget_nanousd
        assert chosen.week_spent + chosen.reserved + likely <= subscription.weekly_budget_nanousd
        for reading in chosen.readings.values():
            if reading.window != "seven_day_opus" or ask.model == "opus":
                official_percent = percent_now(reading, NOW)
                held = chosen.spent_since.get(reading.window, 0) + chosen.reserved + chosen.reserved_beside
                room = 100 - (official_percent or 0) - held / NANO
                unused = 100 - (official_percent or 0) - chosen.spent_since.get(reading.window, 0) / NANO
                one_alone = reading.window != "five_hour" and not chosen.in_flight and reading.status != "rejected"
                if one_alone and unused > 0:  # it may use up the last of a week
                    room = max(room, 4 * max(1.0, unused))
                else:
                    assert official_percent is None or official_percent < FULL_PERCENT
                assert official_percent is None or estimate / NANO <= room
                kept = chosen.gauges[reading.window].kept.percent
                assert official_percent is None or not kept or held + estimate <= (100 - official_percent - kept) * NANO
        for one in chosen.cooldowns:
            if one.cause in ("auth", "billing"):
                assert ask.by_name or ask.may_probe
            elif not any(other.cause in ("auth", "billing") for other in chosen.cooldowns):
                assert one.until_ms is not None
                assert one.until_ms <= NOW
        if len(chosen.cooldowns) == 1:
            assert not chosen.cooldowns[0].is_probed


@given(pools, asks, strategies)
def test_nothing_eligible_of_a_higher_priority_or_a_better_score_is_passed_over(
    pool: list[Balance], ask: Request, strategy: Strategy
) -> None:
    found = choose(ask, pool, strategy)
    by_id = {one.subscription.id: one for one in pool}

    def rank(one: Candidate) -> tuple[float, ...]:
        state = by_id[one.id]
        return (state.subscription.priority, one.score, -(state.last_used_ms or 0))

    eligible = [one for one in found.candidates if one.eligible]
    chosen = [one for one in eligible if one.id == found.subscription]
    assert [rank(one) for one in chosen] == ([max(map(rank, eligible))] if eligible else [])
    if strategy == "health":
        assert all(one.score == health(by_id[one.id]).score for one in found.candidates)


@given(pools, asks, st.floats(0, 1))
def test_more_headroom_never_makes_a_candidate_worse(pool: list[Balance], ask: Request, share: float) -> None:
    """Less used, less held: what was eligible stays so, and no score falls."""

    def roomier(one: Balance) -> Balance:
        readings = {
            name: replace(said, percent=None if said.percent is None else said.percent * share)
            for name, said in one.readings.items()
        }
        spent_since = {name: round(amount * share) for name, amount in one.spent_since.items()}
        return replace(
            one,
            readings=readings,
            spent_since=spent_since,
            block_spent=round(one.block_spent * share),
            week_spent=round(one.week_spent * share),
            reserved=round(one.reserved * share),
        )

    before = choose(ask, pool).candidates
    after = choose(ask, [roomier(one) for one in pool]).candidates
    for worse, better in zip(before, after, strict=True):
        assert better.score >= worse.score - 1e-9
        assert better.eligible or not worse.eligible


@given(pools, asks, st.floats(0, 1))
def test_an_ask_that_may_cost_less_is_served_wherever_one_that_may_cost_more_is(
    pool: list[Balance], ask: Request, share: float
) -> None:
    less = {name: max(1, round(amount * share)) for name, amount in ask.estimates.items()}
    likely = {name: max(1, round(amount * share)) for name, amount in ask.likely.items()}
    before = choose(ask, pool).candidates
    after = choose(replace(ask, estimates=less, likely=likely), pool).candidates
    assert all(better.eligible or not worse.eligible for worse, better in zip(before, after, strict=True))


@given(pools, asks)
def test_advice_is_what_an_ask_would_meet(pool: list[Balance], ask: Request) -> None:
    found, advice = choose(ask, pool), advise(ask, pool)
    if ask.pool_cooldown is not None or not pool:
        return
    assert (advice.action in (Action.PROCEED, Action.SLOW_DOWN)) == (found.subscription is not None)
    if advice.action is Action.WAIT:
        assert advice.next_ask_at_ms == advice.retry_at_ms == found.next_available_at_ms


@given(pools, asks)
def test_who_is_refused_is_served_at_the_time_to_come_back_and_not_before_a_reset(
    pool: list[Balance], ask: Request
) -> None:
    """Where nothing else is asked meanwhile; what is only reserved is given back after a minute, or was spent."""
    found = choose(ask, pool)
    if found.subscription is not None or found.next_available_at_ms is None:
        return
    at_ms = found.next_available_at_ms
    assert at_ms > NOW
    spent = choose(ask.at(at_ms), [one.at(at_ms) for one in pool])
    given_back = choose(ask.without_reservations().at(at_ms), [one.without_reservations().at(at_ms) for one in pool])
    assert spent.subscription or given_back.subscription


@pytest.mark.parametrize(
    ("daily", "weekly", "estimate", "until_ms"),
    [(0.5, None, 0.4, None), (None, 0.5, 0.6, "never"), (0.5, None, 0.6, "never"), (0.5, 1.0, 0.5, None)],
)
def test_a_callers_budget_that_no_ask_fits_into_gives_no_time_to_come_back(
    daily: float | None, weekly: float | None, estimate: float, until_ms: str | None
) -> None:
    budget = Budget(*(None if usd is None else round(usd * NANO) for usd in (daily, weekly)))
    caller = Allowance("me", NOW, budget, day_spent=NANO // 2, week_spent=NANO // 2, hours=[(NOW, NANO // 2)])
    found = choice(balance(cooldowns=[cooldown("five_hour")]), estimate=round(estimate * NANO), caller=caller)
    assert found.subscription is None
    assert (found.next_available_at_ms is None) == (until_ms == "never")
    assert "the budget of caller 'me' leaves $0.00" in found.reason or daily is None


def test_a_small_budget_is_used_to_its_end_by_one_ask_at_a_time() -> None:
    caller = Allowance("me", NOW, Budget(NANO // 10))
    likely = {"a": NANO // 50}
    found = choice(balance(), estimate=NANO // 4, likely=likely, caller=caller)
    assert (found.subscription, found.reserve) == ("a", NANO // 10)
    beside = replace(caller, reserved=NANO // 20)
    assert choice(balance(), estimate=NANO // 4, likely=likely, caller=beside).subscription is None
    nearly = replace(caller, day_spent=NANO // 10 - NANO // 50 + 1)
    assert choice(balance(), estimate=NANO // 4, likely=likely, caller=nearly).subscription is None


@pytest.mark.parametrize(
    ("percent", "window", "changed", "expected"),
    [
        (99.0, "seven_day", {}, "a"),
        (99.8, "seven_day", {}, "a"),
        (100.0, "seven_day", {}, None),
        (99.0, "seven_day", {"in_flight": 1}, None),
        (99.0, "seven_day", {"spent_since": {"seven_day": NANO}}, None),
        (99.0, "five_hour", {}, None),
    ],
)
def test_the_last_of_a_week_is_used_up_by_one_ask_at_a_time(
    percent: float, window: str, changed: dict[str, Any], expected: str | None
) -> None:
    state = balance(readings=official(percent, window), **changed)
    assert choice(state, estimate=2 * NANO).subscription == expected
    assert choice(state, estimate=5 * NANO).subscription is None
    refused = balance(readings=official(percent, window, "rejected"), **changed)
    assert choice(refused, estimate=2 * NANO).subscription is None
