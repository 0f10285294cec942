"""The HTTP table, request by request."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from btfeed.config import load
from btfeed.journal.base import JournalFull, JournalUnavailable
from btfeed.posts import admission
from btfeed.posts.bt_pb2 import BusinessTransactions
from btfeed.receiving.receiver import ReceiverSettings
from tests.support.posts import mixed, sample_purepath, sample_visit
from tests.support.rawhttp import Site, chunked, gzipped, request, site

BODY = sample_visit()


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[Site]:
    """A receiver as it is without any settings."""
    async with site(tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    "headers",
    [(), ("Content-Type: application/octet-stream",), ("Content-Type: text/html; charset=x",), ("Content-Type:",)],
)
async def test_takes_a_post_of_any_content_type(running: Site, headers: tuple[str, ...]) -> None:
    """200 with an empty body, once the post is in the journal's file."""
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
        request(None, line="POST / HTTP/1.0"),
    ],
)
async def test_answers_200_to_a_connection_test(running: Site, data: bytes) -> None:
    """No body, or no POST: 200, and nothing is journaled."""
    answer = await running.ask(data)
    assert (answer.status, answer.body) == (200, b"")
    assert (running.posts(), running.count("empty_requests_total"), running.refused()) == ([], 1, {})


async def test_answers_head_without_a_body(running: Site) -> None:
    """Whatever its status, so that the next answer is not mistaken."""
    async with running.line() as line:
        for path, status in (("/", 200), ("/other", 404), ("/", 200)):
            await line.send(request(None, line=f"HEAD {path} HTTP/1.1"))
            assert (await line.answer(head=True)).status == status


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_takes_a_chunked_body(running: Site, size: int) -> None:
    """However it is cut."""
    assert (await running.ask(chunked(BODY, size=size))).status == 200
    assert running.posts() == [BODY]


@pytest.mark.parametrize("encoding", ["gzip", "GZip", "x-gzip", " gzip "])
@pytest.mark.parametrize("wrap", [request, chunked])
async def test_takes_gzip(running: Site, encoding: str, wrap: Any) -> None:
    """Of one member and of several; what is kept is the plain body, so that equal posts stay equal."""
    for body in (gzipped(BODY), gzipped(BODY[:5], b"", BODY[5:])):
        assert (await running.ask(wrap(body, f"Content-Encoding: {encoding}"))).status == 200
    assert running.posts() == [BODY, BODY]
    assert running.count("duplicate_posts_total") == 1


@pytest.mark.parametrize("encoding", ["identity", "IDENTITY", ""])
async def test_takes_identity(running: Site, encoding: str) -> None:
    """It means that there is no encoding."""
    assert (await running.ask(request(BODY, f"Content-Encoding: {encoding}"))).status == 200
    assert running.posts() == [BODY]


@pytest.mark.parametrize(
    "headers",
    [("br",), ("deflate",), ("zstd",), ("gzip, gzip",), ("identity", "br"), ("gzip", "gzip"), ("\xff",), ("gzip;q=1",)],
)
async def test_refuses_other_encodings(running: Site, headers: tuple[str, ...]) -> None:
    """415, which names what would do, also for several in one header or in many."""
    answer = await running.ask(request(gzipped(BODY), *(f"Content-Encoding: {name}" for name in headers)))
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip")
    assert (running.posts(), running.refused()) == ([], {"encoding": 1})


def _without_start_time() -> bytes:
    message = BusinessTransactions.FromString(BODY)
    message.businessTransactions[0].occurrences[0].ClearField("startTime")
    return message.SerializePartialToString()


