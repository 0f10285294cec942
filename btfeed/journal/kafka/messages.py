"""A post as a message of Kafka, and back.

key        the digest of the body, 32 bytes
value      the body as it was received
timestamp  when it was received, in milliseconds since the epoch
headers    `peer`: who sent it; `v`: the version of this format
"""

from collections.abc import Sequence
from typing import Any

from btfeed.journal.base import Entry
from btfeed.posts.post import Post

VERSION = b"1"
Headers = Sequence[tuple[str, bytes]]


def to_message(post: Post, digest: bytes) -> tuple[bytes, bytes, int, Headers]:
    """Key, value, timestamp and headers. digest: that of the post's body."""
    return digest, post.body, post.received, [("peer", post.peer.encode()), ("v", VERSION)]


def to_entry(record: Any) -> Entry:
    """The post in a ConsumerRecord of aiokafka. Its digest is the message's key, which is not compared with the body here:
    a message of somebody else is an Entry, too."""
    peer = next((value for name, value in record.headers if name == "peer"), b"")
    post = Post(record.value or b"", record.timestamp, (peer or b"").decode(errors="replace"))
    return Entry(record.offset, post, record.key or b"")
