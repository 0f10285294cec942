"""A damaged journal always starts, keeps the damaged file, counts what is lost, and delivers the rest."""

import asyncio
import random
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from btfeed.journal.base import Commit, Cursor, DeadLetter, JournalUnavailable, Selection
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.dead_letters import open_dead_letters
from btfeed.journal.sqlite.layout import PAGE_SIZE, VERSION
from tests.journal.journals import Journal, dead_letter, dead_letters, fill, journal, post, seeded, wanting
from tests.journal.sqlite.damage import accounted, change, garbage, overwrite, write_journal
from tests.journal.sqlite.faulty_disk import FaultyDisk
from tests.support.harness import DEADLINE, until_async

LOG = f"{FILE}-wal"


def _kept(directory: Path) -> list[Path]:
    return [path for path in directory.glob(f"{FILE}.damaged-*") if not path.name.endswith("-wal")]


async def test_a_changed_body_becomes_a_dead_letter(tmp_path: Path) -> None:
    """A post whose body is not what was received. Its neighbors are delivered, and the file is not replaced."""
    home = tmp_path / "journal"
    written = await write_journal(home)
    change(home, written[121])
    async with journal(home, ("a", "b")) as opened:
        assert await accounted(opened, written) == written[:121] + written[122:]
        assert opened.count("journal_damaged_posts") == opened.count("dead_letters", reason="damaged") == 1
        (kept,) = dead_letters(home, "kind = 'post'")
        assert kept.reason.startswith("damaged in the journal (post 122)")
        assert sum(a != b for a, b in zip(kept.body, written[121], strict=True)) == 1
    assert _kept(home) == []


async def test_readers_behind_damaged_posts_wait(tmp_path: Path) -> None:
    """If the newest posts are damaged, each becomes a dead letter. Readers then wait for the next post, and do not read
    again and again."""
    home = tmp_path / "journal"
    written = await write_journal(home, 8)
    for body in written[3:]:
        change(home, body)
    async with journal(home, ("a", "b")) as opened:
        assert await accounted(opened, written) == written[:3]
        waiting = asyncio.create_task(opened.outlet("a").wait(4))
        assert await opened.outlet("a").read(4, 1) == []
        assert not waiting.done()
        await opened.append(post(99))
        async with asyncio.timeout(DEADLINE):
            await waiting
        assert [entry.seq for entry in await opened.outlet("a").read(4, 1)] == [9]


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no magic": lambda path: garbage(path, 0, 16),
    "wrong page size": lambda path: overwrite(path, 16, b"\x10\x00"),
    "reserved bytes": lambda path: overwrite(path, 20, b"\x08"),
    "another version": lambda path: overwrite(path, 63, bytes([VERSION + 1])),
    "first page": lambda path: garbage(path, 0, PAGE_SIZE),
    "root of posts": lambda path: garbage(path, PAGE_SIZE, PAGE_SIZE + 100),
    "a page": lambda path: garbage(path, 40 * PAGE_SIZE, 41 * PAGE_SIZE),
    "many pages": lambda path: garbage(path, 20 * PAGE_SIZE, 60 * PAGE_SIZE),
    "truncated": lambda path: _truncate(path, 100 * PAGE_SIZE + 77),
    "empty": lambda path: _truncate(path, 0),
    "garbage": lambda path: garbage(path, 0, path.stat().st_size),
    "missing": Path.unlink,
}
LOSSLESS = {"no magic", "wrong page size", "reserved bytes", "another version", "first page"}
UNKNOWN = {"garbage", "empty", "missing", "root of posts"}
"""Damages after which nothing tells how many posts there were, if there is no log either."""


