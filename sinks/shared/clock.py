"""The clock that components are given: the system's, or in tests one that is moved by hand."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What components know of time. Use `monotonic` for deadlines and intervals, `time` for dates."""

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
