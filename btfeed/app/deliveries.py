"""Runs one delivery for each sink and partition, as the journal hands out and takes back outlets."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import structlog

from btfeed.delivery.loop import Delivery
from btfeed.journal.base import Backlog, Outlet, Outlets
from btfeed.telemetry.sink_status import SinkStatus

log = structlog.get_logger()

Create = Callable[[str, Outlet, SinkStatus], Delivery]
"""Makes the delivery of a sink from an outlet. The delivery updates that status."""


@dataclass(frozen=True, slots=True)
class _Running:
    delivery: Delivery
    outlet: Outlet
    task: "asyncio.Task[None]"


class Deliveries:
    """The deliveries of all sinks. `statuses` has one status per sink."""

    def __init__(self, outlets: Mapping[str, Outlets], create: Create, grace: float) -> None:
        """grace: seconds that writes in progress may take to end at a stop."""
        self.statuses = {name: SinkStatus() for name in outlets}
        self._outlets = outlets
        self._create = create
        self._grace = grace
        self._running: dict[tuple[str, int], _Running] = {}
        self._handing_out: list[asyncio.Task[None]] = []
        self._failed = asyncio.Event()
        self._error: BaseException | None = None

    def start(self) -> None:
        self._handing_out = [
            asyncio.create_task(self._hand_out(name, outlets), name=f"outlets of {name}")
            for name, outlets in self._outlets.items()
        ]

    async def failed(self) -> None:
        """Raise the error of the first delivery that fails. Does not return."""
        await self._failed.wait()
        assert self._error
        raise self._error

    async def stop(self) -> None:
        """Stop all deliveries, then leave the outlets."""
        await self._stop(list(self._running.values()))
        for task in self._handing_out:
            task.cancel()
        await asyncio.gather(*self._handing_out, return_exceptions=True)

    async def backlog(self, sink: str) -> Backlog:
        """See btfeed.journal.base.Backlogs."""
        running = [running for (name, _), running in self._running.items() if name == sink]
        backlogs = [await each.outlet.backlog() for each in running]
        return Backlog(sum(one.posts for one in backlogs), max((one.age for one in backlogs), default=0.0))

    async def _hand_out(self, name: str, outlets: Outlets) -> None:
        async def begin(outlet: Outlet) -> None:
            delivery = self._create(name, outlet, self.statuses[name])
            task = asyncio.create_task(delivery.run(), name=f"delivery of {name}, partition {outlet.partition}")
            task.add_done_callback(self._note_failure)
            self._running[name, outlet.partition] = _Running(delivery, outlet, task)

        async def end(gone: Collection[Outlet]) -> None:
            ended = [self._running.pop((name, outlet.partition)) for outlet in gone]
            await self._stop(ended)

        try:
            await outlets.run(begin, end)
        except Exception as error:  # noqa: BLE001 - raised by `failed`
            self._set_failed(error)

    def _note_failure(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error:
            self._set_failed(error)

    def _set_failed(self, error: BaseException) -> None:
        self._error = self._error or error
        self._failed.set()

    async def _stop(self, stopping: Iterable[_Running]) -> None:
        """Stop these deliveries, and cancel those that take longer than the grace."""
        stopping = list(stopping)
        if not stopping:
            return
        for running in stopping:
            running.delivery.stop()
        _, late = await asyncio.wait([running.task for running in stopping], timeout=self._grace)
        for task in late:
            task.cancel()
        ended = await asyncio.gather(*(running.task for running in stopping), return_exceptions=True)
        for running, result in zip(stopping, ended, strict=True):
            if isinstance(result, Exception):
                log.error("delivery failed", sink=running.delivery.name, exc_info=result)
            elif result:
                log.warning(
                    "write cancelled at the stop, its records may be delivered again",
                    sink=running.delivery.name, grace=self._grace,
                )  # fmt: skip
