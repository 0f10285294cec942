"""Decompression within a limit."""

import zlib
from typing import Any

import pytest

from btfeed.http.gunzip import Gunzip, TooLong
from tests.support.posts import mixed
from tests.support.rawhttp import gzipped


def _gunzip(data: bytes, limit: int, step: int) -> bytes:
    gunzip = Gunzip(limit)
    for place in range(0, len(data), step):
        for length in gunzip.feed(data[place : place + step]):
            assert length <= limit
    return gunzip.end()


@pytest.mark.parametrize("step", [1, 10, 10**6])
def test_decompresses_in_any_pieces(step: int) -> None:
    """Several members form one stream, and a stream of exactly the limit is accepted."""
    members = [b"", b"a" * 300_000, mixed(100), b""]
    whole = b"".join(members)
    assert _gunzip(gzipped(*members), len(whole), step) == whole
    with pytest.raises(TooLong):
        _gunzip(gzipped(*members), len(whole) - 1, step)


def test_a_bomb_stops_at_the_limit() -> None:
    """At most one byte more than the limit is ever decompressed."""
    gunzip: Any = Gunzip(2**20)
    with pytest.raises(TooLong):
        list(gunzip.feed(gzipped(bytes(2**25))))
    assert len(gunzip._plain) == 2**20 + 1


@pytest.mark.parametrize(
    ("data", "reason"), [(b"x" * 40, "incorrect header check"), (gzipped(b"a" * 50)[:-9], "the stream ends early")]
)
def test_a_broken_stream_is_told_in_words(data: bytes, reason: str) -> None:
    """Without what Python puts before zlib's reason."""
    with pytest.raises(zlib.error, match=f"^{reason}$"):
        _gunzip(data, 1_000, 100)


def test_the_number_of_members_is_limited() -> None:
    """1,000 members are accepted, one more is an error."""
    assert _gunzip(gzipped(b"") * 1000, 100, 10**6) == b""
    with pytest.raises(zlib.error, match="more than 1000 members"):
        _gunzip(gzipped(b"") * 1001, 100, 10**6)
