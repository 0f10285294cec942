"""Recovery of a damaged journal: everything readable is moved to a new file, and the damaged one is kept.

Rows are read in order. Where SQLite fails, each following number is tried individually, so that a damaged page costs only
the rows on it and those it leads to. A body that matches its digest is right. So is its number, if it lies between those of
its neighbors. Numbers without a post, from the first that was not dropped to the last that was given, are counted as lost
and saved as gaps. Lost dead letters are counted by the totals of the damaged file.

If the files were deleted, nothing is tried: what is lost is known from what the caller knows of them.

The new file replaces the old one by renaming, as the last step. `finish` completes it after a crash, so there is a whole
journal at any time, old or new. The damaged file is kept as it was found, as journal.db.damaged-TIME.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import TypeVar

import apsw

from btfeed.journal.base import Cursor, Damaged, DeadLetter, Entry
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.layout import PAGE_SIZE, check_header, check_schema, first_page
from btfeed.journal.sqlite.positions import Positions, after_gaps

T = TypeVar("T")

_UNFINISHED = f"{FILE}-recovering"
_RECOVERED = f"{FILE}-recovered"
_BATCH_BYTES = 16 * 2**20
_TRIES = 1_000_000
"""How many numbers to try individually at most."""
_REACH = 10_000
"""How many numbers to try beyond the last one that was found, if no others are known: more than a page has posts."""
_DOUBTFUL_BYTES = 64 * 2**20
_EVERYTHING = 2**62


@dataclass(slots=True)
class Recovered:
    """What became of what was in the damaged file.

    damaged_file          where it was put; None if it was deleted
    posts                 moved to the new file
    damaged_posts         readable but changed, now dead letters
    lost_posts            not readable, and some sink was still to get them
    lost_delivered_posts  not readable either, but every sink had passed them
    dead_letters          moved to the new file
    damaged_dead_letters  moved without their contents, which are not readable, and set aside; by sink
    lost_dead_letters     not readable; None if it is not readable either how many there were
    """

    damaged_file: Path | None = None
    posts: int = 0
    damaged_posts: int = 0
    lost_posts: int = 0
    lost_delivered_posts: int = 0
    dead_letters: int = 0
    damaged_dead_letters: Counter[str] = field(default_factory=Counter)
    lost_dead_letters: int | None = None


def recover(directory: Path, vfs: str | None, positions: Positions, sinks: Collection[str]) -> Recovered:
    """Replace the journal in `directory`, which must not be open, by one with everything readable in it. positions: what
    the caller knows of it, empty if nothing. sinks: those that get the posts. Raises apsw.Error or OSError."""
    for suffix in ("", "-wal", "-shm"):
        (directory / (_UNFINISHED + suffix)).unlink(missing_ok=True)
    found = Recovered()
    new = JournalDatabase.open(directory, vfs, _UNFINISHED)
    try:
        new.checkpoint()
        if is_anything_left(directory):
            with _damaged(directory, vfs) as old:
                new.begin()
                _copy_sinks(old, new)
                _copy_dead_letters(old, new, found)
                numbers, doubtful = _copy_posts(old, new, found, positions)
                _account_for_the_rest(new, found, numbers, doubtful, _passed(new, positions, sinks))
                new.commit()
        else:
            for suffix in ("", "-wal"):
                (directory / (FILE + suffix)).unlink(missing_ok=True)
            with new.changing():
                _account_for_the_rest(new, found, _numbers(positions), _DoubtfulRows(), _passed(new, positions, sinks))
        new.checkpoint()
    finally:
        new.rollback()
        new.close()
    (directory / _UNFINISHED).rename(directory / _RECOVERED)
    found.damaged_file = finish(directory)
    return found


def is_anything_left(directory: Path) -> bool:
    """Whether the journal in `directory` has any content to recover."""
    paths = [directory / FILE, directory / f"{FILE}-wal"]
    return any(path.exists() and path.stat().st_size for path in paths)


def finish(directory: Path) -> Path | None:
    """If there is a recovered file, rename the damaged one and put the recovered one in its place. Returns the damaged
    file's new name, or None if no file was renamed."""
    recovered = directory / _RECOVERED
    if not recovered.exists():
        return None
    aside = directory / f"{FILE}.damaged-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')}"
    (directory / f"{FILE}-shm").unlink(missing_ok=True)
    for suffix in ("-wal", ""):  # in this order, so that an old log never stands beside the new file
        with suppress(FileNotFoundError):
            (directory / (FILE + suffix)).rename(f"{aside}{suffix}")
    recovered.rename(directory / FILE)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return aside if aside.exists() else None


