"""Runs the CLI for one run: starts it on the run's files, follows it to its end, and says what that comes to."""

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread

from pool_mcp.asks import outcomes
from pool_mcp.asks.directories import working_dir
from pool_mcp.choosing import overage
from pool_mcp.choosing.cooldowns import cooldown_after
from pool_mcp.claude import sessions
from pool_mcp.claude.command import SYSTEM_PROMPT_TOKENS, Command, argv, request_tokens
from pool_mcp.claude.cost import Price, baseline, cost_so_far, run_cost, session_cost
from pool_mcp.claude.fields import MAX_MS, as_text
from pool_mcp.claude.find import find_cli
from pool_mcp.claude.process import READ_BYTES, CliProcess, RunFiles, Stop, environment, follow, start
from pool_mcp.claude.stream import LineBuffer, RunStream
from pool_mcp.claude.transcripts import message_key
from pool_mcp.claude.verdict import Verdict, judge
from pool_mcp.claude.waiting import WaitingCli, start_waiting
from pool_mcp.errors import InvalidRequest, PoolError
from pool_mcp.model import (
    NANO,
    SECOND_MS,
    Ask,
    Cost,
    Outcome,
    OverageReading,
    Run,
    Settlement,
    Subscription,
    Tokens,
    WindowReading,
)
from pool_mcp.settings import Settings
from pool_mcp.system import places
from pool_mcp.system.private import make_directory

MAX_OUTPUT_BYTES = 512 * 1024**2
"""More than any run prints; a CLI that goes beyond is broken, and killed before it fills the disk."""
KEPT_ANSWERS = 8
"""How many verdicts are remembered, so that the answer of a run that has just been followed is not read again."""
KEPT_CHARS = 1_000_000
"""A longer answer is read from its file."""
_OWNER = "owner_id"
LINGER_S = 5.0
"""How long a CLI may stay after it has reported its result."""
_PAID = "its plan is used up, and going on would cost real money (overage_budget_usd is 0)"
_ENDLESS = (
    f"The CLI printed more than {MAX_OUTPUT_BYTES // 1024**2} MB and was killed; run `claude --version` to check it."
)


@dataclass(frozen=True, slots=True)
class Start:
    """What a CLI is started with besides files and directory; the environment has credentials, so it is never shown."""

    cli: Path
    command: Command
    env: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class Control:
    """What a followed run is told (``stop``, by what outcome) and tells (``doing``)."""

    stop: Outcome | None = None
    doing: str = "starting the CLI"


@dataclass(slots=True)
class _Spending:
    """How far a followed run's spend was looked at: the calls, and what was spent before paid use began."""

    calls: int = 0
    within_plan_nanousd: int | None = None

    def beyond_plan(self, nanousd: int) -> int:
        return 0 if self.within_plan_nanousd is None else max(0, nanousd - self.within_plan_nanousd)


class Watcher(Protocol):
    """Who is told how a followed run goes on, and decides whether it may; none of it waits.

    What is decided arrives in the run's :class:`Control`.
    """

    def heard(self, readings: list[WindowReading], overage: OverageReading | None, models: set[str]) -> None:
        """Take in what Anthropic reported of its windows and of paid use, and which models have begun to answer."""

    def spent(self, nanousd: int, next_nanousd: int, overage_nanousd: int) -> None:
        """Take in, between two API calls, what was spent, what the next may cost, and what was beyond the plan."""


