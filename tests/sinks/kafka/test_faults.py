"""`btfeed serve` with a Kafka sink, while brokers stop, die and return, and while btfeed is killed: no record is lost, and
duplicates were counted as unknown.

BTFEED_KILL_SEED repeats a run with the seed that it printed.
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
from tests.support.fakes import mapped
from tests.support.harness import Server, rounds, until
from tests.support.posts import mixed

pytestmark = pytest.mark.kafka
OCCURRENCES = 20
RECORDS = 50
PARTITIONS = 6
KILLS = 6


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Three brokers that quickly notice when one is gone, and create no topics by themselves."""
    settings = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "300"}
    settings["auto.create.topics.enable"] = "false"
    with Kafka(tmp_path_factory.mktemp("cluster") / "kafka", brokers=3, settings=settings) as running:
        yield running


class KafkaRun:
    """A server with one sink `kafka`, and the ids of all records in the posts that it got, in order."""

    def __init__(self, directory: Path, kafka: Kafka, topic: str, *, request_timeout: str, timeout: str) -> None:
        self.kafka = kafka
        self.topic = topic
        self.ids: list[str] = []
        self._seeds = count()
        self.server = Server(
            directory,
            f'[sinks.kafka]\ntype = "kafka"\nbootstrap_servers = "{kafka.bootstrap}"\ntopic = "{topic}"\n'
            f'request_timeout = "{request_timeout}"\ntimeout = "{timeout}"\n[sinks.kafka.delivery]\n'
            f'max_records = {RECORDS}\nlinger = "20ms"\nretry_initial = "20ms"\nretry_max = "200ms"\n',
        )

    def post(self, posts: int) -> None:
        """Send posts one after the other, each acknowledged."""
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
        """Check that every record is there, unchanged and in order in its partition. Returns the number of duplicates."""
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


def _abandoned(port: int) -> int:
    """How many connections to this port its clients have closed, and the stopped broker has not: one for each timeout."""
    close_wait, local = "08", f":{port:04X}"
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return sum(fields[1].endswith(local) and fields[3] == close_wait for fields in lines)


def test_a_broker_that_stops_for_longer_than_a_request_costs_nothing(kafka: Kafka, tmp_path: Path) -> None:
    """SIGSTOP: requests time out and are sent again with their sequence numbers. Each record is there once."""
    topic = kafka.make_topic(new_topic(), PARTITIONS)
    run = KafkaRun(tmp_path, kafka, topic, request_timeout="500ms", timeout="30s")
    with run.server:
        run.post(20)
        run.done()
        kafka.nodes[0].pause()
        try:
            run.post(10)
            delivered = run.server.status()["sinks"]["kafka"]["delivered"]
            until(lambda: _abandoned(kafka.nodes[0].port) >= 4, "four requests timed out")
            assert run.server.status()["sinks"]["kafka"]["delivered"] == delivered < len(run.ids)
        finally:
            kafka.nodes[0].resume()
        run.post(10)
        run.done()
        assert run.unknown() == 0
    assert run.check() == 0


def test_a_broker_that_stops_for_long_is_unavailable(kafka: Kafka, tmp_path: Path) -> None:
    """SIGSTOP until the producer is replaced, twice. No record is lost, and duplicates were counted."""
    topic = kafka.make_topic(new_topic(), PARTITIONS)
    run = KafkaRun(tmp_path, kafka, topic, request_timeout="300ms", timeout="1s")
    with run.server:
        for _ in range(2):
            run.post(20)
            kafka.nodes[0].pause()
            try:
                run.post(20)
                until(lambda: run.state() == "unavailable", "unavailable")
            finally:
                kafka.nodes[0].resume()
        run.done()
        unknown = run.unknown()
        assert run.state() == "running"
    doubled = run.check()
    sys.stdout.write(f"{len(run.ids)} records, {unknown:g} unknown, {doubled} doubled\n")
    assert doubled <= unknown
    assert unknown > 0


