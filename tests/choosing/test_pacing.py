"""Advice that an agent can act on, forecasts, and alerts."""

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pytest
from balances import NOW, ONE, balance, cooldown, official
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp.choosing import cooldowns
from pool_mcp.choosing.allowances import Allowance
from pool_mcp.choosing.budget import Balance
from pool_mcp.choosing.pacing import Action, Advice, advise, alerts, exhausts_at_ms, failover, headroom_nanousd
from pool_mcp.choosing.selection import Request
from pool_mcp.choosing.windows import Block
from pool_mcp.model import BLOCK_MS, DAY_MS, HOUR_MS, MINUTE_MS, NANO, WEEK_MS, Budget, Cooldown, WindowReading

USED_UP = balance(name="used-up", spent=20)
OFF = replace(balance(week=400, cooldowns=[cooldown("auth")]), subscription=replace(ONE, enabled=False))
MIDNIGHT = NOW + 12 * HOUR_MS


def advised(
    balances: Sequence[Balance], caller: Allowance | None = None, *, estimate: int = NANO // 4, **asked: Any
) -> Advice:
    """For an ask of a quarter dollar."""
    names = [one.subscription.id for one in balances]
    request = Request(dict.fromkeys(names, estimate), caller=caller, **asked)
    return advise(request, balances)


def at(said: str) -> int:
    return int(datetime.fromisoformat(said).timestamp() * 1000)


def me(daily: float | None = None, weekly: float | None = None, **said: int) -> Allowance:
    budget = Budget(*(None if usd is None else round(usd * NANO) for usd in (daily, weekly)))
    spent: dict[str, Any] = {key: value * NANO for key, value in said.items()}
    return Allowance("me", NOW, budget, **spent)


