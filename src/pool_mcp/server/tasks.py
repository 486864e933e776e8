"""MCP Tasks: to a client that knows them, an ask that is not over within ``inline_wait_s`` becomes a task.

The task's id is the run's, so a task is as durable as its ask: any later server process, of any host, can tell of it.
Every other client gets what it always got. The extension is ``io.modelcontextprotocol/tasks``.
"""

import logging
from collections.abc import Callable
from typing import Any

from mcp import MCPError
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import INVALID_PARAMS, CallToolResult, RequestParams

from pool_mcp.choosing.windows import rfc3339
from pool_mcp.errors import InvalidRequest, PoolError
from pool_mcp.model import DAY_MS, SECOND_MS
from pool_mcp.pool import Pool
from pool_mcp.results.asks import AskDetails, AskResult
from pool_mcp.server.opening import GetPool

log = logging.getLogger(__name__)

EXTENSION = "io.modelcontextprotocol/tasks"
MISSING_CAPABILITY = -32021

_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
_SOONEST_MS, _LATEST_MS = SECOND_MS, 30 * SECOND_MS
"""How often a client is to look, at most and at least."""

Context = ServerRequestContext[Any, Any]
Answered = Callable[[AskResult | PoolError], CallToolResult]
"""Puts an answer, or its failure, into the form in which the tool itself gives it."""


class _TaskParams(RequestParams):
    """Which task is meant; the run's id."""

    task_id: str


class _UpdateParams(_TaskParams):
    """Input for a task; ours never need any."""

    input_responses: dict[str, Any] | None = None


def is_known_to(params: RequestParams) -> bool:
    """Whether a client has declared the extension in this very request."""
    capabilities = (dict(params.meta) if params.meta else {}).get(_CAPABILITIES)
    extensions = capabilities.get("extensions") if isinstance(capabilities, dict) else None
    return isinstance(extensions, dict) and EXTENSION in extensions


async def created(pool: Pool, answer: AskResult) -> dict[str, Any]:
    """What a tool call is answered with whose ask goes on as a task; it is in the ledger already."""
    details = await pool.look(pool.history.ask, answer.run_id)
    return {"resultType": "task", **_task(pool, details, answer, "working")}


def add_to(server: Server[Any], get_pool: GetPool, answered: Answered) -> None:
    """Serve ``tasks/get``, ``tasks/update`` and ``tasks/cancel``."""

    async def get(_: Context, params: _TaskParams) -> HandlerResult:
        pool = await _known(get_pool, params)
        result: AskResult | PoolError
        try:
            result = await pool.result(params.task_id)
        except PoolError as error:
            result = error
        details = await pool.look(pool.history.ask, params.task_id)
        if isinstance(result, AskResult) and result.status != "completed":
            return _task(pool, details, result, "working")
        if details.outcome == "cancelled":
            return _task(pool, details, None, "cancelled")
        inside = answered(result).model_dump(mode="json", by_alias=True, exclude_none=True)
        return {**_task(pool, details, None, "completed"), "result": inside}

    async def update(_: Context, params: _UpdateParams) -> HandlerResult:
        await _known(get_pool, params)
        return {}

    async def cancel(_: Context, params: _TaskParams) -> HandlerResult:
        pool = await _known(get_pool, params)
        await pool.supervision.cancel(params.task_id)
        return {}

    server.extensions[EXTENSION] = {}
    server.add_request_handler("tasks/get", _TaskParams, get)
    server.add_request_handler("tasks/update", _UpdateParams, update)
    server.add_request_handler("tasks/cancel", _TaskParams, cancel)


async def _known(get_pool: GetPool, params: _TaskParams) -> Pool:
    """The pool, where the client may ask and the task is there.

    Raises:
        MCPError: it has not declared the extension, or there is no such task.
    """
    if not is_known_to(params):
        needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        raise MCPError(code=MISSING_CAPABILITY, message=f"Declare {EXTENSION} in this request.", data=needed)
    try:
        pool = await get_pool()
        found = await pool.look(pool.history.ask, params.task_id)
        if params.task_id not in {one.run_id for one in found.attempts}:
            raise InvalidRequest(f"No task {params.task_id!r}; pass the taskId that the tool call gave.")
    except PoolError as error:
        raise MCPError(code=INVALID_PARAMS, message=error.message) from None
    return pool


def _task(pool: Pool, details: AskDetails, answer: AskResult | None, status: str) -> dict[str, Any]:
    """A task's own fields; ``answer`` is what is known of one that goes on."""
    first, last = details.attempts[0], details.attempts[-1]
    now_ms, began_ms = details.generated_at, first.queued_at or first.created_at
    updated_ms = last.ended_at or now_ms
    task: dict[str, Any] = {
        "taskId": last.run_id if answer is None else answer.run_id,
        "status": status,
        "createdAt": rfc3339(began_ms),
        "lastUpdatedAt": rfc3339(updated_ms),
        "ttlMs": updated_ms - began_ms + round(pool.keep_answers_days * DAY_MS),
    }
    if answer is not None:
        waits = answer.status == "waiting"
        task["statusMessage"] = (
            f"Number {answer.position} in the queue: {answer.reason}" if waits else "Claude is working."
        )
        left_ms = (answer.expected_at - now_ms) // 2 if answer.expected_at else (now_ms - began_ms) // 5
        task["pollIntervalMs"] = min(_LATEST_MS, max(_SOONEST_MS, left_ms))
    elif details.attempts[-1].message:
        task["statusMessage"] = details.attempts[-1].message
    return task
