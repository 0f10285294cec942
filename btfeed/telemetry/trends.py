"""What two or more answers of /status say together: rates, and how long the journal has room."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

from btfeed.telemetry.wording import duration, size

RATE_WINDOW = 10.0
"""Seconds over which rates are averaged."""
TREND_WINDOW = 60.0
"""Seconds over which the journal's trend is measured."""
MIN_TREND = 5.0
"""Seconds after which it is first known."""
STEADY = 1024.0
"""Bytes per second. A smaller change is none."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer. at: when it came, in seconds of any clock that does not jump."""

    at: float
    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class JournalTrend:
    """Where the journal is going.

    used         its share of max_size
    undelivered  bytes of posts that a sink has yet to finish. Delivered ones make room if necessary
    full_in      seconds until it is full at this rate; None if it does not grow
    empty_in     seconds until all is delivered; None if it does not shrink
    """

    used: float
    undelivered: float
    full_in: float | None = None
    empty_in: float | None = None

    def __str__(self) -> str:
        """In words."""
        text = f"{self.used:.0%} used, {size(self.undelivered)} undelivered"
        if self.full_in is not None:
            return f"{text}, full in {duration(self.full_in)} at this rate"
        if self.empty_in is not None:
            return f"{text}, emptying, delivered in {duration(self.empty_in)}"
        return text


class Trends:
    """The newest answers of one server. A restarted one begins anew."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        if self._samples and sample.status["uptime_seconds"] < self._samples[-1].status["uptime_seconds"]:
            self._samples.clear()
        self._samples.append(sample)
        while self._samples[0].at < sample.at - TREND_WINDOW:
            self._samples.popleft()

    @property
    def last(self) -> Sample | None:
        return self._samples[-1] if self._samples else None

    def rate(self, counted: Callable[[dict[str, Any]], float]) -> float | None:
        """How much a number of the status grows per second; None if that is not known yet."""
        return self._slope(counted, RATE_WINDOW) if self._samples else None

    def trend(self, measured: Callable[[dict[str, Any]], float]) -> float | None:
        """The same over a longer time, for what goes up and down."""
        return self._slope(measured, TREND_WINDOW, MIN_TREND) if self._samples else None

    def journal(self, counts: Mapping[str, Any] | None = None) -> JournalTrend | None:
        """Of the last sample, or of newer counts at its rate. None if there is no sample, or if an earlier server does not
        say how much room there is."""
        if not self._samples:
            return None
        counts = counts or self._samples[-1].status["counts"]
        limit, left = counts.get("journal_limit_bytes"), counts.get("journal_undelivered_bytes")
        if not limit or left is None:
            return None
        free, used = counts["journal_free_bytes"], counts["journal_bytes"]
        slope = self.trend(_undelivered)
        if slope is None or abs(slope) < STEADY:
            return JournalTrend(used / limit, left)
        if slope < 0:
            return JournalTrend(used / limit, left, empty_in=left / -slope)
        room = min(limit - left, free + used - left)  # delivered posts leave pages that are used again
        return JournalTrend(used / limit, left, full_in=max(0, room) / slope)

    def _slope(self, measured: Callable[[dict[str, Any]], float], window: float, shortest: float = 0.0) -> float | None:
        last = self._samples[-1]
        first = next(dropwhile(lambda sample: sample.at < last.at - window, self._samples))
        seconds = last.at - first.at
        if not seconds or seconds < shortest:
            return None
        return (measured(last.status) - measured(first.status)) / seconds


def received_posts(status: Mapping[str, Any]) -> int:
    """Posts that were received, see Trends.rate. So are the next ones."""
    return int(status["counts"]["posts"])


def received_occurrences(status: Mapping[str, Any]) -> int:
    return int(status["counts"]["received_occurrences"])


def refused_posts(status: Mapping[str, Any]) -> int:
    return sum(status["counts"]["refused_posts"].values())


def delivered_records(status: Mapping[str, Any], sink: str) -> int:
    """Records; 0 if there was no such sink yet."""
    return int(status["sinks"].get(sink, {}).get("delivered", 0))


def _undelivered(status: dict[str, Any]) -> float:
    return float(status["counts"]["journal_undelivered_bytes"])
