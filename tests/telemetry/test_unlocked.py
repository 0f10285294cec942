"""Metrics of the event loop look like those of prometheus_client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.openmetrics import exposition

from btfeed.telemetry.factory import ACK, Factory

disable_created_metrics()  # type: ignore[no-untyped-call]  # as btfeed.telemetry.metrics does


@given(st.lists(st.integers(0, 10**6)), st.lists(st.one_of(st.sampled_from(ACK), st.floats(0, 100))))
def test_they_are_shown_in_the_same_way(amounts: list[int], observed: list[float]) -> None:
    """In both formats that Prometheus reads. A bucket contains its upper bound."""
    known, registry = CollectorRegistry(), CollectorRegistry()
    create = Factory(registry)
    counter = Counter("btfeed_posts", "Posts.", registry=known)
    histogram = Histogram("btfeed_seconds", "Seconds.", buckets=ACK, registry=known)
    unlocked_counter = create.unlocked_counter("posts", "Posts.")
    unlocked_histogram = create.unlocked_histogram("seconds", "Seconds.", ACK)
    for amount in amounts:
        counter.inc(amount)
        unlocked_counter.inc(amount)
    for seconds in observed:
        histogram.observe(seconds)
        unlocked_histogram.observe(seconds)
    assert generate_latest(registry) == generate_latest(known)
    in_openmetrics = exposition.generate_latest(registry)  # type: ignore[no-untyped-call]
    assert in_openmetrics == exposition.generate_latest(known)  # type: ignore[no-untyped-call]


def test_the_registry_knows_their_names() -> None:
    """So that a name is taken once, and a request for some metrics finds them."""
    registry = CollectorRegistry()
    create = Factory(registry)
    create.unlocked_counter("bytes", "Bytes.").inc(5)
    create.unlocked_histogram("seconds", "Seconds.", ACK).observe(1.0)
    found = generate_latest(registry.restricted_registry(["btfeed_bytes_total", "btfeed_seconds_sum"])).decode()
    assert "btfeed_bytes_total 5.0" in found
    assert "btfeed_seconds_sum 1.0" in found
    create.counter("posts", "Posts.")
    with pytest.raises(ValueError, match="btfeed_posts"):
        create.unlocked_counter("posts", "Posts.")
