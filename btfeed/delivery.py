"""Delivery: one loop for each sink, from its cursor in the journal to the sink and back to the cursor.

    Batcher      (btfeed/batching.py) reads posts after the cursor, filters, cuts them by records, bytes and linger
    _write_all   `in_flight` of them take batches and write each until it is settled: every record of it delivered or kept
                 as a dead letter. They retry with full jitter and never give up
    _settle      moves the cursor to the end of the contiguous run of settled batches, in whatever order they finished;
    _save        saves it with the sink's state and the dead letters in one commit

Nothing here is shared with another sink but the feed of mapped posts, so that a sink that is down holds back only itself.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import structlog

from btfeed.batching import Batcher, DeliverySettings, FilterSettings
from btfeed.feed import Feed
from btfeed.journal.base import Commit, Cursor, DeadLetter, Journal, JournalError
from btfeed.metrics import Metrics
from btfeed.schema import UNKNOWN
from btfeed.status import SinkStatus, State
from sinks.base import Batch, BatchRefused, Misconfigured, Sink, Transaction, Unavailable, WriteResult

log = structlog.get_logger()

LOOK_AGAIN = 1.0
"""Seconds between looks for dead letters to try again."""
COMMIT_RETRY = 0.5
"""Seconds before a commit that failed is tried again."""
MAX_UNSAVED_LETTERS = 10_000
"""Dead letters that may wait in memory while the journal can't save them; then the sink waits too."""


