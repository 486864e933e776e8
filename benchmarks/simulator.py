"""A pool of accounts with windows that fill up, asks that arrive, and a policy that places them; deterministic.

The world knows everything; a policy sees what a pool sees: official percents as each API call reports them (whole
percents, late or not at all where readings are stale), its own ledger, and refusals. Use of an account elsewhere is
never shown. Money is nano-dollars, time Unix milliseconds.

What is simple here and is not in the world: the windows of an account follow one another without a gap, where a real
five-hour window begins with its first use; a run's calls cost the same each and come at equal distances; a refusal is
known at once.
"""

import functools
import heapq
import itertools
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pool_mcp.choosing.windows import FIVE_HOUR, SEVEN_DAY, applies_to, length_ms
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO, WEEK_MS, WindowReading

SEVEN_DAY_OPUS = "seven_day_opus"
MOST_IN_FLIGHT = 15

EPOCH_MS = 1_767_571_200_000
"""Where every simulation begins: Monday 2026-01-05, midnight UTC."""

POLL_MS = 5 * MINUTE_MS
"""How often what waits is tried again where nothing else has happened."""

CACHE_MS = HOUR_MS
"""How long a session's context stays cached (Claude Code asks for an hour under a subscription)."""


@dataclass(frozen=True, slots=True)
class Account:
    """One subscription as it really is; capacities in nano-dollars."""

    name: str
    plan: str
    five_hour_capacity: int
    seven_day_capacity: int
    opus_capacity: int = 0
    """Of a weekly window of Opus's own; 0: there is none."""

    @property
    def capacities(self) -> dict[str, int]:
        """By window."""
        found = {FIVE_HOUR: self.five_hour_capacity, SEVEN_DAY: self.seven_day_capacity}
        return {**found, SEVEN_DAY_OPUS: self.opus_capacity} if self.opus_capacity else found


@dataclass(frozen=True, slots=True)
class Span:
    """One window of an account: ``[starts_at_ms, ends_at_ms)``."""

    starts_at_ms: int
    ends_at_ms: int


@dataclass(frozen=True, slots=True)
class Job:
    """Something that is asked: its kind, what it will cost, in how many API calls, how long it takes and may wait.

    ``session`` chains jobs: each waits for the one before it and costs ``context`` more where its cache is not warm.
    """

    number: int
    kind: str
    arrives_at_ms: int
    cost: int
    calls: int
    duration_ms: int
    deadline_ms: int
    session: int | None = None
    context: int = 0


@dataclass(frozen=True, slots=True)
class Conditions:
    """What makes a pool's life hard."""

    weights: tuple[tuple[str, float], ...] = ()
    """By kind of job: what a dollar of it counts in the windows; the pool is not told."""
    cut_at_ms: int | None = None
    """When every limit is cut to ``cut_to``."""
    cut_to: float = 1.0
    drift_a_week: float = 1.0
    """What every limit is multiplied by, in the course of a week."""
    outside_share: float = 0.0
    """Part of each week's capacity that is used elsewhere, unseen."""
    stale_share: float = 0.0
    """Part of the readings that never arrive."""
    early_resets: int = 0
    """How many five-hour windows of each account are reset early."""
    skew_ms: int = 0
    """How far the pool's clock is ahead of Anthropic's."""
    servers: int = 1
    """How many processes share the work; what they do not share is each one's own."""


@dataclass(frozen=True, slots=True)
class World:
    """All that will happen, before any policy has chosen anything."""

    accounts: tuple[Account, ...]
    jobs: tuple[Job, ...]
    conditions: Conditions
    seed: int
    ends_at_ms: int
    windows: Mapping[tuple[str, str], tuple[Span, ...]]
    """By account and window."""
    outside: Mapping[str, tuple[tuple[int, int], ...]]
    """By account: when, and how much."""


