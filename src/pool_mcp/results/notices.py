"""Notices as they leave the program, for a webhook, a command or ntfy."""

from pool_mcp.errors import safe_line
from pool_mcp.model import Message, Notice
from pool_mcp.results.base import Instant, Shape

_PRIORITIES = {"threshold": "default", "room": "default", "failover": "low", "test": "default"}
"""ntfy's; what is not here is high."""


class NoticeResult(Shape):
    """One notice; ``id`` is the same however often it is sent."""

    id: str
    kind: str
    subscription: str | None
    message: str
    at: Instant


class MessageResult(NoticeResult):
    """What is sent in one go: a notice, or a ``digest`` with its ``notices``."""

    notices: tuple[NoticeResult, ...] = ()


def message_result(message: Message) -> MessageResult:
    """A message for the wire: of one notice that notice, else all of them with their lines as one text."""
    if len(message.notices) == 1:
        return MessageResult(**_notice(message.notices[0]).model_dump())
    return MessageResult(
        id=message.message_id,
        kind="digest",
        subscription=None,
        message="\n".join(safe_line(one.message) for one in message.notices),
        at=max(one.at_ms for one in message.notices),
        notices=tuple(_notice(one) for one in message.notices),
    )


def ntfy_headers(message: Message) -> dict[str, str]:
    """What ntfy shows beside the text; a message that comes again replaces itself there (from ntfy 2.16 on)."""
    kinds = {one.kind for one in message.notices}
    priorities = {_PRIORITIES.get(kind, "high") for kind in kinds}
    return {
        "X-Sequence-ID": message.message_id,
        "Title": f"pool-mcp: {', '.join(sorted(kinds)).replace('_', ' ')}",
        "Priority": next(one for one in ("high", "default", "low") if one in priorities),
        "Content-Type": "text/plain; charset=utf-8",
    }


def _notice(one: Notice) -> NoticeResult:
    return NoticeResult(
        id=one.notice_id,
        kind=one.kind,
        subscription=one.subscription or None,
        message=safe_line(one.message),
        at=one.at_ms,
    )
