"""Traces posts, from receipt to each sink: the parts of a server that record spans.

    receive          a post, from its header to its answer; its parent is the client's span, if it sends a `traceparent`
      append         until the post is durable
    deliver NAME     a write to a sink, with a link to the `receive` span of each post in it that is traced. It belongs to
                     the trace of that post if there is one only

Spans of posts are kept in memory, for the deliveries to link to: those of the last MAX_TRACED posts that are traced. So
what a sink gets after a restart, or long after its receipt, has no spans.

Imported only if [opentelemetry] is enabled. Otherwise the parts are the plain ones (btfeed/app/parts.py).
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from btfeed.app.instruments import Instruments
from btfeed.http.request import CutOff, Request
from btfeed.http.response import Response
from btfeed.journal.base import DeadLetter, Intake
from btfeed.posts.post import Post, event_id_prefix
from btfeed.receiving.receiver import Receiver
from btfeed.receiving.rejection import Rejected
from btfeed.receiving.settings import ReceiverSettings
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.opentelemetry.exporter import Exporter
from btfeed.telemetry.opentelemetry.settings import OpenTelemetrySettings
from sinks.base import Sink, WriteResult
from sinks.batch import Batch

MAX_TRACED = 10_000
"""Posts whose spans deliveries can link to."""
PREFIX = len(event_id_prefix(bytes(32)))
"""Characters of an event.id that say which post it is of."""
HEADERS = ("traceparent", "tracestate")


class OpenTelemetry(Instruments):
    """Makes parts that record spans, unless traces are off, and sends spans and metrics."""

    def __init__(self, settings: OpenTelemetrySettings, metrics: Metrics) -> None:
        self._traces = settings.traces != 0
        self._posts = TracedPosts()
        self._exporter = Exporter(settings, metrics, version("btfeed"))

    def receiver(self, settings: ReceiverSettings, journal: Intake, metrics: Metrics) -> Receiver:
        if not self._traces:
            return super().receiver(settings, journal, metrics)
        tracer = self._exporter.tracer
        return TracedReceiver(settings, TracedIntake(journal, tracer, self._posts), metrics, tracer)

    def sink(self, name: str, sink: Sink) -> Sink:
        if not self._traces:
            return sink
        return cast("Sink", TracedSink(name, sink, self._exporter.delivery_tracer, self._posts))

    def start(self, update: Callable[[], Awaitable[object]]) -> None:
        self._exporter.start(update)

    def reconfigure(self, settings: OpenTelemetrySettings) -> None:
        self._exporter.reconfigure(settings)

    async def stop(self) -> None:
        await self._exporter.stop()


class TracedPosts:
    """The spans of posts by what their event ids begin with, the oldest first."""

    def __init__(self) -> None:
        self._spans: OrderedDict[str, SpanContext] = OrderedDict()

    def add(self, digest: bytes, span: SpanContext) -> None:
        self._spans[event_id_prefix(digest)] = span
        if len(self._spans) > MAX_TRACED:
            self._spans.popitem(last=False)

    def find(self, batch: Batch) -> list[SpanContext]:
        """The spans of the posts that the batch has records of, as far as they are known."""
        if not self._spans:
            return []
        posts = dict.fromkeys(event_id[:PREFIX] for event_id in batch.ids)
        return [self._spans[post] for post in posts if post in self._spans]


class TracedReceiver(Receiver):
    """Records a span for each post that is sampled. The journal must be a TracedIntake."""

    def __init__(self, settings: ReceiverSettings, journal: Intake, metrics: Metrics, tracer: Tracer) -> None:
        super().__init__(settings, journal, metrics)
        self._tracer = tracer

    def _take(self, request: Request, answer: Callable[[Response | None], None]) -> bool:
        """Leaves all posts to `_receive`."""
        return False

    async def _receive(self, request: Request) -> None:
        if not request.carries_post:
            return await super()._receive(request)
        attributes = {"client.address": request.peer}
        span = self._tracer.start_span("receive", _parent(request), SpanKind.SERVER, attributes)
        if not span.is_recording():
            return await super()._receive(request)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                await super()._receive(request)
            except Exception as error:
                reason = error.reason if isinstance(error, (Rejected, CutOff)) else type(error).__name__
                span.set_attribute("error.type", reason)
                if isinstance(error, Rejected):
                    span.set_attribute("http.response.status_code", error.status)
                span.set_status(Status(StatusCode.ERROR, str(error)))
                raise
        return None

    async def _admit(self, body: bytes) -> int:
        span = trace.get_current_span()
        span.set_attribute("btfeed.post.bytes", len(body))
        occurrences = await super()._admit(body)
        span.set_attribute("btfeed.post.occurrences", occurrences)
        return occurrences


class TracedIntake:
    """A journal's intake that records a span for each post that is traced, and remembers the post's span."""

    def __init__(self, journal: Intake, tracer: Tracer, posts: TracedPosts) -> None:
        self._journal = journal
        self._tracer = tracer
        self._posts = posts

    @property
    def refusing(self) -> str | None:
        return self._journal.refusing

    async def append(self, post: Post) -> bytes:
        span = trace.get_current_span()
        if not span.is_recording():
            return await self._journal.append(post)
        with self._tracer.start_as_current_span("append", record_exception=False):
            digest = await self._journal.append(post)
        span.set_attribute("btfeed.post.id", event_id_prefix(digest).rstrip("-"))
        self._posts.add(digest, span.get_span_context())
        return digest

    async def add_dead_letter(self, dead_letter: DeadLetter) -> None:
        await self._journal.add_dead_letter(dead_letter)


class TracedSink:
    """A sink that records a span for each write with records of a post that is traced."""

    def __init__(self, name: str, sink: Sink, tracer: Tracer, posts: TracedPosts) -> None:
        self._name = name
        self._sink = sink
        self._tracer = tracer
        self._posts = posts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)  # all but `write`, with what only some sinks have (SerialSink, ManyDestinations)

    async def write(self, batch: Batch) -> WriteResult:
        posts = self._posts.find(batch)
        if not posts:
            return await self._sink.write(batch)
        attributes: dict[str, str | int] = {
            "btfeed.sink": self._name,
            "messaging.batch.message_count": len(batch),
            "btfeed.posts": len(posts),
        }
        parent = trace.set_span_in_context(trace.NonRecordingSpan(posts[0])) if len(posts) == 1 else Context()
        with self._tracer.start_as_current_span(
            f"deliver {self._name}",
            parent,
            SpanKind.PRODUCER,
            attributes,
            [Link(post) for post in posts],
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                result = await self._sink.write(batch)
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR, str(error)))
                raise
            outcomes = {"retry": result.retry, "refused": result.refused, "blocked": result.blocked}
            span.set_attributes({f"btfeed.{outcome}": len(found) for outcome, found in outcomes.items() if found})
            return result


def _parent(request: Request) -> Context:
    """The client's span, if the request names one."""
    sent = {name: request.headers[name.encode()].decode("latin-1") for name in HEADERS if name.encode() in request.headers}
    return TraceContextTextMapPropagator().extract(sent, Context()) if sent else Context()
