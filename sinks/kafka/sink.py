"""Kafka: records as messages of an idempotent producer with acks=all. Duplicates occur only after an unknown outcome.

The business transaction of a record decides its topic, its key decides its partition. `write` makes a queue for each
partition and sends its records in batches, one batch at a time: the next is sent when the brokers have the last. So
records with the same key, such as those of a visit, keep their order, and a batch that fails holds up only its own queue.
Records for a topic that takes nothing are `blocked` and stand aside.
Records that were not delivered are written again before later ones, as long as there is one write at a time, which is the
default.

The producer repeats requests by itself. Their sequence numbers let brokers drop what they already have. When a batch
fails for good, or nothing is acknowledged for `timeout`, the producer is retired, since its later sequence numbers would
not fit, and the next write starts a new one. The outcome of what the old one had sent is then unknown.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import structlog

from sinks.base import (
    BatchRefused,
    Blocked,
    Misconfigured,
    Offsets,
    OutcomeUnknown,
    SinkContext,
    SinkError,
    SinkType,
    StartAgain,
    Unavailable,
    WriteResult,
)
from sinks.batch import Batch, Transaction
from sinks.kafka.access import ClusterAccess
from sinks.kafka.limits import BatchLimits
from sinks.kafka.messages import MessageBuilder, MessageFormat, Messages, Runs, transaction_runs
from sinks.kafka.partition_queue import PartitionQueue
from sinks.kafka.producer import Producer
from sinks.kafka.registry import AvroValues, SubjectRefused
from sinks.kafka.settings import KafkaSettings
from sinks.kafka.topics import Faults, NewTopics, TopicMissing, TopicUnusable, legal_topic_name, missing_topics_message
from sinks.shared.cloud_events import Envelopes
from sinks.template import Template

log = structlog.get_logger()

CATEGORIES = ("purepath", "user_action", "visit", "unknown")
"""The values of {category}, so that topics are known before the first record."""
CLOSE_TIMEOUT = 3.0
"""Seconds that `close` waits for replies."""
RETIRED_PRODUCER_TIMEOUT = 60.0
"""Seconds that a retired producer may still get replies, while the next one runs."""
TRANSACTION_TIMEOUT_MS = 60_000
"""Milliseconds after which brokers abort the transaction of a process that is gone."""
NO_SCHEMA = 0
"""The schema's id of records that are not sent."""


