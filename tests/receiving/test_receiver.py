"""The receiver's responses, request by request."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from btfeed.journal.base import JournalFull, JournalUnavailable, PostTooLarge
from btfeed.posts import admission
from btfeed.posts.bt_pb2 import BusinessTransactions
from tests.support.posts import mixed, sample_purepath, sample_visit
from tests.support.rawhttp import Site, chunked, gzipped, request, site

BODY = sample_visit()


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """A receiver with default settings."""
    async with site(tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    "headers",
    [(), ("Content-Type: application/octet-stream",), ("Content-Type: text/html; charset=x",), ("Content-Type:",)],
)
async def test_accepts_a_post_of_any_content_type(running: Site, headers: tuple[str, ...]) -> None:
    """It gets a 200 with an empty body once the post is in the journal's file."""
    answer = await running.ask(request(BODY, *headers))
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert [entry.post.body for entry in await running.journal.outlet("any").read(1, 2**20)] == running.posts() == [BODY]
    assert (running.count("posts_total"), running.count("received_occurrences_total")) == (1, 1)
    assert running.count("post_bytes_total") == len(BODY)


@pytest.mark.parametrize(
    "data",
    [
        request(b""),
        request(None),
        chunked(b""),
        request(b"", "Content-Encoding: gzip"),
        request(gzipped(b""), "Content-Encoding: gzip"),
        request(None, line="GET / HTTP/1.1"),
        request(b"abc", "Content-Encoding: br", line="GET / HTTP/1.1"),
        request(None, line="GET /?test HTTP/1.1"),
        request(None, line="GET / HTTP/1.0"),
        request(b"", line="POST / HTTP/1.0"),
    ],
)
async def test_answers_200_to_a_connection_test(running: Site, data: bytes) -> None:
    """GET, and requests without a body, get a 200, and nothing is journaled."""
    answer = await running.ask(data)
    assert (answer.status, answer.body) == (200, b"")
    assert (running.posts(), running.count("empty_requests_total"), running.refused()) == ([], 1, {})


async def test_answers_head_without_a_body(running: Site) -> None:
    """For every status, so that the next response is not misread."""
    async with running.connect() as client:
        for path, status in (("/", 200), ("/other", 404), ("/", 200)):
            await client.send(request(None, line=f"HEAD {path} HTTP/1.1"))
            assert (await client.response(head=True)).status == status


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_accepts_a_chunked_body(running: Site, size: int) -> None:
    """In chunks of any size."""
    assert (await running.ask(chunked(BODY, size=size))).status == 200
    assert running.posts() == [BODY]


@pytest.mark.parametrize("encoding", ["gzip", "GZip", "x-gzip", " gzip "])
@pytest.mark.parametrize("wrap", [request, chunked])
async def test_accepts_gzip(running: Site, encoding: str, wrap: Any) -> None:
    """With one or several members. The journal gets the decompressed body, so that equal posts stay equal."""
    for body in (gzipped(BODY), gzipped(BODY[:5], b"", BODY[5:])):
        assert (await running.ask(wrap(body, f"Content-Encoding: {encoding}"))).status == 200
    assert running.posts() == [BODY, BODY]
    assert running.count("duplicate_posts_total") == 1


@pytest.mark.parametrize("encoding", ["identity", "IDENTITY", ""])
async def test_accepts_identity(running: Site, encoding: str) -> None:
    """It means that the body is not encoded."""
    assert (await running.ask(request(BODY, f"Content-Encoding: {encoding}"))).status == 200
    assert running.posts() == [BODY]


@pytest.mark.parametrize(
    "headers",
    [("br",), ("deflate",), ("zstd",), ("gzip, gzip",), ("identity", "br"), ("gzip", "gzip"), ("\xff",), ("gzip;q=1",)],
)
async def test_rejects_other_encodings(running: Site, headers: tuple[str, ...]) -> None:
    """415 names the supported one, also in response to several encodings in one header or in many."""
    answer = await running.ask(request(gzipped(BODY), *(f"Content-Encoding: {name}" for name in headers)))
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip")
    assert (running.posts(), running.refused()) == ([], {"encoding": 1})


