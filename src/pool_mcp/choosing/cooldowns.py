"""Every rule of a cooldown: how long, whether in force, whose, lengthened, probed, lifted; pure, given ``now_ms``.

A cooldown keeps a subscription, or the whole pool, from being chosen. One of a model family's window counts for that
family only. Past its end it waits for proof: one run at a time is let through, until one has answered.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from zlib import crc32

from pool_mcp.choosing.windows import applies_to, is_plausible, rfc3339
from pool_mcp.model import CLOCK_SLACK_MS, MINUTE_MS, SECOND_MS, Cooldown, Outcome, Subscription, WindowReading

WHOLE_POOL = "*"
"""Whose cooldown it is when Anthropic is overloaded; no subscription can have that id."""

NEEDS_A_PERSON = ("auth", "billing", "cli_missing")
"""Causes that last until a person acts."""

FIRST_MS = {"burst": MINUTE_MS, "overloaded": 20 * SECOND_MS}
"""The first cooldown after what passes by itself; each further one in a row is twice as long, up to ``LONGEST_MS``."""

LONGEST_MS = 15 * MINUTE_MS

SPREAD_MS = 20 * SECOND_MS
"""Subscriptions come back this far apart at most after a reset, so that not all are tried in the same second."""

PROBE_MS = 5 * SECOND_MS
"""When to ask again while one run tests whether a cooldown is over."""

ROOM_PERCENT = 95.0
"""A reading below this proves that a window which was used up has room again."""


# How long, and whose


def cooldown_after(
    outcome: Outcome, limit: WindowReading | None, message: str | None, subscription: Subscription, now_ms: int
) -> Cooldown | None:
    """The cooldown that a run's outcome calls for; ``limit`` is the window that refused, where the CLI named one."""
    match outcome:
        case Outcome.LIMIT:
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
            refusal = (message or "Anthropic refuses to bill the account").rstrip(".")
            detail = f"{refusal}: see the account's billing page, then ask once with subscription={subscription.id!r}"
            return Cooldown("billing", now_ms, None, detail)
    return None


def how_to_sign_in(subscription: Subscription) -> str:
    """What a person does to sign a subscription in again. A new login is noticed, a new variable has to be tried."""
    named = f"subscription={subscription.id!r}"
    if subscription.api_key_env:
        return f"put a valid key into the variable {subscription.api_key_env}, then ask once with {named}"
    if subscription.oauth_token_env:
        variable = subscription.oauth_token_env
        return f"put a new token of `claude setup-token` into the variable {variable}, then ask once with {named}"
    return f"run `pool-mcp login {subscription.id}`"


def owner_after(outcome: Outcome, subscription: str) -> str:
    """Whose cooldown an outcome starts: while Anthropic is overloaded no subscription is at fault."""
    return WHOLE_POOL if outcome is Outcome.OVERLOADED else subscription


def with_backoff(cooldown: Cooldown, before: Cooldown | None, begun_at_ms: int) -> Cooldown:
    """A cooldown, longer where ``before``, the last of its cause, was never lifted by an answer.

    Of what passes by itself: a run that began before the earlier cooldown adds nothing to it, and one that tested
    whether it was over doubles it. What only a person can end keeps its beginning, however often it is tried.
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


# Whether in force, and for whom


def needs_a_person(cooldown: Cooldown) -> bool:
    """Whether only a person can end it."""
    return cooldown.cause in NEEDS_A_PERSON


def is_in_force(cooldown: Cooldown, now_ms: int) -> bool:
    """Whether it keeps runs out: until its time, or until a person acts. After that it waits for proof.

    What begins well ahead of now was dated by a wrong clock, and so was its end.
    """
    if needs_a_person(cooldown) or cooldown.until_ms is None:
        return True
    return cooldown.since_ms <= now_ms + CLOCK_SLACK_MS and cooldown.until_ms > now_ms


def kind_of(cooldown: Cooldown) -> str:
    """The error kind of what it keeps out."""
    return cooldown.cause if needs_a_person(cooldown) else "limit"


def counts_for(cooldown: Cooldown, model: str | None) -> bool:
    """Whether it keeps a model out: one of a family's window counts for that family only.

    No model is the CLI's default, whose family is known only from a run that asked for none and was refused.
    """
    return applies_to(cooldown.cause, model) or (model is None and cooldown.refused_default_model)


def with_probe(cooldown: Cooldown, in_flight: Iterable[tuple[str | None, int]]) -> Cooldown:
    """A cooldown that knows whether a run tests it: one that it counts for and that was reserved since it began.

    ``in_flight`` is the model and the time of each unfinished run of its owner.
    """
    is_probed = any(at_ms >= cooldown.since_ms and counts_for(cooldown, model) for model, at_ms in in_flight)
    return replace(cooldown, is_probed=is_probed)


def is_lifted_by_answer(cooldown: Cooldown, models: Iterable[str | None]) -> bool:
    """Whether an answer of these models proves that a cooldown from before its run is over."""
    return any(counts_for(cooldown, model) for model in models)


def of_pool(by_owner: Mapping[str, Sequence[Cooldown]], now_ms: int) -> Cooldown | None:
    """The whole pool's cooldown, while it is in force."""
    return max(
        (one for one in by_owner.get(WHOLE_POOL, ()) if is_in_force(one, now_ms)),
        key=lambda one: one.until_ms or 0,
        default=None,
    )


def of_subscription(own: Iterable[Cooldown], others: Iterable[Cooldown], now_ms: int) -> tuple[Cooldown, ...]:
    """A subscription's cooldowns: its own, and the limits in force of the others in its organization.

    Those share one quota, but not a login.
    """
    shared = [one for one in others if not needs_a_person(one) and is_in_force(one, now_ms)]
    return (*own, *shared)


def worst(cooldowns: Iterable[Cooldown], model: str | None, now_ms: int) -> Cooldown | None:
    """Of several, the one that decides about a model: what only a person can end, then what ends last."""
    return max(
        (one for one in cooldowns if counts_for(one, model)),
        key=lambda one: (needs_a_person(one), is_in_force(one, now_ms), one.until_ms is None, one.until_ms or 0),
        default=None,
    )


def shows_room(reading: WindowReading) -> bool:
    """Whether a reading proves that its window's limit is over, however early."""
    return reading.status != "rejected" and reading.percent is not None and reading.percent < ROOM_PERCENT
