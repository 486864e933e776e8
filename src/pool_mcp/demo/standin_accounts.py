"""How the stand-in's accounts behave: what each is told to do, how full its windows are, and how a call is answered.

Nothing here serves, waits or reads a clock; ``standin.py`` does.
"""

import random
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pool_mcp.model import BLOCK_MS, HOUR_MS, NANO, SECOND_MS, WEEK_MS, Tokens

Mode = Literal[
    "answer",
    "slow",  # the text in `chunks` pieces, `chunk_delay_s` apart
    "hang",  # message_start, then nothing
    "hang_before_start",  # nothing at all
    "five_hour_limit",
    "weekly_limit",
    "warning",
    "auth",
    "billing",
    "overloaded",
    "error",
    "burst",  # 429 that is not a used-up limit, with retry-after
    "unknown_model",
    "prompt_too_long",
]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that the stand-in calls, as a model would."""

    name: str
    input: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call is answered: a text (repeated up to ``text_size`` characters) and tool calls.

    ``mode`` and ``tokens`` stand in for the account's own for this call. A reply with ``for_model`` waits for
    a call whose model's name contains it, so that a subagent's calls can be told from its parent's.
    """

    text: str | None = None
    text_size: int | None = None
    tools: tuple[ToolUse, ...] = ()
    mode: Mode | None = None
    tokens: Tokens | None = None
    for_model: str = ""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How an account behaves.

    ``mode`` holds for the next ``calls`` calls (None: always); after that the account answers. ``replies``
    are used up in order, one a call. A window's utilization (0-1) is what is given plus, where the window has
    a capacity, the account's spend inside it over that capacity; a window with neither does not exist. At 1
    the account refuses with that window's limit until the window resets, or goes on for real money
    (``has_overage``).
    """

    mode: Mode = "answer"
    calls: int | None = None
    replies: tuple[Reply, ...] = ()
    chunks: int = 20
    chunk_delay_s: float = 0.1
    retry_after_s: float = 1.0
    tokens: Tokens | None = None
    five_hour_utilization: float | None = 0.0
    five_hour_capacity_usd: float | None = None
    five_hour_resets_at_ms: int | None = None
    seven_day_utilization: float | None = 0.0
    seven_day_capacity_usd: float | None = None
    seven_day_resets_at_ms: int | None = None
    has_overage: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """An API call that was billed. Of a ``cut`` one the client did not wait for the end."""

    index: int
    account: str
    message_id: str
    request_id: str
    model: str
    tokens: Tokens
    cost_nanousd: int | None
    session_id: str | None
    started_at_ms: int
    ended_at_ms: int
    state: Literal["complete", "cut"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An API call that cost nothing: refused with ``status``, or left hanging (0)."""

    account: str
    status: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class _Window:
    """A rate-limit window as the headers show it."""

    claim: Literal["five_hour", "seven_day"]
    utilization: float
    resets_at_ms: int

    @property
    def threshold(self) -> float | None:
        """The warning threshold that is surpassed."""
        threshold = {"five_hour": 0.9, "seven_day": 0.75}[self.claim]
        return threshold if self.utilization >= threshold else None

    @property
    def status(self) -> str:
        if self.utilization >= 1:
            return "rejected"
        return "allowed" if self.threshold is None else "allowed_warning"


