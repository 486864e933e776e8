"""What a person finds free in the morning who keeps a share of each window, and what it costs in work; deterministic.

./dev run python benchmarks/kept_share.py [--quick] [--json]

The worlds are those of `choosing_worlds.py`: agents with more work than there is room for, also all night. At nine
o'clock on each day but the first, what is free is read from every account's windows as Anthropic counts them.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC
from statistics import mean, quantiles

from rich.console import Console
from rich.table import Table

from choosing_worlds import FOUR, REPORT_SEEDS, draw_world
from policies import Ours
from pool_mcp.choosing.windows import FIVE_HOUR, SEVEN_DAY
from pool_mcp.model import DAY_MS, HOUR_MS, DayHours, WindowReading
from simulator import Simulation
from world import EPOCH_MS

NINE_MS = 9 * HOUR_MS
SHARE = {FIVE_HOUR: 30.0, SEVEN_DAY: 20.0}
WORKING_DAY = DayHours(9 * 60, 18 * 60, UTC)
KEEPS: dict[str, tuple[Mapping[str, float], DayHours | None]] = {
    "nothing": ({}, None),
    "30 % and 20 %": (SHARE, None),
    "the same, 09:00-18:00": (SHARE, WORKING_DAY),
}
WORKLOADS = ("overnight", "person and agents")


@dataclass(slots=True)
class Found:
    """What one way of keeping came to: work in dollars, and the percents that were free at nine, by window."""

    work_usd: float = 0.0
    free: dict[str, list[float]] = field(default_factory=lambda: {FIVE_HOUR: [], SEVEN_DAY: []})


class Watched(Ours):
    """The project's own choice, with somebody who looks at every account at nine."""

    def __init__(self, keep: str, found: Found, skew_ms: int) -> None:
        percent, hours = KEEPS[keep]
        super().__init__(FOUR, "headroom", percent, hours)
        self._found = found
        self._skew_ms = skew_ms

    def look(self, usage: Callable[[str], Mapping[str, WindowReading]], now_ms: int) -> None:
        """As ever; at nine by the true clock note what is free."""
        true_ms = now_ms - self._skew_ms - EPOCH_MS
        if true_ms % DAY_MS == NINE_MS and true_ms > DAY_MS:
            for account in FOUR:
                for window, reading in usage(account.name).items():
                    self._found.free[window].append(100.0 - (reading.percent or 0.0))
        super().look(usage, now_ms)


def play(keep: str, workload: str, seed: int) -> Found:
    """One world."""
    world = draw_world(workload, "heavy", seed)
    found = Found()
    found.work_usd = Simulation(world, Watched(keep, found, world.conditions.skew_ms)).run().work_usd
    return found


def row(keep: str, played: list[Found], without_usd: float) -> dict[str, float | str]:
    """Sums over seeds; ``worst_tenth`` is what was free on nine of ten mornings."""
    work_usd = sum(one.work_usd for one in played)
    result: dict[str, float | str] = {"kept": keep, "work_percent": round(100 * work_usd / without_usd, 1)}
    for window in (FIVE_HOUR, SEVEN_DAY):
        free = [percent for one in played for percent in one.free[window]]
        result |= {f"{window}_mean": round(mean(free), 1), f"{window}_worst_tenth": round(quantiles(free, n=10)[0], 1)}
        result[f"{window}_least"] = min(free)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    seeds = REPORT_SEEDS[:1] if chosen.quick else REPORT_SEEDS
    cases = [(keep, workload, seed) for workload in WORKLOADS for keep in KEEPS for seed in seeds]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        played = dict(zip(cases, pool.map(play, *zip(*cases, strict=True)), strict=True))
    rows: dict[str, list[dict[str, float | str]]] = {}
    for workload in WORKLOADS:
        of_keep = {keep: [played[keep, workload, seed] for seed in seeds] for keep in KEEPS}
        without_usd = sum(one.work_usd for one in of_keep["nothing"])
        rows[workload] = [row(keep, found, without_usd) for keep, found in of_keep.items()]
    if chosen.json:
        print(json.dumps(rows, indent=2))
        return
    for workload, found in rows.items():
        table = Table(title=f"{workload}: free at nine, percent", title_justify="left", box=None, header_style="bold")
        for name in found[0]:
            table.add_column(name.replace("_", " "), justify="left" if name == "kept" else "right")
        for one in found:
            table.add_row(*map(str, one.values()))
        Console().print(table)


if __name__ == "__main__":
    main()
