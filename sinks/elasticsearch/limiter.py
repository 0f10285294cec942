"""Limits concurrent writes: halves their number when Elasticsearch pushes back, and raises it again as writes succeed."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sinks.base import Unavailable
from sinks.shared.clock import SYSTEM_CLOCK, Clock


class WriteLimiter:
    """`async with limiter.slot()` waits for a slot. There is no limit until the first `pushed_back`.

    Additive increase, multiplicative decrease: each successful write adds 1 / limit, so a round of as many writes as there
    are slots adds one slot. The limit only grows while it is reached.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.limit = math.inf
        self.in_flight = 0
        self._clock = clock
        self._not_before = 0.0  # by the monotonic clock
        self._slot_free = asyncio.Event()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot during the block. Raises Unavailable if another write was told to wait meanwhile."""
        while self._full():
            self._slot_free.clear()
            await self._slot_free.wait()
        left = self._not_before - self._clock.monotonic()
        if left > 0:
            self._slot_free.set()  # for the next one
            raise Unavailable(f"Elasticsearch asked to wait, {left:.0f} s are left (Retry-After)", left)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._slot_free.set()

    def pushed_back(self, retry_after: float = 0.0) -> None:
        """A write in flight was refused for lack of capacity. retry_after: seconds in which no other may begin."""
        self._not_before = max(self._not_before, self._clock.monotonic() + retry_after)
        self.limit = max(1.0, min(self.limit, self.in_flight) / 2)

    def succeeded(self) -> None:
        """A write in flight was successful."""
        if self._full():
            self.limit += 1 / self.limit
            self._slot_free.set()

    def _full(self) -> bool:
        return self.in_flight + 1 > self.limit
