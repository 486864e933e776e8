"""Gauges by OTLP/HTTP to a real receiver that parses the protobuf, whatever that receiver does."""

import subprocess
import sys
import threading
from contextlib import closing
from email.message import Message
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from receiver import Receiver
from support import make_home, now_ms, open_ledger, open_pool

from pool_mcp.background import metrics
from pool_mcp.background.metrics import Sending, send
from pool_mcp.demo.standin import Standin
from pool_mcp.model import Ask
from pool_mcp.results.metrics import Gauge
from pool_mcp.settings import MetricsSettings
from pool_mcp.setup.doctor import examine

pytestmark = pytest.mark.anyio

GAUGES = [
    Gauge("pool_mcp_window_used_percent", "Used.", [({"subscription": "a", "window": "five_hour"}, 42.5)]),
    Gauge("pool_mcp_reserved_usd", "Reserved.", [({"subscription": 'ü "x"\n'}, 0.25), ({"subscription": "b"}, 0.0)]),
    Gauge("pool_mcp_runs", "None yet.", []),
]


class Collector(Receiver):
    """Takes what an OpenTelemetry collector would, and says it in tuples."""

    def _read(self, headers: Message, content: bytes) -> Any:
        assert headers["content-type"] == "application/x-protobuf"
        request = ExportMetricsServiceRequest.FromString(content)
        return [
            (metric.name, metric.unit, point.time_unix_nano, labels_of(point), point.as_double)
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.gauge.data_points
        ]

    @property
    def endpoint(self) -> str:
        return self.url.rpartition("/")[0]


def labels_of(point: Any) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in point.attributes}


def test_every_gauge_arrives_with_its_labels_unit_and_time() -> None:
    with Collector() as collector:
        settings = MetricsSettings(otlp_endpoint=collector.endpoint + "/", headers={"Authorization": "WORD"})
        assert send(settings, {}, GAUGES, 5) == "WORD is not set in this environment"
        assert send(settings, {"WORD": "secret"}, GAUGES, 1_769_601_600_123) is None
        at_ns = 1_769_601_600_123_000_000
        assert collector.taken == [
            [
                ("pool_mcp_window_used_percent", "%", at_ns, {"subscription": "a", "window": "five_hour"}, 42.5),
                ("pool_mcp_reserved_usd", "{USD}", at_ns, {"subscription": 'ü "x"\n'}, 0.25),
                ("pool_mcp_reserved_usd", "{USD}", at_ns, {"subscription": "b"}, 0.0),
            ]
        ]
        assert [headers["authorization"] for headers in collector.headers] == ["secret"]


def test_a_collector_that_fails_hangs_redirects_or_is_away_is_one_line_and_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Collector(failure=400) as collector, Collector() as elsewhere:
        settings = MetricsSettings(otlp_endpoint=collector.endpoint)
        found = {}
        for mode in ("fail", "hang", "redirect"):
            collector.mode = mode
            monkeypatch.setattr(metrics, "TIMEOUT_S", 0.3 if mode == "hang" else 60.0)
            found[mode] = send(settings, {}, GAUGES, 5)
        collector.mode = "ok"
        assert send(settings, {}, GAUGES, 5) is None
        assert found == {"fail": "HTTP 400", "hang": "no connection, or no answer within 0.3 s", "redirect": "HTTP 307"}
        assert (len(collector.taken), elsewhere.tried) == (1, [])
    monkeypatch.setattr(metrics, "TIMEOUT_S", 0.3)
    assert send(settings, {}, GAUGES, 5) == "no connection, or no answer within 0.3 s"


def test_the_doctor_tries_the_collector(tmp_path: Path) -> None:
    with Collector(failure=400) as collector:
        settings, env = make_home(tmp_path)
        with settings.config_file.open("a") as file:
            file.write(f'[metrics]\notlp_endpoint = "{collector.endpoint}"\n')
        found = {}
        for mode in ("ok", "fail"):
            collector.mode = mode
            found[mode] = [(one.status, one.text) for one in examine(env, now_ms()).findings if one.check == "metrics"]
    assert found == {
        "ok": [("ok", "127.0.0.1 takes them")],
        "fail": [("broken", "127.0.0.1: HTTP 400")],
    }


async def test_of_several_processes_one_sends_and_another_goes_on_when_it_is_gone(tmp_path: Path) -> None:
    with Collector() as collector:
        settings, env = make_home(tmp_path)
        object.__setattr__(settings, "metrics", MetricsSettings(otlp_endpoint=collector.endpoint))
        now = [now_ms()]

        async def gauges() -> list[Gauge]:
            return GAUGES

        with closing(open_ledger(settings)) as one, closing(open_ledger(settings)) as two:
            first, second = (Sending(settings, ledger, env, lambda: now[0], gauges) for ledger in (one, two))
            for sending in (first, second, first):
                await sending.send_if_due()
            assert len(collector.taken) == 1
            now[0] += 60_000
            await second.send_if_due()
            assert len(collector.taken) == 2
            collector.mode = "redirect"
            now[0] += 60_000
            with pytest.raises(ConnectionError, match=r"^127\.0\.0\.1: HTTP 307$"):
                await first.send_if_due()


async def test_an_open_pool_sends_its_gauges_and_an_ask_does_not_wait_for_a_collector_that_hangs(
    standin: Standin, tmp_path: Path
) -> None:
    arrived = threading.Event()

    class Hanging(Collector):
        def _read(self, headers: Message, content: bytes) -> Any:
            try:
                return super()._read(headers, content)
            finally:
                arrived.set()

    with Hanging(mode="hang") as collector:
        settings, env = make_home(tmp_path, standin)
        object.__setattr__(settings, "metrics", MetricsSettings(otlp_endpoint=collector.endpoint))
        async with open_pool(settings, env) as pool:
            assert await anyio.to_thread.run_sync(arrived.wait, 60)
            answer = await pool.ask(Ask("Say something.", "tests"))
            assert answer.status == "completed"
            names = {gauge.name for gauge in await pool.gauges() if gauge.samples}
            collector.release.set()
        sent = {name for name, *_ in collector.tried[0]}
        assert sent <= names
        assert "pool_mcp_headroom_usd" in sent


def test_nothing_of_opentelemetry_is_loaded_without_an_endpoint_and_its_absence_is_told() -> None:
    program = (
        "import sys, pool_mcp.pool, pool_mcp.setup.doctor\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry', 'requests'))]\n"
        "sys.modules['opentelemetry'] = None\n"
        "from pool_mcp.background.metrics import send\n"
        "from pool_mcp.settings import MetricsSettings\n"
        "print(send(MetricsSettings(otlp_endpoint='http://127.0.0.1:9'), {}, [], 0))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "OpenTelemetry is not installed; install pool-mcp with its extra otlp\n"
