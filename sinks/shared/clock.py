"""Time, handed in: components take a Clock, and tests hand in one that they move by hand."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What a component may ask of time. Deadlines and intervals use `monotonic`; `time` only dates things."""

    def time(self) -> float:
        """Seconds since the epoch, as the system's clock shows them. It may jump."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary point. Never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        """An `async with` block that raises TimeoutError after `seconds`; None means no limit."""


class SystemClock:
    """The machine's own clock."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        return asyncio.timeout(seconds)


SYSTEM_CLOCK: Clock = SystemClock()
