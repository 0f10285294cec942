"""Consumers without a group: connected, and their errors in words that say what to do. Raises JournalUnavailable."""

import logging
from collections.abc import Collection
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition, errors

from btfeed.journal.base import JournalUnavailable
from btfeed.journal.kafka import clients
from sinks.base import SinkError
from sinks.kafka.access import ClusterAccess
from sinks.kafka.steady import steady
from sinks.kafka.topics import NotAuthorized, Topics
from sinks.shared.clock import Clock


async def start(access: ClusterAccess, patience: float, clock: Clock, **more: Any) -> Any:
    """A consumer of aiokafka that is connected, and that nothing is assigned to. patience: seconds. more: its arguments."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs every attempt; errors say what came of it
    try:
        metadata = await access.verify()
    except SinkError as error:
        raise JournalUnavailable(str(error)) from error
    consumer = AIOKafkaConsumer(
        **access.client_arguments(), auto_offset_reset="earliest", enable_auto_commit=False, metadata_max_age_ms=30_000,
        isolation_level="read_committed", **more,
    )  # fmt: skip
    steady(consumer._client, metadata)

    def explain(error: BaseException) -> str:
        late = isinstance(error, TimeoutError)
        return f"no broker replies in {patience:g} s" if late else f"no broker replies: {clients.describe(error)}"

    try:
        with clients.unavailable(explain):
            async with clock.timeout(patience):
                await consumer.start()
    except BaseException:
        await clients.stop(consumer)
        raise
    return consumer


async def check_topics(consumer: Any, topics: Collection[str], clock: Clock) -> None:
    """Whether they exist. Otherwise aiokafka would wait for them, or brokers would make them."""
    with clients.unavailable():
        missing, faults = await Topics(consumer._client, None, clock).missing(topics)
    for topic, fault in faults.items():
        denied = isinstance(fault, NotAuthorized)
        raise JournalUnavailable(missing_right("READ", topic) if denied else str(fault))
    if missing:
        raise JournalUnavailable(
            f"there is no topic {missing[0]}: a server that runs with this journal makes it; is journal.prefix right?"
        )


def position(consumer: Any, place: TopicPartition) -> int:
    """The offset of the next message. aiokafka's own `position` waits while it is not known."""
    state = consumer._subscription.subscription.assignment.state_value(place)
    return int(state.position) if state.has_valid_position else 0


def explain(error: BaseException, topic: str) -> str:
    """What a consumer's error means. topic: the one that was asked for, if the error names none."""
    if isinstance(error, errors.TopicAuthorizationFailedError):
        named = next((each for each in error.args if isinstance(each, str)), topic)
        return missing_right("READ", named)
    return f"can't read topic {topic}: {clients.describe(error)}"


def missing_right(right: str, topic: str) -> str:
    """What to tell a person. right: as Kafka's ACLs call the operation."""
    return f"the right {right} on topic {topic} is missing"
