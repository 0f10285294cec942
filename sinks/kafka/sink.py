"""Kafka: records as messages of an idempotent producer with acks=all. Duplicates occur only after an unknown outcome.

The business transaction of a record decides its topic, its key decides its partition. `write` makes a queue for each
partition and sends its records in batches, one batch at a time: the next is sent when the brokers have the last. So
records with the same key, such as those of a visit, keep their order, and a batch that fails holds up only its own queue.
Records that were not delivered are written again before later ones, as long as there is one write at a time, which is the
default.

The producer repeats requests by itself. Their sequence numbers let brokers drop what they already have. When a batch
fails for good, or nothing is acknowledged for `timeout`, the producer is retired, since its later sequence numbers would
not fit, and the next write starts a new one. The outcome of what the old one had sent is then unknown.
"""

import asyncio
import logging
import re
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

import structlog
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, SinkContext, SinkError, SinkType, WriteResult
from sinks.batch import Batch, Transaction
from sinks.kafka.access import ClusterAccess, SecuritySettings
from sinks.kafka.messages import Compression, Key, MessageBuilder, MessageFormat, Messages, Runs, transaction_runs
from sinks.kafka.partition_queue import PartitionQueue
from sinks.kafka.producer import Producer
from sinks.kafka.registry import AvroValues, RegistrySettings
from sinks.kafka.topics import NewTopics, check_topic, legal_topic_name, missing_topics_message
from sinks.settings import Seconds, Settings, Size
from sinks.shared.cloud_events import Envelopes
from sinks.template import Template, template

log = structlog.get_logger()

CATEGORIES = ("purepath", "user_action", "visit", "unknown")
"""The values of {category}, so that topics are known before the first record."""
PLACEHOLDERS = ("category", "name", "application", "system_profile", "server")
"""What a topic's name may depend on."""
CLOSE_TIMEOUT = 3.0
"""Seconds that `close` waits for replies."""
RETIRED_PRODUCER_TIMEOUT = 60.0
"""Seconds that a retired producer may still get replies, while the next one runs."""
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s,:\[\]/]+):([0-9]{1,5})")


def _servers(value: object) -> object:
    """Servers as one string, separated by commas. Also takes a list."""
    listed = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
    servers = [server.strip() if isinstance(server, str) else "" for server in listed]
    matches = [_SERVER.fullmatch(server) for server in servers]
    if not servers or not all(match and 0 < int(match[2]) < 2**16 for match in matches):
        raise ValueError('write servers like "one:9092,two:9092"')
    return ",".join(servers)


