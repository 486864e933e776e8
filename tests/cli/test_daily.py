"""What a person sees every day: the views at 80 columns, and the commands as they are typed."""

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from rich.console import Console, RenderableType
from support import make_home, open_ledger, open_pool, until

from pool_mcp.asks.history import History, Which
from pool_mcp.asks.runner import Runner
from pool_mcp.choosing.pacing import Action
from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.errors import InvalidRequest
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import DAY_MS, HOUR_MS, Ask, Cost, Outcome, Run, RunState, Settlement
from pool_mcp.results.asks import RunResult, RunsResult
from pool_mcp.results.base import AdviceResult
from pool_mcp.results.status import (
    AlertResult,
    BlockResult,
    HealthResult,
    OfficialWindowResult,
    PoolTotals,
    StatusResult,
    SubscriptionResult,
    WeekResult,
)
from pool_mcp.usage.charts import Chart
from pool_mcp.usage.reports import Activity
from pool_mcp.views import times
from pool_mcp.views.gauges import Window
from pool_mcp.views.runs import RunsView
from pool_mcp.views.status import Seen, StatusView


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A person whose clock is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


LONG = "subscription-of-the-whole-platform-engineering-team.europe-north"


def ms(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1000)


NOW, RESET = ms("2026-01-28T13:31:00Z"), ms("2026-01-28T15:00:00Z")


