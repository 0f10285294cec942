"""Tracks batches in flight, which finish in any order, and saves the cursor.

Invariants
- The cursor is the end of the contiguous run of settled batches: everything before it is delivered or a dead letter.
- What a batch changed (cursor, sink state, dead letters) is saved in the same commit as its end. What could not be saved is
  saved with what comes after.
- A serial sink gets its next batch once its state is saved, or saving failed. It is told which state was saved. It gets no
  record before a first state is saved.
- At most WINDOW x in_flight batches lie between the first unsettled one and the last one read. This limits what is
  delivered again after a crash, and what is in memory.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from btfeed.delivery.outcome import Outcome
from btfeed.journal.base import Commit, Cursor, DeadLetter, JournalError, Outlet, OutletGone
from sinks.batch import Batch
from sinks.shared.clock import Clock

log = structlog.get_logger()

WINDOW = 2
"""Batches between the first unsettled one and the last one read, per batch that may be in flight."""
COMMIT_RETRY = 0.5
"""Seconds before a failed commit is tried again."""
MAX_UNSAVED_DEAD_LETTERS = 10_000
"""Dead letters that may wait in memory while the journal can't save them. Beyond that, the sink waits too."""


@dataclass(slots=True)
class InFlightBatch:
    """A batch between reading and saving. Only the tracker changes it.

    records       what to write
    end           the cursor behind it
    dead_letters  those of its posts, from mapping
    received      when its first post was received, in milliseconds since the epoch; None if it has no post
    retried       event.id -> the dead letter that it retries
    destination   what those dead letters waited for, if the delivery retries them by itself
    settled       every record has an outcome
    outcome       of the records; None until settled, or if there were none
    """

    records: Batch
    end: Cursor
    dead_letters: Sequence[DeadLetter] = ()
    received: int | None = None
    retried: Mapping[str, DeadLetter] = field(default_factory=dict)
    destination: str = ""
    settled: bool = False
    outcome: Outcome | None = None

    def commit(self, state: str | None) -> Commit:
        """What to save once it is settled. state: the sink's, if the outcome has none."""
        if self.outcome is None:
            return Commit(self.end, state, self.dead_letters)
        return Commit(
            self.end,
            state if self.outcome.state is None else self.outcome.state,
            [*self.dead_letters, *self.outcome.dead_letters],
            self.outcome.redelivered,
            self.outcome.refused_again,
            self.outcome.waiting_again,
        )


