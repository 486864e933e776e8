"""What one run cost, derived from its event stream and the CLI's own account of its session; pure.

CLI versions differ in what a result reports:

- to 2.1.276 ``total_cost_usd`` and ``modelUsage`` are the run's,
- from 2.1.277 on they are the session's so far, restored from the transcript's last ``cost-state`` line,
- from 2.1.309 on ``model_usage_since_last_result`` is the run's, beside them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pool_mcp.claude.command import BYTES_PER_TOKEN
from pool_mcp.claude.fields import as_count, as_nanousd, as_object, as_version, plain_model
from pool_mcp.claude.stream import OpenCall, RunStream
from pool_mcp.model import UNATTRIBUTED, Cost, ModelCost, Tokens

Price = Callable[[str, Tokens], int | None]
"""List price of one API call in nano-dollars, or None where the model is unknown."""

FIRST_CUMULATIVE = (2, 1, 277)
"""From this CLI on, ``total_cost_usd`` and ``modelUsage`` are the whole session's and not this run's. Measured on
2.1.206, .276, .277, .280, .309 and .330."""

CHARS_PER_TOKEN = 4
"""How the CLI itself counts what a cut call had written so far."""

FIRST_COUNTING_CUT_CALLS = (2, 1, 330)
"""From this CLI on its account has what it knows of calls that were cut; until then it has nothing of them."""


def session_cost(cost_state: Mapping[str, Any]) -> Cost:
    """What the CLI had booked on a session at some moment: a ``cost-state`` line of its transcript."""
    models = _by_model(as_object(cost_state.get("modelUsage")))
    total = as_nanousd(cost_state.get("totalCostUSD"))
    return Cost.of(models) if total is None else Cost(total, models)


def run_cost(
    stream: RunStream,
    *,
    price: Price,
    before: Cost | None,
    after: Cost | None = None,
    request_tokens: int = 0,
    open_calls: Sequence[OpenCall] = (),
) -> Cost:
    """What this run cost, for every version of the CLI.

    ``before`` is what the CLI had booked on the session when the run began, None for a new session: where the CLI
    reports the session's total, this run's part is the difference. ``after`` is what it had booked at the end.

    Where a call was cut, the sum is a floor: the CLI's own figure and the floors of the calls that it leaves out, or
    the calls that the stream shows, whichever is more, model by model. ``request_tokens`` is the least that the run's
    first request has, ``open_calls`` are subagents' calls that were cut. A CLI that never sent a request, which it
    announces before it does, has cost nothing.
    """
    reported = _reported(stream, before)
    # A report of nothing spent is not believed against calls that were seen: a field may have got another name.
    if reported is not None and stream.is_whole and (reported.nanousd or not stream.calls):
        return reported
    cost = reported or _booked_since(before, after)
    unfinished = _unfinished(stream, price, request_tokens)
    counts_cut_calls = (as_version(stream.cli_version) or FIRST_COUNTING_CUT_CALLS) >= FIRST_COUNTING_CUT_CALLS
    if not counts_cut_calls and (reported is None or stream.is_cut):
        cost += unfinished
    # That account has the subagents' calls that an interrupt cut; those that a budget cut it has at times.
    is_counted = counts_cut_calls and (after is not None if reported is None else stream.is_cut)
    for call in () if is_counted else open_calls:
        model = call.model or plain_model(stream.model or UNATTRIBUTED)
        tokens = Tokens(input=call.new_bytes // BYTES_PER_TOKEN, cache_read=call.repeated_bytes // BYTES_PER_TOKEN)
        unfinished += Cost.of({model: ModelCost(tokens, price(model, tokens))})
    cost = cost.at_least(_finished(stream, price) + unfinished)
    has_spent = bool(stream.calls) or stream.has_unanswered_request or bool(open_calls)
    is_known = reported is not None or stream.is_whole
    return replace(cost, is_estimate=has_spent and (not is_known or stream.has_cut_call))


def baseline(stream: RunStream, candidates: Sequence[Cost]) -> Cost | None:
    """What the CLI had booked on the session when the run began, of the accounts that it may have started from.

    Where others use the session at the same time, it is the one that leaves exactly the tokens of the run's own calls;
    else the likeliest, which is the first.
    """
    calls = sum((call.tokens for call in stream.calls.values()), Tokens())
    result = stream.result or {}
    now = Cost.of(_by_model(as_object(result.get("modelUsage")))).tokens
    for candidate in (*candidates, Cost()):
        rest = now.since(candidate.tokens)
        if (rest.input, rest.output, rest.cache_creation, rest.cache_read) == (
            calls.input,
            calls.output,
            calls.cache_creation,
            calls.cache_read,
        ):
            return candidate
    return next(iter(candidates), None)


def cost_so_far(stream: RunStream, price: Price) -> Cost:
    """The calls that the stream shows, priced by their tokens; a floor for those that go on."""
    return _finished(stream, price) + _unfinished(stream, price, 0)


def _finished(stream: RunStream, price: Price) -> Cost:
    calls = (call for call in stream.calls.values() if call.is_complete)
    parts = (Cost.of({call.model: ModelCost(call.tokens, price(call.model, call.tokens))}) for call in calls)
    return sum(parts, Cost())


def _unfinished(stream: RunStream, price: Price, request_tokens: int) -> Cost:
    """The floor of calls that were cut, and of a request that was never answered."""
    cost = Cost()
    for call in stream.calls.values():
        if not call.is_complete:
            tokens = replace(call.tokens, output=max(call.tokens.output, (call.chars + 2) // CHARS_PER_TOKEN))
            cost += Cost.of({call.model: ModelCost(tokens, price(call.model, tokens))})
    if stream.has_unanswered_request and request_tokens:
        model, tokens = plain_model(stream.model or UNATTRIBUTED), Tokens(input=request_tokens)
        cost += Cost.of({model: ModelCost(tokens, price(model, tokens))})
    return cost


def _reported(stream: RunStream, before: Cost | None) -> Cost | None:
    """This run's cost by its result lines, or None where there are none."""
    if not stream.results:
        return None
    since_last = [result.get("model_usage_since_last_result") for result in stream.results]
    if all(isinstance(usage, dict) for usage in since_last):
        return sum((Cost.of(_by_model(as_object(usage))) for usage in since_last), Cost())
    # Of several results (background subagents make more than one) the last has everything.
    last = stream.results[-1]
    models = _by_model(as_object(last.get("modelUsage")))
    total = as_nanousd(last.get("total_cost_usd"))
    if total is None and not isinstance(last.get("modelUsage"), dict):
        return None
    now = Cost.of(models) if total is None else Cost(total, models)
    version = as_version(stream.cli_version)
    is_cumulative = version is None or version >= FIRST_CUMULATIVE
    if before is None or not is_cumulative or now.nanousd < before.nanousd:
        return Cost.with_total(now.nanousd, now.models)
    return now.since(before)


def _booked_since(before: Cost | None, after: Cost | None) -> Cost:
    """What the CLI wrote down between two moments; it does so on SIGINT and SIGTERM, even without a result."""
    return Cost() if after is None else after.since(before or Cost())


def _by_model(usage: Mapping[str, Any]) -> dict[str, ModelCost]:
    """The CLI's ``modelUsage`` object as values."""
    parts: dict[str, ModelCost] = {}
    for name, value in usage.items():
        fields = as_object(value)
        creation = as_count(fields.get("cacheCreationInputTokens"))
        one_hour = min(creation, as_count(fields.get("cacheCreationEphemeral1hInputTokens")))
        tokens = Tokens(
            input=as_count(fields.get("inputTokens")),
            output=as_count(fields.get("outputTokens")),
            cache_creation_5m=creation - one_hour,
            cache_creation_1h=one_hour,
            cache_read=as_count(fields.get("cacheReadInputTokens")),
            web_search_requests=as_count(fields.get("webSearchRequests")),
        )
        model, part = plain_model(name), ModelCost(tokens, as_nanousd(fields.get("costUSD")))
        parts[model] = parts[model] + part if model in parts else part
    return parts
