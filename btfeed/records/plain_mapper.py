"""The specification of a record: from a post to one JSON object for each occurrence, in plain Python.

Read `_PostMapping` from top to bottom: a post, its business transactions, their occurrences, the fields of a record. The
native transcoder (native/) gives the same bytes and counts, faster; tests/records/test_native.py compares the two.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction, BusinessTransactions
from btfeed.posts.post import Malformed, event_id_prefix, parse
from btfeed.records.encoding import ENCODERS, count_invalid_utf8, rfc3339
from btfeed.records.names import field_names
from btfeed.records.privacy import Privacy
from btfeed.records.result import Counts, MappingResult, Posts, RefusedRecord, map_each
from btfeed.records.schema import (
    BY_NAME,
    BY_NUMBER,
    CONVERTED_BY,
    DIMENSIONS,
    DURATION,
    END_TIME,
    EVENT_KIND,
    START_TIME,
    VALUES,
    VISIT,
    VISIT_ID,
    Field,
)
from btfeed.records.settings import RecordSettings
from btfeed.records.transaction import CompiledTransaction, TransactionCompiler
from btfeed.records.validation import ValidationSettings, violations
from sinks.batch import Batch, Transaction

_to_json = msgspec.json.Encoder().encode


class PlainMapper:
    """Maps posts under one configuration. Keeps nothing between posts: equal bodies give equal results."""

    threads = 1

    def __init__(self, record: RecordSettings, validation: ValidationSettings) -> None:
        self.compiler = TransactionCompiler(record)
        self.privacy = Privacy(record.privacy)
        self.validation = validation

    def map(self, body: bytes, digest: bytes) -> MappingResult:
        """The records of a post. Raises Malformed if `body` is not a BusinessTransactions message."""
        return _PostMapping(self, event_id_prefix(digest)).map(parse(body))

    def map_all(self, posts: Posts, max_bytes: int) -> list[MappingResult | Exception]:
        """See `map_each`."""
        return map_each(self.map, posts, max_bytes)


class _PostMapping:
    """Maps one post. Has the columns of its batch, its refused records and its counts while they grow."""

    def __init__(self, mapper: PlainMapper, id_prefix: str) -> None:
        self._compiler = mapper.compiler
        self._privacy = mapper.privacy
        self._validation = mapper.validation
        self._id_prefix = id_prefix
        self._ordinal = 0
        self._ids: list[str] = []
        self._keys: list[str] = []
        self._timestamps: list[int] = []
        self._transactions: list[Transaction] = []
        self._sizes: list[int] = []
        self._ndjson = bytearray()
        self._refused: list[RefusedRecord] = []
        self._counts = Counts()

    def map(self, post: BusinessTransactions) -> MappingResult:
        server = post.serverName if post.HasField("serverName") else None
        self._counts.lost = max(0, post.lostTransactions)
        self._counts.invalid_utf8 += count_invalid_utf8([post.serverName])
        self._count_unknown_fields(post)
        for message in post.businessTransactions:
            self._map_transaction(message, self._compiler.compile(message, server))
        columns = (self._ids, self._keys, self._timestamps, self._transactions, self._sizes)
        batch = Batch(*columns, [memoryview(self._ndjson).toreadonly()])
        return MappingResult(batch, self._refused, self._counts)

    def _map_transaction(self, message: BusinessTransaction, compiled: CompiledTransaction) -> None:
        if message.occurrences:
            self._counts.occurrences[compiled.category] += len(message.occurrences)
        self._counts.invalid_utf8 += compiled.invalid_utf8
        self._count_unknown_fields(message)
        most_values = max((len(occurrence.values) for occurrence in message.occurrences), default=0)
        most_dimensions = max((len(occurrence.dimensions) for occurrence in message.occurrences), default=0)
        names = {
            VALUES: field_names(VALUES.record, compiled.measure_names, most_values),
            DIMENSIONS: field_names(DIMENSIONS.record, compiled.dimension_names, most_dimensions),
        }
        for occurrence in message.occurrences:
            self._map_occurrence(occurrence, compiled, names)

    def _map_occurrence(
        self, occurrence: BtOccurrence, compiled: CompiledTransaction, names: Mapping[Field, Sequence[str]]
    ) -> None:
        values: dict[Field, Any] = {BY_NUMBER[descriptor.number]: value for descriptor, value in occurrence.ListFields()}
        if START_TIME not in values:
            raise Malformed("not a BusinessTransactions message: an occurrence has no startTime")
        self._count_unknown_fields(occurrence)
        reasons, dropped = self._validate(values, compiled)

        start = values.pop(START_TIME)
        ends = compiled.category == VISIT and END_TIME in values
        if ends and (DURATION not in values or DURATION.record in dropped):  # the feed has no duration for visits
            values[DURATION] = values[END_TIME] - start
            dropped.discard(DURATION.record)
        dropped |= self._privacy.dropped

        fields: dict[str, Any] = {START_TIME.record: start}
        try:
            fields[START_TIME.record] = rfc3339(start)
        except ValueError as error:
            reasons = [f"startTime {error}"]
        self._add_fields(fields, values, names, dropped)
        self._add_record(fields, start, compiled, ", ".join(reasons))

    def _validate(self, values: Mapping[Field, Any], compiled: CompiledTransaction) -> tuple[list[str], set[str]]:
        """Counts violations. Returns why the record must be a dead letter, and the record fields to drop."""
        short = set()
        for field, names in ((VALUES, compiled.measure_names), (DIMENSIONS, compiled.dimension_names)):
            count = len(values.get(field, ()))
            if count < len(names):
                short.add(field)
            if count != len(names):
                self._counts.mismatches[field.name, "fewer" if field in short else "more"] += 1
        reasons, dropped = [], set()
        for violation in violations(compiled.category, set(values), short):
            self._counts.violations[compiled.transaction.name, violation.field, violation.rule] += 1
            policy = self._validation.missing if violation.rule == "missing" else self._validation.unexpected
            if policy == "dead-letter":
                reasons.append(str(violation))
            elif policy == "drop":
                dropped.add(BY_NAME[violation.field].record)
        return reasons, dropped

    def _add_fields(
        self,
        fields: dict[str, Any],
        values: Mapping[Field, Any],
        names: Mapping[Field, Sequence[str]],
        dropped: Set[str],
    ) -> None:
        """Adds what a record says of the values of an occurrence. A value that a record cannot hold is counted."""
        self._counts.invalid_utf8 += count_invalid_utf8(values.get(CONVERTED_BY, ()))
        protect, protected = self._privacy.protect, self._privacy.protected
        for field, value in values.items():
            encode = ENCODERS[field.encoding]
            for name, item in zip(names[field], value, strict=False) if field in names else ((field.record, value),):
                if type(item) is bytes:
                    self._counts.invalid_utf8 += 1
                if name in dropped:
                    continue
                try:
                    encoded = encode(item)
                    fields[name] = protect(name, encoded) if name in protected else encoded
                except ValueError:
                    self._counts.left_out[name] += 1

    def _add_record(self, fields: Mapping[str, Any], start: int, compiled: CompiledTransaction, reason: str) -> None:
        """Adds a record to the batch or, if there is a reason, to the refused records."""
        event_id = f"{self._id_prefix}{self._ordinal}"
        key = fields.get(VISIT_ID.record, event_id)
        record = {"event.kind": EVENT_KIND, "event.id": event_id, **compiled.constants, **fields}
        json = _to_json(record)
        if reason:
            refused = RefusedRecord(self._ordinal, event_id, key, start, compiled.transaction, reason, json)
            self._refused.append(refused)
        else:
            self._ids.append(event_id)
            self._keys.append(key)
            self._timestamps.append(start)
            self._transactions.append(compiled.transaction)
            self._sizes.append(len(json) + 1)
            self._ndjson += json + b"\n"
        self._ordinal += 1

    def _count_unknown_fields(self, message: Message) -> None:
        unknown = len(UnknownFieldSet(message))
        if unknown:
            self._counts.unknown_fields[message.DESCRIPTOR.name] += unknown
