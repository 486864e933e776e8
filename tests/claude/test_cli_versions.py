"""Every CLI version, through a real pool, on sessions of every history: each run is booked once, at what it cost.

The stand-in's books say what each API call would have cost. A run's entry has to be the sum of exactly those calls that
were made while it ran, to the nano-dollar; where a call was cut, at most that.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import anyio
import anyio.to_thread
import pytest
from cli_versions import CLI_VERSIONS, NEWEST, THIS_RUN, CliVersion
from support import make_home, open_ledger, open_pool, until

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour, Call, Reply, ToolUse
from pool_mcp.errors import PoolError
from pool_mcp.model import Ask, Cost, Outcome, Run, RunState, Tokens

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(900),  # the first run on a machine downloads the older versions
]

MODEL = "claude-sonnet-4-6"
"""Has the same price in all versions; newer models are priced wrongly by the older ones."""

ASK_S = 60
"""A CLI that takes longer hangs."""

every_version = pytest.mark.parametrize("version", CLI_VERSIONS, ids=lambda version: version.name)

How = Literal["interrupted", "killed"]


class Row(NamedTuple):
    """One model's part of a run. The older versions do not tell the two lifetimes of a cache write apart."""

    input: int
    output: int
    cache_creation: int
    cache_read: int
    nanousd: int


@dataclass(frozen=True)
class Bill:
    """What a run cost, in all and by model."""

    nanousd: int
    rows: dict[str, Row]
    is_estimate: bool = False


@dataclass(frozen=True)
class Ran:
    """A run as the ledger has it, and the API calls that the stand-in served while it ran."""

    run: Run
    calls: list[Call]

    @property
    def booked(self) -> Bill:
        cost = self.run.cost or Cost()
        rows = {model: _row(part.tokens, part.cost_nanousd) for model, part in cost.models.items()}
        return Bill(cost.nanousd, rows, cost.is_estimate)

    @property
    def billed(self) -> Bill:
        rows: dict[str, Row] = {}
        for call in self.calls:
            row = _row(call.tokens, call.cost_nanousd)
            before = rows.get(call.model, Row(0, 0, 0, 0, 0))
            rows[call.model] = Row(*map(sum, zip(before, row, strict=True)))
        return Bill(sum(row.nanousd for row in rows.values()), rows)


def _row(tokens: Tokens, nanousd: int | None) -> Row:
    assert nanousd is not None, "a model without a price"
    return Row(tokens.input, tokens.output, tokens.cache_creation, tokens.cache_read, nanousd)


