"""Posts over HTTP: what goes over the wire, and what becomes of whatever a server answers."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from structlog.testing import capture_logs

from btfeed.traffic.http_target import MAX_REASON_LENGTH, HttpTarget
from btfeed.traffic.sending import ScheduledPost, Sender
from tests.support import posts
from tests.support.harness import DEADLINE
from tests.support.ports import free_port
from tests.support.sending import send_all

MALFORMED = b"\x0a\xff\xff\xff"


class RecordingServer:
    """A server that keeps the requests and gives the answers that a test chooses."""

    def __init__(self) -> None:
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.peers: set[object] = set()
        self.answer: Callable[[int], web.Response] = lambda number: web.Response()
        self.url = ""

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.requests.append(request)
        self.peers.add(request.transport and request.transport.get_extra_info("peername"))
        self.bodies.append(await request.read())
        return self.answer(len(self.bodies))


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[RecordingServer]:
    receiver = RecordingServer()
    runner = web.ServerRunner(web.Server(receiver.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield receiver
    await runner.cleanup()


# Over the wire


async def test_a_post_is_sent_as_appmon_sends_it(receiver: RecordingServer) -> None:
    """POST, octet-stream, Content-Length, no request for compression, no Expect; one kept-alive connection."""
    bodies = [posts.sample_visit(), posts.sample_purepath(), b""]
    summary = await send_all(bodies, receiver.url)
    assert receiver.bodies == bodies
    assert len(receiver.peers) == 1
    request = receiver.requests[0]
    assert (request.method, request.path) == ("POST", "/")
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert request.headers["Content-Length"] == str(len(bodies[0]))
    assert not {"Accept-Encoding", "Content-Encoding", "Expect", "Transfer-Encoding"} & set(request.headers)
    assert (summary.posts, summary.occurrences, summary.bytes) == (3, 2, sum(map(len, bodies)))


async def test_a_post_is_sent_once_whatever_the_answer(receiver: RecordingServer) -> None:
    """Redirects count as accepted and are not followed. Refused posts are counted by answer. AppMon does not retry."""
    answers = {
        1: lambda: web.Response(status=503, text="shutting\ndown\n"),
        2: lambda: web.Response(status=302, headers={"Location": receiver.url}),
        3: lambda: web.Response(status=401),
        4: lambda: web.Response(status=503, text="shutting down"),
    }
    receiver.answer = lambda number: answers[number]()
    summary = await send_all([posts.sample_visit()] * 4, receiver.url)
    assert len(receiver.bodies) == 4
    assert summary.posts == 1
    assert summary.refused == {"503 Service Unavailable: shutting down": 2, "401 Unauthorized": 1}


async def test_if_a_connection_breaks_the_outcome_is_unknown_and_the_next_post_is_sent(receiver: RecordingServer) -> None:
    """The post under way is not sent again: it may have been accepted."""

    def hang_up(number: int) -> web.Response:
        if number == 2:
            transport = receiver.requests[-1].transport
            assert transport
            transport.abort()
        return web.Response()

    receiver.answer = hang_up
    summary = await send_all([b"", b"", b""], receiver.url)
    assert (summary.posts, len(receiver.bodies)) == (2, 3)
    assert (summary.refused, summary.unknown) == ({}, {"connection lost before the answer": 1})


async def test_an_answer_that_is_not_http_makes_the_outcome_unknown() -> None:
    """The reason says so."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-x\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        summary = await send_all([b""], f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    ((reason, number),) = summary.unknown.items()
    assert (reason.partition(":")[0], number) == ("no valid HTTP answer", 1)


async def test_without_an_answer_the_outcome_is_unknown() -> None:
    """The reason says how long it waited."""
    silent = socket.create_server(("127.0.0.1", 0))
    with silent:
        target = HttpTarget(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.05)
        summary = await Sender(target).send(iter([ScheduledPost(b"")]))
    assert summary.unknown == {"no answer within 0.05 s": 1}


async def test_without_a_connection_a_post_is_refused() -> None:
    """Each post is tried, as AppMon does. It certainly did not arrive, so its outcome is known."""
    port = free_port()
    summary = await send_all([b"", b""], f"http://127.0.0.1:{port}/")
    assert summary.posts == 0
    assert summary.refused == {f"cannot connect to 127.0.0.1:{port}: Connection refused": 2}


async def test_a_server_without_tls_is_named(receiver: RecordingServer) -> None:
    """Instead of the class and the library that found out."""
    (reason,) = (await send_all([b""], receiver.url.replace("http:", "https:"))).refused
    assert reason.startswith(f"no TLS with {receiver.url[7:-1]}: ")


async def test_posts_are_sent_over_several_connections_at_the_same_time(receiver: RecordingServer) -> None:
    """Each connection is kept alive."""
    together = asyncio.Barrier(4)
    handle = receiver.handle

    async def wait_for_the_others(request: web.BaseRequest) -> web.Response:
        async with asyncio.timeout(DEADLINE):
            await together.wait()
        return await handle(request)

    runner = web.ServerRunner(web.Server(wait_for_the_others))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        summary = await send_all([b""] * 8, f"http://127.0.0.1:{runner.addresses[0][1]}/", connections=4)
    finally:
        await runner.cleanup()
    assert (summary.posts, len(receiver.peers)) == (8, 4)


