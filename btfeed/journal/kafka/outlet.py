"""A sink's way out of one partition, while this process owns it.

Invariants
- What a commit saves (offset, ordinal and state, see metadata.py) is one append of the brokers'. Its dead letters are
  durable before it: after a crash they may be written again, under the same key, which is the same letter.
- Nothing is saved under another membership than the one under which the partition was assigned.
- An outlet ends with its assignment. It raises OutletGone then, and a delivery begins again with another outlet.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from aiokafka import TopicPartition

from btfeed.journal.base import (
    LATEST,
    Backlog,
    Commit,
    Cursor,
    Damaged,
    DeadLetter,
    Entry,
    JournalUnavailable,
    Move,
    OutletGone,
)
from btfeed.journal.kafka.consumer import Consumer, Saved
from btfeed.journal.kafka.letter_log import Message
from btfeed.journal.kafka.metadata import Metadata
from btfeed.journal.kafka.reading import AGAIN, RECHECK, Reader
from btfeed.journal.transactional import Send
from sinks.base import Offsets
from sinks.shared.clock import Clock

RETRIES_PARTITION = -1
"""The number of the outlet that gives the dead letters that are marked for retry. Posts have partitions from 0."""
READ_PATIENCE = 10.0
"""Seconds that a read waits for posts which the partition has."""


class OutletLetters(Protocol):
    """What outlets ask of the dead letters, see btfeed.journal.kafka.letters.Letters."""

    async def apply(self, sink: str, partition: int, commit: Commit) -> None: ...

    async def messages(self, sink: str, partition: int, commit: Commit) -> Sequence[Message]: ...

    def replacing(self, messages: Sequence[Message]) -> AbstractContextManager[None]: ...

    async def settled(self) -> None: ...

    async def destinations(self, sink: str, partition: int) -> Mapping[str, int]: ...

    async def waiting(self, sink: str, partition: int, destination: str, limit: int) -> Sequence[DeadLetter]: ...

    async def retries(self, sink: str, limit: int) -> Sequence[DeadLetter]: ...

    async def retried(self, sink: str) -> int: ...

    async def add_post(self, letter: DeadLetter) -> None: ...


@dataclass(frozen=True, slots=True)
class Membership:
    """What the outlets of one assignment share.

    sink, group, instance  names
    consumer               the one that has the assignment
    letters                the dead letters
    save                   saves what a group has of a partition, together with what others save at the same time
    repeated               called with how many posts were passed over because they came twice
    damaged                keeps a post whose body does not fit its digest, of this partition
    out_of_range           given an outlet and a position that its partition does not have, returns where to go on
    lost                   called with a partition and the offset of a post in it that can't be read
    closed                 set when the journal closes
    """

    sink: str
    group: str
    instance: str
    consumer: Consumer
    letters: OutletLetters
    save: Callable[[TopicPartition, Saved], Awaitable[None]]
    repeated: Callable[[int], object]
    damaged: Callable[[int, Damaged], Awaitable[None]]
    out_of_range: Callable[["KafkaOutlet", int], Awaitable[int]]
    lost: Callable[[int, int], object]
    closed: asyncio.Event
    clock: Clock


class _SavedOutlet:
    """What an outlet saves: the cursor and the sink's state in this process. gone: why the outlet has ended."""

    partition: int

    def __init__(self, membership: Membership, place: TopicPartition, cursor: Cursor, metadata: Metadata) -> None:
        self.place = place
        self.gone: str | None = None
        self._in_transactions: bool | None = None  # whether the delivery saves in transactions, None until it begins
        self._membership = membership
        self._cursor = cursor
        self._metadata = metadata
        self._saving = asyncio.Lock()
        self._saves: set[asyncio.Task[None]] = set()

    async def cursor(self) -> tuple[Cursor, str | None]:
        self.check()
        self._in_transactions = bool(self._in_transactions)
        async with self._saving:  # one of a delivery that was cancelled may still be under way
            return self._cursor, self._metadata.states.get(self._membership.instance)

    def check(self) -> None:
        """Raise OutletGone or JournalUnavailable if nothing can be done any more."""
        if self._membership.closed.is_set():
            raise JournalUnavailable("the journal is closed")
        if self.gone is not None:
            raise OutletGone(self.gone)

    def end(self, why: str) -> None:
        """Let every call fail from now on, and those that wait return."""
        self.gone = self.gone or why

    async def _finish(self, call: Awaitable[None]) -> None:
        """Wait for `call`, which goes on if the caller is cancelled: what it saves must be known here."""
        task = asyncio.ensure_future(call)
        self._saves.add(task)
        task.add_done_callback(self._saves.discard)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(task)

    async def commit(self, commit: Commit) -> None:
        self.check()
        await self._finish(self._commit(commit))

    async def _commit(self, commit: Commit) -> None:
        async with self._saving:
            self.check()
            await self._membership.letters.apply(self._membership.sink, self.partition, commit)
            cursor = await self._cursor_after(commit)
            await self._save(cursor, self._metadata.with_state(self._membership.instance, cursor.ordinal, commit.state))
            self._note_saved()

    async def commit_in(self, commit: Commit, send: Send) -> None:
        """See TransactionalOutlet. What is redelivered is deleted in the transaction; the other dead letters may be written
        again under the same keys."""
        letters, sink = self._membership.letters, self._membership.sink
        async with self._saving:
            self.check()
            await letters.apply(sink, self.partition, replace(commit, redelivered=()))
            gone = await letters.messages(sink, self.partition, Commit(commit.cursor, redelivered=commit.redelivered))
            cursor = await self._cursor_after(commit)
            metadata = self._metadata.with_state(self._membership.instance, cursor.ordinal, commit.state)
            saved = Offsets(self._membership.group, self.place.topic, self.place.partition, cursor.seq, metadata.text())
            with letters.replacing(gone):
                await send(saved, [(each.topic, each.key) for each in gone])
            self._cursor, self._metadata = cursor, metadata
            self._note_saved()

    async def refresh(self) -> None:
        """See TransactionalOutlet."""
        self.check()
        self._in_transactions = True
        await self._membership.letters.settled()
        async with self._saving:
            if saved := (await self._membership.consumer.saved([self.place], stable=True)).get(self.place):
                metadata = Metadata.parse(saved.metadata)
                cursor = Cursor(saved.offset, metadata.ordinal)
                if cursor >= self._cursor:  # a broker may be behind
                    self._cursor, self._metadata = cursor, metadata

    async def destinations(self) -> Mapping[str, int]:
        self.check()
        return await self._membership.letters.destinations(self._membership.sink, self.partition)

    async def waiting(self, destination: str, limit: int) -> Sequence[DeadLetter]:
        self.check()
        return await self._membership.letters.waiting(self._membership.sink, self.partition, destination, limit)

    async def _cursor_after(self, commit: Commit) -> Cursor:
        """What is saved after a commit."""
        raise NotImplementedError

    def _note_saved(self) -> None:
        """The cursor has moved."""

    async def _save(self, cursor: Cursor, metadata: Metadata) -> None:
        try:
            await self._membership.save(self.place, Saved(cursor.seq, metadata.text()))
        except OutletGone as error:
            self.end(str(error))
            raise
        self._cursor, self._metadata = cursor, metadata


