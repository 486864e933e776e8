"""What a person sees in the terminal: tables that survive 80 columns, a pipe and no colour."""

import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pool_mcp.results import AskResult, PickResult, StatusResult, SubscriptionResult

_STATUS_STYLE = {
    "available": "green",
    "approaching": "yellow",
    "limited": "red",
    "cooldown": "red",
    "needs_login": "magenta",
    "disabled": "dim",
}
_ACTION_STYLE = {"proceed": "green", "slow_down": "yellow", "wait": "red", "stop": "red"}
_BAR_CELLS = 8


def console(*, stderr: bool = False) -> Console:
    """A console for this terminal; in a pipe, 100 columns and no colour."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def status_table(status: StatusResult) -> Table:
    """Every subscription in a row, with the pool's sums below."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name, right in (
        ("subscription", False),
        ("status", False),
        ("5 h", False),
        ("block", True),
        ("7 d", False),
        ("week", True),
        ("held", True),
        ("health", True),
    ):
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for one in status.subscriptions:
        table.add_row(
            one.id,
            Text(one.status, style=_STATUS_STYLE[one.status]),
            _bar(one.block.percent, official=one.block.source == "official"),
            f"${one.block.cost_usd:.2f}",
            _bar(*_week(one)),
            f"${one.week.cost_usd:.2f}",
            f"${one.reserved_usd:.2f}",
            f"{one.health_score:.0f}",
        )
    return table


def status_lines(status: StatusResult) -> list[Text]:
    """What the table has no room for: reasons, the pool's sums, the advice."""
    lines = [
        Text(f"{one.id}: {one.status_reason}" + (f"; free at {one.available_at}" if one.available_at else ""), "dim")
        for one in status.subscriptions
        if one.status != "available"
    ]
    pool = status.pool
    lines.append(
        Text(
            f"Today ${pool.cost_today_usd:.2f}, seven days ${pool.week_cost_usd:.2f} of ${pool.week_budget_usd:.2f} "
            f"({pool.week_percent:.0f}%), {pool.in_flight} in flight holding ${pool.reserved_usd:.2f}."
        )
    )
    if status.caller is not None and status.caller.headroom_usd is not None:
        lines.append(Text(f"{status.caller.id} has ${status.caller.headroom_usd:.2f} of its own budget left."))
    lines.append(
        Text.assemble((status.advice.action, _ACTION_STYLE[status.advice.action]), f": {status.advice.reason}")
    )
    return lines


def pick_table(pick: PickResult) -> Table:
    """Every candidate with its reasons; the chosen one marked."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("subscription", no_wrap=True)
    table.add_column("score", justify="right")
    table.add_column("why")
    for one in pick.candidates:
        chosen = one.id == pick.subscription
        table.add_row(
            "→" if chosen else " ",
            Text(one.id, style="bold" if chosen else "" if one.eligible else "dim"),
            f"{one.score:.0f}" if one.eligible else "-",
            "; ".join(one.reasons),
        )
    return table


def ask_line(answer: AskResult) -> Text:
    """What an answer cost, in a line."""
    about = "at least " if answer.cost_is_estimate else ""
    cost = "unknown cost" if answer.cost_usd is None else f"{about}${answer.cost_usd:.4f}"
    tried = "" if len(answer.attempts) < 2 else f", attempt {len(answer.attempts)}"
    return Text(
        f"{answer.subscription} · {answer.model or 'default model'} · {cost} · {answer.duration_ms / 1000:.1f} s{tried}"
        f" · session {answer.session_id}",
        style="dim",
    )


def rows_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Plain rows under headers; numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for at, header in enumerate(headers):
        numeric = bool(rows) and all(isinstance(row[at], int | float) for row in rows)
        table.add_column(header, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{cell:.6f}" if isinstance(cell, float) else str(cell) for cell in row))
    return table


def _week(one: SubscriptionResult) -> tuple[float, bool]:
    official = one.official.get("seven_day")
    if official is not None and official.percent is not None:
        return official.percent, True
    return one.week.percent, False


def _bar(percent: float, official: bool) -> Text:
    """A bar with its percentage; ``~`` marks our own figure where Anthropic's is not known."""
    filled = min(_BAR_CELLS, round(percent / 100 * _BAR_CELLS))
    style = "red" if percent >= 95 else "yellow" if percent >= 80 else "green"
    bar = Text("█" * filled, style=style)
    bar.append("░" * (_BAR_CELLS - filled), style="dim")
    bar.append(f" {'' if official else '~'}{percent:.0f}%", style="")
    return bar
