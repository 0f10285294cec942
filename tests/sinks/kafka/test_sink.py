"""The Kafka sink with a real broker: its settings, its messages, and their partitions."""

import json
import time
from collections import defaultdict
from typing import Any

import pytest

from btfeed import config
from btfeed.faults import ConfigError
from sinks.base import WriteResult
from sinks.kafka.partitions import partition_of
from sinks.kafka.settings import KafkaSettings
from tests.servers.kafka import Kafka, tool
from tests.sinks.drivers import opened
from tests.sinks.drivers.kafka import headers, kafka_sink, new_topic, read_topic, values
from tests.support.fakes import batch_of, mapped

BROKERS = {"bootstrap_servers": "one:9092"}
REGISTRY = "http://registry"

# Settings


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"bootstrap_servers": ""}, "bootstrap_servers: write servers like"),
        ({"bootstrap_servers": "one"}, "bootstrap_servers: write servers like"),
        ({"bootstrap_servers": "kafka://one:9092"}, "bootstrap_servers: write servers like"),
        ({"bootstrap_servers": ["one:9092", 7]}, "bootstrap_servers: write servers like"),
        ({"bootstrap_servers": "one:0"}, "bootstrap_servers: write servers like"),
        ({"bootstrap_servers": "one:65536"}, "bootstrap_servers: write servers like"),
        ({"topic": ""}, "topic: must not be empty"),
        ({"topic": "x" * 250}, "topic: is too long"),
        ({"topic": "x" * 218 + "{category}"}, "topic: is too long"),
        ({"topic": "a.{date}"}, "topic: unknown placeholder {date}"),
        ({"key": "visits"}, "key: must be"),
        ({"compression": "brotli"}, "compression: must be"),
        ({"format": "avro"}, ': set schema_registry if format is "avro"'),
        ({"schema_registry": REGISTRY}, ': set schema_registry if format is "avro"'),
        ({"format": "avro", "schema_registry": "http://u:SECRET@x"}, "schema_registry.url: invalid URL: only scheme"),
        (
            {"format": "avro", "schema_registry": {"url": REGISTRY, "username": "u"}},
            "schema_registry: set both username and",
        ),
        ({"partitions": 3}, ": partitions and replication_factor are for new topics"),
        ({"timeout": "1s", "request_timeout": "2s"}, ": timeout must not be less than request_timeout"),
        ({"security": {"sasl": "PLAIN", "username": "u"}}, "security: PLAIN needs username and password"),
        ({"security": {"username": "u", "password": "SECRET"}}, "security: only PLAIN and SCRAM take username"),
        ({"security": {"sasl": "OAUTHBEARER"}}, 'security: set oauth if sasl is "OAUTHBEARER"'),
        ({"security": {"sasl": "GSSAPI"}}, "security.sasl: must be"),
        ({"security": {"ca": "ca.pem"}}, "security: ca, certificate and key need tls = true"),
        ({"security": {"tls": True, "key": "k.pem"}}, "security: set both certificate and key, or neither"),
        ({"topik": "x"}, "topik: unknown key; did you mean topic?"),
    ],
)
def test_a_wrong_table_is_refused(table: dict[str, Any], fault: str) -> None:
    """With the path of the fault, and without secrets."""
    with pytest.raises(ConfigError) as raised:
        config.parse({"sinks": {"k": {"type": "kafka"} | BROKERS | table}}, {})
    (found,) = raised.value.faults
    assert found.removeprefix("sinks.k").removeprefix(".").startswith(fault)
    assert "SECRET" not in found


def test_servers_and_registry_have_a_short_form() -> None:
    """Servers as a list or as one string; a registry as its URL alone."""
    for servers in ("one:9092, [::1]:9093", ["one:9092", "[::1]:9093"]):
        assert KafkaSettings.model_validate({"bootstrap_servers": servers}).bootstrap_servers == "one:9092,[::1]:9093"
    found = KafkaSettings.model_validate({**BROKERS, "format": "avro", "schema_registry": REGISTRY})
    assert found.schema_registry
    assert found.schema_registry.url == REGISTRY


def test_one_batch_at_a_time_by_default_and_linger_beside_it() -> None:
    """Two would not keep the order. The keys of `delivery` may stand in the sink's own table."""
    table = {"type": "kafka", "linger": "1s", "max_records": 7} | BROKERS
    delivery = config.parse({"sinks": {"k": table}}, {}).sinks["k"].common.delivery
    assert (delivery.in_flight, delivery.linger, delivery.max_records) == (1, 1.0, 7)


# Keys and partitions


@pytest.mark.parametrize(
    ("key", "murmur2"), [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)]
)
def test_a_partition_is_the_hash_without_its_sign_modulo_the_partitions(key: bytes, murmur2: int) -> None:
    """With the hashes that Kafka's own tests expect."""
    for partitions in (1, 7, 1000):
        assert partition_of(key, partitions) == (murmur2 & 0x7FFFFFFF) % partitions


