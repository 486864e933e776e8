"""An ask as it leaves the program: its answer, its runs, and all that is known of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from pool_mcp.choosing import pacing
from pool_mcp.model import Cost, Run, Tokens, Waiting
from pool_mcp.results.base import (
    AdviceResult,
    Instant,
    Shape,
    TokensResult,
    advice_result,
    maybe_usd,
    tokens_result,
    usd,
)


class AttemptResult(Shape):
    """One execution of the CLI for this ask."""

    run_id: str
    subscription: str
    outcome: str
    cost_usd: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands in the queue, what for, and when its turn is expected."""

    position: int
    reason: str
    expected_at_ms: int | None
    waiting: Waiting


class AskResult(Shape):
    """An answer, or word that it is still being made or waits for room."""

    status: Literal["completed", "running", "waiting"]
    run_id: str
    position: int | None = None
    reason: str | None = Field(default=None, description="What it waits for.")
    expected_at: Instant | None = Field(default=None, description="When it may begin.")
    text: str = Field(description="The answer, or this page of it.")
    structured: Any = None
    session_id: str = Field(description="Pass it to the next ask to go on with this conversation.")
    subscription: str | None = None
    model: str | None
    cost_usd: float | None = Field(description="List-price cost; null until the run has ended.")
    cost_is_estimate: bool
    tokens: TokensResult
    duration_ms: int
    attempts: list[AttemptResult]
    advice: AdviceResult
    next_offset: int | None = Field(default=None, description="Pass as offset to ask_result for the rest of the text.")
    next_step: str | None = Field(default=None, description="How to get the answer, or the rest of it.")


class RunResult(Shape):
    """One run of the CLI: where, for whom, how it ended, what it cost."""

    run_id: str
    ask_id: str
    subscription: str
    caller: str
    model: str | None = Field(description="The one that answered, else the one that was asked for.")
    state: str
    outcome: str | None
    message: str | None
    created_at: Instant
    started_at: Instant | None
    ended_at: Instant | None
    duration_ms: int
    cost_usd: float | None
    cost_is_estimate: bool
    reserved_usd: float = Field(description="What it may still cost; 0 once it has ended.")
    spent_usd: float | None = Field(default=None, description="At least so much so far, while it runs here.")


class RunsResult(Shape):
    """What runs now, and what has ended; newest first."""

    generated_at: Instant
    running: list[RunResult]
    ended: list[RunResult]


class QueuedResult(Shape):
    """An ask that waits."""

    position: int
    run_id: str
    caller: str
    urgency: str
    wait_for: str
    reason: str
    asked_at: Instant
    not_before: Instant | None
    expected_at: Instant | None = Field(description="When it may begin; null where that is not known.")
    give_up_at: Instant
    prompt: str = Field(description="Its first words.")


class QueueResult(Shape):
    """What waits, the first to be served first."""

    generated_at: Instant
    waiting: list[QueuedResult]


class ModelResult(Shape):
    """What one model did in a run."""

    model: str
    tokens: TokensResult
    cost_usd: float | None


class RunDetails(RunResult):
    """All that is known of a run but what was said."""

    resumed: bool
    background: bool
    cancel_requested: bool
    deadline_at: Instant
    retry_at: Instant | None
    queued_at: Instant | None = Field(description="Since when it waited; null where it did not.")
    cli_version: str | None
    tokens: TokensResult
    models: list[ModelResult]
    files: str | None = Field(description="Null once they have been removed.")
    files_kept_until: Instant | None


class AskDetails(Shape):
    """One ask with its attempts, first to last."""

    generated_at: Instant
    ask_id: str
    caller: str
    session_id: str
    state: str
    outcome: str | None
    asked_at: Instant
    duration_ms: int
    cost_usd: float = Field(description="Of all attempts that have ended.")
    cost_is_estimate: bool
    attempts: list[RunDetails]
    text: str | None = Field(default=None, description="The answer, or what there is of it, where it was asked for.")
    structured: Any = None


def ask_result(attempts: Sequence[Run], advice: pacing.Advice, now_ms: int, place: Place | None = None) -> AskResult:
    """An ask for the wire by its attempts, first to last; :func:`with_page` adds the text."""
    run = attempts[-1]
    costs = [one.cost for one in attempts if one.cost is not None]
    cost = sum(costs, Cost()) if run.cost is not None else Cost(is_estimate=True)
    return AskResult(
        status="waiting" if place else "completed" if run.finished else "running",
        run_id=run.run_id,
        position=place.position if place else None,
        reason=place.reason if place else None,
        expected_at=place.expected_at_ms if place else None,
        text="",
        session_id=run.session_id,
        subscription=run.subscription or None,
        model=_main_model(cost, run),
        cost_usd=maybe_usd(cost.nanousd if run.cost else None),
        cost_is_estimate=cost.is_estimate,
        tokens=tokens_result(cost.tokens),
        duration_ms=max(0, (run.ended_at_ms or now_ms) - attempts[0].created_at_ms),
        attempts=[_attempt(one) for one in attempts],
        next_step=None if run.finished else f"Call ask_result with run_id {run.run_id} for the answer{_cancel(place)}.",
        advice=advice_result(advice, now_ms),
    )


