"""What is done with a journal whose file is damaged: carry over what can be read into a new one, and set it aside.

Rows are read one after the other; where SQLite stumbles, each following number is tried by itself, so that a damaged
page costs the rows on it, or those that it leads to, and no more. A body that fits its digest is right; its number is,
if it lies between its neighbours'. What is missing between the first number that was not forgotten and the last one given
is counted as lost, and noted as gaps.

The new journal takes its place by renaming, last of all and step by step (`finish` goes on after a crash), so that there
is a whole journal at any time, old or new. The damaged file is kept as it was found.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import TypeVar

import apsw

from btfeed.journal.base import Cursor, DeadLetter, Entry
from btfeed.journal.sqlite.database import FILE, Damaged, JournalDatabase
from btfeed.journal.sqlite.layout import PAGE_SIZE, check_header, check_schema

T = TypeVar("T")

_UNFINISHED = f"{FILE}-salvaging"
_SALVAGED = f"{FILE}-salvaged"
_BATCH_BYTES = 16 * 2**20
_TRIES = 1_000_000
"""Numbers that are tried by themselves at most."""
_DOUBTFUL_BYTES = 64 * 2**20
_EVERYTHING = 2**62


@dataclass(slots=True)
class Salvage:
    """posts: carried over. damaged_posts: readable but changed, now dead letters. lost_posts: not readable."""

    damaged_file: Path
    posts: int = 0
    damaged_posts: int = 0
    lost_posts: int = 0


def salvage(directory: Path, vfs: str | None, first_seq: int, next_seq: int) -> Salvage:
    """Put a new journal with everything readable in the place of the one in `directory`, which nobody has open. first_seq
    and next_seq: what the caller knows of the numbers in it, 0 if nothing. Raises apsw.Error or OSError."""
    for suffix in ("", "-wal", "-shm"):
        (directory / (_UNFINISHED + suffix)).unlink(missing_ok=True)
    found = Salvage(directory)
    store = JournalDatabase.open(directory, vfs, _UNFINISHED)
    try:
        store.checkpoint()
        with _damaged(directory, vfs) as old:
            store.begin()
            _carry_sinks(old, store)
            _carry_letters(old, store)
            _carry_posts(old, store, found, first_seq, next_seq)
            store.commit()
        store.checkpoint()
    finally:
        store.rollback()
        store.close()
    (directory / _UNFINISHED).rename(directory / _SALVAGED)
    found.damaged_file = finish(directory) or directory
    return found


def finish(directory: Path) -> Path | None:
    """Set the damaged file aside, and put the salvaged one in its place, if there is one; returns the first one's name."""
    if not (directory / _SALVAGED).exists():
        return None
    aside = directory / f"{FILE}.damaged-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')}"
    (directory / f"{FILE}-shm").unlink(missing_ok=True)
    for suffix in ("-wal", ""):  # in this order: never an old log beside a new file
        with suppress(FileNotFoundError):
            (directory / (FILE + suffix)).rename(f"{aside}{suffix}")
    (directory / _SALVAGED).rename(directory / FILE)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return aside


# Reading a damaged file


@contextmanager
def _damaged(directory: Path, vfs: str | None) -> Iterator[JournalDatabase]:
    """The damaged journal, to be read. Its first page holds the header and the schema, alike in every journal: where it
    is damaged, the new one's is read in its place."""
    path = directory / FILE
    patched = _FirstPage(vfs or "", (directory / _UNFINISHED).read_bytes()[:PAGE_SIZE])
    try:
        try:
            check_header(path, vfs)
            with closing(JournalDatabase.open_damaged(path, vfs)) as old:
                check_schema(old.db)
        except apsw.Error:
            vfs = patched.name
        with closing(JournalDatabase.open_damaged(path, vfs)) as old:
            yield old
    finally:
        patched.unregister()


class _FirstPage(apsw.VFS):
    """The VFS `base`, where database files seem to begin with `page`."""

    name = "btfeed-first-page"

    def __init__(self, base: str, page: bytes) -> None:
        super().__init__(self.name, base)
        self._base = base
        self._page = page[:28] + bytes(4) + page[32:]  # without the size of its file: then the real one counts

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        if flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            return _FirstPageFile(self._base, name, flags, self._page)
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
    """What the file says, `otherwise` where it can't be read."""
    try:
        return ask()
    except apsw.Error:
        return otherwise


def _readable(read: Callable[[int], Iterator[T]], key: Callable[[T], int], first: int, end: int) -> Iterator[T]:
    """What `read` finds from a number on; where it stumbles, numbers up to `end` are tried one by one."""
    number = first
    for _ in range(_TRIES):
        try:
            for row in read(number):
                yield row
                if number <= key(row) < end:
                    number = key(row) + 1
            return
        except apsw.Error:
            number += 1
            if number >= end:
                return


# Carrying over


def _carry_sinks(old: JournalDatabase, store: JournalDatabase) -> None:
    cursors: dict[str, tuple[Cursor, str | None]] = _known(lambda: old.cursors(strict=False), {})
    for sink, (cursor, state) in cursors.items():
        store.save_cursor(sink, cursor, state)


