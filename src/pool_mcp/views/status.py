"""The daily view: where the pool stands, what runs, what was run; at 60 to 200 columns, without color, in a pipe."""

from collections.abc import Iterator, Sequence
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pool_mcp.results.asks import AskDetails, RunDetails, RunResult, RunsResult
from pool_mcp.results.status import OfficialWindowResult, StatusResult, SubscriptionResult
from pool_mcp.usage.reports import Activity
from pool_mcp.views import tables
from pool_mcp.views.gauges import Ink, Window, window_of
from pool_mcp.views.times import clock, local, localized, took, until

_STATUS_STYLE = {
    "available": "green",
    "approaching": "yellow",
    "limited": "red",
    "cooldown": "red",
    "needs_login": "magenta",
    "disabled": "dim",
}
_ACTION_STYLE = {"proceed": "green", "slow_down": "yellow", "wait": "red", "stop": "red"}
_OUTCOME_STYLE = {"ok": "green", "cancelled": "yellow", "running": "cyan", "reserved": "cyan"}
_WINDOWS = (("5 hours", "five_hour"), ("7 days", "seven_day"))
_WIDE = 120
"""From this width on there is room for more columns and longer bars."""
_NARROW = 78
"""Below this width there is room for what is used and when it frees, and for nothing else."""
_STATE_WIDTH = 13
"""What ``needs_login`` and ``approaching`` take under an id."""
_SHORT_ID = 8
"""So much of a run's id is shown, and enough to name it by."""


class StatusView:
    """Where the pool stands: advice, every subscription, what runs, recent spend, and what needs a word.

    A subscription takes two lines, or one where ``height`` would not hold two for each.
    """

    def __init__(
        self,
        status: StatusResult,
        running: Sequence[RunResult] = (),
        activity: Activity | None = None,
        height: int | None = None,
    ) -> None:
        self._status = status
        self._running = running
        self._activity = activity
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ink = Ink(plain=options.ascii_only)
        lines = 2 * len(self._status.subscriptions) + len(self._running) + 9
        yield from _headlines(self._status)
        yield Text()
        if self._height is not None and lines > self._height:
            yield _short_table(self._status, ink)
        else:
            yield _long_table(self._status, ink, options.max_width)
        if self._running:
            yield Text()
            yield runs_table(self._running, self._status.generated_at, wide=options.max_width >= _WIDE)
        if self._activity is not None and (self._height is None or lines + 4 <= self._height):
            yield Text()
            yield from _activity_lines(self._activity, ink, options.max_width)
        yield Text()
        yield from _below(self._status, ink)


def _activity_lines(activity: Activity, ink: Ink, width: int) -> Iterator[Text]:
    """The last day by the hour, the last two weeks by the day, and the week's shares."""
    for title, values in (("24 hours", activity.hours), ("14 days", activity.days)):
        yield Text.assemble(
            (f"{title:<9}", "dim"), (ink.spark(values), "green"), f" {tables.money(sum(values))}", no_wrap=True
        )
    parts = [f"{name} {share:.0f}%" for name, share in activity.shares]
    if parts:
        line = f"{'7 days':<9}{', '.join(parts)}; {activity.outside_percent:.0f}% used outside the pool"
        yield Text(line, "dim", no_wrap=width >= _NARROW, overflow="ellipsis")


class Screen:
    """Shows the view in place, on the terminal's other screen; at the end the first one is as it was."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(
        self, status: StatusResult, running: Sequence[RunResult], activity: Activity | None, note: str = ""
    ) -> None:
        """Draw it again, with a note instead of the keys where there is one."""
        view = StatusView(status, running, activity, height=self._console.height - 1)
        title = Text(f"pool-mcp, {clock(status.generated_at)}; {note or KEYS}", "dim", no_wrap=True)
        self._live.update(Group(title, view), refresh=True)


KEYS = "q quit, r refresh, s sort, c cancel"


class Scroll:
    """Prints the view again and again, for a pipe and for terminals that cannot draw in place."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to restore."""

    def __call__(
        self, status: StatusResult, running: Sequence[RunResult], activity: Activity | None, note: str = ""
    ) -> None:
        """Print a block."""
        view = StatusView(status, running, activity)
        self._console.print(Text(f"== {clock(status.generated_at)}", "bold"), view, Text(note), sep="\n")


