"""What captured runs of real CLIs come to: how they ended, what they cost, which windows they report."""

from typing import Any

import pytest
from cli_output import MIDDLE, MIDDLE_COST, NEW, NEW_COST, NOW, OLD, OLD_COST, SPLIT, UNSPLIT, cost, read, spent
from support import CAPTURES, capture

from pool_mcp.choosing.cooldowns import SPREAD_MS, cooldown_after
from pool_mcp.claude.verdict import Verdict, judge
from pool_mcp.model import NANO, Cost, Outcome, Subscription, Tokens, WindowReading


def window(name: str, percent: float | None, resets_at_s: int, status: str = "allowed") -> WindowReading:
    return WindowReading(name, percent, resets_at_s * 1000, status, NOW)


def refused(outcome: Outcome, said: str, limit: WindowReading | None = None) -> Verdict:
    """A result that carries the reason as its text."""
    return Verdict(outcome, said, None, said, limit)


def seven_day(resets_at_s: int) -> WindowReading:
    return window("seven_day", 62.0, resets_at_s)


PONG = Verdict(Outcome.OK, "pong from stub")
OVER_BUDGET = Verdict(Outcome.BUDGET, message="Reached maximum budget ($0.01)")
CANCELLED = Verdict(Outcome.CANCELLED)
FREE = Cost()
EXPIRED = "Failed to authenticate. API Error: 401 OAuth token has expired. Please obtain a new token"


def cut(model: str, output: int, nanousd: int) -> Cost:
    tokens = Tokens(1200, output, cache_creation_5m=1000, cache_creation_1h=4000, cache_read=20_000)
    return spent(model, tokens, nanousd, is_estimate=True)


def judged(version: str, case: str, verdict: Verdict | None, cost: Cost, *readings: WindowReading) -> Any:
    return pytest.param(version, case, verdict, cost, list(readings), id=f"{version} {case}")


OLD_LIMIT = window("five_hour", None, 1_795_340_038, "rejected")
MIDDLE_LIMIT = window("five_hour", 100.0, 1_795_348_800, "rejected")
MIDDLE_WINDOWS = (
    window("five_hour", 45.0, 1_795_348_800),
    window("seven_day", 62.0, 1_795_935_600, "allowed_warning"),
)
NEW_LIMIT = window("five_hour", 100.0, 1_795_340_016, "rejected")