@pytest.mark.parametrize(
    ("balances", "caller", "expected"),
    [
        pytest.param([balance()], None, Advice(Action.PROCEED, "There is room for $20.00.", 20 * NANO), id="room"),
        pytest.param(
            [balance(), balance(name="two", week=395)],
            None,
            Advice(Action.PROCEED, "There is room for $25.00.", 25 * NANO),
            id="what is nearly used up is room for as long as it is given",
        ),
        pytest.param(
            [balance(official(40, "five_hour"))],
            None,
            Advice(Action.PROCEED, "There is room for $20.00.", 20 * NANO),
            id="a window with more room than the budget",
        ),
        pytest.param(
            [balance(official(79, "five_hour"))],
            None,
            Advice(Action.PROCEED, "There is room for $7.35.", round(7.35 * NANO)),
            id="a window that is tighter than the budget",
        ),
        pytest.param(
            [balance(organization="org"), balance(name="two", organization="org")],
            None,
            Advice(Action.PROCEED, "There is room for $40.00.", 40 * NANO),
            id="budgets add up within an organization",
        ),
        pytest.param(
            [balance(official(79), organization="org"), balance(official(79), name="two", organization="org")],
            None,
            Advice(Action.PROCEED, "There is room for $7.35.", round(7.35 * NANO)),
            id="what an organization shares is counted once",
        ),
        pytest.param(
            [balance(hour=5, spent=5)],
            None,
            Advice(Action.PROCEED, "There is room for $15.00.", 15 * NANO),
            id="a pace that lasts to the block's end",
        ),
        pytest.param(
            [balance(hour=6, spent=5)],
            None,
            Advice(
                Action.SLOW_DOWN,
                "At $6.00 an hour the room of $15.00 would not last until 2026-01-28T15:00:00Z.",
                15 * NANO,
                max_nanousd_per_hour=round(14 * NANO / 3),  # the last 5 % are spared
                exhausts_at_ms=NOW + 150 * MINUTE_MS,
            ),
            id="a pace that does not",
        ),
        pytest.param(
            [balance(hour=6, spent=5), balance(name="two")],
            None,
            Advice(Action.PROCEED, "There is room for $35.00.", 35 * NANO),
            id="the pool bears what one subscription does not",
        ),
        pytest.param(
            [balance(official(50, "seven_day", resets_at_ms=NOW + 4 * DAY_MS), hour=3, days=[72 * NANO])],
            None,
            Advice(
                Action.SLOW_DOWN,
                "At $3.00 an hour, the last day's mean, the week's room of $140.00 would not last until it is filled "
                "up again.",
                20 * NANO,
                max_nanousd_per_hour=round((140 - 14) * NANO / 96),
                exhausts_at_ms=at("2026-01-30T10:40:00Z"),
            ),
            id="a day's pace that the week does not bear",
        ),
        pytest.param(
            [balance(spent=17)],
            None,
            Advice(
                Action.SLOW_DOWN,
                "Every subscription that is left is over 80% used.",
                3 * NANO,
                max_nanousd_per_hour=round(2 * NANO / 3),
            ),
            id="all approaching",
        ),
        pytest.param(
            [USED_UP, balance(cooldowns=[cooldown("burst")])],
            None,
            Advice(
                Action.WAIT,
                "The next ask would be refused until 2026-01-28T12:01:00Z: one: because of burst; used-up: its block "
                "budget leaves $0.00, the ask needs $0.25.",
                0,
                NOW + MINUTE_MS,
            ),
            id="all used up or cooling",
        ),
        pytest.param(
            [balance(reserved=20, in_flight=2)],
            None,
            Advice(
                Action.WAIT,
                "The next ask would have to wait its turn, until about 2026-01-28T12:01:00Z: "
                "one: its block budget leaves $0.00, the ask "
                "needs $0.25.",
                0,
                NOW + MINUTE_MS,
            ),
            id="what is only held comes back",
        ),
        pytest.param(
            [OFF, balance(cooldowns=[cooldown("auth", None)])],
            None,
            Advice(Action.STOP, "No subscription can be used until a person acts: because of auth.", 0),
            id="a person must act",
        ),
        pytest.param(
            [balance()],
            me(daily=5, day_spent=1, reserved=1),
            Advice(Action.PROCEED, "There is room for $3.00.", 3 * NANO),
            id="a caller's own budget is tighter",
        ),
        pytest.param(
            [balance()],
            me(daily=12, day_spent=6, hour_spent=1),
            Advice(
                Action.SLOW_DOWN,
                "At $1.00 an hour me's own budget would not last until 2026-01-29T00:00:00Z.",
                6 * NANO,
                max_nanousd_per_hour=NANO // 2,
                exhausts_at_ms=NOW + 6 * HOUR_MS,
            ),
            id="a caller is too fast for its own budget",
        ),
        pytest.param(
            [balance()],
            replace(me(weekly=5, week_spent=5), hours=[(NOW - 2 * DAY_MS, 3 * NANO), (NOW - DAY_MS, 2 * NANO)]),
            Advice(
                Action.WAIT,
                "The next ask would be refused until 2026-02-02T13:00:00Z: the budget of caller 'me' leaves $0.00, the "
                "ask may need $0.25.",
                0,
                NOW + 5 * DAY_MS + HOUR_MS,
            ),
            id="a caller's week is used up",
        ),
        pytest.param(
            [balance()],
            me(daily=5, day_spent=5),
            Advice(
                Action.WAIT,
                "The next ask would be refused until 2026-01-29T00:00:00Z: the budget of caller 'me' leaves $0.00, the "
                "ask may need $0.25.",
                0,
                MIDNIGHT,
            ),
            id="a caller's day is used up",
        ),
        pytest.param(
            [balance()],
            me(daily=5, day_spent=1, reserved=4),
            Advice(
                Action.WAIT,
                "The next ask would have to wait its turn, until about 2026-01-28T12:01:00Z: "
                "the budget of caller 'me' leaves $0.00, the "
                "ask may need $0.25.",
                0,
                NOW + MINUTE_MS,
            ),
            id="a caller's budget is only held",
        ),
        pytest.param(
            [balance()],
            me(day_spent=99),
            Advice(Action.PROCEED, "There is room for $20.00.", 20 * NANO),
            id="a caller without a budget",
        ),
    ],
)
def test_advice_is_what_the_room_and_the_pace_allow(
    balances: list[Balance], caller: Allowance | None, expected: Advice
) -> None:
    assert replace(advised(balances, caller), next_ask_at_ms=None) == expected


