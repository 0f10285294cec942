"""Sends posts, each when it is due, to a URL as AppMon does or to a file, and counts the outcomes.

The outcome of a post is one of these:

    accepted   the status of the answer is 2xx or 3xx, which AppMon takes for success
    refused    the answer has another status, or no connection could be made
    unknown    the post was sent but no answer arrived; it may have been accepted

A post is sent once. With `retry`, a post without an answer is sent again, and may then arrive twice.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, Protocol, Self

from btfeed.posts.files import PostFileError, Writer
from sinks.shared.clock import SYSTEM_CLOCK, Clock

MAX_REASONS = 100
"""Different reasons that are counted apart. A server may word every answer differently."""
MAX_ATTEMPTS = 8
"""How often a post is sent at most with `retry`."""
FIRST_RETRY_DELAY = 0.1
"""Seconds before the second attempt; doubled before each further one."""


@dataclass(frozen=True, slots=True)
class ScheduledPost:
    """A post to be sent.

    occurrences  how many it contains
    due          earliest moment to send it, in seconds after the start
    """

    body: bytes
    occurrences: int = 0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a post.

    status  HTTP status of the answer; None if there was none
    reason  the answer, or what went wrong, as text
    sent    False if the post certainly did not reach the server
    """

    status: int | None
    reason: str = ""
    sent: bool = True

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 400

    @property
    def unknown(self) -> bool:
        return self.status is None and self.sent


class LatencyHistogram:
    """Latencies in buckets 2 % wide, so that memory does not grow with their number."""

    BUCKETS_PER_DOUBLING = 36

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        self._counts[round(math.log2(max(seconds, 1e-9)) * self.BUCKETS_PER_DOUBLING)] += 1

    def quantile(self, share: float) -> float | None:
        """The latency in seconds that this share of the answers did not exceed; None without any answers."""
        left = self._counts.total() * share
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return float(2 ** (bucket / self.BUCKETS_PER_DOUBLING))
        return None


def count_reason(counts: Counter[str], reason: str) -> None:
    """Count a post by reason, or among the others once there are MAX_REASONS."""
    counts[reason if reason in counts or len(counts) < MAX_REASONS else "other reasons"] += 1


@dataclass(slots=True)
class SendSummary:
    """The outcomes of all posts.

    posts, occurrences, bytes  of accepted posts
    refused, unknown           number of posts by reason
    retries                    how often a post was sent again
    seconds                    from the start to the last outcome
    """

    posts: int = 0
    occurrences: int = 0
    bytes: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    seconds: float = 0.0
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)

    def add(self, post: ScheduledPost, outcome: Outcome) -> None:
        """Count a post."""
        if outcome.accepted:
            self.posts += 1
            self.bytes += len(post.body)
            self.occurrences += post.occurrences
        elif outcome.unknown:
            count_reason(self.unknown, outcome.reason)
        else:
            count_reason(self.refused, outcome.reason)

    @property
    def posts_per_second(self) -> float:
        return self.posts / max(self.seconds, 1e-9)

    @property
    def occurrences_per_second(self) -> float:
        return self.occurrences / max(self.seconds, 1e-9)

    def latency_ms(self, share: float) -> float | None:
        """The latency in milliseconds that this share of the answers did not exceed; None without any answers."""
        seconds = self.latencies.quantile(share)
        return None if seconds is None else round(seconds * 1000, 3)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "posts": self.posts, "occurrences": self.occurrences, "bytes": self.bytes,
            "refused": self.refused.total(), "unknown": self.unknown.total(), "retried": self.retries,
            "seconds": round(self.seconds, 3), "posts_per_second": round(self.posts_per_second, 1),
            "occurrences_per_second": round(self.occurrences_per_second, 1),
            "latency_ms": {"p50": self.latency_ms(0.5), "p99": self.latency_ms(0.99)},
            "answers": dict(self.refused + self.unknown),
        }  # fmt: skip


class Target(Protocol):
    """Where posts are sent.

    measures_latency  whether the time until its answer is worth reporting
    """

    measures_latency: bool

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exception: Any) -> None: ...

    async def send(self, body: bytes) -> Outcome: ...


