"""Deadlines, the number of connections, room for bodies, and the end of a connection and of the server."""

import asyncio
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from btfeed.http.gunzip import Gunzip, TooLong
from btfeed.receiving.memory import MemoryLimiter, Overloaded
from btfeed.telemetry.metrics import Metrics
from tests.support.harness import until_async
from tests.support.posts import mixed, sample_visit
from tests.support.rawhttp import Line, gzipped, request, site

BODY = sample_visit()
LARGE = mixed(1_000)
HEAD = request(BODY)[: -len(BODY)]
FAST = {"header_timeout": "200ms", "body_timeout": "200ms", "idle_timeout": "200ms"}


async def _begin(line: Line) -> None:
    """Use the connection once."""
    await line.send(request(BODY))
    assert (await line.answer()).status == 200


def _close(line: Line, abrupt: bool) -> None:
    if abrupt:
        rather_reset = struct.pack("ii", 1, 0)
        line.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, rather_reset)
    line.writer.close()


@pytest.mark.parametrize("data", [b"P", HEAD[:-1], b"POST / HTTP/1.1\r\nA: " + b"a" * 5000, b"GET /\r\n", b"\r\n"])
@pytest.mark.parametrize("used", [False, True])
async def test_closes_a_slow_header_at_its_deadline(tmp_path: Path, data: bytes, used: bool) -> None:
    """Whether it is the connection's first or comes after a request; there is no answer."""
    async with site(tmp_path, header_timeout="200ms") as running, running.line() as line:
        if used:
            await _begin(line)
        await line.send(data)
        assert await line.rest() == b""
        assert running.refused() == {"slow_header": 1}


@pytest.mark.parametrize(("data", "reason"), [(HEAD[:-2], "slow_header"), (HEAD, "slow_body")])
async def test_a_deadline_is_not_put_off_by_bytes_that_trickle(tmp_path: Path, data: bytes, reason: str) -> None:
    """It counts from the first byte of the header, or from its end."""
    async with site(tmp_path, header_timeout="200ms", body_timeout="200ms") as running, running.line() as line:
        await line.send(data)
        while not running.refused() and not line.writer.is_closing():
            line.writer.write(b"a")
            await asyncio.sleep(0.01)
        assert (await line.rest(), running.refused()) == (b"", {reason: 1})


@pytest.mark.parametrize("data", [HEAD, HEAD + BODY[:-1], request(None, "Transfer-Encoding: chunked") + b"5\r\nab"])
async def test_closes_a_slow_body_at_its_deadline(tmp_path: Path, data: bytes) -> None:
    """Nothing is journaled, and no room stays taken."""
    async with site(tmp_path, body_timeout="200ms") as running, running.line() as line:
        await line.send(data)
        assert await line.rest() == b""
        assert (running.refused(), running.posts()) == ({"slow_body": 1}, [])
        assert running.count("bytes_in_flight") == 0


@pytest.mark.parametrize("used", [False, True])
async def test_closes_an_idle_connection(tmp_path: Path, used: bool) -> None:
    """One that never sends as well; it is nothing refused."""
    async with site(tmp_path, idle_timeout="200ms") as running, running.line() as line:
        if used:
            await _begin(line)
        assert (await line.rest(), running.refused()) == (b"", {})
        await running.until(lambda it: it.count("connections") == 0, "no connections")


async def test_the_headers_deadline_ends_with_the_header(tmp_path: Path) -> None:
    """Also where the body arrives before the header was looked at; another connection shows that the time has passed."""
    async with site(tmp_path, header_timeout="200ms") as running, running.line() as line, running.line() as slow:
        await running.until(lambda it: it.count("connections") == 2, "both connected")
        running.journal.gate.clear()
        for connection in running.receiver._server.open:
            if connection._transport.get_extra_info("peername") == line.writer.get_extra_info("sockname"):
                await asyncio.sleep(0)
                connection.data_received(HEAD)
                connection.data_received(BODY)
        await slow.send(b"P")
        assert await slow.rest() == b""
        running.journal.gate.set()
        assert (await line.answer()).status == 200
        assert running.refused() == {"slow_header": 1}


async def test_closes_a_connection_whose_answers_nobody_takes(tmp_path: Path) -> None:
    """Else a client that never reads would hold it for ever."""
    async with site(tmp_path, body_timeout="200ms") as running, running.line() as line:
        await _begin(line)
        (connection,) = running.receiver._server.open
        connection.pause_writing()
        connection.resume_writing()
        connection.pause_writing()
        assert (await line.rest(), running.refused()) == (b"", {"slow_reader": 1})


