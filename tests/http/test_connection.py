"""HTTP on one connection: what counts as a request, pipelining, and how far the server reads ahead."""

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from btfeed.http.connection import Connection
from btfeed.http.limits import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, MAX_PIPELINED, PARSE_STEP, READ_AHEAD, Limits
from btfeed.http.request import Request
from btfeed.http.response import Response
from btfeed.http.server import HttpServer
from btfeed.http.state import Handler
from btfeed.telemetry.metrics import Metrics
from tests.support.harness import until_async
from tests.support.posts import mixed, sample_visit
from tests.support.rawhttp import RawClient, Site, chunked, gzipped, request, site

BODY = sample_visit()
GET = request(None, line="GET / HTTP/1.1")
UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """A receiver with default settings."""
    async with site(tmp_path) as found:
        yield found


async def _statuses(client: RawClient, number: int) -> list[int]:
    return [(await client.response()).status for _ in range(number)]


def _connection(running: Site) -> Connection:
    (connection,) = running.connections
    return connection


@pytest.mark.parametrize("first", [request(BODY, *UPGRADE), chunked(BODY, *UPGRADE), request(None, *UPGRADE)])
@pytest.mark.parametrize("size", [1, 50, 10_000])
async def test_an_upgrade_is_declined(running: Site, first: bytes, size: int) -> None:
    """Java's newer client asks for HTTP/2 with its first post. That post and those after it are accepted over HTTP/1.1."""
    data = first + request(BODY) + GET
    async with running.connect() as client:
        for place in range(0, len(data), size):
            await client.send(data[place : place + size])
            await asyncio.sleep(0)
        assert await _statuses(client, 3) == [200, 200, 200]
    assert running.posts() == [BODY] * (2 if BODY in first or b"chunked" in first else 1)
    assert running.refused() == {}


async def test_a_tunnel_is_refused(running: Site) -> None:
    """CONNECT gets a 405, and nothing is read after it, since it may be meant for the tunnel."""
    async with running.connect() as client:
        await client.send(b"CONNECT host:80 HTTP/1.1\r\nHost: host:80\r\n\r\n" + request(BODY))
        answer = await client.response()
        assert (answer.status, answer.headers["connection"], await client.rest()) == (405, "close", b"")
    assert (running.posts(), running.refused()) == ([], {"method": 1})


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("POST https://test:1234/ HTTP/1.1", 200),
        ("POST http://user:pass@test/ HTTP/1.1", 200),
        ("POST http://test/other HTTP/1.1", 404),
        ("POST /#part HTTP/1.1", 200),
        ("POST // HTTP/1.1", 404),
        ("POST //test/ HTTP/1.1", 404),
        ("POST /other/.. HTTP/1.1", 404),
        ("POST /%2f HTTP/1.1", 404),
        ("POST /%zz HTTP/1.1", 404),
        ("POST * HTTP/1.1", 400),
        ("POST test HTTP/1.1", 400),
        ("POST ?query HTTP/1.1", 400),
        ("POST http:/// HTTP/1.1", 400),
        ("POST http://test:99999999/ HTTP/1.1", 400),
        ("POST  HTTP/1.1", 400),
        ("post / HTTP/1.1", 400),
        ("HELLO / HTTP/1.1", 400),
        ("POST / HTTP/2.0", 400),
        ("POST / HTTP/1.2", 400),
        ("POST / HTTP/0.9", 400),
    ],
)
async def test_request_lines(running: Site, line: str, status: int) -> None:
    """Each request line gets the status for its syntax, version and path."""
    assert (await running.ask(request(BODY, line=line))).status == status


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: another",),
        (f"Content-Length: {len(BODY)}",),
        ("Transfer-Encoding: chunked",),
        ("Transfer-Encoding: ",),
        ("A : space before the colon",),
        ("A: folded\r\n line",),
        (": no name",),
        ("no colon",),
    ],
)
async def test_invalid_headers(running: Site, headers: tuple[str, ...]) -> None:
    """Malformed or ambiguous headers, such as two hosts or two body lengths, get a 400."""
    assert (await running.ask(request(BODY, *headers))).status == 400
    assert (running.posts(), running.refused()) == ([], {"bad_http": 1})


