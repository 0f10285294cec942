"""Creates metrics in one registry, with names that begin with `btfeed_`."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from btfeed.telemetry.unlocked import UnlockedCounter, UnlockedHistogram

ACK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Buckets in seconds of what an answer waits for."""


class Factory:
    """Creates metrics named btfeed_... in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"btfeed_{name}", text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"btfeed_{name}", text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(f"btfeed_{name}", text, labels, buckets=buckets, registry=self._registry)

    def unlocked_counter(self, name: str, text: str) -> UnlockedCounter:
        return UnlockedCounter(f"btfeed_{name}", text, self._registry)

    def unlocked_histogram(self, name: str, text: str, buckets: Sequence[float]) -> UnlockedHistogram:
        return UnlockedHistogram(f"btfeed_{name}", text, buckets, self._registry)
