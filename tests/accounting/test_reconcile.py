"""The ledger held against the organisation: what differs is told and, if asked, booked once, with its evidence."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from hosting import opened
from jsonschema import Draft202012Validator
from mcp import Client
from mcp_types import CallToolResult

from organisation import ADMIN_KEY, ORG_KEY, Organisation, Use, ms
from pool_mcp.accounting import reconcile
from pool_mcp.accounting.periods import Span
from pool_mcp.accounting.pricing import price_nanousd
from pool_mcp.accounting.reconcile import Amount, Booked, Figure, Matches
from pool_mcp.cli.main import commands
from pool_mcp.errors import InvalidRequest, NeedsLogin
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO, Tokens
from pool_mcp.organisation import sync as ours
from pool_mcp.pool import Pool
from pool_mcp.results.organisation import AdjustedResult
from pool_mcp.server import tools
from pool_mcp.server.server import make_server
from pool_mcp.settings import Settings, load

pytestmark = pytest.mark.anyio

DAY = ms("2026-11-20T00:00:00Z")
NOW = ms("2026-11-22T09:20:00Z")
OPUS = "claude-opus-5-5"


class Home:
    """A pool whose subscription "work" pays by key, an organisation that knows it, and a clock."""

    def __init__(self, path: Path, organisation: Organisation, subscriptions: str) -> None:
        (path / "pool.toml").write_text(f'[admin]\nbase_url = "{organisation.url}"\n{subscriptions}')
        self.env = {"POOL_MCP_HOME": str(path), "ANTHROPIC_ADMIN_KEY": ADMIN_KEY, "WORK_KEY": "sk-ant-api03-work"}
        self.organisation = organisation
        self.now_ms = NOW
        self.ledger = Ledger(self.settings.ledger_path)

    @property
    def settings(self) -> Settings:
        return load(self.env)

    @property
    def ours(self) -> ours.Organisation:
        return ours.Organisation(self.settings, self.ledger, self.env, lambda: self.now_ms, backoff_s=0.0)

    def book(self, at_ms: int, usd: float, *, subscription: str = "work", model: str = OPUS) -> None:
        """A run's entry, with the tokens of one :class:`Use`."""
        with closing(sqlite3.connect(self.settings.ledger_path)) as conn, conn:
            entry = conn.execute(
                "INSERT INTO entries (kind, at_ms, block_start_ms, subscription, caller, source, cost_nanousd,"
                " is_estimate) VALUES ('call', ?, 0, ?, 'host', 'pool', ?, 0)",
                (at_ms, subscription, round(usd * NANO)),
            ).lastrowid
            row = (model, 1000, 500, 0, 0, 4000, 0, round(usd * NANO))
            conn.execute(f"INSERT INTO entry_models VALUES ({entry}, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            conn.execute(
                "INSERT INTO hours VALUES (?, ?, 'host', ?, 'pool', 1, 0, 1000, 500, 0, 4000, ?, 0)"
                " ON CONFLICT DO UPDATE SET calls = calls + 1, input_tokens = input_tokens + 1000,"
                " output_tokens = output_tokens + 500, cache_read_tokens = cache_read_tokens + 4000,"
                " cost_nanousd = cost_nanousd + excluded.cost_nanousd",
                (subscription, at_ms - at_ms % HOUR_MS, model, round(usd * NANO)),
            )

    def spent_usd(self, subscription: str = "work") -> float:
        with self.ledger.read() as tx:
            return tx.balances.spent_nanousd(subscription, 0) / NANO


LONE_KEY = '[[subscriptions]]\nid = "work"\napi_key_env = "WORK_KEY"\n[[subscriptions]]\nid = "login"\n'


@pytest.fixture(scope="module")
def running() -> Iterator[Organisation]:
    with Organisation() as organisation:
        yield organisation


@pytest.fixture
def home(tmp_path: Path, running: Organisation) -> Iterator[Home]:
    home = Home(tmp_path, running.forget(), LONE_KEY)
    yield home
    assert home.ledger.audit().problems == ()
    home.ledger.close()


def use(at_ms: int, usd: float, **more: Any) -> Use:
    return Use(at_ms, round(usd * NANO), **more)


