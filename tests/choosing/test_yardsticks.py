"""What budgets are a share of, where a plan is known."""

from dataclasses import replace

import pytest
from balances import balance, official

from pool_mcp.choosing.rates import Rate
from pool_mcp.choosing.yardsticks import explain
from pool_mcp.model import NANO


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (
            "Max 20x",
            (
                "At list price, $400.00 is 36% of the $1120 of a week (typical of the plan, not published), "
                "and $20.00 is 14% of the $140 of five hours (typical of the plan, not published)."
            ),
        ),
        ("ours", None),
    ],
)
def test_budgets_are_shares_of_a_known_plan(plan: str, sentence: str | None) -> None:
    one = balance()
    assert explain(replace(one, subscription=replace(one.subscription, plan=plan))) == sentence


def test_a_window_that_was_learned_counts_and_one_that_a_plan_lacks_does_not() -> None:
    one = balance(official(10, "seven_day"), rates={"seven_day": Rate(8 * NANO, 0.9, "learned")})
    assert explain(one) == "At list price, $400.00 is 50% of the $800 of a week (learned from its own use)."
    assert explain(replace(one, subscription=replace(one.subscription, api_key_env="KEY"))) is None
