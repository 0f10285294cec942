"""Lines that show what sinks get."""

import json
from typing import Any

import pytest

import sinks
from btfeed.delivery.lines import lines
from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import Sink, SinkContext
from sinks.batch import Batch
from sinks.bizevents import cloud_events
from sinks.elasticsearch.bulk import bulk_request
from sinks.elasticsearch.index import IndexName
from tests.support.fakes import FakeSink, mapped

AUTH = {"url": "https://abc.live.dynatrace.com", "api_token": "dt0c01.x"}


def sink(kind: str, **settings: Any) -> Sink:
    found = sinks.load(kind)
    return found.create(found.settings.model_validate(settings), SinkContext("name", RECORD_FIELDS, MAPS))


def shown(kind: str, batch: Batch, **settings: Any) -> list[dict[str, Any]]:
    """What the lines have, of which each has the sink and the record."""
    found = [json.loads(line) for line in lines("name", sink(kind, **settings), batch)]
    assert [line.pop("record") for line in found] == [json.loads(body) for body in batch.bodies]
    assert {line.pop("sink") for line in found} == {"name"}
    return found


@pytest.fixture(scope="module")
def batch() -> Batch:
    return mapped(30)


def test_a_record_is_shown_with_its_own_bytes(batch: Batch) -> None:
    """Behind what the sink adds to it. A sink that describes nothing adds nothing."""
    for line, body in zip(lines("n", FakeSink(), batch), batch.bodies, strict=True):
        assert line == b'{"sink":"n","record":' + body + b"}\n"
    assert lines("n", FakeSink(), Batch()) == []


def test_file(batch: Batch) -> None:
    """Nothing is added."""
    assert shown("file", batch, directory="/nowhere") == [{}] * len(batch)


@pytest.mark.parametrize("key", ["visit", "name", "id"])
def test_kafka(batch: Batch, key: str) -> None:
    """Topic, key and headers of each message."""
    found = shown("kafka", batch, bootstrap_servers="nowhere:9092", topic="bt.{category}", key=key)
    names = [json.loads(body)["event.name"] for body in batch.bodies]
    keys = {"visit": list(batch.keys), "name": names, "id": list(batch.ids)}[key]
    assert [line["key"] for line in found] == keys
    assert [line["topic"] for line in found] == [f"bt.{transaction.category}" for transaction in batch.transactions]
    assert [line["headers"]["ce_id"] for line in found] == list(batch.ids)
    assert found[0]["headers"]["content-type"] == "application/json"
    bare = shown("kafka", batch, bootstrap_servers="nowhere:9092", headers="none")
    assert all(line.keys() == {"topic", "key"} for line in bare)


@pytest.mark.parametrize("place", ["index", "data_stream"])
def test_elasticsearch(batch: Batch, place: str) -> None:
    """Index or data stream, id, and the field that is put in front: as in a request."""
    name = "bt-{category}-{date}" if place == "index" else "logs-bt-default"
    found = shown("elasticsearch", batch, hosts=["http://nowhere:9200"], **{place: name})
    request = [json.loads(line) for line in bulk_request(batch, IndexName(name)).splitlines()]
    actions, documents = request[::2], request[1::2]
    assert [{"_index": line[place], "_id": line["_id"]} for line in found] == [action["create"] for action in actions]
    assert [line["@timestamp"] for line in found] == [document["@timestamp"] for document in documents]


def test_bizevents(batch: Batch) -> None:
    """Nothing is added to plain JSON. A CloudEvent has its attributes."""
    assert shown("bizevents", batch, **AUTH) == [{}] * len(batch)
    found = shown("bizevents", batch, cloud_events=True, **AUTH)
    sent = json.loads(cloud_events(batch))
    assert [line["event"] | {"data": event["data"]} for line, event in zip(found, sent, strict=True)] == sent


def test_every_type_of_sink_is_shown_here() -> None:
    """A new type gets a test above, whether it describes its records or not."""
    assert {f"test_{name}" for name in sinks.types()} <= globals().keys()
