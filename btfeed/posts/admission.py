"""Whether a post is acceptable.

`admit` is what the receiver asks before it takes a post: is it a BusinessTransactions message with all required fields, and
is it within the limits? Parsing alone can't answer. protobuf takes a message whose required fields are missing, and two
bytes of body can become a hundred bytes of message, and one long name a part of every record. So `admit` first walks the
outline of the wire (transactions and occurrences, and what is in very long ones), counts, and stops at the limit; only
then is the body parsed. The walk also sees whether every occurrence begins with its startTime, as every known serializer
writes it; where one does not, protobuf is asked for the required fields, which takes longer.
"""

from btfeed import native
from btfeed.posts.post import Malformed, PostRefused, missing_required_fields, parse

ELEMENTS_PER_OCCURRENCE, MIN_ELEMENTS = 10, 10_000
"""How many names, empty dimensions, fields of long occurrences and the like a post may have: so many for each occurrence
that it may have, and so many in any case."""
SHARED_PER_OCCURRENCE, MIN_SHARED = 512, 64 * 2**20
"""Likewise how many bytes may be repeated in its records: names, times the occurrences that share them."""
MOST = 2**40
"""No limit of occurrences is higher: no post has so many."""
LONG = 2**16
"""Bytes of an occurrence from which the walk looks into it."""


class TooManyOccurrences(PostRefused):
    """More than the limit of occurrences, or of what else makes a post many times larger in memory."""


def admit(body: bytes, max_occurrences: int) -> int:
    """The number of occurrences in an acceptable `body`. Raises Malformed or TooManyOccurrences."""
    count: int | None = native.module.admit(body, _limits(max_occurrences)) if native.module else None
    return admit_plainly(body, max_occurrences) if count is None else count


def _limits(max_occurrences: int) -> tuple[int, int, int, int]:
    """Occurrences, elements, shared bytes, and what makes an occurrence long; all of 64 bits."""
    max_occurrences = min(max_occurrences, MOST)
    elements = max(MIN_ELEMENTS, max_occurrences * ELEMENTS_PER_OCCURRENCE)
    return max_occurrences, elements, max(MIN_SHARED, max_occurrences * SHARED_PER_OCCURRENCE), LONG


def admit_plainly(body: bytes, max_occurrences: int) -> int:
    """The plain twin of the native `admit`: it says what is right, and why what is refused is refused."""
    outline = _Outline(body, max_occurrences)
    outline.walk()
    message = parse(body)
    if outline.doubtful:
        missing = missing_required_fields(message)
        if missing:
            raise Malformed(f"not a BusinessTransactions message: required field {missing[0]} is missing")
    return outline.occurrences


_TRANSACTION = _NAME = 0x0A  # tags: number << 3 | 2, length-delimited
_OCCURRENCE = 0x32
_START_TIME = 0x08
_PACKED_VALUES = 0x32
_EMPTY_DIMENSION, _EMPTY_CONVERTED_BY = b"\x3a\x00", b"\xa2\x02\x00"


class _Broken(Exception):
    """The wire ends early or is none."""


class _Outline:
    """What a walk over the wire learns: counts, and whether required fields need a closer look (`doubtful`).

    What it can't walk is not parsed: every limit holds for whatever protobuf takes, however it is encoded.
    """

    def __init__(self, body: bytes, limit: int) -> None:
        self.body = body
        self.limit, self.element_limit, self.shared_limit, _ = _limits(limit)
        self.occurrences = 0
        self.transactions = 0
        self.elements = 0
        self.shared = 0
        self.doubtful = False

    def walk(self) -> None:
        """Raises Malformed or TooManyOccurrences."""
        body = self.body
        if len(body) > 2 * self.element_limit:
            empty = body.count(_EMPTY_DIMENSION) + body.count(_EMPTY_CONVERTED_BY)
            if empty > self.element_limit:
                raise TooManyOccurrences(f"more than {self.element_limit} empty dimensions in one post")
        try:
            position = shared = 0
            while position < len(body):
                start = position
                tag, position = self._varint(position)
                if tag == _TRANSACTION:
                    length, position = self._varint(position)
                    self.transactions += 1
                    if self.transactions > self.limit:
                        raise TooManyOccurrences(f"more than {self.limit} business transactions in one post")
                    self._walk_transaction(position, position + length)
                    position += length
                else:
                    position = self._skip(tag, position)
                    shared += position - start
            if position != len(body):
                raise _Broken
        except (_Broken, IndexError):
            raise Malformed("not a BusinessTransactions message: cut off, or no protobuf") from None
        self._share(shared, self.occurrences)

    def _walk_transaction(self, position: int, end: int) -> None:
        """The hot loop: every statement here is paid once for each occurrence."""
        body = self.body
        named = False
        shared = 0
        before = self.occurrences
        room = self.limit - before
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
                    if length >= LONG:
                        self._walk_occurrence(position, position + length)
                if not length or body[position] != _START_TIME:
                    self.doubtful = True
                position += length
                room -= 1
                if room < 0:
                    raise TooManyOccurrences(f"more than {self.limit} occurrences in one post")
            else:
                named = named or tag == _NAME
                position = self._skip(tag, position)
                shared += position - start
        if position != end:
            raise _Broken
        if not named:
            self.doubtful = True
        self.occurrences = self.limit - room
        self._share(shared, self.occurrences - before)

    def _walk_occurrence(self, position: int, end: int) -> None:
        """Count what is in a long one: a short one can't hold much."""
        while position < end:
            start = position
            tag, position = self._varint(position)
            position = self._skip(tag, position)
            if tag == _PACKED_VALUES:
                self._count((position - start) // 8)

    def _count(self, elements: int) -> None:
        self.elements += elements
        if self.elements > self.element_limit:
            raise TooManyOccurrences(f"more than {self.element_limit} names, values and other fields in one post")

    def _share(self, size: int, occurrences: int) -> None:
        """Each of so many records repeats `size` bytes of what they share."""
        self.shared += size * occurrences
        if self.shared > self.shared_limit:
            raise TooManyOccurrences(f"records would repeat more than {self.shared_limit} bytes of names from one post")

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
                raise _Broken

    def _skip(self, tag: int, position: int) -> int:
        """Where the field ends whose tag was read; a group ends behind all that is in it."""
        depth = 0
        while True:
            self._count(1)
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
                raise _Broken
            if not depth:
                return position
            tag, position = self._varint(position)