def _headlines(status: StatusResult) -> Iterator[Text]:
    advice, pool, now = status.advice, status.pool, status.generated_at
    again = f" Look again in {until(now, advice.retry_at)}." if advice.retry_at else ""
    most = "" if advice.max_usd_per_hour is None else f" At most ${advice.max_usd_per_hour:.2f} an hour."
    yield Text.assemble(
        (advice.action, f"bold {_ACTION_STYLE[advice.action]}"), f": {localized(advice.reason, now)}{most}{again}"
    )
    held = f", {pool.in_flight} in flight holding ${pool.reserved_usd:.2f}" if pool.in_flight else ""
    yield Text(
        f"Today ${pool.cost_today_usd:.2f}, seven days ${pool.week_cost_usd:.2f} of ${pool.week_budget_usd:.2f} "
        f"({pool.week_percent:.0f}%){held}."
    )
    if status.caller is not None and status.caller.headroom_usd is not None:
        yield Text(f"{status.caller.id} has ${status.caller.headroom_usd:.2f} of its own budget left.")


def _long_table(status: StatusResult, ink: Ink, width: int) -> Table:
    """Two lines for each: both windows with their bars, what the ledger has of each, its reset and its pace."""
    columns = next(names for least, names in _COLUMNS if width >= least)
    id_width = min(tables.ID_WIDTH, max(_STATE_WIDTH, *(len(one.id) for one in status.subscriptions)))
    taken = id_width + 2 + 9 + 8 + sum(_COLUMN_WIDTHS[name] + 2 for name in columns)
    cells = max(10, min(40, width - taken))
    table = tables.plain_table()
    table.add_column("subscription", overflow="fold", min_width=_STATE_WIDTH, max_width=tables.ID_WIDTH)
    table.add_column("window", no_wrap=True)
    table.add_column("used", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for one in status.subscriptions:
        for at, (title, name) in enumerate(_WINDOWS):
            window = window_of(one, name, status.generated_at)
            cells_of = _cells(one, window, one.official.get(name), status.generated_at, is_first=at == 0)
            table.add_row(
                one.id if at == 0 else Text(f"  {one.status}", style=_STATUS_STYLE[one.status]),
                title,
                ink.bar(window, cells),
                *(cells_of[column] for column in columns),
            )
    return table


def _cells(
    one: SubscriptionResult, window: Window, read: OfficialWindowResult | None, now: int, *, is_first: bool
) -> dict[str, str | Text]:
    """Every column's cell of one window; what belongs to the subscription stands in its first line only."""
    pace, out = window.pace, window.runs_out_at
    return {
        "own budget": f"{tables.money(window.spent_usd)} of {tables.money(window.budget_usd)}",
        "frees in": "rolling" if window.resets_at is None else until(now, window.resets_at),
        "resets": "rolling" if window.resets_at is None else local(window.resets_at, now),
        "pace": "-" if pace is None else Text(f"{min(pace, 99):.1f}x", style="yellow" if pace > 1 else ""),
        "runs out": "-" if out is None else Text("now" if out <= now else local(out, now), style="yellow"),
        "reported": "-" if read is None else f"{until(read.observed_at, now)} ago",
        "held": tables.money(one.reserved_usd) if is_first and one.in_flight else "",
        "an hour": tables.money(one.burn_usd_per_hour) if is_first and one.burn_usd_per_hour else "",
        "health": f"{one.health_score:.0f}" if is_first else "",
    }


_COLUMN_WIDTHS = {
    "own budget": 19,
    "frees in": 8,
    "resets": 9,
    "pace": 5,
    "runs out": 9,
    "reported": 9,
    "held": 7,
    "an hour": 7,
    "health": 6,
}
_COLUMNS = (
    (132, ("own budget", "resets", "frees in", "pace", "runs out", "reported", "held", "an hour", "health")),
    (100, ("own budget", "resets", "pace", "runs out", "health")),
    (_NARROW, ("own budget", "frees in", "health")),
    (0, ("frees in",)),
)
"""From a width on, the columns that there is room for; the bars take what is left."""


def _short_table(status: StatusResult, ink: Ink) -> Table:
    """One line for each: both windows with their bars, and what the ledger has spent there."""
    table = tables.plain_table()
    table.add_column("subscription", overflow="fold", max_width=tables.ID_WIDTH)
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
        windows: list[RenderableType] = []
        for _, window in _WINDOWS:
            found = window_of(one, window, status.generated_at)
            windows += [ink.bar(found, 6), tables.money(found.spent_usd)]
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


# Runs


def runs_table(runs: Sequence[RunResult], now_ms: int, *, wide: bool = False) -> Table:
    """Runs with who asked, how each ended, what it cost and how long it took."""
    table = tables.plain_table()
    table.add_column("run", no_wrap=True)
    table.add_column("asked", no_wrap=True)
    table.add_column("subscription", overflow="fold", max_width=tables.ID_WIDTH)
    table.add_column("caller", overflow="fold", max_width=tables.ID_WIDTH)
    if wide:
        table.add_column("model", overflow="fold", max_width=tables.ID_WIDTH)
    table.add_column("outcome", no_wrap=True)
    table.add_column("cost", justify="right", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            run.run_id[:_SHORT_ID],
            f"{until(run.created_at, now_ms)} ago",
            run.subscription,
            run.caller,
            *([run.model or "default"] if wide else []),
            _outcome(run),
            _cost(run),
            took(run.duration_ms),
        )
    return table


class RunsView:
    """What runs, on top of what has ended."""

    def __init__(self, runs: RunsResult) -> None:
        self._runs = runs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [*self._runs.running, *self._runs.ended]
        if rows:
            yield runs_table(rows, self._runs.generated_at, wide=options.max_width >= _WIDE)
        else:
            yield Text("No runs.")


def ask_view(ask: AskDetails) -> Group:
    """One ask: who and when, then each attempt with its models, times and files."""
    now = ask.generated_at
    about = "at least " if ask.cost_is_estimate else ""
    lines: list[RenderableType] = [
        Text.assemble("ask ", (ask.ask_id, "bold"), f" by {ask.caller}, {until(ask.asked_at, now)} ago"),
        Text.assemble(
            (ask.outcome or ask.state, _OUTCOME_STYLE.get(ask.outcome or ask.state, "red")),
            f", {about}${ask.cost_usd:.4f}, {took(ask.duration_ms)}",
        ),
        tables.pair("session", ask.session_id),
    ]
    for number, run in enumerate(ask.attempts, start=1):
        lines += [Text(), *_attempt(run, f"attempt {number}" if len(ask.attempts) > 1 else "run", now)]
    return Group(*lines)


def _attempt(run: RunDetails, name: str, now_ms: int) -> Iterator[RenderableType]:
    yield Text.assemble((f"{name} ", "bold"), run.run_id)
    cli = f", CLI {run.cli_version}" if run.cli_version else ""
    yield _field("under", f"{run.subscription}, {run.model or 'default model'}{cli}")
    yield _field("outcome", Text.assemble(_outcome(run), f" ({localized(run.message, now_ms)})" if run.message else ""))
    yield _field("cost", _cost(run) if run.ended_at else f"holds ${run.reserved_usd:.4f} until it has ended")
    ended = (
        f"ended {local(run.ended_at, now_ms)}"
        if run.ended_at
        else f"{took(run.duration_ms)} so far, until {local(run.deadline_at, now_ms)}"
    )
    yield _field("times", f"asked {local(run.created_at, now_ms)}, {ended}")
    if run.retry_at:
        yield _field("free at", local(run.retry_at, now_ms))
    if run.files is None:
        yield _field("files", "removed" if run.started_at else "none")
    else:
        # A path is there to be copied, so it is never broken.
        yield Text.assemble(("  files    ", "dim"), run.files, no_wrap=True, overflow="ignore")
        if run.files_kept_until:
            yield _field("", f"kept until {local(run.files_kept_until, now_ms)}")
    if run.models:
        yield _models_table(run)


def _field(name: str, said: str | Text) -> Table:
    return tables.pair(Text(f"  {name}", "dim"), said, width=9)


def _models_table(run: RunDetails) -> Table:
    table = tables.plain_table()
    table.add_column("  tokens", overflow="fold")
    for name in ("input", "output", "cache write", "cache read", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in run.models:
        tokens = one.tokens
        counts = (tokens.input, tokens.output, tokens.cache_creation, tokens.cache_read)
        cost = "unpriced" if one.cost_usd is None else f"${one.cost_usd:.4f}"
        table.add_row(f"  {one.model}", *(f"{count:,}" for count in counts), cost)
    return table


def cancel_line(ask: AskDetails, *, had_ended: bool) -> Text:
    """What has become of an ask that was to be cancelled, and what it cost."""
    run = ask.attempts[-1]
    name = f"run {run.run_id[:_SHORT_ID]} under {run.subscription}"
    if run.ended_at is None:
        return Text(
            f"{name} is being stopped; `pool-mcp show {run.run_id[:_SHORT_ID]}` shows then what it cost.", "yellow"
        )
    about = "at least " if run.cost_is_estimate else ""
    cost = f"it cost {about}${run.cost_usd or 0:.4f}"
    if run.outcome == "cancelled" and not had_ended:
        return Text(f"{name} was cancelled after {took(run.duration_ms)}; {cost}.")
    return Text(f"{name} had ended already ({run.outcome}); {cost}.")


def _outcome(run: RunResult) -> Text:
    said = run.outcome or run.state
    return Text(said, style=_OUTCOME_STYLE.get(said, "red"))


def _cost(run: RunResult) -> str:
    """What it cost; ``≥`` where only a floor is known; in brackets what it holds while it runs."""
    if run.ended_at is None:
        return f"({tables.money(run.reserved_usd)})"
    if run.cost_usd is None:
        return "-"
    return f"{'≥' if run.cost_is_estimate else ''}${run.cost_usd:.4f}"
