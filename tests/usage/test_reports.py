"""Reports: what people mean by a span, sums that are exact in every zone, bounded rows, and pictures."""

import csv
import io
import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_mcp.accounting import periods
from pool_mcp.accounting.periods import Only, Span
from pool_mcp.choices import BY, TIMES, By
from pool_mcp.cli.main import commands
from pool_mcp.errors import InvalidRequest
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import DAY_MS, HOUR_MS, NANO, Cost, ModelCost, Tokens
from pool_mcp.results.ledger import ReportResult
from pool_mcp.settings import Settings, load
from pool_mcp.usage import charts
from pool_mcp.usage.reports import Figures
from pool_mcp.views import tables
from pool_mcp.views.png import png

BERLIN, KOLKATA, LORD_HOWE = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata"), ZoneInfo("Australia/Lord_Howe")
ZONES = (UTC, BERLIN, KOLKATA, LORD_HOWE, ZoneInfo("America/New_York"), ZoneInfo("Africa/Cairo"))


def ms(said: str) -> int:
    return round(datetime.fromisoformat(said).timestamp() * 1000)


NOW = ms("2026-11-22T15:30:00Z")


# What a person means


@pytest.mark.parametrize(
    ("since", "until", "zone", "expected"),
    [
        ("2026-11-20", "2026-11-20", BERLIN, ("2026-11-19T23:00:00Z", "2026-11-20T23:00:00Z")),
        ("2026-11-20T10:00:00Z", "2026-11-20T12:00:00+02:00", BERLIN, None),
        ("2026-11-20T10:00:00", "2026-11-20T12:00:00", BERLIN, ("2026-11-20T09:00:00Z", "2026-11-20T11:00:00Z")),
        ("24h", "now", UTC, ("2026-11-21T15:30:00Z", "2026-11-22T15:30:00Z")),
        ("today", "today", KOLKATA, ("2026-11-21T18:30:00Z", "2026-11-22T18:30:00Z")),
        ("yesterday", "yesterday", BERLIN, ("2026-11-20T23:00:00Z", "2026-11-21T23:00:00Z")),
        ("4w", "7d", BERLIN, ("2026-10-25T15:30:00Z", "2026-11-15T15:30:00Z")),
        # The same time of day, an hour more of time: the clocks went back on 25 October.
        ("29d", "now", BERLIN, ("2026-10-24T14:30:00Z", "2026-11-22T15:30:00Z")),
        # A day of 25 hours.
        ("2026-10-25", "2026-10-25", BERLIN, ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")),
        # A day of 24 and a half.
        ("2026-04-05", "2026-04-05", LORD_HOWE, ("2026-04-04T13:00:00Z", "2026-04-05T13:30:00Z")),
    ],
)
def test_since_and_until_mean_what_a_person_means_where_they_live(
    since: str, until: str, zone: tzinfo, expected: tuple[str, str] | None
) -> None:
    if expected is None:
        with pytest.raises(InvalidRequest, match="is not before"):
            periods.span_of(since, until, NOW, zone)
    else:
        assert periods.span_of(since, until, NOW, zone) == Span(ms(expected[0]), ms(expected[1]))


@pytest.mark.parametrize("said", ["", "7", "soon", "2026-13-01", "2026-02-30", "-3d", "1.5h", "99999999d", "7d ago"])
def test_what_is_no_time_is_refused_with_what_would_be_one(said: str) -> None:
    with pytest.raises(InvalidRequest, match=r"give a date \(2026-11-22\)"):
        periods.span_of(said, None, NOW, UTC)


@given(st.integers(0, ms("2090-01-01T00:00:00Z")), st.sampled_from(TIMES), st.sampled_from(ZONES))
def test_every_instant_lies_in_one_period_and_periods_follow_each_other_without_gap(
    at_ms: int, by: By, zone: tzinfo
) -> None:
    period = periods.period_at(at_ms, by, zone)
    assert period.span.since_ms <= at_ms < period.span.until_ms
    following = periods.period_at(period.span.until_ms, by, zone)
    assert following.span.since_ms == period.span.until_ms
    assert following.key > period.key or by == "hour"
    assert periods.period_at(period.span.until_ms - 1, by, zone) == period


@given(st.integers(0, 10**12), st.integers(1, 10**9))
def test_a_span_is_its_whole_hours_and_its_two_ends(since_ms: int, length_ms: int) -> None:
    span = Span(since_ms, since_ms + length_ms)
    whole, ends = periods.whole_hours(span)
    assert whole.since_ms % HOUR_MS == whole.until_ms % HOUR_MS == 0
    parts = sorted([whole, *ends], key=lambda part: (part.since_ms, part.until_ms))
    assert sum(part.until_ms - part.since_ms for part in parts) == length_ms
    assert all(part.since_ms < part.until_ms <= part.since_ms + HOUR_MS for part in ends)
    assert all(part.until_ms - part.since_ms == 0 or span.since_ms <= part.since_ms for part in parts)


@pytest.mark.parametrize(
    ("by", "zone", "key"),
    [
        ("hour", BERLIN, "2026-11-22T16:00:00+01:00"),
        ("hour", UTC, "2026-11-22T15:00:00Z"),
        ("hour", KOLKATA, "2026-11-22T20:30:00+05:30"),
        ("day", KOLKATA, "2026-11-22"),
        ("week", UTC, "2026-W47"),
        ("month", UTC, "2026-11"),
        ("block", KOLKATA, "2026-11-22T15:00:00Z"),
    ],
)
def test_a_periods_key_names_it(by: By, zone: tzinfo, key: str) -> None:
    assert periods.period_at(NOW, by, zone).key == key


# What a ledger says


class Call:
    """One call as the ledger should report it."""

    def __init__(self, rng: random.Random, at_ms: int) -> None:
        self.at_ms = at_ms
        self.names: dict[str, str] = {
            "subscription": rng.choice(["alice", "bob", "gone"]),
            "caller": rng.choice(["host", "night-agent"]),
            "model": rng.choice(["opus", "sonnet", "mystery"]),
            "source": rng.choice(["pool", "transcript"]),
            "session": rng.choice(["one", "two", "three", "(none)"]),
            "project": rng.choice(["pool", "site", "(unknown)"]),
        }
        branch = rng.choice(["main", "feature/x", "(none)"])
        known = self.names["project"] != "(unknown)"
        self.names["branch"] = f"{self.names['project']}/{branch}" if known else "(unknown)"
        self.tokens = Tokens(*(rng.randrange(10_000) for _ in range(5)))
        self.cost = None if self.names["model"] == "mystery" else rng.randrange(NANO)


def expected(calls: list[Call]) -> dict[str, object]:
    return {
        "calls": len(calls),
        "input_tokens": sum(c.tokens.input for c in calls),
        "output_tokens": sum(c.tokens.output for c in calls),
        "cache_creation_tokens": sum(c.tokens.cache_creation for c in calls),
        "cache_read_tokens": sum(c.tokens.cache_read for c in calls),
        "cost_usd": sum(c.cost or 0 for c in calls) / NANO,
        "unpriced_calls": sum(c.cost is None for c in calls),
    }


def repository(names: dict[str, str]) -> tuple[str | None, str | None]:
    if names["project"] == "(unknown)":
        return None, None
    branch = names["branch"].removeprefix(f"{names['project']}/")
    return names["project"], None if branch == "(none)" else branch


def book(path: Path, calls: list[Call]) -> None:
    """Put calls into a ledger as they would have been booked, without their runs."""
    with closing(sqlite3.connect(path)) as conn, conn:
        for call in calls:
            entry = conn.execute(
                "INSERT INTO entries (kind, at_ms, block_start_ms, subscription, session_id, caller, source,"
                " cost_nanousd, is_estimate, project, branch) VALUES ('call', ?, 0, ?, ?, ?, ?, ?, 0, ?, ?)",
                (
                    call.at_ms,
                    call.names["subscription"],
                    None if call.names["session"] == "(none)" else call.names["session"],
                    call.names["caller"],
                    call.names["source"],
                    call.cost or 0,
                    *repository(call.names),
                ),
            ).lastrowid
            t = call.tokens
            conn.execute(
                "INSERT INTO entry_models VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?)",
                (
                    entry,
                    call.names["model"],
                    t.input,
                    t.output,
                    t.cache_creation_5m,
                    t.cache_creation_1h,
                    t.cache_read,
                    call.cost,
                ),
            )
        conn.execute(
            "INSERT INTO hours SELECT subscription, at_ms - at_ms % 3600000, caller, model, source, count(*),"
            " sum(m.cost_nanousd IS NULL), sum(input_tokens), sum(output_tokens),"
            " sum(cache_creation_5m_tokens + cache_creation_1h_tokens), sum(cache_read_tokens),"
            " sum(coalesce(m.cost_nanousd, 0)), 0"
            " FROM entries JOIN entry_models m USING (entry_id) GROUP BY 1, 2, 3, 4, 5"
        )


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, Settings, list[Call]]]:
    home = tmp_path_factory.mktemp("home")
    (home / "pool.toml").write_text(
        '[[subscriptions]]\nid = "alice"\n[[subscriptions]]\nid = "bob"\napi_key_env = "BOB"\n'
    )
    settings = load({"POOL_MCP_HOME": str(home)})
    rng = random.Random(5)
    # Three weeks with the end of summer time in them, and holes; one that a wrong clock dated years ahead.
    start = ms("2026-10-15T00:00:00Z")
    calls = [Call(rng, start + rng.randrange(21 * DAY_MS)) for _ in range(1500)]
    calls = [call for call in calls if call.at_ms // DAY_MS % 5] + [Call(rng, ms("2031-01-01T12:34:56Z"))]
    Ledger(settings.ledger_path).close()
    book(settings.ledger_path, calls)
    with closing(Ledger(settings.ledger_path)) as ledger:
        assert ledger.audit().problems == ()
        yield ledger, settings, calls


@pytest.mark.parametrize("zone", [UTC, BERLIN, KOLKATA, LORD_HOWE], ids=str)
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize(
    ("since", "until", "only"),
    [
        (None, None, Only()),
        ("2026-10-20", "2026-10-25", Only()),
        ("2026-10-20T10:17:00Z", "2026-10-27T03:59:59Z", Only(subscription="bob")),
        ("2026-10-24", None, Only(caller="host")),
        ("2026-10-20T10:17:00Z", "2026-10-20T10:40:00Z", Only("gone", "host")),
    ],
)
def test_a_report_says_what_its_calls_add_up_to(
    filled: tuple[Ledger, Settings, list[Call]],
    by: By,
    zone: tzinfo,
    since: str | None,
    until: str | None,
    only: Only,
) -> None:
    ledger, settings, calls = filled
    found = Figures(settings, ledger, lambda: NOW, zone).report(by, since, until, only, limit=10_000)
    span = periods.span_of(since, until, NOW, zone)
    inside = [
        call
        for call in calls
        if span.since_ms <= call.at_ms < span.until_ms
        and only.subscription in (None, call.names["subscription"])
        and only.caller in (None, call.names["caller"])
    ]
    rows: dict[str, list[Call]] = {}
    for call in inside:
        key = periods.period_at(call.at_ms, by, zone).key if by in TIMES else call.names[by]
        rows.setdefault(key, []).append(call)
    order = [row.key for row in found.rows]
    assert {row.key: row.model_dump(exclude={"key"}) for row in found.rows} == {
        key: expected(own) for key, own in rows.items()
    }
    assert found.total.model_dump() == expected(inside)
    assert found.rows_left_out == 0
    billed = [call for call in inside if call.names["subscription"] == "bob"]
    assert found.real_money_usd == expected(billed)["cost_usd"]
    if by in TIMES:
        assert order == sorted(order, key=lambda key: rows[key][0].at_ms)
    else:
        assert order == sorted(order, key=lambda key: -sum(c.cost or 0 for c in rows[key]))


@pytest.mark.parametrize("by", BY)
def test_of_too_many_rows_the_last_or_dearest_are_shown_and_the_total_is_of_all(
    filled: tuple[Ledger, Settings, list[Call]], by: By
) -> None:
    ledger, settings, _ = filled
    figures = Figures(settings, ledger, lambda: NOW, BERLIN)
    everything = figures.report(by, limit=10_000)
    few = figures.report(by, limit=2)
    expected_rows = everything.rows[-2:] if by in TIMES else everything.rows[:2]
    assert few.rows == expected_rows
    assert few.rows_left_out == max(0, len(everything.rows) - 2)
    assert few.total == everything.total


def test_an_adjustment_is_money_and_no_call(filled: tuple[Ledger, Settings, list[Call]], tmp_path: Path) -> None:
    _, settings, _ = filled
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    with closing(Ledger(path)) as ledger:
        with ledger.write() as tx:
            tx.organisation.adjust("alice", NOW, Cost(-3 * NANO, {"opus": ModelCost(Tokens(), -3 * NANO)}), "evidence")
        assert ledger.audit().problems == ()
        figures = Figures(settings, ledger, lambda: NOW, UTC)
        # From the sums of hours; from the entries, which have to answer for a part of an hour, and for sessions.
        found = [figures.report("source"), figures.report("source", "2026-11-22T15:10:00Z"), figures.report("session")]
    for report, key in zip(found, ("reconciliation", "reconciliation", "(none)"), strict=True):
        assert [(row.key, row.calls, row.cost_usd) for row in report.rows] == [(key, 0, -3.0)]
        assert (report.total.calls, report.total.cost_usd) == (0, -3.0)


def test_a_subscription_that_nobody_has_is_refused(filled: tuple[Ledger, Settings, list[Call]]) -> None:
    ledger, settings, _ = filled
    with pytest.raises(InvalidRequest, match="No subscription 'carol'; there are: alice, bob"):
        Figures(settings, ledger, lambda: NOW, UTC).report("day", only=Only("carol"))


# How it is shown


@pytest.fixture
def home(filled: tuple[Ledger, Settings, list[Call]], monkeypatch: pytest.MonkeyPatch) -> Path:
    _, settings, _ = filled
    monkeypatch.setenv("POOL_MCP_HOME", str(settings.state_dir))
    monkeypatch.setenv("TZ", "Europe/Berlin")
    return settings.state_dir


def run(*arguments: str) -> str:
    result = CliRunner().invoke(commands, ["report", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_json_csv_and_table_say_the_same(home: Path) -> None:
    arguments = ("--by", "model", "--since", "2026-10-20", "--until", "2026-10-25")
    said = ReportResult.model_validate(json.loads(run(*arguments, "--json")))
    lines = list(csv.DictReader(io.StringIO(run(*arguments, "--csv"))))
    table = run(*arguments)
    assert said.time_zone == "Europe/Berlin"
    assert [line["key"] for line in lines] == [*(row.key for row in said.rows), "total"]
    assert float(lines[-1]["cost_usd"]) == said.total.cost_usd
    assert int(lines[-1]["unpriced_calls"]) == said.total.unpriced_calls > 0
    assert f"{said.total.calls:,}" in table
    assert "have no known price: the cost is at least this" in table


@pytest.mark.parametrize("by", BY)
def test_every_report_fits_eighty_columns(home: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(len(line) for line in run("--by", by).splitlines()) <= 80


@pytest.mark.parametrize("by", BY)
def test_a_chart_is_by_the_dimension_and_of_the_span_that_are_asked_for(
    filled: tuple[Ledger, Settings, list[Call]], by: By
) -> None:
    ledger, settings, _ = filled
    figures = Figures(settings, ledger, lambda: NOW, BERLIN)
    since, until = "2026-10-24", "2026-10-25"
    chart, report = figures.chart(by, since, until), figures.report(by, since, until, limit=1000)
    assert chart.title.startswith(f"Spend by {by}")
    assert sum(chart.totals) == pytest.approx(report.total.cost_usd)
    if by in TIMES:
        assert len(chart.keys) >= len(report.rows)
        assert len(figures.chart("day", "2026-10-01", "2026-10-31").keys) == 31  # with or without spend
    else:
        assert chart.keys[:3] == [row.key for row in report.rows][:3]
        assert chart.totals[:3] == pytest.approx([row.cost_usd for row in report.rows][:3])
    one = figures.chart(by, since, until, Only("alice"))
    assert sum(one.totals) == pytest.approx(figures.report(by, since, until, Only("alice")).total.cost_usd)


def test_a_chart_without_a_beginning_ends_now_and_one_with_too_many_columns_is_refused(
    filled: tuple[Ledger, Settings, list[Call]],
) -> None:
    ledger, settings, _ = filled
    figures = Figures(settings, ledger, lambda: NOW, BERLIN)
    assert (len(figures.chart("day").keys), len(figures.chart("hour").keys)) == (30, 48)
    assert figures.chart("hour").keys[-1] == datetime.fromtimestamp(NOW / 1000, BERLIN).strftime("%H:00")
    with pytest.raises(InvalidRequest, match="more than 366 columns"):
        figures.chart("hour", "2026-01-01")


@pytest.mark.parametrize("by", ["day", "week", "model"])
def test_a_chart_is_drawn_here_or_into_a_file(home: Path, tmp_path: Path, by: str) -> None:
    assert f"Spend by {by}" in run("--by", by, "--since", "2026-10-01", "--chart")
    picture, image = tmp_path / "chart.svg", tmp_path / "chart.png"
    run("--by", by, "--since", "2026-10-01", "--chart", str(picture))
    run("--by", by, "--since", "2026-10-01", "--chart", str(image))
    assert f"Spend by {by}" in "".join(ET.parse(picture).getroot().itertext())
    assert image.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_stacked_column_is_as_high_as_the_days_spend() -> None:
    chart = charts.Chart("Spend", ["21 Nov", "22 Nov"], {"a": [1.0, 3.0], "b": [4.0, 0.0]}, is_time=True)
    drawing = charts.draw(chart)
    bars = [s for s in drawing.shapes if isinstance(s, charts.Rectangle) and s.color in charts.COLORS and s.width > 12]
    per_dollar = bars[0].height
    assert [round(bar.height / per_dollar, 3) for bar in bars] == [1.0, 4.0, 3.0]


@given(st.floats(0.01, 1e9))
def test_an_axis_ends_at_or_a_little_above_its_highest_value(value: float) -> None:
    assert value <= charts.axis_end(value) <= 1.5 * value


@settings(max_examples=20)
@given(
    st.dictionaries(st.text(max_size=40), st.lists(st.floats(-5, 1e6), min_size=3, max_size=3), max_size=10),
    st.booleans(),
)
def test_whatever_is_drawn_is_well_formed_and_prints(stacks: dict[str, list[float]], is_time: bool) -> None:
    chart = charts.Chart("<&>", ["1", "2", "3"] if stacks else [], stacks, is_time)
    if "\x00" not in "".join(stacks) and all(c.isprintable() for c in "".join(stacks)):
        ET.fromstring(charts.svg(chart))
    tables.console().print(tables.ChartView(chart))
    assert png(chart)
