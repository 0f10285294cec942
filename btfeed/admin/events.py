"""GET /events: the snapshot and the history as server-sent events, for as long as somebody listens.

One task makes the events for all who listen, and runs only while there is somebody. A reader that is slow skips events: it
always gets the newest next.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from aiohttp import web

from btfeed.admin.answers import stream
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings
from sinks.shared.clock import Clock

log = structlog.get_logger()

INTERVAL = 2.0
"""Seconds between snapshots."""
MAX_READERS = 20
STALLED = 30.0
"""Seconds after which a reader that takes nothing is cut off."""
RECONNECT = b"retry: 2000\n\n"
"""Milliseconds after which a browser connects again when the stream ends."""

Shown = Callable[[], dict[str, Any]]


class Events:
    """The stream. history_version: changes with the history, which is sent then."""

    def __init__(
        self,
        snapshot: Callable[[], Awaitable[dict[str, Any]]],
        history: Shown,
        history_version: Callable[[], int],
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._snapshot = snapshot
        self._history = history
        self._history_version = history_version
        self._metrics = metrics
        self._clock = clock
        self._warnings = SummedWarnings()
        self._readers = 0
        self._closed = False
        self._making: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._made: list[tuple[int, bytes]] = []  # the newest history and snapshot, each with its number
        self._number = 0

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/events", self._events, allow_head=False)]

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        if self._making:
            self._making.cancel()
        self._wake()
        self._warnings.close()

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if self._readers >= MAX_READERS or self._closed:
            self._metrics.admin_refused.labels("events").inc()
            return web.Response(status=503, text=f"{MAX_READERS} pages are open already, and more are not allowed\n")
        self._count(1)
        try:
            return await self._stream(request)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        """Readers come and go: make events while there are any."""
        self._readers += change
        self._metrics.viewers.set(self._readers)
        if self._readers and not self._making:
            self._making = asyncio.create_task(self._make(), name="events")
        elif not self._readers and self._making:
            self._making.cancel()
            self._making, self._made = None, []

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        async with stream(request, "text/event-stream") as response:
            seen, piece = 0, RECONNECT
            while not self._closed:
                if piece:
                    async with self._clock.timeout(STALLED):
                        await response.write(piece)
                changed = self._changed
                piece = b"".join(event for number, event in self._made if number > seen)
                seen = self._number
                if not piece:
                    await changed.wait()
        return response

    async def _make(self) -> None:
        version, history = -1, (0, b"")
        while True:
            try:
                snapshot = await self._snapshot()
                if version != self._history_version():
                    version, history = self._history_version(), self._event("history", self._history())
                self._made = [history, self._event("snapshot", snapshot)]
                self._wake()
            except Exception as error:  # noqa: BLE001 - the next one may be well again
                self._warnings.error("bug in the status", repr(type(error)), exc_info=error)
            await self._clock.sleep(INTERVAL)

    def _event(self, name: str, shown: dict[str, Any]) -> tuple[int, bytes]:
        self._number += 1
        return self._number, b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(shown) + b"\n\n"

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
