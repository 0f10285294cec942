"""The Elasticsearch sink with hosts that are down, silent, or lose replies."""

import asyncio

import pytest

from sinks.base import OutcomeUnknown, Unavailable
from tests.servers.elasticsearch import free_port
from tests.servers.forward import Forward
from tests.sinks.drivers.elasticsearch import Place
from tests.support.fakes import mapped


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


async def test_a_node_that_says_nothing_is_given_up_in_time(place: Place) -> None:
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
