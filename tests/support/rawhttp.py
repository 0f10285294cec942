"""Raw HTTP to a receiver in the test's own process. It can send what an HTTP library would not, and hides nothing."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from btfeed.http.connection import Connection
from btfeed.http.state import Standing
from btfeed.journal.base import DeadLetter, JournalError
from btfeed.journal.sqlite.dead_letters import open_dead_letters
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.journal.sqlite.settings import SqliteSettings
from btfeed.posts.post import Post
from btfeed.receiving.receiver import Receiver
from btfeed.receiving.settings import ReceiverSettings
from btfeed.telemetry.metrics import Metrics
from sinks.shared.clock import SYSTEM_CLOCK, Clock
from tests.support.harness import DEADLINE, until_async
from tests.support.posts import sample_visit


def request(body: bytes | None = b"", *headers: str, line: str = "POST / HTTP/1.1") -> bytes:
    """A request with its Content-Length. body None: without body and length."""
    lines = [line, "Host: test", *headers] + ([] if body is None else [f"Content-Length: {len(body)}"])
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def chunked(body: bytes, *headers: str, size: int = 100) -> bytes:
    """A request with its body in chunks of `size` bytes."""
    parts = [body[place : place + size] for place in range(0, len(body), size)]
    head = request(None, "Transfer-Encoding: chunked", *headers)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def gzipped(*members: bytes) -> bytes:
    return b"".join(gzip.compress(member, mtime=0) for member in members)  # mtime: equal input gives equal bytes


@dataclass(frozen=True)
class ReceivedResponse:
    """headers: names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """One connection to the receiver."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self, head: bool = False) -> ReceivedResponse:
        """The next response. head: it answers a HEAD request, so it has no body whatever its header says."""
        async with asyncio.timeout(DEADLINE):
            header = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *rest = header.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
            body = b"" if head else await self._reader.readexactly(int(headers.get("content-length", 0)))
        return ReceivedResponse(int(first.split()[1]), headers, body)

    async def interim(self) -> bytes:
        """An interim response, such as 100 Continue."""
        async with asyncio.timeout(DEADLINE):
            return await self._reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        found = b""
        try:
            async with asyncio.timeout(DEADLINE):
                while data := await self._reader.read(2**16):
                    found += data
        except ConnectionError:
            pass
        return found

    async def close(self) -> None:
        self.writer.transport.abort()


class GatedJournal(SqliteJournal):
    """A journal whose appends wait for `gate`, and fail with `error` if it is set."""

    def prepare(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: JournalError | None = None
        self.waiting = 0
        self.taken: list[bytes] = []

    def append(self, post: Post) -> "asyncio.Future[bytes]":
        return asyncio.ensure_future(self._append(post))

    async def _append(self, post: Post) -> bytes:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.error:
            raise self.error
        digest = await super().append(post)
        self.taken.append(post.body)
        return digest


@dataclass
class Site:
    """A receiver with its own journal."""

    directory: Path
    journal: GatedJournal
    metrics: Metrics
    receiver: Receiver
    port: int = 0

    @asynccontextmanager
    async def connect(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawClient]:
        name = "localhost" if tls else None
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=name))
        try:
            yield client
        finally:
            await client.close()

    async def ask(self, data: bytes, head: bool = False) -> ReceivedResponse:
        """The response to one request on a new connection."""
        async with self.connect() as client:
            await client.send(data)
            return await client.response(head)

    @property
    def connections(self) -> set[Connection]:
        """The receiver's end of each open connection."""
        return self.receiver._server.connections

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"btfeed_{name}", labels) or 0.0

    def refused(self) -> dict[str, int]:
        """Refused requests by reason."""
        found = self.metrics.summary()["refused_posts"]
        assert isinstance(found, dict)
        return found

    def lost(self) -> dict[str, int]:
        """Lost posts by reason."""
        found = self.metrics.summary()["lost_posts"]
        assert isinstance(found, dict)
        return found

    async def until(self, check: Callable[["Site"], Any], what: str) -> None:
        await until_async(lambda: check(self), what)

    def posts(self) -> list[bytes]:
        """The bodies that are durable in the journal."""
        return self.journal.taken

    def dead_letters(self) -> list[DeadLetter]:
        with open_dead_letters(self.directory) as kept:
            return list(kept.select())


@asynccontextmanager
async def site(directory: Path, *, clock: Clock = SYSTEM_CLOCK, **settings: Any) -> AsyncIterator[Site]:
    """A running receiver. settings: of the receiver; `journal`: of the journal. clock: the receiver's."""
    metrics = Metrics()
    journal_settings = SqliteSettings.model_validate({"directory": str(directory)} | settings.pop("journal", {}))
    chosen = ReceiverSettings.model_validate({"listen": "127.0.0.1:0"} | settings)
    journal = GatedJournal(journal_settings, {}, metrics, chosen.max_occurrences)
    journal.prepare()
    await journal.open()
    running = Site(directory, journal, metrics, Receiver(chosen, journal, metrics, clock=clock))
    try:
        _, running.port = await running.receiver.start()
        yield running
    finally:
        journal.gate.set()
        await running.receiver.stop(patience=0.0)
        await journal.close()
        running.receiver.close()


async def begin(client: RawClient) -> None:
    """Use the connection once."""
    await client.send(request(sample_visit()))
    assert (await client.response()).status == 200


def busy(running: Site) -> int:
    """How many connections have a request under way, or part of its header."""
    standings = [connection.gives_way for connection in running.connections]
    return sum(standing is None or standing[0] is Standing.STALLED for standing in standings)
