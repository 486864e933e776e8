"""The daily view: where the pool stands, what runs, what was run; at 80 columns, without colour, in a pipe."""

from collections.abc import Iterator, Sequence
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pool_mcp.results.asks import AskDetails, RunDetails, RunResult, RunsResult
from pool_mcp.results.status import StatusResult, SubscriptionResult
from pool_mcp.views import tables
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
    """Where the pool stands: the advice first, then every subscription, then what runs, then what needs a word.

    A subscription takes two lines, or one where ``height`` would not hold two for each.
    """

    def __init__(self, status: StatusResult, running: Sequence[RunResult] = (), height: int | None = None) -> None:
        self._status = status
        self._running = running
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ink = _Ink(plain=options.ascii_only)
        yield from _headlines(self._status)
        yield Text()
        if self._height is not None and 2 * len(self._status.subscriptions) + len(self._running) + 9 > self._height:
            yield _short_table(self._status, ink)
        else:
            yield _long_table(self._status, ink, options.max_width)
        if self._running:
            yield Text()
            yield runs_table(self._running, self._status.generated_at, wide=options.max_width >= _WIDE)
        yield Text()
        yield from _below(self._status, ink)


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

    def __call__(self, status: StatusResult, running: Sequence[RunResult]) -> None:
        """Draw it anew."""
        view = StatusView(status, running, height=self._console.height)
        title = Text(f"pool-mcp, {clock(status.generated_at)}; Ctrl-C ends", "dim", no_wrap=True)
        self._live.update(Group(title, view), refresh=True)


class Scroll:
    """Prints the view again and again, for a pipe and for terminals that cannot draw in place."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to restore."""

    def __call__(self, status: StatusResult, running: Sequence[RunResult]) -> None:
        """Print a block."""
        self._console.print(
            Text(f"== {clock(status.generated_at)}", "bold"), StatusView(status, running), Text(), sep="\n"
        )


class _Ink:
    """What bars are drawn with; told apart without colour, and where there is ASCII only."""

    def __init__(self, *, plain: bool) -> None:
        self.official, self.own, self.free = ("#", "=", ".") if plain else ("█", "▒", "░")

    def bar(self, reported: float | None, now: float, cells: int) -> Text:
        """What Anthropic reported, then what our own figures add to it, then what is free; and the percentage."""
        style = "red" if now >= 95 else "yellow" if now >= 80 else "green"
        solid = min(cells, round((reported or 0) / 100 * cells))
        filled = max(solid, min(cells, round(now / 100 * cells)))
        bar = Text(self.official * solid, style=style)
        bar.append(self.own * (filled - solid), style=style)
        bar.append(self.free * (cells - filled), style="dim")
        share = f"{now:.0f}%" if now < 999.5 else f"{now / 1000:.0f}k%" if now < 999_500 else ">999k%"
        return bar.append(f" {'~' if _is_own(reported, now) else ''}{share}".rjust(6))


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


def _long_table(status: StatusResult, ink: _Ink, width: int) -> Table:
    """Two lines for each: both windows with their bars, what the ledger has of each, and when it frees."""
    wide, narrow = width >= _WIDE, width < _NARROW
    table = tables.plain_table()
    table.add_column("subscription", overflow="fold", min_width=_STATE_WIDTH, max_width=tables.ID_WIDTH)
    table.add_column("window", no_wrap=True)
    table.add_column("used", no_wrap=True)
    names = [] if narrow else ["own budget"]
    names += ["frees in", *(["reported", "held", "an hour"] if wide else []), *([] if narrow else ["health"])]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    now = status.generated_at
    for one in status.subscriptions:
        for at, (name, window) in enumerate(_WINDOWS):
            reported, full, spent, budget, frees = _figures(one, window)
            first, read = at == 0, one.official.get(window)
            said = {
                "own budget": f"{tables.money(spent)} of {tables.money(budget)}",
                "frees in": "rolling" if frees is None else until(now, frees),
                "reported": "-" if read is None else f"{until(read.observed_at, now)} ago",
                "held": tables.money(one.reserved_usd) if first and one.in_flight else "",
                "an hour": tables.money(one.burn_usd_per_hour) if first and one.burn_usd_per_hour else "",
                "health": f"{one.health_score:.0f}" if first else "",
            }
            table.add_row(
                one.id if first else Text(f"  {one.status}", style=_STATUS_STYLE[one.status]),
                name,
                ink.bar(reported, full, 20 if wide else 10),
                *(said[column] for column in names),
            )
    return table


def _short_table(status: StatusResult, ink: _Ink) -> Table:
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
            reported, full, spent, _, _ = _figures(one, window)
            windows += [ink.bar(reported, full, 6), tables.money(spent)]
        table.add_row(one.id, Text(one.status, style=_STATUS_STYLE[one.status]), *windows, f"{one.health_score:.0f}")
    return table


def _figures(one: SubscriptionResult, window: str) -> tuple[float | None, float, float, float, int | None]:
    """Of a window: percent as reported, percent now by all that is known, spent, budget, and when it frees."""
    read = one.official.get(window)
    own = one.block if window == "five_hour" else one.week
    frees = one.block.ends_at if window == "five_hour" else None
    if read is None or read.percent is None:
        return None, own.percent, own.cost_usd, own.budget_usd, frees
    now = read.percent if read.percent_now is None else max(read.percent, read.percent_now)
    return read.percent, now, own.cost_usd, own.budget_usd, read.resets_at or frees


def _below(status: StatusResult, ink: _Ink) -> Iterator[Text]:
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


def _legend(status: StatusResult, ink: _Ink) -> Text:
    now = status.generated_at
    figures = [_figures(one, window) for one in status.subscriptions for _, window in _WINDOWS]
    is_own = any(_is_own(reported, full) for reported, full, *_ in figures)
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


def _is_own(reported: float | None, full: float) -> bool:
    return reported is None or full - reported >= 0.5


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
