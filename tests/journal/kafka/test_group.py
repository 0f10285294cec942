"""Outlets over the life of a consumer group: rebalances, losses and failures, whenever they come."""

import asyncio
from collections.abc import Collection

import pytest

from btfeed.journal.base import Backlog, Commit, Cursor, JournalUnavailable, Outlet, OutletGone
from btfeed.journal.kafka.consumer import Saved
from btfeed.journal.kafka.health import LOSS_TIME
from btfeed.journal.kafka.metadata import Metadata
from btfeed.journal.kafka.outlet import RETRIES_PARTITION, KafkaOutlet
from btfeed.telemetry.samples import total
from tests.journal.drivers import read_all
from tests.journal.kafka.fake_consumer import RETRIES, SETTINGS, FakeBrokers, group_of, place, posts
from tests.support.clock import FakeClock, settle
from tests.support.harness import DEADLINE, until_async


async def bodies(outlet: KafkaOutlet) -> list[bytes]:
    return [entry.post.body for entry in await read_all(outlet)]


# Rebalances


async def test_what_a_read_returns_after_a_rebalance_is_delivered() -> None:
    """A reader of the last assignment that waits must have ended: it would take posts of the next one."""
    brokers = FakeBrokers()
    async with group_of(brokers) as it:
        consumer = await it.joined()
        await it.assigned(place(0))
        await until_async(lambda: consumer.reading == 1, "a read that waits")
        await consumer.revoke()
        brokers.add(*posts(*range(20)))
        await settle()
        (outlet,) = await it.assigned(place(0))
        assert await bodies(outlet) == [each.body for each in posts(*range(20))]


async def test_outlets_are_ended_before_the_group_goes_on() -> None:
    """A delivery that waits for posts is told that its outlet is gone, once it had its time to stop."""
    async with group_of(FakeBrokers(2)) as it:
        consumer = await it.joined()
        old = list(await it.assigned(place(0), place(1)))
        waiting = asyncio.create_task(old[0].wait(0))
        await settle()
        await consumer.revoke()
        assert [set(ended) for ended in it.ended] == [set(old)]
        with pytest.raises(OutletGone, match="assigns its partitions again"):
            await waiting
        (kept,) = await it.assigned(place(1))
        assert kept.partition == 1
        assert kept not in old


