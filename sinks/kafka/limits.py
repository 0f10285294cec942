"""How many records a batch of a topic may have, where brokers accept less than `batch_size`.

If a batch is refused as too large, it is halved. If all of it is taken in the end, the topic's limit is below `batch_size`,
rather than one record being too large. Later batches are then as large as the largest that was taken. From time to time,
one is larger, because records differ and a person may raise the topic's limit.
"""

from dataclasses import dataclass

import structlog

log = structlog.get_logger()

PATIENCE = 64
"""Batches of the most records that have to be taken before a larger one is tried."""
GROWTH = 1 / 8
"""How much larger that one is."""


@dataclass(slots=True)
class _Limit:
    """most: records in a batch. fits: as many were taken before. row: batches of `most` records taken in a row."""

    most: int
    fits: int = 0
    row: int = 0


class BatchLimits:
    """The limits of a sink's topics, which it learns. sink: its name, for the log. halved: how many records were in batches
    that were refused as too large."""

    def __init__(self, sink: str = "") -> None:
        self.halved = 0
        self._log = log.bind(sink=sink)
        self._limits: dict[str, _Limit] = {}
        self._logged: set[str] = set()

    def most(self, topic: str, records: int) -> int:
        """How many of so many records to put in one batch at most."""
        limit = self._limits.get(topic)
        return min(records, limit.most) if limit else records

    def too_large(self, topic: str, records: int) -> None:
        """A batch with so many records was refused."""
        self.halved += records
        limit = self._limits.get(topic)
        if limit and records <= limit.fits:  # records have grown
            limit.fits = 0

    def taken_in_parts(self, topic: str, largest: int) -> None:
        """All of a batch that was refused was taken in the end. largest: the most records in a part of it."""
        fits = self._limits[topic].fits if topic in self._limits else 0
        self._limits[topic] = _Limit(max(largest, fits), fits)
        if topic not in self._logged:
            self._logged.add(topic)
            hint = "lower batch_size, or raise the topic's max.message.bytes"
            self._log.warning("topic takes smaller batches only", topic=topic, records=largest, hint=hint)

    def taken(self, topic: str, records: int) -> None:
        """A batch with so many records was taken at once."""
        limit = self._limits.get(topic)
        if limit is None or records < limit.most:
            return
        limit.fits = limit.most
        limit.row += 1
        if limit.row >= PATIENCE:
            limit.row = 0
            limit.most += max(1, round(limit.most * GROWTH))
