"""The embedded journal as the server uses it: appends, cursors, retention, room, dead letters."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from btfeed.journal.base import Backlog, Commit, Cursor, DeadLetter, Entry, JournalFull, JournalUnavailable
from btfeed.journal.sqlite import recent
from btfeed.journal.sqlite.database import FILE, Damaged, JournalDatabase
from btfeed.journal.sqlite.post_log import PostLog
from tests.journal.journals import Journal, fill, journal, letter, letters, post
from tests.journal.sqlite.faulty_disk import FaultyDisk
from tests.support.harness import until_async
from tests.support.posts import mixed


async def test_append_returns_after_the_log_was_synced(tmp_path: Path) -> None:
    """With each append that returned, the write-ahead log has been synced once more."""
    disk = FaultyDisk()
    async with journal(tmp_path, vfs=disk.name) as opened:
        for number in range(5):
            before = disk.calls["sync"]
            await opened.append(post(number))
            assert disk.calls["sync"] > before
            assert disk.unsynced() == 0


async def test_concurrent_appends_share_commits(tmp_path: Path) -> None:
    """Five hundred appends at once are a few transactions, in the order in which they were submitted, without a gap."""
    async with journal(tmp_path) as opened:
        await asyncio.gather(*(opened.append(post(number)) for number in range(500)))
        commits = opened.metrics.registry.get_sample_value("btfeed_journal_commit_seconds_count")
        assert commits is not None
        assert commits < 50
        entries = await opened.everything()
        assert [entry.seq for entry in entries] == list(range(1, 501))
        assert [entry.post for entry in entries] == [post(number) for number in range(500)]


async def test_a_cancelled_append_does_no_harm(tmp_path: Path) -> None:
    """A client that goes away leaves its post in the journal or not; its neighbours are there, and nothing hangs."""
    async with journal(tmp_path) as opened:
        tasks = [asyncio.create_task(opened.append(post(number))) for number in range(100)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        bodies = await opened.bodies()
        assert {post(number).body for number in range(1, 100, 2)} <= set(bodies)
        assert len(bodies) == len(set(bodies))


@pytest.mark.parametrize("kept", [0, 3_500, 2**20])
async def test_read_keeps_to_max_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Reading gives at least one post, then as many as fit, be they in memory or not."""
    monkeypatch.setattr(recent, "RECENT_BYTES", kept)
    async with journal(tmp_path) as opened:
        await fill(opened, range(10), size=1000)
        assert [entry.seq for entry in await opened.read(3, 10)] == [3]
        assert [entry.seq for entry in await opened.read(3, 3_000)] == [3, 4, 5]
        assert await opened.read(11, 1) == []


async def test_the_newest_posts_are_read_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit; what is older comes from the file, without a gap between them."""
    monkeypatch.setattr(recent, "RECENT_BYTES", 4_000)
    reads: list[int] = []
    read = JournalDatabase.read

    def noted(store: JournalDatabase, seq: int, max_bytes: int) -> Iterator[Entry | Damaged]:
        reads.append(seq)
        return read(store, seq, max_bytes)

    monkeypatch.setattr(JournalDatabase, "read", noted)
    async with journal(tmp_path) as opened:
        bodies = await fill(opened, range(10), size=1000)
        assert await opened.bodies() == bodies
        assert max(seq for seq in reads if seq <= 10) < 10
        reads.clear()
        assert [entry.post.body for entry in await opened.read(10, 1)] == bodies[9:]
        assert reads == []


async def test_a_post_that_was_rolled_back_is_not_in_memory(tmp_path: Path) -> None:
    """Where the transaction fails, nobody is given its posts, and the next post has their number."""
    async with journal(tmp_path) as opened:

        def fail(ledger: PostLog) -> None:
            ledger.append([post(1)])
            raise JournalUnavailable("no")

        with pytest.raises(JournalUnavailable):
            await opened._submit(fail, writes=True)
        assert await opened.everything() == []
        assert await fill(opened, [2]) == await opened.bodies()


async def test_wait_returns_with_the_post(tmp_path: Path) -> None:
    """Who waits for a number is woken by the post that gets it, not before."""
    async with journal(tmp_path) as opened:
        waiting = asyncio.create_task(opened.wait(2))
        await opened.append(post(1))
        assert not waiting.done()
        await opened.append(post(2))
        async with asyncio.timeout(5):
            await waiting


async def test_a_commit_is_saved_as_a_whole(tmp_path: Path) -> None:
    """Cursor, state and dead letters of a commit are there after a restart, each dead letter once."""
    async with journal(tmp_path) as opened:
        await fill(opened, range(3))
        await opened.commit("a", Commit(Cursor(2, 5), "state", [letter(1), letter(2)]))
        await opened.commit("a", Commit(Cursor(3, 1), "later", [letter(2)]))
    async with journal(tmp_path) as opened:
        assert await opened.cursor("a") == (Cursor(3, 1), "later")
        assert [found.event_id for found in letters(tmp_path)] == ["id-1", "id-2"]
        assert letters(tmp_path)[0] == replace(letter(1), id=1)


async def test_a_commit_that_fails_saves_nothing(tmp_path: Path) -> None:
    """Where one part of a commit can't be saved, no part of it is."""
    async with journal(tmp_path) as opened:
        await fill(opened, range(3))
        broken = replace(letter(2), reason=object())  # type: ignore[arg-type]  # what SQLite can't take
        with pytest.raises(JournalUnavailable):
            await opened.commit("a", Commit(Cursor(3), "state", [letter(1), broken]))
        assert await opened.cursor("a") == (Cursor(1), None)
        assert letters(tmp_path) == []
        await opened.append(post(4))


