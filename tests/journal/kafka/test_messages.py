"""Posts as messages, and the names of topics and groups."""

from types import SimpleNamespace

from btfeed.journal.base import Entry
from btfeed.journal.kafka.messages import to_entry, to_message
from btfeed.journal.kafka.names import Names
from btfeed.posts.post import Post, digest


def record(**fields: object) -> SimpleNamespace:
    """A ConsumerRecord of aiokafka."""
    return SimpleNamespace(**({"offset": 7, "key": None, "value": None, "timestamp": 0, "headers": ()} | fields))


def test_a_post_survives_the_way_through_a_message() -> None:
    """With its peer and the time when it was received. The message's key is the digest."""
    post = Post(b"body", 1_700_000_000_123, "[fe80::1%eth0]:4711")
    key, value, timestamp, headers = to_message(post, digest(post.body))
    assert (key, value, timestamp) == (digest(b"body"), b"body", 1_700_000_000_123)
    assert dict(headers) == {"peer": b"[fe80::1%eth0]:4711", "v": b"1"}
    found = to_entry(record(key=key, value=value, timestamp=timestamp, headers=tuple(headers)))
    assert found == Entry(7, post, digest(b"body"))


def test_a_message_of_somebody_else_is_an_entry_too() -> None:
    """Its digest does not fit, so that its reader sets it aside instead of stopping."""
    assert to_entry(record()) == Entry(7, Post(b"", 0, ""), b"")
    assert to_entry(record(headers=(("peer", b"\xff"), ("x", None)))).post.peer == "\ufffd"


def test_all_names_begin_with_the_prefix() -> None:
    """Topics, groups and transactional ids."""
    names = Names("btfeed")
    assert names.topics == ("btfeed.posts", "btfeed.dead-letters", "btfeed.refused", "btfeed.retries")
    assert names.group("files") == "btfeed.files"
    assert names.transactional_id("files", 3) == "btfeed.files.3"
