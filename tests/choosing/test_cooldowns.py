"""The rules of a cooldown: whom it keeps out, for which models, for how long, and what ends it."""

from dataclasses import replace

import pytest
from balances import NOW, ONE, balance, cooldown

from pool_mcp.choosing import cooldowns
from pool_mcp.choosing.budget import Status, availability
from pool_mcp.choosing.cooldowns import counts_for, is_lifted_by_answer, of_subscription, with_probe, worst
from pool_mcp.choosing.selection import Request, choose
from pool_mcp.model import HOUR_MS, Cooldown, Outcome

OPUS = cooldown("seven_day_opus", NOW + HOUR_MS)
BURST = cooldown("burst")
AUTH = cooldown("auth", None)


def chosen(model: str | None, *found: Cooldown) -> str | None:
    return choose(Request({"one": 1}, model), [balance(cooldowns=found)]).subscription


def test_a_refusal_by_a_familys_window_keeps_out_that_family_only() -> None:
    assert [chosen(model, OPUS) for model in ("opus", "claude-opus-5-5", "sonnet", "haiku", None)] == [
        None,
        None,
        "one",
        "one",
        "one",
    ]
    assert availability(balance(cooldowns=[OPUS])).status is Status.AVAILABLE
    assert chosen("sonnet", OPUS, BURST) is None


def test_a_refusal_of_the_default_model_keeps_out_the_default_model() -> None:
    by_default = replace(OPUS, refused_default_model=True)
    assert [chosen(model, by_default) for model in (None, "opus", "sonnet")] == [None, None, "one"]


def test_only_an_answer_of_its_family_ends_a_familys_cooldown() -> None:
    assert is_lifted_by_answer(OPUS, ["opus"])
    assert is_lifted_by_answer(OPUS, [None, "claude-haiku-4-5", "claude-opus-5-5"])
    assert not is_lifted_by_answer(OPUS, ["sonnet", None])
    assert is_lifted_by_answer(BURST, ["sonnet"])


def test_a_run_of_another_family_does_not_test_a_familys_cooldown() -> None:
    assert with_probe(OPUS, [("opus", OPUS.since_ms)]).is_probed
    assert not with_probe(OPUS, [("sonnet", OPUS.since_ms), ("opus", OPUS.since_ms - 1)]).is_probed


def test_members_of_an_organization_share_limits_and_not_logins() -> None:
    over = cooldown("five_hour", NOW)
    assert of_subscription([], [AUTH, BURST, over], NOW) == (BURST,)
    assert of_subscription([over], [BURST], NOW) == (over, BURST)


def test_of_several_the_one_that_ends_last_decides_and_a_missing_login_before_all() -> None:
    five_hour = cooldown("five_hour", NOW + HOUR_MS)
    assert worst([five_hour, BURST], None, NOW) == five_hour
    assert worst([five_hour, AUTH, BURST], None, NOW) == AUTH
    assert worst([OPUS], "sonnet", NOW) is None
    assert counts_for(OPUS, "opus")


@pytest.mark.parametrize(
    ("outcome", "owner"), [(Outcome.OVERLOADED, cooldowns.WHOLE_POOL), (Outcome.LIMIT, ONE.id), (Outcome.AUTH, ONE.id)]
)
def test_an_overload_is_the_whole_pools_and_the_rest_the_subscriptions(outcome: Outcome, owner: str) -> None:
    assert cooldowns.owner_after(outcome, ONE.id) == owner
