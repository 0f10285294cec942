"""A summary of the tables: the journal thread's own copy, and the snapshot of it that the event loop gets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from btfeed.journal.base import Cursor


def after_gaps(gaps: Mapping[int, int], seq: int) -> int:
    """The first number from `seq` on that is in no gap. gaps: first -> last number of each."""
    while True:
        last = next((last for first, last in gaps.items() if first <= seq <= last), None)
        if last is None:
            return seq
        seq = last + 1


@dataclass(slots=True)
class Positions:
    """Belongs to the journal's thread.

    first    posts below this number were dropped
    last     the newest post in the file
    next     the number of the next post
    gaps     first -> last number of each range that was lost or set aside
    cursors  each sink's cursor and state
    paused   sinks that are paused -> since when, in milliseconds since the epoch
    """

    first: int = 0
    last: int = 0
    next: int = 0
    gaps: dict[int, int] = field(default_factory=dict)
    cursors: dict[str, tuple[Cursor, str | None]] = field(default_factory=dict)
    paused: dict[str, int] = field(default_factory=dict)

    def copy(self) -> "Positions":
        return replace(self, gaps=dict(self.gaps), cursors=dict(self.cursors), paused=dict(self.paused))

    def passed(self, sinks: Iterable[str], default: int) -> int:
        """Each of these sinks has passed the posts numbered below this; `default` if there are no sinks."""
        return min((self.cursors[name][0].seq for name in sinks), default=default)

    def skip_gaps(self, seq: int) -> int:
        """The first number from `seq` on that must have a post."""
        return after_gaps(self.gaps, max(seq, self.first))

    def count(self, seq: int) -> int:
        """How many posts there are from `seq` on."""
        seq = max(seq, self.first)
        return self.next - seq - sum(last - max(first, seq) + 1 for first, last in self.gaps.items() if last >= seq)


class Snapshot(NamedTuple):
    """The journal's state when the thread finished a job. The event loop reads nothing else of the thread's.

    head      one past the number of the newest post
    next      the number of the next post; above `head` if the newest posts were lost or set aside
    first     posts below this number were dropped
    cursors   each sink's cursor and state
    broken    why nothing can be written; None if it can
    held_up   whether jobs have to wait, because of another process or while the journal is being recovered
    refusing  why a post would be refused now; None if it would not
    """

    head: int
    next: int
    first: int
    cursors: Mapping[str, tuple[Cursor, str | None]]
    broken: str | None
    refusing: str | None
    held_up: bool = False


EMPTY = Snapshot(1, 0, 0, {}, None, None)
"""The snapshot before the journal is open."""
