"""Kafka: records in topics, by an idempotent producer with acks=all; duplicates only where an outcome was unknown.

Each record goes to the topic that its business transaction says, and to the partition that its key says. The records of one
partition make a lane: they go out in batches of the producer's own making, one after the other, the next when the brokers
have the last. So records of one key, such as those of one visit, keep their order, and a batch that fails holds up the rest
of its lane alone. What was not delivered comes again, before anything that is behind it, as long as one write is made at
a time, which is the default.

The producer tries again by itself, under the sequence numbers that let brokers drop what they have already. It goes bad
where a batch fails for good, since the numbers after it no longer fit, or where nothing moves for `timeout`; then it is let
go of, and the next write begins with a new one. What the old one had sent may be there twice, so that outcome is unknown.
"""

import asyncio
import logging
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, SinkContext, SinkError, SinkType, WriteResult
from sinks.batch import Batch, Transaction
from sinks.kafka.access import Access, SecuritySettings
from sinks.kafka.messages import Compression, Indexes, Key, MessageBuilder, MessageFormat, Messages, runs_of
from sinks.kafka.producer import Producer
from sinks.kafka.registry import AvroValues, RegistrySettings
from sinks.kafka.topics import Making, absent, legal
from sinks.settings import Seconds, Settings, Size
from sinks.shared.cloud_events import Envelopes
from sinks.template import Template, template

CATEGORIES = ("purepath", "user_action", "visit", "unknown")
"""What {category} stands for, so that topics are known before there is a record."""
GRACE = 3.0
"""Seconds that a close waits for replies."""
LINGERING = 60.0
"""Seconds that replies to a producer that was given up are waited for, beside the new one."""
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s,:\[\]/]+):[0-9]{1,5}")


def _servers(value: object) -> object:
    """One text, servers with commas between them; a list of them is taken too."""
    listed = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
    servers = [server.strip() if isinstance(server, str) else "" for server in listed]
    if not servers or not all(_SERVER.fullmatch(server) for server in servers):
        raise ValueError('write servers like "one:9092,two:9092"')
    return ",".join(servers)


