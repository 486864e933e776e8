"""Recognizes an ask that was made before, by its idempotency key and a digest of what it asks."""

import hashlib
import json
from collections.abc import Sequence

from pool_mcp.errors import InvalidRequest
from pool_mcp.ledger.transaction import Transaction
from pool_mcp.model import Ask, Cost, Outcome, Run


def known_attempt(tx: Transaction, ask: Ask) -> Run | None:
    """The latest run under the ask's idempotency key; a key whose ask came to nothing is free again."""
    known = tx.runs.ask_by_key(ask.caller, ask.idempotency_key) if ask.idempotency_key else None
    if known is None:
        return None
    ask_id, before = known
    attempts = tx.runs.of_ask(ask_id)
    if _came_to_nothing(attempts):
        tx.runs.release_key(ask_id)
        return None
    if before != fingerprint(ask):
        raise InvalidRequest(
            f"The idempotency_key {ask.idempotency_key!r} was used for a different ask; take a new one."
        )
    return attempts[-1]


def _came_to_nothing(attempts: Sequence[Run]) -> bool:
    """Whether an ask has ended without an answer and surely without any cost."""
    cost = cost_of(attempts)
    is_failed = attempts[-1].finished and attempts[-1].outcome is not Outcome.OK
    return is_failed and cost.nanousd == 0 and not cost.is_estimate


def fingerprint(ask: Ask) -> str:
    """A digest of all that makes an ask another ask: what is asked and within which bounds."""
    parts: list[object] = [
        ask.prompt,
        ask.session_id,
        ask.subscription,
        ask.model,
        ask.effort,
        ask.system_prompt,
        ask.json_schema,
        ask.working_dir,
        ask.tool_profile,
    ]
    bounds = {"max_cost": ask.max_cost_nanousd, "timeout_s": ask.timeout_s}
    if any(bound is not None for bound in bounds.values()):
        parts.append(bounds)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cost_of(attempts: Sequence[Run]) -> Cost:
    """What the attempts of an ask have cost together."""
    return sum((one.cost for one in attempts if one.cost is not None), Cost())
