"""Dead letters in topics for tests: open, and what others write to their topics."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from confluent_kafka import Producer

from btfeed.journal.base import Commit, Cursor, DeadLetter
from btfeed.journal.kafka.cluster import Cluster
from btfeed.journal.kafka.letters import Letters
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.samples import total
from tests.journal.journals import MAX_OCCURRENCES
from tests.support.harness import DEADLINE


class Kept(Letters):
    """Dead letters with their metrics."""

    def __init__(self, settings: KafkaJournalSettings, **more: Any) -> None:
        self.metrics = Metrics()
        super().__init__(settings, self.metrics, MAX_OCCURRENCES, **more)

    def counted(self, name: str) -> int:
        """The value of a metric, the sum over all labels."""
        return total(getattr(self.metrics, name))

    async def all(self) -> list[DeadLetter]:
        """The oldest first."""
        entries, _ = self.piece(await self.find())
        return [letter for _, letter in await self.load(entries)]

    async def add(self, *letters: DeadLetter, sink: str = "a", partition: int = 0) -> list[int]:
        """Keep them as a delivery would; returns the ids of all letters."""
        await self.apply(sink, partition, Commit(Cursor(1), None, letters))
        return await self.find()


@asynccontextmanager
async def opened(settings: KafkaJournalSettings, **more: Any) -> AsyncIterator[Kept]:
    """Open dead letters, whose topics are made if necessary."""
    cluster = Cluster(settings)
    try:
        await cluster.prepare(cluster.names.topics)
    finally:
        await cluster.close()
    kept = Kept(settings, **more)
    try:
        await kept.open(tends=False)
        yield kept
    finally:
        await kept.close()


def produce(bootstrap: str, topic: str, *messages: tuple[bytes, bytes | None], **more: Any) -> None:
    """Write messages with these keys and values, as somebody else would."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for key, value in messages:
        producer.produce(topic, value, key, **more)
    assert producer.flush(DEADLINE) == 0


@contextmanager
def open_transaction(bootstrap: str, topic: str) -> Iterator[None]:
    """Somebody's transaction that has written to a topic: readers of committed messages get nothing behind it."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"{topic}.somebody"})
    producer.init_transactions(DEADLINE)
    producer.begin_transaction()
    producer.produce(topic, b"", b"somebody")
    assert producer.flush(DEADLINE) == 0
    try:
        yield
    finally:
        producer.abort_transaction(DEADLINE)
