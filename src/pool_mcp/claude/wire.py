"""What goes into the CLI's command line and what its event stream means; pure.

The CLI prints one JSON object a line (``--output-format stream-json``). :class:`Lines` cuts the bytes into lines,
:class:`RunStream` gathers what the lines say, :func:`judge` tells how the run ended and :func:`cost_of` what it cost.
Unknown events and fields are passed over: they come with every release. Nothing here raises on any input.

A run is judged by ``is_error``, status codes and error names, never by ``subtype`` (a used-up limit says
"success") and never by words.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pool_mcp.model import Cost, ModelCost, ModelCosts, Outcome, Tokens, WindowReading, nanousd

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is passed over; the longest real ones hold one answer."""

Price = Callable[[str, Tokens], int | None]
"""List price of one API call in nano-dollars, or None where the model is unknown."""


# The command line


@dataclass(frozen=True, slots=True)
class Command:
    """What one run asks of the CLI; the prompt goes in on stdin."""

    session_id: str
    resume: bool
    model: str | None = None
    effort: str | None = None
    system_prompt: str | None = None
    json_schema: Mapping[str, object] | None = None
    max_budget_usd: float | None = None
    tool_profile: str = "none"
    working_dir: str | None = None


def argv(command: Command) -> list[str]:
    """The CLI's arguments, without the program itself."""
    arguments = ["-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"]
    # The forms with "=" keep a value that begins with a dash from being read as an option.
    arguments.append(f"--resume={command.session_id}" if command.resume else f"--session-id={command.session_id}")
    if command.model:
        arguments.append(f"--model={command.model}")
    if command.effort:
        arguments.append(f"--effort={command.effort}")
    if command.system_prompt is not None:
        arguments.append(f"--system-prompt={command.system_prompt}")
    if command.json_schema is not None:
        arguments.append(f"--json-schema={json.dumps(command.json_schema)}")
    if command.max_budget_usd is not None:
        # The CLI refuses 0; less than this is less than any call costs.
        arguments.append(f"--max-budget-usd={max(command.max_budget_usd, 0.000001):.6f}")
    match command.tool_profile:
        case "full":
            arguments += ["--permission-mode=dontAsk"]
        case "read":
            arguments += [
                "--tools=Read,Glob,Grep",
                # Inside its directory the CLI needs no permission to read; outside it would ask, and is refused.
                # Naming a tool in --allowedTools would allow it everywhere.
                "--permission-mode=dontAsk",
                "--strict-mcp-config",
                "--setting-sources=",
            ]
        case _:
            arguments += ["--tools=", "--strict-mcp-config", "--setting-sources="]
    return arguments


# The event stream


class Lines:
    """Cuts a growing byte stream into whole lines; an overlong line is dropped and counted."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.dropped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes, without their newlines."""
        *whole, rest = data.split(b"\n")
        lines = []
        for line in whole:
            self._keep(line)
            lines.append(b"".join(self._parts))
            self._drop_if_too_long(lines)
            self._parts, self._size = [], 0
        self._keep(rest)
        return lines

    def rest(self) -> bytes:
        """What came after the last newline."""
        return b"".join(self._parts)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= MAX_LINE_BYTES:
            self._parts.append(part)

    def _drop_if_too_long(self, lines: list[bytes]) -> None:
        if self._size > MAX_LINE_BYTES:
            lines.pop()
            self.dropped += 1


@dataclass(slots=True)
class ApiCall:
    """One API call as the stream shows it; ``tokens`` and ``chars`` grow while it answers."""

    model: str
    tokens: Tokens
    chars: int = 0
    is_complete: bool = False
    is_cut: bool = False
    is_followed: bool = False


