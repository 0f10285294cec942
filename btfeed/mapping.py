"""From a post to records: one flat JSON object for each occurrence, encoded once and shared by all sinks.

`Mapper.map` takes a raw body and returns everything that can be said of it: the records as one Batch, the occurrences that
can't or must not be delivered, and the counts of what was odd. It is pure: the same body under the same configuration
gives the same bytes, and nothing is written anywhere.

What is expensive is reading fields one by one from Python, so that what depends only on the business transaction is
compiled once into a `_Plan`, and what depends only on which fields an occurrence carries into a `_Shape` of that plan.
An occurrence then costs one ListFields, one dict of names and values, a few conversions, and one encoding.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isfinite
from typing import Annotated, Any, NamedTuple

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import BeforeValidator

from btfeed import names, post
from btfeed.bt_pb2 import BtOccurrence, BusinessTransaction
from btfeed.privacy import Convert, PrivacySettings
from btfeed.schema import (
    BY_NAME,
    BY_NUMBER,
    BY_RECORD,
    CATEGORIES,
    DIMENSIONS,
    DURATION,
    END_TIME,
    EVENT_KIND,
    MAPS,
    START_TIME,
    UNKNOWN,
    VALUES,
    VISIT,
    VISIT_ID,
    Encoding,
)
from btfeed.validate import ValidationSettings, violations
from sinks.base import Batch, Settings, Template, Transaction, template

MAX_CACHED, CACHED_ALONE = 1_000_000, 50
"""Names that compiled plans and shapes may hold, each counting as 50 more; past that the cache starts anew."""

_TEMPLATE = template("name", "application", "system_profile", "server", "category")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC throughout, and twice as fast to format without saying so
_HEAD = f'{{"event.kind":"{EVENT_KIND}","event.id":"'.encode()
_COMMA = ord(",")
_FEED_FIELDS = frozenset(BY_RECORD)
_FEED_PREFIXES = tuple(prefix.name for prefix in MAPS)
_encoder = msgspec.json.Encoder()


def _flat(table: object) -> object:
    """TOML reads `dt.entity.host = "x"` as three tables; an attribute's name is the whole of it."""
    if not isinstance(table, dict):
        raise ValueError("attributes are a table of names and constants")
    leaves = list(_leaves(table, ""))
    flat = dict(leaves)
    if len(flat) < len(leaves):
        raise ValueError("one name is there twice, once with its dots quoted")
    bad = [name for name, value in flat.items() if not _is_constant(value)]
    if bad:
        raise ValueError(f"a constant is text, a number or a boolean: {', '.join(bad)}")
    return flat


def _leaves(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _is_constant(value: object) -> bool:
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, str) or (isinstance(value, int) and -(2**63) <= value < 2**64)


class RecordSettings(Settings):
    """What records say.

    provider, type   templates of event.provider and event.type; they know {name}, {application}, {system_profile},
                     {server} and {category}
    attributes       constants added to every record; they never override a field of the feed
    privacy          what is dropped, hashed or masked
    """

    provider: Annotated[str, _TEMPLATE] = "{application}"
    type: Annotated[str, _TEMPLATE] = "{name}"
    attributes: Annotated[dict[str, Any], BeforeValidator(_flat)] = {}
    privacy: PrivacySettings = PrivacySettings()


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


class Mapper:
    """Maps posts under one configuration. Not for use by two threads at a time."""

    def __init__(self, record: RecordSettings, validation: ValidationSettings) -> None:
        self._record = record
        self._validation = validation
        self._cache = _Cache()

    def map(self, body: bytes, digest: bytes) -> Mapped:
        """The records of a post. `digest` is post.digest(body). Raises post.Malformed where the body is none."""
        message = post.parse(body)
        run = _Run(post.event_id_prefix(digest))
        run.counts.lost = message.lostTransactions
        run.count_unknown(message)
        server = message.serverName if message.HasField("serverName") else None
        run.counts.invalid_utf8 += _invalid([server])
        for transaction in message.businessTransactions:
            run.count_unknown(transaction)
            plan = self._plan(transaction, server)
            run.counts.invalid_utf8 += plan.invalid_utf8
            run.map(plan, transaction.occurrences)
        return run.result()

    def _plan(self, transaction: BusinessTransaction, server: str | None) -> "_Plan":
        has = transaction.HasField
        source = _Source(
            transaction.name,
            CATEGORIES[transaction.type] if has("type") else UNKNOWN,
            transaction.application if has("application") else None,
            transaction.systemProfile if has("systemProfile") else None,
            server,
            tuple(transaction.measureNames),
            tuple(transaction.dimensionNames),
        )
        plan = self._cache.plans.get(source)
        if plan is None:
            self._cache.charge(len(source.measure_names) + len(source.dimension_names))
            plan = self._cache.plans[source] = _Plan(self._record, self._validation, source, self._cache)
        return plan


