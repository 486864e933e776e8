"""List prices, checked against rows of Anthropic's published table (US dollars per million tokens)."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp.accounting.pricing import price_nanousd
from pool_mcp.model import NANO, Tokens

NOVEMBER_MS = 1_795_340_000_000  # 2026-11-22
ONE_MILLION = 1_000_000

# model: input, output, cache write 5 minutes, cache write 1 hour, cache read
PUBLISHED = {
    "claude-fable-5-2": (8, 40, 10, 16, 0.2),
    "claude-mythos-5-2": (8, 40, 10, 16, 0.2),
    "claude-fable-5": (10, 50, 12.5, 20, 1),
    "claude-opus-5-5": (4, 20, 5, 8, 0.2),
    "claude-opus-5": (5, 25, 6.25, 10, 0.5),
    "claude-opus-4-8": (5, 25, 6.25, 10, 0.5),
    "claude-opus-4-1": (15, 75, 18.75, 30, 1.5),
    "claude-sonnet-5-5": (2, 10, 2.5, 4, 0.1),
    "claude-sonnet-5": (2, 10, 2.5, 4, 0.2),
    "claude-sonnet-4-6": (3, 15, 3.75, 6, 0.3),
    "claude-haiku-4-5": (1, 5, 1.25, 2, 0.1),
    "claude-3-5-haiku": (0.8, 4, 1, 1.6, 0.08),
}


def usd(model: str, tokens: Tokens, at_ms: int = NOVEMBER_MS) -> float | None:
    price = price_nanousd(model, tokens, at_ms)
    return None if price is None else price / NANO


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_million_tokens_of_each_class_cost_what_is_published(model: str) -> None:
    assert (
        usd(model, Tokens(input=ONE_MILLION)),
        usd(model, Tokens(output=ONE_MILLION)),
        usd(model, Tokens(cache_creation_5m=ONE_MILLION)),
        usd(model, Tokens(cache_creation_1h=ONE_MILLION)),
        usd(model, Tokens(cache_read=ONE_MILLION)),
    ) == PUBLISHED[model]


def test_a_call_the_cli_priced_at_0_0259_dollars_costs_that_to_the_nano_dollar() -> None:
    tokens = Tokens(1200, 300, cache_creation_5m=1000, cache_creation_1h=4000, cache_read=20_000)
    assert price_nanousd("claude-sonnet-5-5", tokens, NOVEMBER_MS) == 25_900_000


def test_a_long_prompt_costs_more_per_token_for_the_whole_call() -> None:
    at_threshold = Tokens(input=60_000, cache_read=40_000, output=1000)
    above_it = Tokens(input=60_001, cache_read=40_000, output=1000)
    assert usd("claude-haiku-5-5", at_threshold) == pytest.approx(0.006 + 0.0004 + 0.0005)
    assert usd("claude-haiku-5-5", above_it) == pytest.approx(0.0300005 + 0.002 + 0.0025)


def test_a_price_is_that_of_the_day_of_the_call() -> None:
    long_prompt = Tokens(input=300_000)
    before = usd("claude-opus-4-6", long_prompt, 1_772_000_000_000)  # 2026-02-25
    assert (before, usd("claude-opus-4-6", long_prompt)) == (3.0, 1.5)


def test_a_web_search_costs_a_cent() -> None:
    assert price_nanousd("claude-opus-5-5", Tokens(web_search_requests=3), NOVEMBER_MS) == 30_000_000


@pytest.mark.parametrize(
    ("named", "plain"),
    [
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-opus-4-1-20250805", "claude-opus-4-1"),
    ],
)
def test_dated_names_cost_what_the_plain_name_does(named: str, plain: str) -> None:
    tokens = Tokens(11, 13, 17, 19, 23)
    assert price_nanousd(named, tokens, NOVEMBER_MS) == price_nanousd(plain, tokens, NOVEMBER_MS) != 0


@pytest.mark.parametrize("model", ["<synthetic>", "claude-nonexistent-9", "", "gpt-5"])
def test_an_unknown_model_has_no_price_rather_than_none_to_pay(model: str) -> None:
    assert price_nanousd(model, Tokens(input=5, output=5), NOVEMBER_MS) is None


counts = st.integers(min_value=0, max_value=1_000_000)


@given(st.sampled_from(sorted(PUBLISHED)), st.builds(Tokens, counts, counts, counts, counts, counts))
def test_every_price_is_the_librarys_own(model: str, tokens: Tokens) -> None:
    from datetime import UTC, datetime

    from genai_prices import Usage, calc_price

    theirs = calc_price(
        Usage(
            input_tokens=tokens.input + tokens.cache_creation + tokens.cache_read,
            output_tokens=tokens.output,
            cache_read_tokens=tokens.cache_read,
            cache_write_tokens=tokens.cache_creation,
            cache_write_1h_tokens=tokens.cache_creation_1h,
        ),
        model,
        provider_id="anthropic",
        genai_request_timestamp=datetime.fromtimestamp(NOVEMBER_MS / 1000, UTC),
    )
    assert price_nanousd(model, tokens, NOVEMBER_MS) == theirs.total_price * NANO


def test_the_price_tables_are_not_loaded_before_they_are_needed() -> None:
    code = "import sys, pool_mcp.accounting.pricing; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fast_mode_costs_its_own_rates_and_inference_kept_in_the_us_a_tenth_more_but_for_searches() -> None:
    tokens = Tokens(input=ONE_MILLION, output=ONE_MILLION, web_search_requests=10)
    assert price_nanousd("claude-opus-4-8", tokens, NOVEMBER_MS) == 30_100_000_000
    assert price_nanousd("claude-fable-5-2", tokens, NOVEMBER_MS, fast=True) == 96_100_000_000
    assert price_nanousd("claude-opus-4-8", tokens, NOVEMBER_MS, us_only=True) == 33_100_000_000


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-opus-4-7"])
def test_fast_calls_of_withdrawn_models_cost_six_times_the_standard_but_for_searches(model: str) -> None:
    tokens = Tokens(input=1000, output=1000, cache_read=1000, web_search_requests=1)
    assert price_nanousd(model, tokens, NOVEMBER_MS, fast=True) == 6 * (5_000_000 + 25_000_000 + 500_000) + 10_000_000
