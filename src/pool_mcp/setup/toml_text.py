"""Adds and takes out tables in a TOML text: every other line stays as it is, comments with it.

A table's lines are its header, what follows up to the next header, and the comment that stands directly above it. (A
parser that keeps comments, tomlkit, counts that comment to the table before: it would go or stay with the wrong one.)
What comes out is read again, so that a text which cannot take an edit raises and is never written.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

Path = tuple[str, ...]
"""A table's name as its keys: ``[a."b c"]`` is ``("a", "b c")``."""

_HEADER = re.compile(r"\s*\[\[?([^\[\]\n]*)\]\]?\s*(?:#.*)?\n?")


def append(text: str, header: str, values: Mapping[str, object], *, above: str = "") -> str:
    """The text with one more table: behind the last one of the same name, else at the end.

    ``header`` is with its brackets; ``above`` is a comment to stand over it. Values that are tables become tables of
    their own.

    Raises:
        ValueError: the text does not take it there, for example because ``subscriptions`` is an inline array.
    """
    lines = text.splitlines(keepends=True)
    at = max((end for start, end in _tables(lines) if _path(lines[_head(lines, start)]) == _path(header)), default=-1)
    before, behind = ("".join(lines[:at]), "".join(lines[at:])) if at >= 0 else (text, "")
    newline = "\r\n" if "\r\n" in text else "\n"
    added = ((f"# {above}\n" if above else "") + _dump(header, values)).replace("\n", newline)
    before = f"{before.rstrip()}{newline}{newline}" if before.strip() else ""
    result = f"{before}{added}" + (f"{newline}{behind}" if behind else "")
    tomllib.loads(result)
    return result


def remove(text: str, is_one: Callable[[Path, Mapping[str, Any]], bool]) -> str:
    """The text without the tables that ``is_one`` (given the header as keys and the table's own values) picks.

    Raises:
        ValueError: the text is not TOML, or does not do without them.
    """
    lines = text.splitlines(keepends=True)
    for start, end in reversed(_tables(lines)):
        head = _head(lines, start)
        if is_one(_path(lines[head]), tomllib.loads("".join(lines[head + 1 : end]))):
            if end >= len(lines):  # the empty lines that kept it apart go with it
                while start > 0 and not lines[start - 1].strip():
                    start -= 1
            del lines[start:end]
    result = "".join(lines)
    tomllib.loads(result)
    return result


def key(name: str) -> str:
    """A name as a key: bare where it may be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _tables(lines: list[str]) -> list[tuple[int, int]]:
    """Where every table begins (with the comment above its header) and ends."""
    starts = []
    for at, line in enumerate(lines):
        if _HEADER.fullmatch(line) and _is_between_statements(lines[:at]):
            start = at
            while start > 0 and lines[start - 1].lstrip().startswith("#"):
                start -= 1
            starts.append(start)
    return list(zip(starts, [*starts, len(lines)][1:], strict=True))


def _is_between_statements(before: list[str]) -> bool:
    """Whether a line is not inside a string or an array of several lines."""
    try:
        tomllib.loads("".join(before))
    except tomllib.TOMLDecodeError:
        return False
    return True


def _head(lines: list[str], start: int) -> int:
    while lines[start].lstrip().startswith("#"):
        start += 1
    return start


def _path(header: str) -> Path:
    path: list[str] = []
    inside: object = tomllib.loads(header)
    while inside:
        if isinstance(inside, list):
            inside = inside[0]
        elif isinstance(inside, dict):
            name, inside = next(iter(inside.items()))
            path.append(name)
    return tuple(path)


def _dump(header: str, values: Mapping[str, object]) -> str:
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    text = f"{header}\n"
    for name, value in values.items():
        if name not in tables:
            text += f"{key(name)} = {_value(value)}\n"
    for name, table in tables.items():
        text += "\n" + _dump(f"{header[:-1]}.{key(name)}]", table)
    return text


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    # A JSON string, number or boolean is a TOML one, too.
    return json.dumps(value, ensure_ascii=False)
