"""What the CLI's output means: captured output of three generations, and anything else that bytes can be."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CAPTURES, capture

from pool_mcp.accounting.pricing import price_nanousd
from pool_mcp.asks.outcomes import SPREAD_MS, cooldown_of
from pool_mcp.choosing.windows import is_plausible, rfc3339
from pool_mcp.claude.wire import (
    MAX_LINE_BYTES,
    Command,
    Lines,
    RunStream,
    SessionTotal,
    Verdict,
    argv,
    cost_of,
    judge,
    session_total,
)
from pool_mcp.model import NANO, Cost, ModelCost, Outcome, Subscription, Tokens, WindowReading

NOW = 1_795_340_000_000
OLD, MIDDLE, NEW = "2.1.197", "2.1.280", "2.1.330"
"""This run's cost in each result; the session's; the session's, with this run's beside it."""


def price(model: str, tokens: Tokens) -> int | None:
    return price_nanousd(model, tokens, NOW)


def read(lines: list[bytes]) -> tuple[RunStream, list[WindowReading]]:
    stream = RunStream()
    return stream, [reading for line in lines for reading in stream.feed(line, NOW)]


def cost(lines: list[bytes], before: SessionTotal | None = None) -> Cost:
    return cost_of(read(lines)[0], before=before, prompt_bytes=4, price=price)


def line(**event: object) -> bytes:
    return json.dumps(event).encode()


# Captured output


def spent(model: str, tokens: Tokens, nanousd: int, *, is_estimate: bool = False) -> Cost:
    return Cost(nanousd, {model: ModelCost(tokens, nanousd)}, is_estimate)


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
UNSPLIT = Tokens(1200, 300, cache_creation_5m=5000, cache_read=20_000)
"""Before 2.1.310 a result does not tell the two lifetimes of a cache write apart."""
SPLIT = Tokens(1200, 300, cache_creation_5m=1000, cache_creation_1h=4000, cache_read=20_000)
EXPIRED = "Failed to authenticate. API Error: 401 OAuth token has expired. Please obtain a new token"
OLD_COST = spent("claude-sonnet-5", UNSPLIT, 41_850_000)
MIDDLE_COST = spent("claude-sonnet-5", UNSPLIT, 27_900_000)
NEW_COST = spent("claude-sonnet-5-5", SPLIT, 25_900_000)


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
    cooldown = cooldown_of(verdict.outcome, verdict, verdict.message, subscription, NOW)
    assert cooldown is not None
    assert (cooldown.cause, cooldown.since_ms) == ("five_hour", NOW)
    assert limit.resets_at_ms is not None
    assert cooldown.until_ms is not None
    assert 0 <= cooldown.until_ms - limit.resets_at_ms < SPREAD_MS


def test_every_capture_is_judged() -> None:
    resumed = {(MIDDLE, "resume-1"), (MIDDLE, "resume-2")}  # these need to know what was before; see below
    judged = {(parameters.values[0], parameters.values[1]) for parameters in JUDGED}
    assert judged | resumed == {(path.parent.name, path.stem) for path in CAPTURES.glob("*/*.jsonl")}


# What a run cost, in every generation

ASKS = ("success", "resume-1", "resume-2")


def booked(lines: list[bytes]) -> SessionTotal:
    """What the CLI had written into the transcript at the end of a run: the totals of its result."""
    result = json.loads(lines[-1])
    return session_total({"totalCostUSD": result["total_cost_usd"], "modelUsage": result["modelUsage"]})


@pytest.mark.parametrize(("version", "each"), [(OLD, OLD_COST), (MIDDLE, MIDDLE_COST), (NEW, NEW_COST)])
def test_three_asks_on_one_session_cost_the_same_in_every_generation(version: str, each: Cost) -> None:
    before, costs = None, []
    for case in ASKS:
        lines = capture(version, case)
        costs.append(cost(lines, before))
        before = booked(lines)
    assert costs == [each, each, each]


def test_without_its_history_a_resumed_session_is_never_counted_for_less_than_the_run() -> None:
    assert cost(capture(MIDDLE, "resume-1")) == spent("claude-sonnet-5", UNSPLIT + UNSPLIT, 55_800_000)


def test_a_total_below_what_was_booked_before_has_begun_anew() -> None:
    before = SessionTotal(999_000_000, {"claude-sonnet-5": ModelCost(Tokens(input=10**9), 999_000_000)})
    assert cost(capture(MIDDLE, "success"), before) == MIDDLE_COST


def result(**said: object) -> bytes:
    return line(type="result", is_error=False, result="", **said)


HAIKU = {"inputTokens": 10, "outputTokens": 20, "costUSD": 0.5}


def test_results_after_results_are_added_up() -> None:
    lines = [result(model_usage_since_last_result={"claude-haiku-4-5": HAIKU}) for _ in range(2)]
    assert cost(lines) == spent("claude-haiku-4-5", Tokens(20, 40), 1_000_000_000)


def test_what_the_models_do_not_explain_of_a_total_is_booked_under_a_name_of_its_own() -> None:
    assert cost([result(total_cost_usd=0.75, modelUsage={"claude-haiku-4-5": HAIKU})]) == Cost(
        750_000_000,
        {
            "claude-haiku-4-5": ModelCost(Tokens(10, 20), 500_000_000),
            "unknown": ModelCost(Tokens(), 250_000_000),
        },
    )


def test_both_names_of_a_model_are_one_model() -> None:
    usage = {"claude-haiku-4-5": HAIKU, "claude-haiku-4-5[1m]": HAIKU}
    assert cost([result(modelUsage=usage)]) == spent("claude-haiku-4-5", Tokens(20, 40), 1_000_000_000)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"modelUsage": {}},
        {"modelUsage": "renamed", "total_cost_usd": None},
        {"model_usage_since_last_result": {"claude-sonnet-5": {"inputTokens": 1200, "renamedUSD": 1}}},
        {"model_usage_since_last_result": {"claude-sonnet-5": {"costUSD": 1e30}}},
    ],
)
def test_an_answer_without_an_amount_costs_what_its_calls_show(usage: dict[str, object]) -> None:
    *before, _ = capture(MIDDLE, "success")
    assert cost([*before, result(**usage)]) == spent("claude-sonnet-5", SPLIT, 27_900_000)


def test_a_run_of_an_unknown_version_is_taken_for_a_new_one() -> None:
    lines = [raw.replace(b"2.1.280", b"next") for raw in capture(MIDDLE, "resume-1")]
    assert cost(lines, booked(capture(MIDDLE, "success"))) == MIDDLE_COST


# How a run ended


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"api_error_status": 429}, Outcome.LIMIT),
        ({"api_error_status": 401}, Outcome.AUTH),
        ({"api_error_status": 403}, Outcome.AUTH),
        ({"api_error_status": 402}, Outcome.BILLING),
        ({"api_error_status": 413}, Outcome.INVALID_REQUEST),
        ({"api_error_status": 529}, Outcome.OVERLOADED),
        ({"api_error_status": 500}, Outcome.OVERLOADED),
        ({"api_error": "usage_limit_reached"}, Outcome.LIMIT),
        ({"terminal_reason": "aborted_tools"}, Outcome.CANCELLED),
        ({"api_error_status": "429"}, Outcome.CLI_FAILED),
        ({}, Outcome.CLI_FAILED),
    ],
)
def test_an_error_is_judged_by_its_codes(said: dict[str, object], expected: Outcome) -> None:
    error = line(type="result", subtype="success", is_error=True, result="why", **said)
    assert judge(read([error])[0]) == Verdict(expected, "why", None, "why")


@pytest.mark.parametrize(("text", "expected"), [("The whole answer.", Outcome.OK), ("", Outcome.CANCELLED)])
def test_a_run_interrupted_in_its_last_moment_is_answered_only_if_there_is_an_answer(
    text: str, expected: Outcome
) -> None:
    said = {"subtype": "success", "is_error": False, "terminal_reason": "aborted_streaming", "result": text}
    verdict = judge(read([line(type="result", **said)])[0])
    assert verdict is not None
    assert (verdict.outcome, verdict.text) == (expected, text)


def test_a_call_cut_in_the_moment_the_budget_is_reached_is_a_floor() -> None:
    usage = {"input_tokens": 1000, "output_tokens": 1}
    lines = [
        line(type="system", subtype="init", claude_code_version=NEW, model="claude-sonnet-4-6"),
        line(type="system", subtype="status", status="requesting"),
        line(
            type="stream_event",
            event={"type": "message_start", "message": {"id": "m", "model": "claude-sonnet-4-6", "usage": usage}},
        ),
        line(type="stream_event", event={"type": "message_delta", "delta": {"stop_reason": None}, "usage": usage}),
        line(type="result", subtype="error_max_budget_usd", is_error=True, terminal_reason="budget_exhausted"),
    ]
    assert cost(lines).is_estimate


def test_what_a_cli_says_of_an_error_reaches_a_person_as_one_short_line() -> None:
    said = "first \x1b[31mline\n\n  second\tline\0" + "x" * 10_000
    verdict = judge(read([line(type="result", is_error=True, result=said)])[0])
    assert verdict is not None
    assert verdict.message == f"first [31mline second line {'x' * 473}"


def test_a_value_that_begins_with_a_dash_is_never_an_option() -> None:
    arguments = argv(Command("s", resume=True, model="-m", effort="--e", system_prompt="--dangerous", json_schema={}))
    given = {"--resume=s", "--model=-m", "--effort=--e", "--system-prompt=--dangerous", "--json-schema={}"}
    assert given <= set(arguments)


# Lines


@given(st.lists(st.binary(max_size=20) | st.just(b"\n")))
def test_lines_are_the_same_however_the_bytes_are_cut(chunks: list[bytes]) -> None:
    lines = Lines()
    found = [whole for chunk in chunks for whole in lines.feed(chunk)]
    assert [*found, lines.rest()] == b"".join(chunks).split(b"\n")
    assert lines.dropped == 0


def test_a_line_that_is_too_long_is_dropped_and_counted_and_the_next_one_kept() -> None:
    lines, piece = Lines(), b"x" * (MAX_LINE_BYTES // 8)
    assert [lines.feed(piece) for _ in range(8)] == [[]] * 8
    assert [len(whole) for whole in lines.feed(b"\n")] == [MAX_LINE_BYTES]
    assert [lines.feed(piece) for _ in range(8)] == [[]] * 8
    assert lines.feed(b"x\nnext\n") == [b"next"]
    assert lines.dropped == 1


# Anything else


def said_in(value: Any) -> Iterator[str]:
    """Every name and short word in a captured event."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from said_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from said_in(inner)
    elif isinstance(value, str) and len(value) < 30:
        yield value


