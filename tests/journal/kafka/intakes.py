"""Intakes for tests, and what they wrote to the brokers."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from confluent_kafka import Message

from btfeed.journal.kafka.intake import KafkaIntake
from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.posts.post import Post
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.samples import total
from tests.servers.kafka import Kafka
from tests.sinks.drivers.kafka import read_topic


def settings_for(bootstrap: str, **more: Any) -> KafkaJournalSettings:
    """A journal of its own on one broker, without a spill unless `spill` says so."""
    common = {"replication_factor": 1, "min_insync_replicas": 1, "partitions": 3, "spill": False}
    named = {"type": "kafka", "bootstrap_servers": bootstrap, "prefix": f"j-{uuid.uuid4().hex[:12]}"}
    return KafkaJournalSettings.model_validate(named | common | more)


class Intake(KafkaIntake):
    """An intake with its metrics."""

    def __init__(self, settings: KafkaJournalSettings, **more: Any) -> None:
        self.metrics = Metrics()
        self.settings = settings
        super().__init__(settings, self.metrics, **more)

    @property
    def names(self) -> Names:
        return self.cluster.names

    def count(self, name: str) -> int:
        """The value of a metric of the journal in Kafka."""
        return total(getattr(self.metrics.kafka_journal, name))

    async def append_all(self, posts: list[Post]) -> list[bytes]:
        """Append posts at the same time; returns their digests."""
        return await asyncio.gather(*map(self.append, posts))


@asynccontextmanager
async def opened(settings: KafkaJournalSettings, **more: Any) -> AsyncIterator[Intake]:
    """An open intake."""
    intake = Intake(settings, **more)
    await intake.open()
    try:
        yield intake
    finally:
        await intake.close()


async def messages_of(kafka: Kafka, topic: str) -> list[Message]:
    """All messages of a topic."""
    return await asyncio.to_thread(read_topic, kafka, topic)


async def bodies_of(kafka: Kafka, topic: str) -> Counter[bytes]:
    """How often each body is in a topic."""
    return Counter(message.value() or b"" for message in await messages_of(kafka, topic))


async def delete_before(kafka: Kafka, topic: str, offset: int) -> None:
    """Delete the messages before `offset` in the first partition of a topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(offset)})
    await admin.close()
