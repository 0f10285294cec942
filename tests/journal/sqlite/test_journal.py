"""What the SQLite journal promises beside the contract: durability, group commits, and retention."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.journal.base import Commit, Cursor, Damaged, DeadLetter, Entry, JournalFull, JournalUnavailable
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.post_log import PostLog
from btfeed.journal.sqlite.settings import SqliteSettings, Tuning
from tests.journal.journals import dead_letter, dead_letters, fill, journal, post
from tests.journal.sqlite.faulty_disk import FaultyDisk
from tests.support.clock import FakeClock
from tests.support.harness import until_async


async def test_append_returns_after_the_log_was_synced(tmp_path: Path) -> None:
    """Each append that returned has synced the write-ahead log once more."""
    disk = FaultyDisk()
    async with journal(tmp_path, vfs=disk.name) as opened:
        for number in range(5):
            before = disk.calls["sync"]
            await opened.append(post(number))
            assert disk.calls["sync"] > before
            assert disk.unsynced() == 0


async def test_concurrent_appends_share_commits(tmp_path: Path) -> None:
    """Five hundred appends in one turn of the event loop take one transaction, and keep their order without a gap."""
    async with journal(tmp_path) as opened:
        await asyncio.gather(*(opened.append(post(number)) for number in range(500)))
        assert opened.metrics.registry.get_sample_value("btfeed_journal_commit_seconds_count") == 1
        entries = await opened.everything()
        assert [entry.seq for entry in entries] == list(range(1, 501))
        assert [entry.post for entry in entries] == [post(number) for number in range(500)]


async def test_a_cancelled_append_does_no_harm(tmp_path: Path) -> None:
    """A client that disconnects leaves its post in the journal or not. Other posts are there, and nothing hangs."""
    async with journal(tmp_path) as opened:
        tasks = [asyncio.ensure_future(opened.append(post(number))) for number in range(100)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        bodies = await opened.bodies()
        assert {post(number).body for number in range(1, 100, 2)} <= set(bodies)
        assert len(bodies) == len(set(bodies))


@pytest.mark.parametrize("kept", [0, 3_500, 2**20])
async def test_read_gives_as_many_posts_as_fit(tmp_path: Path, kept: int) -> None:
    """Whether they are in memory, in the file, or some of each."""
    async with journal(tmp_path, tuning=Tuning(recent_bytes=kept)) as opened:
        await fill(opened, range(10), size=1000)
        outlet = opened.outlet("a")
        assert [entry.seq for entry in await outlet.read(3, 10)] == [3]
        assert [entry.seq for entry in await outlet.read(3, 3_000)] == [3, 4, 5]
        assert await outlet.read(11, 1) == []


async def test_the_newest_posts_are_read_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit. Older ones come from the file, without a gap between them."""
    reads: list[int] = []
    read = JournalDatabase.posts

    def counted(database: JournalDatabase, seq: int, max_bytes: int) -> Iterator[Entry | Damaged]:
        reads.append(seq)
        return read(database, seq, max_bytes)

    monkeypatch.setattr(JournalDatabase, "posts", counted)
    async with journal(tmp_path, tuning=Tuning(recent_bytes=4_000)) as opened:
        bodies = await fill(opened, range(10), size=1000)
        assert await opened.bodies() == bodies
        assert max(seq for seq in reads if seq <= 10) < 10
        reads.clear()
        assert [entry.post.body for entry in await opened.outlet("a").read(10, 1)] == bodies[9:]
        assert reads == []


async def test_a_post_that_was_rolled_back_is_not_in_memory(tmp_path: Path) -> None:
    """If the transaction fails, its posts are not delivered, and the next post gets their number."""
    async with journal(tmp_path) as opened:

        def fail(post_log: PostLog) -> None:
            post_log.append([post(1)])
            raise JournalUnavailable("no")

        with pytest.raises(JournalUnavailable):
            await opened._thread.change(fail)
        assert await opened.everything() == []
        assert await fill(opened, [2]) == await opened.bodies()


