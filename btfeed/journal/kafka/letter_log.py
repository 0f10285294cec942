"""Writes to the topics of dead letters, and posts that are retried: in order, and durable when `write` returns.

One producer, made when it is needed, and replaced after any failure. A write whose outcome is not known can be repeated:
the messages of one key mean the same however often they are written.
"""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from aiokafka import errors

from btfeed.journal.base import JournalUnavailable
from btfeed.journal.kafka import clients
from btfeed.journal.kafka.groupless import missing_right
from btfeed.journal.kafka.messages import Headers
from btfeed.journal.kafka.settings import KafkaJournalSettings
from sinks.base import SinkError
from sinks.kafka.access import ClusterAccess
from sinks.kafka.producer import Producer, TooLarge
from sinks.kafka.topics import NotAuthorized
from sinks.shared.clock import Clock

BATCH_BYTES = 512 * 2**10
"""Bytes of messages that are sent at a time. Most topics take 1 MiB at least."""
LARGEST = 256 * 2**20
"""Bytes that aiokafka takes: what is too large, the topic says."""
_DENIED = (errors.TopicAuthorizationFailedError, errors.ClusterAuthorizationFailedError)


class Message(NamedTuple):
    """What is produced. value: None deletes what the key had before. timestamp: milliseconds since the epoch."""

    topic: str
    key: bytes
    value: bytes | None
    timestamp: int
    headers: Headers = ()
    partition: int = 0


class LetterLog:
    """Methods raise JournalUnavailable."""

    def __init__(self, settings: KafkaJournalSettings, access: ClusterAccess, clock: Clock) -> None:
        self._settings = settings
        self._access = access
        self._clock = clock
        self._producer: Producer | None = None
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        async with self._turn:
            await self._end()

    async def write(self, messages: Sequence[Message]) -> list[Message]:
        """Make them durable, in their order. Returns those that are too large for their topic, which were not written."""
        async with self._turn:
            too_large: list[Message] = []
            for (topic, partition), group in groupby(messages, key=lambda message: (message.topic, message.partition)):
                for piece in _pieces(group):
                    too_large += await self._send(piece, topic, partition)
            return too_large

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""
        async with self._turn:
            producer = await self._begun(topic)
            found, faults = await self._tried(producer.partitions([topic]), topic)
            if topic in faults:
                raise _unavailable(faults[topic], topic)
            return int(found[topic])

    async def _send(self, messages: Sequence[Message], topic: str, partition: int) -> list[Message]:
        too_large: list[Message] = []
        rest = list(messages)
        while rest:
            producer = await self._begun(topic)
            batch, number = producer.empty_batch(), 0
            for each in rest:
                if not batch.append(key=each.key, value=each.value, timestamp=each.timestamp, headers=list(each.headers)):
                    break
                number += 1
            try:
                await self._tried(producer.send(batch, topic, partition), topic)
            except _OneTooLarge:
                if number == 1:
                    too_large += rest[:1]
                else:  # find out which
                    for each in rest[:number]:
                        too_large += await self._send([each], topic, partition)
            rest = rest[number:]
        return too_large

    async def _begun(self, topic: str) -> Producer:
        if self._producer and self._producer.failed:
            await self._end()
        if self._producer is None:
            more = {
                "max_batch_size": BATCH_BYTES,
                "max_request_size": LARGEST,
                "compression_type": None if self._settings.compression == "none" else self._settings.compression,
            }
            start = Producer.start(self._access, None, self._settings.request_timeout, self._clock, **more)
            self._producer = await self._tried(start, topic)
        return self._producer

    async def _end(self) -> None:
        producer, self._producer = self._producer, None
        if producer:
            await producer.stop(0)

    async def _tried(self, attempt: Any, topic: str) -> Any:
        try:
            with clients.unavailable(lambda error: f"topic {topic}: {error!r}"):
                try:
                    return await attempt
                except TooLarge:
                    pass
                except SinkError as error:
                    raise _unavailable(error, topic) from error
        except JournalUnavailable:
            await self._end()
            raise
        raise _OneTooLarge


class _OneTooLarge(Exception):
    """A message of a batch is larger than the topic takes."""


def _unavailable(error: SinkError, topic: str) -> JournalUnavailable:
    if isinstance(error, NotAuthorized) or isinstance(error.__cause__, _DENIED):
        return JournalUnavailable(missing_right("WRITE", topic))
    return JournalUnavailable(str(error))


def _pieces(messages: Iterator[Message]) -> Iterator[list[Message]]:
    """Few enough that not much is sent again if one is too large."""
    piece: list[Message] = []
    size = 0
    for each in messages:
        if piece and size + len(each.value or b"") > BATCH_BYTES // 2:
            yield piece
            piece, size = [], 0
        piece.append(each)
        size += len(each.value or b"") + len(each.key)
    if piece:
        yield piece
