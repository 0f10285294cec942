"""Writes a batch to a sink until every record has an outcome: delivered, or kept as a dead letter.

too old (max_age)             dead letter, before each attempt, unless an operator retries it
refused by the sink           dead letter
for a blocked destination     dead letter that waits for it, before each attempt or after it (destinations.py)
sink unavailable, or a bug    written again, after a pause (retry.py)
batch refused as a whole      written again in halves, until the refused record is alone (Kafka: per partition, in the sink)
outcome unknown               written again, or dead letters if the sink must not get them twice
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

from btfeed.delivery.destinations import BlockedDestinations
from btfeed.delivery.outcome import Outcome
from btfeed.delivery.report import SinkReport
from btfeed.delivery.retry import RetryPause
from btfeed.journal.base import DeadLetter
from sinks.base import BatchRefused, Blocked, OutcomeUnknown, Sink, StartAgain, Unavailable, WriteResult
from sinks.batch import Batch
from sinks.shared.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Next:
    """What to do after a write. left: pieces still to write, the next one last. pause: whether to wait before it."""

    left: list[Batch] = field(default_factory=list)
    pause: bool = False


class BatchWriter:
    """Writes to one sink; `write` may be called concurrently. call_again_at: when the sink wants to be
    called again even without records, by the clock's monotonic time. blocked: destinations that take nothing."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        max_age: float | None,
        pause: RetryPause,
        report: SinkReport,
        clock: Clock,
        turn: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        """turn: held for each write, see SharedSink."""
        self.blocked = BlockedDestinations(report, pause, clock)
        self.call_again_at: float | None = None
        self._name = name
        self._sink = sink
        self._max_age = max_age
        self._pause = pause
        self._report = report
        self._clock = clock
        self._turn = turn or nullcontext()
        self._writing: set[asyncio.Task[object]] = set()
        self._is_cut_off = False

    async def open(self, state: str | None) -> bool:
        """Open the sink, trying until it works. False if the delivery is stopping."""
        try:
            return await self._open(state)
        finally:
            self._pause.end()

    async def _open(self, state: str | None) -> bool:
        attempt = 0
        while True:
            try:
                await _uncancelled(self._sink.open(state))
            except Exception as error:  # noqa: BLE001 - reported
                self._failed(error)
                if await self._pause.wait(attempt):
                    return False
                attempt += 1
            else:
                self._report.running()
                return True

    async def write(self, batch: Batch, retried: Mapping[str, DeadLetter], destination: str = "") -> Outcome | None:
        """Write `batch`. None if the delivery is stopping and there are records left without an outcome.

        retried      event.id -> the dead letter that the batch retries
        destination  what these waited for, if it is to be tried although it is blocked
        """
        outcome = Outcome(self._name, retried, self._report, self._clock)
        try:
            return outcome if await self._write_all(outcome, batch, bool(retried), destination) else None
        finally:
            self._pause.end()

    def cut_off(self) -> bool:
        """Cancel the writes in progress, and begin no other. What the sink may have taken of them has an unknown outcome.
        False if there are none."""
        self._is_cut_off = True
        for task in self._writing:
            task.cancel()
        return bool(self._writing)

    async def _write_all(self, outcome: Outcome, batch: Batch, retries: bool, destination: str) -> bool:
        """False if the delivery is stopping and there are records left without an outcome."""
        pieces = [batch]  # the next one last
        attempt = 0
        while pieces:
            piece = pieces.pop()
            if not retries or destination:
                piece = await self._without_expired(outcome, piece)
            if not len(piece) and len(batch):  # all expired; a batch that is empty from the start asks for the sink's state
                continue
            if self._is_cut_off or await self._pause.held_back():
                return False
            then = await self._write_once(outcome, piece, destination)
            pieces += then.left
            if not then.pause or not then.left or len(then.left[0]) < len(piece):  # some progress
                attempt = 0
            if then.pause:  # even with nothing left: the sink has just failed
                if await self._pause.wait(attempt) and pieces:
                    return False
                attempt += 1
        return True

    async def _write_once(self, outcome: Outcome, piece: Batch, destination: str) -> _Next:
        try:
            if self.blocked:
                piece, whole = await self._without_blocked(outcome, piece, destination), piece
                if not len(piece) and len(whole):
                    return _Next()
            result, seconds = await self._call(piece)
            _check(result, len(piece))
        except StartAgain:  # nothing of what was written is there: not only this piece has to be written again
            raise
        except Exception as error:  # noqa: BLE001 - reported
            return await self._after_error(outcome, piece, error)
        self._report.written(seconds, len(piece))
        again_after = result.again_after
        self.call_again_at = None if again_after is None else self._clock.monotonic() + again_after
        for blocked in result.blocked.values():
            self.blocked.add(blocked.destination, blocked.reason)
        await outcome.add_result(piece, result)
        if len(result.retry) + len(result.blocked) < max(1, len(piece)):
            self._report.running()
            self.blocked.others_go = True
        elif not destination:  # a try for one destination says nothing of the others
            self._report_if_nothing_goes()
        if not result.retry:
            return _Next()
        self._report.retried(len(result.retry))
        return _Next([piece.take(sorted(result.retry))], pause=True)

    async def _call(self, piece: Batch) -> tuple[WriteResult, float]:
        """What the sink says of `piece`, and how many seconds that took. If it is cut off, raises CancelledError, or what
        the sink says instead."""
        task = asyncio.current_task()
        assert task
        self._writing.add(task)
        try:
            async with self._turn:
                started = time.perf_counter()
                result = await _uncancelled(self._sink.write(piece))
                return result, time.perf_counter() - started
        except OutcomeUnknown:
            if task.cancelling():  # the sink says so instead of CancelledError
                if not self._is_cut_off:
                    raise asyncio.CancelledError from None
                task.uncancel()
            raise
        finally:
            self._writing.discard(task)

    async def _after_error(self, outcome: Outcome, piece: Batch, error: Exception) -> _Next:
        if isinstance(error, BatchRefused) and len(piece):
            return await self._halved(outcome, piece, str(error))
        if not self._is_cut_off:
            self._failed(error)
        if isinstance(error, OutcomeUnknown):
            self._report.outcome_unknown(len(piece))
            if not error.again:
                await outcome.add_dead_letters(piece, dict.fromkeys(range(len(piece)), str(error)), "unknown")
                return _Next(pause=True)
        self._report.retried(len(piece))
        return _Next([piece], pause=True)

    def _failed(self, error: Exception) -> None:
        self._report.failed(error)
        if isinstance(error, Unavailable):
            self._pause.hold_back(error.retry_after)

    async def _halved(self, outcome: Outcome, piece: Batch, reason: str) -> _Next:
        """The halves of a refused batch. A record that is alone is the one that was refused."""
        self._report.batch_refused()
        if len(piece) == 1:
            await outcome.add_result(piece, WriteResult(refused={0: reason}))
            return _Next()
        half = len(piece) // 2
        return _Next([piece.slice(half, len(piece)), piece.slice(0, half)])

    async def _without_blocked(self, outcome: Outcome, piece: Batch, destination: str) -> Batch:
        """`piece` without the records for blocked destinations other than `destination`, which stand aside."""
        names: Sequence[str] = getattr(self._sink, "destinations", _no_names)(piece)
        aside = {}
        for index, name in enumerate(names):
            reason = None if name == destination else self.blocked.reason(name)
            if reason is not None:
                aside[index] = Blocked(name, reason)
                self.blocked.add(name, reason)
        if not aside:
            return piece
        await outcome.add_waiting(piece, aside)
        if len(aside) == len(piece):
            self._report_if_nothing_goes()
        return piece.take([index for index in range(len(piece)) if index not in aside])

    def _report_if_nothing_goes(self) -> None:
        if self.blocked and not self.blocked.others_go:
            self._report.failed(self.blocked.problem)

    async def _without_expired(self, outcome: Outcome, piece: Batch) -> Batch:
        """`piece` without the records older than max_age, which become dead letters."""
        max_age = self._max_age
        if max_age is None or not len(piece):
            return piece
        oldest = (self._clock.time() - max_age) * 1000
        if min(piece.timestamps) >= oldest:
            return piece
        expired = [index for index, timestamp in enumerate(piece.timestamps) if timestamp < oldest]
        await outcome.add_dead_letters(piece, dict.fromkeys(expired, f"expired: older than {max_age:g} s"), "expired")
        return piece.take([index for index, timestamp in enumerate(piece.timestamps) if timestamp >= oldest])


def _no_names(batch: Batch) -> Sequence[str]:
    return ()


async def _uncancelled(call: Awaitable[T]) -> T:
    """What `call` returns. A sink that cancels itself would silently end its delivery, so that is an error."""
    try:
        return await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
        raise RuntimeError("the sink cancelled itself") from None


def _check(result: WriteResult, records: int) -> None:
    """Raise ValueError if the result names a record twice, or one that is not in the batch."""
    named = [*result.retry, *result.refused, *result.blocked]
    if len(set(named)) < len(named) or not all(0 <= index < records for index in named):
        raise ValueError(f"of a batch of {records} records, the sink named {sorted(named)}")
