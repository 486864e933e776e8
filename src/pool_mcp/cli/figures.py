"""Figures and the ledger: report, import, sync, reconcile, and the group ``ledger``."""

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pool_mcp.choices import BY, By
from pool_mcp.cli import run
from pool_mcp.cli.options import AS_JSON, Command, Group
from pool_mcp.errors import safe_line

if TYPE_CHECKING:
    from pool_mcp.pool import Pool
    from pool_mcp.results.ledger import ImportResult, ReportResult
    from pool_mcp.usage.charts import Chart


@click.command("import", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def import_(as_json: bool) -> None:
    """Read what was spent outside the pool from Claude Code's transcripts.

    Servers do this by themselves every few minutes. Each API call is booked once, however often it is imported.
    """
    from pool_mcp.views import tables

    async def work(pool: "Pool") -> "ImportResult":
        await pool.adopt()
        return await pool.outside.import_all(told)

    with tables.import_progress() as told:
        found = run.with_pool(work, as_json=as_json)
    if as_json:
        run.print_json(found)
    else:
        run.terminal.console().print(tables.import_table(found))


@click.command(cls=Command)
@click.option("--by", type=click.Choice(BY), default="day", show_default=True, help="One row for each.")
@click.option("--since", metavar="WHEN", help="Date, RFC 3339, 24h, 7d, 4w, today, yesterday; default: all.")
@click.option("--until", metavar="WHEN", help="The same; a date is included.")
@click.option("--subscription", metavar="ID", help="This subscription only.")
@click.option("--caller", help="This caller only.")
@click.option("--limit", type=click.IntRange(min=1), default=400, show_default=True, help="At most so many rows.")
@click.option("--forecast", is_flag=True, help="Add what the month and the official windows will come to.")
@click.option("--csv", "as_csv", is_flag=True, help="Print rows and total as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, as the tool gives it.")
@click.option(
    "--chart",
    metavar="[FILE]",
    is_flag=False,
    flag_value="-",
    help="Draw it: into FILE (.svg or .png), or here where none is named.",
)
def report(
    by: By,
    since: str | None,
    until: str | None,
    subscription: str | None,
    caller: str | None,
    limit: int,
    forecast: bool,
    as_csv: bool,
    as_json: bool,
    chart: str | None,
) -> None:
    """Report what was spent, by time or by name.

    Days are those of your time zone. Money is in dollars at list price, which a flat plan does not bill.
    """
    from pool_mcp.accounting.periods import Only
    from pool_mcp.views import tables

    _one_format(as_csv=as_csv, as_json=as_json)

    only = Only(subscription, caller)

    async def draw(pool: "Pool") -> "Chart":
        await pool.catch_up()
        return await pool.look(pool.figures.chart, by, since, until, only)

    async def sums(pool: "Pool") -> "ReportResult":
        await pool.catch_up()
        found = await pool.look(pool.figures.report, by, since, until, only, limit=limit)
        return found.model_copy(update={"forecasts": await pool.look(pool.forecasts.all)}) if forecast else found

    if chart is not None:
        picture = run.with_pool(draw, as_json=as_json)
        if chart == "-":
            run.terminal.console().print(tables.ChartView(picture))
        else:
            _write_picture(Path(chart), picture)
        return
    found = run.with_pool(sums, as_json=as_json)
    if caller is not None and not found.total.calls:
        known = run.with_pool(lambda pool: pool.look(pool.figures.report, "caller"))
        names = safe_line(", ".join(row.key for row in known.rows)) or "nobody"
        click.echo(f"pool-mcp: {caller!r} has spent nothing in this time; who ever did: {names}", err=True)
    if as_json:
        run.print_json(found)
    elif as_csv:
        run.print_data(tables.report_csv(found), nl=False)
    else:
        out = run.terminal.console()
        out.print(tables.report_table(found))
        for line in tables.report_lines(found, run.now_ms()):
            out.print(line)


@click.command(cls=Command)
@click.option("--since", metavar="WHEN", help="From this UTC day on; default: the last 30 days.")
@click.option("--until", metavar="WHEN", help="Up to this UTC day.")
@click.option("--json", "as_json", is_flag=True, help="Print what was read as JSON.")
def sync(since: str | None, until: str | None, as_json: bool) -> None:
    """Read the organization's reports now; needs an Admin key.

    Servers read them every hour.
    """
    done = run.with_pool(lambda pool: pool.organisation.sync(since, until), as_json=as_json)
    if as_json:
        run.print_json(done)
        return
    from pool_mcp.views import tables

    for line in tables.sync_lines(done):
        run.terminal.console().print(line)


@click.command(cls=Command)
@click.option("--since", metavar="WHEN", help="From this UTC day on; default: the last 7 days.")
@click.option("--until", metavar="WHEN", help="Up to this UTC day.")
@click.option("--adjust", is_flag=True, help="Book the difference.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON, as the tool gives it.")
def reconcile(since: str | None, until: str | None, adjust: bool, as_json: bool) -> None:
    """Compare the ledger of API keys with the organization's reports.

    Exit code 1 on a warning.
    """
    found = run.with_pool(lambda pool: pool.organisation.reconcile(since, until, adjust=adjust), as_json=as_json)
    if as_json:
        run.print_json(found)
    else:
        from pool_mcp.views import tables

        out = run.terminal.console()
        out.print(tables.reconcile_table(found))
        for line in tables.reconcile_lines(found):
            out.print(line)
    if found.warnings and not adjust:
        sys.exit(1)


def _write_picture(path: Path, picture: "Chart") -> None:
    from pool_mcp.errors import InvalidRequest

    if path.suffix.lower() == ".svg":
        from pool_mcp.usage.charts import svg

        content = svg(picture).encode()
    elif path.suffix.lower() == ".png":
        from pool_mcp.views.png import png

        content = png(picture)
    else:
        raise InvalidRequest(f"{path} is neither .svg nor .png; name the chart's file so.")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}.") from None
    click.echo(f"{path}: {len(content)} bytes", err=True)


