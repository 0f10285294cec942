"""Posts through the mapping, for tests that look at what became of them."""

import json
from collections.abc import Sequence
from typing import Any

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction
from btfeed.posts.post import digest
from btfeed.records.mapper import create_mapper
from btfeed.records.plain_mapper import PlainMapper
from btfeed.records.result import MappingResult
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from tests.support import wire

START = 1358330757840
"""2013-01-16T10:05:57.840Z"""


def mapped(body: bytes, record: dict[str, Any] | None = None, **validation: str) -> MappingResult:
    """What becomes of `body` under these tables of the configuration, on the path that runs and on the plain one alike."""
    settings = RecordSettings.model_validate(record or {}), ValidationSettings.model_validate(validation)
    found = create_mapper(*settings).map(body, digest(body))
    equal(found, PlainMapper(*settings).map(body, digest(body)))
    return found


def equal(found: MappingResult, expected: MappingResult) -> None:
    """Byte for byte, and count for count."""
    one, other = found.batch, expected.batch
    assert one.ndjson == other.ndjson
    for column in ("ids", "keys", "timestamps", "transactions", "sizes"):
        assert list(getattr(one, column)) == list(getattr(other, column)), column
    assert found.refused == expected.refused
    assert found.counts == expected.counts


def parsed(record: bytes) -> dict[str, Any]:
    """One record, which must be one line of JSON proper: no name twice, no NaN."""
    assert b"\n" not in record
    found: dict[str, Any] = json.loads(record, object_pairs_hook=_once, parse_constant=_refuse)
    return found


def records(body: bytes, record: dict[str, Any] | None = None, **validation: str) -> list[dict[str, Any]]:
    """The records that `body` becomes."""
    return [parsed(line) for line in mapped(body, record, **validation).batch.bodies]


def transaction(
    *occurrences: BtOccurrence, measures: Sequence[str] = (), dimensions: Sequence[str] = (), **fields: Any
) -> BusinessTransaction:
    """A business transaction called `bt`, of no type unless one is given."""
    named = {"name": "bt", "measureNames": measures, "dimensionNames": dimensions} | fields
    return BusinessTransaction(occurrences=occurrences, **named)


def occurrence(**fields: Any) -> BtOccurrence:
    """One at START."""
    return BtOccurrence(**{"startTime": START} | fields)


def single(*, bt: dict[str, Any] | None = None, settings: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The record of a post of one occurrence with these fields, under [record] `settings`."""
    (record,) = records(wire.post(transaction(occurrence(**fields), **bt or {})), settings)
    return record


def raw(content: bytes, **kind: Any) -> bytes:
    """A post of one occurrence at START whose further fields are `content`."""
    head = transaction(**kind).SerializeToString()
    return wire.transaction(head + wire.field(6, b"\x08" + wire.varint(START) + content))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), f"a name is there twice: {pairs}"
    return found


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
