"""One consumer of aiokafka in a sink's group, from its start until it fails: what outlets need of it.

Traps that it knows
- aiokafka waits for the answer to JoinGroup no longer than for any other, but brokers hold it until all members have
  drained. So these requests get the time of a rebalance.
- aiokafka commits with whatever membership it has when it sends, so that a process that slept through its session could
  move a cursor back. Here a commit names the membership under which its records were read.
- aiokafka's tasks end for good on an error that it does not expect: `failed` tells, and somebody starts another consumer.
- Brokers answer the requests of a connection in turn, and that of a fetch half a second later while there is nothing. So
  questions about offsets, of which a look at all backlogs has many, would take seconds on the same connections.
- aiokafka does not know the error of a member whose name another process has taken, and would end: it is told that its
  membership is gone, which means the same.
- A CancelledError that comes out of it is no cancellation of ours.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition, conn, errors
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.group import JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest
from aiokafka.protocol.offset import OffsetRequest

from btfeed.journal.base import JournalUnavailable, OutletGone
from btfeed.journal.kafka import clients, replicas
from btfeed.journal.kafka.consumer import (
    NOBODY,
    ConsumerSettings,
    DamagedMessage,
    Listener,
    Member,
    OutOfRange,
    Saved,
    Span,
)
from btfeed.journal.kafka.stable_offsets import UNSTABLE, StableOffsetFetchRequest
from btfeed.telemetry.kafka_journal import KafkaJournalMetrics
from sinks.base import SinkError
from sinks.kafka.access import ClusterAccess
from sinks.kafka.steady import steady
from sinks.shared.clock import Clock

conn.READER_LIMIT = 2**20
"""aiokafka stops reading a socket while twice as many bytes wait: with its 64 KiB, 16 times in an answer of FETCH_BYTES."""
RETRY_PAUSE = 0.1
"""Seconds before a request is sent again that another broker, or the same one a little later, can answer."""
_FENCED = 82
_QUESTIONS = "questions"
"""The group of the connections that take questions about offsets: aiokafka makes connections as they are named."""
_AGAIN = (
    errors.GroupLoadInProgressError,
    errors.GroupCoordinatorNotAvailableError,
    errors.NotCoordinatorForGroupError,
    errors.RequestTimedOutError,
    errors.RebalanceInProgressError,
)
_MOVED = (errors.GroupCoordinatorNotAvailableError, errors.NotCoordinatorForGroupError, errors.RequestTimedOutError)
_GONE = (errors.UnknownMemberIdError, errors.IllegalGenerationError)
_RIGHTS = {
    errors.GroupAuthorizationFailedError: "READ of the group",
    errors.TopicAuthorizationFailedError: "READ of the topic",
}


class GroupConsumer:
    """See Consumer."""

    def __init__(
        self, consumer: AIOKafkaConsumer, settings: ConsumerSettings, metrics: KafkaJournalMetrics, sink: str, clock: Clock
    ) -> None:
        self._consumer = consumer
        self._settings = settings
        self._metrics = metrics
        self._sink = sink
        self._clock = clock

    @staticmethod
    async def start(
        access: ClusterAccess, settings: ConsumerSettings, metrics: KafkaJournalMetrics, sink: str, clock: Clock
    ) -> "GroupConsumer":
        """A consumer that is connected, and no member yet. Raises JournalUnavailable with the reason."""
        try:
            metadata = await access.verify()
            consumer = AIOKafkaConsumer(**access.client_arguments(), **settings.arguments())
        except SinkError as error:
            raise JournalUnavailable(str(error)) from error
        steady(consumer._client, metadata)
        started = GroupConsumer(consumer, settings, metrics, sink, clock)
        try:
            with clients.unavailable(lambda error: f"no consumer could be started: {_explain(error)}"):
                async with clock.timeout(2 * settings.request_timeout):
                    await consumer.start()
        except BaseException:
            await started.stop()
            raise
        consumer._client.send = _patient(consumer._client, settings.rebalance_timeout)
        return started

    # Membership

    @property
    def member(self) -> Member:
        coordinator = self._consumer._coordinator
        return Member(coordinator.generation, coordinator.member_id)

    def partitions(self, topic: str) -> Collection[TopicPartition]:
        """Those that are known of a topic."""
        return [TopicPartition(topic, number) for number in self._consumer.partitions_for_topic(topic) or ()]

    async def know(self, topics: Iterable[str]) -> None:
        """Ask for the partitions of topics. Raises JournalUnavailable if one does not exist."""
        for topic in topics:
            await self._in_time(self._consumer._client._wait_on_metadata(topic), f"asking for topic {topic}")

    def join(self, topics: Collection[str], listener: Listener) -> None:
        """Become a member, and stay one until `stop`."""
        self._consumer.subscribe(list(topics), listener=_Listening(listener))

    def check(self) -> None:
        """Raise what keeps the membership from working, such as a right that is missing. It is tried again then."""
        with clients.unavailable(_explain):
            self._consumer._coordinator.check_errors()

    async def failed(self) -> None:
        """Return when the consumer does no more by itself."""
        consumer = self._consumer
        found = [consumer._coordinator._coordination_task, consumer._fetcher._fetch_task, consumer._client._sync_task]
        await asyncio.wait([task for task in found if task], return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """Disconnect. The membership stays, until its session ends. Nothing raises here, and nothing takes long."""
        await clients.stop(self._consumer)

    async def leave(self) -> None:
        """Give up the membership, so that others take the partitions over at once. Raises JournalUnavailable."""
        member = self.member
        if member != NOBODY:
            await self._ask(LeaveGroupRequest(self._settings.group, member.id))

    # Reading

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Read from there on. What was read ahead is forgotten. Raises OutletGone."""
        with self._ours(place):
            self._consumer.seek(place, offset)

    @contextmanager
    def _ours(self, place: TopicPartition) -> Iterator[None]:
        try:
            yield
        except (errors.IllegalStateError, AssertionError, AttributeError) as error:
            raise OutletGone(f"partition {place.partition} is not ours") from error

    def pause(self, place: TopicPartition) -> None:
        """Never read it. Raises OutletGone."""
        with self._ours(place):
            self._consumer.pause(place)

    def position(self, place: TopicPartition) -> int | None:
        """The offset after all that `read` has given, and after what it passed over: marks of transactions."""
        subscription = self._consumer._subscription.subscription
        state = subscription.assignment.state_value(place) if subscription and subscription.assignment else None
        return state.position if state and state.has_valid_position else None

    async def read(self, place: TopicPartition, max_records: int) -> list[Any]:
        """Records in order, from the position at the time when it *returns*; none after a while without any. If the group
        rebalances meanwhile, these are of the next assignment. Raises OutOfRange, DamagedMessage, or JournalUnavailable for
        all else."""
        patience = round(self._settings.read_patience * 1000)
        damage: Exception | None = None
        with clients.unavailable(lambda error: f"partition {place.partition} can't be read: {_explain(error)}"):
            try:
                found = await self._consumer.getmany(place, timeout_ms=patience, max_records=max_records)
                records: list[Any] = found.get(place, [])
                return records
            except errors.OffsetOutOfRangeError:
                pass
            except Exception as error:
                if not replicas.is_damage(error):
                    raise
                damage = error
        raise DamagedMessage(repr(damage)) if damage else OutOfRange

    def ask_another(self, place: TopicPartition) -> int:
        """Read a partition from another of its replicas for a while. Returns how many there are in sync."""
        replicas.ask_another(self._consumer, place, self._clock)
        return len(replicas.in_sync(self._consumer, place))

    # Offsets that a group has saved

    async def saved(self, places: Collection[TopicPartition], *, stable: bool = False) -> dict[TopicPartition, Saved]:
        """What the group has saved of these partitions, for those of which it has. stable: once transactions have ended."""
        kind = StableOffsetFetchRequest if stable else OffsetFetchRequest
        answer = await self._ask(kind(self._settings.group, _by_topic((place, place[1]) for place in places)))
        return {
            TopicPartition(topic, partition): Saved(offset, metadata or "")
            for topic, partitions in answer.topics
            for partition, offset, metadata, _ in partitions
            if offset >= 0
        }

    async def save(self, member: Member, offsets: Mapping[TopicPartition, Saved]) -> None:
        """Save these in one request, and so in one append of the brokers'."""
        if member != NOBODY and member != self.member:
            raise OutletGone("the membership has ended")
        data = _by_topic((place, (place.partition, *saved)) for place, saved in offsets.items())
        retention = OffsetCommitRequest.DEFAULT_RETENTION_TIME
        await self._ask(OffsetCommitRequest(self._settings.group, member.generation, member.id, retention, data), member)

    async def _ask(self, request: Any, member: Member | None = None) -> Any:
        """The coordinator's answer to a request of the group, if there is no error in it. Asks again while that helps."""
        failure = "no broker answers"
        with clients.unavailable(lambda error: f"group {self._settings.group}: {_told(error, failure)}"):
            async with self._clock.timeout(2 * self._settings.request_timeout):
                while True:
                    try:
                        return await self._ask_once(request, member)
                    except errors.KafkaError as error:
                        failure = _explain(error)
                        if member:
                            self._metrics.commit_errors.labels(self._sink, _kind(error)).inc()
                        if not isinstance(error, _AGAIN) and not getattr(error, "retriable", False):
                            raise JournalUnavailable(failure) from error
                        await self._clock.sleep(RETRY_PAUSE)

    async def _ask_once(self, request: Any, member: Member | None) -> Any:
        coordinator = self._consumer._coordinator
        await coordinator.ensure_coordinator_known()
        answer = await coordinator._send_req(request)
        for code in _codes(answer):
            kind = errors.GroupLoadInProgressError if code == UNSTABLE else errors.for_code(code)
            if kind in _MOVED:
                coordinator.coordinator_dead()
            if member and (kind in _GONE or code == _FENCED):
                self._metrics.commit_errors.labels(self._sink, "gone").inc()
                if member == self.member:
                    coordinator.reset_generation()  # it joins again
                raise OutletGone(f"group {self._settings.group}: {_explain(kind())}")
            if kind is errors.RebalanceInProgressError:
                coordinator.request_rejoin()
            if code:
                raise kind()
        return answer

    # Offsets of messages

    async def spans(self, places: Collection[TopicPartition]) -> dict[TopicPartition, Span]:
        first = await self._in_time(self._consumer.beginning_offsets(list(places)), "asking for the first offsets")
        ends = await self.ends(places)
        return {place: Span(first[place], ends[place]) for place in places}

    async def ends(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Without what belongs to transactions that have not ended."""
        found = await self._in_time(self._consumer.end_offsets(list(places)), "asking for the last offsets")
        return {place: found[place] for place in places}

    async def first_since(self, place: TopicPartition, received: int) -> tuple[int, int] | None:
        """Offset and time of the first message with this time or a later one, in milliseconds since the epoch."""
        asked = {place: min(received, 2**62)}
        found = (await self._in_time(self._consumer.offsets_for_times(asked), "asking for an offset"))[place]
        return (found.offset, found.timestamp) if found else None

    async def _in_time(self, call: Any, what: str) -> Any:
        with clients.unavailable(lambda error: f"{what}: {_explain(error)}"):
            async with self._clock.timeout(2 * self._settings.request_timeout):
                return await call


class _Listening(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """A Listener, as aiokafka wants it."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._listener.revoked()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._listener.assigned(assigned)


def _patient(client: Any, seconds: float) -> Any:
    """The client's `send`, which waits longer for answers that brokers hold back during a rebalance, and asks about offsets
    on connections of their own."""
    send = client.send

    async def patient(node: int, request: Any, **more: Any) -> Any:
        if isinstance(request, OffsetRequest):
            return await send(node, request, **{"group": _QUESTIONS} | more)
        if not isinstance(request, JoinGroupRequest | SyncGroupRequest):
            return await send(node, request, **more)
        if not await client.ready(node, **more):
            raise errors.NodeNotReadyError(f"broker {node} is not ready")
        connection = client._conns[node, more["group"]]
        usual, connection._request_timeout = connection._request_timeout, connection._request_timeout + seconds
        try:
            answer = connection.send(request)  # it has read the time when it returns
        finally:
            connection._request_timeout = usual
        try:
            found = await answer
        except TimeoutError as error:
            raise errors.RequestTimedOutError from error
        if found.error_code == _FENCED:
            found.error_code = errors.UnknownMemberIdError.errno
        return found

    return patient


def _by_topic(given: Iterable[tuple[TopicPartition, Any]]) -> list[tuple[str, list[Any]]]:
    """As requests have it: the values of each topic's partitions."""
    topics: dict[str, list[Any]] = {}
    for place, value in given:
        topics.setdefault(place.topic, []).append(value)
    return list(topics.items())


def _codes(answer: Any) -> list[int]:
    """The error codes in an answer of the coordinator's."""
    whole = [answer.error_code] if hasattr(answer, "error_code") else []
    return whole + [partition[-1] for _, partitions in getattr(answer, "topics", ()) for partition in partitions]


def _explain(error: BaseException) -> str:
    """What an error means, and what to do if a right is missing."""
    right = _RIGHTS.get(type(error))
    if right:
        return f"not authorized: the right {right} is missing ({error})"
    return getattr(error, "description", "") or clients.describe(error)


def _told(error: BaseException, before: str) -> str:
    """What is to be said of an error. before: what failed until the time was over."""
    return before if isinstance(error, TimeoutError) else _explain(error)


def _kind(error: Exception) -> str:
    """A label for a commit's error."""
    if type(error) in _RIGHTS:
        return "not_authorized"
    if isinstance(error, errors.RebalanceInProgressError):
        return "rebalance"
    return "unavailable" if isinstance(error, _AGAIN) or getattr(error, "retriable", False) else "refused"
