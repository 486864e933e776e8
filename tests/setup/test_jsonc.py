"""Editing JSON with comments: what is not edited keeps every character."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_mcp.setup import jsonc

ENTRY = {"command": "pool-mcp", "args": []}


def test_a_new_member_stands_last_and_every_comment_stays() -> None:
    before = """\
// mine
{
    "a": 1, // one
    "mcpServers": {
        "x": {"command": "y"} // keep, "this": {too}
    }
    /* the end */
}
"""
    after = """\
// mine
{
    "a": 1, // one
    "mcpServers": {
        "x": {"command": "y"}, // keep, "this": {too}
        "pool": {
            "command": "pool-mcp",
            "args": []
        }
    }
    /* the end */
}
"""
    assert jsonc.set_value(before, ("mcpServers", "pool"), ENTRY) == after
    assert jsonc.remove(after, ("mcpServers", "pool")) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "a": {\n    "b": 1\n  }\n}\n'),
        ("// nothing yet\n", '// nothing yet\n{\n  "a": {\n    "b": 1\n  }\n}\n'),
        ("{}", '{\n  "a": {\n    "b": 1\n  }\n}'),
        ('{"a":{}}\n', '{"a":{\n  "b": 1\n}}\n'),
        ('{\n\t"a": {\n\t\t"c": 2,\n\t},\n}', '{\n\t"a": {\n\t\t"c": 2,\n\t\t"b": 1,\n\t},\n}'),
        ('{\r\n  "a": {\r\n    "c": 2\r\n  }\r\n}\r\n', '{\r\n  "a": {\r\n    "c": 2,\r\n    "b": 1\r\n  }\r\n}\r\n'),
        ('{"a": {"b": 0, "c": 2}}', '{"a": {"b": 1, "c": 2}}'),
        ('{"a": {"b": 0, "b": 5}}', '{"a": {"b": 0, "b": 1}}'),
        ('\ufeff{"a": {"b": 0}}', '\ufeff{"a": {"b": 1}}'),
    ],
)
def test_whatever_is_missing_on_the_way_is_made_in_the_style_of_the_text(before: str, after: str) -> None:
    assert jsonc.set_value(before, ("a", "b"), 1) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a": {"b": 1, "c": 2}}', '{"a": { "c": 2}}'),
        ('{"a": {"c": 2, "b": 1}}', '{"a": {"c": 2 }}'),
        ('{"a": {"b": 1}}', '{"a": {}}'),
        ('{"a": {\n  // why\n  "b": 1,\n  "c": 2\n}}', '{"a": {\n  // why\n  "c": 2\n}}'),
        ('{"a": {\n  "c": 2, // two\n  "b": 1 // one\n}}', '{"a": {\n  "c": 2 // two\n   // one\n}}'),
        ('{"a": {\n  "c": 2,\n  "b": 1,\n}}', '{"a": {\n  "c": 2,\n}}'),
        ('{"c": 2}', '{"c": 2}'),
    ],
)
def test_what_is_taken_out_takes_its_comma_and_its_line_and_nothing_else(before: str, after: str) -> None:
    assert jsonc.remove(before, ("a", "b")) == after


@pytest.mark.parametrize(
    "text", ["{", '{"a" 1}', "{'a': 1}", '{"a": 1} 2', '{"a": 01e}', "[1 2]", '{"a": "\n"}', "/* {"]
)
def test_a_text_that_is_no_json_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d+, column \d+"):
        jsonc.loads(text)


def test_a_path_through_what_is_no_object_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a is not an object$"):
        jsonc.set_value('{"a": [1]}', ("a", "b"), 1)


keys = st.text("abc/*,\"\\{}'\n", max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('x,:{}[]/*\\"\n', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
spaces = st.sampled_from(["", " ", "\n", "\n  ", "// c\n", "/* , } */", "\t"])


@st.composite
def texts(draw: st.DrawFn, value: Any) -> str:
    """A value as somebody may have written it by hand."""

    def write(value: Any) -> str:
        def gap() -> str:
            return draw(spaces)

        if not isinstance(value, dict | list):
            return json.dumps(value)
        parts = [write(one) for one in (value.values() if isinstance(value, dict) else value)]
        if isinstance(value, dict):
            parts = [f"{json.dumps(key)}{gap()}:{gap()}{part}" for key, part in zip(value, parts, strict=True)]
        inner = ",".join(f"{gap()}{part}{gap()}" for part in parts)
        trailing = draw(st.sampled_from(["", ","])) if parts else ""
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        return f"{opening}{gap()}{inner}{trailing}{gap()}{closing}"

    return draw(spaces) + write(value) + draw(spaces)


@given(st.data(), st.dictionaries(keys, values, max_size=4), keys, keys, values)
def test_an_edit_means_what_it_says_whatever_the_text_looks_like(
    data: st.DataObject, content: dict[str, Any], first: str, second: str, value: Any
) -> None:
    content = {key: one for key, one in content.items() if key != first or isinstance(one, dict)}
    text = data.draw(texts(content))
    assert jsonc.loads(text) == content
    after = jsonc.set_value(text, (first, second), value)
    wanted = {**content, first: {**content.get(first, {}), second: value}}
    assert jsonc.loads(after) == wanted
    without = jsonc.remove(after, (first, second))
    del wanted[first][second]
    assert jsonc.loads(without) == wanted
    comment = re.compile(r"// c\n|/\* , } \*/")
    if second not in content.get(first, {}):
        assert comment.findall(without) == comment.findall(text)
