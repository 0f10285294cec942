"""Latencies, estimated from the buckets of a histogram."""

from math import inf

import pytest

from btfeed.admin.latency import WINDOW, Latency, quantile


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        (0.5, [(1.0, 10.0), (2.0, 10.0), (inf, 10.0)], 0.5),
        (0.99, [(1.0, 0.0), (2.0, 100.0), (inf, 100.0)], 1.99),
        (0.5, [(1.0, 40.0), (2.0, 60.0), (inf, 100.0)], 1.5),
        (0.99, [(1.0, 40.0), (2.0, 60.0), (inf, 100.0)], 2.0),
        (0.5, [(1.0, 0.0), (inf, 3.0)], 1.0),
    ],
)
def test_a_quantile_lies_within_its_bucket(share: float, buckets: list[tuple[float, float]], expected: float) -> None:
    """As far as its rank; beyond the last bound it is that bound."""
    assert quantile(share, buckets) == pytest.approx(expected)


def test_only_what_was_delivered_in_the_window_counts() -> None:
    """A sink that delivers nothing has no latency, and neither has one that is not known."""
    latency = Latency()
    assert latency.shown("a") is None
    latency.add(0.0, {})
    latency.add(10.0, {"a": [(1.0, 10.0), (2.0, 10.0), (inf, 10.0)]})
    assert latency.shown("a") == {"p50_seconds": 0.5, "p99_seconds": 0.99, "batches": 10, "window_seconds": 10}
    assert latency.shown("b") is None
    latency.add(20.0, {"a": [(1.0, 10.0), (2.0, 14.0), (inf, 14.0)]})
    latency.add(10.0 + WINDOW, {"a": [(1.0, 10.0), (2.0, 14.0), (inf, 14.0)]})
    assert latency.shown("a") == {"p50_seconds": 1.5, "p99_seconds": 1.99, "batches": 4, "window_seconds": 300}
    latency.add(20.0 + WINDOW, {"a": [(1.0, 10.0), (2.0, 14.0), (inf, 14.0)]})
    assert latency.shown("a") is None
