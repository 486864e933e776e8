"""What a person sees in the terminal: tables that survive 80 columns, a pipe and no colour."""

import csv
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pool_mcp.choosing.windows import rfc3339
from pool_mcp.errors import InvalidRequest
from pool_mcp.results.asks import AskResult
from pool_mcp.results.ledger import ImportResult, ReportResult, ReportTotal, forecast_line
from pool_mcp.results.organisation import ReconcileResult, SyncResult
from pool_mcp.results.status import PickResult
from pool_mcp.usage import charts
from pool_mcp.usage.charts import Chart
from pool_mcp.usage.importing import Imported
from pool_mcp.views.plain import PlainConsole
from pool_mcp.views.times import clock, local, localized, until

ID_WIDTH = 24
"""Where a longer id is folded, so that it is still shown whole; the settings allow 64 characters."""


def console(*, stderr: bool = False, color: str = "auto") -> Console:
    """A console for this terminal; in a pipe, 100 columns and, unless ``color`` is "always", no color."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a locale without bars and arrows shows question marks
    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    if color == "always":
        depth: Literal["truecolor", "256"] = "truecolor" if "COLORTERM" in os.environ else "256"
        return PlainConsole(file=stream, width=width, force_terminal=True, color_system=depth, no_color=False)
    return PlainConsole(file=stream, width=width, no_color=True if color == "never" else None)


def save_picture(shown: RenderableType, title: str, path: Path) -> None:
    """Write what a 100-column terminal would show as an SVG that fetches nothing.

    Raises:
        InvalidRequest: it cannot be written there.
    """
    screen = Console(file=io.StringIO(), width=100, record=True, force_terminal=True, color_system="truecolor")
    screen.print(shown)
    without_web_fonts = re.sub(r"@font-face \{.*?\}", "", screen.export_svg(title=title), flags=re.DOTALL)
    try:
        path.write_text(without_web_fonts, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}.") from None


def pick_table(pick: PickResult, now_ms: int) -> Table:
    """Every candidate with its reasons; the chosen one marked."""
    table = plain_table()
    table.add_column("", no_wrap=True)
    table.add_column("subscription", overflow="fold", max_width=ID_WIDTH)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("why")
    for one in pick.candidates:
        chosen = one.id == pick.subscription
        table.add_row(
            "→" if chosen else " ",
            Text(one.id, style="bold" if chosen else "" if one.eligible else "dim"),
            f"{one.score:.0f}" if one.eligible else "-",
            Text(localized("; ".join(one.reasons), now_ms)),
        )
    return table


def report_table(report: ReportResult) -> Table:
    """A report's rows and its total."""
    table = plain_table()
    table.add_column(report.by, overflow="fold", max_width=40)
    for name in ("calls", "input", "output", "cache write", "cache read", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(localized(row.key, 0), *_cells(row))
    table.add_section()
    table.add_row(Text("total", style="bold"), *(Text(cell, style="bold") for cell in _cells(report.total)))
    return table


def _cells(sums: ReportTotal) -> list[str]:
    counts = (sums.input_tokens, sums.output_tokens, sums.cache_creation_tokens, sums.cache_read_tokens)
    return [
        f"{sums.calls:,}",
        *(_count(count) for count in counts),
        f"${sums.cost_usd:,.2f}" + ("+?" if sums.unpriced_calls else ""),
    ]


def _count(count: int) -> str:
    """A number of tokens in at most seven characters."""
    if abs(count) < 100_000:
        return f"{count:,}"
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if abs(count) >= size:
            return f"{count / size:,.1f} {letter}"
    return f"{count / 1e3:.0f} k"


def report_lines(report: ReportResult, now_ms: int) -> list[Text]:
    """What the table has no room for: what is left out, what has no price, and how new it is."""
    lines = []
    if report.rows_left_out:
        lines.append(Text(f"{report.rows_left_out} more rows are in the total only (--limit).", style="dim"))
    if report.total.unpriced_calls:
        lines.append(
            Text(f"+? {report.total.unpriced_calls} calls have no known price: the cost is at least this.", "yellow")
        )
    if report.real_money_usd:
        lines.append(Text(f"${report.real_money_usd:.2f} of it is billed: API keys, and use beyond plans."))
    lines += [Text(f"Forecast of {forecast_line(one, local(one.ends_at, now_ms))}.") for one in report.forecasts or ()]
    lines.append(Text(f"{LIST_PRICE}; {imported(report.imported_at, now_ms)}.", style="dim"))
    return lines


LIST_PRICE = "Dollars at list price, not a bill"


def imported(at_ms: int | None, now_ms: int) -> str:
    """How new the figures of use outside the pool are."""
    return "transcripts not read yet" if at_ms is None else f"transcripts read {until(at_ms, now_ms)} ago"


def report_csv(report: ReportResult) -> str:
    """A report's rows as CSV, the total last."""
    out = io.StringIO()
    names = ["key", *type(report.total).model_fields]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in report.rows)
    writer.writerow({"key": "total", **report.total.model_dump()})
    return out.getvalue()


