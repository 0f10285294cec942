"""Where posts wait on this machine while Kafka does not take them: a SQLite journal whose one consumer forwards them.

A post in the spill is on one disk, until it is forwarded. It is forwarded as it was received, with the same digest, time
and peer, as often as necessary.

A post that was sent without an acknowledgement may be in its partition all the same. So the spill keeps the partition with
the post, behind its peer or in the consumer's state, and forwards it to that one only: a reader passes over what a
partition has twice. Such a post is left behind while its partition takes nothing, and holds up no other.

So is a post that a broker rejects for what is in it. Both are tried again now and then.

What was sent is remembered before it is saved (forwarded.py), and sent once by this process even while the disk is full.

Rejected posts wait here, too, with the dead letters (spilled_letters.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
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
from btfeed.journal.kafka.forwarded import Forwarded
from btfeed.journal.kafka.lane import NotAcknowledged, Rejected
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
"""Seconds between two attempts to forward posts, or to save that they were."""
AGAIN = 30.0
"""Seconds after which posts that are left are tried again, although they were rejected, or others were not tried yet."""
MANY = 2**20
"""Posts that are forwarded at a time, at most."""
FEW = 16
"""The same, while some are rejected: a batch with one of them is sent again post by post, and new posts wait behind it."""
TELL_AGAIN = 600.0
"""Seconds after which a warning is logged again."""

_MARK = "#"
"""Between a post's peer and its partition. No address contains it."""


