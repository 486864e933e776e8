"""What came of the chaos: the ledger compared with the stand-in's record, asks with their answers, and what is left."""

import os
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos_schedule import CALLERS_USD, WEEKLY_USD, Ask
from pool_mcp.demo.judge import Judgement, OutsideEntry, judge
from pool_mcp.demo.standin import Standin
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import NANO, Run


@dataclass(frozen=True)
class Overrun:
    """A budget, what was billed against it, and the calls that went beyond it; likewise for what was booked.

    Cut runs are booked with a floor, so a little more may be billed than can be known.
    """

    budget: str
    budget_usd: float
    billed_usd: float
    booked_usd: float
    overrun_usd: float
    overrun_calls: int
    known_overrun_usd: float
    known_overrun_runs: int


@dataclass
class Findings:
    """How the ledger and the record differ. ``wrong`` says what is not as it should be, one line each.

    ``reached`` counts, for every fault, the states of the runs that it struck.
    """

    operations: int = 0
    calls: int = 0
    billed_usd: float = 0.0
    booked_usd: float = 0.0
    runs: int = 0
    exact: int = 0
    estimated: int = 0
    estimated_short_usd: float = 0.0
    lost: int = 0
    lost_usd: float = 0.0
    doubled: int = 0
    doubled_usd: float = 0.0
    misplaced: int = 0
    leaked: int = 0
    orphaned: int = 0
    unanswered: int = 0
    contradicted: int = 0
    ends_by_themselves: int = 0
    without_reply: int = 0
    protocol_errors: dict[str, int] = field(default_factory=dict)
    audit_problems: int = 0
    slowest_stop_ms: dict[str, int] = field(default_factory=dict)
    overruns: list[Overrun] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    reached: dict[str, dict[str, int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost, doubled, misplaced, leaked, orphaned or left unanswered."""
        money = (self.lost, self.doubled, self.misplaced, self.leaked, self.audit_problems)
        return not any((*money, self.orphaned, self.unanswered))


def query(home: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a home's ledger, read as any other program would."""
    with closing(sqlite3.connect(f"file:{home}/ledger.db?mode=ro", uri=True)) as conn:
        return conn.execute(sql).fetchall()


def unfinished(home: Path) -> list[str]:
    """The ids of runs that nobody has settled."""
    rows = query(home, "SELECT run_id FROM runs WHERE state IN ('reserved', 'running') ORDER BY created_at_ms")
    return [run_id for (run_id,) in rows]


def all_runs(home: Path) -> list[Run]:
    """Every run of a home's ledger."""
    ids = [run_id for (run_id,) in query(home, "SELECT run_id FROM runs ORDER BY rowid")]
    with closing(Ledger(home / "ledger.db")) as ledger, ledger.read() as tx:
        return [run for run in map(tx.runs.get, ids) if run is not None]


def compare(home: Path, standin: Standin, findings: Findings) -> None:
    """Compare every started run, and what was imported, with the calls that the stand-in billed."""
    runs = all_runs(home)
    rows = query(home, "SELECT session_id, subscription, cost_nanousd FROM entries WHERE kind <> 'run'")
    judgement = judge(standin.books, runs, [OutsideEntry(*row) for row in rows], refused=standin.refused)
    _count(judgement, findings)
    findings.calls, findings.runs = len(standin.books), sum(run.started_at_ms is not None for run in runs)
    findings.billed_usd = sum(call.cost_nanousd or 0 for call in standin.books) / NANO
    ((booked,),) = query(home, "SELECT coalesce(sum(cost_nanousd), 0) FROM entries")
    findings.booked_usd = booked / NANO
    budgets = [("subscription", name, usd) for name, usd in WEEKLY_USD.items()]
    budgets += [("caller", name, usd) for name, usd in CALLERS_USD.items()]
    for kind, name, budget_usd in budgets:
        own = [run for run in runs if getattr(run, kind) == name]
        findings.overruns.append(_overrun(f"{kind} {name}", budget_usd, own, judgement))


def _count(judgement: Judgement, findings: Findings) -> None:
    lost, doubled = judgement.of("lost", "no entry"), judgement.of("doubled", "invented")
    misplaced = judgement.of("wrong subscription")
    findings.lost, findings.lost_usd = len(lost), sum(fault.nanousd for fault in lost) / NANO
    findings.doubled, findings.doubled_usd = len(doubled), sum(fault.nanousd for fault in doubled) / NANO
    findings.misplaced = len(misplaced)
    findings.exact, findings.estimated = judgement.exact, judgement.estimated
    findings.estimated_short_usd = judgement.estimated_short_nanousd / NANO
    findings.wrong += [f"{fault.kind}: {fault.text}" for fault in judgement.faults]


def _overrun(budget: str, usd: float, runs: Sequence[Run], judgement: Judgement) -> Overrun:
    calls = [call for run in runs for call in judgement.calls.get(run.run_id, ())]
    billed = _beyond(usd, ((call.ended_at_ms, call.cost_nanousd or 0) for call in calls))
    booked = _beyond(usd, ((run.ended_at_ms or 0, run.cost.nanousd if run.cost else 0) for run in runs))
    return Overrun(budget, usd, billed[0], booked[0], *billed[1:], *booked[1:])


def _beyond(budget_usd: float, spends: Iterable[tuple[int, int]]) -> tuple[float, float, int]:
    """The sum of what was spent, how much of it is beyond a budget, and how many went beyond it."""
    spent, over = 0, 0
    for _, cost in sorted(spends):
        spent += cost
        over += spent > budget_usd * NANO and bool(cost)
    return spent / NANO, max(0.0, spent / NANO - budget_usd), over


def judge_asks(home: Path, asks: Sequence[Ask], findings: Findings) -> None:
    """Count asks without an end, and those whose end contradicts the ledger."""
    rows = query(home, "SELECT idempotency_key FROM asks JOIN runs USING (ask_id) WHERE outcome = 'ok'")
    answered = {key for (key,) in rows}
    for ask in asks:
        key = ask.arguments["idempotency_key"]
        if ask.end is None:
            findings.unanswered += 1
            findings.wrong.append(f"unanswered: {key}, run {ask.run_id}")
        elif "empty" in ask.ends or (ask.end != "completed" and key in answered):
            findings.contradicted += 1
            findings.wrong.append(f"contradicted: {key}, run {ask.run_id}, was told {ask.ends}, and it has an answer")
    findings.ends = dict(Counter(ask.end or "none" for ask in asks).most_common())


def left_processes(home: Path) -> list[int]:
    """Processes that were started for this home and still run."""
    if not Path("/proc/self/environ").exists():
        groups = [int(path.read_text() or 0) for path in (home / "runs").glob("*/pid")]
        return [group for group in groups if group and _exists(group)]
    found, mark = [], str(home).encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if not is_zombie and mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def command_of(pid: int) -> str:
    """A process's command, as far as a line has room for it."""
    done = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:200]


def show(findings: Findings, tell: Callable[[str], None] = print) -> None:
    """Print what was found."""
    one = findings
    tell(f"{one.calls} calls billed ${one.billed_usd:.6f}; {one.runs} runs booked ${one.booked_usd:.6f}")
    rows = [
        ("operations", one.operations, ""),
        ("exact", one.exact, ""),
        ("estimated (floor)", one.estimated, f"${one.estimated_short_usd:.6f} short of what was billed"),
        ("lost", one.lost, f"${one.lost_usd:.6f}"),
        ("doubled or invented", one.doubled, f"${one.doubled_usd:.6f}"),
        ("in the wrong place", one.misplaced, "another subscription's"),
        ("leaked reservations", one.leaked, ""),
        ("orphaned processes", one.orphaned, ""),
        ("unanswered asks", one.unanswered, ""),
        ("contradicted answers", one.contradicted, "told as failed, and answered all the same"),
        ("servers that ended by themselves", one.ends_by_themselves, ""),
        ("requests without a reply", one.without_reply, ""),
        ("protocol errors", sum(one.protocol_errors.values()), ", ".join(one.protocol_errors)),
        ("problems found by the audit", one.audit_problems, ""),
        *((f"slowest stop, {how}", took_ms, "ms") for how, took_ms in sorted(one.slowest_stop_ms.items())),
    ]
    for name, count, note in rows:
        tell(f"  {name:34}{count:6}  {note}".rstrip())
    tell("asks ended: " + ", ".join(f"{count} {end}" for end, count in one.ends.items()))
    tell(f"{'budget':24}{'usd':>7}{'billed':>10}{'overrun':>10}{'calls':>7}{'booked':>10}{'overrun':>10}{'runs':>6}")
    for over in one.overruns:
        tell(
            f"{over.budget:24}{over.budget_usd:7.2f}{over.billed_usd:10.4f}{over.overrun_usd:10.4f}"
            f"{over.overrun_calls:7}{over.booked_usd:10.4f}{over.known_overrun_usd:10.4f}{over.known_overrun_runs:6}"
        )
    _show_reached(one.reached, tell)
    for line in one.wrong:
        tell(line)


def _show_reached(reached: Mapping[str, Mapping[str, int]], tell: Callable[[str], None]) -> None:
    """The table of faults and the states of the runs that they struck."""
    states = sorted({state for by_state in reached.values() for state in by_state})
    tell(f"{'fault':28}" + "".join(f"{state:>14}" for state in states))
    for fault, by_state in sorted(reached.items()):
        tell(f"{fault:28}" + "".join(f"{by_state.get(state, 0):14}" for state in states))
