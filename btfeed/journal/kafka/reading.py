"""Reads one partition ahead of its delivery, into a bounded buffer.

The consumer reads from the position at the moment when `read` *returns*, not when it was called: a rebalance or a move may
lie between. So what it returns is always taken, by the reader that the partition has then. Each assignment has readers of
its own, which end before the next one begins (group.py); a reader that outlives its assignment would take posts of the next
one, and nobody would deliver them.

A partition whose buffer is full is not read, and the consumer stops fetching it: that is all the back-pressure there is.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiokafka import TopicPartition

from btfeed.journal.base import Damaged, Entry, JournalUnavailable
from btfeed.journal.kafka.consumer import Consumer, DamagedMessage, OutOfRange
from btfeed.journal.kafka.messages import to_entry
from btfeed.journal.kafka.progress import Progress, Repeats
from btfeed.journal.kafka.unreadable import Unreadable
from btfeed.posts.post import digests
from sinks.shared.clock import Clock

log = structlog.get_logger()

MAX_BYTES = 2**20
"""Bytes of bodies to read ahead. A larger post is read alone."""
MAX_RECORDS = 500
"""Posts to take from the consumer at a time."""
INLINE_BYTES = 2**18
"""Bytes of bodies whose digests are computed on the event loop: more would hold it up."""
LOOK_BACK = 200
"""Posts before the cursor to read when an assignment begins, so that copies of them are passed over: what makes copies,
such as a broker that dies, often moves partitions as well."""
AGAIN = 0.5
"""Seconds before something is tried again that failed."""
RECHECK = 0.05
"""Seconds between looks at a position that may move without posts, over marks of transactions."""


class Reader:
    """The posts of a partition from its position on, in order. Belongs to one assignment.

    next        one past what was read; everything before it was given by `take`, is in the buffer, or was passed over
    unreadable  where the partition can't be read
    """

    def __init__(
        self,
        consumer: Consumer,
        place: TopicPartition,
        at: int,
        repeated: Callable[[int], object],
        damaged: Callable[[Damaged], Awaitable[None]],
        out_of_range: Callable[[int], Awaitable[int]],
        lost: Callable[[int], object],
        clock: Clock,
        oldest: int,
    ) -> None:
        """at: where to begin. oldest: the first offset that the partition has. repeated: called with how many posts were
        passed over because they came twice. damaged: keeps a post whose body does not fit its digest. out_of_range: given a
        position that the partition does not have, returns the one to go on from. lost: called with the offset of a post
        that can't be read."""
        self.next = at
        self.unreadable = Unreadable(place.partition, clock)
        self.progress = Progress(at)
        self._consumer = consumer
        self._place = place
        self._repeated = repeated
        self._damaged = damaged
        self._out_of_range = out_of_range
        self._lost = lost
        self._singly = 0  # how many posts to read one by one
        self._clock = clock
        self._start = at  # what `take` gives next is not before it
        self._known_before = at  # what is read before it is only known, not given
        self._buffer: deque[Entry] = deque()
        self._bytes = 0
        self._repeats = Repeats()
        self._seeks = 0
        self._changed = asyncio.Event()  # set once, then replaced
        consumer.seek(place, max(oldest, at - LOOK_BACK))

    # For the outlet

    def aim(self, seq: int) -> None:
        """Let `take` continue with `seq`. Usually it does so anyway."""
        if seq < self._start:
            self.seek(seq)
        self._start = seq
        while self._buffer and self._buffer[0].seq < seq:
            self._bytes -= len(self._buffer.popleft().post.body)
            self._change()

    def seek(self, seq: int, delivered: int | None = None) -> None:
        """Read from `seq` on, whatever was read before. delivered: what is before it was delivered, so that its copies are
        still passed over; None: that is all before `seq`."""
        self._consumer.seek(self._place, seq)
        self._seeks += 1
        self._buffer.clear()
        self._bytes = 0
        self._repeats.forget_from(seq if delivered is None else min(seq, delivered))
        self._known_before = 0
        self.progress.read_again(seq)
        self._start = self.next = seq
        self._change()

    @property
    def ready(self) -> bool:
        """Whether `take` has something to give."""
        return bool(self._buffer)

    def has(self, seq: int) -> bool:
        """Whether a post was read from `seq` on, which `take` may have given since the last `aim`."""
        return self.ready or self._start > seq

    def take(self, max_bytes: int) -> Sequence[Entry]:
        """The next posts: as many as fit, but at least one if there is one."""
        found: list[Entry] = []
        while self._buffer:
            size = len(self._buffer[0].post.body)
            max_bytes -= size
            if found and max_bytes < 0:
                break
            found.append(self._buffer.popleft())
            self._bytes -= size
        if found:
            self._start = found[-1].seq + 1
            self._change()
        return found

    async def changed(self, seconds: float | None = None) -> None:
        """Return when something was read, or after `seconds`."""
        try:
            async with self._clock.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    # The task

    async def run(self) -> None:
        """Read until cancelled. Raises JournalUnavailable if the consumer fails."""
        while True:
            while self._bytes >= MAX_BYTES:
                await self._changed.wait()
            try:
                records = await self._consumer.read(self._place, 1 if self._singly else MAX_RECORDS)
            except OutOfRange:
                await self._go_on_elsewhere()
                continue
            except DamagedMessage as error:
                await self._at_damage(str(error))
                continue
            self._singly = max(0, self._singly - len(records))
            if records:
                self.unreadable.read(records[-1].offset)
            await self._add([to_entry(record) for record in records])

    async def _at_damage(self, error: str) -> None:
        """Try again what can't be read, or pass over it."""
        at = self._consumer.position(self._place)
        if not self._singly or at is None:  # it may be behind posts that can be read
            self._singly = MAX_RECORDS
            return
        if at < self._known_before:  # it was delivered before
            self._known_before = 0
            self._consumer.seek(self._place, self.next)
            return
        self.unreadable.met(at, error)
        if self.unreadable.hopeless(self._consumer.ask_another(self._place)):
            self._lost(at)
            self._consumer.seek(self._place, self.unreadable.pass_over())
            await self._add([])
        else:
            await self._clock.sleep(self.unreadable.pause)

    async def _add(self, entries: Sequence[Entry]) -> None:
        """Buffer what was read. Nothing may wait between `read` and here."""
        position = self._consumer.position(self._place)
        seeks = self._seeks
        for entry in entries:
            if entry.seq < self._known_before:
                self._repeats.add(entry)
        sound = await self._sound([entry for entry in entries if entry.seq >= self._known_before])
        if seeks != self._seeks:  # it will be read again from there
            return
        repeated = 0
        for entry in sound:
            if entry.seq < self.next:
                continue
            if self._repeats.add(entry):
                repeated += 1
                continue
            self.progress.post(entry.seq, entry.post.received)
            self._buffer.append(entry)
            self._bytes += len(entry.post.body)
        if repeated:
            self._repeated(repeated)
        self.next = max(self.next, position or 0, entries[-1].seq + 1 if entries else 0)
        self.progress.nothing_before(self.next)
        self._drop_unwanted()
        self._change()

    async def _sound(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Those whose bodies fit their digests. The others become dead letters before anything behind them is
        given."""
        bodies = [entry.post.body for entry in entries]
        if sum(map(len, bodies)) <= INLINE_BYTES:
            found = digests(bodies)
        else:
            found = await asyncio.get_running_loop().run_in_executor(None, digests, bodies)
        if found == [entry.digest for entry in entries]:
            return entries
        for entry, digest in zip(entries, found, strict=True):
            if digest != entry.digest:
                await self._keep(Damaged(entry.seq, entry.post.received, entry.post.body))
        return [entry for entry, digest in zip(entries, found, strict=True) if digest == entry.digest]

    async def _keep(self, damaged: Damaged) -> None:
        while True:
            try:
                await self._damaged(damaged)
                return
            except JournalUnavailable as error:
                log.warning("can't keep a damaged post, retrying", partition=self._place.partition, error=str(error))
                await self._clock.sleep(AGAIN)

    def _drop_unwanted(self) -> None:
        while self._buffer and self._buffer[0].seq < self._start:
            self._bytes -= len(self._buffer.popleft().post.body)

    async def _go_on_elsewhere(self) -> None:
        at = self._consumer.position(self._place)
        if at is not None and at < self._known_before:  # deleted meanwhile, and delivered before
            self._known_before = 0
            self._consumer.seek(self._place, self.next)
            return
        seeks = self._seeks
        found = await self._out_of_range(self.next if at is None else at)
        if seeks == self._seeks and at is not None and found >= at:  # what was read before is still to be given
            self._consumer.seek(self._place, found)
            await self._add([])
        elif seeks == self._seeks:
            wanted = self._start
            self.seek(found, wanted)
            self._start = min(wanted, found)  # what comes between is missing: no position was moved back

    def wake(self) -> None:
        """Let those that wait in `changed` look again."""
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
