"""Sending: posts to a url as AppMon posts them, or to a file, each when it is due; what became of each is counted.

A post has one of three outcomes: taken (an answer below 400), refused (another answer, or no connection over which it
could have gone), or unknown (it went out and no answer came). Only a person can know whether an unknown one may be posted
again; without `retry` nothing is.
"""

import asyncio
import base64
import math
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp

from btfeed.posts.files import PostFileError, Writer

TIMEOUT = aiohttp.ClientTimeout(connect=10, sock_read=10)
"""AppMon's own patience, in seconds."""
ANSWER = 200
"""Characters of a refusal that are told."""
TRIES, FIRST_WAIT = 8, 0.1
"""How often a post goes out under `retry`; seconds before the second time, twice as many before each further."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A post to be sent. due: seconds after the first may go. occurrences: how many are in it."""

    body: bytes
    occurrences: int = 0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """status: None where none came. sent: False where the post can't have been taken."""

    status: int | None
    text: str = ""
    sent: bool = True

    @property
    def taken(self) -> bool:
        return self.status is not None and self.status < 400

    @property
    def unknown(self) -> bool:
        return self.status is None and self.sent


class Latencies:
    """How long answers took: counted by size, to 2 %, in memory that does not grow with their number."""

    STEPS = 36  # to a doubling

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        self._counts[round(math.log2(max(seconds, 1e-9)) * self.STEPS)] += 1

    def quantile(self, share: float) -> float | None:
        """Seconds within which that share of the answers came, None without any."""
        left = self._counts.total() * share
        for step in sorted(self._counts):
            left -= self._counts[step]
            if left <= 0:
                return float(2 ** (step / self.STEPS))
        return None


