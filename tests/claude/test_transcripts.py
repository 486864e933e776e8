"""What transcripts are found to say, line by line."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written import AT_MS, TOKENS, answer, dump, usage_of

from pool_mcp.claude import stream
from pool_mcp.claude.transcripts import ReadPosition, TranscriptCall, TranscriptFile, Walk, call_key, read_calls, walk
from pool_mcp.model import Tokens


def read(
    path: Path, content: bytes, position: ReadPosition | None = None, block_bytes: int = 1 << 20
) -> tuple[list[TranscriptCall], int]:
    path.write_bytes(content)
    chunks = list(read_calls(str(path), position or ReadPosition(), block_bytes))
    return [call for chunk in chunks for call in chunk.calls], sum(chunk.malformed for chunk in chunks)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.jsonl"


SEEN = TranscriptCall(
    call_key("msg_1", "req_1"), "msg_1", AT_MS, "claude-sonnet-4-6", TOKENS.counts, fast=False, us_only=False
)


def test_an_answer_is_read_with_its_ids_its_time_and_every_class_of_tokens(path: Path) -> None:
    assert read(path, dump(answer())) == ([SEEN], 0)


def older(event: dict[str, Any]) -> dict[str, Any]:
    """As CLIs before 2.1 wrote it: all but the message's neighbours first."""
    last = {name: event[name] for name in ("message", "requestId", "uuid", "timestamp")}
    first = {name: value for name, value in event.items() if name not in last}
    return {**first, "cwd": 'C:\\Users\\"me"', **last}


def with_api_order(event: dict[str, Any]) -> dict[str, Any]:
    """With the message's fields as the API orders them."""
    message = event["message"]
    names = ("model", "id", "type", "role", "content", "stop_reason", "stop_sequence", "stop_details", "usage")
    return {**event, "message": {**{name: message[name] for name in names}, "diagnostics": None}}


def request_first(event: dict[str, Any]) -> dict[str, Any]:
    first = {name: event[name] for name in ("parentUuid", "requestId")}
    return {**first, **{name: value for name, value in event.items() if name not in first}}


def reordered(event: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed([(k, reordered(v) if isinstance(v, dict) else v) for k, v in event.items()]))


@pytest.mark.parametrize(
    "content",
    [
        dump(reordered(answer())),
        json.dumps(answer(), separators=(", ", ": ")).replace('"type": "assistant"', '"type":"assistant"').encode()
        + b"\n",
        dump(answer(requestRef="x", origin={"kind": "model", "type": "assistant"})),
        dump(answer(content=[{"type": "tool_use", "input": {"stop_sequence": None, "usage": usage_of(Tokens(9, 9))}}])),
        dump(answer(content=[{"type": "text", "text": dump(answer("msg_9")).decode()}])),
        dump(answer(), {"type": "user", "toolUseResult": {"type": "assistant", "message": answer("msg_9")["message"]}}),
        dump({"type": "progress", "data": {"message": answer("msg_9")}}, answer()),
        dump(answer("msg_s", model="<synthetic>", usage=usage_of(Tokens())), answer()),
        dump(answer("msg_0", usage=usage_of(Tokens())), answer()),
        b"\n" + dump(answer()) + b"\n\n",
        dump(older(answer())),
        dump(with_api_order(answer())),
        dump(request_first(answer())),
        dump(answer()).replace(b"\n", b"\r\n"),
    ],
    ids=[
        "other order", "spaces", "new fields", "usage in an input", "quoted", "in a result", "in progress", "synthetic",
        "nothing spent", "blank lines", "older CLI", "the order of the API", "the request's id first",
        "carriage returns",
    ],
)  # fmt: skip
def test_an_answer_is_told_from_what_looks_like_one_whatever_the_order_of_its_fields(
    path: Path, content: bytes
) -> None:
    calls, malformed = read(path, content)
    assert ([call._replace(working_dir="") for call in calls], malformed) == ([SEEN], 0)


def test_an_answer_is_read_with_where_its_session_was(path: Path) -> None:
    calls, _ = read(path, dump(older(answer()), answer("msg_2", cwd="/x", gitBranch="fix")))
    assert [(call.working_dir, call.branch) for call in calls] == [('C:\\Users\\"me"', ""), ("/x", "fix")]


def test_of_a_call_s_lines_the_last_complete_one_counts_and_each_call_once(path: Path) -> None:
    growing = [answer(tokens=Tokens(1634, output, 1009, 3953, 297, 2)) for output in (1, 2, 69)]
    assert read(path, dump(growing[0], answer("msg_2", "req_2"), *growing[1:], answer("msg_2", "req_2"))) == (
        [SEEN, SEEN._replace(key=call_key("msg_2", "req_2"), message_id="msg_2")],
        0,
    )


