"""Metrics that change with each post, without locks: only the event loop may change them.

Those of prometheus_client take a lock for each change, look for labels, and go through their buckets one by one, which cost
a small post a twentieth of its CPU.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class _Unlocked(Collector):
    def describe(self) -> Iterable[Metric]:
        """What the registry learns its names from."""
        return self.collect()


class UnlockedCounter(_Unlocked):
    """A counter without labels."""

    def __init__(self, name: str, text: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._value = 0
        registry.register(self)

    def inc(self, amount: int = 1) -> None:
        self._value += amount

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._text, self._value)


class UnlockedHistogram(_Unlocked):
    """A histogram without labels. buckets: their upper bounds, ascending."""

    def __init__(self, name: str, text: str, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._bounds = (*buckets, inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        registry.register(self)

    def observe(self, amount: float) -> None:
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._sum += amount

    def collect(self) -> Iterable[Metric]:
        buckets = zip(map(floatToGoString, self._bounds), accumulate(self._counts), strict=True)
        yield HistogramMetricFamily(self._name, self._text, list(buckets), self._sum)
