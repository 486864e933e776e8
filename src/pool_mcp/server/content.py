"""The text half of a tool's result, for hosts that show a model nothing else; pure.

It holds all that an agent acts on, as the data half does, in fewer characters: an answer's text as it is, and below it
names with their values. Neither half refers to the other.
"""

import json
from collections.abc import Iterator

from pydantic import BaseModel

from pool_mcp.choosing.windows import rfc3339
from pool_mcp.results.asks import AskResult
from pool_mcp.results.base import AdviceResult, ErrorResult
from pool_mcp.results.ledger import ReportResult, ReportTotal, forecast_line
from pool_mcp.results.organisation import DifferenceResult, ReconcileResult
from pool_mcp.results.status import PickResult, StatusResult, SubscriptionResult


def text_of(result: BaseModel) -> str:
    """A result as text."""
    match result:
        case AskResult():
            return _ask(result)
        case StatusResult():
            return "\n".join(_status(result))
        case PickResult():
            return "\n".join(_pick(result))
        case ReportResult():
            return "\n".join(_report(result))
        case ReconcileResult():
            return "\n".join(_reconcile(result))
    raise AssertionError(f"{type(result).__name__} is no tool's result")


def text_of_error(error: ErrorResult) -> str:
    """What happened, then the kind, when to try again, what to do, and what there is of an answer."""
    lines = [error.message, "", f"kind: {error.kind}"]
    if error.retry_at:
        lines.append(f"retry_at: {rfc3339(error.retry_at)} ({_in(error.retry_in_s)})")
    lines.append(f"what to do: {error.next_step}")
    if error.subscription:
        lines.append(f"subscription: {error.subscription}")
    if error.alternatives:
        lines.append(f"alternatives: {', '.join(error.alternatives)}")
    if error.run_id:
        lines.append(f"run_id: {error.run_id}")
    if error.partial_text:
        lines += ["partial_text, what there was of the answer:", error.partial_text]
    return "\n".join(lines)


def _ask(result: AskResult) -> str:
    cost = "not known yet" if result.cost_usd is None else f"${result.cost_usd:.4f}"
    estimate = " at least" if result.cost_is_estimate and result.cost_usd is not None else ""
    paid = f"cost:{estimate} {cost}; took {duration(result.duration_ms // 1000)}"
    about = [
        f"status: {result.status}",
        f"run_id: {result.run_id}",
        f"session_id: {result.session_id}",
    ]
    if result.status == "waiting":
        expected = f"; expected to begin at {rfc3339(result.expected_at)}" if result.expected_at else ""
        about.append(f"position: {result.position}{expected}")
        about.append(f"reason: {result.reason}")
    else:
        about.append(f"subscription: {result.subscription}; model: {result.model or 'default'}; {paid}")
    if len(result.attempts) > 1:
        tried = (f"{one.subscription} {one.outcome}" for one in result.attempts)
        about.append(f"attempts: {', '.join(tried)}")
    about.append(_advice(result.advice))
    if result.next_step:
        about.append(f"next: {result.next_step}")
    answer = [result.text] if result.text else []
    if result.structured is not None and not _is_json_of(result.text, result.structured):
        answer.append(f"structured: {_json(result.structured)}")
    if not answer:
        return "\n".join(about)
    return "\n".join([*answer, "", "--- pool-mcp ---", *about])


def _is_json_of(text: str, value: object) -> bool:
    try:
        return bool(json.loads(text) == value)
    except ValueError:
        return False


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _advice(advice: AdviceResult) -> str:
    parts = [f"advice: {advice.action}"]
    if advice.max_usd_per_hour is not None:
        parts.append(f" (at most ${advice.max_usd_per_hour:.2f} an hour)")
    if advice.retry_at:
        parts.append(f" until {rfc3339(advice.retry_at)} ({_in(advice.retry_in_s)})")
    parts.append(f": {advice.reason}")
    if advice.exhausts_at:
        parts.append(f" Used up at {rfc3339(advice.exhausts_at)} at this rate.")
    return "".join(parts)


