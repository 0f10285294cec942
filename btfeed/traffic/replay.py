"""Replays recorded posts from files or from a journal.

A `PostSource` gives the posts, each with the time when it was received, if known. A `Schedule` says when each of them is
sent: at which rate or speed, how many times over, and whether the times in the posts are moved to now.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from btfeed.journal.base import Archive, Damaged, JournalError
from btfeed.posts import files as postfile
from btfeed.posts import post
from btfeed.posts.bt_pb2 import BtOccurrence, BusinessTransactions
from btfeed.traffic.sending import ScheduledPost

EARLIEST, LATEST = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999, in milliseconds since the epoch. Values outside are not valid times and are never moved."""


class SourceError(Exception):
    """The source cannot be read, or contains no posts."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded post. time: when it was received, in milliseconds since the epoch; None if unknown."""

    body: bytes
    time: int | None = None


class PostSource(Protocol):
    """Recorded posts.

    total     size of the source, in a unit of its choice; None if unknown
    done      how much of it was read so far, in the same unit
    broken    descriptions of the parts that could not be read
    blocking  reading may block for long, as on standard input
    """

    total: int | None
    done: int
    broken: list[str]
    blocking: bool

    def posts(self) -> Iterator[Recorded]:
        """All posts, from the first one on."""


class FileSource:
    """Post files. If a file is damaged, the posts before the damage are read, then the next file.

    copy  an empty file that keeps what is read from standard input, if the posts are read more than once
    """

    def __init__(self, paths: list[Path], copy: BinaryIO | None = None) -> None:
        self._paths = paths
        self._copy = copy
        self._copied = False
        self.broken: list[str] = []
        self.blocking = postfile.STANDARD in paths
        self.total = None if self.blocking else sum(map(_size, paths))
        self.done = 0

    def posts(self) -> Iterator[Recorded]:
        self.done = before = 0
        for path in self._paths:

            def on_position(position: int, before: int = before) -> None:
                self.done = before + position

            try:
                copied = path == postfile.STANDARD and self._copy
                for body in self._read_standard(copied) if copied else postfile.read(path, on_position):
                    yield Recorded(body)
            except postfile.PostFileError as error:
                _note(self.broken, str(error))
            before += _size(path)
        self.done = before

    def _read_standard(self, copy: BinaryIO) -> Iterator[bytes]:
        if self._copied:
            copy.seek(0)
            yield from postfile.read_delimited(postfile.STANDARD, copy)
            return
        try:
            for body in postfile.read(postfile.STANDARD):
                postfile.write_delimited(copy, body)
                yield body
        finally:
            self._copied = True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note(broken: list[str], what: str) -> None:
    """Add `what` unless it is there already: a source may be read several times."""
    if what not in broken:
        broken.append(what)


class JournalRange:
    """The posts of a journal's archive."""

    blocking = False

    def __init__(self, archive: Archive) -> None:
        """Raises SourceError if it has no posts."""
        if not archive.count:
            raise SourceError("the journal has no posts from that time")
        self._archive = archive
        self.total: int | None = archive.count
        self.done = 0
        self.broken: list[str] = []
        self._damaged: set[tuple[int | None, int]] = set()
        self._runs: dict[tuple[int | None, int], tuple[int, int]] = {}  # behind what is noted -> its line, its first post

    def posts(self) -> Iterator[Recorded]:
        self.done = 0
        try:
            for entry in self._archive.entries():
                if isinstance(entry, Damaged):
                    self._note_damaged(entry.partition, entry.seq)
                else:
                    self.done += 1
                    yield Recorded(entry.post.body, entry.post.received)
        except JournalError as error:
            _note(self.broken, str(error))

    def _note_damaged(self, partition: int | None, seq: int) -> None:
        """Note a post, together with those right before it."""
        if (partition, seq) in self._damaged:
            return
        where = "" if partition is None else f"{partition}:"
        line, first = self._runs.pop((partition, seq), (len(self.broken), seq))
        several = f"posts {where}{first} to {where}{seq} of the journal are damaged"
        self.broken[line : line + 1] = [several if first < seq else f"post {where}{seq} of the journal is damaged"]
        self._runs[partition, seq + 1] = line, first
        self._damaged.add((partition, seq))


