"""What keeps a sender within bounds: deadlines and a number for connections, room for bodies, an end for gzip."""

import asyncio
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage

from btfeed.metrics import Metrics

log = structlog.get_logger()

RETRY_AFTER = 5
"""Seconds that a 503 asks for. AppMon does not retry; load balancers and replay do."""
ANSWERED_YET = 0.1
"""Seconds between looks at whether a client that has shut down its side has had all of its answers."""
READ_BUFFER = 2**16
"""Bytes of a body that a connection reads ahead; at most twice as many wait there."""


class Server(web.Server):
    """aiohttp's server with a `Connection` for each connection.

    header_timeout   from the first byte of a connection or a request to the end of its header
    answer_timeout   for a client to take the answers that wait for it
    idle_timeout     a connection without a request is closed
    max_connections  more are answered 503 and closed
    """

    def __init__(
        self,
        handler: Any,
        metrics: Metrics,
        *,
        header_timeout: float,
        answer_timeout: float,
        idle_timeout: float,
        max_connections: int,
    ) -> None:
        super().__init__(handler)
        self.metrics = metrics
        self.header_timeout = header_timeout
        self.answer_timeout = answer_timeout
        self.idle_timeout = idle_timeout
        self.max_connections = max_connections
        self.open: set[Connection] = set()

    def __call__(self) -> web.RequestHandler:
        return Connection(self)

    async def drain(self, patience: float) -> None:
        """Close idle connections, and the others once they are idle or `patience` seconds have passed.

        aiohttp's own way drops what arrives of bodies that are under way.
        """
        end = asyncio.get_running_loop().time() + patience
        while self.open and asyncio.get_running_loop().time() < end:
            for connection in list(self.open):
                connection.close_if_idle()
            await asyncio.sleep(0.02)
        await self.shutdown(1.0)