class Desk:
    """One subscription that is used in the pool and by hand, under whichever version of the CLI."""

    def __init__(self, home: Path, standin: Standin) -> None:
        self.home = home
        self.standin = standin
        self.ran: list[Ran] = []
        self.work = home / "work"
        self.work.mkdir()

    def settle_in(self, version: CliVersion) -> None:
        """Make a version the pool's CLI, as an update of the CLI does."""
        self.cli = version.cli
        self.settings, self.env = make_home(
            self.home, self.standin, cli=self.cli, claude={"tool_profile": "full"}, weekly_budget_usd=10_000.0
        )
        config_dir = self.settings.subscriptions[0].config_dir
        assert config_dir is not None
        self.config_dir = config_dir
        (config_dir / "agents").mkdir(parents=True, exist_ok=True)
        (config_dir / "agents" / "helper.md").write_text(HELPER)
        # This one finds a session only from the directory in which it was begun.
        self.working_dir = str(self.work) if version is THIS_RUN else None

    async def ask(self, session_id: str | None = None, **more: object) -> Ran:
        """Ask through a pool of its own, as another host's server would."""
        said = {"model": MODEL, "tool_profile": "none", "working_dir": self.working_dir, **more}
        asked = Ask("ping", "test", session_id, **said)  # type: ignore[arg-type]
        began = len(self.standin.books)
        async with open_pool(self.settings, self.env) as pool:
            with anyio.fail_after(ASK_S):
                try:
                    run_id = (await pool.ask(asked)).run_id
                except PoolError as error:
                    if error.run_id is None:
                        raise
                    run_id = error.run_id
        return await self._note(run_id, began)

    async def ask_and_cut(self, how: How, session_id: str | None = None) -> Ran:
        """Ask, and cut the run off in the middle of its answer."""
        # Four characters a token, as the CLI counts what it cannot know.
        reply = Reply(text="word", text_size=4000, mode="slow", tokens=Tokens(1200, 1000, 300, 4000, 15_000))
        self.standin.accounts["alice"] = Behaviour(replies=(reply,), chunks=100)
        return await self.cut_when(lambda output: b"content_block_delta" in output, how, session_id)

    async def cut_when(
        self, ready: Callable[[bytes], object], how: How, session_id: str | None = None, tool_profile: str = "none"
    ) -> Ran:
        """Ask, and cut the run off once something is so of what the CLI has printed."""
        asked = Ask(
            "ping",
            "test",
            session_id,
            model=MODEL,
            working_dir=self.working_dir,
            tool_profile=tool_profile,
            background=True,
        )
        began = len(self.standin.books)
        async with open_pool(self.settings, self.env) as pool:
            with anyio.fail_after(ASK_S):
                run = await pool.ask(asked)
                files = self.settings.runs_dir / run.run_id
                await until(lambda: ready(_read(files / "stdout.jsonl")), ASK_S)
                if how == "killed":
                    # Until the CLI has written something down, there is no session to go on with.
                    name = f"projects/*/{run.session_id}.jsonl"
                    await until(lambda: any(b'"user"' in _read(path) for path in self.config_dir.glob(name)), ASK_S)
                    os.kill(int((files / "pid").read_text()), signal.SIGKILL)
                with pytest.raises(PoolError):
                    await pool.result(run.run_id, wait_s=ASK_S, cancel=how == "interrupted")
        return await self._note(run.run_id, began)

    async def ask_in_a_shell(self, session_id: str) -> Ran:
        """Ask with ``pool-mcp ask``, a process of its own."""
        began = len(self.standin.books)
        command = [sys.executable, "-m", "pool_mcp", "ask", "ping", "--json", f"--model={MODEL}"]
        command += ["--tool-profile=none", f"--session={session_id}"]
        command += [f"--working-dir={self.working_dir}"] if self.working_dir else []
        with anyio.fail_after(ASK_S):
            done = await anyio.run_process(command, env=self.env)
        return await self._note(json.loads(done.stdout)["run_id"], began)

    async def use_by_hand(self, *arguments: str, prompt: bytes = b"ping") -> str:
        """Run the CLI as a person would, in a directory of the person's; the session's id."""
        env = {
            "PATH": os.defpath,
            "HOME": str(self.home),
            "CLAUDE_CONFIG_DIR": str(self.config_dir),
            "CLAUDE_CODE_OAUTH_TOKEN": Standin.token("alice"),
            "ANTHROPIC_BASE_URL": self.standin.url,
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        command = [str(self.cli), "-p", "--output-format=json", f"--model={MODEL}", *arguments]
        with anyio.fail_after(ASK_S):
            done = await anyio.run_process(command, input=prompt, env=env, cwd=self.work)
        session_id: str = json.loads(done.stdout)["session_id"]
        return session_id

    async def use_by_hand_after(self, delay_s: float, *arguments: str) -> None:
        """Run the CLI as a person would, a moment later."""
        await anyio.sleep(delay_s)
        await self.use_by_hand(*arguments, prompt=b"by hand")

    async def _note(self, run_id: str, began: int) -> Ran:
        assert await anyio.to_thread.run_sync(self.standin.wait_idle)
        with closing(open_ledger(self.settings)) as ledger, ledger.read() as tx:
            run = tx.runs.get(run_id)
        assert run is not None
        ran = Ran(run, self.standin.books[began:])
        self.ran.append(ran)
        return ran

    def spent_nanousd(self) -> int:
        """All that the ledger has of the subscription."""
        with closing(open_ledger(self.settings)) as ledger, ledger.read() as tx:
            return tx.balances.spent_nanousd("alice", 0)


HELPER = "---\nname: helper\ndescription: helps\nmodel: haiku\n---\nYou help.\n"


def call_helper(in_background: bool) -> Reply:
    """The main model has a subagent do something."""
    task = {"description": "do it", "prompt": "help", "subagent_type": "helper", "run_in_background": in_background}
    return Reply(tools=(ToolUse("Task", task),), for_model="sonnet")


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@pytest.fixture
def desk(tmp_path: Path, standin: Standin) -> Desk:
    return Desk(tmp_path, standin)


def assert_exact(desk: Desk) -> None:
    """Every run so far was answered and is booked at what its calls cost, and nothing else is booked."""
    assert [ran.run.outcome for ran in desk.ran] == [Outcome.OK] * len(desk.ran)
    assert [ran.booked for ran in desk.ran] == [ran.billed for ran in desk.ran]
    assert desk.spent_nanousd() == sum(ran.billed.nanousd for ran in desk.ran)


@every_version
async def test_each_ask_on_a_session_is_booked_at_what_it_alone_cost(desk: Desk, version: CliVersion) -> None:
    desk.settle_in(version)
    session_id = (await desk.ask()).run.session_id
    await desk.ask(session_id)
    await desk.ask(session_id)
    await desk.ask_in_a_shell(session_id)
    assert_exact(desk)
    if version is NEWEST:  # the only one that tells the two lifetimes of a cache write apart
        assert [ran.run.cost and ran.run.cost.tokens for ran in desk.ran] == [
            sum((call.tokens for call in ran.calls), Tokens()) for ran in desk.ran
        ]


@every_version
async def test_a_session_begun_by_hand_goes_on_in_the_pool_at_the_cost_of_the_pool_s_part(
    desk: Desk, version: CliVersion
) -> None:
    desk.settle_in(version)
    session_id = await desk.use_by_hand()
    await desk.ask(session_id)
    await desk.ask(session_id)
    assert_exact(desk)


@every_version
async def test_what_is_done_by_hand_between_two_asks_on_a_session_is_not_booked_as_the_pool_s(
    desk: Desk, version: CliVersion
) -> None:
    desk.settle_in(version)
    session_id = (await desk.ask()).run.session_id
    await desk.use_by_hand(f"--resume={session_id}")
    await desk.ask(session_id)
    assert_exact(desk)


@every_version
async def test_a_fork_made_by_hand_and_its_original_go_on_in_the_pool_each_at_its_own_cost(
    desk: Desk, version: CliVersion
) -> None:
    desk.settle_in(version)
    original = (await desk.ask()).run.session_id
    fork = await desk.use_by_hand(f"--resume={original}", "--fork-session")
    assert fork != original
    await desk.ask(fork)
    await desk.ask(original)
    assert_exact(desk)


@every_version
@pytest.mark.parametrize("hows", [("interrupted", "killed"), ("killed", "interrupted")], ids="-".join)
async def test_a_run_that_was_cut_is_booked_as_far_as_it_was_seen_and_the_next_one_exactly(
    desk: Desk, version: CliVersion, hows: tuple[How, How]
) -> None:
    desk.settle_in(version)
    session_id = None
    for how in hows:
        cut = await desk.ask_and_cut(how, session_id)
        (model, booked), (_, billed) = *cut.booked.rows.items(), *cut.billed.rows.items()
        # Only how much it had written is not known to the token.
        assert (model, booked[:1], booked[2:4]) == (MODEL, billed[:1], billed[2:4])
        assert 1 < booked.output <= billed.output
        assert 0 < cut.booked.nanousd == booked.nanousd <= billed.nanousd
        assert (cut.run.state, cut.booked.is_estimate) == (RunState.INTERRUPTED, True)
        session_id = cut.run.session_id
        answered = await desk.ask(session_id)
        assert (answered.run.outcome, answered.booked) == (Outcome.OK, answered.billed)
    assert desk.spent_nanousd() == sum(ran.booked.nanousd for ran in desk.ran)


@every_version
async def test_a_subagent_on_another_model_is_booked_with_its_run(desk: Desk, version: CliVersion) -> None:
    desk.settle_in(version)
    session_id = None
    for in_background in (False, True):
        desk.standin.accounts["alice"] = Behaviour(replies=(call_helper(in_background), Reply("hi", for_model="haiku")))
        ran = await desk.ask(session_id, tool_profile="full")
        assert {call.model.split("-")[1] for call in ran.calls} == {"sonnet", "haiku"}
        session_id = ran.run.session_id
    assert_exact(desk)


@every_version
async def test_a_run_interrupted_in_its_subagent_is_booked_at_least_at_its_own_calls(
    desk: Desk, version: CliVersion
) -> None:
    desk.settle_in(version)
    replies = (call_helper(in_background=False), Reply(mode="hang", for_model="haiku"))
    desk.standin.accounts["alice"] = Behaviour(replies=replies)
    cut = await desk.cut_when(
        lambda _: desk.standin.books and desk.standin.wait_in_flight(timeout_s=0), "interrupted", tool_profile="full"
    )
    assert [call.state for call in cut.calls] == ["complete", "cut"]
    assert 0 < (cut.calls[0].cost_nanousd or 0) <= cut.booked.nanousd <= cut.billed.nanousd
    assert cut.booked.is_estimate
    answered = await desk.ask(cut.run.session_id)
    assert (answered.run.outcome, answered.booked) == (Outcome.OK, answered.billed)


@every_version
async def test_a_run_cut_by_its_budget_is_booked_at_all_that_it_cost(desk: Desk, version: CliVersion) -> None:
    desk.settle_in(version)
    session_id = None
    # A cap below what one call is known to cost would be refused, so the second call costs more than the first.
    for cap_nanousd, tokens in ((1_000_000, Tokens(1000, 500)), (50_000_000, Tokens(1000, 5000))):
        desk.standin.accounts["alice"] = Behaviour(replies=(Reply(tools=(ToolUse("Task"),), tokens=tokens),))
        cut = await desk.ask(session_id, max_cost_nanousd=cap_nanousd)
        assert len(cut.calls) == 1
        assert (cut.run.outcome, cut.run.state) == (Outcome.BUDGET, RunState.INTERRUPTED)
        assert cut.booked == cut.billed
        session_id = cut.run.session_id
    answered = await desk.ask(session_id)
    assert (answered.run.outcome, answered.booked) == (Outcome.OK, answered.billed)


async def test_a_session_stays_right_from_one_version_to_the_next_and_back(desk: Desk) -> None:
    old, middle, new = CLI_VERSIONS
    session_id = None
    # Every change from one to another, and where it was new, a further run after it.
    for version in (old, middle, middle, new, new, middle, old, old, new, old):
        desk.settle_in(version)
        session_id = (await desk.ask(session_id)).run.session_id
    assert_exact(desk)


@every_version
async def test_a_session_used_by_hand_and_by_the_pool_within_a_second_is_counted_once(
    tmp_path: Path, version: CliVersion
) -> None:
    # A stand-in of its own: by session and time alone nobody can say whose calls are whose, so they are told by cost.
    with Standin() as standin:
        desk = Desk(tmp_path, standin)
        desk.settle_in(version)
        session_id = (await desk.ask()).run.session_id
        for delay_s in (0.0, 0.1, 0.2, 0.3):
            began = len(standin.books)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(desk.use_by_hand_after, delay_s, f"--resume={session_id}")
                ran = await desk.ask(session_id)
            assert await anyio.to_thread.run_sync(standin.wait_idle)
            costs = {call.cost_nanousd for call in standin.books[began:]}
            assert (len(costs), ran.booked.is_estimate) == (2, False)
            assert ran.booked.nanousd in costs


@every_version
async def test_a_copied_project_folder_changes_nothing_of_what_a_run_costs(desk: Desk, version: CliVersion) -> None:
    desk.settle_in(version)
    session_id = (await desk.ask()).run.session_id
    (project,) = (desk.config_dir / "projects").iterdir()
    for name in ("0-copy", "zz-copy"):  # the one the CLI goes on with is neither first nor last
        shutil.copytree(project, project.with_name(name))
    for _ in range(3):
        await desk.ask(session_id)
    assert_exact(desk)


@pytest.mark.parametrize("version", CLI_VERSIONS[1:], ids=lambda version: version.name)  # the older one waits for it
async def test_a_budget_reached_while_a_subagent_is_at_work_is_booked_as_a_floor(
    desk: Desk, version: CliVersion
) -> None:
    desk.settle_in(version)
    more = Reply(tools=(ToolUse("Bash", {"command": "true"}),), for_model="sonnet")
    slow = Reply(text="word", text_size=4000, mode="slow", for_model="haiku")
    replies = (call_helper(in_background=True), slow, more, more)
    desk.standin.accounts["alice"] = Behaviour(replies=replies, chunks=30)
    cut = await desk.ask(tool_profile="full", max_cost_nanousd=50_000_000)
    assert cut.run.outcome is Outcome.BUDGET
    assert cut.booked.is_estimate
    finished = sum(call.cost_nanousd or 0 for call in cut.calls if call.state == "complete")
    assert finished < cut.booked.nanousd <= cut.billed.nanousd


@pytest.mark.parametrize("lost", ["pid", "stdout.jsonl", ""], ids=["pid", "output", "directory"])
async def test_a_run_whose_files_are_removed_while_it_answers_is_booked_and_its_transcript_completes_it(
    desk: Desk, lost: str
) -> None:
    desk.settle_in(NEWEST)
    reply = Reply(text="word", text_size=400, mode="slow")
    desk.standin.accounts["alice"] = Behaviour(replies=(reply,), chunks=10)
    async with open_pool(desk.settings, desk.env) as pool:
        with anyio.fail_after(ASK_S):
            run = await pool.ask(Ask("ping", "test", model=MODEL, background=True))
            files = desk.settings.runs_dir / run.run_id
            await until(lambda: b"content_block_delta" in _read(files / "stdout.jsonl"), ASK_S)
            pid = int((files / "pid").read_text())
            (files / lost).unlink() if lost else shutil.rmtree(files)
            await until(lambda: not Path(f"/proc/{pid}/fd/1").exists(), ASK_S)
            with contextlib.suppress(PoolError):
                await pool.result(run.run_id, wait_s=ASK_S)
            await pool.outside.import_all(lambda _: None)
    assert desk.spent_nanousd() == desk.standin.spent_nanousd()


async def test_a_run_whose_files_are_gone_with_its_server_is_an_estimate_that_its_transcript_completes(
    desk: Desk,
) -> None:
    desk.settle_in(NEWEST)
    reply = Reply(text="word", text_size=400, mode="slow")
    desk.standin.accounts["alice"] = Behaviour(replies=(reply,), chunks=10)
    command = [sys.executable, "-m", "pool_mcp", "ask", "ping", f"--model={MODEL}"]
    async with await anyio.open_process(command, env=desk.env, stdin=subprocess.DEVNULL) as server:
        outputs = desk.settings.runs_dir
        await until(lambda: any(b"content_block_delta" in _read(one) for one in outputs.glob("*/stdout.jsonl")), ASK_S)
        server.kill()
    (files,) = outputs.iterdir()
    run_id, pid = files.name, int((files / "pid").read_text())
    shutil.rmtree(files)
    await until(lambda: not Path(f"/proc/{pid}/fd/1").exists(), ASK_S)
    async with open_pool(desk.settings, desk.env) as pool:
        with anyio.fail_after(ASK_S), pytest.raises(PoolError):
            await pool.result(run_id, wait_s=ASK_S)
        await pool.outside.import_all(lambda _: None)
    with closing(open_ledger(desk.settings)) as ledger, ledger.read() as tx:
        booked = tx.runs.get(run_id)
    assert booked is not None
    assert booked.cost is not None
    assert booked.cost.is_estimate
    assert desk.spent_nanousd() == desk.standin.spent_nanousd() > 0
