"""What is known of all subscriptions, and of one caller, at one instant; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pool_mcp.choosing import budget, pacing
from pool_mcp.choosing.allowances import Allowance
from pool_mcp.choosing.overage import OverageBalance
from pool_mcp.choosing.selection import Request

_USABLE = (budget.Status.AVAILABLE, budget.Status.APPROACHING)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The pool at ``now_ms``; money in nano-dollars.

    ``request`` is an ask of the usual size. ``alerts`` are those that still hold, newest first,
    each with when it was raised. ``overage`` is paid use, by subscription, where there is any. ``waiting`` is how
    many asks wait.
    """

    now_ms: int
    balances: Sequence[budget.Balance]
    request: Request
    strategy: Literal["headroom", "health"]
    spent_today: int
    alerts: Sequence[tuple[int, pacing.Alert]]
    overage: Mapping[str, OverageBalance]
    waiting: int = 0

    @property
    def advice(self) -> pacing.Advice:
        """What the next ask of the usual size would meet."""
        return pacing.advise(self.request, self.balances, self.strategy)

    @property
    def caller(self) -> Allowance | None:
        """The caller that was asked about."""
        return self.request.caller

    @property
    def usable(self) -> list[str]:
        """The subscriptions that could serve."""
        return [one.subscription.id for one in self.balances if budget.availability(one).status in _USABLE]