@dataclass
class Agent:
    """Asks without end under one subscription, or for a caller with a budget; obeys the advice, or only refusals."""

    obeys: bool
    weekly: float
    daily: float | None = None
    spends: list[int] = field(default_factory=list)

    def spent(self, since_ms: int, until_ms: int) -> int:
        return ASK * (bisect_left(self.spends, until_ms) - bisect_left(self.spends, since_ms))

    def work(self, days: int) -> None:
        """An ask every five minutes, or as seldom as it is told to."""
        now_ms = NOW
        while now_ms < NOW + days * DAY_MS:
            advice, left = self.look(now_ms)
            assert advice.action is Action.WAIT or advice.action is Action.STOP or advice.headroom_nanousd == left
            assert (left >= ASK) == (advice.action in (Action.PROCEED, Action.SLOW_DOWN)), "advice and ask disagree"
            if self.obeys and advice.action in (Action.WAIT, Action.STOP):
                assert advice.retry_at_ms is not None, "told to stop, though room comes back"
                next_ms = advice.retry_at_ms
                assert self.look(next_ms)[1] >= ASK, "told to come back too early"
            elif left < ASK:
                next_ms = now_ms + 5 * MINUTE_MS
            else:
                self.spends.append(now_ms)
                next_ms = now_ms + 5 * MINUTE_MS
                if self.obeys:
                    assert advice.next_ask_at_ms is not None
                    next_ms = max(next_ms, advice.next_ask_at_ms)
            now_ms = next_ms

    @property
    def longest_pause_ms(self) -> int:
        return max(after - before for before, after in itertools.pairwise(self.spends))

    def look(self, now_ms: int) -> tuple[Advice, int]:
        """The advice, and what the budgets really leave."""
        week = self.spent(now_ms - WEEK_MS, now_ms)
        days = [self.spent(now_ms - (age + 1) * DAY_MS, now_ms - age * DAY_MS) for age in range(7)]
        hours = [
            (hour_ms, cost)
            for hour_ms in range((now_ms - WEEK_MS) // HOUR_MS * HOUR_MS, now_ms, HOUR_MS)
            if (cost := self.spent(hour_ms, hour_ms + HOUR_MS))
        ]
        block = Block(now_ms - now_ms % BLOCK_MS, now_ms - now_ms % BLOCK_MS + BLOCK_MS, "utc-grid")
        mine = Balance(
            replace(ONE, weekly_budget_nanousd=round(self.weekly * NANO), block_budget_nanousd=25 * NANO),
            now_ms,
            block,
            block_spent=self.spent(block.starts_at_ms, now_ms),
            week_spent=week,
            hour_spent=self.spent(now_ms - HOUR_MS, now_ms),
            days=days,
            hours=hours,
        )
        if self.daily is None:
            return advised([mine], estimate=ASK, last_asked_ms=now_ms), mine.left or 0
        today = self.spent(now_ms - now_ms % DAY_MS, now_ms)
        caller = me(daily=self.daily)
        caller = replace(
            caller, hours=hours, at_ms=now_ms, day_spent=today, hour_spent=mine.hour_spent, week_spent=week, days=days
        )
        assert caller.left is not None
        return advised([mine], caller, estimate=ASK, last_asked_ms=now_ms), min(mine.left or 0, caller.left)


ASK = 3 * NANO // 10


@pytest.mark.parametrize(("weekly", "daily"), [(456.0, None), (200.0, None), (90.0, None), (456.0, 10.0)])
def test_who_follows_the_advice_spends_what_there_is_and_never_stands_still_for_long(
    weekly: float, daily: float | None
) -> None:
    steady, greedy = Agent(True, weekly, daily), Agent(False, weekly, daily)
    for agent in (steady, greedy):
        agent.work(21)
    allowed = 7 * min(weekly / 7, daily or weekly) * NANO
    third_week = steady.spent(NOW + 14 * DAY_MS, NOW + 21 * DAY_MS)  # when the beginning has been forgotten
    assert 0.9 * allowed < third_week <= allowed
    assert steady.longest_pause_ms < 16 * HOUR_MS < greedy.longest_pause_ms


def test_while_anthropic_is_overloaded_the_whole_pool_waits() -> None:
    overloaded = Cooldown("overloaded", NOW, NOW + 1000, "overloaded")
    waiting = Advice(Action.WAIT, "overloaded", 0, NOW + 1000, next_ask_at_ms=NOW + 1000)
    assert advised([balance()], pool_cooldown=overloaded) == waiting
    for now_ms, expected in ((NOW + 999, overloaded), (NOW + 1000, None)):
        assert cooldowns.of_pool({cooldowns.WHOLE_POOL: [overloaded]}, now_ms) == expected


FAST = balance(hour=6, spent=5)
"""Bears $4.67 an hour."""


@pytest.mark.parametrize(
    ("state", "asked", "minutes"),
    [
        pytest.param(balance(), {"last_asked_ms": NOW}, 0, id="proceed: at once"),
        pytest.param(FAST, {"last_asked_ms": NOW, "estimate": NANO}, 12.86, id="slow down: so long after the last one"),
        pytest.param(FAST, {"last_asked_ms": NOW - 5 * MINUTE_MS, "estimate": NANO}, 7.86, id="part of it has passed"),
        pytest.param(FAST, {"last_asked_ms": NOW - HOUR_MS, "estimate": NANO}, 0, id="all of it has passed"),
        pytest.param(FAST, {"last_asked_ms": NOW, "estimate": NANO, "active_callers": 3}, 38.57, id="one of three"),
        pytest.param(
            balance(hour=6, spent=19.99), {"last_asked_ms": NOW, "estimate": NANO // 200}, 180, id="the last of a block"
        ),
        pytest.param(balance(cooldowns=[cooldown("burst")]), {}, 1, id="wait: at the time to come back"),
    ],
)
def test_the_next_ask_is_due_when_the_pace_bears_one_of_the_usual_size(
    state: Balance, asked: dict[str, Any], minutes: float
) -> None:
    due_ms = advised([state], **asked).next_ask_at_ms
    assert due_ms is not None
    assert due_ms - NOW == pytest.approx(minutes * MINUTE_MS, abs=MINUTE_MS / 100)


def test_one_expensive_ask_is_no_reason_for_more_than_a_day_of_silence() -> None:
    caller = replace(me(weekly=10, week_spent=4, hour_spent=4), days=[4 * NANO])
    advice = advised([balance()], caller, estimate=5 * NANO, last_asked_ms=NOW)
    assert advice.action is Action.SLOW_DOWN
    assert advice.next_ask_at_ms == NOW + DAY_MS


def test_advice_is_for_the_model_that_is_asked_for() -> None:
    state = balance(official(100, "seven_day_opus", resets_at_ms=NOW + 90 * HOUR_MS))
    assert advised([state], model="sonnet").action is Action.PROCEED
    advice = advised([state], model="opus")
    assert (advice.action, advice.retry_at_ms) == (Action.WAIT, NOW + 90 * HOUR_MS)


pools = st.lists(
    st.builds(
        lambda name, spent, week, hour, reserved, said: balance(
            *said, name=name, spent=spent, week=week, hour=hour, reserved=reserved, in_flight=int(reserved > 0)
        ),
        st.sampled_from(["a", "b", "c"]),
        *[st.floats(0, 50)] * 4,
        st.lists(st.builds(official, st.none() | st.floats(0, 110)), max_size=1),
    ),
    unique_by=lambda one: one.subscription.id,
)


@given(pools)
def test_advice_never_promises_more_than_the_budgets_leave(balances: list[Balance]) -> None:
    advice = advised(balances)
    assert 0 <= advice.headroom_nanousd <= sum(one.left or 0 for one in balances)
    assert (advice.max_nanousd_per_hour is not None) == (advice.action is Action.SLOW_DOWN)
    assert (advice.retry_at_ms is not None) == (advice.action is Action.WAIT)
    assert (advice.headroom_nanousd > 0) == (advice.action in (Action.PROCEED, Action.SLOW_DOWN))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (balance(), None),
        (balance(hour=2, spent=16, week=16), NOW + 2 * HOUR_MS),
        (balance(hour=2, spent=16, reserved=2), NOW + HOUR_MS),
        (balance(hour=2, spent=25), NOW),
        (balance(hour=1, spent=10), None),  # the block ends first
        (balance(official(90, "five_hour"), hour=7), NOW + 30 * MINUTE_MS),
        (balance(official(90, "five_hour", resets_at_ms=NOW + 29 * MINUTE_MS), hour=7), NOW + 171 * MINUTE_MS + 25_714),
    ],
)
def test_room_lasts_as_long_as_the_burn_lets_it_unless_it_is_refilled_first(
    state: Balance, expected: int | None
) -> None:
    assert exhausts_at_ms(state) == expected