@pytest.mark.parametrize(
    "encodings",
    [("gzip",), ("gzip, chunked",), ("chunked, gzip",), ("identity",), ("chunked", "chunked"), ("gzip", "chunked")],
)
async def test_only_chunked_is_a_transfer_encoding(running: Site, encodings: tuple[str, ...]) -> None:
    """Others get a 501 and the connection is closed, since the end of the body is unknown."""
    async with running.connect() as client:
        await client.send(request(None, *(f"Transfer-Encoding: {name}" for name in encodings)) + b"5\r\nhello\r\n0\r\n\r\n")
        answer = await client.response()
        assert (answer.status, answer.headers["connection"], await client.rest()) == (501, "close", b"")
    assert (running.posts(), running.refused()) == ([], {"transfer_encoding": 1})


@pytest.mark.parametrize("first", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_two_lengths_of_a_body_are_rejected(running: Site, first: str, version: str) -> None:
    """Content-Length and Transfer-Encoding in one request hide a second one from a proxy. Nothing after it is read."""
    fields = sorted(["Content-Length: 5", "Transfer-Encoding: chunked"], key=lambda field: field != first)
    data = request(None, *fields, line=f"POST / HTTP/{version}") + b"0\r\n\r\n" + request(BODY)
    async with running.connect() as client:
        await client.send(data)
        assert ((await client.response()).status, await client.rest()) == (400, b"")
    assert (running.posts(), running.refused()) == ([], {"bad_http": 1})


@pytest.mark.parametrize("fields", [(), ("Connection: keep-alive",)])
async def test_http_1_0_needs_the_length_of_a_body(running: Site, fields: tuple[str, ...]) -> None:
    """Without it the body may be anything that follows. 411, never a 200 for a post that was not taken."""
    async with running.connect() as client:
        await client.send(request(None, *fields, line="POST / HTTP/1.0") + BODY)
        assert ((await client.response()).status, await client.rest()) == (411, b"")
    assert (running.posts(), running.refused()) == ([], {"length_required": 1})


async def test_http_1_0_with_chunks_is_accepted_and_closed(running: Site) -> None:
    """A proxy that knows only HTTP/1.0 may have passed it on without understanding it, so nothing after it is read."""
    data = chunked(BODY, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    async with running.connect() as client:
        await client.send(data + request(BODY))
        assert ((await client.response()).status, await client.rest()) == (200, b"")
    assert running.posts() == [BODY]


@pytest.mark.parametrize("size", [100, PARSE_STEP - 1, 10**6])
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(BODY, "A: " + "a" * (MAX_HEADER_BYTES - 100)), 200),
        (request(BODY, "A: " + "a" * MAX_HEADER_BYTES), 400),
        (request(BODY, *[f"A{number}: " + "a" * 1000 for number in range(15)]), 200),
        (request(BODY, *[f"A{number}: " + "a" * 1000 for number in range(17)]), 400),
        (request(BODY, line=f"POST /?{'a' * (MAX_HEADER_BYTES - 100)} HTTP/1.1"), 200),
        (request(BODY, line=f"POST /?{'a' * MAX_HEADER_BYTES} HTTP/1.1"), 400),
        (request(BODY, *("A: b",) * (MAX_HEADER_FIELDS - 2)), 200),
        (request(BODY, *("A: b",) * (MAX_HEADER_FIELDS - 1)), 400),
    ],
)
async def test_header_limits(running: Site, data: bytes, status: int, size: int) -> None:
    """Bytes and fields of a header are limited, in whatever segments it arrives."""
    async with running.connect() as client:
        for place in range(0, len(data), size):
            await client.send(data[place : place + size])
        assert (await client.response()).status == status
    assert running.refused() == ({} if status == 200 else {"bad_http": 1})


CHUNKED = request(None, "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /?",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nA: ",
        CHUNKED + b"5;",
        CHUNKED + b"0\r\n",
        CHUNKED + b"0\r\nA: ",
    ],
)
async def test_endless_headers_are_rejected(running: Site, endless: bytes) -> None:
    """An endless target, field, chunk extension or trailer gets a 400 before much of it is read."""
    async with running.connect() as client:
        client.writer.write(endless + b"a" * 100_000)
        assert (await client.response()).status == 400
        assert await client.rest() == b""
    assert running.posts() == []


