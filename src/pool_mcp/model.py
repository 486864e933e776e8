"""The nouns: plain values that every other module passes around.

Units are in the names: money is integer nano-dollars (``…_nanousd``), instants are integer Unix milliseconds
(``…_ms``), shares are 0–100 (``…_percent``).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from enum import StrEnum
from pathlib import Path

from pool_mcp.choices import URGENCIES, Urgency, WaitFor
from pool_mcp.choices import RunState as RunState

NANO = 1_000_000_000
"""Nano-dollars in a dollar."""

SECOND_MS = 1000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
BLOCK_MS = 5 * HOUR_MS
WEEK_MS = 7 * DAY_MS

CLOCK_SLACK_MS = 5 * MINUTE_MS
"""What is dated later than this from now can't be true: the clock was ahead when that was written, or is behind now.

Such a date decides nothing: a lease is free, a reading is replaced, a cooldown is not in force, a report is due.
"""


def nanousd(usd: float) -> int:
    """Dollars as the CLI prints them (a float) to integer nano-dollars, rounded to the nearest."""
    return round(usd * NANO)


TokenCounts = tuple[int, int, int, int, int, int]
"""A call's tokens in the order of :class:`Tokens`' fields, made in a tenth of the time of the object."""

UNATTRIBUTED = "unknown"
"""The model's name for an amount that the CLI gave without one."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of one or more API calls, by the kinds that have prices of their own.

    ``input`` excludes every cached token. ``cache_creation_5m`` and ``_1h`` are the two lifetimes of a cache write.
    """

    input: int = 0
    output: int = 0
    cache_creation_5m: int = 0
    cache_creation_1h: int = 0
    cache_read: int = 0
    web_search_requests: int = 0

    @property
    def counts(self) -> TokenCounts:
        """All of them, in their order."""
        return (
            self.input,
            self.output,
            self.cache_creation_5m,
            self.cache_creation_1h,
            self.cache_read,
            self.web_search_requests,
        )

    @property
    def cache_creation(self) -> int:
        """Cache writes of both lifetimes."""
        return self.cache_creation_5m + self.cache_creation_1h

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            self.input + other.input,
            self.output + other.output,
            self.cache_creation_5m + other.cache_creation_5m,
            self.cache_creation_1h + other.cache_creation_1h,
            self.cache_read + other.cache_read,
            self.web_search_requests + other.web_search_requests,
        )

    def since(self, before: "Tokens") -> "Tokens":
        """What came on top of an earlier count, never below zero.

        Cache writes are subtracted as one, because some CLI versions report them without their lifetimes.
        """
        creation = max(self.cache_creation - before.cache_creation, 0)
        one_hour = min(creation, max(self.cache_creation_1h - before.cache_creation_1h, 0))
        return Tokens(
            max(self.input - before.input, 0),
            max(self.output - before.output, 0),
            creation - one_hour,
            one_hour,
            max(self.cache_read - before.cache_read, 0),
            max(self.web_search_requests - before.web_search_requests, 0),
        )


@dataclass(frozen=True, slots=True)
class DayHours:
    """A span of every day in a time zone, in minutes after midnight; one that ends earlier goes over midnight."""

    begin_minute: int
    end_minute: int
    zone: tzinfo


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription with its defaults filled in; budgets in nano-dollars.

    ``config_dir`` is None for the CLI's own default directory. ``week_is_default`` and ``block_is_default`` say that
    nobody wrote that budget down. ``keep_percent`` is what agents leave of each window, by its name or ``*``.
    """

    id: str
    config_dir: Path | None
    api_key_env: str | None
    oauth_token_env: str | None
    plan: str
    weekly_budget_nanousd: int
    block_budget_nanousd: int
    priority: int
    max_in_flight: int
    enabled: bool
    overage_budget_nanousd: int = 0
    console_key_id: str | None = None
    week_is_default: bool = False
    block_is_default: bool = False
    keep_percent: Mapping[str, float] = field(default_factory=dict)
    keep_hours: DayHours | None = None

    @property
    def is_api_key(self) -> bool:
        """Whether Anthropic bills this one per call, so that it has no official windows."""
        return self.api_key_env is not None


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent in a UTC day, in seven days, in a UTC calendar month, in nano-dollars; None is no budget."""

    daily_nanousd: int | None = None
    weekly_nanousd: int | None = None
    monthly_nanousd: int | None = None


@dataclass(frozen=True, slots=True)
class CallerBudget(Budget):
    """What one caller may spend, which share of each official window it may use, and which models; none: any."""

    share_percent: float | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What one model did and cost within a run or a session.

    ``cost_nanousd`` is None where no price is known.
    """

    tokens: Tokens
    cost_nanousd: int | None

    def __add__(self, other: "ModelCost") -> "ModelCost":
        known = [cost for cost in (self.cost_nanousd, other.cost_nanousd) if cost is not None]
        return ModelCost(self.tokens + other.tokens, sum(known) if known else None)

    def since(self, before: "ModelCost") -> "ModelCost":
        """What came on top of an earlier amount, never below zero."""
        cost = max((self.cost_nanousd or 0) - (before.cost_nanousd or 0), 0)
        return ModelCost(self.tokens.since(before.tokens), cost)


