"""One connection to the journal's file: its setup, its transactions, and the statements on posts and sinks.

    posts         number, time of receipt, peer, digest and body. Numbers ascend without gaps, except for
    gaps          ranges of numbers whose posts were lost or set aside. A number missing from both means damage
    sinks         each sink's cursor (seq, ordinal) and state, with a checksum
    dead_letters, dead_letter_blocks, dead_letter_totals
                  see btfeed/journal/sqlite/dead_letter_table.py
    meta          first_seq: posts below it were dropped. It outlives the posts, so that no number is given twice.
                  `paused NAME`: since when a sink is paused, which versions that can't pause ignore

Rows are not trusted: whatever a damaged file contains, a method raises apsw.Error or returns the types that it promises.
All methods are synchronous. The journal's thread calls them (worker.py), and commands do on connections of their own.
"""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import apsw

from btfeed.journal.base import Commit, Cursor, Damaged, Entry
from btfeed.journal.sqlite.dead_letter_block import Block, blocks
from btfeed.journal.sqlite.dead_letter_table import DeadLetterTable, text
from btfeed.journal.sqlite.layout import APPLICATION, PAGE_SIZE, VERSION, bytes_taken, check_header, check_schema, upgrade
from btfeed.journal.sqlite.settings import TUNING, Tuning
from btfeed.posts.post import Post, digests
from sinks.shared.private import create_file

FILE = "journal.db"
DAMAGE = (apsw.CorruptError, apsw.NotADBError)
"""What SQLite raises if the file is damaged."""
LOCKED = (apsw.BusyError, apsw.LockedError, apsw.ProtocolError)
"""What SQLite raises while another process is writing. It says nothing about the disk."""
_PAUSED = "paused "
"""In `meta`, this and the name of a sink that is paused -> since when, in milliseconds since the epoch."""
_FAR = 2**47
"""A time that is still within the calendar, in milliseconds since the epoch."""
_VERIFIED_BYTES = 2**20
"""Bytes of posts to verify together: the native module is then faster than with one by one."""
_StoredPost: TypeAlias = tuple[int, Post, bytes | None]
"""The number, the post, and its digest as stored."""
_READ_WRITE = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