@dataclass(frozen=True, slots=True)
class Schedule:
    """When recorded posts are sent.

    rate    posts or occurrences per second; None: as fast as answers arrive
    unit    what `rate` counts
    speed   factor of the recorded speed; not together with `rate`
    loops   how many times over; 0: until stopped
    now     if given, called at the start of each loop: all times in the posts are moved by one offset, so that the newest
            startTime or endTime is the one it returns
    """

    rate: float | None = None
    unit: Literal["posts", "occurrences"] = "posts"
    speed: float | None = None
    loops: int = 1
    now: Callable[[], int] | None = None

    def posts(self, source: PostSource) -> Iterator[ScheduledPost]:
        """The posts of `source`, each with the time when it is due."""
        newest = _newest(source) if self.now else None
        pacer = _Pacer(self)
        loop = 0
        while loop < self.loops or not self.loops:
            loop += 1
            offset = 0 if newest is None or self.now is None else self.now() - newest
            pacer.start_loop()
            for recorded in source.posts():
                yield self._scheduled(recorded, offset, pacer)
            if pacer.loop_is_empty:
                return

    def _scheduled(self, recorded: Recorded, offset: int, pacer: "_Pacer") -> ScheduledPost:
        body, time = recorded.body, recorded.time
        try:
            message = post.parse(body)
        except post.Malformed:  # sent all the same: the server may accept what btfeed would not
            return ScheduledPost(body, 0, pacer.due(0, time))
        occurrences = sum(len(transaction.occurrences) for transaction in message.businessTransactions)
        if self.speed and time is None:
            time = max(_times(message), default=None)
        due = pacer.due(occurrences, time)
        return ScheduledPost(shift(message, offset) if offset else body, occurrences, due)


class _Pacer:
    """Computes when each post is due, in seconds after the start."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._last_due = 0.0
        self._loop_start = 0.0
        self._first_time: int | None = None  # of a post in this loop, as recorded
        self._sent = 0
        self.loop_is_empty = True

    def start_loop(self) -> None:
        self._loop_start, self._first_time, self.loop_is_empty = self._last_due, None, True

    def due(self, occurrences: int, time: int | None) -> float:
        """When the next post is due. time: when it was recorded, in milliseconds since the epoch."""
        self.loop_is_empty = False
        schedule = self._schedule
        if schedule.rate:
            self._last_due = self._sent / schedule.rate
            self._sent += 1 if schedule.unit == "posts" else occurrences
        elif schedule.speed and time is not None:
            self._first_time = time if self._first_time is None else self._first_time
            since_first = (time - self._first_time) / 1000 / schedule.speed
            self._last_due = max(self._last_due, self._loop_start + since_first)
        return self._last_due


def _occurrences(message: BusinessTransactions) -> Iterator[BtOccurrence]:
    for transaction in message.businessTransactions:
        yield from transaction.occurrences


def _times(message: BusinessTransactions) -> Iterator[int]:
    """Every valid startTime and endTime."""
    for occurrence in _occurrences(message):
        for time in (occurrence.startTime, occurrence.endTime if occurrence.HasField("endTime") else None):
            if time is not None and EARLIEST <= time <= LATEST:
                yield time


def _newest(source: PostSource) -> int | None:
    """The newest time in any of the posts."""
    newest: int | None = None
    for recorded in source.posts():
        try:
            times = list(_times(post.parse(recorded.body)))
        except post.Malformed:
            continue
        newest = max([*times, *([] if newest is None else [newest])], default=None)
    return newest


def shift(message: BusinessTransactions, offset: int) -> bytes:
    """Move every startTime and endTime by `offset` milliseconds, and encode. Keeps everything else, also unknown fields."""
    for occurrence in _occurrences(message):
        if occurrence.HasField("startTime"):
            occurrence.startTime = _moved(occurrence.startTime, offset)
        if occurrence.HasField("endTime"):
            occurrence.endTime = _moved(occurrence.endTime, offset)
    return message.SerializePartialToString()


def _moved(time: int, offset: int) -> int:
    return time + offset if EARLIEST <= time <= LATEST else time
