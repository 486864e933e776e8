"""The CLI's event stream, whatever it holds: anything that bytes can be."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from cli_output import NEW, NOW, line, price, read
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CAPTURES, capture

from pool_mcp.choosing.windows import is_plausible, rfc3339
from pool_mcp.claude.cost import run_cost
from pool_mcp.claude.stream import MAX_LINE_BYTES, LineBuffer, RunStream
from pool_mcp.claude.verdict import Verdict, judge
from pool_mcp.model import Cost, Outcome, WindowReading

# Lines


@given(st.lists(st.binary(max_size=20) | st.just(b"\n")))
def test_lines_are_the_same_however_the_bytes_are_cut(chunks: list[bytes]) -> None:
    lines = LineBuffer()
    found = [whole for chunk in chunks for whole in lines.feed(chunk)]
    assert [*found, lines.rest()] == b"".join(chunks).split(b"\n")
    assert lines.dropped == 0


def test_a_line_that_is_too_long_is_dropped_and_counted_and_the_next_one_kept() -> None:
    lines, piece = LineBuffer(), b"x" * (MAX_LINE_BYTES // 8)
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
    amounts = [run_cost(stream, before=before, price=price) for before in (None, Cost(5, {}))]
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


def test_a_window_that_refused_and_then_allowed_is_no_limit() -> None:
    def reported(status: str) -> bytes:
        return limit_event(rateLimitType="five_hour", status=status, utilization=1.0, resetsAt=NOW // 1000 + 60)

    error = line(type="result", is_error=True, result="why", api_error_status=500)
    for lines, outcome in (
        ([reported("rejected")], Outcome.LIMIT),
        ([reported("rejected"), reported("allowed")], None),
    ):
        verdict = judge(read([*lines, error])[0])
        assert verdict is not None
        assert (verdict.outcome is Outcome.LIMIT) == (outcome is Outcome.LIMIT)


def test_a_limit_that_a_later_call_has_passed_is_not_why_a_run_failed() -> None:
    refused = limit_event(rateLimitType="five_hour", status="rejected", utilization=1.0, resetsAt=NOW // 1000 + 60)
    answered = line(type="assistant", message={"id": "m", "model": "claude-sonnet-4-6", "usage": {"output_tokens": 1}})
    error = line(type="result", is_error=True, result="why", api_error_status=500)
    verdict = judge(read([refused, answered, error])[0])
    assert verdict is not None
    assert verdict.outcome is Outcome.OVERLOADED


@pytest.mark.parametrize("field", ["overageInUse", "isUsingOverage"])
def test_a_window_that_refuses_while_use_beyond_it_is_paid_is_no_limit(field: str) -> None:
    stream, _ = read([limit_event(rateLimitType="five_hour", status="rejected", **{field: True})])
    assert stream.overage is not None
    assert (stream.overage.in_use, stream.limit) == (True, None)