async def test_what_agrees_is_said_to_agree_and_nothing_is_booked(home: Home) -> None:
    for hour in (1, 5, 30):
        home.book(DAY + hour * HOUR_MS, 0.25)
        home.organisation.uses.append(use(DAY + hour * HOUR_MS + 1, 0.25))
    home.book(DAY, 7.0, subscription="login")  # a login's spend is in no report of the organisation's
    found = await home.ours.reconcile("2026-11-20", adjust=True)
    assert (found.source, found.official_is_estimate) == ("analytics", False)
    assert (found.ledger_usd, found.official_usd, found.difference_usd) == (0.75, 0.75, 0.0)
    assert (found.warnings, found.hours, found.not_compared) == ([], [], [])
    assert [(day.at, day.ledger_usd, day.official_usd) for day in found.days] == [
        (ms("2026-11-20T00:00:00Z"), 0.5, 0.5),
        (ms("2026-11-21T00:00:00Z"), 0.25, 0.25),
    ]
    assert found.adjusted == AdjustedResult(entries=0, cost_usd=0.0)


async def test_more_than_a_dollar_off_is_a_warning_that_says_where(home: Home) -> None:
    home.book(DAY + HOUR_MS, 1.0)
    home.book(DAY + DAY_MS, 1.0)
    home.organisation.uses += [
        use(DAY + HOUR_MS, 1.0),
        use(DAY + 14 * HOUR_MS, 1.25),
        use(DAY + 14 * HOUR_MS, 0.4, model="claude-haiku-4-5-20251001"),
        use(DAY + DAY_MS, 1.9999),
    ]
    found = await home.ours.reconcile("2026-11-20")
    assert found.warnings == [
        f"2026-11-20 work {OPUS}: the organization has +$1.25 against the ledger (most at 14:00Z +$1.25), key {ORG_KEY}"
    ]
    assert found.difference_usd == pytest.approx(2.6499)
    assert [(one.at, one.model, one.difference_usd) for one in found.hours] == [
        (ms("2026-11-20T14:00:00Z"), "claude-haiku-4-5", 0.4),
        (ms("2026-11-20T14:00:00Z"), OPUS, 1.25),
        (ms("2026-11-21T00:00:00Z"), OPUS, 0.9999),
    ]
    assert found.adjusted is None
    assert home.spent_usd() == 2.0


async def test_the_difference_is_booked_once_with_its_evidence(home: Home) -> None:
    home.book(DAY + HOUR_MS, 3.0)
    home.book(DAY + 2 * HOUR_MS, 2.0)
    home.organisation.uses += [
        use(DAY + HOUR_MS, 1.75),
        use(DAY + 5 * HOUR_MS, 4.000001, tokens=Tokens(10, 20, 30, 40, 50)),
    ]
    first = await home.ours.reconcile("2026-11-20", adjust=True)
    assert first.adjusted == AdjustedResult(entries=3, cost_usd=0.750001)
    assert home.spent_usd() == 5.750001
    home.now_ms += HOUR_MS
    again = await home.ours.reconcile("2026-11-20", adjust=True)
    assert (again.adjusted, again.difference_usd, again.warnings) == (
        AdjustedResult(entries=0, cost_usd=0),
        0,
        [],
    )
    assert again.days[0].ledger_tokens == again.days[0].official_tokens
    with closing(sqlite3.connect(home.settings.ledger_path)) as conn:
        rows = conn.execute(
            "SELECT kind, source, at_ms, cost_nanousd, is_estimate, note FROM entries WHERE kind = 'adjustment'"
        ).fetchall()
    assert [row[:5] for row in rows] == [
        ("adjustment", "reconciliation", DAY + HOUR_MS, -1_250_000_000, 0),
        ("adjustment", "reconciliation", DAY + 2 * HOUR_MS, -2 * NANO, 0),
        ("adjustment", "reconciliation", DAY + 5 * HOUR_MS, 4_000_001_000, 0),
    ]
    assert json.loads(rows[0][5]) == {
        "report": "analytics",
        "hour": "2026-11-20T01:00:00Z",
        "api_key_id": ORG_KEY,
        "synced_at": "2026-11-22T09:20:00Z",
        "data_refreshed_at": "2099-01-01T00:00:00Z",
        "models": {OPUS: {"ledger_usd": 3.0, "official_usd": 1.75}},
    }