RUNS = [[json.loads(raw) for raw in path.read_bytes().splitlines()] for path in sorted(CAPTURES.glob("*/*.jsonl"))]
words = st.sampled_from(sorted({word for events in RUNS for event in events for word in said_in(event)}))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([-1, 100, 2**63, 10**30, 10**400, 1e300, 1_795_340_000, 1_795_340_000_000])
    | st.text(max_size=5)
    | st.sampled_from(["\ud83d", "a\0b\nc", "claude-opus-4-1[1m]", "rejected"])
    | words
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=4)
)
types = st.sampled_from(["system", "assistant", "stream_event", "rate_limit_event", "result", "user", "new"])
events = st.builds(lambda said, name: {**said, "type": name}, st.dictionaries(words, anything), types | scalars)


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*here, key)
        yield from paths(one, (*here, key))


@st.composite
def mutated_captures(draw: st.DrawFn) -> list[Any]:
    """What a real CLI printed, with some values replaced by others of any type."""
    run = json.loads(json.dumps(draw(st.sampled_from(RUNS))))
    for _ in range(draw(st.integers(1, 4))):
        event = draw(st.sampled_from(run))
        found = list(paths(event))
        if found:
            *way, last = draw(st.sampled_from(found))
            for key in way:
                event = event[key]
            event[last] = draw(anything)
    return list(run)


