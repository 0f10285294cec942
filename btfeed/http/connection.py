"""One connection: parses requests, calls the handler, and writes the responses in order.

llhttp does the parsing and calls the `on_...` methods; this module decides when it gets how much. The path of a request:

    data_received        -> _parse: llhttp gets the bytes piece by piece, as long as there is room for what it finds
    on_headers_complete     a Request joins the queue
    on_body                 more of its body has arrived. Bodies in chunks do not go through llhttp, see chunks
    _respond_all         -> handler(request), which waits for as much of the body as it wants -> one write

`_respond_all` is one task that lives while requests are queued. A client that sends faster than that is not read from.
Every wait has a deadline: header, idle connection and unread responses here, the body in the handler.
"""

import asyncio
import ssl
from collections import deque
from itertools import islice
from typing import cast

import httptools
import structlog

from btfeed.http.chunks import BodyInChunks, ChunkedBody, end_of_headers
from btfeed.http.limits import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, MAX_PIPELINED, PARSE_STEP
from btfeed.http.request import CutOff, InvalidBody, InvalidRequest, Request, check_headers, decode_path
from btfeed.http.response import RETRY_AFTER, Response
from btfeed.http.sockets import has_unread, host_of
from btfeed.http.state import Occupant, ServerState, Standing
from btfeed.http.tls_error import explain

log = structlog.get_logger()

TLS_HELLO = b"\x16\x03"
"""How a TLS connection begins."""


