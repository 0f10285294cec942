"""Stand-ins for the ends of a delivery: a journal in memory, sinks that do as they are told, and a rig to join them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from types import TracebackType

from btfeed.delivery.batching import DeliverySettings, FilterSettings
from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.journal.base import Backlog, Commit, Cursor, DeadLetter, Entry, JournalUnavailable
from btfeed.posts.post import Post, digest
from btfeed.records import mapper as transcode
from btfeed.records.mapper import PostMapper
from btfeed.records.plan import RecordSettings
from btfeed.records.validation import ValidationSettings
from btfeed.telemetry.metrics import Metrics
from sinks.base import Sink, WriteResult
from sinks.batch import Batch, Transaction
from tests.support import posts
from tests.support.harness import until_async

TRANSACTION = Transaction("Checkout", "easyTravel", "production", "appmon-01", "purepath")


def batch_of(bodies: Sequence[bytes], prefix: str = "post", transaction: Transaction = TRANSACTION) -> Batch:
    """A batch of these records."""
    count = range(len(bodies))
    lines = [body + b"\n" for body in bodies]
    ids = [f"{prefix}-{number}" for number in count]
    timestamps = [1_700_000_000_000 + number for number in count]
    parts = [memoryview(b"".join(lines))]
    return Batch(ids, ids, timestamps, [transaction] * len(bodies), [len(line) for line in lines], parts)


def mapper(missing: str = "report", unexpected: str = "report") -> PostMapper:
    """The mapper of a default configuration."""
    return transcode.mapper(
        RecordSettings(), ValidationSettings.model_validate({"missing": missing, "unexpected": unexpected})
    )


@lru_cache(maxsize=16)
def mapped(occurrences: int, seed: int = 0) -> Batch:
    """Records as they are mapped from a post."""
    body = posts.mixed(occurrences, seed)
    return mapper().map(body, digest(body)).batch


def post(body: bytes, received: float | None = None) -> Post:
    """A post as the receiver takes it. `received`: seconds since the epoch, now by default."""
    return Post(body, round((time.time() if received is None else received) * 1000), "test")


class FakeJournal:
    """A journal in memory. A method named in `failing` raises JournalUnavailable; one in `held` waits until it is not."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.commits: list[Commit] = []
        self.saved: dict[str, tuple[Cursor, str | None]] = {}
        self.letters: dict[int, DeadLetter] = {}
        self.retry: set[int] = set()
        self.failing: set[str] = set()
        self.held: set[str] = set()
        self.failed: list[str] = []
        self.reads = 0
        self._next_seq = 1
        self._letter_id = 0
        self._grown = asyncio.Event()

    @property
    def refusing(self) -> str | None:
        return None

    async def _enter(self, method: str) -> None:
        await until_async(lambda: method not in self.held, f"{method} let go")
        if method in self.failing:
            self.failed.append(method)
            raise JournalUnavailable(f"{method} fails")

    async def append(self, post: Post, seq: int | None = None) -> bytes:
        """Also under a later number, which leaves a gap."""
        await self._enter("append")
        self._next_seq = seq or self._next_seq
        entry = Entry(self._next_seq, post, digest(post.body))
        self.entries.append(entry)
        self._next_seq += 1
        self._grown.set()
        self._grown = asyncio.Event()
        return entry.digest

    async def bury(self, letter: DeadLetter) -> None:
        known = [(kept.event_id, kept.sink) for kept in self.letters.values() if kept.event_id]
        if (letter.event_id, letter.sink) not in known:
            self._letter_id += 1
            self.letters[self._letter_id] = replace(letter, id=self._letter_id)

    async def cursor(self, sink: str) -> tuple[Cursor, str | None]:
        return self.saved.get(sink, (Cursor(1), None))

    async def read(self, seq: int, max_bytes: int) -> Sequence[Entry]:
        self.reads += 1
        await self._enter("read")
        found: list[Entry] = []
        for entry in self.entries:
            max_bytes -= len(entry.post.body) if entry.seq >= seq else 0
            if entry.seq >= seq and (max_bytes >= 0 or not found):
                found.append(entry)
        return found

    async def wait(self, seq: int) -> None:
        while self._next_seq <= seq:
            await self._grown.wait()

    async def commit(self, sink: str, commit: Commit) -> None:
        await self._enter("commit")
        self.commits.append(commit)
        self.saved[sink] = (commit.cursor, commit.state)
        for letter in commit.dead_letters:
            await self.bury(letter)
        for number in commit.redelivered:
            self.letters.pop(number, None)
        for number, reason in commit.refused_again.items():
            letter = self.letters[number]
            self.letters[number] = replace(letter, reason=reason, tries=letter.tries + 1)
        self.retry.difference_update(commit.redelivered, commit.refused_again)

    async def retries(self, sink: str, limit: int) -> Sequence[DeadLetter]:
        await self._enter("retries")
        wanted = [letter for number, letter in self.letters.items() if number in self.retry and letter.sink == sink]
        await asyncio.sleep(0)
        return wanted[:limit]

    async def backlog(self, sink: str) -> Backlog:
        return Backlog(0, 0.0)

    async def close(self) -> None:
        """Nothing to let go of."""


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
        self.bodies += [b for i, b in enumerate(batch.bodies) if i not in answer.retry and i not in answer.refused]
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


class Rig:
    """A delivery at work: `async with Rig(sink) as rig`. Retries take milliseconds, unless `settings` say otherwise."""

    def __init__(
        self,
        sink: Sink,
        serial: bool = False,
        journal: FakeJournal | None = None,
        name: str = "sink",
        feed: MappedPosts | None = None,
        filter: FilterSettings | None = None,
        **settings: object,
    ) -> None:
        quick = {"linger": "5ms", "retry_initial": "2ms", "retry_max": "10ms"}
        self.settings = DeliverySettings.model_validate(quick | settings)
        self.sink = sink
        self.journal = journal or FakeJournal()
        self.metrics = Metrics()
        self.feed = feed or MappedPosts(mapper(), self.metrics, sinks=1)
        self.name = name
        self.delivery = Delivery(
            name, sink, serial, self.settings, filter or FilterSettings(), self.journal, self.feed, self.metrics
        )

    async def __aenter__(self) -> "Rig":
        self.task = asyncio.create_task(self.delivery.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delivery.stop()
        _, late = await asyncio.wait([self.task], timeout=5)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.feed.close()
        if error is None:
            assert not late, "the delivery did not stop"
            self.task.result()
        elif not late and not self.task.cancelled() and self.task.exception():
            error.add_note(f"the delivery had ended: {self.task.exception()!r}")

    async def post(self, occurrences: int, seed: int = 0) -> list[bytes]:
        """Append a post; its records."""
        body = posts.mixed(occurrences, seed)
        await self.journal.append(post(body))
        return mapper().map(body, digest(body)).batch.bodies

    async def saved(self, seq: int, ordinal: int = 0) -> None:
        """Return when the cursor is there."""
        where = Cursor(seq, ordinal)
        await until_async(lambda: self.journal.saved.get(self.name, (None,))[0] == where, f"a cursor saved at {where}")

    def sample(self, metric: str, **labels: str) -> float:
        """The value of a metric of this sink."""
        value = self.metrics.registry.get_sample_value(f"btfeed_{metric}", {"sink": self.name} | labels)
        return value or 0.0
