"""protobuf's wire format by hand, for posts that no serializer would write."""

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction, BusinessTransactions

START_TIME = b"\x08\x00"
OCCURRENCE = b"\x32\x02" + START_TIME
NAME = b"\x0a\x01n"


def varint(value: int, length: int = 0) -> bytes:
    """`value` as a varint of at least `length` bytes, which is valid even if it needs fewer."""
    found = bytearray()
    while value > 0x7F or len(found) + 1 < length:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(number: int, content: bytes, *, tag_length: int = 0, length_length: int = 0) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2, tag_length) + varint(len(content), length_length) + content


def group(number: int, content: bytes) -> bytes:
    """A group, which proto2 still supports."""
    return varint(number << 3 | 3) + content + varint(number << 3 | 4)


def transaction(content: bytes) -> bytes:
    """A post of one business transaction."""
    return field(1, content)


def bomb(size: int, occurrence: bytes) -> bytes:
    """A post of about `size` bytes that repeats `occurrence`."""
    return transaction(NAME + occurrence * ((size - 20) // len(occurrence)))


def post(*transactions: BusinessTransaction, **fields: object) -> bytes:
    """A post of these transactions, in which required fields may be missing."""
    return BusinessTransactions(businessTransactions=transactions, **fields).SerializePartialToString()  # type: ignore[arg-type]


def occurrences(number: int) -> list[BtOccurrence]:
    """`number` occurrences, each with a startTime."""
    return [BtOccurrence(startTime=place) for place in range(number)]
