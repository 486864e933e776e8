"""Plays a policy in a world: asks arrive, windows fill up and refuse, runs are cut; deterministic.

The world knows everything; a policy sees what a pool sees: official percents as each API call reports them (whole
percents, late or not at all where readings are stale), its own ledger, and refusals. Use of an account elsewhere is
never shown. An ask that a policy cannot place waits, until it is given up: it is tried again when a run has ended, and
every five minutes.

What is simple here and is not in the world: a run's calls cost the same each and come at equal distances; a refusal is
known at once; so is who is signed in.
"""

import functools
import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from bound import Elsewhere
from pool_mcp.choosing.windows import FIVE_HOUR, length_ms
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO, WindowReading
from world import EPOCH_MS, Account, Job, Span, World

MOST_IN_FLIGHT = 15

POLL_MS = 5 * MINUTE_MS
"""How often what waits is tried again where nothing else has happened."""

CACHE_MS = HOUR_MS
"""How long a session's context stays cached (Claude Code asks for an hour under a subscription)."""


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
    waits_turn: bool
    """Whether the job that was just not placed would fit if it were not for runs in flight, so that it waits."""

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

    ``work_usd`` is what the asks that were answered count in the windows, less what went over a limit (a call that has
    begun is answered to its end). ``waited`` is of asks that runs in flight kept waiting when they came, ``unneeded``
    of those that were refused though some account could have served them to their end.
    """

    policy: str
    asked: int = 0
    work_usd: float = 0.0
    killed: int = 0
    failed_starts: int = 0
    overrun_usd: float = 0.0
    cold_usd: float = 0.0
    dropped: int = 0
    waited: int = 0
    unneeded: int = 0


class Meters:
    """The windows of one account as Anthropic counts them."""

    def __init__(self, account: Account, world: World) -> None:
        self._account, self._conditions = account, world.conditions
        self._early = world.early[account.name]
        self._spans: dict[str, list[Span]] = {
            window: list(world.weeks.get((account.name, window), ())) for window in account.capacities
        }
        self._shares: dict[tuple[str, Span], float] = {}

    def span(self, window: str, at_ms: int) -> Span | None:
        """The window that runs at an instant; between two uses no five-hour window does."""
        return next((one for one in reversed(self._spans[window]) if one.holds(at_ms)), None)

    def size(self, window: str, at_ms: int) -> float:
        """What all of a window is worth at an instant."""
        return self._account.capacities[window] * self._conditions.shrink(at_ms)

    def share(self, window: str, at_ms: int) -> float:
        """How full the window that runs is, 0-1 and more. What was used before a cut stays the share that it was."""
        span = self.span(window, at_ms)
        return 0.0 if span is None else self._shares.get((window, span), 0.0)

    def full(self, kind: str | None, at_ms: int) -> str | None:
        """The first window that refuses a kind of job."""
        return next((one for one in self._account.windows(kind) if self.share(one, at_ms) >= 1), None)

    def begin(self, at_ms: int) -> None:
        """A call begins: where no five-hour window runs, one begins."""
        if self.span(FIVE_HOUR, at_ms) is None:
            ends_at_ms = at_ms + length_ms(FIVE_HOUR)
            early_ms = next((one for one in self._early if at_ms < one < ends_at_ms), ends_at_ms)
            self._spans[FIVE_HOUR].append(Span(at_ms, early_ms))

    def add(self, kind: str | None, amount: int, at_ms: int) -> float:
        """Count a call; gives what of it went over a limit."""
        over = 0.0
        for window in self._account.windows(kind):
            span, before, size = self.span(window, at_ms), self.share(window, at_ms), self.size(window, at_ms)
            assert span is not None
            self._shares[window, span] = before + amount / size
            over = max(over, size * (before + amount / size - max(1.0, before)))
        return over

    def readings(self, now_ms: int, pool_ms: int) -> dict[str, WindowReading]:
        """What Anthropic reports: whole percents, and the nominal reset (an early one is a surprise)."""
        found = {}
        for window in self._account.capacities:
            span = self.span(window, now_ms)
            percent = float(round(100 * min(1.0, self.share(window, now_ms))))
            resets_at_ms = None if span is None else span.starts_at_ms + length_ms(window)
            found[window] = WindowReading(window, percent, resets_at_ms, "allowed", pool_ms)
        return found


_ARRIVE, _CALL, _OUTSIDE, _POLL = range(4)


class Simulation:
    """Plays one policy in one world."""

    def __init__(self, world: World, policy: Policy) -> None:
        self.world, self.policy = world, policy
        self.report = Report(policy.name, asked=len(world.jobs))
        self.elsewhere: list[Elsewhere] = []
        self.meters = {one.name: Meters(one, world) for one in world.accounts}
        self._draw = random.Random(world.seed)
        self._events: list[tuple[int, int, int, object]] = []
        self._count = itertools.count()
        self._waiting: list[Job] = []
        self._server = itertools.cycle(range(world.conditions.servers))
        self._cached: dict[int, tuple[str, int]] = {}
        self._blocked: dict[int, list[Job]] = {}
        self._session_busy: set[int] = set()
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
                self._use_elsewhere(what[0], what[1], now_ms)
            else:
                self.policy.look(functools.partial(self._usage, now_ms), self._pool_time(now_ms))
                self._try_waiting(now_ms)
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
            if self.policy.waits_turn:
                self.report.waited += 1
            else:
                self.report.unneeded += any(self._has_room(one, job, now_ms) for one in self.world.accounts)
            self._waiting.append(job)

    def _has_room(self, account: Account, job: Job, now_ms: int) -> bool:
        """Whether an account could really have served a job to its end beside what it has in flight."""
        in_flight, meters = self._left[account.name], self.meters[account.name]
        needed = self.world.conditions.weigh(job.kind, job.cost) + sum(in_flight.values())
        return (
            not account.is_absent(now_ms)
            and len(in_flight) < MOST_IN_FLIGHT
            and all(
                meters.share(window, now_ms) + needed / meters.size(window, now_ms) <= 1
                for window in account.windows(job.kind)
            )
        )

    def _place(self, job: Job, now_ms: int, tried: frozenset[str]) -> bool:
        """Place a job, going on to the next account where one refuses at the start."""
        server = next(self._server)
        tried |= {one.name for one in self.world.accounts if one.is_absent(now_ms)}
        while True:
            name = self.policy.place(job, self._pool_time(now_ms), tried, server)
            if name is None:
                return False
            run = Run(job, name, server, now_ms, extra=self._context(job, name, now_ms))
            self.policy.started(run, self._pool_time(now_ms))
            window = self.meters[name].full(job.kind, now_ms)
            if window is None:
                self._left[name][job.number] = self._weigh(job, job.cost + run.extra)
                self._at(now_ms + job.duration_ms // (2 * job.calls), _CALL, run)
                return True
            self.report.failed_starts += 1
            self.policy.ended(run, self._pool_time(now_ms), refused=self._rejection(name, window, now_ms))
            tried |= {name}

    def _weigh(self, job: Job, amount: int) -> int:
        return self.world.conditions.weigh(job.kind, amount)

    def _context(self, job: Job, name: str, now_ms: int) -> int:
        if job.session is None or not job.context:
            return 0
        where, until_ms = self._cached.get(job.session, ("", 0))
        if where == name and now_ms < until_ms:
            return 0
        self.report.cold_usd += job.context / NANO if where else 0.0
        return job.context

    def _try_waiting(self, now_ms: int) -> None:
        """Try what waits, oldest first; where one of a kind finds no place, its like would find none either."""
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

    def _use_elsewhere(self, name: str, amount: int, now_ms: int) -> None:
        meters = self.meters[name]
        meters.begin(now_ms)
        if meters.full(None, now_ms) is not None:
            return
        meters.add(None, amount, now_ms)
        account = next(one for one in self.world.accounts if one.name == name)
        self.elsewhere += (
            Elsewhere(now_ms, name, one, amount / meters.size(one, now_ms)) for one in account.windows(None)
        )

    def _usage(self, now_ms: int, name: str) -> dict[str, WindowReading]:
        """What the CLI's `/usage` tells of an account, without a run."""
        account = next(one for one in self.world.accounts if one.name == name)
        return {} if account.is_absent(now_ms) else self.meters[name].readings(now_ms, self._pool_time(now_ms))

    def _rejection(self, name: str, window: str, now_ms: int) -> WindowReading:
        said = self.meters[name].readings(now_ms, self._pool_time(now_ms))[window]
        return WindowReading(window, 100.0, said.resets_at_ms, "rejected", said.observed_at_ms)

    def _call(self, run: Run, now_ms: int) -> None:
        job, pool_ms, meters = run.job, self._pool_time(now_ms), self.meters[run.account]
        meters.begin(now_ms)
        window = meters.full(job.kind, now_ms)
        if window is not None:
            self.report.killed += 1
            del self._left[run.account][job.number]
            self.policy.ended(run, pool_ms, refused=self._rejection(run.account, window, now_ms))
            if not self._place(job, now_ms, frozenset({run.account})):
                self._waiting.append(job)
            return
        # What is reported comes with the answer's first words, so this call is not in it.
        readings = meters.readings(now_ms, pool_ms)
        lost = self._draw.random() < self.world.conditions.stale_share
        amount = (job.cost + run.extra) // job.calls
        over = meters.add(job.kind, self._weigh(job, amount), now_ms)
        self.report.overrun_usd += over / self.world.conditions.shrink(job.arrives_at_ms) / NANO
        self._left[run.account][job.number] -= self._weigh(job, amount)
        run.spent += amount
        run.calls_done += 1
        self.policy.heard(run, {} if lost else readings, pool_ms)
        if job.session is not None:
            self._cached[job.session] = (run.account, now_ms + CACHE_MS)
        if run.calls_done < job.calls:
            self._at(now_ms + job.duration_ms // job.calls, _CALL, run)
            return
        del self._left[run.account][job.number]
        self.report.work_usd += self.world.work(job)
        self.policy.ended(run, pool_ms, refused=None)
        self._release(job, now_ms)
        self._try_waiting(now_ms)
