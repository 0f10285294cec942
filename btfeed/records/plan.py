"""What is compiled once for each business transaction, and for each set of fields that its occurrences carry.

A record is `HEAD`, its event.id, the tail of its shape (all that is constant), and the fields of the occurrence. The names
of those fields are constant too: a shape makes a msgspec.Struct of them, so that an occurrence is a row of values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from operator import itemgetter
from typing import Annotated, Any, NamedTuple

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from msgspec import UNSET
from pydantic import BeforeValidator

from btfeed.posts import post
from btfeed.records import names
from btfeed.records.encoding import ENCODERS, Convert, not_utf8, text
from btfeed.records.privacy import PrivacySettings
from btfeed.records.schema import (
    BY_NAME,
    BY_NUMBER,
    BY_RECORD,
    DIMENSIONS,
    DURATION,
    END_TIME,
    EVENT_KIND,
    MAPS,
    START_TIME,
    VALUES,
    VISIT,
    VISIT_ID,
)
from btfeed.records.validation import ValidationSettings, Violation, violations
from sinks.batch import Transaction
from sinks.settings import Settings
from sinks.template import Template, template

MAX_CACHED, CACHED_ALONE = 200_000, 50
"""Names that compiled plans and shapes may hold, each counting as 50 more; past that the cache starts anew. A name takes
about 500 bytes."""
WIDE = 1_000
"""Fields of a record from which on compiling them costs more than it saves."""
HEAD = f'{{"event.kind":"{EVENT_KIND}","event.id":"'.encode()
NO_START_TIME = "not a BusinessTransactions message: an occurrence has no startTime"

_TEMPLATE = template("name", "application", "system_profile", "server", "category")
_FEED_PREFIXES = tuple(prefix.name for prefix in MAPS)


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


class Source(NamedTuple):
    """What a plan is compiled from. None where the post does not say."""

    name: str
    category: str
    application: str | None
    system_profile: str | None
    server: str | None
    measure_names: tuple[str, ...]
    dimension_names: tuple[str, ...]


class Cache:
    """Compiled plans, and how much they and their shapes hold: senders choose how many there are, and how large."""

    def __init__(self) -> None:
        self.plans: dict[Source, Plan] = {}
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


def attributes_overridden(record: RecordSettings) -> list[tuple[str, object]]:
    """Attributes that stand in a record only where no field of the feed does."""
    given = record.attributes.items()
    return [(name, value) for name, value in given if name in BY_RECORD or name.startswith(_FEED_PREFIXES)]


class Plan:
    """What all occurrences of one business transaction share."""

    def __init__(self, record: RecordSettings, validation: ValidationSettings, source: Source, cache: Cache) -> None:
        self._cache = cache
        self.privacy = record.privacy
        self.validation = validation
        self.measure_names = tuple(map(text, source.measure_names))
        self.dimension_names = tuple(map(text, source.dimension_names))
        self.transaction = Transaction(
            text(source.name),
            text(source.application or ""),
            text(source.system_profile or ""),
            text(source.server or ""),
            source.category,
        )
        named = (source.name, source.application, source.system_profile)
        self.invalid_utf8 = not_utf8(named) + not_utf8(source.measure_names) + not_utf8(source.dimension_names)
        constants = self._constants(record, source)
        self.defaults = attributes_overridden(record)
        overridden = dict(self.defaults)
        for name, value in record.attributes.items():
            if name not in ("event.kind", "event.id") and name not in overridden:
                constants.setdefault(name, value)
        self.tail = b'"' + (b"," + msgspec.json.encode(constants)[1:-1] if constants else b"")
        self._shapes: dict[tuple[object, ...], Shape] = {}

    def _constants(self, record: RecordSettings, source: Source) -> dict[str, object]:
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

    def shape(self, present: tuple[FieldDescriptor, ...], values: int, dimensions: int) -> "Shape":
        key = (present, values, dimensions)
        shape = self._shapes.get(key)
        if shape is None:
            if self._cache.charge(values + dimensions):
                self._shapes.clear()
            shape = self._shapes[key] = Shape(self, [field.number for field in present], values, dimensions)
        return shape


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What is odd about every occurrence of a shape; it is counted when the shape itself may be forgotten."""

    violations: tuple[Violation, ...]
    mismatches: tuple[tuple[str, str], ...]


