"""What the CLI's event stream (``--output-format stream-json``: a JSON object a line) says; pure.

:class:`LineBuffer` cuts the bytes into lines, :class:`RunStream` gathers what the lines say. Unknown events and fields
are passed over: they come with every release. Nothing here raises on any input.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from pool_mcp.claude.fields import (
    as_integer,
    as_list,
    as_number,
    as_object,
    as_percent,
    as_text,
    as_tokens,
    from_epoch_s,
    from_timestamp,
    plain_model,
)
from pool_mcp.model import OverageReading, Tokens, WindowReading

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer line is passed over; the longest real ones hold one answer."""

_ANSWER_TOOL = "StructuredOutput"
"""The tool by which the CLI has a model give an answer that fits ``--json-schema``."""


class LineBuffer:
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


def text_delta(line: bytes) -> str | None:
    """The piece of the answer's text that a line adds; empty where a message begins; None for every other line."""
    if b"content_block_delta" not in line and b"message_start" not in line:
        return None
    try:
        event = as_object(json.loads(line))
    except ValueError:
        return None
    if event.get("type") != "stream_event" or event.get("parent_tool_use_id") is not None:
        return None
    inner = as_object(event.get("event"))
    if inner.get("type") == "message_start":
        return ""
    delta = as_object(inner.get("delta"))
    return (as_text(delta.get("text")) or None) if delta.get("type") == "text_delta" else None


@dataclass(slots=True)
class ApiCall:
    """One API call as the stream shows it; ``tokens`` and ``chars`` grow while it answers."""

    model: str
    tokens: Tokens
    chars: int = 0
    is_complete: bool = False
    is_cut: bool = False
    is_followed: bool = False


