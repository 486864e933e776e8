"""All HTTP: the organisation's own reports, from Anthropic's Admin API.

Amounts come in cents, as decimal strings ("123.45" is $1.2345) or numbers, and leave as integer nano-dollars. Every
fetch is complete or fails: pages are followed to the end, a report that changed while it was read (a bucket twice or
missing, another ``data_refreshed_at``) is read again until two readings agree, and what is over a limit is waited for
as long as the server asks, within bounds. The key is given, sent in one header, and kept nowhere.
"""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import anyio
import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

from pool_mcp import __version__
from pool_mcp.accounting.reconcile import ANALYTICS, BILLED, MESSAGES, Figure
from pool_mcp.choosing.windows import rfc3339
from pool_mcp.errors import InvalidRequest, LimitReached, NeedsLogin, Overloaded, PoolError, SettingsError
from pool_mcp.model import DAY_MS, HOUR_MS, Tokens

log = logging.getLogger(__name__)

BASE_URL = "https://api.anthropic.com"
_VERSION = "2023-06-01"
_ANALYTICS_BETA = "analytics-usage-cost-2026-08-24"
_CENT = 10_000_000
"""Nano-dollars in a cent."""

MAX_TRIES = 5
MAX_WAIT_S = 60.0
"""A longer retry-after is told to the caller instead of waited for."""
MAX_PAGES = 2000
MAX_READINGS = 4
_LONGEST_MS = 31 * DAY_MS
"""What analytics takes at once."""

Parameters = list[tuple[str, str | int | float | bool | None]]


class Unavailable(InvalidRequest):
    """This organisation, or this key, does not have this report."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A report's rows for a span, and until when Anthropic says its data go (None: it does not say)."""

    figures: tuple[Figure, ...]
    refreshed_at_ms: int | None = None


# What the bodies look like; fields that are not needed are ignored.


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _CacheCreation(_Body):
    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class _ServerToolUse(_Body):
    web_search_requests: int = 0


class _Usage(_Body):
    uncached_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: _CacheCreation = _CacheCreation()
    output_tokens: int = 0
    server_tool_use: _ServerToolUse = _ServerToolUse()

    @property
    def tokens(self) -> Tokens:
        return Tokens(
            self.uncached_input_tokens,
            self.output_tokens,
            self.cache_creation.ephemeral_5m_input_tokens,
            self.cache_creation.ephemeral_1h_input_tokens,
            self.cache_read_input_tokens,
            self.server_tool_use.web_search_requests,
        )


class _MessagesRow(_Usage):
    api_key_id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    context_window: str | None = None
    inference_geo: str | None = None
    speed: str | None = None


class _CostRow(_Body):
    amount: Decimal
    currency: str
    cost_type: str | None = None
    token_type: str | None = None
    model: str | None = None
    description: str | None = None
    workspace_id: str | None = None
    service_tier: str | None = None
    context_window: str | None = None
    inference_geo: str | None = None


class _MessagesBucket(_Body):
    starting_at: datetime
    ending_at: datetime
    results: list[_MessagesRow]


class _CostBucket(_Body):
    starting_at: datetime
    ending_at: datetime
    results: list[_CostRow]


class _Money(_Body):
    amount: Decimal
    currency: str
    list_amount: Decimal | None = None


class _Group(_Body):
    api_key_id: str | None = None
    model: str | None = None
    actor: dict[str, Any] | None = None


class _AnalyticsRow(_Body):
    starting_at: datetime
    ending_at: datetime
    group: _Group
    usage: _Usage | None = None
    cost: _Money | None = None


class _Page(_Body):
    data: list[dict[str, Any]]
    has_more: bool = False
    next_page: str | None = None
    data_refreshed_at: datetime | None = None


