"""Captures posts: takes the place of AppMon's bridge, and writes the body of every request to a file.

The receiver takes the posts as it does in a server, with the same limits, but at any path and whatever they contain. A post
file stands in for the journal: a request is answered 200 once the operating system has its body. Optionally, posts are also
forwarded to another server, with their credentials. AppMon does not wait for that: posts are queued and forwarded over
separate connections, and if the queue is full, a post is only written to the file.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from btfeed.http.request import Request
from btfeed.journal.base import DeadLetter, JournalFull, JournalUnavailable
from btfeed.posts.files import PostFileError, Writer
from btfeed.posts.post import Post, digest
from btfeed.receiving.receiver import Receiver
from btfeed.receiving.settings import ReceiverSettings, TlsSettings
from btfeed.telemetry.metrics import Metrics
from btfeed.traffic.http_target import HttpTarget
from btfeed.traffic.sending import count_reason
from sinks.shared.clock import SYSTEM_CLOCK, Clock

MAX_BODY = "64MiB"
"""Size of a body, as sent and after gzip. The other limits are the receiver's defaults."""
MAX_QUEUED_BYTES = 64 * 2**20
"""Total size of the posts that wait to be forwarded."""
FORWARD_CONNECTIONS = 4
"""How many posts are forwarded at the same time."""
FORWARD_TIMEOUT = 10.0
"""Seconds at the end for the posts that wait to be forwarded."""


@dataclass(slots=True)
class CaptureSummary:
    """What was captured.

    posts, bytes   what was written
    refused        requests that were not answered with 200, by reason
    forwarded      posts that the other server accepted
    not_forwarded  posts by reason
    """

    posts: int = 0
    bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    forwarded: int = 0
    not_forwarded: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "posts": self.posts, "bytes": self.bytes, "refused": self.refused, "forwarded": self.forwarded,
            "not_forwarded": dict(self.not_forwarded),
        }  # fmt: skip


class PostFile:
    """Takes posts from the receiver as a journal does, and writes them to a file.

    failure  why the file can't be written
    ended    called once the file is complete or can't be written
    """

    def __init__(self, writer: Writer, summary: CaptureSummary, max_posts: int | None, ended: Callable[[], object]) -> None:
        self.failure: PostFileError | None = None
        self._writer = writer
        self._summary = summary
        self._max_posts = max_posts
        self._ended = ended

    @property
    def refusing(self) -> str | None:
        if self.failure:
            return str(self.failure)
        return "the capture has ended" if self._summary.posts == self._max_posts else None

    async def append(self, post: Post) -> bytes:
        self._write(post.body)
        return digest(post.body)

    async def add_dead_letter(self, dead_letter: DeadLetter) -> None:
        """A body that is not what its Content-Encoding says is written as it arrived."""
        self._write(dead_letter.body)

    def _write(self, body: bytes) -> None:
        """Raises JournalFull or JournalUnavailable."""
        if self.refusing:
            raise (JournalUnavailable if self.failure else JournalFull)(self.refusing)
        try:
            self._writer.write(body)
            self._writer.flush()
        except PostFileError as error:
            self.failure = error
            self._ended()
            raise JournalUnavailable(str(error)) from None
        self._summary.posts += 1
        self._summary.bytes += len(body)
        if self.refusing:
            self._ended()


class Capture:
    """Listens for posts and writes them to `writer`, until `stop` is set or `max_posts` are written.

    listen   host:port
    forward  where to forward each post to
    tls      listen with TLS
    """

    def __init__(
        self,
        writer: Writer,
        stop: asyncio.Event,
        *,
        listen: str,
        forward: HttpTarget | None = None,
        max_posts: int | None = None,
        tls: TlsSettings | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.summary = CaptureSummary()
        self._writer = writer
        self._stop = stop
        self._forward = forward
        self._clock = clock
        self._queue: asyncio.Queue[tuple[bytes, dict[str, str]]] = asyncio.Queue()
        self._queued_bytes = 0
        self._unfinished = 0  # posts in the queue or under way
        self._file = PostFile(writer, self.summary, max_posts, stop.set)
        self._metrics = Metrics()
        settings = ReceiverSettings.model_validate({"listen": listen, "max_body": MAX_BODY, "tls": tls})
        self._receiver = Receiver(
            settings, self._file, self._metrics, clock=clock, accept_all=True, on_stored=self._enqueue
        )

    async def start(self) -> tuple[str, int]:
        """Listen. Returns the actual host and port. Raises OSError."""
        return await self._receiver.start()

    def close(self) -> None:
        """Close the file, if `start` has failed. Raises PostFileError."""
        self._writer.close()

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
            self.close()
        if self._file.failure:
            raise self._file.failure
        return self.summary

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        await self._receiver.stop(patience=0.0)  # what comes from now on is not wanted
        self._receiver.close()
        refused = self._metrics.summary()["refused_posts"]
        assert isinstance(refused, dict)
        self.summary.refused = refused

    async def _finish_forwarding(self) -> None:
        try:
            async with self._clock.timeout(FORWARD_TIMEOUT):
                await self._queue.join()
        except TimeoutError:
            self.summary.not_forwarded["capture ended first"] += self._unfinished

    def _enqueue(self, request: Request, body: bytes) -> None:
        if self._forward is None:
            return
        if self._queued_bytes + len(body) > MAX_QUEUED_BYTES and self._queued_bytes:
            self.summary.not_forwarded["queue full"] += 1
            return
        self._unfinished += 1
        self._queued_bytes += len(body)
        self._queue.put_nowait((body, _forwarded_headers(request)))

    async def _forward_posts(self, target: HttpTarget) -> None:
        while True:
            body, headers = await self._queue.get()
            outcome = await target.send(body, headers)
            if outcome.accepted:
                self.summary.forwarded += 1
            else:
                count_reason(self.summary.not_forwarded, outcome.reason)
            self._unfinished -= 1
            self._queued_bytes -= len(body)
            self._queue.task_done()


def _forwarded_headers(request: Request) -> dict[str, str]:
    """Credentials and type of a post. A header that is not UTF-8 can't be forwarded."""
    headers = {}
    for name in ("Authorization", "Content-Type"):
        with suppress(KeyError, UnicodeDecodeError):
            headers[name] = request.headers[name.lower().encode()].decode()
    return headers
