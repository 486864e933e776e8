"""The agents' door: serves the pool over MCP on stdio, in both eras of the protocol.

Failures become ``isError`` results in one place, :func:`_call`. Some hosts give a model only the text of a result and
some only its data, so each holds all that there is.
"""

import base64
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from mcp import MCPError
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    EmptyResult,
    Icon,
    ImageContent,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    TextContent,
    TextResourceContents,
    ToolAnnotations,
    UnsubscribeRequestParams,
)
from mcp_types import Tool as McpTool
from pydantic import BaseModel

from pool_mcp import __version__
from pool_mcp.accounting.periods import Only
from pool_mcp.choosing.pacing import Alert
from pool_mcp.errors import InvalidRequest, PoolError, safe_line
from pool_mcp.model import Ask, nanousd
from pool_mcp.pool import Clock, Pool
from pool_mcp.results.asks import AskResult
from pool_mcp.results.base import ErrorResult, error_result, internal_error
from pool_mcp.server import content, tasks, tools
from pool_mcp.server.handshake import Front
from pool_mcp.server.opening import GetPool, Opening
from pool_mcp.server.transport import connect

log = logging.getLogger(__name__)

Context = ServerRequestContext[Any, Any]

_STATUS_URI = "pool://status"
_SUBSCRIPTION_URI = "pool://subscriptions/"
_RUN_URI = "pool://runs/"

_APPS = {"usage_status": "ui://pool/status", "usage_report": "ui://pool/report"}
"""Tools whose result a host may show in a page of ours; one page shows either."""
_APP_FILE = Path(__file__).with_name("app.html")

_ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect width="24" height="24" rx="6" fill="#b8532f"/>\
<path d="M7 18v-5m5 5V6m5 12v-8" stroke="#fff" stroke-width="3" stroke-linecap="round"/></svg>"""
"""Small, because the protocol's later era repeats it in every reply."""


def serve(open_pool: Callable[[], AbstractAsyncContextManager[Pool]], front: Front, clock: Clock) -> None:
    """Serve behind a front until the host closes stdin or sends SIGINT, SIGTERM or SIGHUP."""
    anyio.run(_serve, open_pool, front, clock)
    # All is booked and closed. Taking the interpreter apart would last another 0.2 to 0.4 s, and a host may not wait.
    sys.stderr.flush()
    os._exit(0)


async def _serve(open_pool: Callable[[], AbstractAsyncContextManager[Pool]], front: Front, clock: Clock) -> None:
    opening = Opening(open_pool)
    async with anyio.create_task_group() as signals:
        await signals.start(_stop_on_signal, opening)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(opening.keep_open)
            async with connect(front) as (incoming, outgoing):
                server = make_server(opening.get, clock)
                await server.run(incoming, outgoing, server.create_initialization_options())
            opening.close()
        signals.cancel_scope.cancel()


