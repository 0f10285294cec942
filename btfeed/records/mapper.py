"""Chooses the mapper that runs: the native one if it was built, else the plain one (plain_mapper.py).

The native mapper gets the field table and the configuration from here. It asks Python to compile each business transaction
once (transaction.py), so that templates, names and constants are decided in one place. If it cannot map a post, it asks the
plain mapper, which raises the error with the reason.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from btfeed import native
from btfeed.posts.bt_pb2 import BusinessTransaction
from btfeed.posts.post import event_id_prefix
from btfeed.records.names import field_names
from btfeed.records.plain_mapper import PlainMapper
from btfeed.records.result import Counts, MappingResult, Posts, RefusedRecord, map_each
from btfeed.records.schema import (
    CATEGORIES,
    CLIENT_IP,
    DIMENSIONS,
    DURATION,
    END_TIME,
    EVENT_KIND,
    FIELDS,
    START_TIME,
    UNKNOWN,
    VALUES,
    VISIT,
    VISIT_ID,
)
from btfeed.records.settings import RecordSettings
from btfeed.records.transaction import CompiledTransaction, TransactionCompiler
from btfeed.records.validation import ValidationSettings
from sinks.batch import Batch, Transaction

if TYPE_CHECKING:
    from btfeed import _native

HEAD = f'{{"event.kind":"{EVENT_KIND}","event.id":"'.encode()
"""What every record begins with."""
RUN_BYTES = 2**20
"""Bytes of records up to which posts in a row become one result. Each result costs more than to map a small post."""
_CATEGORIES = (*CATEGORIES, UNKNOWN)
_MESSAGES = ("BusinessTransactions", "BusinessTransaction", "BtOccurrence")
_LISTS = (VALUES, DIMENSIONS)
_ROLES: "_native.Roles" = {
    "start_time": START_TIME.number,
    "end_time": END_TIME.number,
    "duration": DURATION.number,
    "visit_id": VISIT_ID.number,
    "visit": CATEGORIES.index(VISIT),
}


class PostMapper(Protocol):
    """Maps posts under one configuration. threads: how many threads may map at the same time."""

    threads: int

    def map(self, body: bytes, digest: bytes) -> MappingResult:
        """The records of a post. `digest` is that of `body`. Raises Malformed if `body` is not a BusinessTransactions
        message."""

    def map_all(self, posts: Posts, max_bytes: int) -> list[MappingResult | Exception]:
        """The results in order, each of one post or of several in a row, or the exception that a post raised. Stops after
        the post with which the records have more than `max_bytes`: the last posts may have no result."""


def create_mapper(record: RecordSettings, validation: ValidationSettings) -> PostMapper:
    """The native mapper, or the plain one if the native module is not available."""
    return PlainMapper(record, validation) if native.module is None else NativeMapper(record, validation)


class NativeMapper:
    """Maps posts natively, and without the interpreter's lock."""

    threads = native.CORES

    def __init__(self, record: RecordSettings, validation: ValidationSettings) -> None:
        assert native.module, "the native transcoder was not built"
        self._compiler = TransactionCompiler(record)
        self._plain = PlainMapper(record, validation)
        self._native: _native.Transcoder[CompiledTransaction] = native.module.Transcoder(
            [(field.number, field.name, field.type, field.presence, field.record, field.encoding) for field in FIELDS],
            _ROLES,
            {
                "head": HEAD,
                "missing": validation.missing,
                "unexpected": validation.unexpected,
                "drop": record.privacy.drop,
                "hash": record.privacy.hash,
                "key": record.privacy.key.get_secret_value().encode(),
                "mask": [CLIENT_IP.record] if record.privacy.mask_ip else [],
            },
            self._compile,
            _names,
        )

    def map(self, body: bytes, digest: bytes) -> MappingResult:
        (result,) = self.map_all([(body, digest)], 0)
        if isinstance(result, Exception):
            raise result
        return result

    def map_all(self, posts: Posts, max_bytes: int) -> list[MappingResult | Exception]:
        """Releases the interpreter's lock once for all posts: to get it back may take long."""
        given = [(body, event_id_prefix(digest)) for body, digest in posts]
        results: list[MappingResult | Exception] = []
        place = 0
        for transcoded in self._native.transcode(given, max_bytes, RUN_BYTES):
            results += map_each(partial(self._result, transcoded), [posts[place]], 0)
            place += 1 if transcoded is None or isinstance(transcoded, Exception) else len(transcoded[-1])
        return results

    def _result(
        self, transcoded: "_native.Transcoded[CompiledTransaction] | Exception | None", body: bytes, digest: bytes
    ) -> MappingResult:
        if transcoded is None:
            return self._plain.map(body, digest)
        if isinstance(transcoded, Exception):
            raise transcoded
        parts, ids, keys, timestamps, sizes, runs, refused, counts, ends = transcoded
        transactions: list[Transaction] = []
        for compiled, records, _ in runs:
            transactions += [compiled.transaction] * records
        columns = (ids, keys, memoryview(timestamps).cast("q"), transactions, memoryview(sizes).cast("q"))
        batch = Batch(*columns, [memoryview(part) for part in parts])
        occurrences, mismatches, unknown, lost, (left_out, invalid_utf8) = counts
        counted = _counts(runs, occurrences, mismatches, unknown, lost, left_out, invalid_utf8)
        return MappingResult(batch, [_refused(*each) for each in refused], counted, ends if len(ends) > 1 else ())

    def _compile(self, server: bytes | None, head: bytes) -> "_native.Compiled[CompiledTransaction]":
        """Compiles a transaction. `head` is its message without occurrences."""
        message = BusinessTransaction.FromString(head)
        compiled = self._compiler.compile(message, None if server is None else _as_protobuf(server))
        constants = b"," + msgspec.json.encode(compiled.constants)[1:-1] if compiled.constants else b""
        measures = _names(compiled, False, len(compiled.measure_names))
        dimensions = _names(compiled, True, len(compiled.dimension_names))
        category = _CATEGORIES.index(compiled.category)
        return compiled, category, b'"' + constants, compiled.invalid_utf8, measures, dimensions


