"""What reaches a collector, and what becomes of spans and metrics if it is slow or away."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import structlog
from structlog.testing import LogCapture

from btfeed.telemetry import warnings
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.opentelemetry import exporter as module
from btfeed.telemetry.opentelemetry.exporter import MAX_SPANS, Exporter, check_collector
from btfeed.telemetry.opentelemetry.settings import OpenTelemetrySettings
from tests.support.collector import Collector
from tests.support.harness import until_async
from tests.support.ports import free_port


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What is logged."""
    capture = LogCapture()
    for each in (module, warnings):
        monkeypatch.setattr(each, "log", structlog.wrap_logger(None, processors=[capture]))
    return capture.entries  # type: ignore[return-value]  # mutable mappings


async def nothing() -> None: ...


@asynccontextmanager
async def exporting(settings: OpenTelemetrySettings, metrics: Metrics | None = None) -> AsyncIterator[Exporter]:
    exporter = Exporter(settings, metrics or Metrics(), "1.2.3")
    exporter.start(nothing)
    try:
        yield exporter
    finally:
        await exporter.stop()


def settings(url: str, **keys: object) -> OpenTelemetrySettings:
    return OpenTelemetrySettings.model_validate({"endpoint": url, "metrics_interval": "0s"} | keys)


def record(exporter: Exporter, number: int) -> None:
    for _ in range(number):
        exporter.tracer.start_span("test").end()


def counted(metrics: Metrics) -> Callable[[], float]:
    return lambda: metrics.registry.get_sample_value("btfeed_opentelemetry_lost_spans_total") or 0.0


async def test_what_is_left_is_sent_at_the_stop(collector: Collector) -> None:
    """With the metrics' last values."""
    metrics = Metrics()
    async with exporting(settings(collector.url, metrics_interval="1h"), metrics) as exporter:
        metrics.posts.inc(5)
        record(exporter, 3)
    assert [span.name for span in collector.spans] == ["test"] * 3
    (posts,) = (metric for metric in collector.metrics if metric.name == "btfeed_posts_total")
    assert posts.sum.data_points[0].as_double == 5
    assert sorted(set(collector.paths)) == ["/v1/metrics", "/v1/traces"]
    assert counted(metrics)() == 0


async def test_headers_and_the_resource_are_as_configured(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the environment remain, unless the configuration has the same."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-a=1,x-b=2")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=h,service.namespace=environment")
    configured = settings(
        collector.url, headers={"authorization": "Bearer abc", "x-b": "3"}, attributes={"service.namespace": "shop"}
    )
    async with exporting(configured) as exporter:
        record(exporter, 1)
    (headers,) = collector.headers
    assert {name: headers[name] for name in ("authorization", "x-a", "x-b")} == {
        "authorization": "Bearer abc",
        "x-a": "1",
        "x-b": "3",
    }
    assert collector.resource.pop("service.instance.id")
    assert collector.resource == {
        "service.name": "btfeed",
        "service.version": "1.2.3",
        "service.namespace": "shop",
        "host.name": "h",
    }