async def test_refuses_more_connections_than_the_limit(tmp_path: Path) -> None:
    """503 with Retry-After and the end of the connection; those that are there are not disturbed."""
    async with site(tmp_path, max_connections=2) as running, running.line() as first:
        async with running.line() as second, running.line() as third:
            await running.until(lambda it: it.refused() == {"too_many_connections": 1}, "the third refused")
            answer = await third.answer()
            assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "5", "close")
            assert await third.rest() == b""
            await _begin(first)
            await _begin(second)
        await running.until(lambda it: it.count("connections") == 1, "one connection left")
        assert (await running.ask(request(BODY))).status == 200


async def test_posts_wait_for_room_and_are_answered(tmp_path: Path) -> None:
    """While a large one holds all of it, small ones pass."""
    async with site(tmp_path, max_in_flight="100KiB") as running, running.line() as one, running.line() as two:
        running.journal.gate.clear()
        await one.send(request(LARGE))
        await running.until(lambda it: it.journal.waiting == 1, "the first in the journal")
        await two.send(request(LARGE))
        assert running.count("bytes_in_flight") == 100 * 2**10
        async with running.line() as small:
            await small.send(request(BODY))
            await running.until(lambda it: it.journal.waiting == 2, "the small one in the journal")
        running.journal.gate.set()
        assert [(await line.answer()).status for line in (one, two)] == [200, 200]
        assert running.posts().count(LARGE) == 2
        assert running.count("bytes_in_flight") == 0


async def test_a_post_that_finds_no_room_in_time_is_refused(tmp_path: Path) -> None:
    """503 with Retry-After; the connection goes on."""
    tight = site(tmp_path, max_in_flight="100KiB", queue_timeout="100ms")
    async with tight as running, running.line() as one, running.line() as two:
        running.journal.gate.clear()
        await one.send(request(LARGE))
        await running.until(lambda it: it.journal.waiting == 1, "the first in the journal")
        await two.send(request(LARGE))
        answer = await two.answer()
        assert (answer.status, answer.headers["retry-after"], running.refused()) == (503, "5", {"overloaded": 1})
        running.journal.gate.set()
        assert (await one.answer()).status == 200
        await two.send(request(LARGE))
        assert (await two.answer()).status == 200


async def test_slow_senders_do_not_keep_others_out(tmp_path: Path) -> None:
    """What they promise takes no room, only what they send."""
    async with site(tmp_path) as running:
        lines = [Line(*await asyncio.open_connection("127.0.0.1", running.port)) for _ in range(50)]
        for line in lines:
            await line.send(request(None, "Content-Length: 16777216", "Content-Encoding: gzip") + gzipped(b"abc"))
        assert (await running.ask(request(LARGE))).status == 200
        for line in lines:
            await line.close()
        await running.until(lambda it: it.refused() == {"disconnected": 50}, "all gone")


@pytest.mark.parametrize("abrupt", [False, True])
async def test_a_client_that_goes_away_mid_body(tmp_path: Path, abrupt: bool) -> None:
    """Is counted; nothing is journaled and no room stays taken."""
    async with site(tmp_path) as running, running.line() as line:
        await line.send(request(LARGE)[:-1])
        await running.until(lambda it: it.count("bytes_in_flight"), "room taken")
        _close(line, abrupt)
        await running.until(lambda it: it.refused() == {"disconnected": 1}, "counted")
        assert (running.posts(), running.count("bytes_in_flight")) == ([], 0)


async def test_a_client_that_goes_away_before_its_answer(tmp_path: Path) -> None:
    """The post was complete: it is kept."""
    async with site(tmp_path) as running, running.line() as line:
        running.journal.gate.clear()
        await line.send(request(BODY))
        await running.until(lambda it: it.journal.waiting, "in the journal")
        _close(line, abrupt=True)
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
    request(None, "Transfer-Encoding: gzip"),
    request(None, "A: a\x00b"),
]


