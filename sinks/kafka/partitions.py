"""Decides which partition a record goes to, by its key.

The rule is that of Kafka's Java client: the key's murmur2 hash without its sign bit, modulo the number of partitions. So
records with the same key share a partition, whichever client sends them. Where native code runs, the same rule in
native/messages/src/partition.rs decides; tests/sinks/kafka/test_messages.py compares both.
"""

from aiokafka.partitioner import murmur2

_WITHOUT_SIGN = 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a record with this key in a topic with `partitions` partitions."""
    number: int = (murmur2(key) & _WITHOUT_SIGN) % partitions
    return number
