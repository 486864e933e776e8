"""A CLI that prices a model otherwise than the list of the day."""

from dataclasses import replace
from datetime import datetime

from pool_mcp.accounting.cli_prices import Difference, PricedByCli, differences
from pool_mcp.model import Tokens

AT_MS = int(datetime.fromisoformat("2026-11-01T00:00:00Z").timestamp() * 1000)
RUN = PricedByCli("2.1.197", "claude-sonnet-5", "alice", AT_MS, Tokens(1000, 1000), 3000 * 1000 + 15_000 * 1000)
"""By the list at which it came out; it is 2 and 10 dollars since."""


def test_an_old_list_is_a_difference_and_the_days_own_is_none() -> None:
    right = replace(RUN, cli_version="2.1.330", nanousd=2000 * 1000 + 10_000 * 1000)
    (found,) = differences([RUN, right])
    assert found == Difference("2.1.197", "claude-sonnet-5", "alice", 1.5)
    assert found.text == "Claude Code 2.1.197 prices claude-sonnet-5 at 1.50 times the list price"


def test_what_an_account_does_not_tell_is_no_difference() -> None:
    writes = replace(RUN, tokens=Tokens(1000, 0, 1000), nanousd=2000 * 1000 + 4000 * 1000)
    assert differences([writes]) == [], "the cache writes may have been for an hour"
    assert differences([replace(writes, nanousd=round(writes.nanousd * 1.1))]) == [], "in the US only"
    assert differences([replace(RUN, model="mystery")]) == []
    assert differences([replace(RUN, tokens=Tokens(300_000, 1000))]) == [], "a sum of calls has no length"
    assert len(differences([replace(writes, nanousd=2000 * 1000)])) == 1
