"""The trace of a post, from receipt to each sink, as it reaches a collector."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.trace import SpanContext, TraceFlags
from pydantic import SecretStr

from btfeed import config
from btfeed.app import tracing
from btfeed.app.reload import RESTART, Reloader
from btfeed.app.server import Server
from btfeed.app.tracing import TracedPosts
from btfeed.config import Config
from btfeed.delivery.settings import DeliverySettings
from btfeed.delivery.sink_config import CommonSettings, SinkConfig
from btfeed.posts.post import digest, event_id_prefix
from btfeed.telemetry.opentelemetry import exporter
from sinks.base import SinkType, Unavailable, WriteResult
from sinks.batch import Batch
from sinks.settings import Settings
from tests.app.test_serve import FakeSink
from tests.support import posts
from tests.support.collector import Collector, attributes
from tests.support.harness import DEADLINE, until_async
from tests.support.ports import free_port

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def settings(**keys: object) -> DeliverySettings:
    return DeliverySettings.model_validate(keys)


AT_ONCE = settings(linger="0s")


class Case:
    """A server whose sinks are `sinks`."""

    def __init__(self, server: Server, url: str, sinks: dict[str, FakeSink]) -> None:
        self.server = server
        self.sinks = sinks
        self._url = url

    async def post(self, body: bytes, **headers: str) -> int:
        def run() -> int:
            request = urllib.request.Request(self._url, body, {"Authorization": "Bearer token"} | headers)
            try:
                with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        return await asyncio.to_thread(run)

    async def delivered(self, records: int) -> None:
        await until_async(lambda: all(len(sink.ids) >= records for sink in self.sinks.values()), f"{records} records")


@asynccontextmanager
async def serving(
    directory: Path,
    collector: Collector,
    sinks: dict[str, FakeSink],
    delivery: DeliverySettings = AT_ONCE,
    **keys: object,
) -> AsyncIterator[Case]:
    """keys: of [opentelemetry]. On exit, everything has reached the collector."""
    address = f"127.0.0.1:{free_port()}"
    tables = {
        "receiver": {"listen": address, "bearer_tokens": ["token"]},
        "admin": {"listen": "127.0.0.1:0"},
        "journal": {"directory": str(directory)},
        "opentelemetry": {"enabled": True, "endpoint": collector.url, "metrics_interval": "0s"} | keys,
    }
    parsed = config.parse(tables, {})
    for name, sink in sinks.items():
        kind = SinkType(Settings, lambda settings, context, sink=sink: sink)
        parsed.sinks[name] = SinkConfig(CommonSettings(type="fake", delivery=delivery), kind, Settings())
    server = Server(parsed)
    await server.start()
    try:
        yield Case(server, f"http://{address}/", sinks)
    finally:
        await server.stop()


def larger_and_larger(number: int, occurrences: int) -> list[bytes]:
    """Posts in order of size: a batch is full if its posts are as large as earlier ones with as many records."""
    return sorted((posts.mixed(occurrences, seed) for seed in range(number)), key=len)


def only(spans: list[Span]) -> Span:
    (span,) = spans
    return span


async def test_a_post_is_traced_from_receipt_to_each_sink(tmp_path: Path, collector: Collector) -> None:
    """In one trace, with what the post and the batches are."""
    body = posts.mixed(5)
    async with serving(tmp_path, collector, {"a": FakeSink(), "b": FakeSink()}) as case:
        assert await case.post(body) == 200
        await case.delivered(5)
    receive, append = only(collector.named("receive")), only(collector.named("append"))
    assert append.parent_span_id == receive.span_id
    assert attributes(receive) == {
        "client.address": "127.0.0.1",
        "btfeed.post.bytes": len(body),
        "btfeed.post.occurrences": 5,
        "btfeed.post.id": case.sinks["a"].ids[0].partition("-")[0],
    }
    for name in ("a", "b"):
        deliver = only(collector.named(f"deliver {name}"))
        assert [(link.trace_id, link.span_id) for link in deliver.links] == [(receive.trace_id, receive.span_id)]
        assert (deliver.trace_id, deliver.parent_span_id) == (receive.trace_id, receive.span_id)
        assert attributes(deliver) == {"btfeed.sink": name, "messaging.batch.message_count": 5, "btfeed.posts": 1}
    assert receive.start_time_unix_nano <= append.start_time_unix_nano <= append.end_time_unix_nano
    assert append.end_time_unix_nano <= receive.end_time_unix_nano
    assert not receive.parent_span_id
    assert len(collector.spans) == 4


async def test_a_write_of_several_posts_links_to_each(tmp_path: Path, collector: Collector) -> None:
    """It belongs to the trace of none of them."""
    delivery = settings(linger="1h", max_records=6)
    async with serving(tmp_path, collector, {"sink": FakeSink()}, delivery) as case:
        for body in larger_and_larger(3, occurrences=2):
            await case.post(body)
        await case.delivered(6)
    received = {(span.trace_id, span.span_id) for span in collector.named("receive")}
    deliver = only(collector.named("deliver sink"))
    assert len(received) == 3
    assert {(link.trace_id, link.span_id) for link in deliver.links} == received
    assert not deliver.parent_span_id
    assert deliver.trace_id not in {trace for trace, _ in received}
    assert attributes(deliver)["btfeed.posts"] == 3
    assert attributes(deliver)["messaging.batch.message_count"] == 6


async def test_each_try_has_a_span(tmp_path: Path, collector: Collector) -> None:
    """One that failed says why, and one that a part of the records remained of says how many."""

    class Fails(FakeSink):
        tries = 0

        async def write(self, batch: Batch) -> WriteResult:
            self.tries += 1
            if self.tries == 1:
                raise Unavailable("not now")
            if self.tries == 2:
                return WriteResult(retry=[1], refused={0: "no"})
            return await super().write(batch)

    delivery = settings(linger="0s", retry_initial="10ms")
    async with serving(tmp_path, collector, {"sink": Fails()}, delivery) as case:
        await case.post(posts.mixed(2))
        await case.delivered(1)
    failed, partly, whole = sorted(collector.named("deliver sink"), key=lambda span: span.start_time_unix_nano)
    assert (failed.status.code, failed.status.message) == (Status.STATUS_CODE_ERROR, "not now")
    assert attributes(failed)["error.type"] == "Unavailable"
    assert {name: attributes(partly)[name] for name in ("btfeed.retry", "btfeed.refused")} == {
        "btfeed.retry": 1,
        "btfeed.refused": 1,
    }
    assert attributes(whole)["messaging.batch.message_count"] == 1
    assert whole.status.code == Status.STATUS_CODE_UNSET


async def test_a_post_belongs_to_the_clients_trace(tmp_path: Path, collector: Collector) -> None:
    """If it names one, which also decides whether it is recorded. Nonsense is ignored."""
    async with serving(tmp_path, collector, {"sink": FakeSink()}) as case:
        await case.post(posts.mixed(1, 0), traceparent=PARENT)
        await case.post(posts.mixed(1, 1), traceparent=PARENT[:-2] + "00")
        await case.post(posts.mixed(1, 2), traceparent="nonsense")
        await case.delivered(3)
    first, other = collector.named("receive")
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (PARENT[3:35], PARENT[36:52])
    assert not other.parent_span_id
    assert attributes(other)["btfeed.post.id"] == event_id_prefix(digest(posts.mixed(1, 2))).rstrip("-")


async def test_a_refused_post_has_an_error(tmp_path: Path, collector: Collector) -> None:
    """Requests without a post have no span."""
    async with serving(tmp_path, collector, {"sink": FakeSink()}) as case:
        assert await case.post(b"nonsense") == 400
        assert await case.post(posts.mixed(1), Authorization="Bearer other") == 401
        assert await case.post(b"") == 200
    malformed, unauthorized = collector.named("receive")
    assert attributes(malformed)["error.type"] == "malformed"
    assert attributes(malformed)["http.response.status_code"] == 400
    assert malformed.status.message.startswith("not a BusinessTransactions message")
    assert attributes(unauthorized)["error.type"] == "unauthorized"
    assert len(collector.spans) == 2


async def test_posts_that_are_not_sampled_have_no_spans(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither have their deliveries. A write has a link for each post in it that is sampled."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    delivery = settings(linger="1h", max_records=2)
    *others, sampled = larger_and_larger(4, occurrences=1)
    async with serving(tmp_path, collector, {"sink": FakeSink()}, delivery) as case:
        for body in others:
            await case.post(body)
        await case.post(sampled, traceparent=PARENT)
        await case.delivered(4)
    assert sorted(span.name for span in collector.spans) == ["append", "deliver sink", "receive"]
    deliver = only(collector.named("deliver sink"))
    assert len(deliver.links) == 1
    assert attributes(deliver)["messaging.batch.message_count"] == 2


async def test_a_collector_that_does_not_answer_costs_no_post(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Posts are taken and delivered as without it."""
    monkeypatch.setattr(exporter, "FLUSH", 0.05)
    monkeypatch.setattr(exporter, "MAX_SPANS", 5)
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5")
    collector.answering.clear()
    async with serving(tmp_path, collector, {"sink": FakeSink()}) as case:
        for seed in range(10):
            assert await case.post(posts.mixed(1, seed)) == 200
        await case.delivered(10)
        lost = case.server.metrics.registry.get_sample_value("btfeed_opentelemetry_lost_spans_total")
        assert lost is not None
        assert lost >= 10 + 10 - 5  # two spans for each post, less those that wait; and some of the deliveries
    assert len(collector.spans) <= 5  # of a request that was not answered


