"""The posts of a range of time in a SQLite journal, read in pieces, since a server may be writing to it.

The file is opened read-only.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw

from btfeed.journal.base import Damaged, Entry, JournalUnavailable
from btfeed.journal.sqlite.database import FILE, JournalDatabase

PIECE = 4 * 2**20
"""Bytes of bodies to read at a time: a read that lasts long keeps the server's write-ahead log growing."""
EVER = 2**62


class SqliteArchive:
    """See btfeed.journal.base.Archive."""

    def __init__(self, directory: Path, begin: int | None = None, end: int | None = None) -> None:
        """Posts received from `begin` to before `end`, in milliseconds since the epoch. Raises JournalUnavailable."""
        if not (directory / FILE).exists():
            raise JournalUnavailable(f"no journal in {directory}")
        self._directory = directory
        self._begin = -EVER if begin is None else begin
        self._end = EVER if end is None else end
        try:
            with closing(JournalDatabase.open_read_only(directory)) as database:
                self.count, self._first, self._last = database.span(self._begin, self._end)
        except apsw.Error as error:
            raise self._unreadable(error) from None

    def entries(self) -> Iterator[Entry | Damaged]:
        seq = self._first
        try:
            with closing(JournalDatabase.open_read_only(self._directory)) as database:
                while seq <= self._last and (piece := list(database.posts(seq, PIECE))):
                    seq = piece[-1].seq + 1
                    yield from filter(self._includes, piece)
        except apsw.Error as error:
            raise self._unreadable(error) from None

    def _includes(self, row: Entry | Damaged) -> bool:
        if row.seq > self._last:
            return False
        return isinstance(row, Damaged) or self._begin <= row.post.received < self._end

    def _unreadable(self, error: apsw.Error) -> JournalUnavailable:
        return JournalUnavailable(f"can't read the journal in {self._directory}: {error}")
