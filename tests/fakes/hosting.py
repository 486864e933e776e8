"""A host with a real server of its own, over stdio: what it asks for, and what it is told without asking."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import Client, MCPDeprecationWarning, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.message import SessionMessage
from mcp_types import CallToolResult, JSONRPCNotification

from pool_mcp.pool import Pool
from pool_mcp.server.opening import GetPool

Era = Literal["legacy", "auto"]
SERVE = [sys.executable, "-m", "pool_mcp", "serve"]


@dataclass
class Host:
    """A client of the SDK. ``heard`` is the URI of every update of a resource, as it came over the wire."""

    client: Client
    log: Path
    heard: list[str] = field(default_factory=list)

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """The data of a tool's result, which is an error's where it is one."""
        return data(await self.client.call_tool(tool, arguments))

    async def ask(self) -> list[tuple[str, str]]:
        """Ask something: the attempts, or of a failed ask its kind."""
        said = await self.call("ask_claude", prompt="Say something.")
        if "error" in said:
            return [("", said["error"]["kind"])]
        return [(one["subscription"], one["outcome"]) for one in said["attempts"]]


def opened(pool: Pool) -> GetPool:
    """A pool that is open, as a server takes it."""

    async def get() -> Pool:
        return pool

    return get


def data(result: Any) -> dict[str, Any]:
    """What a tool's result holds."""
    assert isinstance(result, CallToolResult)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


@asynccontextmanager
async def host(env: Mapping[str, str], log: Path, era: Era = "legacy", *uris: str) -> AsyncIterator[Host]:
    """A host that wants to hear of these resources; its server's log goes to a file."""
    heard: list[str] = []
    with log.open("a") as errlog:
        transport = stdio_client(StdioServerParameters(command=SERVE[0], args=SERVE[1:], env=dict(env)), errlog=errlog)
        async with Client(_tapped(transport, heard), mode=era) as client:
            ours = Host(client, log, heard)
            if not uris:
                yield ours
            elif era == "legacy":
                for uri in uris:
                    with pytest.warns(MCPDeprecationWarning, match="resources/subscribe is removed"):
                        await client.subscribe_resource(uri)
                yield ours
            else:
                async with client.listen(resource_subscriptions=uris) as subscription:
                    assert subscription.honored.resource_subscriptions == list(uris)
                    yield ours


@asynccontextmanager
async def connect(env: Mapping[str, str], tmp_path: Path, era: Era = "legacy") -> AsyncIterator[Client]:
    """A client of one real server, whose log goes to a file."""
    async with host(env, tmp_path / "server.log", era) as ours:
        yield ours.client


@asynccontextmanager
async def _tapped(transport: AbstractAsyncContextManager[Any], heard: list[str]) -> AsyncIterator[Any]:
    """A transport whose updates of resources are noted as they come: the SDK's client leaves out repeated ones."""
    async with transport as (read, write):
        send, receive = anyio.create_memory_object_stream[Any]()

        async def pass_on() -> None:
            async with send:
                async for one in read:
                    message = one.message if isinstance(one, SessionMessage) else None
                    if isinstance(message, JSONRPCNotification) and message.method == "notifications/resources/updated":
                        heard.append(str((message.params or {})["uri"]))
                    await send.send(one)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pass_on)
            async with receive:
                yield receive, write
            tasks.cancel_scope.cancel()
