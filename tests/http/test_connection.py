"""HTTP on a connection: what is a request, which come one behind the other, and how much of them is read ahead."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from btfeed.http.connection import LINGER, MAX_FIELDS, MAX_HEADER, PIECE, PIPELINED, Connection, Server
from btfeed.http.request import READ_AHEAD, Answer, Request
from btfeed.telemetry.metrics import Metrics
from tests.support.posts import mixed, sample_visit
from tests.support.rawhttp import Line, Site, chunked, gzipped, request, site

BODY = sample_visit()
GET = request(None, line="GET / HTTP/1.1")
UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """A receiver as it is without any settings."""
    async with site(tmp_path) as found:
        yield found


async def _statuses(line: Line, number: int) -> list[int]:
    return [(await line.answer()).status for _ in range(number)]


def _connection(running: Site) -> Connection:
    (connection,) = running.receiver._server.open
    return connection


@pytest.mark.parametrize("first", [request(BODY, *UPGRADE), chunked(BODY, *UPGRADE), request(None, *UPGRADE)])
@pytest.mark.parametrize("size", [1, 50, 10_000])
async def test_an_upgrade_is_declined(running: Site, first: bytes, size: int) -> None:
    """Java's newer client asks for HTTP/2 with its first post: that is taken as it is, and what follows too."""
    data = first + request(BODY) + GET
    async with running.line() as line:
        for place in range(0, len(data), size):
            await line.send(data[place : place + size])
            await asyncio.sleep(0)
        assert await _statuses(line, 3) == [200, 200, 200]
    assert running.posts() == [BODY] * (2 if BODY in first or b"chunked" in first else 1)
    assert running.refused() == {}


async def test_a_tunnel_is_refused(running: Site) -> None:
    """405 to CONNECT; what follows may be meant for the tunnel, and is not read."""
    async with running.line() as line:
        await line.send(b"CONNECT host:80 HTTP/1.1\r\nHost: host:80\r\n\r\n" + request(BODY))
        answer = await line.answer()
        assert (answer.status, answer.headers["connection"], await line.rest()) == (405, "close", b"")
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
    """Which are HTTP, and which name the path."""
    assert (await running.ask(request(BODY, line=line))).status == status


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: another",),
        (f"Content-Length: {len(BODY)}",),
        ("Transfer-Encoding: chunked",),
        ("Transfer-Encoding: chunked, gzip",),
        ("Transfer-Encoding: ",),
        ("A : space before the colon",),
        ("A: folded\r\n line",),
        (": no name",),
        ("no colon",),
    ],
)
async def test_headers_that_are_none(running: Site, headers: tuple[str, ...]) -> None:
    """400, above all where they would have two meanings: two hosts, or two lengths of the body."""
    assert (await running.ask(request(BODY, *headers))).status == 400
    assert (running.posts(), running.refused()) == ([], {"bad_http": 1})


@pytest.mark.parametrize("size", [100, PIECE - 1, 10**6])
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(BODY, "A: " + "a" * (MAX_HEADER - 100)), 200),
        (request(BODY, "A: " + "a" * MAX_HEADER), 400),
        (request(BODY, *[f"A{number}: " + "a" * 1000 for number in range(15)]), 200),
        (request(BODY, *[f"A{number}: " + "a" * 1000 for number in range(17)]), 400),
        (request(BODY, line=f"POST /?{'a' * (MAX_HEADER - 100)} HTTP/1.1"), 200),
        (request(BODY, line=f"POST /?{'a' * MAX_HEADER} HTTP/1.1"), 400),
        (request(BODY, *("A: b",) * (MAX_FIELDS - 2)), 200),
        (request(BODY, *("A: b",) * (MAX_FIELDS - 1)), 400),
    ],
)
async def test_the_longest_header(running: Site, data: bytes, status: int, size: int) -> None:
    """It is told by bytes and fields, however it is cut."""
    async with running.line() as line:
        for place in range(0, len(data), size):
            await line.send(data[place : place + size])
        assert (await line.answer()).status == status
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
async def test_what_has_no_end_is_not_kept(running: Site, endless: bytes) -> None:
    """A target, a field, a chunk's extension or a trailer: 400 before much of it was read."""
    async with running.line() as line:
        line.writer.write(endless + b"a" * 100_000)
        assert (await line.answer()).status == 400
        assert await line.rest() == b""
    assert running.posts() == []


async def test_nothing_is_read_behind_the_last_request(running: Site) -> None:
    """Of HTTP/1.0, or with Connection: close: one answer, whatever follows."""
    for last in (request(BODY, line="POST / HTTP/1.0"), request(BODY, "Connection: close")):
        async with running.line() as line:
            await line.send(last + request(BODY))
            assert ((await line.answer()).status, await line.rest()) == (200, b"")
    assert (running.posts(), running.refused()) == ([BODY, BODY], {})


async def test_http_1_0_may_keep_its_connection(running: Site) -> None:
    """Where it asks to, and it is told so."""
    async with running.line() as line:
        for _ in range(2):
            await line.send(request(BODY, "Connection: keep-alive", line="POST / HTTP/1.0"))
            answer = await line.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")


@pytest.mark.parametrize("bad", [b"hello\r\n\r\n", request(None, "A: b", "Content-Length: -1")])
async def test_what_came_before_the_garbage_is_answered(running: Site, bad: bytes) -> None:
    """Each post with its 200, then 400 and the end, also behind a client that has shut down its side."""
    async with running.line() as line:
        await line.send(request(BODY) + chunked(BODY) + bad)
        line.writer.write_eof()
        assert (await _statuses(line, 3), await line.rest()) == ([200, 200, 400], b"")
    assert (running.posts(), running.refused()) == ([BODY, BODY], {"bad_http": 1})


