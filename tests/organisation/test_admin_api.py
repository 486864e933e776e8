"""The organisation's reports, read from a loopback server that speaks the documented shapes, errors and paging."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from organisation import ADMIN_KEY, ORG_KEY, Organisation, Use, cents, ms
from pool_mcp.accounting.reconcile import ANALYTICS, BILLED, MESSAGES
from pool_mcp.errors import LimitReached, NeedsLogin, Overloaded, PoolError, SettingsError
from pool_mcp.model import DAY_MS, HOUR_MS, NANO, Tokens
from pool_mcp.organisation.admin_api import AdminApi, Unavailable, nanousd_of_cents

pytestmark = pytest.mark.anyio

DAY = ms("2026-11-18T00:00:00Z")
UNTIL = DAY + 2 * DAY_MS
NOW = DAY + 5 * DAY_MS
EXAMPLES = Path(__file__).parents[1] / "data" / "admin-api"


@pytest.fixture(scope="module")
def running() -> Iterator[Organisation]:
    with Organisation() as organisation:
        yield organisation


@pytest.fixture
def organisation(running: Organisation) -> Organisation:
    uses = [Use(DAY + hour * HOUR_MS + 60_000, hour * 12_345_670) for hour in range(1, 48, 2)]
    uses += [Use(DAY + 3 * HOUR_MS, 1_234_500_000, "claude-haiku-5-5", "apikey_other", Tokens(1, 2, 3, 4, 5, 6))]
    running.forget().uses = uses
    return running


@asynccontextmanager
async def api(organisation: Organisation, key: str = ADMIN_KEY) -> AsyncIterator[AdminApi]:
    async with AdminApi(key, "ADMIN_KEY", organisation.url, lambda: NOW, backoff_s=0.0) as api:
        yield api


# Cents


@pytest.mark.parametrize(
    ("said", "nanousd"),
    [
        ("123.45", 1_234_500_000),
        ("0.000001", 10),
        ("2610.000000", 26_100_000_000),
        ("113", 1_130_000_000),
        ("-5", -50_000_000),
    ],
)
def test_amounts_are_cents(said: str, nanousd: int) -> None:
    assert nanousd_of_cents(Decimal(said)) == nanousd


@given(st.integers(-(10**16), 10**16).map(lambda n: n * 10))
def test_cents_keep_every_nano_dollar_that_they_can_say(nanousd: int) -> None:
    assert nanousd_of_cents(Decimal(cents(nanousd))) == nanousd


# Reports


@pytest.mark.parametrize("page_size", [1000, 7, 3])
async def test_every_report_says_the_same_whatever_the_pages(organisation: Organisation, page_size: int) -> None:
    organisation.page_size = page_size
    spent = sum(use.nanousd for use in organisation.uses)
    tokens = sum((use.tokens for use in organisation.uses), Tokens())
    async with api(organisation) as reports:
        analytics = await reports.analytics(DAY, UNTIL)
        messages = await reports.messages(DAY, UNTIL)
        billed = await reports.cost_report(DAY, UNTIL)
    assert sum(one.cost_nanousd or 0 for one in analytics.figures) == spent
    assert sum((one.tokens for one in analytics.figures), Tokens()) == tokens
    assert sum((one.tokens for one in messages.figures), Tokens()) == tokens
    assert {(one.starts_at_ms, one.key_id, one.model) for one in messages.figures} == {
        (one.starts_at_ms, one.key_id, one.model) for one in analytics.figures
    }
    assert sum(one.cost_nanousd or 0 for one in billed.figures) == spent
    assert {one.starts_at_ms for one in billed.figures} == {DAY, DAY + DAY_MS}
    reported = {one.report for part in (analytics, messages, billed) for one in part.figures}
    assert reported == {ANALYTICS, MESSAGES, BILLED}


async def test_what_is_billed_and_the_list_price_are_kept_apart(organisation: Organisation) -> None:
    organisation.uses = [Use(DAY, 900_000_000, list_nanousd=NANO)]
    async with api(organisation) as reports:
        (figure,) = (await reports.analytics(DAY, UNTIL)).figures
    assert (figure.key_id, figure.cost_nanousd, figure.list_nanousd) == (ORG_KEY, 900_000_000, NANO)


async def test_a_longer_span_than_analytics_takes_is_asked_for_in_parts(organisation: Organisation) -> None:
    since = DAY - 70 * DAY_MS
    organisation.uses.append(Use(since, NANO))
    async with api(organisation) as reports:
        found = await reports.analytics(since, UNTIL)
    assert sum(one.cost_nanousd or 0 for one in found.figures) == sum(use.nanousd for use in organisation.uses)
    assert organisation.paths().count("analytics/cost") == 3


# Pages that shift


def late(organisation: Organisation, on_request: int, change: Callable[[], object]) -> None:
    def before(number: int) -> None:
        if number == on_request:
            change()

    organisation.before_page = before


async def test_rows_that_slip_to_another_page_are_neither_lost_nor_counted_twice(organisation: Organisation) -> None:
    organisation.page_size = 5
    # Between two pages a row comes in at the front, so that the page begins with a row that was given already.
    late(organisation, 3, lambda: organisation.uses.append(Use(DAY, 7 * NANO)))
    async with api(organisation) as reports:
        found = await reports.analytics(DAY, UNTIL)
    assert sum(one.cost_nanousd or 0 for one in found.figures) == sum(use.nanousd for use in organisation.uses)
    assert sum((one.tokens for one in found.figures), Tokens()) == sum((u.tokens for u in organisation.uses), Tokens())


async def test_data_that_are_refreshed_between_pages_are_read_again(organisation: Organisation) -> None:
    organisation.page_size = 10

    def refresh() -> None:
        organisation.refreshed_at = "2099-01-01T01:00:00Z"
        # A row of the page that was read already is gone: without a second reading it would be counted.
        organisation.uses = organisation.uses[1:]

    late(organisation, 2, refresh)
    async with api(organisation) as reports:
        found = await reports.analytics(DAY, UNTIL)
    assert sum(one.cost_nanousd or 0 for one in found.figures) == sum(use.nanousd for use in organisation.uses)
    assert found.refreshed_at_ms == ms("2099-01-01T01:00:00Z")


async def test_figures_that_never_hold_still_are_an_error_and_not_a_guess(organisation: Organisation) -> None:
    organisation.page_size = 5
    minutes = iter(range(10_000))

    def change(_: int) -> None:
        number = next(minutes)
        organisation.refreshed_at = f"2099-01-01T00:{number % 60:02}:00Z"
        organisation.uses.append(Use(DAY, number))

    organisation.before_page = change
    async with api(organisation) as reports:
        with pytest.raises(Overloaded, match="kept changing"):
            await reports.analytics(DAY, UNTIL)


# Errors


@pytest.mark.parametrize(
    ("problems", "requests"),
    [
        ([(429, {"retry-after": "0"})], 2),
        ([(429, {}), (529, {}), (500, {}), (503, {"retry-after": "0"})], 5),
    ],
)
async def test_a_busy_server_is_asked_again_after_the_time_it_names(
    organisation: Organisation, problems: list[tuple[int, dict[str, str]]], requests: int
) -> None:
    organisation.problems.extend(problems)
    async with api(organisation) as reports:
        found = await reports.messages(DAY, UNTIL)
    assert len(organisation.requests) == requests
    assert sum((one.tokens for one in found.figures), Tokens()) == sum((u.tokens for u in organisation.uses), Tokens())


@pytest.mark.parametrize(
    ("status", "headers", "error", "requests"),
    [
        (429, {"retry-after": "0"}, LimitReached, 5),
        (429, {"retry-after": "3600"}, LimitReached, 1),
        (529, {}, Overloaded, 5),
        (401, {}, NeedsLogin, 1),
        (403, {}, Unavailable, 1),
        (404, {}, Unavailable, 1),
        (400, {}, PoolError, 1),
    ],
)
async def test_what_does_not_pass_is_told_after_a_bounded_number_of_tries(
    organisation: Organisation, status: int, headers: dict[str, str], error: type[PoolError], requests: int
) -> None:
    organisation.problems.extend([(status, headers)] * 10)
    async with api(organisation) as reports:
        with pytest.raises(error) as caught:
            await reports.messages(DAY, UNTIL)
    assert len(organisation.requests) == requests
    assert "\n" not in caught.value.message
    if "retry-after" in headers and status == 429:
        assert caught.value.retry_at_ms == NOW + 1000 * int(headers["retry-after"])


async def test_a_key_that_is_refused_is_named_by_its_variable_and_never_shown(
    organisation: Organisation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with api(organisation, "sk-ant-admin01-wrong") as reports:
        with pytest.raises(NeedsLogin, match=r"refuses the key in ADMIN_KEY \(invalid x-api-key\)"):
            await reports.messages(DAY, UNTIL)
    assert "sk-ant" not in caplog.text


async def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    with Organisation() as gone:
        url = gone.url
    async with AdminApi(ADMIN_KEY, "ADMIN_KEY", url, lambda: NOW, backoff_s=0.0) as reports:
        with pytest.raises(Overloaded, match="cannot be reached"):
            await reports.messages(DAY, UNTIL)


@pytest.mark.parametrize(
    "url", ["http://example.com", "ftp://127.0.0.1", "api.anthropic.com", "http://localhost.evil.com"]
)
def test_a_key_travels_over_tls_or_not_off_this_machine(url: str) -> None:
    with pytest.raises(SettingsError, match="must begin with https://"):
        AdminApi(ADMIN_KEY, "ADMIN_KEY", url, lambda: NOW)


@pytest.mark.parametrize(("amount", "currency"), [("12.5", "EUR"), ("NaN", "USD"), ("a lot", "USD"), (None, "USD")])
async def test_amounts_that_cannot_be_used_are_an_error_and_never_zero(
    organisation: Organisation, amount: object, currency: str
) -> None:
    organisation.amount, organisation.currency = lambda _: amount, currency
    async with api(organisation) as reports:
        with pytest.raises(Overloaded, match=r"form that is not documented|cannot be used"):
            await reports.cost_report(DAY, UNTIL)


async def test_the_documented_examples_are_understood(organisation: Organisation) -> None:
    paths = {
        "analytics/usage": "analytics_usage",
        "analytics/cost": "analytics_cost",
        "cost_report": "cost_report",
        "usage_report/messages": "usage_report_messages",
    }
    for path, name in paths.items():
        body = json.loads((EXAMPLES / f"{name}.json").read_text())
        organisation.bodies[path] = json.dumps(body | {"has_more": False, "next_page": None}).encode()
    async with api(organisation) as reports:
        analytics = (await reports.analytics(DAY, UNTIL)).figures
        messages = (await reports.messages(DAY, UNTIL)).figures
        billed = (await reports.cost_report(DAY, UNTIL)).figures
    by_key = {(one.key_id, one.model): one for one in analytics}
    opus = by_key["apikey_01Rj2N8SVvo6BePZj99NhmiT", "claude-opus-5-5"]
    assert opus.tokens == Tokens(1_500_000, 300_000, 400_000, 1_000_000, 20_000_000, 10)
    assert by_key["apikey_01Rj2N8SVvo6BePZj99NhmiT", "claude-haiku-5-5"].cost_nanousd == 225_000_000
    assert sum((one.tokens for one in messages), Tokens()) == sum((one.tokens for one in analytics), Tokens())
    assert sum(one.cost_nanousd or 0 for one in billed) == round(26.775 * NANO)