def test_one_message_id_under_two_request_ids_is_two_calls(path: Path) -> None:
    calls, _ = read(path, dump(answer(), answer(request_id="req_2"), answer(request_id=None)))
    assert sorted(call.key for call in calls) == sorted(
        call_key("msg_1", request) for request in ("req_1", "req_2", "")
    )


def test_without_a_message_id_the_request_id_tells_a_call_and_without_both_the_line(path: Path) -> None:
    calls, _ = read(path, dump(answer(""), answer(""), answer("", None), answer("", None, uuid="another")))
    assert len(calls) == len({call.key for call in calls}) == 3


def test_keys_are_in_the_order_of_anthropic_s_request_ids() -> None:
    in_time = ["req_011CU3bRc7CnEKsLbNKBZNEG", "req_011CUwGzDJueepzBaSgFrpQA", "req_011CUwHuh7iPfwQNAXEeEYrP",
               "req_011CZmCGDtZi9rgNnhYGh1UR", "req_011CeDqKmUijDCCz6qAREdCL"]  # fmt: skip
    keys = [call_key(f"msg_{n}", request_id) for n, request_id in enumerate(in_time)]
    assert keys == sorted(keys)
    everything = [*keys, call_key("", ""), call_key("msg", "req_01"), call_key("msg", "req_01" + "é" * 20)]
    assert all(0 <= key < 2**63 for key in everything)


def test_fast_mode_inference_kept_in_the_us_and_the_long_context_mark_are_understood(path: Path) -> None:
    usage = usage_of(TOKENS, speed="fast", inference_geo="us")
    ((call,), _) = read(path, dump(answer(model="claude-opus-4-8[1m]", usage=usage)))
    assert call == SEEN._replace(model="claude-opus-4-8", fast=True, us_only=True)


def test_older_usage_without_the_lifetimes_of_cache_writes_counts_as_five_minutes(path: Path) -> None:
    usage = {"input_tokens": 5, "output_tokens": 7, "cache_creation_input_tokens": 11, "cache_read_input_tokens": 13}
    ((call,), _) = read(path, dump(answer(usage=usage)))
    assert Tokens(*call.tokens) == Tokens(5, 7, cache_creation_5m=11, cache_read=13)


@pytest.mark.parametrize(
    ("content", "malformed"),
    [
        (b'{"type":"assistant","message":{"usage"\n' + dump(answer()), 1),
        (dump(answer("msg_9"))[:300] + b"\n" + dump(answer()), 1),
        (dump(answer("msg_9"))[:300] + dump(answer()), 1),
        (b"\xff\x00garbage\n[1]]\n" + dump(answer()), 2),
        (b'{"type":"assistant"}\n' + dump(answer()), 0),
        (b'{"type":"assistant","message":[]}\n' + dump(answer()), 0),
        (
            dump(
                answer("l", timestamp="yesterday"),
                answer("m", timestamp=None),
                answer("n", timestamp="9" * 24),
                answer(),
            ),
            3,
        ),
        (dump(answer("m", usage={"input_tokens": -5, "output_tokens": "7"}), answer()), 0),
        (b'{"type":"assistant"' + b"[" * 100_000 + b"}\n" + dump(answer()), 1),
    ],
)
def test_lines_that_cannot_be_read_are_counted_and_what_follows_is_not_lost(
    path: Path, content: bytes, malformed: int
) -> None:
    assert read(path, content) == ([SEEN], malformed)


def test_a_last_line_that_is_not_ended_is_left_for_the_next_time(path: Path) -> None:
    content = dump(answer(), answer("msg_2", "req_2"))
    for cut in range(len(dump(answer())), len(content)):
        path.write_bytes(content[:cut])
        (chunk,) = read_calls(str(path), ReadPosition())
        assert chunk.calls == [SEEN]
    path.write_bytes(content)
    (rest,) = read_calls(str(path), chunk.position)
    assert [call.message_id for call in rest.calls] == ["msg_2"]


@pytest.mark.parametrize("block_bytes", [1, 100, 1000, 5000])
def test_what_is_found_does_not_depend_on_how_much_is_read_at_a_time(path: Path, block_bytes: int) -> None:
    content = dump(*(answer(f"msg_{n}", content=[{"type": "text", "text": "é" * n * 20}]) for n in range(20)))
    calls, malformed = read(path, content, block_bytes=block_bytes)
    assert ([call.message_id for call in calls], malformed) == ([f"msg_{n}" for n in range(20)], 0)


