"""A file that is found damaged at start: what tells which posts it had, so that those that can't be read are counted."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from btfeed.journal.base import Commit, Cursor
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.layout import PAGE_SIZE
from tests.journal.journals import fill, journal
from tests.journal.sqlite.damage import accounted, change, garbage, lost_posts, write_journal
from tests.support.harness import until_async

POSTS, DROPPED, BEHIND = 120, 20, 40
"""How many posts there were, how many of the oldest were dropped, and the first one that a sink is still to read."""


async def _written(home: Path) -> list[bytes]:
    """Create a journal whose sinks are behind and whose oldest posts were dropped; returns the bodies of the others."""
    written = await write_journal(home, POSTS)
    with closing(JournalDatabase.open(home)) as database:
        for sink, seq in (("a", BEHIND), ("b", BEHIND + 10)):
            database.save_cursor(sink, Cursor(seq), None)
        database.drop_oldest(DROPPED + 1, 2**62, DROPPED)
        database.checkpoint()
    return written[DROPPED:]


def _leaves(path: Path) -> list[int]:
    """Where pages with posts begin in the file, that with the oldest ones first: the root of the table leads to them."""
    root = path.read_bytes()[PAGE_SIZE : 2 * PAGE_SIZE]
    count = int.from_bytes(root[3:5], "big")
    cells = [int.from_bytes(root[place : place + 2], "big") for place in range(12, 12 + 2 * count, 2)]
    return [(int.from_bytes(root[place : place + 4], "big") - 1) * PAGE_SIZE for place in (*cells, 8)]


def _break_leaf(path: Path, number: int) -> None:
    start = _leaves(path)[number]
    garbage(path, start, start + PAGE_SIZE)


def _set_first(path: Path, number: int) -> None:
    with closing(apsw.Connection(str(path))) as database:
        database.execute("INSERT OR REPLACE INTO meta VALUES('first_seq', ?)", (number,))


def _break_meta(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as database:
        root = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'meta'").get
    garbage(path, (root - 1) * PAGE_SIZE, root * PAGE_SIZE)


DAMAGES: dict[str, list[Callable[[Path], None]]] = {
    "oldest": [lambda path: _break_leaf(path, 0)],
    "newest but one": [lambda path: _break_leaf(path, -2)],
    "oldest, newest but one": [lambda path: _break_leaf(path, 0), lambda path: _break_leaf(path, -2)],
    "first number": [_break_meta],
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_each_post_is_accounted_for(tmp_path: Path, damage: str) -> None:
    """The first number is saved, and the oldest post has it; the newest post has the last one."""
    home = tmp_path / "journal"
    written = await _written(home)
    for change_file in DAMAGES[damage]:
        change_file(home / FILE)
    async with journal(home, ("a", "b")) as opened:
        found = await accounted(opened, written)
        assert (len(found) < len(written)) == (damage != "first number")
        assert opened.count("journal_errors")
        assert opened.first_seq() == DROPPED + 1
    async with journal(home, ("a", "b")) as opened:
        assert await opened.bodies() == found


async def test_a_damaged_newest_post_counts(tmp_path: Path) -> None:
    """Although no sink has come so far, and no sound post follows it in the file, which is recovered for another damage."""
    home = tmp_path / "journal"
    written = await _written(home)
    change(home, written[-1])
    garbage(home / FILE, 0, 16)
    async with journal(home, ("a", "b")) as opened:
        await accounted(opened, written)
        assert opened.count("journal_damaged_posts") == 1


async def test_posts_between_pages_that_are_lost(tmp_path: Path) -> None:
    """They are read although one of these is the page with the newest posts, which would tell that there are more. At least
    one counts as lost with it."""
    home = tmp_path / "journal"
    written = await _written(home)
    _break_leaf(home / FILE, len(_leaves(home / FILE)) // 2)
    _break_leaf(home / FILE, -1)
    async with journal(home, ("a", "b")) as opened:
        found = await opened.bodies()
        assert set(found) >= {*written[:3], *written[-20:-8]}
        assert len(found) + lost_posts(opened) == written.index(found[-1]) + 2


async def test_posts_below_a_wrong_first_number_are_read(tmp_path: Path) -> None:
    """Although the oldest can't be read, which would tell that it is wrong. It may even lie beyond all posts."""
    home = tmp_path / "journal"
    written = await _written(home)
    _set_first(home / FILE, 2**40)
    _break_leaf(home / FILE, 0)
    async with journal(home, ("a", "b")) as opened:
        assert (await opened.bodies())[-80:] == written[-80:]


async def test_undelivered_posts_count_if_nothing_else_is_known(tmp_path: Path) -> None:
    """What a sink was still to read is missing, whatever the first number was."""
    home = tmp_path / "journal"
    await _written(home)
    _break_meta(home / FILE)
    for number in range(len(_leaves(home / FILE)) // 2):
        _break_leaf(home / FILE, number)
    async with journal(home, ("a", "b")) as opened:
        found = await opened.bodies()
        assert len(found) + lost_posts(opened) == POSTS - BEHIND + 1


async def test_deleted_posts_that_every_sink_had_count_apart(tmp_path: Path) -> None:
    """Only replay misses them. Sinks that are no longer configured do not count: they get no posts."""
    home = tmp_path / "journal"
    async with journal(home, ("a", "b", "old")) as opened:
        await fill(opened, range(50))
        for sink, seq in (("a", 31), ("b", 41)):
            await opened.outlet(sink).commit(Commit(Cursor(seq), None))
    async with journal(home, ("a", "b")) as opened:
        for path in home.glob(f"{FILE}*"):
            path.unlink()
        await until_async(lambda: lost_posts(opened) == 50, "recovered")
        assert (opened.count("journal_lost_delivered"), opened.count("journal_lost_posts")) == (30, 20)


@pytest.mark.parametrize("sinks", [("a", "b"), ("a", "b", "new")], ids=str)
async def test_damaged_posts_that_every_sink_had_count_apart(tmp_path: Path, sinks: tuple[str, ...]) -> None:
    """A sink without a cursor may have lost it, and was to get them."""
    home = tmp_path / "journal"
    written = await _written(home)
    _break_leaf(home / FILE, 0)
    async with journal(home, sinks) as opened:
        await accounted(opened, written)
        assert lost_posts(opened) == opened.count("journal_lost_posts" if "new" in sinks else "journal_lost_delivered") > 0


async def test_the_newest_posts_are_told_apart_too(tmp_path: Path) -> None:
    """If the directory comes back with an older file: it ends before them."""
    home, old = tmp_path / "journal", tmp_path / "old"
    async with journal(home, ("a",)) as opened:
        await fill(opened, range(10))
    shutil.copytree(home, old)
    async with journal(home, ("a",)) as opened:
        await fill(opened, range(10, 30))
        await opened.outlet("a").commit(Commit(Cursor(26), None))
        home.rename(tmp_path / "away")
        await until_async(lambda: opened.refusing, "noticed")
        old.rename(home)
        await until_async(lambda: not opened.refusing, "works again")
        assert (opened.count("journal_lost_delivered"), opened.count("journal_lost_posts")) == (15, 5)
