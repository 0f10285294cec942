"""The posts of a range of time in the topic PREFIX.posts.

Times of receipt need not ascend with the offsets: posts that a spill has forwarded come late. So posts are read from the
first one of the time on until the end that the topic had, and those of other times are left out.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from heapq import merge
from typing import Any, TypeVar

from aiokafka import TopicPartition

from btfeed.journal.base import Damaged, Entry, JournalUnavailable
from btfeed.journal.kafka import clients, groupless
from btfeed.journal.kafka.loop_thread import LoopThread
from btfeed.journal.kafka.messages import to_entry
from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.posts.post import digests
from sinks.kafka.access import ClusterAccess
from sinks.shared.clock import SYSTEM_CLOCK

T = TypeVar("T")
EVER = 2**62
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
            yield from merge(*(self._partition(reader, place, span) for place, span in spans.items()), key=_received)

    async def _look(self, consumer: Any) -> tuple[dict[TopicPartition, Span], int]:
        """Where the posts are, and how many there are if their times ascend."""
        await groupless.check_topics(consumer, [self._topic], SYSTEM_CLOCK)
        await consumer._client.add_topic(self._topic)
        places = [TopicPartition(self._topic, number) for number in sorted(consumer.partitions_for_topic(self._topic))]
        ends = await consumer.end_offsets(places)
        first = await self._after(consumer, self._begin, ends) if self._begin > 0 else None
        first = first or await consumer.beginning_offsets(places)
        last = ends if self._end == EVER else await self._after(consumer, self._end, ends) if self._end > 0 else first
        spans = {place: (first[place], ends[place]) for place in places}
        return spans, sum(max(0, min(last[place], ends[place]) - first[place]) for place in places)

    async def _after(self, consumer: Any, time: int, ends: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The first post of each partition that was received at this time or later."""
        found = await consumer.offsets_for_times(dict.fromkeys(ends, time))
        return {place: found[place].offset if found[place] else end for place, end in ends.items()}

    def _partition(self, reader: "_Reader", place: TopicPartition, span: Span) -> Iterator[Entry | Damaged]:
        _, last = span
        while (piece := reader.call(self._piece(reader.consumer, place, last))) is not None:
            names = digests([message.value or b"" for message in piece])
            for message, name in zip(piece, names, strict=True):
                if message.offset < last and self._begin <= message.timestamp < self._end:
                    entry = to_entry(message)
                    sound = name == entry.digest
                    yield entry if sound else Damaged(entry.seq, entry.post.received, entry.post.body)

    async def _piece(self, consumer: Any, place: TopicPartition, last: int) -> list[Any] | None:
        """The next messages; None at the end."""
        if groupless.position(consumer, place) >= last:
            consumer.pause(place)
            return None
        found = await consumer.getmany(place, timeout_ms=round(self._settings.request_timeout * 1000))
        if not found and groupless.position(consumer, place) < last:
            raise JournalUnavailable(f"topic {self._topic}: no reply in {self._settings.request_timeout:g} s")
        return list(found.get(place, ()))

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