def _registry(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class KafkaSettings(Settings):
    """Records in topics of Kafka.

    bootstrap_servers   `host:port` of some of the brokers, separated by commas
    topic               template of the topic's name, with {category}, {name}, {application}, {system_profile}, {server}
    key                 the message's key. `visit`: the visit's id, or event.id if there is no visit; `name`: event.name;
                        `id`: event.id
    format              the message's value: the JSON record, or Avro in the wire format of schema registries
    schema_registry     for Avro: the registry's URL, or a table
    headers             `cloudevents`: event.id, event.type and others as headers, as in CloudEvents' binary mode
    compression         the compression of batches
    batch_size          bytes of a batch before compression; brokers accept 1 MiB by default
    timestamp           the message's timestamp: when it was sent, or the time of the event. Brokers delete messages by it
    create_topics       create missing topics
    partitions          partitions of topics that are created; without it, the broker's default
    replication_factor  replicas of topics that are created; without it, the broker's default
    security            TLS and SASL
    request_timeout     for a request, until the end of its reply; the producer then sends it again without duplicates
    timeout             after this long without progress, the producer is replaced by a new one
    """

    bootstrap_servers: Annotated[str, BeforeValidator(_servers)]
    topic: Annotated[str, template(*PLACEHOLDERS), AfterValidator(check_topic)] = "appmon.{category}"
    key: Key = "visit"
    format: Literal["json", "avro"] = "json"
    schema_registry: Annotated[RegistrySettings, BeforeValidator(_registry)] | None = None
    headers: Literal["cloudevents", "none"] = "cloudevents"
    compression: Compression = "zstd"
    batch_size: Annotated[Size, Field(ge=1)] = 2**20
    timestamp: Literal["sent", "event"] = "sent"
    create_topics: bool = False
    partitions: Annotated[int, Field(ge=1)] | None = None
    replication_factor: Annotated[int, Field(ge=1, le=32767)] | None = None
    security: SecuritySettings = SecuritySettings()
    request_timeout: Annotated[Seconds, Field(ge=0.1)] = 10.0
    timeout: Annotated[Seconds, Field(ge=0.1)] = 20.0

    @model_validator(mode="after")
    def _go_together(self) -> "KafkaSettings":
        if (self.format == "avro") != (self.schema_registry is not None):
            raise ValueError('set schema_registry if format is "avro", and only then')
        if not self.create_topics and (self.partitions or self.replication_factor):
            raise ValueError("partitions and replication_factor are for new topics; set create_topics = true")
        if self.timeout < self.request_timeout:
            raise ValueError("timeout must not be less than request_timeout")
        return self


class KafkaSink:
    """Has one producer, and one write at a time: a second write could overtake records of the first that come again."""

    def __init__(self, settings: KafkaSettings, context: SinkContext) -> None:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs every attempt; the delivery loop logs errors
        self._settings = settings
        self._clock = context.clock
        self._access = ClusterAccess(settings.bootstrap_servers, settings.security, settings.request_timeout, context.clock)
        new_topics = NewTopics(settings.partitions, settings.replication_factor)
        self._new_topics = new_topics if settings.create_topics else None
        self._avro = AvroValues(settings.schema_registry, context) if settings.schema_registry else None
        envelopes = Envelopes("avro/binary" if self._avro else "application/json")
        headers = settings.headers == "cloudevents"
        self._message_builder = MessageBuilder(
            MessageFormat(settings.key, headers, settings.compression, settings.batch_size, envelopes)
        )
        self._template = Template(settings.topic)
        self._lock = asyncio.Lock()
        self._producer: Producer | None = None
        self._retired: dict[asyncio.Task[None], Producer] = {}  # producers that may still get replies
        self._log = log.bind(sink=context.name)

    async def open(self, state: str | None) -> None:
        await self._check_topics_and_schemas(await self._running_producer())

    async def check(self) -> None:
        """Connect, and ask whether topics exist and schemas would be accepted. Writes and creates nothing."""
        producer = await self._start_producer()
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
            partitions = await (await self._running_producer()).partitions(topics)
            values, refused = await self._values(batch, runs)
            messages = self._message_builder.build(batch, values, self._timestamps(batch))
            grouped = messages.by_partition(runs, {topic: partitions[topic] for topic in topics}, refused)
            queues = [PartitionQueue(*partition, indexes) for partition, indexes in grouped.items()]
            try:
                while unfinished := [queue for queue in queues if queue.pending and not queue.error]:
                    await self._send(unfinished, messages, refused)
            finally:
                self._retire_failed_producer()
            result = write_result(queues, refused, len(batch))
            self._log.debug(
                "batch sent", records=len(batch), partitions=len(queues), retry=len(result.retry), refused=len(refused)
            )
            return result

    async def close(self) -> None:
        if self._producer:
            producer, self._producer = self._producer, None
            await producer.stop(CLOSE_TIMEOUT)
        for task, producer in list(self._retired.items()):
            task.cancel()
            await producer.stop(0)
        await self._access.close()
        if self._avro:
            await self._avro.registry.close()

    # The producer

    async def _start_producer(self) -> Producer:
        compression = None if self._settings.compression == "none" else self._settings.compression
        settings = {"compression_type": compression, "max_batch_size": self._settings.batch_size}
        return await Producer.start(self._access, self._new_topics, self._settings.timeout, self._clock, **settings)

    async def _running_producer(self) -> Producer:
        """The producer. Starts a new one at first and after a failure. Raises Unavailable or Misconfigured."""
        self._retire_failed_producer()
        if self._producer is None:
            self._producer = await self._start_producer()
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
        """Check that all topics can be written to, if the template names them without a record."""
        topics = producer.topics
        if not self._template.names() <= {"category"}:
            return
        names = {self._topic(Transaction("", "", "", "", category)) for category in CATEGORIES}
        missing = await topics.missing(names)
        if missing and self._new_topics:
            await topics.check_creatable(missing)
        elif len(missing) == len(names):
            raise Misconfigured(missing_topics_message(missing))
        await topics.check_writable(names.difference(missing))
        if self._avro:
            for name in sorted(names):
                await self._avro.registry.check(subject(name))

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

    async def _values(self, batch: Batch, runs: Runs) -> tuple[Sequence[bytes] | None, dict[int, str]]:
        """The messages' values, None if they are the records' JSON; and the records without a value: index -> reason.

        Raises Unavailable or Misconfigured.
        """
        if self._avro is None:
            return None, {}
        ids = await self._avro.registry.ids(sorted({subject(topic) for topic, _ in runs}))
        each = [ids[subject(topic)] for topic, count in runs for _ in range(count)]
        return await asyncio.to_thread(self._avro.encode, batch.bodies, each)

    def _timestamps(self, batch: Batch) -> Sequence[int]:
        return batch.timestamps if self._settings.timestamp == "event" else [int(self._clock.time() * 1000)]

    # From messages to brokers

    async def _send(self, queues: Sequence[PartitionQueue], messages: Messages, refused: dict[int, str]) -> None:
        """Send until each queue is empty or has an error, or the producer fails. Adds to `refused`."""
        try:
            producer = await self._running_producer()
            await producer.partitions({queue.topic for queue in queues})
        except SinkError as error:
            for queue in queues:
                queue.error = error
            return
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
                refused |= queue.refused(count, str(error))
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


def write_result(queues: Collection[PartitionQueue], refused: dict[int, str], records: int) -> WriteResult:
    """The result of a write with that many records. If none was taken or refused, raises the error of a queue."""
    pending = sorted(index for queue in queues for index in queue.pending)
    stopped = [queue.error for queue in queues if queue.error]
    if stopped and len(pending) == records:
        raise next((error for error in stopped if isinstance(error, OutcomeUnknown)), stopped[0])
    return WriteResult(pending, refused, unknown=sum(queue.unknown for queue in queues))


SINK = SinkType(
    KafkaSettings,
    KafkaSink,
    delivery={"max_records": 5_000, "max_bytes": "5MiB", "linger": "200ms", "in_flight": 1},
)
