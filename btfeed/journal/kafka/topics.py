"""The topics of a journal as they should be, and what it means if they are not.

Brokers that answer with acks=all have not written to disk yet: a post is safe because several of them have it. So it
depends on the topic whether a post that was answered with 200 can be lost. `durability` says how.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.settings import KafkaJournalSettings
from sinks.kafka.topics import NewTopics
from sinks.settings import size_text, time_text

MESSAGE_OVERHEAD = 1024
"""Bytes that a message may need besides the post's body: its key, its headers and its batch."""
BODY_MARGIN = 64 * 2**10
"""Bytes that a message may be larger than `receiver.max_body`, in topics that btfeed makes."""
WEEK = 7 * 86_400.0
_DAY_MS = "86400000"
_SEGMENT = 2**20
"""Bytes: the smallest segment that brokers accept."""


@dataclass(frozen=True, slots=True)
class Partition:
    """leader: the broker's number, -1 if the partition has none. replicas, in_sync: how many."""

    number: int
    leader: int
    replicas: int
    in_sync: int


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as brokers describe it. config: by Kafka's names; None if we may not ask for it."""

    name: str
    partitions: Sequence[Partition]
    config: Mapping[str, str] | None

    @property
    def replicas(self) -> int:
        return min((each.replicas for each in self.partitions), default=0)

    @property
    def min_in_sync(self) -> int:
        """How many replicas must have a message before it counts as written; 1 if that is not known."""
        return self.number("min.insync.replicas") or 1

    @property
    def max_message(self) -> int | None:
        """Bytes of the largest batch that the topic takes; None if that is not known."""
        return self.number("max.message.bytes")

    @property
    def sound(self) -> Sequence[int]:
        """The partitions that take messages. Brokers since Kafka 4.0 do not ask for more replicas than there are."""
        led = [each for each in self.partitions if each.leader >= 0]
        return [each.number for each in led if each.in_sync >= min(self.min_in_sync, each.replicas)]

    @property
    def obstacle(self) -> str | None:
        """Why no partition takes messages; None if one does, as far as is known."""
        if self.sound:
            return None
        if all(each.leader < 0 for each in self.partitions):
            return f"no partition of topic {self.name} has a leader"
        return f"no partition of topic {self.name} has {self.min_in_sync} replicas in sync (min.insync.replicas)"

    def number(self, key: str) -> int | None:
        value = (self.config or {}).get(key)
        return int(value) if value else None

    @staticmethod
    def of(described: Mapping[str, Any], config: Mapping[str, str] | None) -> "TopicState":
        """described: a topic in the reply to a metadata request."""
        partitions = [
            Partition(each["partition"], each["leader"], len(each["replicas"]), len(each["isr"]))
            for each in described["partitions"]
        ]
        return TopicState(described["topic"], sorted(partitions, key=lambda each: each.number), config)