def _registry(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class KafkaSettings(Settings):
    """Records in topics of Kafka.

    bootstrap_servers   `host:port` of some of the brokers, with commas between them
    topic               template of the topic's name; it knows {category}, {name}, {application}, {system_profile}, {server}
    key                 the message's key: the visit's id (the event's where there is no visit), event.name, or event.id
    format              of the message's value: the JSON record, or Avro in the wire format of schema registries
    schema_registry     its url, or a table; for Avro
    headers             "cloudevents": event.id, event.type and others as CloudEvents has them in binary mode
    compression         of a batch
    batch_size          bytes of a batch, before compression; brokers take 1 MiB by default
    timestamp           the message's own: when it was "sent", or the time of the "event". Brokers forget messages by it
    create_topics       make missing topics
    partitions          of a topic that is made; without it the broker's default
    replication_factor  likewise
    security            TLS and SASL
    request_timeout     from the start of a request to the end of its reply; the producer then tries again, doubling nothing
    timeout             without progress for so long, a producer is given up for a new one
    """

    bootstrap_servers: Annotated[str, BeforeValidator(_servers)]
    topic: Annotated[str, template("category", "name", "application", "system_profile", "server")] = "appmon.{category}"
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
            raise ValueError('format = "avro" needs schema_registry, and nothing else takes it')
        if not self.create_topics and (self.partitions or self.replication_factor):
            raise ValueError("partitions and replication_factor are of topics that are made; set create_topics = true")
        if self.timeout < self.request_timeout:
            raise ValueError("timeout is not less than request_timeout")
        return self


@dataclass(slots=True)
class PartitionQueue:
    """The records of one batch that go to one partition.

    left     indexes of those that are not delivered yet, in order
    pieces   how many of them to send at a time, the next number last; without any, as many as fit
    error    why the lane stopped
    unknown  how many of `left` may be there, and nobody can say
    """

    topic: str
    partition: int
    left: Indexes
    pieces: list[int] = field(default_factory=list)
    error: SinkError | None = None
    unknown: int = 0

    def next(self, messages: Messages, producer: Producer) -> Any:
        """A batch of what comes next, as far as there is room for it."""
        return messages.batch(self.left[: self.pieces[-1]] if self.pieces else self.left, producer.batch)

    def sent(self, taken: int) -> None:
        """So many are delivered."""
        self.left = self.left[taken:]
        self._off_piece(taken)

    def halve(self, taken: int, reason: str) -> dict[int, str]:
        """So many were refused together. One that was alone is the culprit: its index, and why."""
        self._off_piece(taken)
        if taken == 1:
            culprit, self.left = self.left[0], self.left[1:]
            return {culprit: reason}
        self.pieces += [taken - taken // 2, taken // 2]
        return {}

    def _off_piece(self, taken: int) -> None:
        if self.pieces:
            self.pieces[-1] -= taken
            if not self.pieces[-1]:
                self.pieces.pop()


class KafkaSink:
    """One producer at a time, and one write at a time: a second would overtake the first where that has to come again."""

    def __init__(self, settings: KafkaSettings, context: SinkContext) -> None:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells of each try; the loop says what matters
        self._settings = settings
        self._access = Access(settings.bootstrap_servers, settings.security, settings.request_timeout)
        self._making = Making(settings.partitions, settings.replication_factor) if settings.create_topics else None
        self._avro = AvroValues(settings.schema_registry, context) if settings.schema_registry else None
        envelopes = Envelopes("avro/binary" if self._avro else "application/json")
        headers = settings.headers == "cloudevents"
        self._maker = MessageBuilder(
            MessageFormat(settings.key, headers, settings.compression, settings.batch_size, envelopes)
        )
        self._template = Template(settings.topic)
        self._lock = asyncio.Lock()
        self._producer: Producer | None = None
        self._given_up: dict[asyncio.Task[None], Producer] = {}  # those that replies are still waited for

    async def open(self, state: str | None) -> None:
        await self._prove(await self._ready())

    async def check(self) -> None:
        """Connect, log in, and ask whether topics and schemas are there and would be taken. Nothing is written or made."""
        producer = await self._start()
        try:
            await self._prove(producer)
        finally:
            await producer.end(GRACE)

    async def write(self, batch: Batch) -> WriteResult:
        if not len(batch):
            return WriteResult()
        async with self._lock:
            runs = self._runs(batch)
            topics = {topic for topic, _ in runs}
            partitions = await (await self._ready()).partitions(topics)
            values, refused = await self._values(batch, runs)
            messages = self._maker.messages(batch, values, self._timestamps(batch))
            laid_out = messages.lanes(runs, {topic: partitions[topic] for topic in topics}, refused)
            lanes = [PartitionQueue(*place, indexes) for place, indexes in laid_out.items()]
            try:
                while going := [lane for lane in lanes if lane.left and not lane.error]:
                    await self._send(going, messages, refused)
            finally:
                self._let_go()
            return outcome(lanes, refused, len(batch))

    async def close(self) -> None:
        if self._producer:
            producer, self._producer = self._producer, None
            await producer.end(GRACE)
        for task, producer in list(self._given_up.items()):
            task.cancel()
            await producer.end(0)
        await self._access.close()
        if self._avro:
            await self._avro.registry.close()

    # The producer

    async def _start(self) -> Producer:
        compression = None if self._settings.compression == "none" else self._settings.compression
        settings = {"compression_type": compression, "max_batch_size": self._settings.batch_size}
        return await Producer.start(self._access, self._making, self._settings.timeout, **settings)

    async def _ready(self) -> Producer:
        """The producer; a new one where there is none, or where it went bad. Raises Unavailable or Misconfigured."""
        self._let_go()
        if self._producer is None:
            self._producer = await self._start()
        return self._producer

    def _let_go(self) -> None:
        """Of the producer, if it went bad. It must not send anything while the next one does."""
        if self._producer and self._producer.bad:
            task = asyncio.create_task(self._producer.end(LINGERING))
            self._given_up[task] = self._producer
            task.add_done_callback(self._given_up.pop)
            self._producer = None

    async def _prove(self, producer: Producer) -> None:
        """That topics and schemas are as they should be, where the template says which they are."""
        topics = producer.topics
        if not self._template.names() <= {"category"}:
            return
        names = {self._topic(Transaction("", "", "", "", category)) for category in CATEGORIES}
        missing = await topics.missing(names)
        if missing and self._making:
            await topics.could_make(missing)
        elif len(missing) == len(names):
            raise Misconfigured(absent(missing))
        await topics.may_write(names.difference(missing))
        if self._avro:
            for name in sorted(names):
                await self._avro.registry.check(subject(name))

    # From a batch to messages

    def _topic(self, transaction: Transaction) -> str:
        return legal(self._template.fill(transaction))

    def _runs(self, batch: Batch) -> list[tuple[str, int]]:
        """Topics, and how many records go to each, in the records' order."""
        known: dict[Transaction, str] = {}
        found = []
        for transaction, count in runs_of(batch.transactions):
            if transaction not in known:
                known[transaction] = self._topic(transaction)
            found.append((known[transaction], count))
        return found

    async def _values(self, batch: Batch, runs: Sequence[tuple[str, int]]) -> tuple[Sequence[bytes] | None, dict[int, str]]:
        """Where they are not the records' JSON; and why some records have none: index -> reason. Raises Unavailable or
        Misconfigured."""
        if self._avro is None:
            return None, {}
        ids = await self._avro.registry.ids(sorted({subject(topic) for topic, _ in runs}))
        each = [ids[subject(topic)] for topic, count in runs for _ in range(count)]
        return await asyncio.to_thread(self._avro.encode, batch.bodies, each)

    def _timestamps(self, batch: Batch) -> Sequence[int]:
        return batch.timestamps if self._settings.timestamp == "event" else [time.time_ns() // 1_000_000]

    # From messages to brokers

    async def _send(self, lanes: Sequence[PartitionQueue], messages: Messages, refused: dict[int, str]) -> None:
        """Send until each lane is empty or has an error, or the producer goes bad. Adds to `refused`."""
        try:
            producer = await self._ready()
            await producer.partitions({lane.topic for lane in lanes})
        except SinkError as error:
            for lane in lanes:
                lane.error = error
            return
        made = await asyncio.to_thread(lambda: [lane.next(messages, producer) for lane in lanes])
        async with asyncio.TaskGroup() as group:
            for lane, batch in zip(lanes, made, strict=True):
                group.create_task(self._send_lane(producer, lane, batch, messages, refused))

    async def _send_lane(
        self, producer: Producer, lane: PartitionQueue, batch: Any, messages: Messages, refused: dict[int, str]
    ) -> None:
        """`batch` is the lane's next. All lanes' first ones are made before any is sent, so that they share requests."""
        while not producer.bad:  # another lane's batch may have failed meanwhile
            taken = batch.record_count()
            try:
                await producer.send(batch, lane.topic, lane.partition)
            except BatchRefused as error:
                refused |= lane.halve(taken, str(error))
            except SinkError as error:
                lane.error = error
                lane.unknown = taken if isinstance(error, OutcomeUnknown) else 0
            else:
                lane.sent(taken)
            if not lane.left or lane.error or producer.bad:
                break
            batch = await asyncio.to_thread(lane.next, messages, producer)


def subject(topic: str) -> str:
    """Where the registry keeps the schema of a topic's values."""
    return f"{topic}-value"


def outcome(lanes: Collection[PartitionQueue], refused: dict[int, str], records: int) -> WriteResult:
    """What became of a batch. Where nothing of it was taken, raises why."""
    left = sorted(index for lane in lanes for index in lane.left)
    stopped = [lane.error for lane in lanes if lane.error]
    if stopped and len(left) == records:
        raise next((error for error in stopped if isinstance(error, OutcomeUnknown)), stopped[0])
    return WriteResult(left, refused, unknown=sum(lane.unknown for lane in lanes))


SINK = SinkType(
    KafkaSettings,
    KafkaSink,
    delivery={"max_records": 5_000, "max_bytes": "5MiB", "linger": "200ms", "in_flight": 1},
)