async def test_a_commit_that_fails_saves_nothing(tmp_path: Path) -> None:
    """If one part of a commit can't be saved, no part of it is."""
    async with journal(tmp_path) as opened:
        await fill(opened, range(3))
        broken = replace(dead_letter(2), tries=object())  # type: ignore[arg-type]  # what SQLite can't take
        with pytest.raises(JournalUnavailable):
            await opened.outlet("a").commit(Commit(Cursor(3), "state", [dead_letter(1), broken]))
        assert await opened.outlet("a").cursor() == (Cursor(1), None)
        assert dead_letters(tmp_path) == []
        await opened.append(post(4))


async def test_a_sink_out_of_the_configuration_holds_nothing_back(tmp_path: Path) -> None:
    """Posts that only a removed sink has not had are dropped. Configured again, it goes on with the oldest that is left."""
    async with journal(tmp_path, ("a", "b")) as opened:
        await fill(opened, range(5))
    async with journal(tmp_path, ("a",), retention="0s") as opened:
        await opened.outlet("a").commit(Commit(Cursor(4)))
        await until_async(lambda: opened.first_seq() == 4, "three posts dropped")
    async with journal(tmp_path, ("a", "b")) as opened:
        cursor, _ = await opened.outlet("b").cursor()
        assert [entry.seq for entry in await opened.everything(cursor.seq)] == [4, 5]


async def test_a_sink_that_is_removed_while_the_journal_is_open_holds_nothing_back(tmp_path: Path) -> None:
    """The same without a restart."""
    async with journal(tmp_path, ("a", "b")) as opened:
        await fill(opened, range(5))
        await opened.outlet("a").commit(Commit(Cursor(4)))
        await opened.reconfigure(
            SqliteSettings.model_validate({"directory": str(tmp_path), "retention": "0s"}), {"a": "oldest"}, 1_000
        )
        await until_async(lambda: opened.first_seq() == 4, "three posts dropped")
        await opened.outlet("b").commit(Commit(Cursor(2)))  # of a delivery that has not ended yet
        await opened.reconfigure(SqliteSettings(directory=str(tmp_path)), {"a": "oldest", "b": "oldest"}, 1_000)
        cursor, _ = await opened.outlet("b").cursor()
        assert [entry.seq for entry in await opened.everything(cursor.seq)] == [4, 5]


async def test_bounds_change_while_the_journal_is_open(tmp_path: Path) -> None:
    """What posts may take, what happens when it is used up, and what dead letters may take."""
    async with journal(tmp_path, max_size="1MiB") as opened:
        with pytest.raises(JournalFull):
            await fill(opened, range(20), size=100_000)
        taken = len(await opened.everything())
        same = SqliteSettings.model_validate(
            {"directory": str(tmp_path), "max_size": "1MiB", "when_full": "drop-oldest", "dead_letters": "20KiB"}
        )
        await opened.reconfigure(same, {"a": "oldest"}, 1_000)
        await fill(opened, range(20, 23), size=100_000)
        assert opened.count("journal_dropped_posts", sink="a") >= 3
        cursor, _ = await opened.outlet("a").cursor()
        assert len(await opened.everything(cursor.seq)) <= taken
        letters = [replace(dead_letter(number), body=random.Random(number).randbytes(5_000)) for number in range(10)]
        await opened.outlet("a").commit(Commit(cursor, None, letters))
        await until_async(lambda: opened.count("dead_letters_evicted") > 0, "beyond the new bound")


async def test_retention_waits_for_every_sink(tmp_path: Path) -> None:
    """Posts past their retention stay until the last sink has passed them. Younger ones stay anyway."""
    clock = FakeClock()
    async with journal(tmp_path, ("a", "b"), clock=clock, retention="1h") as opened:
        await fill(opened, range(5))
        await opened.append(post(5, received=round(clock.time() * 1000) + 3600_000))
        clock.now = 3601.0
        await opened.outlet("a").commit(Commit(Cursor(7)))
        await opened.outlet("b").commit(Commit(Cursor(3)))
        await until_async(lambda: opened.first_seq() == 3, "two posts dropped")
        await opened.outlet("b").commit(Commit(Cursor(7)))
        await until_async(lambda: opened.first_seq() == 6, "five posts dropped")
        assert [entry.seq for entry in await opened.everything()] == [6]
        clock.now = 7201.0
        await until_async(lambda: opened.first_seq() == 7, "the last one dropped")