ModelCosts = Mapping[str, ModelCost]
"""By the model's name."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The amount of one run or session: its sum, its models, and whether the sum is only a floor."""

    nanousd: int = 0
    models: ModelCosts = field(default_factory=dict)
    is_estimate: bool = False

    @classmethod
    def of(cls, models: ModelCosts, *, is_estimate: bool = False) -> "Cost":
        """The sum of models."""
        return cls(sum(part.cost_nanousd or 0 for part in models.values()), models, is_estimate)

    @classmethod
    def with_total(cls, total_nanousd: int, models: ModelCosts) -> "Cost":
        """A known sum and its models; what the models do not explain stands under a name of its own."""
        explained = cls.of(models)
        rest = total_nanousd - explained.nanousd
        if abs(rest) <= len(models) + 1:  # each model's amount was rounded to a nano-dollar
            return explained
        if rest < 0:
            return cls(total_nanousd, {UNATTRIBUTED: ModelCost(explained.tokens, total_nanousd)})
        return explained + cls(rest, {UNATTRIBUTED: ModelCost(Tokens(), rest)})

    @property
    def tokens(self) -> Tokens:
        """All models' tokens together."""
        return sum((part.tokens for part in self.models.values()), Tokens())

    def __add__(self, other: "Cost") -> "Cost":
        models = dict(self.models)
        for model, part in other.models.items():
            models[model] = models[model] + part if model in models else part
        return Cost(self.nanousd + other.nanousd, models, self.is_estimate or other.is_estimate)

    def since(self, before: "Cost") -> "Cost":
        """What came on top of an earlier amount, never below zero; models without anything new are left out."""
        parts = {m: part.since(before.models[m]) if m in before.models else part for m, part in self.models.items()}
        models = {m: part for m, part in parts.items() if part.cost_nanousd or part.tokens != Tokens()}
        return Cost.with_total(max(self.nanousd - before.nanousd, 0), models)

    def at_least(self, other: "Cost") -> "Cost":
        """Model by model whichever amount is larger."""
        models = dict(self.models)
        for model, part in other.models.items():
            known = models.get(model)
            if known is None or (part.cost_nanousd or 0) > (known.cost_nanousd or 0):
                models[model] = part
        return Cost.of(dict(sorted(models.items())), is_estimate=self.is_estimate or other.is_estimate)


UNFINISHED = (RunState.WAITING, RunState.RESERVED, RunState.RUNNING)


class Outcome(StrEnum):
    """How a run ended, judged by the CLI's fields. All but ``ok`` are error kinds."""

    OK = "ok"
    LIMIT = "limit"
    BUDGET = "budget"
    AUTH = "auth"
    BILLING = "billing"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    UNKNOWN_SESSION = "unknown_session"
    INVALID_REQUEST = "invalid_request"
    CLI_FAILED = "cli_failed"


@dataclass(frozen=True, slots=True)
class WindowReading:
    """What Anthropic reported of one official window of one subscription.

    ``window`` is the CLI's name (``five_hour``, ``seven_day``, ``seven_day_opus``, …). ``percent`` is None where
    only a status came. ``status`` is ``allowed``, ``allowed_warning`` or ``rejected``.
    """

    window: str
    percent: float | None
    resets_at_ms: int | None
    status: str
    observed_at_ms: int


@dataclass(frozen=True, slots=True)
class OverageReading:
    """What Anthropic reported of use beyond a plan's limits, which costs real money.

    ``window`` is the official window that was the tightest then, and ``resets_at_ms`` when the account's own allowance
    for such use begins again.
    """

    in_use: bool
    window: str
    window_resets_at_ms: int | None
    resets_at_ms: int | None
    observed_at_ms: int


