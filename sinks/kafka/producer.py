"""One idempotent producer of aiokafka, from its start until it fails, and what aiokafka's errors mean for a batch."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer, OffsetAndMetadata, TopicPartition, errors
from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v8

from sinks.base import BatchRefused, Misconfigured, Offsets, OutcomeUnknown, SinkError, StartAgain, Unavailable
from sinks.kafka.access import ClusterAccess
from sinks.kafka.produce import VERSIONS
from sinks.kafka.steady import quiet, steady
from sinks.kafka.topics import Faults, NewTopics, Topics, TopicUnusable
from sinks.shared.clock import Clock

RETRY_BACKOFF_MS = 250
"""Milliseconds between two attempts of aiokafka to send a batch."""
DIAGNOSIS_TIMEOUT = 3.0
"""Seconds to find out what is wrong with a partition."""
CANCEL_TIMEOUT = 1.0
"""Seconds for aiokafka's tasks and connections to end once they are cancelled or closed."""

_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_TOPIC_NEEDS_A_PERSON = (
    errors.TopicAuthorizationFailedError,
    errors.InvalidTopicError,
    errors.UnsupportedForMessageFormatError,
    errors.PolicyViolationError,
)
_NEEDS_A_PERSON = (
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
    errors.UnsupportedVersionError,
)
_NOT_TAKEN = (
    errors.OutOfOrderSequenceNumber,
    errors.UnknownProducerId,
    errors.InvalidProducerIdMapping,
    errors.ProducerFenced,
    errors.ProducerClosed,
    errors.KafkaTimeoutError,  # aiokafka raises it before it sends
    errors.InvalidRequiredAcksError,
    errors.CorruptRecordException,
)


class TooLarge(BatchRefused):
    """The batch is larger than its topic allows."""


class RecordsRefused(BatchRefused):
    """The batch was refused because of some of its records. records: index in the batch -> why."""

    def __init__(self, message: str, records: Mapping[int, str]) -> None:
        super().__init__(message)
        self.records = records


