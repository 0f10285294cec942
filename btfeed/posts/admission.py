"""Decides whether the receiver takes a post: is it a BusinessTransactions message, and within the limits?

Parsing cannot decide this. protobuf accepts messages without their required fields; two bytes of a body may become a
hundred bytes of message; and one long name becomes a part of every record. So admission first walks the wire format of
transactions and occurrences, counts, and stops at a limit. Only then does it parse the body.

The walk also sees whether each occurrence starts with its startTime, as all known serializers write it. If one does not,
protobuf is asked for missing required fields, which takes longer.
"""

from functools import lru_cache
from typing import NamedTuple

from btfeed import native
from btfeed.posts.post import NOT_PROTOBUF, Malformed, PostRefused, missing_required_fields, parse

ELEMENTS_PER_OCCURRENCE, MIN_ELEMENTS = 10, 10_000
"""Limit of the other elements of a post (names, fields of long occurrences, empty dimensions and the like), for each
occurrence that is allowed; and the lowest such limit."""
SHARED_PER_OCCURRENCE, MIN_SHARED = 512, 64 * 2**20
"""Limit of the bytes that records repeat (names, times the occurrences that share them), for each occurrence that is
allowed; and the lowest such limit."""
MAX_OCCURRENCES = 2**40
"""Higher limits of occurrences mean this one."""
LONG = 2**16
"""The walk counts the fields of occurrences of this many bytes and more. Shorter ones cannot have many."""


class TooManyOccurrences(PostRefused):
    """More occurrences than the limit, or more of the other things that make a post many times larger in memory.
    The receiver answers 413 (btfeed/receiving/rejection.py)."""


class Limits(NamedTuple):
    """The native `admit` takes them as a tuple of 64-bit numbers.

    shared_bytes  how many bytes records may repeat: names, times the occurrences that share them
    long          bytes from which on the fields of an occurrence are counted
    """

    occurrences: int
    elements: int
    shared_bytes: int
    long: int

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, max_occurrences: int) -> "Limits":
        occurrences = min(max_occurrences, MAX_OCCURRENCES)
        elements = max(MIN_ELEMENTS, occurrences * ELEMENTS_PER_OCCURRENCE)
        return cls(occurrences, elements, max(MIN_SHARED, occurrences * SHARED_PER_OCCURRENCE), LONG)


def admit(body: bytes, max_occurrences: int) -> int:
    """Counts the occurrences of a post that is acceptable. Raises Malformed or TooManyOccurrences.

    The native `admit` only accepts. If it returns None, the plain one finds the reason.
    """
    limits = Limits.of(max_occurrences)
    count: int | None = native.module.admit(body, limits) if native.module else None
    return admit_plain(body, limits) if count is None else count


def admit_plain(body: bytes, limits: Limits) -> int:
    """The specification of `admit`, in plain Python."""
    walk = _Walk(body, limits)
    walk.post()
    message = parse(body)
    if walk.required_fields_doubtful:
        missing = missing_required_fields(message)
        if missing:
            raise Malformed(f"not a BusinessTransactions message: required field {missing[0]} is missing")
    return walk.occurrences


# Tags: number << 3 | wire type. Wire type 2 is length-delimited, 0 a varint.
_TRANSACTION = 0x0A  # BusinessTransactions.businessTransactions
_NAME = 0x0A  # BusinessTransaction.name
_OCCURRENCE = 0x32  # BusinessTransaction.occurrences
_START_TIME = 0x08  # BtOccurrence.startTime
_PACKED_VALUES = 0x32  # BtOccurrence.values
_EMPTY_DIMENSION, _EMPTY_CONVERTED_BY = b"\x3a\x00", b"\xa2\x02\x00"


class _NotProtobuf(Exception):
    """The wire format is broken, or ends too early."""