class KafkaOutlet(_SavedOutlet):
    """See btfeed.journal.base.Outlet: numbers of posts are offsets."""

    def __init__(
        self, membership: Membership, place: TopicPartition, cursor: Cursor, metadata: Metadata, oldest: int
    ) -> None:
        """oldest: the first offset that the partition has."""
        super().__init__(membership, place, cursor, metadata)
        self.partition: int = place.partition
        self._seen = Backlog(0, 0.0)
        self._reader = Reader(
            membership.consumer,
            place,
            cursor.seq,
            membership.repeated,
            lambda damaged: membership.damaged(self.partition, damaged),
            lambda at: membership.out_of_range(self, at),
            lambda at: membership.lost(self.partition, at),
            membership.clock,
            oldest,
        )

    async def read_ahead(self) -> None:
        """Read until cancelled. Raises JournalUnavailable if the consumer fails."""
        passing = asyncio.create_task(self._pass_over(), name=f"cursor of partition {self.partition}")
        try:
            await self._reader.run()
        finally:
            passing.cancel()

    def end(self, why: str) -> None:
        super().end(why)
        self._reader.wake()

    @property
    def unreadable(self) -> int | None:
        """The offset at which the partition can't be read; None if all of it can."""
        return self._reader.unreadable.at

    # Posts

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        self.check()
        self._reader.aim(seq)
        if not self._reader.ready:
            await self._until_read(await self._end())
        return self._reader.take(max_bytes)

    async def _until_read(self, end: int) -> None:
        """Return when there is something to give, or nothing up to the offset `end`."""
        deadline = self._membership.clock.monotonic() + READ_PATIENCE
        while not self._reader.ready and self._reader.next < end:
            if self._membership.clock.monotonic() > deadline:
                raise JournalUnavailable(f"partition {self.partition} gives no posts, see the log")
            await self._reader.changed(RECHECK)
            self.check()

    async def wait(self, seq: int) -> None:
        self.check()
        self._reader.aim(seq)
        while not self._reader.has(seq):
            await self._reader.changed()
            self.check()

    async def _end(self) -> int:
        """The offset of the next post."""
        return (await self._membership.consumer.ends([self.place]))[self.place]

    async def _cursor_after(self, commit: Commit) -> Cursor:
        return max(self._cursor, commit.cursor)

    def _note_saved(self) -> None:
        self._reader.progress.forget_before(self._cursor.seq)

    async def retries(self, limit: int) -> Sequence[DeadLetter]:
        self.check()
        return []  # they have an outlet of their own

    # Offsets without posts

    async def _pass_over(self) -> None:
        """Save the cursor behind what is passed over, when the sink is done with all before it. It would stay behind while
        no post comes, and the next assignment might not know what copies are copies of. Not where transactions save: one
        of another process may have moved the cursor further than is known here."""
        while True:
            while not self._has_passed:
                await self._reader.changed()
            try:
                await self._finish(self._save_passed())
            except OutletGone:
                return
            except JournalUnavailable:  # those who deliver tell it
                await self._membership.clock.sleep(AGAIN)

    @property
    def _has_passed(self) -> bool:
        """Whether what was read behind the cursor is nothing to deliver."""
        at, end = self._cursor, self._reader.next
        behind = self._in_transactions is False and end > at.seq and not at.ordinal
        return behind and not self._reader.progress.count(at.seq, end)

    async def _save_passed(self) -> None:
        async with self._saving:
            self.check()
            if self._has_passed:
                await self._save(Cursor(self._reader.next), self._metadata)
                self._note_saved()

    # How far behind

    async def backlog(self) -> Backlog:
        """After the assignment has ended: what it was."""
        if self.gone is None and not self._membership.closed.is_set():
            self._seen = self._backlog(await self._end())
        return self._seen

    def _backlog(self, end: int) -> Backlog:
        posts = self._reader.progress.count(self._cursor.seq, max(end, self._reader.next))
        received = self._reader.progress.oldest(self._cursor.seq) if posts else None
        return Backlog(posts, 0.0 if received is None else max(0.0, self._membership.clock.time() - received / 1000))

    async def find(self, received: int) -> int:
        self.check()
        consumer, since = self._membership.consumer, max(0, received)
        found = await consumer.first_since(self.place, since) if received < LATEST else None
        return found[0] if found else await self._end()

    async def plan(self, seq: int) -> Move:
        self.check()
        consumer, count = self._membership.consumer, self._reader.progress.count
        span = (await consumer.spans([self.place]))[self.place]
        oldest = await consumer.first_since(self.place, 0)
        now = max(self._cursor, Cursor(span.first))
        to = Cursor(min(max(seq, span.first), span.next))
        ahead = count(now.seq, span.next) - count(to.seq, span.next)
        begun = now.ordinal > 0 and to.seq <= now.seq  # it gets all of that post again
        return Move(self.partition, to, max(0, -ahead) + begun, max(0, ahead), oldest[1] if oldest else None)

    async def move(self, to: Cursor) -> None:
        self.check()
        await self._finish(self._move(to))

    async def _move(self, to: Cursor) -> None:
        async with self._saving:
            self.check()
            span = (await self._membership.consumer.spans([self.place]))[self.place]
            to = max(to, Cursor(span.first))  # what was deleted since the plan can't be given again
            delivered = self._cursor.seq
            await self._save(to, replace(self._metadata, ordinal=to.ordinal))
            self._reader.seek(to.seq, delivered)