@dataclass(slots=True)
class Summary:
    """What became of the posts. posts: taken ones, as occurrences and bytes. refused: by what was answered, or "no answer".
    unknown: by what went wrong. retried: posts that went out again."""

    posts: int = 0
    occurrences: int = 0
    bytes: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    retried: int = 0
    seconds: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)

    @property
    def refusals(self) -> int:
        return sum(self.refused.values())

    @property
    def unknowns(self) -> int:
        return sum(self.unknown.values())

    def refuse(self, why: str) -> None:
        self.refused[why] = self.refused.get(why, 0) + 1

    def latency(self, share: float) -> float | None:
        """Milliseconds within which that share of the answers came, None without any."""
        seconds = self.latencies.quantile(share)
        return None if seconds is None else round(seconds * 1000, 3)

    def as_json(self) -> dict[str, Any]:
        seconds = max(self.seconds, 1e-9)
        return {
            "posts": self.posts, "occurrences": self.occurrences, "bytes": self.bytes,
            "refused": self.refusals, "unknown": self.unknowns, "retried": self.retried,
            "seconds": round(self.seconds, 3), "posts_per_second": round(self.posts / seconds, 1),
            "occurrences_per_second": round(self.occurrences / seconds, 1),
            "latency_ms": {"p50": self.latency(0.5), "p99": self.latency(0.99)},
            "answers": self.refused | self.unknown,
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """As text."""
        seconds = max(self.seconds, 1e-9)
        yield (
            f"{self.posts} posts, {self.occurrences} occurrences, {self.refusals} refused in {self.seconds:.2f} s: "
            f"{self.posts / seconds:.0f} posts/s, {self.occurrences / seconds:.0f} occurrences/s"
        )
        if self.latency(0.5) is not None:
            yield f"latency p50 {self.latency(0.5):.1f} ms, p99 {self.latency(0.99):.1f} ms"
        for why, number in self.refused.items():
            yield f"refused {number}: {why}"
        for why, number in self.unknown.items():
            yield f"unknown {number}: {why}"
        if self.retried:
            yield f"posted again {self.retried}"


class Target(Protocol):
    """Where posts go."""

    timed: bool
    """Whether its answers take a time that is worth telling."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exception: Any) -> None: ...

    async def send(self, body: bytes) -> Answer: ...


class Url:
    """An http or https url, as AppMon's client posts to it: kept-alive connections, octet-stream, preemptive Basic auth."""

    timed = True

    def __init__(
        self,
        url: str,
        *,
        connections: int = 1,
        basic_auth: tuple[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url
        self._connections = connections
        self._tls: ssl.SSLContext | bool = tls or True
        self._headers = {"Content-Type": "application/octet-stream"}
        if basic_auth:
            self._headers["Authorization"] = "Basic " + base64.b64encode(":".join(basic_auth).encode()).decode()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._tls),
            timeout=TIMEOUT,
            headers=self._headers,
            skip_auto_headers=["Accept-Encoding"],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                text = " ".join((await response.text(errors="replace")).split())[:ANSWER]
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Answer(None, f"no answer: {str(error) or type(error).__name__}", sent=False)
        except (aiohttp.ClientError, TimeoutError) as error:
            return Answer(None, f"no answer: {str(error) or type(error).__name__}")
        said = f"{response.status} {response.reason}"
        return Answer(response.status, f"{said}: {text}" if text else said)


class File:
    """A `*.btposts` file. prompt: each post is handed to the system at once, for who reads as it grows.

    Raises PostFileError.
    """

    timed = False

    def __init__(self, writer: Writer, prompt: bool = False) -> None:
        self._writer = writer
        self._prompt = prompt

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self._writer.close()

    async def send(self, body: bytes) -> Answer:
        self._writer.write(body)
        if self._prompt:
            self._writer.flush()
        return Answer(200)


class Sender:
    """Sends posts to one target, several at a time.

    retry     posts without an answer go out again, up to TRIES times
    rejected  called with each post that is refused, and its answer
    progress  called with each post's size when all is said about it
    stop      no post goes out once this is set
    blocking  taking the next post may wait for somebody, so that it is done on a thread
    """

    def __init__(
        self,
        target: Target,
        *,
        connections: int = 1,
        retry: bool = False,
        rejected: Callable[[bytes, Answer], object] = lambda body, answer: None,
        progress: Callable[[int], object] = lambda size: None,
        stop: asyncio.Event | None = None,
        blocking: bool = False,
    ) -> None:
        self.summary = Summary()
        self._target = target
        self._connections = connections
        self._tries = TRIES if retry else 1
        self._rejected = rejected
        self._progress = progress
        self._stop = stop or asyncio.Event()
        self._blocking = blocking
        self._turn = asyncio.Lock()

    async def send(self, posts: Iterator[Outgoing]) -> Summary:
        """Send them all. `summary` tells how far it is meanwhile."""
        self._started = time.perf_counter()
        async with self._target:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._connections):
                        group.create_task(self._connection(posts))
            except* (PostFileError, OSError) as errors:
                raise errors.exceptions[0] from None
            finally:
                self.summary.seconds = time.perf_counter() - self._started
        return self.summary

    async def _connection(self, posts: Iterator[Outgoing]) -> None:
        while (post := await self._next(posts)) is not None:
            delay = self._started + post.due - time.perf_counter()
            if delay > 0:
                await self._pause(delay)
            if self._stop.is_set():
                return
            await self._send(post)
            self._progress(len(post.body))
            self.summary.seconds = time.perf_counter() - self._started

    async def _next(self, posts: Iterator[Outgoing]) -> Outgoing | None:
        if not self._blocking:
            return next(posts, None)
        async with self._turn:
            return await asyncio.to_thread(next, posts, None)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _send(self, post: Outgoing) -> None:
        wait = FIRST_WAIT
        lost: Answer | None = None  # of an earlier time that may have been taken
        for tries in range(1, self._tries + 1):
            began = time.perf_counter()
            answer = await self._target.send(post.body)
            lost = answer if answer.unknown else lost
            if answer.status is not None or tries == self._tries or self._stop.is_set():
                break
            self.summary.retried += 1
            await self._pause(wait)
            wait *= 2
        if answer.status is not None and self._target.timed:
            self.summary.latencies.add(time.perf_counter() - began)
        self._count(post, answer if answer.status is not None else lost or answer)

    def _count(self, post: Outgoing, answer: Answer) -> None:
        if answer.taken:
            self.summary.posts += 1
            self.summary.bytes += len(post.body)
            self.summary.occurrences += post.occurrences
        elif answer.unknown:
            self.summary.unknown[answer.text] = self.summary.unknown.get(answer.text, 0) + 1
        else:
            self.summary.refuse(answer.text)
            self._rejected(post.body, answer)
