"""Messages on their way to the brokers: a queue for each partition, and one producer for all of them.

While a batch of a partition is under way, further messages wait, and are the next batch: a group commit. A message fails
once its time is over. A producer that failed, or got no acknowledgement in time, is let go of and another one begins:
aiokafka's does not recover from every failure (its sequence numbers would not fit). What it had under way is sent again by
the next one while there is time, so that a topic may have a message twice.

A message belongs to the partition that its key says. It goes to the next one instead while that has no leader or too few
replicas in sync. If a message that fails would be lost, it also goes to the next one when its partition made no progress
for STALLED seconds.

Once it was sent, it keeps its partition for ever, since it may be there although nobody said so: a partition that has a
message twice is read by one process, which passes the second one over. The same message in two partitions would be
delivered twice.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any

import structlog

from btfeed.journal.kafka import clients
from btfeed.journal.kafka.lane import Lane, Message, NotAcknowledged, refused
from btfeed.journal.kafka.messages import Headers
from sinks.base import BatchRefused, Misconfigured, SinkError
from sinks.kafka.access import ClusterAccess
from sinks.kafka.partitions import partition_of
from sinks.kafka.producer import Producer
from sinks.shared.clock import Clock

log = structlog.get_logger()

BATCH_BYTES = 2**20
"""Bytes of a batch before compression. A larger message is a batch of its own."""
STALLED = 1.0
"""Seconds without an acknowledgement after which a partition is passed over."""
PASSED_OVER = 10.0
"""Seconds that a partition is passed over after it was given up."""
TICK = 0.05
"""Seconds between two looks at the messages that wait."""
PAUSE = 0.25
"""Seconds between two attempts to start a producer."""
RETIRED_TIMEOUT = 4.0
"""Seconds that a producer that was let go of may still get acknowledgements."""
METADATA_AGE_MS = 30_000
"""Milliseconds after which the producer asks again which partitions there are."""


class Sending:
    """Keeps a producer while `run` runs.

    topic       the topic whose partitions are chosen by key
    timeout     seconds without an acknowledgement after which a producer is let go of
    sound       the partitions of `topic` that take messages; None if that is not known
    down        why there is no producer; None if there is one, or if the one that failed is being replaced
    tried       set once there was a producer, or a reason why not
    on_replaced  called for each producer that follows one that failed
    patient     whether messages that fail are kept, so that they don't pass over a partition for lack of progress: another
                process may have sent them there
    """

    def __init__(
        self,
        access: ClusterAccess,
        topic: str,
        timeout: float,
        request_timeout: float,
        compression: str,
        clock: Clock,
        on_replaced: Callable[[], object] = lambda: None,
        patient: bool = False,
    ) -> None:
        self.timeout = timeout
        self.sound: Collection[int] | None = None
        self.down: str | None = "the brokers have not been reached yet"
        self.tried = asyncio.Event()
        self._access = access
        self._on_replaced = on_replaced
        self._patient = patient
        self._topic = topic
        self._request_timeout = request_timeout
        self._compression = None if compression == "none" else compression
        self._clock = clock
        self._producer: Producer | None = None
        self._partitions = 0
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._failed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._retired: set[asyncio.Task[None]] = set()
        self._batch_bytes = BATCH_BYTES

    @property
    def up(self) -> bool:
        """Whether there is a producer."""
        return self._producer is not None and not self._producer.failed

    def limit(self, max_message: int | None) -> None:
        """Make batches no larger than the topic takes, from the next producer on."""
        self._batch_bytes = min(BATCH_BYTES, max_message or BATCH_BYTES)

    def grown(self, partitions: int) -> None:
        """Use all partitions, if the topic has more of them than the producer knows: the next one does."""
        if self.up and partitions > self._partitions:
            self._failed.set()

    # Messages in

    def put(
        self,
        key: bytes,
        value: bytes,
        timestamp: int,
        headers: Headers,
        *,
        route: bytes | None = None,
        partition: int | None = None,
        topic: str = "",
    ) -> "asyncio.Future[None]":
        """Send a message. The outcome is there once all replicas in sync have it.

        route      what the partition is chosen by, if it is not the key
        partition  the one that the message may be in
        topic      one with one partition, instead of the usual

        The outcome may be NotAcknowledged, after `timeout`, or PostTooLarge. Without a producer, raises NotAcknowledged.
        """
        if self.down is not None:
            raise NotAcknowledged(self.down, None)
        if partition is not None and partition >= self._partitions > 0:  # of a topic that was made again
            partition = None
        deadline = self._clock.monotonic() + self.timeout
        acknowledged: asyncio.Future[None] = self._loop.create_future()
        message = Message(key, value, timestamp, headers, deadline, acknowledged, sent=partition is not None)
        if partition is None:
            partition = 0 if topic else self._choose(route or key)
        self._put(self._lane(topic or self._topic, partition), [message])
        return acknowledged

    def _choose(self, key: bytes) -> int:
        """The partition of a key, or the next one that takes messages."""
        number = self._partitions
        if number < 2:
            return 0
        first = partition_of(key, number)
        if self._takes(first):
            return first
        return next((each % number for each in range(first + 1, first + number) if self._takes(each % number)), first)

    def _takes(self, partition: int) -> bool:
        if self.sound is not None and partition not in self.sound:
            return False
        if self._patient:
            return True
        lane = self._lanes.get((self._topic, partition))
        return lane is None or not (self._stalled(lane) or lane.passed_over_until > self._clock.monotonic())

    def _stalled(self, lane: Lane) -> bool:
        return lane.since is not None and self._clock.monotonic() - lane.since >= STALLED

    def _lane(self, topic: str, partition: int) -> Lane:
        return self._lanes.setdefault((topic, partition), Lane(topic, partition))

    def _put(self, lane: Lane, messages: Iterable[Message]) -> None:
        for message in messages:
            message.partition = lane.partition
            lane.waiting.append(message)
        self._arrived.set()
        self._start_lane(lane)

    def _start_lane(self, lane: Lane) -> None:
        if self.up and lane.waiting and (lane.task is None or lane.task.done()):
            lane.task = asyncio.create_task(self._send_lane(lane), name=f"{lane.topic} {lane.partition}")

    # Messages out

    async def _send_lane(self, lane: Lane) -> None:
        """Send until nothing waits, or there is no producer."""
        while lane.waiting and (producer := self._producer) and not producer.failed:
            batch = self._next_batch(lane, producer)
            if not lane.under_way:
                continue
            lane.since = self._clock.monotonic()
            try:
                await producer.send(batch, lane.topic, lane.partition)
            except asyncio.CancelledError:
                self._again(lane)
                raise
            except SinkError as error:
                self._not_taken(lane, error)
            except Exception as error:
                log.error("bug in the producer", exc_info=error)
                producer.failed = True
                self._again(lane)
            else:
                lane.error = ""
                for message in lane.under_way:
                    if not message.acknowledged.done():
                        message.acknowledged.set_result(None)
            finally:
                lane.since, lane.under_way = None, []
                if producer.failed:
                    self._failed.set()

    def _next_batch(self, lane: Lane, producer: Producer) -> Any:
        """A batch of what waits, which is then under way."""
        batch = producer.empty_batch()
        while lane.waiting and not (lane.singly and lane.under_way):
            message = lane.waiting[0]
            if not message.acknowledged.done():  # it may have been given up
                taken = batch.append(
                    key=message.key, value=message.value, timestamp=message.timestamp, headers=message.headers
                )
                if taken is None:
                    break
                message.sent = True
                lane.under_way.append(message)
            lane.waiting.popleft()
        lane.singly = max(0, lane.singly - 1)
        return batch

    def _not_taken(self, lane: Lane, error: SinkError) -> None:
        """What to do with messages that were sent and not acknowledged."""
        if isinstance(error, BatchRefused):
            if len(lane.under_way) > 1:  # one of them may be the reason
                lane.singly = len(lane.under_way)
                self._again(lane)
            else:
                for message in lane.under_way:
                    message.refuse(refused(error))
        elif isinstance(error, Misconfigured):
            for message in (*lane.under_way, *lane.waiting):
                message.refuse(refused(error))
            lane.waiting.clear()
        else:
            lane.error = str(error)
            log.debug("producer failed", topic=lane.topic, partition=lane.partition, error=lane.error)
            self._again(lane)

    def _again(self, lane: Lane) -> None:
        """Let what is under way be sent again, first of all."""
        lane.waiting.extendleft(reversed([each for each in lane.under_way if not each.acknowledged.done()]))

    @staticmethod
    def _fail(messages: Iterable[Message], reason: str) -> None:
        for message in messages:
            message.fail(reason)

    # Time

    async def _watch(self) -> None:
        """Give up messages whose time is over, and partitions without progress."""
        while True:
            await self._arrived.wait()
            while any(lane.waiting or lane.under_way for lane in self._lanes.values()):
                for lane in list(self._lanes.values()):
                    self._look_at(lane, self._clock.monotonic())
                await self._clock.sleep(TICK)
            self._arrived.clear()

    def _look_at(self, lane: Lane, now: float) -> None:
        late = [each for each in (*lane.under_way, *lane.waiting) if each.deadline <= now and not each.acknowledged.done()]
        if late:
            reason = f": {lane.error}" if lane.error else ""
            self._fail(late, f"topic {lane.topic}: no acknowledgement in {self.timeout:g} s{reason}")
            lane.waiting = deque(each for each in lane.waiting if not each.acknowledged.done())
        if lane.since is None or lane.task is None:
            return
        if now - lane.since >= self.timeout:
            lane.passed_over_until = now + PASSED_OVER
            lane.task.cancel()  # the producer has failed then, since it may still send the batch
        elif self._stalled(lane) and lane.topic == self._topic and lane.waiting and not self._patient:
            self._move(lane)

    def _move(self, lane: Lane) -> None:
        """Let what waits behind a batch without progress go to another partition."""
        partition = next((each for each in range(self._partitions) if self._takes(each)), None)
        if partition is not None:
            waiting, lane.waiting = lane.waiting, deque(each for each in lane.waiting if each.sent)
            self._put(self._lane(lane.topic, partition), [each for each in waiting if not each.sent])

    # The producer

    async def run(self) -> None:
        """Have a producer, and another one after each failure, until it is cancelled."""
        watching = asyncio.create_task(self._watch(), name="sending")
        try:
            while True:
                began = self._clock.monotonic()
                await self._run_producer()
                self._on_replaced()
                if self._clock.monotonic() - began < PAUSE:  # the next one would fail as soon
                    await self._clock.sleep(PAUSE)
        finally:
            watching.cancel()
            await self._close()

    async def _run_producer(self) -> None:
        """A producer from its start until it fails."""
        starting = asyncio.create_task(self._start(), name="producer starts")
        try:
            producer = await asyncio.shield(starting)
        except (Exception, asyncio.CancelledError) as error:
            if clients.is_ours(error):
                self._retire(self._stop_once_started(starting))  # cancelled, aiokafka would leave connections open
                raise
            self.down = clients.describe(error)
            self.tried.set()
            for lane in self._lanes.values():
                self._fail(lane.waiting, self.down)
                lane.waiting.clear()
            return
        self._failed.clear()
        self._producer, self.down = producer, None
        self.tried.set()
        try:
            for lane in self._lanes.values():
                self._start_lane(lane)
            await self._failed.wait()
        finally:
            self._producer = None
            self._retire(producer.stop(RETIRED_TIMEOUT))

    def _retire(self, work: Coroutine[Any, Any, None]) -> None:
        """Let go of a producer, in the background."""
        retired = asyncio.create_task(work, name="producer let go of")
        self._retired.add(retired)
        retired.add_done_callback(self._retired.discard)

    @staticmethod
    async def _stop_once_started(starting: "asyncio.Task[Producer]") -> None:
        with suppress(Exception, asyncio.CancelledError):
            await (await starting).stop(0)

    async def _start(self) -> Producer:
        settings = {
            "compression_type": self._compression,
            "max_batch_size": self._batch_bytes,
            "metadata_max_age_ms": METADATA_AGE_MS,
        }
        producer = await Producer.start(self._access, None, self._request_timeout, self._clock, **settings)
        try:
            known, faults = await producer.partitions([self._topic])
            if faults:
                raise faults[self._topic]
        except BaseException:
            await producer.stop(0)
            raise
        self._partitions = known[self._topic]
        return producer

    async def _close(self) -> None:
        lanes: Sequence[Lane] = list(self._lanes.values())
        tasks = [lane.task for lane in lanes if lane.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lane in lanes:
            self._fail((*lane.under_way, *lane.waiting), "the journal is closed")
        if self._retired:
            await asyncio.wait(self._retired, timeout=2 * RETIRED_TIMEOUT)