class ChartView:
    """A chart in the terminal, as wide as that: a row for each key."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        chart = self._chart
        yield heading(chart.title)
        if not any(chart.totals):
            yield Text("nothing spent")
            return
        keys = [charts.shortened(key, 28) for key in chart.keys]
        labels = [charts.amount(total) if total else "" for total in chart.totals]
        name_width, label_width = max(map(len, keys)), max(map(len, labels))
        cells = max(8, options.max_width - name_width - label_width - 4)
        fills = _PLAIN_FILLS if options.ascii_only else _FILLS
        longest = max(chart.totals)
        for at, (key, label) in enumerate(zip(keys, labels, strict=True)):
            line = Text(f"{key:<{name_width}}  ", no_wrap=True)
            drawn, end = 0, 0.0
            for n, own in enumerate(chart.values.values()):
                end += max(0.0, own[at]) / longest * cells
                line.append(fills[n % len(fills)] * (round(end) - drawn), style=charts.color_of(n))
                drawn = round(end)
            yield line.append(f" {label}" if drawn else label)
        if len(chart.values) > 1:
            legend = Text()
            for n, name in enumerate(chart.values):
                legend.append(fills[n % len(fills)], style=charts.color_of(n)).append(f" {name}   ")
            yield legend


_FILLS = "█▓▒░"
_PLAIN_FILLS = "#=+."
"""So that a stack can be read without color, too."""


def sync_lines(done: SyncResult) -> list[Text]:
    """What was read of each of the organisation's reports."""
    return [
        Text(f"{one.report}: {one.problem}", style="yellow")
        if one.problem
        else Text(
            f"{one.report}: {one.rows} rows, {rfc3339(one.since)} to {rfc3339(one.until)}"
            + (f", data until {rfc3339(one.refreshed_at)}" if one.refreshed_at else "")
        )
        for one in done.reports
    ]


def reconcile_table(found: ReconcileResult) -> Table:
    """Every day with both sides, per subscription and model."""
    table = plain_table()
    table.add_column("day (UTC)", no_wrap=True)
    table.add_column("subscription", overflow="fold", max_width=ID_WIDTH)
    table.add_column("model", overflow="fold", max_width=28)
    for name in ("ledger", "official", "off by"):
        table.add_column(name, justify="right", no_wrap=True)
    for day in found.days:
        off = day.difference_usd
        shown = Text(_cents(off), style="" if off is None or abs(off) <= 1 else "red")
        sides = (_cents(day.ledger_usd), _cents(day.official_usd))
        table.add_row(rfc3339(day.at)[:10], day.subscription, day.model or "(none)", *sides, shown)
    table.add_section()
    totals = [_cents(one) for one in (found.ledger_usd, found.official_usd, found.difference_usd)]
    table.add_row("total", "", "", *totals, style="bold")
    return table