class _Cache:
    """Compiled plans, and how much they and their shapes hold: senders choose how many there are, and how large."""

    def __init__(self) -> None:
        self.plans: dict[_Source, _Plan] = {}
        self._size = 0

    def charge(self, names: int) -> bool:
        """Something with so many names was compiled. True where all that was before is forgotten for it."""
        size = CACHED_ALONE + names
        self._size += size
        if self._size <= MAX_CACHED:
            return False
        self.plans.clear()
        self._size = size
        return True


class _Run:
    """The columns of one post while they grow."""

    def __init__(self, id_prefix: str) -> None:
        self.counts = Counts()
        self._id_prefix = id_prefix
        self._head = _HEAD + id_prefix.encode()
        self._ordinal = 0
        self._ids: list[str] = []
        self._keys: list[str] = []
        self._timestamps: list[int] = []
        self._transactions: list[Transaction] = []
        self._offsets = [0]
        self._buffer = bytearray()
        self._refused: list[RefusedRecord] = []

    def result(self) -> Mapped:
        columns = (self._ids, self._keys, self._timestamps, self._transactions, self._offsets)
        return Mapped(Batch(*columns, bytes(self._buffer)), self._refused, self.counts)

    def count_unknown(self, message: Any) -> None:
        unknown = len(UnknownFieldSet(message))
        if unknown:
            self.counts.unknown_fields[message.DESCRIPTOR.name] += unknown

    def map(self, plan: "_Plan", occurrences: Sequence[BtOccurrence]) -> None:
        """The hot loop: every statement here is paid once for each occurrence."""
        buffer, head, tail = self._buffer, self._head, plan.tail
        hits: Counter[_Shape] = Counter()
        for occurrence in occurrences:
            listed = occurrence.ListFields()
            present, values = zip(*listed, strict=True) if listed else ((), ())
            shape = plan.shape(present, len(occurrence.values), len(occurrence.dimensions))
            hits[shape] += 1
            if len(UnknownFieldSet(occurrence)):
                self.count_unknown(occurrence)

            fields = dict(zip(shape.names, values, strict=True))
            shape.spread(fields)
            if bytes in map(type, fields.values()):
                self._decode(fields)
            if shape.lists:
                self.counts.invalid_utf8 += sum(_invalid(fields[name]) for name in shape.lists)
            refusal = self._convert(shape, fields)

            event_id = f"{self._id_prefix}{self._ordinal}"
            key = fields.get(VISIT_ID.record, event_id)
            for name, value in shape.defaults:
                fields.setdefault(name, value)
            buffer += b"%b%d%b" % (head, self._ordinal, tail)
            mark = len(buffer)
            _encoder.encode_into(fields, buffer, mark)
            if buffer.find(b":null", mark) >= 0:  # what JSON makes of NaN and infinities
                self._leave_out_not_finite(fields)
                _encoder.encode_into(fields, buffer, mark)
            buffer[mark] = _COMMA  # the brace that opened the fields
            buffer += b"\n"

            if refusal is None:
                self._ids.append(event_id)
                self._keys.append(key)
                self._timestamps.append(values[0])
                self._offsets.append(len(buffer))
            else:
                self._refuse(plan.transaction, event_id, key, occurrence.startTime, refusal)
            self._ordinal += 1
        self._transactions += [plan.transaction] * (len(self._ids) - len(self._transactions))
        self._count(plan.transaction, hits)

    def _convert(self, shape: "_Shape", fields: dict[str, Any]) -> str | None:
        """Bring the values to what a record says. Returns why the record must not be delivered, None where it may."""
        refusal = shape.refusal
        start = fields[START_TIME.record]
        try:
            fields[START_TIME.record] = rfc3339(start)
        except ValueError as error:
            refusal = f"startTime {error}"
        if shape.computes_duration:
            fields[DURATION.record] = fields[END_TIME.record] - start
        for name, convert in shape.conversions:
            try:
                fields[name] = convert(fields[name])
            except ValueError:
                del fields[name]
                self.counts.left_out[name] += 1
        for name in shape.dropped:
            fields.pop(name, None)
        return refusal

    def _decode(self, fields: dict[str, Any]) -> None:
        for name, value in fields.items():
            if type(value) is bytes:
                fields[name] = value.decode(errors="replace")
                self.counts.invalid_utf8 += 1

    def _leave_out_not_finite(self, fields: dict[str, Any]) -> None:
        for name, value in list(fields.items()):
            if type(value) is float and not isfinite(value):
                del fields[name]
                self.counts.left_out[name] += 1

    def _refuse(self, transaction: Transaction, event_id: str, key: str, timestamp: int, reason: str) -> None:
        start = self._offsets[-1]
        body = bytes(self._buffer[start:-1])
        del self._buffer[start:]
        self._refused.append(RefusedRecord(self._ordinal, event_id, key, timestamp, transaction, reason, body))

    def _count(self, transaction: Transaction, hits: "Counter[_Shape]") -> None:
        counts = self.counts
        counts.occurrences[transaction.category] += hits.total()
        for shape, number in hits.items():
            for violation in shape.violations:
                counts.violations[transaction.name, violation.field, violation.rule] += number
            for mismatch in shape.mismatches:
                counts.mismatches[mismatch] += number