def _status(result: StatusResult) -> Iterator[str]:
    yield f"now: {rfc3339(result.generated_at)}"
    yield _advice(result.advice)
    pool = result.pool
    yield (
        f"pool: today ${pool.cost_today_usd:.2f}; 7 days ${pool.week_cost_usd:.2f} of ${pool.week_budget_usd:.2f} "
        f"({pool.week_percent:g}%); in flight {pool.in_flight}, holding ${pool.reserved_usd:.2f}; "
        f"waiting {pool.waiting}"
    )
    if pool.week_real_money_usd:
        yield f"real money of these 7 days: ${pool.week_real_money_usd:.2f}; the rest is list price of flat plans"
    if caller := result.caller:
        day = "" if caller.daily_budget_usd is None else f" of ${caller.daily_budget_usd:.2f}"
        week = "" if caller.weekly_budget_usd is None else f" of ${caller.weekly_budget_usd:.2f}"
        month = (
            ""
            if caller.monthly_budget_usd is None
            else f"; this month ${caller.month_cost_usd or 0:.2f} of ${caller.monthly_budget_usd:.2f}"
        )
        share = "" if caller.share_percent is None else f"; may use {caller.share_percent:g}% of each official window"
        left = "no budget of its own" if caller.headroom_usd is None else f"room for ${caller.headroom_usd:.2f}"
        yield (
            f"caller {caller.id}: {left}; today ${caller.cost_today_usd:.2f}{day}; 7 days ${caller.week_cost_usd:.2f}"
            f"{week}{month}; holding ${caller.reserved_usd:.2f}{share}"
        )
    for one in result.subscriptions:
        yield from _subscription(one)
    for alert in result.alerts:
        yield f"alert {rfc3339(alert.at)}: {alert.message}"


def _subscription(one: SubscriptionResult) -> Iterator[str]:
    plan = f" ({one.plan})" if one.plan else ""
    free = f", free at {rfc3339(one.available_at)}" if one.available_at else ""
    yield f"{one.id}{plan}: {one.status}, {one.status_reason}{free}; health {one.health_score:g}"
    yield (
        f"  room for ${one.headroom_usd:.2f}; in flight {one.in_flight}, holding ${one.reserved_usd:.2f}; "
        f"${one.burn_usd_per_hour:.2f} in the last hour"
        + (f", used up at {rfc3339(one.exhausts_at)} at this rate" if one.exhausts_at and one.headroom_usd else "")
    )
    block, week = one.block, one.week
    # An official block's percent is Anthropic's, not that of the dollars beside it; it stands below.
    share = "" if block.source == "official" else f" ({block.percent:g}%)"
    yield f"  block to {rfc3339(block.ends_at)}: ${block.cost_usd:.2f} of ${block.budget_usd:.2f}{share}"
    yield f"  7 days: ${week.cost_usd:.2f} of ${week.budget_usd:.2f} ({week.percent:g}%)"
    for name, window in one.official.items():
        percent = "unknown" if window.percent is None else f"{window.percent:g}%"
        now = "" if window.percent_now is None else f", now about {window.percent_now:g}%"
        resets = f", resets {rfc3339(window.resets_at)}" if window.resets_at else ""
        kept = "" if window.kept_percent is None else f", {window.kept_percent:g}% kept for the person"
        yield f"  official {name}: {percent} at {rfc3339(window.observed_at)}{now}{resets}, {window.status}{kept}"
    if one.budgets_note:
        yield f"  {one.budgets_note}"
    if one.is_real_money:
        yield "  billed per call: its amounts are real money"
    if paid := one.overage:
        use = "in use" if paid.in_use else "not in use"
        yield f"  beyond the plan, real money: ${paid.cost_usd:.2f} of ${paid.budget_usd:.2f} this month, {use}"


