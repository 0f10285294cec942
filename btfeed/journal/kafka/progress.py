"""What is known of the offsets of a partition between a sink's cursor and the reader's position.

Not every offset has a post that is still to be delivered: marks of transactions take some, and repeated and damaged posts
are passed over. So a backlog is a difference of offsets less these.
"""

from collections import OrderedDict, deque

from btfeed.journal.base import Entry

REPEATS = 10_000
"""Digests of a partition that are remembered."""
REPEAT_TIME = 60_000
"""Milliseconds between the receipt of a post and of its repetition at most. What caused it takes seconds: a producer that
did not know whether the brokers had the post, or a balancer that asked another receiver. What a person sends again later is
meant to be delivered again."""
RETRIED = "dead-letter"
"""The peer of a post that an operator wants again, see DeadLetters.retry."""


class Repeats:
    """The last posts of a partition, by digest. A best effort: an assignment begins with those just before its cursor."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # digest -> offset, and when it was received

    def add(self, entry: Entry) -> bool:
        """Whether the partition has had this post just before."""
        before = self._known.get(entry.digest)
        repeated = before is not None and abs(entry.post.received - before[1]) <= REPEAT_TIME
        if repeated and entry.post.peer != RETRIED:
            return True
        self._known[entry.digest] = entry.seq, entry.post.received
        self._known.move_to_end(entry.digest)
        if len(self._known) > REPEATS:
            self._known.popitem(last=False)
        return False

    def forget_from(self, seq: int) -> None:
        """What was read from there on was not delivered."""
        while self._known and next(reversed(self._known.values()))[0] >= seq:
            self._known.popitem()


class Progress:
    """Knows every offset from `low` to before `high`."""

    def __init__(self, at: int) -> None:
        self.low = self.high = at
        self._gaps: deque[tuple[int, int]] = deque()  # first and last offset of each range without a post to deliver
        self._received: deque[tuple[int, int]] = deque()  # offset of each post to deliver, and when it was received

    def post(self, seq: int, received: int) -> None:
        """The next post to deliver. All offsets before it have none."""
        self.nothing_before(seq)
        self._received.append((seq, received))
        self.high = seq + 1

    def nothing_before(self, seq: int) -> None:
        """No post is left to deliver from where we know up to here."""
        if seq > self.high:
            self._gaps.append((self.high, seq - 1))
            self.high = seq

    def read_again(self, seq: int) -> None:
        """Reading goes on at `seq`, wherever that is."""
        if not self.low <= seq <= self.high:
            self.low = seq
            self._gaps.clear()
            self._received.clear()
        while self._received and self._received[-1][0] >= seq:
            self._received.pop()
        while self._gaps and self._gaps[-1][1] >= seq:
            first, _ = self._gaps.pop()
            if first < seq:
                self._gaps.append((first, seq - 1))
        self.high = seq

    def forget_before(self, seq: int) -> None:
        """The sink is done with everything before it."""
        self.low = max(self.low, min(seq, self.high))
        while self._received and self._received[0][0] < seq:
            self._received.popleft()
        while self._gaps and self._gaps[0][1] < seq:
            self._gaps.popleft()

    def count(self, seq: int, end: int) -> int:
        """Posts to deliver from `seq` to before `end`, as far as is known, and offsets beyond that."""
        gaps = sum(max(0, min(last, end - 1) - max(first, seq) + 1) for first, last in self._gaps)
        return max(0, end - seq - gaps)

    def oldest(self, seq: int) -> int | None:
        """When the first post to deliver from `seq` on was received, in milliseconds since the epoch; None if that is not
        known."""
        return next((received for number, received in self._received if number >= seq), None)
