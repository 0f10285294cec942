"""What keeps a sender within bounds: deadlines and a number for connections, a budget for bodies, an end for gzip."""

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiohttp import web

from btfeed.metrics import Metrics

log = structlog.get_logger()

RETRY_AFTER = 5
"""Seconds that a 503 asks for. AppMon does not retry; load balancers and replay do."""


class Overloaded(Exception):
    """No room came free in time."""


class Server(web.Server):
    """aiohttp's server with a `Connection` for each connection."""

    def __init__(
        self, handler: Any, header_timeout: float, idle_timeout: float, max_connections: int, metrics: Metrics
    ) -> None:
        super().__init__(handler)
        self.header_timeout = header_timeout
        self.idle_timeout = idle_timeout
        self.max_connections = max_connections
        self.metrics = metrics

    def __call__(self) -> web.RequestHandler:
        return Connection(self)


class Connection(web.RequestHandler):
    """aiohttp's connection, with a limit on how many there are and a deadline for the header."""

    def __init__(self, server: Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=server.idle_timeout,
            access_log=None,  # type: ignore[arg-type]  # documented to switch it off
            auto_decompress=False,
        )
        self._server = server
        self._metrics = server.metrics
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._metrics.connections.inc()
        if len(self._server.connections) > self._server.max_connections:
            self._metrics.refused_posts.labels("too_many_connections").inc()
            refusal = f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {RETRY_AFTER}\r\n"
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.write(f"{refusal}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._metrics.connections.dec()
        self._stop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        requests = self._request_count
        super().data_received(data)
        if self._request_count > requests:
            self._stop_deadline()
        elif self._deadline is None and (requests == 0 or self._waiter is not None):
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._server.header_timeout, self._too_slow)

    def handle_error(self, *arguments: Any, **keywords: Any) -> web.StreamResponse:
        """What aiohttp answers to what is no HTTP: 400."""
        self._metrics.refused_posts.labels("bad_http").inc()
        return super().handle_error(*arguments, **keywords)

    def _too_slow(self) -> None:
        self._deadline = None
        self._metrics.refused_posts.labels("slow_header").inc()
        log.info("closed: the header took too long", peer=self.peername)
        self.force_close()

    def _stop_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None


class Budget:
    """Bytes that posts may occupy while they are received, given out in the order of asking."""

    def __init__(self, total: int, metrics: Metrics) -> None:
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._gauge = metrics.bytes_in_flight

    @asynccontextmanager
    async def reserve(self, size: int, patience: float) -> AsyncIterator[None]:
        """Hold `size` bytes. Raises Overloaded where they are not to be had within `patience` seconds."""
        size = min(size, self._total)
        if self._waiting or size > self._free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                async with asyncio.timeout(patience):
                    await turn
            except BaseException as error:
                if turn.done() and not turn.cancelled():
                    self._release(size)
                else:
                    self._waiting.remove((size, turn))
                if isinstance(error, TimeoutError):
                    raise Overloaded from None
                raise
        else:
            self._free -= size
        self._gauge.set(self._total - self._free)
        try:
            yield
        finally:
            self._release(size)

    def _release(self, size: int) -> None:
        self._free += size
        while self._waiting and self._waiting[0][0] <= self._free:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)
        self._gauge.set(self._total - self._free)


class TooLong(Exception):
    """What was decompressed is longer than the limit."""


class Gunzip:
    """Decompresses one gzip stream of any number of members, up to `limit` bytes."""

    STEP = 2**20

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._member = zlib.decompressobj(wbits=31)
        self._plain = bytearray()
        self._begun = False

    async def feed(self, data: bytes) -> None:
        """Raises zlib.error or TooLong."""
        while data:
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=31)
            self._begun = True
            self._plain += self._member.decompress(data, self.STEP)
            if len(self._plain) > self._limit:
                raise TooLong
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            await asyncio.sleep(0)  # a bomb must not hold up other answers

    def end(self) -> bytes:
        """Raises zlib.error where the stream is cut off."""
        if self._begun and not self._member.eof:
            raise zlib.error("the stream ends early")
        return bytes(self._plain)
