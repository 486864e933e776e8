"""Holds the ledger against the organisation's figures: pure, on hours that both sides have finished with.

Only API-key usage is in the organisation's reports, so only subscriptions with a key of their own are compared. A key
is told from the others by its id (``console_key_id`` in pool.toml); without one, a lone key and a lone subscription are
taken for each other.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pool_mcp.accounting.periods import Span
from pool_mcp.choosing.windows import rfc3339
from pool_mcp.model import DAY_MS, HOUR_MS, MINUTE_MS, NANO, Cost, ModelCost, Subscription, Tokens

ANALYTICS, MESSAGES, BILLED = "analytics", "messages", "cost_report"
"""The organisation's reports, as the ledger calls them; ``analytics`` is usage and cost in one."""

WARN_NANOUSD = NANO
"""A day, or an hour, that is further off than this is a warning."""
BOOK_NANOUSD = NANO // 10_000
"""What is less than a hundredth of a cent is rounding and not booked."""

LAG_MS = {ANALYTICS: 4 * HOUR_MS, MESSAGES: 10 * MINUTE_MS}
"""How long after its end an hour is left alone: figures are usually complete within 4 h, or about 5 min."""

NO_TOKENS = Tokens()

_DATE = re.compile(r"-20\d{6}$")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of one of the organisation's reports; ``[starts_at_ms, ends_at_ms)``.

    ``detail`` is what else tells it from its neighbours, as JSON. ``cost_nanousd`` is what is billed and
    ``list_nanousd`` the list price; None where the report does not say. ``key_id`` and ``model`` are "" where it is
    not by key or model.
    """

    report: str
    starts_at_ms: int
    ends_at_ms: int
    key_id: str = ""
    model: str = ""
    detail: str = ""
    tokens: Tokens = NO_TOKENS
    cost_nanousd: int | None = None
    list_nanousd: int | None = None

    @property
    def identity(self) -> tuple[object, ...]:
        """What no other row of the same report has."""
        return (self.report, self.starts_at_ms, self.ends_at_ms, self.key_id, self.model, self.detail)


@dataclass(frozen=True, slots=True)
class Amount:
    """Money and tokens of one side; ``nanousd`` is None where a price is not known."""

    nanousd: int | None = 0
    tokens: Tokens = NO_TOKENS

    def __add__(self, other: "Amount") -> "Amount":
        unknown = self.nanousd is None or other.nanousd is None
        return Amount(None if unknown else (self.nanousd or 0) + (other.nanousd or 0), self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class Booked:
    """What the ledger has of one subscription, hour and model."""

    subscription: str
    hour_ms: int
    model: str
    amount: Amount


@dataclass(frozen=True, slots=True)
class Difference:
    """Both sides of one subscription, model and span; the span is an hour or a UTC day."""

    subscription: str
    key_id: str
    model: str
    starts_at_ms: int
    ledger: Amount
    official: Amount

    @property
    def nanousd(self) -> int | None:
        """Official less ledger; None where no price is known."""
        if self.official.nanousd is None or self.ledger.nanousd is None:
            return None
        return self.official.nanousd - self.ledger.nanousd


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What a comparison found, hours and days in order."""

    hours: tuple[Difference, ...]
    days: tuple[Difference, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Basis:
    """What a reconciliation rests on: the report, the span that was asked for and the part of it that is final.

    ``synced_at_ms`` is when the report was read, ``refreshed_at_ms`` until when Anthropic says that its data go.
    """

    source: str
    asked: Span
    final: Span
    synced_at_ms: int
    refreshed_at_ms: int | None

    @property
    def is_estimate(self) -> bool:
        """Whether the report has tokens only, so that their price is the list's."""
        return self.source != ANALYTICS


@dataclass(frozen=True, slots=True)
class Matches:
    """Which subscription each key is, and what cannot be compared, told for a person."""

    subscription_of: Mapping[str, str] = field(default_factory=dict)
    not_compared: tuple[str, ...] = ()

    def key_of(self, subscription: str) -> str:
        """A subscription's key."""
        return next((key for key, one in self.subscription_of.items() if one == subscription), "")


def undated_model(model: str) -> str:
    """A model's name without the date that a report may add to it."""
    return _DATE.sub("", model)


def match_keys(subscriptions: Sequence[Subscription], seen: Iterable[str]) -> Matches:
    """Which subscription each key that the organisation reports is."""
    with_key = [s for s in subscriptions if s.is_api_key]
    matched = {s.console_key_id: s.id for s in with_key if s.console_key_id is not None}
    keys = sorted({key for key in seen if key and key not in matched})
    open_ones = [s.id for s in with_key if s.console_key_id is None]
    if len(keys) == len(open_ones) == 1:
        return Matches({**matched, keys[0]: open_ones[0]})
    notes = [
        f"{one}: its key's id is not known; set console_key_id in pool.toml"
        + (f" to one of {', '.join(keys)}" if keys else "")
        for one in open_ones
    ]
    if not open_ones:
        notes += [f"{key}: no subscription of the pool has this key" for key in keys]
    return Matches(matched, tuple(notes))


def settled_until_ms(
    now_ms: int, source: str, synced_at_ms: int, refreshed_at_ms: int | None, oldest_unfinished_ms: int | None
) -> int:
    """Until when both sides are final: past the reports' lag, and before the first run that is not booked yet."""
    bounds = [now_ms - LAG_MS[source], synced_at_ms - LAG_MS[source]]
    bounds += [one for one in (refreshed_at_ms, oldest_unfinished_ms) if one is not None]
    return min(bounds) // HOUR_MS * HOUR_MS


def compare(booked: Iterable[Booked], figures: Iterable[Figure], matches: Matches) -> Reconciliation:
    """Compare hour by hour and UTC day by day, per subscription and model.

    The list price is compared where a report tells it: the ledger is kept in list prices.
    """
    sides: dict[tuple[str, str, int], tuple[Amount, Amount]] = defaultdict(lambda: (Amount(), Amount()))
    for one in booked:
        at = (one.subscription, undated_model(one.model), one.hour_ms)
        ledger, official = sides[at]
        sides[at] = (ledger + one.amount, official)
    for figure in figures:
        subscription = matches.subscription_of.get(figure.key_id)
        if subscription is not None:
            at = (subscription, undated_model(figure.model), figure.starts_at_ms)
            ledger, official = sides[at]
            cost = figure.cost_nanousd if figure.list_nanousd is None else figure.list_nanousd
            sides[at] = (ledger, official + Amount(cost, figure.tokens))
    compared = set(matches.subscription_of.values())
    hours = [
        Difference(subscription, matches.key_of(subscription), model, hour_ms, ledger, official)
        for (subscription, model, hour_ms), (ledger, official) in sorted(sides.items(), key=lambda one: one[0][::-1])
        if subscription in compared
    ]
    days = _days(hours)
    return Reconciliation(tuple(hours), tuple(days), tuple(_warnings(hours, days)))


def _days(hours: Iterable[Difference]) -> list[Difference]:
    days: dict[tuple[int, str, str], Difference] = {}
    for hour in hours:
        day_ms = hour.starts_at_ms - hour.starts_at_ms % DAY_MS
        at = (day_ms, hour.subscription, hour.model)
        before = days.get(at)
        if before is None:
            days[at] = replace(hour, starts_at_ms=day_ms)
        else:
            days[at] = replace(before, ledger=before.ledger + hour.ledger, official=before.official + hour.official)
    return [days[at] for at in sorted(days)]


def _warnings(hours: Sequence[Difference], days: Sequence[Difference]) -> Iterable[str]:
    for day in days:
        own = [
            hour
            for hour in hours
            if (hour.subscription, hour.model) == (day.subscription, day.model)
            and hour.starts_at_ms // DAY_MS == day.starts_at_ms // DAY_MS
            and abs(hour.nanousd or 0) > WARN_NANOUSD
        ]
        where = f"{rfc3339(day.starts_at_ms)[:10]} {day.subscription} {day.model or '(no model)'}"
        if day.nanousd is None:
            yield f"{where}: a price is not known, so the day is not compared"
        elif abs(day.nanousd) > WARN_NANOUSD:
            worst = sorted(own, key=lambda hour: -abs(hour.nanousd or 0))[:3]
            most = ", ".join(f"{rfc3339(hour.starts_at_ms)[11:16]}Z {_signed(hour.nanousd or 0)}" for hour in worst)
            yield (
                f"{where}: the organization has {_signed(day.nanousd)} against the ledger"
                + (f" (most at {most})" if most else "")
                + f", key {day.key_id}"
            )
        elif own:
            at = ", ".join(f"{rfc3339(hour.starts_at_ms)[11:16]}Z {_signed(hour.nanousd or 0)}" for hour in own[:4])
            yield f"{where}: hours differ ({at}) though the day does not: a run is booked in the hour it ended in"


def _signed(nanousd: int) -> str:
    return f"{'-' if nanousd < 0 else '+'}${abs(nanousd) / NANO:.2f}"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What to book so that the ledger's hour says what the organisation's says."""

    subscription: str
    at_ms: int
    cost: Cost
    note: str


def adjustments(found: Reconciliation, basis: Basis) -> list[Adjustment]:
    """One entry for each subscription and hour that differs, with its evidence; none where nothing does."""
    by_hour: dict[tuple[int, str], list[Difference]] = defaultdict(list)
    for hour in found.hours:
        if hour.nanousd is not None and abs(hour.nanousd) >= BOOK_NANOUSD:
            by_hour[hour.starts_at_ms, hour.subscription].append(hour)
    result = []
    for (at_ms, subscription), parts in sorted(by_hour.items()):
        models = {
            part.model: ModelCost(_less(part.official.tokens, part.ledger.tokens), part.nanousd) for part in parts
        }
        evidence = {
            "report": basis.source,
            "hour": rfc3339(at_ms),
            "api_key_id": parts[0].key_id,
            "synced_at": rfc3339(basis.synced_at_ms),
            "data_refreshed_at": None if basis.refreshed_at_ms is None else rfc3339(basis.refreshed_at_ms),
            "models": {
                part.model: {
                    "ledger_usd": (part.ledger.nanousd or 0) / NANO,
                    "official_usd": (part.official.nanousd or 0) / NANO,
                }
                for part in parts
            },
        }
        nanousd = sum(part.nanousd or 0 for part in parts)
        cost = Cost(nanousd, models, is_estimate=basis.is_estimate)
        result.append(Adjustment(subscription, at_ms, cost, json.dumps(evidence)))
    return result


def _less(one: Tokens, other: Tokens) -> Tokens:
    """A difference of tokens, which may be negative; the ledger's sums do not tell the lifetimes of cache writes."""
    return Tokens(
        one.input - other.input,
        one.output - other.output,
        one.cache_creation - other.cache_creation,
        0,
        one.cache_read - other.cache_read,
        0,
    )
