"""Avro in Kafka: Confluent's deserializer reads it, and every answer of a schema registry has a meaning."""

import json
import re
import ssl
from pathlib import Path
from typing import Any

import pytest

from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import Misconfigured, SinkContext, Unavailable, WriteResult
from sinks.kafka.registry import check_compatible, parse_schema_id
from sinks.shared.avro import avro_schema
from sinks.shared.http import Reply
from tests.servers.kafka import Kafka
from tests.servers.registry import PASSWORD, TOKEN, USER, RegistryServer
from tests.sinks.drivers import opened
from tests.sinks.drivers.file import canonical, json_of
from tests.sinks.drivers.kafka import deserialize, headers, kafka_sink, new_topic, read_topic
from tests.support.certificates import Authority
from tests.support.fakes import Rig, batch_of, mapped

NOW = 1_700_000_000.0
SCHEMA = avro_schema(SinkContext("kafka", RECORD_FIELDS, MAPS))


def avro(topic: str, registry: object) -> dict[str, object]:
    return {"topic": topic, "format": "avro", "schema_registry": registry}


def put(registry: RegistryServer, subject: str, schema: dict[str, Any]) -> None:
    """Register a schema, as another client would have done before."""
    number = len(registry.schemas) + 1
    registry.schemas[number] = json.dumps(schema)
    registry.subjects[subject] = [number]


async def test_confluent_s_deserializer_reads_it(kafka: Kafka, registry: RegistryServer) -> None:
    """Every field of every record, with the schema that was registered once for each topic."""
    prefix = new_topic()
    batch = mapped(60)
    settings = avro(prefix + ".{category}", registry.url) | {"create_topics": True}
    async with opened(kafka_sink(kafka.bootstrap, settings)) as sink:
        assert registry.subjects == {}
        for _ in range(2):
            assert await sink.write(batch) == WriteResult([])
    topics = [f"{prefix}.{category}" for category in ("purepath", "user_action", "visit")]
    assert sorted(registry.subjects) == [f"{topic}-value" for topic in topics]
    assert sum(request.endswith("/versions") for request in registry.requests) == 3
    messages = read_topic(kafka, *topics)
    assert sorted(map(json_of, deserialize(registry, messages))) == sorted(map(canonical, batch.bodies * 2))
    assert {headers(message)["content-type"] for message in messages} == {b"avro/binary"}


async def test_a_new_field_is_compatible(kafka: Kafka, registry: RegistryServer) -> None:
    """A schema from before a field was added does not prevent writing."""
    topic = kafka.make_topic(new_topic())
    for dropped in (field["name"] for field in SCHEMA["fields"] if "default" in field):
        older = SCHEMA | {"fields": [field for field in SCHEMA["fields"] if field["name"] != dropped]}
        put(registry, f"{topic}-value", older)
        async with opened(kafka_sink(kafka.bootstrap, avro(topic, registry.url))) as sink:
            assert await sink.write(mapped(1)) == WriteResult([])
        assert len(registry.subjects[f"{topic}-value"]) == 2


async def test_an_incompatible_schema_is_misconfigured(kafka: Kafka, registry: RegistryServer) -> None:
    """check and open say so. If the schema appears later, only records for its topic are held up."""
    topic, later = kafka.make_topic(new_topic()), new_topic()
    other = {"type": "record", "name": "Occurrence", "namespace": "btfeed", "fields": [{"name": "x", "type": "long"}]}
    put(registry, f"{topic}-value", other)
    sink = kafka_sink(kafka.bootstrap, avro(topic, registry.url))
    with pytest.raises(Misconfigured, match="not compatible"):
        await sink.check()
    await sink.close()
    kafka.make_topic(later + "easyTravel")
    async with opened(kafka_sink(kafka.bootstrap, avro(later + "{application}", registry.url))) as sink:
        put(registry, f"{later}easyTravel-value", other)
        result = await sink.write(mapped(1))
        assert result.blocked[0].destination == f"topic {later}easyTravel"
        assert re.search(r"HTTP 409.*not compatible", result.blocked[0].reason)
    assert read_topic(kafka, later + "easyTravel") == []


async def test_a_registry_that_fails_for_a_while_costs_nothing(kafka: Kafka, registry: RegistryServer) -> None:
    """The loop retries; each record arrives once."""
    topic = kafka.make_topic(new_topic() + "easyTravel")
    settings = avro(topic.removesuffix("easyTravel") + "{application}", registry.url)
    async with Rig(kafka_sink(kafka.bootstrap, settings)) as rig:
        registry.faults.extend([500, 503, 429])
        bodies = await rig.post(20)
        await rig.saved(2)
    assert not registry.faults
    assert rig.sample("sink_errors_total", kind="unavailable") == 3
    found = [json_of(record) for record in deserialize(registry, read_topic(kafka, topic))]
    assert sorted(found) == sorted(map(canonical, bodies))


async def test_what_does_not_fit_is_a_dead_letter(kafka: Kafka, registry: RegistryServer) -> None:
    """Only that record; its neighbors arrive."""
    topic = kafka.make_topic(new_topic())
    good = mapped(2).bodies
    async with opened(kafka_sink(kafka.bootstrap, avro(topic, registry.url))) as sink:
        result = await sink.write(batch_of([good[0], b'{"event.id":"post-1"}', good[1]]))
    assert [*result.refused] == [1]
    assert result.refused[1].startswith("does not fit the Avro schema")
    assert len(read_topic(kafka, topic)) == 2


@pytest.mark.parametrize("credentials", [{"username": USER, "password": PASSWORD}, {"token": TOKEN}])
async def test_credentials_and_tls(kafka: Kafka, tmp_path: Path, credentials: dict[str, str]) -> None:
    """Basic or bearer, with a certificate that only `ca` trusts."""
    authority = Authority(tmp_path / "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, authority.sign("registry")))
    topic = kafka.make_topic(new_topic())
    with RegistryServer(tls=context) as locked:
        locked.locked = True
        table = {"url": locked.url, "ca": str(authority.certificate)} | credentials
        async with opened(kafka_sink(kafka.bootstrap, avro(topic, table))) as sink:
            assert await sink.write(mapped(3)) == WriteResult([])
        with pytest.raises(Misconfigured, match="not trusted"):
            await opened(kafka_sink(kafka.bootstrap, avro(topic, locked.url))).__aenter__()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b'{"id":7}', None),
        (200, b"<html>", Misconfigured),
        (200, b'{"id":"7"}', Misconfigured),
        (401, b'{"error_code":401,"message":"Unauthorized"}', Misconfigured),
        (403, b'{"error_code":40301,"message":"denied"}', Misconfigured),
        (404, b"", Misconfigured),
        (409, b'{"error_code":409,"message":"incompatible"}', Misconfigured),
        (422, b'{"error_code":42201,"message":"Invalid schema"}', Misconfigured),
        (429, b"", Unavailable),
        (500, b'{"error_code":50001,"message":"store"}', Unavailable),
        (503, b"", Unavailable),
    ],
)
def test_what_a_registry_answers(status: int, body: bytes, kind: type[Exception] | None) -> None:
    """To a registration and to a compatibility check. An unknown subject is compatible with everything."""
    check_compatible(Reply(404, {}, b'{"error_code":40401,"message":"Subject not found."}', NOW), "s")
    reply = Reply(status, {}, body, NOW)
    if kind is None:
        assert parse_schema_id(reply, "s") == 7
        return
    with pytest.raises(kind):
        parse_schema_id(reply, "s")
    with pytest.raises(kind):
        check_compatible(reply, "s")
