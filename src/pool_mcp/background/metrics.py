"""Sends the pool's gauges by OTLP/HTTP with the official OpenTelemetry SDK, which is loaded for nobody else.

One process of all that share a ledger sends at a time. A collector that is away or hangs costs a line in the log and
delays nothing: each try is bounded and has a thread of its own.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from anyio.to_thread import run_sync as in_thread

from pool_mcp import __version__
from pool_mcp.ledger.ledger import Ledger
from pool_mcp.model import SECOND_MS
from pool_mcp.results.metrics import Gauge
from pool_mcp.settings import MetricsSettings, Settings
from pool_mcp.system import places
from pool_mcp.values import host_of

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData

TIMEOUT_S = 10.0
"""For one request with all its repetitions."""

UNITS = (("_percent", "%"), ("_usd_per_hour", "{USD}/h"), ("_usd", "{USD}"), ("_seconds", "s"))
"""What a gauge's name ends in, and the unit that stands for it."""


class Sending:
    """Call :meth:`send_if_due` at intervals."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        env: Mapping[str, str],
        clock: Callable[[], int],
        gauges: Callable[[], Awaitable[Sequence[Gauge]]],
    ) -> None:
        self._settings = settings.metrics
        self._ledger = ledger
        self._env = env
        self._clock = clock
        self._gauges = gauges

    async def send_if_due(self) -> None:
        """Send the gauges where no other process has since the last time.

        Raises:
            ConnectionError: the collector has not taken them.
        """
        if await in_thread(self._is_due):
            now_ms = self._clock()
            found = await self._gauges()
            if problem := await in_thread(send, self._settings, self._env, found, now_ms):
                raise ConnectionError(f"{host_of(self._settings.otlp_endpoint)}: {problem}")

    def _is_due(self) -> bool:
        # A little less than the interval, so that the next turn finds the lease ended.
        for_ms = round(self._settings.interval_s * SECOND_MS * 0.9)
        with self._ledger.write() as tx:
            return tx.leases.take("otlp", self._clock(), for_ms)


def send(settings: MetricsSettings, env: Mapping[str, str], found: Sequence[Gauge], now_ms: int) -> str | None:
    """Send gauges once; None where they were taken, else why not. Blocks for :data:`TIMEOUT_S` at most."""
    for name in settings.headers.values():
        if places.read_env(env, name) is None:
            return f"{name} is not set in this environment"
    try:
        import requests
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import MetricExportResult
    except ImportError:
        return "OpenTelemetry is not installed; install pool-mcp with its extra otlp"
    session = requests.Session()
    session.max_redirects = 0  # a person's tokens go where the person has written
    session.trust_env = False
    statuses: list[int] = []
    session.hooks["response"].append(lambda response, **_: statuses.append(response.status_code))
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what it would say is returned from here
    exporter = OTLPMetricExporter(
        endpoint=settings.otlp_endpoint.rstrip("/") + "/v1/metrics",
        headers={header: places.read_env(env, name) or "" for header, name in settings.headers.items()},
        timeout=TIMEOUT_S,
        session=session,
    )
    try:
        taken = exporter.export(_as_otlp(found, now_ms), timeout_millis=TIMEOUT_S * SECOND_MS)
        if taken is MetricExportResult.SUCCESS:
            return None
        return f"HTTP {statuses[-1]}" if statuses else f"no connection, or no answer within {TIMEOUT_S:g} s"
    finally:
        exporter.shutdown(timeout_millis=SECOND_MS)
        session.close()


def _as_otlp(found: Sequence[Gauge], now_ms: int) -> "MetricsData":
    from opentelemetry.sdk.metrics import export as sdk
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    now_ns = now_ms * 1_000_000
    metrics = [
        sdk.Metric(
            name=name,
            description=meaning,
            unit=next((unit for ending, unit in UNITS if name.endswith(ending)), "1"),
            data=sdk.Gauge([sdk.NumberDataPoint(labels, now_ns, now_ns, value) for labels, value in samples]),
        )
        for name, meaning, samples in found
        if samples
    ]
    scope = sdk.ScopeMetrics(InstrumentationScope("pool_mcp", __version__), metrics, "")
    resource = Resource({"service.name": "pool-mcp", "service.version": __version__})
    return sdk.MetricsData([sdk.ResourceMetrics(resource, [scope], "")])
