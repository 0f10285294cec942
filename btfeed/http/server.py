"""All connections of one server, from accepting them to draining them."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection, Sequence

from btfeed.http.connection import Connection
from btfeed.http.limits import Limits
from btfeed.http.listener import Listener
from btfeed.http.refusals import Refusals
from btfeed.http.state import Handler, Occupant, ServerState, Shortcut
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings

DRAIN_POLL = 0.02
"""Seconds between checks for connections that have become idle during a drain."""
LAST_REQUESTS = 5.0
"""Seconds for requests that began just before the end of listening. New connections wait meanwhile, and AppMon gives up
after 10 s, so a client that is slow must not cost the posts of the others."""


class HttpServer:
    """Listens with `listen`, and ends with `stop` and `close`.

    shortcut  takes requests before the handler does
    refusals  counts what is refused; the handler uses it as well
    """

    def __init__(
        self,
        handler: Handler,
        metrics: Metrics,
        limits: Limits,
        shortcut: Shortcut = lambda request, answer: False,
    ) -> None:
        self._warnings = SummedWarnings()
        self.refusals = Refusals(metrics, self._warnings)
        self._state = ServerState(handler, shortcut, metrics, limits, self._warnings, self.refusals)
        self._listeners: list[Listener] = []

    async def listen(self, sockets: Sequence[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """Accept connections from these sockets, which listen already. They are closed at the end of listening."""
        for listening in sockets:
            listening.setblocking(False)
            self._listeners.append(Listener(self._state, listening, tls))

    def reconfigure(self, limits: Limits, tls: ssl.SSLContext | None) -> None:
        """Apply these limits to all connections, that of a header from the next one on, and `tls` to handshakes that begin
        from now on. A server goes on with TLS, or without."""
        self._state.limits = limits
        for connection in self.connections:
            connection.check_idle()
        self._state.fit()
        for listener in self._listeners:
            if listener.context and tls:
                listener.context = tls

    @property
    def connections(self) -> set[Connection]:
        """The open ones, without those whose TLS handshake is not complete."""
        return {connection for connection in self._state.connections if isinstance(connection, Connection)}

    async def stop(self, max_seconds: float, patience: float) -> None:
        """End all connections, and stop listening as late as possible.

        1. Each response says that its connection closes after it, so clients go on with new connections, which are still
           accepted. Idle ones have `patience` seconds for another request, requests under way `max_seconds`.
        2. When no connection from before is left, listening ends. What is not accepted by then waits for the next process,
           if another one holds the socket. The connections that are left end in the same way, within LAST_REQUESTS.
        """
        self._state.draining = True
        first_close = asyncio.get_running_loop().time() + patience
        before = set(self._state.connections)
        await self._drain(lambda: before & self._state.connections, max_seconds, patience, first_close)
        _abort(before & self._state.connections)
        while self._listeners:
            await self._listeners.pop().close()
        await self._drain(lambda: self._state.connections, min(max_seconds, LAST_REQUESTS), patience, first_close)
        _abort(self._state.connections)
        await asyncio.sleep(DRAIN_POLL)  # what they lose is counted meanwhile

    def close(self) -> None:
        """Log what is left to be logged of refusals. To be called after `stop`, when no handler is at work any more."""
        self._warnings.close()

    async def _drain(
        self, left: Callable[[], Collection[Occupant]], max_seconds: float, patience: float, first_close: float
    ) -> None:
        """Wait until none is left, for at most `max_seconds`. From `first_close` on, those that have been idle for
        `patience` seconds are closed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max_seconds
        while left() and loop.time() < deadline:
            if loop.time() >= first_close:
                for connection in list(left()):
                    connection.close_if_idle(loop.time() - patience)
            await asyncio.sleep(DRAIN_POLL)


def _abort(connections: Collection[Occupant]) -> None:
    for connection in list(connections):
        connection.abort("shutting_down")