class Shape:
    """What all occurrences of one plan share that carry the same fields, and as many values and dimensions.

    A row holds their values in the order of the field table; measures, then dimensions stand where their lists stood. What
    else is called an index here is an index into it.

    findings     what to count for each occurrence
    lists        (start, stop) of the lists among the values that ListFields gives
    names        record fields by index
    record       makes what is encoded of a row; values that are msgspec.UNSET are left out
    tail         of the record's constants, from the quote that ends event.id
    texts        gives the values that must be text
    numbers      gives the values that must be finite
    arrays       indexes of arrays of strings
    conversions  (index, what is done to that value); startTime, at index 0, is not among them
    extra        what a row has at its end beside them: a place for a duration that is computed
    duration     the index of that duration, None where it is not computed
    key          the index of the record's key, None where that is event.id
    dropped      indexes of values that are not delivered
    defaults     record field -> what stands there where the value is left out: attributes of the same name
    refusal      why such an occurrence is a dead letter, None where it is not
    """

    def __init__(self, plan: Plan, present: list[int], values: int, dimensions: int) -> None:
        if START_TIME.number not in present:
            raise post.Malformed(NO_START_TIME)
        counts = ((VALUES, values, plan.measure_names), (DIMENSIONS, dimensions, plan.dimension_names))
        mismatches = tuple(
            (field.name, "fewer" if count < len(given) else "more") for field, count, given in counts if count != len(given)
        )
        fewer = [(field.name, "fewer") in mismatches for field in (VALUES, DIMENSIONS)]
        self.findings = Findings(violations(plan.transaction.category, present, *fewer), mismatches)
        fatal = [
            str(broken) for broken in self.findings.violations if getattr(plan.validation, broken.rule) == "dead-letter"
        ]
        self.refusal = ", ".join(fatal) or None
        self._lay_out(plan, present, values, dimensions)
        self._compile(plan)

    def _lay_out(self, plan: Plan, present: list[int], values: int, dimensions: int) -> None:
        """Where in a row each value stands."""
        start = sum(number < VALUES.number for number in present)
        stop = start + (VALUES.number in present) + (DIMENSIONS.number in present)
        fields = [BY_NUMBER[number].record for number in present]
        measures = names.field_names(VALUES.record, plan.measure_names, values)
        spread = names.field_names(DIMENSIONS.record, plan.dimension_names, dimensions)
        self.lists = (start, stop)
        self.names = [*fields[:start], *measures, *spread, *fields[stop:]]
        encodings: dict[str, str] = {name: BY_RECORD[name].encoding for name in self.names if name in BY_RECORD}
        encodings |= dict.fromkeys(measures, "number") | dict.fromkeys(spread, "string")
        indexes = range(len(self.names))
        self.texts = _getter([index for index in indexes if encodings[self.names[index]] == "string"])
        self.numbers = _getter([index for index in indexes if encodings[self.names[index]] == "number"])
        self.arrays = [index for index in indexes if encodings[self.names[index]] == "strings"]

    def _compile(self, plan: Plan) -> None:
        """What is done to the values, and the tail and Struct that make a record of them."""
        dropped = {BY_NAME[broken.field].record for broken in self.findings.violations if broken.rule == "unexpected"}
        if plan.validation.unexpected != "drop":
            dropped = set()
        self.duration = None
        self.extra: tuple[int, ...] = ()
        if plan.transaction.category == VISIT and END_TIME.record in self.names:
            if DURATION.record not in self.names:
                self.names.append(DURATION.record)
                self.extra = (0,)
                self.duration = len(self.names) - 1
            elif DURATION.record in dropped:
                self.duration = self.names.index(DURATION.record)
                dropped.remove(DURATION.record)
        dropped.update(plan.privacy.drop)
        self.dropped = [index for index, name in enumerate(self.names) if name in dropped]
        delivered = {name: index for index, name in enumerate(self.names) if name not in dropped}
        self.key = delivered.get(VISIT_ID.record)
        converters = {index: _converter(name, plan.privacy) for name, index in delivered.items() if index}
        self.conversions = [(index, convert) for index, convert in converters.items() if convert is not None]
        self.record = _record(self.names)
        self.defaults = dict(plan.defaults)
        defaults = {name: value for name, value in plan.defaults if name not in delivered}
        self.tail = plan.tail + (b"," + msgspec.json.encode(defaults)[1:-1] if defaults else b"")


def _record(names: Sequence[str]) -> Callable[..., object]:
    """A function from the values of a row to what is encoded of them."""
    if len(names) > WIDE:
        return lambda *row: {name: value for name, value in zip(names, row, strict=True) if value is not UNSET}
    rename = {f"f{index}": name for index, name in enumerate(names)}
    return msgspec.defstruct("Record", [*rename], rename=rename, gc=False)


def _getter(indexes: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function from a row to its values at `indexes`."""
    if len(indexes) > 1:
        return itemgetter(*indexes)
    return lambda row: [row[index] for index in indexes]


def _converter(name: str, privacy: PrivacySettings) -> Convert | None:
    """What is done to the value of record field `name`, None where nothing is."""
    encode = ENCODERS.get(BY_RECORD[name].encoding) if name in BY_RECORD else None
    protect = privacy.converter(name)
    if encode is None or protect is None:
        return encode or protect
    first, second = encode, protect
    return lambda value: second(first(value))