@dataclass(slots=True)
class _Assignment:
    """A slice under way, and what its settlement will say. letters: event.id -> the dead letter that is tried again."""

    batch: Batch
    end: Cursor
    dead_letters: list[DeadLetter]
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    redelivered: list[int] = field(default_factory=list)
    refused_again: dict[int, str] = field(default_factory=dict)
    state: str | None = None
    settled: bool = False


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
        feed: Feed,
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
        self._queue: asyncio.Queue[_Assignment | None] = asyncio.Queue(maxsize=1)
        self._under_way: deque[_Assignment] = deque()  # in the order of the journal
        self._state: str | None = None
        self._end = self._settled = Cursor(0)  # behind what was assigned, and behind what is settled
        self._unsaved: Commit | None = None
        self._saving: asyncio.Task[None] | None = None
        self._trying: set[int] = set()  # dead letters that are tried again, until that is saved
        self._bugs: set[str] = set()  # those that were logged
        metrics.sink_up.labels(name).set(0)

    async def run(self) -> None:
        """Open the sink, then deliver to it until `stop`."""
        cursor, self._state = await self._journal.cursor(self.name)
        self._end = self._settled = cursor
        try:
            if await self._open():
                await self._deliver_all(cursor)
            if self._saving:
                await self._saving
        finally:
            self.status.state = "stopped"
            self._metrics.sink_up.labels(self.name).set(0)
            await self._sink.close()

    def stop(self) -> None:
        """Let `run` return once the writes under way have ended. What is not settled then comes again."""
        self._stopping.set()

    async def _open(self) -> bool:
        attempt = 0
        while not self._stopping.is_set():
            try:
                await self._sink.open(self._state)
            except Exception as error:  # noqa: BLE001 - sorted out by _failed
                await self._pause(attempt, self._failed(error))
                attempt += 1
            else:
                self._works()
                return True
        return False

    async def _deliver_all(self, cursor: Cursor) -> None:
        async with asyncio.TaskGroup() as group:
            producer = group.create_task(self._produce(cursor))
            writers = [group.create_task(self._write_all()) for _ in range(self._settings.in_flight)]
            await self._stopping.wait()
            producer.cancel()
            for _ in writers:
                await self._queue.put(None)

    # From the journal to assignments

    async def _produce(self, cursor: Cursor) -> None:
        filtered = self._metrics.filtered.labels(self.name).inc
        batcher = Batcher(self._journal, self._feed, self._settings, self._filter, cursor, filtered)
        look_again = 0.0
        while True:
            try:
                if time.monotonic() >= look_again:
                    await self._try_letters_again()
                    look_again = time.monotonic() + LOOK_AGAIN
                found = await batcher.next(LOOK_AGAIN)
            except JournalError as error:
                self._log.warning("can't read the journal", error=str(error))
                await asyncio.sleep(COMMIT_RETRY)
                continue
            if found:
                await self._assign(_Assignment(found.batch, found.end, found.dead_letters))

    async def _try_letters_again(self) -> None:
        """Take up the dead letters of this sink that a person wants tried again."""
        letters = await self._journal.retries(self.name, self._settings.max_records)
        letters = [letter for letter in letters if letter.id not in self._trying]
        if letters:
            self._trying.update(letter.id for letter in letters)
            batch = _batch(letters)
            again = {letter.event_id: letter for letter in letters if letter.event_id}
            await self._assign(_Assignment(batch, self._end, [], again))

    async def _assign(self, assignment: _Assignment) -> None:
        self._end = assignment.end
        self._under_way.append(assignment)
        if len(assignment.batch):
            await self._queue.put(assignment)
        else:
            await self._settle(assignment)

    # From assignments to the sink

    async def _write_all(self) -> None:
        """One of `in_flight` writers."""
        again_after: float | None = None
        while True:
            try:
                async with asyncio.timeout(again_after):
                    assignment = await self._queue.get()
            except TimeoutError:  # the sink asked to be called again: all before is settled, for it is serial
                assignment = _Assignment(Batch(), self._settled, [])
                self._under_way.appendleft(assignment)
            if assignment is None:
                return
            again_after = await self._deliver(assignment)
            if assignment.settled:
                await self._settle(assignment)

    async def _deliver(self, assignment: _Assignment) -> float | None:
        """Write until every record is delivered or kept as a dead letter; returns when the sink wants to be called again.
        Leaves the assignment unsettled where the loop is stopped before that."""
        pieces = [assignment.batch]
        attempt = 0
        again_after = None
        while pieces:
            piece = self._without_expired(assignment, pieces.pop())
            if not len(piece) and len(assignment.batch):
                continue
            pause: float | None = None
            started = time.perf_counter()
            try:
                result = await self._sink.write(piece)
            except BatchRefused as error:
                self._metrics.sink_errors.labels(self.name, "batch_refused").inc()
                if len(piece) == 1:
                    self._delivered(assignment, piece, WriteResult(refused={0: str(error)}))
                else:
                    half = len(piece) // 2
                    pieces += [piece.cut(half, len(piece)), piece.cut(0, half)]
            except Exception as error:  # noqa: BLE001 - sorted out by _failed
                pieces.append(piece)
                pause = self._failed(error)
                self._count_retried(len(piece))
            else:
                self._metrics.batch_seconds.labels(self.name).observe(time.perf_counter() - started)
                self._delivered(assignment, piece, result)
                again_after = result.again_after
                if result.retry:
                    pieces.append(piece.pick(result.retry))
                    self._count_retried(len(result.retry))
                    pause = 0.0
                    attempt = attempt if len(result.retry) == len(piece) else 0
                else:
                    self._works()
                    attempt = 0
            if pause is not None:
                if await self._pause(attempt, pause):
                    return None
                attempt += 1
        assignment.settled = True
        return again_after

    def _delivered(self, assignment: _Assignment, piece: Batch, result: WriteResult) -> None:
        """Note what became of each record of `piece`."""
        if result.state is not None:
            assignment.state = result.state
        for index, reason in result.refused.items():
            self._bury(assignment, piece, index, "refused", reason)
        self._metrics.refused.labels(self.name).inc(len(result.refused))
        delivered = len(piece) - len(result.refused) - len(result.retry)
        self.status.delivered += delivered
        self._metrics.delivered.labels(self.name).inc(delivered)
        self._metrics.delivered_bytes.labels(self.name).inc(piece.nbytes if delivered == len(piece) else 0)
        if assignment.letters:
            not_delivered = {*result.refused, *result.retry}
            assignment.redelivered += [
                assignment.letters[event_id].id for index, event_id in enumerate(piece.ids) if index not in not_delivered
            ]

    def _without_expired(self, assignment: _Assignment, piece: Batch) -> Batch:
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
        return piece.pick(fresh)

    def _bury(self, assignment: _Assignment, piece: Batch, index: int, kind: str, reason: str) -> None:
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

    # From settled assignments to the cursor

    async def _settle(self, assignment: _Assignment) -> None:
        assignment.settled = True
        while self._under_way and self._under_way[0].settled:
            self._note(self._under_way.popleft())
        if self._unsaved and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._save())
        if self._saving and (self._serial or (self._unsaved and len(self._unsaved.dead_letters) > MAX_UNSAVED_LETTERS)):
            await asyncio.shield(self._saving)

    def _note(self, done: _Assignment) -> None:
        self._settled = done.end
        self._state = done.state or self._state
        self._unsaved = _merged(
            self._unsaved,
            Commit(done.end, self._state, done.dead_letters, done.redelivered, done.refused_again),
        )

    async def _save(self) -> None:
        failing = False
        while self._unsaved:
            commit, self._unsaved = self._unsaved, None
            try:
                await self._journal.commit(self.name, commit)
            except JournalError as error:
                if not failing:
                    self._log.warning("can't save the cursor; trying on", error=str(error))
                failing = True
                self._put_back(commit)
                await asyncio.sleep(COMMIT_RETRY)
            else:
                self._trying.difference_update(commit.redelivered, commit.refused_again)

    def _put_back(self, commit: Commit) -> None:
        self._unsaved = _merged(commit, self._unsaved) if self._unsaved else commit

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
        if not known and message not in self._bugs:
            self._bugs.add(message)
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


def _batch(letters: Sequence[DeadLetter]) -> Batch:
    """The records of dead letters as they were."""
    lines = [letter.body + b"\n" for letter in letters]
    return Batch(
        [letter.event_id or "" for letter in letters],
        [letter.key for letter in letters],
        [letter.timestamp for letter in letters],
        [letter.transaction or Transaction("", "", "", "", UNKNOWN) for letter in letters],
        list(accumulate(map(len, lines), initial=0)),
        b"".join(lines),
    )


def _merged(first: Commit | None, second: Commit) -> Commit:
    if first is None:
        return second
    return Commit(
        second.cursor,
        second.state,
        [*first.dead_letters, *second.dead_letters],
        [*first.redelivered, *second.redelivered],
        {**first.refused_again, **second.refused_again},
    )