async def test_two_who_adjust_at_once_book_the_difference_once(home: Home) -> None:
    home.organisation.uses.append(use(DAY, 5.0))
    with closing(Ledger(home.settings.ledger_path)) as other_ledger:
        other = ours.Organisation(home.settings, other_ledger, home.env, lambda: NOW, 0.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: home.ours.reconcile("2026-11-20", adjust=True))
            tasks.start_soon(lambda: other.reconcile("2026-11-20", adjust=True))
    assert home.spent_usd() == 5.0


async def test_hours_that_are_not_final_are_left_alone(home: Home) -> None:
    home.organisation.uses += [use(NOW - 6 * HOUR_MS, 1.0), use(NOW - 2 * HOUR_MS, 2.0)]
    found = await home.ours.reconcile("1d", adjust=True)
    assert found.final_until == ms("2026-11-22T05:00:00Z")
    assert home.spent_usd() == 1.0
    home.now_ms += 3 * HOUR_MS
    await home.ours.reconcile("1d", adjust=True)
    assert home.spent_usd() == 3.0


async def test_what_anthropic_has_not_refreshed_yet_is_waited_for(home: Home) -> None:
    home.organisation.uses += [use(DAY + HOUR_MS, 1.0), use(DAY + 5 * HOUR_MS, 2.0)]
    home.organisation.refreshed_at = "2026-11-20T03:30:00Z"
    found = await home.ours.reconcile("2026-11-20", adjust=True)
    assert (found.final_until, found.refreshed_at) == (ms("2026-11-20T03:00:00Z"), ms("2026-11-20T03:30:00Z"))
    assert home.spent_usd() == 1.0


async def test_data_that_come_late_or_are_taken_back_are_booked_as_what_they_change(home: Home) -> None:
    home.organisation.uses = [use(DAY, 1.0), use(DAY + HOUR_MS, 2.0)]
    await home.ours.reconcile("2026-11-20", adjust=True)
    home.organisation.uses = [use(DAY, 1.0), use(DAY + 2 * HOUR_MS, 0.5)]
    home.now_ms += HOUR_MS
    found = await home.ours.reconcile("2026-11-20", adjust=True)
    assert [(one.at, one.difference_usd) for one in found.hours] == [
        (DAY + HOUR_MS, -2.0),
        (DAY + 2 * HOUR_MS, 0.5),
    ]
    assert home.spent_usd() == 1.5


async def test_a_run_that_ends_in_the_next_hour_is_no_difference_of_the_day(home: Home) -> None:
    home.book(DAY + 2 * HOUR_MS, 5.0)
    home.organisation.uses += [use(DAY + HOUR_MS, 4.0), use(DAY + 2 * HOUR_MS, 1.0)]
    found = await home.ours.reconcile("2026-11-20")
    assert found.difference_usd == 0
    (warning,) = found.warnings
    assert warning.endswith(
        "(01:00Z +$4.00, 02:00Z -$4.00) though the day does not: a run is booked in the hour it ended in"
    )


async def test_the_list_price_is_compared_because_the_ledger_holds_list_prices(home: Home) -> None:
    home.book(DAY, 2.0)
    home.organisation.uses.append(use(DAY, 1.8, list_nanousd=2 * NANO))
    found = await home.ours.reconcile("2026-11-20")
    assert (found.difference_usd, next((one.day, one.billed_usd) for one in found.billed)) == (0, ("2026-11-20", 1.8))


async def test_without_analytics_tokens_are_priced_and_marked_as_an_estimate(home: Home) -> None:
    home.organisation.missing |= {"analytics/usage", "analytics/cost"}
    price = price_nanousd(OPUS, Use(0, 0).tokens, DAY)
    assert price
    home.book(DAY, price / NANO)
    home.organisation.uses += [
        use(DAY, 0.1),
        use(DAY + HOUR_MS, 0.1),
        use(DAY + HOUR_MS, 9.0, model="claude-unknown-9"),
    ]
    found = await home.ours.reconcile("2026-11-20", adjust=True)
    assert (found.source, found.official_is_estimate, found.difference_usd) == ("messages", True, price / NANO)
    assert found.warnings == ["2026-11-20 work claude-unknown-9: a price is not known, so the day is not compared"]
    with closing(sqlite3.connect(home.settings.ledger_path)) as conn:
        assert conn.execute("SELECT is_estimate FROM entries WHERE kind = 'adjustment'").fetchall() == [(1,)]


