"""Sends spans and metrics to a collector, in the background.

A collector that is slow or away costs posts nothing: spans wait in a bounded queue and are lost when it is full, which is
counted; metrics are sent again with the next interval. Requests are made on threads that do not keep the process from
ending, since a request to a host that does not answer takes as long as its timeout.
"""

import asyncio
import logging
import os
import re
import threading
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

import structlog
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBasedTraceIdRatio
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Tracer

from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.opentelemetry.registry import RegistryReader
from btfeed.telemetry.opentelemetry.settings import OpenTelemetrySettings
from btfeed.telemetry.warnings import SummedWarnings

log = structlog.get_logger()
T = TypeVar("T")

MAX_SPANS = 2_048
"""Spans that wait to be sent, or are being sent. Further ones are lost."""
FLUSH = 1.0
"""Seconds that the last spans and metrics may take to be sent when the server stops. At a restart, posts wait meanwhile."""
CHECK_TIMEOUT = 3.0
"""Seconds that `btfeed check` waits for the collector."""
INTERVAL = 60.0
"""Seconds between two exports of the metrics, unless configured."""


class Exporter:
    """Sends what the tracers record and what the registry holds, from `start` to `stop`.

    tracer           of posts: samples
    delivery_tracer  of deliveries, which are recorded because of a post that is: samples everything
    """

    def __init__(self, settings: OpenTelemetrySettings, metrics: Metrics, version: str) -> None:
        resource = _resource(settings, version)
        self._metrics = metrics
        self._warnings = SummedWarnings()
        self._spans = _Spans(span_exporter(settings), self._lose_spans)
        self._interval = interval(settings)
        self._metric_exporter = metric_exporter(settings)
        scope = InstrumentationScope("btfeed", version)
        self._reader = RegistryReader(metrics.registry, resource, scope, delta=_wants_delta())
        self._sending: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sdk_logs = _SdkLogs(self._warn_soon)
        sampler = None if settings.traces is None else ParentBasedTraceIdRatio(settings.traces)  # None: OTEL_TRACES_SAMPLER
        self._processor = _BoundedProcessor(self._spans)

        def tracer(provider: TracerProvider) -> Tracer:
            provider.add_span_processor(self._processor)
            return provider.get_tracer("btfeed", version)

        self.tracer = tracer(TracerProvider(sampler, resource, shutdown_on_exit=False))
        self.delivery_tracer = tracer(TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False))

    def start(self, update: Callable[[], Awaitable[object]]) -> None:
        """Begin to send. update: brings metrics up to date that only change when they are read."""
        self._loop = asyncio.get_running_loop()
        self._sdk_logs.install()
        if self._interval:
            self._sending = asyncio.create_task(self._send_metrics(self._interval, update), name="OpenTelemetry metrics")

    def reconfigure(self, settings: OpenTelemetrySettings) -> None:
        """Send to another endpoint or with other headers. What is being sent is sent as before."""
        self._spans.use(span_exporter(settings))
        self._metric_exporter = metric_exporter(settings)

    async def stop(self) -> None:
        """Send what is left, for at most FLUSH seconds. Does nothing before `start`."""
        if not self._loop:
            return
        self._stopping.set()
        last: list[asyncio.Future[None]] = [_in_daemon_thread(self._processor.shutdown)]
        if self._sending:
            last.append(self._sending)
        _, late = await asyncio.wait(last, timeout=FLUSH)
        try:
            for each in late:
                each.cancel()
            if self._spans.waiting:
                log.warning("spans lost at the stop", count=self._spans.waiting)
        finally:
            self._spans.shutdown()
            self._metric_exporter.shutdown()
            self._loop = None
            self._warnings.close()
            self._sdk_logs.remove()

    async def _send_metrics(self, interval: float, update: Callable[[], Awaitable[object]]) -> None:
        """At each interval, and at the stop."""
        stopping = False
        while not stopping:
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval):
                        await self._stopping.wait()
                stopping = self._stopping.is_set()
                if not stopping:
                    await update()
                await self._export_metrics()
            except Exception:
                log.exception("bug in exporting metrics")

    async def _export_metrics(self) -> None:
        data = self._reader.read()
        if await _in_daemon_thread(lambda: self._metric_exporter.export(data)) is MetricExportResult.SUCCESS:
            self._reader.sent()
        else:
            self._metrics.failed_metric_exports.inc()
            self._warnings.warn("metrics not exported, sent again later", "metrics")

    def _lose_spans(self, number: int) -> None:
        """Called on any thread."""
        self._metrics.lost_spans.inc(number)
        self._warn_soon("spans lost", "spans", number)

    def _warn_soon(self, event: str, key: str, count: int = 1, **fields: str) -> None:
        """Called on any thread."""

        def warn() -> None:
            if self._loop:  # not stopped meanwhile
                self._warnings.warn(event, key, count, **fields)

        if loop := self._loop:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(warn)


