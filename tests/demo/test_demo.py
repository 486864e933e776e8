"""``pool-mcp demo`` as a person runs it, and the tables that it and the other commands print."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from rich.console import Console, RenderableType

from pool_mcp.choosing.pacing import Action
from pool_mcp.claude.find import bundled_cli, find_cli
from pool_mcp.demo import demo
from pool_mcp.demo.standin import Standin
from pool_mcp.errors import CliMissing, LedgerError
from pool_mcp.results.asks import AskResult, AttemptResult
from pool_mcp.results.base import AdviceResult, TokensResult
from pool_mcp.results.status import CandidateResult, PickResult
from pool_mcp.views import tables

COMMAND = [sys.executable, "-m", "pool_mcp", "demo"]
SCRIPTS = Path(sys.executable).parent

needs_cli = pytest.mark.skipif(bundled_cli() is None, reason="needs the CLI that claude-agent-sdk carries")


@dataclass(frozen=True, slots=True)
class Shown:
    """What one demo printed, and where it left its files."""

    exit_code: int
    text: str
    errors: str
    home: Path

    @property
    def prose(self) -> str:
        return " ".join(self.text.split())

    @property
    def sum(self) -> str:
        """What the ledger comes to, as the demo says it."""
        (both,) = re.findall(r"^  sum +(\$\S+) +(\$\S+)$", self.text, re.MULTILINE)
        assert both[0] == both[1]
        return str(both[0])

    @property
    def command_and_output(self) -> tuple[str, str]:
        """The command that the person may run, and what it printed."""
        (found,) = re.findall(r"^  (sqlite-utils query .+?)\n\n(.+?)\n\n", self.text, re.MULTILINE | re.DOTALL)
        return found[0], found[1].replace("\n  ", "\n").removeprefix("  ")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "80", "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}", **more}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    home = tmp_path_factory.mktemp("demo") / "home"
    ended = subprocess.run(
        [*COMMAND, "--home", str(home)], env=environment(), capture_output=True, text=True, timeout=150
    )
    return Shown(ended.returncode, ended.stdout, ended.stderr, home)


@needs_cli
@pytest.mark.xdist_group("demo")  # one demo for all of these
class TestTheDemo:
    def test_it_ends_well_and_complains_of_nothing(self, shown: Shown) -> None:
        assert (shown.exit_code, shown.errors) == (0, "")

    def test_it_says_before_anything_else_that_a_stand_in_answers_and_nothing_costs(self, shown: Shown) -> None:
        first = shown.prose.index("1. An ask, answered")
        assert 0 < shown.prose.index("Every answer comes from a stand-in on this machine") < first
        assert 0 < shown.prose.index("nothing costs anything") < first

    def test_an_ask_is_answered_with_its_cost(self, shown: Shown) -> None:
        answer = (
            r"Claude    Answer 1 of the stand-in for (\w+): no model was asked\.\n +\1 · claude-\S+ · \$0\.\d{4} · "
        )
        assert re.search(answer, shown.text)

    def test_every_subscription_is_in_the_table_of_what_is_left(self, shown: Shown) -> None:
        rows = re.findall(
            r"^  (\w+) +5 hours +[█▏▎▍▌▋▊▉▒░]+ +~?(\d+)% .+\n    (\w+) +7 days +[█▏▎▍▌▋▊▉▒░]+ +~?(\d+)% ",
            shown.text,
            re.MULTILINE,
        )
        assert rows == [
            ("personal", "58", "available", "41"),
            ("work", "23", "approaching", "84"),
            ("spare", "36", "available", "12"),
        ]

    def test_the_ask_that_meets_a_limit_is_answered_elsewhere(self, shown: Shown) -> None:
        attempts = re.findall(r"^ +(\d)  (\w+) +(limit|ok) +(\$\S+)", shown.text, re.MULTILINE)
        (number, refused, outcome, cost), (last, answered, ok, _) = attempts
        assert (number, outcome, cost, last, ok) == ("1", "limit", "$0.0000", "2", "ok")
        assert refused != answered
        assert f"of the stand-in for {answered}: no model was asked." in shown.text.partition("3. One runs into")[2]

    def test_one_is_picked_and_the_one_at_its_limit_is_not(self, shown: Shown) -> None:
        refused = re.findall(r"^ +1  (\w+) +limit", shown.text, re.MULTILINE)[0]
        (picked,) = re.findall(r"^  → +(\w+) +\d+  \S", shown.text, re.MULTILINE)
        assert picked != refused
        assert re.search(rf"^ +{refused} +-  its five_hour window is used up", shown.text, re.MULTILINE)

    def test_the_ledger_is_equal_to_the_books_of_the_stand_in(self, shown: Shown) -> None:
        assert shown.sum > "$0.000000000"
        assert "Equal, to the billionth of a dollar." in shown.text

    def test_the_command_it_prints_runs_and_comes_to_the_sum_it_says(self, shown: Shown) -> None:
        command, output = shown.command_and_output
        ended = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True, timeout=90)
        assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, output, "")
        nanousd = sum(int(row.split()[1]) for row in output.splitlines()[2:])
        assert f"${nanousd / 1e9:.9f}" == shown.sum

    def test_the_command_works_too_where_its_tool_is_not_on_the_path(
        self, shown: Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        command = demo._query(shown.home, demo.COST_BY.format("subscription"))
        ended = subprocess.run(command, capture_output=True, check=True, timeout=90)
        assert f"${sum(row['nanousd'] for row in json.loads(ended.stdout)) / 1e9:.9f}" == shown.sum

    def test_nothing_is_wider_than_the_screen_but_paths_that_would_break(self, shown: Shown) -> None:
        lines = shown.text.splitlines()
        assert [line for line in lines if len(line) > 80 and str(shown.home) not in line] == []

    def test_a_pipe_gets_no_escape_codes(self, shown: Shown) -> None:
        assert "\x1b" not in shown.text

    def test_settings_ledger_and_log_stay_and_only_the_owner_may_see_them(self, shown: Shown) -> None:
        assert {"pool.toml", "ledger.db", "server.log"} <= {path.name for path in shown.home.iterdir()}
        assert shown.home.stat().st_mode & 0o077 == 0
        assert str(shown.home) in shown.text
        assert "server.log" not in shown.text, "the log is mentioned only when something fails"

    def test_a_ledger_that_is_not_equal_to_the_books_is_a_failure(self, shown: Shown, standin: Standin) -> None:
        with pytest.raises(LedgerError, match=rf"The ledger \({re.escape(shown.sum)}\) .* are not equal"):
            anyio.run(demo._compare_books, demo._Screen(), shown.home, standin)

    def test_interrupting_it_ends_in_one_line(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        command = [*COMMAND, "--home", str(home)]
        process = subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            assert process.stdout is not None
            while "1. An ask, answered" not in process.stdout.readline():
                assert process.poll() is None
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=90)
        assert errors == f"pool-mcp: The demo was stopped; what it wrote is in {home}.\n"
        assert process.returncode == 130


@needs_cli
def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "pool.toml"
    mine.write_text("mine")
    ended = subprocess.run([*COMMAND, "--home", str(tmp_path)], capture_output=True, text=True, timeout=90)
    assert ended.stderr == f"pool-mcp: {tmp_path} is not empty; name a new directory, or leave --home out.\n"
    assert (ended.returncode, ended.stdout, mine.read_text()) == (2, "", "mine")


def test_without_a_cli_one_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"HOME": str(tmp_path), "PATH": str(tmp_path)}
    monkeypatch.setitem(sys.modules, "claude_agent_sdk", None)  # for find_cli here, as in the child below
    with suppress(CliMissing):
        pytest.skip(f"{find_cli('claude', env)} is in a place that cannot be hidden")
    without_sdk = "import sys; sys.modules['claude_agent_sdk'] = None; from pool_mcp.cli.main import main; main()"
    command = [sys.executable, "-c", without_sdk, "demo"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90)
    assert ended.stderr == (
        "pool-mcp: The demo needs the Claude Code CLI, which the extra brings: `pip install 'pool-mcp[demo]'`, "
        "or `uvx --from 'pool-mcp[demo]' pool-mcp demo`.\n"
    )
    assert (ended.returncode, ended.stdout) == (4, "")


# The tables at 80 columns, with values that are hard to place


LONG = "subscription-of-the-whole-platform-engineering-team.europe-north"
ADVICE = AdviceResult(action=Action.PROCEED, reason="There is room for $1.00.", headroom_usd=1)


def printed(*what: RenderableType, width: int = 80) -> str:
    """As in a terminal of that width, without colour and without the spaces at the end of lines."""
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False)
    for one in what:
        console.print(one)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def answer_of(*attempts: AttemptResult) -> AskResult:
    return AskResult(
        status="completed",
        run_id="run",
        text="",
        session_id="11111111-2222-3333-4444-555555555555",
        subscription=attempts[-1].subscription,
        model="claude-sonnet-5-5",
        cost_usd=attempts[-1].cost_usd,
        cost_is_estimate=True,
        tokens=TokensResult(),
        duration_ms=61_234,
        attempts=list(attempts),
        advice=ADVICE,
    )


def test_reasons_are_wrapped_beside_the_candidate_and_brackets_in_them_are_kept() -> None:
    reasons = ["the five_hour window is used up until the next day", "0% room"]
    pick = PickResult(
        subscription="b",
        env={},
        reason="",
        candidates=[
            CandidateResult(id=LONG, eligible=False, score=0, reasons=reasons, available_at=None),
            CandidateResult(id="b", eligible=True, score=100, reasons=["see [claude] path"], available_at=None),
        ],
        next_available_at=None,
    )
    expected = """\
   subscription              score  why
   subscription-of-the-whol      -  the five_hour window is used up until the
   e-platform-engineering-t         next day; 0% room
   eam.europe-north
