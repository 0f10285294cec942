"""Follows the topics of dead letters, and reads single messages of them.

Two consumers, without a group: one is always at the end of the topics. The other reads what is asked for, and tells where
the topics end: a broker answers the requests of a connection in turn, and the first connection mostly waits for news.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import structlog
from aiokafka import TopicPartition, errors
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.protocol.offset import OffsetRequest, OffsetResetStrategy

from btfeed.journal.base import JournalUnavailable
from btfeed.journal.kafka import clients, groupless
from btfeed.journal.kafka.settings import KafkaJournalSettings
from sinks.kafka.access import ClusterAccess
from sinks.shared.clock import Clock

log = structlog.get_logger()

T = TypeVar("T")

POLL_MS = 200
"""Milliseconds between two looks where the consumer is if nothing comes."""
READ_WAIT_MS = 20
"""Milliseconds that a broker may hold back the reply to the second consumer, which never asks beyond the end for long."""
FAILED_PAUSE = 0.5
"""Seconds before the topics are read again after an error."""
CLOSED = "the journal is closed"
NEAR = 1_000
"""Messages that are rather read and dropped than passed over with another request."""


class LetterTail:
    """folds: topic -> what to call with each of its messages, in their order. Methods raise JournalUnavailable."""

    def __init__(
        self,
        settings: KafkaJournalSettings,
        access: ClusterAccess,
        folds: Mapping[str, Callable[[Any], object]],
        clock: Clock,
    ) -> None:
        self._timeout = settings.request_timeout
        self._access = access
        self._folds = folds
        self._clock = clock
        self._places = [TopicPartition(topic, 0) for topic in folds]
        self._positions = dict.fromkeys(self._places, 0)
        self._tail: Any = None
        self._reader: Any = None
        self._suspect: Any = None  # the reader, if something unexpected came out of it
        self._following: asyncio.Task[None] | None = None
        self._tail_suspect = False
        self._failure: JournalUnavailable | None = None
        self._moved = asyncio.Event()
        self._closed = False
        self._turn = asyncio.Lock()
        self._replacing = asyncio.Lock()

    async def open(self) -> None:
        """Connect, and read everything that the topics have. May be called again after it failed."""
        if self._closed:
            raise JournalUnavailable(CLOSED)
        try:
            await self._open()
        except BaseException:
            await self._release()
            raise

    async def _open(self) -> None:
        self._failure = None
        self._reader = await self._start_reader()
        self._tail = await groupless.start(self._access, self._timeout, self._clock, fetch_max_wait_ms=POLL_MS)
        self._tail.assign(self._places)
        self._following = asyncio.create_task(self._follow(), name="dead letters")
        await self.catch_up()

    async def _start_reader(self) -> Any:
        reader = await groupless.start(self._access, self._timeout, self._clock, fetch_max_wait_ms=READ_WAIT_MS)
        try:
            await groupless.check_topics(reader, self._folds, self._clock)
        except BaseException:
            await clients.stop(reader)
            raise
        reader.assign(self._places)
        reader.pause(*self._places)
        return reader

    async def _sound_reader(self) -> Any:
        """The reader: another one, if this one has failed."""
        async with self._replacing:
            reader = self._open_reader()
            if reader is not self._suspect and not clients.has_failed(reader):
                return reader
            replacement = await self._start_reader()
            if self._reader is not reader:  # closed meanwhile
                await clients.stop(replacement)
                return self._open_reader()
            self._reader = replacement
        await clients.stop(reader)
        return replacement

    def _suspect_reader(self, reader: Any) -> None:
        self._suspect = reader

    async def close(self) -> None:
        self._closed = True
        await self._release()
        self._moved.set()

    async def _release(self) -> None:
        if self._following:
            self._following.cancel()
            await asyncio.wait([self._following])
        await asyncio.gather(*(clients.stop(consumer) for consumer in (self._tail, self._reader) if consumer))
        self._tail = self._reader = self._following = None

    async def catch_up(self) -> dict[str, int]:
        """Return when everything was read that the topics had when it was called: topic -> its end then."""
        ends = await self._asked(lambda reader: reader.end_offsets(self._places))
        await self.until(lambda: all(self._positions[place] >= ends[place] for place in self._places))
        return {place.topic: ends[place] for place in self._places}

    async def catch_up_with_open(self, topic: str) -> None:
        """Return when everything was read that a topic had when it was called, also what belongs to transactions that were
        open: once they have ended."""
        place = TopicPartition(topic, 0)
        end = await self._asked(partial(_end, place))
        await self.until(lambda: self._positions[place] >= end)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds, which something that is read from the topics brings about."""
        while not condition():
            self._open_reader()
            if self._failure:
                raise self._failure
            self._moved.clear()
            try:
                async with self._clock.timeout(self._timeout):
                    await self._moved.wait()
            except TimeoutError:
                raise JournalUnavailable(f"no message of the dead letters came in {self._timeout:g} s") from None

    def position(self, topic: str) -> int:
        """The offset of the first message of a topic that is not known yet."""
        return self._positions[TopicPartition(topic, 0)]

    async def beginning(self, topic: str) -> int:
        """The offset of the first message that a topic still has."""
        place = TopicPartition(topic, 0)
        found = await self._asked(lambda reader: reader.beginning_offsets([place]))
        return int(found[place])

    async def messages(self, topic: str, offsets: Collection[int]) -> dict[int, Any]:
        """offset -> message. Those that the topic no longer has are missing."""
        found: dict[int, Any] = {}
        async with self._turn:
            for run in _runs(sorted(offsets)):
                found |= await self._read(TopicPartition(topic, 0), run)
        return found

    # Reading

    async def _read(self, place: TopicPartition, offsets: Sequence[int]) -> dict[int, Any]:
        wanted, last = set(offsets), offsets[-1]
        found: dict[int, Any] = {}
        reader = await self._sound_reader()
        with self._asking(reader, place.topic):
            reader.seek(place, offsets[0])
            reader.resume(place)
            try:
                while groupless.position(reader, place) <= last:
                    got = await reader.getmany(place, timeout_ms=round(self._timeout * 1000))
                    for message in got.get(place, ()):
                        if message.offset in wanted:
                            found[message.offset] = message
                    if not got and groupless.position(reader, place) <= last:
                        raise JournalUnavailable(f"topic {place.topic}: no reply in {self._timeout:g} s")
            finally:
                if self._reader is reader:
                    reader.pause(place)
        return found

    async def _asked(self, question: Callable[[Any], Awaitable[T]]) -> T:
        reader = await self._sound_reader()
        with self._asking(reader, self._places[0].topic):
            async with self._clock.timeout(self._timeout):
                return await question(reader)

    def _asking(self, reader: Any, topic: str) -> AbstractContextManager[None]:
        return clients.unavailable(partial(self._explain, topic=topic), partial(self._suspect_reader, reader))

    def _explain(self, error: BaseException, topic: str) -> str:
        if isinstance(error, TimeoutError):
            return f"no broker replies about the dead letters in {self._timeout:g} s"
        return groupless.explain(error, topic)

    def _open_reader(self) -> Any:
        if self._reader is None:
            raise JournalUnavailable(CLOSED if self._closed else "the dead letters are not open")
        return self._reader

    # Following

    async def _follow(self) -> None:
        while True:
            try:
                with clients.unavailable(partial(groupless.explain, topic=self._places[0].topic), self._suspect_tail):
                    if self._tail_suspect or clients.has_failed(self._tail):
                        await self._replace_tail()
                    found = await self._tail.getmany(timeout_ms=POLL_MS)
            except JournalUnavailable as failure:
                if self._failure is None:
                    log.warning("can't read the dead letters, retrying", error=str(failure))
                self._failure = failure
                self._moved.set()
                await self._clock.sleep(FAILED_PAUSE)
                continue
            for place, messages in found.items():
                for message in messages:
                    self._fold(place.topic, message)
            positions = {place: groupless.position(self._tail, place) for place in self._places}
            if found or positions != self._positions:
                self._failure = None
                self._positions = positions
                self._moved.set()

    async def _replace_tail(self) -> None:
        """Go on with another consumer where this one was."""
        tail = await groupless.start(self._access, self._timeout, self._clock, fetch_max_wait_ms=POLL_MS)
        tail.assign(self._places)
        for place, position in self._positions.items():
            tail.seek(place, position)
        failed, self._tail = self._tail, tail
        self._tail_suspect = False
        await clients.stop(failed)

    def _suspect_tail(self) -> None:
        self._tail_suspect = True

    def _fold(self, topic: str, message: Any) -> None:
        try:
            self._folds[topic](message)
        except Exception as error:
            log.error("bug in the dead letters", exc_info=error)


async def _end(place: TopicPartition, reader: Any) -> int:
    """The offset behind all messages, also those of open transactions."""
    node = reader._client.cluster.leader_for_partition(place)
    request = OffsetRequest(-1, READ_UNCOMMITTED, [(place.topic, [(place.partition, OffsetResetStrategy.LATEST)])])
    answer = await reader._client.send(node, request)
    ((_, ((_, code, *_, end),)),) = answer.topics
    if code:
        raise errors.for_code(code)
    return int(end)


def _runs(offsets: Sequence[int]) -> Iterator[list[int]]:
    """Ascending offsets, parted where many messages lie between two."""
    run: list[int] = []
    for offset in offsets:
        if run and offset - run[-1] > NEAR:
            yield run
            run = []
        run.append(offset)
    if run:
        yield run