@pytest.mark.parametrize("body", [b"\x00", b"hello", BODY[:-1], _without_start_time(), b"\x0a\x02\x10\x00", gzipped(BODY)])
async def test_refuses_what_is_no_post(running: Site, body: bytes) -> None:
    """400 with the reason as text; the body is kept with the dead letters."""
    answer = await running.ask(request(body))
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (400, "text/plain")
    assert answer.body.startswith(b"not a BusinessTransactions message")
    assert (running.posts(), running.refused()) == ([], {"malformed": 1})
    (letter,) = running.letters()
    assert (letter.kind, letter.sink, letter.body) == ("post", "", body)
    assert letter.reason.startswith("malformed: not a Business")
    assert running.count("dead_letters_total", sink="", reason="malformed") == 1


@pytest.mark.parametrize(
    "body", [b"hello", BODY, gzipped(BODY)[:-1], gzipped(BODY) + b"x", gzipped(BODY, BODY)[:-9], b"\x1f\x8b"]
)
async def test_refuses_broken_gzip(running: Site, body: bytes) -> None:
    """400 for no gzip, a cut one and one with something behind it; all of what was sent is kept."""
    answer = await running.ask(chunked(body, "Content-Encoding: gzip", size=3))
    assert (answer.status, answer.body[:11]) == (400, b"broken gzip")
    assert [letter.body for letter in running.letters()] == [body]
    assert (running.posts(), running.refused()) == ([], {"bad_gzip": 1})


async def test_dead_letters_of_refused_posts_are_bounded(tmp_path: Path) -> None:
    """Some of the oldest go when there are more than `refused_posts` bytes of them."""
    async with site(tmp_path, journal={"refused_posts": "1KiB"}) as running:
        for number in range(20):
            assert (await running.ask(request(b"\0" + bytes([number]) * 99))).status == 400
        await running.until(lambda it: 10 <= it.count("dead_letters_evicted_total") <= 15, "the oldest evicted")
        kept = [letter.body[1] for letter in running.letters()]
        assert kept == list(range(20 - len(kept), 20))


AUTH = {"basic_auth": {"username": "appmon", "password": "geh:eim"}, "bearer_tokens": ["one", "two"]}
RIGHT = base64.b64encode(b"appmon:geh:eim").decode()
WRONG = base64.b64encode(b"appmon:geheim").decode()


@pytest.mark.parametrize("value", [f"Basic {RIGHT}", f"basic {RIGHT}", f"BASIC  {RIGHT}", "Bearer one", "bearer two"])
async def test_takes_posts_with_credentials(tmp_path: Path, value: str) -> None:
    """Basic or any of the tokens, whatever the case of the scheme."""
    async with site(tmp_path, **AUTH) as running:
        assert (await running.ask(request(BODY, f"Authorization: {value}"))).status == 200
        assert running.posts() == [BODY]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_takes_passwords_in_either_encoding(tmp_path: Path, encoding: str) -> None:
    """Newer clients encode credentials as UTF-8, older ones as latin-1; the answer does not say whose server it is."""
    value = base64.b64encode("appmon:schlüssel".encode(encoding)).decode()
    async with site(tmp_path, basic_auth={"username": "appmon", "password": "schlüssel"}) as running:
        answer = await running.ask(request(BODY, f"Authorization: Basic {value}"))
        assert (answer.status, answer.headers["server"]) == (200, "btfeed")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Basic",
        f"Basic {WRONG}",
        f"Basic {RIGHT}x",
        f"Bearer {RIGHT}",
        "Bearer three",
        "one",
        "Bearer ",
        "\xff\xfe",
    ],
)
@pytest.mark.parametrize("line", ["POST / HTTP/1.1", "GET / HTTP/1.1", "PUT /other HTTP/1.1"])
async def test_refuses_wrong_credentials_before_the_body(tmp_path: Path, value: str | None, line: str) -> None:
    """401 as soon as the header is there, for every request, naming what is asked for."""
    headers = [] if value is None else [f"Authorization: {value}"]
    async with site(tmp_path, **AUTH) as running, running.line() as connection:
        await connection.send(request(BODY, *headers, line=line)[: -len(BODY)])
        answer = await connection.answer()
        assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Basic realm="btfeed", Bearer')
        assert (running.posts(), running.refused()) == ([], {"unauthorized": 1})


