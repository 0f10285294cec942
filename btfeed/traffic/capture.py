"""Capture: stands where the bridge would, and writes every post to a file as it came.

A request is answered 200 when its body is handed to the file; nothing is asked of what is in it. As a tap, each post is
then passed on with its credentials, by a few connections of their own, so that a far end that is slow or away costs
AppMon nothing; what does not fit into their queue is counted and not passed on, and is in the file all the same.
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
from btfeed.traffic.sending import Url

MAX_BODY = 64 * 2**20
QUEUE = 64 * 2**20
"""Bytes of posts that wait to be passed on."""
CONNECTIONS = 4
"""On which posts are passed on."""
PATIENCE = 10.0
"""Seconds: a request's header, its body, and at the end the queue; AppMon's own."""


@dataclass(slots=True)
class Captured:
    """posts, bytes: written. forwarded, not_forwarded: what became of them at the far end, by its answer."""

    posts: int = 0
    bytes: int = 0
    forwarded: int = 0
    not_forwarded: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {
            "posts": self.posts, "bytes": self.bytes, "forwarded": self.forwarded,
            "not_forwarded": dict(self.not_forwarded),
        }  # fmt: skip


class Capture:
    """A listener that writes to `writer`, and ends when `stop` is set or it has `max_posts`."""

    def __init__(
        self,
        writer: Writer,
        stop: asyncio.Event,
        *,
        forward: Url | None = None,
        max_posts: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.captured = Captured()
        self._writer = writer
        self._stop = stop
        self._forward = forward
        self._max_posts = max_posts
        self._tls = tls
        self._failure: PostFileError | None = None
        self._queue: asyncio.Queue[tuple[bytes, dict[str, str]]] = asyncio.Queue()
        self._queued = 0
        limits = Limits(header_timeout=PATIENCE, write_timeout=PATIENCE, idle_timeout=300.0, max_connections=1_000)
        self._server = HttpServer(self._handle, Metrics(), limits)

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the host and port taken. Raises OSError."""
        self._listener = await asyncio.get_running_loop().create_server(self._server, host, port, ssl=self._tls)
        host, port, *_ = self._listener.sockets[0].getsockname()
        return host, port

    async def run(self) -> Captured:
        """Until it is to stop. Raises PostFileError where the file takes no more."""
        try:
            if self._forward:
                async with self._forward, asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._pass_on(self._forward)) for _ in range(CONNECTIONS)]
                    await self._until_stopped()
                    await self._empty_queue()
                    for task in tasks:
                        task.cancel()
            else:
                await self._until_stopped()
        finally:
            self._writer.close()
        if self._failure:
            raise self._failure
        return self.captured

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        self._listener.close()
        await self._server.drain(PATIENCE)

    async def _empty_queue(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._queue.join()
        except TimeoutError:
            self.captured.not_forwarded["stopped before its turn"] += self._queue.qsize()

    async def _handle(self, request: Request) -> Response:
        if request.method not in ("POST", "PUT"):
            return Response()  # AppMon's "Test connection"
        try:
            async with asyncio.timeout(PATIENCE * 3):
                body = await _body(request)
        except (TooLong, TimeoutError, zlib.error, InvalidBody, ConnectionError) as error:
            return Response(400, f"the body can't be read: {str(error) or type(error).__name__}\n", close=True)
        if body and not self._write(body):
            return Response(503, f"{self._failure}\n")
        if body and self._forward:
            self._enqueue(body, request)
        return Response()

    def _write(self, body: bytes) -> bool:
        """Whether it is in the file; the first that is not ends the capture."""
        if self._failure or (self._max_posts is not None and self.captured.posts >= self._max_posts):
            return False
        try:
            self._writer.write(body)
            self._writer.flush()
        except PostFileError as error:
            self._failure = error
            self._stop.set()
            return False
        self.captured.posts += 1
        self.captured.bytes += len(body)
        if self.captured.posts == self._max_posts:
            self._stop.set()
        return True

    def _enqueue(self, body: bytes, request: Request) -> None:
        if self._queued + len(body) > QUEUE and self._queued:
            self.captured.not_forwarded["the queue is full"] += 1
            return
        self._queued += len(body)
        given = ((name, request.headers.get(name.lower().encode())) for name in ("Authorization", "Content-Type"))
        self._queue.put_nowait((body, {name: value.decode(errors="surrogateescape") for name, value in given if value}))

    async def _pass_on(self, far_end: Url) -> None:
        while True:
            body, headers = await self._queue.get()
            answer = await far_end.send(body, headers)
            if answer.taken:
                self.captured.forwarded += 1
            else:
                self.captured.not_forwarded[answer.text] += 1
            self._queued -= len(body)
            self._queue.task_done()


async def _body(request: Request) -> bytes:
    """The whole body, decompressed. Raises TooLong or zlib.error."""
    if not await request.wait_for_body(MAX_BODY):
        raise TooLong(f"longer than {MAX_BODY} bytes")
    body = request.pop_body()
    if not body or b"gzip" not in request.headers.get(b"content-encoding", b"").lower():
        return body
    plain = Gunzip(MAX_BODY)
    for _ in plain.feed(body):
        await asyncio.sleep(0)
    return plain.end()
