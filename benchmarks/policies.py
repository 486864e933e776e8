"""The policies that the simulation compares: the project's own choice, and what other account pools do."""

import random
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pool_mcp.asks.reservations import LIMIT_MARGIN
from pool_mcp.background.logins import IN_USE_MS, STALE_MS
from pool_mcp.choosing import budget, cooldowns, rates, selection, windows
from pool_mcp.choosing.windows import FIVE_HOUR, SEVEN_DAY
from pool_mcp.model import HOUR_MS, MINUTE_MS, NANO, WEEK_MS, Cooldown, DayHours, Subscription, WindowReading
from simulator import Run
from world import Account, Job

NO_BUDGET = 10**6 * NANO
MAX_IN_FLIGHT = 15
LEARN_MS = 30 * MINUTE_MS


@dataclass(slots=True)
class _Books:
    """What a ledger has of one subscription."""

    subscription: Subscription
    readings: dict[str, WindowReading] = field(default_factory=dict)
    series: dict[str | None, tuple[list[int], list[int]]] = field(default_factory=dict)
    """Times and sums of all spend, and of each family's."""
    held: dict[int, Run] = field(default_factory=dict)
    steps: dict[str, list[rates.Step]] = field(default_factory=dict)
    learned: dict[str, rates.Rate] = field(default_factory=dict)
    learned_at_ms: int = 0
    cooldowns: dict[str, Cooldown] = field(default_factory=dict)
    last_used_ms: int | None = None
    costs: dict[str, list[int]] = field(default_factory=dict)

    def book(self, at_ms: int, amount: int, kind: str) -> None:
        for family in {None, kind}:
            times, sums = self.series.setdefault(family, ([], []))
            times.append(at_ms)
            sums.append((sums[-1] if sums else 0) + amount)

    def spent_since(self, since_ms: int, family: str | None = None) -> int:
        times, sums = self.series.get(family, ([], []))
        at = bisect_right(times, since_ms - 1)
        return (sums[-1] - (sums[at - 1] if at else 0)) if sums else 0

    def record(self, readings: Mapping[str, WindowReading]) -> None:
        for window, reading in readings.items():
            self.readings[window] = reading
            steps = self.steps.setdefault(window, [])
            last = steps[-1].reading if steps else None
            if last is not None and (last.percent, last.resets_at_ms) == (reading.percent, reading.resets_at_ms):
                continue
            since_ms = last.observed_at_ms if last else 0
            family = windows.family_of(window)
            own = self.spent_since(since_ms + 1, family) - self.spent_since(reading.observed_at_ms + 1, family)
            steps.append(rates.Step(reading, own))

    def hear(self, readings: Mapping[str, WindowReading]) -> None:
        """Keep readings; one that shows room lifts a limit, however early."""
        self.record(readings)
        for window, reading in readings.items():
            if cooldowns.shows_room(reading):
                self.cooldowns.pop(window, None)

    def learn(self, now_ms: int) -> None:
        if now_ms - self.learned_at_ms < LEARN_MS:
            return
        self.learned_at_ms = now_ms
        for window, steps in self.steps.items():
            self.steps[window] = steps = steps[-300:]
            self.learned[window] = rates.learn(steps, rates.prior(self.subscription, window))


def _subscription(account: Account) -> Subscription:
    return Subscription(
        account.name, None, None, None, account.plan, NO_BUDGET, NO_BUDGET, 0, MAX_IN_FLIGHT, enabled=True
    )


