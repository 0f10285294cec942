"""The journal's tables: what a statement promises by itself."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from btfeed.journal.base import Commit, Cursor, DeadLetter, Entry
from btfeed.journal.sqlite.database import FILE, Damaged, JournalDatabase
from btfeed.journal.sqlite.layout import PAGE_SIZE
from tests.journal.journals import EVERYTHING, entries, letter, post


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JournalDatabase]:
    """An empty store."""
    opened = JournalDatabase.open(tmp_path)
    yield opened
    opened.close()


def _seqs(store: JournalDatabase) -> list[int]:
    return [row.seq for row in store.read(0, EVERYTHING)]


def test_a_store_is_set_up_to_be_durable(store: JournalDatabase) -> None:
    """Write-ahead log, a sync with every commit, and pages of the size that the layout promises."""
    pragmas = {name: store.db.pragma(name) for name in ("journal_mode", "synchronous", "page_size", "cell_size_check")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "page_size": PAGE_SIZE, "cell_size_check": 1}


def test_a_store_of_a_newer_btfeed_is_refused(tmp_path: Path) -> None:
    """What a newer version wrote is neither read nor changed; a version that is said but once is damage."""
    opened = JournalDatabase.open(tmp_path)
    opened.db.execute("PRAGMA user_version=2")
    opened.close()
    with pytest.raises(apsw.CorruptError):
        JournalDatabase.open(tmp_path)
    raw = apsw.Connection(str(tmp_path / FILE))
    raw.execute(f"PRAGMA application_id={0x62740002}")
    raw.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(apsw.SQLError, match=r"newer btfeed \(layout 2, this one knows 1\)"):
        JournalDatabase.open(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_store_may_be_vacuumed_and_analyzed(tmp_path: Path) -> None:
    """What people do to SQLite's files is no damage; another column is."""
    opened = JournalDatabase.open(tmp_path)
    opened.append(entries(1, [post(1)]))
    opened.db.execute("VACUUM; ANALYZE")
    opened.close()
    opened = JournalDatabase.open(tmp_path)
    assert _seqs(opened) == [1]
    opened.db.execute("ALTER TABLE posts RENAME COLUMN peer TO pear")
    opened.close()
    with pytest.raises(apsw.CorruptError, match="schema"):
        JournalDatabase.open(tmp_path)


def test_posts_come_back_as_they_were(store: JournalDatabase) -> None:
    """Body, digest, time and peer of a post are what was appended; a changed body or digest is told apart."""
    posts = [post(number) for number in range(3)]
    appended = entries(7, posts)
    store.append(appended)
    assert list(store.read(0, EVERYTHING)) == appended
    store.db.execute("UPDATE posts SET body = x'00' WHERE seq = 8; UPDATE posts SET digest = NULL WHERE 0")
    assert list(store.read(8, EVERYTHING)) == [Damaged(8, posts[1].received, b"\0"), appended[2]]


@pytest.mark.parametrize("column", ["received = 'text'", "peer = x'ff'", "body = 'text'", "digest = 1.5", "body = 7"])
def test_rows_of_other_types_are_read(store: JournalDatabase, column: str) -> None:
    """Whatever types a damaged row has, reading gives what it promises: a post, or a damaged one."""
    store.append(entries(1, [post(1)]))
    store.db.execute(f"UPDATE posts SET {column}")
    (row,) = store.read(0, EVERYTHING)
    if isinstance(row, Entry):
        assert isinstance(row.post.received, int)
        assert isinstance(row.post.peer, str)
    else:
        assert isinstance(row.body, bytes)


def test_posts_are_forgotten_from_the_old_end(store: JournalDatabase) -> None:
    """Up to the last that is old enough, below the number, so many at a time; the first number left is remembered."""
    store.append(entries(1, [post(number, received=received) for number, received in enumerate((10, 99, 12, 50, 51))]))
    assert store.forget(6, 10, 10) == []
    assert store.forget(6, 20, 2) == [1]
    assert store.forget(3, 20, 10) == []
    assert store.forget(6, 20, 10) == [2, 3]
    assert (_seqs(store), store.first_seq()) == ([4, 5], 4)
    assert store.forget(6, 100, 1) == [4]
    assert store.forget(6, 100, 10) == [5]
    assert (_seqs(store), store.first_seq(), store.last_seq()) == ([], 6, 0)


def test_gaps(store: JournalDatabase) -> None:
    """A post that is deleted out of turn leaves a gap; all that is missing can be noted; forgotten gaps are gone."""
    store.append(entries(1, [post(number) for number in range(9)]))
    store.delete_post(3)
    assert store.gaps() == {3: 3}
    store.db.execute("DELETE FROM posts WHERE seq IN (1, 5, 6)")
    store.save_missing(12)
    assert store.gaps() == {1: 1, 3: 3, 5: 6, 10: 11}
    store.forget(8, EVERYTHING, 10)
    assert store.gaps() == {10: 11}


