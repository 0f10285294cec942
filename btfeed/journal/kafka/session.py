"""One consumer of a sink's group, from its start until it fails, and the outlets of its assignments."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from aiokafka import TopicPartition

from btfeed.journal.base import JournalError, JournalUnavailable, Outlet, OutletGone
from btfeed.journal.kafka.beginning import Beginning, begin_group
from btfeed.journal.kafka.consumer import NOBODY, Consumer, Member
from btfeed.journal.kafka.health import Health
from btfeed.journal.kafka.metadata import Metadata
from btfeed.journal.kafka.outlet import RETRIES_PARTITION, AnyOutlet, KafkaOutlet
from btfeed.journal.kafka.reading import AGAIN
from btfeed.journal.kafka.shared import Shared

log = structlog.get_logger()

Begin = Callable[[Outlet], Awaitable[None]]
End = Callable[[Collection[Outlet]], Awaitable[None]]

SURE = 10
"""Times to ask before a partition is believed to end before the cursor: a new leader may not know its end yet."""


@dataclass(slots=True)
class Assignment:
    """begun: the outlets that were passed to `begin`. beginning, readers: tasks."""

    member: Member
    places: Collection[TopicPartition]
    outlets: list[AnyOutlet] = field(default_factory=list)
    begun: list[Outlet] = field(default_factory=list)
    readers: list["asyncio.Task[None]"] = field(default_factory=list)
    beginning: "asyncio.Task[None] | None" = None


class Session:
    """A Listener.

    joined   whether it has got partitions, or the news that there are none for it
    begun    whether it delivers from them
    problem  why not yet
    """

    def __init__(self, sink: str, start: str, shared: Shared, health: Health, begin: Begin, end: End) -> None:
        self.joined = self.begun = False
        self.problem: str | None = None
        self._sink = sink
        self._start = start
        self._shared = shared
        self._health = health
        self._begin = begin
        self._end = end
        self._clock = shared.clock
        self._metrics = shared.metrics.kafka_journal
        self._log = log.bind(sink=sink)
        self._consumer: Consumer | None = None
        self._assignment: Assignment | None = None
        self._ending: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure.add_done_callback(lambda failure: failure.cancelled() or failure.exception())
        self._revoked_at = self._clock.monotonic()

    # From start to end

    async def run(self) -> None:
        """Serve until the consumer fails, and raise why, or until cancelled. Then outlets end without `end`."""
        try:
            consumer = await self.connect()
            consumer.join([self._shared.names.posts, self._shared.names.retries], self)
            await self._watch(consumer)
        except Exception:
            await self._end_assignment("the consumer failed")
            raise
        finally:
            await self.close()

    async def connect(self) -> Consumer:
        """Start the consumer, and save where the sink begins if it is new."""
        self._consumer = await self._shared.start(self._sink, self._shared.consumer_settings(self._sink))
        await begin_group(self._consumer, self._shared.names.posts, self._start)
        return self._consumer

    async def close(self) -> None:
        """Let go of everything. Raises nothing."""
        if self._ending:
            await asyncio.wait({self._ending})
        if self._assignment:
            await self._drop(self._assignment, "this process has left the group")
        if self._consumer:
            if self._shared.leaving:
                with suppress(JournalError):
                    await self._consumer.leave()
            await self._consumer.stop()
        self._failure.cancel()

    async def _watch(self, consumer: Consumer) -> None:
        """Return never: raise why the consumer, or a part of ours, has failed."""
        failed = asyncio.create_task(consumer.failed())
        next_look = self._clock.monotonic() + self._shared.tuning.watch
        try:
            while True:
                await asyncio.wait(
                    {failed, self._failure}, timeout=self._shared.tuning.check, return_when=asyncio.FIRST_COMPLETED
                )
                if self._failure.done():
                    await self._failure
                if failed.done():
                    raise JournalUnavailable("the consumer has ended")
                consumer.check()
                if self._clock.monotonic() >= next_look:
                    await self._health.look(self._assignment.outlets if self._assignment else ())
                    next_look = self._clock.monotonic() + self._shared.tuning.watch
        finally:
            failed.cancel()

    async def left(self) -> Mapping[int, str] | None:
        """See Outlets.left. None while the group assigns partitions."""
        consumer, assignment, names = self._consumer, self._assignment, self._shared.names
        if consumer is None or assignment is None:
            return None
        places = {*consumer.partitions(names.posts), *consumer.partitions(names.retries)} - {*assignment.places}
        found = await consumer.saved(sorted(places)) if places else {}
        states = {place: Metadata.parse(each.metadata).states for place, each in found.items()}
        instance = self._shared.settings.instance_name
        return {
            place.partition if place.topic == names.posts else RETRIES_PARTITION: kept[instance]
            for place, kept in states.items()
            if instance in kept
        }

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    # As the Listener of the consumer

    async def revoked(self) -> None:
        """The deliveries end and save while the membership is still good. Raises nothing."""
        assert self._consumer
        self._revoked_at = self._clock.monotonic()
        lost = self._consumer.member == NOBODY
        if lost:
            self._health.lost()
        why = "the membership was lost" if lost else "the group assigns its partitions again"
        self._ending = asyncio.ensure_future(self._end_assignment(why, lost))
        await asyncio.shield(self._ending)
        if lost and self._health.contested:
            await self._leave_to_another()

    async def _leave_to_another(self) -> None:
        """Otherwise two processes with one name would take the partitions from each other all the time."""
        with suppress(TimeoutError):
            async with self._clock.timeout(self._shared.tuning.contested):
                await self._shared.closed.wait()

    def assigned(self, places: Collection[TopicPartition]) -> None:
        assert self._consumer
        self.joined = True
        self._assignment = Assignment(self._consumer.member, sorted(places))
        self._metrics.rebalances.labels(self._sink).inc()
        self._assignment.beginning = asyncio.create_task(self._begin_assignment(self._consumer, self._assignment))

    async def _end_assignment(self, why: str, lost: bool = False) -> None:
        """End all outlets, with `end`. lost: nothing more can be saved."""
        assignment = self._assignment
        if assignment is None:
            return
        await _cancelled(assignment.beginning)
        if lost:
            for outlet in assignment.outlets:
                outlet.end(why)
        try:
            if assignment.begun:
                await self._end(assignment.begun)
        except Exception as error:  # noqa: BLE001 - the group must not wait for us because of it
            self._log.error("bug at the end of outlets", exc_info=error)
        await self._drop(assignment, why)

    async def _drop(self, assignment: Assignment, why: str) -> None:
        """Readers end here: one that outlives its assignment takes the posts of the next one."""
        await _cancelled(assignment.beginning, *assignment.readers)
        for outlet in assignment.outlets:
            outlet.end(why)
        self._assignment = None
        self._metrics.partitions.labels(self._sink).set(0)

    # An assignment begins

    async def _begin_assignment(self, consumer: Consumer, assignment: Assignment) -> None:
        try:
            assignment.outlets = await self._until_outlets(consumer, assignment)
        except OutletGone:  # the next assignment is under way
            return
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._fail(error)
            return
        numbers = [outlet.partition for outlet in assignment.outlets if isinstance(outlet, KafkaOutlet)]
        self._metrics.partitions.labels(self._sink).set(len(numbers))
        self._metrics.rebalance_seconds.labels(self._sink).observe(self._clock.monotonic() - self._revoked_at)
        self._log.info("partitions assigned", partitions=numbers)
        self.begun = True
        for outlet in assignment.outlets:
            assignment.readers.append(asyncio.create_task(self._read_ahead(outlet)))
        for outlet in assignment.outlets:
            assignment.begun.append(outlet)
            await self._begin(outlet)

    async def _until_outlets(self, consumer: Consumer, assignment: Assignment) -> list[AnyOutlet]:
        beginning = Beginning(self._sink, self._shared, consumer, assignment.member)
        attempt = 0
        while True:
            try:
                return await beginning.outlets(assignment.places, sure=attempt >= SURE)
            except OutletGone:
                raise
            except JournalUnavailable as error:
                if attempt in (0, SURE):
                    self._log.warning("can't begin to read partitions, retrying", error=str(error))
                self.problem = str(error)
                attempt += 1
                await self._clock.sleep(AGAIN)

    async def _read_ahead(self, outlet: AnyOutlet) -> None:
        try:
            await outlet.read_ahead()
        except OutletGone as error:
            outlet.end(str(error))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            self._fail(JournalUnavailable("the consumer has ended"))
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._fail(error)


async def _cancelled(*tasks: "asyncio.Task[None] | None") -> None:
    """Cancel these tasks, and return when they have ended."""
    found = {task for task in tasks if task}
    for task in found:
        task.cancel()
    if found:
        await asyncio.wait(found)
