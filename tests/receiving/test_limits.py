"""Deadlines, memory for bodies, and how connections and the server end."""

import asyncio
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from btfeed.http import server
from btfeed.http.request import Request
from btfeed.receiving.settings import ReceiverSettings
from tests.support.clock import FakeClock
from tests.support.harness import DEADLINE, until_async
from tests.support.posts import mixed, sample_visit
from tests.support.rawhttp import RawClient, Site, begin, busy, gzipped, request, site

BODY = sample_visit()
LARGE = mixed(1_000)
HEAD = request(BODY)[: -len(BODY)]
FAST: dict[str, Any] = {"header_timeout": "200ms", "body_timeout": "200ms", "idle_timeout": "200ms"}
BODY_TIMEOUT, QUEUE_TIMEOUT = 30.0, 5.0
"""The defaults."""


def _close(client: RawClient, abrupt: bool) -> None:
    if abrupt:
        reset = struct.pack("ii", 1, 0)
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    client.writer.close()


@pytest.mark.parametrize("data", [b"P", HEAD[:-1], b"POST / HTTP/1.1\r\nA: " + b"a" * 5000, b"GET /\r\n", b"\r\n"])
@pytest.mark.parametrize("used", [False, True])
async def test_closes_a_slow_header_at_its_deadline(tmp_path: Path, data: bytes, used: bool) -> None:
    """Whether it is the first on its connection or follows a request. There is no response."""
    async with site(tmp_path, header_timeout="200ms") as running, running.connect() as client:
        if used:
            await begin(client)
        await client.send(data)
        assert await client.rest() == b""
        assert running.refused() == {"slow_header": 1}


async def test_trickling_bytes_do_not_extend_the_deadline_of_a_header(tmp_path: Path) -> None:
    """It runs from the first byte."""
    async with site(tmp_path, header_timeout="200ms") as running, running.connect() as client:
        await client.send(HEAD[:-2])
        while not running.refused() and not client.writer.is_closing():
            client.writer.write(b"a")
            await asyncio.sleep(0.01)
        assert (await client.rest(), running.refused()) == (b"", {"slow_header": 1})


async def test_trickling_bytes_do_not_extend_the_deadline_of_a_body(tmp_path: Path) -> None:
    """It runs from the end of the header."""
    clock = FakeClock()
    async with site(tmp_path, clock=clock) as running, running.connect() as client:
        await client.send(HEAD)
        for sent in range(10):
            await running.until(lambda it: _received(it) == sent, "the body as far as it was sent")  # noqa: B023
            await clock.advance(BODY_TIMEOUT / 10 - 0.001)
            assert running.refused() == {}
            await client.send(b"a")
        await clock.advance(0.1)
        assert (await client.rest(), running.refused()) == (b"", {"slow_body": 1})


def _received(running: Site) -> int:
    """Bytes that have arrived of the only body, -1 before its header has."""
    requests = [request for connection in running.connections for request in connection._requests]
    return requests[0].received if requests and isinstance(requests[0], Request) else -1


@pytest.mark.parametrize(
    ("data", "length"),
    [(HEAD, 0), (HEAD + BODY[:-1], len(BODY) - 1), (request(None, "Transfer-Encoding: chunked") + b"5\r\nab", 2)],
)
async def test_closes_a_slow_body_at_its_deadline(tmp_path: Path, data: bytes, length: int) -> None:
    """Nothing is journaled, and no memory stays reserved."""
    clock = FakeClock()
    async with site(tmp_path, clock=clock) as running, running.connect() as client:
        await client.send(data)
        await running.until(lambda it: _received(it) == length, "all that was sent")
        await clock.advance(BODY_TIMEOUT - 0.1)
        assert running.refused() == {}
        await clock.advance(0.2)
        assert await client.rest() == b""
        assert (running.refused(), running.posts()) == ({"slow_body": 1}, [])
        assert running.count("bytes_in_flight") == 0


@pytest.mark.parametrize("used", [False, True])
async def test_closes_an_idle_connection(tmp_path: Path, used: bool) -> None:
    """Also one that never sent anything. It does not count as refused."""
    async with site(tmp_path, idle_timeout="200ms") as running, running.connect() as client:
        if used:
            await begin(client)
        assert (await client.rest(), running.refused()) == (b"", {})
        await running.until(lambda it: it.count("connections") == 0, "no connections")


