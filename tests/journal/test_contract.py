"""What every journal promises (btfeed/journal/base.py), over each backend and any number of partitions.

To add a backend, write a driver and add it to DRIVERS in tests/journal/drivers.py.
"""

import asyncio
from dataclasses import replace

import pytest

from btfeed.journal.base import (
    Backlog,
    Commit,
    Cursor,
    Damaged,
    JournalUnavailable,
)
from btfeed.posts.post import Post, digest
from tests.journal.drivers import (
    Driver,
    by_body,
    opened,
    pass_all,
    read_all,
    read_every,
)
from tests.journal.journals import dead_letter, post
from tests.support.clock import settle
from tests.support.harness import DEADLINE, until_async

# Posts


async def test_posts_are_read_in_the_order_of_their_partition(driver: Driver) -> None:
    """Each post is in one partition, as it was appended, with its digest and an ascending number."""
    async with opened(driver, "a") as it:
        appended = await it.fill(range(50))
        read: list[Post] = []
        for outlet in it.outlets["a"]:
            entries = await read_all(outlet)
            posts = [entry.post for entry in entries]
            assert posts == [each for each in appended if each in posts]
            assert all(entry.digest == digest(entry.post.body) for entry in entries)
            seqs = [entry.seq for entry in entries]
            assert seqs == sorted(set(seqs))
            read += posts
        assert by_body(read) == by_body(appended)


async def test_append_returns_the_digest(driver: Driver) -> None:
    """Of the body."""
    async with opened(driver, "a") as it:
        assert it.journal.refusing is None
        assert await it.journal.append(post(1)) == digest(post(1).body)


async def test_read_gives_as_many_posts_as_fit(driver: Driver) -> None:
    """At least one if there is one. None behind the last."""
    async with opened(driver, "a") as it:
        await it.fill(range(60), size=1000)
        for outlet in it.outlets["a"]:
            seqs = [entry.seq for entry in await read_all(outlet)]
            assert [entry.seq for entry in await outlet.read(seqs[2], 10)] == seqs[2:3]
            assert [entry.seq for entry in await outlet.read(seqs[2], 3_000)] == seqs[2:5]
            assert list(await outlet.read(seqs[-1] + 1, 10)) == []


async def test_wait_returns_with_the_post(driver: Driver) -> None:
    """Not before there is a post of that number, and at once if there is one."""
    async with opened(driver, "a") as it:
        await it.fill(range(30))
        for outlet in it.outlets["a"]:
            last = (await read_all(outlet))[-1].seq
            await asyncio.wait_for(outlet.wait(last), DEADLINE)
            waiting = asyncio.create_task(outlet.wait(last + 1))
            await settle()
            assert not waiting.done()
            number = 1_000
            while not await outlet.read(last + 1, 1):
                assert not waiting.done()
                await it.fill(range(number, number + 1))
                number += 1
            await asyncio.wait_for(waiting, DEADLINE)


async def test_posts_survive_a_restart(driver: Driver) -> None:
    """All that were acknowledged, and new ones go behind them."""
    async with opened(driver, "a") as it:
        appended = await it.fill(range(30))
    async with opened(driver, "a") as it:
        appended += await it.fill(range(30, 40))
        assert by_body(await read_every(it.outlets["a"])) == by_body(appended)


# Cursors


async def test_a_commit_is_saved_as_a_whole(driver: Driver) -> None:
    """Its cursor, state and dead letters are there after a restart."""
    async with opened(driver, "a") as it:
        await it.fill(range(30))
        outlet = it.outlets["a"][0]
        seq = (await read_all(outlet))[1].seq
        await outlet.commit(Commit(Cursor(seq, 5), "state", [dead_letter(1), dead_letter(2)]))
    async with opened(driver, "a") as it:
        assert await it.outlets["a"][0].cursor() == (Cursor(seq, 5), "state")
        with driver.dead_letters() as dead_letters:
            kept = list(dead_letters.select())
        assert [replace(each, id=0) for each in kept] == [dead_letter(1), dead_letter(2)]


async def test_a_cursor_does_not_go_back(driver: Driver) -> None:
    """An older cursor leaves the saved one; the rest of that commit is saved."""
    async with opened(driver, "a") as it:
        await it.fill(range(30))
        outlet = it.outlets["a"][0]
        end = await pass_all(outlet, "old")
        await outlet.commit(Commit(Cursor(1), "new", [dead_letter(1)]))
        assert await outlet.cursor() == (end, "new")
        with driver.dead_letters() as dead_letters:
            assert dead_letters.count() == 1


async def test_each_sink_and_partition_has_a_cursor(driver: Driver) -> None:
    """A commit moves one of them."""
    async with opened(driver, "a", "b") as it:
        await it.fill(range(30))
        moved = it.outlets["a"][-1]
        before = {outlet: await outlet.cursor() for sink in "ab" for outlet in it.outlets[sink]}
        after = before | {moved: (await pass_all(moved, "state"), "state")}
        assert {outlet: await outlet.cursor() for outlet in before} == after
        assert [outlet.partition for outlet in it.outlets["a"]] == list(range(driver.partitions))


