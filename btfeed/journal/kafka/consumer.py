"""What outlets need of a consumer in a sink's group. group_consumer.py has the one that there is."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from aiokafka import TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.protocol.commit import OffsetCommitRequest

NEVER = 2**31 - 1
"""Milliseconds that a consumer may go without reading: a sink that is down does not read, and stays a member."""


FETCH_BYTES = 2 * 2**20
"""Of an answer to a fetch, unless a single batch is larger. It is copied several times: with 16 MiB through memory that is
in no cache, and that the kernel has to give each time, which takes more CPU."""


class Member(NamedTuple):
    """A process in one generation of a group."""

    generation: int
    id: str


NOBODY = Member(OffsetCommitRequest.DEFAULT_GENERATION_ID, "")
"""As which offsets can be committed while the group has no members."""


class Saved(NamedTuple):
    """What a group has saved of a partition."""

    offset: int
    metadata: str


class Span(NamedTuple):
    """The offsets of a partition: of its first message, and of the next one that readers will get."""

    first: int
    next: int


class Listener(Protocol):
    """Told of changes by the task that keeps up the membership. `revoked` may take as long as a drain, `assigned` must
    return at once: no heartbeats are sent meanwhile."""

    async def revoked(self) -> None: ...

    def assigned(self, places: Collection[TopicPartition]) -> None: ...


class Consumer(Protocol):
    """What outlets need. Methods raise JournalUnavailable, those with a member OutletGone as well."""

    @property
    def member(self) -> Member: ...

    def partitions(self, topic: str) -> Collection[TopicPartition]: ...

    def join(self, topics: Collection[str], listener: Listener) -> None: ...

    def check(self) -> None: ...

    async def failed(self) -> None: ...

    async def leave(self) -> None: ...

    async def stop(self) -> None: ...

    def seek(self, place: TopicPartition, offset: int) -> None: ...

    def pause(self, place: TopicPartition) -> None: ...

    def position(self, place: TopicPartition) -> int | None: ...

    async def read(self, place: TopicPartition, max_records: int) -> list[Any]: ...

    def ask_another(self, place: TopicPartition) -> int: ...

    async def saved(self, places: Collection[TopicPartition], *, stable: bool = False) -> dict[TopicPartition, Saved]: ...

    async def save(self, member: Member, offsets: Mapping[TopicPartition, Saved]) -> None: ...

    async def spans(self, places: Collection[TopicPartition]) -> dict[TopicPartition, Span]: ...

    async def ends(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]: ...

    async def first_since(self, place: TopicPartition, received: int) -> tuple[int, int] | None: ...


class OutOfRange(Exception):
    """The partition has no message at the position, or any more."""


class DamagedMessage(Exception):
    """What a broker has at the position can't be read, or something soon behind it."""


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """group, instance: names. Times in seconds. fetch_wait: how long a broker holds the answer if it has nothing."""

    group: str
    instance: str
    request_timeout: float
    session_timeout: float
    rebalance_timeout: float
    fetch_wait: float = 0.5
    read_patience: float = 1.0

    def arguments(self) -> dict[str, Any]:
        """For aiokafka's consumer."""
        return {
            "group_id": self.group,
            "group_instance_id": self.instance,
            "partition_assignment_strategy": [RangePartitionAssignor],
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": "read_committed",
            "max_poll_interval_ms": NEVER,
            "session_timeout_ms": round(self.session_timeout * 1000),
            "heartbeat_interval_ms": round(min(3.0, self.session_timeout / 3) * 1000),
            "rebalance_timeout_ms": round(self.rebalance_timeout * 1000),
            "metadata_max_age_ms": 30_000,
            "fetch_max_bytes": FETCH_BYTES,
            "fetch_max_wait_ms": round(self.fetch_wait * 1000),
        }
