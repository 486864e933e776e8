"""An organisation on loopback: Anthropic's Admin API in the documented shapes, over calls that a test names."""

import json
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pool_mcp.model import DAY_MS, HOUR_MS, NANO, Tokens

ADMIN_KEY = "sk-ant-admin01-loopback"
ORG_KEY = "apikey_01Rj2N8SVvo6BePZj99NhmiT"


@dataclass(frozen=True, slots=True)
class Use:
    """What one key did with one model at one instant."""

    at_ms: int
    nanousd: int
    model: str = "claude-opus-5-5"
    key: str = ORG_KEY
    tokens: Tokens = Tokens(1000, 500, 0, 0, 4000)  # noqa: RUF009  (a frozen value)
    list_nanousd: int | None = None


@dataclass
class Organisation:
    """The server; use as a context manager. ``uses`` may be changed between and during requests."""

    uses: list[Use] = field(default_factory=list)
    refreshed_at: str = "2099-01-01T00:00:00Z"
    page_size: int = 1000
    currency: str = "USD"
    amount: Callable[[int], object] = field(default_factory=lambda: cents)
    bodies: dict[str, bytes] = field(default_factory=dict)
    """Whole answers by path, instead of what is made from ``uses``."""
    missing: set[str] = field(default_factory=set)
    problems: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    """Statuses and headers for the next answers, instead of what was asked for."""
    before_page: Callable[[int], None] | None = None
    """Called with the number of each request, from 1, before it is answered."""
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        app = Starlette(routes=[Route("/v1/organizations/{path:path}", self._answer)])
        config = uvicorn.Config(app, log_config=None, log_level="critical", access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def forget(self) -> Self:
        """Be as at the start, for the next test."""
        for name, value in vars(Organisation()).items():
            setattr(self, name, value)
        return self

    def paths(self) -> list[str]:
        return [request.path_params["path"] for request in self.requests]

    async def _answer(self, request: Request) -> Response:
        self.requests.append(request)
        if self.before_page is not None:
            self.before_page(len(self.requests))
        path: str = request.path_params["path"]
        if request.headers.get("x-api-key") != ADMIN_KEY:
            return _error(401, "authentication_error", "invalid x-api-key")
        if request.headers.get("anthropic-version") != "2023-06-01" or "pool-mcp" not in request.headers["user-agent"]:
            return _error(400, "invalid_request_error", "anthropic-version: header is required")
        if self.problems:
            status, headers = self.problems.popleft()
            if status:
                return _error(status, "some_error", "as the test wants it", headers)
        if path in self.missing:
            return _error(404, "not_found_error", "Not found")
        if path in self.bodies:
            return Response(self.bodies[path], media_type="application/json")
        match path:
            case "usage_report/messages":
                return self._messages(request)
            case "cost_report":
                return self._cost_report(request)
            case "analytics/usage" | "analytics/cost":
                if request.headers.get("anthropic-beta") != "analytics-usage-cost-2026-08-24":
                    return _error(404, "not_found_error", "Not found")
                return self._analytics(request, path.rpartition("/")[2])
        return _error(404, "not_found_error", "Not found")

    def _messages(self, request: Request) -> Response:
        assert request.query_params["bucket_width"] == "1h"
        groups = request.query_params.getlist("group_by[]")
        assert {"model", "api_key_id"} <= set(groups)
        return self._buckets(request, HOUR_MS, 168, self._message_rows)

    def _message_rows(self, uses: list[Use]) -> list[dict[str, Any]]:
        return [
            {
                "account_id": None,
                "api_key_id": key,
                "context_window": "0-200k",
                "inference_geo": None,
                "model": model,
                "service_account_id": None,
                "service_tier": "standard",
                "workspace_id": None,
                **_usage(own),
            }
            for (key, model), own in _grouped(uses).items()
        ]

    def _cost_report(self, request: Request) -> Response:
        def rows(uses: list[Use]) -> list[dict[str, Any]]:
            return [
                {
                    "amount": self.amount(sum(use.nanousd for use in own)),
                    "context_window": "0-200k",
                    "cost_type": "tokens",
                    "currency": self.currency,
                    "description": f"{model} Usage of {key}",
                    "inference_geo": None,
                    "model": model,
                    "service_tier": "standard",
                    "token_type": "output_tokens",
                    "workspace_id": None,
                }
                for (key, model), own in _grouped(uses).items()
            ]

        return self._buckets(request, DAY_MS, 31, rows)

    def _buckets(
        self, request: Request, width_ms: int, most: int, rows: Callable[[list[Use]], list[dict[str, Any]]]
    ) -> Response:
        since, until = ms(request.query_params["starting_at"]), ms(request.query_params["ending_at"])
        assert since % width_ms == until % width_ms == 0
        size = min(self.page_size, int(request.query_params["limit"]))
        assert size <= most
        start = int(request.query_params.get("page", f"page_{since}").removeprefix("page_"))
        starts = list(range(start, min(until, start + size * width_ms), width_ms))
        data = [
            {
                "starting_at": at(one),
                "ending_at": at(one + width_ms),
                "results": rows([use for use in self.uses if one <= use.at_ms < one + width_ms]),
            }
            for one in starts
        ]
        following = start + size * width_ms
        more = following < until
        return _json({"data": data, "has_more": more, "next_page": f"page_{following}" if more else None})

    def _analytics(self, request: Request, what: str) -> Response:
        assert request.query_params["time_bucket_width"] == "1h"
        since, until = ms(request.query_params["starting_at"]), ms(request.query_params["ending_at"])
        assert until - since <= 31 * DAY_MS
        data = []
        for hour in sorted({use.at_ms // HOUR_MS * HOUR_MS for use in self.uses if since <= use.at_ms < until}):
            uses = [use for use in self.uses if use.at_ms // HOUR_MS * HOUR_MS == hour]
            for (key, model), own in _grouped(uses).items():
                cost = {
                    "amount": cents(sum(use.nanousd for use in own)),
                    "currency": "USD",
                    "list_amount": cents(
                        sum(use.nanousd if use.list_nanousd is None else use.list_nanousd for use in own)
                    ),
                    "requests": len(own),
                }
                usage = _usage(own) | {"requests": len(own), "total_tokens": 0}
                group = {"actor": None, "actor_type": None, "api_key_id": key, "model": model, "workspace_id": None}
                data.append({"starting_at": at(hour), "ending_at": at(hour + HOUR_MS), "group": group})
                data[-1][what] = usage if what == "usage" else cost
        return self._flat(request, data, data_refreshed_at=self.refreshed_at)

    def _flat(self, request: Request, data: list[dict[str, Any]], **more: object) -> Response:
        size = min(self.page_size, int(request.query_params["limit"]))
        start = int(request.query_params.get("page", "page_0").removeprefix("page_"))
        following = start + size
        has_more = following < len(data)
        page = f"page_{following}" if has_more else None
        return _json({"data": data[start:following], "has_more": has_more, "next_page": page, **more})


def _grouped(uses: list[Use]) -> dict[tuple[str, str], list[Use]]:
    found: dict[tuple[str, str], list[Use]] = {}
    for use in uses:
        found.setdefault((use.key, use.model), []).append(use)
    return found


def _usage(uses: list[Use]) -> dict[str, Any]:
    tokens = sum((use.tokens for use in uses), Tokens())
    return {
        "uncached_input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_creation_5m,
            "ephemeral_1h_input_tokens": tokens.cache_creation_1h,
        },
        "server_tool_use": {"web_search_requests": tokens.web_search_requests},
    }


def cents(nanousd: int) -> str:
    """As the reports write amounts: cents with six decimals."""
    return f"{Decimal(nanousd) * 100 / NANO:.6f}"


def at(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ms(said: str) -> int:
    return round(datetime.fromisoformat(said).timestamp() * 1000)


def _json(body: object) -> Response:
    return Response(json.dumps(body), media_type="application/json")


def _error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}
    return JSONResponse(body, status, headers)
