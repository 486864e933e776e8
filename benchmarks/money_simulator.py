"""Every fault at every point, then every pair of faults, of short stories of asks in a virtual world.

    python benchmarks/money_simulator.py                      every single fault
    python benchmarks/money_simulator.py --pairs --minutes 5  pairs, drawn at random, for a while
    python benchmarks/money_simulator.py --replay "one ask" "crash 31" "power 12 next"

The world is ``tests/fakes/money_world.py``: virtual servers, CLIs and time over a real ledger file. A plan always gives
the same story. Where a pair fails, each of its faults is tried alone, so that the shortest plan is shown.
"""

import argparse
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fakes"))

from money_stories import FAULTS, STORIES, play, points_of
from money_world import FaultKind, Plan

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
SECOND_POINTS = 60
"""A second fault strikes within so many points of the server that looks after what is left."""


def singles() -> Iterator[tuple[str, tuple[Plan, ...]]]:
    """Every story with every fault at every point."""
    for story in STORIES:
        with TemporaryDirectory(dir=IN_MEMORY) as folder:
            points = list(points_of(story, FAULTS[0], Path(folder)))
        for fault in FAULTS:
            yield from ((story, (Plan(fault, plan.point),)) for plan in points)


def pairs(seed: int) -> Iterator[tuple[str, tuple[Plan, ...]]]:
    """Pairs without end: a first fault of the story's own server, a second there or in the next."""
    draw = random.Random(seed)
    first = list(singles())
    while True:
        story, (plan,) = draw.choice(first)
        server = draw.choice(["first", "next"])
        point = draw.randrange(SECOND_POINTS) + (plan.point if server == "first" else 0)
        yield story, (plan, Plan(draw.choice(FAULTS), point, server))


def shortest(story: str, plans: tuple[Plan, ...]) -> tuple[Plan, ...]:
    """The part of a plan that fails as well, where there is one."""
    for plan in plans if len(plans) > 1 else ():
        if _play(story, plan):
            return (plan,)
    return plans


def _play(story: str, *plans: Plan) -> list[str]:
    with TemporaryDirectory(dir=IN_MEMORY) as folder:
        return play(story, Path(folder), *plans)


def _parse(text: str) -> Plan:
    words = text.split()
    server = words.pop() if not words[-1].isdigit() else "first"
    fault = " ".join(words[:-1])
    found: FaultKind = next(one for one in FAULTS if one == fault)
    return Plan(found, int(words[-1]), server)


def _name(plans: tuple[Plan, ...]) -> str:
    return ", ".join(f"{plan.fault} {plan.point}" + f" {plan.server}" * (plan.server != "first") for plan in plans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--minutes", type=float, default=5, help="how long pairs are played")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", nargs="+", metavar="WORDS", help="a story, then its faults")
    options = parser.parse_args()
    logging.disable()
    if options.replay:
        story, *faults = options.replay
        found = _play(story, *map(_parse, faults))
        print("\n".join(found) or "nothing is wrong")
        sys.exit(bool(found))
    until_s = time.monotonic() + options.minutes * 60
    played: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str]] = Counter()
    shown: set[tuple[str, tuple[Plan, ...]]] = set()
    for story, plans in pairs(options.seed) if options.pairs else singles():
        if options.pairs and time.monotonic() > until_s:
            break
        key = (story, " + ".join(plan.fault for plan in plans))
        played[key] += 1
        if found := _play(story, *plans):
            failed[key] += 1
            short = (story, shortest(story, plans))
            if short not in shown:
                shown.add(short)
                print(f"{story}: {_name(short[1])}: {found[0]}", flush=True)
    print(f"{'story':24}{'faults':30}{'played':>8}{'failed':>8}")
    for (story, faults), count in sorted(played.items()):
        print(f"{story:24}{faults:30}{count:8}{failed[story, faults]:8}")
    print(f"{sum(played.values())} played, {sum(failed.values())} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