# Reading a damaged file


@contextmanager
def _damaged(directory: Path, vfs: str | None) -> Iterator[JournalDatabase]:
    """The damaged journal, open for reading. The first page holds the header and the schema, which are the same in every
    journal: if it is damaged, the new file's first page is read instead."""
    path = directory / FILE
    patched = _FirstPage(vfs or "", (directory / _UNFINISHED).read_bytes()[:PAGE_SIZE])
    try:
        try:
            check_header(path, vfs)
            with closing(JournalDatabase.open_damaged(path, vfs)) as old:
                check_schema(old.db)
        except apsw.Error:
            with closing(JournalDatabase.open_damaged(path, patched.name)) as old:
                patched.page = first_page(patched.page, old.db)
            vfs = patched.name
        with closing(JournalDatabase.open_damaged(path, vfs)) as old:
            yield old
    finally:
        patched.unregister()


class _FirstPage(apsw.VFS):
    """The VFS `base`, in which database files seem to begin with `page`."""

    name = "btfeed-first-page"

    def __init__(self, base: str, page: bytes) -> None:
        super().__init__(self.name, base)
        self._base = base
        self.page = page[:28] + bytes(4) + page[32:]  # without the file size, so that SQLite uses the real one

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        if flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            return _FirstPageFile(self._base, name, flags, self.page)
        return apsw.VFSFile(self._base, name, flags)


class _FirstPageFile(apsw.VFSFile):
    def __init__(self, base: str, name: str | apsw.URIFilename | None, flags: list[int], page: bytes) -> None:
        super().__init__(base, name, flags)
        self._page = page

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name
        return self._page[offset : offset + amount] if offset < PAGE_SIZE else super().xRead(amount, offset)

    def xFileSize(self) -> int:  # noqa: N802 - SQLite's name
        return max(super().xFileSize(), PAGE_SIZE)


def _known(ask: Callable[[], T], otherwise: T) -> T:
    """The answer of `ask`, or `otherwise` if it can't be read."""
    try:
        return ask()
    except apsw.Error:
        return otherwise


def _readable(read: Callable[[int], Iterator[T]], key: Callable[[T], int], first: int, end: int) -> Iterator[T]:
    """What `read` finds from number `first` on. Where it fails, numbers are tried one by one, up to `end` or further."""
    number = reached = first
    for _ in range(_TRIES):
        try:
            for row in read(number):
                yield row
                if key(row) == number or number < key(row) < end:
                    number = reached = key(row) + 1
            return
        except apsw.Error:
            number += 1
            if number >= max(end, reached + _REACH):
                return


# Copying to the new file


def _copy_sinks(old: JournalDatabase, new: JournalDatabase) -> None:
    cursors: dict[str, tuple[Cursor, str | None]] = _known(lambda: old.cursors(strict=False), {})
    for sink, (cursor, state) in cursors.items():
        new.save_cursor(sink, cursor, state)
    paused: dict[str, int] = _known(old.paused, {})
    for sink, since in paused.items():
        new.save_paused(sink, since)