def printed(*what: RenderableType, width: int = 80, encoding: str = "utf-8") -> str:
    """As in a terminal of that width, without colour and without the spaces at the end of lines."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, highlight=False)
    for one in what:
        console.print(one)
    file.seek(0)
    return "".join(f"{line.rstrip()}\n" for line in file.read().splitlines())


def subscription(
    name: str, percent: float, cost_usd: float, *, status: str = "available", official: bool = False, **more: object
) -> SubscriptionResult:
    window = OfficialWindowResult(
        percent=percent, resets_at=RESET, observed_at=ms("2026-01-28T13:28:00Z"), status="allowed", percent_now=percent
    )
    health = HealthResult(week_percent=0, block_percent=0, in_flight=0, burn_usd_per_hour=0, unused_block_bonus=0)
    return SubscriptionResult.model_validate(
        {
            "id": name,
            "plan": "max",
            "status": status,
            "status_reason": f"the five_hour window is {percent:.0f}% used",
            "available_at": RESET if status in ("limited", "cooldown") else None,
            "health_score": max(0.0, 100 - percent),
            "health": health,
            "block": BlockResult(
                id="2026-01-28T10:00:00Z",
                starts_at=NOW,
                ends_at=RESET,
                source="official" if official else "utc-grid",
                cost_usd=cost_usd,
                budget_usd=25,
                percent=percent,
            ),
            "week": WeekResult(starts_at=NOW, cost_usd=cost_usd * 20, budget_usd=456, percent=percent),
            "official": {"five_hour": window, "seven_day": window} if official else {},
            "in_flight": 0,
            "reserved_usd": 0,
            "burn_usd_per_hour": 0,
            "exhausts_at": None,
            "last_used_at": None,
            **more,
        }
    )


def status_of(*subscriptions: SubscriptionResult, in_flight: int = 0, **more: Any) -> StatusResult:
    totals = PoolTotals(
        cost_today_usd=1234.567,
        week_cost_usd=9_876_543.21,
        week_budget_usd=456,
        week_percent=2_165_908.6,
        in_flight=in_flight,
        reserved_usd=in_flight / 4,
    )
    advice = AdviceResult(action=Action.PROCEED, reason="There is room for $1.00.", headroom_usd=1)
    said = {"advice": advice, **more}
    return StatusResult(generated_at=NOW, pool=totals, subscriptions=list(subscriptions), **said)


def run_of(run_id: str, **more: Any) -> RunResult:
    said = {
        "ask_id": "ask",
        "subscription": "work",
        "caller": "planner",
        "model": "claude-sonnet-5-5",
        "state": "settled",
        "outcome": "ok",
        "message": None,
        "created_at": ms("2026-01-28T13:00:00Z"),
        "started_at": ms("2026-01-28T13:00:00Z"),
        "ended_at": ms("2026-01-28T13:01:05Z"),
        "duration_ms": 65_000,
        "cost_usd": 0.0423,
        "cost_is_estimate": False,
        "reserved_usd": 0,
        **more,
    }
    return RunResult(run_id=run_id, **said)


def activity_of(hours: list[float], days: list[float], shares: list[tuple[str, float]], outside: float) -> Activity:
    charts = [Chart("", [f"{key}" for key in range(len(own))], {"a": own}, True) for own in (hours, days)]
    return Activity(charts[0], charts[1], shares, outside)


RUNNING: dict[str, Any] = {
    "state": "running",
    "outcome": None,
    "ended_at": None,
    "duration_ms": 12_345,
    "cost_usd": None,
    "reserved_usd": 0.25,
}


def twelve() -> StatusResult:
    small = [subscription(f"team-{n:02}", n * 9.3, n * 0.37, official=n % 2 == 0) for n in range(1, 10)]
    large = [
        subscription(LONG, 12_345, 1_234_567_890),
        subscription("build", 100, 99_999.4, status="needs_login"),
        subscription("ci", 99.6, 999.99, status="cooldown", official=True),
    ]
    return status_of(*small, *large)


def test_the_status_has_the_advice_first_then_both_windows_of_each_then_what_runs_then_what_needs_a_word() -> None:
    used_since = subscription("personal", 58, 1.03, official=True, in_flight=1, reserved_usd=0.25)
    five_hour = used_since.official["five_hour"].model_copy(update={"percent_now": 71.2})
    status = status_of(
        used_since.model_copy(update={"official": {**used_since.official, "five_hour": five_hour}}),
        subscription("work", 97, 14.6, status="limited", official=True),
        subscription("key", 4, 1, burn_usd_per_hour=3.5, exhausts_at=ms("2026-01-28T14:31:00Z")),
        in_flight=1,
        advice=AdviceResult(
            action=Action.SLOW_DOWN,
            reason="It burns.",
            headroom_usd=1,
            max_usd_per_hour=2.5,
            retry_at=ms("2026-01-28T13:36:00Z"),
        ),
        alerts=[
            AlertResult(at=NOW, kind="limit", subscription="work", message="work: told above in other words"),
            AlertResult(at=NOW, kind="90%", subscription="work", message="work: the five_hour window is 97% used, too"),
            AlertResult(at=NOW, kind="80%", subscription="key", message="key: the block budget is 80% used"),
        ],
    )
    view = StatusView(Seen(status, [run_of("3f2b7c1e-0d4a", **RUNNING)]))
    expected = """\
slow_down: It burns. At most $2.50 an hour. Look again in 5m.
Today $1234.57, seven days $9876543.21 of $456.00 (2165909%), 1 in flight
holding $0.25.

subscription   window   used                     spent   resets  pace  runs out
personal       5 hours  █████████▒▒░░░░  ~71%    $1.03    15:00  1.0x     14:56
  available    7 days   ████████▊░░░░░░   58%   $20.60    15:00  0.6x         -
work           5 hours  ██████████████▌   97%   $14.60    15:00  1.4x     13:37
  limited      7 days   ██████████████▌   97%  $292.00    15:00  1.0x         -
key            5 hours  ▒░░░░░░░░░░░░░░   ~4%    $1.00    15:00     -         -
  available    7 days   ▒░░░░░░░░░░░░░░   ~4%   $20.00  rolling     -         -

run       asked    subscription  caller   outcome     cost   took
3f2b7c1e  31m ago  work          planner  running  ($0.25)  12.3s