class Ours:
    """The project's own selection, fed as the pool feeds it: one ledger for all servers, reservations that grow."""

    def __init__(
        self,
        accounts: tuple[Account, ...],
        strategy: Literal["headroom", "health"] = "headroom",
        keep_percent: Mapping[str, float] | None = None,
        keep_hours: DayHours | None = None,
    ) -> None:
        self.name = "pool-mcp" if strategy == "headroom" else f"pool-mcp, {strategy}"
        self._strategy: Literal["headroom", "health"] = strategy
        self._books = {
            one.name: _Books(replace(_subscription(one), keep_percent=keep_percent or {}, keep_hours=keep_hours))
            for one in accounts
        }
        self._sessions: dict[int, str] = {}
        self._asked_at_ms = 0
        self.waits_turn = False
        self._needed: dict[int, int] = {}
        """By job, what an ask that a limit has cut needs at least elsewhere."""

    def place(self, job: Job, now_ms: int, tried: frozenset[str], server: int) -> str | None:  # noqa: ARG002
        """Choose; a session stays where it is while that can serve."""
        self._asked_at_ms = now_ms
        balances = [self._balance(one, now_ms) for one in self._books.values()]
        needed = self._needed.get(job.number, 0)
        estimates = {name: max(needed, self._estimate(one, job.kind)) for name, one in self._books.items()}
        own = self._sessions.get(job.session) if job.session is not None else None
        for only in (own, None) if own is not None else (None,):
            request = selection.Request(estimates, job.kind, only=only, tried=tried)
            choice = selection.choose(request, balances, self._strategy)
            if choice.subscription is not None:
                return choice.subscription
        frees_at_ms = choice.next_available_at_ms
        self.waits_turn = frees_at_ms is not None and frees_at_ms <= now_ms + budget.IN_FLIGHT_MS
        return None

    def _estimate(self, books: _Books, kind: str) -> int:
        everywhere = [cost for one in self._books.values() for cost in one.costs.get(kind, [])[-50:]]
        return budget.estimate_nanousd(None, budget.like_it(books.costs.get(kind, [])[-50:], everywhere))

    def _balance(self, tx: _Books, now_ms: int) -> budget.Balance:
        tx.learn(now_ms)
        in_flight = [(run.job.kind, run.started_at_ms) for run in tx.held.values()]
        readings = tx.readings
        return budget.Balance(
            subscription=tx.subscription,
            at_ms=now_ms,
            block=windows.block_at(now_ms, readings.get(FIVE_HOUR)),
            hour_spent=tx.spent_since(now_ms - HOUR_MS) if self._strategy == "health" else 0,
            week_spent=tx.spent_since(now_ms - WEEK_MS) if self._strategy == "health" else 0,
            reserved=sum(run.held for run in tx.held.values()),
            still_reserved={
                window: sum(
                    max(0, run.held - run.spent) for run in tx.held.values() if windows.applies_to(window, run.job.kind)
                )
                for window in readings
            },
            in_flight=len(tx.held),
            readings=readings,
            cooldowns=[cooldowns.with_probe(one, in_flight) for one in tx.cooldowns.values()],
            last_used_ms=tx.last_used_ms,
            spent_since={
                window: tx.spent_since(windows.counts_from_ms(reading, now_ms) + 1, windows.family_of(window))
                for window, reading in readings.items()
            },
            rates=tx.learned,
        )

    def started(self, run: Run, now_ms: int) -> None:
        """Reserve."""
        books = self._books[run.account]
        run.held = self._estimate(books, run.job.kind)
        run.started_at_ms = now_ms
        books.held[run.job.number] = run
        books.last_used_ms = now_ms
        if run.job.session is not None:
            self._sessions[run.job.session] = run.account

    def heard(self, run: Run, readings: Mapping[str, WindowReading], now_ms: int) -> None:
        """Extend the reservation, keep the readings, lift a cooldown that they disprove."""
        books = self._books[run.account]
        run.held = max(run.held, round(run.spent * budget.EXTENSION))
        books.hear(readings)  # came with the answer's first words, so without what this call has spent
        books.book(now_ms + 1, run.spent - run.booked, run.job.kind)
        run.booked = run.spent

    def ended(self, run: Run, now_ms: int, *, refused: WindowReading | None) -> None:
        """Settle."""
        books = self._books[run.account]
        books.held.pop(run.job.number, None)
        books.book(now_ms, run.spent - run.booked, run.job.kind)
        if refused is None:
            books.costs.setdefault(run.job.kind, []).append(run.spent)
            for cause, cooldown in list(books.cooldowns.items()):
                if cooldown.since_ms <= run.started_at_ms and cooldowns.is_lifted_by_answer(cooldown, [run.job.kind]):
                    del books.cooldowns[cause]
        else:
            self._needed[run.job.number] = round(run.spent * LIMIT_MARGIN)
            books.record({refused.window: refused})
            books.cooldowns[refused.window] = Cooldown(refused.window, now_ms, refused.resets_at_ms, "refused")

    def look(self, usage: Callable[[str], Mapping[str, WindowReading]], now_ms: int) -> None:
        """Refresh what has gone stale and could serve, while the pool is in use."""
        if now_ms - self._asked_at_ms >= IN_USE_MS:
            return
        for name, books in self._books.items():
            newest_ms = max((one.observed_at_ms for one in books.readings.values()), default=0)
            if not books.held and now_ms - newest_ms > STALE_MS:
                books.hear(usage(name))


# What others do


