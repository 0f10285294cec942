"""Maps posts, for tests that look at their records."""

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
    """Maps `body` under these [record] and [validation] tables, on the path that runs and on the plain one."""
    settings = RecordSettings.model_validate(record or {}), ValidationSettings.model_validate(validation)
    found = create_mapper(*settings).map(body, digest(body))
    equal(found, PlainMapper(*settings).map(body, digest(body)))
    return found


def equal(found: MappingResult, expected: MappingResult) -> None:
    """Asserts that both results have the same bytes, columns and counts."""
    one, other = found.batch, expected.batch
    assert one.ndjson == other.ndjson
    for column in ("ids", "keys", "timestamps", "transactions", "sizes"):
        assert list(getattr(one, column)) == list(getattr(other, column)), column
    assert found.refused == expected.refused
    assert found.counts == expected.counts


def parsed(record: bytes) -> dict[str, Any]:
    """A record, which must be one line of strict JSON: no name twice, no NaN."""
    assert b"\n" not in record
    found: dict[str, Any] = json.loads(record, object_pairs_hook=_once, parse_constant=_reject)
    return found


def records(body: bytes, record: dict[str, Any] | None = None, **validation: str) -> list[dict[str, Any]]:
    """The records of `body`."""
    return [parsed(line) for line in mapped(body, record, **validation).batch.bodies]


def transaction(
    *occurrences: BtOccurrence, measures: Sequence[str] = (), dimensions: Sequence[str] = (), **fields: Any
) -> BusinessTransaction:
    """A business transaction called `bt`, without a type unless one is given."""
    named = {"name": "bt", "measureNames": measures, "dimensionNames": dimensions} | fields
    return BusinessTransaction(occurrences=occurrences, **named)


def occurrence(**fields: Any) -> BtOccurrence:
    """An occurrence at START."""
    return BtOccurrence(**{"startTime": START} | fields)


def single(*, bt: dict[str, Any] | None = None, settings: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """The record of a post with one occurrence that has these fields. settings: the [record] table."""
    (record,) = records(wire.post(transaction(occurrence(**fields), **bt or {})), settings)
    return record


def raw(content: bytes, **kind: Any) -> bytes:
    """A post with one occurrence at START whose other fields are `content`."""
    head = transaction(**kind).SerializeToString()
    return wire.transaction(head + wire.field(6, b"\x08" + wire.varint(START) + content))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), f"a name occurs twice: {pairs}"
    return found


def _reject(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")
