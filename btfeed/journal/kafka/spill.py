"""Where posts wait on this machine while Kafka does not take them: a SQLite journal whose one consumer forwards them.

A post in the spill is on one disk, until it is forwarded. It is forwarded as it was received, with the same digest, time
and peer, as often as necessary.

A post that was sent without an acknowledgement may be in its partition all the same. So the spill keeps the partition with
the post, behind its peer, and forwards it to that one only: a reader passes over what a partition has twice. Such a post
is written to the end of the spill, so that it holds up no other while its partition takes nothing.

Rejected posts wait here, too, with the dead letters (spilled_letters.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from btfeed.journal.base import (
    Commit,
    Cursor,
    DeadLetter,
    Entry,
    JournalError,
    JournalFull,
    JournalUnavailable,
    PostTooLarge,
)
from btfeed.journal.kafka.lane import NotAcknowledged
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.journal.kafka.spilled_letters import SpilledLetters, Topic
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.journal.sqlite.settings import SqliteSettings
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.samples import total
from sinks.shared.clock import Clock

log = structlog.get_logger()

CONSUMER = "forward"
"""Who reads the spill."""
BATCH_BYTES = 2**20
"""Bytes of bodies that are forwarded at a time."""
PAUSE = 0.25
"""Seconds between two attempts to forward posts."""

_MARK = "#"
"""Between a post's peer and its partition. No address contains it."""


@dataclass(frozen=True, slots=True)
class Kafka:
    """What a spill is told of Kafka.

    send       returns once Kafka has a post with this digest, in this partition if there is one. Raises PostTooLarge if it
               never takes it, or NotAcknowledged
    refuse     the same with a rejected post
    works      whether it takes posts, so that many may be forwarded at a time
    forwarded  called with how many posts were forwarded
    """

    send: Callable[[Post, bytes, int | None], Awaitable[None]]
    refuse: Callable[[DeadLetter], Awaitable[None]]
    works: Callable[[], bool]
    forwarded: Callable[[int], object]


