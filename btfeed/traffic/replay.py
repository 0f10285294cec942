"""Replay: recorded posts, from files or from a journal, out again at a pace.

A source gives posts one after the other, each with the time when it was recorded. `Plan` says how they go out: how many
times over, when each is due, and whether their times are moved so that the newest is now.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import apsw

from btfeed.journal.sqlite.database import FILE, Damaged, JournalDatabase
from btfeed.posts import files as postfile
from btfeed.posts import post
from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransactions
from btfeed.traffic.sending import Outgoing, Sender, Summary, Url

__all__ = ["Files", "JournalRange", "Plan", "Recorded", "SourceError", "Summary", "replay"]

PIECE = 4 * 2**20
"""Bytes that are read from a journal at a time: a reader that stays long keeps its write-ahead log growing."""
EARLIEST, LATEST = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999 in milliseconds since the epoch: what lies outside is no time, and not moved."""


class SourceError(Exception):
    """There is nothing to be read."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """time: milliseconds since the epoch when it was received, None where nobody wrote that down."""

    body: bytes
    time: int | None = None


class Source(Protocol):
    """Recorded posts. total, done: how much there is and how much was read, in the source's own unit; None where nobody
    knows. broken: what could not be read, in words. blocking: reading may wait for somebody."""

    total: int | None
    done: int
    broken: list[str]
    blocking: bool

    def posts(self) -> Iterator[Recorded]:
        """All of them, from the first."""


class Files:
    """Post files. One that can't be read to its end is noted in `broken`, and the next is taken up."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self.broken: list[str] = []
        self.blocking = postfile.STANDARD in paths
        self.total = None if self.blocking else sum(path.stat().st_size for path in paths if path.exists())
        self.done = 0

    def posts(self) -> Iterator[Recorded]:
        self.done = before = 0
        for path in self._paths:

            def told(position: int, before: int = before) -> None:
                self.done = before + position

            try:
                for body in postfile.read(path, told):
                    yield Recorded(body)
            except postfile.PostFileError as error:
                _note(self.broken, str(error))
            before += path.stat().st_size if path.exists() else 0
        self.done = before


def _note(broken: list[str], what: str) -> None:
    """Once, however often the source is read."""
    if what not in broken:
        broken.append(what)


class JournalRange:
    """The posts that a journal received from `begin` to before `end`, in milliseconds since the epoch.

    A server may be at work on it: the file is opened to be read only, and read in pieces.
    """

    blocking = False

    def __init__(self, directory: Path, begin: int = EARLIEST, end: int = LATEST) -> None:
        """Raises SourceError."""
        if not (directory / FILE).exists():
            raise SourceError(f"no journal in {directory}")
        self._directory = directory
        self._begin, self._end = begin, end
        self.broken: list[str] = []
        self.done = 0
        self.total: int | None
        try:
            store = JournalDatabase.open_read_only(directory)
            try:
                self.total, self._first, self._last = store.span(begin, end)
            finally:
                store.close()
        except apsw.Error as error:
            raise SourceError(f"can't read the journal in {directory}: {error}") from None
        if not self.total:
            raise SourceError(f"the journal in {directory} has no post of that time")

    def posts(self) -> Iterator[Recorded]:
        self.done = 0
        try:
            store = JournalDatabase.open_read_only(self._directory)
            try:
                yield from self._read(store)
            finally:
                store.close()
        except apsw.Error as error:
            _note(self.broken, f"can't read the journal in {self._directory}: {error}")

    def _read(self, store: JournalDatabase) -> Iterator[Recorded]:
        seq = self._first
        while seq <= self._last and (piece := list(store.read(seq, PIECE))):
            for entry in piece:
                seq = entry.seq + 1
                if isinstance(entry, Damaged):
                    _note(self.broken, f"post {entry.seq} of the journal is damaged")
                elif entry.seq <= self._last and self._begin <= entry.post.received < self._end:
                    self.done += 1
                    yield Recorded(entry.post.body, entry.post.received)


