"""Every statement on the tables of the SQLite journal (btfeed/journal/sqlite/layout.py).

    posts         seq, when and from whom, digest of the body, the body. seq ascends without gaps, but for
    gaps          ranges of numbers whose posts were lost or set aside. What is missing beside them was lost unnoticed
    sinks         a row for each sink: its cursor (seq, ordinal), its state, and a checksum of these
    dead_letters  what could not be delivered; `retry` is set by a person and cleared by the server
    meta          first_seq: posts below it were forgotten. It outlives the posts, so that no number is given twice

Rows are read with mistrust: whatever a damaged file says, a method raises apsw.Error or returns the types that it
promises. Functions here are synchronous and know nothing of threads: worker.py calls them on the journal's thread,
 `btfeed dead-letters` on a connection of its own.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import apsw

from btfeed.journal.base import Commit, Cursor, DeadLetter, Entry
from btfeed.journal.sqlite.layout import APPLICATION, PAGE_SIZE, SCHEMA, VERSION, check_header, check_schema
from btfeed.posts.post import Post
from btfeed.posts.post import digest as digest_of
from sinks.batch import Transaction

FILE = "journal.db"
CHECKPOINT_PAGES = 256  # 4 MiB: larger ones made the slowest commit in a hundred 4 times slower
LOG_LIMIT = 64 * 2**20
"""Bytes that the write-ahead log keeps between checkpoints."""
_READ_WRITE = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
DAMAGE = (apsw.CorruptError, apsw.NotADBError)
"""What SQLite raises where the file is damaged."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A row of posts whose body is not what was received."""

    seq: int
    received: int
    body: bytes