class RetriesOutlet(_SavedOutlet):
    """The topic of retries as an Outlet: it has no posts, and gives the dead letters that are marked for retry."""

    partition = RETRIES_PARTITION

    def __init__(self, membership: Membership, place: TopicPartition, cursor: Cursor, metadata: Metadata) -> None:
        super().__init__(membership, place, cursor, metadata)
        self._ended = asyncio.Event()

    async def read_ahead(self) -> None:
        """There is nothing to read: letters.py follows the topic."""
        await self._ended.wait()

    def end(self, why: str) -> None:
        super().end(why)
        self._ended.set()

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        self.check()
        return []

    async def wait(self, seq: int) -> None:
        await self._ended.wait()
        self.check()

    async def _cursor_after(self, commit: Commit) -> Cursor:
        """The saved offset is that of the first mark that is left, whatever the cursor."""
        return max(self._cursor, Cursor(await self._membership.letters.retried(self._membership.sink)))

    async def retries(self, limit: int) -> Sequence[DeadLetter]:
        self.check()
        return await self._membership.letters.retries(self._membership.sink, limit)

    async def backlog(self) -> Backlog:
        return Backlog(0, 0.0)  # dead letters are no backlog

    async def find(self, received: int) -> int:
        self.check()
        return self._cursor.seq

    async def plan(self, seq: int) -> Move:
        self.check()
        return Move(self.partition, self._cursor, 0, 0, None)

    async def move(self, to: Cursor) -> None:
        """Nothing moves."""
        self.check()


AnyOutlet = KafkaOutlet | RetriesOutlet