class AdminApi:
    """One organisation's reports; use as an async context manager.

    Every fetch raises NeedsLogin (the key is refused), Unavailable, LimitReached or Overloaded.
    """

    def __init__(
        self, key: str, key_name: str, base_url: str, clock: Callable[[], int], backoff_s: float = 1.0
    ) -> None:
        """``key_name`` is the variable that holds the key, for messages; ``base_url`` "" is Anthropic's own."""
        self._key_name = key_name
        self._clock = clock
        self._backoff_s = backoff_s
        self._client = httpx2.AsyncClient(
            base_url=_checked(base_url or BASE_URL),
            headers={"anthropic-version": _VERSION, "x-api-key": key, "user-agent": f"pool-mcp/{__version__}"},
            timeout=30.0,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def messages(self, since_ms: int, until_ms: int) -> Fetched:
        """``usage_report/messages`` by hour, model and key: tokens, no cost and no count of requests."""
        groups = ("model", "api_key_id", "service_tier", "context_window", "inference_geo", "speed")
        parameters: Parameters = [
            *_span(since_ms, until_ms, HOUR_MS),
            ("bucket_width", "1h"),
            ("limit", "168"),
            *(("group_by[]", group) for group in groups),
        ]
        return await self._buckets("/v1/organizations/usage_report/messages", parameters, _messages)

    async def cost_report(self, since_ms: int, until_ms: int) -> Fetched:
        """``cost_report`` by UTC day: what is billed, by description; not by key."""
        parameters: Parameters = [
            *_span(since_ms, until_ms, DAY_MS),
            ("limit", "31"),
            ("group_by[]", "workspace_id"),
            ("group_by[]", "description"),
        ]
        return await self._buckets("/v1/organizations/cost_report", parameters, _billed)

    async def analytics(self, since_ms: int, until_ms: int) -> Fetched:
        """``analytics/usage`` and ``analytics/cost`` by hour, model and key, as one: tokens and cost."""
        figures: list[Figure] = []
        refreshed: list[int] = []
        for start_ms in range(since_ms // HOUR_MS * HOUR_MS, until_ms, _LONGEST_MS):
            parameters: Parameters = [
                ("beta", "true"),
                *_span(start_ms, min(until_ms, start_ms + _LONGEST_MS), HOUR_MS),
                ("time_bucket_width", "1h"),
                ("limit", "1000"),
                ("group_by[]", "model"),
                ("group_by[]", "api_key_id"),
            ]
            headers = {"anthropic-beta": _ANALYTICS_BETA}
            for path in ("/v1/organizations/analytics/usage", "/v1/organizations/analytics/cost"):
                read = partial(self._rows, path, parameters, headers, _analytics)
                reading = await self._settled(read)
                figures += reading.figures
                if reading.refreshed_at_ms is not None:
                    refreshed.append(reading.refreshed_at_ms)
        return Fetched(tuple(_joined(figures)), min(refreshed, default=None))

    # Complete readings

    async def _buckets(
        self, path: str, parameters: Parameters, figures_of: Callable[[Any], Iterable[Figure]]
    ) -> Fetched:
        async def read() -> _Reading:
            buckets: dict[str, tuple[str, list[Figure]]] = {}
            twice = False
            async for page in self._pages(path, parameters, {}):
                for one in page.data:
                    start, end = str(one.get("starting_at")), str(one.get("ending_at"))
                    twice = twice or start in buckets
                    buckets[start] = (end, list(_parsed(figures_of, one)))
            ends = {end for end, _ in buckets.values()}
            # Each bucket but the first begins where another ends, unless one has slipped from page to page.
            gaps = sum(start not in ends for start in buckets) > 1
            return _Reading(tuple(f for _, own in buckets.values() for f in own), twice or gaps)

        return Fetched((await self._settled(read)).figures)

    async def _rows(
        self,
        path: str,
        parameters: Parameters,
        headers: Mapping[str, str],
        figures_of: Callable[[Any], Iterable[Figure]],
    ) -> "_Reading":
        found: dict[tuple[object, ...], Figure] = {}
        refreshed: set[int] = set()
        twice = False
        async for page in self._pages(path, parameters, headers):
            if page.data_refreshed_at is not None:
                refreshed.add(_ms(page.data_refreshed_at))
            for one in page.data:
                for figure in _parsed(figures_of, one):
                    twice = twice or figure.identity in found
                    found[figure.identity] = figure
        return _Reading(tuple(found.values()), twice or len(refreshed) > 1, min(refreshed, default=None))

    async def _settled(self, read: Callable[[], Awaitable["_Reading"]]) -> "_Reading":
        before = None
        for _ in range(MAX_READINGS):
            reading = await read()
            if not reading.shifted or (before is not None and set(before.figures) == set(reading.figures)):
                return reading
            before = reading
        raise Overloaded("The organization's figures kept changing while they were read; sync again later.")

    async def _pages(self, path: str, parameters: Parameters, headers: Mapping[str, str]) -> AsyncIterator[_Page]:
        token: str | None = None
        seen: set[str] = set()
        while True:
            asked = parameters if token is None else [*parameters, ("page", token)]
            try:
                page = _Page.model_validate(await self._get(path, asked, headers))
            except ValidationError as error:
                raise Overloaded(f"{path} answered in a form that is not documented: {_first(error)}.") from None
            yield page
            token = page.next_page
            if not page.has_more or token is None:
                return
            if token in seen or len(seen) >= MAX_PAGES:
                raise Overloaded(f"{path} has no end of pages; sync again later.")
            seen.add(token)

    async def _get(self, path: str, parameters: Parameters, headers: Mapping[str, str]) -> Any:
        """One answer, tried again within bounds where the server is busy."""
        for attempt in range(1, MAX_TRIES + 1):
            wait_s = self._backoff_s * 2 ** (attempt - 1)
            try:
                response = await self._client.get(path, params=parameters, headers=dict(headers))
            except httpx2.TransportError as error:
                problem: PoolError = Overloaded(f"The Admin API cannot be reached: {type(error).__name__}.")
            else:
                if response.status_code == 200:
                    try:
                        return json.loads(response.content, parse_float=Decimal)
                    except ValueError:
                        problem = Overloaded(f"{path} answered with something that is not JSON.")
                else:
                    asked_s = _retry_after_s(response)
                    problem = self._problem(path, response, asked_s)
                    if not isinstance(problem, LimitReached | Overloaded):
                        raise problem
                    wait_s = wait_s if asked_s is None else asked_s
            if attempt == MAX_TRIES or wait_s > MAX_WAIT_S:
                raise problem
            log.info("%s: %s; trying again in %.1f s", path, problem.kind, wait_s)
            await anyio.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _problem(self, path: str, response: httpx2.Response, asked_s: float | None) -> PoolError:
        status = response.status_code
        said = _message(response)
        if status == 401:
            return NeedsLogin(f"The organization refuses the key in {self._key_name} ({said}); put an Admin key there.")
        if status in (403, 404):
            return Unavailable(f"{path} is not there for the key in {self._key_name} ({status}: {said}).")
        if status == 429:
            retry_at_ms = None if asked_s is None else self._clock() + round(asked_s * 1000)
            return LimitReached(f"The Admin API asks to slow down ({said}); sync again later.", retry_at_ms=retry_at_ms)
        if status >= 500:
            return Overloaded(f"The Admin API is failing ({status}: {said}); sync again later.")
        return InvalidRequest(f"{path} refuses the request ({status}: {said}).")


@dataclass(frozen=True, slots=True)
class _Reading:
    """One pass over a report's pages; ``shifted`` where it changed on the way."""

    figures: tuple[Figure, ...]
    shifted: bool
    refreshed_at_ms: int | None = None


def nanousd_of_cents(cents: Decimal) -> int:
    """Cents, with any number of decimals, as integer nano-dollars.

    Raises:
        ValueError: it is no finite amount.
    """
    if not cents.is_finite():
        raise ValueError(f"{cents} is not an amount")
    return int((cents * _CENT).to_integral_value())


def _money(amount: Decimal, currency: str) -> int:
    if currency.upper() != "USD":
        raise ValueError(f"amounts in {currency} cannot be added to dollars")
    return nanousd_of_cents(amount)


def _messages(data: Any) -> Iterator[Figure]:
    bucket = _MessagesBucket.model_validate(data)
    for row in bucket.results:
        detail = _detail(row, ("service_tier", "context_window", "inference_geo", "speed"))
        start, end = _ms(bucket.starting_at), _ms(bucket.ending_at)
        yield Figure(MESSAGES, start, end, row.api_key_id or "", row.model or "", detail, row.tokens)


def _billed(data: Any) -> Iterator[Figure]:
    bucket = _CostBucket.model_validate(data)
    names = (
        "cost_type",
        "token_type",
        "description",
        "workspace_id",
        "service_tier",
        "context_window",
        "inference_geo",
    )
    for row in bucket.results:
        yield Figure(
            BILLED,
            _ms(bucket.starting_at),
            _ms(bucket.ending_at),
            model=row.model or "",
            detail=_detail(row, names),
            cost_nanousd=_money(row.amount, row.currency),
        )


def _analytics(data: Any) -> Iterator[Figure]:
    row = _AnalyticsRow.model_validate(data)
    key = row.group.api_key_id or (row.group.actor or {}).get("api_key_id") or ""
    start, end = _ms(row.starting_at), _ms(row.ending_at)
    if row.usage is not None:
        yield Figure(ANALYTICS, start, end, str(key), row.group.model or "", "usage", row.usage.tokens)
    if row.cost is not None:
        listed = row.cost.list_amount
        yield Figure(
            ANALYTICS,
            start,
            end,
            str(key),
            row.group.model or "",
            "cost",
            cost_nanousd=_money(row.cost.amount, row.cost.currency),
            list_nanousd=None if listed is None else _money(listed, row.cost.currency),
        )


def _joined(figures: Iterable[Figure]) -> Iterator[Figure]:
    """Usage and cost of the same hour, model and key as one row."""
    both: dict[tuple[int, int, str, str], dict[str, Figure]] = {}
    for one in figures:
        both.setdefault((one.starts_at_ms, one.ends_at_ms, one.key_id, one.model), {})[one.detail] = one
    for (start, end, key, model), parts in both.items():
        usage, cost = parts.get("usage"), parts.get("cost")
        yield Figure(
            ANALYTICS,
            start,
            end,
            key,
            model,
            "",
            usage.tokens if usage else Tokens(),
            cost.cost_nanousd if cost else None,
            cost.list_nanousd if cost else None,
        )


def _parsed(figures_of: Callable[[Any], Iterable[Figure]], data: object) -> list[Figure]:
    try:
        return list(figures_of(data))
    except ValidationError as error:
        raise Overloaded(f"A report has a row in a form that is not documented: {_first(error)}.") from None
    except ValueError as error:
        raise Overloaded(f"A report has an amount that cannot be used: {error}.") from None


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"


def _detail(row: BaseModel, names: tuple[str, ...]) -> str:
    said = row.model_dump(mode="json", include=set(names), exclude_none=True)
    return json.dumps(said, sort_keys=True) if said else ""


def _span(since_ms: int, until_ms: int, width_ms: int) -> Parameters:
    start, end = since_ms // width_ms * width_ms, -(-until_ms // width_ms) * width_ms
    return [("starting_at", rfc3339(start)), ("ending_at", rfc3339(end))]


def _ms(at: datetime) -> int:
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return round(at.timestamp() * 1000)


def _retry_after_s(response: httpx2.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _message(response: httpx2.Response) -> str:
    """What the error says of itself, in one short line; the body of a proxy's page is not repeated."""
    try:
        body = json.loads(response.content)
        said = body["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase or "no message"
    return " ".join(str(said).split())[:200]


def _checked(base_url: str) -> str:
    """A key travels over TLS, or not off this machine."""
    url = urlsplit(base_url)
    if url.scheme == "https" or (url.scheme == "http" and url.hostname in ("127.0.0.1", "::1", "localhost")):
        return base_url.rstrip("/")
    raise SettingsError(f"admin.base_url is {base_url!r}; it must begin with https://, or http://127.0.0.1 for a test")
