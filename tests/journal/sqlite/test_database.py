"""The statements on the journal's tables."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import apsw
import pytest

from btfeed.journal.base import ALL, Commit, Cursor, Damaged, DeadLetter, Entry, Selection
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.dead_letter_table import Group
from btfeed.journal.sqlite.dead_letters import CHANGED_AT_ONCE, PAUSE, SqliteDeadLetters
from btfeed.journal.sqlite.layout import APPLICATION, PAGE_SIZE, VERSION
from tests.journal.journals import EVERYTHING, dead_letter, entries, post, wanting


@pytest.fixture
def database(tmp_path: Path) -> Iterator[JournalDatabase]:
    """An empty journal."""
    opened = JournalDatabase.open(tmp_path)
    yield opened
    opened.close()


def _seqs(database: JournalDatabase) -> list[int]:
    return [row.seq for row in database.posts(0, EVERYTHING)]


def test_a_journal_is_set_up_to_be_durable(database: JournalDatabase) -> None:
    """Write-ahead log, a sync with every commit, and pages of the size that the layout promises."""
    pragmas = {name: database.db.pragma(name) for name in ("journal_mode", "synchronous", "page_size", "cell_size_check")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "page_size": PAGE_SIZE, "cell_size_check": 1}


def test_a_journal_of_a_newer_btfeed_is_refused(tmp_path: Path) -> None:
    """What a newer version wrote is neither read nor changed. A version without its application id is damage."""
    opened = JournalDatabase.open(tmp_path)
    opened.db.execute(f"PRAGMA user_version={VERSION + 1}")
    opened.close()
    with pytest.raises(apsw.CorruptError):
        JournalDatabase.open(tmp_path)
    raw = apsw.Connection(str(tmp_path / FILE))
    raw.execute(f"PRAGMA application_id={APPLICATION + VERSION + 1}")
    raw.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(apsw.SQLError, match=rf"newer btfeed \(layout {VERSION + 1}, this one supports {VERSION}\)"):
        JournalDatabase.open(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_journal_may_be_vacuumed_and_analyzed(tmp_path: Path) -> None:
    """Maintenance with SQLite's tools is not damage. A renamed column is."""
    opened = JournalDatabase.open(tmp_path)
    opened.insert_posts(entries(1, [post(1)]))
    opened.db.execute("VACUUM; ANALYZE")
    opened.close()
    opened = JournalDatabase.open(tmp_path)
    assert _seqs(opened) == [1]
    opened.db.execute("ALTER TABLE posts RENAME COLUMN peer TO pear")
    opened.close()
    with pytest.raises(apsw.CorruptError, match="schema"):
        JournalDatabase.open(tmp_path)


def test_posts_come_back_as_they_were(database: JournalDatabase) -> None:
    """Body, digest, time and peer are what was inserted. A changed body is read as damaged."""
    posts = [post(number) for number in range(3)]
    appended = entries(7, posts)
    database.insert_posts(appended)
    assert list(database.posts(0, EVERYTHING)) == appended
    database.db.execute("UPDATE posts SET body = x'00' WHERE seq = 8; UPDATE posts SET digest = NULL WHERE 0")
    assert list(database.posts(8, EVERYTHING)) == [Damaged(8, posts[1].received, b"\0"), appended[2]]


def test_posts_before_an_unreadable_page_are_read(tmp_path: Path) -> None:
    """Posts are verified several together: those before an error are given first, and a damaged one is told apart."""
    opened = JournalDatabase.open(tmp_path)
    stored = entries(1, [post(number)._replace(body=bytes([number]) * 2**17) for number in range(12)])
    opened.insert_posts(stored)
    opened.db.execute("UPDATE posts SET body = x'00' WHERE seq = 10")
    opened.close()
    file = bytearray((tmp_path / FILE).read_bytes())
    page = file.index(bytes([11]) * (PAGE_SIZE - 4), 0) // PAGE_SIZE * PAGE_SIZE
    file[page : page + 4] = bytes(4)  # the number of the page that follows
    (tmp_path / FILE).write_bytes(file)
    opened = JournalDatabase.open(tmp_path)
    rows = opened.posts(1, EVERYTHING)
    assert [next(rows) for _ in range(11)] == [*stored[:9], Damaged(10, stored[9].post.received, b"\0"), stored[10]]
    with pytest.raises(apsw.CorruptError):
        next(rows)
    opened.close()