class Spill:
    """Needs a running event loop.

    directory  where it is
    settings   how much posts and rejected posts may take
    metrics    get what is counted of its SQLite journal
    posts      how many wait, without rejected ones
    refused    rejected posts that wait
    """

    def __init__(
        self, directory: Path, settings: KafkaJournalSettings, metrics: Metrics, kafka: Kafka, clock: Clock
    ) -> None:
        self.directory = directory
        self.posts = 0
        self._metrics = metrics
        self._kafka = kafka
        self._clock = clock
        room = {"max_size": settings.spill.max_size, "refused_posts": settings.refused_posts}
        room["dead_letters"] = max(settings.refused_posts, SqliteSettings().dead_letters)
        kept = {"directory": str(directory), "retention": "0s"} | {key: f"{size}B" for key, size in room.items()}
        sqlite = SqliteSettings.model_validate(kept)
        self._journal = SqliteJournal(sqlite, {CONSUMER: "oldest"}, metrics, 0, clock=clock)
        self._outlet = self._journal.outlet(CONSUMER)
        topic = Topic(kafka.refuse, kafka.works, kafka.forwarded, self._say_too_large)
        self.refused = SpilledLetters(self._journal, CONSUMER, topic, clock)

    async def open(self) -> None:
        """Raises JournalUnavailable."""
        await self._journal.open()
        try:
            await self.measure()
        except BaseException:  # such as a cancellation
            await self._journal.close()
            raise
        if self.waiting:
            log.warning("posts of an earlier run wait in the spill", **self._left())

    async def close(self) -> None:
        await self._journal.close()
        if self.waiting:
            hint = "start btfeed here again"
            hint += ", or `btfeed replay` this directory to another one" if self.posts else ""
            hint += "; `btfeed replay` has no rejected posts" if self.refused.number else ""
            log.warning("posts are left in the spill", **self._left(), hint=hint)

    def _left(self) -> dict[str, Any]:
        """What waits, for the log."""
        return {"posts": self.waiting, "refused": self.refused.number, "directory": str(self.directory)}

    @property
    def waiting(self) -> int:
        """How many posts wait, with rejected ones."""
        return self.posts + self.refused.number

    @property
    def refusing(self) -> str | None:
        """Why a post could not be added now."""
        return f"the spill refuses posts: {self._journal.refusing}" if self._journal.refusing else None

    async def append(self, post: Post, partition: int | None = None) -> None:
        """partition: where the post may be already. Raises JournalFull or JournalUnavailable."""
        try:
            await self._journal.append(_with_partition(post, partition))
        except JournalFull:
            raise JournalFull("the spill is full (journal.spill.max_size)") from None
        except JournalUnavailable as error:
            raise JournalUnavailable(f"the spill failed: {error}") from None
        self.posts += 1

    async def answer(self) -> None:
        await self._journal.answer()

    async def measure(self) -> None:
        """Count what waits. Raises JournalUnavailable."""
        self.posts = (await self._outlet.backlog()).posts
        await self.refused.measure()

    @property
    def nbytes(self) -> int:
        """Bytes of its posts, forwarded ones included."""
        return total(self._metrics.journal_bytes)

    # Forwarding

    async def run(self, until_empty: bool = False) -> None:
        """Forward what waits, until it is cancelled or, on demand, until nothing waits."""
        refused = asyncio.create_task(self.refused.run(until_empty), name="refused posts of the spill")
        try:
            await self._run(until_empty)
            await refused
        finally:
            refused.cancel()
            with suppress(asyncio.CancelledError):
                await refused

    async def _run(self, until_empty: bool) -> None:
        seq = (await self._outlet.cursor())[0].seq
        while self.posts or not until_empty:
            await self._outlet.wait(seq)
            try:
                entries = await self._outlet.read(seq, BATCH_BYTES)
                attempt = asyncio.create_task(self._forward(entries if self._kafka.works() else entries[:1], seq))
                try:
                    seq, forwarded = await asyncio.shield(attempt)
                except asyncio.CancelledError:  # what was sent has to be saved with its partition
                    await asyncio.wait([attempt])
                    raise
                await self.measure()
                if forwarded:
                    continue
            except JournalError as error:  # of the spill's disk, which recovers by itself
                log.debug("spill can't be read or written", error=str(error))
            await self._clock.sleep(PAUSE)

    async def _forward(self, entries: Sequence[Entry], seq: int) -> tuple[int, int]:
        """Forward those of these entries that Kafka takes, up to the first that has to be tried again. Returns the number
        of what follows them, and how many were forwarded."""
        posts = [_without_partition(entry.post) for entry in entries]
        sending = (self._kafka.send(post, e.digest, place) for e, (post, place) in zip(entries, posts, strict=True))
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        return await self._save(entries, outcomes, seq)

    async def _save(self, entries: Sequence[Entry], outcomes: Sequence[BaseException | None], seq: int) -> tuple[int, int]:
        """Save what became of entries. See `_forward`."""
        letters: list[DeadLetter] = []
        forwarded, before = 0, seq
        for entry, outcome in zip(entries, outcomes, strict=True):
            post, _ = _without_partition(entry.post)
            if outcome is None:
                forwarded += 1
            elif isinstance(outcome, PostTooLarge):
                letters.append(self._too_large(post, outcome))
            elif not isinstance(outcome, NotAcknowledged):
                raise outcome
            elif outcome.partition is None or not await self._set_aside(post, outcome.partition):
                break
            seq = entry.seq + 1
        if seq > before:
            await self._outlet.commit(Commit(Cursor(seq), None, letters))
            self._kafka.forwarded(forwarded)
        return seq, forwarded

    async def _set_aside(self, post: Post, partition: int) -> bool:
        """Write a post that was sent to the end of the spill."""
        try:
            await self.append(post, partition)
        except JournalError:
            return False
        return True

    def _too_large(self, post: Post, error: PostTooLarge) -> DeadLetter:
        """A post that was spilled when the topic took larger ones, or when that was not known."""
        self._say_too_large(error)
        self._metrics.dead_letters.labels("", "too_large").inc()
        now = round(self._clock.time() * 1000)
        return DeadLetter("post", "", f"too_large: {error}", now, post.body, cause="too_large")

    def _say_too_large(self, error: PostTooLarge) -> None:
        log.error(
            "post in the spill is too large for Kafka, kept as a dead letter of the spill",
            error=str(error),
            directory=str(self.directory),
        )


def _with_partition(post: Post, partition: int | None) -> Post:
    """The post as the spill keeps it."""
    return post if partition is None else post._replace(peer=f"{post.peer}{_MARK}{partition}")


def _without_partition(post: Post) -> tuple[Post, int | None]:
    """The post as it was received, and the partition that it may be in."""
    peer, mark, partition = post.peer.rpartition(_MARK)
    return (post._replace(peer=peer), int(partition)) if mark else (post, None)