async def test_where_a_new_sink_starts(tmp_path: Path) -> None:
    """A new sink starts with the oldest post or with the next one; one that is known goes on where it was."""
    async with journal(tmp_path, {"a": "oldest"}) as opened:
        await fill(opened, range(5))
        await opened.commit("a", Commit(Cursor(4)))
    async with journal(tmp_path, {"a": "latest", "b": "oldest", "c": "latest"}) as opened:
        assert [await opened.cursor(name) for name in "abc"] == [(Cursor(4), None), (Cursor(1), None), (Cursor(6), None)]


async def test_a_sink_out_of_the_configuration_holds_nothing_back(tmp_path: Path) -> None:
    """Posts that only a removed sink has not had are forgotten; put back, it goes on with the oldest that is left."""
    async with journal(tmp_path, ("a", "b")) as opened:
        await fill(opened, range(5))
    async with journal(tmp_path, ("a",), retention="0s") as opened:
        await opened.commit("a", Commit(Cursor(4)))
        await until_async(lambda: opened.head_of_posts() == 4, "three posts forgotten")
    async with journal(tmp_path, ("a", "b")) as opened:
        cursor, _ = await opened.cursor("b")
        assert [entry.seq for entry in await opened.everything(cursor.seq)] == [4, 5]


async def test_retention_waits_for_every_sink(tmp_path: Path) -> None:
    """Posts past their retention stay until the last sink has passed them; younger ones stay anyway."""
    async with journal(tmp_path, ("a", "b"), retention="1h") as opened:
        await fill(opened, range(5))
        await opened.append(post(5, received=2**42))
        await opened.commit("a", Commit(Cursor(7)))
        await opened.commit("b", Commit(Cursor(3)))
        await until_async(lambda: opened.head_of_posts() == 3, "two posts forgotten")
        await opened.commit("b", Commit(Cursor(7)))
        await until_async(lambda: opened.head_of_posts() == 6, "five posts forgotten")
        assert [entry.seq for entry in await opened.everything()] == [6]


async def test_many_posts_past_their_retention_are_forgotten_at_once(tmp_path: Path) -> None:
    """Forgetting keeps up with any rate: it does not wait for the next round of maintenance while there is more."""
    async with journal(tmp_path, retention="0s") as opened:
        await asyncio.gather(*(opened.append(post(number)) for number in range(3_000)))
        await opened.commit("a", Commit(Cursor(3_001)))
        await until_async(lambda: opened.head_of_posts() == 3_001, "3,000 posts forgotten", deadline=3)


