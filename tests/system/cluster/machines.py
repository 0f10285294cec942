"""Three brokers, machines that receive, machines that deliver, and a balancer in front, as in docs/scaling.md."""

import uuid
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, TopicPartition
from confluent_kafka.admin import OffsetSpec

from btfeed.journal.kafka.names import Names
from tests.servers import installed
from tests.servers.elasticsearch import Elasticsearch
from tests.servers.haproxy import Haproxy
from tests.servers.kafka import Kafka
from tests.support.halves import Half, total
from tests.support.harness import until
from tests.support.ports import free_port
from tests.system.cluster import judges

PATIENCE = 120.0
"""Seconds for what takes a while on a machine that runs three brokers besides everything else."""
SESSION = 6.0
TIMEOUT = 2.0
PARTITIONS = 4
MAX_RECORDS = 60
IN_FLIGHT = 2
UNDER_WAY = IN_FLIGHT * MAX_RECORDS
"""The most records of the plain topic's sink that one process writes at a time, for all of its partitions together. These
are written again if it does not learn, or does not save, what became of them."""
BROKERS = {
    # as docs/scaling.md says
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1500",
    "min.insync.replicas": "2",
    # for a quick start
    "transaction.state.log.num.partitions": "3",
}
SINKS = ("files", "search", "plain", "once")
CONFIG = f"""
[receiver]
listen = "127.0.0.1:PORT"
[admin]
listen = "127.0.0.1:ADMIN"
[journal]
type = "kafka"
bootstrap_servers = "BOOTSTRAP"
prefix = "PREFIX"
instance = "INSTANCE"
partitions = {PARTITIONS}
session_timeout = "{SESSION:g}s"
timeout = "{TIMEOUT:g}s"
spill = {{ directory = "{{directory}}/spill" }}

[sinks.files]
type = "file"
directory = "{{directory}}/files"
rotate_size = "128KiB"
[sinks.files.delivery]
max_records = {MAX_RECORDS}
linger = "50ms"

[sinks.search]
type = "elasticsearch"
hosts = ["NODE"]
index = "PREFIX-{{category}}"
delivery = {{ linger = "200ms", retry_max = "2s" }}

[sinks.plain]
type = "kafka"
cluster = "journal"
topic = "PREFIX.plain"
create_topics = true
partitions = 3
replication_factor = 3
[sinks.plain.delivery]
max_records = {MAX_RECORDS}
in_flight = {IN_FLIGHT}
linger = "50ms"
retry_max = "2s"

[sinks.once]
type = "kafka"
cluster = "journal"
exactly_once = true
topic = "PREFIX.once"
create_topics = true
partitions = 3
replication_factor = 3
[sinks.once.delivery]
max_records = {MAX_RECORDS}
linger = "200ms"
retry_max = "2s"
"""
"""Of every machine. `receive` and `deliver` each take of it what they need."""


