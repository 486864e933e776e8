"""Ways in which a host may begin a conversation: as it should, and in every way in which it should not."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

Lines = list[bytes]

CLIENT = {"name": "test", "version": "1"}
VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LISTS = ("tools/list", "resources/list", "resources/templates/list", "prompts/list")
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
INITIALIZED = {"method": "notifications/initialized"}
_ABSENT = object()


def line(message: dict[str, Any]) -> bytes:
    """A message as a host sends it."""
    return json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"


def initialize(request_id: Any = 1, **params: Any) -> dict[str, Any]:
    """A request to initialize; a parameter can be replaced, or left out."""
    whole = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT} | params
    kept = {name: value for name, value in whole.items() if value is not _ABSENT}
    return {"id": request_id, "method": "initialize", "params": kept}


def beginnings() -> dict[str, Lines]:
    """Every beginning, by what is special about it."""
    found: dict[str, Lines] = {}
    for name, lines in itertools.chain(_handshakes(), _lists(), _lines(), _later_version()):
        assert name not in found, name
        found[name] = lines
    return found


def _request(method: str, request_id: Any = 2, params: Any = _ABSENT) -> dict[str, Any]:
    return {"id": request_id, "method": method} | ({} if params is _ABSENT else {"params": params})


def _handshakes() -> Iterator[tuple[str, Lines]]:
    after = [line(INITIALIZED), line(_request("tools/list"))]
    for version in (*VERSIONS, "2026-07-28", "1999-01-01", "of another time", "", 20250618, None, _ABSENT, ["x"]):
        yield f"version {_shown(version)}", [line(initialize(protocolVersion=version)), *after]
    for capabilities in (
        _ABSENT, None, [], "all", 1, {"roots": {}}, {"roots": []}, {"roots": {"listChanged": "maybe"}},
        {"roots": {"listChanged": True}}, {"sampling": {}}, {"sampling": None}, {"elicitation": {}},
        {"experimental": {"a": 1}}, {"experimental": {"a": {}}}, {"of": "ours"},
    ):  # fmt: skip
        yield f"capabilities {_shown(capabilities)}", [line(initialize(capabilities=capabilities)), *after]
    for client in (
        _ABSENT, None, [], {}, "test", {"name": "test"}, {"version": "1"}, {"name": 1, "version": 1},
        CLIENT | {"title": "A host"}, CLIENT | {"icons": "none"}, CLIENT | {"name": "é 🎈"}, CLIENT | {"more": [1.5]},
    ):  # fmt: skip
        yield f"clientInfo {_shown(client)}", [line(initialize(clientInfo=client)), *after]
    for request_id in (
        0, -1, 7, "one", "", "1", None, 1.5, 1.0, [1], {"a": 1}, True, False, 2**53 + 1, 10**30, "a" * 200, "é", "a\n",
    ):  # fmt: skip
        yield f"id {_shown(request_id)[:20]}", [line(initialize(request_id)), *after]
    for version in ("1.0", 2.0, 2, None, "2.0 ", ["2.0"], ""):
        yield f"jsonrpc {_shown(version)}", [line(initialize() | {"jsonrpc": version}), *after]
    without = initialize() | {"params": _ABSENT}
    yield "no jsonrpc", [json.dumps(initialize()).encode() + b"\n", *after]
    yield "no id", [line({key: value for key, value in without.items() if key == "method"}), *after]
    for params in (_ABSENT, None, [], {}, "x", 1, [initialize()["params"]]):
        yield f"initialize with {_shown(params)[:20]}", [line(_request("initialize", 1, params)), *after]
    metas: tuple[Any, ...] = ({}, {"progressToken": 1}, META, [], None)
    for meta in metas:
        yield f"initialize with _meta {_shown(meta)[:20]}", [line(initialize(_meta=meta)), *after]


def _lists() -> Iterator[tuple[str, Lines]]:
    for version, method in itertools.product(VERSIONS, LISTS):
        opened = [line(initialize(protocolVersion=version)), line(INITIALIZED)]
        yield f"{version} {method}", [*opened, line(_request(method)), line(_request(method, "3", {}))]
    opened = [line(initialize()), line(INITIALIZED)]
    wrong: tuple[Any, ...] = (
        None, [], "x", {"cursor": "x"}, {"cursor": None}, {"cursor": 1}, {"_meta": {}}, {"_meta": []},
        {"_meta": {"progressToken": 5}}, {"_meta": META}, {"more": 1},
    )  # fmt: skip
    for method, params in itertools.product(LISTS, wrong):
        yield f"{method} {_shown(params)[:40]}", [*opened, line(_request(method, 2, params)), line(_request(method, 3))]
    for method in (*LISTS, "ping", "server/discover", "no/such", "tools/call", "logging/setLevel"):
        yield f"{method} first", [line(_request(method, 0)), *opened, line(_request("tools/list"))]
        yield f"{method} with a reused id", [*opened, line(_request(method, 1)), line(_request("tools/list", 2))]
        yield f"{method} with a reused id as text", [*opened, line(_request(method, "1")), line(_request(LISTS[1]))]
    yield "no notification", [opened[0], line(_request("tools/list"))]
    yield "notification twice", [*opened, opened[1], line(_request("tools/list"))]
    yield "notification first", [opened[1], opened[0], line(_request("tools/list"))]
    yield "notification with params", [opened[0], line(INITIALIZED | {"params": {}}), line(_request("tools/list"))]
    yield "notification with a list", [opened[0], line(INITIALIZED | {"params": []}), line(_request("tools/list"))]
    yield "unknown notification", [*opened, line({"method": "notifications/x"}), line(_request("tools/list"))]
    cancel = {"method": "notifications/cancelled", "params": {"requestId": 99}}
    yield "cancelled", [*opened, line(cancel), line(_request("tools/list"))]
    yield "initialize twice", [*opened, line(initialize(5)), line(_request("tools/list"))]
    yield "initialize twice, two versions", [*opened, line(initialize(5, protocolVersion="2024-11-05"))]
    ids: tuple[Any, ...] = (None, 1.5, [2], True, {})
    for request_id in ids:
        yield (
            f"tools/list, id {request_id}",
            [*opened, line(_request("tools/list", request_id)), line(_request("ping"))],
        )
    call = _request("tools/call", 4, {"name": "usage_status", "arguments": {"nonsense": 1}})
    yield "a call between", [*opened, line(_request(LISTS[0])), line(call), line(_request(LISTS[1], 3))]
    yield "a response", [*opened, line({"id": 1, "result": {}}), line(_request("tools/list"))]


def _lines() -> Iterator[tuple[str, Lines]]:
    first, listing = line(initialize()), line(_request("tools/list"))
    for name, odd in {
        "BOM": b"\xef\xbb\xbf" + first,
        "CRLF": first.replace(b"\n", b"\r\n"),
        "blank": b"\n",
        "spaces": b"  " + first.replace(b",", b" , "),
        "UTF-16": json.dumps(initialize()).encode("utf-16-le") + b"\n",
        "Latin-1": first.replace(b'"test"', b'"t\xe9st"'),
        "NUL": first.replace(b'"test"', b'"t\x00st"'),
        "half an emoji": first.replace(b'"test"', b'"\\ud83d"'),
        "half an emoji as id": first.replace(b'"id": 1', b'"id": "\\ud83d"'),
        "NaN": first.replace(b'"version": "1"', b'"version": NaN'),
        "NaN in what nobody reads": first.replace(b'"version": "1"', b'"version": "1", "x": NaN'),
        "a name twice": first.replace(b'"method"', b'"method": "ping", "method"'),
        "id twice": first.replace(b'"id": 1', b'"id": 8, "id": 1'),
        "cut": first[:60] + b"\n",
        "more behind": first[:-1] + b" {}\n",
        "a batch": b"[" + first[:-1] + b"]\n",
        "words": b"the host's words\n",
        "a number": b"17\n",
        "200 deep": first.replace(b'"version": "1"', b'"version": "1", "x": ' + b"[" * 200 + b"]" * 200),
        "5,000 deep": first.replace(b'"version": "1"', b'"version": "1", "x": ' + b"[" * 5000 + b"]" * 5000),
        "5,000 digits": first.replace(b'"version": "1"', b'"version": "1", "x": ' + b"7" * 5000),
        "an id of 5,000 digits": first.replace(b'"id": 1', b'"id": ' + b"7" * 5000),
        "extra member": line(initialize() | {"extra": 1}),
        "escaped name": first.replace(b'"params"', b'"p\\u0061rams"'),
    }.items():
        yield name, [odd, listing]
        yield f"{name}, after a good one", [line(initialize(10)), line(_request("tools/list", 11)), odd, listing]


def _later_version() -> Iterator[tuple[str, Lines]]:
    for method in ("server/discover", *LISTS):
        yield f"later: {method}", [
            line(_request(method, 1, {"_meta": META})), line(_request("tools/list", 2, {"_meta": META})),
        ]  # fmt: skip
        yield (
            f"later: {method} without",
            [line(_request("server/discover", 1, {"_meta": META})), line(_request(method))],
        )
        both = {"_meta": META, "cursor": "from elsewhere"}
        yield f"later: {method} and more", [line(_request(method, 1, both)), line(_request(method, 2, {"_meta": META}))]
    for name in META:
        for value in (_ABSENT, None, [], "x", {}, 1):
            meta = {key: one for key, one in (META | {name: value}).items() if one is not _ABSENT}
            yield f"later: {name} {_shown(value)}", [
                line(_request("tools/list", 1, {"_meta": meta})), line(_request("tools/list", 2, {"_meta": META})),
            ]  # fmt: skip
    for extra in ({"progressToken": 4}, {"traceparent": "00-1"}, {"io.modelcontextprotocol/x": 1}):
        yield f"later: _meta with {extra}", [
            line(_request("tools/list", n, {"_meta": META | extra})) for n in (1, 2)
        ]  # fmt: skip
    yield "later: initialize behind", [line(_request("tools/list", 1, {"_meta": META})), line(initialize(2))]
    yield "later: reused id", [line(_request(method, 1, {"_meta": META})) for method in LISTS]


def _shown(value: Any) -> str:
    return "left out" if value is _ABSENT else json.dumps(value)
