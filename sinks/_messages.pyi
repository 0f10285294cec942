"""Kafka's record batches: native/messages-py/src/lib.rs."""

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from typing_extensions import Buffer

from sinks.shared.cloud_events import Envelopes

T = TypeVar("T")

INTERFACE: int

Packed: TypeAlias = tuple[Buffer, Buffer]
"""Texts one behind the other, and the bytes of each as native 64-bit numbers."""
Records: TypeAlias = tuple[Sequence[Buffer], Buffer]
"""JSON records with a newline each in one buffer or several, and the bytes of each likewise."""

class Writer:
    """Writes record batches. Several threads may use it."""

    def __new__(cls, envelopes: Envelopes) -> Writer: ...
    def names(self, ids: Packed, bodies: Records) -> tuple[bytes, bytes]:
        """event.name of each record, packed."""

class Messages:
    """The records of a write. values: where those are not the bodies. timestamps: of each, or one of all."""

    def __new__(
        cls, writer: Writer, ids: Packed, keys: Packed, bodies: Records, values: Packed | None, timestamps: Buffer
    ) -> Messages: ...
    def lanes(
        self, runs: Sequence[tuple[int, int]], partitions: Sequence[int], without: Sequence[int]
    ) -> list[tuple[int, int, bytes]]:
        """(topic, partition, indexes as native 32-bit numbers), of all but the records at `without`, which ascend. runs:
        which topic, and for how many records."""

    def batch(self, indexes: Buffer, limit: int, headers: bool, zstd: bool) -> Batch:
        """Those at `indexes`, until they are `limit` bytes; at least one."""

class Batch:
    """Records that are written, compressed or not. len() is how many they are."""

    def __len__(self) -> int: ...
    def records(self) -> bytes:
        """As they were written."""

    def replace(self, codec: int, compressed: bytes) -> None:
        """They were compressed by the codec of that number."""

    def seal(self, producer: int, epoch: int, sequence: int) -> bytes:
        """The whole batch, as it is sent."""

def runs(objects: list[T]) -> list[tuple[T, int]]:
    """Each object, and how often it stands there one behind the other."""
