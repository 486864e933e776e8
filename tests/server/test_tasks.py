"""MCP Tasks: an ask that takes long is a task to a client that knows tasks, and to no other; in any server process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp_types import CallToolResult, Request, RequestParams, Result
from support import make_home, now_ms, open_pool

from pool_mcp.demo.standin import Standin
from pool_mcp.demo.standin_accounts import Behaviour
from pool_mcp.pool import Pool
from pool_mcp.server import tasks
from pool_mcp.server.server import make_server

pytestmark = pytest.mark.anyio


class Task(Result):
    """What a server says of a task."""

    task_id: str
    status: str
    status_message: str | None = None
    created_at: str
    last_updated_at: str
    ttl_ms: int | None
    poll_interval_ms: int | None = None
    result: dict[str, Any] | None = None


class Created(Task):
    """What a tool call is answered with that has become a task."""

    result_type: Literal["task"]


class About(RequestParams):
    """Which task is meant."""

    task_id: str


class KnowsTasks(ClientExtension):
    """A client's half of the extension: it keeps the task, cancels it or not, and asks until it is over."""

    identifier = tasks.EXTENSION

    def __init__(self, *, cancels: bool = False) -> None:
        self.seen: list[Task] = []
        self._cancels = cancels

    def claims(self) -> Sequence[ResultClaim[Created]]:
        return [ResultClaim(result_type="task", model=Created, resolve=self.resolve)]

    async def resolve(self, task: Created, context: ClaimContext) -> CallToolResult:
        self.seen.append(task)
        about = About(task_id=task.task_id)
        if self._cancels:
            await context.session.send_request(Request(method="tasks/cancel", params=about), Result)
        with anyio.fail_after(60):
            while self.seen[-1].status == "working":
                await anyio.sleep(0.1)
                found = await context.session.send_request(Request(method="tasks/get", params=about), Task)
                self.seen.append(found)
        ended = self.seen[-1].result
        return CallToolResult(content=[], is_error=True) if ended is None else CallToolResult.model_validate(ended)


def client(pool: Pool, *extensions: ClientExtension) -> Client:
    async def get_pool() -> Pool:
        return pool

    return Client(make_server(get_pool, now_ms), extensions=extensions)


AT_ONCE = {"inline_wait_s": 0.01}


ASK = {"prompt": "ping"}


async def test_an_ask_that_takes_long_is_a_task_whose_result_is_the_tools_own(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin, claude=AT_ONCE)
    knows = KnowsTasks()
    async with open_pool(settings, env) as pool, client(pool, knows) as host:
        answer = await host.call_tool("ask_claude", ASK)
        first, last = knows.seen[0], knows.seen[-1]
        assert (type(first), first.status, last.status) == (Created, "working", "completed")
        assert first.task_id == (answer.structured_content or {})["run_id"]
        assert (answer.structured_content or {})["status"] == "completed"
        assert first.poll_interval_ms is not None
        assert (first.ttl_ms or 0) >= 7 * 24 * 3600 * 1000
        about = Request(method="tasks/get", params=About(task_id=first.task_id))
    async with open_pool(settings, env) as pool, client(pool, KnowsTasks()) as other:  # a later process
        again = await other.session.send_request(about, Task)
        assert again.status == "completed"
        assert ((again.result or {})["structuredContent"]["text"]) == ((last.result or {})["structuredContent"]["text"])


async def test_a_failed_ask_is_a_completed_task_with_the_tools_error(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin, claude=AT_ONCE)
    standin.accounts["alice"] = Behaviour(mode="five_hour_limit")
    knows = KnowsTasks()
    async with open_pool(settings, env) as pool, client(pool, knows) as host:
        answer = await host.call_tool("ask_claude", ASK)
    assert knows.seen[-1].status == "completed"
    assert answer.is_error
    assert (answer.structured_content or {})["error"]["kind"] == "limit"


async def test_a_task_can_be_cancelled(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin, claude=AT_ONCE)
    standin.accounts["alice"] = Behaviour(mode="slow", chunks=600)
    knows = KnowsTasks(cancels=True)
    async with open_pool(settings, env) as pool, client(pool, knows) as host:
        await host.call_tool("ask_claude", ASK)
    assert knows.seen[-1].status == "cancelled"


async def test_who_does_not_know_tasks_gets_none(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin)
    async with open_pool(settings, env) as pool, client(pool) as host:
        answer = await host.call_tool("ask_claude", ASK)
        assert (answer.structured_content or {})["status"] == "completed"
        about = About(task_id=(answer.structured_content or {})["run_id"])
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            with pytest.raises(MCPError) as caught:
                await host.session.send_request(Request(method=method, params=about), Result)
            assert caught.value.error.code == tasks.MISSING_CAPABILITY


async def test_a_task_that_is_not_there_is_an_error(standin: Standin, tmp_path: Path) -> None:
    settings, env = make_home(tmp_path, standin, claude=AT_ONCE)
    async with open_pool(settings, env) as pool, client(pool, KnowsTasks()) as host:
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            with pytest.raises(MCPError, match="nobody"):
                await host.session.send_request(Request(method=method, params=About(task_id="nobody")), Result)
