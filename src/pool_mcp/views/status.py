"""The daily view: where the pool stands, what runs, what was spent lately; at 40 to 200 columns, also without color."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pool_mcp.results.asks import RunResult
from pool_mcp.results.status import OfficialWindowResult, StatusResult, SubscriptionResult
from pool_mcp.usage.reports import Activity
from pool_mcp.views import tables
from pool_mcp.views.gauges import SHARE_WIDTH, Ink, Window, window_of
from pool_mcp.views.recent import RECENT_HEIGHT, recent
from pool_mcp.views.runs import runs_table
from pool_mcp.views.times import local, localized, until

_STATUS_STYLE = {
    "available": "green",
    "approaching": "yellow",
    "limited": "red",
    "cooldown": "red",
    "needs_login": "magenta",
    "disabled": "dim",
}
_ACTION_STYLE = {"proceed": "green", "slow_down": "yellow", "wait": "red", "stop": "red"}
_WINDOWS = (("5 hours", "five_hour"), ("7 days", "seven_day"))
_STATE_WIDTH = 13
"""What ``needs_login`` and ``approaching`` take under an id."""
_GAP = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the pool found."""

    status: StatusResult
    running: list[RunResult]
    activity: Activity | None = None


class StatusView:
    """Where the pool stands: advice, every subscription, what runs, recent spend, and what needs a word.

    A subscription takes two lines, or one where ``height`` would not hold two for each. What runs is ``numbered`` for
    whoever chooses one.
    """

    def __init__(self, seen: Seen, *, height: int | None = None, numbered: bool = False) -> None:
        self._seen = seen
        self._height = height
        self._numbered = numbered

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ink, width = Ink(plain=options.ascii_only), options.max_width
        status, running, activity = self._seen.status, self._seen.running, self._seen.activity
        lines = 2 * len(status.subscriptions) + len(running) + 9
        yield from _headlines(status)
        yield Text()
        if self._height is not None and lines > self._height:
            yield _short_table(status, ink)
        else:
            yield _long_table(self._seen, ink, width)
        if running:
            yield Text()
            yield runs_table(running, status.generated_at, width=width, numbered=self._numbered)
        if activity is not None and (self._height is None or lines + 4 <= self._height):
            yield Text()
            has_room = self._height is None or lines + RECENT_HEIGHT <= self._height
            yield from recent(activity, ink, width, tall=has_room)
        yield Text()
        yield from _below(status, ink)


def _headlines(status: StatusResult) -> Iterator[Text]:
    advice, pool, now = status.advice, status.pool, status.generated_at
    again = f" Look again in {until(now, advice.retry_at)}." if advice.retry_at else ""
    most = "" if advice.max_usd_per_hour is None else f" At most ${advice.max_usd_per_hour:.2f} an hour."
    yield Text.assemble(
        (advice.action, f"bold {_ACTION_STYLE[advice.action]}"), f": {localized(advice.reason, now)}{most}{again}"
    )
    billed = f", ${pool.week_real_money_usd:.2f} of it billed" if pool.week_real_money_usd else ""
    held = f", {pool.in_flight} in flight holding ${pool.reserved_usd:.2f}" if pool.in_flight else ""
    yield Text(
        f"Today ${pool.cost_today_usd:.2f}, seven days ${pool.week_cost_usd:.2f} of ${pool.week_budget_usd:.2f} "
        f"({pool.week_percent:.0f}%){billed}{held}."
    )
    if status.caller is not None and status.caller.headroom_usd is not None:
        yield Text(f"{status.caller.id} has ${status.caller.headroom_usd:.2f} of its own budget left.")


def _long_table(seen: Seen, ink: Ink, width: int) -> Table:
    """Two lines for each: both windows with their bars, and of the rest what there is room for."""
    now, rows = seen.status.generated_at, []
    for one in seen.status.subscriptions:
        hours = (seen.activity.by_hour.values.get(one.id) if seen.activity else None) or [0.0] * 24
        for at, (title, name) in enumerate(_WINDOWS):
            window = window_of(one, name, now)
            cells = _cells(one, window, one.official.get(name), now, is_first=at == 0)
            cells["24 hours"] = Text(ink.spark(hours), "green") if at == 0 else Text()
            rows.append((one, at == 0, title, window, cells))
    id_width = min(tables.ID_WIDTH, max(_STATE_WIDTH, *(len(one.id) for one in seen.status.subscriptions)))
    widths = {name: max(len(name), *(row[-1][name].cell_len for row in rows)) + _GAP for name in _ORDER}
    chosen, bar = _fitting(
        widths, width - id_width - len("5 hours") - SHARE_WIDTH - 2 * _GAP, seen.activity is not None
    )
    table = tables.plain_table()
    table.add_column("subscription", overflow="fold", min_width=_STATE_WIDTH, max_width=tables.ID_WIDTH)
    table.add_column("window", no_wrap=True)
    table.add_column("used", no_wrap=True)
    for name in chosen:
        table.add_column(name, justify="left" if name == "24 hours" else "right", no_wrap=True)
    for one, is_first, title, window, cells in rows:
        state = one.id if is_first else Text(f"  {one.status}", style=_STATUS_STYLE[one.status])
        table.add_row(state, title, ink.bar(window, bar), *(cells[name] for name in chosen))
    return table