def make_windows(
    accounts: tuple[Account, ...], conditions: Conditions, ends_at_ms: int, draw: random.Random
) -> dict[tuple[str, str], tuple[Span, ...]]:
    """Each account's windows from a random phase on; some five-hour ones end early and the next begins at once."""
    found: dict[tuple[str, str], tuple[Span, ...]] = {}
    for account in accounts:
        for window in account.capacities:
            length = length_ms(window)
            at_ms = EPOCH_MS - draw.randrange(length // MINUTE_MS) * MINUTE_MS
            early = sorted(draw.randrange(EPOCH_MS, ends_at_ms) for _ in range(conditions.early_resets))
            spans = []
            while at_ms < ends_at_ms + 3 * DAY_MS:
                end_ms = at_ms + length
                if window == FIVE_HOUR:
                    end_ms = next((one for one in early if at_ms < one < end_ms), end_ms)
                spans.append(Span(at_ms, end_ms))
                at_ms = end_ms
            found[account.name, window] = tuple(spans)
    return found


def make_outside(
    accounts: tuple[Account, ...], share: float, ends_at_ms: int, draw: random.Random
) -> dict[str, tuple[tuple[int, int], ...]]:
    """Use elsewhere: sittings of an hour or two by day, of twenty small calls each."""
    found = {}
    for account in accounts:
        left = round(share * account.seven_day_capacity * (ends_at_ms - EPOCH_MS) / WEEK_MS)
        calls = []
        while left > 0:
            day_ms = draw.randrange(EPOCH_MS, ends_at_ms) // DAY_MS * DAY_MS
            begin_ms = day_ms + round(draw.uniform(7, 21) * HOUR_MS)
            size = min(left, round(account.five_hour_capacity * draw.uniform(0.1, 0.4)))
            calls += [(begin_ms + step * 4 * MINUTE_MS, size // 20) for step in range(20)]
            left -= max(size, NANO)
        found[account.name] = tuple(sorted(calls))
    return found


def capacity_at(conditions: Conditions, capacity: int, at_ms: int) -> float:
    """What a window holds at an instant, once limits have been cut or have drifted."""
    is_cut = conditions.cut_at_ms is not None and at_ms >= conditions.cut_at_ms
    drift: float = conditions.drift_a_week ** ((at_ms - EPOCH_MS) / WEEK_MS)
    return capacity * drift * (conditions.cut_to if is_cut else 1.0)


# What a policy sees and does


@dataclass(slots=True)
class Run:
    """A job that an account is working on."""

    job: Job
    account: str
    server: int
    started_at_ms: int
    held: int = 0
    spent: int = 0
    booked: int = 0
    """What of it the policy has written down."""
    calls_done: int = 0
    extra: int = 0
    """What it costs more because the session's context is not cached."""


class Policy(Protocol):
    """Places jobs by what it is told. ``now_ms`` is the pool's clock."""

    name: str

    def place(self, job: Job, now_ms: int, tried: frozenset[str], server: int) -> str | None:
        """The account for a job, or None: it has to wait."""

    def started(self, run: Run, now_ms: int) -> None:
        """A run was placed."""

    def heard(self, run: Run, readings: Mapping[str, WindowReading], now_ms: int) -> None:
        """An API call of a run was answered, with what Anthropic reported (nothing, where that was lost)."""

    def ended(self, run: Run, now_ms: int, *, refused: WindowReading | None) -> None:
        """A run has ended: answered, or refused by a window."""

    def look(self, usage: Callable[[str], Mapping[str, WindowReading]], now_ms: int) -> None:
        """Five minutes have passed; ``usage`` asks what an account's windows are, as the CLI can."""


@dataclass(slots=True)
class Report:
    """What came of a policy in a world; money in dollars.

    ``work_usd`` is what the asks that were answered cost, less what went over a limit (a call that has begun is
    answered to its end).
    """

    policy: str
    work_usd: float = 0.0
    killed: int = 0
    failed_starts: int = 0
    expired_usd: float = 0.0
    overrun_usd: float = 0.0
    cold_starts: int = 0
    cold_usd: float = 0.0
    dropped: int = 0
    unneeded: int = 0
    """Asks that were not placed when they came, though some account could have served them to their end."""


@dataclass(slots=True)
class _Meter:
    """A window as Anthropic counts it."""

    spans: tuple[Span, ...]
    capacity: Callable[[int], float]
    begins: list[int] = field(default_factory=list)
    used: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begins = [span.starts_at_ms for span in self.spans]

    def index(self, at_ms: int) -> int:
        return bisect_right(self.begins, at_ms) - 1

    def share(self, at_ms: int) -> float:
        return self.used.get(self.index(at_ms), 0) / self.capacity(at_ms)

    def add(self, at_ms: int, amount: int) -> None:
        at = self.index(at_ms)
        self.used[at] = self.used.get(at, 0) + amount


_ARRIVE, _CALL, _OUTSIDE, _POLL, _WEEK_ENDS = range(5)


class Simulation:
    """Plays one policy in one world."""

    def __init__(self, world: World, policy: Policy) -> None:
        self.world, self.policy = world, policy
        self.report = Report(policy.name)
        self._draw = random.Random(world.seed)
        self._events: list[tuple[int, int, int, object]] = []
        self._count = itertools.count()
        self._waiting: list[Job] = []
        self._server = itertools.cycle(range(world.conditions.servers))
        self._cached: dict[int, tuple[str, int]] = {}
        self._blocked: dict[int, list[Job]] = {}
        self._session_busy: set[int] = set()
        self.elsewhere: dict[tuple[str, str, int], int] = {}
        """What was used outside the pool, by account, window and which of them."""
        self.started_at_ms: dict[int, int] = {}
        """By job, when it was begun; without those that were killed."""
        capacities = {
            (one.name, window): capacity for one in world.accounts for window, capacity in one.capacities.items()
        }
        self._meters = {
            key: _Meter(spans, functools.partial(capacity_at, world.conditions, capacities[key]))
            for key, spans in world.windows.items()
        }
        self._weights = dict(world.conditions.weights)
        self._left: dict[str, dict[int, float]] = {one.name: {} for one in world.accounts}
        """By account and job, what runs in flight will still use."""

    def run(self) -> Report:
        """Play it to its end."""
        for job in self.world.jobs:
            self._at(job.arrives_at_ms, _ARRIVE, job)
        for name, calls in self.world.outside.items():
            for at_ms, amount in calls:
                self._at(at_ms, _OUTSIDE, (name, amount))
        for at_ms in range(EPOCH_MS, self.world.ends_at_ms + 2 * DAY_MS, POLL_MS):
            self._at(at_ms, _POLL, None)
        for (name, window), spans in self.world.windows.items():
            for span in spans:
                if window == SEVEN_DAY and EPOCH_MS < span.ends_at_ms < self.world.ends_at_ms:
                    self._at(span.ends_at_ms - 1, _WEEK_ENDS, name)
        while self._events:
            now_ms, _, kind, what = heapq.heappop(self._events)
            if kind == _CALL:
                assert isinstance(what, Run)
                self._call(what, now_ms)
            elif kind == _ARRIVE:
                assert isinstance(what, Job)
                self._arrive(what, now_ms)
            elif kind == _OUTSIDE:
                assert isinstance(what, tuple)
                self._use(what[0], what[1], now_ms, None)
            elif kind == _POLL:
                self.policy.look(functools.partial(self._usage, now_ms), self._pool_time(now_ms))
                self._try_waiting(now_ms)
            else:
                self._week_ends(str(what), now_ms)
        for (_, window), meter in self._meters.items():
            if window != SEVEN_DAY_OPUS:  # what goes over that counts in the others, too
                ends = ((used, meter.capacity(meter.spans[at].starts_at_ms)) for at, used in meter.used.items())
                self.report.overrun_usd += sum(max(0.0, used - capacity) for used, capacity in ends) / NANO
        self.report.work_usd -= self.report.overrun_usd
        return self.report

    def _at(self, at_ms: int, kind: int, what: object) -> None:
        heapq.heappush(self._events, (at_ms, next(self._count), kind, what))

    def _pool_time(self, now_ms: int) -> int:
        return now_ms + self.world.conditions.skew_ms

    # Asks

    def _arrive(self, job: Job, now_ms: int) -> None:
        if job.session is not None and job.session in self._session_busy:
            self._blocked.setdefault(job.session, []).append(job)
            return
        if job.session is not None:
            self._session_busy.add(job.session)
        if not self._place(job, now_ms, frozenset()):
            self.report.unneeded += any(self._has_room(one.name, job, now_ms) for one in self.world.accounts)
            self._waiting.append(job)

    def _has_room(self, name: str, job: Job, now_ms: int) -> bool:
        """Whether an account could really have served a job to its end beside what it has in flight."""
        needed = self._weigh(job.kind, job.cost) + sum(self._left[name].values())
        meters = [self._meters[name, window] for window in self._windows(name, job.kind)]
        return len(self._left[name]) < MOST_IN_FLIGHT and all(
            meter.used.get(meter.index(now_ms), 0) + needed <= meter.capacity(now_ms) for meter in meters
        )

    def _windows(self, name: str, kind: str | None) -> list[str]:
        """The account's windows that count a kind of job; use elsewhere is of no kind, and never Opus."""
        return [one for account, one in self._meters if account == name and applies_to(one, kind)]

    def _weigh(self, kind: str | None, amount: int) -> int:
        return round(amount * self._weights.get(kind or "", 1.0))

    def _place(self, job: Job, now_ms: int, tried: frozenset[str]) -> bool:
        """Place a job, going on to the next account where one refuses at the start."""
        server = next(self._server)
        while True:
            name = self.policy.place(job, self._pool_time(now_ms), tried, server)
            if name is None:
                return False
            run = Run(job, name, server, now_ms, extra=self._context(job, name, now_ms))
            self.policy.started(run, self._pool_time(now_ms))
            window = self._full(name, now_ms, job.kind)
            if window is None:
                self._left[name][job.number] = self._weigh(job.kind, job.cost + run.extra)
                self.started_at_ms[job.number] = now_ms
                self._at(now_ms + job.duration_ms // (2 * job.calls), _CALL, run)
                return True
            self.report.failed_starts += 1
            self.policy.ended(run, self._pool_time(now_ms), refused=self._rejection(name, window, now_ms))
            tried |= {name}

    def _context(self, job: Job, name: str, now_ms: int) -> int:
        if job.session is None or not job.context:
            return 0
        where, until_ms = self._cached.get(job.session, ("", 0))
        if where == name and now_ms < until_ms:
            return 0
        self.report.cold_starts += where != ""
        self.report.cold_usd += job.context / NANO if where else 0.0
        return job.context

    def _try_waiting(self, now_ms: int) -> None:
        """Try what waits, oldest first; where one of a kind finds no place, its like would find none either."""
        if not self._waiting:
            return
        refused: set[tuple[str, int | None]] = set()
        still: list[Job] = []
        for job in self._waiting:
            if job.deadline_ms <= now_ms:
                self.report.dropped += 1
                self._release(job, now_ms)
                continue
            kind = (job.kind, job.session)
            if kind in refused:
                still.append(job)
            elif not self._place(job, now_ms, frozenset()):
                refused.add(kind)
                still.append(job)
        self._waiting = still

    def _release(self, job: Job, now_ms: int) -> None:
        """Let the session's next job come."""
        if job.session is None:
            return
        self._session_busy.discard(job.session)
        following = self._blocked.get(job.session)
        if following:
            self._at(now_ms, _ARRIVE, following.pop(0))

    # Accounts

    def _full(self, name: str, now_ms: int, kind: str | None) -> str | None:
        return next((w for w in self._windows(name, kind) if self._meters[name, w].share(now_ms) >= 1), None)

    def _use(self, name: str, amount: int, now_ms: int, kind: str | None) -> None:
        if kind is None and self._full(name, now_ms, None):
            return
        for window in self._windows(name, kind):
            meter = self._meters[name, window]
            meter.add(now_ms, amount)
            if kind is None:
                key = (name, window, meter.index(now_ms))
                self.elsewhere[key] = self.elsewhere.get(key, 0) + amount

    def _reading(self, name: str, window: str, now_ms: int) -> WindowReading:
        meter = self._meters[name, window]
        span = meter.spans[meter.index(now_ms)]
        nominal_ms = span.starts_at_ms + length_ms(window)  # an early reset is a surprise
        percent = float(round(100 * min(1.0, meter.share(now_ms))))
        return WindowReading(window, percent, nominal_ms, "allowed", self._pool_time(now_ms))

    def _usage(self, now_ms: int, name: str) -> dict[str, WindowReading]:
        """What the CLI's `/usage` tells of an account, without a run."""
        return {window: self._reading(name, window, now_ms) for account, window in self._meters if account == name}

    def _rejection(self, name: str, window: str, now_ms: int) -> WindowReading:
        said = self._reading(name, window, now_ms)
        return WindowReading(window, 100.0, said.resets_at_ms, "rejected", said.observed_at_ms)

    def _call(self, run: Run, now_ms: int) -> None:
        job, pool_ms = run.job, self._pool_time(now_ms)
        window = self._full(run.account, now_ms, job.kind)
        if window is not None:
            self.report.killed += 1
            del self._left[run.account][job.number]
            del self.started_at_ms[job.number]
            self.policy.ended(run, pool_ms, refused=self._rejection(run.account, window, now_ms))
            if not self._place(job, now_ms, frozenset({run.account})):
                self._waiting.append(job)
            return
        # What is reported comes with the answer's first words, so this call is not in it.
        readings = self._usage(now_ms, run.account)
        lost = self._draw.random() < self.world.conditions.stale_share
        amount = (job.cost + run.extra) // job.calls
        self._use(run.account, self._weigh(job.kind, amount), now_ms, job.kind)
        self._left[run.account][job.number] -= self._weigh(job.kind, amount)
        run.spent += amount
        run.calls_done += 1
        self.policy.heard(run, {} if lost else readings, pool_ms)
        if job.session is not None:
            self._cached[job.session] = (run.account, now_ms + CACHE_MS)
        if run.calls_done < job.calls:
            self._at(now_ms + job.duration_ms // job.calls, _CALL, run)
            return
        del self._left[run.account][job.number]
        self.report.work_usd += job.cost / NANO
        self.policy.ended(run, pool_ms, refused=None)
        self._release(job, now_ms)

    def _week_ends(self, name: str, now_ms: int) -> None:
        """What expires of a week's room while asks wait is lost to them."""
        meter = self._meters[name, SEVEN_DAY]
        unused = max(0.0, 1 - meter.share(now_ms)) * meter.capacity(now_ms)
        self.report.expired_usd += min(unused, sum(job.cost for job in self._waiting)) / NANO


def numbered(jobs: list[Job]) -> Iterator[Job]:
    """Jobs in the order of their arrival, numbered."""
    for number, job in enumerate(sorted(jobs, key=lambda one: one.arrives_at_ms)):
        yield Job(
            number, job.kind, job.arrives_at_ms, job.cost, job.calls, job.duration_ms, job.deadline_ms, job.session,
            job.context,
        )  # fmt: skip
