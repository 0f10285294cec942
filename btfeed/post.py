"""A post: the raw body as AppMon sent it, its digest, and whether it is acceptable.

`admit` is what the receiver asks before it takes a post: is it a BusinessTransactions message with all required fields, and
is it within the limits? Parsing alone can't answer. protobuf takes a message whose required fields are missing, and two
bytes of body can become a hundred bytes of message. So `admit` first walks the outline of the wire (transactions and
occurrences, not what is in them), counts, and stops at the limit; only then is the body parsed. The walk also sees
whether every occurrence begins with its startTime, as every known serializer writes it; where one does not, protobuf is
asked for the required fields, which takes longer.
"""

from dataclasses import dataclass
from hashlib import blake2b

from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError

from btfeed.bt_pb2 import BusinessTransactions

if api_implementation.Type() != "upb":
    raise ImportError(
        f"protobuf runs on its {api_implementation.Type()!r} backend; btfeed needs 'upb' "
        "(unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install the binary wheel)"
    )

ELEMENTS_PER_OCCURRENCE = 10
"""How many names, empty values and the like a post may have for each occurrence that it may have."""


class PostRefused(Exception):
    """The post can't be taken, and never will be."""


class Malformed(PostRefused):
    """Not a BusinessTransactions message."""


class TooManyOccurrences(PostRefused):
    """More occurrences, transactions or names than the limit."""


@dataclass(frozen=True, slots=True)
class Post:
    """A raw body that was received. digest: 32 bytes, BLAKE2b-256 of the body. received: milliseconds since the epoch."""

    body: bytes
    digest: bytes
    received: int
    peer: str


def digest(body: bytes) -> bytes:
    """32 bytes that name the body: equal bodies have equal events."""
    return blake2b(body, digest_size=32).digest()


def event_id_prefix(body_digest: bytes) -> str:
    """What event.id starts with; the ordinal of the occurrence follows."""
    return body_digest.hex()[:24] + "-"


def parse(body: bytes) -> BusinessTransactions:
    """The message in `body`; required fields may be missing. Raises Malformed."""
    try:
        return BusinessTransactions.FromString(body)
    except DecodeError as error:
        raise Malformed(f"not a BusinessTransactions message: {error}") from None


def missing_required_fields(message: BusinessTransactions) -> list[str]:
    """Paths of the required fields that are not there; protobuf parses without them."""
    if message.IsInitialized():
        return []
    paths: list[str] = message.FindInitializationErrors()  # type: ignore[attr-defined]  # not in the published stubs
    return paths


def admit(body: bytes, max_occurrences: int) -> int:
    """The number of occurrences in an acceptable `body`. Raises Malformed or TooManyOccurrences."""
    outline = _Outline(body, max_occurrences)
    outline.walk()
    message = parse(body)
    if outline.doubtful:
        missing = missing_required_fields(message)
        if missing:
            raise Malformed(f"not a BusinessTransactions message: required field {missing[0]} is missing")
    return outline.occurrences


_NAME, _MEASURE_NAME, _DIMENSION_NAME, _OCCURRENCE = 0x0A, 0x22, 0x2A, 0x32  # tags: number << 3 | 2, length-delimited
_TRANSACTION = 0x0A
_START_TIME = 0x08
_EMPTY_DIMENSION, _EMPTY_CONVERTED_BY = b"\x3a\x00", b"\xa2\x02\x00"


class _Truncated(Exception):
    """The wire ends early or is none; protobuf will say so better."""


class _Outline:
    """What a walk over the wire learns: counts, and whether required fields need a closer look (`doubtful`)."""

    def __init__(self, body: bytes, limit: int) -> None:
        self.body = body
        self.limit = limit
        self.element_limit = limit * ELEMENTS_PER_OCCURRENCE
        self.occurrences = 0
        self.transactions = 0
        self.elements = 0
        self.doubtful = False

    def walk(self) -> None:
        body = self.body
        if len(body) > 2 * self.element_limit:
            self.elements = body.count(_EMPTY_DIMENSION) + body.count(_EMPTY_CONVERTED_BY)
            self._check(self.elements, self.element_limit, "empty dimensions")
        try:
            position = 0
            while position < len(body):
                if body[position] == _TRANSACTION:
                    length, position = self._varint(position + 1)
                    self.transactions += 1
                    self._check(self.transactions, self.limit, "business transactions")
                    self._walk_transaction(position, position + length)
                    position += length
                else:
                    position = self._skip(position)
        except (_Truncated, IndexError):
            self.doubtful = True

    def _walk_transaction(self, position: int, end: int) -> None:
        """The hot loop: about 0.2 us an occurrence."""
        body = self.body
        named = False
        before = self.occurrences
        room = self.limit - before
        while position < end:
            tag = body[position]
            if tag == _OCCURRENCE:
                length = body[position + 1]
                position += 2
                if length >= 0x80:
                    length, position = self._varint(position - 1)
                if not length or body[position] != _START_TIME:
                    self.doubtful = True
                position += length
                room -= 1
                if room < 0:
                    break
            elif tag == _NAME:
                named = True
                position = self._skip(position)
            else:
                if tag in (_MEASURE_NAME, _DIMENSION_NAME):
                    self.elements += 1
                    self._check(self.elements, self.element_limit, "names of measures and dimensions")
                position = self._skip(position)
        self.occurrences = self.limit - room
        self._check(self.occurrences, self.limit, "occurrences")
        if not named or position != end:
            self.doubtful = True

    def _check(self, count: int, limit: int, what: str) -> None:
        if count > limit:
            raise TooManyOccurrences(f"more than {limit} {what} in one post")

    def _varint(self, position: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self.body[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
            if shift > 63:
                raise _Truncated

    def _skip(self, position: int) -> int:
        """Where the field that starts at `position` ends. A group's content is walked as if it stood outside."""
        tag, position = self._varint(position)
        wire_type = tag & 7
        if wire_type == 0:
            return self._varint(position)[1]
        if wire_type == 1:
            return position + 8
        if wire_type == 2:
            length, position = self._varint(position)
            return position + length
        if wire_type == 5:
            return position + 4
        self.doubtful = True
        if wire_type > 5:
            raise _Truncated
        return position