class _Spans(SpanExporter):
    """Counts the spans that wait for an exporter, and those that it could not send. Used on several threads."""

    def __init__(self, exporter: SpanExporter, lose: Callable[[int], None]) -> None:
        self.waiting = 0
        self._exporter = exporter
        self._lose = lose
        self._lock = threading.Lock()

    def admit(self) -> bool:
        """Whether there is room for one more."""
        with self._lock:
            if self.waiting < MAX_SPANS:
                self.waiting += 1
                return True
        self._lose(1)
        return False

    def use(self, exporter: SpanExporter) -> SpanExporter:
        """Export to another one from now on. Returns the former one."""
        with self._lock:
            former, self._exporter = self._exporter, exporter
        return former

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                self.waiting -= len(spans)
            if result is not SpanExportResult.SUCCESS:
                self._lose(len(spans))
        return result

    def shutdown(self) -> None:
        """Give up what is being sent."""
        self.use(_CLOSED).shutdown()


class _Closed(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing to do."""


_CLOSED = _Closed()


class _BoundedProcessor(BatchSpanProcessor):
    """Its own queue drops spans without a count, so it gets no more than it takes."""

    def __init__(self, spans: _Spans) -> None:
        super().__init__(spans, max_queue_size=MAX_SPANS)
        self._spans = spans

    def on_end(self, span: ReadableSpan) -> None:
        if self._spans.admit():
            super().on_end(span)


class _SdkLogs(logging.Handler):
    """Sums what the SDK logs for each attempt to send something, instead of a line for each."""

    def __init__(self, warn: Callable[..., None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn
        self._logger = logging.getLogger("opentelemetry")

    def install(self) -> None:
        self._logger.addHandler(self)
        self._logger.propagate = False

    def remove(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        self._warn("OpenTelemetry", str(record.msg), message=record.getMessage())


class _FirstFailure(_SdkLogs):
    """Keeps the first message, as the reason of a failure, and lets nothing be tried again."""

    def __init__(self, exporter: OTLPSpanExporter | OTLPMetricExporter) -> None:
        super().__init__(lambda *_: None)
        self.reason = ""
        self._exporter = exporter

    def emit(self, record: logging.LogRecord) -> None:
        if not self.reason:
            message = record.getMessage()
            errno = re.search(r"\[Errno \d+\] [A-Za-z ]+", message)  # inside a nest of exceptions
            self.reason = errno[0] if errno else message
            self._exporter.shutdown()


def check_collector(settings: OpenTelemetrySettings) -> str | None:
    """Send an empty request for each kind of data that `serve` would send. Returns what went wrong. Blocks."""
    spans, metrics = span_exporter(settings, CHECK_TIMEOUT), metric_exporter(settings, CHECK_TIMEOUT)
    failures = []
    if settings.traces != 0:
        failures.append(_failure("traces", spans, lambda: spans.export([]) is SpanExportResult.SUCCESS))
    if interval(settings):
        sent = MetricsData([])
        failures.append(_failure("metrics", metrics, lambda: metrics.export(sent) is MetricExportResult.SUCCESS))
    return next(filter(None, failures), None)


def _failure(what: str, exporter: OTLPSpanExporter | OTLPMetricExporter, send: Callable[[], bool]) -> str | None:
    failure = _FirstFailure(exporter)
    failure.install()
    try:
        return None if send() else f"the collector takes no {what} now: {failure.reason}"
    finally:
        failure.remove()


def span_exporter(settings: OpenTelemetrySettings, timeout: float | None = None) -> OTLPSpanExporter:
    """What is not configured is as the environment says (OTEL_EXPORTER_OTLP_...)."""
    return OTLPSpanExporter(_endpoint(settings, "traces"), headers=_headers(settings), timeout=timeout)


def metric_exporter(settings: OpenTelemetrySettings, timeout: float | None = None) -> OTLPMetricExporter:
    """See span_exporter."""
    return OTLPMetricExporter(_endpoint(settings, "metrics"), headers=_headers(settings), timeout=timeout)


def interval(settings: OpenTelemetrySettings) -> float:
    """Seconds between two exports of the metrics; 0 if they are not sent."""
    if settings.metrics_interval is not None:
        return settings.metrics_interval
    try:
        return max(1.0, int(os.environ["OTEL_METRIC_EXPORT_INTERVAL"]) / 1000)
    except (KeyError, ValueError):
        return INTERVAL


def _endpoint(settings: OpenTelemetrySettings, signal: str) -> str | None:
    return settings.endpoint and f"{settings.endpoint.rstrip('/')}/v1/{signal}"


def _headers(settings: OpenTelemetrySettings) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in settings.headers.items()}


def _wants_delta() -> bool:
    return os.environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip().lower() in ("delta", "lowmemory")


def _resource(settings: OpenTelemetrySettings, version: str) -> Resource:
    own = {"service.name": "btfeed", "service.version": version, "service.instance.id": str(uuid.uuid4())}
    return Resource(own).merge(OTELResourceDetector().detect()).merge(Resource(settings.attributes))


def _in_daemon_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """`call` on a thread of its own. The event loop's pool would wait for it when the process ends."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            done.set_exception(error)

    threading.Thread(target=run, name="OpenTelemetry", daemon=True).start()
    return asyncio.wrap_future(done)
