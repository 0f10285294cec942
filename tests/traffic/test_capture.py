"""Capture: what it writes, answers and forwards."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from btfeed.posts import files as postfile
from btfeed.receiving.settings import ReceiverSettings
from btfeed.traffic.capture import FORWARD_TIMEOUT, Capture
from btfeed.traffic.http_target import HttpTarget
from sinks.shared.clock import SYSTEM_CLOCK, Clock
from tests.support import posts
from tests.support.clock import FakeClock
from tests.support.harness import Server, until_async
from tests.support.sending import send_all

BODIES = [posts.sample_visit(), posts.mixed(20), b"\x05no post"]


@asynccontextmanager
async def capturing(
    path: Path, forward: str | None = None, clock: Clock = SYSTEM_CLOCK
) -> AsyncIterator[tuple[Capture, str]]:
    """A running capture and its URL. It is stopped at the end."""
    stop = asyncio.Event()
    target = HttpTarget(forward) if forward else None
    capture = Capture(postfile.Writer(path), stop, listen="127.0.0.1:0", forward=target, clock=clock)
    _, port = await capture.start()
    run = asyncio.create_task(capture.run())
    try:
        yield capture, f"http://127.0.0.1:{port}/"
    finally:
        stop.set()
        await run


@pytest.mark.parametrize("name", ["a.btposts", "a.btposts.gz"])
async def test_every_body_is_written_as_received(name: str, tmp_path: Path) -> None:
    """Also one that is not a valid post: a capture is there to show what a real AppMon sends."""
    async with capturing(tmp_path / name) as (capture, url):
        summary = await send_all(BODIES, url)
    assert (summary.posts, summary.refused) == (3, {})
    assert (capture.summary.posts, capture.summary.bytes) == (3, sum(map(len, BODIES)))
    assert list(postfile.read(tmp_path / name)) == BODIES


async def test_a_post_is_written_before_it_is_answered(tmp_path: Path) -> None:
    """Other processes can read it from the file at once."""
    async with capturing(tmp_path / "a.btposts") as (_, url):
        for number, body in enumerate(BODIES, start=1):
            await send_all([body], url)
            assert list(postfile.read(tmp_path / "a.btposts")) == BODIES[:number]


async def test_a_connection_test_is_answered_and_not_written(tmp_path: Path) -> None:
    """GET, HEAD, and a POST without a body."""
    async with capturing(tmp_path / "a.btposts") as (capture, url), aiohttp.ClientSession() as session:
        for method in ("GET", "HEAD", "POST"):
            async with session.request(method, url) as answer:
                assert answer.status == 200
    assert (capture.summary.posts, (tmp_path / "a.btposts").read_bytes()) == (0, b"")


async def test_a_gzipped_body_is_written_decompressed(tmp_path: Path) -> None:
    """So that it can be replayed. A broken one is refused as the receiver does it, and written as it arrived."""
    broken = b"\x1f\x8bbroken"
    async with capturing(tmp_path / "a.btposts") as (capture, url), aiohttp.ClientSession() as session:
        for body, status in ((gzip.compress(BODIES[1]), 200), (broken, 400), (BODIES[0], 200)):
            encoding = {} if body == BODIES[0] else {"Content-Encoding": "gzip"}
            async with session.post(url, data=body, headers=encoding) as answer:
                assert answer.status == status
    assert list(postfile.read(tmp_path / "a.btposts")) == [BODIES[1], broken, BODIES[0]]
    assert (capture.summary.posts, capture.summary.refused) == (3, {"bad_gzip": 1})


async def test_requests_are_taken_as_the_receiver_takes_them(tmp_path: Path) -> None:
    """At any path. A client that expects 100 Continue gets it. What the receiver refuses is refused, and counted."""
    async with capturing(tmp_path / "a.btposts") as (capture, url):
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /any/path?at=all HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        async with aiohttp.ClientSession(skip_auto_headers=["Content-Encoding"]) as session:
            for headers, status in (
                ({"Content-Encoding": "br"}, 415),
                ({"Content-Encoding": "X-GZIP"}, 200),
                ({"Content-Length": str(2**27)}, 413),
            ):
                body = gzip.compress(b"zipped") if status == 200 else b""
                async with session.post(url, data=body, headers=headers, skip_auto_headers=["Content-Type"]) as answer:
                    assert answer.status == status
    assert list(postfile.read(tmp_path / "a.btposts")) == [b"hello", b"zipped"]
    assert capture.summary.refused == {"encoding": 1, "too_large": 1}


async def test_a_full_disk_is_answered_503_and_ends_the_capture(tmp_path: Path) -> None:
    """So that only written posts are answered 200."""
    (tmp_path / "a.btposts").symlink_to("/dev/full")
    writer = postfile.Writer(tmp_path / "a.btposts")
    stop = asyncio.Event()
    capture = Capture(writer, stop, listen="127.0.0.1:0")
    _, port = await capture.start()
    run = asyncio.create_task(capture.run())
    summary = await send_all([BODIES[0]], f"http://127.0.0.1:{port}/")
    assert [reason.partition(":")[0] for reason in summary.refused] == ["503 Service Unavailable"]
    with pytest.raises(postfile.PostFileError, match="No space left on device"):
        await run


async def test_posts_are_forwarded(server: Server, tmp_path: Path) -> None:
    """AppMon gets a 200 whatever the other server answers. Its answers are counted."""
    async with capturing(tmp_path / "a.btposts", server.url) as (capture, url):
        summary = await send_all(BODIES, url)
    assert summary.posts == 3
    assert capture.summary.forwarded == 2
    assert [reason[:15] for reason in capture.summary.not_forwarded] == ["400 Bad Request"]
    assert server.status()["counts"]["posts"] == 2


async def test_credentials_are_forwarded(tmp_path: Path) -> None:
    """The Authorization header is the one that AppMon sent."""
    with Server(tmp_path / "server", receiver='basic_auth = { username = "a", password = "b" }') as server:
        async with capturing(tmp_path / "a.btposts", server.url) as (capture, url):
            await send_all([BODIES[0]], url, basic_auth=("a", "b"))
            await send_all([BODIES[0]], url)
    assert (capture.summary.forwarded, capture.summary.not_forwarded.total()) == (1, 1)


async def test_posts_that_cannot_be_forwarded_are_captured_all_the_same(tmp_path: Path) -> None:
    """They are counted, and AppMon gets a 200."""
    async with capturing(tmp_path / "a.btposts", "http://127.0.0.1:1/") as (capture, url):
        assert (await send_all(BODIES, url)).posts == 3
        await until_async(lambda: capture.summary.not_forwarded.total() == 3, "all posts are tried")
    assert list(postfile.read(tmp_path / "a.btposts")) == BODIES


async def test_the_connection_of_a_body_that_does_not_arrive_in_time_is_closed(tmp_path: Path) -> None:
    """One second before the deadline, the request is still open."""
    clock, timeout = FakeClock(), ReceiverSettings().body_timeout
    async with capturing(tmp_path / "a.btposts", clock=clock) as (capture, url):
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        await until_async(lambda: clock.deadlines, "it waits for the body")
        await clock.advance(timeout - 1)
        closed = asyncio.create_task(reader.read())
        await clock.advance(0.9)
        assert not closed.done()
        await clock.advance(0.1)
        with suppress(ConnectionResetError):
            assert await closed == b""
        writer.close()
    assert (capture.summary.posts, capture.summary.refused) == (0, {"slow_body": 1})


async def test_whatever_happens_in_forwarding_the_capture_goes_on(tmp_path: Path) -> None:
    """Credentials in the URL come first; a header that is not UTF-8 is left out; odd answers are counted."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 400 B\xe4d\r\nContent-Type: text/plain; charset=klingon\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        forward = f"http://c:d@127.0.0.1:{other.sockets[0].getsockname()[1]}/"
        async with capturing(tmp_path / "a.btposts", forward) as (capture, url):
            await send_all([BODIES[0]], url, basic_auth=("a", "b"))
            host, port = url.removeprefix("http://").rstrip("/").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            header = b"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\nContent-Type: \xff\r\n"
            writer.write(header + b"Content-Length: 1\r\n\r\nx")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await until_async(lambda: capture.summary.not_forwarded.total() == 2, "both are tried")
    assert list(postfile.read(tmp_path / "a.btposts")) == [BODIES[0], b"x"]
    for request in seen:
        assert b"Authorization: Basic Yzpk\r\n" in request
        assert b"Content-Type: application/octet-stream\r\n" in request


async def test_posts_that_are_not_forwarded_when_it_ends_are_counted(tmp_path: Path) -> None:
    """It waits for the other server, which does not answer, until FORWARD_TIMEOUT."""
    clock, stop = FakeClock(), asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = HttpTarget(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        writer = postfile.Writer(tmp_path / "a.btposts")
        capture = Capture(writer, stop, listen="127.0.0.1:0", forward=target, clock=clock)
        _, port = await capture.start()
        run = asyncio.create_task(capture.run())
        await send_all([BODIES[0]] * 6, f"http://127.0.0.1:{port}/")
        stop.set()
        await until_async(lambda: clock.deadlines == 1, "it waits for the other server")
        await clock.advance(FORWARD_TIMEOUT - 1)
        assert not run.done()
        await clock.advance(1)
        summary = await run
    assert (summary.posts, summary.forwarded, summary.not_forwarded) == (6, 0, {"capture ended first": 6})