class Runner:
    """Starts and follows runs of the CLI under the given settings and environment."""

    def __init__(self, settings: Settings, env: Mapping[str, str], clock: Callable[[], int]) -> None:
        self._settings = settings
        self._env = env
        self._clock = clock
        self._verdicts: dict[str, Verdict] = {}

    def files(self, run_id: str) -> RunFiles:
        """A run's files, whether or not they are there."""
        return RunFiles(self._settings.runs_dir / run_id)

    def find_session(self, session_id: str) -> Subscription | None:
        """The subscription in whose config dir the CLI keeps a session."""
        for subscription in self._settings.subscriptions:
            if sessions.find_transcripts(self.config_dir(subscription), session_id):
                return subscription
        return None

    def check(self, subscription: Subscription | None = None) -> Path:
        """The CLI, if it is there and the subscription's variable is set.

        Raises:
            CliMissing: there is no CLI on this machine.
            InvalidRequest: the variable that should hold the subscription's credential is not set.
        """
        for name in (subscription.api_key_env, subscription.oauth_token_env) if subscription else ():
            if name is not None and places.read_env(self._env, name) is None:
                raise InvalidRequest(
                    f"The variable {name} of subscription {subscription.id if subscription else ''!r} is not set for "
                    "this server; add it to the host's configuration of pool-mcp.",
                )
        return find_cli(self._settings.claude.path, self._env)

    def can_serve(self, subscription: Subscription) -> bool:
        """Whether this process has what a subscription needs; another one may have another environment."""
        try:
            self.check(subscription)
        except PoolError:
            return False
        return True

    def store(self, run_id: str, ask: Ask, owner_id: str = "") -> None:
        """Put an ask on the disk, before the ledger knows of its run; ``owner_id`` is the process that does."""
        prompt = prompt_of(ask)
        rest = {name: value for name, value in asdict(ask).items() if name != "prompt"} | {_OWNER: owner_id}
        self.files(run_id).store(prompt, rest, request_tokens(self._command(None, ask), prompt))

    def load(self, run_id: str) -> Ask | None:
        """The ask of a run that has not ended, from the disk; None where it is not there."""
        stored = self.files(run_id).load()
        if stored is None:
            return None
        prompt, rest = stored
        known = {one.name for one in fields(Ask)}
        return Ask(prompt, **{name: value for name, value in rest.items() if name in known})  # type: ignore[arg-type]

    def left_by(self, owners: Collection[str]) -> list[str]:
        """The runs whose asks were put on the disk by these processes and are still there."""
        names = (path.parent.name for path in self._settings.runs_dir.glob("*/ask.json"))
        return [name for name in names if self.files(name).ask_alone().get(_OWNER) in owners]

    def drop(self, run_id: str) -> None:
        """Remove the files of a run that the ledger does not know."""
        shutil.rmtree(self.files(run_id).directory, ignore_errors=True)

    def prepare(self, run: Run, ask: Ask) -> str | None:
        """Have the run's files on the disk; return what the CLI has booked on its session so far, as JSON."""
        files = self.files(run.run_id)
        if not files.is_stored():
            self.store(run.run_id, ask)
        files.note_where()
        states = map(sessions.last_cost_state, self._transcripts(run) if run.resumed else ())
        state = next(states, None)
        return None if state is None else json.dumps(state)

    def start(self, run: Run, ask: Ask) -> CliProcess:
        """Start the CLI on a prepared run. From here on it may spend.

        Raises:
            PoolError, OSError: it could not be started.
        """
        ready = self._ready(self._settings.subscription(run.subscription), self._command(run, ask))
        with self._working_dir(ask) as cwd:
            return start(ready.cli, argv(ready.command), self.files(run.run_id), ready.env, cwd)

    def waiting(self, subscription: Subscription, ask: Ask) -> Start:
        """What a CLI is started with that is to wait for an ask without a directory; no session and no budget yet.

        Raises:
            PoolError, OSError: none can be started.
        """
        return self._ready(subscription, replace(self._command(None, ask), is_waiting=True))

    def start_waiting(
        self, ready: Start, files: RunFiles, session_id: str, max_budget_nanousd: int | None
    ) -> WaitingCli:
        """Start a CLI that waits for its prompt.

        Raises:
            OSError: it could not be started.
        """
        budget_usd = None if max_budget_nanousd is None else max_budget_nanousd / NANO
        command = replace(ready.command, session_id=session_id, max_budget_usd=budget_usd)
        return start_waiting(ready.cli, argv(command), files, ready.env, self._own_dir())

    def _ready(self, subscription: Subscription, command: Command) -> Start:
        found = self.check(subscription)
        if subscription.config_dir is not None:
            make_directory(subscription.config_dir)
        env = environment(
            self._env,
            config_dir=subscription.config_dir,
            api_key_env=subscription.api_key_env,
            oauth_token_env=subscription.oauth_token_env,
            base_url=self._settings.claude.base_url,
            attachments=command.tool_profile == "full",
        )
        return Start(found, command, env)

    def _command(self, run: Run | None, ask: Ask) -> Command:
        budget_nanousd = None if run is None else run.max_budget_nanousd
        return Command(
            session_id="" if run is None else run.session_id,
            resume=run is not None and run.resumed,
            model=ask.model,
            effort=ask.effort,
            system_prompt=ask.system_prompt,
            json_schema=ask.json_schema,
            max_budget_usd=None if budget_nanousd is None else budget_nanousd / NANO,
            tool_profile=ask.tool_profile or self._settings.claude.tool_profile,
        )

    async def follow(self, run: Run, process: CliProcess, control: Control, watcher: Watcher) -> Settlement:
        """Read the run's output to its end; stop the CLI when told to, out of time or budget, or when it lingers.

        Waits for nothing but the CLI, and for that within bounds.
        What an adopted run wrote before it was adopted is dated by its own events.
        """
        files = self.files(run.run_id)
        stream, lines = RunStream(at_ms=_started_at_ms(run)), LineBuffer()
        written_before = 0 if process.is_own else files.output_bytes
        stop: Stop | None = None
        read_bytes, spending = 0, _Spending()
        heard_s = anyio.current_time()
        deadline_s = heard_s + (run.deadline_ms - self._clock()) / SECOND_MS
        async for data in follow(process, files):
            now_s = anyio.current_time()
            read_bytes += len(data)
            written_ms = self._clock() if read_bytes > written_before else None
            readings = [reading for line in lines.feed(data) for reading in stream.feed(line, written_ms)]
            if data:
                watcher.heard(readings, stream.overage, {call.model for call in stream.calls.values()})
                heard_s = now_s
                control.doing = _doing(stream)
                await anyio.lowlevel.checkpoint()
                await self._watch_spending(run, stream, spending, control, watcher)
            # A subagent in the background works on after the first result, and is silent while it does.
            is_done = stream.result is not None and not stream.unfinished_agents
            # Not what ended in time and was found too late.
            if control.stop is None and now_s > deadline_s and not is_done and process.is_alive:
                control.stop = Outcome.TIMEOUT
            if files.output_bytes > MAX_OUTPUT_BYTES:
                control.stop = control.stop or Outcome.CLI_FAILED
                break
            lingers = is_done and now_s - heard_s > LINGER_S
            if stop is None and (control.stop is not None or lingers):
                stop = Stop(process, now_s)
            if stop is not None:
                stop.tick(now_s)
                if stop.is_long_past(now_s) and not process.is_alive:
                    break  # what it wrote is more than can be read; no result is worth waiting for
        process.kill_leftovers()
        files.cut_output(read_bytes)
        stream.feed(lines.rest(), None)
        settlement = await anyio.to_thread.run_sync(self._settlement, run, stream, control.stop, process.exit_code)
        return replace(settlement, overage_nanousd=spending.beyond_plan(settlement.cost.nanousd))

    async def _watch_spending(
        self, run: Run, stream: RunStream, spending: "_Spending", control: Control, watcher: Watcher
    ) -> None:
        """Between two API calls is where a run can be kept from spending more than there is.

        That a call was paid beyond the plan is known right after it has ended.
        """
        is_paid = stream.overage is not None and stream.overage.in_use
        was_paid = spending.within_plan_nanousd is not None
        if is_paid and not was_paid:
            planned = replace(stream, calls=dict(list(stream.calls.items())[:-1]))
            spending.within_plan_nanousd = await anyio.to_thread.run_sync(self.spent_nanousd, run, planned)
        has_ended = stream.calls_to_follow > spending.calls
        last = next(reversed(stream.calls.values()), None)
        told_of_payment = is_paid and not was_paid and last is not None and last.is_followed
        if stream.result is not None or not (has_ended or told_of_payment):
            return
        spending.calls = stream.calls_to_follow
        subscription = self._subscription(run)
        if is_paid and not (subscription and subscription.overage_budget_nanousd):
            control.stop = control.stop or Outcome.LIMIT  # at once, whatever the ledger does
        nanousd = await anyio.to_thread.run_sync(self.spent_nanousd, run, stream)
        watcher.spent(nanousd, nanousd // len(stream.calls), spending.beyond_plan(nanousd))

    def _subscription(self, run: Run) -> Subscription | None:
        return next((one for one in self._settings.subscriptions if one.id == run.subscription), None)

    def read(self, run_id: str, last_bytes: int = MAX_OUTPUT_BYTES) -> RunStream:
        """What the last of a run's output says, from its file; empty where the file has been removed."""
        files = self.files(run_id)
        stream, lines, path = RunStream(), LineBuffer(), files.stdout
        if path.exists():
            with path.open("rb") as file:
                file.seek(max(0, files.output_bytes - last_bytes))
                while data := file.read(READ_BYTES):
                    for line in lines.feed(data):
                        stream.feed(line, None)
            stream.feed(lines.rest(), None)
        return stream

    def verdict(self, run_id: str) -> Verdict | None:
        """How a run ended by its own account; None where it gave none, or its file has been removed."""
        return self._verdicts.get(run_id) or judge(self.read(run_id))

    def _keep(self, run_id: str, verdict: Verdict | None) -> None:
        if verdict is not None and verdict.structured is None and len(verdict.text) <= KEPT_CHARS:
            self._verdicts[run_id] = verdict
            for old in list(self._verdicts)[:-KEPT_ANSWERS]:
                self._verdicts.pop(old, None)

    def _settlement(self, run: Run, stream: RunStream, stop: Outcome | None, exit_code: int | None) -> Settlement:
        files, began_ms = self.files(run.run_id), _started_at_ms(run)
        ended_ms = max(began_ms, min(self._clock(), _last_written_ms(files, self._clock())))
        verdict = judge(stream)
        self._keep(run.run_id, verdict)
        said: str | None
        if verdict is None:
            outcome = stop or Outcome.CLI_FAILED
            said = _complaint(files, exit_code, stream)
            said = {Outcome.CLI_FAILED: _ENDLESS, Outcome.LIMIT: _PAID}.get(outcome, said) if stop else said
        elif stop is not None and verdict.outcome not in (Outcome.OK, *outcomes.FAILOVER):
            outcome, said = stop, _PAID if stop is Outcome.LIMIT else None
        else:
            outcome, said = verdict.outcome, verdict.message
        cooldown = None
        if subscription := self._subscription(run):
            limit = verdict.limit if verdict else None
            cooldown = overage.cooldown(subscription, stream.overage) if stream.overage else None
            cooldown = cooldown or cooldown_after(outcome, limit, said, subscription, ended_ms)
        cost = self._cost(run, stream, exit_code)
        return Settlement(
            run_id=run.run_id,
            state=outcomes.state_of(outcome, has_result=verdict is not None, has_spent=bool(stream.calls)),
            outcome=outcome,
            message=outcomes.explain(outcome, said, run, self._subscription(run)),
            cost=cost,
            ended_at_ms=ended_ms,
            cli_version=stream.cli_version,
            retry_at_ms=cooldown.until_ms if cooldown else None,
            cooldown=cooldown,
            message_keys=tuple(map(message_key, [*stream.calls, *self._subagent_calls(run, stream)])),
            has_acted=stream.has_acted,
            overage=stream.overage,
        )

    def _cost(self, run: Run, stream: RunStream, exit_code: int | None) -> Cost:
        """What a run cost, by its stream and its session's transcripts; ``stream`` takes in the calls they add."""
        files, at_ms = self.files(run.run_id), _started_at_ms(run)
        since_ms = at_ms if run.resumed else 0  # a new session has nothing earlier, whatever its clock says
        if stream.is_empty and files.was_never_started:
            return Cost()
        transcripts = self._transcripts(run)
        trace = None
        if run.resumed or stream.result is None:
            prompt = _text_of(files.prompt)
            trace = sessions.trace_run(transcripts, stream.calls, prompt, since_ms)
        is_lost = stream.is_empty and not self._has_refused(files, exit_code, trace)
        may_have_asked = trace is not None or files.may_have_lost_files or not files.stdout.exists()
        if is_lost and may_have_asked and not (trace and trace.calls):
            stream.requests += 1
        if stream.result is None and trace is not None:
            for message in trace.calls:
                stream.add_finished_call(message)
        open_calls = []
        for transcript in () if stream.is_whole else transcripts[:1]:
            for message in sessions.subagent_calls(transcript, (), since_ms):
                stream.add_finished_call(message)
            open_calls = sessions.open_calls(transcript, stream.unfinished_agents)
        stream.model = stream.model or run.model
        least = files.request_tokens
        cost = run_cost(
            stream,
            before=self._baseline(run, stream, trace),
            after=session_cost(trace.after) if trace and trace.after else None,
            request_tokens=SYSTEM_PROMPT_TOKENS if least is None else least,
            open_calls=open_calls,
            price=_price_at(at_ms),
        )
        return replace(cost, is_estimate=True) if is_lost else cost

    def _has_refused(self, files: RunFiles, exit_code: int | None, trace: sessions.RunTrace | None) -> bool:
        """Whether a CLI that printed no event ended by itself with a complaint, before it took the prompt in."""
        return trace is None and exit_code is not None and exit_code >= 0 and _size_of(files.stderr) > 0

    def _baseline(self, run: Run, stream: RunStream, trace: sessions.RunTrace | None) -> Cost | None:
        """What the CLI had booked on the session when the run began.

        By the run's own lines, since others may write to the session until the CLI has read it; as it was just before
        the start where those lines are not found.
        """
        if trace is not None:
            return baseline(stream, [session_cost(state) for state in trace.before])
        return session_cost(json.loads(run.baseline_json)) if run.baseline_json else None

    def _subagent_calls(self, run: Run, stream: RunStream) -> list[str]:
        """The ids of the calls of all subagents that the run started."""
        if not stream.agents:
            return []
        messages = [
            message
            for transcript in self._transcripts(run)[:1]
            for message in sessions.subagent_calls(transcript, stream.agents, MAX_MS)
        ]
        return [message_id for message in messages if (message_id := as_text(message.get("id")))]

    def spent_nanousd(self, run: Run, stream: RunStream) -> int:
        """What a run's output shows of its cost so far; a floor."""
        return cost_so_far(stream, _price_at(_started_at_ms(run))).nanousd

    def _transcripts(self, run: Run) -> list[Path]:
        subscription = self._subscription(run)
        return [] if subscription is None else sessions.find_transcripts(self.config_dir(subscription), run.session_id)

    def config_dir(self, subscription: Subscription) -> Path:
        """Where the CLI keeps a subscription's login and sessions."""
        return sessions.config_dir_or_default(subscription.config_dir, self._env)

    def _working_dir(self, ask: Ask) -> AbstractContextManager[Path]:
        """The caller's directory, checked again, else an empty one of our own in which there is nothing to be read."""
        if ask.working_dir is not None:
            return working_dir(ask, ask.working_dir, self._settings, self._env)
        return nullcontext(self._own_dir())

    def _own_dir(self) -> Path:
        return make_directory(self._settings.state_dir / "work")


def prompt_of(ask: Ask) -> str:
    """What the CLI is given: after a newline, what begins with a slash is no command of the CLI's own, just words."""
    return "\n" + ask.prompt if ask.prompt.startswith("/") else ask.prompt


def _started_at_ms(run: Run) -> int:
    return run.started_at_ms or run.created_at_ms


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _price_at(at_ms: int) -> Price:
    def price(model: str, tokens: Tokens) -> int | None:
        from pool_mcp.accounting.pricing import price_nanousd  # a third of a second to import, and rarely needed

        return price_nanousd(model, tokens, at_ms)

    return price


def _complaint(files: RunFiles, exit_code: int | None, stream: RunStream) -> str:
    """What a CLI that ended without a result left behind, in a line."""
    try:
        with files.stderr.open("rb") as file:
            file.seek(max(0, files.stderr.stat().st_size - 2000))
            last = file.read().decode(errors="replace").strip().splitlines()[-1:]
    except OSError:
        last = []
    said = f": {last[0][:300]}" if last else ""
    garbage = f" and printed {stream.malformed} lines that are not events" if stream.malformed else ""
    code = "" if exit_code is None else f" (exit code {exit_code})"
    return f"The CLI ended without an answer{code}{garbage}{said}; ask again, or run `claude --version` to check it."


def _last_written_ms(files: RunFiles, now_ms: int) -> int:
    """When the CLI last wrote: the end of a run that nobody watched."""
    try:
        return int(files.stdout.stat().st_mtime * 1000)
    except OSError:
        return now_ms


def _doing(stream: RunStream) -> str:
    if stream.text_chars:
        return f"{stream.model or 'Claude'} has written {stream.text_chars:,} characters"
    if stream.retries:
        return f"Anthropic is busy, retry {stream.retries}"
    return "waiting for the first words" if stream.cli_version else "starting the CLI"
