"""Costs on a machine that changes its speed: each beside its own baseline, as a ratio, round by round.

A virtual machine may run at two speeds for seconds at a time: the same parse costs 0.31 or 0.45 us. The best round of a
case and the best round of its baseline then tell of two machines. So each round of a case stands between two rounds of the
baseline, immediately before and after it; the round's figure is its ratio to their mean, and the figure of the case is the
median of its rounds, with the least and the most of them beside it. The baseline is what upb takes merely to parse the same
posts.

The baseline runs with the other cores as they are. It was tried whether it matters that another core is busy: computing and
copying there, switched on and off at random 80 times, changed the median by 1 %, where the two speeds are 40 % apart.
"""

import logging
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from btfeed.posts.bt_pb2 import BusinessTransactions

LEAST = 0.03
"""Seconds of CPU that a round of the baseline takes at least."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds gave."""

    median: float
    least: float
    most: float
    low: float  # a quarter of the rounds gave less
    high: float  # a quarter gave more
    rounds: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        low, median, high = statistics.quantiles([*values, *values][: max(2, len(values))], n=4, method="inclusive")
        return Spread(median, min(values), max(values), low, high, len(values))


@dataclass(frozen=True, slots=True)
class Round:
    """CPU microseconds an occurrence: of the case, and of the baseline around it."""

    cost: float
    baseline: float

    @property
    def ratio(self) -> float:
        return self.cost / self.baseline

    def sample(self) -> dict[str, float]:
        """As it stands in a result."""
        return {"cpu_us": self.cost, "parse_us": self.baseline, "x_parse": self.ratio}


class Baseline:
    """What upb takes to parse `bodies`, which hold so many occurrences. last: what `measure` gave the last time."""

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
        self.last = spent / turns / self._occurrences * 1e6
        return self.last

    def round(self, cost: float, before: float) -> Round:
        """The round that cost so much and has just ended; `before` was measured when it began."""
        return Round(cost, (before + self.measure()) / 2)


def cpu_seconds(pid: int) -> float:
    """CPU that a process of ours or another has had, its threads included, those that ended too.

    The id of the clock is the one that clock_getcpuclockid(3) gives; Python has no function for it.
    """
    return time.clock_gettime(~pid << 3 | 2)


def cpu_seconds_of_all(pids: Mapping[str, int]) -> dict[str, float]:
    return {name: cpu_seconds(pid) for name, pid in pids.items()}


def bytes_written(pid: int) -> int:
    """What a process has caused to be written to disk."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["write_bytes"])


def pin(core: int) -> None:
    """Keep this process on one core, counted from the end where negative, if there are two to choose from."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core]})


def quiet() -> None:
    """Sinks that run in this process say only what is wrong, and not on standard output."""
    made = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=made, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
