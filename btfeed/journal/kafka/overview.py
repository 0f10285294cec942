"""What brokers say of a journal: its topics, and the members and the lag of each sink's group."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiokafka import errors
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetFetchRequest

from btfeed.journal.kafka.topics import TopicState, differences, durability
from sinks.base import Misconfigured, Unavailable

if TYPE_CHECKING:
    from btfeed.journal.kafka.cluster import Cluster

EARLIEST, LATEST = -2, -1
"""For `Cluster.offsets`: instead of times."""
STEPS = 12
"""How often the time of a message is halved to find how old it is."""
_UUID = 37
"""Characters that brokers append to a static member's name: a hyphen and a UUID."""


@dataclass(frozen=True, slots=True)
class TopicView:
    """A topic of the journal.

    partitions   how many it has; 0 if it does not exist
    replicas     how many replicas each partition has
    leaderless   how many partitions have no leader: they take and give nothing
    behind       how many partitions have fewer replicas in sync than replicas
    problems     what is not as it should be, in sentences; empty if nothing is known to be wrong
    """

    name: str
    partitions: int
    replicas: int
    leaderless: int
    behind: int
    problems: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class MemberView:
    """A process that delivers to a sink. instance: its `journal.instance`. partitions: those of PREFIX.posts it has."""

    instance: str
    host: str
    partitions: Sequence[int]


@dataclass(frozen=True, slots=True)
class PartitionView:
    """How far a sink has come in a partition of PREFIX.posts.

    instance        who delivers from it; empty if nobody does
    offset          where the sink continues; None if it has not begun, so that its `start` decides
    lag             posts that the sink has yet to deliver
    dropped         posts that the sink did not get, since the brokers have deleted them already
    retention_left  seconds until the brokers delete the oldest of these posts, negative if that is overdue; None if there
                    is nothing to deliver, or if they keep posts for ever
    waits           seconds that the oldest of these posts has waited at least; None as for retention_left
    """

    partition: int
    instance: str
    offset: int | None
    lag: int
    dropped: int = 0
    retention_left: float | None = None
    waits: float | None = None


@dataclass(frozen=True, slots=True)
class GroupView:
    """The consumer group of a sink. state: Kafka's word for it, such as Stable, Empty, PreparingRebalance or Dead. error:
    why the brokers don't tell more; empty if they do."""

    sink: str
    group: str
    state: str
    members: Sequence[MemberView] = ()
    partitions: Sequence[PartitionView] = ()
    error: str = ""

    @property
    def lag(self) -> int:
        """Posts that the sink has yet to deliver."""
        return sum(each.lag for each in self.partitions)

    @property
    def retention_left(self) -> float | None:
        """Seconds until the first undelivered post is deleted; None if none ever is."""
        return min((each.retention_left for each in self.partitions if each.retention_left is not None), default=None)


@dataclass(frozen=True, slots=True)
class Overview:
    """A journal as its brokers see it.

    cluster_id  empty if an old broker has none
    brokers     `host:port` of those that the others count as up
    away        numbers of those that have replicas, but are not up
    silent      numbers of those that count as up, but do not reply: what their partitions have is not known
    """

    cluster_id: str
    brokers: Sequence[str]
    topics: Sequence[TopicView]
    groups: Sequence[GroupView]
    away: Sequence[int] = ()
    silent: Sequence[int] = ()


async def take(cluster: "Cluster", sinks: Sequence[str]) -> Overview:
    """Ask for all of it. Raises Unavailable, or Misconfigured if we may not know of a topic."""
    described = await cluster.metadata(list(cluster.wanted))
    states = await cluster.topics(list(cluster.wanted))
    topics = [_topic(cluster, name, states.get(name)) for name in cluster.wanted]
    posts = states.get(cluster.names.posts)
    brokers = sorted(f"{each['host']}:{each['port']}" for each in described["brokers"])
    silent: set[int] = set()
    ends = await _ends(cluster, posts, silent) if posts else {}
    groups = [await _group(cluster, sink, posts, ends, silent) for sink in sinks]
    return Overview(described.get("cluster_id") or "", brokers, topics, groups, away(described), sorted(silent))


def away(described: Mapping[str, Any]) -> Sequence[int]:
    """Numbers of brokers that have replicas of topics, but are not up. described: see Cluster.metadata."""
    partitions = [partition for topic in described["topics"] for partition in topic["partitions"]]
    having = {number for partition in partitions for number in partition["replicas"]}
    return sorted(having - {each["node_id"] for each in described["brokers"]})