class JournalDatabase:
    """Methods raise apsw.Error. `dead_letters` has the statements on dead letters."""

    def __init__(self, path: Path | str, vfs: str | None, flags: int = _READ_WRITE, tuning: Tuning = TUNING) -> None:
        if flags & apsw.SQLITE_OPEN_CREATE:
            with suppress(OSError):  # it exists, or SQLite will say what is wrong. The log gets the mode of the file
                os.close(create_file(Path(path)))
        self.db = apsw.Connection(str(path), flags, vfs)
        self.db.set_busy_timeout(round(tuning.lock_wait * 1000))
        self.dead_letters = DeadLetterTable(self.db)
        self._vfs = vfs
        self._tuning = tuning

    @classmethod
    def open(
        cls,
        directory: Path,
        vfs: str | None = None,
        file: str = FILE,
        tuning: Tuning = TUNING,
        may_upgrade: bool = True,
    ) -> "JournalDatabase":
        """The journal in `directory`, created if it does not exist, and upgraded to the current layout if it may be."""
        check_header(directory / file, vfs)
        database = cls(directory / file, vfs, tuning=tuning)
        try:
            database._set_up(may_upgrade)
        except apsw.Error:
            database.close()
            raise
        return database

    @classmethod
    def open_damaged(cls, path: Path, vfs: str | None = None) -> "JournalDatabase":
        """A damaged journal, to read it without any checks and without changing it."""
        database = cls(path, vfs)
        database.keep_log_on_close()
        return database

    @classmethod
    def open_read_only(cls, directory: Path) -> "JournalDatabase":
        """The journal in `directory`, to read it while a server writes it."""
        check_header(directory / FILE, None)
        database = cls(directory / FILE, None, apsw.SQLITE_OPEN_READONLY)
        database.keep_log_on_close()
        return database

    @classmethod
    def check(cls, directory: Path) -> None:
        """Raise what `open` would raise, as far as that can be known without writing anything."""
        path = directory / FILE
        check_header(path, None)
        if not path.exists():
            return
        if path.with_name(f"{FILE}-shm").exists():
            database = cls(path, None, apsw.SQLITE_OPEN_READONLY)
        else:  # a connection that looked for a log would make that file
            uri = f"file:{quote(str(path.absolute()))}?immutable=1"
            database = cls(uri, None, apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        with closing(database):
            database.keep_log_on_close()
            if database._known_version() == VERSION:
                check_schema(database.db)

    def _set_up(self, may_upgrade: bool) -> None:
        self.db.execute(f"PRAGMA page_size={PAGE_SIZE}")
        mode = self._one("PRAGMA journal_mode=WAL")
        if mode != "wal":
            raise apsw.CantOpenError(f"the file system does not support a write-ahead log: journal_mode is {mode}")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("PRAGMA cell_size_check=ON")
        self.db.execute(f"PRAGMA wal_autocheckpoint={self._tuning.checkpoint_pages}")
        self.db.execute(f"PRAGMA journal_size_limit={self._tuning.log_limit}")
        self._upgrade(self._known_version(), may_upgrade)
        check_schema(self.db)
        self._inodes = _inodes(self.db)

    def _upgrade(self, version: int, may_upgrade: bool) -> None:
        """Bring the file from layout `version` to the current one."""
        if version and version < VERSION and not may_upgrade:
            raise apsw.SQLError(
                f"the journal was written by an older btfeed (layout {version}, this one needs {VERSION}):"
                " start `btfeed serve`, which upgrades it"
            )
        if version < VERSION:
            with self.changing():
                upgrade(self.db, self._one("PRAGMA user_version"))

    def _known_version(self) -> int:
        """The version of the layout, 0 for a new file. Raises apsw.Error if it is not one that this btfeed knows."""
        version, application = int(self._one("PRAGMA user_version")), self._one("PRAGMA application_id")
        if application != (version and APPLICATION + version):
            raise apsw.CorruptError(f"layout {version} with application id {application:#x} is not a journal")
        if version > VERSION:
            raise apsw.SQLError(
                f"the journal was written by a newer btfeed (layout {version}, this one supports {VERSION}): upgrade btfeed"
            )
        return version

    def keep_log_on_close(self) -> None:
        """Leave the write-ahead log as it is when this connection closes, instead of moving it into the file."""
        self.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def close(self) -> None:
        with suppress(apsw.Error):  # a close that fails loses nothing that was committed
            self.db.close()

    # Transactions and the disk

    def begin(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Durable when this returns."""
        self.db.execute("COMMIT")

    def rollback(self) -> None:
        if self.db.in_transaction:
            with suppress(apsw.Error):  # after a disk error SQLite may have rolled back by itself
                self.db.execute("ROLLBACK")

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One transaction, rolled back on an error."""
        self.begin()
        try:
            yield
            self.commit()
        except BaseException:
            self.rollback()
            raise

    def probe(self) -> None:
        """Prove that the disk accepts writes, both to the log and to the file."""
        self.db.execute("INSERT INTO meta VALUES('probe', 1) ON CONFLICT(name) DO UPDATE SET value = value + 1")
        self.db.wal_checkpoint()

    def checkpoint(self) -> None:
        """Move everything from the log into the file, and empty the log."""
        self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def removed(self) -> bool:
        """Whether the files were deleted or replaced: what is written to them now is gone once they are closed."""
        try:
            return _inodes(self.db) != self._inodes
        except OSError:
            return True

    def relieve_log(self) -> None:
        """Raise the reason if checkpoints fail: SQLite does not report it, and the log would grow without limit."""
        if Path(self.db.filename_wal).stat().st_size > self._tuning.log_limit:
            self.db.wal_checkpoint()

    def rewrite_log(self) -> None:
        """Write the write-ahead log again in place, and sync it. After a failed fsync the kernel treats pages as clean
        that never reached the disk, and a process that finds such a log can't tell."""
        self.begin()  # keeps other writers out
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

    # Posts

    def insert_posts(self, entries: Sequence[Entry]) -> None:
        """All in one statement: each call into SQLite releases Python's lock and has to get it back. OR ROLLBACK spares
        the statement its own rollback journal, a file in /tmp."""
        values: list[Any] = []
        for entry in entries:
            values += (entry.seq, entry.post.received, entry.post.peer, entry.digest, entry.post.body)
        self.db.execute(f"INSERT OR ROLLBACK INTO posts VALUES {','.join(['(?,?,?,?,?)'] * len(entries))}", values)

    def posts(self, seq: int, max_bytes: int) -> Iterator[Entry | Damaged]:
        """Posts from `seq` on, as stored: in a damaged file numbers may be missing or out of order."""
        return _verified(self._stored_posts(seq, max_bytes))

    def _stored_posts(self, seq: int, max_bytes: int) -> Iterator[_StoredPost]:
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
            yield number, Post(body, received or 0, text(peer)), digest

    def digest(self, seq: int) -> bytes | None:
        """The digest of that post, None if it does not exist."""
        digest: bytes | None = self._one("SELECT CAST(digest AS BLOB) FROM posts WHERE seq = ?", seq)
        return digest

    def last_seq(self) -> int:
        """The number of the newest post, 0 if there is none."""
        return self._one("SELECT max(seq) FROM posts") or 0

    def first_from(self, seq: int) -> tuple[int, int] | None:
        """The number of the first post from `seq` on, and when it was received; None if there is none."""
        rows = self.db.execute(
            "SELECT seq, CAST(received AS INTEGER) FROM posts WHERE seq >= ? ORDER BY seq LIMIT 1", (seq,)
        )
        return next(((number, received or 0) for number, received in rows), None)

    def span(self, begin: int, end: int) -> tuple[int, int, int]:
        """How many posts were received from `begin` to before `end`, and the numbers of the first and the last of them."""
        statement = (
            "SELECT count(*), ifnull(min(seq), 0), ifnull(max(seq), 0) FROM posts WHERE received >= ? AND received < ?"
        )
        count, first, last = next(self.db.execute(statement, (begin, end)))
        return count, first, last

    def drop_oldest(self, before_seq: int, received_before: int, limit: int) -> list[int]:
        """Delete up to `limit` of the oldest posts: those numbered below `before_seq`, up to the last one received before
        `received_before`. Returns their numbers."""
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
        """Delete one post out of order: its number becomes a gap."""
        self.db.execute("DELETE FROM posts WHERE seq = ?", (seq,))
        self.save_gap(seq, seq)

    def first_seq(self) -> int:
        """Posts below this number were dropped. A saved number above that of a post is damaged, and does not count."""
        saved = self.saved_first_seq()
        return min(saved, self.oldest_seq() or saved)

    def saved_first_seq(self) -> int:
        """What is saved of `first_seq`. It can be read whatever became of the posts."""
        return max(1, self._one("SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'first_seq'") or 1)

    def oldest_seq(self) -> int:
        """The number of the oldest post, 0 if there is none."""
        return self._one("SELECT min(seq) FROM posts WHERE seq > 0") or 0

    def save_first_seq(self, seq: int) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta VALUES('first_seq', ?)", (seq,))

    def gaps(self) -> dict[int, int]:
        """The first number of each gap -> its last. A gap that has a post is damaged, and does not count."""
        rows: Iterator[Any] = self.db.execute(
            "SELECT first, coalesce(CAST(last AS INTEGER), first) AS last FROM gaps WHERE NOT EXISTS"
            " (SELECT 1 FROM posts WHERE seq BETWEEN gaps.first AND coalesce(CAST(gaps.last AS INTEGER), gaps.first))"
            " ORDER BY first"
        )
        return dict(rows)

    def save_gap(self, first: int, last: int) -> None:
        self.db.execute("INSERT OR REPLACE INTO gaps VALUES(?,?)", (first, last))

    def save_missing(self, next_seq: int) -> None:
        """Save every number below `next_seq` that has no post as part of a gap."""
        self.db.execute(
            "WITH ends AS (SELECT seq FROM posts WHERE seq < ?1 UNION SELECT ?1),"
            " steps AS (SELECT lag(seq, 1, ?2) OVER (ORDER BY seq) + 1 AS first, seq - 1 AS last FROM ends)"
            " INSERT OR REPLACE INTO gaps SELECT first, last FROM steps WHERE first <= last",
            (next_seq, self.first_seq() - 1),
        )

    def used_bytes(self) -> int:
        """Bytes that the content takes. Freed pages are reused before the file grows."""
        return int(self._one("PRAGMA page_count") - self._one("PRAGMA freelist_count")) * PAGE_SIZE

    # Sinks

    def cursors(self, strict: bool = True) -> dict[str, tuple[Cursor, str | None]]:
        """Each sink's cursor and state. A damaged row raises an error, or is left out if not `strict`."""
        found: dict[str, tuple[Cursor, str | None]] = {}
        columns = "CAST(name AS BLOB), seq, ordinal, CAST(state AS BLOB), checksum"
        for name, seq, ordinal, state, checksum in self.db.execute(f"SELECT {columns} FROM sinks"):
            if checksum == _checksum(name, seq, ordinal, state):
                found[text(name)] = (Cursor(seq, ordinal), None if state is None else text(state))
            elif strict:
                raise apsw.CorruptError("a sink's cursor is damaged")
        return found

    def save_cursor(self, sink: str, cursor: Cursor, state: str | None) -> None:
        checksum = _checksum(sink.encode(), *cursor, None if state is None else state.encode())
        self.db.execute("INSERT OR REPLACE INTO sinks VALUES(?,?,?,?,?)", (sink, *cursor, state, checksum))

    def paused(self) -> dict[str, int]:
        """Sinks that are paused -> since when, in milliseconds since the epoch."""
        rows = self.db.execute("SELECT CAST(name AS BLOB), CAST(value AS INTEGER) FROM meta")
        named = [(text(name), min(max(since or 0, 0), _FAR)) for name, since in rows]
        return {name.removeprefix(_PAUSED): since for name, since in named if name.startswith(_PAUSED)}

    def save_paused(self, sink: str, since: int | None) -> None:
        """since: None if it is not paused any more."""
        if since is None:
            self.db.execute("DELETE FROM meta WHERE name = ?", (_PAUSED + sink,))
        else:
            self.db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (_PAUSED + sink, since))

    def save(self, sink: str, commit: Commit, now: int, new: Iterable[Block] | None = None) -> None:
        """All of a commit. now: milliseconds since the epoch. new: its dead letters, if they are compressed already."""
        self.save_cursor(sink, commit.cursor, commit.state)
        self.dead_letters.insert_blocks(blocks(commit.dead_letters) if new is None else new)
        self.dead_letters.delete(commit.redelivered)
        self.dead_letters.refuse_again(commit.refused_again, now)
        self.dead_letters.wait_again(commit.waiting_again, now)

    def _one(self, statement: str, *values: Any) -> Any:
        return self.db.execute(statement, values).get


def _verified(stored: Iterator[_StoredPost]) -> Iterator[Entry | Damaged]:
    """Verify posts, several together. An error is raised after all that were read before it."""
    end: Exception | None = None
    while end is None:
        found: list[_StoredPost] = []
        size = 0
        try:
            while size < _VERIFIED_BYTES:
                found.append(next(stored))
                size += bytes_taken(found[-1][1])
        except (StopIteration, apsw.Error) as error:
            end = error
        for (number, post, digest), right in zip(found, digests([post.body for _, post, _ in found]), strict=True):
            yield Entry(number, post, right) if digest == right else Damaged(number, post.received, post.body)
    if isinstance(end, apsw.Error):
        raise end


def _inodes(db: apsw.Connection) -> tuple[int, int]:
    return Path(db.filename).stat().st_ino, Path(db.filename_wal).stat().st_ino


def _checksum(*values: object) -> int:
    return zlib.crc32(repr(values).encode())