class FileTarget:
    """A `*.btposts` file. flush: make each post visible to readers of the file at once.

    Raises PostFileError.
    """

    measures_latency = False

    def __init__(self, writer: Writer, flush: bool = False) -> None:
        self._writer = writer
        self._flush = flush

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: Any) -> None:
        self._writer.close()

    async def send(self, body: bytes) -> Outcome:
        self._writer.write(body)
        if self._flush:
            self._writer.flush()
        return Outcome(200)


class Sender:
    """Sends posts to one target.

    connections     how many posts are under way at the same time
    retry           send a post without an answer again, up to MAX_ATTEMPTS times in total
    on_refused      called with each refused post and its outcome
    on_done         called after each post
    stop            once it is set, no more posts are sent
    read_in_thread  reading the next post may block, for example on standard input
    """

    def __init__(
        self,
        target: Target,
        *,
        connections: int = 1,
        retry: bool = False,
        on_refused: Callable[[bytes, Outcome], object] = lambda body, outcome: None,
        on_done: Callable[[], object] = lambda: None,
        stop: asyncio.Event | None = None,
        read_in_thread: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.summary = SendSummary()
        self._target = target
        self._connections = connections
        self._attempts = MAX_ATTEMPTS if retry else 1
        self._on_refused = on_refused
        self._on_done = on_done
        self._stop = stop or asyncio.Event()
        self._read_in_thread = read_in_thread
        self._reading = asyncio.Lock()
        self._clock = clock

    async def send(self, posts: Iterator[ScheduledPost]) -> SendSummary:
        """Send all posts. `summary` is kept up to date meanwhile. Raises PostFileError or OSError."""
        self._started = self._clock.monotonic()
        async with self._target:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._connections):
                        group.create_task(self._send_over_one_connection(posts))
            except* (PostFileError, OSError) as errors:
                raise errors.exceptions[0] from None
            finally:
                self.summary.seconds = self._clock.monotonic() - self._started
        return self.summary

    async def _send_over_one_connection(self, posts: Iterator[ScheduledPost]) -> None:
        while (post := await self._next(posts)) is not None:
            delay = self._started + post.due - self._clock.monotonic()
            if delay > 0:
                await self._pause(delay)
            if self._stop.is_set():
                return
            outcome = await self._send(post)
            self.summary.add(post, outcome)
            if not outcome.accepted and not outcome.unknown:
                self._on_refused(post.body, outcome)
            self.summary.seconds = self._clock.monotonic() - self._started
            self._on_done()

    async def _next(self, posts: Iterator[ScheduledPost]) -> ScheduledPost | None:
        if not self._read_in_thread:
            return next(posts, None)
        async with self._reading:
            return None if self._stop.is_set() else await self._next_from_thread(posts)

    async def _next_from_thread(self, posts: Iterator[ScheduledPost]) -> ScheduledPost | None:
        """The next post, or None after a stop: then the thread, which may wait for ever, is left to itself."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[ScheduledPost | None] = loop.create_future()

        def set_found(post: ScheduledPost | None, error: Exception | None) -> None:
            if not found.done():
                found.set_exception(error) if error else found.set_result(post)

        def read() -> None:
            post = error = None
            try:
                post = next(posts, None)
            except Exception as raised:  # noqa: BLE001 - raised again in the event loop
                error = raised
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(set_found, post, error)

        Thread(target=read, daemon=True).start()
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((found, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        return found.result() if found.done() else None

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until `stop` is set."""
        with suppress(TimeoutError):
            async with self._clock.timeout(seconds):
                await self._stop.wait()

    async def _send(self, post: ScheduledPost) -> Outcome:
        delay = FIRST_RETRY_DELAY
        unknown: Outcome | None = None  # of an earlier attempt, which may have been accepted
        for attempt in range(1, self._attempts + 1):
            began = self._clock.monotonic()
            outcome = await self._target.send(post.body)
            if outcome.status is not None:
                if self._target.measures_latency:
                    self.summary.latencies.add(self._clock.monotonic() - began)
                return outcome
            unknown = outcome if outcome.unknown else unknown
            if attempt == self._attempts or self._stop.is_set():
                break
            self.summary.retries += 1
            await self._pause(delay)
            delay *= 2
        return unknown or outcome