class Cluster:
    """Machines around brokers, which its user starts and stops. Everything else runs until the block ends.

    receivers, deliverers  the processes, each with the directory of a machine of its own
    twins                  further processes that had the instance of one of these, and a directory of their own
    balancer               in front of the receivers
    """

    def __init__(self, directory: Path, kafka: Kafka, node: Elasticsearch, machines: int = 2) -> None:
        self.kafka, self.node = kafka, node
        self.prefix = f"t{uuid.uuid4().hex[:10]}"
        self.names = Names(self.prefix)
        self._directory = directory
        numbers = range(1, machines + 1)
        self.receivers = [  # a receiver keeps its ports when it is restarted
            self.machine("receive", f"receiver{number}", ports=(free_port(), free_port())) for number in numbers
        ]
        self.deliverers = [self.machine("deliver", f"deliverer{number}") for number in numbers]
        self.twins: list[Half] = []
        self._stack = ExitStack()

    def machine(self, command: str, place: str, instance: str = "", ports: tuple[int, int] = (0, 0)) -> Half:
        """One more, not started yet, with its directory at `place`. instance: by default it has the name of the place."""
        text = CONFIG.replace("BOOTSTRAP", self.kafka.bootstrap).replace("NODE", self.node.url)
        text = text.replace("PREFIX", self.prefix).replace("INSTANCE", instance or place)
        text = text.replace("PORT", str(ports[0])).replace("ADMIN", str(ports[1]))
        return Half(command, self._directory / place, text)

    @property
    def halves(self) -> list[Half]:
        return [*self.receivers, *self.deliverers]

    def __enter__(self) -> Self:
        with self._stack as stack, ThreadPoolExecutor() as pool:
            for half in self.halves:
                stack.callback(half.kill)
            list(pool.map(Half.start, self.halves))
            self.shared_out()
            ports = [(half.port, int(half.admin_url.rpartition(":")[2])) for half in self.receivers]
            self.balancer = stack.enter_context(Haproxy(installed.haproxy(), self._directory, ports))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def stop(self) -> None:
        """Stop all machines as an operator does, so that files are whole."""
        for half in self.halves:
            half.note()
        with ThreadPoolExecutor() as pool:
            ended = list(pool.map(Half.stop, self.halves))
        assert ended == [0] * len(ended), [half.log()[-5_000:] for half in self.halves]

    # What the cluster is doing

    def owns(self, half: Half, sink: str = "files") -> int:
        """How many partitions of a sink this deliverer has."""
        return int(total(half.samples(), "btfeed_partitions", f'sink="{sink}"'))

    def shared_out(self) -> None:
        """Wait until all partitions of all sinks have their owners, and every deliverer has some."""
        until(self._shared_out, "every deliverer has its share of the partitions", PATIENCE, 0.2)

    def _shared_out(self) -> bool:
        return self.owned(self.deliverers) and all(self.owns(half) for half in self.deliverers)

    def owned(self, halves: Iterable[Half]) -> bool:
        """Whether these own all partitions of every sink between them, and none twice."""
        samples = [half.samples() for half in halves]
        return all(
            sum(total(one, "btfeed_partitions", f'sink="{sink}"') for one in samples) == PARTITIONS for sink in SINKS
        )

    def in_sync(self) -> None:
        """Wait until all brokers have all posts."""
        until(self._in_sync, "all replicas in sync", PATIENCE, 0.3)

    def _in_sync(self) -> bool:
        partitions = self.kafka.partitions(self.names.posts).values()
        return bool(partitions) and all(len(one.isrs) == len(self.kafka.nodes) for one in partitions)

    def caught_up(self) -> None:
        """Wait until no spill has a post, and every sink's group has committed all posts of the topic."""
        until(lambda: not self.spilled(), "the spills are empty", PATIENCE, 0.2)
        until(lambda: not self.lag(), f"all posts are delivered, of {self.prefix}", PATIENCE, 0.5)

    def spilled(self) -> int:
        """Posts that wait in the spills of all receivers."""
        return int(sum(total(half.samples(), "btfeed_spill_posts") for half in self.receivers))

    def lag(self) -> Counter[str]:
        """sink -> posts of the topic that its group has not committed, as the brokers say. Without those that have none."""
        admin = self.kafka.admin()
        ends = self._ends(self.names.posts)
        partitions = [TopicPartition(self.names.posts, number) for number in ends]
        found: Counter[str] = Counter()
        for sink in SINKS:
            request = ConsumerGroupTopicPartitions(self.names.group(sink), partitions)
            (future,) = admin.list_consumer_group_offsets([request]).values()
            for saved in future.result(PATIENCE).topic_partitions:
                found[sink] += ends[saved.partition] - max(saved.offset, 0)
        return +found

    def in_transaction(self) -> bool:
        """Whether a transaction of the sink with `exactly_once` has written records, and is not ended."""
        topic = f"{self.prefix}.once"
        committed = self._ends(topic, IsolationLevel.READ_COMMITTED)
        return any(end > committed[number] for number, end in self._ends(topic).items())

    def _ends(self, topic: str, isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED) -> dict[int, int]:
        """partition -> the offset of its end, as consumers with this isolation.level see it."""
        admin = self.kafka.admin()
        partitions = [TopicPartition(topic, number) for number in self.kafka.partitions(topic)]
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = admin.list_offsets(dict.fromkeys(partitions, latest), isolation_level=isolation)
        return {partition.partition: future.result(PATIENCE).offset for partition, future in asked.items()}

    def counted(self, name: str, *labels: str) -> float:
        """What all lives of all machines have counted, as far as it was noted."""
        return sum(total(half.counted, name, *labels) for half in self.halves)

    def logged(self, words: str) -> bool:
        """Whether a log of any machine has these words."""
        return any(words in half.all_logs() for half in self.halves)

    # What it has delivered

    def found(self) -> dict[str, Counter[str]]:
        """Each destination's records: event.id -> how often. Files of all machines are one destination."""
        return {
            # what a twin had not saved stays in its open file, since nobody starts it again
            "files": self._in_files(self.halves) | self._in_files(self.twins),
            "search": judges.in_elasticsearch(self.node, f"{self.prefix}-*"),
            "plain": judges.in_topic(self.kafka, f"{self.prefix}.plain"),
            "once": judges.in_topic(self.kafka, f"{self.prefix}.once"),
        }

    @staticmethod
    def _in_files(halves: Iterable[Half]) -> Counter[str]:
        return judges.in_files([half.directory / "files" for half in halves])

    def aborted(self) -> int:
        """Records that transactions wrote and took back."""
        seen = judges.in_topic(self.kafka, f"{self.prefix}.once", "read_uncommitted")
        return seen.total() - judges.in_topic(self.kafka, f"{self.prefix}.once").total()
