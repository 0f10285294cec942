"""How long deliveries take, from the buckets of btfeed_sink_delivery_seconds: estimates, as Prometheus makes them."""

from collections import deque
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

WINDOW = 300.0
"""Seconds to which the figures refer."""

Buckets = Sequence[tuple[float, float]]
"""Upper bound in seconds -> how many batches took as long at most. The last bound is infinite."""


class Latency:
    """Of all sinks, over the last WINDOW seconds."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, Mapping[str, Buckets]]] = deque()

    def add(self, at: float, buckets: Mapping[str, Buckets]) -> None:
        """buckets: by sink, since the start. at: seconds of a clock that does not jump."""
        self._readings.append((at, buckets))
        while len(self._readings) > 1 and self._readings[1][0] <= at - WINDOW:
            self._readings.popleft()

    def shown(self, sink: str) -> dict[str, Any] | None:
        """None if nothing was delivered."""
        if not self._readings:
            return None
        (began, before), (ended, after) = self._readings[0], self._readings[-1]
        earlier = dict(before.get(sink, ()))
        found = [(bound, number - earlier.get(bound, 0.0)) for bound, number in after.get(sink, ())]
        if not found or found[-1][1] <= 0:
            return None
        return {
            "p50_seconds": round(quantile(0.5, found), 4),
            "p99_seconds": round(quantile(0.99, found), 4),
            "batches": int(found[-1][1]),
            "window_seconds": round(ended - began),
        }


def quantile(share: float, buckets: Buckets) -> float:
    """The time that `share` of the batches took at most, in seconds, as if they were spread evenly within a bucket. Beyond
    the last finite bound, that bound. There must be a batch."""
    rank = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for bound, number in buckets:
        if number >= rank and number > below:
            return lower if bound == inf else lower + (bound - lower) * (rank - below) / (number - below)
        lower, below = bound, number
    return lower
