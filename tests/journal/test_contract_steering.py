"""What every journal lets an operator do to a sink: pause it, and let it continue elsewhere (btfeed/journal/base.py)."""

from collections.abc import Sequence

from btfeed.journal.base import LATEST, OLDEST, Commit, Cursor, Move, Outlet
from btfeed.posts.post import Post
from tests.journal.drivers import Driver, Opened, by_body, opened, pass_all, read_all, read_every
from tests.journal.journals import dead_letter, post

# Elsewhere


async def timed(it: Opened, number: int) -> list[Post]:
    """Posts received at 1000, 1010, 1020 ..."""
    posts = [post(n)._replace(received=1_000 + 10 * n) for n in range(number)]
    for each in posts:
        await it.journal.append(each)
    return posts


async def move(outlet: Outlet, received: int) -> Move:
    planned = await outlet.plan(await outlet.find(received))
    await outlet.move(planned.to)
    return planned


async def all_moved(outlets: Sequence[Outlet], received: int) -> tuple[int, int]:
    """How many posts all outlets get again, and how many they skip."""
    moves = [await move(outlet, received) for outlet in outlets]
    return sum(each.again for each in moves), sum(each.skipped for each in moves)


async def test_a_sink_continues_at_a_time(driver: Driver) -> None:
    """It gets all posts that were received then or later, and no others."""
    async with opened(driver, "a", "b") as it:
        posts = await timed(it, 60)
        outlets = it.outlets["a"]
        for outlet in outlets:
            await pass_all(outlet, "state")
        for first, received in ((20, 1_200), (21, 1_201), (0, 5), (0, OLDEST), (59, 1_590)):
            await all_moved(outlets, received)
            assert by_body(await read_every(outlets)) == by_body(posts[first:])
            for outlet in outlets:
                await pass_all(outlet, "state")
        assert by_body(await read_every(it.outlets["b"])) == by_body(posts)


async def test_it_is_known_beforehand_what_a_sink_gets_again_or_never(driver: Driver) -> None:
    """Posts from there to where it was, or from where it was to there. Asking changes nothing."""
    async with opened(driver, "a") as it:
        await timed(it, 60)
        outlets = it.outlets["a"]
        before = [await outlet.cursor() for outlet in outlets]
        plans = [await outlet.plan(await outlet.find(LATEST)) for outlet in outlets]
        assert sum(each.skipped for each in plans) == 60
        assert [await outlet.cursor() for outlet in outlets] == before
        assert await all_moved(outlets, LATEST) == (0, 60)
        assert await read_every(outlets) == []
        assert await all_moved(outlets, 1_450) == (15, 0)
        assert await all_moved(outlets, 1_500) == (0, 5)
        assert await all_moved(outlets, 1_500) == (0, 0)
        assert await all_moved(outlets, OLDEST) == (50, 0)


async def test_a_post_that_was_begun_counts(driver: Driver) -> None:
    """A sink that goes back to its start gets part of it again; one that goes beyond it never gets the rest."""
    async with opened(driver, "a") as it:
        await timed(it, 60)
        for outlet in it.outlets["a"]:
            entries = await read_all(outlet)
            first, second, third = (entry.seq for entry in entries[:3])
            oldest = entries[0].post.received
            await outlet.commit(Commit(Cursor(second, 7)))
            assert await outlet.plan(second) == Move(outlet.partition, Cursor(second), 1, 0, oldest)
            assert await outlet.plan(first) == Move(outlet.partition, Cursor(first), 2, 0, oldest)
            assert await outlet.plan(third) == Move(outlet.partition, Cursor(third), 0, 1, oldest)


async def test_a_number_out_of_range_means_the_closest_post(driver: Driver) -> None:
    """The oldest, or the one to come next."""
    async with opened(driver, "a") as it:
        await timed(it, 60)
        for outlet in it.outlets["a"]:
            entries = await read_all(outlet)
            assert (await outlet.plan(-5)).to == Cursor(entries[0].seq)
            assert (await outlet.plan(10**9)).to == Cursor(entries[-1].seq + 1)


async def test_in_an_empty_partition_there_is_only_one_place(driver: Driver) -> None:
    """That of the first post. There is no oldest one."""
    async with opened(driver, "a") as it:
        for outlet in it.outlets["a"]:
            now, _ = await outlet.cursor()
            for received in (OLDEST, 1_000, LATEST):
                assert await outlet.plan(await outlet.find(received)) == Move(outlet.partition, now, 0, 0, None)


async def test_a_move_is_saved_and_leaves_state_and_dead_letters(driver: Driver) -> None:
    """Over a restart. Commits go on from there, and don't go back behind it."""
    async with opened(driver, "a") as it:
        posts = await timed(it, 60)
        for outlet in it.outlets["a"]:
            await outlet.commit(Commit(await pass_all(outlet), "state", [dead_letter(1)]))
        await all_moved(it.outlets["a"], 1_200)
    async with opened(driver, "a") as it:
        assert by_body(await read_every(it.outlets["a"])) == by_body(posts[20:])
        for outlet in it.outlets["a"]:
            moved, state = await outlet.cursor()
            assert state == "state"
            await outlet.commit(Commit(Cursor(1), "next"))
            assert await outlet.cursor() == (moved, "next")
        with driver.dead_letters() as dead_letters:
            assert dead_letters.count() == 1


# Pauses


async def test_a_pause_survives_a_restart(driver: Driver) -> None:
    """With the time when it began, which a second pause does not change."""
    async with opened(driver, "a", "b") as it:
        assert await it.journal.paused() == {}
        await it.journal.pause("a")
        since = await it.journal.paused()
        assert list(since) == ["a"]
        assert since["a"] > 0
    async with opened(driver, "a", "b") as it:
        await it.journal.pause("a")
        assert await it.journal.paused() == since
        await it.journal.pause("a b")
        await it.journal.resume("a")
        await it.journal.resume("never paused")
    async with opened(driver, "a", "b") as it:
        assert list(await it.journal.paused()) == ["a b"]


async def test_a_paused_sink_keeps_its_posts(driver: Driver) -> None:
    """As one that is behind. The mark itself stops nothing."""
    async with opened(driver, "a") as it:
        await it.journal.pause("a")
        posts = await it.fill(range(30))
        for outlet in it.outlets["a"]:
            assert (await outlet.backlog()).posts == len(await read_all(outlet))
        assert by_body(await read_every(it.outlets["a"])) == by_body(posts)
        for outlet in it.outlets["a"]:
            await pass_all(outlet)
        assert await read_every(it.outlets["a"]) == []
