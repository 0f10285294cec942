"""A partition of which the brokers have something that can't be read."""

import asyncio
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from btfeed.journal.base import Commit, Cursor, JournalUnavailable
from btfeed.journal.kafka import unreadable
from btfeed.journal.kafka.unreadable import PATIENCE, PAUSE_MAX
from btfeed.telemetry.samples import total
from tests.journal.drivers import KafkaDriver, opened, read_all
from tests.journal.journals import post
from tests.journal.kafka.damage import Where, damage
from tests.journal.kafka.fake_consumer import FakeBrokers, Group, group_of, place, posts
from tests.support.clock import FakeClock, settle
from tests.support.harness import DEADLINE, until_async


async def until_stuck(it: Group, clock: FakeClock) -> None:
    """Let the reader meet the damage, and the health be looked at."""
    (outlet,) = it.outlets
    await until_async(lambda: outlet.unreadable is not None, "the damage")
    await clock.advance(1)
    await until_async(lambda: it.group.problem, "a problem")


async def test_what_one_replica_can_not_give_is_asked_of_the_others() -> None:
    """For as long as PATIENCE, and nothing is lost if one of them has it. What is before it is given at once."""
    brokers, clock = FakeBrokers(), FakeClock()
    brokers.add(*posts(*range(8)))
    async with group_of(brokers, clock=clock) as it:
        (await it.joined()).damaged = {3, 4}
        with capture_logs() as logs:
            (outlet,) = await it.assigned(place(0))
            await until_stuck(it, clock)
            assert "partition 0 can't be read at offset 3: it is damaged" in (it.group.problem or "")
            assert [entry.seq for entry in await outlet.read(0, 2**20)] == [0, 1, 2]
            await clock.advance(PATIENCE - 60)
            assert (it.consumer.asked > 50, total(it.metrics.journal_lost_posts)) == (True, 0)
            it.consumer.damaged = set()
            await clock.advance(60)
            assert [entry.seq for entry in await outlet.read(3, 2**20)] == [3, 4, 5, 6, 7]
        await clock.advance(1)
        await until_async(lambda: not it.group.problem, "no problem")
        said = [(each["log_level"], each["event"]) for each in logs if "partition" in each and "offset" in each]
        assert said == [("error", "partition damaged, asking its other replicas"), ("info", "partition can be read again")]
        assert len(it.consumers) == 1


async def test_what_no_replica_has_is_lost_and_holds_up_nothing_for_good() -> None:
    """It is counted once, whichever sink meets it, and the cursor moves behind it."""
    brokers, clock = FakeBrokers(), FakeClock()
    brokers.add(*posts(*range(8)))
    async with group_of(brokers, clock=clock) as it:
        (await it.joined()).damaged = {3, 4, 7}
        it.shared.damaged.add((0, 4))  # as another sink has found
        with capture_logs() as logs:
            (outlet,) = await it.assigned(place(0))
            await until_stuck(it, clock)
            await clock.advance(PATIENCE + PAUSE_MAX)
            await until_async(lambda: outlet.unreadable == 7, "the next damage")
            assert [entry.seq for entry in await outlet.read(0, 2**20)] == [0, 1, 2, 5, 6]
        passed = [each for each in logs if each["event"] == "passing over damaged posts, they are lost"]
        assert [(each["log_level"], each["partition"], each["offset"]) for each in passed] == [("error", 0, 3)]
        (again,) = [each for each in logs if each["event"] == "partition can be read again"]
        assert (again["offset"], again["lost_posts"]) == (5, 2)
        assert total(it.metrics.journal_lost_posts) == 1
        await clock.advance(PATIENCE + PAUSE_MAX)  # the last one is at the end
        await until_async(lambda: total(it.metrics.journal_lost_posts) == 2, "the end")
        await outlet.cursor()  # as a delivery does when it begins
        await outlet.commit(Commit(Cursor(7)))
        await until_async(lambda: brokers.saved[place(0)].offset == 8, "a cursor behind all")


async def test_damage_before_the_cursor_is_of_no_consequence() -> None:
    """The posts before it are only read to know copies of them."""
    brokers, clock = FakeBrokers(), FakeClock()
    brokers.add(*posts(*range(8)))
    async with group_of(brokers, clock=clock) as it:
        consumer = await it.joined()
        (outlet,) = await it.assigned(place(0))
        await outlet.commit(Commit(Cursor(5)))
        await consumer.revoke()
        consumer.damaged = {2}
        (outlet,) = await it.assigned(place(0))
        await settle()
        await until_async(lambda: outlet._reader.ready, "posts")
        assert [entry.seq for entry in await outlet.read(5, 2**20)] == [5, 6, 7]
        assert (consumer.asked, total(it.metrics.journal_lost_posts)) == (0, 0)


async def test_what_was_read_before_the_rest_was_deleted_is_still_given() -> None:
    """It is in memory already. Only what comes next is dropped, and counted."""
    brokers = FakeBrokers()
    brokers.add(*posts(*range(5)))
    async with group_of(brokers) as it:
        consumer = await it.joined()
        (outlet,) = await it.assigned(place(0))
        await until_async(lambda: consumer.position(place(0)) == 5, "posts read")
        brokers.first[place(0)] = 7
        brokers.add(*posts(*range(5, 9)))
        await until_async(lambda: consumer.position(place(0)) == 9, "the rest")
        assert [entry.seq for entry in await read_all(outlet)] == [0, 1, 2, 3, 4, 7, 8]
        assert total(it.metrics.journal_dropped_posts) == 2


@pytest.mark.kafka
@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("where", ["records", "attributes"])
async def test_damaged_batches(where: Where, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bytes as a damaged disk gives them, from a real broker: the other posts of the partition are delivered, and the
    consumer stays."""
    monkeypatch.setattr(unreadable, "PATIENCE", 0.1)
    damaged = damage(monkeypatch, where)
    driver = KafkaDriver(1)
    driver._settings = driver._settings.model_copy(update={"compression": compression})
    with capture_logs() as logs:
        async with opened(driver, "a") as it:
            (outlet,) = it.outlets["a"]
            sent = [post(number) for number in range(6)]
            for each in sent[:2]:
                await it.journal.append(each)
            damaged.offsets = {2, 4}
            for each in sent[2:]:
                await it.journal.append(each)
            found: list[bytes] = []

            async with asyncio.timeout(DEADLINE):
                while len(found) < 4:  # a read ends without posts while none can be read
                    with suppress(JournalUnavailable):
                        found[:] = [entry.post.body for entry in await read_all(outlet)]
            assert found == [sent[number].body for number in (0, 1, 3, 5)]
            assert [each["offset"] for each in logs if each["event"].startswith("passing over damaged posts")] == [2, 4]
            assert it.outlets["a"] == [outlet]