def new_topics(settings: KafkaJournalSettings, max_body: int) -> dict[str, NewTopics]:
    """How to make each topic of the journal. max_body: `receiver.max_body`."""
    names, largest = Names(settings.prefix), max_body + BODY_MARGIN
    common = {
        "min.insync.replicas": str(settings.min_insync_replicas),
        "unclean.leader.election.enable": "false",
        "max.message.bytes": str(largest),
    }
    week, ever = _milliseconds(WEEK), "-1"
    posts = {
        "cleanup.policy": "delete",
        "retention.ms": _milliseconds(settings.retention),
        "retention.bytes": str(settings.retention_size or ever),
    }
    dead_letters = {"cleanup.policy": "compact", "delete.retention.ms": week, "segment.ms": _DAY_MS}
    segment = max(settings.refused_posts // 4, largest, _SEGMENT)  # brokers delete whole segments
    refused = {
        "cleanup.policy": "delete",
        "retention.ms": ever,
        "retention.bytes": str(settings.refused_posts),
        "segment.bytes": str(segment),
    }
    retries = {"cleanup.policy": "delete", "retention.ms": week}

    def made(partitions: int, config: dict[str, str]) -> NewTopics:
        return NewTopics(partitions, settings.replication_factor, common | config)

    return {
        names.posts: made(settings.partitions, posts),
        names.dead_letters: made(1, dead_letters),
        names.refused: made(1, refused),
        names.retries: made(1, retries),
    }


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def durability(topic: TopicState) -> Iterator[str]:
    """How a topic may lose what it has acknowledged, or take nothing while a broker is away."""
    replicas, needed = topic.replicas, topic.min_in_sync
    brokers = "a broker's disk" if replicas == 1 else "the disks of two brokers"
    if replicas < 3:
        yield (
            f"topic {topic.name} has {replicas} of 3 replicas: what it has acknowledged is lost with {brokers};"
            " add replicas with Kafka's tools"
        )
    if topic.config is None:
        return
    if needed < 2:
        yield (
            f"topic {topic.name} has min.insync.replicas {needed}: what it has acknowledged may be on one broker only, and"
            " is lost with that broker's disk; set it to 2"
        )
    if topic.config.get("unclean.leader.election.enable") == "true":
        yield (
            f"topic {topic.name} has unclean.leader.election.enable true: a broker that lacks messages may become leader,"
            " and they are lost; set it to false"
        )
    if needed > replicas > 0:
        yield (
            f"topic {topic.name} has {replicas} replicas and min.insync.replicas {needed}: it takes nothing while a broker"
            " is away, and with brokers before Kafka 4.0 nothing at all; set min.insync.replicas lower, or add replicas"
        )
    elif replicas > 1 and needed == replicas:
        yield (
            f"topic {topic.name} needs all of its {replicas} replicas in sync (min.insync.replicas {needed}): it takes"
            " nothing while one broker is away; set min.insync.replicas lower"
        )


def differences(topic: TopicState, wanted: NewTopics, max_body: int) -> Iterator[str]:
    """What is not as configured in a topic that was made before, and what it means. wanted: how we would make it."""
    if wanted.partitions and len(topic.partitions) < wanted.partitions:
        yield (
            f"topic {topic.name} has {len(topic.partitions)} partitions, fewer than configured ({wanted.partitions}); add"
            " partitions with Kafka's tools"
        )
    if wanted.partitions == 1 and len(topic.partitions) > 1:
        yield f"topic {topic.name} has {len(topic.partitions)} partitions: only the first is used; it must have one"
    if topic.config is None:
        yield f"topic {topic.name}: its configuration is not checked, since the right DESCRIBE_CONFIGS is missing"
        return
    policy, right = topic.config.get("cleanup.policy", ""), wanted.config["cleanup.policy"]
    if policy != right:
        meaning = "messages are kept for ever" if right == "delete" else "dead letters that still wait are deleted"
        yield f"topic {topic.name} has cleanup.policy {policy}: {meaning}; set it to {right}"
    retention, kept = topic.number("retention.ms"), int(wanted.config.get("retention.ms", -1))
    if right == "delete" and retention is not None and retention >= 0 and not 0 <= kept <= retention:
        yield (
            f"topic {topic.name} keeps messages for {time_text(retention / 1000)} (retention.ms), less than configured"
            f" ({time_text(kept / 1000) if kept >= 0 else 'for ever'}); raise it with Kafka's tools"
        )
    if topic.max_message is not None and topic.max_message < max_body + MESSAGE_OVERHEAD:
        yield f"topic {topic.name}: {limit_text(topic.max_message, max_body)}"


def limit_text(max_message: int, max_body: int) -> str:
    """What a topic's max.message.bytes means for posts, where it is less than they may have."""
    largest = max_message - MESSAGE_OVERHEAD
    return (
        f"it takes posts of {largest} bytes at most (max.message.bytes {max_message}), less than receiver.max_body of"
        f" {size_text(max_body)}; larger ones get a 413; set max.message.bytes to {max_body + BODY_MARGIN}"
    )