work: the five_hour window is 97% used; free in 1h29m
key: at $3.50 an hour used up in 1h0m
! key: the block budget is 80% used
█ is what Anthropic reported 3m ago; ▒ and ~ are our own figures: spent since,
or of your own budget.
Dollars at list price, not a bill; transcripts not read yet.
"""
    assert printed(view) == expected
    in_ascii = printed(view, encoding="ascii")
    assert "#########==....  ~71%" in in_ascii
    assert len(in_ascii.splitlines()) == len(expected.splitlines())


def test_a_wide_terminal_shows_pace_and_reset_and_a_wider_one_all_there_is() -> None:
    status = status_of(subscription("a", 12, 3, official=True, in_flight=2, reserved_usd=0.5, burn_usd_per_hour=3))
    expected = """\
proceed: There is room for $1.00.
Today $1234.57, seven days $9876543.21 of $456.00 (2165909%).

subscription   window   used                               spent   budget  resets  pace  runs out  reported   held  an hour  health
a              5 hours  ███▏░░░░░░░░░░░░░░░░░░░░░░   12%   $3.00   $25.00   15:00  0.2x         -    3m ago  $0.50    $3.00      88
  available    7 days   ███▏░░░░░░░░░░░░░░░░░░░░░░   12%  $60.00  $456.00   15:00  0.1x         -    3m ago

█ is what Anthropic reported 3m ago.
Dollars at list price, not a bill; transcripts not read yet.
"""  # noqa: E501
    assert printed(StatusView(Seen(status, [])), width=132) == expected
    narrower = printed(StatusView(Seen(status, [])), width=100)
    heads = narrower.splitlines()[3].split()
    assert heads == ["subscription", "window", "used", "spent", "budget", "resets", "pace", "runs", "out", "health"]


def test_recent_spend_is_drawn_small_and_in_ascii_too() -> None:
    hours, days = [0.0] * 20 + [1.0, 2.0, 4.0, 8.0], [0.0, 10.0] * 7
    activity = activity_of(hours, days, [("opus-5-5", 75.2), ("haiku-4-5", 24.8)], 41.4)
    view = StatusView(Seen(status_of(subscription("a", 12, 3, official=True)), [], activity))
    assert """\
24 hours ····················▁▂▄█ $15.00
14 days  ·█·█·█·█·█·█·█ $70.00
7 days   opus-5-5 75%  haiku-4-5 25%  outside the pool 41%
""" in printed(view)
    assert "24 hours ...................._-=# $15.00" in printed(view, encoding="ascii")
    wide = printed(view, width=100).splitlines()
    top = wide.index(next(line for line in wide if line.startswith("24 hours  $15.00  highest $8.00")))
    assert [line.split() for line in wide[top + 1 : top + 3]] == [["██"] * 8, ["▄▄██", *["██"] * 7]]
    assert wide[top + 5] == "7 days   opus-5-5 ██████ 75%  haiku-4-5 ██ 25%  outside the pool 41%"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    activity = activity_of([1.0] * 24, [1.0] * 14, [("a-model-with-quite-a-long-name", 60.0), ("b", 40.0)], 100)
    for view in (
        StatusView(Seen(twelve(), [run_of("b")], activity)),
        StatusView(Seen(twelve(), []), height=24),
    ):
        if width >= 80 or view._height is None:
            assert max(map(len, printed(view, width=width).splitlines())) <= width


@pytest.mark.parametrize(
    ("percent", "elapsed_hours", "pace", "runs_out_hours"),
    [
        (50.0, 2.5, 1.0, None),
        (80.0, 2.0, 2.0, 2.5),
        (10.0, 4.0, 0.125, None),
        (5.0, 0.05, None, None),
        (0.0, 2.0, 0.0, None),
    ],
)
def test_pace_is_use_against_time_and_says_when_a_window_runs_out(
    percent: float, elapsed_hours: float, pace: float | None, runs_out_hours: float | None
) -> None:
    now_ms = round(elapsed_hours * HOUR_MS)
    window = Window(percent, percent, 0, 1, 0, 5 * HOUR_MS, now_ms)
    assert window.pace == (None if pace is None else pytest.approx(pace))
    assert window.runs_out_at == (None if runs_out_hours is None else round(runs_out_hours * HOUR_MS))


def test_twelve_subscriptions_with_long_names_and_huge_sums_fit_into_80_columns_and_24_lines() -> None:
    expected = """\