def _cents(usd: float | None) -> str:
    return "unknown" if usd is None else f"{'-' if usd < 0 else ''}${abs(usd):,.4f}"


def reconcile_lines(found: ReconcileResult) -> list[Text]:
    """What the table has no room for: warnings, what was left alone, what was booked."""
    lines = [Text(f"warning: {warning}", style="yellow") for warning in found.warnings]
    lines += [Text(f"not compared: {note}", style="dim") for note in found.not_compared]
    price = "tokens at list price" if found.official_is_estimate else "cost at list price"
    lines.append(
        Text(
            f"{found.source} ({price}), read {clock(found.synced_at)}; "
            f"final, and compared, until {rfc3339(found.final_until)}.",
            "dim",
        )
    )
    if found.rows_left_out:
        lines.append(Text(f"{found.rows_left_out} more rows are in the totals only.", style="dim"))
    if found.adjusted is not None:
        lines.append(Text(f"Booked {found.adjusted.entries} adjustments, {_cents(found.adjusted.cost_usd)} in all."))
    return lines


def attempts_table(answer: AskResult) -> Table:
    """Every attempt of an ask in order: where, how it ended, what it cost, and what was said where it failed."""
    table = plain_table()
    table.add_column("attempt", justify="right", no_wrap=True)
    table.add_column("subscription", overflow="fold", max_width=ID_WIDTH)
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


def rows_csv(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Plain rows under headers as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows(rows)
    return out.getvalue()


def rows_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Plain rows under headers; numbers to the right."""
    table = plain_table()
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


@contextmanager
def import_progress() -> Iterator[Callable[[Imported], None]]:
    """Show on stderr, where that is a terminal, how far an import is."""
    columns = (TextColumn("reading transcripts"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    where = console(stderr=True)
    with Progress(*columns, console=where, transient=True, disable=not where.is_terminal) as progress:
        task = progress.add_task("import", total=None)

        def told(done: Imported) -> None:
            progress.update(task, completed=done.bytes_read, total=done.bytes)

        yield told


def import_table(found: ImportResult) -> Table:
    """What an import found, a line for each thing that there is any of."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column()
    if found.running_elsewhere:
        table.add_row("", "Another process is importing just now; this one did nothing.")
        return table
    table.add_row(f"{found.new_calls:,}", f"new calls, {money(found.cost_usd)} at list prices")
    for count, meaning in (
        (found.unpriced_calls, "of them of unknown models: their cost is unknown and not in that sum"),
        (found.corrected_calls, "known calls of which more was found"),
        (found.known_calls, "calls that were booked already or stand there twice"),
        (found.run_calls, "calls of the pool's own runs, booked with them"),
        (found.malformed_lines, "lines that cannot be read, passed over"),
        (found.files_waiting, "transcripts left for later: a run is in flight on them"),
        (found.files_unreadable, f"transcripts that cannot be read: {', '.join(found.unreadable[:3])}"),
    ):
        if count:
            table.add_row(f"{count:,}", meaning)
    table.add_row(f"{found.files_read:,}", f"of {found.files:,} transcripts were new or had changed")
    return table


def pair(name: str | Text, said: str | Text, width: int = 8) -> Table:
    """A name, in a column of a width at least, and beside it what belongs to it, folded where it is long."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=width)
    grid.add_column(overflow="fold")
    grid.add_row(*(Text(one) if isinstance(one, str) else one for one in (name, said)))
    return grid


def plain_table() -> Table:
    """A table without lines, whose last column has no spaces after it."""
    return Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def money(usd: float) -> str:
    """Dollars in at most seven characters, for a column."""
    if usd < 999.995:
        return f"${usd:.2f}"
    if usd < 99_999.5:
        return f"${usd:.0f}"
    return f"${usd / 1000:.0f}k" if usd < 9_999_500 else f"${usd / 1e6:.0f}M"