async def test_progress_counts_refused_posts_too(receiver: RecordingServer) -> None:
    """on_done is called after every post."""
    receiver.answer = lambda number: web.Response(status=400)
    calls: list[None] = []
    await send_all([b"ab", b"c"], receiver.url, on_done=lambda: calls.append(None))
    assert len(calls) == 2


async def test_a_malformed_post_that_is_accepted_counts_no_occurrences(receiver: RecordingServer) -> None:
    """A server other than btfeed may accept anything."""
    summary = await send_all([MALFORMED], receiver.url)
    assert (summary.posts, summary.occurrences) == (1, 0)


# Whatever a server does


async def answering(first: bytes) -> AsyncIterator[str]:
    """The URL of a server that answers the first request with these bytes, and closes the connection if they are cut off.

    Further requests get a 200.
    """
    left = [first]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                header = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(1)
                assert b"Content-Length: 1\r\n" in header
                given = left.pop() if left else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
                writer.write(given)
                if given in CUT_OFF:
                    break
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


BAD = b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n"
CUT_OFF = (b"", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (BAD + b"Content-Type: text/plain; charset=klingon\r\n\r\nno", "400 Bad: no"),
        (BAD + b"Content-Type: text/plain; charset=hex\r\n\r\nno", "400 Bad: no"),
        (BAD + b'Content-Type: ;;;charset="\r\n\r\nno', "400 Bad: no"),
        (BAD + b"Content-Encoding: gzip\r\n\r\nno", "400 Bad: no"),
        (BAD + b"X: \xff\xfe\r\nSet-Cookie: \xff=;;\r\n\r\n\xe4!", "400 Bad: \N{REPLACEMENT CHARACTER}!"),
        (BAD + b"\r\n\x1b[", "400 Bad: \N{REPLACEMENT CHARACTER}["),
        (BAD.replace(b"Bad", b"B\xe4d") + b"\r\nno", "400 B\N{REPLACEMENT CHARACTER}d: no"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n", "0 No"),
        (b"HTTP/1.1 100 C\r\n\r\n" * 20 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 100 C\r\n\r\n" * 21, "no valid HTTP answer: more than 20 informational responses"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000, "503 No: " + "x" * MAX_REASON_LENGTH),
        (CUT_OFF[2], ""),
        (CUT_OFF[0], "connection lost before the answer"),
        (CUT_OFF[1], "no valid HTTP answer: "),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "no valid HTTP answer: "),
    ],
)
async def test_whatever_a_server_answers_the_next_post_is_sent(answer: bytes, outcome: str) -> None:
    """The status decides, if there is one. Reasons are text that can be printed anywhere. No outcome: accepted."""
    async for url in answering(answer):
        summary = await send_all([b"1", b"2"], url)
    reasons = list(summary.refused + summary.unknown)
    assert summary.posts == 2 - len(reasons)
    assert len(reasons) == bool(outcome)
    for reason in reasons:
        assert reason.startswith(outcome)
        assert reason.isprintable()


@pytest.mark.parametrize(
    ("url", "hint"),
    [("http://h/", "does it speak TLS (https://)?"), ("https://h/", "does the server ask for a client certificate")],
)
def test_a_server_that_never_answers_gets_a_hint(url: str, hint: str) -> None:
    """What is probably wrong, and where to look."""
    said = HttpTarget(url)._describe(aiohttp.ServerDisconnectedError())
    assert said.startswith(f"connection lost before the answer; {hint}")
    assert said.endswith("Its own log says more")


async def test_an_unforeseen_exception_is_the_outcome_of_its_post(
    receiver: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged once with its traceback, and the others are sent."""
    post = aiohttp.ClientSession.post

    def fail_on_odd(session: aiohttp.ClientSession, url: str, *, data: bytes, **options: Any) -> Any:
        if data in (b"1", b"3"):
            raise LookupError(f"odd {data!r}")
        return post(session, url, data=data, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "post", fail_on_odd)
    with capture_logs() as logged:
        summary = await send_all([b"1", b"2", b"3", b"4"], receiver.url)
    assert receiver.bodies == [b"2", b"4"]
    assert (summary.posts, summary.unknown) == (2, {"bug: LookupError: odd b'1'": 1, "bug: LookupError: odd b'3'": 1})
    assert [(line["event"], line["exc_info"]) for line in logged] == [
        ("bug in sending a post; its outcome is unknown", True)
    ]


@pytest.mark.parametrize("other", [None, ("b", "c")])
async def test_credentials_in_the_url_are_sent_as_basic_auth(
    other: tuple[str, str] | None, receiver: RecordingServer
) -> None:
    """Decoded, and in place of others. aiohttp would refuse to send a post with both."""
    url = receiver.url.replace("//", "//us%20er:p%40ss@")
    assert (await send_all([b"1"], url, basic_auth=other)).posts == 1
    assert receiver.requests[0].headers["Authorization"] == "Basic " + base64.b64encode(b"us er:p@ss").decode()


async def test_cookies_are_not_kept(receiver: RecordingServer) -> None:
    """AppMon keeps none."""
    receiver.answer = lambda number: web.Response(headers={"Set-Cookie": "a=b"})
    assert (await send_all([b"1", b"2"], receiver.url.replace("127.0.0.1", "localhost"))).posts == 2
    assert "Cookie" not in receiver.requests[1].headers