def test_headroom_is_what_the_tightest_of_budgets_and_windows_leaves() -> None:
    assert headroom_nanousd(balance(official(90), spent=5)) == round(3.5 * NANO)
    assert headroom_nanousd(balance(official(10), spent=5)) == 15 * NANO


# Alerts


def told(*states: Balance) -> list[tuple[str, str]]:
    return [(one.kind, one.message) for one in alerts(states)]


def window(percent: float, **said: Any) -> WindowReading:
    return official(percent, "five_hour", **said)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (balance(window(79)), []),
        (
            balance(window(80)),
            [("80%", "one: the five_hour window is 80% used; it resets at 2026-01-28T13:00:00Z")],
        ),
        (
            balance(window(92)),
            [("90%", "one: the five_hour window is 92% used; it resets at 2026-01-28T13:00:00Z")],
        ),
        (
            balance(window(100)),
            [("limit", "one: the five_hour window is used up until 2026-01-28T13:00:00Z")],
        ),
        (
            balance(spent=20),
            [("limit", "one: the block budget is used up until 2026-01-28T15:00:00Z")],
        ),
        (balance(cooldowns=[cooldown("auth", None)]), [("needs_login", "one: because of auth")]),
        (balance(cooldowns=[cooldown("burst")]), []),
    ],
)
def test_an_alert_is_called_for_at_a_threshold_a_limit_and_a_missing_login(
    state: Balance, expected: list[tuple[str, str]]
) -> None:
    assert told(state) == expected


