"""Lost posts are counted and told apart from requests that lose nothing."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from btfeed.journal.base import JournalUnavailable
from tests.receiving.test_credentials import AUTH
from tests.support.posts import sample_visit
from tests.support.rawhttp import chunked, gzipped, request, site

BODY = sample_visit()
CHUNKED = request(None, "Transfer-Encoding: chunked")
HEAD = request(BODY)[: -len(BODY)]
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00"


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as found:
        yield found


def _warnings(logged: list[Any]) -> list[tuple[str, str, int]]:
    return [(line["event"], line["reason"], line["count"]) for line in logged if line["log_level"] == "warning"]


@pytest.mark.parametrize(
    ("data", "reason", "lost"),
    [
        (request(BODY, line="POST /other HTTP/1.1"), "not_found", True),
        (chunked(BODY).replace(b"POST /", b"POST /other"), "not_found", True),
        (request(b"", line="POST /other HTTP/1.1"), "not_found", False),
        (request(None, line="GET /other HTTP/1.1"), "not_found", False),
        (request(BODY, line="PUT / HTTP/1.1"), "method", False),
        (request(None, line="OPTIONS / HTTP/1.1"), "method", False),
        (request(BODY, "Content-Encoding: br"), "encoding", True),
        (request(BODY, "Expect: other"), "expectation", True),
        (request(None, "Content-Length: 16777217"), "too_large", True),
        (request(None, "Transfer-Encoding: gzip"), "transfer_encoding", True),
        (request(None, line="POST / HTTP/1.0") + BODY, "length_required", True),
        (CHUNKED + b"zz\r\n", "incomplete", True),
        (request(None, "A: " + "a" * 20_000), "bad_http", True),
        (request(None, "A: " + "a" * 20_000, line="GET / HTTP/1.1"), "bad_http", False),
        (b"POST / HTTP/1.1\r\n\r\n", "bad_http", True),
        (b"POST /gr\xf6\xdfe HTTP/1.1\r\n", "bad_http", True),
        (b"POST bt HTTP/1.1\r\n", "bad_http", True),
        (b"GET /gr\xf6\xdfe HTTP/1.1\r\n", "bad_http", False),
        (b"hello\r\n\r\n", "bad_http", False),
        (TLS_HELLO, "bad_http", True),
    ],
)
async def test_only_refusals_of_posts_are_losses(
    tmp_path: Path, logged: list[Any], data: bytes, reason: str, lost: bool
) -> None:
    """A POST with a body is a post, also with a wrong path. What a port scan sends is not, and logs nothing above DEBUG."""
    async with site(tmp_path) as running:
        assert (await running.ask(data)).status >= 400
        assert (running.refused(), running.lost()) == ({reason: 1}, {reason: 1} if lost else {})
    assert _warnings(logged) == ([("post lost", reason, 1)] if lost else [])
    if not lost:
        assert {line["log_level"] for line in logged} == {"debug"}


async def test_tls_at_the_port_of_http_is_told(tmp_path: Path, logged: list[Any]) -> None:
    """Each post of an AppMon with https:// in its URL would be lost."""
    async with site(tmp_path) as running:
        await running.ask(TLS_HELLO)
    (line,) = [line for line in logged if line["log_level"] == "warning"]
    assert line["error"] == "this is TLS: use http:// in the URL"


@pytest.mark.parametrize(("line", "lost"), [("POST / HTTP/1.1", True), ("GET / HTTP/1.1", False)])
async def test_wrong_credentials_lose_posts(tmp_path: Path, line: str, lost: bool) -> None:
    """A connection test loses nothing."""
    async with site(tmp_path, **AUTH) as running:
        assert (await running.ask(request(BODY if lost else None, line=line))).status == 401
        assert (running.refused(), running.lost()) == ({"unauthorized": 1}, {"unauthorized": 1} if lost else {})


