"""A place where a partition can't be read, since what a broker has there is damaged on its disk or can't be decompressed.

Brokers give what they have without a look at it, and only the reader finds out. Another replica may be sound: each of
them is asked, again and again, since one may be away. What none of them could give for PATIENCE is lost, and passed over,
so that it does not hold up what is behind it. A batch of which one message can't be read is lost from there to its end.
"""

import structlog

from sinks.shared.clock import Clock

log = structlog.get_logger()

PATIENCE = 600.0
"""Seconds that all replicas have to give what one could not."""
PAUSE, PAUSE_MAX = 0.1, 5.0
"""Seconds between two attempts, doubled each time."""


class Unreadable:
    """What a reader knows of it. at: the offset that can't be read; None if everything can."""

    def __init__(self, partition: int, clock: Clock) -> None:
        self.at: int | None = None
        self._clock = clock
        self._place = partition
        self._log = log.bind(partition=partition)
        self._since = 0.0
        self._tries = 0
        self._behind: int | None = None  # the offset behind those that were passed over
        self._lost = 0

    def met(self, at: int, error: str) -> None:
        """An attempt to read this offset failed."""
        if at == self.at:
            self._tries += 1
            return
        self.at, self._tries, self._since = at, 1, self._clock.monotonic()
        if at != self._behind:  # what is right behind a lost one is of the same batch
            self._log.error(
                "partition damaged, asking its other replicas",
                offset=at,
                error=error,
                hint=f"bring back brokers that are away, or go on with `btfeed sinks rewind SINK --skip --to {self._place}:"
                f"{at + 1}`; in {PATIENCE:g} s it is passed over",
            )

    @property
    def pause(self) -> float:
        """Seconds before the next attempt."""
        return 0.0 if self.at == self._behind else min(PAUSE * 2 ** (self._tries - 1), PAUSE_MAX)

    def hopeless(self, replicas: int) -> bool:
        """Whether each replica was asked, and all had their time."""
        patience = 0.0 if self.at == self._behind else PATIENCE
        return self._tries > replicas and self._clock.monotonic() - self._since >= patience

    def pass_over(self) -> int:
        """Give it up. Returns where to go on."""
        assert self.at is not None
        if not self._lost:
            self._log.error("passing over damaged posts, they are lost", offset=self.at)
        self._lost += 1
        self._behind, self.at = self.at + 1, None
        return self._behind

    def read(self, offset: int) -> None:
        """This offset was read."""
        if offset >= max(self.at or 0, self._behind or 0) and (self._lost or self.at is not None):
            self._log.info("partition can be read again", offset=offset, lost_posts=self._lost)
            self.at = self._behind = None
            self._lost = 0
