"""The ledger against a plain-Python one: whatever is done to both, in whatever order, they say the same.

Several connections stand for several processes, whose writes come one after the other, as SQLite makes them.
"""

import itertools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from database import Server
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pool_mcp.choosing.cooldowns import ROOM_PERCENT, WHOLE_POOL
from pool_mcp.ledger.balances import Reserved
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import (
    BLOCK_MS,
    CLOCK_SLACK_MS,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    NANO,
    WEEK_MS,
    Cooldown,
    Cost,
    ModelCost,
    Outcome,
    Run,
    RunState,
    Settlement,
    Tokens,
    WindowReading,
)

CONNECTIONS = 3
START_MS = 1_790_000_000_000
FOR_EVER_MS = 10**15
MEMORY = Path("/dev/shm")
"""A disk that need not be waited for, where there is one: what is tried here is the logic, thousands of times."""
SUBSCRIPTIONS = ("personal", "work")
CALLERS = ("host", "night-agent")
MODELS = ("opus", "sonnet", "haiku")
WINDOWS = {"five_hour": BLOCK_MS, "seven_day": WEEK_MS, "seven_day_opus": WEEK_MS}

ENDS = {
    Outcome.OK: RunState.SETTLED,
    Outcome.CANCELLED: RunState.INTERRUPTED,
    Outcome.TIMEOUT: RunState.INTERRUPTED,
    Outcome.BUDGET: RunState.INTERRUPTED,
}
"""The state that goes with an outcome; all others are failures."""

connections = st.integers(0, CONNECTIONS - 1)
subscriptions = st.sampled_from(SUBSCRIPTIONS)
callers = st.sampled_from(CALLERS)
amounts = st.one_of(st.integers(0, 3), st.integers(0, 50 * NANO))
counts = st.integers(0, 100_000)
tokens = st.builds(Tokens, counts, counts, counts, counts, counts, st.integers(0, 9))
parts = st.builds(ModelCost, tokens, st.one_of(st.none(), amounts))
jumps = st.one_of(
    st.integers(0, 5000),
    st.integers(0, 3 * HOUR_MS),
    st.integers(0, 8 * DAY_MS),
    st.sampled_from([1, MINUTE_MS, HOUR_MS, BLOCK_MS, WEEK_MS]),
    st.integers(-2 * DAY_MS, -1),
)
readings = st.tuples(
    st.builds(
        WindowReading,
        window=st.sampled_from(sorted(WINDOWS)),
        percent=st.one_of(st.none(), st.floats(0, 110)),
        resets_at_ms=st.none(),
        status=st.sampled_from(["allowed", "allowed_warning", "rejected"]),
        observed_at_ms=st.integers(-2 * DAY_MS, HOUR_MS),
    ),
    st.one_of(st.none(), st.floats(0, 1)),
)
"""A reading whose ``observed_at_ms`` is counted from now, and the share of its window that is left."""


@st.composite
def costs(draw: st.DrawFn) -> Cost:
    models = draw(st.one_of(st.just({}), st.dictionaries(st.sampled_from(MODELS), parts, min_size=1)))
    return Cost(sum(part.cost_nanousd or 0 for part in models.values()), models, draw(st.booleans()))


class _Interrupted(BaseException):
    """Ends a transaction before its commit."""


@dataclass(frozen=True)
class Entry:
    """What the plain ledger keeps of a settled run."""

    run_id: str
    at_ms: int
    subscription: str
    caller: str
    cost: Cost


