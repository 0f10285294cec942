"""How messages wait for brokers that do not answer, by a clock that is moved by hand. A stand-in is the producer."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from aiokafka.errors import InvalidTimestampError

from btfeed.journal.base import JournalUnavailable, PostTooLarge
from btfeed.journal.kafka import sending as module
from btfeed.journal.kafka.lane import NotAcknowledged, Rejected
from btfeed.journal.kafka.sending import PASSED_OVER, PAUSE, STALLED, TICK, Sending
from sinks.base import BatchRefused, Misconfigured, SinkError, Unavailable
from sinks.kafka.access import ClusterAccess
from sinks.kafka.partitions import partition_of
from sinks.kafka.producer import RecordsRefused, TooLarge
from tests.support.clock import FakeClock, settle

TIMEOUT = 2.0
PARTITIONS = 3
TOPIC = "posts"


class Batch(list[bytes]):
    """Takes 100 bytes, or one message."""

    def append(self, **message: Any) -> object:  # type: ignore[override]
        if self and sum(map(len, self)) + len(message["value"]) > 100:
            return None
        super().append(message["value"])
        return self


class Brokers:
    """Stand-ins for producers, and what they sent.

    stuck       partitions that acknowledge nothing
    errors      what the next batches of a partition fail with
    cant_start  why no producer starts
    """

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[bytes]]] = []
        self.stuck: set[int] = set()
        self.errors: dict[int, deque[SinkError]] = {}
        self.cant_start: SinkError | None = None
        self.started = self.stopped = 0

    async def start(self, *arguments: object, **settings: object) -> "Producer":
        if self.cant_start:
            raise self.cant_start
        self.started += 1
        return Producer(self)

    def fail(self, partition: int, *errors: SinkError) -> None:
        self.errors[partition] = deque(errors)


class Producer:
    def __init__(self, brokers: Brokers) -> None:
        self.failed = False
        self._brokers = brokers

    async def partitions(self, topics: list[str]) -> tuple[dict[str, int], dict[str, SinkError]]:
        return dict.fromkeys(topics, PARTITIONS), {}

    def empty_batch(self) -> Batch:
        return Batch()

    async def send(self, batch: Batch, topic: str, partition: int) -> None:
        if partition in self._brokers.stuck:
            try:
                await asyncio.Event().wait()
            finally:
                self.failed = True
        await asyncio.sleep(0)
        if errors := self._brokers.errors.get(partition):
            error = errors.popleft()
            self.failed = not isinstance(error, BatchRefused | Misconfigured)
            raise error
        self._brokers.sent.append((partition, list(batch)))

    async def stop(self, reply_timeout: float) -> None:
        self._brokers.stopped += 1


class Run:
    """A running Sending with its clock and brokers."""

    def __init__(self, sending: Sending, clock: FakeClock, brokers: Brokers) -> None:
        self.sending = sending
        self.clock = clock
        self.brokers = brokers

    def send(self, key: bytes, value: bytes | None = None) -> "asyncio.Future[None]":
        return asyncio.ensure_future(self.sending.put(key, value or key, 1, []))

    def partitions(self) -> list[int]:
        return [partition for partition, _ in self.brokers.sent]


@pytest.fixture
async def run(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    brokers = Brokers()
    monkeypatch.setattr(module, "Producer", brokers)
    async with running(brokers) as found:
        yield found


@asynccontextmanager
async def running(brokers: Brokers, patient: bool = False) -> AsyncIterator[Run]:
    clock = FakeClock()
    sending = Sending(cast("ClusterAccess", None), TOPIC, TIMEOUT, 4.0, "none", clock, patient=patient)
    task = asyncio.create_task(sending.run())
    await settle()
    try:
        yield Run(sending, clock, brokers)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def key_of(partition: int) -> bytes:
    """A key that belongs to a partition."""
    return next(key for key in (b"%d" % number for number in range(100)) if partition_of(key, PARTITIONS) == partition)


async def test_what_waits_while_a_batch_is_under_way_is_the_next_batch(run: Run) -> None:
    """As much of it as a batch takes, in order."""
    key = key_of(1)
    tasks = [run.send(key, b"%d" % number * 40) for number in range(6)]
    await asyncio.gather(*tasks)
    assert [len(batch) for _, batch in run.brokers.sent] == [2, 2, 2]
    assert [value for _, batch in run.brokers.sent for value in batch] == [b"%d" % number * 40 for number in range(6)]


async def test_a_message_without_acknowledgement_fails_in_time(run: Run) -> None:
    """Its producer is let go of, another one begins, and its partition is passed over for a while."""
    run.brokers.stuck = {0}
    late = run.send(key_of(0))
    await run.clock.advance(TIMEOUT - TICK)
    assert not late.done()
    await run.clock.advance(2 * TICK)
    with pytest.raises(JournalUnavailable, match="topic posts: no acknowledgement in 2 s"):
        await late
    assert (run.brokers.started, run.brokers.stopped) == (2, 1)
    run.brokers.stuck = set()
    await run.send(key_of(0))
    assert run.partitions() == [1]
    await run.clock.advance(PASSED_OVER)
    await run.send(key_of(0))
    assert run.partitions() == [1, 0]


async def test_what_waits_behind_a_stalled_partition_goes_to_another(run: Run) -> None:
    """And so does what comes then. What is under way stays, since it may have been written."""
    run.brokers.stuck = {0}
    under_way = run.send(key_of(0), b"first")
    await settle()
    behind = run.send(key_of(0), b"second")
    await run.clock.advance(STALLED + TICK)
    await behind
    await run.send(key_of(0), b"third")
    assert run.brokers.sent == [(1, [b"second"]), (1, [b"third"])]
    await run.clock.advance(TIMEOUT)
    with pytest.raises(NotAcknowledged) as raised:
        await under_way
    assert raised.value.partition == 0


async def test_what_was_sent_keeps_its_partition(run: Run) -> None:
    """Through errors and stalls, and if it is sent again later: it may be there already. What was not sent has none."""
    run.brokers.fail(0, Unavailable("reset"))
    first = run.send(key_of(0), b"first")
    await settle()
    run.brokers.stuck = {0}
    await run.clock.advance(TIMEOUT + TICK)
    with pytest.raises(NotAcknowledged) as raised:
        await first
    assert (raised.value.partition, run.brokers.sent) == (0, [])
    await run.clock.advance(TIMEOUT)  # until that producer is let go of
    run.brokers.stuck = set()
    await run.send(key_of(0), b"other")
    await run.sending.put(b"key", b"first", 1, [], partition=0)
    assert run.brokers.sent == [(1, [b"other"]), (0, [b"first"])]
    run.sending.down = "away"
    with pytest.raises(NotAcknowledged) as raised:
        await run.sending.put(key_of(0), b"more", 1, [])
    assert raised.value.partition is None


async def test_a_patient_sender_waits_for_a_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a spill loses nothing by that, and another process may have sent the message there. A partition that
    brokers say takes nothing is passed over all the same."""
    brokers = Brokers()
    monkeypatch.setattr(module, "Producer", brokers)
    async with running(brokers, patient=True) as run:
        brokers.stuck = {0}
        waiting = [run.send(key_of(0), b"first"), run.send(key_of(0), b"second")]
        await run.clock.advance(STALLED + TICK)
        assert brokers.sent == []
        await run.clock.advance(TIMEOUT)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NotAcknowledged] * 2
        run.sending.sound = [1]
        await run.send(key_of(0), b"third")
        assert brokers.sent == [(1, [b"third"])]


