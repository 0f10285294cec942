"""How much memory bodies may occupy while they are being received."""

import asyncio
from collections import deque
from typing import Self

from btfeed.telemetry.metrics import Metrics
from sinks.shared.clock import SYSTEM_CLOCK, Clock


class Overloaded(Exception):
    """Not enough memory became available in time."""


class MemoryLimiter:
    """Hands out up to `total` bytes, first come, first served. timeout: seconds to wait for them."""

    FREE_BYTES = 2**16
    """A body needs no reservation until more than this has arrived: a client that announces much and sends little must not
    keep others out."""

    def __init__(self, total: int, timeout: float, metrics: Metrics, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._total = total
        self._available = total
        self._timeout = timeout
        self._clock = clock
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._gauge = metrics.bytes_in_flight

    def resize(self, total: int, timeout: float) -> None:
        """Hand out up to `total` bytes from now on. What is handed out stays so; posts that wait keep their deadline."""
        self._available += total - self._total
        self._total, self._timeout = total, timeout
        self._grant()

    def reservation(self, size: int) -> "Reservation":
        """A reservation of `size` bytes that takes effect when it is needed."""
        return Reservation(self, min(size, self._total))

    async def acquire(self, size: int) -> None:
        """Wait for `size` bytes. Raises Overloaded."""
        if not self._waiting and size <= self._available:
            self._available -= size
            self._gauge.set(self._total - self._available)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        self._grant()
        try:
            async with self._clock.timeout(self._timeout):
                await granted
        except BaseException as error:
            if granted.cancelled():
                self._grant()  # the next in line may need less
            else:
                self.release(size)
            if isinstance(error, TimeoutError):
                raise Overloaded from None
            raise

    def release(self, size: int) -> None:
        self._available += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            size, granted = self._waiting.popleft()
            if not granted.done():
                self._available -= size
                granted.set_result(None)
        self._gauge.set(self._total - self._available)

    def _fits(self, size: int) -> bool:
        """One that is larger than everything, which has become less since it was asked for, gets everything."""
        return size <= self._available or self._available == self._total


class Reservation:
    """A context manager: the bytes one post occupies, released when the block ends."""

    def __init__(self, limiter: MemoryLimiter, size: int) -> None:
        self._limiter = limiter
        self._size = size
        self._acquired = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._acquired:
            self._limiter.release(self._size)

    async def ensure(self, used: int) -> None:
        """Acquire the reservation once `used` exceeds FREE_BYTES. Raises Overloaded."""
        if used > MemoryLimiter.FREE_BYTES and not self._acquired:
            await self._limiter.acquire(self._size)
            self._acquired = True
