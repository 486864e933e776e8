"""The most that any policy could do in a world, knowing all of it: a linear program (HiGHS, through SciPy).

Work is a fluid here, no run is ever cut and every session is always warm, so no policy can do more, and none that
starts whole runs can do quite as much. No ask is worked on before it comes. Work is counted as the windows count it
when it is asked, so nothing is gained by leaving out the models that count most, or by a hurry before limits are cut.

A five-hour window begins with its first use, so this may choose when. What it may use is bounded by how many windows
can touch a stretch of time: k and one in 5k hours, and k where nothing could have been used in the five hours before.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from pool_mcp.choosing.windows import FIVE_HOUR, applies_to
from pool_mcp.model import BLOCK_MS, MINUTE_MS, NANO
from world import EPOCH_MS, SEVEN_DAY_OPUS, Account, Span, World

SLOT_MS = 30 * MINUTE_MS
"""Demand and room are told apart by half-hours; asks are rounded outwards to them."""

MOST_BLOCKS = 4
"""Of stretches that do not begin with the world, how many windows' lengths are looked at."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Use outside the pool, as a share of a window at its time."""

    at_ms: int
    account: str
    window: str
    share: float


class _Rows:
    """The program's inequalities, each ``sum of value * column <= limit``."""

    def __init__(self) -> None:
        self.limits: list[float] = []
        self.entries: list[tuple[int, int, float]] = []

    def add(self, limit: float, columns: Iterable[tuple[int, float]]) -> None:
        row = len(self.limits)
        self.limits.append(limit)
        self.entries += ((row, column, value) for column, value in columns)


def bound_usd(world: World, elsewhere: Sequence[Elsewhere]) -> float:
    """The most that could be done, where use elsewhere is given; as the windows count it."""
    rows, columns, shrink = _Rows(), 0, world.conditions.shrink
    served: dict[tuple[int, bool], list[tuple[int, float]]] = {}
    for (begin, end, is_opus), amount in _demand(world).items():
        of_class = list(range(columns, columns + end - begin))
        rows.add(amount, ((column, 1.0) for column in of_class))
        for slot, column in zip(range(begin, end), of_class, strict=True):
            needed = shrink(_begin_ms(begin)) / shrink(_begin_ms(slot))
            served.setdefault((slot, is_opus), []).append((column, needed))
        columns += len(of_class)
    of_work = columns
    last = max(slot for slot, _ in served) + 1
    for account in world.accounts:
        used = {
            key: columns + at
            for at, key in enumerate(key for key in sorted(served) if not account.is_absent(_begin_ms(key[0])))
        }
        columns += len(used)
        for key, column in used.items():
            served[key].append((column, -1.0))
        own = [one for one in elsewhere if one.account == account.name]
        quiet = _quiet({slot for slot, _ in served}, own, last)
        for limit, window, span in _limits(world, account, quiet, last):
            taken = sum(one.share for one in own if one.window == window and span.holds(one.at_ms))
            size = account.capacities[window] / NANO
            rows.add(max(0.0, limit - taken) * size, _counted(window, span, used))
    for entries in served.values():
        rows.add(0.0, entries)
    return _solve(rows, columns, of_work)


def _solve(rows: _Rows, columns: int, of_work: int) -> float:
    row, column, value = zip(*rows.entries, strict=True)
    limits = coo_array((value, (row, column)), shape=(len(rows.limits), columns))
    gain = np.zeros(columns)
    gain[:of_work] = -1.0
    found = linprog(gain, A_ub=limits.tocsc(), b_ub=np.array(rows.limits), method="highs")
    assert found.success, found.message
    return float(-found.fun)


def _begin_ms(slot: int) -> int:
    return EPOCH_MS + slot * SLOT_MS


def _counted(window: str, span: Span, used: dict[tuple[int, bool], int]) -> Iterator[tuple[int, float]]:
    """What a window counts of what is done in each half-hour of a stretch."""
    slots = range(max(0, (span.starts_at_ms - EPOCH_MS) // SLOT_MS), -(-(span.ends_at_ms - EPOCH_MS) // SLOT_MS))
    for slot in slots:
        for is_opus in (False, True):
            if (slot, is_opus) in used and (is_opus or window != SEVEN_DAY_OPUS):
                yield used[slot, is_opus], 1.0


def _quiet(worked: set[int], own: Sequence[Elsewhere], last: int) -> set[int]:
    """The half-hours at which no five-hour window can run: nothing could be asked, or was used, in the hours before."""
    busy = worked | {(one.at_ms - EPOCH_MS) // SLOT_MS for one in own}
    length = BLOCK_MS // SLOT_MS
    return {slot for slot in range(last) if busy.isdisjoint(range(slot - length, slot))}


def _limits(world: World, account: Account, quiet: set[int], last: int) -> Iterator[tuple[float, str, Span]]:
    """How much of each window can be used in each stretch of time, as a share of one."""
    for (name, window), spans in world.weeks.items():
        if name == account.name:
            yield from ((1.0, window, span) for span in spans)
    early = world.early[account.name]
    for slot in range(0, last, 2):
        begins_quiet = slot in quiet
        most = (last - slot) * SLOT_MS // BLOCK_MS + 1 if slot == 0 else MOST_BLOCKS
        for blocks in range(1, most + 1):
            span = Span(_begin_ms(slot), _begin_ms(slot) + blocks * BLOCK_MS)
            yield blocks + (not begins_quiet) + sum(map(span.holds, early)), FIVE_HOUR, span


def _demand(world: World) -> dict[tuple[int, int, bool], float]:
    """Demand by the half-hours in which it can be worked on, and whether a window of Opus's own counts it."""
    has_opus = any(one.opus_capacity for one in world.accounts)
    found: dict[tuple[int, int, bool], float] = {}
    for job in world.jobs:
        begin = (job.arrives_at_ms - EPOCH_MS) // SLOT_MS
        end = max(begin + 1, -(-(job.deadline_ms + job.duration_ms - EPOCH_MS) // SLOT_MS))
        key = (begin, end, has_opus and applies_to(SEVEN_DAY_OPUS, job.kind))
        found[key] = found.get(key, 0.0) + world.work(job)
    return found
