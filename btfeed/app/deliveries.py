"""Runs one delivery for each sink and partition, as the journal hands out and takes back outlets."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

import structlog

from btfeed.delivery.loop import Delivery
from btfeed.journal.base import Backlog, JournalError, Outlet, Outlets
from btfeed.telemetry.sink_status import SinkStatus, State, WholeStatus
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()

PATIENCE = 1.0
"""Seconds after which the log says which sink is waited for."""
SAVING = 5.0
"""Seconds in which a delivery has to save what became of writes that were cut off."""
AGAIN = 5.0
"""Seconds after which outlets are asked for again, if that failed."""

Create = Callable[[str, Outlet, SinkStatus], Delivery]
"""Makes the delivery of a sink from an outlet. The delivery updates that status."""


@dataclass(slots=True)
class _Running:
    """stopping: it was asked to stop. How it ends is no failure of the server then."""

    delivery: Delivery
    task: "asyncio.Task[None]"
    stopping: bool = False


@dataclass(slots=True)
class _Sink:
    """A sink that was started. source: of its outlets. outlets, running: by partition. After a stop, its outlets still tell
    its backlog. While the sink is held, none is running. changing: held while an outlet begins, and while files of
    partitions are finished that this process has lost."""

    source: Outlets
    handing_out: "asyncio.Task[None] | None" = None
    outlets: dict[int, Outlet] = field(default_factory=dict)
    running: dict[int, _Running] = field(default_factory=dict)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Deliveries:
    """The deliveries of all sinks, each of which can be started and stopped alone.

    statuses  the status of each sink that was started, also while it is stopped
    """

    def __init__(
        self, outlets: Callable[[str], Outlets], create: Create, grace: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """outlets: hands out those of a sink. grace: seconds that writes in progress may take to end at a stop."""
        self.statuses: dict[str, WholeStatus] = {}
        self._outlets = outlets
        self._create = create
        self._grace = grace
        self._clock = clock
        self._sinks: dict[str, _Sink] = {}
        self._held: set[str] = set()
        self._failed = asyncio.Event()
        self._error: BaseException | None = None

    def start_sink(self, name: str) -> None:
        """Begin to deliver to a sink, from its cursor on. The journal must know it. Its counts go on after a stop. One that
        is held gets nothing yet."""
        assert not self.is_running(name), f"sink {name} was started already"
        sink = self._sinks[name] = _Sink(self._outlets(name))
        status = self.statuses.setdefault(name, WholeStatus())
        status.resting = "idle"
        status.problem, status.conflict = lambda: sink.source.problem, lambda: sink.source.conflict
        if name in self._held:
            status.resting = "paused"
            log.warning("sink is paused, the journal holds its posts", sink=name)
        sink.handing_out = asyncio.create_task(self._hand_out(name, sink), name=f"outlets of {name}")

    def is_running(self, name: str) -> bool:
        """Whether the sink was started, and not stopped since."""
        return name in self._sinks and self._sinks[name].handing_out is not None

    async def stop_sink(self, name: str) -> None:
        """Stop reading for a sink, finish its writes within the grace, and save its cursor. Other sinks go on."""
        sink = self._sinks[name]
        handing_out, sink.handing_out = sink.handing_out, None
        try:
            await self._end_all(name, sink, "stopped")
        finally:
            if handing_out:
                handing_out.cancel()
                await asyncio.gather(handing_out, return_exceptions=True)

    async def hold_sink(self, name: str) -> None:
        """Stop delivering to a sink as `stop_sink` does, until `release_sink`, whether it is started again or not. Its
        outlets can be used meanwhile."""
        self._held.add(name)
        if name in self._sinks:
            await self._end_all(name, self._sinks[name], "paused")

    def release_sink(self, name: str) -> None:
        """Deliver to a sink again, from its cursor on."""
        self._held.discard(name)
        sink = self._sinks.get(name)
        if sink and sink.handing_out:
            self.statuses[name].resting = "idle"
            for outlet in sink.outlets.values():
                self._begin(name, sink, outlet)

    def outlets(self, name: str) -> list[Outlet]:
        """The outlets of a sink, none if it is not known."""
        return list(self._sinks[name].outlets.values()) if name in self._sinks else []

    def forget_sink(self, name: str) -> None:
        """A sink that is not running is not shown any more."""
        self._sinks.pop(name, None)
        self.statuses.pop(name, None)

    async def failed(self) -> None:
        """Raise the error of the first delivery that fails, or that `fail` was given. Does not return."""
        await self._failed.wait()
        assert self._error
        raise self._error

    async def stop(self) -> None:
        """Stop all sinks at once."""
        await asyncio.gather(*map(self.stop_sink, self._sinks))

    async def finish_left(self, name: str, finish: Callable[[int, str], Awaitable[None]]) -> bool:
        """Call `finish` with each partition that this process has lost, and the state of the sink that it saved there. None
        of them begins meanwhile. False if it is not known yet which these are. Raises JournalError."""
        sink = self._sinks[name]
        async with sink.changing:
            left = await sink.source.left()
            for partition, state in (left or {}).items():
                if partition not in sink.outlets and partition not in sink.running:
                    await finish(partition, state)
        return left is not None

    async def backlog(self, sink: str) -> Backlog:
        """See btfeed.journal.base.Backlogs. Nothing for a sink that is not known."""
        backlogs = await asyncio.gather(*(outlet.backlog() for outlet in self.outlets(sink)))
        return Backlog(sum(one.posts for one in backlogs), max((one.age for one in backlogs), default=0.0))

    async def _hand_out(self, name: str, sink: _Sink) -> None:
        async def begin(outlet: Outlet) -> None:
            async with sink.changing:
                if sink.handing_out is None:  # the sink is being stopped
                    return
                sink.outlets[outlet.partition] = outlet
                if name not in self._held:
                    self._begin(name, sink, outlet)

        async def end(gone: Collection[Outlet]) -> None:
            for outlet in gone:  # at once, so that nothing else begins with it
                sink.outlets.pop(outlet.partition, None)
            await self._end(name, sink, [outlet.partition for outlet in gone])

        while True:
            try:
                await sink.source.run(begin, end)
            except JournalError as error:  # the receiver and other sinks go on
                log.error("no partitions for the sink, trying again", sink=name, error=str(error), seconds=AGAIN)
            except Exception as error:  # noqa: BLE001 - raised by `failed`
                self.fail(error)
                return
            else:
                return
            await end(list(sink.outlets.values()))
            await self._clock.sleep(AGAIN)

    def _begin(self, name: str, sink: _Sink, outlet: Outlet) -> None:
        delivery = self._create(name, outlet, self.statuses[name].begin(outlet.partition))
        task = asyncio.create_task(delivery.run(), name=f"delivery of {name}, partition {outlet.partition}")
        running = sink.running[outlet.partition] = _Running(delivery, task)
        task.add_done_callback(lambda task: self._note_failure(name, running))

    def _note_failure(self, name: str, running: _Running) -> None:
        error = None if running.task.cancelled() else running.task.exception()
        if error:
            log.error("delivery failed", sink=name, exc_info=error)
            if not running.stopping:
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Let `failed` raise `error`, unless it has one."""
        self._error = self._error or error
        self._failed.set()

    async def _end_all(self, name: str, sink: _Sink, resting: State) -> None:
        await self._end(name, sink, list(sink.running))
        self.statuses[name].resting = resting

    async def _end(self, name: str, sink: _Sink, partitions: Collection[int]) -> None:
        """End the deliveries of a sink from these partitions. Others may end some of them at the same time."""
        ending = {partition: sink.running[partition] for partition in partitions if partition in sink.running}
        await self._stop(name, ending.values())
        for partition, ended in ending.items():
            if sink.running.get(partition) is ended:
                del sink.running[partition]
                self.statuses[name].end(partition)

    async def _stop(self, name: str, ending: Collection[_Running]) -> None:
        """Stop these deliveries of a sink, and cut off those that take longer than the grace."""
        if not ending:
            return
        for running in ending:
            running.stopping = True
            running.delivery.stop()
        tasks = [running.task for running in ending]
        patience = min(PATIENCE, self._grace / 2)
        _, late = await asyncio.wait(tasks, timeout=patience)
        if late:
            log.info("waiting for writes of the sink", sink=name, seconds=self._grace)
            _, late = await asyncio.wait(tasks, timeout=self._grace - patience)
        if late:
            await self._cut_off([running for running in ending if running.task in late])
            log.warning("write cut off after its grace, its records may be delivered again", sink=name, grace=self._grace)
        await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    async def _cut_off(late: Collection[_Running]) -> None:
        """End these deliveries. Those that had a write in progress have some time to save what became of it."""
        cut = []
        for running in late:
            if running.delivery.cut_off():
                cut.append(running)
            else:
                running.task.cancel()
        if cut:
            await asyncio.wait([running.task for running in cut], timeout=SAVING)
        for running in cut:
            if not running.delivery.closing:
                running.task.cancel()
