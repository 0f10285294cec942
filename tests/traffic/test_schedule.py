"""The schedule of a replay: when posts are due, and times that are moved to now."""

from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransaction, BusinessTransactions
from btfeed.posts.post import parse
from btfeed.traffic.replay import Recorded, Schedule, shift
from tests.support import posts, wire
from tests.support.sending import PostList

MALFORMED = b"\x0a\xff\xff\xff"


def body_at(start: int, end: int | None = None) -> bytes:
    """A post with one occurrence."""
    occurrence = BtOccurrence(startTime=start) if end is None else BtOccurrence(startTime=start, endTime=end)
    transaction = BusinessTransaction(name="n", occurrences=[occurrence])
    return BusinessTransactions(businessTransactions=[transaction]).SerializeToString()


def due(schedule: Schedule, *recorded: Recorded) -> list[float]:
    return [round(post.due, 6) for post in schedule.posts(PostList(recorded))]


def unknown_fields(message: Any) -> list[Any]:
    fields: Any = UnknownFieldSet(message)  # its stubs lack __iter__
    return list(fields)


def test_a_rate_counts_posts_or_occurrences() -> None:
    """With a rate of occurrences, a post of ten delays the next ten times as long as a post of one."""
    recorded = [Recorded(body) for body in (posts.mixed(10), posts.sample_visit(), posts.mixed(20), posts.sample_visit())]
    assert due(Schedule(rate=10, unit="occurrences"), *recorded) == [0.0, 1.0, 1.1, 3.1]
    assert due(Schedule(rate=10), *recorded) == [0.0, 0.1, 0.2, 0.3]


def test_a_speed_follows_the_times_of_receipt() -> None:
    """A post that was received before the previous one is due at once."""
    recorded = [Recorded(b"", time) for time in (1000, 3000, 2000, 5000)]
    assert due(Schedule(speed=1), *recorded) == [0.0, 2.0, 2.0, 4.0]
    assert due(Schedule(speed=10), *recorded) == [0.0, 0.2, 0.2, 0.4]


def test_a_speed_follows_the_newest_time_in_each_post_if_the_time_of_receipt_is_unknown() -> None:
    """A malformed post is due together with the previous one."""
    recorded = (Recorded(body_at(1000)), Recorded(body_at(500, 3000)), Recorded(body_at(4000)), Recorded(MALFORMED))
    assert due(Schedule(speed=2), *recorded) == [0.0, 1.0, 1.5, 1.5]


def test_a_loop_continues_where_the_last_one_ended() -> None:
    """With a rate and with a speed. An empty source ends even an endless loop."""
    recorded = [Recorded(b"", 1000), Recorded(b"", 3000)]
    assert due(Schedule(speed=1, loops=2), *recorded) == [0.0, 2.0, 2.0, 4.0]
    assert due(Schedule(rate=1, loops=2), *recorded) == [0.0, 1.0, 2.0, 3.0]
    assert due(Schedule(loops=0)) == []


def test_all_times_are_moved_by_one_offset() -> None:
    """The newest startTime or endTime of all posts becomes now."""
    recorded = [Recorded(body_at(1000, 9000)), Recorded(body_at(5000)), Recorded(MALFORMED)]
    sent = [post.body for post in Schedule(now=lambda: 100_000).posts(PostList(recorded))]
    assert sent == [body_at(92_000, 100_000), body_at(96_000), MALFORMED]


def test_each_loop_moves_times_to_its_own_start() -> None:
    """The second loop begins a second later, and so are its times."""
    starts = iter((100_000, 101_000))
    sent = [post.body for post in Schedule(loops=2, now=lambda: next(starts)).posts(PostList([Recorded(body_at(5000))]))]
    assert sent == [body_at(100_000), body_at(101_000)]


def test_moving_times_keeps_everything_else() -> None:
    """Unknown fields in each message, and strings that are not UTF-8."""
    unknown = wire.varint(2000 << 3 | 2) + wire.varint(3) + b"new"
    occurrence = BtOccurrence(startTime=1000, endTime=2000, visitId=2**40, dimensions=["d"]).SerializeToString()
    occurrence += b"\x42\x02\xff\xfe" + unknown
    transaction = BusinessTransaction(name="n", type="VISIT").SerializeToString()
    transaction += b"\x32" + wire.varint(len(occurrence)) + occurrence + unknown
    body = b"\x0a" + wire.varint(len(transaction)) + transaction + unknown
    moved = parse(shift(parse(body), 500))
    (one,) = moved.businessTransactions[0].occurrences
    assert (one.startTime, one.endTime) == (1500, 2500)
    for message in (moved, moved.businessTransactions[0], one):
        assert [(field.field_number, field.data) for field in unknown_fields(message)] == [(2000, b"new")]
    one.startTime, one.endTime = 1000, 2000
    assert moved.SerializeToString() == parse(body).SerializeToString()
    assert len(shift(parse(body), 500)) == len(body)


def test_invalid_times_are_not_moved() -> None:
    """They do not count as the newest time either."""
    recorded = [Recorded(body_at(2**62)), Recorded(body_at(1000))]
    sent = [post.body for post in Schedule(now=lambda: 5000).posts(PostList(recorded))]
    assert sent == [body_at(2**62), body_at(5000)]
