"""What a run's outcome means: the state it ends in, the words for a person, the cooldown of its subscription; pure."""

from dataclasses import replace
from zlib import crc32

from pool_mcp.choosing.windows import is_plausible, rfc3339
from pool_mcp.claude.verdict import Verdict
from pool_mcp.model import MINUTE_MS, NANO, SECOND_MS, Cooldown, Outcome, Run, RunState, Subscription

FAILOVER = (Outcome.LIMIT, Outcome.AUTH, Outcome.BILLING)
"""The subscription's fault, so that another one may do better."""

CUT = (Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.BUDGET)
"""Ends on somebody's word; what was answered until then is handed over with the failure."""

FIRST_MS = {"burst": MINUTE_MS, "overloaded": 20 * SECOND_MS}
"""The first cooldown after what passes by itself; each further one in a row is twice as long, up to ``LONGEST_MS``."""

LONGEST_MS = 15 * MINUTE_MS

SPREAD_MS = 20 * SECOND_MS
"""Subscriptions come back this far apart at most after a reset, so that not all are tried in the same second."""


def state_of(outcome: Outcome, *, has_result: bool, has_spent: bool) -> RunState:
    """The state a run ends in: answered, cut short while it was spending, or failed."""
    if outcome is Outcome.OK:
        return RunState.SETTLED
    if outcome in CUT or (has_spent and not has_result):
        return RunState.INTERRUPTED
    return RunState.FAILED


def cooldown_of(
    outcome: Outcome, verdict: Verdict | None, message: str | None, subscription: Subscription, now_ms: int
) -> Cooldown | None:
    """How long a subscription is out of the choice after an outcome that is its own fault, and why."""
    match outcome:
        case Outcome.LIMIT:
            limit = verdict.limit if verdict else None
            if limit and limit.resets_at_ms is not None and limit.resets_at_ms > now_ms and is_plausible(limit):
                detail = f"its {limit.window} window is used up until {rfc3339(limit.resets_at_ms)}"
                spread_ms = crc32(f"{subscription.id} {limit.resets_at_ms}".encode()) % SPREAD_MS
                return Cooldown(limit.window, now_ms, limit.resets_at_ms + spread_ms, detail)
            detail = "Anthropic asked for fewer requests (429)"
            return Cooldown("burst", now_ms, now_ms + FIRST_MS["burst"], detail)
        case Outcome.OVERLOADED:
            detail = "Anthropic's service is overloaded; no subscription is at fault"
            return Cooldown("overloaded", now_ms, now_ms + FIRST_MS["overloaded"], detail)
        case Outcome.AUTH:
            return Cooldown("auth", now_ms, None, f"not signed in: {how_to_sign_in(subscription)}")
        case Outcome.BILLING:
            said = (message or "Anthropic refuses to bill the account").rstrip(".")
            detail = f"{said}: see the account's billing page, then ask once with subscription={subscription.id!r}"
            return Cooldown("billing", now_ms, None, detail)
    return None


def lengthened(cooldown: Cooldown, before: Cooldown | None, begun_at_ms: int) -> Cooldown:
    """A cooldown with regard to the one of its cause ``before`` it that no answer has lifted.

    Of what passes by itself: a run that began before that one adds nothing to it, and one that tried out whether it was
    over doubles it. What only a person can end is still the same, however often it is tried, and is told once.
    """
    if cooldown.until_ms is None and before is not None:
        return replace(cooldown, since_ms=before.since_ms)
    if cooldown.cause not in FIRST_MS or before is None or before.until_ms is None:
        return cooldown
    if begun_at_ms < before.since_ms:
        return replace(cooldown, until_ms=before.until_ms)
    if cooldown.since_ms - before.until_ms > LONGEST_MS:
        return cooldown
    length_ms = min(LONGEST_MS, 2 * (before.until_ms - before.since_ms))
    return replace(cooldown, until_ms=cooldown.since_ms + length_ms)


def how_to_sign_in(subscription: Subscription) -> str:
    """What a person does to sign a subscription in again. A new login is noticed, a new variable has to be tried."""
    named = f"subscription={subscription.id!r}"
    if subscription.api_key_env:
        return f"put a valid key into the variable {subscription.api_key_env}, then ask once with {named}"
    if subscription.oauth_token_env:
        variable = subscription.oauth_token_env
        return f"put a new token of `claude setup-token` into the variable {variable}, then ask once with {named}"
    where = f"CLAUDE_CONFIG_DIR={subscription.config_dir} " if subscription.config_dir else ""
    return f"run `{where}claude auth login`"


def explain(outcome: Outcome, said: str | None, run: Run) -> str | None:
    """A failed run in one line that ends in what to do; None for an answered one. ``said`` is the CLI's own word."""
    name = run.subscription
    match outcome:
        case Outcome.OK:
            return None
        case Outcome.TIMEOUT:
            return "The run did not end in its time and was stopped; give a longer timeout_s, or ask for less."
        case Outcome.CANCELLED:
            return "The run was cancelled; what it cost so far is booked."
        case Outcome.BUDGET:
            allowed = (run.max_budget_nanousd or 0) / NANO
            return (
                f"The run was stopped where a budget or max_cost_usd allows no further call (it had ${allowed:.2f} at "
                "most); raise the one that is too low."
            )
        case Outcome.UNKNOWN_SESSION:
            return f"The CLI does not know the session {run.session_id} under {name!r}; begin a new one."
        case Outcome.LIMIT:
            return f"{name}: {said or 'the limit is used up'}; ask again after the reset, or add a subscription."
        case Outcome.AUTH | Outcome.BILLING:
            return f"{name}: {said or outcome}; see status_reason in usage_status for what to do."
        case Outcome.OVERLOADED:
            return f"Anthropic's service is overloaded ({said or 'no details'}); ask again in a few minutes."
        case Outcome.INVALID_REQUEST:
            return f"Anthropic refused the request: {said or 'no details'}"
    return said
