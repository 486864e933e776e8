"""The tools as data: their names, words, arguments and results. What they do is in ``pool.py``.

The descriptions are read by agents and paid for in every host's context, so each says what the tool is for, what
comes back, and what to do next, in as few words as will do. The whole list stays under 8 KB.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pool_mcp.choices import By, Effort, ToolProfile, Urgency, WaitFor
from pool_mcp.errors import InvalidRequest, looks_secret
from pool_mcp.results.asks import AskResult
from pool_mcp.results.base import ErrorResult
from pool_mcp.results.ledger import ReportResult
from pool_mcp.results.organisation import ReconcileResult
from pool_mcp.results.status import PickResult, StatusResult

INSTRUCTIONS = (
    "Ask Claude under whichever of the user's own subscriptions has the most room. Look before long work: "
    "usage_status gives advice (proceed, slow_down, wait, stop). Ask with ask_claude; if it returns status "
    '"running" or "waiting", call ask_result with its run_id. Every answer carries fresh advice: act on it before the '
    "next ask. "
    "Spend counts against budgets that the user has set."
)


def _no_secret(name: str) -> str:
    if looks_secret(name):
        raise ValueError("looks like a key, which no name is; it is not kept")
    return name


Name = Annotated[str, AfterValidator(_no_secret)]
"""What an agent calls itself or an ask; it is kept in the ledger and shown."""


def _money(usd: float) -> float:
    if abs(usd) > MAX_USD:
        raise ValueError(f"must be at most {MAX_USD}")  # more than this has no number of nano-dollars
    return usd


MAX_USD = 1_000_000
Usd = Annotated[float, AfterValidator(_money)]


class Arguments(BaseModel):
    """What every tool's arguments have in common: unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class AskClaudeArguments(Arguments):
    """Arguments of ``ask_claude``."""

    prompt: str = Field(description="What to ask; all the context Claude needs, it sees nothing else.")
    session_id: str | None = Field(None, description="Go on with this session (from an earlier answer).")
    subscription: str | None = Field(None, description="Use this one only; default: the pool chooses.")
    model: str | None = Field(None, description="Alias (opus, sonnet, haiku) or full name.")
    effort: Effort | None = Field(None, description="How hard to think.")
    system_prompt: str | None = Field(None, description="In place of the default one.")
    json_schema: dict[str, Any] | None = Field(
        None, description="Answer as JSON of this schema (an object), in structured."
    )
    max_cost_usd: Usd | None = Field(None, description="Stop the run at this cost.")
    timeout_s: float | None = Field(None, description="Stop the run after this long.")
    working_dir: str | None = Field(None, description="Directory for Claude's tools, where it has any.")
    tool_profile: ToolProfile | None = Field(None, description="Claude's tools; at most what the operator allows.")
    caller: Name | None = Field(None, description="Who asks, for budgets and reports; default: the host.")
    background: bool = Field(False, description="Return at once with a run_id.")
    idempotency_key: Name | None = Field(
        None, description="A retry under the same key returns the first run, not a second one."
    )
    wait_for: WaitFor | None = Field(
        None,
        description="If it does not fit now: none: refuse; turn (default): wait for running asks; room: also for "
        "windows and budgets to open.",
    )
    not_before: str | None = Field(None, description="RFC 3339, or 30m, 8h, 2d from now.")
    give_up_at: str | None = Field(None, description="Wait until then at most; same forms.")
    urgency: Urgency = Field("normal", description="Who goes first; idle uses only room that would expire.")


class AskResultArguments(Arguments):
    """Arguments of ``ask_result``."""

    run_id: str = Field(description="From ask_claude.")
    wait_s: Annotated[float, Field(ge=0, le=3600, description="Wait this long for the end.")] = 30
    offset: Annotated[int, Field(ge=0, description="next_offset of the page before.")] = 0
    cancel: bool = Field(False, description="Stop the run; what it spent is booked.")


class UsageStatusArguments(Arguments):
    """Arguments of ``usage_status``."""

    subscription: str | None = Field(None, description="Only this one.")
    caller: Name | None = Field(None, description="Show this caller's own budget, too.")


class PickSubscriptionArguments(Arguments):
    """Arguments of ``pick_subscription``."""

    estimated_cost_usd: Usd | None = Field(None, description="What the ask may cost; default: as asks before.")
    model: str | None = Field(None, description="As in ask_claude.")
    session_id: str | None = Field(None, description="A session that is to go on.")


class UsageReportArguments(Arguments):
    """Arguments of ``usage_report``."""

    by: By = Field(description="What a row is.")
    since: str | None = Field(None, description="Date, RFC 3339, 24h, 7d, 4w, today, yesterday; default: all.")
    until: str | None = Field(None, description="The same; a date is included.")
    subscription: str | None = Field(None, description="Only this one's spend.")
    caller: Name | None = Field(None, description="Only this one's spend.")
    forecast: bool = Field(False, description="Add what the month and the windows will come to.")
    chart: bool = Field(False, description="Add a picture (PNG).")


