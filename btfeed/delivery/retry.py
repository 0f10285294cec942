"""How long to wait before a failed write or open is tried again."""

import asyncio
import random

from sinks.shared.clock import Clock


class HoldBack:
    """Until when a destination asked to get nothing, by the monotonic clock."""

    until = 0.0


class RetryPause:
    """Exponential backoff with full jitter: a random time up to `initial` seconds, then up to twice that, and so on up to
    `maximum`, or what the destination asks for if that is longer. Attempts never end. A stop ends a pause.

    One object serves all writers of a sink, so that what a destination asks one of them holds for all.
    """

    def __init__(
        self, initial: float, maximum: float, stopping: asyncio.Event, clock: Clock, hold_back: HoldBack | None = None
    ) -> None:
        """hold_back: shared with the pauses of other writers to the same destination."""
        self._initial = initial
        self._maximum = maximum
        self._stopping = stopping
        self._clock = clock
        self._hold_back = hold_back or HoldBack()

    def hold_back(self, seconds: float) -> None:
        """The destination asked to get nothing for so long."""
        self._hold_back.until = max(self._hold_back.until, self._clock.monotonic() + seconds)

    async def held_back(self) -> bool:
        """Wait as long as the destination asked any writer to. True if the delivery is stopping."""
        while (left := self._hold_back.until - self._clock.monotonic()) > 0:
            if await self._stops_within(left):
                return True
        return False

    def ceiling(self, attempt: int) -> float:
        """The longest pause after that many failures in a row."""
        return min(self._maximum, self._initial * 2.0 ** min(attempt, 30))

    def length(self, attempt: int) -> float:
        """The seconds of a pause after that many failures in a row."""
        return random.uniform(0, self.ceiling(attempt))

    async def wait(self, attempt: int) -> bool:
        """Wait after a failure. True if the delivery is stopping."""
        return await self._stops_within(self.length(attempt)) or await self.held_back()

    def end(self) -> None:
        """The current task has ended its attempts, whatever came of them."""

    async def _stops_within(self, seconds: float) -> bool:
        try:
            async with self._clock.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True