@dataclass
class Plain:
    """A ledger as anyone would write it who had one process, no disk and all the time in the world."""

    runs: dict[str, Run] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    readings: dict[str, dict[str, WindowReading]] = field(default_factory=dict)
    cooldowns: list[tuple[str, Cooldown]] = field(default_factory=list)
    sessions: dict[str, str] = field(default_factory=dict)

    def spent(
        self, since_ms: int, *, subscription: str | None = None, caller: str | None = None, model: str | None = None
    ) -> int:
        return sum(
            part.cost_nanousd or 0
            for entry in self.entries
            if entry.at_ms >= since_ms and subscription in (None, entry.subscription) and caller in (None, entry.caller)
            for used, part in entry.cost.models.items()
            if model in (None, used)
        )

    def unfinished(self) -> list[Run]:
        return [run for run in self.runs.values() if not run.finished]

    def settle(self, said: Settlement, owner_id: str) -> bool:
        run = self.runs[said.run_id]
        if run.finished or run.owner_id != owner_id:
            return False
        started = run.started_at_ms is not None
        self.runs[run.run_id] = replace(
            run,
            state=said.state,
            outcome=said.outcome,
            message=said.message,
            ended_at_ms=said.ended_at_ms,
            cli_version=said.cli_version,
            retry_at_ms=said.retry_at_ms,
            cost=said.cost if started else None,
        )
        if started:
            self.entries.append(Entry(run.run_id, said.ended_at_ms, run.subscription, run.caller, said.cost))
        if said.outcome is Outcome.OK:
            self.sessions.setdefault(run.session_id, run.subscription)
            proven = (run.subscription, WHOLE_POOL)
            models = [run.model, *said.cost.models]
            self._lift(
                lambda whose, cooldown: (
                    whose in proven
                    and not run.created_at_ms < cooldown.since_ms <= said.ended_at_ms + CLOCK_SLACK_MS
                    and (
                        not cooldown.cause.endswith("_opus")
                        or any("opus" in (model or "") for model in models)
                        or (run.model is None and cooldown.refused_default_model)
                    )
                )
            )
        if said.cooldown is not None:
            whose = WHOLE_POOL if said.outcome is Outcome.OVERLOADED else run.subscription
            self.cooldowns.append((whose, replace(said.cooldown, refused_default_model=run.model is None)))
        return True

    def record(self, subscription: str, reading: WindowReading, now_ms: int) -> None:
        if reading.observed_at_ms > now_ms + CLOCK_SLACK_MS:
            return
        own = self.readings.setdefault(subscription, {})
        known = own.get(reading.window)
        if known is not None and reading.observed_at_ms < known.observed_at_ms <= now_ms + CLOCK_SLACK_MS:
            return
        own[reading.window] = reading
        if reading.status != "rejected" and reading.percent is not None and reading.percent < ROOM_PERCENT:
            before_ms = reading.observed_at_ms
            self._lift(
                lambda whose, cooldown: (
                    (whose, cooldown.cause) == (subscription, reading.window)
                    and not before_ms <= cooldown.since_ms <= now_ms + CLOCK_SLACK_MS
                )
            )

    def _lift(self, over: Callable[[str, Cooldown], bool]) -> None:
        self.cooldowns = [(whose, cooldown) for whose, cooldown in self.cooldowns if not over(whose, cooldown)]

    def in_force(self) -> dict[str, tuple[int | None, int]]:
        """Until when and since when each subscription's longest cooldown holds."""
        longest: dict[str, tuple[int | None, int]] = {}
        for whose, cooldown in sorted(
            self.cooldowns, key=lambda one: (one[1].until_ms or FOR_EVER_MS, one[1].since_ms)
        ):
            longest[whose] = (cooldown.until_ms, cooldown.since_ms)
        return longest


