"""What the charts show: rates and levels of the last 15 minutes and 24 hours, in rings of fixed length.

They are filled from a few counters, every INTERVAL seconds, whether somebody looks or not. They live in memory: after a
restart they are empty. Points are placed by a clock that does not jump; where there was no reading, because the process was
stopped or its event loop busy, a point is missing (null).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from btfeed.admin.answers import rounded
from btfeed.telemetry.trends import Sample, delivered_records, received_occurrences, received_posts, refused_posts
from sinks.shared.clock import Clock

INTERVAL = 5.0
"""Seconds between readings."""
PERIODS = {"15m": (INTERVAL, 180), "24h": (300.0, 288)}
"""Name -> seconds between points, and how many there are."""


@dataclass(frozen=True, slots=True)
class Point:
    """Between two readings: rates per second and, at the second one, levels.

    journal  share of its room that is used, None if not known
    sinks    by name: records delivered per second, and posts behind, None if not known
    """

    posts: float
    occurrences: float
    refused: float
    journal: float | None
    sinks: dict[str, tuple[float, int | None]] = field(default_factory=dict)


class Ring:
    """The newest `points` points, `step` seconds apart."""

    def __init__(self, step: float, points: int) -> None:
        self.step = step
        self.length = points
        self.points: deque[Point | None] = deque(maxlen=points)
        self._first: Sample | None = None  # where the next point begins

    def add(self, sample: Sample) -> bool:
        """Returns whether there is a new point."""
        first = self._first
        if first is None:
            self._first = sample
            return False
        steps = int((sample.at - first.at + INTERVAL / 2) / self.step)
        if steps < 1:
            return False
        self.points.extend([None] * min(steps - 1, self.length))
        self.points.append(_point(first, sample))
        self._first = sample
        return True

    def shown(self, end: int, sinks: list[str]) -> dict[str, Any]:
        """The series, the oldest value first. end: the time of the newest point, in milliseconds since the epoch."""
        missing = [None] * (self.length - len(self.points))

        def series(value: Callable[[Point], float | None]) -> list[float | None]:
            return missing + [rounded(value(point)) if point else None for point in self.points]

        return {
            "step_seconds": self.step,
            "points": self.length,
            "end": end,
            "posts": series(lambda point: point.posts),
            "occurrences": series(lambda point: point.occurrences),
            "refused": series(lambda point: point.refused),
            "journal": series(lambda point: point.journal),
            "sinks": {
                name: {
                    "delivered": series(lambda point, name=name: point.sinks.get(name, (None, None))[0]),  # type: ignore[misc]
                    "backlog": series(lambda point, name=name: point.sinks.get(name, (None, None))[1]),  # type: ignore[misc]
                }
                for name in sinks
            },
        }


class History:
    """All rings of one server. version: grows with each new point."""

    def __init__(self, clock: Clock) -> None:
        self.version = 0
        self._clock = clock
        self._rings = {name: Ring(*period) for name, period in PERIODS.items()}
        self._since = round(clock.time() * 1000)
        self._last: Sample | None = None

    def add(self, sample: Sample) -> None:
        self._last = sample
        added = [ring.add(sample) for ring in self._rings.values()]
        if any(added):
            self.version += 1

    def shown(self) -> dict[str, Any]:
        """What /history answers. Sinks are those of the last reading."""
        last = self._last
        now = self._clock.time()
        end = round((now - (self._clock.monotonic() - last.at if last else 0)) * 1000)
        sinks = list(last.status["sinks"]) if last else []
        return {"since": self._since} | {name: ring.shown(end, sinks) for name, ring in self._rings.items()}


def _point(first: Sample, last: Sample) -> Point:
    seconds = last.at - first.at
    before, after = first.status, last.status

    def rate(counted: Callable[[dict[str, Any]], float]) -> float:
        return max(0.0, counted(after) - counted(before)) / seconds

    limit = after["counts"]["journal_limit_bytes"]
    return Point(
        rate(received_posts),
        rate(received_occurrences),
        rate(refused_posts),
        after["counts"]["journal_bytes"] / limit if limit else None,
        {
            name: (max(0.0, sink["delivered"] - delivered_records(before, name)) / seconds, sink["backlog_posts"])
            for name, sink in after["sinks"].items()
        },
    )
