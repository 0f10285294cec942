"""Requests that have the header of an earlier one, and posts that are answered without a task."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import example, given
from hypothesis import strategies as st

from btfeed.http.connection import Connection
from btfeed.http.parser import RequestParser
from btfeed.http.repeated import RepeatedHeader
from btfeed.http.request import InvalidRequest, Request
from btfeed.journal.base import JournalError, JournalFull, JournalUnavailable
from tests.support.posts import sample_visit
from tests.support.rawhttp import Site, begin, chunked, request, site

BODY = sample_visit()
SEEN = ("method", "path", "version", "headers", "keep_alive", "content_length", "received", "complete")


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """A receiver with default settings."""
    async with site(tmp_path) as found:
        yield found


class _Client:
    """The end of a connection that requests need."""

    peer = "test"
    loop = None

    def resume_reading(self) -> None: ...

    def write(self, data: bytes) -> None: ...


def parsed(data: bytes) -> Request | None:
    """The request that llhttp finds in `data`, if that is one whole request and nothing else."""
    found: list[Request] = []
    parser = RequestParser(_Client(), found.append)  # type: ignore[arg-type]
    parser.add(data)
    try:
        while parser.unparsed:
            parser.parse()
    except InvalidRequest:
        return None
    return found[0] if len(found) == 1 and parser.at_start and found[0].complete else None


def same(one: Request, other: Request) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in SEEN) and one.body() == other.body()


BODIES = st.binary(min_size=0, max_size=20) | st.sampled_from([BODY, b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc"])
FIELDS = st.sampled_from(
    [
        "A: b", "A: \tb ", "Connection: keep-alive", "Connection: close", "Expect: 100-continue", "Upgrade: h2c",
        "Transfer-Encoding: chunked", "Content-Length: 3", "Authorization: Basic YTpi",
    ]
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Valid ones most of the time, with the length in any place and any form."""
    body, fields = draw(BODIES), draw(st.lists(FIELDS, max_size=3))
    size = len(body)
    length = draw(st.sampled_from([f"{size}"] * 6 + [f"0{size}", f"+{size}", f"{size} ", f" {size}"]))
    name = draw(st.sampled_from(["Content-Length: ", "content-length:", "CONTENT-LENGTH:\t"]))
    fields.insert(draw(st.integers(0, len(fields))), name + length)
    line = draw(st.sampled_from(["POST / HTTP/1.1"] * 4 + ["POST /a?b HTTP/1.1", "POST / HTTP/1.0", "PUT / HTTP/1.1"]))
    head = "\r\n".join([line, "Host: test", *fields]).encode() + b"\r\n\r\n"
    return head + body


@given(first=requests(), then=requests(), cut=st.integers(-5, 0) | st.none(), more=st.sampled_from([b"", b"\r\n", b"POST"]))
@example(request(BODY), request(b"x" * 999), None, b"")
@example(request(BODY), request(b""), None, b"")
@example(request(BODY), request(BODY) * 2, None, b"")
@example(request(BODY), request(BODY).replace(b"Host", b"host"), None, b"")
def test_what_is_not_parsed_means_what_llhttp_says(first: bytes, then: bytes, cut: int | None, more: bytes) -> None:
    """A repeated header makes the very request that llhttp would, or none."""
    begun = parsed(first)
    repeated = RepeatedHeader.of(begun, first) if begun else None
    for data in (then[:cut] + more, then, first):
        if repeated and (found := repeated.request(data)):
            told = parsed(data)
            assert told
            assert same(found, told)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (request(BODY), request(BODY)),
        (request(BODY), request(b"x" * 999)),
        (request(BODY, "Authorization: Basic YTpi"), request(b"x", "Authorization: Basic YTpi")),
        (request(BODY).replace(b"Content-L", b"content-l"), request(b"x").replace(b"Content-L", b"content-l")),
    ],
)
def test_posts_of_one_client_are_not_parsed_again(first: bytes, then: bytes) -> None:
    """Whatever their length."""
    begun = parsed(first)
    assert begun
    repeated = RepeatedHeader.of(begun, first)
    assert repeated
    assert repeated.request(then)
    assert repeated.request(then + b"P") is repeated.request(then[:-1]) is None


@pytest.mark.parametrize(
    "first",
    [
        request(BODY, "Connection: close"),
        request(BODY, "Expect: 100-continue"),
        request(None, line="GET / HTTP/1.1"),
        request(b""),
        chunked(BODY),
        request(BODY, line="POST / HTTP/1.0"),
    ],
)
def test_other_requests_are_parsed_each_time(first: bytes) -> None:
    """Those that end a connection, or are more than a header and a body."""
    begun = parsed(first)
    assert begun
    assert RepeatedHeader.of(begun, first) is None


def _connection(running: Site) -> Connection:
    (connection,) = running.connections
    return connection


