"""Judges: what is at each destination, by event.id, against what was posted.

They read the destinations themselves, with clients that btfeed does not use.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, TopicPartition

from btfeed.posts.post import digest, event_id_prefix
from tests.servers.elasticsearch import Elasticsearch
from tests.servers.kafka import Kafka
from tests.support.harness import DEADLINE

SHOWN = 5
"""How many event.id a verdict shows of each kind."""


@dataclass(frozen=True)
class Verdict:
    """What a destination has of what was posted.

    records  how many records should be there: those of all posts that were answered 200
    lost     event.id of those that are not
    twice    event.id -> how often, of those that are there more than once
    strange  event.id of records that nobody has posted
    """

    records: int
    lost: frozenset[str]
    twice: Counter[str]
    strange: frozenset[str]

    @property
    def doubled(self) -> int:
        """Records too many."""
        return self.twice.total() - len(self.twice)

    def __str__(self) -> str:
        shown = {"lost": self.lost, "twice": self.twice, "strange": self.strange}
        parts = [f"{len(ids)} {name} {sorted(ids)[:SHOWN] if ids else ''}".strip() for name, ids in shown.items()]
        return f"of {self.records} records: {', '.join(parts)}"


def judge(found: Counter[str], answered: Iterable[bytes], unanswered: Iterable[bytes], occurrences: int) -> Verdict:
    """found: event.id -> how often it is there. unanswered: posts whose records may be there. occurrences: in each post."""
    expected = _event_ids(answered, occurrences)
    known = expected | _event_ids(unanswered, occurrences)
    twice = Counter({event_id: number for event_id, number in found.items() if number > 1})
    return Verdict(len(expected), frozenset(expected - found.keys()), twice, frozenset(found.keys() - known))


def _event_ids(bodies: Iterable[bytes], occurrences: int) -> set[str]:
    prefixes = (event_id_prefix(digest(body)) for body in bodies)
    return {f"{prefix}{ordinal}" for prefix in prefixes for ordinal in range(occurrences)}


def in_files(directories: Iterable[Path]) -> Counter[str]:
    """In all NDJSON files of these directories together, which must be whole: finished, or of a sink that has stopped."""
    paths = (path for directory in directories for path in directory.glob("*.ndjson*"))
    return Counter(json.loads(line)["event.id"] for path in paths for line in path.read_bytes().splitlines())


def in_elasticsearch(node: Elasticsearch, pattern: str) -> Counter[str]:
    """In all indexes that match this pattern."""
    return Counter(json.loads(bytes(document.source))["event.id"] for document in node.documents(pattern))


def in_topic(kafka: Kafka, topic: str, isolation: str = "read_committed") -> Counter[str]:
    """In a topic, to its end, as a consumer with this isolation.level sees it. A topic that does not exist has nothing."""
    settings = {"bootstrap.servers": kafka.bootstrap, "group.id": "judges", "enable.auto.commit": False}
    settings |= {"isolation.level": isolation, "enable.partition.eof": True, "fetch.wait.max.ms": 10}
    consumer = Consumer(settings)
    try:
        numbers = list(kafka.partitions(topic))
        consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
        left, found = set(numbers), Counter[str]()
        while left:
            message = consumer.poll(DEADLINE)
            assert message, f"partitions {left} of {topic} have no end"
            error = message.error()
            if error and error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition() or 0)
                continue
            assert not error, error
            found[json.loads(message.value() or b"")["event.id"]] += 1
        return found
    finally:
        consumer.close()
