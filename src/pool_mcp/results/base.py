"""What the other shapes are made of: instants, percents, money, tokens, advice and failures.

Inside, money is integer nano-dollars and shares are exact; shapes hold dollars and percents to two decimals. An instant
stays an integer, so that a view can compute with it, and becomes RFC 3339 where a shape is written as JSON.
"""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from pool_mcp.choosing import pacing
from pool_mcp.choosing.windows import rfc3339
from pool_mcp.errors import PoolError
from pool_mcp.model import NANO, SECOND_MS, Tokens


def _from_json(value: object) -> object:
    return round(datetime.fromisoformat(value).timestamp() * 1000) if isinstance(value, str) else value


Instant = Annotated[int, BeforeValidator(_from_json), PlainSerializer(rfc3339, return_type=str, when_used="json")]
"""Unix milliseconds; in JSON, and so for a client, RFC 3339 to the second."""

Percent = Annotated[float, AfterValidator(lambda value: round(value, 2))]
"""A share from 0 to 100 and, where a budget is overdrawn, more; to two decimals."""

Score = Percent
"""From 0 to 100, to two decimals."""


class Shape(BaseModel):
    """What every shape is: fixed once made, without fields that it does not name."""

    # A server answers its first call sooner: each shape is built when it is first needed.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def usd(nanousd: int) -> float:
    """Integer nano-dollars as dollars."""
    return nanousd / NANO


def maybe_usd(nanousd: int | None) -> float | None:
    """As :func:`usd`, None as None."""
    return None if nanousd is None else usd(nanousd)


def seconds_until(at_ms: int | None, now_ms: int) -> int | None:
    """Whole seconds from now until an instant, rounded up; 0 where it has passed."""
    return None if at_ms is None else max(0, -((now_ms - at_ms) // SECOND_MS))


class TokensResult(Shape):
    """Token counts of a run, all models together."""

    input: int = 0
    output: int = 0
    cache_creation: int = 0
    cache_read: int = 0


def tokens_result(tokens: Tokens) -> TokensResult:
    """Token counts for the wire."""
    return TokensResult(
        input=tokens.input,
        output=tokens.output,
        cache_creation=tokens.cache_creation,
        cache_read=tokens.cache_read,
    )


class AdviceResult(Shape):
    """What to do next."""

    action: pacing.Action
    reason: str
    retry_at: Instant | None = None
    retry_in_s: int | None = Field(default=None, description="retry_at from now, for whoever has no clock.")
    next_ask_at: Instant | None = Field(default=None, description="When the next ask of the usual size is due.")
    headroom_usd: float
    max_usd_per_hour: float | None = None
    exhausts_at: Instant | None = Field(default=None, description="When the room ends if spending goes on as it does.")


def advice_result(advice: pacing.Advice, now_ms: int) -> AdviceResult:
    """Advice for the wire."""
    return AdviceResult(
        action=advice.action,
        reason=advice.reason,
        retry_at=advice.retry_at_ms,
        retry_in_s=seconds_until(advice.retry_at_ms, now_ms),
        next_ask_at=advice.next_ask_at_ms,
        headroom_usd=usd(advice.headroom_nanousd),
        max_usd_per_hour=maybe_usd(advice.max_nanousd_per_hour),
        exhausts_at=advice.exhausts_at_ms,
    )


class ErrorResult(Shape):
    """What went wrong, and what to do about it."""

    kind: str
    message: str
    next_step: str = Field(description="What to do about it.")
    retry_at: Instant | None = None
    retry_in_s: int | None = Field(default=None, description="retry_at from now, for whoever has no clock.")
    subscription: str | None = None
    alternatives: list[str] | None = None
    run_id: str | None = None
    partial_text: str | None = Field(default=None, description="What a run that was cut had answered until then.")


NEXT_STEPS = {
    "invalid_request": "Change the call as the message says.",
    "unknown_session": "Leave session_id out to begin a new session, with all the context that it needs.",
    "limit": "Look at usage_status for when there is room again.",
    "budget": "Ask for less, or tell the person that the budget is used up.",
    "auth": "Tell the person: somebody has to sign in, as the message says.",
    "billing": "Tell the person: somebody has to look at the account's billing.",
    "overloaded": "Ask again in a few minutes; another subscription would not help.",
    "timeout": "What was spent is booked. Ask for less, or give a longer timeout_s.",
    "cancelled": "What was spent is booked. Ask again only if the answer is still wanted.",
    "cli_missing": "Tell the person: the Claude Code CLI has to be installed.",
    "cli_failed": "Ask again once; if that fails too, tell the person.",
    "ledger": "Ask again once; if that fails too, tell the person.",
    "internal": "Ask again once; if that fails too, tell the person.",
}
"""What to do about a failure that does not say when to try again, by its kind."""


def error_result(error: PoolError, now_ms: int) -> ErrorResult:
    """An error for the wire."""
    waits = error.retry_at_ms is not None
    return ErrorResult(
        kind=error.kind,
        message=error.message,
        next_step="Ask again at retry_at, not before." if waits else NEXT_STEPS[error.kind],
        retry_at=error.retry_at_ms,
        retry_in_s=seconds_until(error.retry_at_ms, now_ms),
        subscription=error.subscription,
        alternatives=list(error.alternatives) or None,
        run_id=error.run_id,
        partial_text=error.partial_text,
    )


def internal_error() -> ErrorResult:
    """What a caller hears of a failure that nobody foresaw."""
    message = "pool-mcp failed unexpectedly; its log (stderr) has the details."
    return ErrorResult(kind="internal", message=message, next_step=NEXT_STEPS["internal"])
