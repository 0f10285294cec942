"""What is left to send to one partition, and how a refused batch is halved until the culprit is alone."""

from dataclasses import dataclass, field
from typing import Any

from sinks.base import SinkError
from sinks.kafka.messages import Indexes, Messages
from sinks.kafka.producer import Producer


@dataclass(slots=True)
class PartitionQueue:
    """The records of one write that go to one partition.

    pending      indexes of the records that are not delivered yet, in order
    batch_sizes  after a batch was refused: how many records the next batches may have, the very next one last.
                 Empty: as many as fit
    error        why nothing more is sent
    unknown      how many of the pending records may have been taken
    """

    topic: str
    partition: int
    pending: Indexes
    batch_sizes: list[int] = field(default_factory=list)
    error: SinkError | None = None
    unknown: int = 0

    def next_batch(self, messages: Messages, producer: Producer) -> Any:
        """A batch for aiokafka with the first pending records."""
        indexes = self.pending[: self.batch_sizes[-1]] if self.batch_sizes else self.pending
        return messages.next_batch(indexes, producer.empty_batch)

    def delivered(self, count: int) -> None:
        """The first `count` records were delivered."""
        self.pending = self.pending[count:]
        self._end_batch(count)

    def refused(self, count: int, reason: str) -> dict[int, str]:
        """The batch with the first `count` records was refused.

        A single record is refused for good: returns its index and the reason. Otherwise the next batches are the halves.
        """
        self._end_batch(count)
        if count == 1:
            culprit, self.pending = self.pending[0], self.pending[1:]
            return {culprit: reason}
        self.batch_sizes += [count - count // 2, count // 2]
        return {}

    def _end_batch(self, count: int) -> None:
        if self.batch_sizes:
            self.batch_sizes[-1] -= count
            if not self.batch_sizes[-1]:
                self.batch_sizes.pop()