async def test_the_deadline_of_a_header_ends_with_the_header(tmp_path: Path) -> None:
    """Even if the body arrives before the request is handled. Another connection shows that the time has passed."""
    async with site(tmp_path, header_timeout="200ms") as running, running.connect() as client, running.connect() as slow:
        await running.until(lambda it: it.count("connections") == 2, "both connected")
        running.journal.gate.clear()
        for connection in running.connections:
            if connection._transport.get_extra_info("peername") == client.writer.get_extra_info("sockname"):
                await asyncio.sleep(0)
                connection.data_received(HEAD)
                connection.data_received(BODY)
        await slow.send(b"P")
        assert await slow.rest() == b""
        running.journal.gate.set()
        assert (await client.response()).status == 200
        assert running.refused() == {"slow_header": 1}


async def test_closes_a_connection_whose_client_does_not_read(tmp_path: Path) -> None:
    """Otherwise such a client would keep it open forever."""
    async with site(tmp_path, body_timeout="200ms") as running, running.connect() as client:
        await begin(client)
        (connection,) = running.connections
        connection.pause_writing()
        connection.resume_writing()
        connection.pause_writing()
        assert (await client.rest(), running.refused()) == (b"", {"slow_reader": 1})


async def test_posts_wait_for_memory_and_are_answered(tmp_path: Path) -> None:
    """While a large one has reserved all of it, small ones pass."""
    async with site(tmp_path, max_in_flight="100KiB") as running, running.connect() as one, running.connect() as two:
        running.journal.gate.clear()
        await one.send(request(LARGE))
        await running.until(lambda it: it.journal.waiting == 1, "the first in the journal")
        await two.send(request(LARGE))
        assert running.count("bytes_in_flight") == 100 * 2**10
        async with running.connect() as small:
            await small.send(request(BODY))
            await running.until(lambda it: it.journal.waiting == 2, "the small one in the journal")
        running.journal.gate.set()
        assert [(await client.response()).status for client in (one, two)] == [200, 200]
        assert running.posts().count(LARGE) == 2
        assert running.count("bytes_in_flight") == 0


async def test_a_post_that_gets_no_memory_in_time_is_rejected(tmp_path: Path) -> None:
    """It gets a 503 with Retry-After, and its connection stays usable."""
    clock = FakeClock()
    tight = site(tmp_path, max_in_flight="100KiB", clock=clock)
    async with tight as running, running.connect() as one, running.connect() as two:
        running.journal.gate.clear()
        await one.send(request(LARGE))
        await running.until(lambda it: it.journal.waiting == 1, "the first in the journal")
        await two.send(request(LARGE))
        await running.until(lambda it: it.receiver._memory._waiting, "the second waiting for memory")
        await clock.advance(QUEUE_TIMEOUT)
        answer = await two.response()
        assert (answer.status, answer.headers["retry-after"], running.refused()) == (503, "5", {"overloaded": 1})
        running.journal.gate.set()
        assert (await one.response()).status == 200
        await two.send(request(LARGE))
        assert (await two.response()).status == 200


async def test_slow_senders_do_not_keep_others_out(tmp_path: Path) -> None:
    """A body takes memory as it arrives, not when it is announced."""
    async with site(tmp_path) as running:
        clients = [RawClient(*await asyncio.open_connection("127.0.0.1", running.port)) for _ in range(50)]
        for client in clients:
            await client.send(request(None, "Content-Length: 16777216", "Content-Encoding: gzip") + gzipped(b"abc"))
        assert (await running.ask(request(LARGE))).status == 200
        for client in clients:
            await client.close()
        await running.until(lambda it: it.refused() == {"disconnected": 50}, "all gone")


@pytest.mark.parametrize("abrupt", [False, True])
async def test_a_client_that_goes_away_mid_body(tmp_path: Path, abrupt: bool) -> None:
    """It is counted, nothing is journaled, and no memory stays reserved."""
    async with site(tmp_path) as running, running.connect() as client:
        await client.send(request(LARGE)[:-1])
        await running.until(lambda it: it.count("bytes_in_flight"), "memory reserved")
        _close(client, abrupt)
        await running.until(lambda it: it.refused() == {"disconnected": 1}, "counted")
        assert (running.posts(), running.count("bytes_in_flight")) == ([], 0)


