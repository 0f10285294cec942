"""Fakes of what delivery works with: records, a journal that can fail, sinks that answer what a test tells them."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from types import TracebackType

from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.delivery.shared_sink import SharedSink
from btfeed.journal.base import ALL, Commit, Cursor, DeadLetter, Entry, JournalError, JournalUnavailable
from btfeed.journal.memory import MemoryJournal, MemoryOutlet
from btfeed.journal.transactional import Send
from btfeed.posts.post import Post, digest
from btfeed.records.mapper import PostMapper, create_mapper
from btfeed.records.settings import RecordSettings
from btfeed.records.validation import ValidationSettings
from btfeed.telemetry.metrics import Metrics
from sinks.base import Blocked, Offsets, Sink, WriteResult
from sinks.batch import Batch, Transaction
from sinks.shared.clock import SYSTEM_CLOCK, Clock
from tests.support import posts
from tests.support.clock import FastClock
from tests.support.harness import DEADLINE, until_async

TRANSACTION = Transaction("Checkout", "easyTravel", "production", "appmon-01", "purepath")


def batch_of(bodies: Sequence[bytes], prefix: str = "post", transaction: Transaction = TRANSACTION) -> Batch:
    """A batch of these records."""
    count = range(len(bodies))
    lines = [body + b"\n" for body in bodies]
    ids = [f"{prefix}-{number}" for number in count]
    timestamps = [1_700_000_000_000 + number for number in count]
    parts = [memoryview(b"".join(lines))]
    return Batch(ids, ids, timestamps, [transaction] * len(bodies), [len(line) for line in lines], parts)


def mapper(missing: str = "report", unexpected: str = "report", **record: object) -> PostMapper:
    """The mapper of a default configuration. record: what differs in [record]."""
    return create_mapper(
        RecordSettings.model_validate(record),
        ValidationSettings.model_validate({"missing": missing, "unexpected": unexpected}),
    )


@lru_cache(maxsize=16)
def mapped(occurrences: int, seed: int = 0) -> Batch:
    """Records as they are mapped from a post."""
    body = posts.mixed(occurrences, seed)
    return mapper().map(body, digest(body)).batch


def post(body: bytes, received: float | None = None, clock: Clock = SYSTEM_CLOCK) -> Post:
    """A post as the receiver takes it. `received`: seconds since the epoch, now by default."""
    return Post(body, round((clock.time() if received is None else received) * 1000), "test")


class FaultyOutlet(MemoryOutlet):
    """An outlet whose calls can fail or hang.

    failing  names of methods that raise `error`
    held     names of methods that wait until they are no longer in it; "answer" holds the answer of `retries`, "waiting
             answered" that of `waiting`
    commits  what was committed
    calls    names of the methods that were called
    failed   names of those that raised
    """

    def __init__(self, journal: MemoryJournal, sink: str, partition: int = 0) -> None:
        super().__init__(journal, sink, partition)
        self.error: JournalError = JournalUnavailable("it fails")
        self.failing: set[str] = set()
        self.held: set[str] = set()
        self.commits: list[Commit] = []
        self.calls: list[str] = []
        self.failed: list[str] = []

    async def _enter(self, method: str) -> None:
        self.calls.append(method)
        await until_async(lambda: method not in self.held, f"{method} released")
        if method in self.failing:
            self.failed.append(method)
            raise self.error

    async def cursor(self) -> tuple[Cursor, str | None]:
        await self._enter("cursor")
        return await super().cursor()

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        await self._enter("read")
        return await super().read(seq, max_bytes)

    async def wait(self, seq: int) -> None:
        await self._enter("wait")
        await super().wait(seq)

    async def commit(self, commit: Commit) -> None:
        await self._enter("commit")
        await super().commit(commit)
        self.commits.append(commit)

    async def refresh(self) -> None:
        """As a TransactionalOutlet does."""
        await self._enter("refresh")

    async def commit_in(self, commit: Commit, send: Send) -> None:
        """As a TransactionalOutlet does: what is saved is known once the transaction has ended."""
        await self._enter("commit_in")
        await send(Offsets("group", "posts", self.partition, commit.cursor.seq, ""), [])
        await self.commit(commit)

    async def waiting(self, destination: str, limit: int) -> Sequence[DeadLetter]:
        await self._enter("waiting")
        found = await super().waiting(destination, limit)
        await self._enter("waiting answered")
        return found

    async def retries(self, limit: int) -> Sequence[DeadLetter]:
        await self._enter("retries")
        found = await super().retries(limit)
        await asyncio.sleep(0)
        await self._enter("answer")
        return found


Answer = WriteResult | Exception | Callable[[Batch], "Awaitable[WriteResult] | WriteResult"]


class FakeSink:
    """A sink in memory. `answers` are given one by one, then `always`; a function is asked what to answer. What is not
    named as refused or to be written again is in `bodies`."""

    def __init__(
        self,
        *answers: Answer,
        always: Answer | None = None,
        opens: Sequence[Exception] = (),
        checks: Sequence[Exception] = (),
    ) -> None:
        self.answers = list(answers)
        self.always: Answer = always or WriteResult()
        self.opens = list(opens)
        self.checks = list(checks)
        self.opened_with: list[str | None] = []
        self.writes: list[Batch] = []
        self.bodies: list[bytes] = []
        self.closed = 0
        self.at_once = self.most_at_once = 0

    async def open(self, state: str | None) -> None:
        self.opened_with.append(state)
        if self.opens:
            raise self.opens.pop(0)

    async def check(self) -> None:
        if self.checks:
            raise self.checks.pop(0)

    async def write(self, batch: Batch) -> WriteResult:
        self.writes.append(batch)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            answer = self.answers.pop(0) if self.answers else self.always
            if callable(answer):
                given = answer(batch)
                answer = given if isinstance(given, WriteResult) else await given
            if isinstance(answer, Exception):
                raise answer
        finally:
            self.at_once -= 1
        without = {*answer.retry, *answer.refused, *answer.blocked}
        self.bodies += [body for index, body in enumerate(batch.bodies) if index not in without]
        return answer

    async def close(self) -> None:
        self.closed += 1


class SerialFakeSink(FakeSink):
    """Its state is the number of records in it; `open` cuts to that. told: states that were saved."""

    def __init__(self, *answers: Answer, always: Answer | None = None, opens: Sequence[Exception] = ()) -> None:
        super().__init__(*answers, always=always, opens=opens)
        self.told: list[str] = []

    async def open(self, state: str | None) -> None:
        await super().open(state)
        del self.bodies[int(state or 0) :]

    async def write(self, batch: Batch) -> WriteResult:
        return replace(await super().write(batch), state=str(len(self.bodies)))

    def saved(self, state: str) -> None:
        self.told.append(state)


class ManyFakeSink(FakeSink):
    """A sink with a destination for each category. shut: destination -> why it takes nothing. offered: how many records of
    each destination `write` was given. asked: how many batches `destinations` was asked for."""

    def __init__(self, *shut: str) -> None:
        super().__init__(always=self._answer)
        self.shut = dict.fromkeys(shut, "closed")
        self.offered: Counter[str] = Counter()
        self.asked = 0

    def destinations(self, batch: Batch) -> list[str]:
        self.asked += 1
        return self._names(batch)

    def taken(self, category: str) -> list[bytes]:
        """Its records, in order."""
        return [body for body in self.bodies if b'"event.category":"%s"' % category.encode() in body]

    def _names(self, batch: Batch) -> list[str]:
        return [f"topic {transaction.category}" for transaction in batch.transactions]

    def _answer(self, batch: Batch) -> WriteResult:
        names = self._names(batch)
        self.offered.update(names)
        blocked = {i: Blocked(name, self.shut[name]) for i, name in enumerate(names) if name in self.shut}
        return WriteResult(blocked=blocked)


class Rig:
    """A delivery at work: `async with Rig(sink) as rig`. Its clock is fast by default."""

    def __init__(
        self,
        sink: Sink | SharedSink,
        serial: bool = False,
        journal: MemoryJournal | None = None,
        name: str = "sink",
        mapped_posts: MappedPosts | None = None,
        filter: FilterSettings | None = None,
        partition: int = 0,
        clock: Clock | None = None,
        failing: Sequence[str] = (),
        transactional: bool = False,
        **settings: object,
    ) -> None:
        """journal: one that another rig has used, or shares. failing: see FaultyOutlet. settings: of the delivery."""
        quick = {"linger": "5ms", "retry_initial": "2ms", "retry_max": "10ms"}
        self.settings = DeliverySettings.model_validate(quick | settings)
        shared = sink if isinstance(sink, SharedSink) else None
        self.sink: Sink = sink.use() if isinstance(sink, SharedSink) else sink
        self.name = name
        self.clock = clock or FastClock()
        self.journal = journal or MemoryJournal({})
        self.journal.add_sink(name)
        self.outlet = FaultyOutlet(self.journal, name, partition)
        self.outlet.failing.update(failing)
        self.metrics = Metrics()
        self.mapped_posts = mapped_posts or MappedPosts(mapper(), self.metrics, sinks=1)
        self.filter = filter or FilterSettings()
        self.delivery = Delivery(
            name, self.sink, serial, self.settings, self.filter, self.outlet, self.mapped_posts, self.metrics,
            shared=shared, transactional=transactional, clock=self.clock,
        )  # fmt: skip

    async def __aenter__(self) -> "Rig":
        self.task = asyncio.create_task(self.delivery.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delivery.stop()
        _, late = await asyncio.wait([self.task], timeout=DEADLINE)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.mapped_posts.close()
        if error is None:
            assert not late, "the delivery did not stop"
            self.task.result()
        elif not late and not self.task.cancelled() and self.task.exception():
            error.add_note(f"the delivery had ended: {self.task.exception()!r}")

    async def post(self, occurrences: int, seed: int = 0) -> list[bytes]:
        """Append a post; its records."""
        body = posts.mixed(occurrences, seed)
        await self.journal.append(post(body, clock=self.clock))
        return mapper().map(body, digest(body)).batch.bodies

    @property
    def cursor(self) -> Cursor:
        """The cursor that is saved."""
        return self.journal.cursors[self.name, self.outlet.partition][0]

    @property
    def state(self) -> str | None:
        """The sink's state that is saved."""
        return self.journal.cursors[self.name, self.outlet.partition][1]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        return list(self.journal.dead_letters.select())

    def retry_dead_letters(self) -> int:
        """Mark all of them for retry; returns how many."""
        return self.journal.dead_letters.retry(ALL, {self.name: self.filter.accepts})

    async def saved(self, seq: int, ordinal: int = 0) -> None:
        """Return when the cursor is there."""
        where = Cursor(seq, ordinal)
        await until_async(lambda: self.cursor == where, f"a cursor saved at {where}")

    def sample(self, metric: str, **labels: str) -> float:
        """The value of a metric of this sink."""
        value = self.metrics.registry.get_sample_value(f"btfeed_{metric}", {"sink": self.name} | labels)
        return value or 0.0