def _pick(result: PickResult) -> Iterator[str]:
    yield f"subscription: {result.subscription or 'none can serve now'}"
    yield f"reason: {result.reason}"
    if result.next_available_at:
        yield f"next available: {rfc3339(result.next_available_at)}"
    if result.env:
        yield "environment to use it by hand: " + " ".join(f"{name}={value}" for name, value in result.env.items())
    for one in result.candidates:
        state = f"score {one.score:g}" if one.eligible else "not eligible"
        free = f"; free at {rfc3339(one.available_at)}" if one.available_at else ""
        yield f"{one.id}: {state}; {'; '.join(one.reasons)}{free}"


def _report(result: ReportResult) -> Iterator[str]:
    since = "the beginning" if result.since is None else rfc3339(result.since)
    until = "now" if result.until is None else rfc3339(result.until)
    yield f"spend by {result.by}, {since} to {until}, days in {result.time_zone}"
    yield f"{result.by},calls,input,output,cache_creation,cache_read,cost_usd,unpriced_calls"
    for row in result.rows:
        yield f"{row.key},{_sums(row)}"
    yield f"total,{_sums(result.total)}"
    if result.rows_left_out:
        yield f"{result.rows_left_out} more rows are in the total only."
    for one in result.forecasts or ():
        yield f"forecast {forecast_line(one, rfc3339(one.ends_at))}"
    if result.real_money_usd:
        yield f"real money of the total: ${result.real_money_usd:.6g}; the rest is list price of flat plans"


def _sums(sums: ReportTotal) -> str:
    counts = (sums.calls, sums.input_tokens, sums.output_tokens, sums.cache_creation_tokens, sums.cache_read_tokens)
    return f"{','.join(map(str, counts))},{sums.cost_usd:.6g},{sums.unpriced_calls}"


def _reconcile(result: ReconcileResult) -> Iterator[str]:
    yield (
        f"ledger ${result.ledger_usd:.2f}, organization ${result.official_usd:.2f}, difference "
        f"${result.difference_usd:.2f}"
    )
    yield (
        f"span: {rfc3339(result.since)} to {rfc3339(result.until)}; final, and compared, until "
        f"{rfc3339(result.final_until)}"
    )
    estimate = ", priced by list" if result.official_is_estimate else ""
    yield f"source: {result.source}{estimate}; read {rfc3339(result.synced_at)}; compared: {_matched(result)}"
    if result.not_compared:
        yield f"not compared: {', '.join(result.not_compared)}"
    yield from (f"warning: {warning}" for warning in result.warnings)
    if not result.warnings:
        yield "The ledger and the organization agree to within $1 a day."
    yield from (f"day {_difference(day)}" for day in result.days)
    yield from (f"hour {_difference(hour)}" for hour in result.hours)
    yield from (
        f"billed {one.day}: ${one.billed_usd:.2f} (whole organization, after discounts)" for one in result.billed
    )
    if result.rows_left_out:
        yield f"{result.rows_left_out} more days and hours are left out."
    if result.adjusted:
        yield f"booked {result.adjusted.entries} adjustments, ${result.adjusted.cost_usd:.2f}"


def _matched(result: ReconcileResult) -> str:
    return ", ".join(f"{one.subscription} ({one.api_key_id})" for one in result.matched) or "nothing"


def _difference(one: DifferenceResult) -> str:
    ledger, official, difference = (
        "unpriced" if usd is None else f"${usd:.4f}" for usd in (one.ledger_usd, one.official_usd, one.difference_usd)
    )
    what = f"{rfc3339(one.at)} {one.subscription} {one.model}"
    return f"{what}: ledger {ledger}, organization {official}, difference {difference}"


def _in(seconds: int | None) -> str:
    return f"in {duration(seconds)}" if seconds else "now"


def duration(seconds: int) -> str:
    """A time span in words, in its two largest units: ``45 s``, ``12 min``, ``1 h 35 min``, ``2 d 3 h``."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if minutes < 1:
        return f"{seconds} s"
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"
