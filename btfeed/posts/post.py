"""A post: the raw body as AppMon sent it, its digest, and the BusinessTransactions message in it."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError

from btfeed import native
from btfeed.posts.bt_pb2 import BusinessTransactions

if api_implementation.Type() != "upb":
    raise ImportError(
        f"protobuf runs on its {api_implementation.Type()!r} backend; btfeed needs 'upb' "
        "(unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install the binary wheel)"
    )


class PostRefused(Exception):
    """The post is not acceptable. Sending it again does not help."""


class Malformed(PostRefused):
    """Not a BusinessTransactions message."""


NOT_PROTOBUF = "not a BusinessTransactions message: it is cut off, or not protobuf"
"""What Malformed says of a body that can't be parsed."""


class Post(NamedTuple):
    """A body as received. received: milliseconds since the epoch."""

    body: bytes
    received: int
    peer: str


def digest(body: bytes) -> bytes:
    """BLAKE2b-256 of the body, 32 bytes. event.id is made of it, so that equal bodies have equal event ids."""
    return blake2b(body, digest_size=32).digest()


def digests(bodies: Sequence[bytes]) -> list[bytes]:
    """The digest of each body. The native module computes several faster together than one by one."""
    if native.module:
        found: list[bytes] = native.module.digests(bodies)
        return found
    return list(map(digest, bodies))


def event_id_prefix(body_digest: bytes) -> str:
    """The start of event.id. The ordinal of the occurrence follows, as a decimal number from 0."""
    return body_digest.hex()[:24] + "-"


def ordinal_of(event_id: str) -> int:
    """The ordinal in an event.id."""
    return int(event_id.rpartition("-")[2])


def parse(body: bytes) -> BusinessTransactions:
    """The message in `body`, in which required fields may be missing. Raises Malformed."""
    try:
        return BusinessTransactions.FromString(body)
    except DecodeError:
        raise Malformed(NOT_PROTOBUF) from None


def missing_required_fields(message: BusinessTransactions) -> list[str]:
    """The paths of required fields that are missing. protobuf parses messages without them."""
    if message.IsInitialized():
        return []
    paths: list[str] = message.FindInitializationErrors()  # type: ignore[attr-defined]  # not in the published stubs
    return paths