async def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    """After all posts were forgotten and the process restarted, the next post gets the next number."""
    async with journal(tmp_path, retention="0s") as opened:
        await fill(opened, range(5))
        await opened.commit("a", Commit(Cursor(6)))
        await until_async(lambda: opened.head_of_posts() == 6, "all posts forgotten")
    async with journal(tmp_path, ("other",)) as opened:
        await opened.append(post(9))
        assert [entry.seq for entry in await opened.everything()] == [6]


async def test_backlog_counts_posts_and_their_age(tmp_path: Path) -> None:
    """A sink's backlog is the posts that it has not finished; without one its age is 0."""
    async with journal(tmp_path) as opened:
        await fill(opened, range(4))
        await opened.commit("a", Commit(Cursor(3, 2)))
        backlog = await opened.backlog("a")
        assert backlog.posts == 2
        assert backlog.age > 0
        await opened.commit("a", Commit(Cursor(5)))
        assert await opened.backlog("a") == Backlog(0, 0.0)


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """Two processes on one directory: the second says so and ends; the first goes on; later it is free."""
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom tests.journal.journals import journal\n"
        "async def main():\n    async with journal(Path(sys.argv[1])): pass\nasyncio.run(main())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    async with journal(tmp_path) as opened:
        second = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        assert second.returncode
        assert f"JournalUnavailable: {tmp_path} is in use by another btfeed" in second.stderr
        await opened.append(post(1))
    await asyncio.to_thread(subprocess.run, command, check=True)


async def test_a_closed_journal_refuses(tmp_path: Path) -> None:
    """What was submitted before closing is done; what comes later is refused at once, and nothing hangs."""
    async with journal(tmp_path) as opened:
        pending = [asyncio.create_task(opened.append(post(number))) for number in range(10)]
        await asyncio.sleep(0)
    await asyncio.gather(*pending)
    with pytest.raises(JournalUnavailable, match="closed"):
        await opened.append(post(11))
    async with journal(tmp_path) as opened:
        assert len(await opened.bodies()) == 10


async def test_a_journal_that_can_not_be_opened_lets_go(tmp_path: Path) -> None:
    """An error at start names the directory and frees it for the next try."""
    (tmp_path / FILE).mkdir()
    with pytest.raises(JournalUnavailable, match=str(tmp_path)):
        async with journal(tmp_path):
            pass
    (tmp_path / FILE).rmdir()
    async with journal(tmp_path) as opened:
        await opened.append(post(1))


# Dead letters


async def test_dead_letters_that_are_tried_again(tmp_path: Path) -> None:
    """What a person marks comes from `retries`; delivered it is gone, refused again it says how often and why."""
    async with journal(tmp_path, ("a", "b")) as opened:
        await opened.commit("a", Commit(Cursor(1), None, [letter(number) for number in range(3)]))
        _retry(tmp_path, ["a", "b"])
        assert [found.event_id for found in await opened.retries("a", 2)] == ["id-0", "id-1"]
        assert await opened.retries("b", 10) == []
        await opened.commit("a", Commit(Cursor(1), redelivered=[1], refused_again={2: "still"}))
        assert [found.id for found in await opened.retries("a", 10)] == [3]
        kept = {found.id: (found.tries, found.reason) for found in letters(tmp_path)}
        assert kept == {2: (2, "still"), 3: (1, "refused")}


async def test_refused_posts_are_bounded(tmp_path: Path) -> None:
    """Beyond their bound the oldest refused posts go, counted; refused records stay."""
    async with journal(tmp_path, refused_posts="10kB") as opened:
        await opened.commit("a", Commit(Cursor(1), None, [letter(1)]))
        for number in range(50):
            await opened.bury(DeadLetter("post", "", "malformed", number, post(number, 1_000).body))
        kept = letters(tmp_path, "kind = 'post'")
        assert 5 <= len(kept) <= 10
        assert [found.time for found in kept] == list(range(50 - len(kept), 50))
        assert opened.count("dead_letters_evicted") == 50 - len(kept)
        assert len(letters(tmp_path, "kind = 'record'")) == 1