async def test_other_peoples_keys_are_named_and_never_booked(home: Home, tmp_path: Path) -> None:
    home.organisation.uses += [use(DAY, 1.0), use(DAY, 50.0, key="apikey_of_somebody")]
    found = await home.ours.reconcile("2026-11-20", adjust=True)
    assert found.not_compared == [
        f"work: its key's id is not known; set console_key_id in pool.toml to one of {ORG_KEY}, apikey_of_somebody"
    ]
    assert home.spent_usd() == 0
    (tmp_path / "pool.toml").write_text(
        f'[admin]\nbase_url = "{home.organisation.url}"\n[[subscriptions]]\nid = "work"\napi_key_env = "WORK_KEY"\n'
        f'console_key_id = "{ORG_KEY}"\n'
    )
    found = await home.ours.reconcile("2026-11-20", adjust=True)
    assert found.not_compared == ["apikey_of_somebody: no subscription of the pool has this key"]
    assert home.spent_usd() == 1.0


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


# Reading the reports


async def test_one_server_of_several_reads_the_reports_and_once_an_hour(home: Home) -> None:
    home.organisation.uses.append(use(DAY, 1.0))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(home.ours.sync_if_due)
    first = len(home.organisation.requests)
    assert home.organisation.paths().count("analytics/cost") == 1
    home.now_ms += 59 * MINUTE_MS
    await home.ours.sync_if_due()
    assert len(home.organisation.requests) == first
    home.now_ms += MINUTE_MS
    await home.ours.sync_if_due()
    assert home.organisation.paths().count("analytics/cost") == 2
    assert home.spent_usd() == 0  # what is read is no spend


async def test_a_difference_of_more_than_a_dollar_is_a_notice_once_a_day(home: Home) -> None:
    def notices() -> list[tuple[str, str]]:
        with closing(sqlite3.connect(home.settings.ledger_path)) as conn:
            return conn.execute("SELECT kind, message FROM outbox").fetchall()

    home.organisation.uses.append(use(DAY, 0.9))
    await home.ours.sync_if_due()
    assert notices() == []
    home.organisation.uses.append(use(DAY, 0.6))
    message = "the organization reports $1.50 more than the ledger since 2026-11-15T{}:00:00Z; see pool-mcp reconcile"
    for _ in range(2):
        home.now_ms += HOUR_MS
        await home.ours.sync_if_due()
        assert notices() == [("organization", message.format("10"))]


async def test_a_report_that_is_not_there_does_not_keep_the_others_away(home: Home) -> None:
    home.organisation.missing.add("usage_report/messages")
    done = await home.ours.sync("2026-11-20")
    problems = {one.report: one.problem for one in done.reports}
    assert "is not there for the key in ANTHROPIC_ADMIN_KEY (404: Not found)" in (problems.pop("messages") or "")
    assert problems == {"analytics": None, "cost_report": None}


async def test_the_key_is_read_from_its_variable_and_is_written_nowhere(home: Home, tmp_path: Path) -> None:
    await home.ours.sync("2026-11-20")
    await home.ours.reconcile("2026-11-20", adjust=True)
    assert b"sk-ant" not in everything_in(tmp_path)
    home.env["ANTHROPIC_ADMIN_KEY"] = "sk-ant-admin01-wrong"
    with pytest.raises(NeedsLogin, match="refuses the key in ANTHROPIC_ADMIN_KEY"):
        await home.ours.sync("2026-11-20")
    del home.env["ANTHROPIC_ADMIN_KEY"]
    with pytest.raises(NeedsLogin, match=r"no Admin key in \$ANTHROPIC_ADMIN_KEY"):
        await home.ours.sync("2026-11-20")
    # What has been read is still there to be compared.
    assert (await home.ours.reconcile("2026-11-20")).warnings == []


