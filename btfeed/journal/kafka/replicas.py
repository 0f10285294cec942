"""What of an answer is damage on a broker's disk, and which replica is read instead: for all consumers of posts.

aiokafka reads a partition from its leader, or for a while from a replica that is preferred to it. If that one can't be
reached, it goes back to the leader.
"""

import gzip
import zlib
from collections.abc import Collection, Sequence
from typing import Any

from aiokafka import TopicPartition, errors

from sinks.shared.clock import Clock

DAMAGED_BATCH = (errors.UnknownError, errors.CorruptRecordException)
"""What a broker answers to a question for which it would have to look into a batch that is damaged."""
_DAMAGE = (errors.CorruptRecordException, errors.UnsupportedCodecError)
_UNPACKING = (ValueError, IndexError, EOFError, MemoryError, gzip.BadGzipFile, zlib.error)
"""What comes out of unpacking what was fetched, besides the errors of cramjam. Those of connections are others."""


def is_damage(error: Exception) -> bool:
    """Whether an error of reading says that what a broker gave can't be read."""
    if isinstance(error, errors.KafkaError):
        return isinstance(error, _DAMAGE)
    return isinstance(error, _UNPACKING) or type(error).__module__ == "cramjam"


def in_sync(consumer: Any, place: TopicPartition) -> Sequence[int]:
    """The brokers with a replica that is in sync, in order. consumer: of aiokafka."""
    known = consumer._client.cluster._partitions.get(place.topic, {}).get(place.partition)
    return sorted(known.isr) if known else []


def asked(consumer: Any, place: TopicPartition) -> int | None:
    """The broker that a partition is read from; None if it has no leader."""
    broker: int | None = consumer._fetcher._select_read_replica(place)
    return broker


def ask_another(consumer: Any, place: TopicPartition, clock: Clock, besides: Collection[int] = ()) -> int | None:
    """Read a partition from the next of its replicas in sync for a while. besides: brokers not to ask. Returns the broker
    that is asked; None if there is none."""
    now = asked(consumer, place) or 0
    left = [each for each in in_sync(consumer, place) if each not in besides]
    broker = next((each for each in left if each > now), left[0] if left else None)
    if broker is not None:
        fetcher = consumer._fetcher
        fetcher._preferred_read_replica[place] = (broker, clock.monotonic() + fetcher._preferred_replica_ttl)
    return broker