@dataclass(slots=True)
class RunStream:
    """Everything the lines of one run have said so far."""

    cli_version: str | None = None
    session_id: str | None = None
    model: str | None = None
    requests: int = 0
    """API requests that the CLI said it was sending."""
    calls: dict[str, ApiCall] = field(default_factory=dict)
    """API calls that began to answer, by message id."""
    results: list[dict[str, Any]] = field(default_factory=list)
    error_name: str | None = None
    error_status: int | None = None
    limit: WindowReading | None = None
    """The window that refused the run."""
    text_chars: int = 0
    said: str = ""
    """The text of the assistant's last message, also of one that was cut."""
    retries: int = 0
    malformed: int = 0
    unseen: int = 0
    """Finished calls that only a transcript showed."""
    unfinished_agents: set[str] = field(default_factory=set)
    """Subagents that were started and have not come to their own end; what they were being told does not show."""
    _open_call: dict[str | None, str] = field(default_factory=dict)

    @property
    def calls_to_follow(self) -> int:
        """API calls that ended in such a way that the CLI will make a further one."""
        return sum(call.is_followed for call in self.calls.values())

    @property
    def result(self) -> dict[str, Any] | None:
        """The last result line."""
        return self.results[-1] if self.results else None

    def feed(self, line: bytes, now_ms: int) -> list[WindowReading]:
        """Take one line in; return what it reports of official windows."""
        if not line.strip():
            return []
        if not line.lstrip().startswith(b"{"):  # told at a glance, however much of it there is
            self.malformed += 1
            return []
        try:
            text = line.decode(errors="replace")
            event = json.loads(text)
            # Half a surrogate pair, which JavaScript's string functions leave, fits neither the ledger nor an answer.
            if "\\ud" in text or "\\uD" in text:
                event = json.loads(json.dumps(event, ensure_ascii=False).encode(errors="replace"))
        except (ValueError, RecursionError):
            self.malformed += 1
            return []
        if not isinstance(event, dict):
            self.malformed += 1
            return []
        match event.get("type"):
            case "system":
                self._system(event)
            case "assistant":
                self._assistant(event)
            case "stream_event":
                self._partial(event)
            case "rate_limit_event":
                return self._rate_limit(_object(event.get("rate_limit_info")), now_ms)
            case "result":
                self.results.append(event)
                self.session_id = _text(event.get("session_id")) or self.session_id
        return []

    def _system(self, event: dict[str, Any]) -> None:
        match event.get("subtype"):
            case "init":
                self.cli_version = _text(event.get("claude_code_version")) or self.cli_version
                self.session_id = _text(event.get("session_id")) or self.session_id
                self.model = _text(event.get("model")) or self.model
            case "status" if event.get("status") == "requesting":
                self.requests += 1
            case "task_started" if event.get("task_type") == "local_agent":
                self.unfinished_agents.add(_text(event.get("task_id")) or "")
            case "task_notification" if event.get("status") != "stopped":
                self.unfinished_agents.discard(_text(event.get("task_id")) or "")
            case "api_retry":
                self.retries += 1
                self.error_status = _integer(event.get("error_status"))
                self.error_name = _text(event.get("error")) or self.error_name

    def _assistant(self, event: dict[str, Any]) -> None:
        message = _object(event.get("message"))
        if error := _text(event.get("error")):
            self.error_name = error
            self.error_status = _integer(event.get("api_error_status")) or self.error_status
        elif event.get("parent_tool_use_id") is None:
            texts = [_text(_object(block).get("text")) or "" for block in _list(message.get("content"))]
            self.said = "".join(texts) or self.said
        self._call(message)

    def _partial(self, event: dict[str, Any]) -> None:
        inner = _object(event.get("event"))
        parent = _text(event.get("parent_tool_use_id"))
        match inner.get("type"):
            case "message_start":
                message = _object(inner.get("message"))
                self._call(message)
                self._open_call[parent] = _text(message.get("id")) or ""
            case "content_block_delta":
                delta = _object(inner.get("delta"))
                said = sum(len(_text(delta.get(name)) or "") for name in ("text", "thinking", "partial_json"))
                self.text_chars += said
                if call := self.calls.get(self._open_call.get(parent, "")):
                    call.chars += said
            case "message_delta" if call := self.calls.get(self._open_call.get(parent, "")):
                stop_reason = _text(_object(inner.get("delta")).get("stop_reason"))
                # 2.1.330 ends a call that was cut with a message_delta of its own, without a stop reason.
                call.is_cut = not stop_reason
                if stop_reason:
                    call.tokens = _usage(_object(inner.get("usage")), call.tokens)
                    call.is_complete = True
                    call.is_followed = stop_reason in ("tool_use", "pause_turn")

    def _call(self, message: dict[str, Any]) -> None:
        message_id, model = _text(message.get("id")), _text(message.get("model"))
        if not message_id or not model or model == "<synthetic>":
            return
        call = self.calls.setdefault(message_id, ApiCall(plain_model(model), Tokens()))
        call.tokens = _usage(_object(message.get("usage")), call.tokens)
        self.error_name = self.error_status = None

    def add_finished_call(self, message: dict[str, Any]) -> None:
        """Take in a call that a transcript shows and the stream does not (a subagent's)."""
        message_id = _text(message.get("id")) or ""
        is_new = message_id not in self.calls
        self._call(message)
        if is_new and (call := self.calls.get(message_id)):
            call.is_complete = True
            self.unseen += 1

    def _rate_limit(self, info: dict[str, Any], now_ms: int) -> list[WindowReading]:
        name, status = _text(info.get("rateLimitType")), _text(info.get("status")) or "allowed"
        readings = {
            window: WindowReading(
                window,
                _percent(_object(said).get("utilization")),
                _epoch_ms(_object(said).get("resetsAt")),
                _text(_object(said).get("status")) or "allowed",
                now_ms,
            )
            for window, said in _object(info.get("unifiedWindows")).items()
        }
        if name:
            said = readings.get(name)
            readings[name] = WindowReading(
                name,
                _percent(info.get("utilization")) if said is None or said.percent is None else said.percent,
                _epoch_ms(info.get("resetsAt")),
                status,
                now_ms,
            )
            if status == "rejected":
                self.limit = readings[name]
        return list(readings.values())