def queue_result(places: Iterable[tuple[Place, str]], now_ms: int) -> QueueResult:
    """The queue for the wire: each with where it stands and its first words."""
    return QueueResult(generated_at=now_ms, waiting=[_queued(place, words) for place, words in places])


def _queued(place: Place, words: str) -> QueuedResult:
    waiting, run = place.waiting, place.waiting.run
    return QueuedResult(
        position=place.position,
        run_id=run.run_id,
        caller=run.caller,
        urgency=run.urgency,
        wait_for=waiting.wait_for,
        reason=place.reason,
        asked_at=run.created_at_ms,
        not_before=waiting.not_before_ms,
        expected_at=place.expected_at_ms,
        give_up_at=waiting.give_up_at_ms,
        prompt=words,
    )


def _cancel(place: Place | None) -> str:
    return ", or with cancel to take it out of the queue" if place else ""


def with_page(answer: AskResult, text: str, structured: object, offset: int, page_chars: int) -> AskResult:
    """A finished ask with one page of its text; the structured answer comes with the first."""
    end = offset + page_chars
    has_more = end < len(text)
    following = f"Call ask_result with run_id {answer.run_id} and offset {end} for the rest of the text."
    page = {
        "text": text[offset:end],
        "structured": structured if offset == 0 else None,
        "next_offset": end if has_more else None,
        "next_step": following if has_more else None,
    }
    return answer.model_copy(update=page)


def _attempt(run: Run) -> AttemptResult:
    return AttemptResult(
        run_id=run.run_id,
        subscription=run.subscription,
        outcome=run.outcome.value if run.outcome else run.state.value,
        cost_usd=maybe_usd(run.cost.nanousd if run.cost else None),
        message=run.message,
    )


def runs_result(
    running: Iterable[Run], ended: Iterable[Run], now_ms: int, spent_nanousd: Mapping[str, int] = MappingProxyType({})
) -> RunsResult:
    """What runs, and what has ended, for the wire; ``spent_nanousd`` has what is running by its id."""
    return RunsResult(
        generated_at=now_ms,
        running=[_run(run, now_ms, spent_nanousd.get(run.run_id)) for run in running],
        ended=[_run(run, now_ms) for run in ended],
    )


def _run(run: Run, now_ms: int, spent_nanousd: int | None = None) -> RunResult:
    return RunResult(**_run_fields(run, now_ms), spent_usd=maybe_usd(spent_nanousd))


def ask_details(
    attempts: Sequence[tuple[Run, str | None, int | None]],
    now_ms: int,
    text: str | None = None,
    structured: object = None,
) -> AskDetails:
    """An ask for the wire, by its attempts, first to last, each with where its files are and until when."""
    first, last = attempts[0][0], attempts[-1][0]
    costs = [run.cost for run, _, _ in attempts if run.cost]
    return AskDetails(
        generated_at=now_ms,
        ask_id=last.ask_id,
        caller=last.caller,
        session_id=last.session_id,
        state=last.state.value,
        outcome=last.outcome.value if last.outcome else None,
        asked_at=first.created_at_ms,
        duration_ms=max(0, (last.ended_at_ms or now_ms) - first.created_at_ms),
        cost_usd=usd(sum(cost.nanousd for cost in costs)),
        cost_is_estimate=any(cost.is_estimate for cost in costs),
        attempts=[_run_details(*attempt, now_ms) for attempt in attempts],
        text=text,
        structured=structured,
    )


def _run_details(run: Run, files: str | None, kept_until_ms: int | None, now_ms: int) -> RunDetails:
    models = run.cost.models if run.cost else {}
    return RunDetails(
        **_run_fields(run, now_ms),
        resumed=run.resumed,
        background=run.background,
        cancel_requested=run.cancel_requested,
        deadline_at=run.deadline_ms,
        retry_at=run.retry_at_ms,
        queued_at=run.queued_at_ms,
        cli_version=run.cli_version,
        tokens=tokens_result(run.cost.tokens if run.cost else Tokens()),
        models=[
            ModelResult(model=model, tokens=tokens_result(part.tokens), cost_usd=maybe_usd(part.cost_nanousd))
            for model, part in models.items()
        ],
        files=files,
        files_kept_until=kept_until_ms,
    )


def _run_fields(run: Run, now_ms: int) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "ask_id": run.ask_id,
        "subscription": run.subscription,
        "caller": run.caller,
        "model": _main_model(run.cost or Cost(), run),
        "state": run.state.value,
        "outcome": run.outcome.value if run.outcome else None,
        "message": run.message,
        "created_at": run.created_at_ms,
        "started_at": run.started_at_ms,
        "ended_at": run.ended_at_ms,
        "duration_ms": max(0, (run.ended_at_ms or now_ms) - run.created_at_ms),
        "cost_usd": maybe_usd(run.cost.nanousd if run.cost else None),
        "cost_is_estimate": run.cost is not None and run.cost.is_estimate,
        "reserved_usd": 0.0 if run.finished else usd(run.reserved_nanousd),
    }


def _main_model(cost: Cost, run: Run) -> str | None:
    """The model that wrote most of the answer, else the one that was asked for."""
    return max(cost.models, key=lambda model: cost.models[model].tokens.output, default=run.model)