async def _stop_on_signal(opening: Opening, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            log.info("stopping on %s", signal.Signals(number).name)
            await opening.stop()
            # A thread is still blocked on stdin, which only the host can close, so leave without waiting for it.
            sys.stderr.flush()
            os._exit(128 + number)


def make_server(get_pool: GetPool, clock: Clock) -> Server[Any]:
    """The MCP server of a pool; where there is none, every call says why."""

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult | dict[str, Any]:
        return await _call(get_pool, clock, params, context)

    async def read_resource(_: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        return await _read_resource(get_pool, str(params.uri))

    updates = _Updates(get_pool)
    icon = f"data:image/svg+xml;base64,{base64.b64encode(_ICON.encode()).decode()}"
    server: Server[Any] = Server(
        "pool-mcp",
        version=__version__,
        title="Claude subscription pool",
        instructions=tools.INSTRUCTIONS,
        icons=[Icon(src=icon, mime_type="image/svg+xml", sizes=["any"])],
        on_list_tools=_list_tools,
        on_list_resources=_list_resources,
        on_list_resource_templates=_list_resource_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=updates.subscribe,
        on_unsubscribe_resource=updates.unsubscribe,
        on_subscriptions_listen=updates.listen,
    )
    server.add_request_handler("tools/call", CallToolRequestParams, call_tool)
    server.extensions[EXTENSION_ID] = {}
    tasks.add_to(server, get_pool, lambda result: _answered(result, clock))
    return server


class _Updates:
    """Tells a host which resources an alert has changed, those that it asked for and from when it asked.

    In the earlier era of the protocol it asks with ``resources/subscribe``, from 2026-07-28 on with
    ``subscriptions/listen``. A host that asks for nothing costs nothing.
    """

    def __init__(self, get_pool: GetPool) -> None:
        self._get_pool = get_pool
        self._bus = InMemorySubscriptionBus()
        self._stream = ListenHandler(self._bus)
        self._subscribed: dict[str, ServerSession] = {}
        self._beginning = anyio.Lock()
        self._has_begun = False

    async def subscribe(self, context: Context, params: SubscribeRequestParams) -> EmptyResult:
        await self._begin()
        self._subscribed[params.uri] = context.session
        return EmptyResult()

    async def unsubscribe(self, _: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        self._subscribed.pop(params.uri, None)
        return EmptyResult()

    async def listen(self, context: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        await self._begin()
        return await self._stream(context, params)

    async def _begin(self) -> None:
        async with self._beginning:
            if self._has_begun:
                return
            try:
                await (await self._get_pool()).listen(self._tell)
            except PoolError as error:
                raise MCPError(code=INTERNAL_ERROR, message=error.message) from None
            self._has_begun = True

    async def _tell(self, alerts: Sequence[Alert]) -> None:
        for uri in [_STATUS_URI, *sorted({_SUBSCRIPTION_URI + one.subscription for one in alerts})]:
            await self._bus.publish(ResourceUpdated(uri=uri))
            if uri in self._subscribed:
                await self._subscribed[uri].send_resource_updated(uri)


# Tools


async def _list_tools(_: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(
        tools=[
            McpTool(
                name=tool.name,
                title=tool.title,
                description=tool.description,
                input_schema=tools.input_schema(tool),
                output_schema=tools.output_schema(tool),
                annotations=ToolAnnotations(
                    read_only_hint=tool.read_only,
                    destructive_hint=False,
                    idempotent_hint=tool.idempotent,
                    open_world_hint=tool.open_world,
                ),
                _meta={"ui": {"resourceUri": _APPS[tool.name]}} if tool.name in _APPS else None,
            )
            for tool in tools.TOOLS.values()
        ]
    )


async def _call(
    get_pool: GetPool, clock: Clock, params: CallToolRequestParams, context: Context
) -> CallToolResult | dict[str, Any]:
    """Call a tool and put its result, or its failure, into MCP's form; both halves of either are whole.

    Where the client knows tasks, an ask that is not over within ``inline_wait_s`` becomes one.

    Raises:
        MCPError: there is no such tool.
    """
    tool = tools.TOOLS.get(params.name)
    if tool is None:
        known = ", ".join(tools.TOOLS)
        raise MCPError(code=INVALID_PARAMS, message=safe_line(f"Unknown tool: {params.name!r}; there are {known}."))
    try:
        arguments = tool.parse(params.arguments)
        pool = await get_pool()
        result = await _run(pool, arguments, context)
        if isinstance(result, AskResult) and _goes_on(arguments, result) and tasks.is_known_to(params):
            return await tasks.created(pool, result)
        pictures = await _pictures(pool, arguments)
    except PoolError as error:
        log.info("%s: %s: %s", params.name, error.kind, type(error).__name__)
        return _answered(error, clock)
    except Exception:
        log.exception("%s failed unexpectedly", params.name)
        return _failed(internal_error())
    return CallToolResult(
        content=[TextContent(type="text", text=content.text_of(result)), *pictures],
        structured_content=_data(result),
    )


def _goes_on(arguments: tools.Arguments, result: AskResult) -> bool:
    """Whether an ask is not over; who has asked for its run's id only gets that."""
    is_ask = isinstance(arguments, tools.AskClaudeArguments) and not arguments.background
    return is_ask and result.status != "completed"


def _answered(result: AskResult | PoolError, clock: Clock) -> CallToolResult:
    """An ask's answer, or a failure, as the tool gives it."""
    if isinstance(result, PoolError):
        return _failed(error_result(result, clock()))
    return CallToolResult(
        content=[TextContent(type="text", text=content.text_of(result))], structured_content=_data(result)
    )


async def _run(pool: Pool, arguments: tools.Arguments, context: Context) -> BaseModel:
    match arguments:
        case tools.AskClaudeArguments():
            return await _ask_claude(pool, arguments, context)
        case tools.AskResultArguments(run_id=run_id, wait_s=wait_s, offset=offset, cancel=cancel):
            progress = _progress(context)
            return await pool.result(run_id, wait_s=wait_s, offset=offset, cancel=cancel, progress=progress)
        case tools.UsageStatusArguments(subscription=subscription, caller=caller):
            return await pool.status(subscription, caller)
        case tools.PickSubscriptionArguments(estimated_cost_usd=cost, model=model, session_id=session_id):
            return await pool.pick(cost, model, session_id)
        case tools.UsageReportArguments(by=by, since=since, until=until):
            only = Only(arguments.subscription, arguments.caller)
            found = await pool.look(pool.figures.report, by, since, until, only)
            if not arguments.forecast:
                return found
            return found.model_copy(update={"forecasts": await pool.look(pool.forecasts.all)})
        case tools.ReconcileUsageArguments(since=since, until=until, adjust=adjust):
            return await pool.organisation.reconcile(since, until, adjust=adjust)
    raise AssertionError(f"{type(arguments).__name__} belongs to no tool")


async def _pictures(pool: Pool, arguments: tools.Arguments) -> list[ImageContent]:
    """The chart that was asked for, as PNG: hosts hand it to models, which take no SVG."""
    if not (isinstance(arguments, tools.UsageReportArguments) and arguments.chart):
        return []
    from pool_mcp.views.png import png  # Pillow takes a while to load

    only = Only(arguments.subscription, arguments.caller)
    chart = await pool.look(pool.figures.chart, arguments.by, arguments.since, arguments.until, only)
    image = await anyio.to_thread.run_sync(png, chart)
    return [ImageContent(type="image", data=base64.b64encode(image).decode(), mime_type="image/png")]


def _failed(error: ErrorResult) -> CallToolResult:
    return CallToolResult(
        is_error=True,
        content=[TextContent(type="text", text=content.text_of_error(error))],
        structured_content={"error": error.model_dump(mode="json", exclude_none=True)},
    )


async def _ask_claude(pool: Pool, arguments: tools.AskClaudeArguments, context: Context) -> AskResult:
    said = arguments.model_dump(exclude={"max_cost_usd", "caller", "not_before", "give_up_at"})
    cap = arguments.max_cost_usd
    ask = Ask(
        **said,
        not_before_ms=pool.when("not_before", arguments.not_before),
        give_up_at_ms=pool.when("give_up_at", arguments.give_up_at),
        caller=arguments.caller or _client_name(context),
        max_cost_nanousd=None if cap is None else nanousd(cap),
    )
    return await pool.ask(ask, _progress(context))


def _client_name(context: Context) -> str:
    params = context.session.client_params
    name = params.client_info.name if params is not None else ""
    return safe_line(name)[:_LONGEST_NAME].strip() or "unknown"


_LONGEST_NAME = 100
"""Of a host's name so many characters are kept."""


def _progress(context: Context) -> Callable[[float, str], Awaitable[None]]:
    async def tell(elapsed_s: float, message: str) -> None:
        await context.session.report_progress(round(elapsed_s, 1), None, f"{message} ({elapsed_s:.0f} s)")

    return tell


_LEFT_OUT_WHEN_NONE = ("structured", "next_offset", "next_step", "caller")
_OF_WHAT_WAITS = ("position", "reason", "expected_at", "subscription")
"""Of an ask that waits and of no other, or the other way round."""


def _data(result: BaseModel) -> dict[str, Any]:
    left_out = (*_LEFT_OUT_WHEN_NONE, *(_OF_WHAT_WAITS if isinstance(result, AskResult) else ()))
    return {
        key: value for key, value in result.model_dump(mode="json").items() if value is not None or key not in left_out
    }


# Resources


async def _list_resources(_: Context, __: PaginatedRequestParams | None) -> ListResourcesResult:
    status = Resource(
        uri=_STATUS_URI,
        name="status",
        title="State of the pool",
        description="What is spent and left, as usage_status gives it.",
        mime_type="application/json",
    )
    apps = [
        Resource(uri=uri, name=f"{tool}_app", title=f"{tools.TOOLS[tool].title}, as a page", mime_type=APP_MIME_TYPE)
        for tool, uri in _APPS.items()
    ]
    return ListResourcesResult(resources=[status, *apps])


async def _list_resource_templates(_: Context, __: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
    return ListResourceTemplatesResult(
        resource_templates=[
            ResourceTemplate(
                uri_template=_SUBSCRIPTION_URI + "{id}",
                name="subscription",
                title="State of one subscription",
                mime_type="application/json",
            ),
            ResourceTemplate(
                uri_template=_RUN_URI + "{run_id}",
                name="run",
                title="One ask: its state, and its answer once there is one",
                mime_type="application/json",
            ),
        ]
    )


async def _read_resource(get_pool: GetPool, uri: str) -> ReadResourceResult:
    if uri in _APPS.values():
        page = await anyio.to_thread.run_sync(lambda: _APP_FILE.read_text(encoding="utf-8"))
        look = {"ui": {"prefersBorder": True}}
        return ReadResourceResult(
            contents=[TextResourceContents(uri=uri, mime_type=APP_MIME_TYPE, text=page, _meta=look)]
        )
    try:
        pool = await get_pool()
        if uri == _STATUS_URI:
            data = _data(await pool.status())
        elif uri.startswith(_SUBSCRIPTION_URI):
            status = await pool.status(uri.removeprefix(_SUBSCRIPTION_URI))
            data = _data(status.subscriptions[0])
        elif uri.startswith(_RUN_URI):
            data = _data(await pool.result(uri.removeprefix(_RUN_URI)))
        else:
            raise InvalidRequest(f"No resource {uri!r}; there are {_STATUS_URI}, {_SUBSCRIPTION_URI}ID, {_RUN_URI}ID.")
    except PoolError as error:
        raise MCPError(code=INVALID_PARAMS, message=error.message, data={"uri": uri, "kind": error.kind}) from None
    text = json.dumps(data, ensure_ascii=False)
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type="application/json", text=text)])
