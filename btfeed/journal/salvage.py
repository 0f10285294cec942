"""What is done with a journal whose file is damaged: carry over what can be read into a new one, and set it aside.

Rows are read one after the other; where SQLite stumbles, each following number is tried by itself, so that a damaged
page costs the rows on it, or those that it leads to, and no more. A body that fits its digest is right; its number is, if it lies between its
neighbours'. What is missing between the first number that was not forgotten and the last one given is counted as lost,
and noted as gaps.

The new journal takes its place by renaming, last of all and step by step (`finish` goes on after a crash), so that there
is a whole journal at any time, old or new. The damaged file is kept as it was found.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import TypeVar

import apsw

from btfeed.journal.base import Cursor, DeadLetter, Entry
from btfeed.journal.layout import PAGE_SIZE, check_header
from btfeed.journal.store import FILE, Damaged, Store

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
    store = Store.open(directory, vfs, _UNFINISHED)
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
def _damaged(directory: Path, vfs: str | None) -> Iterator[Store]:
    """The damaged journal, to be read. Its first page holds the header and the schema, alike in every journal: where it
    is damaged, the new one's is read in its place."""
    path = directory / FILE
    patched = _FirstPage(vfs or "", (directory / _UNFINISHED).read_bytes()[:PAGE_SIZE])
    try:
        try:
            check_header(path, vfs)
            with closing(Store.open_damaged(path, vfs)) as old:
                old.prove_schema()
        except apsw.Error:
            vfs = patched.name
        with closing(Store.open_damaged(path, vfs)) as old:
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


def _carry_sinks(old: Store, store: Store) -> None:
    cursors: dict[str, tuple[Cursor, str | None]] = _known(lambda: old.cursors(strict=False), {})
    for sink, (cursor, state) in cursors.items():
        store.save_cursor(sink, cursor, state)


def _carry_letters(old: Store, store: Store) -> None:
    marked: set[int] = _known(lambda: {letter.id for letter in old.dead_letters("retry")}, set())

    def read(number: int) -> Iterator[DeadLetter]:
        return old.dead_letters("id >= ?", number)

    for letter in _readable(read, lambda letter: letter.id, 1, _known(old.last_dead_letter, 0) + 1):
        store.bury(letter, retry=letter.id in marked)


def _carry_posts(old: Store, store: Store, found: Salvage, first_seq: int, next_seq: int) -> None:
    gaps: dict[int, int] = _known(old.gaps, {})
    seqs = [cursor.seq for cursor, _ in store.cursors().values()]
    first_seq = first_seq or _known(old.first_seq, 0)
    next_seq = max(next_seq, first_seq, *seqs, *(last + 1 for last in gaps.values()))
    end = max(next_seq, _known(old.last_seq, 0) + 1)
    rows = _readable(lambda seq: old.read(seq, _EVERYTHING), lambda row: row.seq, first_seq, end)
    doubtful = _Doubtful()
    lowest = expected = 0
    size = 0
    for row, following in pairwise(chain(doubtful.sift(rows), [None])):
        assert row is not None
        if not lowest:
            lowest = expected = min(first_seq or row.seq, row.seq)
        while expected in gaps:
            expected = gaps[expected] + 1
        seq = _number(row.seq, expected, following.seq if following else max(next_seq, row.seq + 1))
        if seq >= lowest and store.digest(seq) is None:
            store.append(seq, [row.post])
            found.posts += 1
            size += len(row.post.body)
        elif store.digest(seq) != row.post.digest:  # else a damaged page led here again
            doubtful.keep(Damaged(0, row.post.received, row.post.body))
        expected, next_seq = seq + 1, max(next_seq, seq + 1)
        if size > _BATCH_BYTES:
            store.commit()
            store.begin()
            size = 0
    lowest = lowest or first_seq or next_seq
    missing = next_seq - lowest - found.posts
    missing = max(0, missing - sum(last - max(first, lowest) + 1 for first, last in gaps.items() if last >= lowest))
    store.save_first_seq(lowest)
    store.save_missing(next_seq)
    for letter in doubtful.letters(store, range(lowest, next_seq), gaps)[:missing]:
        store.bury(letter)
        found.damaged_posts += 1
    found.lost_posts = missing - found.damaged_posts


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

    def letters(self, store: Store, seqs: range, gaps: dict[int, int]) -> list[DeadLetter]:
        missing = {row.seq: row for row in self._rows if row.seq in seqs and store.digest(row.seq) is None}
        for first, last in gaps.items():
            for seq in [seq for seq in missing if first <= seq <= last]:
                del missing[seq]
        return [damaged_post(row) for row in [*missing.values(), *(row for row in self._rows if not row.seq)]]


def damaged_post(row: Damaged) -> DeadLetter:
    """What a damaged row becomes."""
    return DeadLetter("post", "", f"damaged in the journal (post {row.seq or '?'})", row.received, row.body)