def _names(compiled: CompiledTransaction, dimensions: bool, count: int) -> tuple[str, ...]:
    """The record fields of the first `count` measures or dimensions."""
    names = compiled.dimension_names if dimensions else compiled.measure_names
    return field_names(_LISTS[dimensions].record, names, count)


def _as_protobuf(string: bytes) -> Any:
    """protobuf returns a string as bytes if it is not valid UTF-8."""
    try:
        return string.decode()
    except UnicodeDecodeError:
        return string


def _refused(
    ordinal: int, id: str, key: str, timestamp: int, compiled: CompiledTransaction, broken: str, body: bytes
) -> RefusedRecord:
    reason = broken or f"startTime {timestamp} is outside the years 1 to 9999"
    return RefusedRecord(ordinal, id, key, timestamp, compiled.transaction, reason, body)


def _counts(
    runs: Any, occurrences: Any, mismatches: Any, unknown: Any, lost: int, left_out: Any, invalid_utf8: int
) -> Counts:
    """Names the counts. Most are zero, and most posts short, so that a loop over all would cost more than the mapping."""
    counts = Counts(lost=lost, invalid_utf8=invalid_utf8)
    for category, number in enumerate(occurrences):
        if number:
            counts.occurrences[_CATEGORIES[category]] = number
    if any(unknown):
        counts.unknown_fields.update({name: number for name, number in zip(_MESSAGES, unknown, strict=True) if number})
    for field, numbers in enumerate(mismatches):
        for kind, number in enumerate(numbers):
            if number:
                counts.mismatches[_LISTS[field].name, ("fewer", "more")[kind]] = number
    if left_out:
        counts.left_out.update(left_out)
    for compiled, _, violations in runs:
        for field_name, rule, number in violations:
            counts.violations[compiled.transaction.name, field_name, rule] += number
    return counts
