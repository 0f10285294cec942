"""From a post to records: one flat JSON object for each occurrence, encoded once and shared by all sinks.

`Mapper.map` takes a raw body and returns everything that can be said of it: the records as one Batch, the occurrences that
can't or must not be delivered, and the counts of what was odd. It is pure: the same body under the same configuration
gives the same bytes, and nothing is written anywhere.

What is expensive is reading fields one by one from Python, so that whatever several occurrences share is compiled once
(btfeed/records/plan.py). An occurrence then costs one ListFields, one row of values, a few conversions, and one encoding.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import msgspec
from google.protobuf.unknown_fields import UnknownFieldSet
from msgspec import UNSET

from btfeed.posts import post
from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction
from btfeed.records.encoding import not_utf8, rfc3339, text
from btfeed.records.plan import HEAD, NO_START_TIME, Cache, Findings, Plan, RecordSettings, Shape, Source
from btfeed.records.schema import CATEGORIES, DURATION, UNKNOWN
from btfeed.records.validation import ValidationSettings
from sinks.batch import Batch, Transaction

_COMMA = ord(",")
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """An occurrence that is not delivered. body: its record as JSON; where startTime fits no calendar, `timestamp` is that
    number."""

    ordinal: int
    id: str
    key: str
    timestamp: int
    transaction: Transaction
    reason: str
    body: bytes


@dataclass(slots=True)
class Counts:
    """What was odd about a post, or is worth counting.

    occurrences      by event.category
    violations       by business transaction, field, rule
    left_out         by record field: values that JSON or 64 bits can't hold
    mismatches       by (field, "fewer" or "more"): occurrences with another number of values than names
    unknown_fields   by message of proto/bt.proto
    invalid_utf8     strings that were not UTF-8; each bad byte became U+FFFD
    lost             BusinessTransactions.lostTransactions
    """

    occurrences: Counter[str] = field(default_factory=Counter)
    violations: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    mismatches: Counter[tuple[str, str]] = field(default_factory=Counter)
    unknown_fields: Counter[str] = field(default_factory=Counter)
    invalid_utf8: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Mapped:
    """All that a post became. The batch's records are in the post's order; ordinals of refused ones are left out."""

    batch: Batch
    refused: list[RefusedRecord]
    counts: Counts


Posts = Sequence[tuple[bytes, bytes]]
"""Bodies with their digests."""


def map_all(map: Callable[[bytes, bytes], Mapped], posts: Posts, room: int) -> list[Mapped | Exception]:
    """What each of `posts` became, or why it is none; of the first ones alone, where these have more bytes than `room`."""
    found: list[Mapped | Exception] = []
    for body, digest in posts:
        try:
            mapped = map(body, digest)
            room -= mapped.batch.nbytes
            found.append(mapped)
        except Exception as error:  # noqa: BLE001 - its neighbours must not suffer from it
            found.append(error)
        if room < 0:
            break
    return found


class Mapper:
    """Maps posts under one configuration. Not for use by two threads at a time."""

    threads = 1

    def __init__(self, record: RecordSettings, validation: ValidationSettings) -> None:
        self._record = record
        self._validation = validation
        self._cache = Cache()

    def map(self, body: bytes, digest: bytes) -> Mapped:
        """The records of a post. `digest` is post.digest(body). Raises post.Malformed where the body is none."""
        message = post.parse(body)
        run = _Run(post.event_id_prefix(digest))
        run.counts.lost = message.lostTransactions
        run.count_unknown(message)
        server = message.serverName if message.HasField("serverName") else None
        run.counts.invalid_utf8 += not_utf8([server])
        for transaction in message.businessTransactions:
            run.count_unknown(transaction)
            plan = self._plan(transaction, server)
            run.counts.invalid_utf8 += plan.invalid_utf8
            run.map(plan, transaction.occurrences)
        return run.result()

    def map_all(self, posts: Posts, room: int) -> list[Mapped | Exception]:
        """See `map_all`."""
        return map_all(self.map, posts, room)

    def _plan(self, transaction: BusinessTransaction, server: str | None) -> Plan:
        source = source_of(transaction, server)
        plan = self._cache.plans.get(source)
        if plan is None:
            self._cache.charge(len(source.measure_names) + len(source.dimension_names))
            plan = self._cache.plans[source] = Plan(self._record, self._validation, source, self._cache)
        return plan


def source_of(transaction: BusinessTransaction, server: str | None) -> Source:
    """What the plan of `transaction` is compiled from."""
    has = transaction.HasField
    return Source(
        transaction.name,
        CATEGORIES[transaction.type] if has("type") else UNKNOWN,
        transaction.application if has("application") else None,
        transaction.systemProfile if has("systemProfile") else None,
        server,
        tuple(transaction.measureNames),
        tuple(transaction.dimensionNames),
    )


class _Run:
    """The columns of one post while they grow."""

    def __init__(self, id_prefix: str) -> None:
        self.counts = Counts()
        self._id_prefix = id_prefix
        self._ordinal = 0
        self._ids: list[str] = []
        self._keys: list[str] = []
        self._timestamps: list[int] = []
        self._transactions: list[Transaction] = []
        self._sizes: list[int] = []
        self._buffer = bytearray()
        self._refused: list[RefusedRecord] = []

    def result(self) -> Mapped:
        columns = (self._ids, self._keys, self._timestamps, self._transactions, self._sizes)
        whole = memoryview(self._buffer).toreadonly()
        return Mapped(Batch(*columns, [whole]), self._refused, self.counts)

    def count_unknown(self, message: Any) -> None:
        unknown = len(UnknownFieldSet(message))
        if unknown:
            self.counts.unknown_fields[message.DESCRIPTOR.name] += unknown

    def map(self, plan: Plan, occurrences: Sequence[BtOccurrence]) -> None:
        """The hot loop: every statement here is paid once for each occurrence."""
        buffer, prefix = self._buffer, self._id_prefix
        ids, keys, timestamps, sizes = self._ids, self._keys, self._timestamps, self._sizes
        findings: list[Findings] = []
        for ordinal, occurrence in enumerate(occurrences, start=self._ordinal):
            listed = occurrence.ListFields()
            if not listed:
                raise post.Malformed(NO_START_TIME)
            present, values = zip(*listed)  # noqa: B905 - pairs; to be told so costs more than to know it
            measures, dimensions = occurrence.values[:], occurrence.dimensions[:]
            shape = plan.shape(present, len(measures), len(dimensions))
            findings.append(shape.findings)
            if len(UnknownFieldSet(occurrence)):
                self.count_unknown(occurrence)

            start, stop = shape.lists
            row: list[Any] = [*values[:start], *measures, *dimensions, *values[stop:], *shape.extra]
            try:
                "".join(shape.texts(row))
            except TypeError:  # protobuf hands out bytes where a string is not UTF-8
                self._decode(row)
            if not isfinite(sum(shape.numbers(row))):
                self._leave_out_not_finite(shape, row)
            refusal = self._convert(shape, row)

            event_id = f"{prefix}{ordinal}"
            begin = len(buffer)
            buffer += HEAD + event_id.encode() + shape.tail
            mark = len(buffer)
            _encoder.encode_into(shape.record(*row), buffer, mark)
            buffer[mark] = _COMMA  # the brace that opened the fields
            buffer += b"\n"

            key = event_id if shape.key is None else row[shape.key]
            if refusal is None:
                ids.append(event_id)
                keys.append(key)
                timestamps.append(values[0])
                sizes.append(len(buffer) - begin)
            else:
                self._refuse(RefusedRecord(ordinal, event_id, key, values[0], plan.transaction, refusal, b""), begin)
        self._ordinal += len(occurrences)
        self._transactions += [plan.transaction] * (len(self._ids) - len(self._transactions))
        self._count(plan.transaction, Counter(findings))

    def _convert(self, shape: Shape, row: list[Any]) -> str | None:
        """Bring the values to what a record says. Returns why the record must not be delivered, None where it may."""
        refusal = shape.refusal
        if shape.duration is not None:
            row[shape.duration] = row[1] - row[0]  # endTime - startTime
        if shape.arrays:
            self.counts.invalid_utf8 += sum(not_utf8(row[index]) for index in shape.arrays)
        try:
            row[0] = rfc3339(row[0])
        except ValueError as error:
            refusal = f"startTime {error}"
        for index, convert in shape.conversions:
            try:
                row[index] = convert(row[index])
            except ValueError:
                self._leave_out(shape, row, index)
        for index in shape.dropped:
            row[index] = UNSET
        return refusal

    def _decode(self, row: list[Any]) -> None:
        for index, value in enumerate(row):
            if type(value) is bytes:
                row[index] = text(value)
                self.counts.invalid_utf8 += 1

    def _leave_out_not_finite(self, shape: Shape, row: list[Any]) -> None:
        for index, value in enumerate(row):
            elsewhere = index in shape.dropped or shape.names[index] == DURATION.record
            if type(value) is float and not isfinite(value) and not elsewhere:
                self._leave_out(shape, row, index)

    def _leave_out(self, shape: Shape, row: list[Any], index: int) -> None:
        name = shape.names[index]
        row[index] = shape.defaults.get(name, UNSET)
        self.counts.left_out[name] += 1

    def _refuse(self, refused: RefusedRecord, begin: int) -> None:
        """Take the record that begins at `begin` out of the buffer again."""
        self._refused.append(replace(refused, body=bytes(self._buffer[begin:-1])))
        del self._buffer[begin:]

    def _count(self, transaction: Transaction, hits: Counter[Findings]) -> None:
        counts = self.counts
        counts.occurrences[transaction.category] += hits.total()
        for findings, number in hits.items():
            for violation in findings.violations:
                counts.violations[transaction.name, violation.field, violation.rule] += number
            for mismatch in findings.mismatches:
                counts.mismatches[mismatch] += number