async def test_partitions_are_those_of_the_java_client(kafka: Kafka) -> None:
    """Kafka's own producer, from the broker's jars, puts the same keys into the same partitions."""
    ours, theirs = kafka.make_topic(new_topic(), 7), kafka.make_topic(new_topic(), 7)
    batch = mapped(200)
    async with opened(kafka_sink(kafka.bootstrap, {"topic": ours})) as sink:
        assert await sink.write(batch) == WriteResult([])
    keyed = "".join(f"{key}\t{number}\n" for number, key in enumerate(batch.keys))
    options = ("--property", "parse.key=true", "--bootstrap-server", kafka.bootstrap, "--topic", theirs)
    tool("org.apache.kafka.tools.ConsoleProducer", *options, given=keyed)
    found = [{message.key(): message.partition() for message in read_topic(kafka, topic)} for topic in (ours, theirs)]
    assert found[0] == found[1]
    assert set(found[0]) == {key.encode() for key in batch.keys}
    assert len(set(found[0].values())) == 7


async def test_a_key_keeps_its_order(kafka: Kafka) -> None:
    """Over several writes and in small batches."""
    topic = kafka.make_topic(new_topic(), 4)
    batches = [mapped(300, seed) for seed in range(3)]
    expected: dict[str, list[bytes]] = defaultdict(list)
    async with opened(kafka_sink(kafka.bootstrap, {"topic": topic, "batch_size": "4KiB"})) as sink:
        for batch in batches:
            await sink.write(batch)
            for key, body in zip(batch.keys, batch.bodies, strict=True):
                expected[key].append(body)
    found: dict[str, list[bytes]] = defaultdict(list)
    for message in read_topic(kafka, topic):
        found[(message.key() or b"").decode()].append(message.value() or b"")
    assert found == expected


@pytest.mark.parametrize("key", ["visit", "name", "id"])
async def test_keys_are_as_configured(kafka: Kafka, key: str) -> None:
    """The visit's id or else the event's, event.name as in the record, or event.id."""
    topic = kafka.make_topic(new_topic())
    batch = mapped(60)
    async with opened(kafka_sink(kafka.bootstrap, {"topic": topic, "key": key})) as sink:
        await sink.write(batch)
    for message in read_topic(kafka, topic):
        record = json.loads(message.value() or b"")
        visit = record.get("appmon.visit.id", record["event.id"])
        assert message.key() == {"visit": visit, "name": record["event.name"], "id": record["event.id"]}[key].encode()


# Messages


async def test_headers_are_cloud_events(kafka: Kafka) -> None:
    """In binary mode, with the record's own values, also if its fields are in another order."""
    topic = kafka.make_topic(new_topic())
    odd = batch_of(
        [
            b'{"event.type":"T \xc3\xa4","event.provider":"My Shop","timestamp":"2026-01-31T12:00:00.000Z"}',
            b'{"event.id": "post-1", "event.type": "U", "event.provider": "P"}',
            b"{}",
        ]
    )
    batch = mapped(50)
    async with opened(kafka_sink(kafka.bootstrap, {"topic": topic})) as sink:
        await sink.write(batch)
        await sink.write(batch_of(batch.bodies[:1], "other"))
        await sink.write(odd)
    messages = read_topic(kafka, topic)
    assert len(messages) == 54
    for message in messages[:50]:
        record = json.loads(message.value() or b"")
        assert headers(message) == {
            "ce_id": record["event.id"].encode(),
            "ce_type": record["event.type"].encode(),
            "ce_source": record["event.provider"].encode(),
            "ce_specversion": b"1.0",
            "ce_time": record["timestamp"].encode(),
            "content-type": b"application/json",
        }
    others = [headers(message) for message in messages[50:]]
    assert [one["ce_id"] for one in others] == [b"other-0", b"post-0", b"post-1", b"post-2"]
    assert [one["ce_type"] for one in others[1:]] == ["T ä".encode(), b"U", b"unknown"]
    assert [one["ce_source"] for one in others[1:]] == [b"My%20Shop", b"P", b"appmon"]
    assert ["ce_time" in one for one in others] == [True, True, False, False]


async def test_kafka_s_own_consumer_reads_it(kafka: Kafka) -> None:
    """kafka-console-consumer, from the broker's jars, prints each record as a line, unchanged."""
    topic = kafka.make_topic(new_topic(), 2)
    batch = mapped(40)
    async with opened(kafka_sink(kafka.bootstrap, {"topic": topic, "headers": "none", "compression": "lz4"})) as sink:
        await sink.write(batch)
    assert sorted(kafka.console_consumer(topic, 40)) == sorted(body.decode() for body in batch.bodies)
    assert all(not message.headers() for message in read_topic(kafka, topic))


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_compression(kafka: Kafka, compression: str) -> None:
    """Another client can read each kind."""
    topic = kafka.make_topic(new_topic())
    batch = mapped(500)
    async with opened(kafka_sink(kafka.bootstrap, {"topic": topic, "compression": compression})) as sink:
        await sink.write(batch)
    assert values(read_topic(kafka, topic)) == batch.bodies


async def test_a_message_has_the_configured_timestamp(kafka: Kafka) -> None:
    """When it was sent, so that brokers don't delete old events at once; or the event's."""
    batch = mapped(3)
    for choice in ("sent", "event"):
        topic = kafka.make_topic(new_topic())
        before = time.time() * 1000
        async with opened(kafka_sink(kafka.bootstrap, {"topic": topic, "timestamp": choice})) as sink:
            await sink.write(batch)
        stamps = [message.timestamp()[1] for message in read_topic(kafka, topic)]
        if choice == "event":
            assert stamps == list(batch.timestamps)
        else:
            assert all(before - 1 <= stamp <= time.time() * 1000 for stamp in stamps)