async def test_what_is_not_configured_is_as_the_environment_says(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table may be empty."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "feed")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "2500")
    configured = OpenTelemetrySettings()
    assert module.interval(configured) == 2.5
    async with exporting(configured) as exporter:
        record(exporter, 1)
    assert collector.resource["service.name"] == "feed"
    assert len(collector.spans) == 1


async def test_traces_are_sampled(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the key, else by the environment. Deliveries of a traced post are always recorded."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with exporting(settings(collector.url)) as exporter:
        record(exporter, 100)
        exporter.delivery_tracer.start_span("deliver").end()
    assert [span.name for span in collector.spans] == ["deliver"]
    collector.spans.clear()
    async with exporting(settings(collector.url, traces=0.5)) as exporter:
        record(exporter, 1_000)
    assert 300 < len(collector.spans) < 700


async def test_metrics_are_sent_at_each_interval(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """After those were brought up to date that change only when they are read. A failure ends nothing."""
    monkeypatch.setattr(module, "interval", lambda _: 0.01)
    metrics = Metrics()
    updates = 0

    async def update() -> None:
        nonlocal updates
        updates += 1
        metrics.connections.set(updates)
        if updates == 1:
            raise RuntimeError("a bug")

    exporter = Exporter(settings(collector.url), metrics, "1")
    exporter.start(update)

    def values() -> set[float]:
        found = [metric for metric in list(collector.metrics) if metric.name == "btfeed_connections"]
        return {metric.gauge.data_points[0].as_double for metric in found}

    await until_async(lambda: {2.0, 3.0} <= values(), "two exports")
    await exporter.stop()


async def test_metrics_that_did_not_arrive_count_and_come_with_the_next(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, object]]
) -> None:
    """Also if only differences are sent."""
    monkeypatch.setattr(module, "interval", lambda _: 0.01)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    collector.status = 400  # nothing that is tried again
    metrics = Metrics()
    metrics.posts.inc(5)
    async with exporting(settings(collector.url), metrics):
        failed = "btfeed_opentelemetry_failed_metric_exports_total"
        await until_async(lambda: (metrics.registry.get_sample_value(failed) or 0) >= 2, "two failures")
        collector.status = 200
        await until_async(lambda: collector.metrics, "metrics")
    sums = [metric for metric in collector.metrics if metric.name == "btfeed_posts_total"]
    assert sum(metric.sum.data_points[0].as_double for metric in sums) == 5
    assert "metrics not exported, sent again later" in [event["event"] for event in events]


async def test_spans_for_which_there_is_no_room_are_counted(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, object]]
) -> None:
    """A collector that does not answer takes memory for MAX_SPANS, and no time of those who record. A stop waits for it
    no longer than FLUSH, and says how many spans are lost."""
    monkeypatch.setattr(module, "FLUSH", 0.05)
    collector.answering.clear()
    metrics = Metrics()
    async with exporting(settings(collector.url), metrics) as exporter:
        record(exporter, MAX_SPANS + 100)
        assert counted(metrics)() == 100
        await until_async(lambda: "spans lost" in [event["event"] for event in events], "logged")
    assert {"event": "spans lost at the stop", "count": MAX_SPANS, "log_level": "warning"} in events
    assert sum(int(str(event["count"])) for event in events if event["event"] == "spans lost") == 100


async def test_spans_that_the_collector_does_not_take_are_counted(
    collector: Collector, events: list[dict[str, object]]
) -> None:
    """The log says why, in one line however many requests fail; the SDK's own lines are in it."""
    collector.status = 401
    metrics = Metrics()
    async with exporting(settings(collector.url), metrics) as exporter:
        record(exporter, 1_300)
        await until_async(lambda: counted(metrics)() >= 1_024, "two requests")
    assert counted(metrics)() == 1_300
    said = [event for event in events if event["event"] == "OpenTelemetry"]
    assert sum(int(str(event["count"])) for event in said) == 3
    assert len(said) <= 2  # one at once, and the sum
    assert "401" in str(said[0]["message"])
    assert logging.getLogger("opentelemetry").propagate


async def test_a_collector_that_is_away_holds_up_no_stop(
    monkeypatch: pytest.MonkeyPatch, events: list[dict[str, object]]
) -> None:
    """What is tried again at the stop is tried for FLUSH at most."""
    monkeypatch.setattr(module, "FLUSH", 0.05)
    started = time.monotonic()
    async with exporting(settings(f"http://127.0.0.1:{free_port()}")) as exporter:
        record(exporter, 10)
    assert time.monotonic() - started < 5  # a request is tried again for 10 s
    assert "spans lost at the stop" in [event["event"] for event in events]


async def test_a_check_asks_for_what_would_be_sent(collector: Collector) -> None:
    """It sends no spans and no metrics."""
    assert await asyncio.to_thread(check_collector, settings(collector.url, metrics_interval="1m")) is None
    assert collector.paths == ["/v1/traces", "/v1/metrics"]
    assert collector.spans == collector.metrics == []
    collector.paths.clear()
    assert await asyncio.to_thread(check_collector, settings(collector.url, traces=0)) is None
    assert collector.paths == []
    collector.status = 401
    warning = await asyncio.to_thread(check_collector, settings(collector.url))
    assert warning == ("the collector takes no traces now: Failed to export spans batch code: 401, reason: Unauthorized")
