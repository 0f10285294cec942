"""A consumer and its brokers in memory, and outlets over them: what a group does is decided by the test.

The consumer behaves as aiokafka does: a read that waits while the group rebalances returns records of the next assignment.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from btfeed.journal.base import Commit, DeadLetter, JournalUnavailable, Outlet, OutletGone
from btfeed.journal.kafka.consumer import (
    NOBODY,
    ConsumerSettings,
    DamagedMessage,
    Listener,
    Member,
    OutOfRange,
    Saved,
    Span,
)
from btfeed.journal.kafka.group import KafkaOutlets
from btfeed.journal.kafka.letter_log import Message
from btfeed.journal.kafka.messages import to_message
from btfeed.journal.kafka.outlet import KafkaOutlet, RetriesOutlet
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.journal.kafka.shared import Shared, Tuning
from btfeed.posts.post import Post, digest
from btfeed.telemetry.metrics import Metrics
from sinks.shared.clock import Clock
from tests.journal.journals import post
from tests.support.clock import FastClock
from tests.support.harness import DEADLINE, until_async

SETTINGS = KafkaJournalSettings.model_validate(
    {"type": "kafka", "bootstrap_servers": "k:9092", "instance": "one", "retention": "36500d"}
)
RETRIES = TopicPartition("btfeed.retries", 0)


def place(number: int) -> TopicPartition:
    """A partition of posts."""
    return TopicPartition("btfeed.posts", number)


class FakeBrokers:
    """messages: by partition, None where an offset has no message for readers. first: the first offset that is kept.
    saved: by the group."""

    def __init__(self, partitions: int = 1) -> None:
        self.messages: dict[TopicPartition, list[Any]] = {place(number): [] for number in range(partitions)}
        self.messages[RETRIES] = []
        self.first: dict[TopicPartition, int] = {}
        self.saved: dict[TopicPartition, Saved] = {}
        self.grown = asyncio.Event()

    def add(self, *posts: Post, partition: int = 0) -> None:
        for each in posts:
            key, value, timestamp, headers = to_message(each, digest(each.body))
            offset = len(self.messages[place(partition)])
            found = {"offset": offset, "key": key, "value": value, "timestamp": timestamp, "headers": headers}
            self.messages[place(partition)].append(SimpleNamespace(**found))
        self._grow()

    def add_mark(self, partition: int = 0) -> None:
        """What a transaction leaves at its end."""
        self.messages[place(partition)].append(None)
        self._grow()

    def _grow(self) -> None:
        self.grown.set()
        self.grown = asyncio.Event()

    def span(self, at: TopicPartition) -> Span:
        return Span(self.first.get(at, 0), len(self.messages[at]))


class FakeConsumer:
    """See btfeed.journal.kafka.consumer.Consumer.

    broken     raised by the next read
    damaged    offsets that can't be read, from any of three replicas
    asked      how often another replica was asked
    saving     awaited before something is saved
    requests   what was saved, request by request
    """

    def __init__(self, brokers: FakeBrokers) -> None:
        self.brokers = brokers
        self.member = NOBODY
        self.broken: BaseException | None = None
        self.damaged: set[int] = set()
        self.asked = 0
        self.saving: Callable[[], Awaitable[object]] | None = None
        self.requests: list[Mapping[TopicPartition, Saved]] = []
        self.stopped = asyncio.Event()
        self.left = False
        self.listener: Listener | None = None
        self.problem: str | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._calls: dict[TopicPartition, list[object]] = {}  # those that read, the first to be given something first
        self._assigned = asyncio.Event()

    @property
    def reading(self) -> int:
        """How many reads wait."""
        return sum(map(len, self._calls.values()))

    # What the group does

    async def rebalance(self, *places: TopicPartition, lost: bool = False) -> None:
        """Take all partitions away, and assign these."""
        await self.revoke(lost)
        self.assign(*places)

    async def revoke(self, lost: bool = False) -> None:
        assert self.listener
        self._assigned.clear()
        if lost:
            self.member = NOBODY
        await self.listener.revoked()

    def assign(self, *places: TopicPartition) -> None:
        assert self.listener
        self.member = Member(max(0, self.member.generation) + 1, "one-1")
        self._positions.clear()
        self._assigned.set()
        self.listener.assigned(places)

    # What outlets ask

    def partitions(self, topic: str) -> Collection[TopicPartition]:
        return [at for at in self.brokers.messages if at.topic == topic]

    def join(self, topics: Collection[str], listener: Listener) -> None:
        self.listener = listener

    def check(self) -> None:
        if self.problem:
            raise JournalUnavailable(self.problem)

    async def failed(self) -> None:
        await self.stopped.wait()

    async def leave(self) -> None:
        self.left = True

    async def stop(self) -> None:
        self.stopped.set()

    def seek(self, at: TopicPartition, offset: int) -> None:
        self._positions[at] = offset

    def pause(self, at: TopicPartition) -> None:
        assert at == RETRIES

    def position(self, at: TopicPartition) -> int | None:
        return self._positions.get(at)

    async def read(self, at: TopicPartition, max_records: int) -> list[Any]:
        call = object()
        self._calls.setdefault(at, []).append(call)
        try:
            for _ in range(5):
                if self.broken:
                    broken, self.broken = self.broken, None
                    raise broken
                await self._assigned.wait()  # as aiokafka does
                first = self._calls[at][0] is call
                if first and at in self._positions and (found := self._take(at, max_records)):
                    return found
                grown = asyncio.ensure_future(self.brokers.grown.wait())
                await asyncio.wait([grown], timeout=0.005)
                grown.cancel()
            return []
        finally:
            self._calls[at].remove(call)

    def _take(self, at: TopicPartition, max_records: int) -> list[Any]:
        position, span = self._positions[at], self.brokers.span(at)
        if not span.first <= position <= span.next:
            raise OutOfRange
        found = self.brokers.messages[at][position:][:max_records]
        if self.damaged & set(range(position, position + len(found))):
            raise DamagedMessage("not to be decompressed")
        self._positions[at] += len(found)
        return [message for message in found if message]

    def ask_another(self, at: TopicPartition) -> int:
        self.asked += 1
        return 3

    async def saved(self, places: Collection[TopicPartition], *, stable: bool = False) -> dict[TopicPartition, Saved]:
        return {at: self.brokers.saved[at] for at in places if at in self.brokers.saved}

    async def save(self, member: Member, offsets: Mapping[TopicPartition, Saved]) -> None:
        if self.saving:
            await self.saving()
        if member not in (NOBODY, self.member):
            raise OutletGone("the membership has ended")
        self.requests.append(offsets)
        self.brokers.saved.update(offsets)

    async def spans(self, places: Collection[TopicPartition]) -> dict[TopicPartition, Span]:
        return {at: self.brokers.span(at) for at in places}

    async def ends(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return {at: self.brokers.span(at).next for at in places}

    async def first_since(self, at: TopicPartition, received: int) -> tuple[int, int] | None:
        kept = self.brokers.messages[at][self.brokers.span(at).first :]
        return next(((each.offset, each.timestamp) for each in kept if each and each.timestamp >= received), None)


class FakeLetters:
    """Dead letters. applied: by partition. replaced: keys of what was replaced in transactions. settlements: how often
    it was waited for open transactions."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, Commit]] = []
        self.posts: list[DeadLetter] = []
        self.replaced: list[bytes] = []
        self.failures = 0
        self.settlements = 0

    async def apply(self, sink: str, partition: int, commit: Commit) -> None:
        self.applied.append((partition, commit))

    async def messages(self, sink: str, partition: int, commit: Commit) -> list[Message]:
        return [Message("btfeed.dead-letters", str(each).encode(), None, 0) for each in commit.redelivered]

    @contextmanager
    def replacing(self, messages: Sequence[Message]) -> Iterator[None]:
        yield
        self.replaced += [each.key for each in messages]

    async def settled(self) -> None:
        self.settlements += 1

    async def destinations(self, sink: str, partition: int) -> dict[str, int]:
        return {}

    async def waiting(self, sink: str, partition: int, destination: str, limit: int) -> list[DeadLetter]:
        return []

    async def retries(self, sink: str, limit: int) -> list[DeadLetter]:
        return []

    async def retried(self, sink: str) -> int:
        return 7

    async def add_post(self, letter: DeadLetter) -> None:
        if self.failures:
            self.failures -= 1
            raise JournalUnavailable("the brokers are away")
        self.posts.append(letter)