def test_reading_goes_on_where_it_ended_and_begins_anew_where_the_file_was_rewritten(path: Path) -> None:
    def names(position: ReadPosition) -> Sequence[str]:
        return [call.message_id for chunk in read_calls(str(path), position) for call in chunk.calls]

    path.write_bytes(dump(answer("msg_1"), answer("msg_2")))
    *_, last = read_calls(str(path), ReadPosition())
    assert names(last.position) == []
    with path.open("ab") as file:
        file.write(dump(answer("msg_3")))
    assert names(last.position) == ["msg_3"]
    path.write_bytes(
        dump(answer("msg_8"), answer("msg_9"), answer("msg_10"))
    )  # longer, and other bytes at the position
    assert names(last.position) == ["msg_8", "msg_9", "msg_10"]
    path.write_bytes(dump(answer("msg_8")))  # shorter
    assert names(last.position) == ["msg_8"]


def test_an_overlong_line_is_passed_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_LINE_BYTES", 10_000)
    long = dump(answer("msg_9", content=[{"type": "text", "text": "x" * 50_000}]))
    path.write_bytes(dump(answer()) + long + dump(answer("msg_2", "req_2")))
    chunks = list(read_calls(str(path), ReadPosition(), 4000))
    assert [call.message_id for chunk in chunks for call in chunk.calls] == ["msg_1", "msg_2"]
    assert chunks[-1].position.offset == path.stat().st_size


def test_every_transcript_of_a_config_dir_is_found_with_its_session(tmp_path: Path) -> None:
    for name in ("a/s1.jsonl", "a/s1/subagents/agent-1.jsonl", "a/s1/subagents/more/agent-2.jsonl", "b/s2.jsonl"):
        file = tmp_path / "projects" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "projects" / "a" / "memory").mkdir()
    (tmp_path / "projects" / "a" / "s1" / "subagents" / "agent-1.meta.json").write_bytes(b"{}")
    (tmp_path / "projects" / "stray.jsonl").write_bytes(b"")
    walked = walk(tmp_path)
    found = sorted((one.path.removeprefix(str(tmp_path)), one.session_id, one.is_subagent) for one in walked.found)
    assert (walked.count, walked.unreadable) == (4, [])
    assert found == [
        ("/projects/a/s1.jsonl", "s1", False),
        ("/projects/a/s1/subagents/agent-1.jsonl", "s1", True),
        ("/projects/a/s1/subagents/more/agent-2.jsonl", "s1", True),
        ("/projects/b/s2.jsonl", "s2", False),
    ]
    assert walk(tmp_path / "nowhere") == Walk()


def test_a_transcript_that_was_seen_is_passed_over_until_it_is_written_or_replaced(tmp_path: Path) -> None:
    def new(*seen: TranscriptFile) -> list[str]:
        walked = walk(tmp_path, {one[3:] for one in seen})
        assert walked.count == 2
        return [one.session_id for one in walked.found]

    one, two = (tmp_path / "projects" / "a" / f"{name}.jsonl" for name in ("one", "two"))
    one.parent.mkdir(parents=True)
    one.write_bytes(dump(answer()))
    two.write_bytes(dump(answer()))
    before = walk(tmp_path).found
    assert new(*before) == []
    said = one.stat()
    with one.open("ab") as file:  # grown within one tick of the clock
        file.write(b"\n")
    os.utime(one, ns=(said.st_atime_ns, said.st_mtime_ns))
    assert new(*before) == ["one"]
    one.write_bytes(dump(answer())[:-1] + b" ")  # as long as before
    os.utime(one, ns=(said.st_atime_ns, said.st_mtime_ns + 1))
    assert new(*before) == ["one"]
    copy = tmp_path / "copy"  # as long and as old, in another file
    copy.write_bytes(dump(answer()))
    os.utime(copy, ns=(said.st_atime_ns, said.st_mtime_ns))
    copy.replace(one)
    assert new(*before) == ["one"]


def test_a_later_line_with_fewer_tokens_does_not_win(path: Path) -> None:
    ((call,), _) = read(path, dump(answer(), answer(tokens=replace(TOKENS, output=1))))
    assert call.tokens == TOKENS.counts


def test_what_cannot_be_read_is_told_and_the_rest_is_found(tmp_path: Path) -> None:
    projects = tmp_path / "projects"
    (projects / "a").mkdir(parents=True)
    (projects / "a" / "s.jsonl").write_bytes(dump(answer()))
    (projects / "loop").symlink_to(projects / "loop")
    (projects / "a" / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    os.mkfifo(projects / "a" / "pipe.jsonl")
    walked = walk(tmp_path)
    assert [one.session_id for one in walked.found] == ["s"]
    assert sorted(Path(path).name for path in walked.unreadable) == ["gone.jsonl", "loop", "pipe.jsonl"]


def test_a_subagent_beside_its_session_is_that_session_s(tmp_path: Path) -> None:
    path = tmp_path / "projects" / "a" / "agent-1.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(dump(answer(sessionId="parent", isSidechain=True)))
    (found,) = walk(tmp_path).found
    assert (found.session_id, found.is_subagent) == ("parent", True)