@pytest.mark.parametrize("data", GARBAGE)
async def test_answers_400_to_what_is_no_http(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted, the connection is closed, and the log has no traceback."""
    async with site(tmp_path) as running, running.line() as line:
        await line.send(data)
        answer = await line.answer()
        assert (answer.status, await line.rest()) == (400, b"")
        assert (running.refused(), caplog.records) == ({"bad_http": 1}, [])


@pytest.mark.parametrize("data", [b"zz\r\n", b"5\r\nhellozz", b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 200])
@pytest.mark.parametrize("at_once", [True, False])
async def test_answers_400_to_a_body_that_goes_wrong(
    tmp_path: Path, data: bytes, at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, whether it came with its header or its reader has already begun."""
    async with site(tmp_path) as running, running.line() as line:
        header = request(None, "Transfer-Encoding: chunked", *([] if at_once else ["Expect: 100-continue"]))
        await line.send(header + data if at_once else header)
        if not at_once:
            await line.interim()
            await line.send(data)
        assert ((await line.answer()).status, await line.rest()) == (400, b"")
        assert (running.refused(), running.posts(), caplog.records) == ({"incomplete": 1}, [], [])


async def test_stops_gracefully(tmp_path: Path) -> None:
    """A post of which half is there is taken, a new one is 503, idle connections are closed, none is accepted."""
    async with site(tmp_path) as running, running.line() as idle, running.line() as busy, running.line() as late:
        await _begin(idle)
        await busy.send(request(BODY, "Expect: 100-continue")[:-1])
        await busy.interim()
        await late.send(HEAD[:-1])
        await until_async(lambda: any(it._header_deadline for it in running.receiver._server.open), "half a header")
        stopping = asyncio.create_task(running.receiver.stop())
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await running.ask(request(BODY))
        await late.send(b"\n" + BODY)
        answer = await late.answer()
        assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "5", "close")
        await busy.send(BODY[-1:])
        answer = await busy.answer()
        assert (answer.status, answer.headers["connection"], await busy.rest()) == (200, "close", b"")
        await stopping
        assert (running.posts(), running.refused()) == ([BODY, BODY], {"shutting_down": 1})


async def test_does_not_wait_for_ever_when_it_stops(tmp_path: Path) -> None:
    """Whoever is slow then is cut off at the deadlines that hold anyway."""
    async with site(tmp_path, **FAST) as running, running.line() as line:
        await line.send(HEAD)
        await running.until(lambda it: it.count("connections"), "connected")
        await running.receiver.stop()
        assert (await line.rest(), running.posts()) == (b"", [])


async def test_who_stands_behind_one_that_gives_up_gets_its_turn() -> None:
    """Room is given out in the order of asking; who has gone is passed over."""
    budget = MemoryLimiter(100, 30.0, Metrics())
    with budget.room(60) as held:
        await held.cover(MemoryLimiter.SMALL + 1)
        wants = asyncio.create_task(budget.take(50))
        small = asyncio.create_task(budget.take(40))
        await asyncio.sleep(0)
        assert not small.done()
        wants.cancel()
        await small
    assert budget._free == 60


async def test_room_that_comes_with_the_deadline_is_given_back() -> None:
    """A turn that was granted to one who had just given up is not lost."""
    budget = MemoryLimiter(100, 30.0, Metrics())
    with budget.room(100) as held:
        await held.cover(MemoryLimiter.SMALL + 1)
        waiting = asyncio.create_task(budget.take(100))
        await asyncio.sleep(0)
    waiting.cancel()  # after its turn was granted, before it has noticed
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget._free == 100
    waiting = asyncio.create_task(budget.take(100))
    await waiting
    with pytest.raises(Overloaded):
        await MemoryLimiter(1, 0.01, Metrics()).take(2)


def _gunzip(data: bytes, limit: int, step: int) -> bytes:
    gunzip = Gunzip(limit)
    for place in range(0, len(data), step):
        for length in gunzip.feed(data[place : place + step]):
            assert length <= limit
    return gunzip.end()


@pytest.mark.parametrize("step", [1, 10, 10**6])
def test_decompresses_however_it_is_cut(step: int) -> None:
    """Several members are one stream; exactly the limit is taken."""
    members = [b"", b"a" * 300_000, LARGE[:1000], b""]
    whole = b"".join(members)
    assert _gunzip(gzipped(*members), len(whole), step) == whole
    with pytest.raises(TooLong):
        _gunzip(gzipped(*members), len(whole) - 1, step)


def test_a_bomb_stops_at_the_limit() -> None:
    """No more than the limit and one byte is ever decompressed, and no more than so many members are begun."""
    gunzip: Any = Gunzip(2**20)
    with pytest.raises(TooLong):
        list(gunzip.feed(gzipped(bytes(2**25))))
    assert len(gunzip._plain) == 2**20 + 1
    with pytest.raises(Exception, match="more than 1000 members"):
        _gunzip(gzipped(b"") * 1001, 100, 10**6)
    assert _gunzip(gzipped(b"") * 1000, 100, 10**6) == b""


async def test_stays_within_bounds_of_the_site(tmp_path: Path) -> None:
    """A gzip bomb is 413 over a real connection too, and leaves no room taken."""
    async with site(tmp_path, max_body="1MiB") as running:
        answer = await running.ask(request(gzipped(bytes(2**25)), "Content-Encoding: gzip"))
        assert (answer.status, running.refused()) == (413, {"too_large": 1})
        assert running.count("bytes_in_flight") == 0