class KafkaSink:
    """Has one producer, and one write at a time: a second write could overtake records of the first that come again."""

    def __init__(self, settings: KafkaSettings, context: SinkContext) -> None:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs every attempt; the delivery loop logs errors
        self._settings = settings
        self._clock = context.clock
        self._access = ClusterAccess(*settings.connection, settings.request_timeout, context.clock)
        new_topics = NewTopics(settings.partitions, settings.replication_factor)
        self._new_topics = new_topics if settings.create_topics else None
        self._avro = AvroValues(settings.schema_registry, context) if settings.schema_registry else None
        envelopes = Envelopes("avro/binary" if self._avro else "application/json")
        headers = settings.headers == "cloudevents"
        self._message_builder = MessageBuilder(
            MessageFormat(
                settings.key, headers, settings.compression, settings.batch_size, envelopes, settings.exactly_once
            )
        )
        self._transactional_id = context.transactional_id if settings.exactly_once else ""
        self._template = Template(settings.topic)
        self._lock = asyncio.Lock()
        self._producer: Producer | None = None
        self._retired: dict[asyncio.Task[None], Producer] = {}  # producers that may still get replies
        self._limits = BatchLimits(context.name)
        self._log = log.bind(sink=context.name)

    async def open(self, state: str | None) -> None:
        await self._check_topics_and_schemas(await self._new_or_running_producer())

    async def check(self) -> None:
        """Connect, and ask whether topics exist and schemas would be accepted. Writes and creates nothing."""
        producer = await self._start_producer(self._transactional_id)
        try:
            await self._check_topics_and_schemas(producer)
        finally:
            await producer.stop(CLOSE_TIMEOUT)

    async def write(self, batch: Batch) -> WriteResult:
        if not len(batch):
            return WriteResult()
        async with self._lock:
            runs = self._topic_runs(batch)
            topics = {topic for topic, _ in runs}
            producer = await self._running_producer()
            if self._transactional_id:
                await producer.begin()
            partitions, faults = await producer.partitions(topics)
            values, refused = await self._values(batch, runs, faults)
            messages = self._message_builder.build(batch, values, self._timestamps(batch))
            queues = self._queues(messages, runs, partitions, faults, refused)
            self._limits.halved = 0
            try:
                while unfinished := [queue for queue in queues if queue.pending and not queue.error]:
                    await self._send(unfinished, messages, refused)
            finally:
                self._retire_failed_producer()
            if self._transactional_id and self._producer is None:
                raise StartAgain(str(next((queue.error for queue in queues if queue.error), "the transaction has failed")))
            result = write_result(queues, refused, len(batch), bool(self._template.names()))
            self._log.debug(
                "batch sent", records=len(batch), partitions=len(queues), retry=len(result.retry), refused=len(refused)
            )
            return replace(result, flagged={"halved": self._limits.halved} if self._limits.halved else {})

    async def commit(self, saved: Offsets, deleted: Sequence[tuple[str, bytes]]) -> None:
        """See TransactionalSink."""
        async with self._lock:
            producer = await self._running_producer()
            try:
                await producer.commit(saved, deleted)
            finally:
                self._retire_failed_producer()

    def destinations(self, batch: Batch) -> Sequence[str]:
        return [destination(topic) for topic, count in self._topic_runs(batch) for _ in range(count)]

    def describe(self, batch: Batch) -> Sequence[Mapping[str, Any]]:
        topics = (topic for topic, count in self._topic_runs(batch) for _ in range(count))
        described = zip(topics, self._message_builder.described(batch), strict=True)
        return [{"topic": topic} | message for topic, message in described]

    async def close(self) -> None:
        if self._producer:
            producer, self._producer = self._producer, None
            if self._transactional_id:
                await producer.abort()  # readers of committed messages would wait for it
            await producer.stop(CLOSE_TIMEOUT)
        for task, producer in list(self._retired.items()):
            task.cancel()
            await producer.stop(0)
        await self._access.close()
        if self._avro:
            await self._avro.registry.close()

    # The producer

    async def _start_producer(self, transactional_id: str = "") -> Producer:
        """With a transactional id, no other producer can use that from now on, and its transaction has ended."""
        compression = None if self._settings.compression == "none" else self._settings.compression
        settings: dict[str, Any] = {"compression_type": compression, "max_batch_size": self._settings.batch_size}
        if transactional_id:
            settings |= {"transactional_id": transactional_id, "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS}
        return await Producer.start(self._access, self._new_topics, self._settings.timeout, self._clock, **settings)

    async def _running_producer(self) -> Producer:
        """The producer. Starts a new one at first and after a failure. Raises Unavailable or Misconfigured.

        One with transactions is only started by `open`: what was written must be written again then."""
        self._retire_failed_producer()
        if self._producer is None and self._transactional_id:
            raise StartAgain("the transaction has failed")
        return await self._new_or_running_producer()

    async def _new_or_running_producer(self) -> Producer:
        self._retire_failed_producer()
        if self._producer is None:
            self._producer = await self._start_producer(self._transactional_id)
            self._log.debug("producer started")
        return self._producer

    def _retire_failed_producer(self) -> None:
        """Stop the producer if it failed. It must not send anything once the next one does."""
        if self._producer and self._producer.failed:
            task = asyncio.create_task(self._producer.stop(RETIRED_PRODUCER_TIMEOUT))
            self._retired[task] = self._producer
            task.add_done_callback(self._retired.pop)
            self._producer = None
            self._log.debug("producer retired")

    async def _check_topics_and_schemas(self, producer: Producer) -> None:
        """Check that all topics can be written to, if the template names them without a record. Warns of some that can't.

        Raises Unavailable, or Misconfigured if no topic can be written to.
        """
        if not self._template.names() <= {"category"}:
            return
        names = {self._topic(Transaction("", "", "", "", category)) for category in CATEGORIES}
        faults = await producer.topics.check(names)
        if self._avro:
            for name in sorted(names - faults.keys()):
                try:
                    await self._avro.registry.check(subject(name))
                except SubjectRefused as error:
                    faults[name] = TopicUnusable(name, str(error))
        if away := [error for error in faults.values() if isinstance(error, Unavailable)]:
            raise away[0]
        if len(faults) == len(names):
            raise Misconfigured(describe_faults(faults))
        if faults:
            self._log.warning("topics take nothing", reason=describe_faults(faults))

    # From a batch to messages

    def _topic(self, transaction: Transaction) -> str:
        return legal_topic_name(self._template.fill(transaction))

    def _topic_runs(self, batch: Batch) -> Runs:
        """Topics, and how many consecutive records go to each."""
        known: dict[Transaction, str] = {}
        found = []
        for transaction, count in transaction_runs(batch.transactions):
            if transaction not in known:
                known[transaction] = self._topic(transaction)
            found.append((known[transaction], count))
        return found

    async def _values(self, batch: Batch, runs: Runs, faults: Faults) -> tuple[Sequence[bytes] | None, dict[int, str]]:
        """The messages' values, None if they are the records' JSON; and the records without a value: index -> reason.

        Adds topics without a schema to `faults`. Raises Unavailable or Misconfigured.
        """
        if self._avro is None:
            return None, {}
        subjects = {subject(topic): topic for topic, _ in runs if topic not in faults}
        ids, unregistered = await self._avro.registry.ids(sorted(subjects))
        faults |= {subjects[name]: TopicUnusable(subjects[name], str(error)) for name, error in unregistered.items()}
        each = [ids.get(subject(topic), NO_SCHEMA) for topic, count in runs for _ in range(count)]
        return await asyncio.to_thread(self._avro.encode, batch.bodies, each)

    def _timestamps(self, batch: Batch) -> Sequence[int]:
        return batch.timestamps if self._settings.timestamp == "event" else [int(self._clock.time() * 1000)]

    def _queues(
        self, messages: Messages, runs: Runs, partitions: Mapping[str, int], faults: Faults, refused: Collection[int]
    ) -> list[PartitionQueue]:
        """A queue for each partition, and one with an error for each run of records whose topic has a fault."""
        ends = accumulate(count for _, count in runs)
        held = [(topic, range(end - count, end)) for (topic, count), end in zip(runs, ends, strict=True) if topic in faults]
        without = {*refused, *(index for _, indexes in held for index in indexes)}
        known = {topic: partitions.get(topic, 1) for topic, _ in runs}
        grouped = messages.by_partition(runs, known, without)
        queues = [PartitionQueue(*partition, indexes, self._limits) for partition, indexes in grouped.items()]
        return queues + [PartitionQueue(topic, 0, indexes, error=faults[topic]) for topic, indexes in held]

    # From messages to brokers

    async def _send(self, queues: Sequence[PartitionQueue], messages: Messages, refused: dict[int, str]) -> None:
        """Send until each queue is empty or has an error, or the producer fails. Adds to `refused`."""
        try:
            producer = await self._running_producer()
            _, faults = await producer.partitions({queue.topic for queue in queues})
        except SinkError as error:
            for queue in queues:
                queue.error = error
            return
        for queue in queues:
            queue.error = faults.get(queue.topic)
        queues = [queue for queue in queues if not queue.error]
        # The first batches of all queues are built before any is sent, so that they share requests.
        batches = await asyncio.to_thread(lambda: [queue.next_batch(messages, producer) for queue in queues])
        async with asyncio.TaskGroup() as group:
            for queue, batch in zip(queues, batches, strict=True):
                group.create_task(self._send_queue(producer, queue, batch, messages, refused))

    async def _send_queue(
        self, producer: Producer, queue: PartitionQueue, batch: Any, messages: Messages, refused: dict[int, str]
    ) -> None:
        """Send `batch`, the first of the queue, and then the rest."""
        while not producer.failed:  # a batch of another queue may have failed meanwhile
            count = batch.record_count()
            try:
                await producer.send(batch, queue.topic, queue.partition)
            except BatchRefused as error:
                refused |= queue.refused(count, error)
            except SinkError as error:
                queue.error = error
                queue.unknown = count if isinstance(error, OutcomeUnknown) else 0
            else:
                queue.delivered(count)
            if not queue.pending or queue.error or producer.failed:
                break
            batch = await asyncio.to_thread(queue.next_batch, messages, producer)


def subject(topic: str) -> str:
    """The subject in the schema registry for a topic's values."""
    return f"{topic}-value"


def destination(topic: str) -> str:
    """What the delivery loop calls a topic."""
    return f"topic {topic}"


def describe_faults(faults: Faults) -> str:
    """What to tell a person about topics that can't be written to."""
    missing = sorted(name for name, error in faults.items() if isinstance(error, TopicMissing))
    others = [str(error) for _, error in sorted(faults.items()) if not isinstance(error, TopicMissing)]
    return "; ".join([missing_topics_message(missing), *others] if missing else others)


def write_result(queues: Collection[PartitionQueue], refused: dict[int, str], records: int, several: bool) -> WriteResult:
    """The result of a write with that many records. several: whether the sink has several topics.

    If no record was taken, refused or blocked, raises the error of a queue.
    """
    blocked: dict[int, Blocked] = {}
    retry: list[int] = []
    for queue in queues:
        if isinstance(queue.error, TopicUnusable) and several:
            blocked |= dict.fromkeys(queue.pending, Blocked(destination(queue.topic), str(queue.error)))
        elif isinstance(queue.error, BatchRefused):  # there can be no such topic
            refused |= dict.fromkeys(queue.pending, str(queue.error))
        else:
            retry += queue.pending
    stopped = [queue.error for queue in queues if queue.error]
    if stopped and len(retry) == records:
        raise next((error for error in stopped if isinstance(error, OutcomeUnknown)), stopped[0])
    return WriteResult(sorted(retry), refused, unknown=sum(queue.unknown for queue in queues), blocked=blocked)


SINK = SinkType(
    KafkaSettings,
    KafkaSink,
    transactional=lambda settings: bool(settings.exactly_once),
    delivery={"max_records": 5_000, "max_bytes": "5MiB", "linger": "200ms", "in_flight": 1},
    example={"bootstrap_servers": "kafka-1:9092,kafka-2:9092"},
)
