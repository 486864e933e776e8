"""What one API call costs at Anthropic's list price on its day.

The prices are genai-prices' dated tables. They are resolved once per model and day into rates per token, so
that pricing a call is six multiplications; the library itself, which takes 0.36 s to import, is loaded with
the first call that needs it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from pool_mcp.model import DAY_MS, NANO, TokenCounts, Tokens

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

_MTOK = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DEFAULT_WEB_SEARCH_USD = Decimal("0.01")
_US_ONLY = Decimal("1.1")
"""What tokens cost more where inference is kept in the US; genai-prices does not know of it."""

_FAST = {"claude-opus-4-6": 6, "claude-opus-4-7": 6}
"""How many times the standard price fast calls cost of models whose fast price genai-prices does not know (Anthropic's
page on fast mode: $30 and $150 where the standard is $5 and $25). They were withdrawn in July 2026."""


@dataclass(frozen=True, slots=True)
class _Rates:
    """Nano-dollars per token (and per web search) for prompts of more than ``above`` tokens.

    Whole nano-dollars, as nearly all are, stand as integers: with those a price is computed six times as fast.
    """

    above: int
    input: Decimal | int
    output: Decimal | int
    cache_creation_5m: Decimal | int
    cache_creation_1h: Decimal | int
    cache_read: Decimal | int
    web_search: Decimal | int

    def price(self, tokens: TokenCounts, *, us_only: bool) -> Decimal | int:
        input_, output, creation_5m, creation_1h, read, searches = tokens
        price = (
            self.input * input_
            + self.output * output
            + self.cache_creation_5m * creation_5m
            + self.cache_creation_1h * creation_1h
            + self.cache_read * read
        )
        return (price * _US_ONLY if us_only else price) + self.web_search * searches


def price_nanousd(model: str, tokens: Tokens, at_ms: int, *, fast: bool = False, us_only: bool = False) -> int | None:
    """List price of one API call made at ``at_ms``, or None where no price is known.

    ``tokens`` must be those of a single call: some models cost more per token when one prompt is long, which
    cannot be known from a sum. Dated model ids are understood. ``fast`` and
    ``us_only`` are what the call's own usage says (``speed`` "fast", ``inference_geo`` "us").
    """
    return price_of_counts(model, tokens.counts, at_ms, fast=fast, us_only=us_only)


def price_of_counts(model: str, tokens: TokenCounts, at_ms: int, *, fast: bool, us_only: bool) -> int | None:
    """What :func:`price_nanousd` says, without an object for the tokens; an import asks it for every call."""
    rates = _rates(model, at_ms // DAY_MS, fast)
    if not rates:
        return None
    applying = rates[0]
    if len(rates) > 1:
        # The rates of the highest threshold that the prompt exceeds hold for all of the call's tokens.
        prompt = sum(tokens) - tokens[1] - tokens[5]
        applying = next((tier for tier in rates if prompt > tier.above), rates[-1])
    return round(applying.price(tokens, us_only=us_only))


@lru_cache(maxsize=8192)
def _rates(model: str, day: int, fast: bool) -> tuple[_Rates, ...]:
    """Look up the rates on a day since 1970 (UTC), highest threshold first; empty where unknown."""
    from genai_prices import Usage, calc_price
    from genai_prices.types import TieredPrices

    if not model.startswith("claude"):  # "<synthetic>", another maker's model behind a gateway
        return ()
    noon = _EPOCH + timedelta(days=day, hours=12)
    try:
        price = calc_price(
            Usage(),
            model,
            provider_id="anthropic",
            genai_request_timestamp=noon,
            price_context={"speed": "fast"} if fast else None,
        ).model_price
    except LookupError:
        return ()
    if price.input_mtok is None or price.output_mtok is None:
        return ()
    thresholds = {0} | {
        tier.start for rate in vars(price).values() if isinstance(rate, TieredPrices) for tier in rate.tiers
    }
    times = _FAST.get(model, 1) if fast else 1
    return tuple(_rates_above(price, start, times) for start in sorted(thresholds, reverse=True))


def _rates_above(price: "ModelPrice", above: int, times: int) -> _Rates:
    """Resolve the rates above a threshold; a kind of tokens without a price costs what its parent does."""
    from genai_prices.types import TieredPrices

    def per(key: str, units: int, fallback: Decimal | int) -> Decimal | int:
        rate: Decimal | TieredPrices | None = getattr(price, key)
        if rate is None:
            return fallback
        if isinstance(rate, TieredPrices):
            rate = next((tier.price for tier in reversed(rate.tiers) if above >= tier.start), rate.base)
        exact = rate * NANO * (times if units == _MTOK else 1) / units
        return int(exact) if exact == int(exact) else exact

    plain = per("input_mtok", _MTOK, 0)
    write_5m = per("cache_write_mtok", _MTOK, plain)
    return _Rates(
        above=above,
        input=plain,
        output=per("output_mtok", _MTOK, 0),
        cache_creation_5m=write_5m,
        cache_creation_1h=per("cache_write_1h_mtok", _MTOK, write_5m),
        cache_read=per("cache_read_mtok", _MTOK, plain),
        web_search=per("web_searches_kcount", 1000, int(_DEFAULT_WEB_SEARCH_USD * NANO)),
    )