class _Source(NamedTuple):
    """What a plan is compiled from. None where the post does not say."""

    name: str
    category: str
    application: str | None
    system_profile: str | None
    server: str | None
    measure_names: tuple[str, ...]
    dimension_names: tuple[str, ...]


class _Plan:
    """What all occurrences of one business transaction share."""

    def __init__(self, record: RecordSettings, validation: ValidationSettings, source: _Source, cache: _Cache) -> None:
        self._cache = cache
        self.privacy = record.privacy
        self.validation = validation
        self.measure_names = tuple(map(_text, source.measure_names))
        self.dimension_names = tuple(map(_text, source.dimension_names))
        self.transaction = Transaction(
            _text(source.name),
            _text(source.application or ""),
            _text(source.system_profile or ""),
            _text(source.server or ""),
            source.category,
        )
        named = (source.name, source.application, source.system_profile)
        self.invalid_utf8 = _invalid(named) + _invalid(source.measure_names) + _invalid(source.dimension_names)
        constants = self._constants(record, source)
        self.defaults: list[tuple[str, object]] = []  # attributes that a field of the feed may override
        for name, value in record.attributes.items():
            if name in _FEED_FIELDS or name.startswith(_FEED_PREFIXES):
                self.defaults.append((name, value))
            elif name not in ("event.kind", "event.id"):
                constants.setdefault(name, value)
        self.tail = b'"' + (b"," + msgspec.json.encode(constants)[1:-1] if constants else b"")
        self._shapes: dict[tuple[object, ...], _Shape] = {}

    def _constants(self, record: RecordSettings, source: _Source) -> dict[str, object]:
        transaction = self.transaction
        constants: dict[str, object] = {
            "event.type": Template(record.type).fill(transaction),
            "event.provider": Template(record.provider).fill(transaction) or "appmon",
            "event.category": transaction.category,
            "event.name": transaction.name,
        }
        if source.application is not None:
            constants["appmon.application"] = transaction.application
        if source.system_profile is not None:
            constants["appmon.system_profile"] = transaction.system_profile
        if source.server is not None:
            constants["appmon.server"] = transaction.server
        for name in self.privacy.drop:
            constants.pop(name, None)
        for name in constants.keys() & set(self.privacy.hash):
            convert = self.privacy.converter(name)
            constants[name] = convert(constants[name]) if convert else constants[name]
        return constants

    def shape(self, present: tuple[FieldDescriptor, ...], values: int, dimensions: int) -> "_Shape":
        key = (present, values, dimensions)
        shape = self._shapes.get(key)
        if shape is None:
            if self._cache.charge(values + dimensions):
                self._shapes.clear()
            shape = self._shapes[key] = _Shape(self, [field.number for field in present], values, dimensions)
        return shape