@dataclass(frozen=True, slots=True)
class Plan:
    """How recorded posts go out.

    rate          so many a second; None: as fast as answers come
    unit          what `rate` counts
    speed         so many times as fast as they were recorded; not with `rate`
    loops         how many times over; 0: until stopped
    shift_to_now  asked at the beginning of each turn for the time that the newest startTime or endTime is moved to
    """

    rate: float | None = None
    unit: Literal["posts", "occurrences"] = "posts"
    speed: float | None = None
    loops: int = 1
    shift_to_now: Callable[[], int] | None = None

    def outgoing(self, source: Source) -> Iterator[Outgoing]:
        """The posts of `source`, as they are to be sent."""
        newest = _newest(source) if self.shift_to_now else None
        pace = _Pace(self)
        turn = 0
        while turn < self.loops or not self.loops:
            turn += 1
            offset = 0 if newest is None or self.shift_to_now is None else self.shift_to_now() - newest
            pace.begin_turn()
            for recorded in source.posts():
                yield self._outgoing(recorded, offset, pace)
            if not pace.went:
                return

    def _outgoing(self, recorded: Recorded, offset: int, pace: "_Pace") -> Outgoing:
        body, time = recorded.body, recorded.time
        try:
            message = post.parse(body)
        except post.Malformed:  # another server than ours may take anything
            return Outgoing(body, 0, pace.due(0, time))
        occurrences = sum(len(transaction.occurrences) for transaction in message.businessTransactions)
        if self.speed and time is None:
            time = max(_times(message), default=None)
        due = pace.due(occurrences, time)
        return Outgoing(shift(message, offset) if offset else body, occurrences, due)


class _Pace:
    """When each post is due, in seconds after the first."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._last = 0.0  # when the post before is due
        self._turn = 0.0  # when the first of this turn was due
        self._first: int | None = None  # when that was recorded
        self._sent = 0
        self.went = False

    def begin_turn(self) -> None:
        self._turn, self._first, self.went = self._last, None, False

    def due(self, occurrences: int, time: int | None) -> float:
        self.went = True
        if self._plan.rate:
            self._last = self._sent / self._plan.rate
            self._sent += 1 if self._plan.unit == "posts" else occurrences
        elif self._plan.speed and time is not None:
            self._first = time if self._first is None else self._first
            self._last = max(self._last, self._turn + (time - self._first) / 1000 / self._plan.speed)
        return self._last


def _occurrences(message: BusinessTransactions) -> Iterator[BtOccurrence]:
    for transaction in message.businessTransactions:
        yield from transaction.occurrences


def _times(message: BusinessTransactions) -> Iterator[int]:
    """Every startTime and endTime that is one."""
    for occurrence in _occurrences(message):
        for time in (occurrence.startTime, occurrence.endTime if occurrence.HasField("endTime") else None):
            if time is not None and EARLIEST <= time <= LATEST:
                yield time


def _newest(source: Source) -> int | None:
    newest: int | None = None
    for recorded in source.posts():
        try:
            times = list(_times(post.parse(recorded.body)))
        except post.Malformed:
            continue
        newest = max([*times, *([] if newest is None else [newest])], default=None)
    return newest


def shift(message: BusinessTransactions, offset: int) -> bytes:
    """`message` with every startTime and endTime moved by `offset` milliseconds; all else, unknown fields too, as it is."""
    for occurrence in _occurrences(message):
        if occurrence.HasField("startTime"):
            occurrence.startTime = _moved(occurrence.startTime, offset)
        if occurrence.HasField("endTime"):
            occurrence.endTime = _moved(occurrence.endTime, offset)
    return message.SerializePartialToString()


def _moved(time: int, offset: int) -> int:
    return time + offset if EARLIEST <= time <= LATEST else time


class _Bodies:
    """A source of what is at hand."""

    blocking = False

    def __init__(self, bodies: Iterator[bytes]) -> None:
        self._bodies = bodies
        self.total: int | None = None
        self.done = 0
        self.broken: list[str] = []

    def posts(self) -> Iterator[Recorded]:
        return map(Recorded, self._bodies)


async def replay(
    bodies: Iterator[bytes],
    url: str,
    *,
    rate: float | None = None,
    connections: int = 1,
    basic_auth: tuple[str, str] | None = None,
    progress: Callable[[int], object] = lambda size: None,
) -> Summary:
    """Post `bodies` to `url` over as many kept-alive `connections`.

    rate: posts a second, all connections together; None as fast as answers come. progress: called with the size of each
    body that was answered. A post is sent once, whatever is answered.
    """
    target = Url(url, connections=connections, basic_auth=basic_auth)
    sender = Sender(target, connections=connections, progress=progress)
    return await sender.send(Plan(rate=rate).outgoing(_Bodies(bodies)))
