"""The rules for [record.attributes] against a real server: it takes every name and value that they allow."""

from typing import Any

import pytest
from pydantic import ValidationError

from btfeed.records.attributes import MAX_DEPTH, MAX_FLOAT, MAX_SIZE, flat_attributes
from btfeed.records.schema import MAPS, RECORD_FIELDS
from tests.sinks.drivers import opened
from tests.sinks.drivers.elasticsearch import Place, records

TAKEN: dict[str, Any] = {
    "environment": "production", "dt.entity.host": "HOST-1", "clients": "x", "event.types": "x", "appmon.release": 1,
    "x" * MAX_SIZE: 1, ".".join("d" * MAX_DEPTH): 1, "größe 売上": "x", "a b": 1, "a._id": 1, "a.@timestamp": 1, "a*b,#": 1,
    "least": -(2**63), "largest": 2**63 - 1, "float": MAX_FLOAT, "minus": -MAX_FLOAT, "yes": True, "long": "v" * 100_000,
}  # fmt: skip
REJECTED: dict[str, Any] = {
    "": 1, " ": 1, "b..c": 1, ".b": 1, "b. .c": 1, ".".join("e" * (MAX_DEPTH + 1)): 1,
    "@timestamp": "x", "_id": "x", "_source": "x", "_index": "x", "_routing": "x", "_field_names": "x", "_ignored": "x",
    "client": "x", "event": 1, "appmon": 1, "appmon.dimension": "x", "event.type.x": 1, "event.id.x.y": 1, "duration": "x",
    "n": 2**63, "f": 3.5e38, "g": -1e300,
}  # fmt: skip
"""The server knows `n`, `f` and `g` as numbers from a record before these."""


async def test_what_the_configuration_takes_is_indexed(place: Place) -> None:
    """All of it in one record."""
    assert flat_attributes(TAKEN) == TAKEN
    async with opened(place.sink()) as sink:
        result = await sink.write(records(TAKEN))
    assert (result.retry, result.refused) == ((), {})


async def test_what_the_server_rejects_the_configuration_refuses(place: Place) -> None:
    """Each of these would make every record a dead letter, once the index knows the fields of a record."""
    known = {field.name: _example(field.type) for field in RECORD_FIELDS} | {f"{prefix.name}x": 1 for prefix in MAPS}
    known = {name: value for name, value in known.items() if name not in ("event.id", "timestamp")}
    async with opened(place.sink()) as sink:
        assert (await sink.write(records(known | {"n": 1, "f": 0.5, "g": 0.5}, prefix="known"))).refused == {}
        batch = records(*({name: value} for name, value in REJECTED.items()))
        result = await sink.write(batch)
    assert sorted(result.refused) == list(range(len(REJECTED))), [*REJECTED]
    for name, value in REJECTED.items():
        with pytest.raises(ValidationError):
            flat_attributes({name: value})


def _example(kind: str) -> object:
    return {"string": "x", "strings": ["x"], "boolean": True, "timestamp": "2026-01-31T12:00:00.000Z"}.get(kind, 1)
