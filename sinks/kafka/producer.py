"""One idempotent producer of aiokafka, from its start until it goes bad, and what its errors mean."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaProducer, errors

from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, SinkError, Unavailable
from sinks.kafka.access import Access
from sinks.kafka.topics import Making, Topics

BACKOFF = 250
"""Milliseconds between two tries of aiokafka's own."""
ASKING = 3.0
"""Seconds to find out what is wrong with a partition."""

_REFUSED = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, errors.InvalidTimestampError)
_FOR_A_PERSON = (
    errors.TopicAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
    errors.InvalidTopicError,
    errors.UnsupportedForMessageFormatError,
    errors.UnsupportedVersionError,
    errors.PolicyViolationError,
)
_NOT_TAKEN = (
    errors.OutOfOrderSequenceNumber,
    errors.UnknownProducerId,
    errors.InvalidProducerIdMapping,
    errors.ProducerFenced,
    errors.ProducerClosed,
    errors.KafkaTimeoutError,  # aiokafka's own, before it sends
    errors.InvalidRequiredAcksError,
    errors.CorruptRecordException,
)


class Producer:
    """Sends batches. `bad`: a batch failed, and its successors would; nothing more is to be sent by this one."""

    def __init__(self, producer: AIOKafkaProducer, topics: Topics, patience: float) -> None:
        self.topics = topics
        self.bad = False
        self._producer = producer
        self._patience = patience
        self._partitions: dict[str, int] = {}

    @staticmethod
    async def start(access: Access, making: Making | None, patience: float, **settings: Any) -> "Producer":
        """One that is connected and has its number. `settings` are aiokafka's. Raises Unavailable or Misconfigured."""
        await access.prove()
        promises = {"acks": "all", "enable_idempotence": True, "retry_backoff_ms": BACKOFF}
        producer = AIOKafkaProducer(**access.arguments(), **settings, **promises)
        found = Producer(producer, Topics(producer.client, making), patience)
        try:
            async with asyncio.timeout(patience):
                await producer.start()
        except BaseException as error:
            await found.end(0)
            if isinstance(error, TimeoutError):
                raise Unavailable(f"the brokers give a producer no number in {patience:g} s") from error
            if isinstance(error, errors.KafkaError):
                raise verdict(error, "any topic", sent=False) from error
            raise
        return found

    async def partitions(self, topics: Collection[str]) -> Mapping[str, int]:
        """How many each topic has. Raises Unavailable, or Misconfigured where one is missing and may not be made."""
        new = set(topics) - self._partitions.keys()
        try:
            async with asyncio.timeout(self._patience):
                if new:
                    await self.topics.find(new)
                for topic in new:  # unless told so, aiokafka forgets topics that it has seen in passing
                    await self._producer.client.add_topic(topic)
                for topic in topics:
                    self._partitions[topic] = len(await self._producer.partitions_for(topic))
        except TimeoutError as error:
            raise Unavailable(f"nothing is known of topics {', '.join(sorted(new))} in {self._patience:g} s") from error
        except errors.KafkaError as error:
            raise verdict(error, ", ".join(sorted(new)), sent=False) from error
        return self._partitions

    def batch(self) -> Any:
        """An empty batch."""
        return self._producer.create_batch()

    async def send(self, batch: Any, topic: str, partition: int) -> None:
        """Return when the brokers have `batch`. Of one partition, not for use by two tasks. Raises a SinkError; it is
        bad then."""
        full = batch.closed()
        try:
            async with asyncio.timeout(self._patience):
                await (await self._producer.send_batch(batch, topic, partition=partition))
        except TimeoutError as error:
            self.bad = True  # it has the batch still, and may send it until it is let go of
            said = await self._trouble(topic, partition)
            message = f"topic {topic}, partition {partition}: no progress in {self._patience:g} s{said}"
            raise OutcomeUnknown(message) from error
        except asyncio.CancelledError:
            self.bad = True  # it would still be sent
            raise
        except errors.KafkaError as error:
            self.bad = True
            raise verdict(error, topic, sent=full or batch.closed()) from error  # closed when it is sent, if not before

    async def end(self, patience: float) -> None:
        """Let go of it. What is on its way may arrive for `patience` seconds, nothing else is sent.

        aiokafka's own way to stop first sends all that it has, however long that takes.
        """
        sending = self._producer._sender.sender_task
        if sending:
            for wait in (patience, 1.0):
                sending.cancel()  # first it waits for replies; told again, it does not
                await asyncio.wait([sending], timeout=wait)
        self._producer._closed = True
        await asyncio.wait([asyncio.ensure_future(self._producer.client.close())], timeout=max(1.0, patience))

    async def _trouble(self, topic: str, partition: int) -> str:
        try:
            async with asyncio.timeout(ASKING):
                found = await self.topics.trouble(topic, partition)
        except TimeoutError:
            found = "no broker answers"
        return f"; {found}" if found else ""


def verdict(error: Exception, topic: str, sent: bool) -> SinkError:
    """What an error of aiokafka's says of a batch to `topic`. sent: it had begun to send it.

    too large, or another time than brokers take    the batch's own fault
    rights, a missing topic                         a person's
    sequence numbers that do not fit                not taken; another producer will do
    all else                                        nobody knows, where it was sent
    """
    said = f"topic {topic}: {_words(error)}"
    if isinstance(error, _REFUSED):
        return BatchRefused(said)
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return Misconfigured(f"there is no topic {topic}")
    if isinstance(error, _FOR_A_PERSON):
        return Misconfigured(said)
    if sent and not isinstance(error, _NOT_TAKEN):
        return OutcomeUnknown(said)
    return Unavailable(said)


def _words(error: Exception) -> str:
    description = getattr(error, "description", "") or str(error)
    return f"{type(error).__name__}: {description}" if description else type(error).__name__
