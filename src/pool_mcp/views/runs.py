"""What was run, for a person: the list of runs, one ask whole, and what became of a cancelled one."""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from pool_mcp.results.asks import AskDetails, QueueResult, RunDetails, RunResult, RunsResult
from pool_mcp.views import tables
from pool_mcp.views.times import local, localized, took, until

_COLUMNS = {"run": 0, "asked": 78, "subscription": 56, "caller": 78, "model": 110, "outcome": 0, "cost": 0, "took": 0}
"""From which width on there is room for a column."""
_OUTCOME_STYLE = {"ok": "green", "cancelled": "yellow", "running": "cyan", "reserved": "cyan", "waiting": "blue"}
_SHORT_ID = 8
"""So much of a run's id is shown, and enough to name it by."""


def runs_table(runs: Sequence[RunResult], now_ms: int, *, width: int, numbered: bool = False) -> Table:
    """Runs with who asked, how each ended, what it cost and how long it took; numbered, to choose one by a key."""
    table = tables.plain_table()
    if numbered:
        table.add_column("", style="bold", no_wrap=True)
    names = [name for name, least in _COLUMNS.items() if width >= least]
    for name in names:
        if name in ("subscription", "caller", "model"):
            table.add_column(name, overflow="fold", max_width=tables.ID_WIDTH)
        else:
            table.add_column(name, justify="right" if name in ("cost", "took") else "left", no_wrap=True)
    for number, run in enumerate(runs, start=1):
        cells: dict[str, str | Text] = {
            "run": run.run_id[:_SHORT_ID],
            "asked": f"{until(run.created_at, now_ms)} ago",
            "subscription": run.subscription,
            "caller": run.caller,
            "model": run.model or "default",
            "outcome": _outcome(run),
            "cost": _cost(run),
            "took": took(run.duration_ms),
        }
        table.add_row(*([str(number)] if numbered else []), *(cells[name] for name in names))
    return table


class RunsView:
    """What runs, on top of what has ended."""

    def __init__(self, runs: RunsResult) -> None:
        self._runs = runs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [*self._runs.running, *self._runs.ended]
        if rows:
            yield runs_table(rows, self._runs.generated_at, width=options.max_width)
        else:
            yield Text("No runs.")


class QueueView:
    """What waits: for what, until when, and what is asked."""

    def __init__(self, queue: QueueResult) -> None:
        self._queue = queue

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._queue.waiting:
            yield Text("Nothing waits.")
            return
        now = self._queue.generated_at
        table = tables.plain_table()
        for name in ("", "run", "caller", "urgency", "waited", "expected"):
            table.add_column(name, no_wrap=name != "caller", max_width=tables.ID_WIDTH)
        table.add_column("asked, and what it waits for")
        for one in self._queue.waiting:
            table.add_row(
                str(one.position),
                one.run_id[:_SHORT_ID],
                one.caller,
                one.urgency,
                until(one.asked_at, now),
                f"in {until(one.expected_at, now)}" if one.expected_at else "-",
                Text(f"{one.prompt}\n").append(localized(one.reason, now), style="dim"),
            )
        yield table


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
    """What it cost; ``≥`` where only a floor is known; in brackets what it holds before anything is known."""
    if run.ended_at is None:
        return f"≥${run.spent_usd:.4f}" if run.spent_usd else f"({tables.money(run.reserved_usd)})"
    if run.cost_usd is None:
        return "-"
    return f"{'≥' if run.cost_is_estimate else ''}${run.cost_usd:.4f}"