@pytest.mark.parametrize("column", ["received = 'text'", "peer = x'ff'", "body = 'text'", "digest = 1.5", "body = 7"])
def test_rows_of_other_types_are_read(database: JournalDatabase, column: str) -> None:
    """Whatever types a damaged row has, it is read as a post or as damaged."""
    database.insert_posts(entries(1, [post(1)]))
    database.db.execute(f"UPDATE posts SET {column}")
    (row,) = database.posts(0, EVERYTHING)
    if isinstance(row, Entry):
        assert isinstance(row.post.received, int)
        assert isinstance(row.post.peer, str)
    else:
        assert isinstance(row.body, bytes)


def test_posts_are_dropped_from_the_oldest_end(database: JournalDatabase) -> None:
    """Up to the last one that is old enough, below a number, and up to a limit. The first number left is saved."""
    database.insert_posts(
        entries(1, [post(number, received=received) for number, received in enumerate((10, 99, 12, 50, 51))])
    )
    assert database.drop_oldest(6, 10, 10) == []
    assert database.drop_oldest(6, 20, 2) == [1]
    assert database.drop_oldest(3, 20, 10) == []
    assert database.drop_oldest(6, 20, 10) == [2, 3]
    assert (_seqs(database), database.first_seq()) == ([4, 5], 4)
    assert database.drop_oldest(6, 100, 1) == [4]
    assert database.drop_oldest(6, 100, 10) == [5]
    assert (_seqs(database), database.first_seq(), database.last_seq()) == ([], 6, 0)


def test_gaps(database: JournalDatabase) -> None:
    """A post deleted out of order leaves a gap. All missing numbers can be saved as gaps. Dropped gaps are gone."""
    database.insert_posts(entries(1, [post(number) for number in range(9)]))
    database.delete_post(3)
    assert database.gaps() == {3: 3}
    database.db.execute("DELETE FROM posts WHERE seq IN (1, 5, 6)")
    database.save_missing(12)
    assert database.gaps() == {1: 1, 3: 3, 5: 6, 10: 11}
    database.drop_oldest(8, EVERYTHING, 10)
    assert database.gaps() == {10: 11}


def test_freed_space_is_reused(database: JournalDatabase) -> None:
    """Dropped posts no longer count as used, and the file does not grow for the next ones."""
    database.insert_posts(entries(1, [post(number, 50_000) for number in range(20)]))
    full = database.used_bytes()
    database.drop_oldest(21, EVERYTHING, 20)
    assert database.used_bytes() < full / 2
    database.insert_posts(entries(21, [post(number, 50_000) for number in range(20)]))
    assert database.used_bytes() <= full
    assert database.db.pragma("page_count") * PAGE_SIZE <= full + PAGE_SIZE


def test_a_damaged_cursor_is_an_error(database: JournalDatabase) -> None:
    """A cursor that is not what was saved is never used."""
    database.save_cursor("a", Cursor(5, 2), "state")
    database.save_cursor("b", Cursor(6), None)
    assert database.cursors() == {"a": (Cursor(5, 2), "state"), "b": (Cursor(6), None)}
    database.db.execute("UPDATE sinks SET seq = 500 WHERE name = 'a'")
    with pytest.raises(apsw.CorruptError):
        database.cursors()
    assert database.cursors(strict=False) == {"b": (Cursor(6), None)}


