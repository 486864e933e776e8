"""Compares the ledger with the stand-in's record of calls: what was lost, doubled, invented or misplaced.

The calls are replayed in order of time against a model of one thread: a call belongs to the run that had its session
when it began, and to nobody's run otherwise. It shares no code with what keeps the ledger. What cannot be known stays
unknown: a cut run's entry is a floor, so it may be less than what was billed, never more. An entry at a wrong time
shows as lost: its calls are then nobody's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pool_mcp.demo.standin_accounts import Call, Refusal
from pool_mcp.model import NANO, Outcome, Run, RunState

Kind = Literal["lost", "doubled", "invented", "wrong subscription", "no entry"]
HandUse = Literal["none", "imported", "unknown"]

UNSEEN_NANOUSD = 40 * NANO // 1000
"""A request left hanging is booked with a floor by its prompt and the CLI's own; the stand-in bills nothing. So is one
that a CLI announced before it was killed, whether or not it was sent."""

TICK_MS = 10
"""A run's end is when its CLI last wrote to a file, whose time is that of the kernel's last tick."""


@dataclass(frozen=True, slots=True)
class OutsideEntry:
    """An entry that is no run's: an imported call."""

    session_id: str | None
    subscription: str
    nanousd: int


@dataclass(frozen=True, slots=True)
class Fault:
    """One difference, with its amount."""

    kind: Kind
    nanousd: int
    text: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """All differences, and how the rest of the runs is booked. ``calls`` has each run's calls."""

    faults: tuple[Fault, ...]
    exact: int
    estimated: int
    estimated_short_nanousd: int
    calls: dict[str, list[Call]]

    def of(self, *kinds: Kind) -> list[Fault]:
        """The faults of some kinds."""
        return [fault for fault in self.faults if fault.kind in kinds]


def judge(
    calls: Iterable[Call],
    runs: Sequence[Run],
    outside: Sequence[OutsideEntry] = (),
    *,
    refused: Sequence[Refusal] = (),
    hand_use: HandUse = "none",
) -> Judgement:
    """Compare every started run, and every imported entry, with the calls that were billed.

    ``refused`` are the stand-in's, of which those left hanging may be in a run's floor. ``hand_use`` says whether
    accounts were used outside the pool: not at all, and everything there must be a run's; with all of it imported; or
    unknown, so that only what is there too much is a fault.
    """
    started = sorted((run for run in runs if run.started_at_ms is not None), key=lambda run: run.started_at_ms or 0)
    of_run: dict[str, list[Call]] = {run.run_id: [] for run in started}
    by_hand: dict[str | None, list[Call]] = {}
    faults: list[Fault] = []
    for call in sorted(calls, key=lambda call: call.started_at_ms):
        run = _in_charge(call, started)
        if run is None:
            by_hand.setdefault(call.session_id, []).append(call)
            continue
        of_run[run.run_id].append(call)
        faults += _place(run, call)
    exact = estimated = short = 0
    for run in started:
        billed = _sum(of_run[run.run_id])
        fault = _amount(run, billed, _unseen(run, refused))
        if fault is not None:
            faults.append(fault)
        elif run.cost is None:
            continue
        elif run.cost.is_estimate:
            estimated += 1
            short += max(0, billed - run.cost.nanousd)
        else:
            exact += 1
    faults += _outside(by_hand, outside, hand_use)
    return Judgement(tuple(faults), exact, estimated, short, of_run)


def _in_charge(call: Call, started: Sequence[Run]) -> Run | None:
    """The run that had a call's session when the call began."""
    before = [run for run in started if run.session_id == call.session_id and _began(run) <= call.started_at_ms]
    if not before:
        return None
    latest = before[-1]
    is_over = latest.ended_at_ms is not None and call.started_at_ms > latest.ended_at_ms + TICK_MS
    return None if is_over else latest


def _began(run: Run) -> int:
    assert run.started_at_ms is not None, "only started runs are compared"
    return run.started_at_ms


def _place(run: Run, call: Call) -> list[Fault]:
    cost = call.cost_nanousd or 0
    if call.account != run.subscription:
        return [Fault("wrong subscription", cost, f"{_who(run)}: a call was billed to {call.account}")]
    return []


def _unseen(run: Run, refused: Sequence[Refusal]) -> int:
    """What a run's floor may hold for requests that were left hanging, or never sent."""
    ended_at_ms = run.ended_at_ms or 1 << 62
    hanging = [
        one
        for one in refused
        if one.status == 0 and one.account == run.subscription and _began(run) <= one.at_ms <= ended_at_ms
    ]
    # A CLI that is gone without a word may have asked: its prompt stands in the transcript, and nobody answered.
    was_cut = run.state is RunState.INTERRUPTED or run.outcome in (Outcome.LIMIT, Outcome.CLI_FAILED)
    return UNSEEN_NANOUSD if hanging or was_cut else NANO // 1000


def _amount(run: Run, billed: int, unseen: int) -> Fault | None:
    """What is wrong with a run's entry."""
    if run.cost is None:
        state = "has no entry" if run.finished else "is not settled"
        return (
            Fault("no entry", billed, f"{_who(run)} {state}; billed {_usd(billed)}") if run.finished or billed else None
        )
    booked = run.cost.nanousd
    told = f"{_who(run)} is booked {_usd(booked)}, billed {_usd(billed)}"
    if run.cost.is_estimate:
        if booked <= billed + unseen:
            return None
        return Fault("doubled" if billed else "invented", booked - billed, f"{told}, as an estimate")
    if booked == billed:
        return None
    if booked < billed:
        return Fault("lost", billed - booked, told)
    return Fault("doubled" if billed else "invented", booked - billed, told)


def _outside(
    by_hand: dict[str | None, list[Call]], outside: Sequence[OutsideEntry], hand_use: HandUse
) -> Iterable[Fault]:
    booked: dict[str | None, int] = {}
    for entry in outside:
        booked[entry.session_id] = booked.get(entry.session_id, 0) + entry.nanousd
    for session_id in sorted({*by_hand, *booked}, key=str):
        billed, ours = _sum(by_hand.get(session_id, ())), booked.get(session_id, 0)
        told = f"session {session_id}, outside its runs: booked {_usd(ours)}, billed {_usd(billed)}"
        if ours > billed:
            yield Fault("doubled" if billed else "invented", ours - billed, told)
        elif ours < billed and hand_use != "unknown":
            yield Fault("lost", billed - ours, told)


def _sum(calls: Iterable[Call]) -> int:
    return sum(call.cost_nanousd or 0 for call in calls)


def _usd(nanousd: int) -> str:
    return f"${nanousd / NANO:.6f}"


def _who(run: Run) -> str:
    return f"run {run.run_id} ({run.state}, {run.outcome}) under {run.subscription}"
