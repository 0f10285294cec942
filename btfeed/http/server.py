"""All connections of one listener, from accepting them to draining them."""

import asyncio

from btfeed.http.connection import Connection, Handler, ServerState
from btfeed.http.limits import Limits
from btfeed.telemetry.metrics import Metrics

DRAIN_POLL = 0.02
"""Seconds between checks for connections that have become idle during a drain."""


class HttpServer:
    """A protocol factory: pass it to `loop.create_server`, and call `drain` after closing the listener."""

    def __init__(self, handler: Handler, metrics: Metrics, limits: Limits) -> None:
        self._state = ServerState(handler, metrics, limits)

    def __call__(self) -> Connection:
        return Connection(self._state)

    @property
    def connections(self) -> set[Connection]:
        """The open ones."""
        return self._state.connections

    async def drain(self, max_seconds: float) -> None:
        """Close each connection as soon as it is idle, and cut off those still open after `max_seconds`."""
        self._state.draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max_seconds
        while self.connections and loop.time() < deadline:
            for connection in list(self.connections):
                connection.close_if_idle()
            await asyncio.sleep(DRAIN_POLL)
        for connection in list(self.connections):
            connection.abort()
