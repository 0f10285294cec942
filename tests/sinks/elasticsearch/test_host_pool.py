"""Hosts that have failed are passed over for a while, whatever the system's clock shows."""

import time

import pytest
import structlog
from elastic_transport import AiohttpHttpNode, NodeConfig
from structlog.testing import capture_logs

from sinks.base import SinkContext, Unavailable
from sinks.elasticsearch.client import connect
from sinks.elasticsearch.hosts import WARNING_INTERVAL, HostLog, HostPool
from sinks.elasticsearch.settings import ElasticsearchSettings
from sinks.elasticsearch.sink import ElasticsearchSink
from tests.support.clock import FakeClock


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


async def test_a_host_that_fails_is_logged_under_the_name_of_the_sink() -> None:
    """The first failure at once, then a sum every minute, and when it is back. A host that always worked is not logged."""
    clock = FakeClock()
    pool = HostPool([NodeConfig("http", name, 9200) for name in ("a", "b")], AiohttpHttpNode)
    node, other = pool.all()
    with capture_logs() as logged:
        pool.log = HostLog(structlog.get_logger().bind(sink="search"), clock)
        for _ in range(3):
            pool.mark_dead(node)
        await clock.advance(WARNING_INTERVAL)
        pool.mark_dead(node)
        pool.mark_live(other)
        pool.mark_live(node)
        pool.mark_live(node)
    url = f"http://{node.host}:9200"
    assert [(line["log_level"], line["event"], line["sink"], line["host"], line.get("count")) for line in logged] == [
        ("warning", "host unavailable, others are asked", "search", url, 1),
        ("warning", "host unavailable, others are asked", "search", url, 3),
        ("info", "host available again", "search", url, None),
    ]


@pytest.mark.parametrize("hosts", [["http://127.0.0.1:1"], ["http://127.0.0.1:1", "http://127.0.0.1:2"]])
async def test_the_client_itself_logs_nothing(hosts: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """The delivery loop tells that the only host is down, so only one of several is logged."""
    with capture_logs() as logged:
        sink = ElasticsearchSink(ElasticsearchSettings(hosts=hosts), SinkContext("search", (), ()))
        with pytest.raises(Unavailable):
            await sink.check()
        await sink.close()
    assert caplog.records == []
    assert [line["event"] for line in logged] == ["host unavailable, others are asked"] * len(hosts[1:]) * 2