async def test_without_an_api_key_subscription_there_is_nothing_to_compare(home: Home, tmp_path: Path) -> None:
    (tmp_path / "pool.toml").write_text('[[subscriptions]]\nid = "login"\n')
    with pytest.raises(InvalidRequest, match="has an api_key_env: the organization"):
        await home.ours.reconcile()


# The doors


async def test_an_agent_reconciles_and_is_told_where_it_is_off(home: Home) -> None:
    home.organisation.uses.append(use(DAY, 5.0))
    pool = Pool(home.settings, home.ledger, home.env, lambda: NOW, lambda: "id")
    async with pool.open(), Client(make_server(opened(pool), lambda: NOW)) as client:
        found = await client.call_tool("reconcile_usage", {"since": "2026-11-20", "adjust": True})
        nothing = await client.call_tool("reconcile_usage", {"since": "2026-11-20", "adjust": True})
        report = await client.call_tool("usage_report", {"by": "source", "chart": True})
    assert isinstance(found, CallToolResult)
    assert isinstance(nothing, CallToolResult)
    assert isinstance(report, CallToolResult)
    for tool, result in (("reconcile_usage", found), ("reconcile_usage", nothing), ("usage_report", report)):
        Draft202012Validator(tools.output_schema(tools.TOOLS[tool])).validate(result.structured_content)
    text = next(block.text for block in found.content if block.type == "text")
    assert f"warning: 2026-11-20 work {OPUS}: the organization has +$5.00 against the ledger" in text
    assert nothing.structured_content
    assert nothing.structured_content["adjusted"] == {"entries": 0, "cost_usd": 0.0}
    assert report.structured_content
    assert report.structured_content["rows"][0]["key"] == "reconciliation"
    assert [block.mime_type for block in report.content if block.type == "image"] == ["image/png"]


def test_a_person_reconciles_and_sees_where_it_is_off(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.organisation.uses.append(use(DAY, 5.0))
    for name, value in home.env.items():
        monkeypatch.setenv(name, value)
    since = ("--since", "2026-11-20", "--until", "2026-11-20")
    synced = CliRunner().invoke(commands, ["sync", *since])
    assert "analytics: 1 rows, 2026-11-20T00:00:00Z to 2026-11-21T00:00:00Z" in synced.output, synced.output
    found = CliRunner().invoke(commands, ["reconcile", *since])
    assert found.exit_code == 1
    assert "warning: 2026-11-20 work" in found.output
    adjusted = CliRunner().invoke(commands, ["reconcile", *since, "--adjust"])
    assert (adjusted.exit_code, "Booked 1 adjustments, $5.0000 in all." in adjusted.output) == (0, True)
    checked = CliRunner().invoke(commands, ["ledger", "check"])
    assert "Every sum is what its entries say." in checked.output


# Thinking


def test_a_models_name_is_compared_without_what_is_added_to_it() -> None:
    assert {reconcile.undated_model(name) for name in ("claude-haiku-4-5-20251001", "claude-haiku-4-5")} == {
        "claude-haiku-4-5"
    }


def test_an_unfinished_run_holds_back_the_hours_it_may_still_cost() -> None:
    final = reconcile.settled_until_ms(NOW, "messages", NOW, None, DAY + 90 * MINUTE_MS)
    assert final == DAY + HOUR_MS
    assert reconcile.settled_until_ms(NOW, "messages", NOW, None, None) == ms("2026-11-22T09:00:00Z")


def test_less_than_a_hundredth_of_a_cent_is_rounding() -> None:
    booked = [Booked("work", DAY, OPUS, Amount(NANO))]
    figure = Figure("analytics", DAY, DAY + HOUR_MS, ORG_KEY, OPUS, cost_nanousd=NANO + 99_999)
    found = reconcile.compare(booked, [figure], Matches({ORG_KEY: "work"}))
    span = Span(DAY, DAY + DAY_MS)
    basis = reconcile.Basis("analytics", span, span, NOW, None)
    assert reconcile.adjustments(found, basis) == []
    further = reconcile.compare(booked, [replace(figure, cost_nanousd=NANO + 100_000)], Matches({ORG_KEY: "work"}))
    (adjustment,) = reconcile.adjustments(further, basis)
    assert adjustment.cost.nanousd == 100_000