async def test_what_is_written_during_the_drain_is_saved() -> None:
    """Under the membership that read it. Nothing is saved later."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2, 3))
    async with group_of(brokers) as it:
        consumer = await it.joined()
        (outlet,) = await it.assigned(place(0))
        assert len(await bodies(outlet)) == 3

        async def drain(outlets: Collection[Outlet]) -> None:
            await settle()
            await outlet.commit(Commit(Cursor(2, 5), "state"))

        it.ending = drain
        await consumer.rebalance(place(0))
        assert brokers.saved[place(0)] == Saved(2, Metadata(5, {"one": "state"}).text())
        with pytest.raises(OutletGone):
            await outlet.commit(Commit(Cursor(3)))
        await it.have(1)
        assert await it.outlets[0].cursor() == (Cursor(2, 5), "state")


async def test_a_commit_that_is_under_way_ends_before_the_partition_is_given_up() -> None:
    """Or the next owner would read an older cursor."""
    brokers = FakeBrokers()
    brokers.add(*posts(1))
    async with group_of(brokers) as it:
        consumer = await it.joined()
        (outlet,) = await it.assigned(place(0))
        go = asyncio.Event()
        consumer.saving = go.wait
        saving = asyncio.create_task(outlet.commit(Commit(Cursor(1))))
        await settle()

        async def drain(outlets: Collection[Outlet]) -> None:
            await saving

        it.ending = drain
        revoking = asyncio.create_task(consumer.revoke())
        await settle()
        assert not revoking.done()
        go.set()
        await asyncio.wait_for(revoking, DEADLINE)
        assert brokers.saved[place(0)].offset == 1


async def test_a_lost_membership_ends_outlets_at_once() -> None:
    """Nothing that they would save counts any more, so their deliveries must not try for the time of the grace."""
    async with group_of(FakeBrokers()) as it:
        consumer = await it.joined()
        (outlet,) = await it.assigned(place(0))

        async def drain(outlets: Collection[Outlet]) -> None:
            with pytest.raises(OutletGone):
                await outlet.commit(Commit(Cursor(0)))

        it.ending = drain
        requests = len(consumer.requests)
        await consumer.rebalance(place(0), lost=True)
        await it.have(1)
        assert len(consumer.requests) == requests


async def test_a_zombie_saves_nothing() -> None:
    """The group went on while the process slept: its membership is another one by now."""
    brokers = FakeBrokers()
    async with group_of(brokers) as it:
        consumer = await it.joined()
        (outlet,) = await it.assigned(place(0))
        consumer.member = consumer.member._replace(generation=9)
        for _ in range(2):
            with pytest.raises(OutletGone, match="the membership has ended"):
                await outlet.commit(Commit(Cursor(5)))
        with pytest.raises(OutletGone):
            await outlet.read(0, 1)
        assert brokers.saved[place(0)].offset == 0


async def test_a_rebalance_while_outlets_begin() -> None:
    """Those of the first assignment are not begun any more, or are ended."""
    async with group_of(FakeBrokers(2)) as it:
        consumer = await it.joined()
        consumer.assign(place(0), place(1))
        await consumer.rebalance(place(1))
        await it.have(1)
        assert [outlet.partition for outlet in it.outlets] == [1]
        assert total(it.metrics.kafka_journal.rebalances) == 2
        assert total(it.metrics.kafka_journal.partitions) == 1


async def test_the_topic_of_retries_has_an_outlet() -> None:
    """Without posts. What it saves is how far the marks for retry are done."""
    brokers = FakeBrokers()
    async with group_of(brokers) as it:
        consumer = await it.joined()
        await it.assigned(place(0), RETRIES)
        await until_async(lambda: it.retrying, "the outlet of retries")
        (outlet,) = it.retrying
        assert outlet.partition == RETRIES_PARTITION
        assert await outlet.read(0, 1) == []
        assert await outlet.backlog() == Backlog(0, 0.0)
        waiting = asyncio.create_task(outlet.wait(0))
        await outlet.commit(Commit(Cursor(0), redelivered=[5]))
        assert brokers.saved[RETRIES].offset == 7
        assert it.letters.applied[-1][1].redelivered == [5]
        assert not waiting.done()
        await consumer.revoke()
        assert outlet in it.ended[0]
        with pytest.raises(OutletGone):
            await waiting


# Failures


@pytest.mark.parametrize(
    "failure", [JournalUnavailable("no brokers"), asyncio.CancelledError(), RuntimeError("a bug")], ids=repr
)
async def test_whatever_a_consumer_raises_another_one_takes_over(failure: BaseException) -> None:
    """Its outlets end, and begin again where they were."""
    brokers = FakeBrokers()
    async with group_of(brokers) as it:
        consumer = await it.joined()
        (outlet,) = await it.assigned(place(0))
        consumer.broken = failure
        brokers.add(*posts(1))
        await it.joined(2)
        assert it.ended == [[outlet]]
        assert consumer.stopped.is_set()
        assert it.group.problem
        (again,) = await it.assigned(place(0))
        assert len(await bodies(again)) == 1
        assert it.group.problem is None


async def test_a_consumer_that_has_ended_is_replaced() -> None:
    """Also one without any partition, and one that can't be started: as often as that takes."""
    async with group_of(FakeBrokers()) as it:
        it.unstarted = [JournalUnavailable("the brokers are away")] * 3
        (await it.joined()).stopped.set()
        (await it.joined(2)).problem = "not authorized"
        await it.joined(3)
        assert it.group.problem == "not authorized"
        await it.assigned(place(0))


async def test_an_error_while_outlets_begin_is_tried_again() -> None:
    """They begin when the brokers answer."""
    brokers = FakeBrokers()
    brokers.saved[place(0)] = Saved(0, '{"v":2}')
    async with group_of(brokers) as it:
        await it.joined()
        it.consumer.assign(place(0))
        await until_async(lambda: it.group.problem, "what is wrong")
        assert "newer btfeed" in str(it.group.problem)
        brokers.saved[place(0)] = Saved(0, "")
        await it.have(1)
        assert it.group.problem is None


