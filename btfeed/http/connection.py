"""One connection: calls the handler for its requests, and writes the responses in order. The path of a request:

    data_received -> RequestParser     gets the bytes piece by piece, as long as there is room for what it finds
                  -> _on_request       the request joins the queue when its header is complete
    _respond_all  -> handler(request)  which waits for as much of the body as it wants -> one write

A post that has arrived whole, and has the header of an earlier one, takes a shorter path: data_received -> RepeatedHeader
-> shortcut(request) -> _answered. It needs neither llhttp nor a task.

`_respond_all` is one task that lives while requests are queued. A client that sends faster than that is not read from.
Every wait has a deadline: header, idle connection and unread responses here, the body in the handler.
"""

import asyncio
import ssl
from collections import deque
from itertools import islice
from typing import cast

import structlog

from btfeed.http.limits import MAX_PIPELINED
from btfeed.http.parser import RequestParser
from btfeed.http.repeated import RepeatedHeader
from btfeed.http.request import CutOff, InvalidBody, InvalidRequest, Request
from btfeed.http.response import RETRY_AFTER, Response
from btfeed.http.sockets import has_unread
from btfeed.http.state import Occupant, ServerState, Standing
from btfeed.http.tls_error import explain

log = structlog.get_logger()


class Connection(asyncio.Protocol):
    """One connection. Its public methods are called by asyncio, by httptools, by its requests, and by the server.

    peer: the client's host. The socket may not tell it any more when it is accepted
    handshake: what had its place before
    """

    def __init__(self, server: ServerState, peer: str, handshake: Occupant | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.peer = peer
        self._server = server
        self._handshake = handshake
        self._refusals = server.refusals
        self._parser = RequestParser(self, self._on_request)
        self._requests: deque[Request | InvalidRequest] = deque()  # not answered yet; the first is being answered
        self._repeated: RepeatedHeader | None = None
        self._responding: asyncio.Task[None] | Request | None = None  # a request: by the shortcut
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
        self._idle_timer = self.loop.call_later(self._server.limits.idle_timeout, self.check_idle)
        self._server.metrics.connections.inc()
        log.debug("connection opened", peer=self.peer)
        if not self._server.enter(self, self._handshake):
            self._refusals.lost("too_many_connections", peer=self.peer)
            self.write(Response(503, headers=RETRY_AFTER).encode("close"))
            self._close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.connections.discard(self)
        self._server.metrics.connections.dec()
        if isinstance(exc, ssl.SSLError) and not self._parser.method:  # with TLS 1.3, a client may fail after the handshake
            self._refusals.lost("bad_tls", peer=self.peer, **explain(exc))
        elif self._parser.began_post and not self._no_more_requests:
            self._refusals.lost("disconnected", peer=self.peer, error="the client disconnected")
        self._idle_timer.cancel()
        self._stop_header_timer()
        self.resume_writing()
        self._no_more_requests = True
        self._parser.drop()
        if self._parser.receiving:
            self._parser.receiving.set_exception(ConnectionResetError("the client disconnected"))
            self._parser.receiving = None

    def eof_received(self) -> bool:
        """Whether to keep the connection open, to answer what was sent completely. TLS has no half-closed state."""
        tls = self._transport.get_extra_info("sslcontext") is not None
        self._half_closed = bool(self._requests) and self._parser.receiving is None and not tls
        return self._half_closed

    @property
    def gives_way(self) -> tuple[Standing, float] | None:
        """See Occupant."""
        if self._header_timer:
            return Standing.STALLED, self._header_since
        standing = Standing.USED if self._parser.method else Standing.SILENT
        return None if self._requests else (standing, self._idle_since)

    def has_unread(self) -> bool:
        """See Occupant."""
        return not self._transport.is_closing() and has_unread(self._transport.get_extra_info("socket").fileno())

    def close_if_idle(self, since: float) -> None:
        """See Occupant."""
        if not self._requests and not self._header_timer and self._idle_since <= since and not self.has_unread():
            self._close()

    def abort(self, reason: str = "cut_off", error: str = "the connection was cut off in the header") -> None:
        """Cut the connection off at once. Closing would wait for the client. reason: of the posts that this loses. error:
        of one whose header has not arrived whole."""
        if self._parser.receiving:
            self._parser.receiving.set_exception(CutOff(reason))
        elif self._parser.began_post and not self._no_more_requests:
            self._refusals.lost(reason, peer=self.peer, error=error)
        self._drop_requests(reason)
        self._transport.abort()

    def _close(self) -> None:
        """Close the connection once everything written has been sent."""
        self._drop_requests("shutting_down" if self._server.draining else "cut_off")
        self._transport.close()

    def _drop_requests(self, reason: str) -> None:
        """Leave unanswered what has not been answered, and read nothing more."""
        self._no_more_requests = True
        self._parser.drop()
        for request in islice(self._requests, 1, None):  # the handler has the first
            if isinstance(request, Request) and request.carries_post:
                self._refusals.lost(reason, peer=self.peer, error="it was sent ahead on a connection that was cut off")
        self._requests.clear()

    # Deadlines

    def check_idle(self) -> None:
        """Close it if it has been idle for too long, and look again when it would be."""
        self._idle_timer.cancel()
        remaining = self._server.limits.idle_timeout
        if not self._requests and not self._header_timer:
            remaining -= self.loop.time() - self._idle_since
            if remaining <= 0 and not self.has_unread():
                self._close()
                return
        self._idle_timer = self.loop.call_later(remaining, self.check_idle)

    def _start_header_timer(self) -> None:
        if self._header_timer is None:
            self._header_since = self.loop.time()
            error = "the header took longer than receiver.header_timeout"
            self._header_timer = self.loop.call_later(
                self._server.limits.header_timeout, self._time_out, "slow_header", error
            )

    def _stop_header_timer(self) -> None:
        if self._header_timer:
            self._header_timer.cancel()
            self._header_timer = None

    def _time_out(self, reason: str, error: str) -> None:
        if not self._parser.began_post:
            self._refusals.harmless(reason, peer=self.peer, error=error)
        self.abort(reason, error)

    # Reading

    def data_received(self, data: bytes) -> None:
        if self._no_more_requests and self._parser.receiving is None:
            return
        if self._requests or not self._parser.at_start:
            self._parser.add(data)
            self._parse()
        elif self._repeated and (request := self._repeated.request(data)):
            self._on_request(request)
        else:
            self._parser.add(data)
            self._parse()
            if self._requests and isinstance(first := self._requests[0], Request):
                self._repeated = RepeatedHeader.of(first, data) or self._repeated
        if self._requests and not self._responding:
            self._respond_first()
        if not self._requests and not self._no_more_requests:
            self._start_header_timer()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._parse()

    def _parse(self) -> None:
        """Parse what has arrived, as far as there is room for it. The rest waits, and the socket is not read."""
        while not (full := self._is_full()) and self._parser.unparsed:
            try:
                self._parser.parse()
            except InvalidRequest as error:
                self._fail(error)
        if full != self._reading_paused and not self._transport.is_closing():
            self._reading_paused = full
            (self._transport.pause_reading if full else self._transport.resume_reading)()

    def _on_request(self, request: Request) -> None:
        self._stop_header_timer()
        self._no_more_requests = not request.keep_alive
        self._requests.append(request)

    def _is_full(self) -> bool:
        receiving = self._parser.receiving
        return len(self._requests) >= MAX_PIPELINED or (receiving is not None and receiving.buffer_full)

    def _fail(self, error: InvalidRequest) -> None:
        """The client broke the protocol: nothing it sends from here on can be understood."""
        self._parser.drop()
        if self._parser.receiving:
            self._parser.receiving.set_exception(InvalidBody(str(error)))
            self._parser.receiving = None
        elif not self._no_more_requests:
            error.lost |= self._parser.in_post
            self._requests.append(error)
        self._no_more_requests = True

    # Writing

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def pause_writing(self) -> None:
        self._drained = self.loop.create_future()
        error = "the client read no answers for receiver.body_timeout"
        self._write_timer = self.loop.call_later(self._server.limits.write_timeout, self._time_out, "slow_reader", error)

    def resume_writing(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None
        if self._drained and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def _respond_first(self) -> None:
        """Begin to answer the queued requests, of which none is being answered."""
        request = self._requests[0]
        if isinstance(request, Request) and request.complete and not (self._drained or self._reading_paused):
            self._responding = request
            if self._server.shortcut(request, self._answered):
                return
        self._responding = self.loop.create_task(self._respond_all())

    def _answered(self, response: Response | None) -> None:
        """The shortcut has answered."""
        assert isinstance(self._responding, Request)
        if response is None:
            self.abort()
        elif not self._respond(self._responding, response):
            self._close()
        elif self._requests:  # empty if the connection was aborted meanwhile
            self._requests.popleft()
        if self._requests:
            self._respond_first()
        else:
            self._stop_responding()

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
        self._stop_responding()

    def _stop_responding(self) -> None:
        self._responding = None
        self._idle_since = self.loop.time()
        if self._parser.in_header and not self._no_more_requests:
            self._start_header_timer()

    def _respond(self, request: Request, response: Response) -> bool:
        """Write the response. Returns whether another request may follow."""
        at_end = self._half_closed and len(self._requests) == 1
        ends = self._server.draining and len(self._requests) == 1 and not (self._parser.unparsed or self.has_unread())
        keep_open = request.keep_alive and not (response.close or at_end or ends)
        connection = ("keep-alive" if request.version == "1.0" else "") if keep_open else "close"
        self.write(response.encode(connection, request.method != "HEAD"))
        return keep_open

    def _respond_to_invalid(self, error: InvalidRequest) -> None:
        refuse = self._refusals.lost if error.lost else self._refusals.harmless
        refuse(error.reason, peer=self.peer, error=str(error))
        self.write(Response(error.status, f"{error}\n").encode("close"))
        self._close()
