"""Pauses and moves of a SQLite journal: with gaps, dropped posts, damage, and versions that can't pause."""

import random
import sqlite3
from pathlib import Path

from btfeed.journal.base import LATEST, OLDEST, Commit, Cursor
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.layout import PAGE_SIZE, VERSION
from tests.journal.journals import Journal, dead_letters, fill, journal, post, seeded


async def test_times_are_found_between_gaps(tmp_path: Path) -> None:
    """Numbers without a post, wherever they are, and however many: the first post at that time or later is next."""
    rng = seeded()
    async with journal(tmp_path) as opened:
        for number in range(120):
            await opened.append(post(number)._replace(received=1_000 + 10 * number))
    database = JournalDatabase.open(tmp_path)
    gone = {1, 120, *range(50, 70), *rng.sample(range(1, 121), 20)}
    for seq in gone:
        database.delete_post(seq)
    database.close()
    async with journal(tmp_path) as opened:
        outlet = opened.outlet("a")
        for received in range(995, 2_215, 5):
            expected = [seq for seq in range(1, 121) if seq not in gone and 1_000 + 10 * (seq - 1) >= received]
            found = await opened.everything(await outlet.find(received))
            assert [entry.seq for entry in found] == expected
            planned = await outlet.plan(await outlet.find(received))
            assert planned.skipped == 120 - len(gone) - len(expected)


async def test_a_clock_that_was_set_back_does_not_confuse_the_search(tmp_path: Path) -> None:
    """It ends, and finds a post that has others of that time around it."""
    async with journal(tmp_path) as opened:
        for number in range(50):
            await opened.append(post(number)._replace(received=random.Random(number).randrange(1_000, 2_000)))
        outlet = opened.outlet("a")
        for received in range(990, 2_010, 10):
            assert 1 <= await outlet.find(received) <= 51
        assert [await outlet.find(received) for received in (OLDEST, LATEST)] == [1, 51]


async def test_posts_that_were_dropped_can_not_be_given_again(tmp_path: Path) -> None:
    """A move to one of them is a move to the oldest that is left, also if they are dropped after the plan."""
    async with journal(tmp_path, max_size="1MiB", when_full="drop-oldest") as opened:
        outlet = opened.outlet("a")
        await fill(opened, range(10), 40_000)
        await outlet.commit(Commit(Cursor(11)))
        planned = await outlet.plan(1)
        await fill(opened, range(10, 60), 40_000)
        first = opened.first_seq()
        assert first > planned.to.seq == 1
        await outlet.move(planned.to)
        assert (await outlet.cursor())[0] == Cursor(first)
        assert (await outlet.plan(1)).to == Cursor(first)
        assert len(await opened.everything(first)) == 60 - first + 1


async def test_posts_that_are_given_again_are_kept_for_it(tmp_path: Path) -> None:
    """Past their retention, and while there is room, until the sink has them again."""
    async with journal(tmp_path, ("a", "b"), retention="36500d") as opened:
        await fill(opened, range(20))
        for sink in "ab":
            await opened.outlet(sink).commit(Commit(Cursor(21)))
        await opened.outlet("a").move(Cursor(5))
    async with journal(tmp_path, ("a", "b"), retention="0s") as opened:
        await fill(opened, range(20, 21))
        assert opened.first_seq() <= 5
        assert [entry.seq for entry in await opened.everything(5)] == [*range(5, 22)]


def _damaged(directory: Path) -> list[Path]:
    return list(directory.glob(f"{FILE}.damaged-*"))


async def _paused(directory: Path) -> Journal:
    async with journal(directory, ("a", "b")) as opened:
        await fill(opened, range(300), 5_000)
        await opened.outlet("a").commit(Commit(Cursor(150, 3), "half-way"))
        await opened.pause("a")
        await opened.outlet("a").move(Cursor(100))
        return opened


async def test_a_damaged_journal_keeps_its_pauses_and_moves(tmp_path: Path) -> None:
    """At a start and while it runs."""
    await _paused(tmp_path)
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(60 * PAGE_SIZE)
        file.write(bytes(20 * PAGE_SIZE))
    async with journal(tmp_path, ("a", "b")) as opened:
        await opened.everything()
        assert _damaged(tmp_path)
        assert list(await opened.paused()) == ["a"]
        assert await opened.outlet("a").cursor() == (Cursor(100), "half-way")
    async with journal(tmp_path, ("a", "b")) as opened:
        assert list(await opened.paused()) == ["a"]


async def test_a_journal_that_is_deleted_while_it_runs_keeps_its_pauses(tmp_path: Path) -> None:
    """They are in memory, too, and a resume counts as much."""
    async with journal(tmp_path, ("a", "b")) as opened:
        await fill(opened, range(10))
        await opened.pause("a")
        await opened.pause("b")
        await opened.resume("b")
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / (FILE + suffix)).unlink()
        while not (tmp_path / FILE).exists():
            await opened.kept()
        assert list(await opened.paused()) == ["a"]
    assert dead_letters(tmp_path) == []
    async with journal(tmp_path, ("a", "b")) as opened:
        assert list(await opened.paused()) == ["a"]


async def test_the_layout_is_that_of_versions_that_can_not_pause(tmp_path: Path) -> None:
    """A pause is a row in a table that they have, under a name that they ignore: they open the journal, and deliver."""
    await _paused(tmp_path)
    with sqlite3.connect(tmp_path / FILE) as db:
        names = {name for (name,) in db.execute("SELECT name FROM meta")}
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,) == (2,)
    db.close()
    assert names - {"first_seq", "probe"} == {"paused a"}