def _copy_dead_letters(old: JournalDatabase, new: JournalDatabase, found: Recovered) -> None:
    table = old.dead_letters
    marked: set[int] = _known(table.marked, set())
    damaged: dict[int, str] = {}  # id -> sink

    def read(number: int) -> Iterator[DeadLetter]:
        return table.select("id >= ?", number)

    piece: list[DeadLetter] = []
    size = last = 0
    for dead_letter in _readable(read, lambda dead_letter: dead_letter.id, 1, _known(table.last_id, 0) + 1):
        if dead_letter.id > last:  # a damaged page may lead to the same rows again
            last = dead_letter.id
            piece.append(dead_letter)
            size += len(dead_letter.body)
            if dead_letter.kind == "record" and not dead_letter.body and dead_letter.cause != "damaged":
                damaged[last] = dead_letter.sink
        if size > _BATCH_BYTES:
            new.dead_letters.insert(piece, marked)
            new.commit()
            new.begin()
            piece, size = [], 0
    new.dead_letters.insert(piece, marked)
    new.dead_letters.set_aside(damaged)
    known, copied = _known(table.letters, None), new.dead_letters.count()
    found.damaged_dead_letters = Counter(damaged.values())
    found.dead_letters = copied - len(damaged)
    found.lost_dead_letters = None if known is None else max(0, known - copied)


@dataclass(slots=True)
class _Numbers:
    """The numbers that posts have: from `first` (0 if unknown) to before `next`, except known `gaps`. Some sink has not
    read those from `unread` on (0 if unknown)."""

    first: int
    next: int
    gaps: dict[int, int]
    unread: int

    def begin(self, seq: int) -> int:
        """The first number, if no post that was read lies below `seq`."""
        return min(self.first or self.unread or seq, seq)

    def is_gap(self, seq: int) -> bool:
        return after_gaps(self.gaps, seq) != seq

    def count(self, end: int) -> int:
        """How many there are below `end`."""
        ranges = [(max(first, self.first), min(last + 1, end)) for first, last in self.gaps.items()]
        return max(0, end - self.first) - sum(max(0, after - first) for first, after in ranges)


def _copy_posts(
    old: JournalDatabase, new: JournalDatabase, found: Recovered, positions: Positions
) -> "tuple[_Numbers, _DoubtfulRows]":
    numbers = _known_numbers(old, new, positions)
    start = numbers.first if 0 < numbers.first <= numbers.next else max(0, numbers.next - _TRIES)
    end = numbers.next
    rows = _readable(lambda seq: old.posts(seq, _EVERYTHING), lambda row: row.seq, start, end)
    doubtful = _DoubtfulRows()
    size = 0
    for entry in _numbered(doubtful.separate(rows), numbers):
        existing, post = new.digest(entry.seq), entry.post
        if existing is None and entry.seq >= numbers.first:
            new.insert_posts([entry])
            found.posts += 1
            size += len(post.body)
        elif existing != entry.digest:  # if they are equal, a damaged page led to the same row again
            doubtful.keep(Damaged(0, post.received, post.body))
        if size > _BATCH_BYTES:
            new.commit()
            new.begin()
            size = 0
    if numbers.next > end and _known(old.last_seq, None) is None:
        numbers.next += 1  # the page with the newest posts, which can't be read, has at least one
    return numbers, doubtful


def _passed(new: JournalDatabase, positions: Positions, sinks: Collection[str]) -> int:
    """Every sink is known to have passed the posts numbered below this."""
    known = {**new.cursors(), **positions.cursors}
    return min((known[sink][0].seq if sink in known else 0 for sink in sinks), default=0)


def _known_numbers(old: JournalDatabase, new: JournalDatabase, positions: Positions) -> _Numbers:
    """What is known of the numbers before the posts are read. Without positions, the first is known from what was saved,
    even if the oldest posts can't be read, and from the oldest post, even if what was saved can't be read or is wrong."""
    if positions.next:
        return _numbers(positions)
    seqs = [cursor.seq for cursor, _ in new.cursors().values()]
    gaps: dict[int, int] = _known(old.gaps, {})
    saved, oldest = _known(old.saved_first_seq, 0), _known(old.oldest_seq, 0)
    end = max([_known(old.last_seq, 0) + 1, *seqs, *(last + 1 for last in gaps.values())])
    return _Numbers(min(saved or oldest, oldest or saved), end, gaps, min(seqs, default=0))


