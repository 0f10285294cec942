"""What is left to send to one partition, and how a refused batch is halved until the bad record is alone."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sinks.base import BatchRefused, SinkError
from sinks.kafka.limits import BatchLimits
from sinks.kafka.messages import Indexes, Messages
from sinks.kafka.producer import Producer, RecordsRefused, TooLarge


@dataclass(slots=True)
class PartitionQueue:
    """The records of one write that go to one partition.

    pending      indexes of the records that are not delivered yet, in order
    limits       how many records fit in a batch of each topic
    batch_sizes  after a batch was refused: how many records the next batches may have, the very next one last.
                 Empty: as many as fit
    largest      the most records in a part of that batch that was taken
    spoiled      whether a record of it was refused
    error        why nothing more is sent
    unknown      how many of the pending records may have been taken
    """

    topic: str
    partition: int
    pending: Indexes
    limits: BatchLimits = field(default_factory=BatchLimits)
    batch_sizes: list[int] = field(default_factory=list)
    largest: int = 0
    spoiled: bool = False
    error: SinkError | None = None
    unknown: int = 0

    def next_batch(self, messages: Messages, producer: Producer) -> Any:
        """A batch for aiokafka with the first pending records."""
        most = self.batch_sizes[-1] if self.batch_sizes else self.limits.most(self.topic, len(self.pending))
        return messages.next_batch(self.pending[:most], producer.empty_batch)

    def delivered(self, count: int) -> None:
        """The first `count` records were delivered."""
        self.pending = self.pending[count:]
        if not self.batch_sizes:
            self.limits.taken(self.topic, count)
            return
        self.largest = max(self.largest, count)
        self._end_part(count)
        self._end_halving()

    def refused(self, count: int, error: BatchRefused) -> dict[int, str]:
        """The batch with the first `count` records was refused. Returns those that are refused for good: index -> reason.

        These are the records that the error names, or a single one. Otherwise the next batches are the halves.
        """
        if isinstance(error, RecordsRefused):
            return self._drop(error.records)
        if count == 1:
            return self._drop({0: str(error)})
        if isinstance(error, TooLarge):
            self.limits.too_large(self.topic, count)
        self._end_part(count)
        self.batch_sizes += [count - count // 2, count // 2]
        return {}

    def _drop(self, places: Mapping[int, str]) -> dict[int, str]:
        """Drop the pending records at these places. places: place -> reason."""
        refused = {self.pending[place]: reason for place, reason in places.items()}
        self.pending = memoryview(array("I", [index for index in self.pending if index not in refused]))
        self.spoiled = True
        self._end_part(len(refused))
        self._end_halving()
        return refused

    def _end_part(self, count: int) -> None:
        if self.batch_sizes:
            self.batch_sizes[-1] -= count
            if not self.batch_sizes[-1]:
                self.batch_sizes.pop()

    def _end_halving(self) -> None:
        if not self.batch_sizes:
            if not self.spoiled:
                self.limits.taken_in_parts(self.topic, self.largest)
            self.largest, self.spoiled = 0, False
