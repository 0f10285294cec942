"""A client that posts at a steady rate, over new and over kept connections, and sends no post twice, as AppMon."""

import asyncio
import itertools
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.support.harness import DEADLINE, until_async
from tests.support.posts import mixed

OCCURRENCES = 2
RATE = 200
KEPT = 10
ANSWERED_WITHIN = 10.0
"""Seconds after which AppMon gives a post up. The client waits longer: it may share the machine with other tests."""
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%b\r\n"


@dataclass(slots=True, eq=False)
class Sent:
    """A post. kept: sent on a kept connection. began: by time.monotonic. failure: why it was not answered 200."""

    body: bytes
    kept: bool
    began: float
    seconds: float = 0.0
    failure: Exception | None = None


@dataclass
class Client:
    """Posts until `stop`. fields: more fields of each header, each with its line end.

    rate    posts per second: half of them on a new connection each, the others on KEPT connections
    sent    all posts that were answered or have failed
    open    posts that wait for their answers
    opened  how many connections were opened
    closes  how many responses on kept connections ended the connection
    """

    port: int
    seed: int
    tls: ssl.SSLContext | None = None
    fields: bytes = b""
    rate: float = RATE
    occurrences: int = OCCURRENCES
    sent: list[Sent] = field(default_factory=list)
    open: set[Sent] = field(default_factory=set)
    opened: int = 0
    closes: int = 0

    def __post_init__(self) -> None:
        self._stop = asyncio.Event()
        self._bodies = (mixed(self.occurrences, seed) for seed in itertools.count(self.seed * 1_000_000))

    async def run(self) -> None:
        """Returns when every post has its answer."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._open_new(group))
            for number in range(KEPT):
                group.create_task(self._keep(number))

    def stop(self) -> None:
        self._stop.set()

    @asynccontextmanager
    async def posting(self) -> AsyncIterator[None]:
        """Run for as long as the block takes; afterwards every post has its answer."""
        running = asyncio.create_task(self.run())
        try:
            yield
        finally:
            self.stop()
            await running

    async def more_posts(self, number: int = RATE // 2) -> None:
        """Wait until this many more were answered or have failed."""
        enough = len(self.sent) + number
        await until_async(lambda: len(self.sent) >= enough, f"{number} more posts")

    async def more_connections(self, number: int) -> None:
        """Wait until this many more were opened."""
        enough = self.opened + number
        await until_async(lambda: self.opened >= enough, f"{number} more connections")

    @property
    def answered(self) -> list[bytes]:
        return [post.body for post in self.sent if not post.failure]

    @property
    def failures(self) -> list[Sent]:
        return [post for post in self.sent if post.failure]

    @property
    def longest(self) -> float:
        return max(post.seconds for post in self.sent)

    async def _wait(self, due: float) -> bool:
        """Wait until then. False if the client is to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._stop.wait()
        return not self._stop.is_set()

    async def _open_new(self, group: asyncio.TaskGroup) -> None:
        due = asyncio.get_running_loop().time()
        while await self._wait(due):
            group.create_task(self._post_on_new(next(self._bodies)))
            due += 2 / self.rate

    async def _post_on_new(self, body: bytes) -> None:
        connection = Connection(self)
        await self._post(connection, body, kept=False)
        connection.close()

    async def _keep(self, number: int) -> None:
        period = 2 * KEPT / self.rate
        due = asyncio.get_running_loop().time() + period * number / KEPT
        connection = Connection(self)
        while await self._wait(due):
            if await self._post(connection, next(self._bodies), kept=True):
                self.closes += 1
                connection.close()
                connection = Connection(self)
            due += period
        connection.close()

    async def _post(self, connection: "Connection", body: bytes, *, kept: bool) -> bool:
        """Whether the connection ends with this post."""
        post = Sent(body, kept, time.monotonic())
        self.open.add(post)
        ends = True
        try:
            async with asyncio.timeout(DEADLINE):
                ends = await connection.post(body, b"" if kept else b"Connection: close\r\n")
        except (OSError, EOFError, asyncio.IncompleteReadError, TimeoutError, BadAnswer) as error:
            post.failure = error
        post.seconds = time.monotonic() - post.began
        self.open.remove(post)
        self.sent.append(post)
        return ends


class BadAnswer(Exception):
    """Another status than 200."""


class Connection:
    """Opened with its first post."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes, fields: bytes) -> bool:
        """Whether the response ends the connection. Raises OSError, EOFError or BadAnswer."""
        if self._streams and (self._streams[0].at_eof() or self._streams[0].exception()):
            self.close()  # by the server, since the last post
        if self._streams is None:
            name = "localhost" if self._client.tls else None
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._client.port, ssl=self._client.tls, server_hostname=name
            )
            self._client.opened += 1
        reader, writer = self._streams
        writer.write(HEAD % (len(body), fields + self._client.fields) + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not answer.startswith(b"http/1.1 200 "):
            raise BadAnswer(answer.decode())
        return b"connection: close" in answer

    def close(self) -> None:
        if self._streams:
            self._streams[1].transport.abort()
            self._streams = None
