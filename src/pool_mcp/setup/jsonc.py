"""Edits JSON with comments and trailing commas in place: whatever is not edited keeps every character.

Hosts' files are written by hand as often as by the host (VS Code, Zed), so they are never parsed and dumped again. The
text is parsed into values that know where they stand, and an edit cuts or inserts at those places.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_TRIVIA = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_REST_OF_LINE = re.compile(r"(?:[ \t]+|//[^\r\n]*|/\*[^\r\n]*?\*/)*")
_SCALAR = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null')
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')


@dataclass(slots=True)
class _Node:
    """A value and its place; an object also has its members by key, in order."""

    value: Any
    start: int
    end: int
    members: "dict[str, _Member]" = field(default_factory=dict)


@dataclass(slots=True)
class _Member:
    start: int
    node: _Node


def loads(text: str) -> Any:
    """The value of a text; an empty one is ``{}``.

    Raises:
        ValueError: it is not JSON with comments; says where.
    """
    return _root(text)[1].value


def set_value(text: str, path: Sequence[str], value: object) -> str:
    """The text with ``value`` at ``path``, where whatever is missing on the way is made.

    Raises:
        ValueError: the text is not JSON with comments, or there is no object where the path leads through one.
    """
    text, node = _root(text)
    for depth, key in enumerate(path):
        if not isinstance(node.value, dict):
            raise ValueError(f"{'.'.join(path[:depth]) or 'the whole'} is not an object")
        member = node.members.get(key)
        if member is None:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _insert(text, node, key, value)
        node = member.node
    return text[: node.start] + _dump(value, _line_indent(text, node.start), text) + text[node.end :]


def remove(text: str, path: Sequence[str]) -> str:
    """The text without the member at ``path``; unchanged where there is none.

    Raises:
        ValueError: the text is not JSON with comments.
    """
    _, node = _root(text)
    for key in path[:-1]:
        if key not in node.members:
            return text
        node = node.members[key].node
    member = node.members.get(path[-1])
    if member is None:
        return text
    after = _TRIVIA.match(text, member.node.end)
    assert after is not None
    cuts = [(member.start, member.node.end)]
    if text[after.end()] == ",":
        cuts.append((after.end(), after.end() + 1))
    else:  # the last one: without it, the comma before it would trail
        before = [one.node.end for one in node.members.values() if one.node.end <= member.start]
        if before:
            comma = _TRIVIA.match(text, max(before))
            assert comma is not None
            cuts.append((comma.end(), comma.end() + 1))
    for start, end in sorted(cuts, reverse=True):
        text = _cut(text, start, end)
    return text if len(node.members) > 1 else _collapse(text, node.start)


def _insert(text: str, into: _Node, key: str, value: object) -> str:
    """A new last member, on a line of its own, indented like its siblings."""
    newline = _newline(text)
    own_indent = _line_indent(text, into.start)
    indent = own_indent + _unit(text)
    at, trailing, comma_at = into.start + 1, "", None
    if into.members:
        last = list(into.members.values())[-1]
        if not text[_line_start(text, last.start) : last.start].strip(" \t"):
            indent = _line_indent(text, last.start)
        after = _TRIVIA.match(text, last.node.end)
        assert after is not None
        if text[after.end()] == ",":
            at, trailing = after.end() + 1, ","
        else:
            at = comma_at = last.node.end
    rest = _REST_OF_LINE.match(text, at)
    assert rest is not None
    at = rest.end()
    member = f"{newline}{indent}{json.dumps(key, ensure_ascii=False)}: {_dump(value, indent, text)}{trailing}"
    if "\n" not in text[at : into.end]:
        member += newline + own_indent
        at_brace = text[at : into.end - 1].strip(" \t") == ""
        text = text[:at] + member + (text[into.end - 1 :] if at_brace else text[at:])
    else:
        text = text[:at] + member + text[at:]
    return text if comma_at is None else f"{text[:comma_at]},{text[comma_at:]}"


def _cut(text: str, start: int, end: int) -> str:
    """Without a stretch of text; lines that it leaves empty go with it."""
    line, rest = _line_start(text, start), re.compile(r"[ \t,]*\r?\n").match(text, end)
    if rest and not text[line:start].strip(" \t") and "," not in rest.group():
        return text[:line] + text[rest.end() :]
    return text[:start] + text[end:]


def _collapse(text: str, start: int) -> str:
    """With an object that holds nothing but space as ``{}``."""
    return text[: start + 1] + re.sub(r"\A[ \t\r\n]*\}", "}", text[start + 1 :])


def _dump(value: object, indent: str, text: str) -> str:
    lines = json.dumps(value, indent=_unit(text), ensure_ascii=False).split("\n")
    return f"{_newline(text)}{indent}".join(lines)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _unit(text: str) -> str:
    """One step of indentation as the text has it; two spaces where it has none."""
    found = re.search(r'^([ \t]+)(?=["/])', text, re.MULTILINE)
    return found.group(1) if found else "  "


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _line_indent(text: str, at: int) -> str:
    found = re.compile(r"[ \t]*").match(text, _line_start(text, at))
    return found.group() if found else ""


def _root(text: str) -> tuple[str, _Node]:
    """The text (``{}`` where there is nothing but space and comments) and its value."""
    start = _skip(text, 1 if text.startswith("\ufeff") else 0)
    if start == len(text):
        text += "{}\n"
    node = _parse(text, start)
    if _skip(text, node.end) != len(text):
        raise _wrong(text, _skip(text, node.end))
    return text, node


def _skip(text: str, at: int) -> int:
    found = _TRIVIA.match(text, at)
    return found.end() if found else at


def _parse(text: str, at: int) -> _Node:
    if text[at : at + 1] in ("{", "["):
        return _parse_container(text, at)
    found = _SCALAR.match(text, at)
    if found is None:
        raise _wrong(text, at)
    try:
        return _Node(json.loads(found.group()), at, found.end())
    except ValueError:
        raise _wrong(text, at) from None


def _parse_container(text: str, start: int) -> _Node:
    is_object = text[start] == "{"
    close = "}" if is_object else "]"
    node = _Node({} if is_object else [], start, start)
    at = _skip(text, start + 1)
    while text[at : at + 1] != close:
        member_at, key = at, ""
        if is_object:
            found = _STRING.match(text, at)
            if found is None:
                raise _wrong(text, at)
            key = json.loads(found.group())
            at = _skip(text, found.end())
            if text[at : at + 1] != ":":
                raise _wrong(text, at)
            at = _skip(text, at + 1)
        child = _parse(text, at)
        if is_object:
            node.value[key] = child.value
            node.members.pop(key, None)  # of two with one key the last one counts, for readers and for us
            node.members[key] = _Member(member_at, child)
        else:
            node.value.append(child.value)
        at = _skip(text, child.end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != close:
            raise _wrong(text, at)
    node.end = at + 1
    return node


def _wrong(text: str, at: int) -> ValueError:
    line = text.count("\n", 0, at) + 1
    return ValueError(f"line {line}, column {at - _line_start(text, at) + 1}: not JSON")