def _without_start_time() -> bytes:
    message = BusinessTransactions.FromString(BODY)
    message.businessTransactions[0].occurrences[0].ClearField("startTime")
    return message.SerializePartialToString()


@pytest.mark.parametrize("body", [b"\x00", b"hello", BODY[:-1], _without_start_time(), b"\x0a\x02\x10\x00", gzipped(BODY)])
async def test_rejects_invalid_posts(running: Site, body: bytes) -> None:
    """They get a 400 with the reason as text, and their bodies are kept with the dead letters."""
    answer = await running.ask(request(body))
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (400, "text/plain")
    assert answer.body.startswith(b"not a BusinessTransactions message")
    assert (running.posts(), running.refused()) == ([], {"malformed": 1})
    (letter,) = running.dead_letters()
    assert (letter.kind, letter.sink, letter.body) == ("post", "", body)
    assert letter.reason.startswith("malformed: not a Business")
    assert running.count("dead_letters_total", sink="", reason="malformed") == 1


@pytest.mark.parametrize(
    "body", [b"hello", BODY, gzipped(BODY)[:-1], gzipped(BODY) + b"x", gzipped(BODY, BODY)[:-9], b"\x1f\x8b"]
)
async def test_rejects_broken_gzip(running: Site, body: bytes) -> None:
    """Plain, truncated and trailing data get a 400, and the body is kept as it was sent."""
    answer = await running.ask(chunked(body, "Content-Encoding: gzip", size=3))
    assert (answer.status, answer.body[:11]) == (400, b"broken gzip")
    assert [letter.body for letter in running.dead_letters()] == [body]
    assert (running.posts(), running.refused()) == ([], {"bad_gzip": 1})


async def test_dead_letters_of_refused_posts_are_bounded(tmp_path: Path) -> None:
    """When they take more than `refused_posts`, the oldest are deleted."""
    async with site(tmp_path, journal={"refused_posts": "4KiB"}) as running:
        for number in range(20):
            assert (await running.ask(request(b"\0" + bytes([number]) * 99))).status == 400
        labels = {"sink": "", "reason": "malformed"}
        await running.until(lambda it: 10 <= it.count("dead_letters_evicted_total", **labels) <= 16, "the oldest evicted")
        kept = [letter.body[1] for letter in running.dead_letters()]
        assert kept == list(range(20 - len(kept), 20))


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        ("POST /other HTTP/1.1", 404, "not_found"),
        ("GET /other HTTP/1.1", 404, "not_found"),
        ("PUT /other HTTP/1.1", 404, "not_found"),
        ("POST /%ff HTTP/1.1", 404, "not_found"),
        ("OPTIONS * HTTP/1.1", 404, "not_found"),
        ("PUT / HTTP/1.1", 405, "method"),
        ("DELETE / HTTP/1.1", 405, "method"),
        ("OPTIONS / HTTP/1.1", 405, "method"),
        ("PROPFIND / HTTP/1.1", 405, "method"),
        ("POST http://test HTTP/1.1", 200, None),
        ("POST http://test/?query HTTP/1.1", 200, None),
    ],
)
async def test_knows_one_path_and_three_methods(running: Site, line: str, status: int, reason: str | None) -> None:
    """Other paths get a 404, other methods a 405 with Allow. The absolute form that proxies use is accepted."""
    answer = await running.ask(request(BODY, line=line))
    assert answer.status == status
    assert answer.headers.get("allow") == ("GET, HEAD, POST" if status == 405 else None)
    assert running.refused() == ({reason: 1} if reason else {})


async def test_accepts_posts_at_the_configured_path(tmp_path: Path) -> None:
    """POST to any other path, even /, gets a 404. The connection test works at both."""
    async with site(tmp_path, path="/bt feed/in") as running:
        for line, status in (
            ("POST /bt%20feed/in HTTP/1.1", 200),
            ("POST /bt%20feed/in?a=b HTTP/1.1", 200),
            ("GET /bt%20feed/in HTTP/1.1", 200),
            ("GET / HTTP/1.1", 200),
            ("HEAD / HTTP/1.1", 200),
            ("POST / HTTP/1.1", 404),
            ("POST /bt%20feed/in/ HTTP/1.1", 404),
            ("PUT / HTTP/1.1", 404),
        ):
            assert (await running.ask(request(BODY, line=line), head=line.startswith("HEAD"))).status == status, line
        assert running.posts() == [BODY, BODY]