class JournalDatabase:
    """One connection to the journal's file. Methods raise apsw.Error."""

    def __init__(
        self, path: Path, vfs: str | None, flags: int = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    ) -> None:
        self.db = apsw.Connection(str(path), flags, vfs)
        self.db.set_busy_timeout(5_000)
        self._vfs = vfs

    @classmethod
    def open(cls, directory: Path, vfs: str | None = None, file: str = FILE) -> "JournalDatabase":
        """The journal in `directory`, made if there is none."""
        check_header(directory / file, vfs)
        store = cls(directory / file, vfs)
        try:
            store._set_up()
        except apsw.Error:
            store.close()
            raise
        return store

    @classmethod
    def open_damaged(cls, path: Path, vfs: str | None = None) -> "JournalDatabase":
        """A journal that is only to be read, and left as it is."""
        store = cls(path, vfs)
        store.leave_as_it_is()
        return store

    @classmethod
    def open_read_only(cls, directory: Path) -> "JournalDatabase":
        """The journal in `directory`, which a server may be writing: it is neither changed nor held up."""
        check_header(directory / FILE, None)
        store = cls(directory / FILE, None, apsw.SQLITE_OPEN_READONLY)
        store.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        return store

    def _set_up(self) -> None:
        self.db.execute(f"PRAGMA page_size={PAGE_SIZE}")
        mode = self._one("PRAGMA journal_mode=WAL")
        if mode != "wal":
            raise apsw.CantOpenError(f"the file system knows no write-ahead log: journal_mode is {mode}")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("PRAGMA cell_size_check=ON")
        self.db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        self.db.execute(f"PRAGMA journal_size_limit={LOG_LIMIT}")
        version, application = self._one("PRAGMA user_version"), self._one("PRAGMA application_id")
        if application != (version and APPLICATION + version):
            raise apsw.CorruptError(f"layout {version} of application {application:#x} is no journal's")
        if version > VERSION:
            raise apsw.SQLError(f"the journal was written by a newer btfeed (layout {version}, this one knows {VERSION})")
        if version < VERSION:
            marks = f"PRAGMA user_version={VERSION}; PRAGMA application_id={APPLICATION + VERSION}"
            self.db.execute(f"BEGIN IMMEDIATE; {SCHEMA} {marks}; COMMIT")
        check_schema(self.db)
        self._inodes = _inodes(self.db)

    def leave_as_it_is(self) -> None:
        """Closing will not bring what is in the log into the file."""
        self.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

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
        """Prove that the disk takes writes, both to the log and to the file."""
        self.db.execute("INSERT INTO meta VALUES('probe', 1) ON CONFLICT(name) DO UPDATE SET value = value + 1")
        self.db.wal_checkpoint()

    def checkpoint(self) -> None:
        """Bring all that is in the log into the file, and empty the log."""
        self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def removed(self) -> bool:
        """Somebody took the files away: what is written to them would be gone when they are closed."""
        try:
            return _inodes(self.db) != self._inodes
        except OSError:
            return True

    def relieve_log(self) -> None:
        """Where checkpoints fail, SQLite keeps silent and the log grows; find out why."""
        if Path(self.db.filename_wal).stat().st_size > LOG_LIMIT:
            self.db.wal_checkpoint()

    def rewrite_log(self) -> None:
        """Write the bytes of the write-ahead log again where they are, and sync them. Where an fsync failed, the kernel
        holds them for clean although the disk never had them; a process that finds the log can't tell."""
        self.begin()  # nobody else writes meanwhile
        try:
            flags = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READWRITE
            log = apsw.VFSFile(self._vfs or "", self.db.filename_wal, [flags, 0])
            try:
                size = log.xFileSize()
                for offset in range(0, size, PAGE_SIZE):  # SQLite's own VFS can't write more than 128 KiB at a time
                    log.xWrite(log.xRead(min(PAGE_SIZE, size - offset), offset), offset)
                log.xSync(apsw.SQLITE_SYNC_NORMAL)
            finally:
                log.xClose()
        finally:
            self.rollback()

    # posts

    def append(self, entries: Sequence[Entry]) -> None:
        """One statement however many posts: each step into SQLite gives up Python's lock, and must win it back. One that
        rolls back what it can't finish needs no journal of its own, which would be a file in /tmp."""
        values: list[Any] = []
        for entry in entries:
            values += (entry.seq, entry.post.received, entry.post.peer, entry.digest, entry.post.body)
        self.db.execute(f"INSERT OR ROLLBACK INTO posts VALUES {','.join(['(?,?,?,?,?)'] * len(entries))}", values)

    def read(self, seq: int, max_bytes: int) -> Iterator[Entry | Damaged]:
        """Posts from `seq` on, as the file has them: numbers may be missing or out of order where it is damaged."""
        size = 0
        for number, received, peer, digest, body in self.db.execute(
            "SELECT seq, CAST(received AS INTEGER), CAST(peer AS BLOB), CAST(digest AS BLOB), CAST(body AS BLOB)"
            " FROM posts WHERE seq >= ? ORDER BY seq",
            (seq,),
        ):
            body = body or b""
            if size and size + len(body) > max_bytes:
                return
            size += len(body) or 1
            if digest == digest_of(body):
                yield Entry(number, Post(body, received or 0, str(peer or b"", "utf-8", "replace")), digest)
            else:
                yield Damaged(number, received or 0, body)

    def digest(self, seq: int) -> bytes | None:
        """Of that post, None where there is none."""
        digest: bytes | None = self._one("SELECT CAST(digest AS BLOB) FROM posts WHERE seq = ?", seq)
        return digest

    def last_seq(self) -> int:
        """The number of the newest post, 0 where there is none."""
        return self._one("SELECT max(seq) FROM posts") or 0

    def received(self, seq: int) -> int | None:
        """When the first post from `seq` on was received."""
        received: int | None = self._one(
            "SELECT CAST(received AS INTEGER) FROM posts WHERE seq >= ? ORDER BY seq LIMIT 1", seq
        )
        return received

    def span(self, begin: int, end: int) -> tuple[int, int, int]:
        """How many posts were received from `begin` to before `end`, the number of the first, and of the last of them."""
        statement = (
            "SELECT count(*), ifnull(min(seq), 0), ifnull(max(seq), 0) FROM posts WHERE received >= ? AND received < ?"
        )
        count, first, last = next(self.db.execute(statement, (begin, end)))
        return count, first, last

    def forget(self, before_seq: int, received_before: int, limit: int) -> list[int]:
        """Delete up to `limit` of the oldest posts, of those numbered below `before_seq`, up to the last that was received
        before; returns their numbers."""
        rows = list(
            self.db.execute(
                "SELECT seq, CAST(received AS INTEGER) FROM posts WHERE seq < ? ORDER BY seq LIMIT ?", (before_seq, limit)
            )
        )
        while rows and (rows[-1][1] or 0) >= received_before:
            rows.pop()
        seqs = [seq for seq, _ in rows]
        if seqs:
            self.db.execute("DELETE FROM posts WHERE seq <= ?", (seqs[-1],))
            self.db.execute("DELETE FROM gaps WHERE last <= ?", (seqs[-1],))
            self.save_first_seq(seqs[-1] + 1)
        return seqs

    def delete_post(self, seq: int) -> None:
        """Delete one out of turn: its number becomes a gap."""
        self.db.execute("DELETE FROM posts WHERE seq = ?", (seq,))
        self.save_gap(seq, seq)

    def first_seq(self) -> int:
        """Posts below this were forgotten."""
        return int(self._one("SELECT value FROM meta WHERE name = 'first_seq'") or 1)

    def save_first_seq(self, seq: int) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta VALUES('first_seq', ?)", (seq,))

    def gaps(self) -> dict[int, int]:
        """The first number of each -> its last."""
        rows: Iterator[Any] = self.db.execute(
            "SELECT first, coalesce(CAST(last AS INTEGER), first) FROM gaps ORDER BY first"
        )
        return dict(rows)

    def save_gap(self, first: int, last: int) -> None:
        self.db.execute("INSERT OR REPLACE INTO gaps VALUES(?,?)", (first, last))

    def save_missing(self, next_seq: int) -> None:
        """Note as gaps all that is missing below `next_seq`."""
        self.db.execute(
            "WITH ends AS (SELECT seq FROM posts WHERE seq < ?1 UNION SELECT ?1),"
            " steps AS (SELECT lag(seq, 1, ?2) OVER (ORDER BY seq) + 1 AS first, seq - 1 AS last FROM ends)"
            " INSERT OR REPLACE INTO gaps SELECT first, last FROM steps WHERE first <= last",
            (next_seq, self.first_seq() - 1),
        )

    def used_bytes(self) -> int:
        """What the journal's content takes up; pages that were freed are used again before the file grows."""
        return int(self._one("PRAGMA page_count") - self._one("PRAGMA freelist_count")) * PAGE_SIZE

    # sinks

    def cursors(self, strict: bool = True) -> dict[str, tuple[Cursor, str | None]]:
        """Where each sink stands. A damaged row is an error, or left out if not `strict`."""
        found: dict[str, tuple[Cursor, str | None]] = {}
        columns = "CAST(name AS BLOB), seq, ordinal, CAST(state AS BLOB), checksum"
        for name, seq, ordinal, state, checksum in self.db.execute(f"SELECT {columns} FROM sinks"):
            if checksum == _checksum(name, seq, ordinal, state):
                found[_text(name)] = (Cursor(seq, ordinal), None if state is None else _text(state))
            elif strict:
                raise apsw.CorruptError("a sink's cursor is damaged")
        return found

    def save_cursor(self, sink: str, cursor: Cursor, state: str | None) -> None:
        checksum = _checksum(sink.encode(), *cursor, None if state is None else state.encode())
        self.db.execute("INSERT OR REPLACE INTO sinks VALUES(?,?,?,?,?)", (sink, *cursor, state, checksum))

    def save(self, sink: str, commit: Commit, now: int) -> None:
        """All that a commit says."""
        self.save_cursor(sink, commit.cursor, commit.state)
        for letter in commit.dead_letters:
            self.bury(letter)
        self.delete_dead_letters(commit.redelivered)
        self.refuse_again(commit.refused_again, now)

    # dead letters

    def bury(self, letter: DeadLetter, retry: bool = False) -> None:
        """Keep a dead letter, under its own id if it has one; the same record of the same sink is kept once."""
        transaction = json.dumps(astuple(letter.transaction)) if letter.transaction else None
        self.db.execute(
            "INSERT OR IGNORE INTO dead_letters"
            '(id, kind, sink, reason, time, tries, retry, event_id, key, timestamp, "transaction", body)'
            " VALUES(?,?,?,?,?,?,?,?,?,?,?,?)",
            (letter.id or None, letter.kind, letter.sink, letter.reason, letter.time, letter.tries, retry,
             letter.event_id, letter.key, letter.timestamp, transaction, letter.body),
        )  # fmt: skip

    def dead_letters(self, where: str = "1", *values: str | int, limit: int = -1) -> Iterator[DeadLetter]:
        """Dead letters for which the SQL expression `where` holds, the oldest first."""
        rows = self.db.execute(
            "SELECT id, CAST(kind AS BLOB), CAST(sink AS BLOB), CAST(reason AS BLOB), CAST(time AS INTEGER),"
            " CAST(body AS BLOB), CAST(tries AS INTEGER), CAST(event_id AS BLOB), CAST(key AS BLOB),"
            ' CAST(timestamp AS INTEGER), CAST("transaction" AS BLOB)'
            f" FROM dead_letters WHERE {where} ORDER BY id LIMIT {limit}",
            values,
        )
        for number, kind, sink, reason, time, body, tries, event_id, key, timestamp, transaction in rows:
            yield DeadLetter(
                "record" if kind == b"record" else "post", _text(sink), _text(reason), time or 0, body or b"", tries or 0,
                event_id and _text(event_id), _text(key), timestamp or 0, _transaction(transaction), number,
            )  # fmt: skip

    def retry(self, letters: Sequence[DeadLetter], sinks: Sequence[str]) -> int:
        """Mark dead letters to be tried again, by `sinks` where no sink was asked before; returns how many it could.
        What has no sink, or no timestamp that a record could have, is left alone."""
        marked = 0
        self.begin()
        for letter in letters:
            if letter.kind == "record" and not letter.sink and _deliverable(letter) and sinks:
                for sink in sinks:
                    self.bury(replace(letter, sink=sink, id=0))
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

    def refuse_again(self, refused: Mapping[int, str], now: int) -> None:
        """refused: id -> why."""
        self.db.executemany(
            "UPDATE dead_letters SET retry = 0, tries = tries + 1, reason = ?, time = ? WHERE id = ?",
            [(reason, now, letter) for letter, reason in refused.items()],
        )

    def delete_dead_letters(self, ids: Sequence[int]) -> None:
        self.db.executemany("DELETE FROM dead_letters WHERE id = ?", [(letter,) for letter in ids])

    def last_dead_letter(self) -> int:
        """Its id, 0 where there is none."""
        return self._one("SELECT max(id) FROM dead_letters") or 0

    def refused_bytes(self) -> int:
        """Bytes of the bodies of dead letters of kind "post"."""
        return int(self._one("SELECT sum(length(body)) FROM dead_letters WHERE kind = 'post'") or 0)

    def evict_refused_posts(self, max_bytes: int) -> int:
        """Delete the oldest dead letters of kind "post" beyond `max_bytes` of bodies; returns how many."""
        newest_first = "SELECT id, sum(length(body)) OVER (ORDER BY id DESC) AS total FROM dead_letters WHERE kind = 'post'"
        self.db.execute(
            f"DELETE FROM dead_letters WHERE id IN (SELECT id FROM ({newest_first}) WHERE total > ?)", (max_bytes,)
        )
        return self.db.changes()

    def _one(self, statement: str, *values: Any) -> Any:
        return self.db.execute(statement, values).get


def _inodes(db: apsw.Connection) -> tuple[int, int]:
    return Path(db.filename).stat().st_ino, Path(db.filename_wal).stat().st_ino


def _checksum(*values: object) -> int:
    return zlib.crc32(repr(values).encode())


def _text(value: bytes | None) -> str:
    return str(value or b"", "utf-8", "replace")


def _transaction(value: bytes | None) -> Transaction | None:
    try:
        return Transaction(*json.loads(value)) if value else None
    except (ValueError, TypeError):
        return None


def _deliverable(letter: DeadLetter) -> bool:
    """Where startTime fits no calendar, `timestamp` is a number (btfeed/records/plain_mapper.py)."""
    try:
        record = json.loads(letter.body)
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get("timestamp"), str)
