"""What a person sees in the terminal: tables that survive 80 columns, a pipe and no colour."""

import io
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
_BAR_CELLS = 6
_ID_WIDTH = 24
"""Where a longer id is folded, so that it is still shown whole; the settings allow 64 characters."""


def console(*, stderr: bool = False) -> Console:
    """A console for this terminal; in a pipe, 100 columns and no colour."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a locale without bars and arrows shows question marks
    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def status_table(status: StatusResult) -> Table:
    """Every subscription in a row: its state, and of both windows what is used and what the ledger has spent there."""
    table = _table()
    table.add_column("subscription", overflow="fold", max_width=_ID_WIDTH)
    for name, right in (
        ("status", False),
        ("5 hours", False),
        ("spent", True),
        ("7 days", False),
        ("spent", True),
        ("health", True),
    ):
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for one in status.subscriptions:
        table.add_row(
            one.id,
            Text(one.status, style=_STATUS_STYLE[one.status]),
            _bar(one.block.percent, official=one.block.source == "official"),
            _money(one.block.cost_usd),
            _bar(*_week(one)),
            _money(one.week.cost_usd),
            f"{one.health_score:.0f}",
        )
    return table


def status_lines(status: StatusResult) -> list[Text]:
    """What the table has no room for: reasons, whose figures they are, the pool's sums, the advice."""
    lines = [
        Text(f"{one.id}: {one.status_reason}" + (f"; free at {one.available_at}" if one.available_at else ""), "dim")
        for one in status.subscriptions
        if one.status != "available"
    ]
    if any(one.block.source != "official" or not _week(one)[1] for one in status.subscriptions):
        lines.append(Text("~ is measured against your own budget; the rest is what Anthropic last reported.", "dim"))
    pool = status.pool
    held = f", {pool.in_flight} in flight holding ${pool.reserved_usd:.2f}" if pool.in_flight else ""
    lines.append(
        Text(
            f"Today ${pool.cost_today_usd:.2f}, seven days ${pool.week_cost_usd:.2f} of ${pool.week_budget_usd:.2f} "
            f"({pool.week_percent:.0f}%){held}."
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
    table = _table()
    table.add_column("", no_wrap=True)
    table.add_column("subscription", overflow="fold", max_width=_ID_WIDTH)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("why")
    for one in pick.candidates:
        chosen = one.id == pick.subscription
        table.add_row(
            "→" if chosen else " ",
            Text(one.id, style="bold" if chosen else "" if one.eligible else "dim"),
            f"{one.score:.0f}" if one.eligible else "-",
            Text("; ".join(one.reasons)),
        )
    return table


def attempts_table(answer: AskResult) -> Table:
    """Every attempt of an ask in order: where, how it ended, what it cost, and what was said where it failed."""
    table = _table()
    table.add_column("attempt", justify="right", no_wrap=True)
    table.add_column("subscription", overflow="fold", max_width=_ID_WIDTH)
    table.add_column("outcome", no_wrap=True)
    table.add_column("cost", justify="right", no_wrap=True)
    table.add_column("message")
    for number, one in enumerate(answer.attempts, start=1):
        table.add_row(
            str(number),
            one.subscription,
            Text(one.outcome, style="green" if one.outcome == "ok" else "red"),
            "-" if one.cost_usd is None else f"${one.cost_usd:.4f}",
            Text((one.message or "").removeprefix(f"{one.subscription}: ")),
        )
    return table


def ask_line(answer: AskResult, *, with_session: bool = True) -> Text:
    """Who answered and what it cost, in a line; the session, by which to go on, in a second one."""
    about = "at least " if answer.cost_is_estimate else ""
    cost = "unknown cost" if answer.cost_usd is None else f"{about}${answer.cost_usd:.4f}"
    tried = "" if len(answer.attempts) < 2 else f", attempt {len(answer.attempts)}"
    session = f"\nsession {answer.session_id}" if with_session else ""
    return Text(
        f"{answer.subscription} · {answer.model or 'default model'} · {cost} · {answer.duration_ms / 1000:.1f} s{tried}"
        f"{session}",
        style="dim",
    )


def rows_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Plain rows under headers; numbers to the right."""
    table = _table()
    for at, header in enumerate(headers):
        numeric = bool(rows) and all(isinstance(row[at], int | float) for row in rows)
        if numeric:
            table.add_column(header, justify="right", no_wrap=True)
        else:
            table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{cell:.6f}" if isinstance(cell, float) else str(cell)) for cell in row))
    return table


def heading(text: str) -> Text:
    """A step's heading, with an empty line before it."""
    return Text(f"\n{text}", style="bold")


def pair(name: str, said: str | Text) -> Table:
    """Who, and what, beside each other."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=8)
    grid.add_column()
    grid.add_row(Text(name), Text(said) if isinstance(said, str) else said)
    return grid


def _table() -> Table:
    return Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def _money(usd: float) -> str:
    """Dollars in at most seven characters, for a column."""
    if usd < 999.995:
        return f"${usd:.2f}"
    if usd < 99_999.5:
        return f"${usd:.0f}"
    return f"${usd / 1000:.0f}k" if usd < 9_999_500 else f"${usd / 1e6:.0f}M"


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
    share = f"{percent:.0f}%" if percent < 999.5 else f"{percent / 1000:.0f}k%"
    bar.append(f" {'' if official else '~'}{share}")
    return bar