async def test_nothing_is_read_after_the_last_request(running: Site) -> None:
    """HTTP/1.0 and Connection: close get one response, whatever follows."""
    for last in (request(BODY, line="POST / HTTP/1.0"), request(BODY, "Connection: close")):
        async with running.connect() as client:
            await client.send(last + request(BODY))
            assert ((await client.response()).status, await client.rest()) == (200, b"")
    assert (running.posts(), running.refused()) == ([BODY, BODY], {})


async def test_http_1_0_may_keep_its_connection(running: Site) -> None:
    """A client that asks for it gets Connection: keep-alive."""
    async with running.connect() as client:
        for _ in range(2):
            await client.send(request(BODY, "Connection: keep-alive", line="POST / HTTP/1.0"))
            answer = await client.response()
            assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")


@pytest.mark.parametrize("bad", [b"hello\r\n\r\n", request(None, "A: b", "Content-Length: -1")])
async def test_posts_before_garbage_are_answered(running: Site, bad: bytes) -> None:
    """Each post gets its 200, then the garbage a 400 and the connection ends, even if the client has shut down its side."""
    async with running.connect() as client:
        await client.send(request(BODY) + chunked(BODY) + bad)
        client.writer.write_eof()
        assert (await _statuses(client, 3), await client.rest()) == ([200, 200, 400], b"")
    assert (running.posts(), running.refused()) == ([BODY, BODY], {"bad_http": 1})


@pytest.mark.parametrize("refused", ["POST /other HTTP/1.1", "PUT / HTTP/1.1", "GET / HTTP/1.1"])
@pytest.mark.parametrize("body", [request(mixed(5_000)), chunked(mixed(1_000), size=3_000)])
async def test_the_body_of_a_rejected_request_is_discarded(running: Site, refused: str, body: bytes) -> None:
    """The response comes at once, the rest of the body is read and dropped, and the next post is accepted."""
    header, _, rest = body.replace(b"POST / HTTP/1.1", refused.encode(), 1).partition(b"\r\n\r\n")
    async with running.connect() as client:
        await client.send(header + b"\r\n\r\n")
        assert (await client.response()).status == {"POST": 404, "PUT ": 405, "GET ": 200}[refused[:4]]
        await client.send(rest)
        await client.send(request(BODY))
        assert (await client.response()).status == 200
    assert running.posts() == [BODY]


@asynccontextmanager
async def _serving(handler: Handler, **limits: float) -> AsyncIterator[tuple[HttpServer, RawClient]]:
    """A server with that handler, and a client connected to it."""
    chosen: dict[str, Any] = {"header_timeout": 5.0, "write_timeout": 5.0, "idle_timeout": 5.0, "max_connections": 9}
    server = HttpServer(handler, Metrics(), Limits(**chosen | limits))
    listening = socket.create_server(("127.0.0.1", 0))
    await server.listen([listening])
    client = RawClient(*await asyncio.open_connection(*listening.getsockname()))
    try:
        yield server, client
    finally:
        await client.close()
        await server.stop(5.0, patience=0.0)
        server.close()


async def test_discarding_a_body_has_a_deadline() -> None:
    """A client that got its response and does not finish its body is disconnected."""

    async def reject(request: Request) -> Response:
        return Response(404)

    async with _serving(reject, discard_timeout=0.1) as (_, client):
        await client.send(request(BODY)[:-1])
        assert ((await client.response()).status, await client.rest()) == (404, b"")


def test_a_slow_client_has_time_to_finish_a_rejected_body() -> None:
    """By default more than 5 seconds: many clients read no response before they have sent everything."""
    assert Limits(header_timeout=1, write_timeout=1, idle_timeout=1, max_connections=1).discard_timeout > 5