async def test_commits_of_several_partitions_are_one_request() -> None:
    """All that come while another request is under way."""
    brokers = FakeBrokers(3)
    for partition in range(3):
        brokers.add(*posts(1, 2), partition=partition)
    async with group_of(brokers) as it:
        consumer = await it.joined()
        outlets = list(await it.assigned(*map(place, range(3))))
        before = len(consumer.requests)
        go = asyncio.Event()
        consumer.saving = go.wait
        first = asyncio.create_task(outlets[0].commit(Commit(Cursor(1))))
        await settle()
        rest = [asyncio.create_task(outlet.commit(Commit(Cursor(2)))) for outlet in outlets[1:]]
        await settle()
        go.set()
        await asyncio.gather(first, *rest)
        saved = [{at.partition: offset for at, (offset, _) in request.items()} for request in consumer.requests[before:]]
        assert saved == [{0: 1}, {1: 2, 2: 2}]


async def test_a_cancelled_commit_is_known_if_it_was_saved() -> None:
    """A delivery that was cancelled in it may begin again with the same outlet."""
    brokers = FakeBrokers()
    brokers.add(*posts(1, 2))
    async with group_of(brokers) as it:
        consumer = await it.joined()
        (outlet,) = await it.assigned(place(0))
        go = asyncio.Event()
        consumer.saving = go.wait
        saving = asyncio.create_task(outlet.commit(Commit(Cursor(1), "state")))
        await settle()
        saving.cancel()
        asking = asyncio.create_task(outlet.cursor())
        await settle()
        assert not asking.done()
        go.set()
        assert await asking == (Cursor(1), "state")


async def test_memberships_end_with_a_process_that_does_not_come_back() -> None:
    """Others are assigned its partitions at once. Usually it comes back, and keeps them."""
    for leaving in (False, True):
        async with group_of(FakeBrokers()) as it:
            await it.joined()
            it.shared.leaving = leaving
        assert it.consumer.left is leaving


# Two processes with one name


async def test_another_process_with_this_name_is_noticed() -> None:
    """Both lose their membership again and again. Once can have other reasons. From then on each keeps the partitions for a
    while, instead of taking them back at once. When that ends, all is well."""
    clock = FakeClock()
    async with group_of(FakeBrokers(), clock=clock) as it:
        consumer = await it.joined()
        await it.assigned(place(0))
        for losses in range(2):
            await consumer.rebalance(place(0), lost=True)
            await it.have(1)
            assert it.group.problem is None, losses
        for _ in range(5):
            moving = asyncio.create_task(consumer.rebalance(place(0), lost=True))
            await until_async(lambda: not it.outlets, "given up")
            await settle()
            assert not moving.done()
            assert "another process runs as instance one" in str(it.group.problem)
            await clock.advance(it.shared.tuning.contested)
            await moving
            await it.have(1)
            await clock.advance(LOSS_TIME / 2)
            assert it.group.conflict
        await clock.advance(LOSS_TIME / 2 + 1)
        assert it.group.problem is None


async def test_one_that_leaves_its_partitions_to_another_stops_at_once() -> None:
    """It waits for nothing that a stop must wait for."""
    async with group_of(FakeBrokers(), clock=FakeClock()) as it:
        consumer = await it.joined()
        await it.assigned(place(0))
        for _ in range(2):
            await consumer.rebalance(place(0), lost=True)
            await it.have(1)
        moving = asyncio.create_task(consumer.revoke(lost=True))
        await until_async(lambda: it.group.conflict, "told")
    await asyncio.wait_for(moving, DEADLINE)


async def test_many_rebalances_are_no_sign_of_another_process() -> None:
    """Others come and go."""
    async with group_of(FakeBrokers()) as it:
        consumer = await it.joined()
        await it.assigned(place(0))
        for _ in range(5):
            await consumer.rebalance(place(0))
            await it.have(1)
        assert it.group.problem is None


async def test_a_sink_near_the_end_of_retention_is_told_of() -> None:
    """Until it has caught up."""
    brokers = FakeBrokers()
    brokers.add(*posts(1))  # received in 2023
    async with group_of(brokers, settings=SETTINGS.model_copy(update={"retention": 60.0})) as it:
        await it.joined()
        (outlet,) = await it.assigned(place(0))
        await until_async(lambda: it.group.problem, "a warning")
        assert "behind in 1 partition: posts are deleted after 1 min" in str(it.group.problem)
        await outlet.commit(Commit(Cursor(1)))
        await until_async(lambda: it.group.problem is None, "no warning")
