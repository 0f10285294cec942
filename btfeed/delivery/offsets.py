"""OffsetTracker: from batches under way, which finish in any order, to the cursor that is saved in the journal.

Invariants
- The cursor is the end of the contiguous run of settled batches: nothing before it is still to be delivered.
- What a batch changed (cursor, the sink's state, dead letters) is in the same commit as its end, and what could not be
  saved is saved with what comes after.
- A serial sink is written to again when its state is saved, or the journal could not save it; it is told what was saved.
  Before its first record there is a saved state.
- From the first batch that is not settled to the last that is read there are WINDOW batches at most for each that may be
  in flight: so much comes again after a crash, and so much is in memory.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from btfeed.journal.base import Commit, Cursor, DeadLetter, Journal, JournalError
from sinks.batch import Batch

log = structlog.get_logger()

WINDOW = 2
COMMIT_RETRY = 0.5
"""Seconds before a commit that failed is tried again."""
MAX_UNSAVED_LETTERS = 10_000
"""Dead letters that may wait in memory while the journal can't save them; then the sink waits too."""


@dataclass(slots=True)
class InFlightBatch:
    """A slice under way, and what its settlement will say. letters: event.id -> the dead letter that is tried again."""

    batch: Batch
    end: Cursor
    dead_letters: list[DeadLetter]
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    redelivered: list[int] = field(default_factory=list)
    refused_again: dict[int, str] = field(default_factory=dict)
    state: str | None = None
    settled: bool = False


class OffsetTracker:
    """Of one sink. `end` is behind what was added; `trying` are dead letters that are tried again, until that is saved."""

    def __init__(
        self,
        sink: str,
        journal: Journal,
        saved: Callable[[str], object] | None,
        in_flight: int,
        cursor: Cursor,
        state: str | None,
        group: asyncio.TaskGroup,
    ) -> None:
        """saved: of a serial sink, what is to be told the state that was saved."""
        self.end = self._settled = cursor
        self.trying: set[int] = set()
        self._sink = sink
        self._journal = journal
        self._saved = saved
        self._begun = state is not None  # there is a saved state
        self._tried = asyncio.Event()  # a commit was, with whatever outcome
        self._window = WINDOW * in_flight
        self._state = state
        self._group = group
        self._under_way: deque[InFlightBatch] = deque()  # in the order of the journal
        self._moved = asyncio.Event()  # the first of them was settled
        self._unsaved: Commit | None = None
        self._saving: asyncio.Task[None] | None = None

    async def add(self, assignment: InFlightBatch) -> None:
        """Put it behind the others, when the window has room. Not for use by two tasks."""
        while len(self._under_way) >= self._window:
            self._moved.clear()
            await self._moved.wait()
        self.end = assignment.end
        self.trying.update(letter.id for letter in assignment.letters.values())
        self._under_way.append(assignment)

    def nothing(self) -> InFlightBatch:
        """An empty batch, before all others: it passes no post."""
        assignment = InFlightBatch(Batch(), self._settled, [])
        self._under_way.appendleft(assignment)
        return assignment

    async def settle(self, assignment: InFlightBatch) -> None:
        """Move the cursor as far as it can. Returns when another batch may be written."""
        assignment.settled = True
        assignment.batch = Batch()  # it may stay here for long, behind one that is stuck
        while self._under_way and self._under_way[0].settled:
            self._note(self._under_way.popleft())
            self._moved.set()
        if self._unsaved and (self._saving is None or self._saving.done()):
            self._saving = self._group.create_task(self._save())
        if self._saving is None or self._saving.done():
            return
        full = self._unsaved is not None and len(self._unsaved.dead_letters) > MAX_UNSAVED_LETTERS
        if full or (self._saved and not self._begun):
            await asyncio.shield(self._saving)
        elif self._saved:
            self._tried.clear()
            await self._tried.wait()

    def _note(self, done: InFlightBatch) -> None:
        self._settled = done.end
        self._state = self._state if done.state is None else done.state
        commit = Commit(done.end, self._state, done.dead_letters, done.redelivered, done.refused_again)
        self._unsaved = _merged(self._unsaved, commit)

    async def _save(self) -> None:
        failing = False
        while self._unsaved:
            commit, self._unsaved = self._unsaved, None
            try:
                await self._journal.commit(self._sink, commit)
            except JournalError as error:
                if not failing:
                    log.warning("can't save the cursor; trying on", sink=self._sink, error=str(error))
                failing = True
                self._put_back(commit)
                self._tried.set()
                await asyncio.sleep(COMMIT_RETRY)
            else:
                self.trying.difference_update(commit.redelivered, commit.refused_again)
                if self._saved and commit.state is not None:
                    self._begun = True
                    self._saved(commit.state)
                self._tried.set()

    def _put_back(self, commit: Commit) -> None:
        self._unsaved = _merged(commit, self._unsaved) if self._unsaved else commit


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
