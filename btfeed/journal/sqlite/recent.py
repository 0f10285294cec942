"""The newest posts in memory, so that a sink near the head waits for no file."""

from collections.abc import Sequence
from threading import Lock

from btfeed.journal.base import Entry
from btfeed.journal.sqlite.layout import bytes_taken

RECENT_BYTES = 64 * 2**20
"""Bytes of the newest posts that are kept in memory while a sink has still to read them, as they take them in the file."""


class Recent:
    """The newest posts, without gaps. Several threads may use it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._entries: dict[int, Entry] = {}
        self._first = 0
        self._bytes = 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Those that follow; the oldest go where there are too many."""
        with self._lock:
            if entries[0].seq != self._first + len(self._entries):
                self._forget_all()
                self._first = entries[0].seq
            for entry in entries:
                self._entries[entry.seq] = entry
                self._bytes += bytes_taken(entry.post)
            while self._bytes > RECENT_BYTES:
                self._drop()

    def let_go(self, passed: int) -> None:
        """Of posts that are numbered below that."""
        with self._lock:
            while self._entries and self._first < passed:
                self._drop()

    def clear(self) -> None:
        with self._lock:
            self._forget_all()

    def read(self, seq: int, max_bytes: int) -> list[Entry]:
        """The one with that number, if it is here, and as many more as fit."""
        found: list[Entry] = []
        with self._lock:
            while entry := self._entries.get(seq):
                max_bytes -= len(entry.post.body)
                if found and max_bytes < 0:
                    break
                found.append(entry)
                seq += 1
        return found

    def _forget_all(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def _drop(self) -> None:
        self._bytes -= bytes_taken(self._entries.pop(self._first).post)
        self._first += 1
