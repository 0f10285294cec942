"""Hosts that have failed are passed over for a while, whatever the system's clock shows."""

import time

import pytest
from elastic_transport import AiohttpHttpNode, NodeConfig

from sinks.elasticsearch.client import connect
from sinks.elasticsearch.hosts import HostPool
from sinks.elasticsearch.settings import ElasticsearchSettings


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Both clocks, which the test sets."""
    clocks = {"monotonic": 1000.0, "time": 1_800_000_000.0}
    for name in clocks:
        monkeypatch.setattr(time, name, lambda name=name: clocks[name])
    return clocks


@pytest.mark.parametrize("change", [-86_400.0, 0.0, 86_400.0])
def test_a_host_that_failed_is_tried_again_in_time(now: dict[str, float], change: float) -> None:
    """After a second, not sooner and not later, even if the system's clock is set meanwhile."""
    pool = HostPool([NodeConfig("http", name, 9200) for name in ("a", "b")], AiohttpHttpNode)
    failed = pool.get()
    pool.mark_dead(failed)
    now["time"] += change
    now["monotonic"] += 0.9
    assert failed not in [pool.get() for _ in range(4)]
    now["monotonic"] += 0.1
    assert failed in [pool.get() for _ in range(4)]


def test_the_last_host_is_asked_even_if_it_failed(now: dict[str, float]) -> None:
    """Rather than none."""
    pool = HostPool([NodeConfig("http", name, 9200) for name in ("a", "b")], AiohttpHttpNode)
    for node in pool.all():
        pool.mark_dead(node)
    assert pool.get() in pool.all()


async def test_the_sink_uses_it() -> None:
    """In its client."""
    client = connect(ElasticsearchSettings(hosts=["http://localhost:9200"]))
    assert isinstance(client.transport.node_pool, HostPool)
    await client.close()
