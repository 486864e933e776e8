"""Agents that do what the advice says, for four weeks, in fourteen set-ups; deterministic.

./dev run python benchmarks/pacing_worlds.py [--name NAME] [--days N] [--json]

An agent always has more to ask. It asks, waits for the answer, and asks again when the advice says that the next ask is
due. Where it is refused it asks again when the refusal says, or an hour later where that says nothing.

- refused after "proceed": asks that were refused at the time that the advice named. Of these, "by others": another
  agent, or a person elsewhere, has used something since the advice.
- unneeded waits: hours of "wait" during which an ask would have been served, looked at every quarter of an hour.
- spent: of what the budgets, or the weekly windows, would have let through.
- standstill: the longest pause of an agent.
"""

import argparse
import bisect
import heapq
import itertools
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

from rich.console import Console
from rich.table import Table

from policies import NO_BUDGET, Ours
from pool_mcp.choosing import budget, pacing, selection, windows
from pool_mcp.choosing.allowances import Allowance
from pool_mcp.choosing.windows import SEVEN_DAY
from pool_mcp.model import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    NANO,
    WEEK_MS,
    Budget,
    Subscription,
    WindowReading,
)
from simulator import Meters, Run
from world import EPOCH_MS, Account, Conditions, Job, World, make_world

LOOK_MS = 15 * MINUTE_MS
CALLS = 6


@dataclass(frozen=True, slots=True)
class Agent:
    """Somebody who asks: for a model, at so much an ask (mean and spread), with a budget of its own or none."""

    name: str
    kind: str = "sonnet"
    mean_usd: float = 0.6
    sigma: float = 0.5
    minutes: int = 5
    own: Budget = Budget()  # noqa: RUF009


@dataclass(frozen=True, slots=True)
class Setup:
    """Subscriptions with their budgets in dollars a week and a block (0: a default that does not bind), and agents.

    One without capacity is an API key: Anthropic reports no windows.
    """

    accounts: tuple[Account, ...]
    agents: tuple[Agent, ...]
    week_usd: float = 0.0
    block_usd: float = 0.0
    hand_share: float = 0.0
    tells_percent: bool = True


PRO = Account("pro", "pro", 16 * NANO, 140 * NANO)
MAX = Account("max", "max_5x", 40 * NANO, 300 * NANO)
ULTRA = Account("ultra", "max_20x", 140 * NANO, 1000 * NANO)
KEY = Account("key", "", 0, 0)
OPUS = replace(MAX, opus_capacity=60 * NANO)


def _agents(count: int, **given: object) -> tuple[Agent, ...]:
    return tuple(replace(Agent(f"agent-{at}"), **given) for at in range(count))  # type: ignore[arg-type]


def _weekly(usd: float) -> Budget:
    return Budget(weekly_nanousd=round(usd * NANO))


SETUPS = {
    "a Pro plan": Setup((PRO,), _agents(1)),
    "a Max plan": Setup((MAX,), _agents(1, kind="opus", mean_usd=2.0, sigma=0.7, minutes=15)),
    "a Max plan, three agents": Setup((MAX,), _agents(3)),
    "a Max plan, used by hand": Setup((MAX,), _agents(1), hand_share=0.4),
    "a Max plan without percents": Setup((MAX,), _agents(1), tells_percent=False),
    "a small Opus window": Setup((OPUS,), (Agent("sonnet"), Agent("opus", "opus", 2.0, 0.7, 15))),
    "a week of $100 on a Max plan": Setup((MAX,), _agents(1), week_usd=100),
    "a block of $5 on a Pro plan": Setup((PRO,), _agents(1), block_usd=5),
    "three plans, six agents": Setup((PRO, MAX, ULTRA), _agents(6)),
    "an API key, $50 a week": Setup((KEY,), _agents(1), week_usd=50, block_usd=15),
    "a caller's $20 a week": Setup((MAX,), _agents(1, own=_weekly(20))),
    "a caller's $10 a week, heavy tail": Setup((MAX,), _agents(1, sigma=1.2, own=_weekly(10))),
    "a caller's $5 a day": Setup((MAX,), _agents(1, own=Budget(daily_nanousd=5 * NANO))),
    "four callers, $15 a week each": Setup((MAX, PRO), _agents(4, own=_weekly(15))),
}


@dataclass(slots=True)
class Result:
    """What came of a set-up; hours, dollars, and counts of asks."""

    asks: int = 0
    answered: int = 0
    killed: int = 0
    refused: int = 0
    refused_after_proceed: int = 0
    of_these_by_others: int = 0
    waits: int = 0
    unneeded_wait_hours: float = 0.0
    spent_usd: float = 0.0
    room_usd: float = 0.0
    standstill_hours: float = 0.0