def test_a_commit_is_saved(database: JournalDatabase) -> None:
    """It adds new dead letters, deletes delivered ones, and counts the tries of those refused again."""
    database.save("a", Commit(Cursor(2), None, [dead_letter(1), dead_letter(2)]), now=1)
    database.dead_letters.mark("1")
    database.save("a", Commit(Cursor(3), "state", [dead_letter(3)], [1], {2: "still"}), now=9)
    kept = [(found.event_id, found.tries, found.reason, found.time) for found in database.dead_letters.select()]
    assert kept == [("id-2", 2, "still", 9), ("id-3", 1, "refused", 1)]
    assert list(database.dead_letters.select("retry")) == []
    assert database.cursors() == {"a": (Cursor(3), "state")}


def _refused_posts(number: int) -> list[DeadLetter]:
    return [DeadLetter("post", "", "malformed", time, bytes(100)) for time in range(number)]


def test_the_oldest_dead_letters_are_evicted(database: JournalDatabase) -> None:
    """Of all or of one kind, beyond a limit in bytes, and up to a number of them."""
    table = database.dead_letters
    table.insert([dead_letter(1), *_refused_posts(5), dead_letter(2)])
    one = table.nbytes("post") // 5
    table.evict("post", 2 * one + 1, 100)
    assert [(found.kind, found.time) for found in table.select("kind = 'post'")] == [("post", 3), ("post", 4)]
    assert table.count("kind = 'record'") == 2
    table.evict(None, 0, 2)
    assert [found.event_id for found in table.select()] == [None, "id-2"]
    table.evict(None, 0, 100)
    assert (list(table.select()), table.nbytes(), table.totals()) == ([], 0, {})


def _letters(number: int, tag: str = "") -> list[DeadLetter]:
    """Records as they are, of about a kilobyte, much of it equal."""
    rng = random.Random(number)
    filler = b'"appmon.dimension.step":"Product page",' * 20
    return [
        replace(
            dead_letter(each),
            event_id=f"{rng.randbytes(12).hex()}{tag}-{each}",
            body=b'{"timestamp":"2013-01-16T10:05:57.840Z",%s"n":%d}' % (filler, rng.randrange(10**9)),
        )
        for each in range(number)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 50, 5_000], ids="{} at a time".format)
def test_the_bytes_of_dead_letters_are_not_underestimated(database: JournalDatabase, size: int) -> None:
    """They are subtracted from what the file holds to find the room for posts: too few would take room from posts. They are
    at most a few times as many, and small compared to the bodies."""
    before = database.used_bytes()
    database.begin()
    letters = _letters(5_000)
    for start in range(0, len(letters), size):
        database.dead_letters.insert(letters[start : start + size])
    database.commit()
    taken, bodies = database.used_bytes() - before, sum(len(each.body) for each in letters)
    assert taken <= database.dead_letters.nbytes() <= 4 * taken
    if size > 1:
        assert taken < bodies / 2
    random.Random(1).shuffle(letters)
    ids = {found.event_id: found.id for found in database.dead_letters.select()}
    database.dead_letters.delete(ids[each.event_id] for each in letters[:4_000])
    assert database.used_bytes() - before <= database.dead_letters.nbytes()