@pytest.mark.parametrize("path", ["/größe/a b", "/gr%C3%B6%c3%9fe/%61%20b"])
async def test_the_configured_path_may_be_percent_encoded(tmp_path: Path, path: str) -> None:
    """So may that of a request: both are compared decoded."""
    async with site(tmp_path, path=path) as running:
        for sent in ("/gr%C3%B6%C3%9Fe/a%20b", "/gr%c3%b6%c3%9fe/%61%20b"):
            assert (await running.ask(request(BODY, line=f"POST {sent} HTTP/1.1"))).status == 200
        assert (await running.ask(request(BODY, line="POST /gr%F6%DFe/a%20b HTTP/1.1"))).status == 404
        assert running.posts() == [BODY, BODY]


@pytest.mark.parametrize("wrap", [request, chunked])
async def test_accepts_a_body_of_exactly_the_limit(tmp_path: Path, wrap: Any) -> None:
    """One byte more gets a 413, with or without a Content-Length."""
    async with site(tmp_path, max_body=f"{len(BODY)}B") as running:
        assert (await running.ask(wrap(BODY))).status == 200
        assert (await running.ask(wrap(BODY + b"\x00"))).status == 413
        assert (running.posts(), running.refused(), running.dead_letters()) == ([BODY], {"too_large": 1}, [])


@pytest.mark.parametrize("wrap", [request, chunked])
async def test_accepts_a_gzip_body_of_exactly_the_limit(tmp_path: Path, wrap: Any) -> None:
    """The limit applies to the decompressed body as well."""
    body = mixed(20)
    async with site(tmp_path, max_body=f"{len(body)}B") as running:
        for plain, status in ((body, 200), (body + b"\x10\x01", 413)):
            assert (await running.ask(wrap(gzipped(plain), "Content-Encoding: gzip"))).status == status
        assert running.posts() == [body]


async def test_rejects_a_length_over_the_limit_before_the_body(running: Site) -> None:
    """It gets a 413 as soon as the header has arrived."""
    async with running.connect() as client:
        await client.send(request(None, "Content-Length: 16777217"))
        assert (await client.response()).status == 413
        assert running.refused() == {"too_large": 1}


async def test_accepts_as_many_occurrences_as_the_limit(tmp_path: Path) -> None:
    """One more gets a 413. It does not become a dead letter, since a retry would be rejected too."""
    async with site(tmp_path, max_occurrences=10) as running:
        assert (await running.ask(request(mixed(10)))).status == 200
        answer = await running.ask(request(mixed(11)))
        assert (answer.status, answer.body[:12]) == (413, b"more than 10")
        assert (running.refused(), running.dead_letters()) == ({"too_many_occurrences": 1}, [])


async def test_answers_expect_100_continue(running: Site) -> None:
    """100 Continue before the body, 200 after it. HTTP/1.0 clients get no interim response."""
    async with running.connect() as client:
        await client.send(request(BODY, "Expect: 100-Continue")[: -len(BODY)])
        assert await client.interim() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(BODY)
        assert (await client.response()).status == 200
    assert (await running.ask(request(BODY, "Expect: 100-continue", line="POST / HTTP/1.0"))).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [(("Expect: other",), 417), (("Expect: \xff",), 417), (("Expect: 100-continue", "Content-Encoding: br"), 415)],
)
async def test_does_not_ask_for_a_body_that_it_rejects(running: Site, headers: tuple[str, ...], status: int) -> None:
    """The final response comes at once and closes the connection, since the client may or may not send its body."""
    async with running.connect() as client:
        await client.send(request(BODY, *headers)[: -len(BODY)])
        answer = await client.response()
        assert (answer.status, answer.headers["connection"]) == (status, "close")