class Producer:
    """Sends batches until the outcome of one is not known. Then `failed` is true, and it must send no more: sequence
    numbers would not fit."""

    def __init__(self, producer: AIOKafkaProducer, topics: Topics, send_timeout: float, clock: Clock) -> None:
        self.topics = topics
        self.failed = False
        self._producer = producer
        self._timeout = send_timeout
        self._clock = clock
        self._partitions: dict[str, int] = {}
        self._record_errors: dict[tuple[str, int], dict[int, str]] = {}

    @staticmethod
    async def start(
        access: ClusterAccess, new_topics: NewTopics | None, send_timeout: float, clock: Clock, **settings: Any
    ) -> "Producer":
        """A producer that is connected and has its producer id. `settings` are arguments of aiokafka's producer.

        Raises Unavailable or Misconfigured.
        """
        metadata = await access.verify()
        fixed = {"acks": "all", "enable_idempotence": True, "retry_backoff_ms": RETRY_BACKOFF_MS}
        producer = AIOKafkaProducer(**access.client_arguments(), **settings, **fixed)
        steady(producer.client, metadata)
        quiet(producer)
        started = Producer(producer, Topics(producer.client, new_topics, clock), send_timeout, clock)
        producer.client.send = started._noting_record_errors(producer.client.send)
        try:
            async with clock.timeout(send_timeout):
                await producer.start()
        except BaseException as error:
            await started.stop(0)
            if isinstance(error, TimeoutError):
                raise Unavailable(f"the brokers assigned no producer id in {send_timeout:g} s") from error
            if isinstance(error, errors.TransactionalIdAuthorizationFailed):
                owner = settings["transactional_id"]
                raise Misconfigured(f"the right WRITE on transactional id {owner} is missing (exactly_once)") from error
            if isinstance(error, errors.KafkaError):
                raise send_error(error, "any topic", sent=False) from error
            raise
        return started

    async def partitions(self, topics: Collection[str]) -> tuple[Mapping[str, int], Faults]:
        """The number of partitions of each topic, and why others can't be used. Raises Unavailable.

        Creates missing topics if that is configured.
        """
        new = set(topics) - self._partitions.keys()
        try:
            async with self._clock.timeout(self._timeout):
                faults = await self.topics.ensure(new) if new else {}
                for topic in new - faults.keys():  # otherwise aiokafka may forget topics that it has only asked about
                    await self._producer.client.add_topic(topic)
                for topic in set(topics) - faults.keys():
                    try:
                        self._partitions[topic] = len(await self._producer.partitions_for(topic))
                    except errors.KafkaError as error:
                        faults[topic] = send_error(error, topic, sent=False)
        except TimeoutError as error:
            raise Unavailable(f"no metadata of topics {', '.join(sorted(new))} in {self._timeout:g} s") from error
        return self._partitions, faults

    def empty_batch(self) -> Any:
        """An empty batch of aiokafka's."""
        return self._producer.create_batch()

    async def send(self, batch: Any, topic: str, partition: int) -> None:
        """Send `batch`, and return once the brokers have it. Send one batch at a time to a partition.

        Raises a SinkError. Unless brokers have refused the batch, the producer has failed then.
        """
        complete, place, sequences = batch.closed(), TopicPartition(topic, partition), self._producer._txn_manager
        sequence = sequences.sequence_number(place)
        self._record_errors.pop(place, None)
        try:
            async with self._clock.timeout(self._timeout):
                await (await self._producer.send_batch(batch, topic, partition=partition))
        except TimeoutError as error:
            self.failed = True  # aiokafka still has the batch, and may send it until it is stopped
            reason = await self._diagnose(topic, partition)
            message = f"topic {topic}, partition {partition}: no progress in {self._timeout:g} s{reason}"
            raise OutcomeUnknown(message) from error
        except asyncio.CancelledError:
            self.failed = True  # aiokafka would still send the batch
            raise
        except errors.KafkaError as error:
            found = send_error(error, topic, sent=complete or batch.closed())  # aiokafka closes what it sends
            if refused := self._record_errors.pop(place, None):
                found = RecordsRefused(str(found), {index: f"topic {topic}: {why}" for index, why in refused.items()})
            if isinstance(found, (BatchRefused, TopicUnusable)):
                # The brokers took nothing, so the next batch has the same number. Kafka's Java client does the same.
                sequences.increment_sequence_number(place, sequence - sequences.sequence_number(place))
            else:
                self.failed = True
            raise found from error

    # Transactions

    async def begin(self) -> None:
        """Begin a transaction, unless one is open."""
        if not self._producer._txn_manager.is_in_transaction():
            await self._in_transaction(self._producer.begin_transaction(), "can't begin a transaction")

    async def commit(self, saved: Offsets, deleted: Iterable[tuple[str, bytes]]) -> None:
        """End the transaction, which also saves and deletes these, see TransactionalSink. Raises StartAgain."""
        await self.begin()
        await self._in_transaction(self._commit(saved, deleted), "the transaction was not committed")

    async def _commit(self, saved: Offsets, deleted: Iterable[tuple[str, bytes]]) -> None:
        sent = [await self._producer.send(topic, None, key=key, partition=0) for topic, key in deleted]
        offsets = {TopicPartition(saved.topic, saved.partition): OffsetAndMetadata(saved.offset, saved.metadata)}
        await self._producer.send_offsets_to_transaction(offsets, saved.group)
        for each in sent:
            await each
        await self._producer.commit_transaction()

    async def abort(self) -> None:
        """End the transaction that is open, if any, without what was written in it."""
        if self._producer._txn_manager.is_in_transaction() and not self.failed:
            with suppress(StartAgain):
                await self._in_transaction(self._producer.abort_transaction(), "the transaction was not aborted")

    async def _in_transaction(self, call: Awaitable[None], what: str) -> None:
        """Whatever fails in a transaction, this producer can't go on."""
        try:
            async with self._clock.timeout(self._timeout):
                await call
        except TimeoutError as error:
            self.failed = True
            raise StartAgain(f"{what} in {self._timeout:g} s") from error
        except asyncio.CancelledError:
            self.failed = True
            raise
        except Exception as error:  # aiokafka asserts its states
            self.failed = True
            raise StartAgain(f"{what}: {_describe(error)}") from error

    def _noting_record_errors(self, send: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """aiokafka's `send` of requests. Notes which records brokers refuse, which aiokafka ignores."""

        async def noting(node: int, request: Any, **more: Any) -> Any:
            if not isinstance(request, ProduceRequest):
                return await send(node, request, **more)
            request._CLASSES = VERSIONS
            reply = await send(node, request, **more)
            if reply.API_VERSION == ProduceRequest_v8.API_VERSION:
                for topic, partitions in reply.topics:
                    for partition, *_, record_errors, message in partitions:
                        if record_errors:
                            whys = {index: why or message or "refused" for index, why in record_errors}
                            self._record_errors[topic, partition] = whys
            return reply

        return noting

    async def stop(self, reply_timeout: float) -> None:
        """Send nothing more, wait up to `reply_timeout` seconds for replies, and disconnect.

        aiokafka's own `stop` would first send all pending batches, however long that takes.
        """
        sender = self._producer._sender.sender_task
        if sender:
            for seconds in (reply_timeout, CANCEL_TIMEOUT):
                sender.cancel()  # the first time it still waits for replies, the second time it ends
                await self._wait(sender, seconds)
        self._producer._closed = True
        await self._wait(asyncio.ensure_future(self._producer.client.close()), max(CANCEL_TIMEOUT, reply_timeout))

    async def _wait(self, task: "asyncio.Future[Any]", seconds: float) -> None:
        """Wait until `task` ends, but no longer than `seconds`."""
        with suppress(TimeoutError):
            async with self._clock.timeout(seconds):
                await asyncio.wait([task])

    async def _diagnose(self, topic: str, partition: int) -> str:
        try:
            async with self._clock.timeout(DIAGNOSIS_TIMEOUT):
                reason = await self.topics.diagnose(topic, partition)
        except TimeoutError:
            reason = "no broker replies"
        return f"; {reason}" if reason else ""


def send_error(error: Exception, topic: str, sent: bool) -> SinkError:
    """The sink error for an error of aiokafka. sent: whether it may have sent the batch.

    too large, or a timestamp that brokers refuse    BatchRefused
    a missing topic, or no privileges for it         TopicUnusable
    missing privileges                               Misconfigured
    sequence numbers that don't fit, or not sent     Unavailable: another producer can send it
    anything else                                    OutcomeUnknown
    """
    text = f"topic {topic}: {_describe(error)}"
    if isinstance(error, _TOO_LARGE):
        return TooLarge(text)
    if isinstance(error, errors.InvalidTimestampError):
        return BatchRefused(text)
    if isinstance(error, errors.UnknownTopicOrPartitionError):
        return TopicUnusable(topic, f"topic {topic} does not exist")
    if isinstance(error, _TOPIC_NEEDS_A_PERSON):
        return TopicUnusable(topic, text)
    if isinstance(error, _NEEDS_A_PERSON):
        return Misconfigured(text)
    if sent and not isinstance(error, _NOT_TAKEN):
        return OutcomeUnknown(text)
    return Unavailable(text)


def _describe(error: Exception) -> str:
    description = getattr(error, "description", "") or str(error)
    return f"{type(error).__name__}: {description}" if description else type(error).__name__
