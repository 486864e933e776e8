"""Adding and taking out tables of a TOML text: other lines and comments stay where they are."""

import tomllib

import pytest

from pool_mcp.setup import toml_text

TEXT = """\
# top
strategy = "headroom"  # why

# the first
[[subscriptions]]
id = "a"
note = '''
[[subscriptions]]
# not a table
'''

# the second
[[ subscriptions ]]  # two
id = "b"
# inner

# callers
[callers."night agent"]
daily_budget_usd = 5.0
# end
"""


def without(subscription_id: str, text: str = TEXT) -> str:
    return toml_text.remove(text, lambda path, values: path == ("subscriptions",) and values["id"] == subscription_id)


def test_a_new_table_stands_behind_its_like_and_goes_without_a_trace() -> None:
    after = toml_text.append(TEXT, "[[subscriptions]]", {"id": "c", "max": 2, "on": False}, above="the third")
    assert after == TEXT.replace(
        "# callers\n", '# the third\n[[subscriptions]]\nid = "c"\nmax = 2\non = false\n\n# callers\n'
    )
    assert without("c", after) == TEXT


def test_a_table_goes_with_the_comment_above_it_and_no_other() -> None:
    first, second = TEXT.index("# the first"), TEXT.index("# the second")
    callers = TEXT.index("# callers")
    assert without("a") == TEXT[:first] + TEXT[second:]
    assert without("b") == TEXT[:second] + TEXT[callers:]


def test_tables_within_a_table_are_written_and_found_under_its_name() -> None:
    values = {"command": "x", "args": ["a", 'b"c'], "env": {"HOME": "/h", "odd key": "1"}}
    after = toml_text.append("a = 1\n", '[mcp_servers."my pool"]', values)
    assert tomllib.loads(after) == {"a": 1, "mcp_servers": {"my pool": values}}
    assert toml_text.remove(after, lambda path, _: path[:2] == ("mcp_servers", "my pool")) == "a = 1\n"


def test_an_empty_text_and_one_with_other_line_ends_are_added_to_in_kind() -> None:
    assert toml_text.append("", "[a]", {"b": 1}) == "[a]\nb = 1\n"
    assert toml_text.append("c = 1\r\n", "[a]", {"b": 1}) == "c = 1\r\n\r\n[a]\r\nb = 1\r\n"


def test_a_text_that_cannot_take_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="subscriptions"):
        toml_text.append("subscriptions = [{id = 'a'}]\n", "[[subscriptions]]", {"id": "b"})