def test_kill_9_loses_nothing(kafka: Kafka, tmp_path: Path) -> None:
    """Killed at random moments under load: at most the records in flight at a kill are duplicated."""
    seed = int(os.environ.get("BTFEED_KILL_SEED") or time.time_ns() % 1_000_000)
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    topic = kafka.make_topic(new_topic(), PARTITIONS)
    run = KafkaRun(tmp_path, kafka, topic, request_timeout="10s", timeout="30s")
    behind: list[int] = []
    for _ in rounds(KILLS, lambda: max(behind) > 0, "a kill between an answer and its delivery"):
        run.server.start()
        run.post(30)
        wanted = rng.randrange(1, 30 * OCCURRENCES)
        until(lambda wanted=wanted: run.server.status()["sinks"]["kafka"]["delivered"] >= wanted, "under way")  # type: ignore[misc]
        run.post(rng.randrange(1, 5))
        run.server.kill()
        behind.append(len(run.ids) - len({headers(message)["ce_id"] for message in read_topic(kafka, topic)}))
    run.server.start()
    run.done()
    assert run.server.stop() == 0
    doubled = run.check()
    sys.stdout.write(f"{len(run.ids)} records, {doubled} doubled over {len(behind)} kills, behind {behind}\n")
    assert doubled <= len(behind) * 2 * RECORDS


def test_the_leader_dies_and_the_others_go_on(cluster: Kafka, tmp_path: Path) -> None:
    """kill -9 of the broker that leads most partitions, under load: another takes over, and no record is lost."""
    topic = cluster.make_topic(new_topic(), PARTITIONS, 3, min_insync_replicas="2")
    run = KafkaRun(tmp_path, cluster, topic, request_timeout="2s", timeout="30s")
    before = {number: partition.leader for number, partition in cluster.partitions(topic).items()}
    ((leader, led),) = Counter(before.values()).most_common(1)
    with run.server:
        run.post(30)
        cluster.nodes[leader - 1].kill()
        run.post(60)
        run.done()
        run.post(5)
        run.done()
        unknown = run.unknown()
        after = {number: partition.leader for number, partition in cluster.partitions(topic).items()}
    assert led > 0
    assert leader not in after.values()
    doubled = run.check()
    sys.stdout.write(f"broker {leader} led {led}; {len(run.ids)} records, {unknown:g} unknown, {doubled} doubled\n")
    assert doubled <= unknown
    cluster.nodes[leader - 1].start()
    cluster.nodes[leader - 1].wait()
    _in_sync(cluster, topic)


def test_too_few_replicas_are_waited_for(cluster: Kafka, tmp_path: Path) -> None:
    """With one broker stopped where all three must have a record, the sink is unavailable until it returns."""
    topic = cluster.make_topic(new_topic(), PARTITIONS, 3, min_insync_replicas="3")
    run = KafkaRun(tmp_path, cluster, topic, request_timeout="1s", timeout="6s")
    with run.server:
        run.post(5)
        run.done()
        cluster.nodes[2].pause()
        try:
            until(lambda: all(len(one.isrs) == 2 for one in cluster.partitions(topic).values()), "out of sync", 60)
            run.post(5)
            until(lambda: run.state() == "unavailable", "unavailable", 60)
            assert "2 of its 3 replicas are in sync" in run.server.status()["sinks"]["kafka"]["last_error"]
        finally:
            cluster.nodes[2].resume()
        run.done()
        unknown = run.unknown()
    assert run.check() <= unknown


