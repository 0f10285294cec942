"""Cuts posts into batches: reads them after the cursor, filters their records, and cuts by records, bytes and linger.

Posts are mapped when a batch is due, many at a time: handing each to a thread as it comes costs more than mapping it. A
batch is due when its oldest post has lingered, or when the posts that wait are likely to fill it.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.journal.base import Cursor, DeadLetter, Entry, JournalError, Outlet
from btfeed.posts.post import ordinal_of
from sinks.batch import Batch, Transaction
from sinks.shared.clock import SYSTEM_CLOCK, Clock

READ_BYTES = 2**20
"""Bytes of bodies to read from the journal at a time."""
MAX_POSTS = 1_000
"""Posts in a slice at most, so that the cursor moves even if a filter drops all their records."""
EMPTY_READ_PAUSE = 0.05
"""Seconds before the journal is read again if it announced a post and gave none: that post was damaged."""
LOOK = 0.05
"""Seconds between looks whether the posts that wait fill a batch, at most a quarter of `linger`."""
MAX_TRANSACTIONS = 10_000
"""Business transactions whose filter result is cached."""


@dataclass(slots=True)
class Slice:
    """The next part of a partition: its records, its dead letters, and the cursor behind it. received: when its first post
    was received, in milliseconds since the epoch."""

    batch: Batch
    end: Cursor
    received: int
    dead_letters: list[DeadLetter] = field(default_factory=list)


class Batcher:
    """Cuts what follows `cursor` into slices, in order. filtered: called with the number of records filtered out."""

    def __init__(
        self,
        outlet: Outlet,
        mapped_posts: MappedPosts,
        delivery: DeliverySettings,
        filter: FilterSettings,
        cursor: Cursor,
        filtered: Callable[[int], object],
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._outlet = outlet
        self._mapped_posts = mapped_posts
        self._delivery = delivery
        self._filter = None if filter == FilterSettings() else filter
        self._cursor = cursor  # of the next record that is not in a slice yet
        self._filtered = filtered
        self._clock = clock
        self._entries: deque[Entry] = deque()  # read, but not loaded yet
        self._due = 0.0  # when the batch that begins with them is due; 0: not known yet
        self._loaded = 0  # bytes of the posts that were loaded, and what came of them:
        self._loaded_records = 0
        self._loaded_bytes = 0
        self._rest: Batch | None = None  # what is left of the post at the cursor
        self._received = 0  # when that post was received, in milliseconds since the epoch
        self._dead_letters: list[DeadLetter] = []  # that post's
        self._accepts: dict[Transaction, bool] = {}

    async def next(self, patience: float) -> Slice | None:
        """The next slice, or None if no post came within `patience` seconds. Its batch is empty if the filter dropped all
        records. Raises JournalError."""
        parts: list[Batch] = []
        dead_letters: list[DeadLetter] = []
        begun, received = False, 0
        records, room, posts = self._delivery.max_records, self._delivery.max_bytes, MAX_POSTS
        deadline, self._due = self._clock.monotonic() + patience, 0.0
        while records > 0 and room > 0 and posts > 0:
            try:
                if self._rest is None and not await self._load(deadline, begun, records, room):
                    break
            except JournalError:
                if begun:  # keep what was taken; the next call meets the error again
                    break
                raise
            assert self._rest is not None
            part = self._fitting(self._rest, records, room, first=not parts)
            if not len(part) and len(self._rest):
                break
            if not begun:
                begun, received = True, self._received
                deadline = self._due or self._end_of_linger(received)
            parts.append(part)
            due = self._advance(len(part))
            dead_letters += due
            records -= len(part) + len(due)
            room -= part.nbytes + sum(len(dead_letter.body) for dead_letter in due)
            posts -= self._rest is None
        return Slice(Batch.concat(parts), self._cursor, received, dead_letters) if begun else None

    def _end_of_linger(self, received: int) -> float:
        """Until when a batch waits for more posts: `linger` from the receipt of its first one, in milliseconds since the
        epoch. If the system's clock was set back since, that seems to come from the future, and lingers from now."""
        age = max(0.0, self._clock.time() - received / 1000)
        return self._clock.monotonic() + self._delivery.linger - age

    @staticmethod
    def _fitting(rest: Batch, records: int, room: int, first: bool) -> Batch:
        """As much of `rest` as fits, but at least one record if it is the first."""
        return rest.slice(0, max(rest.fitting(records, room), min(first, len(rest))))

    def _advance(self, taken: int) -> list[DeadLetter]:
        """Move the cursor over the next `taken` records. Returns the post's dead letters after its last record."""
        assert self._rest is not None
        if taken == len(self._rest):
            self._rest = None
            self._cursor = Cursor(self._cursor.seq + 1)
            return self._dead_letters
        self._rest = self._rest.slice(taken, len(self._rest))
        self._cursor = Cursor(self._cursor.seq, ordinal_of(self._rest.ids[0]))
        return []

    async def _load(self, deadline: float, begun: bool, records: int, room: int) -> bool:
        """Make the next post the current one. False if none came before `deadline`.

        begun: whether the batch has some. records, room: how many records, and how many bytes, it may still take.
        """
        while not self._entries:
            if not await self._wait_for_post(self._cursor.seq, deadline):
                return False
            self._entries.extend(await self._outlet.read(self._cursor.seq, READ_BYTES))
            if self._entries:
                self._due = deadline if begun else self._end_of_linger(self._entries[0].post.received)
                await self._gather(self._due, records, room)
            else:
                await self._clock.sleep(EMPTY_READ_PAUSE)
                if self._clock.monotonic() >= deadline:
                    return False
        entry = self._entries.popleft()
        post = await self._mapped_posts.map(self._outlet.partition, entry, self._entries)
        batch = post.batch
        if entry.seq == self._cursor.seq and self._cursor.ordinal:
            batch = batch.slice(bisect_left(batch.ids, self._cursor.ordinal, key=ordinal_of), len(batch))
        else:
            self._cursor = Cursor(entry.seq)  # numbers may be missing
        self._rest = self._filtered_batch(batch)
        self._loaded += len(entry.post.body)
        self._loaded_records += len(self._rest)
        self._loaded_bytes += self._rest.nbytes
        self._received = post.received
        self._dead_letters = post.dead_letters
        return True

    async def _gather(self, due: float, records: int, room: int) -> None:
        """Read more until the batch is due at this time, or is full. What can't be read now is read later."""
        pause = min(LOOK, self._delivery.linger / 4)
        waiting = sum(len(entry.post.body) for entry in self._entries)
        while (left := due - self._clock.monotonic()) > 0 and not self._fills(waiting, records, room):
            following = self._entries[-1].seq + 1
            if not await self._wait_for_post(following, due):
                return
            await self._clock.sleep(min(pause, left))
            try:
                more = await self._outlet.read(following, READ_BYTES - waiting)
            except JournalError:
                return
            self._entries.extend(more)
            waiting += sum(len(entry.post.body) for entry in more)

    def _fills(self, waiting: int, records: int, room: int) -> bool:
        """Whether posts of `waiting` bytes are likely to fill the batch, judged by those before them."""
        if waiting >= READ_BYTES or len(self._entries) >= MAX_POSTS or not self._loaded:
            return True
        share = waiting / self._loaded
        return self._loaded_records * share >= records or self._loaded_bytes * share >= room

    async def _wait_for_post(self, seq: int, deadline: float) -> bool:
        try:
            async with self._clock.timeout(max(0.0, deadline - self._clock.monotonic())):
                await self._outlet.wait(seq)
        except TimeoutError:
            return False
        return True

    def _filtered_batch(self, batch: Batch) -> Batch:
        if self._filter is None:
            return batch
        accepted = []
        for index, transaction in enumerate(batch.transactions):
            accepts = self._accepts.get(transaction)
            if accepts is None:
                if len(self._accepts) >= MAX_TRANSACTIONS:
                    self._accepts.clear()
                accepts = self._accepts[transaction] = self._filter.accepts(transaction)
            if accepts:
                accepted.append(index)
        if len(accepted) == len(batch):
            return batch
        self._filtered(len(batch) - len(accepted))
        picked = batch.take(accepted)
        return replace(picked, parts=[memoryview(picked.ndjson)])  # a copy, so that the whole post can be freed
