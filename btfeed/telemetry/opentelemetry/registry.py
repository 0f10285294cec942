"""The metrics of /metrics as OTLP has them: the same registry, the same names and labels."""

import math
import time
from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    DataPointT,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and labels."""


class RegistryReader:
    """Reads a registry as OTLP metrics. delta: counts since the last reading that was sent, not since the start."""

    def __init__(
        self, registry: CollectorRegistry, resource: Resource, scope: InstrumentationScope, *, delta: bool
    ) -> None:
        self._registry = registry
        self._resource = resource
        self._scope = scope
        self._temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
        self._delta = delta
        self._since = time.time_ns()  # what counts refer to
        self._sent: dict[Key, float] = {}  # the values that were sent last, if delta
        self._now = self._since
        self._read: dict[Key, float] = {}

    def read(self) -> MetricsData:
        """Everything that /metrics shows. With `delta`, call `sent` if it arrived: what did not is in the next reading."""
        self._now = time.time_ns()
        self._read = {}
        metrics = [metric for family in self._registry.collect() for metric in self._metrics(family)]
        return MetricsData(
            [ResourceMetrics(self._resource, [ScopeMetrics(self._scope, metrics, "")], self._resource.schema_url)]
        )

    def sent(self) -> None:
        """What was read last has arrived."""
        if self._delta:
            self._sent, self._since = self._read, self._now

    def _metrics(self, family: Family) -> Iterator[Metric]:
        if family.type == "histogram":
            points: list[Any] = list(self._histogram_points(family))
            yield Metric(family.name, family.documentation, "", Histogram(points, self._temporality))
            return
        by_name: dict[str, list[Sample]] = {}
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                by_name.setdefault(sample.name, []).append(sample)
        for name, samples in by_name.items():
            numbers = [self._number(sample, counts=family.type == "counter") for sample in samples]
            data = Sum(numbers, self._temporality, True) if family.type == "counter" else Gauge(numbers)
            yield Metric(name, family.documentation, "", data)

    def _number(self, sample: Sample, *, counts: bool) -> NumberDataPoint:
        value = self._counted(sample) if counts else sample.value
        return NumberDataPoint(sample.labels, self._since, self._now, value)

    def _histogram_points(self, family: Family) -> Iterator[DataPointT]:
        """One for each combination of labels: Prometheus has a sample for each bucket, which counts all lower ones too."""
        series: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
        for sample in family.samples:
            labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
            series.setdefault(labels, []).append(sample)
        for labels, samples in series.items():
            buckets = [(float(each.labels["le"]), self._counted(each)) for each in samples if "le" in each.labels]
            total = next(self._counted(each) for each in samples if each.name.endswith("_sum"))
            bounds = [bound for bound, _ in buckets if bound != math.inf]
            counts = [int(count) for _, count in buckets]
            separate = [count - lower for count, lower in zip(counts, [0, *counts], strict=False)]
            unknown: Any = None  # Prometheus keeps neither the lowest nor the highest value
            yield HistogramDataPoint(
                dict(labels), self._since, self._now, counts[-1], total, separate, bounds, unknown, unknown
            )

    def _counted(self, sample: Sample) -> float:
        key = (sample.name, tuple(sample.labels.items()))
        self._read[key] = sample.value
        return sample.value - self._sent.get(key, 0.0)