@dataclass(frozen=True, slots=True)
class OpenCall:
    """An API call of a subagent that was sent and not answered: only the size of what was sent is known."""

    model: str | None
    new_bytes: int
    repeated_bytes: int


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
    """The window that refused the run's last request."""
    overage: OverageReading | None = None
    """What was reported last of use beyond the plan."""
    text_chars: int = 0
    last_text: str = ""
    """The text of the assistant's last message, also of one that was cut."""
    retries: int = 0
    malformed: int = 0
    at_ms: int = 0
    """When the last event was written."""
    calls_of_transcript: int = 0
    """Finished calls that only a transcript shows."""
    has_acted: bool = False
    """Whether a tool was called, other than the one by which the CLI takes a structured answer."""
    agents: set[str] = field(default_factory=set)
    """Subagents that were started, by the ids that name their transcripts."""
    unfinished_agents: set[str] = field(default_factory=set)
    """Subagents that were started and have not ended by themselves; their open calls do not show."""
    _open_call: dict[str | None, str] = field(default_factory=dict)

    @property
    def calls_to_follow(self) -> int:
        """API calls that ended in such a way that the CLI will make a further one."""
        return sum(call.is_followed for call in self.calls.values())

    @property
    def is_whole(self) -> bool:
        """Whether the run's own account covers all that it did: it gave a result, and nothing of it was stopped."""
        return self.result is not None and not self.is_cut and not self.unfinished_agents

    @property
    def is_cut(self) -> bool:
        """Whether the run was stopped; one that reaches its budget in that moment reports only the budget."""
        reason = as_text((self.result or {}).get("terminal_reason")) or ""
        return reason.startswith("aborted") or any(call.is_cut for call in self.calls.values())

    @property
    def is_empty(self) -> bool:
        """Whether there is no event of the CLI's at all."""
        return self.cli_version is None and not self.requests and not self.calls and not self.results

    @property
    def has_unanswered_request(self) -> bool:
        """Whether a request was sent that never began to be answered."""
        return self.requests > len(self.calls) - self.calls_of_transcript

    @property
    def has_cut_call(self) -> bool:
        """Whether some call's tokens are not all known."""
        is_any_open = bool(self.unfinished_agents) or any(not call.is_complete for call in self.calls.values())
        return is_any_open or self.has_unanswered_request

    @property
    def result(self) -> dict[str, Any] | None:
        """The last result line."""
        return self.results[-1] if self.results else None

    def feed(self, line: bytes, now_ms: int | None) -> list[WindowReading]:
        """Take one line in; return what it reports of official windows.

        ``now_ms`` is when the line was written; where that is not known, the last time that the events themselves give.
        """
        if not line.strip():
            return []
        if not line.lstrip().startswith(b"{"):  # known by its first byte, however long it is
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
        self.at_ms = max(self.at_ms, from_timestamp(event.get("timestamp")) or 0) if now_ms is None else now_ms
        match event.get("type"):
            case "system":
                self._system(event)
            case "assistant":
                self._assistant(event)
            case "stream_event":
                self._partial(event)
            case "rate_limit_event":
                return self._rate_limit(as_object(event.get("rate_limit_info")), self.at_ms)
            case "result":
                self.results.append(event)
                self.session_id = as_text(event.get("session_id")) or self.session_id
        return []

    def _system(self, event: dict[str, Any]) -> None:
        match event.get("subtype"):
            case "init":
                self.cli_version = as_text(event.get("claude_code_version")) or self.cli_version
                self.session_id = as_text(event.get("session_id")) or self.session_id
                self.model = as_text(event.get("model")) or self.model
            case "status" if event.get("status") == "requesting":
                self.requests += 1
            case "task_started" if event.get("task_type") == "local_agent":
                agent_id = as_text(event.get("task_id")) or ""
                self.agents.add(agent_id)
                self.unfinished_agents.add(agent_id)
            case "task_notification" if event.get("status") != "stopped":
                self.unfinished_agents.discard(as_text(event.get("task_id")) or "")
            case "api_retry":
                self.retries += 1
                self.error_status = as_integer(event.get("error_status"))
                self.error_name = as_text(event.get("error")) or self.error_name

    def _assistant(self, event: dict[str, Any]) -> None:
        message = as_object(event.get("message"))
        blocks = [as_object(block) for block in as_list(message.get("content"))]
        self.has_acted |= any(one.get("type") == "tool_use" and one.get("name") != _ANSWER_TOOL for one in blocks)
        if error := as_text(event.get("error")):
            self.error_name = error
            self.error_status = as_integer(event.get("api_error_status")) or self.error_status
        elif event.get("parent_tool_use_id") is None:
            texts = [as_text(block.get("text")) or "" for block in blocks]
            self.last_text = "".join(texts) or self.last_text
        self._call(message)

    def _partial(self, event: dict[str, Any]) -> None:
        inner = as_object(event.get("event"))
        parent = as_text(event.get("parent_tool_use_id"))
        match inner.get("type"):
            case "message_start":
                message = as_object(inner.get("message"))
                self._call(message)
                self._open_call[parent] = as_text(message.get("id")) or ""
            case "content_block_delta":
                delta = as_object(inner.get("delta"))
                chars = sum(len(as_text(delta.get(name)) or "") for name in ("text", "thinking", "partial_json"))
                self.text_chars += chars
                if call := self.calls.get(self._open_call.get(parent, "")):
                    call.chars += chars
            case "message_delta" if call := self.calls.get(self._open_call.get(parent, "")):
                stop_reason = as_text(as_object(inner.get("delta")).get("stop_reason"))
                # 2.1.330 ends a call that was cut with a message_delta of its own, without a stop reason.
                call.is_cut = not stop_reason
                if stop_reason:
                    call.tokens = as_tokens(as_object(inner.get("usage")), call.tokens)
                    call.is_complete = True
                    call.is_followed = stop_reason in ("tool_use", "pause_turn")

    def _call(self, message: dict[str, Any]) -> None:
        message_id, model = as_text(message.get("id")), as_text(message.get("model"))
        if not message_id or not model or model == "<synthetic>":
            return
        call = self.calls.setdefault(message_id, ApiCall(plain_model(model), Tokens()))
        call.tokens = as_tokens(as_object(message.get("usage")), call.tokens)
        self.error_name = self.error_status = self.limit = None

    def add_finished_call(self, message: dict[str, Any]) -> None:
        """Take in a call that a transcript shows and the stream does not (a subagent's)."""
        message_id = as_text(message.get("id")) or ""
        is_new = message_id not in self.calls
        self._call(message)
        if is_new and (call := self.calls.get(message_id)):
            call.is_complete = True
            self.calls_of_transcript += 1

    def _rate_limit(self, info: dict[str, Any], now_ms: int) -> list[WindowReading]:
        name, status = as_text(info.get("rateLimitType")), as_text(info.get("status")) or "allowed"
        readings = {
            window: WindowReading(
                window,
                as_percent(as_object(reported).get("utilization")),
                from_epoch_s(as_object(reported).get("resetsAt")),
                as_text(as_object(reported).get("status")) or "allowed",
                now_ms,
            )
            for window, reported in as_object(info.get("unifiedWindows")).items()
        }
        if name:
            known = readings.get(name)
            readings[name] = WindowReading(
                name,
                as_percent(info.get("utilization")) if known is None or known.percent is None else known.percent,
                from_epoch_s(info.get("resetsAt")),
                status,
                now_ms,
            )
            self._overage(info, readings[name])
            is_paid = self.overage is not None and self.overage.in_use
            self.limit = readings[name] if status == "rejected" and not is_paid else None
        return list(readings.values())

    def _overage(self, info: dict[str, Any], tightest: WindowReading) -> None:
        """A refused allowance (``overageStatus: rejected``) is no limit: most accounts have none."""
        # Of the two, 2.1.330 may say either alone.
        in_use = info.get("overageInUse") is True or info.get("isUsingOverage") is True
        resets_at_ms = from_epoch_s(info.get("overageResetsAt"))
        at_ms = tightest.observed_at_ms
        self.overage = OverageReading(in_use, tightest.window, tightest.resets_at_ms, resets_at_ms, at_ms)


_USAGE_WINDOWS = {"session": "five_hour", "weekly_all": "seven_day"}
"""The windows' names in ``/usage``, and everywhere else."""


def usage_readings(output: str, now_ms: int) -> list[WindowReading]:
    """The windows that the CLI's ``/usage`` tells of (``usage_report``); its percents are 0-100, its times RFC 3339."""
    readings = {}
    for line in output.splitlines():
        try:
            event = as_object(json.loads(line))
        except (ValueError, RecursionError):
            continue
        limits = as_object(as_object(event.get("usage_report")).get("rate_limits")).get("limits")
        for limit in (as_object(one) for one in as_list(limits)):
            window, percent = _usage_window(limit), as_number(limit.get("percent"))
            if window is not None and percent is not None:
                resets_at_ms = from_timestamp(limit.get("resets_at"))
                readings[window] = WindowReading(window, percent, resets_at_ms, "allowed", now_ms)
    return list(readings.values())


def _usage_window(limit: dict[str, Any]) -> str | None:
    if limit.get("kind") == "weekly_scoped":
        model = as_text(as_object(as_object(limit.get("scope")).get("model")).get("display_name"))
        return f"seven_day_{model.lower()}" if model and model.isalpha() else None
    return _USAGE_WINDOWS.get(as_text(limit.get("kind")) or "")