class _Walk:
    """Walks the wire format of a post and counts what it holds.

    Accepts all that protobuf accepts, however it is encoded, so that no post evades the limits.
    """

    def __init__(self, body: bytes, limits: Limits) -> None:
        self.body = body
        self.limits = limits
        self.occurrences = 0
        self.transactions = 0
        self.elements = 0
        self.shared_bytes = 0
        self.required_fields_doubtful = False

    def post(self) -> None:
        """Raises Malformed or TooManyOccurrences."""
        body = self.body
        self._count_empty_texts()
        try:
            position = shared = 0
            while position < len(body):
                start = position
                tag, position = self._varint(position)
                if tag == _TRANSACTION:
                    length, position = self._varint(position)
                    self.transactions += 1
                    if self.transactions > self.limits.occurrences:
                        raise _over_limit(f"more than {self.limits.occurrences} business transactions in one post")
                    self._transaction(position, position + length)
                    position += length
                else:
                    position = self._skip(tag, position)
                    shared += position - start
            if position != len(body):
                raise _NotProtobuf
        except (_NotProtobuf, IndexError):
            raise Malformed(NOT_PROTOBUF) from None
        self._count_shared(shared, self.occurrences)

    def _count_empty_texts(self) -> None:
        """Short occurrences, which are not walked, may hold these in two or three bytes each. A search for the bytes is
        quicker than a walk; it also finds such bytes inside other fields, which rarely matters."""
        limit = self.limits.elements
        if len(self.body) > 2 * limit:
            empty = self.body.count(_EMPTY_DIMENSION) + self.body.count(_EMPTY_CONVERTED_BY)
            if empty > limit:
                raise _over_limit(f"more than {limit} empty dimensions in one post")

    def _transaction(self, position: int, end: int) -> None:
        """The hot loop: each statement runs once for each occurrence."""
        body = self.body
        named = False
        shared = 0
        long = self.limits.long
        before = self.occurrences
        left = self.limits.occurrences - before
        while position < end:
            start = position
            tag = body[position]
            position += 1
            if tag >= 0x80:
                tag, position = self._varint(start)
            if tag == _OCCURRENCE:
                length = body[position]
                position += 1
                if length >= 0x80:
                    length, position = self._varint(position - 1)
                    if length >= long:
                        self._long_occurrence(position, position + length)
                if not length or body[position] != _START_TIME:
                    self.required_fields_doubtful = True
                position += length
                left -= 1
                if left < 0:
                    raise _over_limit(f"more than {self.limits.occurrences} occurrences in one post")
            else:
                named = named or tag == _NAME
                position = self._skip(tag, position)
                shared += position - start
        if position != end:
            raise _NotProtobuf
        if not named:
            self.required_fields_doubtful = True
        self.occurrences = self.limits.occurrences - left
        self._count_shared(shared, self.occurrences - before)

    def _long_occurrence(self, position: int, end: int) -> None:
        while position < end:
            start = position
            tag, position = self._varint(position)
            position = self._skip(tag, position)
            if tag == _PACKED_VALUES:
                self._count_elements((position - start) // 8)

    def _count_elements(self, number: int) -> None:
        self.elements += number
        if self.elements > self.limits.elements:
            raise _over_limit(f"more than {self.limits.elements} names, values and other fields in one post")

    def _count_shared(self, size: int, occurrences: int) -> None:
        """The record of each of the occurrences repeats `size` bytes."""
        self.shared_bytes += size * occurrences
        if self.shared_bytes > self.limits.shared_bytes:
            raise _over_limit(f"records would repeat more than {self.limits.shared_bytes} bytes of names from one post")

    def _varint(self, position: int) -> tuple[int, int]:
        """The value of the varint at `position`, and the position after it."""
        value = shift = 0
        while True:
            byte = self.body[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
            if shift > 63:
                raise _NotProtobuf

    def _skip(self, tag: int, position: int) -> int:
        """The position after the field with this tag, whose content is at `position`. A group is skipped as a whole."""
        depth = 0
        while True:
            self._count_elements(1)
            wire_type = tag & 7
            if wire_type == 2:
                length, position = self._varint(position)
                position += length
            elif wire_type == 0:
                _, position = self._varint(position)
            elif wire_type in (1, 5):
                position += 8 if wire_type == 1 else 4
            elif wire_type == 3:
                depth += 1
            elif wire_type == 4 and depth:
                depth -= 1
            else:
                raise _NotProtobuf
            if not depth:
                return position
            tag, position = self._varint(position)


def _over_limit(reason: str) -> TooManyOccurrences:
    return TooManyOccurrences(f"{reason}: raise receiver.max_occurrences to accept it")