def assert_can_be_booked(lines: list[bytes]) -> None:
    """Whatever the lines say, it has a judgement and an amount that the ledger and an answer can hold."""
    stream, readings = read(lines)
    verdict = judge(stream)
    amounts = [cost_of(stream, before=before, prompt_bytes=4, price=price) for before in (None, SessionTotal(5, {}))]
    numbers = [amount.nanousd for amount in amounts]
    for model, part in ((model, part) for amount in amounts for model, part in amount.models.items()):
        tokens = part.tokens
        numbers += [part.cost_nanousd or 0, tokens.input, tokens.output, tokens.cache_creation, tokens.cache_read]
        model.encode()
    for reading in readings:
        reading.window.encode()
        reading.status.encode()
        rfc3339(reading.resets_at_ms or 0)
        numbers.append(reading.resets_at_ms or 0)
        assert reading.percent is None or math.isfinite(reading.percent)
    if verdict is not None:
        json.dumps([verdict.text, verdict.structured, verdict.message], ensure_ascii=False).encode()
        assert "\n" not in (verdict.message or "")
    for text in (stream.cli_version, stream.session_id, stream.model):
        (text or "").encode()
    assert [number for number in numbers if not 0 <= number < 2**63] == []


@given(st.lists(st.binary(max_size=50)))
def test_any_bytes_are_read_without_an_error(lines: list[bytes]) -> None:
    assert_can_be_booked(lines)


