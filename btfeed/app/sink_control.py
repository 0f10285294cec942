"""What an operator does to single sinks while the server runs, and the others go on: pause, resume and rewind."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import structlog

from btfeed.admin.control import Conflict, Rewind, UnknownSink
from btfeed.app.deliveries import Deliveries
from btfeed.journal.base import Journal, JournalError, Move, Outlet
from btfeed.telemetry.metrics import Metrics
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()

FOLLOW_INTERVAL = 1.0
"""Seconds between looks at which sinks are paused, where other processes may pause them."""


class SinkControl:
    """See btfeed.admin.control.Control. changing: held by everything that starts or stops sinks. shared:
    whether other processes may deliver to the same sinks."""

    def __init__(
        self,
        journal: Journal,
        deliveries: Deliveries,
        metrics: Metrics,
        type_of: Callable[[str], str],
        changing: asyncio.Lock,
        clock: Clock = SYSTEM_CLOCK,
        shared: bool = False,
    ) -> None:
        self.shared = shared
        self._changing = changing
        self.paused: Mapping[str, int] = {}
        self.type_of = type_of
        self._journal = journal
        self._deliveries = deliveries
        self._metrics = metrics
        self._clock = clock

    async def load(self) -> None:
        """Hold the sinks that were paused when the journal was used last. Raises JournalError."""
        self.paused = await self._journal.paused()
        for name in self.paused:
            await self._deliveries.hold_sink(name)

    async def follow(self) -> None:
        """Pause and resume sinks as operators of other processes do. Does not return."""
        while True:
            await self._clock.sleep(FOLLOW_INTERVAL)
            with suppress(JournalError):  # then nobody can pause anything
                async with self._changing:
                    await self._follow(await self._journal.paused())

    async def _follow(self, paused: Mapping[str, int]) -> None:
        before, self.paused = self.paused, paused
        known = self._deliveries.statuses
        for name in paused.keys() - before.keys():
            await self._deliveries.hold_sink(name)
            if name in known:
                log.warning("sink paused by another process, the journal holds its posts", sink=name)
        for name in before.keys() - paused.keys():
            self._deliveries.release_sink(name)
            if name in known:
                log.info("sink resumed by another process", sink=name)

    async def positions(self, sink: str) -> Mapping[int, int]:
        return {outlet.partition: (await outlet.cursor())[0].seq for outlet in self._with_posts(sink)}

    async def pause(self, sink: str) -> bool:
        async with self._changing:
            self._check(sink)
            if sink in self.paused:
                return False
            await self._journal.pause(sink)
            self.paused = await self._journal.paused()
            await self._deliveries.hold_sink(sink)
            self._did(sink, "pause")
            log.warning("sink paused, the journal holds its posts", sink=sink)
            return True

    async def resume(self, sink: str) -> bool:
        async with self._changing:
            self._check(sink)
            if sink not in self.paused:
                return False
            await self._journal.resume(sink)
            self.paused = await self._journal.paused()
            self._deliveries.release_sink(sink)
            self._did(sink, "resume")
            log.info("sink resumed", sink=sink)
            return True

    async def rewind(self, sink: str, to: Rewind) -> Sequence[Move]:
        async with self._changing:
            self._check(sink)
            places = await self._places(sink, to)
            plans = [await outlet.plan(seq) for outlet, seq in places]
            if sum(plan.skipped for plan in plans) and not to.skip:
                raise _would_skip(sink, plans)
            if sink not in self.paused:
                await self._deliveries.hold_sink(sink)
            try:  # what was delivered until now counts, too
                plans = [await outlet.plan(seq) for outlet, seq in places]
                for (outlet, _), plan in zip(places, plans, strict=True):
                    await outlet.move(plan.to)
            finally:
                if sink not in self.paused:
                    self._deliveries.release_sink(sink)
            self._did(sink, "rewind")
            self._tell(sink, plans)
            return plans

    async def _places(self, sink: str, to: Rewind) -> list[tuple[Outlet, int]]:
        """Where to continue in each partition that is meant."""
        outlets = self._with_posts(sink)
        if to.time is not None:
            found = [(outlet, await outlet.find(to.time)) for outlet in outlets]
        else:
            positions = to.positions or {}
            found = [(outlet, positions[outlet.partition]) for outlet in outlets if outlet.partition in positions]
            if len(found) < len(positions):
                missing = min(positions.keys() - {outlet.partition for outlet, _ in found})
                raise Conflict(f"sink {sink} has no partition {missing} here")
        if not found:
            raise Conflict(f"sink {sink} has no partition here yet: try again")
        return found

    def _with_posts(self, sink: str) -> list[Outlet]:
        """Without the outlet of what is retried."""
        return [outlet for outlet in self._deliveries.outlets(sink) if outlet.partition >= 0]

    def _check(self, sink: str) -> None:
        known = self._deliveries.statuses
        if sink not in known:
            raise UnknownSink(f"no sink {sink} is running: the sinks are {', '.join(known) or 'none'}")

    def _did(self, sink: str, action: str) -> None:
        self._metrics.sink_actions.labels(sink, action).inc()

    def _tell(self, sink: str, moves: Sequence[Move]) -> None:
        again, skipped = sum(move.again for move in moves), sum(move.skipped for move in moves)
        positions = {move.partition: move.to.seq for move in moves}
        if skipped:
            self._metrics.skipped_posts.labels(sink).inc(skipped)
        event = "sink moved ahead, it never gets the posts skipped" if skipped else "sink rewound, it gets posts again"
        log.warning(event, sink=sink, skipped=skipped, again=again, to=positions)


def _would_skip(sink: str, plans: Sequence[Move]) -> Conflict:
    skipped, again = sum(plan.skipped for plan in plans), sum(plan.again for plan in plans)
    rest = f", and get {again} again" if again else ""
    return Conflict(
        f"sink {sink} is not there yet: it would never get {skipped} posts{rest}. To skip them for this sink, say so: with"
        ' --skip, or over HTTP with "skip": true'
    )
