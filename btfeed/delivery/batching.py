"""From the journal to batches: read after the cursor, filter, and cut by records, bytes and linger."""

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field

from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.journal.base import Cursor, DeadLetter, Entry, Journal, JournalError
from sinks.batch import Batch, Transaction
from sinks.settings import Seconds, Settings, Size

READ_BYTES = 2**20
"""Bytes of bodies that are read from the journal at a time."""
MAX_POSTS = 1_000
"""Posts in a slice, however few of their records are wanted: a long stretch that a filter holds back is passed in steps."""
LOOK_AGAIN = 0.05
"""Seconds until a journal that announced posts and gave none is read again: they were damaged, and set aside."""
MAX_TRANSACTIONS = 10_000
"""Business transactions whose filtering is remembered."""


class DeliverySettings(Settings):
    """How a sink's records are batched and retried.

    max_records, max_bytes  a batch is written when it holds as many records or bytes,
    linger                  or when its oldest post was received so long ago and no other is waiting
    in_flight               batches written at a time
    max_age                 older records, by their timestamp, become dead letters
    retry_initial           a refused write waits a random time up to this, up to twice this after the next, and so on
    retry_max               up to this at most
    """

    max_records: Annotated[int, Field(ge=1)] = 5_000
    max_bytes: Annotated[Size, Field(ge=1)] = 5 * 2**20
    linger: Seconds = 0.2
    in_flight: Annotated[int, Field(ge=1, le=64)] = 1
    max_age: Annotated[Seconds, Field(gt=0)] | None = None
    retry_initial: Annotated[Seconds, Field(gt=0)] = 1.0
    retry_max: Annotated[Seconds, Field(gt=0)] = 60.0


class FilterSettings(Settings):
    """Which records a sink gets: those that match each list; an empty one matches all.

    category     purepath, user_action, visit, unknown
    application  as AppMon sends it
    name         of the business transaction
    """

    category: list[Literal["purepath", "user_action", "visit", "unknown"]] = []
    application: list[str] = []
    name: list[str] = []

    def accepts(self, transaction: Transaction) -> bool:
        return (
            (not self.category or transaction.category in self.category)
            and (not self.application or transaction.application in self.application)
            and (not self.name or transaction.name in self.name)
        )


@dataclass(slots=True)
class Slice:
    """A stretch of the journal: its records, its dead letters, and the cursor behind it."""

    batch: Batch
    end: Cursor
    dead_letters: list[DeadLetter] = field(default_factory=list)


class Batcher:
    """Cuts what follows `cursor` into slices, in order. `filtered` is told how many records were held back."""

    def __init__(
        self,
        journal: Journal,
        feed: MappedPosts,
        delivery: DeliverySettings,
        filter: FilterSettings,
        cursor: Cursor,
        filtered: Callable[[int], object],
    ) -> None:
        self._journal = journal
        self._feed = feed
        self._delivery = delivery
        self._filter = None if filter == FilterSettings() else filter
        self._cursor = cursor  # of the next record that is in no slice yet
        self._filtered = filtered
        self._entries: deque[Entry] = deque()  # read, and not yet loaded
        self._rest: Batch | None = None  # what is in no slice yet of the post at the cursor
        self._received = 0  # when that post was, in milliseconds since the epoch
        self._letters: list[DeadLetter] = []  # its dead letters
        self._accepts: dict[Transaction, bool] = {}

    async def next(self, patience: float) -> Slice | None:
        """The next slice, None where nothing came within `patience` seconds. Its batch is empty where all was filtered.
        Raises JournalError."""
        parts: list[Batch] = []
        letters: list[DeadLetter] = []
        begun = False
        records, room, posts = self._delivery.max_records, self._delivery.max_bytes, MAX_POSTS
        deadline = time.time() + patience
        while records > 0 and room > 0 and posts > 0:
            try:
                if self._rest is None and not await self._load(deadline):
                    break
            except JournalError:
                if begun:  # what was taken must not be lost; the error will come again
                    break
                raise
            assert self._rest is not None
            part = self._fitting(self._rest, records, room, first=not parts)
            if not len(part) and len(self._rest):
                break
            if not begun:
                begun = True
                deadline = min(self._received / 1000, time.time()) + self._delivery.linger
            parts.append(part)
            due = self._advance(len(part))
            letters += due
            records -= len(part) + len(due)
            room -= part.nbytes + sum(len(letter.body) for letter in due)
            posts -= self._rest is None
        return Slice(Batch.concat(parts), self._cursor, letters) if begun else None

    @staticmethod
    def _fitting(rest: Batch, records: int, room: int, first: bool) -> Batch:
        """As much of `rest` as fits; one record at least where it would be the first."""
        return rest.slice(0, max(rest.fitting(records, room), min(first, len(rest))))

    def _advance(self, taken: int) -> list[DeadLetter]:
        """Move the cursor over the next `taken` records; behind the post's last, its dead letters are due."""
        assert self._rest is not None
        if taken == len(self._rest):
            self._rest = None
            self._cursor = Cursor(self._cursor.seq + 1)
            return self._letters
        self._rest = self._rest.slice(taken, len(self._rest))
        self._cursor = Cursor(self._cursor.seq, _ordinal(self._rest.ids[0]))
        return []

    async def _load(self, deadline: float) -> bool:
        """Make the next post the rest to take. False where none came before `deadline`."""
        while not self._entries:
            if not await self._ready(deadline):
                return False
            self._entries.extend(await self._journal.read(self._cursor.seq, READ_BYTES))
            if not self._entries:
                await asyncio.sleep(LOOK_AGAIN)
                if time.time() >= deadline:
                    return False
        entry = self._entries.popleft()
        post = await self._feed.map(entry, self._entries)
        batch = post.batch
        if entry.seq == self._cursor.seq and self._cursor.ordinal:
            batch = batch.slice(bisect_left(batch.ids, self._cursor.ordinal, key=_ordinal), len(batch))
        else:
            self._cursor = Cursor(entry.seq)  # posts that were set aside leave gaps
        self._rest = self._filtered_batch(batch)
        self._received = post.received
        self._letters = post.dead_letters
        return True

    async def _ready(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.time())):
                await self._journal.wait(self._cursor.seq)
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
        return replace(picked, parts=[memoryview(picked.ndjson)])  # so that they do not hold the whole post in memory


def _ordinal(event_id: str) -> int:
    return int(event_id.rpartition("-")[2])
