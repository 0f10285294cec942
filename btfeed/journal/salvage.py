"""What is done with a journal whose file is damaged: set it aside under another name, and carry over what can be read.

Rows are read one after the other; where SQLite stumbles, each following number is tried by itself, so that a damaged
page costs the posts on it and no others. What was between the first and the last readable post and could not be read
is lost, and counted. The damaged file is left as it was found.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import apsw

from btfeed.journal.base import DeadLetter, Entry
from btfeed.journal.store import FILE, Store
from btfeed.post import digest

_BATCH = 64
_EVERYTHING = 2**62


@dataclass(slots=True)
class Salvage:
    """posts: carried over. damaged_posts: readable but changed, now dead letters. lost_posts: not readable."""

    damaged_file: Path
    posts: int = 0
    damaged_posts: int = 0
    lost_posts: int = 0


def set_aside_and_salvage(directory: Path, vfs: str | None) -> tuple[Store, Salvage]:
    """A new store in `directory`, with everything readable of the old one. Raises apsw.Error or OSError."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    aside = directory / f"{FILE}.damaged-{stamp}"
    for suffix in ("", "-wal"):
        path = directory / (FILE + suffix)
        if path.exists():
            path.rename(f"{aside}{suffix}")
    (directory / f"{FILE}-shm").unlink(missing_ok=True)
    found = Salvage(aside)
    store = Store.open(directory, vfs)
    old = Store.open_damaged(aside)
    try:
        store.begin()
        _carry_over(old, store, found)
        store.commit()
    finally:
        store.rollback()
        old.close()
    return store, found


def _carry_over(old: Store, store: Store, found: Salvage) -> None:
    low, high = _known_range(old)
    carried = 0
    for entry in _readable_posts(old, high):
        low, high = min(low or entry.seq, entry.seq), max(high, entry.seq)
        carried += 1
        if digest(entry.post.body) == entry.post.digest:
            store.append(entry.seq, [entry.post])
            found.posts += 1
        else:
            reason = f"damaged in the journal (post {entry.seq}): the body does not fit its digest"
            store.bury(DeadLetter("post", "", reason, entry.post.received, entry.post.body))
            found.damaged_posts += 1
        if carried % _BATCH == 0:
            store.commit()
            store.begin()
    found.lost_posts = high - low + 1 - carried if low else 0
    with suppress(apsw.Error):
        for sink, (cursor, state) in old.cursors().items():
            store.save_cursor(sink, cursor, state)
    with suppress(apsw.Error):
        for letter in old.dead_letters():
            store.bury(letter)


def _known_range(old: Store) -> tuple[int, int]:
    """The lowest and the highest number of a post by what else the file says; zeros where it says nothing."""
    with suppress(apsw.Error):
        seqs = [cursor.seq for cursor, _ in old.cursors().values()]
        return min(seqs, default=0), max(seqs, default=1) - 1
    return 0, 0


def _readable_posts(old: Store, high: int) -> Iterator[Entry]:
    with suppress(apsw.Error):
        high = max(high, old.next_seq() - 1)
    seq = 0
    while True:
        try:
            for entry in old.read(seq, _EVERYTHING):
                yield entry
                seq = entry.seq + 1
            return
        except apsw.Error:
            if seq > high:
                return
            seq = _next_readable(old, seq, high)


def _next_readable(old: Store, seq: int, high: int) -> int:
    """The first number after `seq` up to `high` whose post can be read; one past `high` where there is none."""
    for candidate in range(seq + 1, high + 1):
        with suppress(apsw.Error):
            if old.received(candidate) is not None:
                return candidate
    return high + 1
