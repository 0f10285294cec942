"""A journal of an earlier layout is upgraded at start, and nothing in it is lost."""

import random
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from btfeed.journal.base import Commit, Cursor, DeadLetter, JournalUnavailable, Kept
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.dead_letters import open_dead_letters
from btfeed.journal.sqlite.layout import APPLICATION, PAGE_SIZE, VERSION
from tests.journal.journals import dead_letter, dead_letters, entries, fill, journal, post

LAYOUT_1 = """
CREATE TABLE IF NOT EXISTS posts(
    seq INTEGER PRIMARY KEY, received INTEGER NOT NULL, peer TEXT NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS gaps(first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sinks(
    name TEXT PRIMARY KEY, seq INTEGER NOT NULL, ordinal INTEGER NOT NULL, state TEXT, checksum INTEGER NOT NULL
    ) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters(
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, sink TEXT NOT NULL, reason TEXT NOT NULL,
    time INTEGER NOT NULL, tries INTEGER NOT NULL, retry INTEGER NOT NULL DEFAULT 0, event_id TEXT, key TEXT NOT NULL,
    timestamp INTEGER NOT NULL, "transaction" TEXT, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS dead_letters_event ON dead_letters(event_id, sink) WHERE event_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS dead_letters_retry ON dead_letters(kind, sink) WHERE retry;
PRAGMA user_version=1; PRAGMA application_id=1651769345;
"""
_POST = DeadLetter("post", "", "malformed", 3, bytes(70_000), cause="earlier")
KEPT = [*(replace(dead_letter(number), cause="earlier") for number in range(20)), _POST]
"""The dead letters in it, as they are read after the upgrade. The second one is marked for retry."""


def _written(directory: Path, posts: int = 40) -> None:
    """A journal of layout 1, which the sink a has read half of."""
    directory.mkdir(exist_ok=True)
    with closing(apsw.Connection(str(directory / FILE))) as db:
        db.execute(f"PRAGMA page_size={PAGE_SIZE}")
        db.pragma("journal_mode", "wal")
        db.execute(f"BEGIN; {LAYOUT_1} COMMIT")
        for entry in entries(1, [post(number, 5_000) for number in range(posts)]):
            row = (entry.seq, entry.post.received, entry.post.peer, entry.digest, entry.post.body)
            db.execute("INSERT INTO posts VALUES(?,?,?,?,?)", row)
        for each in KEPT:
            transaction = '["name", "application", "profile", "server", "purepath"]' if each.transaction else None
            db.execute(
                "INSERT INTO dead_letters VALUES(NULL,?,?,?,?,?,?,?,?,?,?,?)",
                (each.kind, each.sink, each.reason, each.time, each.tries, each.event_id == "id-1", each.event_id, each.key,
                 each.timestamp, transaction, each.body),
            )  # fmt: skip
        cursor = (b"a", posts // 2, 3, b"half-way")
        db.execute("INSERT INTO sinks VALUES('a',?,?,'half-way',?)", (*cursor[1:3], zlib.crc32(repr(cursor).encode())))


async def test_everything_is_there_after_an_upgrade(tmp_path: Path) -> None:
    """Posts, cursors, dead letters and marks; and again at the next start. New dead letters can wait for a destination."""
    _written(tmp_path)
    async with journal(tmp_path) as opened:
        outlet = opened.outlet("a")
        assert await opened.bodies() == [post(number, 5_000).body for number in range(40)]
        assert await outlet.cursor() == (Cursor(20, 3), "half-way")
        assert [each.event_id for each in await outlet.retries(10)] == ["id-1"]
        await outlet.commit(Commit(Cursor(21), None, [replace(dead_letter(30), destination="topic")]))
        added = await fill(opened, [1000])
    async with journal(tmp_path) as opened:
        assert (await opened.bodies())[40:] == added
        assert await opened.outlet("a").destinations() == {"topic": 1}
        assert sorted(await opened.kept()) == [
            Kept("", "earlier", 1, 3), Kept("a", "earlier", 20, 1), Kept("a", "refused", 1, 1)
        ]  # fmt: skip
        assert opened.count("journal_errors") == 0
    kept = [replace(each, id=0) for each in dead_letters(tmp_path)]
    assert kept == [*KEPT, replace(dead_letter(30), destination="topic")]


def test_an_upgraded_journal_may_be_vacuumed(tmp_path: Path) -> None:
    """What the upgrade made may be anywhere in the file."""
    _written(tmp_path)
    opened = JournalDatabase.open(tmp_path)
    opened.db.execute("VACUUM")
    opened.close()
    assert len(dead_letters(tmp_path)) == len(KEPT)


@pytest.mark.parametrize("start", [0, 100], ids=["header", "schema"])
async def test_a_damaged_journal_of_an_earlier_layout(tmp_path: Path, start: int) -> None:
    """It is recovered, with everything that can be read."""
    _written(tmp_path)
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(start)
        file.write(random.Random(1).randbytes(PAGE_SIZE - start))
    async with journal(tmp_path) as opened:
        assert await opened.bodies() == [post(number, 5_000).body for number in range(40)]
        assert await opened.outlet("a").cursor() == (Cursor(20, 3), "half-way")
        assert [each.event_id for each in await opened.outlet("a").retries(10)] == ["id-1"]
    assert [replace(each, id=0) for each in dead_letters(tmp_path)] == KEPT


async def test_an_upgraded_journal_whose_first_page_is_damaged(tmp_path: Path) -> None:
    """Its tables are found where the upgrade made them."""
    _written(tmp_path)
    waiting = replace(dead_letter(30), destination="topic")
    async with journal(tmp_path) as opened:
        await opened.outlet("a").commit(Commit(Cursor(21), None, [waiting]))
    with (tmp_path / FILE).open("r+b") as file:
        file.write(random.Random(1).randbytes(PAGE_SIZE))
    async with journal(tmp_path) as opened:
        assert opened.count("journal_errors") == 1
        assert [each.event_id for each in await opened.outlet("a").waiting("topic", 10)] == ["id-30"]
    assert [replace(each, id=0) for each in dead_letters(tmp_path)] == [*KEPT, waiting]


def test_a_command_does_not_upgrade(tmp_path: Path) -> None:
    """The server that is running may be of the earlier version."""
    _written(tmp_path)
    with (
        pytest.raises(JournalUnavailable, match=r"older btfeed \(layout 1, .*start `btfeed serve`"),
        open_dead_letters(tmp_path),
    ):
        pass
    with closing(apsw.Connection(str(tmp_path / FILE))) as db:
        assert db.pragma("user_version") == 1 < VERSION
        assert db.pragma("application_id") == APPLICATION + 1
