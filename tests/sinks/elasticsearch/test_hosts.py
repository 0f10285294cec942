"""The Elasticsearch sink with hosts that are down, silent, or lose replies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, SinkError, Unavailable
from tests.servers.forward import Forward
from tests.sinks.drivers.elasticsearch import Place, elasticsearch_sink
from tests.support.fakes import mapped
from tests.support.ports import free_port


async def test_a_lost_reply_is_sent_again_and_counted(place: Place) -> None:
    """The batch was taken, so the next write finds duplicates. The client itself sends once more if a connection breaks
    that it had used before.
    """
    batch = mapped(50)
    async with Forward(place.server.port) as forward:
        sink = place.sink(hosts=[forward.url])
        await sink.open(None)
        forward.lose = 2
        with pytest.raises(OutcomeUnknown):
            await sink.write(batch)
        assert forward.lost == 2
        assert len(place.records()) == 50
        assert (await sink.write(batch)).flagged == {"duplicate": 50}
        await sink.close()
    assert sorted(place.records()) == sorted(batch.bodies)


async def test_a_dead_host_is_passed_over(place: Place) -> None:
    """From the start, and when it dies between two writes; no write fails."""
    closed_port = f"http://127.0.0.1:{free_port()}"
    async with Forward(place.server.port) as first, Forward(place.server.port) as second:
        sink = place.sink(hosts=[closed_port, first.url, second.url])
        await sink.check()
        await sink.open(None)
        for number in range(6):
            assert not (await sink.write(mapped(10, number))).retry
        await first.stop()
        for number in range(6, 12):
            assert not (await sink.write(mapped(10, number))).retry
        await second.stop()
        with pytest.raises(Unavailable, match="can't connect"):
            await sink.write(mapped(10, 12))
        await sink.close()
    assert len(place.records()) == 120


async def test_a_node_that_does_not_answer_is_given_up_in_time(place: Place) -> None:
    """The outcome of a write that times out is unknown. Opening asks the next host."""

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    silent = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sink = place.sink(hosts=[silent], timeout="200ms")
    for _ in range(3):
        with pytest.raises(OutcomeUnknown, match="no reply in time"):
            await sink.write(mapped(10))
    with pytest.raises(Unavailable, match="no reply in time"):
        await sink.check()
    await sink.close()
    sink = place.sink(hosts=[silent, place.server.url], timeout="2s")
    await sink.open(None)
    await sink.close()
    server.close()


@asynccontextmanager
async def answering(status: int, mimetype: str, body: str, more: str = "") -> AsyncIterator[str]:
    """A proxy that answers every request like this. Yields its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status} x\r\nContent-Type: {mimetype}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        writer.write(f"{head}{more}\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("mimetype", "body"),
    [
        ("text/html", "<html>too much"),
        ("application/problem+json", '{"title":"too much"}'),
        ("application/xml", "<too much/>"),
        ("application/json", "too much"),
        ("application/json", ""),
        ("", "too much"),
    ],
)
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (413, BatchRefused),
        (401, Misconfigured),
        (403, Misconfigured),
        (407, Misconfigured),
        (429, Unavailable),
        (503, Unavailable),
        (502, OutcomeUnknown),
        (504, OutcomeUnknown),
    ],
)
async def test_a_proxy_s_reply_counts_by_its_status(mimetype: str, body: str, status: int, error: type[SinkError]) -> None:
    """Whatever its body and its type are. A write that is too large is halved, and Retry-After is obeyed."""
    async with answering(status, mimetype, body, "Retry-After: 7\r\n") as url:
        sink = elasticsearch_sink(url)
        with pytest.raises(error) as raised:
            await sink.write(mapped(10))
        await sink.close()
    assert type(raised.value) is error
    assert f"HTTP {status}" in str(raised.value)
    assert getattr(raised.value, "retry_after", 7) == 7


@pytest.mark.parametrize("body", ["<html>all is well", "[]", "null"])
async def test_success_without_json_is_an_unknown_outcome(body: str) -> None:
    """The batch is written again, which duplicates nothing."""
    async with answering(200, "text/html", body, "X-Elastic-Product: Elasticsearch\r\n") as url:
        sink = elasticsearch_sink(url)
        with pytest.raises(OutcomeUnknown, match="not JSON"):
            await sink.write(mapped(10))
        with pytest.raises(Unavailable, match="not JSON"):
            await sink.open(None)
        await sink.close()