@dataclass(frozen=True, slots=True)
class Kafka:
    """What a spill is told of Kafka.

    send       returns once Kafka has a post with this digest, in this partition if there is one. Raises PostTooLarge if it
               never takes it, Rejected if it may take it later, or else NotAcknowledged
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
        self._forwarded = Forwarded(Cursor(0), None)
        self._saved = self._forwarded.position
        self._saving = asyncio.Lock()
        self._unsaved_posts = 0  # that were sent since
        self._told_unsaved = False
        self._again = 0  # of posts that are left, the one that is tried next
        self._again_at = 0.0  # when those are tried again, by the monotonic clock
        self._overdue_at = 0.0  # when they come before others
        self._rejecting = False  # whether Kafka has rejected one since they were all tried
        self._at_once = MANY
        self._tell_rejected_at = 0.0
        topic = Topic(kafka.refuse, kafka.works, kafka.forwarded, lambda error: self._say_too_large(str(error)))
        self.refused = SpilledLetters(self._journal, self._save_letters, topic, clock)

    async def open(self) -> None:
        """Raises JournalUnavailable."""
        await self._journal.open()
        try:
            self._saved = await self._outlet.cursor()
            self._forwarded = Forwarded(*self._saved)
            await self.measure()
        except BaseException:  # such as a cancellation
            await self._journal.close()
            raise
        if self.waiting:
            log.warning("posts of an earlier run wait in the spill", **self._left())

    async def close(self) -> None:
        await self._save({})
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
        self.posts = (await self._outlet.backlog(self._forwarded.next)).posts + self._forwarded.number_left
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
        while self.posts or self._is_unsaved or not until_empty:
            attempt = asyncio.create_task(self._forward())
            try:
                if await asyncio.shield(attempt):
                    continue
            except asyncio.CancelledError:  # what was sent has to be saved
                await asyncio.wait([attempt])
                raise
            except JournalError as error:  # of the spill's disk, which recovers by itself
                log.debug("spill can't be read", error=str(error))
            if self.posts or self._is_unsaved:
                await self._clock.sleep(PAUSE)
            else:
                await self._outlet.wait(self._forwarded.next)

    async def _forward(self) -> bool:
        """Try some posts, and save what became of them. Returns whether to go on without a pause."""
        entries, untried = await self._choose(), self._forwarded.next
        posts = [self._to_send(entry) for entry in entries]
        sending = (self._kafka.send(post, e.digest, place) for e, (post, place) in zip(entries, posts, strict=True))
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        forwarded = outcomes.count(None)
        self._unsaved_posts += forwarded
        self._kafka.forwarded(forwarded)
        await self._save(await self._note(entries, outcomes))
        await self.measure()
        rejected = self._note_rejected(entries, outcomes)
        return forwarded > 0 or (rejected and self._forwarded.next > untried)

    async def _choose(self) -> Sequence[Entry]:
        """What to try next: posts that were not tried, or those that are left if there are no others, or now and then."""
        now, works = self._clock.monotonic(), self._kafka.works()
        entries = await self._outlet.read(self._forwarded.next, BATCH_BYTES)
        if (not entries or now >= self._overdue_at) and (now >= self._again_at or not works):
            self._overdue_at = now + AGAIN
            entries = await self._read_left(now) or entries
        return entries[: self._at_once if works else 1]

    async def _read_left(self, now: float) -> Sequence[Entry]:
        """Those of the posts that are left that come next. None if all were tried: then they have to wait a little, and
        longer if some were rejected."""
        first = self._forwarded.first_left(self._again)
        if first is None:
            self._again_at, self._again, self._rejecting = now + AGAIN if self._rejecting else now, 0, False
            return []
        found = await self._outlet.read(first, BATCH_BYTES)
        if not found or found[0].seq != first:  # it was damaged, and is a dead letter
            self._forwarded.done(first)
        return [entry for entry in found if self._forwarded.is_left(entry.seq)]

    def _to_send(self, entry: Entry) -> tuple[Post, int | None]:
        """The post as it was received, and the partition that it may be in."""
        post, place = _without_partition(entry.post)
        left = self._forwarded.partition(entry.seq)
        return post, place if left is None else left

    async def _note(self, entries: Sequence[Entry], outcomes: Sequence[BaseException | None]) -> dict[int, DeadLetter]:
        """Remember what became of entries. Returns dead letters to save, by the numbers of their posts."""
        letters: dict[int, DeadLetter] = {}
        tried = len(entries)
        while tried and _was_not_sent(outcomes[tried - 1]):  # nothing has become of the last ones
            tried -= 1
        for entry, outcome in zip(entries[:tried], outcomes, strict=False):
            post, place = self._to_send(entry)
            if isinstance(outcome, NotAcknowledged):
                await self._leave(entry, post, place if outcome.partition is None else outcome.partition)
            elif outcome is None:
                self._forwarded.done(entry.seq)
            elif isinstance(outcome, PostTooLarge):
                self._forwarded.done(entry.seq)
                letters[entry.seq] = self._too_large(post, outcome)
            else:
                raise outcome
        return letters

    async def _leave(self, entry: Entry, post: Post, partition: int | None) -> None:
        """Try a post again later. If the spill has to keep much that is done with because of this one, it is moved to its
        end."""
        again = self._forwarded.is_left(entry.seq)
        if again and self._forwarded.sparse and await self._set_aside(post, partition):
            self._forwarded.done(entry.seq)
        else:
            self._forwarded.leave(entry.seq, partition)
        if again:
            self._again = entry.seq + 1

    def _note_rejected(self, entries: Sequence[Entry], outcomes: Sequence[BaseException | None]) -> bool:
        """Whether brokers have rejected posts. That is told every ten minutes until none of them is left."""
        rejected = [each for each in zip(entries, outcomes, strict=True) if isinstance(each[1], Rejected)]
        now = self._clock.monotonic()
        if entries:
            self._at_once = FEW if rejected else min(2 * self._at_once, MANY)
        self._rejecting = self._rejecting or bool(rejected)
        if rejected and now >= self._tell_rejected_at:
            self._tell_rejected_at = now + TELL_AGAIN
            received = datetime.fromtimestamp(rejected[0][0].post.received / 1000).astimezone()
            log.warning(
                "Kafka rejects posts, they wait in the spill and are tried again",
                error=str(rejected[0][1]),
                received=received.isoformat(timespec="seconds"),
                posts=self.posts,
                directory=str(self.directory),
            )
        elif not self._forwarded.left:
            self._tell_rejected_at = 0.0
        return bool(rejected)

    @property
    def _is_unsaved(self) -> bool:
        return self._forwarded.position != self._saved

    async def _save(self, letters: Mapping[int, DeadLetter]) -> None:
        """Save how far posts were forwarded. While that fails, it is remembered: nothing is sent again because of it."""
        position = self._forwarded.position
        if position == self._saved and not letters:
            return
        try:
            async with self._saving:
                await self._outlet.commit(Commit(*position, list(letters.values())))
                self._saved = position
        except JournalError as error:
            for seq in letters:
                self._forwarded.leave(seq, None)
            self._tell_unsaved(str(error))
            return
        for letter in letters.values():
            self._metrics.dead_letters.labels("", "too_large").inc()
            self._say_too_large(letter.reason.removeprefix("too_large: "))
        if self._told_unsaved:
            log.info("saved what was forwarded from the spill", posts=self._unsaved_posts, directory=str(self.directory))
        self._unsaved_posts, self._told_unsaved = 0, False

    async def _save_letters(self, commit: Commit) -> None:
        """Save what became of rejected posts, and leave the rest as it was saved last."""
        async with self._saving:
            cursor, state = self._saved
            await self._outlet.commit(replace(commit, cursor=cursor, state=state))

    def _tell_unsaved(self, error: str) -> None:
        """Once, until it is saved."""
        if self._unsaved_posts and not self._told_unsaved:
            self._told_unsaved = True
            log.warning(
                "can't save what was forwarded from the spill, retrying",
                error=error,
                consequence="each post is sent once by this process, but a restart before it is saved sends them again",
                directory=str(self.directory),
            )

    async def _set_aside(self, post: Post, partition: int | None) -> bool:
        """Write a post that was sent to the end of the spill."""
        try:
            await self.append(post, partition)
        except JournalError:
            return False
        return True

    def _too_large(self, post: Post, error: PostTooLarge) -> DeadLetter:
        """A post that was spilled when the topic took larger ones, or when that was not known."""
        now = round(self._clock.time() * 1000)
        return DeadLetter("post", "", f"too_large: {error}", now, post.body, cause="too_large")

    def _say_too_large(self, error: str) -> None:
        log.error(
            "post in the spill is too large for Kafka, kept as a dead letter of the spill",
            error=error,
            directory=str(self.directory),
        )


def _was_not_sent(outcome: BaseException | None) -> bool:
    return isinstance(outcome, NotAcknowledged) and not isinstance(outcome, Rejected) and outcome.partition is None


def _with_partition(post: Post, partition: int | None) -> Post:
    """The post as the spill keeps it."""
    return post if partition is None else post._replace(peer=f"{post.peer}{_MARK}{partition}")


def _without_partition(post: Post) -> tuple[Post, int | None]:
    """The post as it was received, and the partition that it may be in."""
    peer, mark, partition = post.peer.rpartition(_MARK)
    return (post._replace(peer=peer), int(partition)) if mark else (post, None)