def _fitting(widths: dict[str, int], room: int, has_activity: bool) -> tuple[list[str], int]:
    """The columns that there is room for, and how long the bars are beside them."""
    chosen: list[str] = []
    for name, least_bar in _WANTED:
        if room - widths[name] >= least_bar and (has_activity or name != "24 hours"):
            chosen.append(name)
            room -= widths[name]
    return [name for name in _ORDER if name in chosen], min(_LONGEST_BAR, max(_SHORTEST_BAR, room))


def _cells(
    one: SubscriptionResult, window: Window, read: OfficialWindowResult | None, now: int, *, is_first: bool
) -> dict[str, Text]:
    """Every column's cell of one window; what belongs to the subscription stands in its first line only."""
    pace, out = window.pace, window.runs_out_at
    never = Text("-", "dim")
    return {
        "spent": Text(tables.money(window.spent_usd)),
        "budget": Text(tables.money(window.budget_usd)),
        "resets": Text("rolling" if window.resets_at is None else local(window.resets_at, now)),
        "frees in": Text("rolling" if window.resets_at is None else until(now, window.resets_at)),
        "pace": never if pace is None else Text(f"{min(pace, 99):.1f}x", "yellow" if pace > 1 else ""),
        "runs out": never if out is None else Text("now" if out <= now else local(out, now), "yellow"),
        "reported": never if read is None else Text(f"{until(read.observed_at, now)} ago"),
        "held": Text(tables.money(one.reserved_usd) if is_first and one.in_flight else ""),
        "an hour": Text(tables.money(one.burn_usd_per_hour) if is_first and one.burn_usd_per_hour else ""),
        "health": Text(f"{one.health_score:.0f}" if is_first else ""),
    }


_ORDER = (
    "spent",
    "budget",
    "resets",
    "frees in",
    "pace",
    "runs out",
    *("reported", "held", "an hour", "24 hours", "health"),
)
"""The columns beside the bars, from left to right."""
_WANTED = (
    *(("resets", 6), ("pace", 6), ("runs out", 6), ("spent", 6), ("health", 12), ("budget", 12), ("24 hours", 20)),
    *(("an hour", 20), ("held", 20), ("reported", 20), ("frees in", 24)),
)
"""Which column comes first where there is no room for all, and how long the bars must still be beside it."""
_SHORTEST_BAR, _LONGEST_BAR = 6, 60


def _short_table(status: StatusResult, ink: Ink) -> Table:
    """One line for each: both windows with their bars, and what the ledger has spent there."""
    table = tables.plain_table()
    table.add_column("subscription", overflow="fold", max_width=tables.ID_WIDTH)
    table.add_column("status", no_wrap=True)
    for title, _ in _WINDOWS:
        table.add_column(title, no_wrap=True)
        table.add_column("spent", justify="right", no_wrap=True)
    table.add_column("health", justify="right", no_wrap=True)
    for one in status.subscriptions:
        windows: list[RenderableType] = []
        for _, name in _WINDOWS:
            found = window_of(one, name, status.generated_at)
            windows += [ink.bar(found, _SHORTEST_BAR), tables.money(found.spent_usd)]
        table.add_row(one.id, Text(one.status, style=_STATUS_STYLE[one.status]), *windows, f"{one.health_score:.0f}")
    return table


def _below(status: StatusResult, ink: Ink) -> Iterator[Text]:
    """What the table has no room for: reasons and forecasts, alerts, and whose figures they are."""
    now = status.generated_at
    told: dict[str, str] = {}
    for one in status.subscriptions:
        said = []
        if one.status != "available":
            said.append(one.status_reason)
            told[one.id] = one.status_reason
        if one.available_at:
            said.append(f"free in {until(now, one.available_at)}")
        if one.exhausts_at and one.status in ("available", "approaching"):
            said.append(f"at ${one.burn_usd_per_hour:.2f} an hour used up in {until(now, one.exhausts_at)}")
        if kept := [f"{read.kept_percent:.0f}% of {name}" for name, read in one.official.items() if read.kept_percent]:
            said.append(f"kept for you: {', '.join(kept)}")
        if said:
            yield Text(localized(f"{one.id}: {'; '.join(said)}", now), style=_STATUS_STYLE[one.status])
    for alert in status.alerts:
        reason = told.get(alert.subscription)
        if reason is None or not (reason in alert.message or alert.kind in ("limit", "needs_login")):
            yield Text(f"! {localized(alert.message, now)}", style="yellow")
    yield _legend(status, ink)
    yield Text(f"{tables.LIST_PRICE}; {tables.imported(status.imported_at, now)}.", "dim")


def _legend(status: StatusResult, ink: Ink) -> Text:
    now = status.generated_at
    is_own = any(window_of(one, window, now).is_own for one in status.subscriptions for _, window in _WINDOWS)
    heard = sorted(
        one.official[window].observed_at
        for one in status.subscriptions
        for _, window in _WINDOWS
        if window in one.official and one.official[window].percent is not None
    )
    own = f"{ink.own} and ~ are our own figures"
    if not heard:
        return Text(f"{own}, of your own budgets; Anthropic has reported nothing yet.", "dim")
    newest, oldest = until(heard[-1], now), until(heard[0], now)
    ago = newest if newest == oldest else f"{newest} to {oldest}"
    official = f"{ink.official} is what Anthropic reported {ago} ago"
    return Text(f"{official}; {own}: spent since, or of your own budget." if is_own else f"{official}.", "dim")
