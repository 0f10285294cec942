"""The load generator: posts over kept-alive connections, as fast as answers come or at a fixed rate.

    python -m benchmarks.generator POSTS.btposts URL CONNECTIONS     JSON commands on stdin, one a line; answers on stdout

It uses little CPU: one protocol on uvloop, and requests made of prepared parts. Its own limit is measured against a black
hole, and is part of a result. Like AppMon it sends no Accept-Encoding, because some servers would compress their answers.

Commands: {"posts": N} sends N posts as fast as answers come; {"posts": N, "rate": R} sends R posts a second, whatever the
answers. At a fixed rate, a post's latency counts from the time at which it was due, so that a stall counts for all posts
that it held up.
"""

import asyncio
import json
import os
import sys
import time
from array import array
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.load import Load, Unique
from benchmarks.measuring import pin

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


class Generator:
    """Sends the posts of a load: call `connect` once, then `run` for each command."""

    def __init__(self, load: Load, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.address = (parts.hostname, parts.port or 80)
        self._posts = Unique(load.bodies)
        self._head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/octet-stream\r\n"
            "Content-Length: "
        ).encode()
        self._idle: deque[Connection] = deque()
        self._due: deque[float] = deque()  # due times of posts that wait for a connection
        self._latencies = array("d")
        self._refused: dict[str, int] = {}
        self._left = self._unanswered = 0
        self._late = 0.0  # the most seconds that a post left late although a connection was free
        self._done = asyncio.Event()

    async def connect(self, connections: int) -> None:
        for _ in range(connections):
            _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(self), *self.address)
            self._idle.append(connection)

    async def run(self, posts: int, rate: float | None = None) -> dict[str, Any]:
        """Send this many posts, and return a summary when all are answered."""
        self._latencies, self._refused, self._late = array("d"), {}, 0.0
        self._unanswered = posts
        self._done.clear()
        cpu, started = time.process_time(), time.perf_counter()
        if rate is None:
            self._left = posts
            for _ in range(len(self._idle)):
                self._give(self._idle.popleft())
        else:
            await self._pace(posts, rate, started)
        await self._done.wait()
        seconds = time.perf_counter() - started
        return self._summary(posts, seconds, time.process_time() - cpu)

    async def _pace(self, posts: int, rate: float, started: float) -> None:
        for number in range(posts):
            due = started + number / rate
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            self._due.append(due)
            if self._idle:
                self._late = max(self._late, time.perf_counter() - due)
                self._give(self._idle.popleft())

    def _give(self, connection: "Connection") -> None:
        """Send the next post, if there is one, over a free connection."""
        if self._due:
            since = self._due.popleft()
        elif self._left:
            self._left -= 1
            since = time.perf_counter()
        else:
            self._idle.append(connection)
            return
        parts = self._posts.next()
        length = sum(map(len, parts))
        connection.send([self._head + b"%d\r\n\r\n" % length, *parts], since)

    def answered(self, connection: "Connection", status: str, since: float) -> None:
        """status: that of the answer, such as "200 OK", or what went wrong."""
        if status.startswith("200"):
            self._latencies.append(time.perf_counter() - since)
        else:
            self._refused[status] = self._refused.get(status, 0) + 1
        self._unanswered -= 1
        if not self._unanswered:
            self._done.set()
        if not connection.lost:
            self._give(connection)
        elif self._left or self._due:
            raise SystemExit(f"connection lost: {status}")

    def _summary(self, posts: int, seconds: float, cpu: float) -> dict[str, Any]:
        ordered = sorted(self._latencies)
        at = {name: ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1e3 for name, q in QUANTILES.items() if ordered}
        summary = {"posts": posts, "taken": len(ordered), "refused": self._refused, "seconds": seconds, "cpu": cpu}
        return summary | {"latency_ms": at, "late_ms": self._late * 1e3}


class Connection(asyncio.Protocol):
    """A kept-alive connection, with one request at a time."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._buffer = b""
        self._since = 0.0
        self._busy = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def send(self, parts: list[bytes], since: float) -> None:
        self._since, self._busy = since, True
        self._transport.writelines(parts)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        if b"\r\ntransfer-encoding: chunked" in lower:
            if not rest.endswith(b"0\r\n\r\n"):
                return
        elif len(rest) < int(lower.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0):
            return
        self._buffer, self._busy = b"", False
        status = head.partition(b"\r\n")[0].partition(b" ")[2].decode(errors="replace")
        self._generator.answered(self, status, self._since)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._busy:
            self._busy = False
            self._generator.answered(self, f"no answer: {error}", self._since)


async def _serve(path: Path, url: str, connections: int) -> None:
    generator = Generator(Load.read(path), url)
    await generator.connect(connections)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command: Mapping[str, Any] = json.loads(line)
        print(json.dumps(await generator.run(**command)), flush=True)


if __name__ == "__main__":
    pin(-1)
    uvloop.run(_serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
