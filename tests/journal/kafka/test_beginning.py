"""Where a sink begins to read: when it is new, and each time when it is assigned partitions."""

import asyncio

import pytest

from btfeed.journal.base import Cursor
from btfeed.journal.kafka.consumer import Saved
from btfeed.journal.kafka.metadata import Metadata
from btfeed.telemetry.samples import total
from tests.journal.drivers import read_all
from tests.journal.kafka.fake_consumer import FakeBrokers, group_of, place, posts
from tests.support.harness import DEADLINE


@pytest.mark.parametrize("state", ["two posts", None])
async def test_what_another_process_was_still_saving_is_not_the_last_word(state: str | None) -> None:
    """Brokers do not tell of a commit before it is replicated. What is saved after it counts, whenever it shows. Without a
    state nothing is saved: a transaction may be under way that has to count."""
    brokers = FakeBrokers()
    brokers.add(*posts(*range(5)))
    saved = Saved(2, Metadata().with_state("one", 0, state).text())
    async with group_of(brokers) as it:
        consumer = await it.joined()
        brokers.saved[place(0)] = saved
        consumer.requests.clear()
        (outlet,) = await it.assigned(place(0))
        assert await outlet.cursor() == (Cursor(2), state)
        assert consumer.requests == ([{place(0): saved}] if state else [])


@pytest.mark.parametrize(("start", "offset"), [("oldest", 2), ("latest", 5)])
async def test_where_a_new_sink_begins(start: str, offset: int) -> None:
    """In all partitions, before it gets any of them."""
    brokers = FakeBrokers(2)
    for partition in range(2):
        brokers.add(*posts(1, 2, 3, 4, 5), partition=partition)
        brokers.first[place(partition)] = 2
    async with group_of(brokers, start) as it:
        await it.joined()
        assert brokers.saved == {place(number): Saved(offset, Metadata().text()) for number in range(2)}


async def test_a_partition_that_is_added_begins_at_its_oldest_post() -> None:
    """Also for a sink that began at the latest: it is no new sink."""
    brokers = FakeBrokers(2)
    brokers.add(*posts(1, 2))
    brokers.add(*posts(3), partition=1)
    brokers.saved[place(0)] = Saved(2, "")
    async with group_of(brokers, "latest") as it:
        await it.joined()
        old, new = await it.assigned(place(0), place(1))
        assert (await old.cursor())[0] == Cursor(2)
        assert (await new.cursor())[0] == Cursor(0)
        assert brokers.saved[place(1)].offset == 0


async def test_posts_that_were_deleted_before_the_sink_had_them_are_counted() -> None:
    """Exactly, and once. The sink goes on with the oldest that is left."""
    brokers = FakeBrokers()
    brokers.add(*posts(*range(10)))
    brokers.saved[place(0)] = Saved(3, Metadata(4, {"one": "state"}).text())
    brokers.first[place(0)] = 8
    async with group_of(brokers) as it:
        consumer = await it.joined()
        (outlet,) = await it.assigned(place(0))
        assert await outlet.cursor() == (Cursor(8), "state")
        assert total(it.metrics.journal_dropped_posts) == 5
        await consumer.rebalance(place(0))
        await it.have(1)
        assert total(it.metrics.journal_dropped_posts) == 5
        assert len(await read_all(it.outlets[0])) == 2


async def test_posts_that_are_deleted_while_a_sink_is_behind_are_counted() -> None:
    """Those that it had not read."""
    brokers = FakeBrokers()
    async with group_of(brokers) as it:
        await it.joined()
        (outlet,) = await it.assigned(place(0))
        brokers.first[place(0)] = 3
        brokers.add(*posts(*range(5)))
        await asyncio.wait_for(outlet.wait(0), DEADLINE)
        assert [entry.seq for entry in await outlet.read(0, 10_000)] == [3, 4]
        assert total(it.metrics.journal_dropped_posts) == 3


async def test_a_partition_that_ends_before_the_cursor_is_believed_after_a_while() -> None:
    """Brokers have lost posts then. A new leader that does not know its end yet is no reason to go back."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2))
    brokers.saved[place(0)] = Saved(9, "")
    async with group_of(brokers) as it:
        await it.joined()
        (outlet,) = await it.assigned(place(0))
        assert (await outlet.cursor())[0] == Cursor(2)
        assert total(it.metrics.journal_dropped_posts) == 0