def _numbers(positions: Positions) -> _Numbers:
    return _Numbers(positions.first, positions.next, positions.gaps, positions.first)


def _numbered(entries: Iterator[Entry], numbers: _Numbers) -> Iterator[Entry]:
    """Posts with their right numbers. Updates the first and the next number from what they say."""
    expected = 0
    for entry, following in pairwise(chain(entries, [None])):
        assert entry is not None
        if not expected:
            expected = numbers.first = numbers.begin(entry.seq)
        expected = after_gaps(numbers.gaps, expected)
        seq = _number(entry.seq, expected, following.seq if following else max(numbers.next, entry.seq + 1))
        numbers.next = max(numbers.next, seq + 1)
        expected = seq + 1
        yield entry._replace(seq=seq)


def _account_for_the_rest(
    new: JournalDatabase, found: Recovered, numbers: _Numbers, doubtful: "_DoubtfulRows", passed: int
) -> None:
    """Account for every number that has no post: with a dead letter, or as lost, which is told apart for those below
    `passed`."""
    numbers.next = max(numbers.next, numbers.first)
    numbers.first = numbers.begin(numbers.next)
    missing = max(0, numbers.count(numbers.next) - found.posts)
    dead_letters = doubtful.dead_letters(new, numbers)[:missing]
    new.dead_letters.insert(dead_letters)
    found.damaged_posts = len(dead_letters)
    lost, passed = missing - len(dead_letters), min(passed, numbers.next)
    missing_passed = numbers.count(passed) - new.db.execute("SELECT count(*) FROM posts WHERE seq < ?", (passed,)).get
    found.lost_delivered_posts = min(lost, max(0, missing_passed - len(dead_letters)))
    found.lost_posts = lost - found.lost_delivered_posts
    new.save_first_seq(numbers.first)
    new.save_missing(numbers.next)


def _number(seq: int, expected: int, following: int) -> int:
    """The number of a row that claims to be `seq`, where `expected` would be next: what it claims if that is in order,
    otherwise the number that is left for it."""
    if seq == expected or expected < seq < following or expected >= following:
        return seq
    return expected


class _DoubtfulRows:
    """Rows that are damaged, or whose number is taken. On a damaged page, not everything that looks like a row is
    one, so it counts only if there is a missing number for it."""

    def __init__(self) -> None:
        self._rows: list[Damaged] = []
        self._size = 0

    def keep(self, row: Damaged) -> None:
        self._size += len(row.body)
        if self._size < _DOUBTFUL_BYTES:
            self._rows.append(row)

    def separate(self, rows: Iterator[Entry | Damaged]) -> Iterator[Entry]:
        """Keep the damaged rows, and pass on the others."""
        for row in rows:
            if isinstance(row, Damaged):
                self.keep(row)
            else:
                yield row

    def dead_letters(self, new: JournalDatabase, numbers: _Numbers) -> list[DeadLetter]:
        """Dead letters for what may be missing posts, those with a number first."""
        known = {row.seq: row for row in self._rows if numbers.first <= row.seq < numbers.next}
        missing = [row for seq, row in known.items() if new.digest(seq) is None and not numbers.is_gap(seq)]
        return [damaged_post(row) for row in [*missing, *(row for row in self._rows if not row.seq)]]


def damaged_post(row: Damaged) -> DeadLetter:
    """The dead letter for a damaged row."""
    return DeadLetter(
        "post", "", f"damaged in the journal (post {row.seq or '?'})", row.received, row.body, cause="damaged"
    )
