"""What every journal promises (btfeed/journal/base.py), over each backend and any number of partitions.

To add a backend, write a driver and add it to DRIVERS in tests/journal/drivers.py.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from btfeed.journal.base import (
    ALL,
    Backlog,
    Commit,
    Cursor,
    Damaged,
    DeadLetter,
    JournalUnavailable,
    Selection,
)
from btfeed.posts.post import Post, digest
from tests.journal.drivers import (
    DRIVERS,
    Driver,
    by_body,
    destinations,
    opened,
    pass_all,
    read_all,
    read_every,
    retries,
    with_dead_letters,
)
from tests.journal.journals import dead_letter, post
from tests.support.clock import settle
from tests.support.harness import DEADLINE, until_async
from tests.support.posts import mixed


@pytest.fixture(params=DRIVERS)
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> Driver:
    return DRIVERS[request.param](tmp_path)


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


# Dead letters


async def test_a_record_is_kept_once_per_sink(driver: Driver) -> None:
    """The same record of another sink is another dead letter. Rejected posts are kept each time."""
    rejected = DeadLetter("post", "", "malformed", 1, b"body")
    async with opened(driver, "a", "b") as it:
        cursor, _ = await it.outlets["a"][0].cursor()
        await it.outlets["a"][0].commit(Commit(cursor, None, [dead_letter(1)]))
        await it.outlets["a"][0].commit(Commit(cursor, None, [dead_letter(1, reason="again")]))
        await it.outlets["b"][0].commit(Commit(cursor, None, [dead_letter(1, "b")]))
        await it.journal.add_dead_letter(rejected)
        await it.journal.add_dead_letter(rejected)
        with driver.dead_letters() as dead_letters:
            kept = list(dead_letters.select())
        assert len({each.id for each in kept}) == 4
        assert [replace(each, id=0) for each in kept] == [dead_letter(1), dead_letter(1, "b"), rejected, rejected]


async def test_dead_letters_are_selected_by_sink_and_id(driver: Driver) -> None:
    """Both must match; the oldest come first; `count` agrees."""
    kept = [dead_letter(1), dead_letter(2, "b"), dead_letter(3), dead_letter(4, "")]
    async with with_dead_letters(driver, *kept) as (_, dead_letters):
        ids = {each.event_id: each.id for each in dead_letters.select()}
        assert list(ids) == ["id-1", "id-2", "id-3", "id-4"]
        for selection, expected in [
            (ALL, kept),
            (Selection("a"), [kept[0], kept[2]]),
            (Selection(""), [kept[3]]),
            (Selection("another"), []),
            (Selection(None, [ids["id-2"], ids["id-3"]]), [kept[1], kept[2]]),
            (Selection("b", {ids["id-2"], ids["id-3"]}), [kept[1]]),
        ]:
            assert [replace(each, id=0) for each in dead_letters.select(selection)] == expected
            assert dead_letters.count(selection) == len(expected)


async def test_dead_letters_that_come_while_they_are_read_are_not_selected(driver: Driver) -> None:
    """`select` gives those that were there when it was called, so it ends on a busy server."""
    async with with_dead_letters(driver, dead_letter(1), dead_letter(2)) as (it, dead_letters):
        selected = dead_letters.select()
        found = [next(selected)]
        await it.journal.add_dead_letter(DeadLetter("post", "", "malformed", 1, b"body"))
        assert [each.event_id for each in [*found, *selected]] == ["id-1", "id-2"]


async def test_dead_letters_are_deleted_by_id(driver: Driver) -> None:
    """Also while they are read. Ids that don't exist are ignored."""
    async with with_dead_letters(driver, *(dead_letter(number) for number in range(5))) as (_, dead_letters):
        for each in dead_letters.select():
            if each.event_id != "id-3":
                dead_letters.delete([each.id, 9_999])
        assert [each.event_id for each in dead_letters.select()] == ["id-3"]


async def test_what_is_marked_is_retried(driver: Driver) -> None:
    """By its sink, until a commit says what became of it."""
    async with with_dead_letters(driver, *(dead_letter(number) for number in range(3))) as (it, dead_letters):
        assert await retries(it, "a") == []
        assert dead_letters.retry(Selection("a"), ["a", "b"]) == 3
        marked = await retries(it, "a")
        assert [each.event_id for each in marked] == ["id-0", "id-1", "id-2"]
        assert len(await retries(it, "a", 2)) == 2
        assert await retries(it, "b") == []
        outlet = it.outlets["a"][0]
        cursor, _ = await outlet.cursor()
        first, second = marked[0].id, marked[1].id
        await outlet.commit(Commit(cursor, redelivered=[first], refused_again={second: "still"}))
        assert [each.event_id for each in await retries(it, "a")] == ["id-2"]
        kept = {each.event_id: (each.tries, each.reason) for each in dead_letters.select()}
        assert kept == {"id-1": (2, "still"), "id-2": (1, "refused")}


