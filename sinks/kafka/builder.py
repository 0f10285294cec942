"""A finished batch as aiokafka takes it: what its accumulator and its sender ask of their own `BatchBuilder`.

This is the one place that knows it, and tests/sinks/kafka/test_messages.py fails where a version of aiokafka asks for more.
Sequence numbers, retries and all else stay aiokafka's.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sinks import _messages

NO_PRODUCER = (-1, -1, 0)
"""Its number, its epoch, and the batch's sequence number, as brokers have them where there are none."""


class FinishedBatch:
    """Records that only lack the producer's number. Nothing can be appended."""

    def __init__(self, batch: "_messages.Batch") -> None:
        self._batch = batch
        self._records = len(batch)
        self._producer = NO_PRODUCER
        self._sealed: bytes | None = None

    def record_count(self) -> int:
        return self._records

    def closed(self) -> bool:
        """It is sent, or was."""
        return self._sealed is not None

    def close(self) -> None:
        """Nothing can be appended anyway."""

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = producer_id, producer_epoch, base_sequence

    def _build(self) -> bytes:
        """The same bytes however often: so it is sent again under the same number."""
        if self._sealed is None:
            self._sealed = self._batch.seal(*self._producer)
            del self._batch
        return self._sealed
