"""Decides which partition a record goes to, by its key.

The rule is that of Kafka's Java client: the key's murmur2 hash without its sign bit, modulo the number of partitions. So
records with the same key share a partition, whichever client sends them. Native code has the same rule
(native/messages/src/partition.rs); tests/sinks/kafka/test_messages.py compares both.
"""

from aiokafka.partitioner import murmur2

from sinks.kafka.native import native

_WITHOUT_SIGN = 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a record with this key in a topic with `partitions` partitions."""
    if native:
        number: int = native.partition_of(key, partitions)
        return number
    return partition_of_plain(key, partitions)


def partition_of_plain(key: bytes, partitions: int) -> int:
    """The same in Python, which takes fifty times as long."""
    number: int = (murmur2(key) & _WITHOUT_SIGN) % partitions
    return number