async def test_a_reload_takes_another_endpoint_and_other_headers(tmp_path: Path, collector: Collector) -> None:
    """What else is in the table needs a restart."""
    with Collector() as other:
        async with serving(tmp_path, collector, {"sink": FakeSink()}) as case:
            given = case.server.config
            changes: dict[str, object] = {"endpoint": other.url, "headers": {"x-key": SecretStr("2")}}

            def load() -> Config:
                return replace(given, opentelemetry=given.opentelemetry.model_copy(update=changes))

            reloader = Reloader(case.server, load)
            assert await reloader.reload() == []
            await case.post(posts.mixed(1))
            await case.delivered(1)
            changes = {"traces": 0.5}
            errors = await reloader.reload()
            assert errors == [f"opentelemetry.traces: {RESTART}"]
        assert len(other.named("receive")) == 1
        assert {headers["x-key"] for headers in other.headers} == {"2"}
    assert collector.spans == []


def test_only_the_last_posts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are."""
    monkeypatch.setattr(tracing, "MAX_TRACED", 2)
    found = TracedPosts()
    spans = [SpanContext(1, number, False, TraceFlags(1)) for number in range(1, 4)]
    digests = [bytes([number]) * 32 for number in range(3)]
    for each, span in zip(digests, spans, strict=True):
        found.add(each, span)
    batch = Batch([event_id_prefix(each) + "0" for each in digests] + ["", "other-1"])
    assert found.find(batch) == spans[1:]