async def test_partitions_that_take_nothing_are_passed_over(run: Run) -> None:
    """As long as any takes something."""
    run.sending.sound = [2]
    for partition in range(PARTITIONS):
        await run.send(key_of(partition))
    assert run.partitions() == [2, 2, 2]
    run.sending.sound = []
    await run.send(key_of(1))
    assert run.partitions()[-1] == 1


async def test_after_an_error_the_next_producer_sends_again(run: Run) -> None:
    """All that is left, in order, and before its time is over."""
    run.brokers.fail(1, Unavailable("OutOfOrderSequenceNumber"), Unavailable("once more"))
    tasks = [run.send(key_of(1), value) for value in (b"one", b"two")]
    await run.clock.advance(TIMEOUT - TICK)
    await asyncio.gather(*tasks)
    assert [value for _, batch in run.brokers.sent for value in batch] == [b"one", b"two"]
    assert run.brokers.started == 3


async def test_errors_that_do_not_end_are_told_in_time(run: Run) -> None:
    """Though each attempt fails quickly."""
    run.brokers.fail(1, *(Unavailable("again and again") for _ in range(100_000)))
    failing = run.send(key_of(1))
    await run.clock.advance(TIMEOUT + TICK)
    with pytest.raises(JournalUnavailable, match="in 2 s: again and again"):
        await failing
    assert run.brokers.started <= TIMEOUT / PAUSE + 1


