"""What an operator may do to a sink's place in the journal: pause it, and let it continue elsewhere.

Methods belong to the journal's thread, those that change something within a transaction, and raise apsw.Error.
"""

from btfeed.journal.base import Cursor, Move
from btfeed.journal.sqlite.post_log import PostLog


def find(post_log: PostLog, received: int) -> int:
    """See Outlet.find. Halves the range of numbers: while all times were read, posts would wait."""
    low, high = post_log.positions.first, post_log.positions.next
    while low < high:
        middle = (low + high) // 2
        found = post_log.database.first_from(middle)
        if found and found[0] < high and found[1] < received:
            low = found[0] + 1
        else:
            high = middle
    return low


def plan(post_log: PostLog, sink: str, seq: int) -> Move:
    """See Outlet.plan."""
    positions = post_log.positions
    now, _ = positions.cursors[sink]
    to = Cursor(min(max(seq, positions.first), positions.next))
    ahead = positions.count(now.seq) - positions.count(to.seq)
    begun = now.ordinal > 0 and to.seq <= now.seq  # it gets all of that post again
    oldest = post_log.database.first_from(0)
    return Move(0, to, max(0, -ahead) + begun, max(0, ahead), oldest[1] if oldest else None)


def move(post_log: PostLog, sink: str, to: Cursor) -> None:
    """See Outlet.move. What was dropped since the plan can't be given again."""
    positions = post_log.positions
    _, state = positions.cursors[sink]
    positions.cursors[sink] = max(to, Cursor(positions.first)), state
    post_log.database.save_cursor(sink, *positions.cursors[sink])


def pause(post_log: PostLog, sink: str, since: int) -> None:
    """See Journal.pause."""
    since = post_log.positions.paused.setdefault(sink, since)
    post_log.database.save_paused(sink, since)


def resume(post_log: PostLog, sink: str) -> None:
    """See Journal.resume."""
    post_log.positions.paused.pop(sink, None)
    post_log.database.save_paused(sink, None)
