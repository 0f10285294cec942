"""HTTP as a server speaks it: connections, their requests and bodies as they come, and the answers in their order.

llhttp parses (httptools calls the `on_...` methods as it finds things); when something happens, and how much of it, is
decided here. The way of a request:

    data_received  -> _parse: llhttp gets what has come, piece by piece, as long as there is room for what it finds
    on_headers_complete       a Request joins the queue
    on_body                   more of its body is here
    _answer_all    -> handler(request), which waits for as much of the body as it wants -> one write

`_answer_all` is one task for as long as requests wait. A sender that is ahead of it is not read from. Every wait has a
deadline, kept here (header, idle connection, answers not taken) or by the handler (body).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

import httptools
import structlog

from btfeed.http.request import Answer, BadHttp, Incomplete, Request, check, path_of
from btfeed.telemetry.metrics import Metrics

log = structlog.get_logger()

RETRY_AFTER = 5
"""Seconds that a 503 asks for. AppMon does not retry; load balancers and replay do."""
MAX_HEADER = 2**14
"""Bytes of a request's target and fields, trailers included."""
MAX_FIELDS = 128
PIECE = 2**13
"""Bytes that are parsed at a time, unless they are known to be of one body: many requests fit into one read."""
PIPELINED = 16
"""Requests that may wait for their answers before no more are parsed."""
LINGER = 10.0
"""Seconds for the rest of a body whose request is answered already. Many clients read no answer before they have sent."""


Handler = Callable[[Request], Awaitable[Answer | None]]
"""None: the connection is cut off without an answer."""


class Server:
    """The connections of one listener: a factory of protocols for `loop.create_server`.

    header_timeout   from the first byte of a connection or a request to the end of its header
    answer_timeout   for a client to take the answers that wait for it
    idle_timeout     a connection without a request is closed
    max_connections  more are answered 503 and closed
    """

    def __init__(
        self,
        handler: Handler,
        metrics: Metrics,
        *,
        header_timeout: float,
        answer_timeout: float,
        idle_timeout: float,
        max_connections: int,
    ) -> None:
        self.handler = handler
        self.metrics = metrics
        self.header_timeout = header_timeout
        self.answer_timeout = answer_timeout
        self.idle_timeout = idle_timeout
        self.max_connections = max_connections
        self.open: set[Connection] = set()
        self.closing = False

    def __call__(self) -> "Connection":
        return Connection(self)

    async def drain(self, patience: float) -> None:
        """Close idle connections, the others once they are idle, and what is left after `patience` seconds."""
        self.closing = True
        end = asyncio.get_running_loop().time() + patience
        while self.open and asyncio.get_running_loop().time() < end:
            for connection in list(self.open):
                connection.close_if_idle()
            await asyncio.sleep(0.02)
        for connection in list(self.open):
            connection.abort()


