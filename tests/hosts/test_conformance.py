"""The official conformance suite against our server: all of its scenarios that can apply to it.

The suite speaks HTTP only, so a shim stands between.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import npm_packages
import pytest
from hosting import SERVE, connect
from support import make_home

APPLY = {
    "server-initialize",
    "ping",
    "tools-list",
    "resources-list",
    "resources-subscribe",
    "resources-unsubscribe",
}
NOT_DECLARED = {
    "logging-set-level": "logging",
    "completion-complete": "completions",
    "prompts-list": "prompts",
    "prompts-get-simple": "prompts",
    "prompts-get-with-args": "prompts",
    "prompts-get-embedded-resource": "prompts",
    "prompts-get-with-image": "prompts",
}
"""Scenarios of a capability that a server may have and ours does not declare."""

NEED_THEIR_TOOLS = {
    "tools-call-simple-text",
    "tools-call-image",
    "tools-call-audio",
    "tools-call-embedded-resource",
    "tools-call-mixed-content",
    "tools-call-with-logging",
    "tools-call-error",
    "tools-call-with-progress",
    "tools-call-sampling",
    "tools-call-elicitation",
    "json-schema-2020-12",
    "elicitation-sep1034-defaults",
    "elicitation-sep1330-enums",
    "resources-read-text",
    "resources-read-binary",
    "resources-templates-read",
}
"""Scenarios that call a tool or read a resource of the suite's own (``test_simple_text``, ``test://static-text``)."""

OF_HTTP = {"server-sse-polling", "server-sse-multiple-streams", "dns-rebinding-protection"}
"""Scenarios of the HTTP transport, which here is the shim's."""

HERE = Path(__file__).parent


@pytest.fixture
def node() -> str:
    if reason := npm_packages.missing():
        pytest.skip(reason)
    found = npm_packages.node(22)
    if found is None:
        pytest.skip("the conformance suite needs Node 22 or newer, and there is no package of it for this machine")
    return found


@contextmanager
def served(node: str, env: dict[str, str]) -> Iterator[str]:
    """The server over HTTP; gives its URL."""
    command = [node, str(HERE / "stdio_to_http.cjs"), str(npm_packages.node_modules().parent), *SERVE]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as shim:
        assert shim.stdout is not None
        try:
            yield shim.stdout.readline().strip()
        finally:
            shim.terminate()


def conformance(node: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [node, str(npm_packages.node_modules() / ".bin" / "conformance"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False)


@pytest.mark.timeout(400)  # the first on a machine installs the packages
def test_every_scenario_that_applies_passes(node: str, tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    with served(node, env) as url:
        ends = {name: conformance(node, "server", "--url", url, "--scenario", name) for name in sorted(APPLY)}
    assert {name: end.stdout + end.stderr for name, end in ends.items() if end.returncode} == {}
    assert all("Passed: 1/1, 0 failed, 0 warnings" in end.stdout for end in ends.values())


@pytest.mark.timeout(400)
def test_of_every_other_scenario_is_said_why_it_does_not_apply(node: str) -> None:
    listed = conformance(node, "list", "--server").stdout.partition("Client scenarios")[0]
    names = {line.split()[1] for line in listed.splitlines() if line.startswith("  - ")}
    assert names == APPLY | set(NOT_DECLARED) | NEED_THEIR_TOOLS | OF_HTTP


@pytest.mark.anyio
async def test_what_scenarios_are_left_out_for_is_not_declared(tmp_path: Path) -> None:
    _, env = make_home(tmp_path)
    async with connect(env, tmp_path) as client:
        declared = client.server_capabilities.model_dump(exclude_none=True)
    assert declared.keys() >= {"tools", "resources"}
    assert not declared.keys() & set(NOT_DECLARED.values())
