"""Consumers without a group: connected, and their errors in words that say what to do. Raises JournalUnavailable."""

import logging
from collections.abc import Collection
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition, errors

from btfeed.journal.base import JournalUnavailable
from sinks.base import SinkError
from sinks.kafka.access import ClusterAccess
from sinks.kafka.topics import NotAuthorized, Topics
from sinks.shared.clock import Clock


async def start(access: ClusterAccess, patience: float, clock: Clock, **more: Any) -> Any:
    """A consumer of aiokafka that is connected, and that nothing is assigned to. patience: seconds. more: its arguments."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs every attempt; errors say what came of it
    try:
        await access.verify()
    except SinkError as error:
        raise JournalUnavailable(str(error)) from error
    consumer = AIOKafkaConsumer(
        **access.client_arguments(), auto_offset_reset="earliest", enable_auto_commit=False, metadata_max_age_ms=30_000,
        isolation_level="read_committed", **more,
    )  # fmt: skip
    try:
        async with clock.timeout(patience):
            await consumer.start()
    except BaseException as error:
        await consumer.stop()
        if isinstance(error, TimeoutError):
            raise JournalUnavailable(f"no broker replies in {patience:g} s") from None
        if isinstance(error, errors.KafkaError):
            raise JournalUnavailable(f"no broker replies: {error}") from error
        raise
    return consumer


async def check_topics(consumer: Any, topics: Collection[str], clock: Clock) -> None:
    """Whether they exist. Otherwise aiokafka would wait for them, or brokers would make them."""
    try:
        missing, faults = await Topics(consumer._client, None, clock).missing(topics)
    except SinkError as error:
        raise JournalUnavailable(str(error)) from error
    for topic, fault in faults.items():
        denied = isinstance(fault, NotAuthorized)
        raise JournalUnavailable(missing_right("READ", topic) if denied else str(fault))
    if missing:
        raise JournalUnavailable(
            f"there is no topic {missing[0]}: a server that runs with this journal makes it; is journal.prefix right?"
        )


def has_failed(consumer: Any) -> bool:
    """Whether aiokafka's own task has ended, as it does on an error that it does not expect: nothing comes any more."""
    ended: bool = consumer._fetcher._fetch_task.done()
    return ended


def position(consumer: Any, place: TopicPartition) -> int:
    """The offset of the next message. aiokafka's own `position` waits while it is not known."""
    state = consumer._subscription.subscription.assignment.state_value(place)
    return int(state.position) if state.has_valid_position else 0


def unavailable(error: errors.KafkaError, topic: str) -> JournalUnavailable:
    """What a consumer's error means. topic: the one that was asked for, if the error names none."""
    if isinstance(error, errors.TopicAuthorizationFailedError):
        named = next((each for each in error.args if isinstance(each, str)), topic)
        return JournalUnavailable(missing_right("READ", named))
    return JournalUnavailable(f"can't read topic {topic}: {error!r}")


def missing_right(right: str, topic: str) -> str:
    """What to tell a person. right: as Kafka's ACLs call the operation."""
    return f"the right {right} on topic {topic} is missing"