def test_the_bytes_of_a_few_thousand_changes_are_still_right(database: JournalDatabase) -> None:
    """After letters were deleted, refused again and evicted at random, totals are what is there, and blocks are gone with
    their last letter."""
    rng = random.Random(1)
    table = database.dead_letters
    for turn in range(30):
        table.insert([*_letters(rng.randrange(1, 80), f"-{turn}"), *_refused_posts(rng.randrange(3))])
        ids = [found.id for found in table.select()]
        table.delete(rng.sample(ids, len(ids) // 2))
        table.refuse_again({rng.choice(ids): "still, and for quite another reason"}, 5)
    counted = {group: total.letters for group, total in table.totals().items()}
    blocks = {row[0] for row in database.db.execute("SELECT block FROM dead_letters WHERE block")}
    assert blocks == {row[0] for row in database.db.execute("SELECT id FROM dead_letter_blocks")}
    assert counted.pop(Group("block", "", "")) == len(blocks)
    assert counted == Counter(Group(found.kind, found.sink, found.cause) for found in table.select())
    table.delete(found.id for found in list(table.select()))
    assert (table.nbytes(), table.totals()) == (0, {})


def test_a_damaged_block_costs_the_letters_in_it(database: JournalDatabase) -> None:
    """They are read without body and reason; the others are as they were."""
    table = database.dead_letters
    table.insert([dead_letter(1), dead_letter(2)])
    table.insert([dead_letter(3)])
    content = database.db.execute("SELECT content FROM dead_letter_blocks WHERE id = 1").get
    for damaged in (content[:-1], content[:10] + b"x" + content[11:], b"", 7, "text"):
        database.db.execute("UPDATE dead_letter_blocks SET content = ? WHERE id = 1", (damaged,))
        found = list(table.select())
        assert [(each.event_id, each.reason, each.body) for each in found[:2]] == [
            ("id-1", "damaged in the journal", b""), ("id-2", "damaged in the journal", b"")
        ]  # fmt: skip
        assert replace(found[2], id=0) == dead_letter(3)


def test_reasons_that_are_no_text_are_kept(database: JournalDatabase) -> None:
    """A far end's JSON may have half a surrogate pair, which no file can hold."""
    database.save("a", Commit(Cursor(2), None, [dead_letter(1, reason="bad \ud800")]), now=1)
    database.save("a", Commit(Cursor(2), None, refused_again={1: "worse \ud800"}), now=1)
    assert [found.reason for found in database.dead_letters.select()] == ["worse ?"]


def test_a_log_is_rewritten_as_it_is(tmp_path: Path, database: JournalDatabase) -> None:
    """Rewriting the log changes no byte of it, and other connections go on."""
    database.insert_posts(entries(1, [post(number, 50_000) for number in range(20)]))
    before = (tmp_path / f"{FILE}-wal").read_bytes()
    other = JournalDatabase.open(tmp_path)
    other.rewrite_log()
    other.close()
    assert (tmp_path / f"{FILE}-wal").read_bytes() == before
    database.insert_posts(entries(21, [post(21)]))
    assert _seqs(database) == list(range(1, 22))


def test_dead_letters_are_read_in_pieces(tmp_path: Path, database: JournalDatabase) -> None:
    """Between two pieces, no read is left open that would keep the server's log from being emptied."""
    database.dead_letters.insert(_refused_posts(5))
    other = JournalDatabase.open(tmp_path)
    selected = SqliteDeadLetters(tmp_path, other, piece=500).select()
    found = [next(selected).time]
    database.checkpoint()
    assert (tmp_path / f"{FILE}-wal").stat().st_size == 0
    found += [each.time for each in selected]
    assert found == [0, 1, 2, 3, 4]
    other.close()


def test_a_server_gets_its_turn_between_changes(tmp_path: Path, database: JournalDatabase) -> None:
    """Marking or deleting thousands is done in short transactions, with pauses in which another connection can write."""
    database.dead_letters.insert(_letters(1_000))
    server = JournalDatabase.open(tmp_path)
    server.db.set_busy_timeout(0)
    done: list[int] = []

    def pause(seconds: float) -> None:
        assert seconds >= PAUSE
        server.save_cursor("a", Cursor(len(done)), None)
        done.append(server.dead_letters.count("NOT retry"))

    letters = SqliteDeadLetters(tmp_path, database, sleep=pause)
    assert letters.retry(ALL, wanting("a")) == 1_000
    steps = [before - after for before, after in pairwise([1_000, *done])]
    assert max(steps) <= CHANGED_AT_ONCE
    assert sum(steps) == 1_000
    done.clear()
    letters.delete([found.id for found in letters.select()])
    assert len(done) >= 1_000 / CHANGED_AT_ONCE
    assert letters.count() == 0
    server.close()


def test_thousands_of_ids_can_be_selected(tmp_path: Path, database: JournalDatabase) -> None:
    """More than a statement of SQLite has parameters."""
    database.dead_letters.insert([dead_letter(1)])
    selection = Selection(None, range(1, 100_000))
    assert SqliteDeadLetters(tmp_path, database).count(selection) == 1
