"""Cuts posts into batches: reads them after the cursor, filters their records, and cuts by records, bytes and linger.

Posts are mapped when a batch is due, many at a time: handing each to a thread as it comes costs more than mapping it. A
batch is due when its oldest post has lingered, or when the posts that wait are likely to fill it.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
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


@dataclass(slots=True)
class _Rest:
    """What is left of a run of mapped posts, after the filter: the records of `batch`.

    seqs, received  the number of each post, and when it was received, in milliseconds since the epoch
    ends            the number of records of the batch up to the end of each post
    dead_letters    those of the post, if it is one
    """

    batch: Batch
    seqs: Sequence[int]
    received: Sequence[int]
    ends: Sequence[int]
    dead_letters: list[DeadLetter]

    def without(self, records: int, posts: int) -> "_Rest | None":
        """What is left behind the next `records`, which end in one of the next `posts`. None if that is nothing."""
        whole = bisect_left(self.ends, records, 0, posts)
        if self.ends[whole] == records:
            whole = bisect_right(self.ends, records, whole, posts) if not records else whole + 1
        if whole == len(self.seqs):
            return None
        ends = [end - records for end in self.ends[whole:]]
        batch = self.batch.slice(records, len(self.batch))
        return _Rest(batch, self.seqs[whole:], self.received[whole:], ends, self.dead_letters)


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
        self._rest: _Rest | None = None  # begins with the post at the cursor
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
            rest = self._rest
            assert rest is not None
            most = min(posts, len(rest.seqs))
            within = rest.ends[most - 1]
            part = self._fitting(rest.batch, min(records, within), room, first=not parts and within > 0)
            if not len(part) and rest.ends[0]:
                break
            if not begun:
                begun, received = True, rest.received[0]
                deadline = self._due or self._end_of_linger(received)
            parts.append(part)
            due = self._advance(rest, len(part), most)
            dead_letters += due
            records -= len(part) + len(due)
            room -= part.nbytes + sum(len(dead_letter.body) for dead_letter in due)
            posts -= len(rest.seqs) - (len(self._rest.seqs) if self._rest else 0)
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

    def _advance(self, rest: _Rest, taken: int, posts: int) -> list[DeadLetter]:
        """Move the cursor over the next `taken` records, which end in one of the next `posts`. Returns dead letters after
        the last record of their post."""
        left = self._rest = rest.without(taken, posts)
        if left is None:
            self._cursor = Cursor(rest.seqs[-1] + 1)
            return rest.dead_letters
        whole = len(rest.seqs) - len(left.seqs)
        if (rest.ends[whole - 1] if whole else 0) == taken:
            self._cursor = Cursor(left.seqs[0])
        else:
            self._cursor = Cursor(left.seqs[0], ordinal_of(left.batch.ids[0]))
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
        run = await self._mapped_posts.map(self._outlet.partition, entry, self._entries)
        self._loaded += len(entry.post.body)
        first = run.seqs.index(entry.seq)
        after = first + 1
        while self._entries and after < len(run.seqs) and self._entries[0].seq == run.seqs[after]:
            self._loaded += len(self._entries.popleft().post.body)
            after += 1
        start = run.ends[first - 1] if first else 0
        if entry.seq == self._cursor.seq and self._cursor.ordinal:
            start = bisect_left(run.batch.ids, self._cursor.ordinal, start, run.ends[first], key=ordinal_of)
        else:
            self._cursor = Cursor(entry.seq)  # numbers may be missing
        ends = [end - start for end in run.ends[first:after]]
        batch, ends = self._filtered_batch(run.batch.slice(start, run.ends[after - 1]), ends)
        self._loaded_records += len(batch)
        self._loaded_bytes += batch.nbytes
        self._rest = _Rest(batch, run.seqs[first:after], run.received[first:after], ends, run.dead_letters)
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

    def _filtered_batch(self, batch: Batch, ends: list[int]) -> tuple[Batch, list[int]]:
        """ends: of its posts, and returned as they are after the filter."""
        if self._filter is None:
            return batch, ends
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
            return batch, ends
        self._filtered(len(batch) - len(accepted))
        picked = batch.take(accepted)
        copied = replace(picked, parts=[memoryview(picked.ndjson)])  # so that the whole run can be freed
        return copied, [bisect_left(accepted, end) for end in ends]
