"""The documents are true: made from the tools, complete in settings and errors, without dead links."""

import json
import os
import re
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import manual
from pool_mcp import settings
from pool_mcp.choosing.pacing import Action
from pool_mcp.errors import BY_KIND
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.server.tools import TOOLS, Tool, input_schema, output_schema

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/pool-mcp/pool-mcp"


def tools_document() -> str:
    """``docs/tools.md`` as it must be; ``UPDATE_DOCS=1 ./dev test tests/test_docs.py`` writes it."""
    head = (
        "Made from the program's own schemas. Money is in dollars, shares are percentages from 0 to 100, instants are "
        "RFC 3339 in UTC. The text of a result says what its data say: some hosts show a model only one of the two. A "
        "failed call is `isError` with `structuredContent.error`, and the same as text."
    )
    failure = "\n\n".join(["## A failed call", _table(_failure_schema(), {}, None)])
    return "\n\n".join(["# Tools", head, *(_section(tool) for tool in TOOLS.values()), failure]) + "\n"


def _failure_schema() -> dict[str, Any]:
    failure: dict[str, Any] = output_schema(TOOLS["ask_claude"])["anyOf"][1]
    return failure


def _section(tool: Tool) -> str:
    arguments = _table(input_schema(tool), {}, set(input_schema(tool)["required"]))
    schema = output_schema(tool)
    result = _table(schema["anyOf"][0], schema["$defs"], None)
    return "\n\n".join([f"## `{tool.name}`", tool.description, "Arguments:", arguments, "Result:", result])