@given(st.floats(80, 89.9), st.integers(-60_000, 60_000))
def test_one_threshold_of_one_window_has_one_key_however_its_reset_is_given(percent: float, jitter_ms: int) -> None:
    (first,) = alerts([balance(window(80))])
    (again,) = alerts([balance(window(percent, resets_at_ms=NOW + HOUR_MS + jitter_ms), at_ms=NOW + 1)])
    (next_one,) = alerts([balance(window(percent, resets_at_ms=NOW + 6 * HOUR_MS), at_ms=NOW + 1)])
    assert first.key == again.key != next_one.key


def test_a_failover_is_told_once_a_run() -> None:
    alert = failover("r1", "one", "two", "limit", NOW)
    assert (alert.kind, alert.message) == ("failover", "one refused an ask (limit); it went on under two")
    assert alert.key != failover("r2", "one", "two", "limit", NOW).key


better = st.floats(0, 1)


@given(pools, better)
def test_lower_percents_never_give_worse_advice(balances: list[Balance], share: float) -> None:
    rank = [Action.STOP, Action.WAIT, Action.SLOW_DOWN, Action.PROCEED]

    def lower(one: Balance) -> Balance:
        readings = {
            name: replace(reading, percent=None if reading.percent is None else reading.percent * share)
            for name, reading in one.readings.items()
        }
        return replace(one, readings=readings)

    before, after = advised(balances), advised([lower(one) for one in balances])
    assert rank.index(after.action) >= rank.index(before.action)
    assert (after.retry_at_ms or 0) <= (before.retry_at_ms or 0)


@given(st.data(), pools)
def test_the_order_of_subscriptions_makes_no_difference_to_advice(data: st.DataObject, balances: list[Balance]) -> None:
    members = [replace(one, organization="org") for one in balances]
    assert advised(data.draw(st.permutations(members))) == advised(members)