def test_freed_room_is_used_again(store: JournalDatabase) -> None:
    """What is forgotten counts no longer as used, and the file does not grow for what comes in its place."""
    store.append(entries(1, [post(number, 50_000) for number in range(20)]))
    full = store.used_bytes()
    store.forget(21, EVERYTHING, 20)
    assert store.used_bytes() < full / 2
    store.append(entries(21, [post(number, 50_000) for number in range(20)]))
    assert store.used_bytes() <= full
    assert store.db.pragma("page_count") * PAGE_SIZE <= full + PAGE_SIZE


def test_a_damaged_cursor_is_an_error(store: JournalDatabase) -> None:
    """A cursor that is not what was saved is never believed."""
    store.save_cursor("a", Cursor(5, 2), "state")
    store.save_cursor("b", Cursor(6), None)
    assert store.cursors() == {"a": (Cursor(5, 2), "state"), "b": (Cursor(6), None)}
    store.db.execute("UPDATE sinks SET seq = 500 WHERE name = 'a'")
    with pytest.raises(apsw.CorruptError):
        store.cursors()
    assert store.cursors(strict=False) == {"b": (Cursor(6), None)}


def test_a_dead_letter_is_kept_once_for_each_sink(store: JournalDatabase) -> None:
    """The same record of the same sink is one dead letter; of another sink it is another; posts are kept each time."""
    refused = DeadLetter("post", "", "malformed", 1, b"body")
    for each in (letter(1), letter(1, reason="again"), letter(1, "b"), refused, refused):
        store.bury(each)
    kept = list(store.dead_letters())
    assert len({found.id for found in kept}) == 4
    assert [replace(found, id=0) for found in kept] == [letter(1), letter(1, "b"), refused, refused]


def test_retry_marks_what_can_be_tried_again(store: JournalDatabase) -> None:
    """A record goes to its own sink if that is configured; one that no sink was asked for goes to all; one without a valid
    timestamp, or whose body is no JSON any more, stays."""
    no_sink = letter(2, "")
    untimely = replace(letter(3, ""), body=b'{"timestamp":5}')
    broken = replace(letter(4, ""), body=b"{")
    for each in (letter(1), letter(1, "gone"), no_sink, untimely, broken, DeadLetter("post", "", "malformed", 1, b"body")):
        store.bury(each)
    assert store.retry(list(store.dead_letters()), ["a", "b"]) == 3
    marked = {(found.kind, found.sink, found.event_id) for found in store.dead_letters("retry")}
    assert marked == {("record", "a", "id-1"), ("record", "a", "id-2"), ("record", "b", "id-2"), ("post", "", None)}
    assert {found.event_id for found in store.dead_letters("NOT retry")} == {"id-1", "id-3", "id-4"}


def test_save_settles_dead_letters(store: JournalDatabase) -> None:
    """A commit adds new dead letters, deletes those that were delivered, and counts the tries of the others."""
    store.save("a", Commit(Cursor(2), None, [letter(1), letter(2)]), now=1)
    store.retry(list(store.dead_letters()), ["a"])
    store.save("a", Commit(Cursor(3), "state", [letter(3)], [1], {2: "still"}), now=9)
    kept = [(found.event_id, found.tries, found.reason, found.time) for found in store.dead_letters()]
    assert kept == [("id-2", 2, "still", 9), ("id-3", 1, "refused", 1)]
    assert list(store.dead_letters("retry")) == []
    assert store.cursors() == {"a": (Cursor(3), "state")}


def test_the_oldest_refused_posts_are_evicted(store: JournalDatabase) -> None:
    """Beyond the bound the oldest bodies of refused posts go, and no records."""
    store.bury(letter(1))
    for number in range(5):
        store.bury(DeadLetter("post", "", "malformed", number, bytes(100)))
    assert store.refused_bytes() == 500
    assert store.evict_refused_posts(250) == 3
    assert [(found.kind, found.time) for found in store.dead_letters()] == [("record", 1), ("post", 3), ("post", 4)]


def test_a_log_is_rewritten_as_it_is(tmp_path: Path, store: JournalDatabase) -> None:
    """Writing the log again changes no byte of it, while another connection reads and goes on writing."""
    store.append(entries(1, [post(number, 50_000) for number in range(20)]))
    before = (tmp_path / f"{FILE}-wal").read_bytes()
    other = JournalDatabase.open(tmp_path)
    other.rewrite_log()
    other.close()
    assert (tmp_path / f"{FILE}-wal").read_bytes() == before
    store.append(entries(21, [post(21)]))
    assert _seqs(store) == list(range(1, 22))
