"""All connections of one server, from accepting them to draining them."""

import asyncio
import ssl

from btfeed.address import bind
from btfeed.http.connection import Connection
from btfeed.http.limits import BACKLOG, Limits
from btfeed.http.refusals import Refusals
from btfeed.http.state import Handler, ServerState
from btfeed.http.tls import TlsListener
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings

DRAIN_POLL = 0.02
"""Seconds between checks for connections that have become idle during a drain."""


class HttpServer:
    """Listens with `listen`, stops listening with `close`, and then ends its connections with `drain`.

    refusals  counts what is refused; the handler uses it as well
    """

    def __init__(self, handler: Handler, metrics: Metrics, limits: Limits) -> None:
        self._warnings = SummedWarnings()
        self.refusals = Refusals(metrics, self._warnings)
        self._state = ServerState(handler, metrics, limits, self._warnings, self.refusals)
        self._listeners: list[asyncio.Server | TlsListener] = []

    def __call__(self) -> Connection:
        """A protocol for a new connection, see `loop.create_server`."""
        return Connection(self._state)

    async def listen(self, address: str, tls: ssl.SSLContext | None = None) -> tuple[str, int]:
        """Listen there. Returns the host and port in use. Raises OSError."""
        loop = asyncio.get_running_loop()
        sockets = await bind(address)
        host, port, *_ = sockets[0].getsockname()
        for bound in sockets:
            if tls:
                self._listeners.append(TlsListener(self._state, bound, tls))
            else:
                self._listeners.append(await loop.create_server(self, sock=bound, backlog=BACKLOG))
        return host, port

    def reconfigure(self, limits: Limits, tls: ssl.SSLContext | None) -> None:
        """Apply these limits to all connections, at their next deadline, and `tls` to handshakes that begin from now on. A
        server goes on with TLS, or without."""
        self._state.limits = limits
        for listener in self._listeners:
            if isinstance(listener, TlsListener) and tls:
                listener.context = tls

    def close(self) -> None:
        """Stop listening."""
        for listener in self._listeners:
            listener.close()

    @property
    def connections(self) -> set[Connection]:
        """The open ones, without those whose TLS handshake is not complete."""
        return {connection for connection in self._state.connections if isinstance(connection, Connection)}

    async def drain(self, max_seconds: float) -> None:
        """Close each connection as soon as it is idle, and cut off those still open after `max_seconds`."""
        self._state.draining = True
        connections = self._state.connections
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max_seconds
        while connections and loop.time() < deadline:
            for connection in list(connections):
                connection.close_if_idle()
            await asyncio.sleep(DRAIN_POLL)
        for connection in list(connections):
            connection.abort("shutting_down")
        await asyncio.sleep(DRAIN_POLL)  # what they lose is counted meanwhile
        self._warnings.close()
