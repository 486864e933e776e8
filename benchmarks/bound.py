"""The most that any policy could do in a world, knowing all of it: a linear program (HiGHS, through SciPy).

Work is a fluid here, no run is ever cut and every session is always warm, so no policy can do more, and none that
starts whole runs can do quite as much. Where two windows of an account overlap, both have to have room.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from pool_mcp.choosing.windows import FIVE_HOUR, SEVEN_DAY, applies_to
from pool_mcp.model import MINUTE_MS, NANO
from simulator import SEVEN_DAY_OPUS, Job, Span, World, capacity_at

EVER = Span(0, 1 << 62)

FINEST_MS = 5 * MINUTE_MS
STEPS_OF_PATIENCE = 48
"""Demand is told apart by when it can be worked on, in steps of this part of its patience; rounded outwards."""


class _Piece(NamedTuple):
    """A stretch of time that lies within one window of each kind of an account, and their rows."""

    starts_at_ms: int
    ends_at_ms: int
    five_hour: int
    week: int
    opus: int | None


def bound_usd(world: World, elsewhere: Mapping[tuple[str, str, int], int], starts_by_ms: Callable[[Job], int]) -> float:
    """The most that could be done, where what each window has served outside the pool is given.

    ``elsewhere`` is by account, window and which of them; ``starts_by_ms`` says when a job is started at the latest.
    """
    room: list[int] = []
    pieces = _pieces(world, elsewhere, room)
    rows: list[int] = []
    of_column: list[int] = []
    values: list[float] = []
    columns = 0
    weights = dict(world.conditions.weights)
    for (begin_ms, end_ms, kind), amount in _demand(world, starts_by_ms).items():
        row = len(room)
        room.append(amount)
        weight = weights.get(kind, 1.0)
        for piece in pieces:
            if piece.starts_at_ms < end_ms and piece.ends_at_ms > begin_ms:
                counted = [piece.five_hour, piece.week]
                if piece.opus is not None and applies_to(SEVEN_DAY_OPUS, kind):
                    counted.append(piece.opus)
                rows += (row, *counted)
                of_column += [columns] * (1 + len(counted))
                values += [1.0] + [weight] * len(counted)
                columns += 1
    limits = coo_array((values, (rows, of_column)), shape=(len(room), columns))
    found = linprog(-np.ones(columns), A_ub=limits.tocsc(), b_ub=np.array(room) / NANO, method="highs")
    assert found.success, found.message
    return float(-found.fun)


def _pieces(world: World, elsewhere: Mapping[tuple[str, str, int], int], room: list[int]) -> list[_Piece]:
    """Every piece of every account; adds a row with its room for every window."""
    found = []
    for account in world.accounts:
        rows: dict[tuple[str, int], int] = {}
        for window, capacity in account.capacities.items():
            for at, span in enumerate(world.windows[account.name, window]):
                rows[window, at] = len(room)
                # The most that it holds at any time: it changes in one direction, at most once by a step.
                most = max(
                    capacity_at(world.conditions, capacity, at_ms) for at_ms in (span.starts_at_ms, span.ends_at_ms)
                )
                room.append(max(0, round(most) - elsewhere.get((account.name, window, at), 0)))
        for at, span in enumerate(world.windows[account.name, FIVE_HOUR]):
            for at_week, week in enumerate(world.windows[account.name, SEVEN_DAY]):
                begin_ms = max(span.starts_at_ms, week.starts_at_ms)
                end_ms = min(span.ends_at_ms, week.ends_at_ms)
                for at_opus, opus in enumerate(world.windows.get((account.name, SEVEN_DAY_OPUS), (EVER,))):
                    first_ms, last_ms = max(begin_ms, opus.starts_at_ms), min(end_ms, opus.ends_at_ms)
                    if first_ms < last_ms:
                        of_opus = rows.get((SEVEN_DAY_OPUS, at_opus))
                        found.append(_Piece(first_ms, last_ms, rows[FIVE_HOUR, at], rows[SEVEN_DAY, at_week], of_opus))
    return found


def _demand(world: World, starts_by_ms: Callable[[Job], int]) -> dict[tuple[int, int, str], int]:
    """Demand by when it can be worked on, and by its kind where that makes a difference."""
    tells_kinds = bool(world.conditions.weights) or any(one.opus_capacity for one in world.accounts)
    found: dict[tuple[int, int, str], int] = {}
    for job in world.jobs:
        latest_ms = starts_by_ms(job)
        step_ms = max(FINEST_MS, (latest_ms - job.arrives_at_ms) // STEPS_OF_PATIENCE // FINEST_MS * FINEST_MS)
        begin_ms = job.arrives_at_ms // step_ms * step_ms
        end_ms = -(-(latest_ms + job.duration_ms) // step_ms) * step_ms
        key = (begin_ms, end_ms, job.kind if tells_kinds else "")
        found[key] = found.get(key, 0) + job.cost
    return found