class Connection(web.RequestHandler):
    """aiohttp's connection, with a limit on how many there are, deadlines, and an answer for whoever half-closes."""

    def __init__(self, server: Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=server.idle_timeout,
            access_log=None,  # type: ignore[arg-type]  # documented to switch it off
            read_bufsize=READ_BUFFER,
            auto_decompress=False,
        )
        self._server = server
        self._metrics = server.metrics
        self._header_deadline: asyncio.TimerHandle | None = None
        self._answer_deadline: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None  # of the last request that came
        self._ended = False

    @property
    def at_end(self) -> bool:
        """No request will follow the one at hand: the client has shut down its side."""
        return self._ended and not self._messages

    def close_if_idle(self) -> None:
        if self._waits() and self._header_deadline is None:
            self.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.open.add(self)
        self._metrics.connections.inc()
        if len(self._server.open) > self._server.max_connections:
            self._metrics.refused_posts.labels("too_many_connections").inc()
            refusal = f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {RETRY_AFTER}\r\n"
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.write(f"{refusal}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.open.discard(self)
        self._metrics.connections.dec()
        self._stop_header_deadline()
        self._stop_answer_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        requests = self._request_count
        super().data_received(data)
        if self._request_count > requests:
            self._stop_header_deadline()
            self._begin_request(*self._messages[-1])
        elif data and self._header_deadline is None and (requests == 0 or self._waits()):
            self._header_deadline = self._loop.call_later(self._server.header_timeout, self._too_slow, "slow_header")

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own may return something
        """True keeps the connection open, for the answers to what was sent in whole."""
        self._ended = not self._waits() and self._body is not None and self._body.is_eof() and self.ssl_context is None
        if self._ended:
            self._close_when_answered()
        return self._ended

    def _close_when_answered(self) -> None:
        """Where the end came just after the last answer was begun, nothing else closes."""
        if self._waits():
            self.force_close()
        elif self.transport:
            self._loop.call_later(ANSWERED_YET, self._close_when_answered)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_deadline = self._loop.call_later(self._server.answer_timeout, self._too_slow, "slow_reader")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_answer_deadline()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """400 to what is no HTTP; aiohttp would log a traceback for each."""
        if status != 400:
            return super().handle_error(request, status, exc, message)
        self._metrics.refused_posts.labels("bad_http").inc()
        log.info("refused", reason="bad_http", error=message, peer=request.remote)
        response = web.Response(status=400, body=f"{message}\n".encode(errors="replace"), content_type="text/plain")
        response.force_close()
        return response

    def _waits(self) -> bool:
        """Nothing to do until the next request."""
        return self._waiter is not None and not self._waiter.done()

    def _begin_request(self, message: object, body: StreamReader) -> None:
        if isinstance(message, RawRequestMessage):
            self._body = body
        elif self._body and not self._body.is_eof():
            # what came is no HTTP, and the body will not go on; aiohttp would leave its reader waiting
            self._body.set_exception(web.RequestPayloadError("what follows is no HTTP"))
            self._body.feed_eof()

    def _too_slow(self, reason: str) -> None:
        self._metrics.refused_posts.labels(reason).inc()
        log.info("closed", reason=reason, peer=self.peername)
        if self.transport:
            self.transport.abort()  # a close would wait for the other side
        self.force_close()

    def _stop_header_deadline(self) -> None:
        if self._header_deadline:
            self._header_deadline.cancel()
            self._header_deadline = None

    def _stop_answer_deadline(self) -> None:
        if self._answer_deadline:
            self._answer_deadline.cancel()
            self._answer_deadline = None


class Overloaded(Exception):
    """No room came free in time."""


class Budget:
    """Bytes that posts may occupy while they are received, given out in the order of asking."""

    SMALL = 2**16
    """A body needs no room until so much of it has come: a sender that promises much and sends little takes none."""

    def __init__(self, total: int, patience: float, metrics: Metrics) -> None:
        self._total = total
        self._free = total
        self._patience = patience
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._gauge = metrics.bytes_in_flight

    @contextmanager
    def room(self, size: int) -> Iterator["Room"]:
        """Room for a post of up to `size` bytes, to be taken when needed, given back at the end."""
        room = Room(self, min(size, self._total))
        try:
            yield room
        finally:
            if room.taken:
                self._free += room.size
                self._hand_out()

    async def take(self, size: int) -> None:
        """Raises Overloaded where `size` bytes are not to be had in time."""
        if not self._waiting and size <= self._free:
            self._free -= size
            self._gauge.set(self._total - self._free)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._hand_out()
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._hand_out()  # who stands behind may need less
            else:
                self._free += size
                self._hand_out()
            if isinstance(error, TimeoutError):
                raise Overloaded from None
            raise

    def _hand_out(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)
        self._gauge.set(self._total - self._free)


class Room:
    """What one post may take from a budget."""

    def __init__(self, budget: Budget, size: int) -> None:
        self.size = size
        self.taken = False
        self._budget = budget

    async def cover(self, used: int) -> None:
        """Wait until there is room for a post of which `used` bytes are here. Raises Overloaded."""
        if used > Budget.SMALL and not self.taken:
            await self._budget.take(self.size)
            self.taken = True


class TooLong(Exception):
    """What was decompressed is longer than the limit."""


class Gunzip:
    """Decompresses one gzip stream of up to MEMBERS members, up to `limit` bytes."""

    STEP = 2**18
    MEMBERS = 1_000
    """Real streams have few; a post full of empty ones would take minutes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._member = zlib.decompressobj(wbits=31)
        self._members = 0
        self._plain = bytearray()
        self._error: zlib.error | None = None

    def feed(self, data: bytes) -> Iterator[int]:
        """Decompress `data` step by step; yields how long the whole is so far. Raises TooLong. What is broken shows at
        the end."""
        while data and not self._error:
            try:
                if self._member.eof or not self._members:
                    self._begin()
                self._plain += self._member.decompress(data, min(self.STEP, self._limit - len(self._plain) + 1))
            except zlib.error as error:
                self._error = error
                return
            if len(self._plain) > self._limit:
                raise TooLong
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            yield len(self._plain)

    def end(self) -> bytes:
        """The whole. Raises zlib.error where the stream is broken or cut off."""
        if self._error:
            raise self._error
        if self._members and not self._member.eof:
            raise zlib.error("the stream ends early")
        return bytes(self._plain)

    def _begin(self) -> None:
        self._members += 1
        if self._members > self.MEMBERS:
            raise zlib.error(f"more than {self.MEMBERS} members")
        self._member = zlib.decompressobj(wbits=31)
