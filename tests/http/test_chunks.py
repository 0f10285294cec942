"""Bodies in chunks."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from btfeed.http.chunks import ChunkedBody, end_of_headers
from btfeed.http.limits import MAX_HEADER_BYTES, PARSE_STEP
from btfeed.http.request import InvalidRequest
from tests.support.posts import sample_purepath, sample_visit
from tests.support.rawhttp import Site, chunked, request, site

BODY = sample_visit()
OTHER = sample_purepath()
HEAD = request(None, "Transfer-Encoding: chunked")
LEGAL = [
    b"",
    b";a=b",
    b"; a=b",
    b" ;a=b",
    b"\t;\ta\t=\tb\t",
    b";a",
    b"; a; b = c ;d",
    b';a="q s; \\" \\\\ \xe4"',
    b'; a = "" ',
    b"  ",
]
ILLEGAL = [b";", b";;a", b"; =b", b";a=", b';a="q', b';a="q"x', b"x", b" 5", b";a=b\rc", b";a\x00", b'; a="\\\x01"', b"\r"]


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """A receiver with default settings."""
    async with site(tmp_path) as found:
        yield found


def _in_chunks(body: bytes, extension: bytes, size: int = 50) -> bytes:
    """A request whose chunks all have that extension, and with a trailer."""
    parts = [body[place : place + size] for place in range(0, len(body), size)] + [b""]
    chunks = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts[:-1]]
    return HEAD + b"".join(chunks) + b"00" + extension + b"\r\nA: b\r\n\r\n"


def _decode(data: bytes, size: int) -> tuple[bytes, int]:
    """The content, and how many bytes it took."""
    found: list[bytes] = []
    body = ChunkedBody(found.append)
    used = 0
    for place in range(0, len(data), size):
        used += body.feed(data[place : place + size])
    assert body.complete
    return b"".join(found), used


@pytest.mark.parametrize("extension", LEGAL)
@pytest.mark.parametrize("step", [1, 7, 10**6])
async def test_extensions_are_ignored(running: Site, extension: bytes, step: int) -> None:
    """With whitespace and quoted strings, in whatever segments they arrive. The connection stays usable."""
    data = _in_chunks(BODY, extension) + request(OTHER)
    async with running.connect() as client:
        for place in range(0, len(data), step):
            await client.send(data[place : place + step])
        assert [(await client.response()).status for _ in range(2)] == [200, 200]
    assert running.posts() == [BODY, OTHER]


@pytest.mark.parametrize("extension", ILLEGAL)
async def test_broken_extensions_are_rejected(running: Site, extension: bytes) -> None:
    """What a proxy might read in another way."""
    async with running.connect() as client:
        await client.send(_in_chunks(BODY, extension))
        assert ((await client.response()).status, await client.rest()) == (400, b"")
    assert (running.posts(), running.refused()) == ([], {"incomplete": 1})


@pytest.mark.parametrize(
    "data",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\r\rn",
        b"-5\r\n",
        b"0x5\r\n",
        b"+5\r\n",
        b"5_0\r\n",
        b"\r\n5\r\n",
        b"1" * 16 + b"\r\n",
        b"0\r\n\n",
        b"0\r\nno colon\r\n",
        b"0\r\n: no name\r\n",
        b"0\r\n A: b\r\n",
        b"0\r\nA: b\x00\r\n",
        b"0\r\n" + b"A: b\r\n" * 200,
        b"5;" + b"a" * MAX_HEADER_BYTES,
    ],
)
@pytest.mark.parametrize("step", [1, 10**6])
def test_broken_chunks_are_rejected(data: bytes, step: int) -> None:
    """Also byte by byte."""
    with pytest.raises(InvalidRequest):
        _decode(data, step)


@pytest.mark.parametrize("text", [b" ", b"\t ;", b"; a", b";a =", b';a="', b'\\"', b";a=b "])
def test_a_long_line_takes_no_time(text: bytes) -> None:
    """Matching it does not go back and forth: 16 KiB would take minutes."""
    line = b"5;a=" + text * ((MAX_HEADER_BYTES - 10) // len(text)) + b"\x01\r\n"
    with pytest.raises(InvalidRequest):
        ChunkedBody(lambda data: None).feed(line)


def test_random_chunks_in_random_segments() -> None:
    """The content comes back, and what follows the body is left alone."""
    rng = random.Random(3)
    for _ in range(300):
        body = rng.randbytes(rng.randrange(2_000))
        data = _in_chunks(body, rng.choice(LEGAL), rng.choice((1, 10, 500)))[len(HEAD) :]
        assert _decode(data + b"POST", rng.randrange(1, 300)) == (body, len(data))


@pytest.mark.parametrize("before", [b"", b"\r\n", b"\r\n\r\n\n", request(b"\r\n\r\n"), request(OTHER) + b"\r\n"])
@pytest.mark.parametrize("step", [1, 2, 3, 50, PARSE_STEP, 10**6])
async def test_the_body_begins_after_its_header(running: Site, before: bytes, step: int) -> None:
    """Behind other requests, blank lines, and bodies that look like the end of a header, however all that is cut."""
    data = before + _in_chunks(BODY, b"; a=b") + request(b"\r\n\r\n\r\n") + chunked(OTHER) + before
    expected = [400] * (b"POST" in before and OTHER not in before) + [200] * (OTHER in before) + [200, 400, 200]
    async with running.connect() as client:
        for place in range(0, len(data), step):
            await client.send(data[place : place + step])
        assert [(await client.response()).status for _ in expected] == expected
    assert [body for body in running.posts() if body == BODY] == [BODY]


async def test_nothing_is_read_behind_a_body_that_ends_its_connection(running: Site) -> None:
    """Not even if it arrives in one segment."""
    async with running.connect() as client:
        await client.send(chunked(BODY, "Connection: close") + request(OTHER))
        assert ((await client.response()).status, await client.rest()) == (200, b"")
    assert running.posts() == [BODY]


def test_the_end_of_headers() -> None:
    """Of several, with their bodies, and of one that began earlier."""
    first, second = request(b"\r\n\r\nx"), HEAD
    data = first + b"\r\n" + second
    assert end_of_headers(b"", data + b"5\r\n", 0, [5, 0]) == len(data)
    for cut in range(1, len(HEAD)):
        assert end_of_headers(HEAD[max(0, cut - 3) : cut], HEAD[cut:] + b"\r\n\r\n", 0, [0]) == len(HEAD) - cut