@pytest.mark.parametrize(("data", "lost"), [(b"P", False), (b"GET / HTTP/1.1\r\nA", False), (HEAD[:-1], True)])
async def test_a_slow_header_of_a_post_is_a_loss(tmp_path: Path, logged: list[Any], data: bytes, lost: bool) -> None:
    """Also after another post on the same connection. Less than a method tells nothing. The log names the deadline."""
    async with site(tmp_path, header_timeout="100ms") as running:
        for before in (b"", request(BODY)):
            async with running.connect() as client:
                await client.send(before + data)
                if before:
                    await client.response()
                assert await client.rest() == b""
        assert (running.refused(), running.lost()) == ({"slow_header": 2}, {"slow_header": 2} if lost else {})
    errors = {line["error"] for line in logged if line.get("reason") == "slow_header"}
    assert errors == {"the header took longer than receiver.header_timeout"}


@pytest.mark.parametrize(
    ("data", "lost"), [(b"", 0), (b"P", 0), (b"GET / HTTP/1.1\r\nA", 0), (HEAD[:-1], 1), (HEAD, 1), (HEAD + BODY[:-1], 1)]
)
async def test_a_client_that_goes_away_in_a_post_is_a_loss(
    tmp_path: Path, logged: list[Any], data: bytes, lost: int
) -> None:
    """From the request line on. It was logged at DEBUG only."""
    async with site(tmp_path) as running:
        async with running.connect() as client:
            await client.send(data)
            await running.until(lambda it: it.connections, "connected")
        await running.until(lambda it: it.count("connections") == 0, "gone")
        found = {"disconnected": 1} if lost else {}
        await running.until(lambda it: it.lost() == found, "counted")
        assert running.refused() == found
    assert _warnings(logged) == [("post lost", "disconnected", 1)] * lost


@pytest.mark.parametrize(("data", "reason"), [(request(b"x"), "malformed"), (chunked(gzipped(BODY)[:-1]), "bad_gzip")])
async def test_what_is_kept_as_a_dead_letter_is_not_lost(
    tmp_path: Path, logged: list[Any], data: bytes, reason: str
) -> None:
    """It is still a warning. If it can't be kept, it is lost."""
    data = data.replace(b"Host: test", b"Host: test\r\nContent-Encoding: gzip") if reason == "bad_gzip" else data
    async with site(tmp_path) as running:
        assert (await running.ask(data)).status == 400
        assert (running.refused(), running.lost()) == ({reason: 1}, {})

        async def fail(letter: object) -> None:
            raise JournalUnavailable("disk")

        running.journal.add_dead_letter = fail  # type: ignore[assignment]
        assert (await running.ask(data)).status == 400
        assert (running.refused(), running.lost()) == ({reason: 2}, {reason: 1})
    assert ("post rejected", reason, 1) in _warnings([line for line in logged if "count" in line])


async def test_losses_are_summed_up(tmp_path: Path, logged: list[Any]) -> None:
    """The first of a reason is logged at once, the others as one sum, at the latest when the server stops."""
    async with site(tmp_path) as running:
        for _ in range(5):
            await running.ask(request(BODY, line="POST /other HTTP/1.1"))
        await running.ask(request(BODY, "Content-Encoding: br"))
        assert _warnings(logged) == [("post lost", "not_found", 1), ("post lost", "encoding", 1)]
    assert _warnings(logged)[2:] == [("post lost", "not_found", 4)]
    assert logged[-1]["peer"] == "127.0.0.1"


async def test_a_server_that_stops_answers_what_was_sent_ahead(tmp_path: Path) -> None:
    """Only the last response closes the connection."""
    async with site(tmp_path) as running, running.connect() as client:
        running.journal.gate.clear()
        await client.send(request(BODY) * 2 + request(None, line="GET / HTTP/1.1"))
        await running.until(lambda it: it.journal.waiting, "the first in the journal")
        stopping = asyncio.create_task(running.receiver.stop())
        await running.until(lambda it: it.receiver._server._state.draining, "stopping")
        running.journal.gate.set()
        answers = [await client.response() for _ in range(3)]
        assert [each.status for each in answers] == [200] * 3
        assert [each.headers.get("connection") for each in answers] == [None, None, "close"]
        assert await client.rest() == b""
        await stopping
        assert (running.posts(), running.lost()) == ([BODY, BODY], {})