async def test_a_message_that_is_too_large_takes_no_other_with_it(run: Run) -> None:
    """The batch is sent again, one message at a time."""
    run.brokers.stuck = {1}
    run.brokers.fail(1, TooLarge("large"), TooLarge("large"))
    tasks = [run.send(key_of(1), value) for value in (b"large", b"small", b"other")]
    run.brokers.stuck = set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [PostTooLarge, type(None), type(None)]
    assert run.brokers.sent == [(1, [b"small"]), (1, [b"other"])]
    assert run.brokers.started == 1


async def test_a_refused_message_is_told_at_once(run: Run) -> None:
    """Whether a person has to act, or brokers do not like its time."""
    for error in (Misconfigured("not authorized"), BatchRefused("InvalidTimestamp")):
        run.brokers.fail(1, error)
        with pytest.raises(JournalUnavailable, match=str(error)):
            await run.send(key_of(1))
    assert run.brokers.started == 1


async def test_a_rejected_message_is_not_taken_for_brokers_that_are_away(run: Run) -> None:
    """It says what the broker has said of it and, of a time that it does not take, to look at the clock."""
    refusal = RecordsRefused("topic posts: InvalidTimestampError", {0: "topic posts: Timestamp 9 is out of range"})
    refusal.__cause__ = InvalidTimestampError()
    run.brokers.fail(1, refusal, BatchRefused("topic posts: PolicyViolationError"))
    with pytest.raises(Rejected, match=r"^topic posts: Timestamp 9 is out of range; is the clock of this machine right"):
        await run.send(key_of(1))
    with pytest.raises(Rejected, match=r"PolicyViolationError$"):
        await run.send(key_of(1))


async def test_without_a_producer_messages_fail_at_once(run: Run) -> None:
    """Also those that waited for the next one. The first that starts again takes messages."""
    run.brokers.fail(1, Unavailable("broken"))
    run.brokers.cant_start = Unavailable("can't connect")
    waiting = run.send(key_of(1))
    await run.clock.advance(PAUSE)
    with pytest.raises(JournalUnavailable, match="can't connect"):
        await waiting
    with pytest.raises(JournalUnavailable, match="can't connect"):
        await run.send(key_of(1))
    assert not run.sending.up
    run.brokers.cant_start = None
    await run.clock.advance(1.0)
    await run.send(key_of(1))
    assert run.sending.up


async def test_closing_fails_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever."""
    brokers = Brokers()
    monkeypatch.setattr(module, "Producer", brokers)
    async with running(brokers) as run:
        brokers.stuck = {1}
        tasks = [run.send(key_of(1)) for _ in range(3)]
        await settle()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["the journal is closed"] * 3
    assert brokers.stopped == brokers.started == 1
