"""What agents leave to the person: how much, when it is given back, and that nothing steps over it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from balances import NOW, ONE, balance, cooldown, official
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp.choosing.budget import Balance, PaidUse, Status, availability
from pool_mcp.choosing.kept import kept
from pool_mcp.choosing.pacing import alerts, headroom_nanousd
from pool_mcp.choosing.rates import Rate
from pool_mcp.choosing.selection import MARGIN_PERCENT, Choice, Request, choose
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO, DayHours, WindowReading

WORK = DayHours(9 * 60, 18 * 60, UTC)
THIRTY = replace(ONE, keep_percent={"*": 30.0})
AT_WORK = replace(THIRTY, keep_hours=WORK)


def at(time: str) -> int:
    """An instant of Wednesday 2026-01-28, or of a day that is named."""
    return round(datetime.fromisoformat(time if "-" in time else f"2026-01-28T{time}Z").timestamp() * 1000)


@pytest.mark.parametrize(
    ("subscription", "window", "now", "resets", "percent"),
    [
        pytest.param(THIRTY, "five_hour", "12:00", "14:00", 30, id="in full"),
        pytest.param(THIRTY, "five_hour", "13:30", "14:00", 15, id="half an hour before a reset"),
        pytest.param(THIRTY, "five_hour", "14:00", "14:00", 0, id="at the reset"),
        pytest.param(THIRTY, "five_hour", "12:00", None, 30, id="of a window that has not begun"),
        pytest.param(THIRTY, "seven_day", "12:00", "2026-01-30T12:00Z", 30, id="two days before a week ends"),
        pytest.param(THIRTY, "seven_day", "12:00", "2026-01-29T06:00Z", 22.5, id="on a week's last day"),
        pytest.param(AT_WORK, "five_hour", "04:00", "08:30", 0, id="nothing of what ends before the day begins"),
        pytest.param(AT_WORK, "five_hour", "04:30", "09:20", 10, id="a part of what ends just after that"),
        pytest.param(AT_WORK, "five_hour", "05:30", "10:00", 30, id="in full of what the person finds"),
        pytest.param(AT_WORK, "five_hour", "05:30", None, 30, id="of what would be running then"),
        pytest.param(AT_WORK, "five_hour", "17:40", "20:00", 10, id="at the end of the day"),
        pytest.param(AT_WORK, "five_hour", "19:00", "23:00", 0, id="nothing after it"),
        pytest.param(AT_WORK, "seven_day", "19:00", "2026-01-29T12:00Z", 10, id="three hours of nine of a week"),
        pytest.param(replace(ONE, keep_percent={"five_hour": 7.0}), "seven_day", "12:00", "14:00", 0, id="another"),
    ],
)
def test_what_is_kept_is_given_back_when_the_person_can_no_longer_use_it(
    subscription: Any, window: str, now: str, resets: str | None, percent: float
) -> None:
    found = kept(subscription, window, at(now), None if resets is None else at(resets))
    assert found.percent == pytest.approx(percent)


def test_hours_are_the_persons_own_over_midnight_and_when_clocks_change() -> None:
    berlin = replace(ONE, keep_percent={"*": 40.0}, keep_hours=DayHours(22 * 60, 3 * 60, ZoneInfo("Europe/Berlin")))
    # 2026-03-29: at 02:00 it is 03:00, so the night has four hours of its own: 21:00Z to 01:00Z.
    resets_ms = at("2026-03-29T12:00Z")
    assert (
        sum(end - begin for begin, end in kept(berlin, "seven_day", resets_ms - DAY_MS, resets_ms).spans) == 4 * HOUR_MS
    )


def filled(percent: float, *, reset_ms: int = NOW + 2 * HOUR_MS, **more: Any) -> Balance:
    """A five-hour window of a dollar a percent, of which 30 % are kept, and no other obstacle."""
    found = balance(official(percent, resets_at_ms=reset_ms), **more)
    found = replace(found, rates={"five_hour": Rate(NANO, 1.0, "learned")})
    subscription = replace(THIRTY, weekly_budget_nanousd=4000 * NANO, block_budget_nanousd=4000 * NANO)
    return replace(found, subscription=subscription)


def chosen(state: Balance, usd: float = 5, **asked: Any) -> Choice:
    return choose(Request({"one": round(usd * NANO)}, **asked), [state])


def test_agents_leave_what_is_kept_and_hear_when_it_is_given_back() -> None:
    assert chosen(filled(64.5)).subscription == "one"
    refused = chosen(filled(66))
    (one,) = refused.candidates
    assert one.blocked_by == "budget"
    assert one.reasons[0] == (
        "its five_hour window has 4.0% left beside the 30% kept for its person (keep_percent) until "
        "2026-01-28T14:00:00Z, the ask may need 5.0%"
    )
    # 28.5 % may be kept beside 66 % and the ask with its margin: 57 minutes' worth.
    assert refused.next_available_at_ms == pytest.approx(NOW + 63 * MINUTE_MS, abs=1)
    assert chosen(filled(96)).candidates[0].blocked_by == "budget"
    assert chosen(filled(99.5)).candidates[0].blocked_by == "limit"


def test_real_money_is_paid_only_once_the_person_has_used_their_share_up() -> None:
    paid = PaidUse(100 * NANO)
    for percent in (66, 96, 99):
        assert chosen(replace(filled(percent), paid_use=paid)).subscription is None
    found = chosen(replace(filled(99.5), paid_use=paid))
    assert (found.subscription, found.is_paid) == ("one", True)


@pytest.mark.parametrize(
    "asked", [{"only": "one", "by_name": True}, {"may_probe": True}, {"tried": frozenset({"two"})}], ids=str
)
@pytest.mark.parametrize("cause", ["burst", "five_hour", "auth"])
def test_no_probe_pin_or_failover_steps_over_it(asked: dict[str, Any], cause: str) -> None:
    over = [replace(cooldown(cause), until_ms=NOW - 1)]
    is_tried = cause != "auth" or bool(asked.keys() & {"by_name", "may_probe"})
    assert chosen(filled(60, cooldowns=over), **asked).subscription == ("one" if is_tried else None)
    assert chosen(filled(66, cooldowns=over), **asked).subscription is None


def test_an_ask_of_any_size_fits_what_agents_may_use_of_an_empty_window() -> None:
    found = chosen(filled(0), usd=500)
    assert (found.subscription, found.reserve) == ("one", 70 * NANO)


def test_all_of_a_window_can_be_kept() -> None:
    state = filled(0)
    everything = replace(state, subscription=replace(state.subscription, keep_percent={"*": 100.0}))
    assert chosen(everything, usd=0.01).subscription is None
    assert availability(everything).status is Status.LIMITED


def test_status_headroom_and_notice_count_the_persons_share() -> None:
    state = filled(67)
    assert headroom_nanousd(state) == 3 * NANO
    found = availability(state)
    assert (found.status, found.reason) == (Status.LIMITED, "the five_hour window is 67% used, and 30% is kept for you")
    (told,) = alerts([state])
    assert (told.kind, told.notice) == ("kept", "budget")
    assert told.message == (
        "one: agents have used what they may of the five_hour window, 67% is used; 30% is kept for you until "
        "2026-01-28T14:00:00Z"
    )
    assert alerts([filled(60)]) == []


@given(
    percent=st.floats(0, 99),
    share=st.floats(0.1, 99),
    usd=st.floats(0.01, 60),
    minutes=st.integers(1, 299),
    hour=st.integers(0, 23),
    length=st.integers(1, 23),
    is_limited=st.booleans(),
)
def test_who_is_refused_is_served_at_the_time_that_is_told_and_not_a_moment_before(
    percent: float, share: float, usd: float, minutes: int, hour: int, length: int, *, is_limited: bool
) -> None:
    state = filled(percent, reset_ms=NOW + minutes * MINUTE_MS)
    hours = DayHours(hour * 60, (hour + length) % 24 * 60, UTC) if is_limited else None
    state = replace(state, subscription=replace(state.subscription, keep_percent={"*": share}, keep_hours=hours))
    found = chosen(state, usd)
    if found.subscription is not None:
        kept_now = state.gauges["five_hour"].kept.percent
        assert not kept_now or found.reserve / NANO <= 100 - percent - kept_now + 1e-6
        return
    at_ms = found.next_available_at_ms
    assert at_ms is not None
    assert chosen(state.at(at_ms), usd).subscription == "one"
    if at_ms > NOW + 2 and state.at(at_ms - 2).gauges["five_hour"].resets_at_ms is not None:
        assert chosen(state.at(at_ms - 2), usd).subscription is None


def test_a_reading_without_a_reset_keeps_all() -> None:
    reading = WindowReading("five_hour", 60.0, None, "allowed", NOW)
    state = filled(0)
    state = replace(state, readings={"five_hour": reading})
    assert state.gauges["five_hour"].room_percent == 10
    assert chosen(state, 10 - MARGIN_PERCENT).subscription == "one"
    assert chosen(state, 10).next_available_at_ms == NOW + 5 * HOUR_MS