async def test_a_post_is_answered_without_a_task(running: Site) -> None:
    """From the second on without llhttp either. The journal has all of them, and the metrics count them."""
    async with running.connect() as client:
        await begin(client)
        connection = _connection(running)
        running.journal.gate.clear()
        connection._parser.parse = lambda: pytest.fail("it was parsed")  # type: ignore[method-assign]
        for number in range(1, 4):
            await client.send(request(BODY))
            await running.until(lambda it: it.journal.waiting, "waiting")
            assert isinstance(connection._responding, Request)
            assert connection.gives_way is None
            running.journal.gate.set()
            assert (await client.response()).status == 200
            running.journal.gate.clear()
            assert (running.posts(), running.count("posts_total")) == ([BODY] * (1 + number), 1 + number)
        assert running.count("ack_seconds_count") == 4
        assert running.count("duplicate_posts_total") == 3
        assert connection.gives_way


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (request(b"not protobuf"), 400, "malformed"),
        (request(BODY, line="POST /other HTTP/1.1"), 404, "not_found"),
        (request(BODY, line="PUT / HTTP/1.1"), 405, "method"),
        (request(BODY, "Content-Encoding: br"), 415, "encoding"),
        (request(b"x" * 2_000), 413, "too_large"),
        (request(b"\x1f\x8bx", "Content-Encoding: gzip"), 400, "bad_gzip"),
    ],
)
async def test_what_can_not_be_taken_is_refused_as_ever(tmp_path: Path, data: bytes, status: int, reason: str) -> None:
    """As the first request of a connection, and as a later one with the same header. The next post is taken."""
    async with site(tmp_path, max_body="1900B") as running, running.connect() as client:
        for number in range(1, 4):
            await client.send(data)
            assert (await client.response()).status == status
            assert (running.refused(), running.posts()) == ({reason: number}, [BODY] * (number - 1))
            await client.send(request(BODY))
            assert (await client.response()).status == 200
        kept = [(letter.cause, letter.body) for letter in running.dead_letters()]
        assert kept == ([(reason, data.partition(b"\r\n\r\n")[2])] * 3 if reason in ("malformed", "bad_gzip") else [])


@pytest.mark.parametrize(
    ("error", "reason"), [(JournalFull("full"), "journal_full"), (JournalUnavailable("away"), "journal_unavailable")]
)
async def test_a_journal_that_fails_is_told(running: Site, error: JournalError, reason: str) -> None:
    """With a 503 and the reason, on a connection that stays open."""
    async with running.connect() as client:
        await begin(client)
        running.journal.error = error
        await client.send(request(BODY))
        answer = await client.response()
        assert (answer.status, answer.body) == (503, f"{error}\n".encode())
        running.journal.error = None
        await begin(client)
    assert (running.refused(), running.lost()) == ({reason: 1}, {reason: 1})


async def test_a_bug_after_a_post_is_stored_is_a_503(running: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered, and the connection goes on."""
    async with running.connect() as client:
        await begin(client)
        with monkeypatch.context() as patch:
            patch.setattr(running.receiver, "_count_duplicate", lambda digest: 1 / 0)
            await client.send(request(BODY))
            assert (await client.response()).status == 503
        await begin(client)
    assert running.refused() == {"bug": 1}


async def test_requests_that_come_meanwhile_are_answered_in_order(running: Site) -> None:
    """While a post waits for the journal, others may arrive, of any kind."""
    get, other = request(None, line="GET / HTTP/1.1"), request(b"x")
    async with running.connect() as client:
        await begin(client)
        running.journal.gate.clear()
        await client.send(request(BODY))
        await running.until(lambda it: it.journal.waiting, "waiting")
        await client.send(get + request(BODY) * 20 + other + request(BODY)[:50])
        await asyncio.sleep(0.01)
        assert len(running.posts()) == 1
        running.journal.gate.set()
        statuses = [(await client.response()).status for _ in range(23)]
        assert statuses == [200] * 22 + [400]
        await client.send(request(BODY)[50:])
        assert (await client.response()).status == 200
    assert running.posts() == [BODY] * 23


@pytest.mark.parametrize("ends", ["client", "server"])
async def test_a_connection_that_ends_meanwhile_keeps_its_post(running: Site, ends: str) -> None:
    """The post is stored, and nothing is left behind."""
    async with running.connect() as client:
        await begin(client)
        connection = _connection(running)
        running.journal.gate.clear()
        await client.send(request(BODY))
        await running.until(lambda it: it.journal.waiting, "waiting")
        if ends == "client":
            await client.close()
            await running.until(lambda it: connection._half_closed, "ended by the client")
        else:
            connection.abort()
        running.journal.gate.set()
        await running.until(lambda it: len(it.posts()) == 2, "stored")
        await running.until(lambda it: not it.connections and connection._responding is None, "ended")
    assert running.refused() == {}


async def test_a_header_that_comes_late_is_cut_off(tmp_path: Path) -> None:
    """Part of a header is cut off at its deadline, also after repeated ones. A connection between two posts has none."""
    async with site(tmp_path, header_timeout="100ms") as running, running.connect() as client:
        await begin(client)
        await asyncio.sleep(0.3)
        await begin(client)
        assert _connection(running)._header_timer is None
        await client.send(request(BODY)[:30])
        assert await client.rest() == b""
    assert running.refused() == {"slow_header": 1}