class _Shape:
    """What all occurrences of one plan share that carry the same fields, and as many values and dimensions.

    names        record fields of what ListFields gives; measures and dimensions stand under their prefix until spread
    lists        those of them that are arrays
    conversions  record field -> what is done to its value
    dropped      record fields that are not delivered
    refusal      why such an occurrence is a dead letter, None where it is not
    """

    def __init__(self, plan: _Plan, present: list[int], values: int, dimensions: int) -> None:
        if START_TIME.number not in present:
            raise post.Malformed("not a BusinessTransactions message: an occurrence has no startTime")
        fewer_values, fewer_dimensions = values < len(plan.measure_names), dimensions < len(plan.dimension_names)
        self.violations = violations(plan.transaction.category, present, fewer_values, fewer_dimensions)
        self.mismatches = [
            (field.name, "fewer" if count < len(names) else "more")
            for field, count, names in (
                (VALUES, values, plan.measure_names),
                (DIMENSIONS, dimensions, plan.dimension_names),
            )
            if count != len(names)
        ]
        self.names = [BY_NUMBER[number].record for number in present]
        self._measures = names.field_names(VALUES.record, plan.measure_names, values)
        self._dimensions = names.field_names(DIMENSIONS.record, plan.dimension_names, dimensions)
        self.lists = [BY_NUMBER[number].record for number in present if BY_NUMBER[number].encoding == "strings"]
        self.refusal = self._refusal(plan.validation)
        self.defaults = plan.defaults

        final = set(self.names).difference(_FEED_PREFIXES).union(self._measures, self._dimensions)
        drop = {
            BY_NAME[violation.field].record
            for violation in self.violations
            if violation.rule == "unexpected" and plan.validation.unexpected == "drop"
        }
        self.computes_duration = (
            plan.transaction.category == VISIT and END_TIME.record in final and DURATION.record not in final - drop
        )
        if self.computes_duration:
            final.add(DURATION.record)
            drop.discard(DURATION.record)
        self.dropped = sorted(final.intersection(drop.union(plan.privacy.drop)))
        converters = {name: _converter(name, plan.privacy) for name in final.difference(self.dropped)}
        self.conversions = [(name, convert) for name, convert in converters.items() if convert is not None]

    def spread(self, fields: dict[str, Any]) -> None:
        """Give each measure and dimension its own name."""
        if self._measures:
            fields.update(zip(self._measures, fields.pop(VALUES.record), strict=True))
        if self._dimensions:
            fields.update(zip(self._dimensions, fields.pop(DIMENSIONS.record), strict=True))

    def _refusal(self, validation: ValidationSettings) -> str | None:
        fatal = [str(v) for v in self.violations if getattr(validation, v.rule) == "dead-letter"]
        return ", ".join(fatal) or None


def _converter(name: str, privacy: PrivacySettings) -> Convert | None:
    """What is done to the value of record field `name`; startTime is converted apart from the others."""
    encode = _ENCODERS.get(BY_RECORD[name].encoding) if name in BY_RECORD and name != START_TIME.record else None
    protect = privacy.converter(name)
    if encode is None or protect is None:
        return encode or protect
    first, second = encode, protect
    return lambda value: second(first(value))


def rfc3339(milliseconds: int) -> str:
    """The moment as `2013-01-16T18:19:17.840Z`. ValueError outside the years 1 to 9999."""
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise ValueError(f"{milliseconds} is outside the years 1 to 9999") from None
    return moment.isoformat(timespec="milliseconds") + "Z"


def nanoseconds(milliseconds: float) -> int:
    """Rounded half to even. ValueError where that is no number of 64 bits."""
    try:
        rounded = round(milliseconds * 1_000_000)
    except OverflowError:
        raise ValueError("infinite") from None
    if not -(2**63) <= rounded < 2**63:
        raise ValueError("out of range")
    return rounded


def _text(value: str | bytes) -> str:
    """protobuf hands out bytes where a string is not UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def _invalid(strings: Iterable[str | bytes | None]) -> int:
    """How many of them are not UTF-8."""
    return sum(type(string) is bytes for string in strings)


_ENCODERS: dict[Encoding, Convert] = {
    "timestamp": rfc3339,
    "nanoseconds": nanoseconds,
    "decimal": str,
    "outcome": lambda failed: "failure" if failed else "success",
    "strings": lambda values: [_text(value) for value in values],
}
