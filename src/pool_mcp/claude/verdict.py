"""How a run of the CLI ended, by its own account; pure.

A run is judged by ``is_error``, status codes and error names, never by ``subtype`` (a used-up limit says
"success") and never by words.
"""

from dataclasses import dataclass
from typing import Any

from pool_mcp.claude.fields import as_integer, as_list, as_text
from pool_mcp.claude.stream import RunStream
from pool_mcp.errors import without_secrets
from pool_mcp.model import Outcome, WindowReading

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
    text = as_text(result.get("result"))
    structured = result.get("structured_output")
    if result.get("is_error") is False and text is None and structured is None and not stream.is_cut:
        return Verdict(Outcome.CLI_FAILED, message="The CLI gave a result that is no text; update it and ask again.")
    text = text or ""
    # Interrupted in its last moment, 2.1.330 says "no error": with the whole answer, or with none at all.
    has_answer = bool(text) or structured is not None
    if result.get("is_error") is False and (has_answer or not stream.is_cut):
        return Verdict(Outcome.OK, text, structured)
    outcome = _outcome_of_error(stream, result)
    errors = [line for line in as_list(result.get("errors")) if isinstance(line, str)]
    reason = text or next((line for line in errors if not line.startswith("[ede_diagnostic]")), "")
    return Verdict(outcome, text, None, _one_line(reason) or None, stream.limit if outcome is Outcome.LIMIT else None)


def _outcome_of_error(stream: RunStream, result: dict[str, Any]) -> Outcome:
    reason = as_text(result.get("terminal_reason")) or ""
    if reason.startswith("aborted"):
        return Outcome.CANCELLED
    if result.get("subtype") == "error_max_budget_usd":
        return Outcome.BUDGET
    if reason in ("blocking_limit", "prompt_too_long"):
        return Outcome.INVALID_REQUEST
    if result.get("subtype") == "error_during_execution" and stream.cli_version is None and not stream.calls:
        return Outcome.UNKNOWN_SESSION  # it ended before its own start: the session to resume was not there
    status = as_integer(result.get("api_error_status")) or stream.error_status
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


def _one_line(text: str) -> str:
    """The beginning of a text as one line that any terminal can show, without keys: it is kept in the ledger."""
    words = "".join(c if c.isprintable() else " " for c in without_secrets(text[:10_000])).split()
    return " ".join(words)[:MAX_MESSAGE_CHARS]
