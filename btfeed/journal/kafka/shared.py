"""What the outlets of all sinks share in a process."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from btfeed.journal.kafka.consumer import Consumer, ConsumerSettings
from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.outlet import OutletLetters
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.telemetry.metrics import Metrics
from sinks.shared.clock import Clock

DRAIN = 20.0
"""Seconds that a rebalance may take: the grace of the writes in progress, and as much again for what is around it."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Values that suit every installation, in seconds.

    fetch_wait     how long a broker holds the answer to a fetch while it has nothing
    read_patience  how long a read waits before it looks at its position again
    check          between looks at whether the consumer still works
    watch          between looks at how near a sink is to the end of retention
    pause_max      the longest pause before another consumer is started
    contested      how long partitions are left to another process that has our name, before they are taken back
    """

    fetch_wait: float = 0.5
    read_patience: float = 1.0
    check: float = 1.0
    watch: float = 60.0
    pause_max: float = 10.0
    contested: float = 10.0


TUNING = Tuning()


@dataclass(slots=True)
class Shared:
    """letters  the dead letters
    start    a consumer of this sink that is connected, once the topics exist. Raises JournalUnavailable
    closed   set when the journal closes
    leaving  whether memberships end with the process, instead of waiting for its next start
    damaged  partition and offset of damaged posts that are dead letters already
    """

    settings: KafkaJournalSettings
    metrics: Metrics
    letters: OutletLetters
    start: Callable[[str, ConsumerSettings], Awaitable[Consumer]]
    closed: asyncio.Event
    clock: Clock
    tuning: Tuning = TUNING
    leaving: bool = False
    damaged: set[tuple[int, int]] = field(default_factory=set)

    @property
    def names(self) -> Names:
        return Names(self.settings.prefix)

    def consumer_settings(self, sink: str) -> ConsumerSettings:
        settings = self.settings
        return ConsumerSettings(
            self.names.group(sink),
            settings.instance_name,
            settings.request_timeout,
            settings.session_timeout,
            DRAIN,
            self.tuning.fetch_wait,
            self.tuning.read_patience,
        )