@pytest.mark.parametrize(
    "log", [pytest.param(False, id="stopped", marks=pytest.mark.slow), pytest.param(True, id="killed")]
)
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_at_start(tmp_path: Path, damage: str, log: bool) -> None:
    """Whatever happened to the file, the journal starts. It accounts for each post if anything tells how many there were,
    keeps the damaged file, and takes posts."""
    home = tmp_path / "journal"
    written = await write_journal(home, log=log)
    DAMAGES[damage](home / FILE)
    before = (home / FILE).read_bytes() if (home / FILE).exists() else b""
    async with journal(home, ("a", "b")) as opened:
        found = await opened.bodies() if damage in UNKNOWN else await accounted(opened, written)
        assert opened.refusing is None
        taken = await fill(opened, range(1000, 1003))
        assert await opened.bodies() == found + taken
        assert log or damage in LOSSLESS or len(found) < len(written)
        assert damage not in LOSSLESS or len(found) == len(written)
        if opened.count("journal_errors"):
            (kept,) = _kept(home)
            assert kept.read_bytes() == before
        else:  # no damage, or hidden by what is in the log
            assert damage in (("another version", "root of posts") if log else ("empty", "missing"))


SEEDS = {"random": None, "oldest posts unreadable": 2337490689, "posts set aside before": 279}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
async def test_random_bit_flips(tmp_path: Path, seed: int | None) -> None:
    """Whichever bits of the file change, each post is delivered as it was written, or counted as damaged or lost. One sink
    has read nothing, so that none may be dropped."""
    rng = seeded(seed)
    home = tmp_path / "journal"
    written = await write_journal(home, 120)
    content = (home / FILE).read_bytes()
    recovered = 0
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 1, 3, 30))):
            offset = rng.choice((rng.randrange(len(content)), rng.randrange(8, 40) * PAGE_SIZE + rng.randrange(200)))
            damaged[offset] ^= 1 << rng.randrange(8)
        shutil.rmtree(home)
        home.mkdir()
        (home / FILE).write_bytes(damaged)
        async with journal(home, ("a", "b", "new")) as opened:
            await accounted(opened, written)
            recovered += opened.count("journal_errors")
    assert recovered


async def test_saved_numbers_that_would_hide_posts(tmp_path: Path) -> None:
    """Posts below a damaged first number, or within a damaged gap, are read."""
    home = tmp_path / "journal"
    written = await write_journal(home, 120)
    with closing(apsw.Connection(str(home / FILE))) as database:
        database.execute("INSERT OR REPLACE INTO meta VALUES('first_seq', 59); INSERT INTO gaps VALUES(70, 90)")
    async with journal(home, ("a", "b")) as opened:
        assert await opened.bodies() == written


async def test_a_sink_whose_cursor_lies_in_a_gap_goes_on_behind_it(tmp_path: Path) -> None:
    """As after a recovery that lost the posts around the cursor."""
    home = tmp_path / "journal"
    written = await write_journal(home, 120)
    with closing(apsw.Connection(str(home / FILE))) as database:
        database.execute("DELETE FROM posts WHERE seq BETWEEN 50 AND 70; INSERT INTO gaps VALUES(50, 70)")
    async with journal(home, ("a", "b")) as opened:
        assert (await opened.outlet("a").cursor())[0].seq == 60
        assert await opened.bodies(60) == written[70:]
        assert not opened.count("journal_errors")


async def test_changes_in_the_log(tmp_path: Path) -> None:
    """A write-ahead log with changed bytes, torn or missing, costs posts at most. What is left is as it was written."""
    rng = seeded()
    home = tmp_path / "journal"
    written = await write_journal(home, 120, log=True)
    shutil.copytree(home, tmp_path / "copy")
    lost = 0
    for turn in range(20):
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "copy", home)
        size = (home / LOG).stat().st_size
        if turn == 0:
            (home / LOG).unlink()
        elif turn % 2:
            _truncate(home / LOG, rng.randrange(size))
        else:
            overwrite(home / LOG, rng.randrange(size), rng.randbytes(3))
        async with journal(home, ("a",)) as opened:
            rest = iter(written)
            found = await opened.bodies()
            assert all(body in rest for body in found)
            lost += len(written) - len(found)
            assert await fill(opened, [1000]) == (await opened.bodies())[len(found) :]
    assert lost


