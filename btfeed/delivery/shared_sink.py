"""One sink object for the deliveries of all partitions that a process has.

So the far end sees as many writes at a time, and as many connections, as from a sink with one partition: `in_flight` over
all deliveries. While it takes nothing, one of them tries at a time, and the pauses grow as if there were only that one.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from btfeed.delivery.retry import HoldBack, RetryPause
from btfeed.delivery.settings import DeliverySettings
from sinks.base import BatchRefused, Sink, WriteResult
from sinks.batch import Batch
from sinks.shared.clock import Clock


class SharedSink:
    """A sink that is not serial. It is opened by the first of its deliveries, and closed with the last one.

    turn  held for each write
    """

    def __init__(self, sink: Sink, in_flight: int) -> None:
        self.turn = asyncio.Semaphore(in_flight)
        self._sink = sink
        self._hold_back = HoldBack()
        self._probing = _Probing()
        self._opening = asyncio.Lock()
        self._opened = False
        self._users = 0

    @property
    def used(self) -> bool:
        """Whether a delivery has it. Afterwards it is closed, and can't be used again."""
        return self._users > 0

    def use(self) -> Sink:
        """The sink for one more delivery, which has to close it."""
        self._users += 1
        return _Use(self)

    def pause(self, settings: DeliverySettings, stopping: asyncio.Event, clock: Clock) -> RetryPause:
        """For one delivery."""
        return _SharedPause(settings, stopping, clock, self._hold_back, self._probing)

    async def open(self) -> None:
        async with self._opening:
            if not self._opened:
                await self._noted(self._sink.open(None))
                self._opened = True

    async def write(self, batch: Batch) -> WriteResult:
        try:
            result = await self._sink.write(batch)
        except BatchRefused:
            self._probing.note(works=True)
            raise
        except Exception:
            self._probing.note(works=False)
            raise
        self._probing.note(works=len(result.retry) < max(1, len(batch)))
        return result

    async def leave(self) -> None:
        """A delivery has ended."""
        self._users -= 1
        if not self._users:
            await self._sink.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)  # what only some sinks have, and `check`

    async def _noted(self, call: Any) -> None:
        try:
            await call
        except Exception:
            self._probing.note(works=False)
            raise
        self._probing.note(works=True)


class _Use:
    """The sink as one delivery sees it."""

    def __init__(self, shared: SharedSink) -> None:
        self._shared = shared
        self._closed = False

    async def open(self, state: str | None) -> None:
        await self._shared.open()

    async def check(self) -> None:
        await self._shared.check()

    async def write(self, batch: Batch) -> WriteResult:
        return await self._shared.write(batch)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._shared.leave()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared, name)


class _Probing:
    """Which writer finds out whether a sink works again.

    works     whether the last attempt succeeded
    failures  attempts that failed in a row
    prober    the writer that tries, while the sink does not work
    paused    whether that one has waited before its next attempt
    """

    def __init__(self) -> None:
        self.works = True
        self.failures = 0
        self.prober: asyncio.Task[Any] | None = None
        self.paused = False
        self.changed = asyncio.Event()

    def note(self, works: bool) -> None:
        self.works = works
        self.failures = 0 if works else self.failures + 1
        self.paused = False
        if works:
            self.prober = None
            self._wake()

    def take(self) -> bool:
        """Whether the current task is the one that tries."""
        if self.prober is None:
            self.prober, self.paused = asyncio.current_task(), False
        return self.prober is asyncio.current_task()

    def give(self) -> None:
        """The current task does not go on."""
        if self.prober is not None and self.prober is asyncio.current_task():
            self.prober = None
            self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class _SharedPause(RetryPause):
    """Pauses of one delivery: those of the others hold for it, too."""

    def __init__(
        self, settings: DeliverySettings, stopping: asyncio.Event, clock: Clock, hold_back: HoldBack, probing: _Probing
    ) -> None:
        super().__init__(settings.retry_initial, settings.retry_max, stopping, clock, hold_back)
        self._probing = probing

    async def held_back(self) -> bool:
        return await self._until_works() or await super().held_back()

    async def wait(self, attempt: int) -> bool:
        if self._probing.works:
            return await super().wait(attempt)
        return await self.held_back()

    def end(self) -> None:
        self._probing.give()

    async def _until_works(self) -> bool:
        """Return when the sink works, or when it is the current task that has to try. True if the delivery is stopping."""
        probing = self._probing
        while not probing.works:
            if not probing.take():
                if await self._stops_before(probing.changed):
                    return True
            elif probing.paused:
                return False
            else:
                if await self._stops_within(self.length(max(0, probing.failures - 1))):
                    return True
                probing.paused = True
        return False

    async def _stops_before(self, changed: asyncio.Event) -> bool:
        waits = [asyncio.create_task(event.wait()) for event in (self._stopping, changed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._stopping.is_set()


class SharedSinks:
    """The shared sinks of a process, by name."""

    def __init__(self) -> None:
        self._sinks: dict[str, SharedSink] = {}

    def get(self, name: str, create: Callable[[], Sink], in_flight: int) -> SharedSink:
        """The one that deliveries of this name have, or else a new one."""
        found = self._sinks.get(name)
        if found is None or not found.used:
            found = self._sinks[name] = SharedSink(create(), in_flight)
        return found