class _Spend:
    """Amounts by their time, as the ledger sums them."""

    def __init__(self) -> None:
        self._hours: list[int] = []
        self._amounts: list[int] = []

    def add(self, at_ms: int, amount: int) -> None:
        hour_ms = at_ms - at_ms % HOUR_MS
        if not self._hours or self._hours[-1] != hour_ms:
            self._hours.append(hour_ms)
            self._amounts.append(0)
        self._amounts[-1] += amount

    def since(self, at_ms: int) -> int:
        """To the hour."""
        return sum(self._amounts[bisect.bisect_right(self._hours, at_ms - HOUR_MS) :])

    def hours(self, now_ms: int) -> tuple[tuple[int, int], ...]:
        at = bisect.bisect_right(self._hours, now_ms - WEEK_MS - HOUR_MS)
        return tuple(zip(self._hours[at:], self._amounts[at:], strict=True))

    def days(self, now_ms: int) -> tuple[int, ...]:
        sums = [self.since(now_ms - day * DAY_MS) for day in range(8)]
        return tuple(later - earlier for earlier, later in itertools.pairwise(sums))


class _Pool(Ours):
    """The project's own books, with budgets, callers and advice."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup.accounts)
        self.spend = {one.name: _Spend() for one in setup.accounts}
        self.by_caller = {one.name: _Spend() for one in setup.agents}
        self._agents = {one.name: one for one in setup.agents}
        self._held_by: dict[int, str] = {}
        self.asked_ms: dict[str, int] = {}
        for account in setup.accounts:
            self._books[account.name].subscription = _subscription(account, setup)

    def snapshot(self, agent: Agent, now_ms: int) -> tuple[selection.Request, list[budget.Balance]]:
        """What an ask of the usual size would meet."""
        balances = [self._balance(books, now_ms) for books in self._books.values()]
        own = {name: books.costs.get(agent.kind, [])[-50:] for name, books in self._books.items()}
        everywhere = [cost for costs in own.values() for cost in costs]
        like = {name: budget.like_it(costs, everywhere) for name, costs in own.items()}
        active = sum(spend.since(now_ms - HOUR_MS) > 0 or name == agent.name for name, spend in self.by_caller.items())
        request = selection.Request(
            {name: budget.estimate_nanousd(None, costs) for name, costs in like.items()},
            agent.kind,
            {name: budget.likely_nanousd(None, costs) for name, costs in like.items()},
            self._caller(agent, now_ms),
            last_asked_ms=self.asked_ms.get(agent.name),
            active_callers=active,
        )
        return request, balances

    def _caller(self, agent: Agent, now_ms: int) -> Allowance:
        spend = self.by_caller[agent.name]
        runs = (run for books in self._books.values() for run in books.held.values())
        return Allowance(
            agent.name,
            now_ms,
            agent.own,
            day_spent=spend.since(windows.day_start_ms(now_ms)),
            week_spent=spend.since(now_ms - WEEK_MS),
            reserved=sum(run.held for run in runs if self._held_by[run.job.number] == agent.name),
            hour_spent=spend.since(now_ms - HOUR_MS),
            days=spend.days(now_ms),
            hours=spend.hours(now_ms),
        )

    def _balance(self, tx, now_ms: int) -> budget.Balance:  # type: ignore[no-untyped-def]
        found, spend = super()._balance(tx, now_ms), self.spend[tx.subscription.id]
        return replace(
            found,
            block_spent=spend.since(found.block.starts_at_ms),
            week_spent=spend.since(now_ms - WEEK_MS),
            hour_spent=spend.since(now_ms - HOUR_MS),
            days=spend.days(now_ms),
            hours=spend.hours(now_ms),
            spent_before={
                window: max(
                    0,
                    tx.spent_since(windows.begins_ms(one, now_ms), windows.family_of(window))
                    - found.spent_since[window],
                )
                for window, one in found.readings.items()
                if not windows.has_reset(one, now_ms)
            },
        )

    def begin(self, run: Run, agent: Agent, reserve: int, now_ms: int) -> None:
        """Reserve for an agent."""
        self._held_by[run.job.number] = agent.name
        self.started(run, now_ms)
        run.held = reserve
        self.asked_ms[agent.name] = now_ms

    def settled(self, run: Run, now_ms: int) -> None:
        """Book a run that has ended."""
        self.spend[run.account].add(now_ms, run.spent)
        self.by_caller[self._held_by[run.job.number]].add(now_ms, run.spent)


def _subscription(account: Account, setup: Setup) -> Subscription:
    return Subscription(
        account.name,
        None,
        None if account.capacities[SEVEN_DAY] else "KEY",
        None,
        account.plan,
        round(setup.week_usd * NANO) or NO_BUDGET,
        round(setup.block_usd * NANO) or NO_BUDGET,
        0,
        15,
        enabled=True,
        week_is_default=not setup.week_usd,
        block_is_default=not setup.block_usd,
    )


class _Play:
    """One set-up through its weeks."""

    def __init__(self, setup: Setup, days: int, seed: int) -> None:
        self.setup, self.result, self.ends_at_ms = setup, Result(), EPOCH_MS + days * DAY_MS
        real = tuple(one for one in setup.accounts if one.seven_day_capacity)
        conditions = Conditions(weights=(("opus", 1.4),), outside_share=setup.hand_share)
        self.world: World = make_world(real, (), conditions, seed, days)
        self.meters = {one.name: Meters(one, self.world) for one in real}
        self.pool = _Pool(setup)
        self._draw = random.Random(seed)
        self._events: list[tuple[int, int, Callable[[int], None]]] = []
        self._count = itertools.count()
        self._changed_by: list[tuple[int, str]] = []
        self._ended_ms = dict.fromkeys((one.name for one in setup.agents), EPOCH_MS)
        self._advised_ms: dict[str, int] = {}
        self._waits_until_ms = dict.fromkeys((one.name for one in setup.agents), 0)

    def run(self) -> Result:
        """Play it."""
        for name, calls in self.world.outside.items():
            for at_ms, amount in calls:
                self._at(at_ms, partial(self._by_hand, name, amount))
        for agent in self.setup.agents:
            self._at(EPOCH_MS, partial(self._ask, agent))
            for at_ms in range(EPOCH_MS, self.ends_at_ms, LOOK_MS):
                self._at(at_ms, partial(self._look, agent))
        while self._events:
            now_ms, _, what = heapq.heappop(self._events)
            if now_ms < self.ends_at_ms:
                what(now_ms)
        for agent in self.setup.agents:
            self._note_pause(agent, self.ends_at_ms)
        self.result.room_usd = self._room_usd()
        return self.result

    def _at(self, at_ms: int, what: Callable[[int], None]) -> None:
        heapq.heappush(self._events, (at_ms, next(self._count), what))

    def _room_usd(self) -> float:
        """What budgets and weekly windows let through in all."""
        weeks = (self.ends_at_ms - EPOCH_MS) / WEEK_MS
        plans = sum(one.seven_day_capacity for one in self.setup.accounts) / NANO * (weeks + 0.5)
        plans *= 1 - self.setup.hand_share
        if self.setup.week_usd:
            plans = min(plans or NO_BUDGET, self.setup.week_usd * weeks)
        if self.setup.block_usd and not self.setup.week_usd:
            plans = min(plans, self.setup.block_usd * weeks * WEEK_MS / (5 * HOUR_MS))
        own = [one.own for one in self.setup.agents]
        if all(one.weekly_nanousd or one.daily_nanousd for one in own):
            budgets = (
                sum((one.weekly_nanousd or 0) * weeks + (one.daily_nanousd or 0) * weeks * 7 for one in own) / NANO
            )
            plans = min(plans, budgets)
        return plans

    # Agents

    def _ask(self, agent: Agent, now_ms: int) -> None:
        request, balances = self.pool.snapshot(agent, now_ms)
        choice = selection.choose(request, balances)
        self.result.asks += 1
        if choice.subscription is None:
            self.result.refused += 1
            self._note_refusal(agent)
            later_ms = choice.next_available_at_ms or now_ms + HOUR_MS
            self._at(max(later_ms, now_ms + MINUTE_MS), partial(self._ask, agent))
            return
        self._note_pause(agent, now_ms)
        cost = round(agent.mean_usd * self._draw.lognormvariate(-(agent.sigma**2) / 2, agent.sigma) * NANO)
        length_ms = round(agent.minutes * MINUTE_MS * self._draw.uniform(0.5, 1.5))
        job = Job(self.result.asks, agent.kind, now_ms, cost, CALLS, length_ms, now_ms)
        run = Run(job, choice.subscription, 0, now_ms)
        chosen = next(one for one in balances if one.subscription.id == choice.subscription)
        caller = request.caller.left if request.caller else None
        cap = min((one for one in (chosen.left, caller) if one is not None), default=None)
        self.pool.begin(run, agent, choice.reserve, now_ms)
        self._changed_by.append((now_ms, agent.name))
        self._at(now_ms + length_ms // (2 * CALLS), partial(self._call, run, agent, cap))

    def _call(self, run: Run, agent: Agent, cap: int | None, now_ms: int) -> None:
        readings: Mapping[str, WindowReading] = {}
        meters, job = self.meters.get(run.account), run.job
        self._changed_by.append((now_ms, agent.name))
        if meters is not None:
            meters.begin(now_ms)
            full = meters.full(job.kind, now_ms)
            if full is not None:
                self.result.killed += 1
                refused = replace(meters.readings(now_ms, now_ms)[full], percent=100.0, status="rejected")
                self._end(run, agent, refused, now_ms)
                return
            readings = self._told(meters.readings(now_ms, now_ms))
            meters.add(job.kind, self.world.conditions.weigh(job.kind, job.cost // CALLS), now_ms)
        run.spent += job.cost // CALLS
        run.calls_done += 1
        self.pool.heard(run, readings, now_ms)
        if run.calls_done < CALLS and (cap is None or run.spent < cap):
            self._at(now_ms + job.duration_ms // CALLS, partial(self._call, run, agent, cap))
        else:
            self.result.answered += run.calls_done == CALLS
            self._end(run, agent, None, now_ms)

    def _told(self, readings: dict[str, WindowReading]) -> dict[str, WindowReading]:
        if self.setup.tells_percent:
            return readings
        return {name: replace(one, percent=None) for name, one in readings.items()}

    def _end(self, run: Run, agent: Agent, refused: WindowReading | None, now_ms: int) -> None:
        self.pool.ended(run, now_ms, refused=refused)
        self.pool.settled(run, now_ms)
        self.result.spent_usd += self.world.conditions.weigh(run.job.kind, run.spent) / NANO
        self._ended_ms[agent.name] = now_ms
        request, balances = self.pool.snapshot(agent, now_ms)
        advice = pacing.advise(request, balances)
        self._advised_ms[agent.name] = now_ms
        next_ms = advice.next_ask_at_ms if advice.next_ask_at_ms is not None else now_ms + DAY_MS
        if advice.action is pacing.Action.WAIT:
            self.result.waits += 1
            self._waits_until_ms[agent.name] = next_ms
            del self._advised_ms[agent.name]
        self._at(max(next_ms, now_ms + 1), partial(self._ask, agent))

    def _by_hand(self, name: str, amount: int, now_ms: int) -> None:
        meters = self.meters[name]
        meters.begin(now_ms)
        if meters.full(None, now_ms) is None:
            meters.add(None, amount, now_ms)
            self._changed_by.append((now_ms, "a person"))

    # What is counted

    def _note_refusal(self, agent: Agent) -> None:
        advised_ms = self._advised_ms.pop(agent.name, None)
        if advised_ms is not None:
            self.result.refused_after_proceed += 1
            late = itertools.takewhile(lambda one: one[0] >= advised_ms, reversed(self._changed_by))
            self.result.of_these_by_others += any(who != agent.name for _, who in late)

    def _note_pause(self, agent: Agent, now_ms: int) -> None:
        pause_ms = now_ms - self._ended_ms[agent.name]
        self.result.standstill_hours = max(self.result.standstill_hours, pause_ms / HOUR_MS)

    def _look(self, agent: Agent, now_ms: int) -> None:
        """While an agent waits: whether an ask would be served."""
        if now_ms < self._waits_until_ms[agent.name]:
            request, balances = self.pool.snapshot(agent, now_ms)
            is_served = selection.choose(request, balances).subscription is not None
            self.result.unneeded_wait_hours += is_served * LOOK_MS / HOUR_MS


def play(name: str, days: int, seed: int = 1) -> Result:
    """One set-up."""
    return _Play(SETUPS[name], days, seed).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=SETUPS)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    results = {name: play(name, chosen.days) for name in ([chosen.name] if chosen.name else SETUPS)}
    if chosen.json:
        print(json.dumps({name: asdict(one) for name, one in results.items()}, indent=2))
        return
    table = Table(box=None, header_style="bold")
    for head in (
        "",
        "asks",
        "killed",
        "refused",
        "after proceed",
        "by others",
        "waits",
        "unneeded h",
        "spent",
        "standstill h",
    ):
        table.add_column(head, justify="right" if head else "left")
    for name, one in results.items():
        counts = (one.asks, one.killed, one.refused, one.refused_after_proceed, one.of_these_by_others, one.waits)
        share = f"{100 * one.spent_usd / one.room_usd:.1f}%"
        table.add_row(name, *map(str, counts), f"{one.unneeded_wait_hours:.1f}", share, f"{one.standstill_hours:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