@click.group(cls=Group)
def ledger() -> None:
    """Check the ledger, ask it, or copy it while servers run."""


@ledger.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(as_json: bool) -> None:
    """Check every sum against its entries, and list runs that are not settled."""
    found = run.with_pool(lambda pool: pool.look(pool.history.check), as_json=as_json)
    if as_json:
        run.print_json(found)
    else:
        click.echo(f"{found.entries} entries, ${found.spent_usd:.6f} in all.")
        for one in found.unsettled:
            click.echo(
                f"not settled: run {one.run_id} under {one.subscription}, {one.state}, holds ${one.reserved_usd:.2f}"
            )
        for problem in found.problems:
            click.echo(f"wrong: {problem.meaning} ({problem.check}): {', '.join(problem.where)}")
        if not found.problems:
            click.echo("Every sum is what its entries say.")
    if found.problems:
        sys.exit(1)


@ledger.command()
@click.argument("sql")
@click.option("--csv", "as_csv", is_flag=True, help="Print it as CSV.")
@AS_JSON
def query(sql: str, as_csv: bool, as_json: bool) -> None:
    """Put a question in SQL to the ledger; it cannot change anything. docs/ledger.md has the tables."""
    from pool_mcp.ledger.query import query as ask_ledger
    from pool_mcp.settings import load
    from pool_mcp.views import tables

    _one_format(as_csv=as_csv, as_json=as_json)
    settings = load(dict(os.environ))
    columns, rows = ask_ledger(settings.ledger_path, sql, settings.ledger.url)
    if as_json:
        found = [dict(zip(columns, map(_as_json, row), strict=True)) for row in rows]
        run.print_data(json.dumps(found, indent=2, ensure_ascii=False))
    elif as_csv:
        run.print_data(tables.rows_csv(columns, rows), nl=False)
    else:
        run.terminal.console().print(tables.rows_table(columns, rows))


def _as_json(cell: object) -> object:
    """What JSON has for a value of SQLite's: hexadecimal digits for bytes, null for what is no finite number."""
    if isinstance(cell, bytes):
        return cell.hex()
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _one_format(*, as_csv: bool, as_json: bool) -> None:
    if as_csv and as_json:
        raise click.UsageError("--csv and --json are two forms of one output; use one.")


@ledger.command()
@click.argument("file", type=click.Path(path_type=Path))
@AS_JSON
def backup(file: Path, as_json: bool) -> None:
    """Write a consistent copy of the ledger to FILE, while servers run."""
    from pool_mcp.errors import InvalidRequest
    from pool_mcp.ledger.ledger import Ledger
    from pool_mcp.settings import load

    if not file.absolute().parent.is_dir():
        raise InvalidRequest(f"There is no folder {file.absolute().parent}; make it first.")
    settings = load(dict(os.environ))
    source = Ledger(settings.ledger_path, settings.ledger.url, run.now_ms)
    try:
        source.backup(file)
    finally:
        source.close()
    if as_json:
        click.echo(json.dumps({"file": str(file), "bytes": file.stat().st_size}))
    else:
        click.echo(f"{file}: {file.stat().st_size} bytes")


COMMANDS: tuple[click.Command, ...] = (report, import_, sync, reconcile, ledger)
