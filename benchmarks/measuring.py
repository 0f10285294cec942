"""Costs on a machine that changes its speed: each beside its own baseline, as a ratio, round by round.

A virtual machine may run at two speeds for seconds at a time: the same parse costs 0.31 or 0.45 us. The best round of a
case and the best round of its baseline then tell of two machines. So each round of a case stands between two rounds of the
baseline, immediately before and after it; the round's figure is its ratio to their mean, and the figure of the case is the
median of its rounds, with the least and the most of them beside it. The baseline is what upb takes merely to parse the same
posts.

The baseline runs with the other cores as they are. It was tried whether it matters that another core is busy: computing and
copying there, switched on and off at random 80 times, changed the median by 1 %, where the two speeds are 40 % apart.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from btfeed.bt_pb2 import BusinessTransactions

LEAST = 0.05
"""Seconds of CPU that a round of the baseline takes at least."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds gave."""

    median: float
    least: float
    most: float
    rounds: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        return Spread(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Round:
    """CPU microseconds an occurrence: of the case, and of the baseline around it."""

    cost: float
    baseline: float

    @property
    def ratio(self) -> float:
        return self.cost / self.baseline


class Baseline:
    """What upb takes to parse `bodies`, which hold so many occurrences."""

    def __init__(self, bodies: Sequence[bytes], occurrences: int) -> None:
        self._bodies = bodies
        self._occurrences = occurrences
        self.measure()  # the first one warms caches

    def measure(self) -> float:
        """CPU microseconds an occurrence, now."""
        turns, started = 0, time.process_time()
        while (spent := time.process_time() - started) < LEAST:
            for body in self._bodies:
                BusinessTransactions.FromString(body)
            turns += 1
        return spent / turns / self._occurrences * 1e6

    def round(self, cost: float, before: float) -> Round:
        """The round that cost so much and has just ended; `before` was measured when it began."""
        return Round(cost, (before + self.measure()) / 2)


def cpu_seconds(pid: int) -> float:
    """CPU that a process of ours or another has had, its threads included, those that ended too.

    The id of the clock is the one that clock_getcpuclockid(3) gives; Python has no function for it.
    """
    return time.clock_gettime(~pid << 3 | 2)
