"""Costs on a machine that changes its speed: each round is a ratio to a baseline that was measured around it.

A virtual machine may run at two speeds, for seconds at a time: the same parse costs 0.31 or 0.45 us. The best round of a
case and the best round of a baseline may then belong to different speeds. So the baseline is measured immediately before
and after each round; the round's figure is its ratio to their mean, and the figure of a case is the median of its rounds,
with the least and the most. The baseline is the CPU that upb needs to parse the same posts.

It does not matter whether another core is busy during the baseline: computing and copying there, switched on and off at
random 80 times, changed the median by 1 %, while the two speeds are 40 % apart.
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

MIN_BASELINE_CPU = 0.03
"""The least seconds of CPU of a round of the baseline."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of a quantity over several rounds."""

    median: float
    least: float
    most: float
    low: float  # a quarter of the rounds is below
    high: float  # a quarter is above
    rounds: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        low, median, high = statistics.quantiles([*values, *values][: max(2, len(values))], n=4, method="inclusive")
        return Spread(median, min(values), max(values), low, high, len(values))


@dataclass(frozen=True, slots=True)
class Round:
    """CPU microseconds per occurrence: of the case, and of the baseline around it."""

    cost: float
    baseline: float

    @property
    def ratio(self) -> float:
        return self.cost / self.baseline

    def sample(self) -> dict[str, float]:
        """The quantities that a result contains."""
        return {"cpu_us": self.cost, "parse_us": self.baseline, "x_parse": self.ratio}


class Baseline:
    """The CPU that upb needs to parse `bodies`. last: what `measure` returned last."""

    def __init__(self, bodies: Sequence[bytes], occurrences: int) -> None:
        self._bodies = bodies
        self._occurrences = occurrences
        self.measure()  # warms caches

    def measure(self) -> float:
        """CPU microseconds per occurrence, measured now."""
        turns, started = 0, time.process_time()
        while (spent := time.process_time() - started) < MIN_BASELINE_CPU:
            for body in self._bodies:
                BusinessTransactions.FromString(body)
            turns += 1
        self.last = spent / turns / self._occurrences * 1e6
        return self.last

    def round(self, cost: float, before: float) -> Round:
        """A round of this cost that has just ended; `before` was measured when it began."""
        return Round(cost, (before + self.measure()) / 2)


def cpu_seconds(pid: int) -> float:
    """CPU time of any process, with all its threads, also ended ones.

    The clock's id is that of clock_getcpuclockid(3), for which Python has no function.
    """
    return time.clock_gettime(~pid << 3 | 2)


def cpu_seconds_of_all(pids: Mapping[str, int]) -> dict[str, float]:
    return {name: cpu_seconds(pid) for name, pid in pids.items()}


def bytes_written(pid: int) -> int:
    """Bytes that the kernel wrote to disk for a process."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["write_bytes"])


def pin(core: int) -> None:
    """Keep this process on one core, if it has several. A negative number counts from the last one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core]})


def quiet() -> None:
    """Let sinks in this process log warnings only, to stderr."""
    made = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=made, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