class LedgerAgainstPlain(RuleBasedStateMachine):
    unfinished: Bundle[str] = Bundle("unfinished")
    finished: Bundle[str] = Bundle("finished")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
        self.path = self.folder / "ledger.db"
        self.now_ms = START_MS
        self.made = 0
        self.plain = Plain()
        self.rows_before: list[tuple[Any, ...]] = []

    @initialize()
    def open_all(self) -> None:
        self.ledgers = [self.opened() for _ in range(CONNECTIONS)]

    def opened(self) -> Ledger:
        return Ledger(self.path)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=rw", uri=True)) as conn:
            return conn.execute(sql).fetchall()

    def teardown(self) -> None:
        for ledger in getattr(self, "ledgers", []):
            ledger.close()
        shutil.rmtree(self.folder)

    # What is done to both

    @rule(jump=jumps)
    def the_clock_jumps(self, jump: int) -> None:
        self.now_ms = max(self.now_ms + jump, WEEK_MS)

    @rule(at=connections)
    def a_process_restarts(self, at: int) -> None:
        self.ledgers[at].close()
        self.ledgers[at] = self.opened()

    @rule(target=unfinished, at=connections, subscription=subscriptions, caller=callers, amount=amounts)
    def reserve(self, at: int, subscription: str, caller: str, amount: int) -> str:
        return self._reserve(at, subscription, caller, amount)

    def _reserve(self, at: int, subscription: str, caller: str, amount: int) -> str:
        run = self._new_run(at, subscription, caller, amount)
        with self.ledgers[at].write() as tx:
            tx.runs.insert_ask(run.ask_id, caller, None, "", self.now_ms)
            tx.runs.insert(run)
        self.plain.runs[run.run_id] = run
        return run.run_id

    @rule(target=unfinished, at=connections, subscription=subscriptions, caller=callers, amount=amounts)
    def reserve_and_start(self, at: int, subscription: str, caller: str, amount: int) -> str:
        run_id = self._reserve(at, subscription, caller, amount)
        self.start(at, run_id)
        return run_id

    @rule(
        target=finished,
        at=connections,
        subscription=subscriptions,
        caller=callers,
        takes_ms=st.integers(0, 2 * HOUR_MS),
        outcome=st.sampled_from(Outcome),
        cost=costs(),
    )
    def run_to_the_end(
        self, at: int, subscription: str, caller: str, takes_ms: int, outcome: Outcome, cost: Cost
    ) -> str:
        run_id = self._reserve(at, subscription, caller, NANO)
        self.start(at, run_id)
        self.now_ms += takes_ms
        self.settle(run_id, at, outcome, cost, None)
        return run_id

    @rule(at=connections, subscription=subscriptions, caller=callers, amount=amounts)
    def reserve_and_fail_before_the_commit(self, at: int, subscription: str, caller: str, amount: int) -> None:
        run = self._new_run(at, subscription, caller, amount)
        with suppress(_Interrupted), self.ledgers[at].write() as tx:
            tx.runs.insert_ask(run.ask_id, caller, None, "", self.now_ms)
            tx.runs.insert(run)
            raise _Interrupted

    @rule(at=connections, run_id=unfinished)
    def start(self, at: int, run_id: str) -> None:
        run = self.plain.runs[run_id]
        may = run.owner_id == _owner(at) and run.state is RunState.RESERVED
        with self.ledgers[at].write() as tx:
            assert tx.runs.mark_running(run_id, _owner(at), '{"total": 1}', self.now_ms) == may
        if may:
            self.plain.runs[run_id] = replace(
                run, state=RunState.RUNNING, started_at_ms=self.now_ms, baseline_json='{"total": 1}'
            )

    @rule(at=connections, run_id=unfinished, amount=amounts)
    def hold_more(self, at: int, run_id: str, amount: int) -> None:
        run = self.plain.runs[run_id]
        with self.ledgers[at].write() as tx:
            held = tx.runs.reserved_nanousd(run_id)
            tx.runs.change_reservation(run_id, held + amount)
        assert held == run.reserved_nanousd
        self.plain.runs[run_id] = replace(run, reserved_nanousd=held + amount)

    @rule(
        target=finished,
        run_id=consumes(unfinished),
        at=connections,
        outcome=st.sampled_from(Outcome),
        cost=costs(),
        cooldown=st.one_of(st.none(), st.integers(-HOUR_MS, 8 * DAY_MS)),
    )
    def settle(self, run_id: str, at: int, outcome: Outcome, cost: Cost, cooldown: int | None) -> Any:
        said = self._settlement(run_id, outcome, cost, cooldown)
        owner_id = self.plain.runs[run_id].owner_id
        with self.ledgers[at].write() as tx:
            assert tx.runs.settle(said, owner_id)
        assert self.plain.settle(said, owner_id)
        return run_id

    @rule(run_id=unfinished, at=connections, cost=costs())
    def settle_what_another_owns(self, run_id: str, at: int, cost: Cost) -> None:
        said = self._settlement(run_id, Outcome.OK, cost, None)
        with self.ledgers[at].write() as tx:
            assert not tx.runs.settle(said, "nobody")

    @rule(run_id=finished, at=connections, outcome=st.sampled_from(Outcome), cost=costs())
    def settle_again(self, run_id: str, at: int, outcome: Outcome, cost: Cost) -> None:
        said = self._settlement(run_id, outcome, cost, None)
        with self.ledgers[at].write() as tx:
            assert not tx.runs.settle(said, self.plain.runs[run_id].owner_id)

    @rule(run_id=unfinished, at=connections, cost=costs())
    def settle_and_fail_before_the_commit(self, run_id: str, at: int, cost: Cost) -> None:
        said = self._settlement(run_id, Outcome.OK, cost, None)
        with suppress(_Interrupted), self.ledgers[at].write() as tx:
            assert tx.runs.settle(said, self.plain.runs[run_id].owner_id)
            raise _Interrupted

    @rule(run_id=unfinished, at=connections, believed=connections)
    def take_over(self, run_id: str, at: int, believed: int) -> None:
        run = self.plain.runs[run_id]
        with self.ledgers[at].write() as tx:
            assert tx.runs.adopt(run_id, _owner(believed), _owner(at)) == (run.owner_id == _owner(believed))
        if run.owner_id == _owner(believed):
            self.plain.runs[run_id] = replace(run, owner_id=_owner(at), background=True)

    @rule(run_id=finished, at=connections, to=connections)
    def take_over_what_has_ended(self, run_id: str, at: int, to: int) -> None:
        with self.ledgers[at].write() as tx:
            assert not tx.runs.adopt(run_id, self.plain.runs[run_id].owner_id, _owner(to))

    @rule(run_id=st.one_of(unfinished, finished), at=connections)
    def cancel(self, run_id: str, at: int) -> None:
        run = self.plain.runs[run_id]
        with self.ledgers[at].write() as tx:
            tx.runs.request_cancel(run_id)
        self.plain.runs[run_id] = replace(run, cancel_requested=run.cancel_requested or not run.finished)

    @rule(run_id=unfinished, at=connections)
    def detach(self, run_id: str, at: int) -> None:
        with self.ledgers[at].write() as tx:
            tx.runs.detach(run_id)
        self.plain.runs[run_id] = replace(self.plain.runs[run_id], background=True)

    @rule(at=connections, subscription=subscriptions, heard=st.lists(readings, min_size=1, max_size=4))
    def hear_of_windows(self, at: int, subscription: str, heard: list[tuple[WindowReading, float | None]]) -> None:
        said = []
        for reading, left in heard:
            observed_at_ms = self.now_ms + reading.observed_at_ms
            resets_at_ms = None if left is None else observed_at_ms + round(left * WINDOWS[reading.window])
            said.append(replace(reading, observed_at_ms=observed_at_ms, resets_at_ms=resets_at_ms))
            self.plain.record(subscription, said[-1], self.now_ms)
        with self.ledgers[at].write() as tx:
            tx.official.record(subscription, said, self.now_ms)

    @rule(
        at=connections,
        subscription=subscriptions,
        window=st.sampled_from(sorted(WINDOWS)),
        wrong=st.one_of(
            st.tuples(st.floats(max_value=-0.1, allow_nan=False), st.none()),
            st.tuples(st.floats(min_value=111, allow_nan=False), st.none()),
            st.tuples(st.just(float("nan")), st.none()),
            st.tuples(st.just(50.0), st.integers(9 * DAY_MS, 400 * DAY_MS)),
            st.tuples(st.just(50.0), st.integers(-400 * DAY_MS, -2 * DAY_MS)),
        ),
    )
    def hear_nonsense(self, at: int, subscription: str, window: str, wrong: tuple[float, int | None]) -> None:
        percent, ahead_ms = wrong
        resets_at_ms = None if ahead_ms is None else self.now_ms + ahead_ms
        with self.ledgers[at].write() as tx:
            reading = WindowReading(window, percent, resets_at_ms, "allowed", self.now_ms)
            tx.official.record(subscription, [reading], self.now_ms)

    @rule(at=connections, subscription=subscriptions, until=st.one_of(st.none(), st.integers(-HOUR_MS, DAY_MS)))
    def cool_down(self, at: int, subscription: str, until: int | None) -> None:
        cooldown = self._cooldown(until)
        with self.ledgers[at].write() as tx:
            tx.cooldowns.start(subscription, cooldown, None)
        self.plain.cooldowns.append((subscription, cooldown))

    @precondition(lambda self: self.plain.entries)
    @rule(target=finished, cost=st.integers(1, NANO))
    def change_an_entry_by_hand(self, cost: int) -> Any:
        with pytest.raises((sqlite3.IntegrityError, psycopg.errors.RaiseException), match="never changed"):
            self.rows(f"UPDATE entries SET cost_nanousd = cost_nanousd + {cost}")
        return multiple()

    # What holds after every step, seen from a connection that need not have made it

    @invariant()
    def spent_since_any_instant_is_the_sum_of_its_entries(self) -> None:
        instants = {0, self.now_ms - HOUR_MS, self.now_ms - BLOCK_MS, self.now_ms - WEEK_MS, self.now_ms}
        instants.add(self.now_ms - self.now_ms % DAY_MS)
        for entry in self.plain.entries[-4:]:
            instants |= {entry.at_ms, entry.at_ms + 1, entry.at_ms - entry.at_ms % HOUR_MS}
        with self._a_reader().read() as tx:
            for since_ms in instants:
                for subscription in SUBSCRIPTIONS:
                    spent = tx.balances.spent_nanousd(subscription, since_ms)
                    assert spent == self.plain.spent(since_ms, subscription=subscription)
                    of_families = [tx.balances.family_spent_nanousd(subscription, since_ms, model) for model in MODELS]
                    assert of_families == [
                        self.plain.spent(since_ms, subscription=subscription, model=model) for model in MODELS
                    ]
                for caller in CALLERS:
                    assert tx.balances.caller_spent_nanousd(caller, since_ms) == self.plain.spent(
                        since_ms, caller=caller
                    )

    @invariant()
    def spent_by_day_is_the_sum_of_its_entries_to_the_hour(self) -> None:
        hour_ends_ms = self.now_ms - self.now_ms % HOUR_MS + HOUR_MS
        with self._a_reader().read() as tx:
            for whose, names, days_of in (
                ("subscription", SUBSCRIPTIONS, tx.balances.days_of_subscription),
                ("caller", CALLERS, tx.balances.days_of_caller),
            ):
                for name in names:
                    spent = [self.plain.spent(hour_ends_ms - age * DAY_MS, **{whose: name}) for age in range(1, 8)]
                    days = [older - newer for newer, older in itertools.pairwise([0, *spent])]
                    assert days_of(name, self.now_ms) == days

    @invariant()
    def reserved_is_what_unfinished_runs_hold(self) -> None:
        runs = self.plain.unfinished()
        expected = {
            subscription: Reserved(len(own), sum(run.reserved_nanousd for run in own))
            for subscription in SUBSCRIPTIONS
            if (own := [run for run in runs if run.subscription == subscription])
        }
        with self._a_reader().read() as tx:
            assert tx.balances.reserved() == expected
            for caller in CALLERS:
                held = sum(run.reserved_nanousd for run in runs if run.caller == caller)
                assert tx.balances.caller_reserved_nanousd(caller) == held
            assert {run.run_id for run in tx.runs.unfinished()} == {run.run_id for run in runs}

    @invariant()
    def every_run_is_as_it_should_be(self) -> None:
        with self._a_reader().read() as tx:
            for run in self.plain.runs.values():
                found = tx.runs.get(run.run_id)
                assert found is not None
                assert replace(found, machine_id=run.machine_id) == run
                assert run.finished or run.session_id in tx.runs.busy_sessions()
                assert tx.runs.subscription_of_session(run.session_id) == self.plain.sessions.get(run.session_id)
                assert tx.runs.is_cancel_requested(run.run_id) == run.cancel_requested
                assert tx.runs.reserved_nanousd(run.run_id) == (0 if run.finished else run.reserved_nanousd)

    @invariant()
    def windows_and_cooldowns_are_the_newest(self) -> None:
        with self._a_reader().read() as tx:
            assert tx.official.latest() == self.plain.readings
            in_force = {whose: (found[-1].until_ms, found[-1].since_ms) for whose, found in tx.cooldowns.open().items()}
            assert in_force == self.plain.in_force()

    @invariant()
    def the_file_says_the_same_to_anyone_who_queries_it(self) -> None:
        rows = self.rows("SELECT * FROM entries ORDER BY entry_id")
        by_run = self.rows("SELECT run_id, cost_nanousd FROM entries ORDER BY entry_id")
        (hours,) = self.rows("SELECT coalesce(sum(cost_nanousd), 0), coalesce(sum(calls), 0) FROM hours")
        assert rows[: len(self.rows_before)] == self.rows_before, "entries are never changed"
        self.rows_before = rows
        started = {run.run_id for run in self.plain.runs.values() if run.finished and run.started_at_ms is not None}
        assert sorted(run_id for run_id, _ in by_run) == sorted(started), "exactly one entry for every started run"
        assert [tuple(row) for row in by_run] == [(entry.run_id, entry.cost.nanousd) for entry in self.plain.entries]
        assert hours == (self.plain.spent(0), sum(len(entry.cost.models) for entry in self.plain.entries))

    @invariant()
    def the_ledger_finds_no_fault_with_itself(self) -> None:
        found = self._a_reader().audit()
        assert found.problems == ()
        assert (found.entries, found.spent_nanousd) == (len(self.plain.entries), self.plain.spent(0))

    # Small things

    def _a_reader(self) -> Ledger:
        return self.ledgers[self.made % CONNECTIONS]

    def _new_run(self, at: int, subscription: str, caller: str, amount: int) -> Run:
        self.made += 1
        return Run(
            run_id=f"run-{self.made}",
            ask_id=f"ask-{self.made}",
            subscription=subscription,
            session_id=f"session-{self.made}",
            resumed=False,
            caller=caller,
            model=None,
            state=RunState.RESERVED,
            owner_id=_owner(at),
            background=False,
            structured=False,
            created_at_ms=self.now_ms,
            deadline_ms=self.now_ms + HOUR_MS,
            reserved_nanousd=amount,
            max_budget_nanousd=2 * amount,
        )

    def _settlement(self, run_id: str, outcome: Outcome, cost: Cost, cooldown: int | None) -> Settlement:
        return Settlement(
            run_id=run_id,
            state=ENDS.get(outcome, RunState.FAILED),
            outcome=outcome,
            message=None if outcome is Outcome.OK else "why it failed",
            cost=cost,
            ended_at_ms=self.now_ms,
            cli_version="2.1.330",
            retry_at_ms=None if cooldown is None else self.now_ms + cooldown,
            cooldown=None if cooldown is None else self._cooldown(cooldown),
        )

    def _cooldown(self, until: int | None) -> Cooldown:
        cause = sorted(WINDOWS)[self.made % len(WINDOWS)]
        return Cooldown(cause, self.now_ms, None if until is None else self.now_ms + until, "it is used up")


def _owner(at: int) -> str:
    return f"process-{at}"


TestLedgerAgainstPlain = LedgerAgainstPlain.TestCase
TestLedgerAgainstPlain.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def test_a_ledger_on_postgres_says_the_same_as_a_plain_one(postgres: Server) -> None:
    class OnPostgres(LedgerAgainstPlain):
        @initialize()
        def open_all(self) -> None:
            self.url = postgres.new_database()
            self.ledgers = [self.opened() for _ in range(CONNECTIONS)]

        def opened(self) -> Ledger:
            return Ledger(self.path, self.url, lambda: self.now_ms)

        def rows(self, sql: str) -> list[tuple[Any, ...]]:
            return [tuple(int(v) if isinstance(v, Decimal) else v for v in row) for row in postgres.rows(self.url, sql)]

    # What fails is not made smaller: each try takes a database.
    few = settings(max_examples=4, stateful_step_count=30, deadline=None, phases=[Phase.explicit, Phase.generate])
    run_state_machine_as_test(OnPostgres, settings=few)
