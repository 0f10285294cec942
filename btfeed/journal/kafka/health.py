"""What a person has to know of a sink's membership, though nothing has failed."""

from collections import deque
from collections.abc import Iterable

import structlog

from btfeed.journal.base import JournalError
from btfeed.journal.kafka.outlet import AnyOutlet, KafkaOutlet
from btfeed.journal.kafka.shared import Shared
from btfeed.telemetry.wording import count, duration

log = structlog.get_logger()

NEAR_RETENTION = 0.8
"""The part of `retention` at which a sink that is behind is warned of."""
LOSSES, LOSS_TIME = 3, 30.0
"""This often in that many seconds a process does not lose its membership unless another one has the same name. That is over
when the membership was kept for as long."""


class Health:
    """Of one sink. The log is told once of each thing."""

    def __init__(self, sink: str, shared: Shared) -> None:
        self._shared = shared
        self._instance = shared.settings.instance_name
        self._log = log.bind(sink=sink)
        self._lost: deque[float] = deque(maxlen=LOSSES)
        self._contested_at: float | None = None
        self._told = False
        self._near: dict[int, float] = {}
        self._unreadable: dict[int, int] = {}  # partition -> offset

    @property
    def problem(self) -> str | None:
        if self.contested:
            return f"another process runs as instance {self._instance}: give each its own journal.instance"
        if self._unreadable:
            partition, offset = min(self._unreadable.items())
            return f"partition {partition} can't be read at offset {offset}: it is damaged on brokers' disks, see the log"
        if self._near:
            behind, number = duration(max(self._near.values())), count(len(self._near), "partition")
            kept = duration(self._shared.settings.retention)
            return f"the sink is {behind} behind in {number}: posts are deleted after {kept} (journal.retention)"
        return None

    @property
    def contested(self) -> bool:
        """Whether another process seems to have our name: both take the partitions from each other."""
        at = self._contested_at
        return at is not None and self._shared.clock.monotonic() - at <= LOSS_TIME

    def lost(self) -> None:
        """The group does not know this member any more. Once that may have other reasons."""
        now = self._shared.clock.monotonic()
        self._lost.append(now)
        if self.contested or (len(self._lost) == LOSSES and now - self._lost[0] <= LOSS_TIME):
            self._contested_at = now
        if self.contested and not self._told:
            self._log.error("another process has this journal.instance, give each its own", instance=self._instance)
        self._told = self.contested

    async def look(self, outlets: Iterable[AnyOutlet]) -> None:
        """Look how near the cursors are to the end of retention, and whether partitions can be read."""
        outlets = list(outlets)
        stuck = {each.partition: each.unreadable for each in outlets if isinstance(each, KafkaOutlet)}
        self._unreadable = {partition: offset for partition, offset in stuck.items() if offset is not None}
        before, limit = set(self._near), NEAR_RETENTION * self._shared.settings.retention
        self._near = {}
        for outlet in outlets:
            try:
                age = (await outlet.backlog()).age
            except JournalError:  # another look comes
                continue
            if age >= limit:
                self._near[outlet.partition] = age
        if self._near.keys() - before:
            self._log.warning("sink is near the end of retention", partitions=sorted(self._near), problem=self.problem)
