"""Server-sent events: made once for all readers, and only while there are any."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout
from structlog.testing import capture_logs

from btfeed.admin import events
from btfeed.admin.events import INTERVAL, MAX_READERS, Events
from btfeed.telemetry.metrics import Metrics
from tests.admin.serving import serve
from tests.support.clock import FakeClock
from tests.support.harness import until_async

DEADLINE = 20.0


class Listener:
    """Serves events. made: how many snapshots were made."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics()
        self.made = 0
        self.version = 1
        self.fails = False
        self.padding = ""
        self.events = Events(
            self.snapshot, lambda: {"version": self.version}, lambda: self.version, self.metrics, self.clock
        )

    async def snapshot(self) -> dict[str, Any]:
        self.made += 1
        if self.fails:
            raise ValueError("a bug")
        return {"made": self.made, "padding": self.padding}

    async def __aenter__(self) -> "Listener":
        self._runner, self.port = await serve(self.events.routes(), shutdown_timeout=1.0)
        self._session = ClientSession(f"http://127.0.0.1:{self.port}", read_bufsize=2**25, timeout=ClientTimeout(DEADLINE))
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.events.close()
        await self._session.close()
        await self._runner.cleanup()

    async def connect(self) -> ClientResponse:
        return await self._session.get("/events")

    @property
    def readers(self) -> int:
        return int(self.metrics.summary()["viewers"])  # type: ignore[arg-type]

    async def idle(self) -> None:
        """Wait until nobody reads and nothing is made."""
        await until_async(lambda: self.readers == 0 or None, "nobody reads")


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with Listener() as found:
        yield found


async def event(response: ClientResponse) -> tuple[str, Any]:
    """The next event: its name and data."""
    name = ""
    async with asyncio.timeout(DEADLINE):
        while line := (await response.content.readline()).decode():
            key, _, value = line.strip().partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                return name, json.loads(value)
    return "", None


async def test_readers_get_the_snapshot_again_and_again(listener: Listener) -> None:
    """And the history whenever it has changed."""
    async with await listener.connect() as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert [await event(response) for _ in range(2)] == [
            ("history", {"version": 1}),
            ("snapshot", {"made": 1, "padding": ""}),
        ]
        await listener.clock.advance(INTERVAL)
        assert await event(response) == ("snapshot", {"made": 2, "padding": ""})
        listener.version = 2
        await listener.clock.advance(INTERVAL)
        assert [(await event(response))[0] for _ in range(2)] == ["history", "snapshot"]


async def test_nothing_is_made_while_nobody_reads(listener: Listener) -> None:
    """Neither before the first reader nor after the last one. The next one gets no old event."""
    await listener.clock.advance(10 * INTERVAL)
    assert (listener.made, listener.clock.waiting) == (0, 0)
    async with await listener.connect() as response:
        await event(response)
    await listener.clock.advance(INTERVAL)  # it is noticed when something is sent
    await listener.clock.advance(INTERVAL)
    await listener.idle()
    made = listener.made
    await listener.clock.advance(10 * INTERVAL)
    assert listener.made == made
    async with await listener.connect() as response:
        assert await event(response) == ("history", {"version": 1})
        assert await event(response) == ("snapshot", {"made": made + 1, "padding": ""})


async def test_events_are_made_once_for_all(listener: Listener) -> None:
    """However many read."""
    responses = [await listener.connect() for _ in range(3)]
    for response in responses:
        assert [(await event(response))[1] for _ in range(2)][1] == {"made": 1, "padding": ""}
    await listener.clock.advance(INTERVAL)
    for response in responses:
        assert await event(response) == ("snapshot", {"made": 2, "padding": ""})
        response.close()


async def test_the_number_of_readers_is_bounded(listener: Listener) -> None:
    """One more is refused, and that is counted."""
    responses = [await listener.connect() for _ in range(MAX_READERS)]
    async with await listener.connect() as refused:
        assert (refused.status, await refused.text()) == (503, "20 pages are open already, and more are not allowed\n")
    assert listener.readers == MAX_READERS
    for response in responses:
        response.close()


async def test_a_reader_that_takes_nothing_is_cut_off(listener: Listener) -> None:
    """So it costs the memory of a few events. Until then it holds up nobody."""
    listener.padding = "x" * 16_000_000
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port, limit=1)
    try:
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until_async(lambda: listener.made == 1 or None, "connected")
        listener.padding = ""
        await until_async(lambda: listener.clock.deadlines > 1 or None, "waits for the slow one")
        async with await listener.connect() as other:
            assert (await event(other))[0] == "history"
            assert len((await event(other))[1]["padding"]) == 16_000_000
            for made in (2, 3):
                await listener.clock.advance(INTERVAL)
                assert (await event(other))[1]["made"] == made
            await listener.clock.advance(events.STALLED)
            await until_async(lambda: listener.readers == 1 or None, "cut off")
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_the_stream_ends_with_the_server(listener: Listener) -> None:
    """So that a browser connects to the next one. It is told after how long."""
    async with await listener.connect() as response:
        assert await response.content.readline() == b"retry: 2000\n"
        await event(response)
        listener.events.close()
        async with asyncio.timeout(DEADLINE):
            await response.read()


async def test_a_bug_does_not_end_the_stream(listener: Listener) -> None:
    """It is logged, and the next snapshot may be well again."""
    listener.fails = True
    with capture_logs() as logged:
        async with await listener.connect() as response:
            await until_async(lambda: listener.made == 1 or None, "failed")
            listener.fails = False
            await until_async(lambda: listener.clock.waiting == 1 or None, "waits")
            await listener.clock.advance(INTERVAL)
            assert [(await event(response))[0] for _ in range(2)] == ["history", "snapshot"]
    assert "bug in the status" in [line["event"] for line in logged]