proceed: There is room for $1.00.
Today $1234.57, seven days $9876543.21 of $456.00 (2165909%).

subscription   status       5 hours         spent  7 days          spent  health
team-01        available    ▒░░░░░   ~9%    $0.37  ▒░░░░░   ~9%    $7.40      91
team-02        available    █▏░░░░   19%    $0.74  █▏░░░░   19%   $14.80      81
team-03        available    ▒▒░░░░  ~28%    $1.11  ▒▒░░░░  ~28%   $22.20      72
team-04        available    ██▎░░░   37%    $1.48  ██▎░░░   37%   $29.60      63
team-05        available    ▒▒▒░░░  ~46%    $1.85  ▒▒▒░░░  ~46%   $37.00      54
team-06        available    ███▍░░   56%    $2.22  ███▍░░   56%   $44.40      44
team-07        available    ▒▒▒▒░░  ~65%    $2.59  ▒▒▒▒░░  ~65%   $51.80      35
team-08        available    ████▌░   74%    $2.96  ████▌░   74%   $59.20      26
team-09        available    ▒▒▒▒▒░  ~84%    $3.33  ▒▒▒▒▒░  ~84%   $66.60      16
subscription-  available    ▒▒▒▒▒▒ ~12k%   $1235M  ▒▒▒▒▒▒ ~12k%  $24691M       0
of-the-whole-
platform-engi
neering-team.
europe-north
build          needs_login  ▒▒▒▒▒▒ ~100%   $99999  ▒▒▒▒▒▒ ~100%   $2000k       0
ci             cooldown     ██████  100%  $999.99  ██████  100%   $20000       0

build: the five_hour window is 100% used
ci: the five_hour window is 100% used; free in 1h29m
█ is what Anthropic reported 3m ago; ▒ and ~ are our own figures: spent since,
or of your own budget.
Dollars at list price, not a bill; transcripts not read yet.
"""
    assert printed(StatusView(Seen(twelve(), []), height=24)) == expected
    assert max(map(len, printed(StatusView(Seen(twelve(), []))).splitlines())) <= 80


def test_a_narrow_terminal_still_shows_which_and_how_full_and_when_it_frees() -> None:
    expected = """\
proceed: There is room for $1.00.
Today $1234.57, seven days $9876543.21 of $456.00
(2165909%).

subscription   window   used           resets  pace
team-1         5 hours  ▉░░░░░░   12%   15:00  0.2x
  needs_login  7 days   ▉░░░░░░   12%   15:00  0.1x

team-1: the five_hour window is 12% used
█ is what Anthropic reported 3m ago.
Dollars at list price, not a bill; transcripts not
read yet.
"""
    status = status_of(subscription("team-1", 12, 3, official=True, status="needs_login"))
    assert printed(StatusView(Seen(status, [])), width=52) == expected


def test_what_is_kept_for_the_person_stands_below_the_table() -> None:
    one = subscription("a", 12, 3, official=True)
    kept = {name: read.model_copy(update={"kept_percent": 30.0}) for name, read in one.official.items()}
    shown = printed(StatusView(Seen(status_of(one.model_copy(update={"official": kept})), [])))
    assert "a: kept for you: 30% of five_hour, 30% of seven_day" in " ".join(shown.split())
    assert "kept for you" not in printed(StatusView(Seen(status_of(one), [])))


def test_where_anthropic_reported_everything_no_figure_is_explained_away() -> None:
    shown = printed(StatusView(Seen(status_of(subscription("a", 1, 1, official=True)), [])))
    assert shown.splitlines()[-2] == "█ is what Anthropic reported 3m ago."
    nothing = printed(StatusView(Seen(status_of(subscription("a", 1, 1)), [])))
    assert "; Anthropic has reported nothing yet." in " ".join(nothing.split())


def test_runs_stand_with_who_asked_how_each_ended_what_it_cost_and_how_long_it_took() -> None:
    runs = RunsResult(
        generated_at=NOW,
        running=[run_of("3f2b7c1e-0d4a", **RUNNING)],
        ended=[
            run_of("b"),
            run_of("c", caller=LONG, outcome="cancelled", cost_is_estimate=True),
            run_of("d", subscription=LONG, outcome="unknown_session", state="failed", cost_usd=None),
        ],
    )
    expected = """\
