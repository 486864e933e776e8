"""A caller's and a project's own budgets: days, weeks, months, and a share of official windows."""

from dataclasses import replace
from typing import Any

import pytest
from balances import NOW, balance, official

from pool_mcp.choosing.allowances import Allowance, InWindow
from pool_mcp.choosing.pacing import Action, advise, own_alerts
from pool_mcp.choosing.rates import Rate
from pool_mcp.choosing.selection import Choice, Request, choose
from pool_mcp.choosing.windows import month_end_ms, month_start_ms, rfc3339
from pool_mcp.model import DAY_MS, HOUR_MS, NANO, Budget

FEBRUARY = NOW + 3 * DAY_MS + 12 * HOUR_MS
STATE = replace(balance(official(10)), rates={"five_hour": Rate(NANO, 1.0, "learned")})


def chosen(*, usd: float = 1, state: Any = STATE, **asked: Any) -> Choice:
    return choose(Request({"one": round(usd * NANO)}, **asked), [state])


def test_a_month_is_the_calendars_in_utc() -> None:
    december = NOW - 40 * DAY_MS
    assert [rfc3339(month_end_ms(at_ms)) for at_ms in (NOW, december)] == [
        "2026-02-01T00:00:00Z",
        "2026-01-01T00:00:00Z",
    ]
    assert month_start_ms(FEBRUARY) == month_end_ms(NOW) == FEBRUARY
    assert month_start_ms(FEBRUARY - 1) == month_end_ms(december)


@pytest.mark.parametrize("whose", ["caller", "project"])
def test_a_months_budget_refuses_until_the_next_month(whose: str) -> None:
    own = Allowance("x", NOW, Budget(monthly_nanousd=10 * NANO), month_spent=9 * NANO, is_project=whose == "project")
    assert chosen(usd=1, **{whose: own}).subscription == "one"
    refused = chosen(usd=2, **{whose: own})
    assert (refused.reason, refused.next_available_at_ms) == (
        f"the budget of {whose} 'x' leaves $1.00, the ask may need $2.00",
        FEBRUARY,
    )
    assert chosen(usd=11, **{whose: own}).next_available_at_ms is None
    later = Request({"one": 2 * NANO}, **{whose: own}).at(FEBRUARY)  # type: ignore[arg-type]
    assert choose(later, [STATE.at(FEBRUARY)]).subscription == "one"
    reserved = replace(own, month_spent=0, reserved=9 * NANO)
    assert chosen(usd=2, **{whose: reserved}).next_available_at_ms == NOW + 60_000


def test_an_ask_has_to_fit_both_its_callers_and_its_projects_budget() -> None:
    small, large = (Allowance("x", NOW, Budget(daily_nanousd=usd * NANO)) for usd in (1, 9))
    for caller, project in ((small, large), (large, small)):
        asked: dict[str, Any] = {"caller": caller, "project": replace(project, is_project=True)}
        assert chosen(usd=0.5, **asked).reserve == NANO // 2
        assert chosen(usd=2, **asked).subscription is None
        assert chosen(usd=2, likely={"one": NANO // 2}, **asked).reserve == NANO


def test_advice_paces_a_month() -> None:
    own = Allowance("x", NOW, Budget(monthly_nanousd=84 * NANO), days=[48 * NANO])
    told = advise(Request({"one": NANO}, caller=own), [STATE])
    assert (told.action, told.max_nanousd_per_hour) == (Action.SLOW_DOWN, NANO)  # 84 hours are left


def test_a_budget_of_ones_own_is_told_at_eighty_and_ninety_percent_and_when_it_is_spent() -> None:
    budget = Budget(10 * NANO, 100 * NANO, 1000 * NANO)
    spent = Allowance("x", NOW, budget, day_spent=10 * NANO, week_spent=91 * NANO, month_spent=810 * NANO)
    assert [(one.kind, one.notice, one.subscription, one.message) for one in own_alerts([spent])] == [
        ("spent", "budget", "", "the daily budget of caller 'x' is spent"),
        ("90%", "threshold", "", "the weekly budget of caller 'x' is 91% used"),
        ("80%", "threshold", "", "the monthly budget of caller 'x' is 81% used"),
    ]
    later = replace(spent, at_ms=NOW + HOUR_MS)
    assert [one.key for one in own_alerts([later])] == [one.key for one in own_alerts([spent])]
    assert own_alerts([Allowance("x", NOW, Budget()), Allowance("y", NOW, budget, day_spent=7 * NANO)]) == []


def used(spent: float, reserved: float = 0, *, share: float = 25, ends_at_ms: int = NOW + HOUR_MS) -> Allowance:
    found = InWindow(round(spent * NANO), round(reserved * NANO), ends_at_ms)
    amount = round(reserved * NANO)
    return Allowance("x", NOW, Budget(), reserved=amount, share_percent=share, in_windows={("one", "five_hour"): found})


def test_a_caller_uses_no_more_than_its_share_of_a_window() -> None:
    assert chosen(usd=5, caller=used(20)).reserve == 5 * NANO
    refused = chosen(usd=6, caller=used(20))
    assert (refused.candidates[0].blocked_by, refused.reason, refused.next_available_at_ms) == (
        "budget",
        "one: caller 'x' has used 20.0% of its five_hour window and may use 25% (share), the ask may need 6.0%",
        NOW + HOUR_MS,
    )
    assert chosen(usd=6, caller=used(0, 20)).next_available_at_ms == NOW + 60_000
    assert chosen(usd=15, caller=used(0, share=10)).reserve == 10 * NANO
    assert chosen(usd=6, caller=used(20), state=replace(STATE, readings={})).subscription == "one"


def test_the_budget_that_has_no_room_says_when_to_come_back() -> None:
    hour_ms = NOW - 6 * DAY_MS
    own = Allowance("x", NOW, Budget(daily_nanousd=10 * NANO, weekly_nanousd=20 * NANO), hours=((hour_ms, 15 * NANO),))
    day = replace(own, day_spent=10 * NANO, week_spent=10 * NANO)
    week = replace(own, day_spent=NANO, week_spent=19 * NANO + NANO // 2)
    assert chosen(usd=1, caller=day).next_available_at_ms == NOW + DAY_MS - NOW % DAY_MS
    assert chosen(usd=1, caller=week).next_available_at_ms == hour_ms + HOUR_MS + 7 * DAY_MS
    assert chosen(usd=11, caller=week).next_available_at_ms is None
    assert day.frees_at_ms(11 * NANO) is None, "it never fits"
    tomorrow = NOW + DAY_MS
    assert (day.at(tomorrow).day_spent, day.at(NOW + 1).day_spent) == (0, 10 * NANO)


def test_what_is_left_is_the_tightest_budget_without_what_is_reserved() -> None:
    budget = Budget(daily_nanousd=10, weekly_nanousd=20, monthly_nanousd=30)
    assert Allowance("x", NOW, budget, day_spent=1, week_spent=2, month_spent=3, reserved=4).left == 5
    assert Allowance("x", NOW, budget, week_spent=19, reserved=4).left == 0
    assert Allowance("x", NOW, Budget()).left is None
