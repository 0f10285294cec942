"""A stand-in for an OpenTelemetry collector: takes OTLP over HTTP, and keeps what it decodes."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """Use it as a context manager.

    spans, metrics, resource  what arrived, in order; the attributes of the resource that sent it last
    paths, headers            of each request; names of headers in lower case
    status                    of each answer
    answering                 cleared: no request is answered
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: list[Metric] = []
        self.resource: dict[str, object] = {}
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.answering = threading.Event()
        self.answering.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector._take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                collector.answering.wait()
                self.send_response(collector.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Collector":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.answering.set()
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.paths.append(path)
        self.headers.append(headers)
        if self.status != 200:
            return
        if path == "/v1/traces":
            for traces in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = attributes(traces.resource.attributes)
                self.spans += [span for scope in traces.scope_spans for span in scope.spans]
        else:
            for metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.resource = attributes(metrics.resource.attributes)
                self.metrics += [metric for scope in metrics.scope_metrics for metric in scope.metrics]


def attributes(of: "list[KeyValue] | Span | object") -> dict[str, object]:
    """Name -> value, of a span or a list of attributes."""
    pairs = of.attributes if isinstance(of, Span) else of
    found: dict[str, object] = {}
    for pair in pairs:  # type: ignore[attr-defined]  # protobuf's container
        found[pair.key] = getattr(pair.value, pair.value.WhichOneof("value"))
    return found