async def _taken(opened: Journal, number: int) -> list[bytes]:
    """Append a post, again while the file is being recovered: maintenance may have found the damage first."""
    async with asyncio.timeout(DEADLINE):
        while True:
            with suppress(JournalUnavailable):
                return await fill(opened, [number])
            await asyncio.sleep(0.01)


async def test_a_page_that_is_damaged_while_running(tmp_path: Path) -> None:
    """Damage is found when a sink reads it. The file is recovered, the loss counted, and posts are taken."""
    home = tmp_path / "journal"
    written = await write_journal(home)
    async with journal(home, ("a", "b")) as opened:
        garbage(home / FILE, 40 * PAGE_SIZE, 60 * PAGE_SIZE)
        written += await _taken(opened, 1000)
        found = await accounted(opened, written)
        assert len(found) < len(written)
        assert await opened.outlet("a").cursor() == (Cursor(150, 3), "half-way")
        assert opened.refusing is None
    assert len(_kept(home)) == 1
    async with journal(home, ("a", "b")) as opened:
        assert await opened.bodies() == found
        assert opened.count("journal_lost_posts") == opened.count("journal_damaged_posts") == 0


async def test_posts_that_find_the_damage_are_taken(tmp_path: Path) -> None:
    """An append that finds the file damaged succeeds once it is recovered."""
    home = tmp_path / "journal"
    await write_journal(home)
    garbage(home / FILE, PAGE_SIZE, PAGE_SIZE + 100)
    async with journal(home, ("a", "b")) as opened:
        bodies = await fill(opened, range(1000, 1003))
        assert (await opened.bodies())[-3:] == bodies


@pytest.mark.parametrize("names", [[LOG], [FILE], [FILE, LOG]], ids=str)
async def test_deleted_files(tmp_path: Path, names: list[str]) -> None:
    """If the files of a running server are deleted, it notices, and goes on with new ones. What was only in a deleted file
    counts as lost."""
    home = tmp_path / "journal"
    async with journal(home, ("a",)) as opened:
        written = await fill(opened, range(50))
        for name in names:
            (home / name).unlink()
        await until_async(lambda: opened.count("journal_errors"), "noticed")
        with suppress(JournalUnavailable):  # behind what the thread does now: `refusing` is as new as the error then
            await opened.everything()
        await until_async(lambda: not opened.refusing, "recovered")
        found = await accounted(opened, written)
        assert (len(found) == 50) == (FILE not in names)
        found += await fill(opened, range(100, 103))
    async with journal(home, ("a",)) as opened:
        assert await opened.bodies() == found
        assert [entry.seq for entry in await opened.everything()][-1] == 53


async def test_cursors_and_dead_letters_are_recovered(tmp_path: Path) -> None:
    """Sinks go on where they were, with their state. Dead letters keep their ids and marks."""
    home = tmp_path / "journal"
    await write_journal(home)
    with open_dead_letters(home) as kept:
        kept.retry(Selection("a", [2]), wanting("a"))
    garbage(home / FILE, 0, PAGE_SIZE)
    async with journal(home, {"a": "latest", "b": "oldest"}) as opened:
        assert await opened.outlet("a").cursor() == (Cursor(150, 3), "half-way")
        assert await opened.outlet("b").cursor() == (Cursor(301), "at the end")
        assert [found.id for found in await opened.outlet("a").retries(10)] == [2]
        assert [found.body for found in dead_letters(home)] == [dead_letter(1).body, dead_letter(2).body]


