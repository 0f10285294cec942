"""Far ends that are real servers, the ones that tests use. Each is started once and kept."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.far_end import FarEnd
from benchmarks.measuring import cpu_seconds
from benchmarks.workshop import Workshop
from tests.servers.elasticsearch import NINE, Elasticsearch
from tests.servers.kafka import Kafka

JVM = ("-Xms1g", "-Xmx1g", "-Djava.io.tmpdir=${ES_TMPDIR}")


def broker(workshop: Workshop) -> Kafka:
    kept: Kafka = workshop.kept("kafka", lambda: Kafka(workshop.directory() / "kafka"))
    return kept


@contextmanager
def kafka(workshop: Workshop) -> Iterator[FarEnd]:
    """A topic of one partition, on one broker."""
    server = broker(workshop)
    topic = f"bench{workshop.directory().name}"
    table = {"type": "kafka", "bootstrap_servers": server.bootstrap, "topic": topic, "create_topics": True, "partitions": 1}
    (node,) = server.nodes
    assert node.process

    def log() -> int:
        return sum(path.stat().st_size for path in node.directory.glob(f"data/{topic}-0/*.log"))

    def count() -> int:
        return asyncio.run(messages(server.bootstrap, topic, 1))

    yield FarEnd({"kafka": table}, count, log, {"Kafka": node.process.pid})


async def messages(bootstrap: str, topic: str, partitions: int) -> int:
    """How many messages a topic has."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        if topic not in await consumer.topics():
            return 0
        ends = await consumer.end_offsets([TopicPartition(topic, number) for number in range(partitions)])
        return sum(ends.values())
    finally:
        await consumer.stop()


def node(workshop: Workshop) -> Elasticsearch:
    kept: Elasticsearch = workshop.kept("elasticsearch", _node)
    return kept


@contextmanager
def elasticsearch(workshop: Workshop) -> Iterator[FarEnd]:
    """An index of one shard, on one node."""
    server = node(workshop)
    index = f"bench{workshop.directory().name}"
    table = {"type": "elasticsearch", "hosts": [server.url], "index": index}

    def count() -> int:
        return documents(server, index)

    def taken() -> int:
        _, answer = server.ask("GET", f"/{index}/_stats/indexing")
        primaries = answer.get("_all", {}).get("primaries", {})  # empty if the index does not exist yet
        return int(primaries.get("indexing", {}).get("index_total", 0))

    yield FarEnd({"elasticsearch": table}, count, taken, {"Elasticsearch": _java(server)})
    forget(server, index)


@contextmanager
def _node() -> Iterator[Elasticsearch]:
    server = Elasticsearch(NINE, jvm=JVM)
    try:
        yield server.start()
    finally:
        server.remove()


def documents(server: Elasticsearch, index: str) -> int:
    """How many documents an index has; 0 if it does not exist."""
    server.ask("POST", f"/{index}/_refresh")
    status, answer = server.ask("GET", f"/{index}/_count")
    return int(answer["count"]) if status == 200 else 0


def forget(server: Elasticsearch, index: str) -> None:
    """Delete an index, and the sink's template for it."""
    server.ask("DELETE", f"/{index}")
    server.ask("DELETE", f"/_index_template/btfeed-{index}")


def _java(server: Elasticsearch) -> int:
    """The server's process: the one with the most CPU time among the descendants of the first one."""
    assert server.process
    return max(_descendants(server.process.pid), key=cpu_seconds)


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from _descendants(int(child))