def _carry_letters(old: JournalDatabase, store: JournalDatabase) -> None:
    marked: set[int] = _known(lambda: {letter.id for letter in old.dead_letters("retry")}, set())

    def read(number: int) -> Iterator[DeadLetter]:
        return old.dead_letters("id >= ?", number)

    for letter in _readable(read, lambda letter: letter.id, 1, _known(old.last_dead_letter, 0) + 1):
        store.bury(letter, retry=letter.id in marked)


@dataclass(slots=True)
class _Numbers:
    """The numbers that posts have: from `first`, 0 where that is not known, to before `next`, but for known `gaps`."""

    first: int
    next: int
    gaps: dict[int, int]

    def after_gaps(self, seq: int) -> int:
        while seq in self.gaps:
            seq = self.gaps[seq] + 1
        return seq

    def is_gap(self, seq: int) -> bool:
        return any(first <= seq <= last for first, last in self.gaps.items())

    def count(self) -> int:
        gaps = sum(last - max(first, self.first) + 1 for first, last in self.gaps.items() if last >= self.first)
        return self.next - self.first - gaps


def _carry_posts(old: JournalDatabase, store: JournalDatabase, found: Salvage, first_seq: int, next_seq: int) -> None:
    seqs = [cursor.seq for cursor, _ in store.cursors().values()]
    gaps: dict[int, int] = _known(old.gaps, {})
    first = first_seq or _known(old.first_seq, 0)
    numbers = _Numbers(first, max(next_seq, first, *seqs, *(last + 1 for last in gaps.values())), gaps)
    end = max(numbers.next, _known(old.last_seq, 0) + 1)
    rows = _readable(lambda seq: old.read(seq, _EVERYTHING), lambda row: row.seq, first, end)
    doubtful = _Doubtful()
    size = 0
    for entry in _numbered(doubtful.sift(rows), numbers):
        there, post = store.digest(entry.seq), entry.post
        if there is None and entry.seq >= numbers.first:
            store.append([entry])
            found.posts += 1
            size += len(post.body)
        elif there != entry.digest:  # else a damaged page led here again
            doubtful.keep(Damaged(0, post.received, post.body))
        if size > _BATCH_BYTES:
            store.commit()
            store.begin()
            size = 0
    _account_for_the_rest(store, found, numbers, doubtful)


def _numbered(entries: Iterator[Entry], numbers: _Numbers) -> Iterator[Entry]:
    """Posts with their numbers; what those say of the first and the next one is noted."""
    expected = 0
    for entry, following in pairwise(chain(entries, [None])):
        assert entry is not None
        if not expected:
            expected = numbers.first = min(numbers.first or entry.seq, entry.seq)
        expected = numbers.after_gaps(expected)
        seq = _number(entry.seq, expected, following.seq if following else max(numbers.next, entry.seq + 1))
        numbers.next = max(numbers.next, seq + 1)
        expected = seq + 1
        yield replace(entry, seq=seq)


def _account_for_the_rest(store: JournalDatabase, found: Salvage, numbers: _Numbers, doubtful: "_Doubtful") -> None:
    """Each number has a post now, or a dead letter, or its post is lost."""
    numbers.first = numbers.first or numbers.next
    missing = max(0, numbers.count() - found.posts)
    letters = doubtful.letters(store, numbers)[:missing]
    for letter in letters:
        store.bury(letter)
    found.damaged_posts = len(letters)
    found.lost_posts = missing - len(letters)
    store.save_first_seq(numbers.first)
    store.save_missing(numbers.next)


def _number(seq: int, expected: int, following: int) -> int:
    """The number of a row that says `seq`, where `expected` would be next: what it says if that is in order, else the
    place that is left for it."""
    if seq == expected or expected < seq < following or expected >= following:
        return seq
    return expected


class _Doubtful:
    """Rows that are no sound posts, or have no number. What looks like a row on a damaged page need not be one: it counts
    if there is a missing number that it can have."""

    def __init__(self) -> None:
        self._rows: list[Damaged] = []
        self._size = 0

    def keep(self, row: Damaged) -> None:
        self._size += len(row.body)
        if self._size < _DOUBTFUL_BYTES:
            self._rows.append(row)

    def sift(self, rows: Iterator[Entry | Damaged]) -> Iterator[Entry]:
        """Keep those that are damaged, and let the others through."""
        for row in rows:
            if isinstance(row, Damaged):
                self.keep(row)
            else:
                yield row

    def letters(self, store: JournalDatabase, numbers: _Numbers) -> list[DeadLetter]:
        """What may be missing posts: first those that say which."""
        known = {row.seq: row for row in self._rows if numbers.first <= row.seq < numbers.next}
        missing = [row for seq, row in known.items() if store.digest(seq) is None and not numbers.is_gap(seq)]
        return [damaged_post(row) for row in [*missing, *(row for row in self._rows if not row.seq)]]


def damaged_post(row: Damaged) -> DeadLetter:
    """What a damaged row becomes."""
    return DeadLetter("post", "", f"damaged in the journal (post {row.seq or '?'})", row.received, row.body)