async def test_a_refused_post_that_is_tried_again_is_journaled(tmp_path: Path) -> None:
    """A post among the dead letters that is acceptable now is taken as if it had just come; another is refused again."""
    async with journal(tmp_path) as opened:
        await opened.bury(DeadLetter("post", "", "too strict", 1, mixed(3)))
        await opened.bury(DeadLetter("post", "", "malformed", 1, b"nonsense"))
        _retry(tmp_path, ["a"])
        async with asyncio.timeout(5):
            await opened.wait(1)
        assert await opened.bodies() == [mixed(3)]
        (kept,) = letters(tmp_path)
        assert (kept.body, kept.tries) == (b"nonsense", 2)
        assert "not a BusinessTransactions message" in kept.reason


def _retry(directory: Path, sinks: list[str]) -> None:
    store = JournalDatabase.open(directory)
    store.retry(list(store.dead_letters()), sinks)
    store.close()


# Room


async def test_a_full_journal_refuses_until_there_is_room(tmp_path: Path) -> None:
    """when_full = refuse: nothing that was taken is lost, the server is not ready; posts are taken once sinks moved on."""
    async with journal(tmp_path, max_size="1MiB") as opened:
        taken = await _fill_up(opened)
        assert opened.refusing == "the journal is full"
        assert await opened.bodies() == taken
        await opened.commit("a", Commit(Cursor(len(taken) // 2)))
        await until_async(lambda: opened.refusing is None, "room")
        await opened.append(post(9_999, 20_000))
        assert opened.count("journal_dropped_posts") == 0


async def test_delivered_posts_are_forgotten_early_for_room(tmp_path: Path) -> None:
    """Retention gives way to new posts, and the file does not grow beyond max_size."""
    async with journal(tmp_path, max_size="1MiB", retention="24h") as opened:
        for number in range(300):
            await opened.append(post(number, 20_000))
            await opened.commit("a", Commit(Cursor(number + 2)))
        assert len(await opened.bodies()) > 10
    assert (tmp_path / FILE).stat().st_size < 1.25 * 2**20


async def test_drop_oldest_counts_what_each_sink_loses(tmp_path: Path) -> None:
    """when_full = drop-oldest: the oldest posts go; each sink that had not had them loses so many, and goes on behind."""
    async with journal(tmp_path, ("fast", "slow"), max_size="1MiB", when_full="drop-oldest") as opened:
        await fill(opened, range(20), 20_000)
        await opened.commit("fast", Commit(Cursor(16)))
        await fill(opened, range(20, 100), 20_000)
        first = (await opened.everything())[0].seq
        assert first > 60
        assert opened.count("journal_dropped_posts", sink="slow") == first - 1
        assert opened.count("journal_dropped_posts", sink="fast") == first - 16
        assert await opened.cursor("slow") == await opened.cursor("fast") == (Cursor(first), None)
        await opened.commit("slow", Commit(Cursor(3), "late"))
        assert await opened.cursor("slow") == (Cursor(first), "late")
    assert (tmp_path / FILE).stat().st_size < 1.25 * 2**20


async def test_a_post_that_never_fits_costs_no_other(tmp_path: Path) -> None:
    """A post larger than max_size is refused; nothing is dropped for it, and smaller ones are taken as before."""
    async with journal(tmp_path, max_size="1MiB", when_full="drop-oldest") as opened:
        bodies = await fill(opened, range(10))
        with pytest.raises(JournalFull):
            await opened.append(post(10, 2**20))
        assert opened.refusing is None
        bodies += await fill(opened, range(11, 13))
        assert await opened.bodies() == bodies
        assert opened.count("journal_dropped_posts") == 0


async def test_small_posts_fill_the_journal(tmp_path: Path) -> None:
    """Room is reckoned by what posts take: thousands of small ones at once fit where their bytes do."""
    async with journal(tmp_path, max_size="2MiB") as opened:
        await asyncio.gather(*(opened.append(post(number)) for number in range(2_000)))
        assert len(await opened.bodies()) == 2_000


async def _fill_up(opened: Journal) -> list[bytes]:
    """Append until the journal is full; returns what it took."""
    taken: list[bytes] = []
    with suppress(JournalFull):
        while True:
            taken += await fill(opened, [len(taken)], 20_000)
    assert len(taken) > 30
    with pytest.raises(JournalFull, match="max_size of 1048576 bytes"):
        await opened.append(post(len(taken), 20_000))
    return taken
