"""The newest posts in memory, so that a sink near the head does not wait for the file."""

from collections.abc import Sequence
from threading import Lock

from btfeed.journal.base import Entry

OVERHEAD = 400
"""Bytes that a post takes in memory besides its body, approximately."""


class RecentPosts:
    """Consecutive posts up to the newest, within `max_bytes` of memory. Thread-safe: the journal's thread adds and drops,
    and the event loop reads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._entries: dict[int, Entry] = {}
        self._first = 0
        self._bytes = 0

    def add(self, entries: Sequence[Entry]) -> None:
        """Add the posts that follow. Drops the oldest beyond the limit, and all of them if there is a gap."""
        with self._lock:
            if entries[0].seq != self._first + len(self._entries):
                self._clear()
                self._first = entries[0].seq
            for entry in entries:
                self._entries[entry.seq] = entry
                self._bytes += _size(entry)
            while self._bytes > self._max_bytes:
                self._drop_oldest()

    def drop_below(self, seq: int) -> None:
        """Drop posts numbered below `seq`."""
        with self._lock:
            while self._entries and self._first < seq:
                self._drop_oldest()

    def clear(self) -> None:
        with self._lock:
            self._clear()

    def find(self, seq: int, max_bytes: int) -> list[Entry]:
        """The post numbered `seq`, if it is in memory, and as many of the next as fit in `max_bytes`."""
        found: list[Entry] = []
        with self._lock:
            while entry := self._entries.get(seq):
                max_bytes -= len(entry.post.body)
                if found and max_bytes < 0:
                    break
                found.append(entry)
                seq += 1
        return found

    def _clear(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def _drop_oldest(self) -> None:
        self._bytes -= _size(self._entries.pop(self._first))
        self._first += 1


def _size(entry: Entry) -> int:
    return len(entry.post.body) + OVERHEAD
