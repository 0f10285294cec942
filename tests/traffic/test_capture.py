"""Capture: what it writes, answers and forwards."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from btfeed.posts import files as postfile
from btfeed.traffic.capture import BODY_TIMEOUT, FORWARD_TIMEOUT, Capture
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
    capture = Capture(postfile.Writer(path), stop, forward=target, clock=clock)
    _, port = await capture.start("127.0.0.1", 0)
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
    """So that it can be replayed. A broken one is refused."""
    async with capturing(tmp_path / "a.btposts") as (_, url), aiohttp.ClientSession() as session:
        for body, status in ((gzip.compress(BODIES[1]), 200), (b"\x1f\x8bbroken", 400)):
            async with session.post(url, data=body, headers={"Content-Encoding": "gzip"}) as answer:
                assert answer.status == status
    assert list(postfile.read(tmp_path / "a.btposts")) == [BODIES[1]]


async def test_a_full_disk_is_answered_503_and_ends_the_capture(tmp_path: Path) -> None:
    """So that only written posts are answered 200."""
    (tmp_path / "a.btposts").symlink_to("/dev/full")
    writer = postfile.Writer(tmp_path / "a.btposts")
    stop = asyncio.Event()
    capture = Capture(writer, stop)
    _, port = await capture.start("127.0.0.1", 0)
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


async def test_a_body_that_does_not_arrive_in_time_is_answered_400(tmp_path: Path) -> None:
    """One second before the deadline, the request is still open."""
    clock = FakeClock()
    async with capturing(tmp_path / "a.btposts", clock=clock) as (capture, url):
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        await until_async(lambda: clock.deadlines, "it waits for the body")
        await clock.advance(BODY_TIMEOUT - 1)
        answer = asyncio.create_task(reader.readuntil(b"\r\n"))
        await clock.advance(0.9)
        assert not answer.done()
        await clock.advance(0.1)
        assert (await answer).startswith(b"HTTP/1.1 400 ")
        writer.close()
    assert capture.summary.posts == 0


async def test_posts_that_are_not_forwarded_when_it_ends_are_counted(tmp_path: Path) -> None:
    """It waits for the other server, which does not answer, until FORWARD_TIMEOUT."""
    clock, stop = FakeClock(), asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = HttpTarget(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        capture = Capture(postfile.Writer(tmp_path / "a.btposts"), stop, forward=target, clock=clock)
        _, port = await capture.start("127.0.0.1", 0)
        run = asyncio.create_task(capture.run())
        await send_all([BODIES[0]] * 6, f"http://127.0.0.1:{port}/")
        stop.set()
        await until_async(lambda: clock.deadlines == 7, "it waits for the other server")
        await clock.advance(FORWARD_TIMEOUT - 1)
        assert not run.done()
        await clock.advance(1)
        summary = await run
    assert (summary.posts, summary.forwarded, summary.not_forwarded) == (6, 0, {"capture ended first": 6})
