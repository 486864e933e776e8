"""Whose turn it is: first come, first served for each bottleneck; pure.

A bottleneck is a subscription, a caller's budget, or a session. Whoever waits for what runs in flight hold of it keeps
it from everybody behind, so a large ask gets its turn among any number of small ones. What waits for a window or a
budget to open keeps nothing: those behind it pass. Urgency goes before age.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from pool_mcp.asks.admission import refusal
from pool_mcp.choices import Strategy
from pool_mcp.choosing import selection, windows
from pool_mcp.choosing.budget import IN_FLIGHT_MS, Balance
from pool_mcp.choosing.cooldowns import PROBE_MS
from pool_mcp.choosing.selection import Candidate, Choice, Request
from pool_mcp.errors import InvalidRequest, LimitReached, PoolError
from pool_mcp.model import Waiting

TYPICAL_MS = 30_000
"""How long an answer takes, while nothing is known of it."""


@dataclass(frozen=True, slots=True)
class Pool:
    """All that decides about those that wait, at one instant.

    ``request`` is what one of them asks for, ``busy`` the sessions that are in use, ``here`` the subscriptions that
    this process can serve, ``typical_ms`` how long an answer takes, by subscription. ``is_here`` says of a run whether
    what was asked is on this machine's disk.
    """

    now_ms: int
    balances: Sequence[Balance]
    strategy: Strategy
    request: Callable[[Waiting], Request]
    busy: Collection[str]
    here: frozenset[str]
    typical_ms: Callable[[str], int | None]
    is_here: Callable[[str], bool] = lambda _: True


@dataclass(frozen=True, slots=True)
class Turn:
    """What becomes of one that waits: it is given ``choice``, it ends with ``error``, or it goes on waiting.

    ``refusal`` is what it would end with if it did not wait; ``reason`` and ``expected_at_ms`` say what for and until
    when. ``claim`` is the subscription that is kept for it.
    """

    waiting: Waiting
    choice: Choice | None = None
    error: PoolError | None = None
    refusal: PoolError | None = None
    reason: str = ""
    expected_at_ms: int | None = None
    claim: str | None = None


class Round:
    """Goes over those that wait, first to last. What one is given is not given to another in the same round."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._kept: set[str] = set()
        self._callers: set[str] = set()
        self._sessions = set(pool.busy)
        self._ahead: dict[str, int] = {}
        self._known: dict[tuple[object, ...], Choice] = {}

    def all(self, line: Sequence[Waiting]) -> list[Turn]:
        """What becomes of each."""
        return [self.next(one) for one in line]

    def next(self, one: Waiting) -> Turn:
        """What becomes of the one that comes after all that were gone over."""
        try:
            turn = self._next(one)
        except PoolError as error:
            return Turn(one, error=error)
        if turn.choice is None and turn.error is None and self._pool.now_ms >= one.give_up_at_ms:
            return replace(turn, error=_gave_up(turn))
        return turn

    def _next(self, one: Waiting) -> Turn:
        now_ms, run = self._pool.now_ms, one.run
        if one.only is not None and one.only not in self._ids:
            gone = f"The subscription {one.only!r} that this ask waited for is no longer in pool.toml; ask again."
            raise InvalidRequest(gone)
        if one.not_before_ms is not None and now_ms < one.not_before_ms:
            return _wait(one, "it is not to begin earlier", one.not_before_ms)
        session = run.session_id if run.resumed else None
        if session in self._sessions:
            return _wait(one, f"the session {session} is busy with an earlier ask", now_ms + IN_FLIGHT_MS)
        choice = self._choose(one)
        if session is not None:
            self._sessions.add(session)
        if choice.subscription is not None:
            self._kept.add(choice.subscription)
            self._callers.add(run.caller)
            self._known.clear()
            return Turn(one, choice, claim=one.claim)
        held = [candidate for candidate in choice.candidates if candidate.held_by is not None]
        if held:
            return self._hold(one, choice, held)
        if one.wait_for != "room":
            raise refusal(choice)
        return Turn(one, reason=choice.reason, expected_at_ms=choice.next_available_at_ms)

    @property
    def _ids(self) -> frozenset[str]:
        return frozenset(balance.subscription.id for balance in self._pool.balances)

    def _choose(self, one: Waiting) -> Choice:
        """The choice for one; those that ask for the same after it get the same, until something is given."""
        run, is_behind = one.run, one.run.caller in self._callers
        key = (
            run.caller,
            run.project,
            run.model,
            one.only,
            one.by_name,
            one.max_cost_nanousd,
            run.urgency,
            one.tried,
            is_behind,
        )
        if (known := self._known.get(key)) is not None:
            return known
        request = replace(self._pool.request(one), kept=frozenset(self._kept), is_behind=is_behind)
        choice = selection.choose(request, self._pool.balances, self._pool.strategy)
        if choice.subscription is not None and choice.subscription not in self._pool.here:
            choice = self._choose_here(request, choice)
        if choice.subscription is not None and not self._pool.is_here(run.run_id):
            return _without(
                choice, "the machine on which it was asked has to start it", self._pool.now_ms + IN_FLIGHT_MS
            )
        if choice.subscription is not None and one.wait_for == "room" and self._is_untested(choice.subscription):
            choice = _without(choice, "one run is testing whether its window has opened", self._pool.now_ms + PROBE_MS)
        if choice.subscription is None:
            self._known[key] = choice
        return choice

    def _choose_here(self, request: Request, best: Choice) -> Choice:
        """The best that this process can serve; where there is none, another process has to."""
        elsewhere = self._ids - self._pool.here
        ours = replace(request, tried=request.tried | elsewhere)
        choice = selection.choose(ours, self._pool.balances, self._pool.strategy)
        if choice.subscription is not None:
            return choice
        return _without(best, "a process that has its key has to start it", self._pool.now_ms + IN_FLIGHT_MS)

    def _is_untested(self, subscription: str) -> bool:
        """Whether a window has opened of which nothing was heard since, and a run is finding out how it is."""
        balance = self._balance(subscription)
        return balance.in_flight > 0 and any(windows.has_reset(one, balance.at_ms) for one in balance.readings.values())

    def _balance(self, subscription: str) -> Balance:
        return next(one for one in self._pool.balances if one.subscription.id == subscription)

    def _hold(self, one: Waiting, choice: Choice, held: Sequence[Candidate]) -> Turn:
        """Have what runs in flight hold kept for one: of its caller's budget, or of one subscription for good."""
        now_ms = self._pool.now_ms
        if any(candidate.held_by == "caller" for candidate in held):
            self._callers.add(one.run.caller)
            return Turn(one, None, None, refusal(choice), choice.reason, now_ms + IN_FLIGHT_MS)
        ids = {candidate.id for candidate in held}
        claim = one.claim if one.claim in ids else None
        if claim is None:
            claim = min(held, key=lambda c: (c.id in self._kept, -c.score, c.id)).id
        self._kept.add(claim)
        ahead = self._ahead[claim] = self._ahead.get(claim, 0) + 1
        rounds = -(-ahead // max(1, self._balance(claim).in_flight))
        expected_at_ms = now_ms + rounds * (self._pool.typical_ms(claim) or TYPICAL_MS)
        return Turn(one, None, None, refusal(choice), choice.reason, expected_at_ms, claim)


def _without(choice: Choice, why: str, again_at_ms: int) -> Choice:
    """No choice after all, for a reason that passes."""
    candidates = tuple(
        replace(
            one, eligible=False, reasons=(why,), blocked_by="limit", available_at_ms=again_at_ms, held_by="subscription"
        )
        if one.id == choice.subscription
        else one
        for one in choice.candidates
    )
    return Choice(None, f"{choice.subscription}: {why}", candidates)


def _wait(one: Waiting, reason: str, expected_at_ms: int) -> Turn:
    said = f"This ask cannot begin now: {reason}. Try again at {windows.rfc3339(expected_at_ms)}."
    return Turn(
        one, refusal=LimitReached(said, retry_at_ms=expected_at_ms), reason=reason, expected_at_ms=expected_at_ms
    )


def _gave_up(turn: Turn) -> PoolError:
    """What an ask ends with that has waited as long as it was to."""
    kind = LimitReached if turn.refusal is None else type(turn.refusal)
    message = f"It waited until {windows.rfc3339(turn.waiting.give_up_at_ms)} and gave up: {turn.reason}. Ask again."
    return kind(message, retry_at_ms=turn.expected_at_ms)