def _table(schema: dict[str, Any], definitions: dict[str, Any], required: set[str] | None) -> str:
    rows = ["| field | type | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in _rows(schema, definitions, required, "")]
    return "\n".join(rows)


def _rows(
    schema: dict[str, Any], definitions: dict[str, Any], required: set[str] | None, prefix: str
) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name, said in schema.get("properties", {}).items():
        kind, inner, repeated = _kind(said, definitions)
        optional = required is not None and name not in required
        meaning = said.get("description") or (inner or {}).get("description", "")
        default = f" Default: `{json.dumps(said['default'])}`." if optional and said.get("default") is not None else ""
        rows.append((f"{prefix}{name}{'?' if optional else ''}", kind, f"{meaning}{default}".strip()))
        if inner is not None:
            rows += _rows(inner, definitions, None, f"{prefix}{name}{repeated}.")
    return rows


def _kind(said: dict[str, Any], definitions: dict[str, Any]) -> tuple[str, dict[str, Any] | None, str]:
    """A field's type in words, the object inside it if there is one, and how that is repeated."""
    options = [option for option in said.get("anyOf", [said]) if option.get("type") != "null"]
    one = options[0] if len(options) == 1 else {}
    if "$ref" in one:
        named = definitions[one["$ref"].rpartition("/")[2]]
        return _kind(named, definitions) if "enum" in named else ("object", named, "")
    if one.get("type") == "array":
        kind, inner, _ = _kind(one["items"], definitions)
        return f"list of {kind}s", inner, "[]"
    extra = one.get("additionalProperties")
    if isinstance(extra, dict):
        kind, inner, _ = _kind(extra, definitions)
        return f"{kind} by name", inner, ".*"
    if "enum" in one:
        return ", ".join(f"`{value}`" for value in one["enum"]), None, ""
    return str(one.get("type", "any")), None, ""


def test_the_tools_document_is_what_the_tools_say() -> None:
    file = DOCS / "tools.md"
    if os.environ.get("UPDATE_DOCS"):
        file.write_text(tools_document(), encoding="utf-8")
    assert file.read_text(encoding="utf-8") == tools_document()


def test_the_settings_shown_are_all_there_are_with_their_true_defaults(tmp_path: Path) -> None:
    document = (DOCS / "settings.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```toml\n(.*?)```", document, re.DOTALL)
    (tmp_path / "pool.toml").write_text(shown)
    settings.load({"POOL_MCP_HOME": str(tmp_path)})
    file = tomllib.loads(shown)
    assert _defaults_shown(file, settings._File) == _defaults(settings._File)
    assert _defaults_shown(file["claude"], settings.ClaudeSettings) == _defaults(settings.ClaudeSettings)
    assert _defaults_shown(file["admin"], settings.AdminSettings) == _defaults(settings.AdminSettings)
    in_subscriptions = {key for table in file["subscriptions"] for key in table}
    assert in_subscriptions == set(settings.SubscriptionSettings.model_fields)
    assert {key for table in file["notify"] for key in table} == set(settings.NotifySettings.model_fields)
    assert set(file["callers"]["night-agent"]) == set(settings.CallerSettings.model_fields)


def _defaults(section: type[BaseModel]) -> dict[str, Any]:
    fields = section.model_fields.items()
    return {name: field.default for name, field in fields if isinstance(field.default, str | float | int)}


def _defaults_shown(table: dict[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    return {name: table.get(name) for name in _defaults(section)}


def test_every_kind_of_failure_and_every_advice_is_explained_to_agents() -> None:
    guide = (DOCS / "pacing.md").read_text(encoding="utf-8")
    assert [kind for kind in BY_KIND if f"`{kind}`" not in guide] == []
    assert [action for action in Action if f"| `{action}` |" not in guide] == []


def schema(tmp_path: Path) -> dict[str, list[str]]:
    """The columns of every table and view of a ledger."""
    Ledger(tmp_path / "ledger.db").close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        rows = database.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY name")
        names = [name for (name,) in rows if not name.startswith(("sqlite_", "_sqlite_"))]
        return {name: [row[1] for row in database.execute(f"PRAGMA table_info({name})")] for name in names}


def test_every_table_of_the_ledger_and_no_other_is_explained_and_its_columns_are_listed(tmp_path: Path) -> None:
    file = DOCS / "ledger.md"
    tables = schema(tmp_path)
    lines = [f"- `{name}`: {', '.join(f'`{column}`' for column in columns)}" for name, columns in tables.items()]
    document = file.read_text(encoding="utf-8")
    begin, end = "<!-- columns: begin -->", "<!-- columns: end -->"
    before, _, rest = document.partition(begin)
    listed = f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{rest.partition(end)[2]}"
    if os.environ.get("UPDATE_DOCS"):
        file.write_text(listed, encoding="utf-8")
        document = listed
    assert document == listed
    rows = re.findall(r"^\| (`.*?) \|", document, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(tables)


def test_the_ledgers_queries_run_on_a_ledger(tmp_path: Path) -> None:
    document = (DOCS / "ledger.md").read_text(encoding="utf-8")
    Ledger(tmp_path / "ledger.db").close()
    queries = re.findall(r"```sql\n(.*?)```", document, re.DOTALL)
    assert queries
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        for query in queries:
            database.execute(query).fetchall()


@pytest.mark.parametrize(
    "document",
    [
        ROOT / "README.md",
        ROOT / "ARCHITECTURE.md",
        ROOT / "SECURITY.md",
        ROOT / "CONTRIBUTING.md",
        *sorted(DOCS.glob("*.md")),
    ],
)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    own = re.findall(
        rf"\]\((?:{REPOSITORY}/blob|https://raw.githubusercontent.com/pool-mcp/pool-mcp)/main/([^)#]+)", text
    )
    assert [link for link in links if not (document.parent / link).exists()] == []
    assert [link for link in own if not (ROOT / link).exists()] == []


def test_a_package_index_can_follow_every_link_of_the_readme() -> None:
    assert re.findall(r"\]\((?!https://)[^)]*\)", (ROOT / "README.md").read_text(encoding="utf-8")) == []


def test_the_site_has_every_document() -> None:
    listed = re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))


def test_the_commands_document_and_the_man_page_are_what_the_parser_says() -> None:
    if os.environ.get("UPDATE_DOCS"):
        manual.main()
    stale = [file.name for file, text in manual.texts().items() if file.read_text(encoding="utf-8") != text]
    assert stale == [], "run ./dev run python docs/manual.py"


def test_every_module_is_on_the_map() -> None:
    document = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "pool_mcp"
    modules = [path for path in package.rglob("*.py") if path.name != "__init__.py" and path.parent.name != "ledger"]
    assert [path.name for path in modules if f"{path.name}`" not in document] == []