@pytest.mark.parametrize(
    ("error", "reason"), [(JournalFull("full"), "journal_full"), (JournalUnavailable("disk"), "journal_unavailable")]
)
async def test_a_failing_journal_is_503_with_retry_after(running: Site, error: Any, reason: str) -> None:
    """Nothing counts as accepted. Posts are accepted again once the journal works."""
    running.journal.error = error
    answer = await running.ask(request(BODY))
    assert (answer.status, answer.headers["retry-after"], answer.body.decode()) == (503, "5", f"{error}\n")
    assert (running.refused(), running.count("posts_total")) == ({reason: 1}, 0)
    running.journal.error = None
    assert (await running.ask(request(BODY))).status == 200


async def test_a_post_that_the_journal_never_takes_is_413(running: Site) -> None:
    """With the journal's own words. The receiver stays ready."""
    running.journal.error = PostTooLarge("the post has 9 bytes, and the topic takes 8")
    answer = await running.ask(request(BODY))
    assert (answer.status, answer.body.decode()) == (413, "the post has 9 bytes, and the topic takes 8\n")
    assert (running.refused(), running.count("posts_total")) == ({"too_large": 1}, 0)
    assert running.journal.refusing is None


async def test_a_bug_is_503_and_not_500(running: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may retry; nothing was accepted."""
    monkeypatch.setattr(admission, "admit", lambda body, limit: 1 / 0)
    answer = await running.ask(request(BODY))
    assert (answer.status, answer.headers["retry-after"], running.refused()) == (503, "5", {"bug": 1})


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_closes_a_connection_when_asked_to(running: Site, version: str) -> None:
    """HTTP/1.0 does so by default, HTTP/1.1 with Connection: close."""
    async with running.connect() as client:
        await client.send(
            request(BODY, *(["Connection: close"] if version == "1.1" else []), line=f"POST / HTTP/{version}")
        )
        assert (await client.response()).status == 200
        assert await client.rest() == b""


async def test_answers_pipelined_requests_in_order(running: Site) -> None:
    """Each as if it came alone, even if the client shuts down its side after the last."""
    kinds = [(request(BODY), 200), (request(b"x"), 400), (request(None, line="GET / HTTP/1.1"), 200)] * 20
    async with running.connect() as client:
        await client.send(b"".join(data for data, _ in kinds))
        client.writer.write_eof()
        assert [(await client.response()).status for _ in kinds] == [status for _, status in kinds]
        assert await client.rest() == b""


async def test_answers_a_client_that_has_shut_down_its_side(running: Site) -> None:
    """As `nc -N` does. Then the connection is closed."""
    running.journal.gate.clear()
    async with running.connect() as client:
        await client.send(request(BODY))
        client.writer.write_eof()
        await running.until(lambda it: it.journal.waiting, "the post waits for the journal")
        running.journal.gate.set()
        assert ((await client.response()).status, await client.rest()) == (200, b"")


async def test_closes_when_the_client_shuts_down_its_side(running: Site) -> None:
    """Even if it does so after it has received its response."""
    async with running.connect() as client:
        await client.send(request(BODY))
        assert (await client.response()).status == 200
        client.writer.write_eof()
        assert await client.rest() == b""


async def test_reuses_a_connection(running: Site) -> None:
    """Also after rejections whose body was read to the end."""
    async with running.connect() as client:
        for body, status in ((BODY, 200), (b"no post", 400), (sample_purepath(), 200)):
            await client.send(request(body))
            assert (await client.response()).status == status
    assert running.posts() == [BODY, sample_purepath()]


async def test_accepts_posts_in_parallel(running: Site) -> None:
    """Each of many connections gets its response, and each post is kept once."""
    bodies = [mixed(30, seed) for seed in range(50)]
    answers = await asyncio.gather(*(running.ask(request(body)) for body in bodies))
    assert {answer.status for answer in answers} == {200}
    assert sorted(running.posts()) == sorted(bodies)
    assert json.loads(json.dumps(running.metrics.summary()))["posts"] == 50
