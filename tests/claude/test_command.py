"""What goes into the CLI's command line."""

from pool_mcp.claude.command import Command, argv


def test_a_value_that_begins_with_a_dash_is_never_an_option() -> None:
    arguments = argv(Command("s", resume=True, model="-m", effort="--e", system_prompt="--dangerous", json_schema={}))
    given = {"--resume=s", "--model=-m", "--effort=--e", "--system-prompt=--dangerous", "--json-schema={}"}
    assert given <= set(arguments)
