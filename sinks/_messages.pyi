"""Kafka record batches, written by native code: native/messages-py."""

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from typing_extensions import Buffer

from sinks.shared.cloud_events import Envelopes

T = TypeVar("T")

INTERFACE: int

Packed: TypeAlias = tuple[Buffer, Buffer]
"""Strings in one buffer, and the size of each as native 64-bit integers."""
Records: TypeAlias = tuple[Sequence[Buffer], Buffer]
"""JSON records, each with a newline, in one buffer or several, and the size of each as native 64-bit integers."""

class Writer:
    """Makes messages. Thread-safe."""

    def __new__(cls, envelopes: Envelopes) -> Writer: ...
    def names(self, ids: Packed, bodies: Records) -> tuple[bytes, bytes]:
        """event.name of each record, packed."""

class Messages:
    """The records of a write. values: None if they are the bodies. timestamps: one for each record, or one for all."""

    def __new__(
        cls, writer: Writer, ids: Packed, keys: Packed, bodies: Records, values: Packed | None, timestamps: Buffer
    ) -> Messages: ...
    def by_partition(
        self, runs: Sequence[tuple[int, int]], partitions: Sequence[int], without: Sequence[int]
    ) -> list[tuple[int, int, bytes]]:
        """(topic, partition, indexes as native 32-bit integers) for each partition with records.

        runs        topics by number, and how many consecutive records go to each
        partitions  the number of partitions of each topic
        without     indexes of records to leave out, ascending
        """

    def batch(self, indexes: Buffer, limit: int, headers: bool, zstd: bool) -> Batch:
        """The first of the records at `indexes`, up to `limit` bytes, and at least one."""

class Batch:
    """A batch of encoded records, compressed or not. len(): the number of records."""

    def __len__(self) -> int: ...
    def records(self) -> bytes:
        """The encoded records, uncompressed."""

    def replace(self, codec: int, compressed: bytes) -> None:
        """Replace the records by their compressed form. codec: its number in Kafka."""

    def seal(self, producer: int, epoch: int, sequence: int) -> bytes:
        """The whole batch with its header, as it is sent."""

def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a record with this key in a topic with `partitions` partitions, of which there is one at least."""

def runs(objects: list[T]) -> list[tuple[T, int]]:
    """Objects, and how many times each occurs consecutively. Compares by identity."""
