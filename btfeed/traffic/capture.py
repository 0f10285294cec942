"""Captures posts: takes the place of AppMon's bridge, and writes the body of every request to a file.

A request is answered 200 once the operating system has its body, whatever the body contains. Optionally, posts are also
forwarded to another server, with their credentials. AppMon does not wait for that: posts are queued and forwarded over
separate connections, and if the queue is full, a post is only written to the file.
"""

import asyncio
import ssl
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from btfeed.http.gunzip import Gunzip, TooLong
from btfeed.http.limits import Limits
from btfeed.http.request import InvalidBody, Request
from btfeed.http.response import Response
from btfeed.http.server import HttpServer
from btfeed.posts.files import PostFileError, Writer
from btfeed.telemetry.metrics import Metrics
from btfeed.traffic.http_target import APPMON_TIMEOUT, HttpTarget
from sinks.shared.clock import SYSTEM_CLOCK, Clock

MAX_BODY_BYTES = 64 * 2**20
"""Size of a body, as sent and after gzip."""
MAX_QUEUED_BYTES = 64 * 2**20
"""Total size of the posts that wait to be forwarded."""
FORWARD_CONNECTIONS = 4
"""How many posts are forwarded at the same time."""
HEADER_TIMEOUT = ANSWER_TIMEOUT = APPMON_TIMEOUT
"""Seconds for a client to send a request's header, and to take its answer."""
BODY_TIMEOUT = 30.0
"""Seconds for a client to send a request's body."""
IDLE_TIMEOUT = 300.0
"""Seconds until a connection without a request is closed."""
MAX_CONNECTIONS = 1_000
"""Client connections that may be open at the same time."""
DRAIN_TIMEOUT = FORWARD_TIMEOUT = 10.0
"""Seconds at the end for open requests, and then for the posts that wait to be forwarded."""


@dataclass(slots=True)
class CaptureSummary:
    """posts, bytes: what was written. forwarded: posts that the other server accepted. not_forwarded: posts by reason."""

    posts: int = 0
    bytes: int = 0
    forwarded: int = 0
    not_forwarded: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "posts": self.posts, "bytes": self.bytes, "forwarded": self.forwarded,
            "not_forwarded": dict(self.not_forwarded),
        }  # fmt: skip


class Capture:
    """Listens for posts and writes them to `writer`, until `stop` is set or `max_posts` are written.

    forward  where to forward each post to
    tls      listen with TLS
    """

    def __init__(
        self,
        writer: Writer,
        stop: asyncio.Event,
        *,
        forward: HttpTarget | None = None,
        max_posts: int | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.summary = CaptureSummary()
        self._writer = writer
        self._stop = stop
        self._forward = forward
        self._max_posts = max_posts
        self._tls = tls
        self._clock = clock
        self._failure: PostFileError | None = None
        self._queue: asyncio.Queue[tuple[bytes, dict[str, str]]] = asyncio.Queue()
        self._queued_bytes = 0
        self._unfinished = 0  # posts in the queue or under way
        limits = Limits(
            header_timeout=HEADER_TIMEOUT,
            write_timeout=ANSWER_TIMEOUT,
            idle_timeout=IDLE_TIMEOUT,
            max_connections=MAX_CONNECTIONS,
        )
        self._server = HttpServer(self._handle, Metrics(), limits)

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen. Returns the actual host and port. Raises OSError."""
        self._listener = await asyncio.get_running_loop().create_server(self._server, host, port, ssl=self._tls)
        host, port, *_ = self._listener.sockets[0].getsockname()
        return host, port

    async def run(self) -> CaptureSummary:
        """Run until stopped. Raises PostFileError if the file cannot be written."""
        try:
            if self._forward:
                async with self._forward, asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._forward_posts(self._forward)) for _ in range(FORWARD_CONNECTIONS)]
                    await self._until_stopped()
                    await self._finish_forwarding()
                    for task in tasks:
                        task.cancel()
            else:
                await self._until_stopped()
        finally:
            self._writer.close()
        if self._failure:
            raise self._failure
        return self.summary

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        self._listener.close()
        await self._server.drain(DRAIN_TIMEOUT)

    async def _finish_forwarding(self) -> None:
        try:
            async with self._clock.timeout(FORWARD_TIMEOUT):
                await self._queue.join()
        except TimeoutError:
            self.summary.not_forwarded["capture ended first"] += self._unfinished

    async def _handle(self, request: Request) -> Response:
        if request.method not in ("POST", "PUT"):
            return Response()  # AppMon's "Test connection"
        try:
            async with self._clock.timeout(BODY_TIMEOUT):
                body = await _body(request)
        except TimeoutError:
            return Response(400, f"the body did not arrive within {BODY_TIMEOUT:g} s\n", close=True)
        except (TooLong, zlib.error, InvalidBody, ConnectionError) as error:
            return Response(400, f"cannot read the body: {error}\n", close=True)
        if body and not self._write(body):
            return Response(503, f"{self._failure or 'the capture has ended'}\n")
        if body and self._forward:
            self._enqueue(body, request)
        return Response()

    def _write(self, body: bytes) -> bool:
        """Write the body. Returns False if it cannot be written, which also ends the capture."""
        if self._failure or (self._max_posts is not None and self.summary.posts >= self._max_posts):
            return False
        try:
            self._writer.write(body)
            self._writer.flush()
        except PostFileError as error:
            self._failure = error
            self._stop.set()
            return False
        self.summary.posts += 1
        self.summary.bytes += len(body)
        if self.summary.posts == self._max_posts:
            self._stop.set()
        return True

    def _enqueue(self, body: bytes, request: Request) -> None:
        if self._queued_bytes + len(body) > MAX_QUEUED_BYTES and self._queued_bytes:
            self.summary.not_forwarded["queue full"] += 1
            return
        self._unfinished += 1
        self._queued_bytes += len(body)
        sent = ((name, request.headers.get(name.lower().encode())) for name in ("Authorization", "Content-Type"))
        self._queue.put_nowait((body, {name: value.decode(errors="surrogateescape") for name, value in sent if value}))

    async def _forward_posts(self, target: HttpTarget) -> None:
        while True:
            body, headers = await self._queue.get()
            outcome = await target.send(body, headers)
            if outcome.accepted:
                self.summary.forwarded += 1
            else:
                self.summary.not_forwarded[outcome.reason] += 1
            self._unfinished -= 1
            self._queued_bytes -= len(body)
            self._queue.task_done()


async def _body(request: Request) -> bytes:
    """The whole body, decompressed. Raises TooLong, zlib.error, InvalidBody or ConnectionError."""
    if not await request.wait_for_body(MAX_BODY_BYTES):
        raise TooLong(f"longer than {MAX_BODY_BYTES} bytes")
    body = request.pop_body()
    if not body or b"gzip" not in request.headers.get(b"content-encoding", b"").lower():
        return body
    plain = Gunzip(MAX_BODY_BYTES)
    for _ in plain.feed(body):
        await asyncio.sleep(0)
    return plain.end()