@given(st.lists(events | anything, max_size=6))
def test_any_events_can_be_booked(run: list[Any]) -> None:
    assert_can_be_booked([json.dumps(event).encode() for event in run])


@settings(max_examples=300)
@given(mutated_captures())
def test_a_real_run_with_wrong_values_in_it_can_be_booked(run: list[Any]) -> None:
    assert_can_be_booked([json.dumps(event).encode() for event in run])


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"type":"result","structured_output":['])
def test_events_nested_beyond_measure_are_counted_and_passed_over(opening: bytes) -> None:
    stream = RunStream()
    assert stream.feed(opening * 100_000, NOW) == []
    assert stream == RunStream(malformed=1)


def test_text_that_is_not_unicode_is_read_as_far_as_it_goes() -> None:
    raw = b'{"type": "result", "is_error": false, "result": "a \xff b \xed\xa0\xbd c \\ud83d d \\ud83d\\ude00"}'
    verdict = judge(read([raw])[0])
    assert verdict == Verdict(Outcome.OK, "a \ufffd b \ufffd\ufffd\ufffd c ? d \U0001f600")


@given(st.dictionaries(words, anything))
def test_unknown_events_change_nothing(event: dict[str, Any]) -> None:
    run = capture(NEW, "partial-messages")
    with_unknown = [raw for known in run for raw in (json.dumps({**event, "type": "brand_new"}).encode(), known)]
    assert read(with_unknown) == read(run)


def limit_event(**said: object) -> bytes:
    return line(type="rate_limit_event", rate_limit_info=said)


@given(st.floats(0, 1))
def test_the_clis_shares_of_one_are_percentages_everywhere_else(share: float) -> None:
    windows = {"five_hour": {"utilization": share}, "seven_day": {"utilization": share}}
    (_, five_hour) = read([limit_event(rateLimitType="five_hour", utilization=share)])
    (_, both) = read([limit_event(unifiedWindows=windows)])
    assert [reading.percent for reading in (*five_hour, *both)] == [share * 100] * 3
    assert all(is_plausible(reading) for reading in (*five_hour, *both))


@given(st.floats(1.11, 1e9))
def test_a_share_that_is_already_a_percentage_is_not_believed(share: float) -> None:
    (_, readings) = read([limit_event(rateLimitType="five_hour", utilization=share)])
    assert [is_plausible(reading) for reading in readings] == [False]


@pytest.mark.parametrize("wrong", ["0.5", None, True, [], {}, float("nan"), float("inf"), 10**400])
def test_a_share_that_is_no_number_is_unknown_and_not_nothing(wrong: object) -> None:
    (_, readings) = read([limit_event(unifiedWindows={"seven_day": {"utilization": wrong}})])
    assert readings == [WindowReading("seven_day", None, None, "allowed", NOW)]


@pytest.mark.parametrize("wrong", ["soon", None, True, 0, -5, 1e300, float("nan"), NOW, 2**200])
def test_a_reset_at_no_possible_time_is_unknown(wrong: object) -> None:
    (_, readings) = read([limit_event(unifiedWindows={"seven_day": {"utilization": 0.5, "resetsAt": wrong}})])
    assert readings == [WindowReading("seven_day", 50.0, None, "allowed", NOW)]
