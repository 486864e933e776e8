"""Runs the CLI for one run: starts it on the run's files, follows it to its end, and says what that comes to."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread

from pool_mcp.asks import outcomes
from pool_mcp.choosing import overage
from pool_mcp.choosing.cooldowns import cooldown_after
from pool_mcp.claude import transcripts
from pool_mcp.claude.command import Command, argv
from pool_mcp.claude.cost import Price, cost_so_far, run_cost, session_cost
from pool_mcp.claude.find import find_cli
from pool_mcp.claude.process import READ_BYTES, CliProcess, RunFiles, Stop, booted_at_ms, environment, follow, start
from pool_mcp.claude.stream import LineBuffer, RunStream
from pool_mcp.claude.verdict import judge
from pool_mcp.errors import InvalidRequest
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
LINGER_S = 5.0
"""How long a CLI may stay after it has reported its result."""
_PAID = "its plan is used up, and going on would cost real money (overage_budget_usd is 0)"
_ENDLESS = (
    f"The CLI printed more than {MAX_OUTPUT_BYTES // 1024**2} MB and was killed; run `claude --version` to check it."
)


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

    def files(self, run_id: str) -> RunFiles:
        """A run's files, whether or not they are there."""
        return RunFiles(self._settings.runs_dir / run_id)

    def find_session(self, session_id: str) -> Subscription | None:
        """The subscription in whose config dir the CLI keeps a session."""
        for subscription in self._settings.subscriptions:
            if transcripts.find_transcript(self._config_dir(subscription), session_id):
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

    def prepare(self, run: Run, ask: Ask) -> str | None:
        """Put the run's files on the disk; return what the CLI has booked on its session so far, as JSON."""
        # A prompt that begins with a slash would be a command of the CLI's own; after a newline it is just words.
        prompt = "\n" + ask.prompt if ask.prompt.startswith("/") else ask.prompt
        self.files(run.run_id).prepare(prompt)
        state = self._cost_state(run) if run.resumed else None
        return None if state is None else json.dumps(state)

    def start(self, run: Run, ask: Ask) -> CliProcess:
        """Start the CLI on a prepared run. From here on it may spend.

        Raises:
            PoolError, OSError: it could not be started.
        """
        subscription = self._settings.subscription(run.subscription)
        found = self.check(subscription)
        if subscription.config_dir is not None:
            make_directory(subscription.config_dir)
        profile = ask.tool_profile or self._settings.claude.tool_profile
        command = Command(
            session_id=run.session_id,
            resume=run.resumed,
            model=ask.model,
            effort=ask.effort,
            system_prompt=ask.system_prompt,
            json_schema=ask.json_schema,
            max_budget_usd=None if run.max_budget_nanousd is None else run.max_budget_nanousd / NANO,
            tool_profile=profile,
        )
        env = environment(
            self._env,
            config_dir=subscription.config_dir,
            api_key_env=subscription.api_key_env,
            oauth_token_env=subscription.oauth_token_env,
            base_url=self._settings.claude.base_url,
            attachments=profile == "full",
        )
        return start(found, argv(command), self.files(run.run_id), env, self._working_dir(ask))

    async def follow(self, run: Run, process: CliProcess, control: Control, watcher: Watcher) -> Settlement:
        """Read the run's output to its end; stop the CLI when told to, out of time or budget, or when it lingers.

        Waits for nothing but the CLI, and for that within bounds.
        """
        files = self.files(run.run_id)
        stream, lines = RunStream(), LineBuffer()
        stop: Stop | None = None
        read_bytes, spending = 0, _Spending()
        heard_s = anyio.current_time()
        deadline_s = heard_s + (run.deadline_ms - self._clock()) / SECOND_MS
        async for data in follow(process, files):
            now_s = anyio.current_time()
            read_bytes += len(data)
            readings = [reading for line in lines.feed(data) for reading in stream.feed(line, self._clock())]
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
        stream.feed(lines.rest(), self._clock())
        settlement = self._settlement(run, stream, control.stop, process.exit_code)
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
            spending.within_plan_nanousd = await anyio.to_thread.run_sync(self._spent_nanousd, run, planned)
        has_ended = stream.calls_to_follow > spending.calls
        last = next(reversed(stream.calls.values()), None)
        told_of_payment = is_paid and not was_paid and last is not None and last.is_followed
        if stream.result is not None or not (has_ended or told_of_payment):
            return
        spending.calls = stream.calls_to_follow
        subscription = self._subscription(run)
        if is_paid and not (subscription and subscription.overage_budget_nanousd):
            control.stop = control.stop or Outcome.LIMIT  # at once, whatever the ledger does
        nanousd = await anyio.to_thread.run_sync(self._spent_nanousd, run, stream)
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
                        stream.feed(line, 0)
            stream.feed(lines.rest(), 0)
        return stream

    def _settlement(self, run: Run, stream: RunStream, stop: Outcome | None, exit_code: int | None) -> Settlement:
        files, now_ms = self.files(run.run_id), self._clock()
        verdict = judge(stream)
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
            cooldown = cooldown or cooldown_after(outcome, limit, said, subscription, now_ms)
        began_ms = run.started_at_ms or run.created_at_ms
        return Settlement(
            run_id=run.run_id,
            state=outcomes.state_of(outcome, has_result=verdict is not None, has_spent=bool(stream.calls)),
            outcome=outcome,
            message=outcomes.explain(outcome, said, run),
            cost=self._cost(run, stream, began_ms),
            ended_at_ms=max(began_ms, min(now_ms, _last_written_ms(files, now_ms))),
            cli_version=stream.cli_version,
            retry_at_ms=cooldown.until_ms if cooldown else None,
            cooldown=cooldown,
            message_keys=tuple(map(transcripts.message_key, stream.calls)),
            has_acted=stream.has_acted,
            overage=stream.overage,
        )

    def _cost(self, run: Run, stream: RunStream, at_ms: int) -> Cost:
        if not self.files(run.run_id).was_started:
            if at_ms > booted_at_ms():
                return Cost()
            stream.requests += 1  # a power cut can have taken the files of a run that had begun
        before = session_cost(json.loads(run.baseline_json)) if run.baseline_json else None
        after = None
        transcript = None if stream.is_whole else self._transcript(run)
        if transcript is not None:
            state = transcripts.last_cost_state(transcript)
            after = session_cost(state) if state else None
            for message in transcripts.subagent_calls(transcript, at_ms):
                stream.add_finished_call(message)
        price = _price_at(at_ms)
        return run_cost(stream, before=before, after=after, prompt_bytes=self._prompt_bytes(run), price=price)

    def _spent_nanousd(self, run: Run, stream: RunStream) -> int:
        return cost_so_far(stream, _price_at(run.started_at_ms or run.created_at_ms)).nanousd

    def _prompt_bytes(self, run: Run) -> int:
        try:
            return self.files(run.run_id).prompt.stat().st_size
        except OSError:
            return 0

    def _transcript(self, run: Run) -> Path | None:
        subscription = self._subscription(run)
        return transcripts.find_transcript(self._config_dir(subscription), run.session_id) if subscription else None

    def _cost_state(self, run: Run) -> dict[str, Any] | None:
        transcript = self._transcript(run)
        return transcripts.last_cost_state(transcript) if transcript else None

    def _config_dir(self, subscription: Subscription) -> Path:
        return transcripts.config_dir_or_default(subscription.config_dir, self._env)

    def _working_dir(self, ask: Ask) -> Path:
        """The caller's directory, else an empty one of our own in which there is nothing to be read."""
        if ask.working_dir is not None:
            return Path(ask.working_dir).expanduser()
        return make_directory(self._settings.state_dir / "work")


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
