"""What a person, an agent or a setting may choose from, each written once. Imports nothing of the package."""

from enum import StrEnum
from typing import Literal, get_args

Effort = Literal["low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
"""How hard Claude should think."""

ToolProfile = Literal["none", "read", "full"]
TOOL_PROFILES: tuple[ToolProfile, ...] = get_args(ToolProfile)
"""Which tools a delegated Claude has, from none to all that the operator allows."""

Strategy = Literal["headroom", "health"]
"""How the pool chooses among subscriptions that have room."""

Spares = Literal["auto", "eager", "off"]
"""When a CLI is started before it is needed: after an ask, at a server's start as well, or never."""

By = Literal[
    "hour",
    "day",
    "week",
    "month",
    "block",
    "model",
    "subscription",
    "caller",
    "session",
    "source",
    "project",
    "branch",
]
BY: tuple[By, ...] = get_args(By)
"""The dimensions of a report."""
TIMES: tuple[By, ...] = ("hour", "day", "week", "month", "block")
"""The dimensions whose rows are spans of time; the others' rows are names."""


NoticeKind = Literal[
    "threshold", "limit", "room", "budget", "overage", "login", "failover", "run_failed", "organization"
]
NOTICE_KINDS: tuple[NoticeKind, ...] = get_args(NoticeKind)
"""What a receiver of notices may ask for."""


WaitFor = Literal["none", "turn", "room"]
WAIT_FOR: tuple[WaitFor, ...] = get_args(WaitFor)
"""What an ask that does not fit now waits for: nothing, what other runs hold, or also windows and budgets."""

Urgency = Literal["urgent", "normal", "idle"]
URGENCIES: tuple[Urgency, ...] = get_args(Urgency)
"""How asks that wait go before one another; ``idle`` uses only what would expire unused."""


class RunState(StrEnum):
    """Where a run is in its life."""

    WAITING = "waiting"
    """In the queue, with its prompt on the disk; it holds no money."""

    RESERVED = "reserved"
    """Money is set aside; the CLI has not been started."""
    RUNNING = "running"
    """The CLI may have been started and may be spending."""
    SETTLED = "settled"
    """Ended with an answer; its cost is booked."""
    INTERRUPTED = "interrupted"
    """Cut short; what it cost so far is booked."""
    FAILED = "failed"
    """Ended without an answer; what it cost, if anything, is booked."""
