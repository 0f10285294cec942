"""How long to wait before a failed write or open is tried again."""

import asyncio
import random

from sinks.shared.clock import Clock


class RetryPause:
    """Exponential backoff with full jitter: a random time up to `initial` seconds, then up to twice that, and so on up to
    `maximum`, or what the destination asks for if that is longer. There is no last attempt. A stop ends a pause."""

    def __init__(self, initial: float, maximum: float, stopping: asyncio.Event, clock: Clock) -> None:
        self._initial = initial
        self._maximum = maximum
        self._stopping = stopping
        self._clock = clock

    def ceiling(self, attempt: int) -> float:
        """The longest pause after that many failures in a row."""
        return min(self._maximum, self._initial * 2.0 ** min(attempt, 30))

    async def wait(self, attempt: int, least: float) -> bool:
        """Wait, at least `least` seconds. True if the delivery is stopping."""
        try:
            async with self._clock.timeout(max(least, random.uniform(0, self.ceiling(attempt)))):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True