@dataclass(frozen=True, slots=True)
class Cooldown:
    """Why a subscription is out of the choice, and until when (None: until a person acts).

    After that time it waits for proof: until a run has answered, one at a time is let through (``is_probed``: one is
    in flight). ``refused_default_model`` says that the refused run had asked for no model by name.
    """

    cause: str
    since_ms: int
    until_ms: int | None
    detail: str
    is_probed: bool = False
    refused_default_model: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of the CLI, as the ledger has it.

    While it waits, ``subscription`` is "" and ``created_at_ms`` is when it was asked; both change with the reservation.
    ``queued_at_ms`` is when it began to wait, None where it did not.
    """

    run_id: str
    ask_id: str
    subscription: str
    session_id: str
    resumed: bool
    caller: str
    model: str | None
    state: RunState
    owner_id: str
    background: bool
    structured: bool
    created_at_ms: int
    deadline_ms: int
    reserved_nanousd: int
    max_budget_nanousd: int | None = None
    baseline_json: str | None = None
    cancel_requested: bool = False
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    outcome: Outcome | None = None
    message: str | None = None
    cost: Cost | None = None
    cli_version: str | None = None
    retry_at_ms: int | None = None
    project: str | None = None
    branch: str | None = None
    machine_id: str = ""
    written_off: bool = False
    """Whether another machine has booked it as an estimate, because its own was not heard of."""
    urgency: Urgency = "normal"
    queued_at_ms: int | None = None

    @property
    def finished(self) -> bool:
        """Whether the run's cost is booked."""
        return self.state not in UNFINISHED


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run in the queue, with all that is needed to reserve for it.

    ``only`` is the one subscription that can serve, ``by_name`` whether the caller named it, ``tried`` those that have
    refused the ask. ``claim`` is the subscription that asks behind this one leave to it.
    """

    run: Run
    place: int
    wait_for: WaitFor
    give_up_at_ms: int
    timeout_ms: int
    not_before_ms: int | None = None
    only: str | None = None
    by_name: bool = False
    max_cost_nanousd: int | None = None
    tried: frozenset[str] = frozenset()
    claim: str | None = None

    @property
    def order(self) -> tuple[int, int]:
        """Urgency before age."""
        return URGENCIES.index(self.run.urgency), self.place


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a run ended and what it cost: all that is booked at its end.

    ``retry_at_ms`` is when a limit lifts; ``cooldown`` puts the subscription out of the choice with the same commit.
    ``message_keys`` stand for the API calls that the run's stream shows, by which its calls are told in transcripts.
    ``has_acted`` is whether it has used a tool, so that to repeat it could do something twice.
    ``readings`` are what Anthropic reported last of its windows, ``overage`` of use beyond the plan;
    ``overage_nanousd`` is how much of the cost was that.
    """

    run_id: str
    state: RunState
    outcome: Outcome
    message: str | None
    cost: Cost
    ended_at_ms: int
    cli_version: str | None = None
    retry_at_ms: int | None = None
    cooldown: Cooldown | None = None
    message_keys: tuple[int, ...] = ()
    has_acted: bool = False
    readings: tuple[WindowReading, ...] = ()
    overage: OverageReading | None = None
    overage_nanousd: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the ledger that should not be: which check, what it means, and where (at most a few)."""

    check: str
    meaning: str
    where: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """What a check of the ledger found."""

    entries: int
    spent_nanousd: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """A validated request to ask Claude.

    ``from_terminal`` is whether a person asks, who may have Claude read in any directory without logins. ``project``
    and ``branch`` are of the repository in which it works, where that is known. ``wait_for`` None is the default that
    :attr:`waits_for` gives.
    """

    prompt: str
    caller: str
    session_id: str | None = None
    subscription: str | None = None
    model: str | None = None
    effort: str | None = None
    system_prompt: str | None = None
    json_schema: Mapping[str, object] | None = None
    max_cost_nanousd: int | None = None
    timeout_s: float | None = None
    working_dir: str | None = None
    from_terminal: bool = False
    tool_profile: str | None = None
    background: bool = False
    idempotency_key: str | None = None
    project: str | None = None
    branch: str | None = None
    wait_for: WaitFor | None = None
    not_before_ms: int | None = None
    give_up_at_ms: int | None = None
    urgency: Urgency = "normal"

    @property
    def waits_for(self) -> WaitFor:
        """Its turn, where nothing else is said; what is to use room that would expire waits for such room."""
        return self.wait_for or ("room" if self.urgency == "idle" else "turn")


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should hear of wherever they are; ``subscription`` is "" where it is of none."""

    notice_id: str
    kind: str
    subscription: str
    message: str
    at_ms: int

    @classmethod
    def of(cls, key: str, kind: str, subscription: str, message: str, at_ms: int) -> "Notice":
        """A notice whose id follows from what it is about and when that was."""
        return cls(hashlib.sha256(f"{key} {at_ms}".encode()).hexdigest()[:32], kind, subscription, message, at_ms)


@dataclass(frozen=True, slots=True)
class Message:
    """Notices that are sent in one go, under an id that is the same with every try."""

    message_id: str
    notices: tuple[Notice, ...]

    @classmethod
    def of(cls, notices: Sequence[Notice]) -> "Message":
        """A message of one notice has the notice's id; that of several follows from theirs."""
        if len(notices) == 1:
            return cls(notices[0].notice_id, tuple(notices))
        ids = " ".join(one.notice_id for one in notices)
        return cls(hashlib.sha256(ids.encode()).hexdigest()[:32], tuple(notices))


@dataclass(frozen=True, slots=True)
class ReceiverState:
    """How a receiver of notices does: failures since the last success, why, and how many notices were given up."""

    failures: int
    problem: str | None
    given_up: int