_USAGE_WINDOWS = {"session": "five_hour", "weekly_all": "seven_day"}
"""The windows' names in ``/usage``, and everywhere else."""


def usage_readings(output: str, now_ms: int) -> list[WindowReading]:
    """The windows that the CLI's ``/usage`` tells of (``usage_report``); its percents are 0-100, its times RFC 3339."""
    readings = {}
    for line in output.splitlines():
        try:
            event = _object(json.loads(line))
        except (ValueError, RecursionError):
            continue
        limits = _object(_object(event.get("usage_report")).get("rate_limits")).get("limits")
        for limit in (_object(one) for one in _list(limits)):
            window, percent = _usage_window(limit), _number(limit.get("percent"))
            if window is not None and percent is not None:
                resets_at_ms = _instant_ms(limit.get("resets_at"))
                readings[window] = WindowReading(window, percent, resets_at_ms, "allowed", now_ms)
    return list(readings.values())


def _usage_window(limit: dict[str, Any]) -> str | None:
    if limit.get("kind") == "weekly_scoped":
        model = _text(_object(_object(limit.get("scope")).get("model")).get("display_name"))
        return f"seven_day_{model.lower()}" if model and model.isalpha() else None
    return _USAGE_WINDOWS.get(_text(limit.get("kind")) or "")


