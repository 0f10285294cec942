"""What brokers refuse: records and batches that are too large, times that are out of range, and every other error."""

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from aiokafka import errors
from aiokafka.protocol.produce import ProduceRequest
from structlog.testing import capture_logs

from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, Sink, Unavailable, WriteResult
from sinks.batch import Batch
from sinks.kafka.producer import TooLarge, send_error
from sinks.kafka.topics import TopicUnusable
from tests.servers.kafka import Kafka
from tests.sinks.drivers import opened
from tests.sinks.drivers.kafka import kafka_sink, new_topic, read_topic, values
from tests.support.fakes import batch_of


async def test_a_record_that_is_too_large_is_a_dead_letter(kafka: Kafka) -> None:
    """Only that record: its neighbors arrive once and in order, with few more requests."""
    topic = kafka.make_topic(new_topic(), max_message_bytes="50000")
    bodies = [b'{"event.id":"post-%d"}' % number for number in range(300)]
    bodies[123] = b'{"event.id":"post-123","x":"%s"}' % random.Random(1).randbytes(60_000).hex().encode()
    async with opened(kafka_sink(kafka.bootstrap, {"topic": topic})) as sink:
        result = await sink.write(batch_of(bodies))
        assert [*result.refused] == [123]
        assert "MessageSizeTooLarge" in result.refused[123]
        assert result.unknown == 0
        assert list(result.retry) == []
        assert await sink.write(batch_of(bodies[:1])) == WriteResult([])
        assert sink._limits.most(topic, 300) == 300
    assert values(read_topic(kafka, topic)) == bodies[:123] + bodies[124:] + bodies[:1]


async def test_a_topic_with_a_low_limit_gets_smaller_batches(kafka: Kafka) -> None:
    """It is counted and logged once. Later batches begin with what fitted, with the same producer."""
    topic = kafka.make_topic(new_topic(), max_message_bytes="20000")
    settings = {"topic": topic, "compression": "none", "headers": "none"}
    batches = [batch_of([b'{"n":%d,"x":"%s"}' % (n, b"x" * 200) for n in range(1000)], f"p{write}") for write in range(4)]
    with capture_logs() as logs:
        async with opened(kafka_sink(kafka.bootstrap, settings)) as sink:
            results, requests = [], []
            for batch in batches:
                with counted_produce_requests(sink) as sent:
                    results.append(await sink.write(batch))
                requests.append(len(sent))
    assert all(not result.retry and not result.refused for result in results)
    assert results[0].flagged["halved"] > 1000
    assert [result.flagged for result in results[1:]] == [{}, {}, {}]
    assert requests[1:] == [requests[1]] * 3
    assert requests[1] < requests[0]
    assert producers(logs) == 1
    assert [line["topic"] for line in logs if line["event"] == "topic takes smaller batches only"] == [topic]
    assert values(read_topic(kafka, topic)) == [body for batch in batches for body in batch.bodies]


async def test_records_that_are_too_old_cost_few_requests(kafka: Kafka) -> None:
    """A broker that refuses old times says which, so that live records don't wait."""
    topic = kafka.make_topic(new_topic(), message_timestamp_before_max_ms="3600000")
    bodies = [b'{"n":%d}' % number for number in range(5000)]
    now = round(time.time() * 1000)
    old = [number for number in range(5000) if number % 5 == 0]
    times = [now - (7_200_000 if number % 5 == 0 else 0) for number in range(5000)]
    batch = replace(batch_of(bodies), timestamps=times)
    with capture_logs() as logs:
        async with opened(kafka_sink(kafka.bootstrap, {"topic": topic, "timestamp": "event"})) as sink:
            with counted_produce_requests(sink) as sent:
                began = time.monotonic()
                result = await sink.write(batch)
                sys.stdout.write(f"{len(old)} refused: {len(sent)} requests, {time.monotonic() - began:.2f} s\n")
    assert sorted(result.refused) == old
    assert "out of range" in result.refused[0]
    assert len(sent) <= 4
    assert producers(logs) == 1
    assert values(read_topic(kafka, topic)) == [body for number, body in enumerate(bodies) if number % 5]


@contextmanager
def counted_produce_requests(sink: Sink) -> Iterator[list[Any]]:
    """The produce requests of a sink that is open."""
    client = cast("Any", sink)._producer._producer.client
    send, sent = client.send, []

    async def counting(node: int, request: Any, **more: Any) -> Any:
        if isinstance(request, ProduceRequest):
            sent.append(request)
        return await send(node, request, **more)

    client.send = counting
    try:
        yield sent
    finally:
        client.send = send


def producers(logs: list[Any]) -> int:
    """How many producers were started."""
    return sum(line["event"] == "producer started" for line in logs)


async def test_a_record_that_is_too_far_ahead_is_a_dead_letter(kafka: Kafka) -> None:
    """Brokers refuse messages with a timestamp more than an hour ahead."""
    topic = kafka.make_topic(new_topic())
    batch = batch_of([b'{"n":%d}' % number for number in range(20)])
    at = [4_000_000_000_000 if number == 7 else 1_700_000_000_000 for number in range(20)]
    late = Batch(batch.ids, batch.keys, at, batch.transactions, batch.sizes, batch.parts)
    async with opened(kafka_sink(kafka.bootstrap, {"topic": topic, "timestamp": "event"})) as sink:
        assert [*(await sink.write(late)).refused] == [7]
    assert values(read_topic(kafka, topic)) == [body for number, body in enumerate(batch.bodies) if number != 7]


@pytest.mark.parametrize(
    ("error", "sent", "kind"),
    [
        (errors.MessageSizeTooLargeError(), True, TooLarge),
        (errors.RecordListTooLargeError(), True, TooLarge),
        (errors.InvalidTimestampError(), True, BatchRefused),
        (errors.UnknownTopicOrPartitionError(), False, TopicUnusable),
        (errors.TopicAuthorizationFailedError("t"), True, TopicUnusable),
        (errors.ClusterAuthorizationFailedError(), False, Misconfigured),
        (errors.InvalidTopicError(), True, TopicUnusable),
        (errors.OutOfOrderSequenceNumber(), True, Unavailable),
        (errors.ProducerFenced(), True, Unavailable),
        (errors.KafkaTimeoutError(), True, Unavailable),
        (errors.NotLeaderForPartitionError(), False, Unavailable),
        (errors.LeaderNotAvailableError(), False, Unavailable),
        (errors.NotLeaderForPartitionError(), True, OutcomeUnknown),
        (errors.NotEnoughReplicasAfterAppendError(), True, OutcomeUnknown),
        (errors.UnknownError(), True, OutcomeUnknown),
        (errors.KafkaError("Unexpected error during batch delivery"), True, OutcomeUnknown),
        (errors.KafkaConnectionError("gone"), True, OutcomeUnknown),
        (errors.KafkaConnectionError("gone"), False, Unavailable),
    ],
)
def test_each_error_has_a_meaning(error: Exception, sent: bool, kind: type[Exception]) -> None:
    """Which sink error each of aiokafka's errors becomes, depending on whether the batch was sent."""
    assert type(send_error(error, "t", sent)) is kind