class Connection(asyncio.Protocol):
    """One connection. Its public methods are called by asyncio, by httptools, by its requests, and by the server.

    handshake: what had its place before
    """

    def __init__(self, server: ServerState, handshake: Occupant | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self._server = server
        self._handshake = handshake
        self._refusals = server.refusals
        self._parser = self._create_parser()
        self._unparsed = memoryview(b"")
        self._unreported = 0  # bytes parsed since llhttp last reported something
        self._header_tail = b""  # the last bytes of a header that has arrived in part
        self._chunks: ChunkedBody | None = None  # while such a body is arriving
        self._in_header = False
        self._method = ""  # of the newest request whose header has arrived
        self._requests: deque[Request | InvalidRequest] = deque()  # not answered yet; the first is being answered
        self._receiving: Request | None = None  # the one whose body is still arriving
        self._respond_task: asyncio.Task[None] | None = None
        self._reading_paused = False
        self._no_more_requests = False
        self._half_closed = False  # by the client: it sends no more, and may still read
        self._idle_since = self.loop.time()
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None  # while the client does not read its responses

    # Opening and closing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not derive from asyncio's
        self.peer = host_of(transport.get_extra_info("peername"))
        self._idle_timer = self.loop.call_later(self._server.limits.idle_timeout, self._check_idle)
        self._server.metrics.connections.inc()
        log.debug("connection opened", peer=self.peer)
        if not self._server.enter(self, self._handshake):
            self._refusals.lost("too_many_connections", peer=self.peer)
            self.write(Response(503, headers=RETRY_AFTER).encode("close"))
            self._close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.connections.discard(self)
        self._server.metrics.connections.dec()
        if isinstance(exc, ssl.SSLError) and not self._method:  # with TLS 1.3, a client may say so after the handshake
            self._refusals.lost("bad_tls", peer=self.peer, **explain(exc))
        elif self._began_post() and not self._no_more_requests:
            self._refusals.lost("disconnected", peer=self.peer, error="the client disconnected")
        self._idle_timer.cancel()
        self._stop_header_timer()
        self.resume_writing()
        self._no_more_requests = True
        self._unparsed = memoryview(b"")
        if self._receiving:
            self._receiving.set_exception(ConnectionResetError("the client disconnected"))
            self._receiving = None

    def eof_received(self) -> bool:
        """Whether to keep the connection open, to answer what was sent completely. TLS has no half-closed state."""
        tls = self._transport.get_extra_info("sslcontext") is not None
        self._half_closed = bool(self._requests) and self._receiving is None and not tls
        return self._half_closed

    @property
    def gives_way(self) -> tuple[Standing, float] | None:
        """See Occupant."""
        if self._header_timer:
            return Standing.STALLED, self._header_since
        standing = Standing.USED if self._method else Standing.SILENT
        return None if self._requests else (standing, self._idle_since)

    def has_unread(self) -> bool:
        """See Occupant."""
        return not self._transport.is_closing() and has_unread(self._transport.get_extra_info("socket").fileno())

    def close_if_idle(self, since: float) -> None:
        """See Occupant."""
        if not self._requests and not self._header_timer and self._idle_since <= since and not self.has_unread():
            self._close()

    def abort(self, reason: str = "cut_off") -> None:
        """Cut the connection off at once. Closing would wait for the client. reason: of the posts that this loses."""
        if self._receiving:
            self._receiving.set_exception(CutOff(reason))
        elif self._began_post() and not self._no_more_requests:
            self._refusals.lost(reason, peer=self.peer, error="the connection was cut off in the header")
        self._drop_requests(reason)
        self._transport.abort()

    def _close(self) -> None:
        """Close the connection once everything written has been sent."""
        self._drop_requests("shutting_down" if self._server.draining else "cut_off")
        self._transport.close()

    def _drop_requests(self, reason: str) -> None:
        """Leave unanswered what has not been answered, and read nothing more."""
        self._no_more_requests = True
        self._unparsed = memoryview(b"")
        for request in islice(self._requests, 1, None):  # the handler has the first
            if isinstance(request, Request) and request.carries_post:
                self._refusals.lost(reason, peer=self.peer, error="it was sent ahead on a connection that was cut off")
        self._requests.clear()

    def _began_post(self) -> bool:
        """Whether part of a post's header has arrived."""
        return self._in_header and bool(self._target) and self._parser.get_method() == b"POST"

    # Deadlines

    def _check_idle(self) -> None:
        remaining = self._server.limits.idle_timeout
        if not self._requests and not self._header_timer:
            remaining -= self.loop.time() - self._idle_since
            if remaining <= 0 and not self.has_unread():
                self._close()
                return
        self._idle_timer = self.loop.call_later(remaining, self._check_idle)

    def _start_header_timer(self) -> None:
        if self._header_timer is None:
            self._header_since = self.loop.time()
            self._header_timer = self.loop.call_later(self._server.limits.header_timeout, self._time_out, "slow_header")

    def _stop_header_timer(self) -> None:
        if self._header_timer:
            self._header_timer.cancel()
            self._header_timer = None

    def _time_out(self, reason: str) -> None:
        if not self._began_post():
            self._refusals.harmless(reason, peer=self.peer, error="the connection was cut off at a deadline")
        self.abort(reason)

    # Reading

    def data_received(self, data: bytes) -> None:
        if self._no_more_requests and self._receiving is None:
            return
        self._unparsed = memoryview(bytes(self._unparsed) + data if self._unparsed else data)
        self._parse()
        if not self._requests and not self._no_more_requests:
            self._start_header_timer()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._parse()

    def _parse(self) -> None:
        """Parse what has arrived, as far as there is room for it. The rest waits, and the socket is not read."""
        while not (full := self._is_full()) and self._unparsed:
            remaining = self._receiving.remaining if self._receiving else 0
            size = max(PARSE_STEP, remaining)
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            try:
                if self._chunks:
                    self._feed_chunks(self._chunks, piece)
                else:
                    self._feed_parser(piece, remaining)
            except InvalidRequest as error:
                self._fail(error)
        if full != self._reading_paused and not self._transport.is_closing():
            self._reading_paused = full
            (self._transport.pause_reading if full else self._transport.resume_reading)()

    def _feed_parser(self, piece: memoryview, remaining: int) -> None:
        """remaining: bytes of a body that it begins with. Raises InvalidRequest."""
        self._unreported += len(piece)
        queued, begun = len(self._requests), self._header_tail
        try:
            self._parser.feed_data(piece)
            if self._in_header:
                self._header_tail = (begun + bytes(piece[-3:]))[-3:]
            elif begun:
                self._header_tail = b""
            if self._unreported > MAX_HEADER_BYTES + PARSE_STEP:
                raise InvalidRequest(f"the header is longer than {MAX_HEADER_BYTES} bytes")
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, InvalidRequest):
                raise error.__context__ from None
            if not isinstance(error.__context__, BodyInChunks):
                raise
            added = islice(self._requests, queued, None)
            lengths = [request.content_length or 0 for request in added if isinstance(request, Request)]
            self._begin_chunks(piece[end_of_headers(begun, bytes(piece), remaining, lengths) :])
        except httptools.HttpParserError as error:
            tls = not self._method and piece[:2] == TLS_HELLO
            raise InvalidRequest("this is TLS: use http:// in the URL" if tls else str(error), lost=tls) from None

    def _begin_chunks(self, rest: memoryview) -> None:
        assert self._receiving
        self._chunks = ChunkedBody(self._receiving.feed_data)
        self._header_tail = b""
        self._parser = self._create_parser()  # llhttp can't go on after it was stopped
        self._unparsed = memoryview(bytes(rest) + bytes(self._unparsed))

    def _feed_chunks(self, chunks: ChunkedBody, piece: memoryview) -> None:
        """Raises InvalidRequest."""
        used = chunks.feed(bytes(piece))
        if chunks.complete:
            self._chunks = None
            rest = b"" if self._no_more_requests else bytes(piece[used:]) + bytes(self._unparsed)
            self._unparsed = memoryview(rest)
            self.on_message_complete()

    def _is_full(self) -> bool:
        return len(self._requests) >= MAX_PIPELINED or (self._receiving is not None and self._receiving.buffer_full)

    def _fail(self, error: InvalidRequest) -> None:
        """The client broke the protocol: nothing it sends from here on can be understood."""
        self._unparsed = memoryview(b"")
        if self._receiving:
            self._receiving.set_exception(InvalidBody(str(error)))
            self._receiving = None
        elif not self._no_more_requests:
            error.lost |= self._in_header and self._parser.get_method() == b"POST"
            self._enqueue(error)
        self._no_more_requests = True

    def _decline_upgrade(self, rest: memoryview) -> None:
        """Treat the request as if it asked for no upgrade, since this server has no other protocol to offer.

        llhttp leaves everything after the header to the other protocol, even the body. A new parser therefore gets the
        header again, without the Upgrade field.
        """
        self._unreported = 0
        self._header_tail = b""
        start = f"{self._method} ".encode() + self._target + f" HTTP/{self._parser.get_http_version()}\r\n".encode()
        fields = (b"%b: %b\r\n" % field for field in self._headers.items() if field[0] != b"upgrade")
        self._unparsed = memoryview(b"".join((start, *fields, b"\r\n", rest, self._unparsed)))
        self._parser = self._create_parser()

    def _create_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_transfer_encoding=True)  # check_headers is stricter, and says why
        return parser

    # Called by llhttp

    def on_message_begin(self) -> None:
        self._in_header = True
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = self._header_fields = 0

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._count_header(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_fields += 1
        self._count_header(len(name) + len(value))
        if self._in_header:  # otherwise it is a trailer, which is ignored
            name = name.lower()
            headers = self._headers
            headers[name] = headers[name] + b", " + value if name in headers else value

    def _count_header(self, size: int) -> None:
        self._unreported = 0
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES or self._header_fields > MAX_HEADER_FIELDS:
            raise InvalidRequest(f"the header is longer than {MAX_HEADER_BYTES} bytes or {MAX_HEADER_FIELDS} fields")

    def on_headers_complete(self) -> None:
        self._stop_header_timer()
        self._method = self._parser.get_method().decode()
        if self._parser.should_upgrade() and self._method != "CONNECT":
            return  # _decline_upgrade will have it parsed again
        version = self._parser.get_http_version()
        check_headers(self._method, version, self._headers)
        faulty = version == "1.0" and b"transfer-encoding" in self._headers  # RFC 9112, 6.1: close after such a message
        keep_alive = self._parser.should_keep_alive() and self._method != "CONNECT" and not faulty
        path = decode_path(self._target, self._method)
        self._in_header = False
        self._receiving = Request(self, self._method, path, version, self._headers, keep_alive)
        self._no_more_requests = not keep_alive
        self._enqueue(self._receiving)
        if self._receiving.content_length is None:
            raise BodyInChunks

    def on_body(self, part: bytes) -> None:
        self._unreported = 0
        if self._receiving:
            self._receiving.feed_data(part)

    def on_message_complete(self) -> None:
        self._unreported = 0
        if self._receiving:
            self._receiving.feed_eof()
            self._receiving = None

    # Writing

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def pause_writing(self) -> None:
        self._drained = self.loop.create_future()
        self._write_timer = self.loop.call_later(self._server.limits.write_timeout, self._time_out, "slow_reader")

    def resume_writing(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None
        if self._drained and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def _enqueue(self, request: Request | InvalidRequest) -> None:
        self._requests.append(request)
        if self._respond_task is None:
            self._respond_task = self.loop.create_task(self._respond_all())

    async def _respond_all(self) -> None:
        """Answer the queued requests in order."""
        while self._requests:
            request = self._requests[0]
            if isinstance(request, InvalidRequest):
                self._respond_to_invalid(request)
                break
            try:
                response = await self._server.handler(request)
            except Exception as error:  # noqa: BLE001 - logged as a bug
                self._refusals.bug("bug in a request handler; its connection is cut off", error)
                self._refusals.lost("bug", peer=self.peer, error=str(error))
                response = None
            if response is None:
                self.abort()
                break
            if self._drained:
                await self._drained
            keep_open = self._respond(request, response)
            if not (request.complete or await request.discard_body(self._server.limits.discard_timeout)) or not keep_open:
                self._close()
                break
            if self._requests:  # empty if the connection was aborted meanwhile
                self._requests.popleft()
            if self._reading_paused:
                await asyncio.sleep(0)  # a client that never stops sending must not hold up the others
                self._parse()
        self._respond_task = None
        self._idle_since = self.loop.time()
        if self._in_header and not self._no_more_requests:
            self._start_header_timer()

    def _respond(self, request: Request, response: Response) -> bool:
        """Write the response. Returns whether another request may follow."""
        at_end = self._half_closed and len(self._requests) == 1
        ends = self._server.draining and len(self._requests) == 1 and not (self._unparsed or self.has_unread())
        keep_open = request.keep_alive and not (response.close or at_end or ends)
        connection = ("keep-alive" if request.version == "1.0" else "") if keep_open else "close"
        self.write(response.encode(connection, request.method != "HEAD"))
        return keep_open

    def _respond_to_invalid(self, error: InvalidRequest) -> None:
        refuse = self._refusals.lost if error.lost else self._refusals.harmless
        refuse(error.reason, peer=self.peer, error=str(error))
        self.write(Response(error.status, f"{error}\n").encode("close"))
        self._close()