def _instant_ms(value: Any) -> int | None:
    try:
        return int(datetime.fromisoformat(_text(value) or "").timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None


# How it ended

MAX_MESSAGE_CHARS = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run ended. ``message`` is for a person; ``limit`` is the window that refused it."""

    outcome: Outcome
    text: str = ""
    structured: object = None
    message: str | None = None
    limit: WindowReading | None = None


def judge(stream: RunStream) -> Verdict | None:
    """How a run ended by its own account, or None where it gave none."""
    result = stream.result
    if result is None:
        return None
    text = _text(result.get("result")) or ""
    structured = result.get("structured_output")
    # Interrupted in its last moment, 2.1.330 says "no error": with the whole answer, or with none at all.
    has_answer = bool(text) or structured is not None
    if result.get("is_error") is False and (has_answer or is_whole(stream)):
        return Verdict(Outcome.OK, text, structured)
    outcome = _outcome_of_error(stream, result)
    errors = [line for line in _list(result.get("errors")) if isinstance(line, str)]
    said = text or next((line for line in errors if not line.startswith("[ede_diagnostic]")), "")
    return Verdict(outcome, text, None, _one_line(said) or None, stream.limit if outcome is Outcome.LIMIT else None)


def _outcome_of_error(stream: RunStream, result: dict[str, Any]) -> Outcome:
    reason = _text(result.get("terminal_reason")) or ""
    if reason.startswith("aborted"):
        return Outcome.CANCELLED
    if result.get("subtype") == "error_max_budget_usd":
        return Outcome.BUDGET
    if reason in ("blocking_limit", "prompt_too_long"):
        return Outcome.INVALID_REQUEST
    if result.get("subtype") == "error_during_execution" and stream.cli_version is None and not stream.calls:
        return Outcome.UNKNOWN_SESSION  # it ended before its own start: the session to resume was not there
    status = _integer(result.get("api_error_status")) or stream.error_status
    if result.get("api_error") == "usage_limit_reached" or stream.limit is not None:
        return Outcome.LIMIT
    match stream.error_name:
        case "billing_error":
            return Outcome.BILLING
        case "authentication_failed" | "oauth_org_not_allowed":
            return Outcome.AUTH
        case "overloaded" | "server_error":
            return Outcome.OVERLOADED
        case "rate_limit":
            return Outcome.LIMIT
        case "invalid_request" | "model_not_found" | "model_not_available":
            return Outcome.INVALID_REQUEST
    match status:
        case 401 | 403:
            return Outcome.AUTH
        case 402:
            return Outcome.BILLING
        case 429:
            return Outcome.LIMIT
        case 400 | 404 | 413:
            return Outcome.INVALID_REQUEST
        case int() if status >= 500:
            return Outcome.OVERLOADED
    return Outcome.CLI_FAILED


# What it cost

FIRST_CUMULATIVE = (2, 1, 277)
"""From this CLI on, ``total_cost_usd`` and ``modelUsage`` are the whole session's and not this run's. Measured on
2.1.206, .276, .277, .280, .309 and .330; from .309 on ``model_usage_since_last_result`` tells this run's beside it."""

CHARS_PER_TOKEN = 4
"""How the CLI itself counts what a cut call had written so far."""

BYTES_PER_TOKEN = 8
"""Fewer tokens than any prompt has: the floor for a request that was sent and never heard of again."""

MAX_TOKENS = 10**12
MAX_USD = 1_000_000
LAST_SECOND = 253_402_300_800
"""More than these (a session's tokens and dollars, the year 10000) is no such value and would not fit the ledger."""

UNATTRIBUTED = "unknown"
"""The model's name for an amount that the CLI gave without one."""


@dataclass(frozen=True, slots=True)
class SessionTotal:
    """What the CLI had booked on a session at some moment (its ``cost-state``)."""

    nanousd: int
    models: ModelCosts


def session_total(cost_state: Mapping[str, Any]) -> SessionTotal:
    """A ``cost-state`` line of a transcript as a value."""
    models = model_usage(_object(cost_state.get("modelUsage")))
    total = _dollars(cost_state.get("totalCostUSD"))
    return SessionTotal(total if total is not None else _sum(models).nanousd, models)


def version_of(text: str | None) -> tuple[int, ...] | None:
    """``"2.1.330"`` as numbers."""
    try:
        return tuple(int(part) for part in (text or "").split(".")[:3]) or None
    except ValueError:
        return None


def cost_of(
    stream: RunStream,
    *,
    before: SessionTotal | None,
    after: SessionTotal | None = None,
    prompt_bytes: int,
    price: Price,
) -> Cost:
    """What this run cost, for every generation of the CLI.

    ``before`` is what the CLI had booked on the session when the run began, None for a new session: where the CLI
    reports the session's total, this run's part is the difference. ``after`` is what it had booked at the end, needed
    only where :func:`is_whole` says no. Where a call was cut, the sum is a floor: the CLI's own figure or the tokens
    that the stream shows, whichever is more, model by model. A CLI that never sent a request, which it announces
    before it does, has cost nothing.
    """
    reported = _reported(stream, before)
    # A report of nothing spent is not believed against calls that were seen: a field may have got another name.
    if reported is not None and is_whole(stream) and (reported.nanousd or not stream.calls):
        return reported
    known = reported or _booked_since(before, after)
    seen = _seen(stream, price, prompt_bytes)
    models = {model: _dearer(known.models.get(model), seen.get(model)) for model in sorted({*known.models, *seen})}
    has_spent = bool(stream.calls) or _is_unheard(stream)
    return Cost(_sum(models).nanousd, models, is_estimate=has_spent and (reported is None or _has_cut_call(stream)))


def is_whole(stream: RunStream) -> bool:
    """Whether the run's own account covers all that it did: it gave a result and was not stopped.

    A run that is stopped and reaches its budget in the same moment says the latter; its cut call tells.
    """
    reason = _text((stream.result or {}).get("terminal_reason")) or ""
    was_cut = reason.startswith("aborted") or any(call.is_cut for call in stream.calls.values())
    return stream.result is not None and not was_cut


def _has_cut_call(stream: RunStream) -> bool:
    is_any_open = bool(stream.unfinished_agents) or any(not call.is_complete for call in stream.calls.values())
    return is_any_open or _is_unheard(stream)


def _is_unheard(stream: RunStream) -> bool:
    """Whether a request was sent that never began to be answered."""
    return stream.requests > len(stream.calls) - stream.unseen


def _reported(stream: RunStream, before: SessionTotal | None) -> Cost | None:
    """This run's cost by its result lines, or None where there are none."""
    if not stream.results:
        return None
    since_last = [result.get("model_usage_since_last_result") for result in stream.results]
    if all(isinstance(usage, dict) for usage in since_last):
        parts: dict[str, ModelCost] = {}
        for usage in since_last:
            for model, part in model_usage(_object(usage)).items():
                parts[model] = _plus(parts.get(model), part)
        return _sum(parts)
    # Of several results (background subagents make more than one) the last has everything.
    last = stream.results[-1]
    models = model_usage(_object(last.get("modelUsage")))
    total = _dollars(last.get("total_cost_usd"))
    version = version_of(stream.cli_version)
    now = SessionTotal(_sum(models).nanousd if total is None else total, models)
    is_cumulative = version is None or version >= FIRST_CUMULATIVE
    if before is None or not is_cumulative or now.nanousd < before.nanousd:
        return _attributed(now.nanousd, now.models)
    return _attributed(now.nanousd - before.nanousd, _difference(now.models, before.models))


def _booked_since(before: SessionTotal | None, after: SessionTotal | None) -> Cost:
    """What the CLI wrote down between two moments; it does so on SIGINT and SIGTERM, even without a result."""
    if after is None:
        return Cost()
    if before is None:
        return _attributed(after.nanousd, after.models)
    return _attributed(max(after.nanousd - before.nanousd, 0), _difference(after.models, before.models))


def seen_cost(stream: RunStream, price: Price) -> Cost:
    """What the calls that the stream shows have cost so far, a floor."""
    return _sum(_seen(stream, price, 0))


def _seen(stream: RunStream, price: Price, prompt_bytes: int) -> dict[str, ModelCost]:
    """The calls that the stream shows, priced by their tokens; a floor for what was cut."""
    parts: dict[str, ModelCost] = {}
    for call in stream.calls.values():
        tokens = call.tokens
        if not call.is_complete:
            tokens = replace(tokens, output=max(tokens.output, (call.chars + 2) // CHARS_PER_TOKEN))
        parts[call.model] = _plus(parts.get(call.model), ModelCost(tokens, price(call.model, tokens)))
    if _is_unheard(stream) and prompt_bytes:
        model = plain_model(stream.model or UNATTRIBUTED)
        tokens = Tokens(input=max(1, prompt_bytes // BYTES_PER_TOKEN))
        parts[model] = _plus(parts.get(model), ModelCost(tokens, price(model, tokens)))
    return parts


def plain_model(model: str) -> str:
    """A model's name without the mark of its long-context form, which some generations add and others strip."""
    return model.removesuffix("[1m]")


def model_usage(usage: Mapping[str, Any]) -> dict[str, ModelCost]:
    """The CLI's ``modelUsage`` object as values."""
    parts: dict[str, ModelCost] = {}
    for name, anything in usage.items():
        said = _object(anything)
        creation = _count(said.get("cacheCreationInputTokens"))
        one_hour = min(creation, _count(said.get("cacheCreationEphemeral1hInputTokens")))
        tokens = Tokens(
            input=_count(said.get("inputTokens")),
            output=_count(said.get("outputTokens")),
            cache_creation_5m=creation - one_hour,
            cache_creation_1h=one_hour,
            cache_read=_count(said.get("cacheReadInputTokens")),
            web_search_requests=_count(said.get("webSearchRequests")),
        )
        model = plain_model(name)
        parts[model] = _plus(parts.get(model), ModelCost(tokens, _dollars(said.get("costUSD"))))
    return parts


def _difference(now: ModelCosts, before: ModelCosts) -> dict[str, ModelCost]:
    """Model by model what came on top; models without anything new are left out."""
    parts = {model: _minus(part, before.get(model)) for model, part in now.items()}
    return {model: part for model, part in parts.items() if part.cost_nanousd or part.tokens != Tokens()}


def _attributed(total_nanousd: int, models: ModelCosts) -> Cost:
    """A sum and its models; what the models do not explain stands under a name of its own."""
    rest = total_nanousd - _sum(models).nanousd
    if abs(rest) <= len(models) + 1:  # each model's amount was rounded to a nano-dollar
        return _sum(models)
    if rest < 0:
        tokens = sum((part.tokens for part in models.values()), Tokens())
        return Cost(total_nanousd, {UNATTRIBUTED: ModelCost(tokens, total_nanousd)})
    return Cost(total_nanousd, {**models, UNATTRIBUTED: _plus(models.get(UNATTRIBUTED), ModelCost(Tokens(), rest))})


def _sum(parts: ModelCosts) -> Cost:
    return Cost(sum(part.cost_nanousd or 0 for part in parts.values()), parts)


def _plus(one: ModelCost | None, other: ModelCost) -> ModelCost:
    if one is None:
        return other
    known = [cost for cost in (one.cost_nanousd, other.cost_nanousd) if cost is not None]
    return ModelCost(one.tokens + other.tokens, sum(known) if known else None)


def _minus(part: ModelCost, before: ModelCost | None) -> ModelCost:
    if before is None:
        return part
    cost = max((part.cost_nanousd or 0) - (before.cost_nanousd or 0), 0)
    return ModelCost(part.tokens.since(before.tokens), cost)


def _dearer(one: ModelCost | None, other: ModelCost | None) -> ModelCost:
    """Whichever says that more was spent."""
    if one is None or other is None:
        found = one or other
        assert found is not None, "a model comes from one of the two"
        return found
    return other if (other.cost_nanousd or 0) > (one.cost_nanousd or 0) else one


# Reading values that may be of any type


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _one_line(text: str) -> str:
    """The beginning of a text as one line that any terminal can show."""
    words = "".join(c if c.isprintable() else " " for c in text[:10_000]).split()
    return " ".join(words)[:MAX_MESSAGE_CHARS]


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(value: Any) -> int:
    count = _integer(value) or 0
    return count if 0 <= count <= MAX_TOKENS else 0


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        return float(value)
    return None


def _dollars(value: Any) -> int | None:
    number = _number(value)
    return None if number is None or not 0 <= number <= MAX_USD else nanousd(number)


def _percent(value: Any) -> float | None:
    """The CLI's share of 1 as a percentage."""
    number = _number(value)
    return None if number is None else number * 100


def _epoch_ms(value: Any) -> int | None:
    number = _number(value)
    return None if number is None or not 0 < number < LAST_SECOND else int(number * 1000)


def tokens_of(usage: dict[str, Any]) -> Tokens:
    """The tokens of one API call by its ``usage`` object."""
    return _usage(usage)


def _usage(said: dict[str, Any], known: Tokens | None = None) -> Tokens:
    """An API ``usage`` object, taken together with what was known of the same call.

    Within a call usage only grows and an event may tell a part of it, so class by class the larger count holds. Cache
    writes that come without their split into lifetimes are counted as the cheaper 5-minute ones, and only as far as
    they go beyond what is known.
    """
    before = known or Tokens()
    split = _object(said.get("cache_creation"))
    one_hour = max(before.cache_creation_1h, _count(split.get("ephemeral_1h_input_tokens")))
    creation = max(before.cache_creation, _count(said.get("cache_creation_input_tokens")))
    return Tokens(
        input=max(before.input, _count(said.get("input_tokens"))),
        output=max(before.output, _count(said.get("output_tokens"))),
        cache_creation_5m=max(creation - one_hour, 0),
        cache_creation_1h=one_hour,
        cache_read=max(before.cache_read, _count(said.get("cache_read_input_tokens"))),
        web_search_requests=max(
            before.web_search_requests, _count(_object(said.get("server_tool_use")).get("web_search_requests"))
        ),
    )