class OffsetTracker:
    """Owns the batches in flight of one outlet, and everything that is not saved yet."""

    def __init__(
        self,
        outlet: Outlet,
        cursor: Cursor,
        state: str | None,
        in_flight: int,
        saved: Callable[[str], object] | None,
        committed: Callable[[Commit], object],
        group: asyncio.TaskGroup,
        clock: Clock,
        save: Callable[[Commit], Awaitable[None]] | None = None,
    ) -> None:
        """cursor, state: as saved. saved: called with each state that is saved; None unless the sink is serial. committed:
        called with everything that is saved. save: instead of the outlet's `commit`, for a sink whose transactions do it:
        it gets its next batch when all is saved."""
        self._outlet = outlet
        self._save_commit = save or outlet.commit
        self._in_transactions = save is not None
        self._settled = self._end = cursor  # behind the last settled batch, and behind the last one that was added
        self._state = state
        self._window = WINDOW * in_flight
        self._saved = saved
        self._committed = committed
        self._has_saved_state = state is not None
        self._group = group
        self._clock = clock
        self._in_flight: deque[InFlightBatch] = deque()  # in the order of the journal
        self._room = asyncio.Event()
        self._retrying: set[int] = set()  # dead letters in flight or not saved yet
        self._retries_ended = asyncio.Event()
        self._unsaved: list[Commit] = []
        self._unsaved_dead_letters = 0
        self._saving: asyncio.Task[None] | None = None
        self._commit_tried = asyncio.Event()  # a commit succeeded or failed

    async def add(
        self, batch: Batch, end: Cursor, dead_letters: Sequence[DeadLetter], received: int | None = None
    ) -> InFlightBatch:
        """Add the next batch once the window has room. Not to be called concurrently."""
        await self._until_room()
        self._end = end
        self._in_flight.append(InFlightBatch(batch, end, dead_letters, received))
        return self._in_flight[-1]

    async def add_retry(self, batch: Batch, retried: Mapping[str, DeadLetter], destination: str = "") -> InFlightBatch:
        """Add a batch of dead letters, which moves no cursor, once the window has room. destination: what they wait for, if
        the delivery retries them by itself."""
        self._retrying.update(dead_letter.id for dead_letter in retried.values())
        await self._until_room()
        self._in_flight.append(InFlightBatch(batch, self._end, retried=retried, destination=destination))
        return self._in_flight[-1]

    def add_empty(self) -> InFlightBatch:
        """Add an empty batch before all others, which moves no cursor: it saves the sink's state."""
        self._in_flight.appendleft(InFlightBatch(Batch(), self._settled))
        return self._in_flight[0]

    async def retries(self, limit: int) -> list[DeadLetter]:
        """Dead letters that are marked for retry, except those being retried."""
        retrying = frozenset(self._retrying)
        return self._not_retried(await self._outlet.retries(limit), retrying)

    async def waiting(self, destination: str, limit: int) -> list[DeadLetter] | None:
        """The oldest dead letters that wait for `destination`, except those being retried; None if nothing waits."""
        retrying = frozenset(self._retrying)
        found = await self._outlet.waiting(destination, limit)
        return self._not_retried(found, retrying) if found else None

    def _not_retried(self, found: Sequence[DeadLetter], before: Collection[int]) -> list[DeadLetter]:
        """Those that are not being retried, now or `before` the journal was asked: its answer may be older than a commit
        that ended meanwhile."""
        return [letter for letter in found if letter.id not in before and letter.id not in self._retrying]

    async def retries_saved(self, batch: InFlightBatch) -> None:
        """Return when it is saved what became of this batch of dead letters."""
        ids = [letter.id for letter in batch.retried.values()]
        while not self._retrying.isdisjoint(ids):
            self._retries_ended.clear()
            await self._retries_ended.wait()

    async def settle(self, batch: InFlightBatch, outcome: Outcome | None = None) -> None:
        """Every record of `batch` has an outcome. Moves the cursor as far as possible, and starts to save it. Returns when
        the sink may get another batch."""
        batch.settled, batch.outcome = True, outcome
        batch.records = Batch()  # frees the records, since the batch may wait here behind one that is stuck
        while self._in_flight and self._in_flight[0].settled:
            self._add_unsaved(self._in_flight.popleft())
            self._room.set()
        if self._unsaved and not self._is_saving():
            self._saving = self._group.create_task(self._save())
        await self._until_saved_enough()

    def _is_saving(self) -> bool:
        return self._saving is not None and not self._saving.done()

    async def _until_room(self) -> None:
        while len(self._in_flight) >= self._window:
            self._room.clear()
            await self._room.wait()

    async def _until_saved_enough(self) -> None:
        """Wait while the sink must not get another batch."""
        if self._saving is None or self._saving.done():
            return
        if (
            self._in_transactions
            or self._unsaved_dead_letters > MAX_UNSAVED_DEAD_LETTERS
            or (self._saved and not self._has_saved_state)
        ):
            await asyncio.shield(self._saving)
        elif self._saved:
            self._commit_tried.clear()
            await self._commit_tried.wait()

    def _add_unsaved(self, done: InFlightBatch) -> None:
        commit = done.commit(self._state)
        self._settled, self._state = commit.cursor, commit.state
        self._unsaved.append(commit)
        self._unsaved_dead_letters += len(commit.dead_letters)

    async def _save(self) -> None:
        """Save until nothing is unsaved. Raises OutletGone, or StartAgain if the sink's transactions save."""
        failing = False
        while self._unsaved:
            commit, self._unsaved, self._unsaved_dead_letters = _merged(self._unsaved), [], 0
            try:
                await self._save_commit(commit)
            except OutletGone:
                raise
            except JournalError as error:
                if not failing:
                    log.warning("can't save the cursor, retrying", partition=self._outlet.partition, error=str(error))
                failing = True
                self._unsaved.insert(0, commit)
                self._unsaved_dead_letters += len(commit.dead_letters)
                self._commit_tried.set()
                await self._clock.sleep(COMMIT_RETRY)
            else:
                failing = False
                self._note_saved(commit)
                self._commit_tried.set()

    def _note_saved(self, commit: Commit) -> None:
        log.debug("cursor saved", partition=self._outlet.partition, seq=commit.cursor.seq, ordinal=commit.cursor.ordinal)
        self._retrying.difference_update(commit.redelivered, commit.refused_again, commit.waiting_again)
        self._retries_ended.set()
        self._committed(commit)
        if self._saved and commit.state is not None:
            self._has_saved_state = True
            self._saved(commit.state)


def _merged(commits: Sequence[Commit]) -> Commit:
    """Commits in a row as one."""
    if len(commits) == 1:
        return commits[0]
    return Commit(
        commits[-1].cursor,
        commits[-1].state,
        [dead_letter for commit in commits for dead_letter in commit.dead_letters],
        [number for commit in commits for number in commit.redelivered],
        {number: reason for commit in commits for number, reason in commit.refused_again.items()},
        {number: why for commit in commits for number, why in commit.waiting_again.items()},
    )
