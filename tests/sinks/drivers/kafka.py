"""Topics of a real broker, read by Confluent's consumer; Avro by Confluent's deserializer."""

import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import Sink, SinkContext
from sinks.kafka.settings import KafkaSettings
from sinks.kafka.sink import KafkaSink
from tests.servers.kafka import Kafka, shared
from tests.servers.registry import RegistryServer
from tests.sinks.drivers.file import canonical, json_of
from tests.support.harness import DEADLINE
from tests.support.ports import free_port

PARTITIONS = 3
WAYS: Mapping[str, Mapping[str, object]] = {
    "json": {"compression": "none"},
    "json-zstd-small-batches": {"headers": "none", "compression": "zstd", "batch_size": "16KiB", "key": "id"},
    "avro-snappy": {"format": "avro", "compression": "snappy", "key": "name"},
}


def kafka_sink(bootstrap: str, settings: Mapping[str, object] | None = None) -> KafkaSink:
    """A sink to these brokers."""
    found = KafkaSettings.model_validate({"bootstrap_servers": bootstrap} | dict(settings or {}))
    return KafkaSink(found, SinkContext("kafka", RECORD_FIELDS, MAPS))


def new_topic() -> str:
    """A name that no other test has."""
    return f"t-{uuid.uuid4().hex}"


def read_topic(kafka: Kafka, *topics: str) -> list[Message]:
    """Every message of these topics, partition by partition, in order. Topics that don't exist have none."""
    settings = {"bootstrap.servers": kafka.bootstrap, "group.id": "tests", "fetch.wait.max.ms": 10}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest"})
    try:
        known = consumer.list_topics(timeout=DEADLINE).topics
        there = [TopicPartition(topic, number) for topic in topics if topic in known for number in known[topic].partitions]
        left = 0
        for partition in there:
            partition.offset, end = consumer.get_watermark_offsets(partition, timeout=DEADLINE)
            left += end - partition.offset
        consumer.assign(there)
        found: list[Message] = []
        while len(found) < left:
            read = consumer.consume(left - len(found), timeout=DEADLINE)
            assert read, f"{left} messages could not be read"
            assert not any(message.error() for message in read)
            found += read
        return sorted(found, key=lambda message: (message.topic(), message.partition(), message.offset()))
    finally:
        consumer.close()


def values(messages: Collection[Message]) -> list[bytes]:
    return [message.value() or b"" for message in messages]


def headers(message: Message) -> dict[str, bytes]:
    """The headers of a message. Asserts that none is there twice."""
    found = message.headers() or []
    assert len(dict(found)) == len(found)
    return dict(found)  # type: ignore[arg-type]


def deserialize(registry: RegistryServer, messages: Collection[Message]) -> list[dict[str, Any]]:
    """Avro values as Confluent's deserializer reads them, with the registry's schemas."""
    with SchemaRegistryClient({"url": registry.url}) as client:
        read = AvroDeserializer(client)
        return [
            read(message.value(), SerializationContext(message.topic() or "", MessageField.VALUE)) for message in messages
        ]


class KafkaDriver:
    """Topics of its own on the shared broker."""

    serial = once = False

    def __init__(self, way: str) -> None:
        self._kafka = shared()
        self._topic = new_topic()
        self._registry: RegistryServer | None = None
        self._settings: dict[str, object] = {
            "topic": self._topic + ".{category}",
            "create_topics": True,
            "partitions": PARTITIONS,
            **WAYS[way],
        }
        if self._settings.get("format") == "avro":
            self._registry = RegistryServer().start()
            self._settings["schema_registry"] = self._registry.url

    def create(self) -> Sink:
        return kafka_sink(self._kafka.bootstrap, self._settings)

    def create_broken(self) -> Sink:
        return kafka_sink(f"127.0.0.1:{free_port()}", self._settings)

    async def read(self) -> list[bytes]:
        messages = read_topic(self._kafka, *self._topics())
        if self._registry is None:
            return values(messages)
        return [json_of(record) for record in deserialize(self._registry, messages)]

    def expected(self, bodies: list[bytes]) -> list[bytes]:
        return bodies if self._registry is None else [canonical(body) for body in bodies]

    async def snapshot(self) -> object:
        messages = read_topic(self._kafka, *self._topics())
        there = {message.topic() for message in messages}
        return there, len(messages), dict(self._registry.subjects) if self._registry else None

    async def close(self) -> None:
        if self._registry:
            self._registry.stop()

    def _topics(self) -> list[str]:
        return [f"{self._topic}.{category}" for category in ("purepath", "user_action", "visit", "unknown")]


def _driver(way: str) -> Callable[[Path], KafkaDriver]:
    return lambda directory: KafkaDriver(way)


DRIVERS = {way: _driver(way) for way in WAYS}