async def test_recovered_dead_letters_are_deleted_one_by_one(tmp_path: Path) -> None:
    """What they are stored with is there until the last of them is gone, whatever they wait for."""
    home = tmp_path / "journal"
    async with journal(home) as opened:
        for first in range(0, 40, 4):
            kept = [
                replace(dead_letter(first + place), destination=f"topic {place % 2}" * (place > 1)) for place in range(4)
            ]
            await opened.outlet("a").commit(Commit(Cursor(1), None, kept))
        await opened.add_dead_letter(DeadLetter("post", "", "malformed", 1, b"body"))
    garbage(home / FILE, 0, PAGE_SIZE)
    async with journal(home) as opened:
        assert opened.count("journal_errors") == 1
    before = dead_letters(home)
    assert len(before) == 41
    random.Random(1).shuffle(before)
    while before:
        with open_dead_letters(home) as kept_letters:
            kept_letters.delete([before.pop().id, before.pop().id] if len(before) > 1 else [before.pop().id])
        assert dead_letters(home) == sorted(before, key=lambda each: each.id)


async def test_a_sink_that_lost_its_cursor_starts_with_the_oldest(tmp_path: Path) -> None:
    """A damaged cursor is not used: delivering records twice is better than losing them."""
    home = tmp_path / "journal"
    await write_journal(home)
    content = (home / FILE).read_bytes()
    (home / FILE).write_bytes(content.replace(b"half-way", b"half-wax"))
    async with journal(home, {"a": "latest", "b": "oldest"}) as opened:
        assert await opened.outlet("a").cursor() == (Cursor(1), None)
        assert await opened.outlet("b").cursor() == (Cursor(301), "at the end")


async def test_dead_letters_with_broken_text_can_be_read(tmp_path: Path) -> None:
    """Text that is not UTF-8 is read with replacement characters."""
    async with journal(tmp_path) as opened:
        await opened.outlet("a").commit(Commit(Cursor(1), None, [dead_letter(1)]))
        database = JournalDatabase.open(tmp_path)
        database.db.execute("UPDATE dead_letters SET retry = 1, event_id = CAST(x'ff41' AS TEXT)")
        kept = "block = 0, body = x'7b7d', key = CAST(x'ff41' AS TEXT), \"transaction\" = '[1'"
        (found,) = await opened.outlet("a").retries(1)
        assert (found.event_id, found.key) == ("\ufffdA", "key")
        database.db.execute(f"UPDATE dead_letters SET {kept}")  # as an earlier version did
        database.close()
        (found,) = await opened.outlet("a").retries(1)
        assert (found.event_id, found.key, found.transaction) == ("\ufffdA", "\ufffdA", None)


@pytest.mark.parametrize("step", range(4))
async def test_an_interrupted_recovery(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a recovery stops, the next start completes it, and nothing more is lost."""
    home = tmp_path / "journal"
    written = await write_journal(home, log=True)
    garbage(home / FILE, 0, PAGE_SIZE)
    renames = 0
    rename = Path.rename

    def stop(path: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames > step:
            raise OSError("the process ends here")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(JournalUnavailable, match="the process ends here"):
        async with journal(home, ("a", "b")):
            pass
    monkeypatch.undo()
    assert renames == step + 1
    async with journal(home, ("a", "b")) as opened:
        assert await opened.bodies() == written
    assert len(_kept(home)) == 1
    assert not list(home.glob("*recover*"))


async def test_a_recovery_without_room_is_tried_again(tmp_path: Path) -> None:
    """If the disk is too full to recover the file, posts are refused and nothing is changed until there is room."""
    disk = FaultyDisk()
    home = tmp_path / "journal"
    written = await write_journal(home)
    async with journal(home, ("a", "b"), disk.name) as opened:
        garbage(home / FILE, 40 * PAGE_SIZE, 60 * PAGE_SIZE)
        with disk.failing("write", apsw.SQLITE_FULL):
            with pytest.raises(JournalUnavailable):
                await opened.bodies()
            assert opened.refusing
            assert _kept(home) == []
        await until_async(lambda: opened.refusing is None, "healed")
        await accounted(opened, written)
    assert len(_kept(home)) == 1
