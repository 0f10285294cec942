"""Spills for tests, and a stand-in for Kafka that takes what is in them, or does not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from btfeed.journal.base import DeadLetter, PostTooLarge
from btfeed.journal.kafka.lane import NotAcknowledged, Rejected
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.journal.kafka.spill import Kafka, Spill
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from sinks.shared.clock import SYSTEM_CLOCK


class Taker:
    """Takes posts in Kafka's place.

    taken      the posts that it took, with their digests and the partitions that the spill knew
    letters    the rejected posts that it took
    fails      how many of the next attempts fail; unlimited if infinite
    sent_to    the partition that such an attempt may have left the post in
    stuck      a partition that takes nothing
    limit      bytes of the largest post that it takes
    rejects    bodies of posts that it rejects, which shows that it works
    """

    def __init__(self) -> None:
        self.taken: list[tuple[Post, bytes, int | None]] = []
        self.letters: list[DeadLetter] = []
        self.attempts = self.at_a_time = self.under_way = 0
        self.fails: float = 0
        self.sent_to: int | None = None
        self.stuck: int | None = None
        self.limit = 10_000
        self.rejects: set[bytes] = set()
        self.forwarded = 0
        self.works = True

    async def send(self, post: Post, digest: bytes, partition: int | None) -> None:
        self.attempts += 1
        self.under_way += 1
        self.at_a_time = max(self.at_a_time, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        if self.fails:
            self.fails -= 1
            raise NotAcknowledged("away", self.sent_to if partition is None else partition)
        if partition is not None and partition == self.stuck:
            raise NotAcknowledged("stuck", partition)
        if len(post.body) > self.limit:
            raise PostTooLarge("too large")
        if post.body in self.rejects:
            self.works = True
            raise Rejected("not this one", None)
        self.taken.append((post, digest, partition))

    async def refuse(self, letter: DeadLetter) -> None:
        self.attempts += 1
        if self.fails:
            self.fails -= 1
            raise NotAcknowledged("no right", None)
        if len(letter.body) > self.limit:
            raise PostTooLarge("too large")
        self.letters.append(letter)

    def count(self, number: int) -> None:
        self.forwarded += number

    @property
    def posts(self) -> list[Post]:
        return [post for post, *_ in self.taken]

    @property
    def kafka(self) -> Kafka:
        return Kafka(self.send, self.refuse, lambda: self.works, self.count)


@asynccontextmanager
async def opened(directory: Path, taker: Taker, max_size: int = 2**24) -> AsyncIterator[tuple[Spill, Metrics]]:
    """An open spill that does not forward yet. It keeps a MiB of rejected posts."""
    metrics = Metrics()
    room = {"spill": {"max_size": f"{max_size}B"}, "refused_posts": "1MiB"}
    settings = KafkaJournalSettings.model_validate({"type": "kafka", "bootstrap_servers": "nowhere:1"} | room)
    spill = Spill(directory, settings, metrics, taker.kafka, SYSTEM_CLOCK)
    await spill.open()
    try:
        yield spill, metrics
    finally:
        await spill.close()


@asynccontextmanager
async def rejecting(directory: Path, posts: Sequence[Post]) -> AsyncIterator[tuple[Spill, Taker]]:
    """An open spill with these posts, which are all rejected, for now."""
    taker = Taker()
    taker.rejects = {each.body for each in posts}
    async with opened(directory, taker) as (spill, _):
        for each in posts:
            await spill.append(each)
        yield spill, taker


@asynccontextmanager
async def forwarding(spill: Spill) -> AsyncIterator[None]:
    running = asyncio.create_task(spill.run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def rejected(number: int, size: int = 100) -> DeadLetter:
    """A rejected post that can be told from others."""
    return DeadLetter("post", "", f"malformed: {number}", number, b"%0*d" % (size, number), cause="malformed")
