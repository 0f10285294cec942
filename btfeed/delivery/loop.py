"""Delivery: one loop for each sink, from its cursor in the journal to the sink and back to the cursor.

    Batcher      (btfeed/delivery/batching.py) reads posts after the cursor, filters, cuts them by records, bytes and linger
    _write_all   `in_flight` of them take batches and write each until it is settled: every record of it delivered or kept
                 as a dead letter. They retry with full jitter and never give up
    OffsetTracker   (offsets.py) moves the cursor to the end of the contiguous run of settled batches, and saves it
                 with the sink's state and the dead letters in one commit

Nothing here is shared with another sink but the feed of mapped posts, so that a sink that is down holds back only itself.
"""

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Sequence
from typing import TypeVar, cast

import structlog

from btfeed.delivery.batching import Batcher, DeliverySettings, FilterSettings
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.offsets import InFlightBatch, OffsetTracker
from btfeed.journal.base import Cursor, DeadLetter, Journal, JournalError
from btfeed.records.schema import UNKNOWN
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus, State
from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, SerialSink, Sink, Unavailable, WriteResult
from sinks.batch import Batch, Transaction

log = structlog.get_logger()

T = TypeVar("T")

LOOK_AGAIN = 1.0
"""Seconds between looks for dead letters to try again."""
READ_RETRY = 0.5
"""Seconds before the journal is read again after an error."""


