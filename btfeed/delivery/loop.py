"""Delivery: takes posts from one outlet of the journal to one sink, and saves how far it has come.

    Batcher        reads posts after the cursor, filters records, cuts batches (batching.py)
    BatchWriter    writes a batch until each record is delivered or a dead letter (writer.py); `in_flight` at a time
    BlockedDestinations
                   knows which destinations of the sink take nothing: their records wait aside (destinations.py)
    OffsetTracker  moves the cursor over settled batches, and saves it with the sink's state and the dead letters in one
                   commit (offsets.py)

Deliveries share only the mapped posts, so a sink that is down holds up nothing else.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import structlog
from structlog.contextvars import bound_contextvars

from btfeed.delivery.batching import Batcher
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.offsets import InFlightBatch, OffsetTracker
from btfeed.delivery.report import SinkReport
from btfeed.delivery.retry import RetryPause
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.delivery.shared_sink import SharedSink
from btfeed.delivery.writer import BatchWriter
from btfeed.journal.base import (
    NO_TRANSACTION,
    Commit,
    Cursor,
    DeadLetter,
    JournalError,
    Outlet,
    OutletGone,
)
from btfeed.journal.transactional import TransactionalOutlet
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from sinks.base import SerialSink, Sink, StartAgain, TransactionalSink
from sinks.batch import Batch
from sinks.shared.clock import SYSTEM_CLOCK, Clock

log = structlog.get_logger()

RETRIES_INTERVAL = 1.0
"""Seconds between looks for dead letters that are marked for retry."""
READ_PATIENCE = 60.0
"""Seconds that a read waits for posts before it asks the journal again."""
COUNT_INTERVAL = 5.0
"""Seconds between counts of the dead letters that wait for blocked destinations."""
READ_RETRY = 0.5
"""Seconds before the journal is read again after an error."""


class Delivery:
    """One sink's delivery from one partition. `run` returns after `stop`, or when the partition is gone.

    closing  all is saved that will be, and the sink is being closed or is closed
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        serial: bool,
        delivery: DeliverySettings,
        filter: FilterSettings,
        outlet: Outlet,
        mapped_posts: MappedPosts,
        metrics: Metrics,
        status: SinkStatus | None = None,
        *,
        tap: Callable[[Batch], object] = lambda batch: None,
        shared: SharedSink | None = None,
        transactional: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """tap: called with each batch of records that was read for it. shared: what `sink` is a use of, if anything.
        transactional: see SinkType; the outlet is a TransactionalOutlet then."""
        self.name = name
        self.status = status or SinkStatus()
        self.closing = False
        self._sink = sink
        self._serial = serial
        self._transactional = transactional
        self._settings = delivery
        self._filter = filter
        self._outlet = outlet
        self._mapped_posts = mapped_posts
        self._metrics = metrics
        self._tap = tap
        self._clock = clock
        self._log = log.bind(sink=name, partition=outlet.partition)
        self._stopping = asyncio.Event()
        self._queue: asyncio.Queue[InFlightBatch | None] = asyncio.Queue()  # None ends a writer
        self._saved_in_transactions = 0
        self._report = SinkReport(name, self.status, metrics, clock)
        if shared:
            pause, turn = shared.pause(delivery, self._stopping, clock), shared.turn
        else:
            pause, turn = RetryPause(delivery.retry_initial, delivery.retry_max, self._stopping, clock), None
        self._pause = pause
        self._writer = BatchWriter(name, sink, delivery.max_age, pause, self._report, clock, turn)
        self._blocked = self._writer.blocked

    async def run(self) -> None:
        """Open the sink, then deliver to it. The sink is closed on return."""
        try:
            with bound_contextvars(sink=self.name):  # for logs of libraries, and of parts that do not know the sink
                await self._run()
        except* OutletGone:
            self._log.info("partition gone, delivery ended")

    def stop(self) -> None:
        """Let `run` return once the writes in progress have ended. What is not settled then is delivered again."""
        self._stopping.set()

    def cut_off(self) -> bool:
        """After `stop`: cancel the writes in progress, so that `run` saves what is settled, and returns. False if there are
        none: `run` waits for something else."""
        return self._writer.cut_off()

    async def _run(self) -> None:
        try:
            with self._mapped_posts.taking(self._outlet.partition):
                if self._transactional:
                    await self._run_in_transactions()
                else:
                    begin = await self._begin()
                    if begin and not self._stopping.is_set() and await self._writer.open(begin[1]):
                        await self._deliver(*begin)
        finally:
            self.closing = True
            self._report.stopped()
            await self._sink.close()

    async def _run_in_transactions(self) -> None:
        """Where a transaction fails, all that was not saved is written again. The sink is opened before the cursor is read,
        so that no earlier owner of its transactions can move that any more."""
        transactions = self._metrics.kafka_journal.transactions
        attempt = 0
        while not self._stopping.is_set() and await self._writer.open(None):
            saved_before = self._saved_in_transactions
            try:
                if begin := await self._begin():
                    await self._deliver(*begin)
                return
            except BaseExceptionGroup as failures:
                failed, others = failures.split(StartAgain)
                if others or failed is None:  # what became of the transaction does not matter then
                    raise others or failures from None
            transactions.labels(self.name, "aborted").inc()
            self._report.failed(_first(failed))
            self._queue = asyncio.Queue()
            await self._sink.close()
            attempt = attempt + 1 if self._saved_in_transactions == saved_before else 0
            if await self._pause.wait(attempt):
                return

    async def _save_in_transaction(self, commit: Commit) -> None:
        outlet, sink = cast("TransactionalOutlet", self._outlet), cast("TransactionalSink", self._sink)
        await outlet.commit_in(commit, sink.commit)
        self._saved_in_transactions += 1
        self._metrics.kafka_journal.transactions.labels(self.name, "committed").inc()

    async def _begin(self) -> tuple[Cursor, str | None] | None:
        """Where to begin, and the sink's state. None if the delivery stops before the journal says it."""
        failing = False
        while not self._stopping.is_set():
            try:
                if self._transactional:
                    await cast("TransactionalOutlet", self._outlet).refresh()
                found = await self._outlet.cursor()
                self._blocked.count(await self._outlet.destinations())
            except OutletGone:
                raise
            except JournalError as error:
                failing = self._note_unreadable(error, failing)
                await self._clock.sleep(READ_RETRY)
            else:
                return found
        return None

    def _note_unreadable(self, error: JournalError, failing: bool) -> bool:
        """failing: whether it is known that the journal can't be read. Now it is."""
        if not failing:
            self._log.warning("can't read the journal, retrying", error=str(error))
        return True

    async def _deliver(self, cursor: Cursor, state: str | None) -> None:
        """Read, write and save until stopped: reading ends at once, then the writes, then the saving."""
        saved = cast("SerialSink", self._sink).saved if self._serial else None
        writers = 1 if self._transactional else self._settings.in_flight
        save = self._save_in_transaction if self._transactional else None
        async with asyncio.TaskGroup() as group:
            tracker = OffsetTracker(
                self._outlet, cursor, state, writers, saved, self._blocked.saved, group, self._clock, save
            )
            readers = [
                group.create_task(self._read_batches(tracker, cursor)),
                group.create_task(self._retry_marked(tracker)),
                group.create_task(self._retry_blocked(tracker)),
            ]
            for _ in range(writers):
                group.create_task(self._write_batches(tracker))
            await self._stopping.wait()
            for reader in readers:
                reader.cancel()
            for _ in range(writers):
                self._queue.put_nowait(None)

    # From the journal to the queue

    async def _read_batches(self, tracker: OffsetTracker, cursor: Cursor) -> None:
        filtered = self._metrics.filtered.labels(self.name).inc
        batcher = Batcher(
            self._outlet, self._mapped_posts, self._settings, self._filter, cursor, filtered, clock=self._clock
        )
        failing = False
        while True:
            try:
                found = await batcher.next(READ_PATIENCE)
            except OutletGone:
                raise
            except JournalError as error:
                failing = self._note_unreadable(error, failing)
                await self._clock.sleep(READ_RETRY)
                continue
            failing = False
            if found:
                self._tap(found.batch)
                self._log.debug("batch cut", records=len(found.batch), seq=found.end.seq, ordinal=found.end.ordinal)
                added = await tracker.add(found.batch, found.end, found.dead_letters, found.received)
                await self._enqueue(tracker, added)

    # From dead letters to the queue

    async def _retry_marked(self, tracker: OffsetTracker) -> None:
        """Write the dead letters that are marked for retry, one batch after the other."""
        while True:
            try:
                found = await tracker.retries(self._settings.max_records)
                if found:
                    tried = await self._enqueue_retry(tracker, found)
                    await tracker.retries_saved(tried)
                    if tried.retried:
                        continue
            except OutletGone:
                raise
            except JournalError:  # reported by those who read and save
                pass
            await self._clock.sleep(RETRIES_INTERVAL)

    async def _enqueue_retry(
        self, tracker: OffsetTracker, found: Sequence[DeadLetter], destination: str = ""
    ) -> InFlightBatch:
        batch = _batch(found)
        fits = max(1, batch.fitting(len(batch), self._settings.max_bytes))
        retried = {dead_letter.event_id: dead_letter for dead_letter in found[:fits] if dead_letter.event_id}
        in_flight = await tracker.add_retry(batch.slice(0, fits), retried, destination)
        await self._enqueue(tracker, in_flight)
        return in_flight

    async def _retry_blocked(self, tracker: OffsetTracker) -> None:
        """Try blocked destinations again, one after the other, each after its pause."""
        next_count = self._clock.monotonic() + COUNT_INTERVAL
        while True:
            name = await self._blocked.due()
            try:
                if self._clock.monotonic() >= next_count:
                    self._blocked.count(await self._outlet.destinations())
                    next_count = self._clock.monotonic() + COUNT_INTERVAL
                await self._try_again(tracker, name)
            except OutletGone:
                raise
            except JournalError:  # reported by those who read and save
                self._blocked.later(name)

    async def _try_again(self, tracker: OffsetTracker, name: str) -> None:
        """Write what waits for a destination, in order, until it takes no more or nothing is left. The first record is
        written alone, so that a destination that still takes nothing costs little."""
        limit = 1
        while True:
            in_journal = self._blocked.in_journal(name)
            found = await tracker.waiting(name, limit)
            if found is None and self._blocked.open(name, in_journal):
                return
            if not found:  # not saved yet, or retried by an operator
                self._blocked.later(name)
                return
            tried = await self._enqueue_retry(tracker, found, name)
            await tracker.retries_saved(tried)
            if tried.outcome is None or tried.outcome.waiting_again:
                self._blocked.failed(name)
                return
            limit = self._settings.max_records

    async def _enqueue(self, tracker: OffsetTracker, in_flight: InFlightBatch) -> None:
        """A transaction ends between writes, so that all batches go the same way if they are part of one."""
        if len(in_flight.records) or self._transactional:
            self._queue.put_nowait(in_flight)
        else:
            await tracker.settle(in_flight)

    # From the queue to the sink

    async def _write_batches(self, tracker: OffsetTracker) -> None:
        """One of `in_flight` writers. A serial sink's first batch is empty."""
        in_flight = tracker.add_empty() if self._serial else await self._dequeue(tracker)
        while in_flight:
            outcome = await self._writer.write(in_flight.records, in_flight.retried, in_flight.destination)
            if outcome is not None:
                for dead_letter in in_flight.retried.values():
                    self._blocked.end_try(dead_letter.destination)
                if in_flight.received is not None and outcome.delivered:
                    self._report.delivered(in_flight.received)
                await tracker.settle(in_flight, outcome)
            in_flight = await self._dequeue(tracker)

    async def _dequeue(self, tracker: OffsetTracker) -> InFlightBatch | None:
        """The next batch, or an empty one when the sink asked to be called again. None at the end."""
        again_at = self._writer.call_again_at
        try:
            async with self._clock.timeout(None if again_at is None else again_at - self._clock.monotonic()):
                in_flight = await self._queue.get()
        except TimeoutError:
            in_flight = tracker.add_empty()
        return None if self._stopping.is_set() else in_flight


def _first(failures: BaseExceptionGroup[StartAgain]) -> StartAgain:
    """One of the errors in a group, which may have groups."""
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, StartAgain)
    return found


def _batch(dead_letters: Sequence[DeadLetter]) -> Batch:
    """The records of dead letters, as they were."""
    lines = [dead_letter.body + b"\n" for dead_letter in dead_letters]
    return Batch(
        [dead_letter.event_id or "" for dead_letter in dead_letters],
        [dead_letter.key for dead_letter in dead_letters],
        [dead_letter.timestamp for dead_letter in dead_letters],
        [dead_letter.transaction or NO_TRANSACTION for dead_letter in dead_letters],
        [len(line) for line in lines],
        [memoryview(line) for line in lines],
    )
