"""The most that any policy could do in a world, knowing all of it: a linear program (HiGHS, through SciPy).

Work is a fluid here, no run is ever cut and every session is always warm, so no policy can do more, and none that
starts whole runs can do quite as much. Where two windows of an account overlap, both have to have room.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from pool_mcp.choosing.windows import FIVE_HOUR, SEVEN_DAY
from pool_mcp.model import MINUTE_MS, NANO
from simulator import Job, World

FINEST_MS = 5 * MINUTE_MS
STEPS_OF_PATIENCE = 48
"""Demand is told apart by when it can be worked on, in steps of this part of its patience; rounded outwards."""


class _Piece(NamedTuple):
    """A stretch of time that lies within one five-hour window and one week of an account, and their rows."""

    starts_at_ms: int
    ends_at_ms: int
    five_hour: int
    week: int


def bound_usd(world: World, elsewhere: Mapping[tuple[str, str, int], int], starts_by_ms: Callable[[Job], int]) -> float:
    """The most that could be done, where what each window has served outside the pool is given.

    ``elsewhere`` is by account, window and which of them; ``starts_by_ms`` says when a job is started at the latest.
    """
    room: list[int] = []
    pieces = _pieces(world, elsewhere, room)
    rows: list[int] = []
    columns = 0
    for (begin_ms, end_ms), amount in _demand(world, starts_by_ms).items():
        row = len(room)
        room.append(amount)
        for piece in pieces:
            if piece.starts_at_ms < end_ms and piece.ends_at_ms > begin_ms:
                rows += (row, piece.five_hour, piece.week)
                columns += 1
    limits = coo_array((np.ones(len(rows)), (rows, np.repeat(np.arange(columns), 3))), shape=(len(room), columns))
    found = linprog(-np.ones(columns), A_ub=limits.tocsc(), b_ub=np.array(room) / NANO, method="highs")
    assert found.success, found.message
    return float(-found.fun)


def _pieces(world: World, elsewhere: Mapping[tuple[str, str, int], int], room: list[int]) -> list[_Piece]:
    """Every piece of every account; adds a row with its room for every window."""
    found = []
    for account in world.accounts:
        rows: dict[tuple[str, int], int] = {}
        for window, capacity in ((FIVE_HOUR, account.five_hour_capacity), (SEVEN_DAY, account.seven_day_capacity)):
            for at in range(len(world.windows[account.name, window])):
                rows[window, at] = len(room)
                room.append(max(0, capacity - elsewhere.get((account.name, window, at), 0)))
        for at, span in enumerate(world.windows[account.name, FIVE_HOUR]):
            for at_week, week in enumerate(world.windows[account.name, SEVEN_DAY]):
                begin_ms = max(span.starts_at_ms, week.starts_at_ms)
                end_ms = min(span.ends_at_ms, week.ends_at_ms)
                if begin_ms < end_ms:
                    found.append(_Piece(begin_ms, end_ms, rows[FIVE_HOUR, at], rows[SEVEN_DAY, at_week]))
    return found


def _demand(world: World, starts_by_ms: Callable[[Job], int]) -> dict[tuple[int, int], int]:
    """Demand by when it can be worked on."""
    found: dict[tuple[int, int], int] = {}
    for job in world.jobs:
        latest_ms = starts_by_ms(job)
        step_ms = max(FINEST_MS, (latest_ms - job.arrives_at_ms) // STEPS_OF_PATIENCE // FINEST_MS * FINEST_MS)
        begin_ms = job.arrives_at_ms // step_ms * step_ms
        end_ms = -(-(latest_ms + job.duration_ms) // step_ms) * step_ms
        found[begin_ms, end_ms] = found.get((begin_ms, end_ms), 0) + job.cost
    return found
