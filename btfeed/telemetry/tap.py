"""Shows records to those who watch while they are delivered.

Mostly nobody does: then a batch costs one look at an empty list. Whoever watches gets what fits in a bounded queue, and is
told how many lines did not fit. So a slow reader loses lines, and never holds up a delivery.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from btfeed.telemetry.metrics import Metrics
from sinks.batch import Batch

log = structlog.get_logger()

MAX_WATCHERS = 4
MAX_LINES = 1_000
"""Lines in a queue."""
MAX_BYTES = 2**20
"""Bytes of records in a queue. One that is larger fits if there is no other."""

Render = Callable[[Batch], Sequence[bytes]]
"""Makes a line of each record."""


class TooManyWatchers(Exception):
    """As many watch already as may."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a watcher wants to see: records for these sinks, of these business transactions, at most `limit`. Empty or None:
    all."""

    sinks: Collection[str] = ()
    transactions: Collection[str] = ()
    limit: int | None = None


class Watcher:
    """One that watches. lost: lines that did not fit since the last call of `take`. sampling: it expects to lose some."""

    def __init__(self, wanted: Wanted, max_lines: int = MAX_LINES, sampling: bool = False) -> None:
        self.lost = 0
        self.sampling = sampling
        self._max_lines = max_lines
        self._wanted = wanted
        self._left = wanted.limit
        self._lines: list[bytes] = []
        self._bytes = 0
        self._ended = wanted.limit == 0
        self._changed = asyncio.Event()

    def offer(self, sink: str, batch: Batch, render: Render) -> int:
        """Take the lines that are wanted and fit. Returns how many did not fit."""
        wanted = self._wanted
        if self._ended or (wanted.sinks and sink not in wanted.sinks):
            return 0
        if wanted.transactions:
            names = enumerate(transaction.name for transaction in batch.transactions)
            batch = batch.take([index for index, name in names if name in wanted.transactions])
        if self._left is not None:
            batch = batch.slice(0, self._left)
        if not len(batch):
            return 0
        room = batch.fitting(self._max_lines - len(self._lines), MAX_BYTES - self._bytes)
        taken = batch.slice(0, max(room, 0 if self._lines else 1))
        if len(taken):
            self._lines += render(taken)
        self._bytes += taken.nbytes
        if self._left is not None:
            self._left -= len(taken)
            self._ended = not self._left
        lost = 0 if self._ended else len(batch) - len(taken)
        self.lost += lost
        self._changed.set()
        return lost

    def end(self) -> None:
        """Nothing comes any more."""
        self._ended = True
        self._changed.set()

    async def wait(self) -> None:
        """Return when there are lines, or there will be none."""
        while not self._lines and not self._ended:
            self._changed.clear()
            await self._changed.wait()

    def take(self) -> tuple[list[bytes], int, bool]:
        """The lines that there are, how many were lost behind them, and whether more may come."""
        taken, lost = self._lines, self.lost
        self._lines, self._bytes, self.lost = [], 0, 0
        return taken, lost, not self._ended


class Taps:
    """Those who watch the records of one server."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._watchers: list[Watcher] = []
        self._failed: set[str] = set()  # sinks whose records could not be shown

    def watch(self, wanted: Wanted) -> Watcher:
        """Begin to watch, until `leave`. Raises TooManyWatchers."""
        if self._readers() >= MAX_WATCHERS:
            raise TooManyWatchers(f"{MAX_WATCHERS} taps are open already, and more are not allowed: end one of them")
        return self._add(Watcher(wanted))

    def sample(self, wanted: Wanted, max_lines: int) -> Watcher:
        """Begin to watch for a sample: at most `max_lines` between two calls of `take`. It does not count as a reader."""
        return self._add(Watcher(wanted, max_lines, sampling=True))

    def leave(self, watcher: Watcher) -> None:
        self._watchers.remove(watcher)
        self._metrics.taps.set(self._readers())

    def _add(self, watcher: Watcher) -> Watcher:
        self._watchers.append(watcher)
        self._metrics.taps.set(self._readers())
        return watcher

    def _readers(self) -> int:
        return sum(not watcher.sampling for watcher in self._watchers)

    def offer(self, sink: str, batch: Batch, render: Render) -> None:
        """Show records that a sink is to get, when they are read for it."""
        for watcher in self._watchers:
            try:
                lost = watcher.offer(sink, batch, render)
                self._metrics.tap_lost.inc(0 if watcher.sampling else lost)
            except Exception as error:
                self._metrics.tap_lost.inc(len(batch))
                watcher.lost += len(batch)
                if sink not in self._failed:
                    self._failed.add(sink)
                    log.error("bug in the sink, its records can't be shown", sink=sink, exc_info=error)

    def close(self) -> None:
        """End all of them."""
        for watcher in self._watchers:
            watcher.end()
