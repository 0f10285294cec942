"""Samples a few counters every few seconds, for rates, trends and charts. Nothing else runs while nobody looks."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from btfeed.admin.history import INTERVAL, History
from btfeed.admin.latency import Latency
from btfeed.journal.base import Backlog
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import ShownStatus
from btfeed.telemetry.trends import Sample, Trends
from sinks.shared.clock import Clock

BEHIND = 10.0
"""Seconds that a sink's oldest post waits before the sink counts as behind."""


class Sampler:
    """Samples one server from `start` to `stop`.

    behind_since  the sinks that are behind -> since when, in milliseconds since the epoch
    """

    def __init__(
        self,
        metrics: Metrics,
        sinks: Mapping[str, ShownStatus],
        backlogs: Callable[[], Awaitable[Mapping[str, Backlog]]],
        clock: Clock,
    ) -> None:
        """backlogs: of each sink, without those that are not known."""
        self.history = History(clock)
        self.latency = Latency()
        self.trends = Trends()
        self.behind_since: dict[str, int] = {}
        self._metrics = metrics
        self._sinks = sinks
        self._backlogs = backlogs
        self._clock = clock
        self._started = clock.monotonic()
        self._running: asyncio.Task[None] | None = None

    @property
    def uptime(self) -> float:
        """Seconds."""
        return self._clock.monotonic() - self._started

    def start(self) -> None:
        self._add({})
        self._running = asyncio.create_task(self._run(), name="sampler")

    def stop(self) -> None:
        if self._running:
            self._running.cancel()

    async def _run(self) -> None:
        due = self._clock.monotonic()
        while True:
            due = max(due + INTERVAL, self._clock.monotonic())
            await self._clock.sleep(due - self._clock.monotonic())
            self._add(await self._backlogs())

    def _add(self, backlogs: Mapping[str, Backlog]) -> None:
        at = self._clock.monotonic()
        sinks: dict[str, Any] = {}
        for name, status in self._sinks.items():
            backlog = backlogs.get(name)
            sinks[name] = {"delivered": status.delivered, "backlog_posts": backlog.posts if backlog else None}
            self._note(name, backlog)
        for name in self.behind_since.keys() - sinks.keys():
            del self.behind_since[name]
        sample = Sample(at, {"uptime_seconds": self.uptime, "counts": self._metrics.sample(), "sinks": sinks})
        self.trends.add(sample)
        self.history.add(sample)
        self.latency.add(at, self._metrics.delivery_buckets())

    def _note(self, sink: str, backlog: Backlog | None) -> None:
        """Remember since when a sink is behind."""
        if backlog is None:
            return
        if not backlog.posts or backlog.age < BEHIND:
            self.behind_since.pop(sink, None)
        else:
            self.behind_since.setdefault(sink, round((self._clock.time() - backlog.age) * 1000))
