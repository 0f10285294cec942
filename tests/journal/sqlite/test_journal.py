"""What the SQLite journal promises beside the contract: durability, group commits, retention, and room."""

import asyncio
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from btfeed.journal.base import Commit, Cursor, Damaged, DeadLetter, Entry, JournalFull, JournalUnavailable
from btfeed.journal.sqlite.database import FILE, JournalDatabase
from btfeed.journal.sqlite.post_log import PostLog
from btfeed.journal.sqlite.settings import SqliteSettings, Tuning
from tests.journal.journals import Journal, dead_letter, dead_letters, fill, journal, post
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


# Room


@pytest.mark.parametrize("when_full", ["refuse", "drop-oldest"])
async def test_dead_letters_take_no_room_from_posts(tmp_path: Path, when_full: str) -> None:
    """A journal that holds many times its max_size of dead letters takes as many posts as an empty one, and drops none."""
    rng = random.Random(1)
    async with journal(tmp_path, ("a", "b"), max_size="1MiB", dead_letters="100MiB", when_full=when_full) as opened:
        for first in range(0, 2_000, 100):
            bodies = [b'{"n":"%s"}' % rng.randbytes(2_000).hex().encode() for _ in range(100)]
            new = [replace(dead_letter(first + place), body=body) for place, body in enumerate(bodies)]
            await opened.outlet("a").commit(Commit(Cursor(1), None, new))
        assert (tmp_path / FILE).stat().st_size > 2.5 * 2**20
        taken = await fill(opened, range(40), 20_000)
        assert await opened.bodies() == taken
        assert opened.count("journal_dropped_posts") == opened.count("dead_letters_evicted") == 0
        await until_async(lambda: opened.refusing is None, "still taking posts")


async def test_a_full_journal_refuses_until_there_is_room(tmp_path: Path) -> None:
    """when_full = refuse: nothing that was taken is lost, and posts are taken again once sinks moved on."""
    async with journal(tmp_path, max_size="1MiB") as opened:
        taken = await _fill_up(opened)
        assert opened.refusing == "the journal is full"
        assert await opened.bodies() == taken
        await opened.outlet("a").commit(Commit(Cursor(len(taken) // 2)))
        await until_async(lambda: opened.refusing is None, "room")
        await opened.append(post(9_999, 20_000))
        assert opened.count("journal_dropped_posts") == 0


async def test_delivered_posts_are_dropped_early_for_room(tmp_path: Path) -> None:
    """Before their retention ends, so that the file does not grow beyond max_size."""
    async with journal(tmp_path, max_size="1MiB") as opened:
        for number in range(300):
            await opened.append(post(number, 20_000))
            await opened.outlet("a").commit(Commit(Cursor(number + 2)))
        assert len(await opened.bodies()) > 10
    assert (tmp_path / FILE).stat().st_size < 1.25 * 2**20


async def test_drop_oldest_counts_what_each_sink_loses(tmp_path: Path) -> None:
    """when_full = drop-oldest: a sink that had not had the dropped posts goes on behind them, and they are counted."""
    async with journal(tmp_path, ("fast", "slow"), max_size="1MiB", when_full="drop-oldest") as opened:
        await fill(opened, range(20), 20_000)
        await opened.outlet("fast").commit(Commit(Cursor(16)))
        await fill(opened, range(20, 100), 20_000)
        first = (await opened.everything())[0].seq
        assert first > 60
        assert opened.count("journal_dropped_posts", sink="slow") == first - 1
        assert opened.count("journal_dropped_posts", sink="fast") == first - 16
        assert await opened.outlet("slow").cursor() == await opened.outlet("fast").cursor() == (Cursor(first), None)
        await opened.outlet("slow").commit(Commit(Cursor(3), "late"))
        assert await opened.outlet("slow").cursor() == (Cursor(first), "late")
    assert (tmp_path / FILE).stat().st_size < 1.25 * 2**20


async def test_a_post_that_never_fits_costs_no_other(tmp_path: Path) -> None:
    """A post larger than max_size is refused. Nothing is dropped for it, and smaller ones are taken as before."""
    async with journal(tmp_path, max_size="1MiB", when_full="drop-oldest") as opened:
        bodies = await fill(opened, range(10))
        with pytest.raises(JournalFull):
            await opened.append(post(10, 2**20))
        assert opened.refusing is None
        bodies += await fill(opened, range(11, 13))
        assert await opened.bodies() == bodies
        assert opened.count("journal_dropped_posts") == 0


async def test_small_posts_fill_the_journal(tmp_path: Path) -> None:
    """Room is calculated from what posts take in the file: thousands of small ones at once fit if their bytes do."""
    async with journal(tmp_path, max_size="2MiB") as opened:
        await asyncio.gather(*(opened.append(post(number)) for number in range(2_000)))
        assert len(await opened.bodies()) == 2_000


async def _fill_up(opened: Journal) -> list[bytes]:
    """Append until the journal is full; returns what was taken."""
    taken: list[bytes] = []
    with suppress(JournalFull):
        while True:
            taken += await fill(opened, [len(taken)], 20_000)
    assert len(taken) > 30
    with pytest.raises(JournalFull, match="max_size of 1048576 bytes"):
        await opened.append(post(len(taken), 20_000))
    return taken


async def test_the_metrics_tell_limits_and_the_room_on_the_disk(tmp_path: Path) -> None:
    """The bounds as configured, what the files take, and what is free on their disk, within a tick."""
    async with journal(tmp_path, max_size="2MiB", dead_letters="1MiB") as opened:
        await fill(opened, range(10), size=5_000)
        names = ("journal_limit_bytes", "dead_letter_limit_bytes", "journal_file_bytes", "journal_free_bytes")

        def values() -> list[float]:
            return [opened.metrics.registry.get_sample_value(f"btfeed_{name}") or 0.0 for name in names]

        await until_async(lambda: values()[2] >= 50_000, "measured")
        limit, dead_letter_limit, file, free = values()
        assert (limit, dead_letter_limit) == (2**21, 2**20)
        assert file < 2**21
        assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.2)
        summary = opened.metrics.summary()
        assert (summary["journal_limit_bytes"], summary["dead_letter_limit_bytes"]) == (2**21, 2**20)
        assert isinstance(summary["journal_free_bytes"], int)
        assert summary["journal_free_bytes"] > 0


async def test_the_metrics_tell_how_much_is_undelivered(tmp_path: Path) -> None:
    """As the sink that is furthest behind sees it. Delivered posts are kept, and count no more."""
    async with journal(tmp_path, ["a", "b"]) as opened:
        await fill(opened, range(10), size=20_000)

        def share() -> float:
            summary = opened.metrics.summary()
            undelivered, used = summary["journal_undelivered_bytes"], summary["journal_bytes"]
            assert isinstance(undelivered, int)
            assert isinstance(used, int)
            return round(undelivered / used, 2) if used > 200_000 else 0

        await until_async(lambda: share() == 1, "everything is undelivered")
        await opened.outlet("a").commit(Commit(Cursor(11)))
        await opened.outlet("b").commit(Commit(Cursor(4)))
        await until_async(lambda: share() == 0.7, "three of ten posts are delivered")
        await opened.outlet("b").commit(Commit(Cursor(11)))
        await until_async(lambda: share() == 0, "everything is delivered")
