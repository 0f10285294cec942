"""The tables of the SQLite journal, and every statement on them.

    posts         seq, when and from whom, digest and length of the body, the body. seq ascends without gaps
    sinks         a row for each sink: its cursor (seq, ordinal) and its state
    dead_letters  what could not be delivered; `retry` is set by a person and cleared by the server
    meta          next_seq, which outlives the posts

Functions here are synchronous and know nothing of threads: btfeed/journal/sqlite.py calls them on the journal's thread,
`btfeed dead-letters` on a connection of its own.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import apsw

from btfeed.journal.base import Commit, Cursor, DeadLetter, Entry
from btfeed.post import Post
from sinks.base import Transaction

FILE = "journal.db"
PAGE_SIZE = 16_384  # posts are tens of kilobytes: measured 25 % faster than 4 KiB pages, and no slower where they are small
CHECKPOINT_PAGES = 256  # 4 MiB: larger ones made the slowest commit in a hundred 4 times slower

_SCHEMA = """
CREATE TABLE IF NOT EXISTS posts(
    seq INTEGER PRIMARY KEY, received INTEGER NOT NULL, peer TEXT NOT NULL, digest BLOB NOT NULL,
    length INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS sinks(
    name TEXT PRIMARY KEY, seq INTEGER NOT NULL, ordinal INTEGER NOT NULL, state TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters(
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, sink TEXT NOT NULL, reason TEXT NOT NULL,
    time INTEGER NOT NULL, tries INTEGER NOT NULL, retry INTEGER NOT NULL DEFAULT 0, event_id TEXT, key TEXT NOT NULL,
    timestamp INTEGER NOT NULL, "transaction" TEXT, body BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS dead_letters_event ON dead_letters(event_id, sink) WHERE event_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS dead_letters_retry ON dead_letters(kind, sink) WHERE retry;
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Pruned:
    """Posts that were forgotten: how many, and the number of the last."""

    posts: int
    last_seq: int


class Store:
    """One connection to the journal's file. Methods raise apsw.Error."""

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db
        db.set_busy_timeout(5_000)

    @classmethod
    def open(cls, directory: Path, vfs: str | None = None) -> "Store":
        """The journal in `directory`, made if there is none."""
        store = cls(apsw.Connection(str(directory / FILE), vfs=vfs))
        try:
            store._set_up()
        except apsw.Error:
            store.close()
            raise
        return store

    @classmethod
    def open_damaged(cls, path: Path) -> "Store":
        """A journal that is only to be read, and left as it is."""
        store = cls(apsw.Connection(str(path)))
        store.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        return store

    def _set_up(self) -> None:
        self.db.execute(f"PRAGMA page_size={PAGE_SIZE}")
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        self.db.execute(f"PRAGMA journal_size_limit={64 * 2**20}")
        version = self._one("PRAGMA user_version")
        if version > _VERSION:
            raise apsw.SQLError(f"the journal was written by a newer btfeed (layout {version}, this one knows {_VERSION})")
        if version < _VERSION:
            self.db.execute(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT")

    def close(self) -> None:
        with suppress(apsw.Error):  # nothing unsaved is lost by a close that fails
            self.db.close()

    def begin(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Durable when this returns."""
        self.db.execute("COMMIT")

    def rollback(self) -> None:
        if self.db.in_transaction:
            with suppress(apsw.Error):  # after a disk error SQLite may have rolled back by itself
                self.db.execute("ROLLBACK")

    def probe(self) -> None:
        """Prove that the disk takes writes again, from an empty write-ahead log: what a failed fsync left in the old one
        can't be trusted."""
        self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self.db.execute("INSERT INTO meta VALUES('probe', 1) ON CONFLICT(name) DO UPDATE SET value = value + 1")

    # posts

    def append(self, first_seq: int, posts: Sequence[Post]) -> None:
        """One statement however many posts: each step into SQLite gives up Python's lock, and must win it back."""
        row = "(?,?,?,?,?,?)"
        values: list[Any] = []
        for seq, post in enumerate(posts, start=first_seq):
            values += (seq, post.received, post.peer, post.digest, len(post.body), post.body)
        self.db.execute(f"INSERT INTO posts VALUES {','.join([row] * len(posts))}", values)

    def next_seq(self) -> int:
        """One past every number that a post ever had."""
        return int(
            self._one(
                "SELECT max(coalesce((SELECT max(seq) + 1 FROM posts), 1), coalesce((SELECT max(seq) FROM sinks), 1),"
                " coalesce((SELECT value FROM meta WHERE name = 'next_seq'), 1))"
            )
        )

    def first_seq(self) -> int | None:
        seq: int | None = self._one("SELECT min(seq) FROM posts")
        return seq

    def read(self, seq: int, max_bytes: int) -> Iterator[Entry]:
        """Posts from `seq` on; their digests are not checked."""
        size = 0
        for row in self.db.execute(
            "SELECT seq, body, digest, received, peer FROM posts WHERE seq >= ? ORDER BY seq", (seq,)
        ):
            number, *columns = row
            size += len(columns[0])
            if size > max_bytes and size > len(columns[0]):
                return
            yield Entry(number, Post(*columns))

    def received(self, seq: int) -> int | None:
        """When the first post from `seq` on was received."""
        received: int | None = self._one("SELECT received FROM posts WHERE seq >= ? ORDER BY seq LIMIT 1", seq)
        return received

    def delete_post(self, seq: int) -> None:
        self.db.execute("DELETE FROM posts WHERE seq = ?", (seq,))

    def prune(self, before_seq: int, received_before: int, limit: int) -> Pruned:
        """Forget up to `limit` of the oldest posts, of those numbered below `before_seq` and received earlier."""
        last = self._one(
            "SELECT max(seq) FROM (SELECT seq, received FROM posts WHERE seq < ? ORDER BY seq LIMIT ?) WHERE received < ?",
            before_seq, limit, received_before,
        )  # fmt: skip
        if last is None:
            return Pruned(0, 0)
        self.db.execute(
            "INSERT INTO meta VALUES('next_seq', ?) ON CONFLICT(name) DO UPDATE SET value = max(value, excluded.value)",
            (last + 1,),
        )
        self.db.execute("DELETE FROM posts WHERE seq <= ?", (last,))
        return Pruned(self.db.changes(), last)

    def used_bytes(self) -> int:
        """What the journal's content takes up; pages that were freed are used again before the file grows."""
        return int(self._one("PRAGMA page_count") - self._one("PRAGMA freelist_count")) * PAGE_SIZE

    # sinks

    def cursors(self) -> dict[str, tuple[Cursor, str | None]]:
        rows = self.db.execute("SELECT name, seq, ordinal, state FROM sinks")
        return {name: (Cursor(seq, ordinal), state) for name, seq, ordinal, state in rows}

    def save_cursor(self, sink: str, cursor: Cursor, state: str | None) -> None:
        self.db.execute("INSERT OR REPLACE INTO sinks VALUES(?,?,?,?)", (sink, *cursor, state))

    def save(self, sink: str, commit: Commit, now: int) -> None:
        """All that a commit says."""
        self.save_cursor(sink, commit.cursor, commit.state)
        for letter in commit.dead_letters:
            self.bury(letter)
        self.db.executemany("DELETE FROM dead_letters WHERE id = ?", [(letter,) for letter in commit.redelivered])
        self.refuse_again(commit.refused_again.items(), now)

    # dead letters

    def bury(self, letter: DeadLetter) -> None:
        """Keep a dead letter; the same record of the same sink is kept once."""
        transaction = json.dumps(astuple(letter.transaction)) if letter.transaction else None
        self.db.execute(
            "INSERT OR IGNORE INTO dead_letters"
            '(kind, sink, reason, time, tries, event_id, key, timestamp, "transaction", body)'
            " VALUES(?,?,?,?,?,?,?,?,?,?)",
            (letter.kind, letter.sink, letter.reason, letter.time, letter.tries, letter.event_id, letter.key,
             letter.timestamp, transaction, letter.body),
        )  # fmt: skip

    def dead_letters(self, where: str = "1", *values: str | int, limit: int = -1) -> Iterator[DeadLetter]:
        """Dead letters for which the SQL expression `where` holds, the oldest first."""
        rows = self.db.execute(
            'SELECT kind, sink, reason, time, body, tries, event_id, key, timestamp, "transaction", id'
            f" FROM dead_letters WHERE {where} ORDER BY id LIMIT {limit}",
            values,
        )
        for row in rows:
            *columns, transaction, number = row
            known: tuple[Any, ...] = (*columns, Transaction(*json.loads(transaction)) if transaction else None, number)
            yield DeadLetter(*known)

    def retry(self, letters: Sequence[DeadLetter], sinks: Sequence[str]) -> int:
        """Mark dead letters to be tried again, by `sinks` where no sink was asked before; returns how many it could.
        What has no sink, or no timestamp that a record could have, is left alone."""
        marked = 0
        self.begin()
        for letter in letters:
            if letter.kind == "record" and not letter.sink and _deliverable(letter) and sinks:
                for sink in sinks:
                    self.bury(replace(letter, sink=sink))
                    self.db.execute(
                        "UPDATE dead_letters SET retry = 1 WHERE event_id = ? AND sink = ?", (letter.event_id, sink)
                    )
                self.delete_dead_letters([letter.id])
            elif letter.kind == "post" or letter.sink in sinks:
                self.db.execute("UPDATE dead_letters SET retry = 1 WHERE id = ?", (letter.id,))
            else:
                continue
            marked += 1
        self.commit()
        return marked

    def refuse_again(self, refused: Any, now: int) -> None:
        self.db.executemany(
            "UPDATE dead_letters SET retry = 0, tries = tries + 1, reason = ?, time = ? WHERE id = ?",
            [(reason, now, letter) for letter, reason in refused],
        )

    def delete_dead_letters(self, ids: Sequence[int]) -> None:
        self.db.executemany("DELETE FROM dead_letters WHERE id = ?", [(letter,) for letter in ids])

    def evict_refused_posts(self, max_bytes: int) -> int:
        """Delete the oldest dead letters of kind "post" beyond `max_bytes` of bodies; returns how many."""
        newest_first = "SELECT id, sum(length(body)) OVER (ORDER BY id DESC) AS total FROM dead_letters WHERE kind = 'post'"
        self.db.execute(
            f"DELETE FROM dead_letters WHERE id IN (SELECT id FROM ({newest_first}) WHERE total > ?)", (max_bytes,)
        )
        return self.db.changes()

    def count_dead_letters(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(kind, sink) -> how many there are, and the bytes of their bodies."""
        rows = self.db.execute("SELECT kind, sink, count(*), sum(length(body)) FROM dead_letters GROUP BY kind, sink")
        return {(kind, sink): (count, size) for kind, sink, count, size in rows}

    def _one(self, statement: str, *values: Any) -> Any:
        return self.db.execute(statement, values).get


def _deliverable(letter: DeadLetter) -> bool:
    """Where startTime fits no calendar, `timestamp` is a number (btfeed/mapping.py)."""
    return isinstance(json.loads(letter.body).get("timestamp"), str)
