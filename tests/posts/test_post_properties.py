"""Admission of any bytes, with protobuf as the judge."""

from google.protobuf.message import DecodeError
from hypothesis import example, given, settings

from btfeed.posts.admission import TooManyOccurrences, admit
from btfeed.posts.bt_pb2 import BusinessTransactions
from btfeed.posts.post import Malformed
from tests.support import strategies, wire
from tests.support.strategies import examples


def judge(body: bytes) -> int | None:
    """The number of occurrences, or None if protobuf cannot parse the body or misses required fields."""
    try:
        message = BusinessTransactions.FromString(body)
    except DecodeError:
        return None
    return sum(len(bt.occurrences) for bt in message.businessTransactions) if message.IsInitialized() else None


def verdict(body: bytes, limit: int = 1000) -> int | None:
    try:
        return admit(body, limit)
    except Malformed:
        return None


@given(body=strategies.bodies)
@settings(max_examples=examples(100))
def test_posts_are_admitted(body: bytes) -> None:
    """With the right count, and exactly up to the limit."""
    number = judge(body)
    assert number is not None
    assert verdict(body) == number
    transactions = len(BusinessTransactions.FromString(body).businessTransactions)
    least = max(number, transactions, 1)
    assert verdict(body, least) == number
    if least > 1:
        try:
            admit(body, least - 1)
        except TooManyOccurrences:
            return
        raise AssertionError("one more than the limit was admitted")


@given(body=strategies.almost_posts)
@settings(max_examples=examples(600))
@example(wire.field(1, wire.NAME + wire.OCCURRENCE * 2, tag_length=5, length_length=5))
@example(wire.group(3, wire.field(1, b"\x07")) + wire.transaction(wire.NAME + wire.OCCURRENCE))
@example(wire.transaction(wire.group(6, b"") + wire.NAME + wire.field(6, wire.group(1, b"") + wire.START_TIME)))
def test_any_bytes_are_admitted_if_protobuf_parses_them(body: bytes) -> None:
    """Admission accepts what protobuf parses, if no required field is missing, and gets the same count."""
    assert verdict(body) == judge(body)