async def test_many_posts_past_their_retention_are_dropped_at_once(tmp_path: Path) -> None:
    """While there is more to drop, maintenance does not wait for its next round."""
    async with journal(tmp_path) as opened:
        await asyncio.gather(*(opened.append(post(number)) for number in range(3_000)))
        await opened.outlet("a").commit(Commit(Cursor(3_001)))
    async with journal(tmp_path, tuning=Tuning(tick=3600), retention="0s") as opened:
        await until_async(lambda: opened.first_seq() == 3_001, "3,000 posts dropped")


async def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    """After all posts were dropped and the process restarted, the next post gets the next number."""
    async with journal(tmp_path, retention="0s") as opened:
        await fill(opened, range(5))
        await opened.outlet("a").commit(Commit(Cursor(6)))
        await until_async(lambda: opened.first_seq() == 6, "all posts dropped")
    async with journal(tmp_path, ("other",)) as opened:
        await opened.append(post(9))
        assert [entry.seq for entry in await opened.everything()] == [6]


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The second process on a directory says so and ends. The first goes on, and a later one can start."""
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom tests.journal.journals import journal\n"
        "async def main():\n    async with journal(Path(sys.argv[1])): pass\nasyncio.run(main())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    async with journal(tmp_path) as opened:
        second = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        assert second.returncode
        assert f"JournalInUse: {tmp_path} is in use by another btfeed" in second.stderr
        await opened.append(post(1))
    await asyncio.to_thread(subprocess.run, command, check=True)


async def test_a_journal_that_cannot_be_opened_releases_its_directory(tmp_path: Path) -> None:
    """An error at start names the directory. The next try can use it."""
    (tmp_path / FILE).mkdir()
    with pytest.raises(JournalUnavailable, match=str(tmp_path)):
        async with journal(tmp_path):
            pass
    (tmp_path / FILE).rmdir()
    async with journal(tmp_path) as opened:
        await opened.append(post(1))


# Dead letters


async def test_rejected_posts_are_bounded(tmp_path: Path) -> None:
    """Beyond their limit, the oldest rejected posts are dropped and counted. Records stay."""
    async with journal(tmp_path, refused_posts="20kB") as opened:
        await opened.outlet("a").commit(Commit(Cursor(1), None, [dead_letter(1)]))
        for number in range(50):
            await opened.add_dead_letter(
                DeadLetter("post", "", "malformed", number, post(number, 1_000).body, cause="malformed")
            )
        kept = dead_letters(tmp_path, "kind = 'post'")
        assert 8 <= len(kept) <= 14
        assert [found.time for found in kept] == list(range(50 - len(kept), 50))
        assert opened.count("dead_letters_evicted", reason="malformed") == 50 - len(kept)
        assert len(dead_letters(tmp_path, "kind = 'record'")) == 1


async def test_dead_letters_are_bounded(tmp_path: Path) -> None:
    """Beyond their bound the oldest are deleted, counted by sink and reason, and logged once with a sum. At a start with a
    smaller bound, too."""

    def letters(first: int) -> list[DeadLetter]:
        return [replace(dead_letter(number), cause="expired") for number in range(first, first + 20)]

    with capture_logs() as logged:
        async with journal(tmp_path, dead_letters="100kB") as opened:
            for first in range(0, 1_000, 20):
                await opened.outlet("a").commit(Commit(Cursor(1), None, letters(first)))
            await opened.add_dead_letter(DeadLetter("post", "", "malformed", 5, b"body", cause="malformed"))
            kept = dead_letters(tmp_path)
            assert 100 < len(kept) < 400
            assert [found.event_id for found in kept[:-1]] == [f"id-{number}" for number in range(1_001 - len(kept), 1_000)]
            evicted = opened.count("dead_letters_evicted", sink="a", reason="expired")
            assert evicted == opened.count("dead_letters_evicted") == 1_001 - len(kept)
    lines = [line for line in logged if line["event"] == "dead letters full, oldest deleted"]
    assert [(line["log_level"], line["sink"], line["reason"]) for line in lines] == [("error", "a", "expired")] * 2
    assert sum(line["count"] for line in lines) == evicted
    async with journal(tmp_path, dead_letters="0B") as opened:
        await until_async(lambda: opened.count("dead_letters_evicted") == len(kept), "all deleted")
        assert await opened.kept() == []
    assert dead_letters(tmp_path) == []
