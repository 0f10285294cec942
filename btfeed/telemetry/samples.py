"""Reads back what a metric has counted."""

from collections.abc import Iterator, Mapping

from prometheus_client.registry import Collector
from prometheus_client.samples import Sample


def by_label(metric: Collector, label: str = "", where: Mapping[str, str] = {}) -> dict[str, int]:
    """Value of a label, by default the first -> the sum of the samples with the labels `where`."""
    found: dict[str, int] = {}
    for sample in samples(metric, where):
        value = sample.labels[label or next(iter(sample.labels))]
        found[value] = found.get(value, 0) + int(sample.value)
    return found


def total(metric: Collector, where: Mapping[str, str] = {}) -> int:
    """The sum of the samples with the labels `where`."""
    return int(sum(sample.value for sample in samples(metric, where)))


def samples(metric: Collector, where: Mapping[str, str]) -> Iterator[Sample]:
    """Those with the labels `where`."""
    samples = (sample for family in metric.collect() for sample in family.samples)
    return (sample for sample in samples if where.items() <= sample.labels.items())
