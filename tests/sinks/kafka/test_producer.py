"""The producer's deadlines, by a clock that is moved by hand, with a stand-in for aiokafka that never gets a reply."""

import asyncio
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.producer.transaction_manager import TransactionManager

from sinks.base import OutcomeUnknown, Unavailable
from sinks.kafka.producer import CANCEL_TIMEOUT, DIAGNOSIS_TIMEOUT, Producer
from sinks.kafka.topics import CREATION_POLL_INTERVAL, Faults, NewTopics, Topics
from tests.support.clock import FakeClock, settle

TIMEOUT = 20.0


class SilentClient:
    """A client of a cluster without brokers. Closing it takes forever."""

    async def close(self) -> None:
        await asyncio.Event().wait()


class SilentProducer:
    """Stands in for AIOKafkaProducer, and never gets a reply. cancelled: how often its sender was cancelled."""

    def __init__(self) -> None:
        self.client = SilentClient()
        self._closed = False
        self._sender = self
        self._txn_manager = TransactionManager(None, 1000)
        self.cancelled = 0
        self.sender_task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self.cancelled < 2:  # like aiokafka's, the first time it waits for replies
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1

    async def send_batch(self, batch: object, topic: str, partition: int) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()


class FakeTopics:
    """Diagnoses a partition, or takes forever if `reason` is None."""

    def __init__(self, reason: str | None) -> None:
        self._reason = reason

    async def diagnose(self, topic: str, partition: int) -> str:
        if self._reason is None:
            await asyncio.Event().wait()
        return self._reason or ""


class Batch:
    """A batch that was not sent yet."""

    def closed(self) -> bool:
        return False


def producer(clock: FakeClock, reason: str | None = "") -> tuple[Producer, SilentProducer]:
    silent = SilentProducer()
    topics = cast("Topics", FakeTopics(reason))
    return Producer(cast("AIOKafkaProducer", silent), topics, TIMEOUT, clock), silent


async def end(silent: SilentProducer) -> None:
    """End the stand-in's task."""
    silent.cancelled = 1
    silent.sender_task.cancel()
    await asyncio.wait([silent.sender_task])


@pytest.mark.parametrize(
    ("reason", "seconds", "said"),
    [
        ("the partition has no leader", 0.0, "no progress in 20 s; the partition has no leader"),
        ("", 0.0, "no progress in 20 s"),
        (None, DIAGNOSIS_TIMEOUT, "no progress in 20 s; no broker replies"),
    ],
)
async def test_a_batch_without_progress_is_an_unknown_outcome(reason: str | None, seconds: float, said: str) -> None:
    """After the timeout, with a reason if one is found in time. The producer has failed then."""
    clock = FakeClock()
    sending, silent = producer(clock, reason)
    task = asyncio.create_task(sending.send(Batch(), "t", 3))
    await clock.advance(TIMEOUT - 0.1)
    assert not task.done()
    await clock.advance(0.1 + seconds)
    with pytest.raises(OutcomeUnknown) as raised:
        await task
    assert str(raised.value) == f"topic t, partition 3: {said}"
    assert sending.failed
    await end(silent)


async def test_a_cancelled_send_leaves_a_failed_producer() -> None:
    """aiokafka would still send the batch."""
    sending, silent = producer(FakeClock())
    task = asyncio.create_task(sending.send(Batch(), "t", 3))
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert sending.failed
    await end(silent)


async def test_stopping_waits_for_replies_only_as_long_as_it_is_told() -> None:
    """Then it cancels the sender, and gives the connections as long to close."""
    clock = FakeClock()
    stopping, silent = producer(clock)
    task = asyncio.create_task(stopping.stop(60))
    await clock.advance(59.9)
    assert (silent.cancelled, silent.sender_task.done()) == (1, False)
    await clock.advance(0.1)
    assert (silent.cancelled, silent.sender_task.done()) == (2, True)
    assert not task.done()
    await clock.advance(60)
    await task
    assert silent._closed


async def test_stopping_at_once_takes_a_moment_at_most() -> None:
    """Even if nothing reacts."""
    clock = FakeClock()
    stopping, silent = producer(clock)
    task = asyncio.create_task(stopping.stop(0))
    await clock.advance(CANCEL_TIMEOUT)
    await task
    assert silent.cancelled == 2


class SlowTopics(Topics):
    """Topics that exist `seconds` after they were created."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__(cast("Any", None), NewTopics(None, None), clock)
        self._fake = clock
        self._seconds = seconds
        self.created: list[str] = []
        self.polls = 0

    async def missing(self, names: Any) -> tuple[list[str], Faults]:
        self.polls += 1
        return [] if self.created and self._fake.now >= self._seconds else sorted(names), {}

    async def _create(self, names: Any, new_topics: NewTopics, validate_only: bool) -> Faults:
        self.created += names
        return {}


async def test_a_created_topic_is_waited_for() -> None:
    """By asking again and again, but only so often."""
    clock = FakeClock()
    topics = SlowTopics(clock, seconds=1.0)
    task = asyncio.create_task(topics.ensure(["t"]))
    await clock.advance(0.9)
    assert not task.done()
    await clock.advance(CREATION_POLL_INTERVAL * 2)
    await task
    assert topics.created == ["t"]
    assert topics.polls <= 1.0 / CREATION_POLL_INTERVAL + 3


async def test_unknown_metadata_is_unavailable() -> None:
    """If a topic that is created never appears."""
    clock = FakeClock()
    silent = SilentProducer()
    waiting = Producer(cast("AIOKafkaProducer", silent), SlowTopics(clock, float("inf")), TIMEOUT, clock)
    task = asyncio.create_task(waiting.partitions({"t"}))
    await clock.advance(TIMEOUT)
    with pytest.raises(Unavailable, match="no metadata of topics t in 20 s"):
        await task
    await end(silent)
