"""The metrics of /metrics as OTLP has them."""

from typing import Any

from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, Metric, Sum
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.opentelemetry.registry import RegistryReader


def reader(registry: CollectorRegistry, *, delta: bool = False) -> RegistryReader:
    return RegistryReader(registry, Resource({}), InstrumentationScope("test"), delta=delta)


def read(of: RegistryReader) -> dict[str, Metric]:
    """By name, of which there is one each."""
    (resource,) = of.read().resource_metrics
    (scope,) = resource.scope_metrics
    named = {metric.name: metric for metric in scope.metrics}
    assert len(named) == len(scope.metrics)
    return named


def points(metric: Metric) -> list[Any]:
    return list(metric.data.data_points)


def test_each_sample_of_metrics_is_there_under_the_same_name_and_labels() -> None:
    """A histogram has its name without the endings of its samples."""
    metrics = Metrics()
    metrics.posts.inc(3)
    metrics.refused_posts.labels("bad_tls").inc(2)
    metrics.connections.set(7)
    metrics.ack_seconds.observe(0.02)
    found = read(reader(metrics.registry))  # those of the process are others at each look
    expected: dict[str, set[tuple[frozenset[tuple[str, str]], float]]] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            if family.type != "histogram" and not sample.name.startswith("process_"):
                expected.setdefault(sample.name, set()).add((frozenset(sample.labels.items()), sample.value))
    numbers = {
        name: {(frozenset(point.attributes.items()), point.value) for point in points(metric)}
        for name, metric in found.items()
        if not isinstance(metric.data, Histogram) and points(metric) and not name.startswith("process_")
    }
    assert numbers == expected
    assert numbers["btfeed_refused_posts_total"] == {(frozenset({("reason", "bad_tls")}), 2.0)}
    assert found["btfeed_posts_total"].description == "Posts accepted: made durable and answered with 200"
    assert "btfeed_ack_seconds" in found


def test_counters_are_monotonic_sums_and_gauges_are_gauges() -> None:
    """So that a backend knows what it may add up."""
    found = read(reader(Metrics().registry))
    posts, connections = found["btfeed_posts_total"].data, found["btfeed_connections"].data
    assert isinstance(posts, Sum)
    assert posts.is_monotonic
    assert posts.aggregation_temporality is AggregationTemporality.CUMULATIVE
    assert not isinstance(connections, Sum)


def test_a_bucket_counts_its_own_values_only() -> None:
    """In Prometheus it counts all lower ones, too."""
    metrics = Metrics()
    for seconds in (0.001, 0.002, 0.002, 60.0):
        metrics.ack_seconds.observe(seconds)
    (point,) = points(read(reader(metrics.registry))["btfeed_ack_seconds"])
    assert point.bucket_counts[:3] == [1, 2, 0]
    assert point.bucket_counts[-1] == 1
    assert (point.count, point.sum) == (4, 60.005)
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1


def test_a_histogram_with_labels_has_a_point_for_each() -> None:
    """For each combination of them."""
    metrics = Metrics()
    metrics.batch_seconds.labels("a").observe(1.0)
    metrics.batch_seconds.labels("b").observe(1.0)
    metrics.batch_seconds.labels("b").observe(1.0)
    found = points(read(reader(metrics.registry))["btfeed_sink_batch_seconds"])
    assert {point.attributes["sink"]: point.count for point in found} == {"a": 1, "b": 2}


def test_with_delta_counts_are_those_since_the_last_that_arrived() -> None:
    """What did not arrive is in the next reading."""
    metrics = Metrics()
    source = reader(metrics.registry, delta=True)

    def counted() -> tuple[float, int]:
        found = read(source)
        assert isinstance(found["btfeed_posts_total"].data, Sum)
        assert found["btfeed_posts_total"].data.aggregation_temporality is AggregationTemporality.DELTA
        return points(found["btfeed_posts_total"])[0].value, points(found["btfeed_ack_seconds"])[0].count

    metrics.posts.inc(3)
    metrics.ack_seconds.observe(1.0)
    assert counted() == (3, 1)
    source.sent()
    assert counted() == (0, 0)
    metrics.posts.inc(2)
    assert counted() == (2, 0)
    metrics.posts.inc(1)
    metrics.ack_seconds.observe(1.0)
    assert counted() == (3, 1)  # the last one was not sent
