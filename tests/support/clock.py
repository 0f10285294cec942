"""Clocks for tests: one that stands still until a test moves it, and one that runs fast."""

import asyncio
import heapq
import time
from itertools import count


class FakeClock:
    """See sinks.shared.clock.Clock. `await clock.advance(5)` wakes what is due in the next five seconds, in order.

    now: seconds, monotonic and never negative. epoch: what `time` shows at now = 0; change it to set the system's clock.
    """

    def __init__(self, epoch: float = 1_700_000_000.0) -> None:
        self.now = 0.0
        self.epoch = epoch
        self._order = count()
        self._sleeping: list[tuple[float, int, asyncio.Future[None]]] = []
        self._timeouts: list[tuple[float, int, asyncio.Timeout]] = []

    def time(self) -> float:
        return self.epoch + self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self.now + seconds, next(self._order), woken))
        await woken

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        if seconds is not None and seconds <= 0:
            return asyncio.timeout(0)
        block = asyncio.timeout(None)
        if seconds is not None:
            heapq.heappush(self._timeouts, (self.now + seconds, next(self._order), block))
        return block

    @property
    def waiting(self) -> int:
        """How many sleeps have not ended yet."""
        return sum(not woken.done() for _, _, woken in self._sleeping)

    @property
    def deadlines(self) -> int:
        """How many timeouts are still to come, also of blocks that have ended before."""
        return len(self._timeouts)

    def due_at(self, moment: float) -> int:
        """How many timeouts are due at `moment`, to the millisecond."""
        return sum(abs(at - moment) < 0.001 for at, _, _ in self._timeouts)

    async def advance(self, seconds: float) -> None:
        """Move the clock, stopping at each deadline on the way so that what it wakes can run."""
        end = self.now + seconds
        await settle()
        while (due := self._next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self._wake()
            await settle()
        self.now = end
        await settle()

    def _next_deadline(self) -> float | None:
        return min((queue[0][0] for queue in (self._sleeping, self._timeouts) if queue), default=None)

    def _wake(self) -> None:
        while self._sleeping and self._sleeping[0][0] <= self.now:
            woken = heapq.heappop(self._sleeping)[2]
            if not woken.done():
                woken.set_result(None)
        while self._timeouts and self._timeouts[0][0] <= self.now:
            block = heapq.heappop(self._timeouts)[2]
            try:
                block.reschedule(asyncio.get_running_loop().time())
            except RuntimeError:  # the block has ended, or was never entered
                continue


async def settle(turns: int = 20) -> None:
    """Let every task that can run do so, until it waits for a clock, a thread or the network."""
    for _ in range(turns):
        await asyncio.sleep(0)


class FastClock:
    """The system's clock, but `speed` times as fast in everything that waits: pauses of a second take milliseconds. For
    tests in which time must pass, and how much does not matter."""

    def __init__(self, speed: float = 100.0) -> None:
        self._speed = speed

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic() * self._speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._speed)

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        return asyncio.timeout(None if seconds is None else seconds / self._speed)
