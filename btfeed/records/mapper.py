"""The mapper that runs: the native one where it was built, else the plain one of btfeed/records/plain_mapper.py.

What the native one needs of the field table and of the configuration is handed to it here. Python compiles business
transactions for it (plan.py), so that templates, names and constants have one place; and where a body is none, the
plain mapper finds the words.
"""

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from btfeed import native
from btfeed.posts import post
from btfeed.posts.bt_pb2 import BusinessTransaction
from btfeed.records import names
from btfeed.records.plain_mapper import Counts, Mapped, Mapper, Posts, RefusedRecord, map_all, source_of
from btfeed.records.plan import HEAD, Cache, Plan, RecordSettings, attributes_overridden
from btfeed.records.schema import (
    CATEGORIES,
    CLIENT_IP,
    DIMENSIONS,
    DURATION,
    END_TIME,
    FIELDS,
    START_TIME,
    UNKNOWN,
    VALUES,
    VISIT,
    VISIT_ID,
)
from btfeed.records.validation import ValidationSettings
from sinks.batch import Batch, Transaction

if TYPE_CHECKING:
    from btfeed import _native

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
    """Maps posts under one configuration. threads: how many may map at a time."""

    threads: int

    def map(self, body: bytes, digest: bytes) -> Mapped:
        """The records of a post. `digest` is post.digest(body). Raises post.Malformed where the body is none."""

    def map_all(self, posts: Posts, room: int) -> list[Mapped | Exception]:
        """What each of `posts` became, or why it is none; of the first ones alone, where these have more bytes than
        `room`."""


def mapper(record: RecordSettings, validation: ValidationSettings) -> PostMapper:
    """The mapper that runs."""
    return Mapper(record, validation) if native.module is None else NativeMapper(record, validation)


class NativeMapper:
    """Maps posts under one configuration, natively and without the interpreter's lock."""

    threads = native.CORES

    def __init__(self, record: RecordSettings, validation: ValidationSettings) -> None:
        assert native.module, "the native transcoder was not built"
        self._record = record
        self._validation = validation
        self._cache = Cache()  # stays empty: plans are kept on the native side
        self._native: _native.Transcoder[Plan] = native.module.Transcoder(
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
                "defaults": [(name, msgspec.json.encode(value)) for name, value in attributes_overridden(record)],
            },
            self._compile,
            _names,
        )

    def map(self, body: bytes, digest: bytes) -> Mapped:
        (found,) = self.map_all([(body, digest)], 0)
        if isinstance(found, Exception):
            raise found
        return found

    def map_all(self, posts: Posts, room: int) -> list[Mapped | Exception]:
        """The interpreter's lock is let go of once for all of them: each time, another thread may keep it for long."""
        found = self._native.transcode([(body, post.event_id_prefix(digest)) for body, digest in posts], room)
        each = iter(found)
        return map_all(lambda body, digest: self._mapped(body, digest, next(each)), posts[: len(found)], room)

    def _mapped(self, body: bytes, digest: bytes, found: "_native.Transcoded[Plan] | Exception | None") -> Mapped:
        if found is None:
            return Mapper(self._record, self._validation).map(body, digest)
        if isinstance(found, Exception):
            raise found
        json, ids, keys, timestamps, sizes, runs, refused, counts = found
        transactions: list[Transaction] = []
        for plan, number, _ in runs:
            transactions += [plan.transaction] * number
        batch = Batch(
            ids, keys, memoryview(timestamps).cast("q"), transactions, memoryview(sizes).cast("q"), [memoryview(json)]
        )
        return Mapped(batch, [_refused(*one) for one in refused], _counts(runs, *counts))

    def _compile(self, server: bytes | None, head: bytes) -> tuple[Plan, int, bytes, int, Any, Any]:
        source = source_of(BusinessTransaction.FromString(head), None if server is None else _as_protobuf(server))
        plan = Plan(self._record, self._validation, source, self._cache)
        measures, dimensions = [_names(plan, which, len(given)) for which, given in enumerate(source[-2:])]
        return plan, _CATEGORIES.index(source.category), plan.tail, plan.invalid_utf8, measures, dimensions


def _names(plan: Plan, dimensions: int, count: int) -> tuple[str, ...]:
    """Record fields of so many measures or dimensions."""
    given = plan.dimension_names if dimensions else plan.measure_names
    return names.field_names(_LISTS[dimensions].record, given, count)


def _as_protobuf(text: bytes) -> Any:
    """protobuf hands out bytes where a string is not UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text


def _refused(ordinal: int, id: str, key: str, timestamp: int, plan: Plan, broken: str, body: bytes) -> RefusedRecord:
    reason = broken or f"startTime {timestamp} is outside the years 1 to 9999"
    return RefusedRecord(ordinal, id, key, timestamp, plan.transaction, reason, body)


def _counts(runs: Any, occurrences: Any, mismatches: Any, unknown: Any, lost: int, odd: Any) -> Counts:
    """What was odd, by name. Most is zero, and most posts are short: what is not zero alone is looked at."""
    counts = Counts(lost=lost, invalid_utf8=odd[1])
    for category, number in enumerate(occurrences):
        if number:
            counts.occurrences[_CATEGORIES[category]] = number
    if any(unknown):
        counts.unknown_fields.update({name: number for name, number in zip(_MESSAGES, unknown, strict=True) if number})
    for field, numbers in enumerate(mismatches):
        for kind, number in enumerate(numbers):
            if number:
                counts.mismatches[_LISTS[field].name, ("fewer", "more")[kind]] = number
    if odd[0]:
        counts.left_out.update(odd[0])
    for plan, _, violations in runs:
        for broken, rule, number in violations:
            counts.violations[plan.transaction.name, broken, rule] += number
    return counts