@pytest.mark.parametrize("chosen", ["basic_auth", "bearer_tokens"])
async def test_asks_only_for_the_credentials_configured(tmp_path: Path, chosen: str) -> None:
    """A token is no password, and the other way round; after a 401 the connection is still good."""
    sent = {"basic_auth": f"Basic {RIGHT}", "bearer_tokens": "Bearer one"}
    async with site(tmp_path, **{chosen: AUTH[chosen]}) as running, running.line() as line:
        for name, value in sent.items():
            await line.send(request(BODY, f"Authorization: {value}"))
            assert (await line.answer()).status == (200 if name == chosen else 401)


def test_an_empty_password_from_the_environment_is_refused(tmp_path: Path) -> None:
    """An empty token would let everybody in who sends an empty one."""
    with pytest.raises(ValueError, match="bearer_tokens"):
        ReceiverSettings.model_validate({"bearer_tokens": [""]})
    assert load(None).receiver.basic_auth is None


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
    """404 elsewhere, 405 with Allow for other methods; the form that proxies use is the same path."""
    answer = await running.ask(request(BODY, line=line))
    assert answer.status == status
    assert answer.headers.get("allow") == ("GET, HEAD, POST" if status == 405 else None)
    assert running.refused() == ({reason: 1} if reason else {})


async def test_takes_posts_at_the_path_configured(tmp_path: Path) -> None:
    """POST elsewhere, / included, is 404; the connection test works at both."""
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


@pytest.mark.parametrize("wrap", [request, chunked])
async def test_takes_a_body_of_exactly_the_limit(tmp_path: Path, wrap: Any) -> None:
    """One byte more is 413, whether it is announced or comes by surprise."""
    async with site(tmp_path, max_body=f"{len(BODY)}B") as running:
        assert (await running.ask(wrap(BODY))).status == 200
        assert (await running.ask(wrap(BODY + b"\x00"))).status == 413
        assert (running.posts(), running.refused(), running.letters()) == ([BODY], {"too_large": 1}, [])


@pytest.mark.parametrize("wrap", [request, chunked])
async def test_takes_a_gzip_body_of_exactly_the_limit(tmp_path: Path, wrap: Any) -> None:
    """The limit holds for what comes out as well."""
    body = mixed(20)
    async with site(tmp_path, max_body=f"{len(body)}B") as running:
        for plain, status in ((body, 200), (body + b"\x10\x01", 413)):
            assert (await running.ask(wrap(gzipped(plain), "Content-Encoding: gzip"))).status == status
        assert running.posts() == [body]


async def test_refuses_a_length_over_the_limit_before_the_body(running: Site) -> None:
    """413 as soon as the header is there."""
    async with running.line() as line:
        await line.send(request(None, "Content-Length: 16777217"))
        assert (await line.answer()).status == 413
        assert running.refused() == {"too_large": 1}


async def test_takes_as_many_occurrences_as_the_limit(tmp_path: Path) -> None:
    """One more is 413, and no dead letter: it would be refused again."""
    async with site(tmp_path, max_occurrences=10) as running:
        assert (await running.ask(request(mixed(10)))).status == 200
        answer = await running.ask(request(mixed(11)))
        assert (answer.status, answer.body[:12]) == (413, b"more than 10")
        assert (running.refused(), running.letters()) == ({"too_many_occurrences": 1}, [])


async def test_tells_a_client_that_asks_to_continue(running: Site) -> None:
    """100 Continue before the body, 200 after it; HTTP/1.0 knows no such thing."""
    async with running.line() as line:
        await line.send(request(BODY, "Expect: 100-Continue")[: -len(BODY)])
        assert await line.interim() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await line.send(BODY)
        assert (await line.answer()).status == 200
    assert (await running.ask(request(BODY, "Expect: 100-continue", line="POST / HTTP/1.0"))).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [(("Expect: other",), 417), (("Expect: \xff",), 417), (("Expect: 100-continue", "Content-Encoding: br"), 415)],
)
async def test_does_not_ask_for_a_body_that_it_refuses(running: Site, headers: tuple[str, ...], status: int) -> None:
    """The final answer comes at once, and says that the connection ends: whether the body follows is up to the client."""
    async with running.line() as line:
        await line.send(request(BODY, *headers)[: -len(BODY)])
        answer = await line.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")


