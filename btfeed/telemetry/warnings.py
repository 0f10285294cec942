"""Events that may come thousands of times a second: the first is logged at once, then a sum every INTERVAL seconds."""

import asyncio
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()

INTERVAL = 10.0
"""Seconds between two lines of one key."""


@dataclass(slots=True)
class _Held:
    """What is not logged yet of one key. next_line: when it may be, by the clock's monotonic time."""

    level: str
    event: str
    fields: dict[str, Any]
    next_line: float
    count: int = 0


class SummedWarnings:
    """On an event loop it logs sums by itself. On another thread its owner calls `flush` now and then. Not thread-safe."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._held: dict[Hashable, _Held] = {}
        self._flushing: asyncio.Task[None] | None = None

    def warn(self, event: str, key: Hashable, count: int = 1, **fields: Any) -> None:
        """Log `event` with `count` and `fields` if there was no line of `key` for a while. Otherwise add it to the key's
        next line, which has the sum as `count`, and the latest fields."""
        self._add("warning", event, key, count, fields)

    def info(self, event: str, key: Hashable, count: int = 1, **fields: Any) -> None:
        """The same at the level INFO."""
        self._add("info", event, key, count, fields)

    def error(self, event: str, key: Hashable, count: int = 1, **fields: Any) -> None:
        """The same as an error: a person has to act. A field `exc_info` is logged as a traceback."""
        self._add("error", event, key, count, fields)

    def _add(self, level: str, event: str, key: Hashable, count: int, fields: dict[str, Any]) -> None:
        if key not in self._held:
            getattr(log, level)(event, count=count, **fields)
            self._held[key] = _Held(level, event, fields, self._clock.monotonic() + INTERVAL)
        else:
            held = self._held[key]
            held.event, held.fields, held.count = event, fields, held.count + count
        if self._flushing is None or self._flushing.done():
            with suppress(RuntimeError):  # no event loop in this thread
                loop = asyncio.get_running_loop()
                self._flushing = loop.create_task(self._flush_until_empty(), name="summed warnings")

    def flush(self) -> None:
        """Log the sums that are due."""
        now = self._clock.monotonic()
        for key, held in list(self._held.items()):
            if now >= held.next_line:
                self._log(key, held)
                held.next_line = now + INTERVAL

    def close(self) -> None:
        """Log everything that is left."""
        if self._flushing:
            self._flushing.cancel()
        for key, held in list(self._held.items()):
            self._log(key, held)
        self._held.clear()

    def _log(self, key: Hashable, held: _Held) -> None:
        """Log the key's sum, or forget the key if there is nothing to log."""
        if held.count:
            getattr(log, held.level)(held.event, count=held.count, **held.fields)
            held.count = 0
        else:
            del self._held[key]

    async def _flush_until_empty(self) -> None:
        while self._held:
            due = min(held.next_line for held in self._held.values())
            await self._clock.sleep(due - self._clock.monotonic())
            self.flush()
