"""Which sink object a delivery gets: one that it shares with the other partitions, or one of its own."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from btfeed.app.deliveries import Deliveries
from btfeed.app.parts import create_sink
from btfeed.delivery.shared_sink import SharedSink, SharedSinks
from btfeed.delivery.sink_config import SinkConfig
from btfeed.journal.base import JournalError
from sinks.base import SerialSink, Sink, SinkError
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()

LEAVE_INTERVAL = 60.0
"""Seconds between looks for partitions that another process has now."""
LOOK_AGAIN = 1.0
"""Seconds after which to look again if the journal does not know yet which partitions are whose."""


@dataclass(frozen=True, slots=True)
class SinkObject:
    """sink: what the delivery writes to. shared: what it is a use of; None if it is the delivery's own."""

    sink: Sink
    shared: SharedSink | None = None


@dataclass(slots=True)
class SinkObjects:
    """Makes the sinks of one process.

    instance    the name of this process among those that share the journal; "" if there is only one, with one partition
    instrument  see Instruments.sink
    transactional_id
                of a sink and partition, see btfeed.journal.create.transactional_id
    """

    instance: str
    instrument: Callable[[str, Sink], Sink]
    transactional_id: Callable[[str, int], str] = lambda sink, partition: ""
    _shared: SharedSinks = field(default_factory=SharedSinks)

    def create(self, name: str, config: SinkConfig, partition: int) -> SinkObject:
        """For one delivery, which closes it."""
        if config.type.transactional(config.settings):
            owner = self.transactional_id(name, partition)
            return SinkObject(self.instrument(name, create_sink(name, config, transactional_id=owner)))
        if config.type.serial or not self.instance:
            return SinkObject(self.instrument(name, create_sink(name, config, self.part(partition))))
        shared = self._shared.get(
            name, lambda: self.instrument(name, create_sink(name, config)), config.common.delivery.in_flight
        )
        return SinkObject(shared.use(), shared)

    def part(self, partition: int) -> str:
        """What tells the sinks of one name apart. A partition below 0 has no posts, only what is retried."""
        if not self.instance:
            return ""
        return f"{f'p{partition}' if partition >= 0 else 'retries'}-{self.instance}"


class LeftPartitions:
    """Lets serial sinks finish what they have of partitions that another process has now."""

    def __init__(
        self,
        deliveries: Deliveries,
        serial: Callable[[], dict[str, SinkConfig]],
        objects: SinkObjects,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """serial: the configured sinks that are serial, by name."""
        self._deliveries = deliveries
        self._serial = serial
        self._objects = objects
        self._clock = clock
        self._finished: dict[tuple[str, int], str] = {}  # sink and partition -> with what state

    async def run(self) -> None:
        """At once, and each minute. Does not return."""
        while True:
            known = [await self._finish(name, config) for name, config in self._serial().items()]
            await self._clock.sleep(LEAVE_INTERVAL if all(known) else LOOK_AGAIN)

    async def _finish(self, name: str, config: SinkConfig) -> bool:
        """False if it is not known yet which partitions are lost."""

        async def finish(partition: int, state: str) -> None:
            if self._finished.get((name, partition)) != state:
                await self._leave(name, config, partition, state)
                self._finished[name, partition] = state

        try:
            return self._deliveries.is_running(name) and await self._deliveries.finish_left(name, finish)
        except (JournalError, SinkError) as error:
            log.warning("can't finish what was written of lost partitions, trying again", sink=name, error=str(error))
        except Exception as error:
            log.error("bug in the sink, trying again", sink=name, exc_info=error)
        return True

    async def _leave(self, name: str, config: SinkConfig, partition: int, state: str) -> None:
        sink: SerialSink = create_sink(name, config, self._objects.part(partition))  # type: ignore[assignment]
        try:
            await sink.leave(state)
        finally:
            await asyncio.shield(sink.close())