JUDGED = [
    judged(OLD, "success", PONG, OLD_COST, window("five_hour", None, 1_795_340_034)),
    judged(OLD, "resume-1", PONG, OLD_COST, window("five_hour", None, 1_795_340_035)),
    judged(OLD, "resume-2", PONG, OLD_COST, window("five_hour", None, 1_795_340_036)),
    judged(OLD, "partial-messages", PONG, OLD_COST, window("five_hour", None, 1_795_340_052)),
    judged(OLD, "no-tools", PONG, OLD_COST, window("five_hour", None, 1_795_340_056)),
    judged(OLD, "api-key", PONG, spent("claude-opus-4-8", UNSPLIT, 69_750_000)),
    judged(OLD, "limit-warning", PONG, OLD_COST, window("five_hour", 92.0, 1_795_340_037, "allowed_warning")),
    judged(
        OLD,
        "limit-reached",
        refused(Outcome.LIMIT, "You've hit your session limit · resets 9:33am (UTC)", OLD_LIMIT),
        FREE,
        OLD_LIMIT,
    ),
    judged(OLD, "auth-expired", refused(Outcome.AUTH, f"{EXPIRED} or refresh your existing token."), FREE),
    judged(OLD, "not-logged-in", refused(Outcome.AUTH, "Not logged in · Please run /login"), FREE),
    judged(OLD, "credit-too-low", refused(Outcome.BILLING, "Credit balance is too low"), FREE),
    judged(OLD, "max-budget", OVER_BUDGET, OLD_COST),
    judged(OLD, "interrupted-sigint", None, FREE),
    judged(OLD, "partial-interrupted-sigint", CANCELLED, cut("claude-sonnet-5", 24, 25_140_000)),
    judged(OLD, "overloaded-killed", None, FREE),
    judged(
        OLD,
        "unknown-session",
        Verdict(
            Outcome.UNKNOWN_SESSION,
            message="No conversation found with session ID: 0c410ce6-e596-45f7-80db-18f7ed7e9716",
        ),
        FREE,
    ),
    judged(
        MIDDLE,
        "success",
        Verdict(Outcome.OK, "Answer 1 of the stand-in for personal: no model was asked."),
        MIDDLE_COST,
        *MIDDLE_WINDOWS,
    ),
    judged(
        MIDDLE,
        "limit-reached",
        refused(Outcome.LIMIT, "You've hit your session limit · resets 12pm (UTC)", MIDDLE_LIMIT),
        FREE,
        MIDDLE_LIMIT,
        seven_day(1_795_935_600),
    ),
    judged(MIDDLE, "auth-expired", refused(Outcome.AUTH, f"{EXPIRED}."), FREE),
    judged(MIDDLE, "max-budget", OVER_BUDGET, MIDDLE_COST),
    # Its result says that nothing was spent; the stream says what the cut call had used.
    judged(MIDDLE, "partial-interrupted-sigint", CANCELLED, cut("claude-sonnet-5", 2, 24_920_000)),
    judged(NEW, "success", PONG, NEW_COST, window("five_hour", 45.0, 1_795_340_014), seven_day(1_795_592_014)),
    judged(NEW, "resume-1", PONG, NEW_COST, window("five_hour", 45.0, 1_795_340_014), seven_day(1_795_592_014)),
    judged(NEW, "resume-2", PONG, NEW_COST, window("five_hour", 45.0, 1_795_340_015), seven_day(1_795_592_015)),
    judged(NEW, "partial-messages", PONG, NEW_COST, window("five_hour", 45.0, 1_795_340_030), seven_day(1_795_592_030)),
    judged(NEW, "no-tools", PONG, NEW_COST, window("five_hour", 45.0, 1_795_340_033), seven_day(1_795_592_033)),
    judged(NEW, "api-key", PONG, spent("claude-opus-5-5", SPLIT, 51_800_000)),
    judged(
        NEW,
        "limit-warning",
        PONG,
        NEW_COST,
        window("five_hour", 92.0, 1_795_340_016, "allowed_warning"),
        seven_day(1_795_592_016),
    ),
    judged(
        NEW,
        "limit-reached",
        refused(Outcome.LIMIT, "You've hit your 5-hour limit · resets 9:33am (UTC)", NEW_LIMIT),
        FREE,
        NEW_LIMIT,
        seven_day(1_795_592_016),
    ),
    judged(NEW, "auth-expired", refused(Outcome.AUTH, f"{EXPIRED} or refresh your existing token."), FREE),
    judged(NEW, "not-logged-in", refused(Outcome.AUTH, "Not logged in · Please run /login"), FREE),
    judged(NEW, "credit-too-low", refused(Outcome.BILLING, "Credit balance is too low"), FREE),
    judged(NEW, "max-budget", OVER_BUDGET, NEW_COST),
    judged(NEW, "interrupted-sigint", CANCELLED, cut("claude-sonnet-5-5", 34, 23_240_000)),
    judged(NEW, "partial-interrupted-sigint", CANCELLED, cut("claude-sonnet-5-5", 36, 23_260_000)),
    judged(NEW, "overloaded-killed", None, FREE),
    judged(
        NEW,
        "unknown-session",
        Verdict(
            Outcome.UNKNOWN_SESSION,
            message="No conversation found with session ID: 97b3e901-b585-4133-9c24-361e4f29ff57",
        ),
        FREE,
    ),
]


@pytest.mark.parametrize(("version", "case", "verdict", "amount", "readings"), JUDGED)
def test_a_captured_run_is_judged_priced_and_read(
    version: str, case: str, verdict: Verdict | None, amount: Cost, readings: list[WindowReading]
) -> None:
    lines = capture(version, case)
    stream, found = read(lines)
    assert (judge(stream), cost(lines), found) == (verdict, amount, readings)
    assert stream.malformed == 0
    assert stream.cli_version == (None if case == "unknown-session" else version)


@pytest.mark.parametrize(("version", "limit"), [(OLD, OLD_LIMIT), (MIDDLE, MIDDLE_LIMIT), (NEW, NEW_LIMIT)])
def test_a_captured_limit_says_when_to_try_again(version: str, limit: WindowReading) -> None:
    verdict = judge(read(capture(version, "limit-reached"))[0])
    assert verdict is not None
    subscription = Subscription("a", None, None, None, "", NANO, NANO, 0, 1, True)
    cooldown = cooldown_after(verdict.outcome, verdict.limit, verdict.message, subscription, NOW)
    assert cooldown is not None
    assert (cooldown.cause, cooldown.since_ms) == ("five_hour", NOW)
    assert limit.resets_at_ms is not None
    assert cooldown.until_ms is not None
    assert 0 <= cooldown.until_ms - limit.resets_at_ms < SPREAD_MS


def test_every_capture_is_judged() -> None:
    resumed = {(MIDDLE, "resume-1"), (MIDDLE, "resume-2")}  # these need to know what was before; see test_cost.py
    judged = {(parameters.values[0], parameters.values[1]) for parameters in JUDGED}
    assert judged | resumed == {(path.parent.name, path.stem) for path in CAPTURES.glob("*/*.jsonl")}
