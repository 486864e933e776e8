"""Looks for input that breaks pool-mcp: settings, tools' arguments, lines of the protocol, CLI output, transcripts.

Each case takes something real (the documented pool.toml, calls, captured runs of the CLI, transcripts) and spoils it:
other values, other types, other bytes, keys pasted where they do not belong. What is a finding: an exception that
nobody expects, a request without a reply, a key or a control character in a message, an amount that the ledger cannot
hold, a ledger whose sums are wrong afterwards.

    python benchmarks/fuzz.py --minutes 30                  every target in turn, with a new seed each round
    python benchmarks/fuzz.py --target settings --seed 7    one round, to see a finding again

Exits with 1 where anything was found. A finding is named by target, seed and case, which make it again.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from fuzz_targets import TARGETS, Finding

CASES = 400
"""How many cases a target has in a round."""


@dataclass
class Tally:
    """What was tried and found so far, by target."""

    cases: Counter[str] = field(default_factory=Counter)
    seeds: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, int, int, str]] = field(default_factory=list)

    def found(self, target: str) -> int:
        """How many findings a target has."""
        return sum(one[0] == target for one in self.findings)


def play(name: str, seed: int, cases: int, tally: Tally) -> None:
    """One target's round: all that is random comes from target and seed."""
    random = Random(f"{name} {seed}")
    tally.seeds[name] += 1
    case = 0
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        try:
            target = stack.enter_context(TARGETS[name](home))
            for case in range(cases):
                try:
                    target.case(random)
                except Finding as finding:
                    tally.findings.append((name, seed, case, str(finding)))
                tally.cases[name] += 1
            target.end()
        except Finding as finding:
            tally.findings.append((name, seed, case, f"at the end: {finding}"))


def rounds(names: Sequence[str], first_seed: int, cases: int, minutes: float, tally: Tally) -> Iterator[int]:
    """Round after round until the time is over; at least one. Gives the seed of each that is done."""
    ends_s = time.monotonic() + 60 * minutes
    seed = first_seed
    while True:
        for name in names:
            play(name, seed, cases, tally)
            if time.monotonic() > ends_s and seed > first_seed:
                return
        yield seed
        if time.monotonic() > ends_s:
            return
        seed += 1


def table(tally: Tally) -> Table:
    shown = Table("target", "cases", "seeds", "findings", box=None, pad_edge=False)
    for name in tally.cases:
        shown.add_row(name, f"{tally.cases[name]:,}", str(tally.seeds[name]), str(tally.found(name)))
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; may be repeated")
    parser.add_argument("--minutes", type=float, default=0, help="go on for so long; default: one round")
    parser.add_argument("--cases", type=int, default=CASES, help="of each target in a round")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    tally = Tally()
    for seed in rounds(options.target or list(TARGETS), options.seed, options.cases, options.minutes, tally):
        if not options.json:
            print(f"seed {seed}: {sum(tally.cases.values()):,} cases, {len(tally.findings)} findings", file=sys.stderr)
    if options.json:
        print(json.dumps({"cases": tally.cases, "seeds": tally.seeds, "findings": tally.findings}, indent=2))
    else:
        Console().print(table(tally))
        for name, seed, case, finding in tally.findings:
            print(f"{name}, seed {seed}, case {case}: {finding}")
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