async def test_where_a_sink_starts(driver: Driver) -> None:
    """A new sink starts at the oldest post, or behind the latest. A known sink goes on where it was."""
    async with opened(driver, "a") as it:
        first = await it.fill(range(30))
        for outlet in it.outlets["a"]:
            await pass_all(outlet)
    async with opened(driver, a="oldest", b="oldest", c="latest") as it:
        second = await it.fill(range(30, 40))
        assert by_body(await read_every(it.outlets["a"])) == by_body(second)
        assert by_body(await read_every(it.outlets["b"])) == by_body(first + second)
        assert by_body(await read_every(it.outlets["c"])) == by_body(second)


async def test_where_a_sink_starts_that_is_added_while_the_journal_is_open(driver: Driver) -> None:
    """As one that is there from the start. What it begins with is durable."""
    starts = {"a": "oldest", "b": "oldest", "c": "latest"}
    async with opened(driver, "a") as it:
        first = await it.fill(range(30))
        await it.journal.reconfigure(driver.settings, starts, 1_000)
        for sink in "bc":
            it.run(sink)
        await until_async(lambda: all(len(o) == driver.partitions for o in it.outlets.values()), "all outlets")
        second = await it.fill(range(30, 40))
        assert by_body(await read_every(it.outlets["b"])) == by_body(first + second)
        assert by_body(await read_every(it.outlets["c"])) == by_body(second)
    async with opened(driver, **starts) as it:
        assert by_body(await read_every(it.outlets["c"])) == by_body(second)


async def test_a_sink_goes_on_that_was_configured_before(driver: Driver) -> None:
    """At its cursor, wherever its start says it begins. Another one's cursor stays as well."""
    async with opened(driver, "a", "b") as it:
        await it.fill(range(30))
        ends = {outlet: await pass_all(outlet, "state") for outlet in it.outlets["a"]}
        await it.journal.reconfigure(driver.settings, {"b": "oldest"}, 1_000)
        second = await it.fill(range(30, 40))
        await it.journal.reconfigure(driver.settings, {"a": "latest", "b": "latest"}, 1_000)
        assert {outlet: await outlet.cursor() for outlet in ends} == {
            outlet: (end, "state") for outlet, end in ends.items()
        }
        assert by_body(await read_every(it.outlets["a"])) == by_body(second)
        assert len(await read_every(it.outlets["b"])) == 40


async def test_the_backlog_is_what_a_sink_has_not_finished(driver: Driver) -> None:
    """In posts, and as the age of the oldest of them. It is nothing once the sink is behind the last post."""
    async with opened(driver, "a") as it:
        await it.fill(range(30))
        for outlet in it.outlets["a"]:
            entries = await read_all(outlet)
            await outlet.commit(Commit(Cursor(entries[2].seq, 2)))
            backlog = await outlet.backlog()
            assert backlog.posts == len(entries) - 2
            assert backlog.age > 0
            await pass_all(outlet)
            assert await outlet.backlog() == Backlog(0, 0.0)


# The archive


async def test_the_archive_has_the_posts_of_a_range_of_time(driver: Driver) -> None:
    """From the first moment on, to before the second one, also while a server runs, and as often as they are asked for."""
    async with opened(driver, "a") as it:
        posts = [post(number)._replace(received=1_000 + number) for number in range(20)]
        for each in posts:
            await it.journal.append(each)
        archive = driver.archive(1_005, 1_015)
        await it.fill(range(100, 101))
        for _ in range(2):
            found = [entry.post for entry in archive.entries() if not isinstance(entry, Damaged)]
            assert by_body(found) == by_body(posts[5:15])
        assert archive.count == 10
        assert driver.archive(0, 1).count == 0


# Opening and closing


async def test_what_was_begun_before_closing_is_finished(driver: Driver) -> None:
    """Posts that are being appended are durable."""
    async with opened(driver, "a") as it:
        pending = [asyncio.ensure_future(it.journal.append(post(number))) for number in range(10)]
        await asyncio.sleep(0)
    await asyncio.gather(*pending)
    async with opened(driver, "a") as it:
        assert len(await read_every(it.outlets["a"])) == 10


async def test_a_closed_journal_refuses_and_ends_its_outlets(driver: Driver) -> None:
    """At once, with an error that says so. No outlet is passed to `end`."""
    async with opened(driver, "a") as it:
        pass
    assert [running.exception() for running in it.running] == [None]
    assert it.ended == []
    cursor = Cursor(1)
    with pytest.raises(JournalUnavailable, match="closed"):
        await it.journal.append(post(1))
    with pytest.raises(JournalUnavailable, match="closed"):
        await it.outlets["a"][0].commit(Commit(cursor))
    with pytest.raises(JournalUnavailable, match="closed"):
        await it.outlets["a"][0].read(1, 1)
    with pytest.raises(JournalUnavailable, match="closed"):
        await it.journal.answer()


async def test_outlets_can_be_left(driver: Driver) -> None:
    """Cancelling `run` ends it, and others go on."""
    async with opened(driver, "a", "b") as it:
        it.running[0].cancel()
        await asyncio.wait(it.running[:1], timeout=DEADLINE)
        assert it.running[0].cancelled()
        assert not it.running[1].done()
        await it.fill(range(30))
        assert len(await read_every(it.outlets["b"])) == 30