class ReconcileUsageArguments(Arguments):
    """Arguments of ``reconcile_usage``."""

    since: str | None = Field(None, description="As in usage_report, in UTC; default 7d.")
    until: str | None = Field(None, description="The same; default now.")
    adjust: bool = Field(False, description="Book the difference.")


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. ``read_only`` spends and changes nothing; ``idempotent``: calling again changes nothing more."""

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    result: type[BaseModel]
    read_only: bool
    idempotent: bool
    open_world: bool

    def parse(self, arguments: dict[str, Any] | None) -> Any:
        """Arguments as a value.

        Raises:
            InvalidRequest: they do not fit; the message names the first that does not, in one line.
        """
        fields = self.arguments.model_fields
        optional = {name for name, field in fields.items() if not field.is_required()}
        # Agents fill what they have no value for with an empty string.
        given = {name: value for name, value in (arguments or {}).items() if value != "" or name not in optional}
        try:
            return self.arguments.model_validate(given)
        except ValidationError as error:
            raise InvalidRequest(self._explain(error)) from None

    def _explain(self, error: ValidationError) -> str:
        # A misspelt name first: it also leaves an argument missing.
        problem = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in problem["loc"])
        names = list(self.arguments.model_fields)
        if problem["type"] == "extra_forbidden":
            near = get_close_matches(key, names, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            return f"{self.name} has no argument {key!r}{hint}; it takes {', '.join(names)}."
        if problem["type"] == "missing":
            return f"{self.name} needs the argument {key!r}."
        message = problem["msg"].removeprefix("Value error, ")
        return f"{self.name}: {key}: {message[:1].lower()}{message[1:]}."


TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "ask_claude",
            "Ask Claude",
            "Ask Claude (another, fresh Claude; it has no tools unless the operator allows them) under the user's "
            "subscription with the most room, and book the cost. Returns the answer in text, or status running or "
            "waiting with a run_id for ask_result. On error limit or budget: wait until retry_at.",
            AskClaudeArguments,
            AskResult,
            read_only=False,
            idempotent=False,
            open_world=True,
        ),
        Tool(
            "ask_result",
            "Get an answer",
            "Wait for, page through, or cancel an ask by its run_id; works after restarts, too.",
            AskResultArguments,
            AskResult,
            read_only=False,
            idempotent=True,
            open_world=False,
        ),
        Tool(
            "usage_status",
            "Show what is left",
            "What is spent and left per subscription and in the pool, and advice to act on: proceed; slow_down to "
            "max_usd_per_hour; wait until retry_at; stop. Look, act, look again.",
            UsageStatusArguments,
            StatusResult,
            read_only=True,
            idempotent=True,
            open_world=False,
        ),
        Tool(
            "pick_subscription",
            "Pick a subscription",
            "Which subscription the next ask would get and why, with the environment to use it by hand. Reserves "
            "nothing; ask_claude chooses by itself.",
            PickSubscriptionArguments,
            PickResult,
            read_only=True,
            idempotent=True,
            open_world=False,
        ),
        Tool(
            "usage_report",
            "Report spend",
            "What was spent, by one dimension, from the ledger; days in the user's time zone. Rows are bounded, the "
            "total is of everything.",
            UsageReportArguments,
            ReportResult,
            read_only=True,
            idempotent=True,
            open_world=False,
        ),
        Tool(
            "reconcile_usage",
            "Reconcile with the organization",
            "Compare the ledger of API-key subscriptions with the organization's own reports (needs an Admin key), by "
            "hour and day; warnings say where they are more than $1 apart.",
            ReconcileUsageArguments,
            ReconcileResult,
            read_only=False,
            idempotent=True,
            open_world=True,
        ),
    )
}
"""Every tool by its name, in the order in which hosts list them."""


@cache
def input_schema(tool: Tool) -> dict[str, Any]:
    """A tool's arguments as JSON Schema, without what only costs context: titles and the null of optional ones."""
    schema = tool.arguments.model_json_schema()
    return {
        "type": "object",
        "properties": {name: _compact(said) for name, said in schema["properties"].items()},
        "required": schema.get("required", []),
        "additionalProperties": False,
    }


@cache
def output_schema(tool: Tool) -> dict[str, Any]:
    """A tool's result or its failure as JSON Schema.

    Clients on the TypeScript SDK 1.x compare failures with it, too, and hide one that does not fit.
    """
    result = tool.result.model_json_schema(mode="serialization")
    failure = {
        "type": "object",
        "properties": {"error": ErrorResult.model_json_schema(mode="serialization")},
        "required": ["error"],
        "additionalProperties": False,
    }
    definitions = result.pop("$defs", {})
    schema: dict[str, Any] = _lean({"type": "object", "anyOf": [result, failure], "$defs": definitions})
    return schema


def _lean(schema: Any) -> Any:
    """A schema without the titles that only repeat the names of its fields and shapes."""
    if isinstance(schema, list):
        return [_lean(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _lean(one) for key, one in schema.items() if key != "title" or not isinstance(one, str)}


def _compact(said: dict[str, Any]) -> dict[str, Any]:
    options = [option for option in said.get("anyOf", []) if option != {"type": "null"}]
    merged = {**said, **options[0]} if len(options) == 1 else said
    dropped = {"title", "anyOf"} | ({"default"} if merged.get("default") is None else set())
    return {key: value for key, value in merged.items() if key not in dropped}