run       asked    subscription  caller         outcome              cost   took
3f2b7c1e  31m ago  work          planner        running           ($0.25)  12.3s
b         31m ago  work          planner        ok                $0.0423     1m
c         31m ago  work          subscription-  cancelled        ≥$0.0423     1m
                                 of-the-whole-
                                 platform-engi
                                 neering-team.
                                 europe-north
d         31m ago  subscription  planner        unknown_session         -     1m
                   -of-the-whol
                   e-platform-e
                   ngineering-t
                   eam.europe-n
                   orth
"""
    assert printed(RunsView(runs)) == expected
    assert "claude-sonnet-5-5" in printed(RunsView(runs), width=120)
    assert printed(RunsView(RunsResult(generated_at=NOW, running=[], ended=[]))) == "No runs.\n"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h0m"), (86_399, "23h59m"), (90_000, "1d1h")],
)
def test_a_duration_is_short(seconds: int, said: str) -> None:
    assert times.span(seconds) == said


# What the ledger tells of runs


_opened: list[Ledger] = []


@pytest.fixture(autouse=True)
def no_ledger_stays_open() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def insert(home: Path, *runs: Run, settle: Outcome = Outcome.OK) -> History:
    settings, env = make_home(home)
    ledger = open_ledger(settings)
    _opened.append(ledger)
    with ledger.write() as tx:
        for run in runs:
            if not tx.runs.of_ask(run.ask_id):
                tx.runs.insert_ask(run.ask_id, run.caller, None, "", run.created_at_ms)
            tx.runs.insert(run)
            if run.state is not RunState.RUNNING:
                at_ms = run.created_at_ms + 1000
                tx.runs.mark_running(run.run_id, run.owner_id, None, run.created_at_ms)
                tx.runs.settle(Settlement(run.run_id, RunState.SETTLED, settle, None, Cost(5), at_ms), run.owner_id)
    return History(settings, ledger, Runner(settings, env, lambda: 10 * DAY_MS), lambda: 10 * DAY_MS)


def ledger_run(run_id: str, ask_id: str, **more: Any) -> Run:
    said: dict[str, Any] = {"subscription": "alice", "caller": "c", "state": RunState.RESERVED, "model": None, **more}
    fixed: dict[str, Any] = {"session_id": "s", "resumed": False, "owner_id": "o", "background": True}
    said.setdefault("created_at_ms", 9 * DAY_MS)
    return Run(run_id, ask_id, **fixed, structured=False, deadline_ms=10 * DAY_MS, reserved_nanousd=1, **said)


def test_the_beginning_of_an_id_is_enough_where_it_means_one_ask_only(tmp_path: Path) -> None:
    history = insert(
        tmp_path,
        ledger_run("aa-1", "x-1"),
        ledger_run("aa-2", "x-1", created_at_ms=9 * DAY_MS + 1),
        ledger_run("ab-1", "aa-ask"),
    )
    assert [history.find(begun) for begun in ("aa-1", "aa-2", "x", "ab", "aa-a")] == ["aa-2"] * 3 + ["ab-1"] * 2
    with pytest.raises(InvalidRequest, match=r"'a' is the beginning of several: (aa-2, ab-1|ab-1, aa-2)\. Give more"):
        history.find("a")
    for begun in ("", "b", "%", "aa-3"):
        with pytest.raises(InvalidRequest, match="`pool-mcp runs` lists them"):
            history.find(begun)


def test_runs_are_told_newest_first_by_whom_and_where_and_how_they_ended(tmp_path: Path) -> None:
    history = insert(
        tmp_path,
        ledger_run("1", "1"),
        ledger_run("2", "2", subscription="bob"),
        ledger_run("3", "3", caller="d"),
        ledger_run("4", "4", state=RunState.RUNNING),
        ledger_run("5", "5", state=RunState.RUNNING, caller="d"),
    )

    def ids(which: Which, limit: int = 10) -> tuple[list[str], list[str]]:
        found = history.runs(which, limit)
        return [run.run_id for run in found.running], [run.run_id for run in found.ended]

    assert ids(Which()) == (["5", "4"], ["3", "2", "1"])
    assert ids(Which(), limit=1) == (["5", "4"], ["3"])
    assert ids(Which(subscription="bob")) == ([], ["2"])
    assert ids(Which(caller="d")) == (["5"], ["3"])
    assert ids(Which(state=RunState.SETTLED)) == ([], ["3", "2", "1"])
    assert ids(Which(state=RunState.RUNNING)) == (["5", "4"], [])


# The commands, as they are typed

COMMAND = [sys.executable, "-m", "pool_mcp"]


def pool_mcp(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.anyio
async def test_a_run_is_listed_shown_and_cancelled_by_the_beginning_of_its_id(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin, "alice", "bob", subscriptions={"alice": {"priority": 1}})

    async def run(*arguments: str) -> Any:
        ended = await anyio.to_thread.run_sync(lambda: pool_mcp(env, *arguments, "--json"))
        assert (ended.returncode, ended.stderr) == (0, "")
        return json.loads(ended.stdout)

    standin.accounts["alice"] = Behaviour(mode="five_hour_limit")
    async with open_pool(settings, env) as pool:
        answer = await pool.ask(Ask("Say something.", "planner"))
        standin.accounts["bob"] = Behaviour(mode="hang")
        hangs = await pool.ask(Ask("Go on.", "writer", background=True))
        heard = settings.runs_dir / hangs.run_id / "stdout.jsonl"
        await until(lambda: heard.exists() and b"message_start" in heard.read_bytes(), timeout_s=30)
        listed = await run("runs")
        shown = await run("show", answer.attempts[0].run_id[:8])
        told = await run("show", answer.run_id[:8], "--answer")
        cancelled = await run("cancel", hangs.run_id[:8])
        again = await anyio.to_thread.run_sync(pool_mcp, env, "cancel", hangs.run_id)
        waiting = await run("status")
    assert [(one["run_id"], one["caller"], one["cost_usd"]) for one in listed["running"]] == [
        (hangs.run_id, "writer", None)
    ]
    assert [(one["subscription"], one["outcome"]) for one in listed["ended"]] == [("bob", "ok"), ("alice", "limit")]
    assert [one["run_id"] for one in shown["attempts"]] == [one.run_id for one in answer.attempts]
    assert (shown["outcome"], shown["cost_usd"], shown["text"]) == ("ok", answer.cost_usd, None)
    assert shown["attempts"][1]["models"][0]["tokens"]["output"] == answer.tokens.output
    assert shown["attempts"][1]["files"] == str(settings.runs_dir / answer.run_id)
    assert shown["attempts"][1]["files_kept_until"] > shown["attempts"][1]["ended_at"]
    assert told["text"] == answer.text
    (stopped,) = cancelled["attempts"]
    assert (stopped["outcome"], stopped["cost_is_estimate"], stopped["ended_at"] is not None) == (
        "cancelled",
        True,
        True,
    )
    cost = f"it cost at least ${stopped['cost_usd']:.4f}."
    assert again.stdout == f"run {hangs.run_id[:8]} under bob had ended already (cancelled); {cost}\n"
    assert waiting["pool"]["in_flight"] == 0


@pytest.mark.anyio
async def test_an_unknown_run_is_a_wrong_use_and_an_answer_goes_to_standard_output_alone(
    standin: Standin, tmp_path: Path
) -> None:
    settings, env = make_home(tmp_path, standin)
    async with open_pool(settings, env) as pool:
        answer = await pool.ask(Ask("Say something.", "planner"))
    shown = await anyio.to_thread.run_sync(pool_mcp, env, "show", answer.run_id[:6], "--answer")
    assert (shown.returncode, shown.stdout) == (0, f"{answer.text}\n")
    assert "by planner" in shown.stderr
    unknown = await anyio.to_thread.run_sync(pool_mcp, env, "show", "nonesuch")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "pool-mcp: No run or ask begins with 'nonesuch'; `pool-mcp runs` lists them.\n"


def test_a_command_is_run_by_hand_with_the_login_of_the_best_subscription_and_no_other(tmp_path: Path) -> None:
    _, env = make_home(tmp_path, None, "alice", "bob", subscriptions={"bob": {"priority": 1}})
    env |= {"ANTHROPIC_API_KEY": "mine", "CLAUDECODE": "1", "CLAUDE_CODE_USE_BEDROCK": "1", "KEPT": "1"}

    def names(ended: subprocess.CompletedProcess[str]) -> dict[str, str]:
        told = dict(line.partition("=")[::2] for line in ended.stdout.splitlines())
        return {name: value for name, value in told.items() if name.startswith(("ANTHROPIC", "CLAUDE", "KEPT"))}

    picked = json.loads(pool_mcp(env, "pick", "--json").stdout)
    best = pool_mcp(env, "exec", "--", "env")
    assert picked["subscription"] == "bob"
    assert picked["env"].pop("CLAUDE_CODE_OAUTH_TOKEN") == "$TOKEN_BOB"
    assert names(best) == {"KEPT": "1", "CLAUDE_CODE_OAUTH_TOKEN": Standin.token("bob"), **picked["env"]}
    assert best.stderr.startswith("pool-mcp: under bob: ")
    named = pool_mcp(env, "exec", "--subscription", "alice", "--", "sh", "-c", "echo $CLAUDE_CODE_OAUTH_TOKEN; exit 7")
    assert (named.returncode, named.stdout) == (7, f"{Standin.token('alice')}\n")
    assert named.stderr.startswith("pool-mcp: under alice: as you say (")


def test_a_command_that_cannot_be_run_by_hand_is_one_line_and_the_exit_code_that_shells_give(tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    missing = pool_mcp(env, "exec", "--", "nonesuch")
    assert (missing.returncode, missing.stderr.splitlines()[-1]) == (127, "pool-mcp: nonesuch: not found")
    no_program = pool_mcp(env, "exec", "--", str(tmp_path))
    assert (no_program.returncode, no_program.stderr.splitlines()[-1]) == (
        126,
        f"pool-mcp: {tmp_path}: Permission denied",
    )
    unset = pool_mcp({**env, "TOKEN_ALICE": ""}, "exec", "--", "env")
    assert (unset.returncode, unset.stdout) == (2, "")
    assert unset.stderr.endswith("The variable TOKEN_ALICE is not set here; export it and run this again.\n")
    nobody = pool_mcp(env, "exec", "--subscription", "nobody", "--", "env")
    assert (nobody.returncode, nobody.stdout) == (2, "")


def test_watching_in_a_pipe_prints_block_after_block_without_escape_codes_until_it_is_interrupted(
    tmp_path: Path,
) -> None:
    _, env = make_home(tmp_path)
    command = [*COMMAND, "status", "--watch", "--interval", "0.2"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = ""
        while seen.count("\n== ") < 2:
            seen += watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        rest, errors = watching.communicate(timeout=90)
    assert (watching.returncode, errors) == (0, "")
    assert "\x1b" not in seen + rest
    assert seen.count("proceed: There is room for") >= 2


def test_watching_ends_quietly_when_its_reader_has_gone_and_in_one_line_when_it_cannot_look(tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    command = [*COMMAND, "status", "--watch", "--interval", "0.2", "--json"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert json.loads(watching.stdout.readline())["advice"]["action"] == "proceed"
        watching.stdout.close()
        assert (watching.wait(timeout=90), watching.stderr.read()) == (128 + signal.SIGPIPE, "")
    nobody = pool_mcp(env, "status", "nobody", "--watch")
    assert (nobody.returncode, nobody.stdout, nobody.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_watching_on_a_terminal_draws_on_its_other_screen_and_gives_the_first_one_back(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    _, env = make_home(tmp_path)
    ours, theirs = pty.openpty()
    command = [*COMMAND, "status", "--watch", "--interval", "0.2"]
    env |= {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as watching:
        os.close(theirs)
        seen = b""
        while seen.count(b"q quit") < 2:
            seen += os.read(ours, 4096)
        watching.send_signal(number)
        with contextlib.suppress(OSError):  # how a terminal says that nobody is there any more
            while more := os.read(ours, 4096):
                seen += more
        assert watching.wait(timeout=90) == exit_code
    os.close(ours)
    assert seen.index(b"\x1b[?1049h") < seen.index(b"q quit") < seen.rindex(b"\x1b[?1049l")
    assert seen.rindex(b"\x1b[?25l") < seen.rindex(b"\x1b[?25h")


def test_keys_sort_cancel_and_quit_and_the_terminal_is_as_it_was(standin: Standin, tmp_path: Path) -> None:
    _, env = make_home(tmp_path, standin)
    standin.accounts["alice"] = Behaviour(mode="hang")
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(ours)
    screen = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    ask = [*COMMAND, "ask", "-q", "Wait."]
    watch = [*COMMAND, "status", "--watch", "--interval", "1"]
    seen = b""

    def wait_for(sign: bytes) -> None:
        nonlocal seen
        while sign not in seen:
            assert select.select([ours], [], [], 90)[0], seen[-2000:]
            seen += os.read(ours, 4096)

    with (
        subprocess.Popen(ask, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as asking,
        subprocess.Popen(watch, env=env | screen, stdin=theirs, stdout=theirs, stderr=theirs) as watching,
    ):
        try:
            assert standin.wait_in_flight(timeout_s=60)
            wait_for("≥$".encode())
            for key, sign in (
                (b"?", b"what the same tokens would cost"),
                (b"?", b"command line"),
                (b"s", b"sorted the fullest first"),
                (b"c", b"cancel which run?"),
                (b"1", b"canceling "),
            ):
                seen = b""
                os.write(ours, key)
                wait_for(sign)
            assert asking.wait(timeout=90) == 130
            seen = b""
            os.write(ours, b"q")
            wait_for(b"\x1b[?1049l")
            assert watching.wait(timeout=90) == 0
        finally:
            asking.kill()
            watching.kill()
    assert termios.tcgetattr(ours) == before
    os.close(theirs)
    os.close(ours)


def test_an_output_that_takes_no_more_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    with open("/dev/full", "w") as full:  # noqa: PTH123  (a device)
        ended = subprocess.run(
            [*COMMAND, "status"], env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (
        1,
        "pool-mcp: the output cannot be written: No space left on device\n",
    )


def test_a_report_of_somebody_who_never_asked_says_so(tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    shown = pool_mcp(env, "report", "--caller", "nope")
    assert shown.returncode == 0
    assert "'nope' has spent nothing in this time; who ever did: nobody" in shown.stderr
