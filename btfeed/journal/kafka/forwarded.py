"""How far a spill was forwarded. This is kept in memory, so that a full disk makes no post be sent twice, and saved as the
cursor and the state of the spill's consumer."""

import json
from bisect import bisect_right
from typing import NamedTuple

from btfeed.journal.base import Cursor


class Run(NamedTuple):
    """Posts that follow each other, and that Kafka has not. partition: the one that they may be in; None if in none."""

    first: int
    last: int
    partition: int | None


class Forwarded:
    """What became of the posts of a spill.

    next  the number of the first post that was not tried
    left  those before it that Kafka has not, in order
    """

    def __init__(self, cursor: Cursor, state: str | None) -> None:
        """Go on from what was saved."""
        self.next, left = json.loads(state) if state else (cursor.seq, [])
        self.left = [Run(*run) for run in left]

    @property
    def position(self) -> tuple[Cursor, str | None]:
        """What is to be saved: posts before the cursor are done with, and the state tells which behind it are not."""
        if not self.left:
            return Cursor(self.next), None
        return Cursor(self.left[0].first), json.dumps([self.next, self.left])

    @property
    def number_left(self) -> int:
        return sum(run.last + 1 - run.first for run in self.left)

    @property
    def sparse(self) -> bool:
        """Whether most of what the spill has to keep, because of those that are left, is done with."""
        return bool(self.left) and self.next - self.left[0].first > 2 * self.number_left

    def is_left(self, seq: int) -> bool:
        return self.first_left(seq) == seq

    def first_left(self, seq: int) -> int | None:
        """The number of the first post from `seq` on that is left."""
        at = max(0, self._at(seq))
        return next((max(run.first, seq) for run in self.left[at : at + 2] if run.last >= seq), None)

    def partition(self, seq: int) -> int | None:
        """The one that a post may be in, if it is left and in any."""
        return self.left[self._at(seq)].partition if self.is_left(seq) else None

    def done(self, seq: int) -> None:
        """Kafka has that post, or it is kept elsewhere."""
        if self.is_left(seq):
            at = self._at(seq)
            first, last, partition = self.left[at]
            around = Run(first, seq - 1, partition), Run(seq + 1, last, partition)
            self.left[at : at + 1] = [run for run in around if run.first <= run.last]
        self.next = max(self.next, seq + 1)

    def leave(self, seq: int, partition: int | None) -> None:
        """Kafka does not have that post yet, unless it is in this partition."""
        if self.is_left(seq) and self.partition(seq) == partition:
            return
        self.done(seq)
        at = self._at(seq)
        before = self.left[at] if at >= 0 else None
        if before and (before.last, before.partition) == (seq - 1, partition):
            self.left[at] = before._replace(last=seq)
        else:
            self.left.insert(at + 1, Run(seq, seq, partition))

    def _at(self, seq: int) -> int:
        """The index of the last run that begins at or before `seq`, or -1."""
        return bisect_right(self.left, seq, key=lambda run: run.first) - 1