→  b                           100  see [claude] path
"""
    assert printed(tables.pick_table(pick, 0)) == expected


def test_attempts_show_where_and_how_each_ended_and_what_it_cost() -> None:
    said = f"{LONG}: [auth] expired; see status_reason in usage_status for what to do."
    answer = answer_of(
        AttemptResult(run_id="1", subscription=LONG, outcome="unknown_session", message=said),
        AttemptResult(run_id="2", subscription="b", outcome="ok", cost_usd=1_234_567.89124),
    )
    expected = """\
attempt  subscription        outcome                   cost  message
      1  subscription-of-th  unknown_session              -  [auth] expired; see
         e-whole-platform-e                                  status_reason in
         ngineering-team.eu                                  usage_status for
         rope-north                                          what to do.
      2  b                   ok               $1234567.8912
b · claude-sonnet-5-5 · at least $1234567.8912 · 61.2 s, attempt 2
session 11111111-2222-3333-4444-555555555555
"""
    assert printed(tables.attempts_table(answer), tables.ask_line(answer)) == expected


def test_plain_rows_fold_what_is_long_and_align_what_is_a_number() -> None:
    rows = [(LONG + LONG, 12_345_678_901, 1_234_567.891), ("[a]", 1, 0.0000001)]
    expected = """\
key                                                        calls             usd
subscription-of-the-whole-platform-engineering-team  12345678901  1234567.891000
.europe-northsubscription-of-the-whole-platform-eng
ineering-team.europe-north
[a]                                                            1        0.000000
"""
    assert printed(tables.rows_table(("key", "calls", "usd"), rows)) == expected
