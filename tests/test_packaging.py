"""What is shipped agrees with itself, and the tree holds no traces of the machine it was written on."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

import pool_mcp

ROOT = Path(__file__).parents[1]

LOCKED_FROM = set(re.findall(r"https://([^/\"]+)/", (ROOT / "uv.lock").read_text(encoding="utf-8")))
REGISTRY_HOST = re.compile("|".join(re.escape(host) for host in sorted(LOCKED_FROM)))
"""Only the lock file says where packages come from."""
MACHINE_PATH = re.compile(r"(?<![\w.~/*}-])/(?:root|work|tmp)(?![\w.-])")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def read_toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def read_json(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / name).read_text(encoding="utf-8"))
    return content


def read_manifest() -> dict[str, Any]:
    return read_json("manifest.json")


def files_in_git() -> list[str]:
    """What is tracked, and what the next `git add` would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git work tree")
    return sorted(name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


def lines_in_git(pattern: re.Pattern[str]) -> list[str]:
    """`file:line: match` for every line of the tree, but for uv.lock, that the pattern is found in."""
    return [
        f"{name}:{number}: {match.group()}"
        for name in files_in_git()
        if name != "uv.lock"
        for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), start=1)
        if (match := pattern.search(line))
    ]


def test_every_file_that_names_the_version_names_the_same() -> None:
    locked = {package["name"]: package.get("version") for package in read_toml("uv.lock")["package"]}
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest_release = re.search(r"^## \[?(\d[^\]\s]*)", changelog, re.MULTILINE)
    assert {
        "pyproject.toml": read_toml("pyproject.toml")["project"]["version"],
        "manifest.json": read_manifest()["version"],
        "server.json": read_json("server.json")["version"],
        "server.json, its package": read_json("server.json")["packages"][0]["version"],
        "uv.lock": locked["pool-mcp"],
        "CHANGELOG.md": newest_release and newest_release.group(1),
    } == dict.fromkeys(
        (
            "pyproject.toml",
            "manifest.json",
            "server.json",
            "server.json, its package",
            "uv.lock",
            "CHANGELOG.md",
        ),
        pool_mcp.__version__,
    )


def test_the_bundle_asks_for_the_python_that_the_package_asks_for() -> None:
    asked = read_manifest()["compatibility"]["runtimes"]["python"]
    assert asked == read_toml("pyproject.toml")["project"]["requires-python"]


def test_the_bundle_holds_all_that_its_server_is_started_from() -> None:
    entry_point = read_manifest()["server"]["entry_point"]
    shipped = {line[2:] for line in (ROOT / ".mcpbignore").read_text().splitlines() if line.startswith("!/")}
    assert (ROOT / entry_point).is_file()
    assert shipped == {"manifest.json", "pyproject.toml", "uv.lock", "README.md", "LICENSE", "src"}


def test_every_setting_of_the_bundle_is_optional_and_reaches_the_server() -> None:
    manifest = read_manifest()
    passed_on = manifest["server"]["mcp_config"]["env"].values()
    assert {
        f"${{user_config.{name}}}": (setting["required"], setting["default"])
        for name, setting in manifest["user_config"].items()
    } == {value: (False, "") for value in passed_on if value.startswith("${")}


def test_the_registrys_entry_keeps_its_schemas_limits_and_names_what_the_bundle_can_set() -> None:
    entry = read_json("server.json")
    (package,) = entry["packages"]
    assert entry["$schema"].endswith("/2025-12-11/server.schema.json")
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", entry["name"])
    assert max(len(entry["title"]), len(entry["description"])) <= 100
    assert (package["registryType"], package["transport"]) == ("pypi", {"type": "stdio"})
    assert package["identifier"] == read_toml("pyproject.toml")["project"]["name"]
    named = {one["name"]: one["isRequired"] for one in package["environmentVariables"]}
    passed_on = read_manifest()["server"]["mcp_config"]["env"]
    assert named == dict.fromkeys((name for name in passed_on if name.startswith("POOL_MCP_")), False)


@pytest.mark.anyio
async def test_the_manifest_lists_the_tools_that_the_server_has(tmp_path: Path) -> None:
    server = StdioServerParameters(
        command=str(Path(sys.executable).with_name("pool-mcp")),
        args=["serve"],
        env={"POOL_MCP_HOME": str(tmp_path)},
    )
    async with Client(stdio_client(server)) as client:
        tools = (await client.list_tools()).tools
    assert {tool["name"] for tool in read_manifest()["tools"]} == {tool.name for tool in tools}


def test_nothing_that_a_tool_left_behind_is_in_git() -> None:
    leftovers = re.compile(r"(^|/)(__pycache__|\.[a-z_]*cache|\.venv|\.hypothesis|dist|build)/|\.pyc$|\.mcpb$")
    assert [name for name in files_in_git() if leftovers.search(name)] == []


def test_no_file_but_the_lock_names_a_package_registry() -> None:
    assert lines_in_git(REGISTRY_HOST) == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    assert lines_in_git(MACHINE_PATH) == []