@dataclass(slots=True)
class _Account:
    """A behaviour and how much of it has been used up."""

    behaviour: Behaviour
    first_seen_ms: int
    faults_left: int | None
    replies_left: list[Reply]
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How one call will be served."""

    account: str
    number: int
    mode: Mode
    reply: Reply
    behaviour: Behaviour
    tokens: Tokens
    headers: dict[str, str]

    @property
    def refusal(self) -> tuple[int, str, str] | None:
        """The status, error type and message by which the call is refused, if it is."""
        return _REFUSALS.get(self.mode)


class Accounts(MutableMapping[str, Behaviour]):
    """Behaviours by account name. Assigning starts the behaviour afresh; unknown names get the default."""

    def __init__(self, clock: Callable[[], int], seed: int) -> None:
        self._clock = clock
        self._seed = seed
        self._states: dict[str, _Account] = {}

    def __getitem__(self, name: str) -> Behaviour:
        return self._state(name).behaviour

    def __setitem__(self, name: str, behaviour: Behaviour) -> None:
        before = self._states.get(name)
        self._states[name] = _Account(
            behaviour,
            first_seen_ms=before.first_seen_ms if before else self._clock(),
            faults_left=behaviour.calls,
            replies_left=list(behaviour.replies),
            calls=before.calls if before else 0,
        )

    def __delitem__(self, name: str) -> None:
        del self._states[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._states))

    def __len__(self) -> int:
        return len(self._states)

    def plan(self, name: str, model: str, request_id: str, books: Sequence[Call], *, is_key: bool) -> Plan:
        """Decide how a call is served, and use up what it uses of the account's behaviour.

        ``books`` are the calls so far, by which windows fill up; no window applies to a key's call.
        """
        account = self._state(name)
        behaviour = account.behaviour
        account.calls += 1
        windows: dict[str, _Window] = {}
        if not is_key:
            windows = {window.claim: window for window in self._windows(name, account, books)}
        full = [claim for claim, window in windows.items() if window.utilization >= 1]
        mode: Mode = "answer"
        if account.faults_left is None or account.faults_left > 0:
            mode = behaviour.mode
            account.faults_left = None if account.faults_left is None else account.faults_left - 1
        if full and not behaviour.has_overage:
            mode = "weekly_limit" if "seven_day" in full else "five_hour_limit"
        reply = Reply()
        if mode not in _REFUSALS:
            reply = next((r for r in account.replies_left if r.for_model in model), reply)
            if reply in account.replies_left:
                account.replies_left.remove(reply)
        mode = reply.mode or mode
        tokens = reply.tokens or behaviour.tokens or _tokens(f"{self._seed}/{name}/{account.calls}")
        headers = {"request-id": request_id}
        if mode == "burst":  # without window headers: the CLI takes any 429 that has them for a used-up limit
            headers["retry-after"] = f"{behaviour.retry_after_s:g}"
        else:
            headers |= _limit_headers(mode, windows)
        if full and behaviour.has_overage:
            headers |= _OVERAGE_HEADERS
        return Plan(name, account.calls, mode, reply, behaviour, tokens, headers)

    def _state(self, name: str) -> _Account:
        """Return the mutable side of an account, which is made on first use."""
        if name not in self._states:
            self[name] = Behaviour()
        return self._states[name]

    def _windows(self, name: str, account: _Account, books: Sequence[Call]) -> Iterator[_Window]:
        """Each window that the account has, with what it has spent inside."""
        now, it, begun = self._clock(), account.behaviour, account.first_seen_ms
        for claim, length, base, capacity, resets_at in (
            (
                "five_hour",
                BLOCK_MS,
                it.five_hour_utilization,
                it.five_hour_capacity_usd,
                it.five_hour_resets_at_ms,
            ),
            (
                "seven_day",
                WEEK_MS,
                it.seven_day_utilization,
                it.seven_day_capacity_usd,
                it.seven_day_resets_at_ms,
            ),
        ):
            if base is None and capacity is None:
                continue
            first_reset = resets_at or begun - begun % HOUR_MS + length - HOUR_MS
            resets = max(0, -(-(now - first_reset + 1) // length))
            end = first_reset + resets * length
            used = (base or 0.0) if resets == 0 else 0.0
            if capacity is not None:
                inside = sum(
                    call.cost_nanousd or 0
                    for call in books
                    if call.account == name and end - length <= call.started_at_ms < end
                )
                used += inside / (capacity * NANO)
            yield _Window("five_hour" if claim == "five_hour" else "seven_day", used, end)


_REFUSALS: dict[Mode, tuple[int, str, str]] = {
    "five_hour_limit": (429, "rate_limit_error", "This request would exceed your account's rate limit."),
    "weekly_limit": (429, "rate_limit_error", "This request would exceed your account's rate limit."),
    "burst": (429, "rate_limit_error", "Number of requests has exceeded your rate limit. Slow down."),
    "auth": (401, "authentication_error", "OAuth token has expired. Please obtain a new token."),
    "billing": (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "error": (500, "api_error", "Internal server error"),
    "unknown_model": (404, "not_found_error", "model: no such model"),
    "prompt_too_long": (400, "invalid_request_error", "prompt is too long: 1000001 tokens > 1000000 maximum"),
}


def _tokens(seed: str) -> Tokens:
    """Draw the counts of a call: different for each, the same each time."""
    draw = random.Random(seed).randint  # noqa: S311
    return Tokens(
        input=draw(3, 2000),
        output=draw(50, 900),
        cache_creation_5m=draw(0, 2000),
        cache_creation_1h=draw(0, 6000),
        cache_read=draw(0, 40_000),
    )


_OVERAGE_HEADERS = {
    "anthropic-ratelimit-unified-status": "allowed",
    "anthropic-ratelimit-unified-overage-status": "allowed",
    "anthropic-ratelimit-unified-overage-in-use": "true",
}


def _limit_headers(mode: Mode, windows: dict[str, _Window]) -> dict[str, str]:
    """Say what the account's windows are, as Anthropic does to subscriptions with every answer."""
    forced = {
        "five_hour_limit": ("five_hour", 1.0),
        "weekly_limit": ("seven_day", 1.0),
        "warning": ("five_hour", 0.92),
    }
    claim, least = forced.get(mode, ("", 0.0))
    windows = {
        name: replace(window, utilization=max(window.utilization, least if name == claim else 0.0))
        for name, window in windows.items()
    }
    if not windows:
        return {}
    severity = ("allowed", "allowed_warning", "rejected")
    worst = max(windows.values(), key=lambda window: severity.index(window.status))
    prefix = "anthropic-ratelimit-unified"
    headers = {
        f"{prefix}-status": worst.status,
        f"{prefix}-reset": str(worst.resets_at_ms // SECOND_MS),
        f"{prefix}-representative-claim": worst.claim,
        f"{prefix}-overage-status": "rejected",
        f"{prefix}-overage-disabled-reason": "org_level_disabled",
    }
    for window in windows.values():
        name = {"five_hour": "5h", "seven_day": "7d"}[window.claim]
        headers[f"{prefix}-{name}-status"] = window.status
        headers[f"{prefix}-{name}-utilization"] = f"{min(window.utilization, 1.0):.6g}"
        headers[f"{prefix}-{name}-reset"] = str(window.resets_at_ms // SECOND_MS)
        if window.threshold is not None:
            headers[f"{prefix}-{name}-surpassed-threshold"] = f"{window.threshold:g}"
    return headers