class Connection(asyncio.Protocol):
    """One connection. Public methods below are for asyncio, httptools, and the requests of this connection."""

    def __init__(self, server: Server) -> None:
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._metrics = server.metrics
        self._parser = httptools.HttpRequestParser(self)
        self._unparsed = memoryview(b"")
        self._silent = 0  # bytes parsed since anything was found in them
        self._in_header = False
        self._requests: deque[Request | BadHttp] = deque()  # not answered yet; the first one is being answered
        self._receiving: Request | None = None  # the one whose body is not all here
        self._answering: asyncio.Task[None] | None = None
        self._paused = False  # reading
        self._last = False  # no request will be read any more
        self._ended = False  # the client has shut down its side
        self._idle_since = self.loop.time()
        self._header_deadline: asyncio.TimerHandle | None = None
        self._answer_deadline: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None  # while the client takes no answers

    # Its beginning and its end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        peername = transport.get_extra_info("peername")
        self.peer = str(peername[0]) if peername else ""
        self._idle_timer = self.loop.call_later(self._server.idle_timeout, self._check_idle)
        self._server.open.add(self)
        self._metrics.connections.inc()
        if len(self._server.open) > self._server.max_connections:
            self._metrics.refused_posts.labels("too_many_connections").inc()
            self.write(Answer(503, headers={"Retry-After": str(RETRY_AFTER)}).encode("close"))
            self._close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.open.discard(self)
        self._metrics.connections.dec()
        self._idle_timer.cancel()
        self._stop_header_deadline()
        self.resume_writing()
        self._last = True
        self._unparsed = memoryview(b"")
        if self._receiving:
            self._receiving.fail(ConnectionResetError("the client went away"))
            self._receiving = None

    def eof_received(self) -> bool:
        """True keeps the connection open, for the answers to what was sent in whole. TLS has no such thing."""
        tls = self._transport.get_extra_info("sslcontext") is not None
        self._ended = bool(self._requests) and self._receiving is None and not tls
        return self._ended

    def close_if_idle(self) -> None:
        if not self._requests and self._header_deadline is None:
            self._close()

    def abort(self) -> None:
        """Cut it off; a close would wait for the other side."""
        self._forget()
        self._transport.abort()

    def _close(self) -> None:
        """Close it behind what was written."""
        self._forget()
        self._transport.close()

    def _forget(self) -> None:
        """What was not answered yet will not be, and nothing more is read."""
        self._last = True
        self._unparsed = memoryview(b"")
        self._requests.clear()

    def _check_idle(self) -> None:
        rest = self._server.idle_timeout
        if not self._requests and self._header_deadline is None:
            rest -= self.loop.time() - self._idle_since
            if rest <= 0:
                self._close()
                return
        self._idle_timer = self.loop.call_later(rest, self._check_idle)

    def _start_header_deadline(self) -> None:
        if self._header_deadline is None:
            self._header_deadline = self.loop.call_later(self._server.header_timeout, self._too_slow, "slow_header")

    def _stop_header_deadline(self) -> None:
        if self._header_deadline:
            self._header_deadline.cancel()
            self._header_deadline = None

    def _too_slow(self, reason: str) -> None:
        self._metrics.refused_posts.labels(reason).inc()
        log.info("closed", reason=reason, peer=self.peer)
        self.abort()

    # What comes in

    def data_received(self, data: bytes) -> None:
        if self._last and self._receiving is None:
            return
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
        self._parse()
        if not self._requests and not self._last:
            self._start_header_deadline()

    def read_on(self) -> None:
        """There is room again."""
        if self._paused:
            self._parse()

    def _parse(self) -> None:
        """Parse what has come. What there is no room for waits, and so does the sender."""
        while not (full := self._full()) and self._unparsed:
            size = max(PIECE, self._receiving.missing if self._receiving else 0)
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            self._silent += len(piece)
            try:
                self._parser.feed_data(piece)
                if self._silent > MAX_HEADER + PIECE:
                    raise BadHttp("the header is too long")
            except httptools.HttpParserUpgrade as upgrade:
                self._decline_upgrade(piece[upgrade.args[0] :])
            except httptools.HttpParserCallbackError as error:
                if not isinstance(error.__context__, BadHttp):
                    raise
                self._refuse(str(error.__context__))
            except (httptools.HttpParserError, BadHttp) as error:
                self._refuse(str(error))
        if full != self._paused and not self._transport.is_closing():
            self._paused = full
            (self._transport.pause_reading if full else self._transport.resume_reading)()

    def _full(self) -> bool:
        return len(self._requests) >= PIPELINED or (self._receiving is not None and self._receiving.ahead)

    def _refuse(self, why: str) -> None:
        """What comes from here on has no meaning."""
        self._unparsed = memoryview(b"")
        if self._receiving:
            self._receiving.fail(Incomplete(why))
            self._receiving = None
        elif not self._last:
            self._enqueue(BadHttp(why))
        self._last = True

    def _decline_upgrade(self, rest: memoryview) -> None:
        """No other protocol is known here, so that the request is what it would be without asking for one.

        llhttp would leave all that follows the header to that protocol, a body too: it gets the header once more.
        """
        self._silent = 0
        if self._last:  # CONNECT
            self._unparsed = memoryview(b"")
            return
        start = f"{self._method} ".encode() + self._target + f" HTTP/{self._parser.get_http_version()}\r\n".encode()
        fields = (b"%b: %b\r\n" % field for field in self._headers.items() if field[0] != b"upgrade")
        self._unparsed = memoryview(b"".join((start, *fields, b"\r\n", rest, self._unparsed)))
        self._parser = httptools.HttpRequestParser(self)

    # What llhttp finds

    def on_message_begin(self) -> None:
        self._in_header = True
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_size = self._fields = 0

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._count(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._count(len(name) + len(value))
        if self._in_header:  # else it is a trailer, which says nothing here
            name = name.lower()
            headers = self._headers
            headers[name] = headers[name] + b", " + value if name in headers else value

    def _count(self, size: int) -> None:
        self._silent = 0
        self._header_size += size
        if self._header_size > MAX_HEADER or self._fields > MAX_FIELDS:
            raise BadHttp(f"the header is longer than {MAX_HEADER} bytes or {MAX_FIELDS} fields")

    def on_headers_complete(self) -> None:
        self._in_header = False
        self._stop_header_deadline()
        self._method = self._parser.get_method().decode()
        if self._parser.should_upgrade() and self._method != "CONNECT":
            return  # it comes once more
        version = self._parser.get_http_version()
        check(version, self._headers)
        keep_alive = self._parser.should_keep_alive() and self._method != "CONNECT"
        path = path_of(self._target, self._method)
        self._receiving = Request(self, self._method, path, version, self._headers, keep_alive)
        self._last = not keep_alive
        self._enqueue(self._receiving)

    def on_body(self, part: bytes) -> None:
        self._silent = 0
        if self._receiving:
            self._receiving.add(part)

    def on_message_complete(self) -> None:
        self._silent = 0
        if self._receiving:
            self._receiving.end()
            self._receiving = None

    # What goes out

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()
        self._answer_deadline = self.loop.call_later(self._server.answer_timeout, self._too_slow, "slow_reader")

    def resume_writing(self) -> None:
        if self._answer_deadline:
            self._answer_deadline.cancel()
            self._answer_deadline = None
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _enqueue(self, request: Request | BadHttp) -> None:
        self._requests.append(request)
        if self._answering is None:
            self._answering = self.loop.create_task(self._answer_all())

    async def _answer_all(self) -> None:
        """Answer the requests that wait, in their order."""
        while self._requests:
            request = self._requests[0]
            if isinstance(request, BadHttp):
                self._answer_bad(request)
                break
            try:
                answer = await self._server.handler(request)
            except Exception:
                log.exception("a bug in a handler; its connection is cut off")
                answer = None
            if answer is None:
                self.abort()
                break
            if self._writable:
                await self._writable
            more = self._answer(request, answer)
            if not (request.whole or await self._discard(request)) or not more:
                self._close()
                break
            if self._requests:  # else it was cut off meanwhile
                self._requests.popleft()
            if self._paused:
                await asyncio.sleep(0)  # who sends without end must not hold up others
                self._parse()
        self._answering = None
        self._idle_since = self.loop.time()
        if self._in_header and not self._last:
            self._start_header_deadline()

    def _answer(self, request: Request, answer: Answer) -> bool:
        """Write it; True if another request may follow."""
        at_end = self._ended and len(self._requests) == 1
        more = request.keep_alive and not (answer.close or at_end or self._server.closing)
        connection = ("keep-alive" if request.version == "1.0" else "") if more else "close"
        self.write(answer.encode(connection, request.method != "HEAD"))
        return more

    def _answer_bad(self, error: BadHttp) -> None:
        self._metrics.refused_posts.labels("bad_http").inc()
        log.info("refused", reason="bad_http", error=str(error), peer=self.peer)
        self.write(Answer(400, f"{error}\n").encode("close"))
        self._close()

    async def _discard(self, request: Request) -> bool:
        """Read over the rest of its body; True when its end has come."""
        try:
            async with asyncio.timeout(LINGER):
                await request.discard()
        except (TimeoutError, Incomplete, ConnectionError):
            return False
        return True
