"""A record batch that native code has written, in the form in which aiokafka takes one.

aiokafka's accumulator and sender call these methods of their own `BatchBuilder`. tests/sinks/kafka/test_messages.py fails
if a version of aiokafka calls others. aiokafka still assigns sequence numbers and sends batches again.
"""

import struct
from typing import TYPE_CHECKING

from aiokafka.record.util import calc_crc32c

if TYPE_CHECKING:
    from sinks._messages import Batch as NativeBatch

NO_PRODUCER = (-1, -1, 0)
"""Producer id, epoch and sequence number of a batch without an idempotent producer."""
_CRC, _ATTRIBUTES, _TRANSACTIONAL = 17, 21, 0x10
"""Where a batch has its checksum and its attributes, which is the first that the checksum covers; and one of these."""


class FinishedBatch:
    """A complete batch that lacks only its producer's state. Nothing can be appended to it. transactional: whether it is
    part of a transaction."""

    def __init__(self, batch: "NativeBatch", transactional: bool = False) -> None:
        self._batch = batch
        self._transactional = transactional
        self._records = len(batch)
        self._producer_state = NO_PRODUCER
        self._sealed: bytes | None = None

    def record_count(self) -> int:
        return self._records

    def closed(self) -> bool:
        """Whether it was sent, or is being sent."""
        return self._sealed is not None

    def close(self) -> None:
        """Does nothing: nothing can be appended anyway."""

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer_state = producer_id, producer_epoch, base_sequence

    def _build(self) -> bytes:
        """The batch's bytes. They stay the same, so a batch that is sent again has the same sequence number."""
        if self._sealed is None:
            sealed = self._batch.seal(*self._producer_state)
            self._sealed = _in_transaction(sealed) if self._transactional else sealed
            del self._batch
        return self._sealed


def _in_transaction(sealed: bytes) -> bytes:
    """The same batch, marked as a part of a transaction."""
    marked = bytearray(sealed)
    (attributes,) = struct.unpack_from(">h", marked, _ATTRIBUTES)
    struct.pack_into(">h", marked, _ATTRIBUTES, attributes | _TRANSACTIONAL)
    struct.pack_into(">I", marked, _CRC, calc_crc32c(bytes(marked[_ATTRIBUTES:])))
    return bytes(marked)
