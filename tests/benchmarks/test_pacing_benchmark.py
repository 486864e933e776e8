"""The simulation of agents that follow the advice: what it advises is what an ask then meets."""

import pytest

from pacing_worlds import play


@pytest.mark.parametrize("name", ["a block of $5 on a Pro plan", "a caller's $5 a day"])
def test_who_follows_the_advice_is_never_refused_and_waits_only_where_it_would_be(name: str) -> None:
    result = play(name, days=4)
    assert result.asks == result.answered > 20
    assert (result.refused, result.unneeded_wait_hours) == (0, 0)
    assert result.waits > 0
    assert 0.7 * result.room_usd < result.spent_usd
    assert result == play(name, days=4)