class _Other:
    """What all the others have in common: they see official percents and refusals, and hold nothing.

    Whatever they remember is each server's own, but they, too, never have more than so many runs in flight. An account
    that has refused is out until the reset that was told.
    """

    name = ""

    def __init__(self, accounts: tuple[Account, ...], seed: int = 0) -> None:
        self._names = tuple(one.name for one in accounts)
        self._capacity = {one.name: one.seven_day_capacity for one in accounts}
        self._readings: dict[tuple[int, str], dict[str, WindowReading]] = {}
        self._out: dict[tuple[int, str, str | None], int] = {}
        self._spent: dict[str, list[tuple[int, int]]] = {name: [] for name in self._names}
        self._in_flight = dict.fromkeys(self._names, 0)
        self._draw = random.Random(seed)
        self._last: dict[int, str] = {}
        self.waits_turn = False

    def place(self, job: Job, now_ms: int, tried: frozenset[str], server: int) -> str | None:
        open_ones = [
            name
            for name in self._names
            if name not in tried
            and all(self._out.get((server, name, family), 0) <= now_ms for family in (None, job.kind))
            and all(self._percent(server, name, window, now_ms) < 100 for window in (FIVE_HOUR, SEVEN_DAY))
        ]
        able = [name for name in open_ones if self._in_flight[name] < MAX_IN_FLIGHT]
        self.waits_turn = bool(open_ones)
        if not able:
            return None
        chosen = self._choose(able, now_ms, server)
        self._last[server] = chosen
        return chosen

    def _choose(self, able: list[str], now_ms: int, server: int) -> str:
        raise NotImplementedError

    def _percent(self, server: int, name: str, window: str, now_ms: int) -> float:
        reading = self._readings.get((server, name), {}).get(window)
        return 0.0 if reading is None else windows.percent_now(reading, now_ms) or 0.0

    def _reset_ms(self, server: int, name: str, window: str, now_ms: int) -> int:
        reading = self._readings.get((server, name), {}).get(window)
        found = None if reading is None else windows.resets_next_ms(reading, now_ms)
        return now_ms + windows.length_ms(window) if found is None else found

    def started(self, run: Run, now_ms: int) -> None:  # noqa: ARG002
        self._in_flight[run.account] += 1

    def heard(self, run: Run, readings: Mapping[str, WindowReading], now_ms: int) -> None:  # noqa: ARG002
        self._readings.setdefault((run.server, run.account), {}).update(readings)

    def ended(self, run: Run, now_ms: int, *, refused: WindowReading | None) -> None:
        self._in_flight[run.account] -= 1
        self._spent[run.account].append((now_ms, run.spent))
        if refused is not None:
            family = windows.family_of(refused.window)
            self._out[run.server, run.account, family] = refused.resets_at_ms or now_ms + HOUR_MS

    def look(self, usage: Callable[[str], Mapping[str, WindowReading]], now_ms: int) -> None:
        """None of them does."""


class RoundRobin(_Other):
    """One after the other."""

    name = "round robin"

    def _choose(self, able: list[str], now_ms: int, server: int) -> str:  # noqa: ARG002
        last = self._names.index(self._last.get(server, self._names[-1]))
        order = self._names[last + 1 :] + self._names[: last + 1]
        return next(name for name in order if name in able)


class LeastUsed(_Other):
    """The lowest official percent, of the fuller window."""

    name = "least used"

    def _choose(self, able: list[str], now_ms: int, server: int) -> str:
        return min(
            able, key=lambda name: max(self._percent(server, name, one, now_ms) for one in (FIVE_HOUR, SEVEN_DAY))
        )


class AtRandom(_Other):
    """Any."""

    name = "random"

    def _choose(self, able: list[str], now_ms: int, server: int) -> str:  # noqa: ARG002
        return self._draw.choice(able)


class DrainSoonest(_Other):
    """The one whose weekly window resets first."""

    name = "drain soonest"

    def _choose(self, able: list[str], now_ms: int, server: int) -> str:
        return min(able, key=lambda name: self._reset_ms(server, name, SEVEN_DAY, now_ms))


class StickyUntilLimit(_Other):
    """The last one, until it refuses."""

    name = "sticky until limit"

    def _choose(self, able: list[str], now_ms: int, server: int) -> str:  # noqa: ARG002
        last = self._last.get(server)
        return last if last in able else able[0]


class HealthScore(_Other):
    """The highest health score, by official five-hour percents and own weekly spend against the plan's size."""

    name = "health score"

    def _choose(self, able: list[str], now_ms: int, server: int) -> str:
        return max(able, key=lambda name: self._health(server, name, now_ms))

    def _health(self, server: int, name: str, now_ms: int) -> float:
        spent = self._spent[name]
        week = hour = 0
        for at_ms, amount in reversed(spent):
            if at_ms < now_ms - WEEK_MS:
                break
            week += amount
            hour += amount if at_ms >= now_ms - HOUR_MS else 0
        block = self._percent(server, name, FIVE_HOUR, now_ms)
        return (
            100
            - 50 * week / self._capacity[name]
            - 0.3 * block
            - 5 * self._in_flight[name]
            - 2 * max(0.0, hour / NANO - 3)
            + (10 if block == 0 else 0)
        )


OTHERS = (RoundRobin, LeastUsed, AtRandom, HealthScore, DrainSoonest, StickyUntilLimit)