@pytest.mark.parametrize("refused", ["POST /other HTTP/1.1", "PUT / HTTP/1.1", "GET / HTTP/1.1"])
@pytest.mark.parametrize("body", [request(mixed(5_000)), chunked(mixed(1_000), size=3_000)])
async def test_a_body_that_nobody_wants_is_read_over(running: Site, refused: str, body: bytes) -> None:
    """The answer comes at once, the rest of the body goes nowhere, and the next post is taken."""
    header, _, rest = body.replace(b"POST / HTTP/1.1", refused.encode(), 1).partition(b"\r\n\r\n")
    async with running.line() as line:
        await line.send(header + b"\r\n\r\n")
        assert (await line.answer()).status == {"POST": 404, "PUT ": 405, "GET ": 200}[refused[:4]]
        await line.send(rest)
        await line.send(request(BODY))
        assert (await line.answer()).status == 200
    assert running.posts() == [BODY]


async def test_the_rest_of_a_refused_body_has_its_time(running: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the connection is closed; it is counted once."""
    assert LINGER > 5
    monkeypatch.setattr("btfeed.http.connection.LINGER", 0.1)
    async with running.line() as line:
        await line.send(request(BODY, line="POST /other HTTP/1.1")[:-1])
        assert ((await line.answer()).status, await line.rest()) == (404, b"")
    assert running.refused() == {"not_found": 1}


async def test_a_sender_that_is_ahead_is_not_read_from(running: Site) -> None:
    """While its first post waits: neither more requests than a few, nor more of a body than a little; all are answered."""
    running.journal.gate.clear()
    large = request(mixed(20_000))
    async with running.line() as line:
        line.writer.write(request(BODY) + GET * 50_000)
        await running.until(lambda it: it.journal.waiting and _connection(it)._paused, "paused")
        await asyncio.sleep(0.05)
        connection = _connection(running)
        assert len(connection._requests) <= PIPELINED + PIECE // len(GET)
        assert len(connection._unparsed) < 2**19
        running.journal.gate.set()
        assert set(await _statuses(line, 50_001)) == {200}
        running.journal.gate.clear()
        line.writer.write(request(BODY) + large * 3)
        await running.until(lambda it: it.journal.waiting and connection._paused, "paused")
        await asyncio.sleep(0.05)
        assert READ_AHEAD < sum(it.size for it in connection._requests if isinstance(it, Request)) < 2**20
        running.journal.gate.set()
        assert await _statuses(line, 4) == [200] * 4
    assert len(running.posts()) == 5


async def test_who_takes_no_answers_is_asked_nothing_more(tmp_path: Path) -> None:
    """Answers that nobody reads stop the reading of requests, until the connection is closed."""
    async with site(tmp_path, body_timeout="300ms") as running, running.line() as line:
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of every transport that reads
        line.writer.write(GET * 500_000)
        await running.until(lambda it: _connection(it)._writable, "writing is paused")
        answering = _connection(running)._answering
        answered = running.count("empty_requests_total")
        assert answered < 400_000
        await running.until(lambda it: it.refused() == {"slow_reader": 1}, "closed")
        assert answering
        await answering
        assert running.count("empty_requests_total") < answered + 1_000


async def test_a_bug_in_a_handler_cuts_its_connection_off(running: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not left open without an answer, and others go on."""
    handler = running.receiver._server.handler

    async def fails(request: Request) -> Answer:
        raise ZeroDivisionError

    async with running.line() as line:
        monkeypatch.setattr(running.receiver._server, "handler", fails)
        await line.send(request(BODY))
        with suppress(ConnectionError):
            assert await line.rest() == b""
        await running.until(lambda it: not it.receiver._server.open, "it is cut off")
    monkeypatch.setattr(running.receiver._server, "handler", handler)
    assert (await running.ask(request(BODY))).status == 200


async def test_bodies_come_whole_however_they_are_cut(running: Site) -> None:
    """In segments of any size, and in chunks of any."""
    large = mixed(2_000)
    async with running.line() as line:
        for size in (1_000, 4_096, 70_000, 10**6):
            for data in (request(large), chunked(large, size=size), request(gzipped(large), "Content-Encoding: gzip")):
                for place in range(0, len(data), size):
                    await line.send(data[place : place + size])
                assert (await line.answer()).status == 200
    assert running.posts() == [large] * 12


class _Nowhere(asyncio.Transport):
    """Takes what is written and gives nothing."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


async def test_single_bytes_cost_little() -> None:
    """A body in chunks of one byte takes about its own size, not that of a list of them."""

    async def forget(request: Request) -> Answer:
        with suppress(ConnectionError):
            await request.within(2**20)
        return Answer()

    timeouts = {"header_timeout": 5.0, "answer_timeout": 5.0, "idle_timeout": 5.0}
    connection = Connection(Server(forget, Metrics(), **timeouts, max_connections=1))
    connection.connection_made(_Nowhere())
    connection.data_received(CHUNKED)
    await asyncio.sleep(0)
    chunks = b"1\r\na\r\n" * 1_000
    tracemalloc.start()
    for _ in range(200):
        connection.data_received(chunks)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert connection._receiving
    assert connection._receiving.size == 200_000
    assert taken < 2 * 200_000
    connection.connection_lost(None)
    assert connection._answering
    await connection._answering
