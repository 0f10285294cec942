"""Dead letters, retries and pauses in topics, as a process that delivers uses them.

    PREFIX.dead-letters   compacted; the letters of records, and what else must be kept: see letter_messages.py
    PREFIX.refused        rejected and damaged posts; the brokers delete the oldest beyond journal.refused_posts
    PREFIX.retries        what an operator wants delivered after all

`Letters` follows all three (letter_tail.py), and keeps an index of them in memory without bodies (letter_index.py). So
every process sees what others add, retry, delete and pause. Before it answers, it reads what the topics have by then.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import structlog

from btfeed.journal.base import ALL, LATEST, Commit, DeadLetter, DeadLetters, JournalUnavailable, Kept, Selection
from btfeed.journal.kafka import letter_messages, refused
from btfeed.journal.kafka.letter_changes import LetterChanges
from btfeed.journal.kafka.letter_index import Entry, LetterIndex
from btfeed.journal.kafka.letter_log import LetterLog, Message
from btfeed.journal.kafka.letter_messages import UNREADABLE
from btfeed.journal.kafka.letter_tail import LetterTail
from btfeed.journal.kafka.letter_view import KafkaDeadLetters
from btfeed.journal.kafka.loop_thread import call
from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.warnings import SummedWarnings
from sinks.kafka.access import ClusterAccess
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()

MAX_RECORDS = 200_000
"""Letters of records that are kept, all in the index of each process that delivers. Beyond it the oldest are deleted."""
LEFT = 15 / 16
"""The part of them that is left then."""
EVICTED_AT_ONCE = 10_000
PIECE = 4 * 2**20
"""Bytes of letters that are read into memory at a time."""
TEND_INTERVAL = 10.0
"""Seconds between looks at what the brokers have deleted."""


class Letters:
    """The dead letters of all sinks, in a process that delivers. Methods raise JournalUnavailable, which says which right
    is missing if one is.

    Everything belongs to the event loop of `open`, but what `view` gives.
    """

    def __init__(
        self,
        settings: KafkaJournalSettings,
        metrics: Metrics,
        max_occurrences: int,
        *,
        clock: Clock = SYSTEM_CLOCK,
        max_records: int = MAX_RECORDS,
    ) -> None:
        """Needs a running event loop. max_occurrences: what a rejected post may have when it is retried. max_records: see
        MAX_RECORDS."""
        self.names = names = Names(settings.prefix)
        self.max_occurrences = max_occurrences
        self.index = LetterIndex()
        self.changes = LetterChanges(names, self.index, clock)
        self._metrics = metrics
        self._clock = clock
        self._max_records = max_records
        self._warnings = SummedWarnings(clock)
        self._access = ClusterAccess(settings.bootstrap_servers, settings.security, settings.request_timeout, clock)
        self.log = LetterLog(settings, self._access, clock)
        folds = {
            names.dead_letters: self._add_letter,
            names.refused: self.index.add_refused,
            names.retries: self.index.add_mark,
        }
        self._tail = LetterTail(settings, self._access, folds, clock)
        self._replaced: dict[bytes, int] = {}  # key of a letter -> the version that another one replaces
        self._tending: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._opening = asyncio.Lock()
        self._opened = False

    async def open(self, tends: bool = True) -> None:
        """Connect, and read the topics, which must exist, to their end, unless that is done. May be called again after it
        failed. tends: whether to count what the brokers delete."""
        async with self._opening:
            if not self._opened:
                await self._tail.open()
            self._opened = True
        if tends and not self._tending:
            self._tending = asyncio.create_task(self._tend(), name="dead letters tended")

    async def close(self) -> None:
        """Release everything. Later calls raise JournalUnavailable."""
        if self._tending:
            self._tending.cancel()
            await asyncio.wait([self._tending])
        await self._tail.close()
        await self.log.close()
        await self._access.close()
        self._warnings.close()

    def reconfigure(self, max_occurrences: int) -> None:
        """Go on with another limit of occurrences."""
        self.max_occurrences = max_occurrences

    # For outlets

    async def apply(self, sink: str, partition: int, commit: Commit) -> None:
        """Make everything of `commit` durable that concerns dead letters: new ones, also those of posts that are damaged;
        the end of those that were redelivered; what became of those that were retried. Returns at once if there is nothing
        like that. To be called before the offset is committed: done again, it changes nothing more.

        partition: where new letters come from. The outlet of that partition retries those of them that wait for a
        destination.
        """
        messages = await self.messages(sink, partition, commit)
        if messages:
            await self.write(messages)
        if commit.dead_letters and self.index.records > self._max_records:
            await self._evict_records()

    async def messages(self, sink: str, partition: int, commit: Commit) -> Sequence[Message]:
        """What `apply` would produce, for those who do so in a transaction. Letters follow the topics as their transactions
        are committed."""
        new = [self.changes.refused(each) for each in commit.dead_letters if each.kind == "post"]
        letters: dict[bytes, DeadLetter] = {}
        for each in commit.dead_letters:
            key = letter_messages.letter_key(each.sink, each.event_id)
            if each.kind == "record" and key not in self.index.by_key:
                letters.setdefault(key, each)
        new += [self.new(each, partition) for each in letters.values()]
        new += [self.changes.gone(entry) for entry in self._entries(commit.redelivered)]
        tried = self._entries([*commit.refused_again, *commit.waiting_again])
        for entry, letter in await self.load(tried):
            if entry.id in commit.refused_again:
                new.append(self.changes.refused_again(entry, letter, commit.refused_again[entry.id]))
            else:
                new.append(self.changes.waiting_again(entry, letter, *commit.waiting_again[entry.id]))
        return new

    def new(self, letter: DeadLetter, partition: int) -> Message:
        """A record that becomes a letter. Marks that were made for an earlier letter of its key are not for this one."""
        return self.changes.new(letter, partition, self._tail.position(self.names.retries))

    @contextmanager
    def replacing(self, messages: Sequence[Message]) -> Iterator[None]:
        """To be entered while `messages` are made durable. Brokers show them only once all earlier transactions have ended.
        Until then outlets wait for answers about letters, so that nothing is retried twice."""
        entries = (self.index.by_key.get(each.key) for each in messages if each.topic == self.names.dead_letters)
        before = {entry.key: entry.offset for entry in entries if entry and not entry.is_post}
        yield
        self._replaced |= before

    async def settled(self) -> None:
        """Return when all is known that any process has written of letters until now, once its transactions have ended."""
        await self._tail.catch_up_with_open(self.names.dead_letters)

    async def _catch_up_with_changes(self) -> None:
        await self._tail.catch_up()
        replaced = self._replaced.copy()
        await self._tail.until(lambda: not any(map(self._is_newest, replaced.items())))
        self._replaced = dict(filter(self._is_newest, self._replaced.items()))

    def _is_newest(self, version: tuple[bytes, int]) -> bool:
        """Whether no later version of the letter is known."""
        key, offset = version
        entry = self.index.by_key.get(key)
        return entry is not None and entry.offset == offset

    async def destinations(self, sink: str, partition: int) -> Mapping[str, int]:
        """Destinations that dead letters of this sink wait for, that came from this partition -> how many."""
        await self._catch_up_with_changes()
        return self.index.destinations(sink, partition)

    async def waiting(self, sink: str, partition: int, destination: str, limit: int) -> Sequence[DeadLetter]:
        """See Outlet.waiting: those that came from this partition."""
        await self._catch_up_with_changes()
        return await self._sound(self.index.waiting(sink, partition, destination, limit))

    async def retries(self, sink: str, limit: int) -> Sequence[DeadLetter]:
        """See Outlet.retries, whatever partition they came from: for the outlet of the topic of retries. Those that it
        gives stay marked until `apply` is given a commit that names them."""
        await self._catch_up_with_changes()
        return await self._sound(self.index.marked(sink, limit))

    async def retried(self, sink: str) -> int:
        """The offset in the topic of retries before which no mark of this sink is left: the outlet of that topic may commit
        it, so that the lag of its group shows what is still to be retried."""
        ends = await self._tail.catch_up()
        first = self.index.first_mark(sink)
        return ends[self.names.retries] if first is None else first

    # For the journal

    async def kept(self) -> Sequence[Kept]:
        """See Journal.kept."""
        await self._tail.catch_up()
        return self.index.kept()

    async def paused(self) -> Mapping[str, int]:
        """See Journal.paused."""
        await self._tail.catch_up()
        return dict(self.index.paused)

    async def pause(self, sink: str) -> None:
        """See Journal.pause."""
        if sink not in await self.paused():
            await self.write([self.changes.pause(sink)])

    async def resume(self, sink: str) -> None:
        """See Journal.resume."""
        if sink in await self.paused():
            await self.write([self.changes.resume(sink)])

    async def add_post(self, letter: DeadLetter) -> None:
        """Keep a rejected or damaged post. An intake has its own way to the same topic (refused.py)."""
        await self.write([self.changes.refused(letter)])

    # For commands and the admin listener

    @contextmanager
    def view(self) -> Iterator[DeadLetters]:
        """The same letters for another thread, such as one of the admin listener. It blocks, so it is not for the thread
        of the event loop. Opens them if they are not: a process that only receives reads them when somebody asks."""
        if not self._opened:
            call(self._loop, self.open(tends=False))
        yield KafkaDeadLetters(self, self._loop)

    async def find(self, selection: Selection = ALL) -> list[int]:
        """The ids of those that are there now, ascending."""
        await self._tail.catch_up()
        return self.index.find(selection)

    async def count(self, selection: Selection) -> int:
        """How many `find` would find."""
        await self._tail.catch_up()
        return self.index.count(selection)

    async def newest(self, limit: int, selection: Selection = ALL, before: int = LATEST) -> Sequence[DeadLetter]:
        """See DeadLetters.newest."""
        await self._tail.catch_up()
        found: list[Entry] = []
        size = 0
        for entry in self.index.newest(selection, before):
            if len(found) == limit or size > PIECE:
                break
            found.append(entry)
            size += entry.size
        return [letter for _, letter in await self.load(found)]

    def piece(self, ids: Sequence[int]) -> tuple[list[Entry], int]:
        """Those of the first ids that are still there and that fit into memory together; and how many ids that were."""
        found: list[Entry] = []
        size = 0
        for number, each in enumerate(ids):
            if size > PIECE:
                return found, number
            if entry := self.index.get(each):
                found.append(entry)
                size += entry.size
        return found, len(ids)

    async def delete(self, ids: Iterable[int]) -> None:
        """See DeadLetters.delete."""
        await self._tail.catch_up()
        await self.write([self.changes.gone(entry) for entry in self._entries(ids)])

    async def load(self, entries: Sequence[Entry]) -> list[tuple[Entry, DeadLetter]]:
        """Each with its letter, in their order. Those that were deleted meanwhile are missing."""
        found: dict[int, DeadLetter] = {}
        left = list(entries)
        for _ in range(2):  # again: compaction removes what has a newer version
            found |= await self._read(left)
            if all(entry.id in found for entry in left):
                break
            await self._tail.catch_up()
            left = [now for entry in left if entry.id not in found and (now := self.index.get(entry.id))]
        return [(entry, found[entry.id]) for entry in entries if entry.id in found]

    # Inside

    async def write(self, messages: Sequence[Message]) -> None:
        """Make them durable, and follow the topics behind them."""
        with self.replacing(messages):
            too_large = await self.log.write(messages)
            if too_large:
                for each in too_large:
                    self._warnings.error("dead letter larger than its topic takes, body lost", each.topic, topic=each.topic)
                    self._metrics.dead_letters_lost.inc()
                await self.log.write([cut for each in too_large if (cut := self.changes.without_body(each))])
        await self._tail.catch_up()

    async def _sound(self, entries: Sequence[Entry]) -> list[DeadLetter]:
        """The letters that are not damaged. Others are set aside: they would be found first each time."""
        loaded = await self.load(entries)
        damaged = [(entry, letter) for entry, letter in loaded if not letter.body]
        if damaged:
            await self.write([self.changes.damaged(entry, letter) for entry, letter in damaged])
            for sink, number in Counter(entry.sink for entry, _ in damaged).items():
                log.error("damaged dead letters set aside", sink=sink, count=number)
                self._metrics.dead_letters.labels(sink=sink, reason="damaged").inc(number)
        return [letter for _, letter in loaded if letter.body]

    async def _read(self, entries: Sequence[Entry]) -> dict[int, DeadLetter]:
        found: dict[int, DeadLetter] = {}
        for topic, is_post in ((self.names.dead_letters, False), (self.names.refused, True)):
            wanted = {entry.offset: entry for entry in entries if entry.is_post is is_post}
            messages = await self._tail.messages(topic, wanted) if wanted else {}
            for offset, message in messages.items():
                entry = wanted[offset]
                found[entry.id] = _post(entry, message) if is_post else _record(entry, message)
        return found

    def _entries(self, ids: Iterable[int]) -> list[Entry]:
        return [entry for each in ids if (entry := self.index.get(each))]

    async def _evict_records(self) -> None:
        excess = self.index.records - round(self._max_records * LEFT)
        oldest = self.index.oldest_records(min(excess, EVICTED_AT_ONCE))
        await self.write([self.changes.evicted(entry) for entry in oldest])

    def _add_letter(self, record: Any) -> None:
        ended = self.index.add_letter(record)
        if ended and self.changes.has_evicted(record):
            self._report_evicted([ended])

    def _report_evicted(self, entries: Iterable[Entry]) -> None:
        for (sink, cause), number in Counter(entry.group for entry in entries).items():
            self._metrics.dead_letters_evicted.labels(sink, cause).inc(number)
            self._warnings.error(
                "dead letters full, oldest deleted", ("evicted", sink, cause), number, sink=sink, reason=cause
            )

    async def _tend(self) -> None:
        while True:
            with suppress(JournalUnavailable):  # those who deliver tell it
                await self.tend()
            await self._clock.sleep(TEND_INTERVAL)

    async def tend(self) -> None:
        """Count the refused posts that the brokers have deleted, and forget what became of them."""
        ends = await self._tail.catch_up()
        self.index.drop_marks(ends[self.names.retries])
        first = await self._tail.beginning(self.names.refused)
        self._report_evicted(self.index.drop_posts(first))
        self._metrics.dead_letter_bytes.set(self.index.nbytes)
        past = [self.changes.forgotten(key) for key in self.index.outcomes(first)]
        if past:
            await self.write(past)


def _record(entry: Entry, message: Any) -> DeadLetter:
    letter = letter_messages.decode_letter(message.value or b"")
    if letter:
        return replace(letter, id=entry.id)
    _, event_id = letter_messages.named_by(entry.key)
    return DeadLetter("record", entry.sink, UNREADABLE, entry.time, b"", event_id=event_id, id=entry.id, cause=entry.cause)


def _post(entry: Entry, message: Any) -> DeadLetter:
    letter = refused.to_letter(message, entry.id)
    if entry.outcome is None:
        return letter
    return replace(letter, reason=entry.outcome.reason, tries=entry.outcome.tries)
