"""Why a request failed, in words for people, wherever it is said."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from btfeed.traffic.http_target import HttpTarget
from sinks.base import SinkContext, SinkError
from sinks.bizevents import BizeventsSettings, BizeventsSink
from sinks.elasticsearch.settings import ElasticsearchSettings
from sinks.elasticsearch.sink import ElasticsearchSink
from sinks.shared.reasons import explain, one_line

PAGE = "<!DOCTYPE html>\n<html><head><title>Not &amp; here\n at all</title></head><body><h1>x</h1></body></html>"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (OSError(-2, "Name or service not known"), "Name or service not known"),
        (OSError("Multiple exceptions: a, b"), "Multiple exceptions: a, b"),
    ],
)
def test_an_error_is_told_in_the_systems_words(error: OSError, said: str) -> None:
    """Without the address, which asyncio puts into its own."""
    assert explain(error) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PAGE, "Not & here at all"),
        (f"  {PAGE.upper()}", "NOT & HERE AT ALL"),
        ("<html><style>b { }</style><body>Bad\n<b>Gateway</b></body></html>", "Bad Gateway"),
        ("<html></html>", ""),
        ("plain\n text, a < b", "plain text, a < b"),
    ],
)
def test_of_a_page_only_the_title_is_quoted(text: str, said: str) -> None:
    """Or its text if it has none. Other text stays as it is, on one line."""
    assert one_line(text) == said


def bizevents(url: str) -> Any:
    return BizeventsSink(BizeventsSettings.model_validate({"url": url, "api_token": "a-token"}), SinkContext("s", (), ()))


def elasticsearch(url: str) -> Any:
    return ElasticsearchSink(ElasticsearchSettings(hosts=[url]), SinkContext("s", (), ()))


@asynccontextmanager
async def answering(status: int, text: str) -> AsyncIterator[str]:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=text, content_type="text/html")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def said_by(create: Callable[[str], Any], url: str) -> str:
    """What the sink's check says of that server."""
    sink = create(url)
    try:
        with pytest.raises(SinkError) as raised:
            await sink.check()
        return str(raised.value)
    finally:
        await sink.close()


@pytest.mark.parametrize("create", [bizevents, elasticsearch])
async def test_sinks_say_why_there_is_no_connection(create: Callable[[str], Any]) -> None:
    """In a few words: nothing of aiohttp's `ssl:default`, of Python's classes or of numbers."""
    assert await said_by(create, "http://127.0.0.1:1") == "can't connect to 127.0.0.1:1: Connection refused"
    async with answering(200, "") as url:
        port = url.rpartition(":")[2]
        said = await said_by(create, f"https://127.0.0.1:{port}")
        assert said == f"can't connect to 127.0.0.1:{port}: wrong version number; does it speak https?"


@pytest.mark.parametrize("create", [bizevents, elasticsearch])
async def test_sinks_quote_the_title_of_a_page(create: Callable[[str], Any]) -> None:
    """Such as that of a proxy."""
    async with answering(501, PAGE) as url:
        assert (await said_by(create, url)).startswith("HTTP 501: Not & here at all")


async def test_replay_quotes_the_title_of_a_page() -> None:
    """In the same way."""
    async with answering(501, PAGE) as url, HttpTarget(url) as target:
        assert (await target.send(b"x")).reason == "501 Not Implemented: Not & here at all"
    async with HttpTarget("http://127.0.0.1:1") as target:
        assert (await target.send(b"x")).reason == "cannot connect to 127.0.0.1:1: Connection refused"