async def test_a_client_that_goes_away_before_its_answer(tmp_path: Path) -> None:
    """Its post was complete and is kept."""
    async with site(tmp_path) as running, running.connect() as client:
        running.journal.gate.clear()
        await client.send(request(BODY))
        await running.until(lambda it: it.journal.waiting, "in the journal")
        _close(client, abrupt=True)
        await running.until(lambda it: it.count("connections") == 0, "gone")
        running.journal.gate.set()
        await running.until(lambda it: it.posts() == [BODY], "kept")


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"hello\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /" + b"a" * 20_000,
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",  # no Host
    b"POST / HTTP/9.9\r\nHost: x\r\n\r\n",
    request(None, *("A: b",) * 200),
    request(None, "A: " + "a" * 20_000),
    request(None, "Content-Length: -1"),
    request(None, "Content-Length: 1, 1"),
    request(None, "Content-Length: 99999999999999999999"),
    request(b"", "Content-Length: 3"),
    request(b"", "Transfer-Encoding: chunked"),
    request(None, "A: a\x00b"),
]


@pytest.mark.parametrize("data", GARBAGE)
async def test_answers_400_to_garbage(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What is not HTTP is counted, its connection is closed, and the log has no traceback."""
    async with site(tmp_path) as running, running.connect() as client:
        await client.send(data)
        answer = await client.response()
        assert (answer.status, await client.rest()) == (400, b"")
        assert (running.refused(), caplog.records) == ({"bad_http": 1}, [])


@pytest.mark.parametrize("data", [b"zz\r\n", b"5\r\nhellozz", b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 200])
@pytest.mark.parametrize("at_once", [True, False])
async def test_answers_400_to_a_broken_body(
    tmp_path: Path, data: bytes, at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted once, whether it came with its header or after the receiver has begun to read it."""
    async with site(tmp_path) as running, running.connect() as client:
        header = request(None, "Transfer-Encoding: chunked", *([] if at_once else ["Expect: 100-continue"]))
        await client.send(header + data if at_once else header)
        if not at_once:
            await client.interim()
            await client.send(data)
        assert ((await client.response()).status, await client.rest()) == (400, b"")
        assert (running.refused(), running.posts(), caplog.records) == ({"incomplete": 1}, [], [])


async def test_stops_gracefully(tmp_path: Path) -> None:
    """Posts that have arrived in part are taken, and so is the next one of each connection, with an answer that ends it.
    New connections are accepted until those from before have ended, and refused afterwards."""
    async with site(tmp_path) as running, running.connect() as used, running.connect() as busy, running.connect() as late:
        await begin(used)
        await busy.send(request(BODY, "Expect: 100-continue")[:-1])
        await busy.interim()
        await late.send(HEAD[:-1])
        await until_async(lambda: any(it._header_timer for it in running.connections), "half a header")
        stopping = asyncio.create_task(running.receiver.stop(patience=DEADLINE))
        await running.until(lambda it: it.receiver._server._state.draining, "stopping")
        await used.send(request(BODY))
        await late.send(b"\n" + BODY)
        for client in used, late:
            answer = await client.response()
            assert (answer.status, answer.headers["connection"], await client.rest()) == (200, "close", b"")
        answer = await running.ask(request(BODY))
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await busy.send(BODY[-1:])
        answer = await busy.response()
        assert (answer.status, answer.headers["connection"], await busy.rest()) == (200, "close", b"")
        await stopping
        with pytest.raises(ConnectionRefusedError):
            await running.ask(request(BODY))
        assert (running.posts(), running.refused()) == ([BODY] * 5, {})


async def test_a_stop_closes_idle_connections_after_a_while(tmp_path: Path) -> None:
    """Those that were used, and those on which nothing has come."""
    async with site(tmp_path) as running, running.connect() as used, running.connect() as unused:
        await begin(used)
        await running.until(lambda it: len(it.connections) == 2, "both connected")
        began = asyncio.get_running_loop().time()
        await running.receiver.stop(patience=0.2)
        assert (await used.rest(), await unused.rest()) == (b"", b"")
        assert asyncio.get_running_loop().time() - began >= 0.2


async def test_a_slow_client_that_comes_last_holds_up_no_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait to be accepted by the next process meanwhile. It is cut off, and its post counted as lost."""
    monkeypatch.setattr(server, "LAST_REQUESTS", 0.1)
    async with site(tmp_path) as running, running.connect() as used:
        await begin(used)
        stopping = asyncio.create_task(running.receiver.stop(patience=DEADLINE))
        await running.until(lambda it: it.receiver._server._state.draining, "stopping")
        async with running.connect() as slow:
            await slow.send(HEAD)
            await running.until(lambda it: busy(it) == 1, "a post has begun")
            await used.send(request(BODY))
            assert (await used.response()).status == 200
            await stopping
            assert (await slow.rest(), running.lost()) == (b"", {"shutting_down": 1})


async def test_a_stop_has_a_deadline(tmp_path: Path) -> None:
    """Slow clients are cut off at the deadlines that apply anyway."""
    async with site(tmp_path, **FAST) as running, running.connect() as client:
        await client.send(HEAD)
        await running.until(busy, "a request under way")
        await running.receiver.stop()
        assert (await client.rest(), running.posts(), running.lost()) == (b"", [], {"slow_body": 1})


async def test_what_a_stop_cuts_off_is_counted(tmp_path: Path) -> None:
    """A post that has half arrived, and one that was sent ahead of the answer to it."""
    clock = FakeClock()  # the deadline of the body does not come
    settings: dict[str, Any] = {"header_timeout": "1ms", "body_timeout": "100ms"}
    async with site(tmp_path, clock=clock, **settings) as running, running.connect() as client, running.connect() as ahead:
        running.journal.gate.clear()
        await client.send(HEAD)
        await ahead.send(request(BODY) * 3)
        await running.until(lambda it: busy(it) == 2 and it.journal.waiting, "both under way")
        await running.receiver.stop()
        assert (await client.rest(), await ahead.rest()) == (b"", b"")
        assert running.refused() == running.lost() == {"shutting_down": 3}
        running.journal.gate.set()
        await running.until(lambda it: it.posts() == [BODY], "the one in the journal is kept")


async def test_a_stop_takes_a_post_that_is_not_read_yet(tmp_path: Path) -> None:
    """The machine has received it, so its connection is not idle."""
    async with site(tmp_path) as running, running.connect() as client:
        await running.until(lambda it: it.connections, "connected")
        (connection,) = running.connections
        connection._transport.pause_reading()
        await client.send(request(BODY))
        await until_async(connection.has_unread, "the post is in the socket")
        stopping = asyncio.create_task(running.receiver.stop(patience=0.0))
        await running.until(lambda it: it.receiver._server._state.draining, "stopping")
        connection._transport.resume_reading()
        assert (await client.response()).status == 200
        await stopping
        assert (running.posts(), running.lost()) == ([BODY], {})


async def test_a_gzip_bomb_is_rejected(tmp_path: Path) -> None:
    """It gets a 413, and no memory stays reserved."""
    async with site(tmp_path, max_body="1MiB") as running:
        answer = await running.ask(request(gzipped(bytes(2**25)), "Content-Encoding: gzip"))
        assert (answer.status, running.refused()) == (413, {"too_large": 1})
        assert running.count("bytes_in_flight") == 0


async def test_deadlines_change_for_connections_that_are_open(tmp_path: Path) -> None:
    """With the next request on them."""
    async with site(tmp_path) as running, running.connect() as client:
        await begin(client)
        running.receiver.reconfigure(ReceiverSettings.model_validate({"header_timeout": "100ms"}), None)
        await begin(client)
        await client.send(b"POST")
        assert await client.rest() == b""
        assert running.refused() == {"slow_header": 1}


@pytest.mark.parametrize("posts", [0, 3])
async def test_a_shorter_idle_timeout_holds_at_once(tmp_path: Path, posts: int) -> None:
    """For connections that are open and idle, used or not. One that a request is under way on is closed after it."""
    async with site(tmp_path) as running, running.connect() as client, running.connect() as other:
        for _ in range(posts):
            await begin(client)
        await begin(other)
        running.journal.gate.clear()
        await other.send(request(BODY))
        await running.until(lambda it: it.journal.waiting and len(it.connections) == 2, "under way")
        running.receiver.reconfigure(ReceiverSettings.model_validate({"idle_timeout": "100ms"}), None)
        assert await client.rest() == b""
        await asyncio.sleep(0.3)
        running.journal.gate.set()
        assert (await other.response()).status == 200
        assert await other.rest() == b""
        assert (running.refused(), running.lost()) == ({}, {})