def _topic(cluster: "Cluster", name: str, state: TopicState | None) -> TopicView:
    if state is None:
        return TopicView(name, 0, 0, 0, 0, [f"topic {name} does not exist"])
    leaderless = sum(each.leader < 0 for each in state.partitions)
    behind = sum(each.in_sync < each.replicas for each in state.partitions)
    problems = [*durability(state), *differences(state, cluster.wanted[name], cluster.max_body)]
    return TopicView(name, len(state.partitions), state.replicas, leaderless, behind, problems)


async def _ends(cluster: "Cluster", posts: TopicState, silent: set[int]) -> Mapping[int, tuple[int, int]]:
    """The first offset of each partition whose leader replies, and the one behind the last."""
    first = await cluster.offsets(posts, EARLIEST, silent)
    last = await cluster.offsets(posts, LATEST, silent)
    return {number: (first[number], last[number]) for number in first.keys() & last.keys()}


async def _group(
    cluster: "Cluster", sink: str, posts: TopicState | None, ends: Mapping[int, tuple[int, int]], silent: set[int]
) -> GroupView:
    group = cluster.names.group(sink)
    try:
        coordinator = await cluster.coordinator(group)
        reply = await cluster.ask(DescribeGroupsRequest([group]), coordinator)
        code, _, state, _, _, members, *_ = reply.groups[0]
        if error := cluster.denied(code, "READ or DESCRIBE", f"group {group}"):
            raise error
        offsets = await _committed(cluster, group, coordinator, posts)
    except (Unavailable, Misconfigured) as error:
        return GroupView(sink, group, "unknown", error=str(error))
    views = [_member(cluster.names.posts, *member) for member in members]
    owners = {number: view.instance for view in views for number in view.partitions}
    lags = {  # a sink may have passed an end since that was asked for
        number: max(0, last - max(first, offsets[number])) for number, (first, last) in ends.items() if number in offsets
    }
    behind = {number: offsets[number] for number, lag in lags.items() if lag}
    times = await _times(cluster, posts, behind, silent) if posts and behind else {}
    partitions = [
        PartitionView(
            number,
            owners.get(number, ""),
            offsets.get(number),
            lags.get(number, 0),
            max(0, first - offsets.get(number, first)),
            *times.get(number, ()),
        )
        for number, (first, _) in sorted(ends.items())
    ]
    return GroupView(sink, group, state, views, partitions)


async def _committed(cluster: "Cluster", group: str, coordinator: int, posts: TopicState | None) -> Mapping[int, int]:
    """Where the group continues in each partition that it has begun."""
    if posts is None:
        return {}
    wanted = [(posts.name, [each.number for each in posts.partitions])]
    reply = await cluster.ask(OffsetFetchRequest(group, wanted), coordinator)
    found: dict[int, int] = {}
    for _, partitions in reply.topics:
        for number, offset, _, code, *_ in partitions:
            if error := cluster.denied(code, "READ", f"group {group}"):
                raise error
            if code:
                raise Unavailable(f"group {group}: {errors.for_code(code).__name__}")
            if offset >= 0:
                found[number] = offset
    return found


def _member(topic: str, member_id: str, client_id: str, host: str, metadata: bytes, assignment: bytes) -> MemberView:
    partitions: list[int] = []
    if assignment:
        decoded: Any = ConsumerProtocolMemberAssignment.decode(assignment)
        partitions = sorted(each.partition for each in decoded.partitions() if each.topic == topic)
    return MemberView(instance_of(member_id, client_id), host.lstrip("/"), partitions)


def instance_of(member_id: str, client_id: str) -> str:
    """The `journal.instance` of a member. Brokers say of a static one only its id, which begins with its name."""
    return member_id[:-_UUID] or client_id


async def _times(
    cluster: "Cluster", posts: TopicState, offsets: Mapping[int, int], silent: set[int]
) -> Mapping[int, tuple[float, float]]:
    """Seconds until the message at an offset of each partition is deleted, and that it is there at least. Brokers don't
    tell the time of a message, but which is the first of a time: it is found by halving, to a few thousandths of the
    retention."""
    retention = posts.number("retention.ms")
    if retention is None or retention < 0:
        return {}
    now = round(time.time() * 1000)
    found: Mapping[int, int] = {}
    low, high = dict.fromkeys(offsets, now - retention), dict.fromkeys(offsets, now)
    for _ in range(STEPS):
        middle = {number: (low[number] + high[number]) // 2 for number in offsets}
        found = await cluster.offsets(posts, middle, silent)
        for number, offset in offsets.items():
            (low if 0 <= found.get(number, -1) <= offset else high)[number] = middle[number]
    return {
        number: ((begin + retention - now) / 1000, (now - high[number]) / 1000)
        for number, begin in low.items()
        if number in found
    }