@pytest.mark.slow
async def test_a_client_that_sends_ahead_is_not_read_from(running: Site) -> None:
    """While its first post waits, only a few requests and a small part of a body are buffered; all get answered later."""
    running.journal.gate.clear()
    large = request(mixed(20_000))
    async with running.connect() as client:
        client.writer.write(request(BODY) + GET * 50_000)
        await running.until(lambda it: it.journal.waiting and _connection(it)._reading_paused, "paused")
        connection = _connection(running)
        assert not connection._transport.is_reading()
        assert len(connection._requests) <= MAX_PIPELINED + PARSE_STEP // len(GET)
        assert len(connection._parser.unparsed) < 2**19
        running.journal.gate.set()
        assert set(await _statuses(client, 50_001)) == {200}
        running.journal.gate.clear()
        client.writer.write(request(BODY) + large * 3)
        await running.until(lambda it: it.journal.waiting and connection._reading_paused, "paused")
        assert not connection._transport.is_reading()
        assert READ_AHEAD < sum(it.received for it in connection._requests if isinstance(it, Request)) < 2**20
        running.journal.gate.set()
        assert await _statuses(client, 4) == [200] * 4
    assert len(running.posts()) == 5


async def test_a_client_that_reads_no_responses_is_not_read_from(tmp_path: Path) -> None:
    """Unread responses stop the reading of requests, until the connection is closed at its deadline."""
    async with site(tmp_path, body_timeout="300ms") as running, running.connect() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of every transport that reads
        client.writer.write(GET * 500_000)
        await running.until(lambda it: _connection(it)._drained, "writing is paused")
        responding = _connection(running)._responding
        answered = running.count("empty_requests_total")
        assert answered < 400_000
        await running.until(lambda it: it.refused() == {"slow_reader": 1}, "closed")
        assert isinstance(responding, asyncio.Task)
        await responding
        assert running.count("empty_requests_total") < answered + 1_000


async def test_a_bug_in_a_handler_cuts_its_connection_off() -> None:
    """The connection does not stay open without a response, and the next one is served."""
    failures = iter([ZeroDivisionError()])

    async def fail_once(request: Request) -> Response:
        for error in failures:
            raise error
        return Response()

    async with _serving(fail_once) as (server, client):
        host, port = client.writer.get_extra_info("peername")
        await client.send(request(BODY) * 2)
        assert await client.rest() == b""
        await until_async(lambda: not server.connections, "cut off")
        counts = server._state.metrics.summary()
        assert counts["refused_posts"] == counts["lost_posts"] == {"bug": 1, "cut_off": 1}
        other = RawClient(*await asyncio.open_connection(host, port))
        await other.send(request(BODY))
        assert (await other.response()).status == 200
        await other.close()


async def test_bodies_arrive_whole_in_any_segments(running: Site) -> None:
    """Plain, chunked or compressed, and in segments of any size."""
    large = mixed(2_000)
    async with running.connect() as client:
        for size in (1_000, 4_096, 70_000, 10**6):
            for data in (request(large), chunked(large, size=size), request(gzipped(large), "Content-Encoding: gzip")):
                for place in range(0, len(data), size):
                    await client.send(data[place : place + size])
                assert (await client.response()).status == 200
    assert running.posts() == [large] * 12


class _NullTransport(asyncio.Transport):
    """Accepts writes and delivers nothing."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.mark.slow
async def test_single_byte_chunks_take_little_memory() -> None:
    """A body in chunks of one byte takes about its own size in memory."""

    async def wait(request: Request) -> Response:
        with suppress(ConnectionError):
            await request.wait_for_body(2**20)
        return Response()

    limits = Limits(header_timeout=5.0, write_timeout=5.0, idle_timeout=5.0, max_connections=1)
    connection = Connection(HttpServer(wait, Metrics(), limits)._state, "")
    connection.connection_made(_NullTransport())
    connection.data_received(CHUNKED)
    await asyncio.sleep(0)
    chunks = b"1\r\na\r\n" * 1_000
    tracemalloc.start()
    for _ in range(50):
        connection.data_received(chunks)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert connection._parser.receiving
    assert connection._parser.receiving.received == 50_000
    assert taken < 2 * 50_000
    connection.connection_lost(None)
    assert isinstance(connection._responding, asyncio.Task)
    await connection._responding