class Delivery:
    """The loop of one sink. `run` never returns by itself; `stop` ends it."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        serial: bool,
        delivery: DeliverySettings,
        filter: FilterSettings,
        journal: Journal,
        feed: MappedPosts,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.status = SinkStatus()
        self._sink = sink
        self._serial = serial
        self._settings = delivery
        self._filter = filter
        self._journal = journal
        self._feed = feed
        self._metrics = metrics
        self._log = log.bind(sink=name)
        self._stopping = asyncio.Event()
        self._settlement: OffsetTracker
        self._queue: asyncio.Queue[InFlightBatch | None] = asyncio.Queue()
        self._again_at: float | None = None  # when the sink wants to be called again, by the loop's clock
        self._bugs: set[tuple[type[Exception], str, int | None]] = set()  # those that were logged
        metrics.sink_up.labels(name).set(0)

    async def run(self) -> None:
        """Open the sink, then deliver to it until `stop`."""
        cursor, state = await self._journal.cursor(self.name)
        try:
            if await self._open(state):
                await self._deliver_all(cursor, state)
        finally:
            self.status.state = "stopped"
            self._metrics.sink_up.labels(self.name).set(0)
            await self._sink.close()

    def stop(self) -> None:
        """Let `run` return once the writes under way have ended. What is not settled then comes again."""
        self._stopping.set()

    async def _open(self, state: str | None) -> bool:
        attempt = 0
        while not self._stopping.is_set():
            try:
                await _uncancelled(self._sink.open(state))
            except Exception as error:  # noqa: BLE001 - sorted out by _failed
                await self._pause(attempt, self._failed(error))
                attempt += 1
            else:
                self._works()
                return True
        return False

    async def _deliver_all(self, cursor: Cursor, state: str | None) -> None:
        """Ends when all of it has: on a stop the reading at once, then the writes, then the saving."""
        async with asyncio.TaskGroup() as group:
            saved = cast("SerialSink", self._sink).saved if self._serial else None
            settlement = OffsetTracker(self.name, self._journal, saved, self._settings.in_flight, cursor, state, group)
            self._settlement = settlement
            producer = group.create_task(self._produce(cursor))
            for _ in range(self._settings.in_flight):
                group.create_task(self._write_all())
            await self._stopping.wait()
            producer.cancel()
            for _ in range(self._settings.in_flight):
                self._queue.put_nowait(None)

    # From the journal to assignments

    async def _produce(self, cursor: Cursor) -> None:
        filtered = self._metrics.filtered.labels(self.name).inc
        batcher = Batcher(self._journal, self._feed, self._settings, self._filter, cursor, filtered)
        failing = False
        look_again = 0.0
        while True:
            try:
                if time.monotonic() >= look_again:
                    await self._try_letters_again()
                    look_again = time.monotonic() + LOOK_AGAIN
                found = await batcher.next(LOOK_AGAIN)
            except JournalError as error:
                if not failing:
                    self._log.warning("can't read the journal; trying on", error=str(error))
                failing = True
                await asyncio.sleep(READ_RETRY)
                continue
            failing = False
            if found:
                await self._assign(InFlightBatch(found.batch, found.end, found.dead_letters))

    async def _try_letters_again(self) -> None:
        """Take up the dead letters of this sink that a person wants tried again."""
        trying = frozenset(self._settlement.trying)  # before asking: what is saved meanwhile may be in the answer
        letters = await self._journal.retries(self.name, self._settings.max_records)
        letters = [letter for letter in letters if letter.id not in trying]
        if letters:
            batch = _batch(letters)
            fits = max(1, batch.fitting(len(batch), self._settings.max_bytes))
            again = {letter.event_id: letter for letter in letters[:fits] if letter.event_id}
            await self._assign(InFlightBatch(batch.slice(0, fits), self._settlement.end, [], again))

    async def _assign(self, assignment: InFlightBatch) -> None:
        await self._settlement.add(assignment)
        if len(assignment.batch):
            self._queue.put_nowait(assignment)
        else:
            await self._settlement.settle(assignment)

    # From assignments to the sink

    async def _write_all(self) -> None:
        """One of `in_flight` writers."""
        assignment = self._settlement.nothing() if self._serial else await self._take()
        while assignment:
            await self._deliver(assignment)
            if assignment.settled:
                await self._settlement.settle(assignment)
            assignment = await self._take()

    async def _take(self) -> InFlightBatch | None:
        """The next assignment, or nothing to write where the sink asked for that; None at the end."""
        try:
            async with asyncio.timeout_at(self._again_at):
                assignment = await self._queue.get()
        except TimeoutError:
            assignment = self._settlement.nothing()
        return None if self._stopping.is_set() else assignment

    async def _deliver(self, assignment: InFlightBatch) -> None:
        """Write until every record is delivered or kept as a dead letter, or the loop is stopped in a pause."""
        pieces = [assignment.batch]  # the next one last
        attempt = 0
        while pieces:
            piece = self._without_expired(assignment, pieces.pop())
            if not len(piece) and len(assignment.batch):
                continue
            left, least = await self._write(assignment, piece)
            pieces += left
            if least is None or not left or len(left[0]) < len(piece):
                attempt = 0
            if least is not None:
                if await self._pause(attempt, least) and pieces:
                    return
                attempt += 1
        assignment.settled = True

    async def _write(self, assignment: InFlightBatch, piece: Batch) -> tuple[list[Batch], float | None]:
        """Write once. Returns what is left to write, and the least time to wait before that, None where it need not."""
        started = time.perf_counter()
        try:
            result = await _uncancelled(self._sink.write(piece))
            _check(result, len(piece))
        except Exception as error:  # noqa: BLE001 - sorted out by _failed
            if isinstance(error, BatchRefused) and len(piece):
                return self._halved(assignment, piece, str(error)), None
            if isinstance(error, OutcomeUnknown):
                self._metrics.unknown.labels(self.name).inc(len(piece))
                if not error.again:
                    for index in range(len(piece)):
                        self._bury(assignment, piece, index, "unknown", str(error))
                    return [], self._failed(error)
            self._count_retried(len(piece))
            return [piece], self._failed(error)
        self._metrics.batch_seconds.labels(self.name).observe(time.perf_counter() - started)
        again_after = result.again_after
        self._again_at = None if again_after is None else asyncio.get_running_loop().time() + again_after
        self._delivered(assignment, piece, result)
        if len(result.retry) < max(1, len(piece)):
            self._works()
        if not result.retry:
            return [], None
        self._count_retried(len(result.retry))
        return [piece.take(sorted(result.retry))], 0.0

    def _halved(self, assignment: InFlightBatch, piece: Batch, reason: str) -> list[Batch]:
        """What to write in the place of a batch that was refused: its halves; a record that is alone was the culprit."""
        self._metrics.sink_errors.labels(self.name, "batch_refused").inc()
        self._works()
        if len(piece) == 1:
            self._delivered(assignment, piece, WriteResult(refused={0: reason}))
            return []
        half = len(piece) // 2
        return [piece.slice(half, len(piece)), piece.slice(0, half)]

    def _delivered(self, assignment: InFlightBatch, piece: Batch, result: WriteResult) -> None:
        """Note what became of each record of `piece`."""
        if result.state is not None:
            assignment.state = result.state
        for index, reason in result.refused.items():
            self._bury(assignment, piece, index, "refused", reason)
        self._metrics.refused.labels(self.name).inc(len(result.refused))
        self._metrics.unknown.labels(self.name).inc(result.unknown)
        for what, number in result.flagged.items():
            self._metrics.flagged.labels(self.name, what).inc(number)
        not_delivered = {*result.refused, *result.retry}
        delivered = len(piece) - len(not_delivered)
        self.status.delivered += delivered
        self._metrics.delivered.labels(self.name).inc(delivered)
        nbytes = piece.nbytes - sum(len(piece.body(index)) + 1 for index in not_delivered)
        self._metrics.delivered_bytes.labels(self.name).inc(nbytes)
        if assignment.letters:
            assignment.redelivered += [
                assignment.letters[event_id].id for index, event_id in enumerate(piece.ids) if index not in not_delivered
            ]

    def _without_expired(self, assignment: InFlightBatch, piece: Batch) -> Batch:
        max_age = self._settings.max_age
        if max_age is None or not len(piece):
            return piece
        oldest = (time.time() - max_age) * 1000
        if min(piece.timestamps) >= oldest:
            return piece
        fresh = []
        for index, timestamp in enumerate(piece.timestamps):
            if timestamp >= oldest:
                fresh.append(index)
            else:
                self._bury(assignment, piece, index, "expired", f"expired: older than {max_age:g} s")
        return piece.take(fresh)

    def _bury(self, assignment: InFlightBatch, piece: Batch, index: int, kind: str, reason: str) -> None:
        event_id = piece.ids[index]
        if event_id in assignment.letters:
            assignment.refused_again[assignment.letters[event_id].id] = reason
            return
        self.status.dead_letters += 1
        self._metrics.dead_letters.labels(self.name, kind).inc()
        assignment.dead_letters.append(
            DeadLetter(
                "record", self.name, reason, time.time_ns() // 1_000_000, piece.body(index), 1, event_id,
                piece.keys[index], piece.timestamps[index], piece.transactions[index],
            )
        )  # fmt: skip

    # Failures

    def _works(self) -> None:
        if self.status.state != "running":
            self._log.info("sink is running", after=self.status.state)
        self.status.state = "running"
        self._metrics.sink_up.labels(self.name).set(1)

    def _failed(self, error: Exception) -> float:
        """Note an error of the sink; returns the least time to wait before the next try."""
        state: State = "misconfigured" if isinstance(error, Misconfigured) else "unavailable"
        known = isinstance(error, (Misconfigured, Unavailable, BatchRefused))
        message = str(error) if known else f"bug: {error!r}"
        if not known and _place(error) not in self._bugs:
            self._bugs.add(_place(error))
            self._log.error("a bug in the sink; its records are kept and written again", exc_info=error)
        elif (state, message) != (self.status.state, self.status.last_error):
            self._log.warning(f"sink is {state}", error=message)
        self.status.state = state
        self.status.last_error = message
        self.status.last_error_time = time.time_ns() // 1_000_000
        self._metrics.sink_up.labels(self.name).set(0)
        self._metrics.sink_errors.labels(self.name, state if known else "bug").inc()
        return error.retry_after if isinstance(error, Unavailable) else 0.0

    def _count_retried(self, records: int) -> None:
        self.status.retried += records
        self._metrics.retried.labels(self.name).inc(records)

    async def _pause(self, attempt: int, least: float) -> bool:
        """Wait before the next try: exponential, full jitter, `least` seconds at least. True: stop instead."""
        ceiling = min(self._settings.retry_max, self._settings.retry_initial * 2 ** min(attempt, 30))
        try:
            async with asyncio.timeout(max(least, random.uniform(0, ceiling))):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True


async def _uncancelled(call: Awaitable[T]) -> T:
    """What `call` returns. A sink that was cancelled from within would end its loop, and nobody would hear of it."""
    try:
        return await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
        raise RuntimeError("the sink cancelled itself") from None


def _check(result: WriteResult, records: int) -> None:
    """Raises ValueError where a sink says what it can't mean."""
    named = [*result.retry, *result.refused]
    if len(set(named)) < len(named) or not all(0 <= index < records for index in named):
        raise ValueError(f"of a batch of {records}, it named the records {sorted(named)}")


def _place(error: Exception) -> tuple[type[Exception], str, int | None]:
    """Where `error` was raised, so that one bug is logged once whatever its message."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error), last.filename, last.lineno


def _batch(letters: Sequence[DeadLetter]) -> Batch:
    """The records of dead letters as they were."""
    lines = [letter.body + b"\n" for letter in letters]
    return Batch(
        [letter.event_id or "" for letter in letters],
        [letter.key for letter in letters],
        [letter.timestamp for letter in letters],
        [letter.transaction or Transaction("", "", "", "", UNKNOWN) for letter in letters],
        [len(line) for line in lines],
        [memoryview(line) for line in lines],
    )