async def test_marks_survive_a_restart(driver: Driver) -> None:
    """A server that starts later retries them."""
    async with with_dead_letters(driver, dead_letter(1)) as (_, dead_letters):
        dead_letters.retry(ALL, ["a"])
    async with opened(driver, "a") as it:
        assert [each.event_id for each in await retries(it, "a")] == ["id-1"]


async def test_a_record_without_a_sink_is_retried_by_all_sinks(driver: Driver) -> None:
    """Each sink then has a dead letter of its own."""
    async with with_dead_letters(driver, dead_letter(1, "")) as (it, dead_letters):
        assert dead_letters.retry(ALL, ["a", "b"]) == 1
        assert sorted(each.sink for each in dead_letters.select()) == ["a", "b"]
        assert [each.event_id for sink in "ab" for each in await retries(it, sink)] == ["id-1", "id-1"]


async def test_what_cannot_be_retried_is_left_as_it_is(driver: Driver) -> None:
    """Records of a sink that is not configured, without a valid timestamp, or whose body is no longer JSON."""
    kept = [
        dead_letter(1, "gone"),
        replace(dead_letter(2, ""), body=b'{"timestamp":5}'),
        replace(dead_letter(3, ""), body=b"{"),
    ]
    async with with_dead_letters(driver, *kept) as (it, dead_letters):
        assert dead_letters.retry(ALL, ["a", "b"]) == 0
        assert [replace(each, id=0) for each in dead_letters.select()] == kept
        assert await retries(it, "a") == await retries(it, "b") == []


async def test_a_rejected_post_that_is_retried_is_appended(driver: Driver) -> None:
    """If it is valid now. Otherwise it stays, with one more try and the new reason."""
    async with opened(driver, "a") as it:
        await it.journal.add_dead_letter(DeadLetter("post", "", "too strict", 1, mixed(3)))
        await it.journal.add_dead_letter(DeadLetter("post", "", "malformed", 1, b"nonsense"))
        with driver.dead_letters() as dead_letters:
            assert dead_letters.retry(ALL, ["a"]) == 2
            await until_async(lambda: dead_letters.count() == 1, "the dead letter of the valid post is deleted")
            await until_async(lambda: [each.tries for each in dead_letters.select()] == [2], "the other one was tried")
            (kept,) = dead_letters.select()
        assert kept.body == b"nonsense"
        assert "not a BusinessTransactions message" in kept.reason
        assert [each.body for each in await read_every(it.outlets["a"])] == [mixed(3)]


async def test_dead_letters_wait_for_a_destination(driver: Driver) -> None:
    """Counted and given by destination, the oldest first, without a mark for retry. Also after a restart."""
    waiting = [replace(dead_letter(number), destination=f"topic {number % 2}") for number in range(5)]
    async with with_dead_letters(driver, dead_letter(9), *waiting) as (it, _):
        assert await destinations(it, "b") == {}
    async with opened(driver, "a", "b") as it:
        assert await destinations(it, "a") == {"topic 0": 3, "topic 1": 2}
        found = [each for outlet in it.outlets["a"] for each in await outlet.waiting("topic 0", 2)]
        assert [replace(each, id=0) for each in found] == [waiting[0], waiting[2]]
        assert [each for outlet in it.outlets["b"] for each in await outlet.waiting("topic 0", 2)] == []
        assert await retries(it, "a") == []


async def test_what_was_delivered_waits_no_more(driver: Driver) -> None:
    """It is deleted. One that was refused for good is an operator's from then on."""
    waiting = [replace(dead_letter(number), destination="topic") for number in range(3)]
    async with with_dead_letters(driver, *waiting) as (it, dead_letters):
        ids = [each.id for each in dead_letters.select()]
        outlet = it.outlets["a"][0]
        cursor, _ = await outlet.cursor()
        await outlet.commit(Commit(cursor, redelivered=ids[:1], refused_again={ids[1]: "too large"}))
        assert await destinations(it, "a") == {"topic": 1}
        kept = [(each.event_id, each.destination, each.reason) for each in dead_letters.select()]
        assert kept == [("id-1", "", "too large"), ("id-2", "topic", "refused")]


# The archive


async def test_the_archive_has_the_posts_of_a_range_of_time(driver: Driver) -> None:
    """From the first moment on, to before the second one, also while a server runs, and as often as they are asked for."""
    async with opened(driver, "a") as it:
        posts = [replace(post(number), received=1_000 + number) for number in range(20)]
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
        pending = [asyncio.create_task(it.journal.append(post(number))) for number in range(10)]
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


async def test_outlets_can_be_left(driver: Driver) -> None:
    """Cancelling `run` ends it, and others go on."""
    async with opened(driver, "a", "b") as it:
        it.running[0].cancel()
        await asyncio.wait(it.running[:1], timeout=DEADLINE)
        assert it.running[0].cancelled()
        assert not it.running[1].done()
        await it.fill(range(30))
        assert len(await read_every(it.outlets["b"])) == 30
