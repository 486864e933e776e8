"""What a run's outcome means: the state it ends in, and the words for a person; pure."""

from pool_mcp.choosing.cooldowns import how_to_sign_in
from pool_mcp.model import NANO, Outcome, Run, RunState, Subscription

FAILOVER = (Outcome.LIMIT, Outcome.AUTH, Outcome.BILLING)
"""The subscription's fault, so that another one may do better."""

CUT = (Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.BUDGET)
"""Ends on somebody's word; what was answered until then is handed over with the failure."""


def state_of(outcome: Outcome, *, has_result: bool, has_spent: bool) -> RunState:
    """The state a run ends in: answered, cut short while it was spending, or failed."""
    if outcome is Outcome.OK:
        return RunState.SETTLED
    if outcome in CUT or (has_spent and not has_result):
        return RunState.INTERRUPTED
    return RunState.FAILED


def explain(outcome: Outcome, said: str | None, run: Run, subscription: Subscription | None) -> str | None:
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
        case Outcome.AUTH:
            fix = how_to_sign_in(subscription) if subscription else f"add {name!r} to pool.toml again"
            return f"{name}: {said or outcome}; {fix}."
        case Outcome.BILLING:
            return f"{name}: {said or outcome}; see the account's billing page."
        case Outcome.OVERLOADED:
            return f"Anthropic's service is overloaded ({said or 'no details'}); ask again in a few minutes."
        case Outcome.INVALID_REQUEST:
            return f"Anthropic refused the request: {said or 'no details'}"
    return said