@pytest.mark.parametrize(
    ("error", "reason"), [(JournalFull("full"), "journal_full"), (JournalUnavailable("disk"), "journal_unavailable")]
)
async def test_says_when_to_come_again_if_the_journal_fails(running: Site, error: Any, reason: str) -> None:
    """503 with Retry-After; nothing is counted as taken."""
    running.journal.error = error
    answer = await running.ask(request(BODY))
    assert (answer.status, answer.headers["retry-after"], answer.body.decode()) == (503, "5", f"{error}\n")
    assert (running.refused(), running.count("posts_total")) == ({reason: 1}, 0)
    running.journal.error = None
    assert (await running.ask(request(BODY))).status == 200


async def test_a_bug_is_503_and_not_500(running: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may come again; nothing was taken."""
    monkeypatch.setattr(admission, "admit", lambda body, limit: 1 / 0)
    answer = await running.ask(request(BODY))
    assert (answer.status, answer.headers["retry-after"], running.refused()) == (503, "5", {"bug": 1})


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_closes_a_connection_when_asked_to(running: Site, version: str) -> None:
    """HTTP/1.0 does so by default, HTTP/1.1 with Connection: close."""
    async with running.line() as line:
        await line.send(request(BODY, *(["Connection: close"] if version == "1.1" else []), line=f"POST / HTTP/{version}"))
        assert (await line.answer()).status == 200
        assert await line.rest() == b""


async def test_answers_pipelined_requests_in_order(running: Site) -> None:
    """Each as if it came alone, also if the client shuts down its side behind the last."""
    kinds = [(request(BODY), 200), (request(b"x"), 400), (request(None, line="GET / HTTP/1.1"), 200)] * 20
    async with running.line() as line:
        await line.send(b"".join(data for data, _ in kinds))
        line.writer.write_eof()
        assert [(await line.answer()).status for _ in kinds] == [status for _, status in kinds]
        assert await line.rest() == b""


async def test_answers_a_client_that_has_shut_down_its_side(running: Site) -> None:
    """As `nc -N` does; then the connection is closed."""
    running.journal.gate.clear()
    async with running.line() as line:
        await line.send(request(BODY))
        line.writer.write_eof()
        await running.until(lambda it: it.journal.waiting, "the post waits for the journal")
        running.journal.gate.set()
        assert ((await line.answer()).status, await line.rest()) == (200, b"")


async def test_closes_behind_an_end_that_came_with_the_answer(running: Site) -> None:
    """Where the client shuts down its side when it has its answer, the connection is closed too."""
    async with running.line() as line:
        await line.send(request(BODY))
        assert (await line.answer()).status == 200
        line.writer.write_eof()
        assert await line.rest() == b""


async def test_reuses_a_connection(running: Site) -> None:
    """Also after refusals whose body was read to its end."""
    async with running.line() as line:
        for body, status in ((BODY, 200), (b"no post", 400), (sample_purepath(), 200)):
            await line.send(request(body))
            assert (await line.answer()).status == status
    assert running.posts() == [BODY, sample_purepath()]


async def test_takes_posts_side_by_side(running: Site) -> None:
    """Each of many connections gets its answer, and each post is kept once."""
    bodies = [mixed(30, seed) for seed in range(50)]
    answers = await asyncio.gather(*(running.ask(request(body)) for body in bodies))
    assert {answer.status for answer in answers} == {200}
    assert sorted(running.posts()) == sorted(bodies)
    assert json.loads(json.dumps(running.metrics.summary()))["posts"] == 50