def test_a_partition_without_a_leader_waits_alone(cluster: Kafka, tmp_path: Path) -> None:
    """The broker with the only replica is gone for longer than a request takes. The other partitions go on, the producer is
    replaced, and when the broker returns no record is lost.
    """
    topic = cluster.make_topic(new_topic(), PARTITIONS, 1)
    run = KafkaRun(tmp_path, cluster, topic, request_timeout="1s", timeout="10s")
    ((leader, led),) = Counter(one.leader for one in cluster.partitions(topic).values()).most_common(1)
    broker = cluster.nodes[leader - 1]
    with run.server:
        run.post(5)
        run.done()
        broker.kill()
        run.post(5)
        until(lambda: run.state() == "unavailable", "unavailable", 60)
        delivered = run.server.status()["sinks"]["kafka"]["delivered"]
        assert 5 * OCCURRENCES < delivered < 10 * OCCURRENCES, "either all waited or none"
        broker.start()
        broker.wait()
        run.done()
        unknown = run.unknown()
    doubled = run.check()
    sys.stdout.write(f"broker {leader} led {led}; {len(run.ids)} records, {unknown:g} unknown, {doubled} doubled\n")
    assert doubled <= unknown
    _in_sync(cluster, topic)


def test_topics_that_come_and_go_stop_no_other(cluster: Kafka, tmp_path: Path) -> None:
    """One is made late and one is deleted under load, with a restart and a kill between. What can go goes, and what waits
    arrives in order once its topic is there.
    """
    prefix = new_topic()
    topics = {one: f"{prefix}.{one}" for one in ("purepath", "user_action", "visit")}
    for one in ("purepath", "visit"):
        cluster.make_topic(topics[one], 2)
    run = KafkaRun(tmp_path, cluster, prefix + ".{category}", request_timeout="500ms", timeout="2s")
    with run.server:
        run.post(10)
        run.done()
        (action,) = run.server.status()["sinks"]["kafka"]["blocked"]
        assert action["destination"] == f"topic {topics['user_action']}"
        assert action["waiting"] > 0
        admin = cluster.admin()
        for gone in admin.delete_topics([topics["visit"]]).values():
            gone.result(60)
        run.post(10)
        until(lambda: len(run.server.status()["sinks"]["kafka"]["blocked"]) == 2, "both are blocked")
        run.done()
    assert len(read_topic(cluster, topics["purepath"])) == _count(run, "purepath")
    run.server.start()
    until(lambda: len(run.server.status()["sinks"]["kafka"]["blocked"]) == 2, "still blocked")
    run.post(10)
    run.server.kill()
    with run.server:
        for one in ("user_action", "visit"):
            cluster.make_topic(topics[one], 2)
        run.post(10)
        run.done()
        until(lambda: run.server.status()["sinks"]["kafka"]["blocked"] == [], "nothing waits")
    found = read_topic(cluster, *topics.values())
    ids = {headers(message)["ce_id"].decode() for message in found}
    lost = set(run.ids) - ids
    deleted = _ids(run, "visit")[: _count(run, "visit") // 4]
    assert lost <= set(deleted), "lost others than those in the deleted topic"
    seen: dict[int, int] = {}
    place = {event_id: number for number, event_id in enumerate(run.ids)}
    for message in read_topic(cluster, topics["user_action"]):
        at = place[headers(message)["ce_id"].decode()]
        assert seen.get(_partition(message), -1) < at, "out of order"
        seen[_partition(message)] = at
    assert sorted(seen) == [0, 1]
    assert sum(message.topic() == topics["user_action"] for message in found) == _count(run, "user_action")


def _ids(run: KafkaRun, category: str) -> list[str]:
    """The event.ids of all records of a category, in order."""
    found = []
    for seed in range(len(run.ids) // OCCURRENCES):
        batch = mapped(OCCURRENCES, seed)
        pairs = zip(batch.ids, batch.transactions, strict=True)
        found += [event_id for event_id, transaction in pairs if transaction.category == category]
    return found


def _count(run: KafkaRun, category: str) -> int:
    return len(_ids(run, category))


def _in_sync(cluster: Kafka, topic: str) -> None:
    until(lambda: all(one.isrs == one.replicas for one in _partitions(cluster, topic)), "all in sync", 60)


def _partitions(cluster: Kafka, topic: str) -> list[PartitionMetadata]:
    """Partitions with their replicas sorted."""
    found = list(cluster.partitions(topic).values())
    for one in found:
        one.isrs, one.replicas = sorted(one.isrs), sorted(one.replicas)
    return found
