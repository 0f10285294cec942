"""The posts of a range of time in the topic PREFIX.posts.

Times of receipt need not ascend with the offsets: posts that a spill has forwarded come late. So posts are read from the
first one of the time on until the end that the topic had, and those of other times are left out.

What is damaged on a broker's disk is read from another replica. What none of those in sync can give, once each is asked, is
Damaged, with the time of the post before it. A batch of which one message can't be read is lost from there to its end.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from heapq import merge
from typing import Any, TypeVar

from aiokafka import TopicPartition

from btfeed.journal.base import Damaged, Entry, JournalUnavailable
from btfeed.journal.kafka import clients, groupless, replicas
from btfeed.journal.kafka.loop_thread import LoopThread
from btfeed.journal.kafka.messages import to_entry
from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.posts.post import digests
from sinks.kafka.access import ClusterAccess
from sinks.shared.clock import SYSTEM_CLOCK

T = TypeVar("T")
EVER = 2**62
MAX_SINGLY = 500
"""Messages to read one by one where one of them can't be read: the client gives none of those before it."""
Span = tuple[int, int]
"""The offset of the first message of a partition, and the one behind the last."""


class KafkaArchive:
    """See btfeed.journal.base.Archive. Posts of several partitions come in the order of their times."""

    def __init__(self, settings: KafkaJournalSettings, begin: int | None = None, end: int | None = None) -> None:
        """Posts received from `begin` to before `end`, in milliseconds since the epoch. Raises JournalUnavailable."""
        self._settings = settings
        self._topic = Names(settings.prefix).posts
        self._begin = -EVER if begin is None else begin
        self._end = EVER if end is None else end
        self._spans: dict[TopicPartition, Span] = {}
        with self._opened() as reader:
            self._spans, self.count = reader.call(self._look(reader.consumer))
        if not self.count and any(first < last for first, last in self._spans.values()):
            self.count = sum(1 for _ in self.entries())  # they may have come late

    def entries(self) -> Iterator[Entry | Damaged]:
        with self._opened() as reader:
            spans = {place: (first, last) for place, (first, last) in self._spans.items() if first < last}
            reader.call(_go(reader.consumer, spans))
            yield from merge(*(self._partition(reader, place, last) for place, (_, last) in spans.items()), key=_received)

    async def _look(self, consumer: Any) -> tuple[dict[TopicPartition, Span], int]:
        """Where the posts are, and how many there are if their times ascend."""
        await groupless.check_topics(consumer, [self._topic], SYSTEM_CLOCK)
        await consumer._client.add_topic(self._topic)
        places = [TopicPartition(self._topic, number) for number in sorted(consumer.partitions_for_topic(self._topic))]
        ends = await consumer.end_offsets(places)
        first = await self._after(consumer, self._begin, ends)
        last = ends if self._end == EVER else await self._after(consumer, self._end, ends)
        spans = {place: (first[place], ends[place]) for place in places}
        return spans, sum(max(0, min(last[place], ends[place]) - first[place]) for place in places)

    async def _after(self, consumer: Any, time: int, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The first post of each partition that was received at this time or later. One before it if a broker can't say
        which it is, since it would have to look into a batch that is damaged."""
        earlier = 1000
        while time > 0:
            try:
                found = await consumer.offsets_for_times(dict.fromkeys(ends, time))
            except replicas.DAMAGED_BATCH:
                time, earlier = time - earlier, 2 * earlier
            else:
                return {place: found[place].offset if found[place] else end for place, end in ends.items()}
        first: dict[TopicPartition, int] = await consumer.beginning_offsets(list(ends))
        return first

    def _partition(self, reader: "_Reader", place: TopicPartition, last: int) -> Iterator[Entry | Damaged]:
        partition = _Partition(reader.consumer, place, last, self._settings.request_timeout)
        time = max(0, self._begin)
        while (piece := reader.call(partition.read())) is not None:
            if isinstance(piece, int):
                yield Damaged(piece, time, b"", place.partition)
                continue
            names = digests([message.value or b"" for message in piece])
            for message, name in zip(piece, names, strict=True):
                if message.offset < last and self._begin <= message.timestamp < self._end:
                    time, entry = message.timestamp, to_entry(message)
                    sound = name == entry.digest
                    yield entry if sound else Damaged(entry.seq, time, entry.post.body, place.partition)

    async def _guarded(self, call: Awaitable[T]) -> T:
        with clients.unavailable(partial(groupless.explain, topic=self._topic)):
            return await call

    @contextmanager
    def _opened(self) -> Iterator["_Reader"]:
        settings = self._settings
        access = ClusterAccess(settings.bootstrap_servers, settings.security, settings.request_timeout, SYSTEM_CLOCK)
        with LoopThread() as loop:
            try:
                consumer = loop.call(groupless.start(access, settings.request_timeout, SYSTEM_CLOCK))
                try:
                    yield _Reader(consumer, lambda coroutine: loop.call(self._guarded(coroutine)))
                finally:
                    loop.call(clients.stop(consumer))
            finally:
                loop.call(access.close())


class _Partition:
    """Reads a partition to its end, in order. What a broker has damaged is read from another replica."""

    def __init__(self, consumer: Any, place: TopicPartition, last: int, patience: float) -> None:
        """last: the offset behind the last message. patience: seconds to wait for brokers."""
        self._consumer = consumer
        self._place = place
        self._last = last
        self._patience = patience
        self._singly = 0  # how many messages to read one by one
        self._at = -1  # what can't be read
        self._asked: set[int] = set()  # the brokers that were to give it
        self._failed: set[int] = set()  # those that gave what can't be read

    async def read(self) -> Sequence[Any] | int | None:
        """The next messages, or the offset of one that no replica can give; None at the end. Raises JournalUnavailable."""
        consumer, place = self._consumer, self._place
        while (at := groupless.position(consumer, place)) < self._last:
            try:
                limit = 1 if self._singly else None
                found = await consumer.getmany(place, timeout_ms=round(self._patience * 1000), max_records=limit)
            except Exception as error:
                if not replicas.is_damage(error):
                    raise
                if not self._singly:  # it may be behind messages that can be read
                    self._singly = MAX_SINGLY
                elif self._is_lost(at):
                    consumer.seek(place, at + 1)
                    self._rest()
                    return at
                continue
            if not found and groupless.position(consumer, place) < self._last:
                raise JournalUnavailable(f"topic {place.topic}: no reply in {self._patience:g} s")
            messages: Sequence[Any] = found.get(place, ())
            self._singly = max(0, self._singly - len(messages))
            self._rest()
            return messages
        return None

    def _rest(self) -> None:
        """At the end, ask for nothing more: brokers would hold back the answers about other partitions meanwhile."""
        if groupless.position(self._consumer, self._place) >= self._last:
            self._consumer.pause(self._place)

    def _is_lost(self, at: int) -> bool:
        """Whether all replicas in sync have failed to give this offset. Otherwise, the next one is asked. Raises
        JournalUnavailable if one can't be asked."""
        if at != self._at:
            self._at, self._asked, self._failed = at, set(), set()
        failed = replicas.asked(self._consumer, self._place)
        if failed is not None:
            self._failed.add(failed)
        asked = replicas.ask_another(self._consumer, self._place, SYSTEM_CLOCK, self._asked | self._failed)
        if asked is not None:
            self._asked.add(asked)
            return False
        away = set(replicas.in_sync(self._consumer, self._place)) - self._failed
        if away:
            where = f"partition {self._place.partition} is damaged at offset {at}"
            raise JournalUnavailable(f"{where}, and broker {min(away)}, which has a replica, does not reply")
        return True


class _Reader:
    """A consumer, and how to call what it does on its loop."""

    def __init__(self, consumer: Any, call: Callable[[Any], Any]) -> None:
        self.consumer = consumer
        self.call = call


async def _go(consumer: Any, spans: Mapping[TopicPartition, Span]) -> None:
    """Let the consumer read from the beginnings."""
    consumer.assign(list(spans))
    for place, (first, _) in spans.items():
        consumer.seek(place, first)


def _received(row: Entry | Damaged) -> int:
    return row.received if isinstance(row, Damaged) else row.post.received
