"""The page that hosts may show: how it is offered over MCP, and that it can do no harm. How it looks is not tested."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hosting import Era, connect, opened
from mcp import Client
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID, Apps
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, TextContent, TextResourceContents
from support import make_home, now_ms, open_pool

import pool_mcp
from pool_mcp.results.ledger import ReportTotal
from pool_mcp.results.status import AlertResult, OfficialWindowResult, PoolTotals, StatusResult, SubscriptionResult
from pool_mcp.server.server import make_server

PAGE = (Path(pool_mcp.__file__).parent / "server" / "app.html").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"<script>(.*?)</script>", PAGE, re.DOTALL)

eras = pytest.mark.parametrize("era", ["legacy", "auto"])


@eras
@pytest.mark.anyio
async def test_status_and_report_come_with_a_page_and_with_all_that_they_came_with_before(
    era: Era, tmp_path: Path
) -> None:
    _, env = make_home(tmp_path)
    async with connect(env, tmp_path, era) as client:
        tools = (await client.list_tools()).tools
        pages = {tool.name: tool.meta["ui"]["resourceUri"] for tool in tools if tool.meta}
        listed = {str(one.uri): one.mime_type for one in (await client.list_resources()).resources}
        read = {uri: (await client.read_resource(uri)).contents for uri in pages.values()}
        result = await client.call_tool("usage_status", {})
    assert pages == {"usage_status": "ui://pool/status", "usage_report": "ui://pool/report"}
    for uri, (content,) in read.items():
        assert isinstance(content, TextResourceContents)
        assert (str(content.uri), content.mime_type, listed[uri]) == (uri, "text/html;profile=mcp-app", APP_MIME_TYPE)
        assert content.text == PAGE
        assert content.meta == {"ui": {"prefersBorder": True}}
    assert isinstance(result, CallToolResult)
    (said,) = result.content
    assert isinstance(said, TextContent)
    assert "advice: proceed: " in said.text
    assert result.structured_content is not None
    assert result.structured_content["advice"]["action"] == "proceed"


@eras
@pytest.mark.anyio
async def test_the_extension_is_advertised_as_the_sdk_advertises_it(era: Era, tmp_path: Path) -> None:
    apps = Apps()
    apps.add_html_resource("ui://theirs", "<!doctype html>")
    settings, env = make_home(tmp_path)
    async with (
        Client(MCPServer("theirs", extensions=[apps]), mode=era) as theirs,
        open_pool(settings, env) as pool,
        Client(make_server(opened(pool), now_ms), mode=era) as ours,
    ):
        advertised = ours.server_capabilities.extensions
        if advertised is not None:
            del advertised["io.modelcontextprotocol/tasks"]  # the only other one
        assert advertised == theirs.server_capabilities.extensions
        assert advertised == (None if era == "legacy" else {EXTENSION_ID: {}})  # the earlier era has no place for it


@pytest.mark.anyio
async def test_the_page_is_there_for_a_server_whose_settings_are_wrong_too(tmp_path: Path) -> None:
    home = tmp_path / "pool"
    home.mkdir()
    (home / "pool.toml").write_text('stratgy = "health"\n')
    async with connect({"POOL_MCP_HOME": str(home)}, tmp_path) as client:
        (content,) = (await client.read_resource("ui://pool/status")).contents
        server: Any = client.server_info
    assert isinstance(content, TextResourceContents)
    assert content.text == PAGE
    (icon,) = server.icons
    form, _, data = icon.src.partition(",")
    assert (form, icon.mime_type) == ("data:image/svg+xml;base64", "image/svg+xml")
    assert ET.fromstring(base64.b64decode(data)).tag == "{http://www.w3.org/2000/svg}svg"
    assert len(icon.src) < 400


def test_the_page_is_small_and_needs_nothing_from_elsewhere() -> None:
    assert len(PAGE.encode()) < 20_000
    for way_out in (
        "://",
        "//",
        "url(",
        "@import",
        "fetch",
        "XMLHttp",
        "WebSocket",
        "EventSource",
        "sendBeacon",
        "import(",
    ):
        assert way_out not in re.sub(r"^\s*//.*$|// .*$", "", PAGE, flags=re.MULTILINE), way_out
    assert not re.search(
        r"\b(src|href|action|srcset|data)\s*=", re.sub(r"<script>.*</script>", "", PAGE, flags=re.DOTALL)
    )


def test_nothing_that_comes_in_is_ever_markup_or_code() -> None:
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval",
        "Function(",
        "srcdoc",
        "setHTML",
    ):
        assert sink not in SCRIPT, sink
    assert not re.search(
        r"setTimeout|setInterval|createContextualFragment|DOMParser|location\b|\.(on[a-z]+|href|src) =", SCRIPT
    )
    # Elements are made by literal names, and only a meter's attributes are set.
    assert set(re.findall(r"createElement\((.*?)\)", SCRIPT)) == {"name"}
    assert set(re.findall(r"\bnode\((.)", SCRIPT)) == {'"', "n"}  # calls, and the function's own parameters
    assert set(re.findall(r"setAttribute\((.*?),", SCRIPT)) == {'"role"', '"aria-label"', '"aria-valuenow"'}
    # Messages count only when they come from the host.
    assert SCRIPT.count('addEventListener("message"') == 1
    assert "event.source !== parent" in SCRIPT


def test_every_field_that_the_page_shows_is_one_that_the_results_have() -> None:
    shown = {
        "advice": set(re.findall(r"\badvice\.(\w+)", SCRIPT)),
        "pool": set(re.findall(r"\bpool\.(\w+)", SCRIPT)),
        "one": set(re.findall(r"\bone\.(\w+)", SCRIPT)) - {"type", "text"},  # those are a content block's
        "official": set(re.findall(r"\bofficial\??\.(\w+)", SCRIPT)) - {"five_hour", "seven_day"},
        "alert": set(re.findall(r"\balert\.(\w+)", SCRIPT)),
        "total": set(re.findall(r"\b(?:total|sums)\.(\w+)", SCRIPT)),
    }
    models: dict[str, Any] = {
        "advice": StatusResult.model_fields["advice"].annotation,
        "pool": PoolTotals,
        "one": SubscriptionResult,
        "official": OfficialWindowResult,
        "alert": AlertResult,
        "total": ReportTotal,
    }
    assert all(shown.values())
    unknown = {name: fields - set(models[name].model_fields) for name, fields in shown.items()}
    assert not any(unknown.values()), unknown


def test_whatever_may_hold_an_instant_or_a_windows_name_is_put_into_words() -> None:
    shown = re.findall(r"(\w*\(?)(?:advice\.reason|alert\.message|one\.status_reason)", SCRIPT)
    assert shown == ["words("] * 3
    # All instants that the page shows pass through one of these.
    outside = re.sub(r"function (time|span|ago|words)\(.*?\n}\n", "", SCRIPT, flags=re.DOTALL)
    assert not re.search(r"new Date\(|toLocale(Date|Time)String|Date\.parse", outside)


def test_a_status_without_advice_is_shown_all_the_same() -> None:
    assert "advice = data.advice || {}" in SCRIPT
    assert re.search(r"advice\.action\n?\s*\? node\(", SCRIPT)


def test_no_heading_of_a_table_breaks_inside_a_word() -> None:
    (headings,) = re.findall(r"^th:first-child, td:first-child \{(.*?)\}", PAGE, re.MULTILINE)
    assert "overflow-wrap" not in headings
    assert "word-break" not in PAGE


def test_the_page_is_one_well_formed_document() -> None:
    class Nesting(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.ids: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.ids += [value or "" for name, value in attrs if name == "id"]
            if tag not in ("meta", "link", "img", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    nesting = Nesting()
    nesting.feed(PAGE)
    assert nesting.open == []
    assert set(re.findall(r'\bat\("(\w+)"\)', SCRIPT)) == set(nesting.ids)