class Group:
    """The outlets of sink "a" over fake brokers.

    consumers  all that were started, the newest last
    unstarted  errors that the next starts raise
    outlets    those that were begun and not ended, without that of retries
    retrying   those of retries that were begun
    ended      what `end` was given, call by call
    ending     awaited by `end`
    """

    def __init__(self, brokers: FakeBrokers, start: str, settings: KafkaJournalSettings, clock: Clock) -> None:
        self.brokers = brokers
        self.metrics = Metrics()
        self.letters = FakeLetters()
        self.consumers: list[FakeConsumer] = []
        self.unstarted: list[Exception] = []
        self.outlets: list[KafkaOutlet] = []
        self.retrying: list[RetriesOutlet] = []
        self.ended: list[list[Outlet]] = []
        self.ending: Callable[[Collection[Outlet]], Awaitable[object]] | None = None
        self.begun = 0
        self.shared = Shared(
            settings, self.metrics, self.letters, self._start, asyncio.Event(), clock, Tuning(check=0.01, watch=0.01)
        )
        self.group = KafkaOutlets("a", start, self.shared)

    @property
    def consumer(self) -> FakeConsumer:
        return self.consumers[-1]

    async def _start(self, sink: str, settings: ConsumerSettings) -> FakeConsumer:
        if self.unstarted:
            raise self.unstarted.pop(0)
        self.consumers.append(FakeConsumer(self.brokers))
        return self.consumers[-1]

    async def begin(self, outlet: Outlet) -> None:
        self.begun += 1
        if isinstance(outlet, KafkaOutlet):
            self.outlets.append(outlet)
        elif isinstance(outlet, RetriesOutlet):
            self.retrying.append(outlet)

    async def end(self, outlets: Collection[Outlet]) -> None:
        self.ended.append(list(outlets))
        self.outlets = [each for each in self.outlets if each not in outlets]
        if self.ending:
            await self.ending(outlets)

    async def joined(self, consumers: int = 1) -> FakeConsumer:
        """The consumer, once that many have been started and the last one has joined."""
        await until_async(lambda: len(self.consumers) >= consumers and self.consumer.listener, "a consumer that has joined")
        return self.consumer

    async def assigned(self, *places: TopicPartition) -> list[KafkaOutlet]:
        """The outlets of these partitions, which the group assigns."""
        self.consumer.assign(*places)
        await self.have(len(places) - (RETRIES in places))
        return self.outlets

    async def have(self, outlets: int) -> None:
        await until_async(lambda: len(self.outlets) == outlets, f"{outlets} outlets")


@asynccontextmanager
async def group_of(
    brokers: FakeBrokers,
    start: str = "oldest",
    settings: KafkaJournalSettings = SETTINGS,
    clock: Clock = FastClock(),  # noqa: B008 - immutable
) -> AsyncIterator[Group]:
    """A sink's outlets that run, without partitions yet."""
    found = Group(brokers, start, settings, clock)
    running = asyncio.create_task(found.group.run(found.begin, found.end))
    try:
        yield found
    finally:
        found.shared.closed.set()
        await asyncio.wait_for(running, DEADLINE)
        assert all(consumer.stopped.is_set() for consumer in found.consumers)


@asynccontextmanager
async def outlet_of(brokers: FakeBrokers) -> AsyncIterator[tuple[Group, KafkaOutlet]]:
    """The outlet of the only partition."""
    async with group_of(brokers) as it:
        await it.joined()
        (outlet,) = await it.assigned(place(0))
        yield it, outlet


def posts(*numbers: int) -> list[Post]:
    return [post(number) for number in numbers]
