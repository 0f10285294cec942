"""`btfeed serve` with a Kafka sink, at real brokers that stop, die and come back, and killed itself: nothing is lost, and
what is there twice was counted as unknown.

BTFEED_KILL_SEED takes the seed that a failing run printed.
"""

import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from confluent_kafka import Message
from confluent_kafka.admin import PartitionMetadata

from btfeed.posts.post import digest, event_id_prefix
from tests.servers.kafka import Kafka
from tests.sinks.drivers.kafka import headers, new_topic, read_topic
from tests.support.harness import Server, until
from tests.support.posts import mixed

pytestmark = pytest.mark.kafka
OCCURRENCES = 20
RECORDS = 50
PARTITIONS = 6
KILLS = 6


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Three brokers that notice soon when one is gone."""
    settings = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "300"}
    with Kafka(tmp_path_factory.mktemp("cluster") / "kafka", brokers=3, settings=settings) as running:
        yield running


class MappedPosts:
    """A server with the one sink `kafka`, and what was posted to it: ids in their order."""

    def __init__(self, directory: Path, kafka: Kafka, topic: str, *, request_timeout: str, timeout: str) -> None:
        self.kafka = kafka
        self.topic = topic
        self.ids: list[str] = []
        self._seeds = count()
        self.server = Server(
            directory,
            f'[sinks.kafka.sink]\ntype = "kafka"\nbootstrap_servers = "{kafka.bootstrap}"\ntopic = "{topic}"\n'
            f'request_timeout = "{request_timeout}"\ntimeout = "{timeout}"\n[sinks.kafka.sink.delivery]\n'
            f'max_records = {RECORDS}\nlinger = "20ms"\nretry_initial = "20ms"\nretry_max = "200ms"\n',
        )

    def post(self, posts: int) -> None:
        """One after the other, each answered."""
        for seed in (next(self._seeds) for _ in range(posts)):
            body = mixed(OCCURRENCES, seed)
            assert self.server.post(body)[0] == 200
            self.ids += [f"{event_id_prefix(digest(body))}{ordinal}" for ordinal in range(OCCURRENCES)]

    def done(self) -> None:
        until(lambda: self.server.status()["sinks"]["kafka"]["backlog_posts"] == 0, "everything delivered", 90)

    def state(self) -> str:
        return str(self.server.status()["sinks"]["kafka"]["state"])

    def unknown(self) -> float:
        lines = self.server.get("/metrics").splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("btfeed_sink_unknown_total{"))

    def check(self) -> int:
        """Every record is there, as it was, in each partition in the order of the feed. How many are there too often."""
        messages = read_topic(self.kafka, self.topic)
        place = {event_id: number for number, event_id in enumerate(self.ids)}
        seen: Counter[str] = Counter()
        found: dict[str, set[bytes]] = defaultdict(set)
        last: dict[int, int] = {}
        for message in messages:
            event_id = headers(message)["ce_id"].decode()
            found[event_id].add(message.value() or b"")
            seen[event_id] += 1
            if seen[event_id] == 1:
                partition = _partition(message)
                assert last.get(partition, -1) < place[event_id], "out of order"
                last[partition] = place[event_id]
        assert set(seen) == set(self.ids)
        assert all(len(versions) == 1 for versions in found.values())
        return seen.total() - len(seen)


def _partition(message: Message) -> int:
    number = message.partition()
    assert number is not None
    return number


def test_a_broker_that_stops_for_longer_than_a_request_costs_nothing(kafka: Kafka, tmp_path: Path) -> None:
    """SIGSTOP, requests time out, and are sent again under their numbers: each record is there once."""
    topic = kafka.make_topic(new_topic(), PARTITIONS)
    feed = MappedPosts(tmp_path, kafka, topic, request_timeout="500ms", timeout="30s")
    with feed.server:
        feed.post(20)
        feed.done()
        kafka.nodes[0].pause()
        try:
            feed.post(10)
            stopped = time.monotonic()
            delivered = feed.server.status()["sinks"]["kafka"]["delivered"]
            until(lambda: time.monotonic() > stopped + 2, "four requests timed out")
            assert feed.server.status()["sinks"]["kafka"]["delivered"] == delivered < len(feed.ids)
        finally:
            kafka.nodes[0].resume()
        feed.post(10)
        feed.done()
        assert feed.unknown() == 0
    assert feed.check() == 0


def test_a_broker_that_stops_for_long_is_unavailable(kafka: Kafka, tmp_path: Path) -> None:
    """SIGSTOP until the producer is given up, twice: that is told, and nothing is lost; what doubled was counted."""
    topic = kafka.make_topic(new_topic(), PARTITIONS)
    feed = MappedPosts(tmp_path, kafka, topic, request_timeout="300ms", timeout="1s")
    with feed.server:
        for _ in range(2):
            feed.post(20)
            kafka.nodes[0].pause()
            try:
                feed.post(20)
                until(lambda: feed.state() == "unavailable", "unavailable")
            finally:
                kafka.nodes[0].resume()
        feed.done()
        unknown = feed.unknown()
        assert feed.state() == "running"
    doubled = feed.check()
    sys.stdout.write(f"{len(feed.ids)} records, {unknown:g} unknown, {doubled} doubled\n")
    assert doubled <= unknown
    assert unknown > 0


def test_kill_9_loses_nothing(kafka: Kafka, tmp_path: Path) -> None:
    """Killed at random moments under load: twice is at most what was in flight at a kill."""
    seed = int(os.environ.get("BTFEED_KILL_SEED") or time.time_ns() % 1_000_000)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    topic = kafka.make_topic(new_topic(), PARTITIONS)
    feed = MappedPosts(tmp_path, kafka, topic, request_timeout="10s", timeout="30s")
    behind = []
    for _ in range(KILLS):
        feed.server.start()
        feed.post(30)
        wanted = rng.randrange(1, 30 * OCCURRENCES)
        until(lambda wanted=wanted: feed.server.status()["sinks"]["kafka"]["delivered"] >= wanted, "under way")  # type: ignore[misc]
        feed.post(rng.randrange(1, 5))
        feed.server.kill()
        behind.append(len(feed.ids) - len({headers(message)["ce_id"] for message in read_topic(kafka, topic)}))
    feed.server.start()
    feed.done()
    assert feed.server.stop() == 0
    doubled = feed.check()
    sys.stdout.write(f"{len(feed.ids)} records, {doubled} doubled over {KILLS} kills, behind {behind}\n")
    assert doubled <= KILLS * 2 * RECORDS
    assert max(behind) > 0, "no kill came between an answer and its delivery"


def test_the_leader_dies_and_the_others_go_on(cluster: Kafka, tmp_path: Path) -> None:
    """kill -9 of the one that leads most, under load: the next one takes over, and nothing is lost."""
    topic = cluster.make_topic(new_topic(), PARTITIONS, 3, min_insync_replicas="2")
    feed = MappedPosts(tmp_path, cluster, topic, request_timeout="2s", timeout="30s")
    before = {number: partition.leader for number, partition in cluster.partitions(topic).items()}
    ((leader, led),) = Counter(before.values()).most_common(1)
    with feed.server:
        feed.post(30)
        cluster.nodes[leader - 1].kill()
        feed.post(60)
        feed.done()
        feed.post(5)
        feed.done()
        unknown = feed.unknown()
        after = {number: partition.leader for number, partition in cluster.partitions(topic).items()}
    assert led > 0
    assert leader not in after.values()
    doubled = feed.check()
    sys.stdout.write(f"broker {leader} led {led}; {len(feed.ids)} records, {unknown:g} unknown, {doubled} doubled\n")
    assert doubled <= unknown
    cluster.nodes[leader - 1].start()
    cluster.nodes[leader - 1].wait()
    _in_sync(cluster, topic)


def test_too_few_replicas_are_waited_for(cluster: Kafka, tmp_path: Path) -> None:
    """One broker stopped where all three must have a record: unavailable, with the reason, until it is back."""
    topic = cluster.make_topic(new_topic(), PARTITIONS, 3, min_insync_replicas="3")
    feed = MappedPosts(tmp_path, cluster, topic, request_timeout="1s", timeout="6s")
    with feed.server:
        feed.post(5)
        feed.done()
        cluster.nodes[2].pause()
        try:
            until(lambda: all(len(one.isrs) == 2 for one in cluster.partitions(topic).values()), "out of sync", 60)
            feed.post(5)
            until(lambda: feed.state() == "unavailable", "unavailable", 60)
            assert "2 of its 3 replicas are in sync" in feed.server.status()["sinks"]["kafka"]["last_error"]
        finally:
            cluster.nodes[2].resume()
        feed.done()
        unknown = feed.unknown()
    assert feed.check() <= unknown


def test_a_partition_without_a_leader_waits_alone(cluster: Kafka, tmp_path: Path) -> None:
    """The only replica is on a broker that is gone for longer than a request: the others take theirs meanwhile, the
    producer is made anew, and when the broker is back nothing is lost."""
    topic = cluster.make_topic(new_topic(), PARTITIONS, 1)
    feed = MappedPosts(tmp_path, cluster, topic, request_timeout="1s", timeout="10s")
    ((leader, led),) = Counter(one.leader for one in cluster.partitions(topic).values()).most_common(1)
    broker = cluster.nodes[leader - 1]
    with feed.server:
        feed.post(5)
        feed.done()
        broker.kill()
        feed.post(5)
        until(lambda: feed.state() == "unavailable", "unavailable", 60)
        begun = feed.server.status()["sinks"]["kafka"]["delivered"]
        assert 5 * OCCURRENCES < begun < 10 * OCCURRENCES, "either all waited or none"
        broker.start()
        broker.wait()
        feed.done()
        unknown = feed.unknown()
    doubled = feed.check()
    sys.stdout.write(f"broker {leader} led {led}; {len(feed.ids)} records, {unknown:g} unknown, {doubled} doubled\n")
    assert doubled <= unknown
    _in_sync(cluster, topic)


def _in_sync(cluster: Kafka, topic: str) -> None:
    until(lambda: all(one.isrs == one.replicas for one in _partitions(cluster, topic)), "all in sync", 60)


def _partitions(cluster: Kafka, topic: str) -> list[PartitionMetadata]:
    """With the replicas in one order."""
    found = list(cluster.partitions(topic).values())
    for one in found:
        one.isrs, one.replicas = sorted(one.isrs), sorted(one.replicas)
    return found
