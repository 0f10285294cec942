"""Accepts connections. asyncio's own listeners drop what they can't accept without a word, and TLS handshakes that fail.

A TLS connection takes its place when it is accepted, waits for the client's first byte, and becomes a `Connection` after
the handshake. One that ends without a byte is a health check or a port scan, and does not count as refused.
"""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Any

from btfeed.http.connection import Connection
from btfeed.http.sockets import has_unread, host_of
from btfeed.http.state import ServerState, Standing
from btfeed.http.tls_error import explain

ACCEPT_RETRY = 1.0
"""Seconds until the next try after connections could not be accepted, for example because too many files are open."""
AT_ONCE = 64
"""Connections that are accepted before others are served."""


class Listener:
    """Accepts connections from the socket `listening`, until `close`. None that it has accepted is dropped then.

    context: of the connections from now on; None without TLS
    """

    def __init__(self, server: ServerState, listening: socket.socket, context: ssl.SSLContext | None) -> None:
        self.context = context
        self._server = server
        self._listening = listening
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[object]] = set()
        self._begin()

    async def close(self) -> None:
        """Accept what waits already, and no more. Returns when the server knows all connections."""
        while self._accept():
            pass
        if self._retry:
            self._retry.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()
        if self._opening:
            await asyncio.wait(self._opening)

    def _begin(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> bool:
        """Called when a connection waits. Returns whether others may wait."""
        for _ in range(AT_ONCE):
            try:
                accepted, address = self._listening.accept()
                accepted.setblocking(False)
            except BlockingIOError:  # none waits any more, or another process was faster
                return False
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._server.warnings.error("can't accept connections, retrying", "accept", error=str(error))
                self._loop.remove_reader(self._listening)
                self._retry = self._loop.call_later(ACCEPT_RETRY, self._begin)
                return False
            if self.context:
                self._begin_handshake(accepted, address, self.context)
            else:
                opening = self._loop.create_task(self._open(accepted, host_of(address)))
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)
        return True

    async def _open(self, accepted: socket.socket, peer: str) -> None:
        with suppress(OSError):  # the client is gone
            await self._loop.connect_accepted_socket(lambda: Connection(self._server, peer), accepted)

    def _begin_handshake(self, accepted: socket.socket, address: Any, context: ssl.SSLContext) -> None:
        handshake = Handshake(self._server, accepted, address, context)
        if self._server.enter(handshake):
            handshake.start()
        else:
            self._server.refusals.lost("too_many_connections", peer=handshake.peer)
            accepted.close()


class Handshake:
    """A connection until its TLS handshake is complete. See Occupant."""

    def __init__(self, server: ServerState, accepted: socket.socket, address: Any, context: ssl.SSLContext) -> None:
        self.peer = host_of(address)
        self._loop = asyncio.get_running_loop()
        self._standing = Standing.SILENT
        self._since = self._loop.time()
        self._server = server
        self._socket = accepted
        self._context = context

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    @property
    def gives_way(self) -> tuple[Standing, float]:
        return self._standing, self._since

    def has_unread(self) -> bool:
        return has_unread(self._socket.fileno())

    def close_if_idle(self, since: float) -> None:
        if self._standing is Standing.SILENT and self._since <= since and not self.has_unread():
            self._task.cancel()

    def abort(self, reason: str) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        try:
            if await self._receive_first_byte():
                self._standing, self._since = Standing.STALLED, self._loop.time()
                await self._shake_hands()
        except OSError as error:
            self._server.refusals.lost("bad_tls", peer=self.peer, **explain(error))
        finally:
            self._server.connections.discard(self)

    async def _receive_first_byte(self) -> bool:
        """Wait for it, and leave it in the socket. If the client sends nothing in time, close the socket."""
        received = False
        arrived = asyncio.Event()
        self._loop.add_reader(self._socket, arrived.set)
        try:
            async with asyncio.timeout(self._server.limits.header_timeout):
                await arrived.wait()
            received = bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:  # a timeout, or the client is gone
            pass
        finally:
            self._loop.remove_reader(self._socket)
            if not received:
                self._socket.close()
        return received

    async def _shake_hands(self) -> None:
        """From here on the socket belongs to the loop. Raises OSError."""
        seconds = self._server.limits.header_timeout
        await self._loop.connect_accepted_socket(
            lambda: Connection(self._server, self.peer, self),
            self._socket,
            ssl=self._context,
            ssl_handshake_timeout=seconds,
            ssl_shutdown_timeout=seconds,
        )
