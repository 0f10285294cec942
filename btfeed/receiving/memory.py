"""How much memory posts may occupy while they are received."""

import asyncio
from collections import deque
from typing import Self

from btfeed.telemetry.metrics import Metrics


class Overloaded(Exception):
    """No room came free in time."""


class MemoryLimiter:
    """Bytes that posts may occupy while they are received, given out in the order of asking."""

    SMALL = 2**16
    """A body needs no room until so much of it has come: a sender that promises much and sends little takes none."""

    def __init__(self, total: int, patience: float, metrics: Metrics) -> None:
        self._total = total
        self._free = total
        self._patience = patience
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._gauge = metrics.bytes_in_flight

    def room(self, size: int) -> "Reservation":
        """Room for a post of up to `size` bytes, to be taken when needed."""
        return Reservation(self, min(size, self._total))

    async def take(self, size: int) -> None:
        """Raises Overloaded where `size` bytes are not to be had in time."""
        if not self._waiting and size <= self._free:
            self._free -= size
            self._gauge.set(self._total - self._free)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._hand_out()
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._hand_out()  # who stands behind may need less
            else:
                self.give_back(size)
            if isinstance(error, TimeoutError):
                raise Overloaded from None
            raise

    def give_back(self, size: int) -> None:
        self._free += size
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)
        self._gauge.set(self._total - self._free)


class Reservation:
    """What one post may take from a budget, and gives back at the end of a `with`."""

    def __init__(self, budget: MemoryLimiter, size: int) -> None:
        self.size = size
        self.taken = False
        self._budget = budget

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.taken:
            self._budget.give_back(self.size)

    async def cover(self, used: int) -> None:
        """Wait until there is room for a post of which `used` bytes are here. Raises Overloaded."""
        if used > MemoryLimiter.SMALL and not self.taken:
            await self._budget.take(self.size)
            self.taken = True
