"""Deliveries of several processes in one group, on real brokers."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import TopicPartition as ConfluentPartition

from btfeed.journal.base import Backlog, Commit, Cursor, Outlet, OutletGone
from btfeed.journal.kafka.group import KafkaOutlets
from btfeed.journal.kafka.journal import KafkaJournal
from btfeed.journal.kafka.leaving import leave
from btfeed.journal.kafka.messages import to_message
from btfeed.journal.kafka.outlet import KafkaOutlet
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.journal.kafka.shared import Tuning
from btfeed.posts.post import digest
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.samples import total
from tests.journal.drivers import FAST, read_all
from tests.journal.journals import post
from tests.journal.kafka.intakes import settings_for
from tests.servers.kafka import shared
from tests.support.harness import DEADLINE, until_async

pytestmark = pytest.mark.kafka


class Member:
    """A process that delivers to the sink "a". outlets: by partition."""

    def __init__(
        self, settings: KafkaJournalSettings, instance: str, receives: bool = False, tuning: Tuning = FAST
    ) -> None:
        self.metrics = Metrics()
        own = settings.model_copy(update={"instance": instance})
        self.journal = KafkaJournal(own, {"a": "oldest"}, self.metrics, 100, receives=receives, tuning=tuning)
        self.outlets: dict[int, KafkaOutlet] = {}
        self.ended = 0

    async def open(self) -> None:
        await self.journal.open()
        self.group: KafkaOutlets = self.journal.outlets("a")
        self.running = asyncio.create_task(self.group.run(self._begin, self._end))

    async def close(self) -> None:
        await self.journal.close()
        await asyncio.wait_for(self.running, DEADLINE)

    async def _begin(self, outlet: Outlet) -> None:
        if isinstance(outlet, KafkaOutlet):
            self.outlets[outlet.partition] = outlet

    async def _end(self, outlets: Collection[Outlet]) -> None:
        self.ended += 1
        for outlet in outlets:
            self.outlets.pop(outlet.partition, None)

    async def have(self, *partitions: int) -> None:
        await until_async(lambda: sorted(self.outlets) == list(partitions), f"partitions {partitions}")


@asynccontextmanager
async def members(*instances: str, tuning: Tuning = FAST, **more: Any) -> AsyncIterator[list[Member]]:
    """Processes that deliver, the first of which receives as well."""
    settings = settings_for(shared().bootstrap, **{"partitions": 2, "session_timeout": "6s", "retention": "36500d"} | more)
    found: list[Member] = []
    try:
        for instance in instances:
            found.append(Member(settings, instance, receives=not found, tuning=tuning))
            await found[-1].open()
        yield found
    finally:
        for member in found:
            if not member.running.done():
                await member.close()


async def seqs(outlet: KafkaOutlet) -> list[int]:
    return [entry.seq for entry in await read_all(outlet)]


async def test_partitions_are_shared_among_processes() -> None:
    """One that comes gets its part, and one that leaves gives it to the others at once. What was saved goes with it."""
    async with members("one") as (one,):
        await one.have(0, 1)
        for number in range(20):
            await one.journal.append(post(number))
        second = one.outlets[1]
        last = (await seqs(second))[-1]
        await second.commit(Commit(Cursor(last, 3), "of one"))
        two = Member(one.journal.settings, "two")
        await two.open()
        await asyncio.gather(one.have(0), two.have(1))
        with pytest.raises(OutletGone):
            await second.commit(Commit(Cursor(last + 1)))
        assert await two.outlets[1].cursor() == (Cursor(last, 3), None)
        await two.outlets[1].commit(Commit(Cursor(last + 1), "of two"))
        two.journal.leave()
        await two.close()
        await one.have(0, 1)
        assert await one.outlets[1].cursor() == (Cursor(last + 1), "of one")


async def test_a_process_that_starts_again_disturbs_nobody() -> None:
    """Within its session it gets its partitions back, and others notice nothing. `leave` ends that for one that is gone."""
    async with members("one", "two") as (one, two):
        await asyncio.gather(one.have(0), two.have(1))
        ended = one.ended
        await two.close()
        again = Member(one.journal.settings, "two")
        await again.open()
        await again.have(1)
        assert one.ended == ended
        await again.close()
        assert await leave(again.journal.settings, ["a", "never joined"]) == ["a"]
        await one.have(0, 1)


async def test_questions_about_offsets_wait_for_no_fetch() -> None:
    """Brokers hold the answer to a fetch while there is nothing to give, and answer a connection's requests in turn. The
    backlogs of many partitions would not be found out in time."""
    held = replace(FAST, fetch_wait=DEADLINE)
    async with members("one", tuning=held, request_timeout="2s") as (one,):
        await one.have(0, 1)
        for _ in range(3):  # a fetch is under way from the second time on
            assert await one.outlets[0].backlog() == Backlog(0, 0.0)


async def test_two_processes_with_one_name_are_told() -> None:
    """They take the partitions from each other. Neither saves what it read under a membership that the other one ended."""
    async with members("one") as (one,):
        await one.have(0, 1)
        other = Member(one.journal.settings, "one")
        await other.open()
        try:
            await until_async(lambda: one.group.problem or other.group.problem, "what is wrong")
            (problem,) = {*one.journal.problems().values(), *other.journal.problems().values()}
            assert problem == "another process runs as instance one: give each its own journal.instance"
        finally:
            await other.close()
        await one.have(0, 1)


async def test_control_records_of_another_producer_are_no_posts() -> None:
    """Committed posts are delivered, aborted ones are not, and the backlog is right behind both."""
    async with members("one", partitions=1) as (one,):
        await one.have(0)
        (outlet,) = one.outlets.values()
        producer = AIOKafkaProducer(bootstrap_servers=shared().bootstrap, transactional_id=uuid.uuid4().hex)
        await producer.start()
        topic = one.journal.settings.prefix + ".posts"
        try:
            for number in range(4):
                body = post(number).body
                key, value, timestamp, headers = to_message(post(number), digest(body))
                await producer.begin_transaction()
                await producer.send_and_wait(topic, value, key=key, timestamp_ms=timestamp, headers=list(headers))
                await (producer.abort_transaction() if number % 2 else producer.commit_transaction())
        finally:
            await producer.stop()
        assert await seqs(outlet) == [0, 4]
        await outlet.commit(Commit(Cursor(5)))
        while await outlet.backlog() != Backlog(0, 0.0):  # noqa: ASYNC110 - brokers write the last mark after their answer
            await asyncio.sleep(0.01)
        await one.journal.append(post(9))
        await asyncio.wait_for(outlet.wait(5), DEADLINE)
        assert await seqs(outlet) == [8]
        assert (await outlet.backlog()).posts == 1


async def test_posts_that_brokers_deleted_are_counted() -> None:
    """While the sink reads, and before it comes back."""
    async with members("one", partitions=1) as (one,):
        await one.have(0)
        topic = one.journal.settings.prefix + ".posts"
        for number in range(6):
            await one.journal.append(post(number))
        await one.outlets[0].commit(Commit(Cursor(1)))
        await one.close()
        admin = shared().admin()
        for deleted in admin.delete_records([ConfluentPartition(topic, 0, 4)]).values():
            await asyncio.to_thread(deleted.result, DEADLINE)
        again = Member(one.journal.settings, "one")
        await again.open()
        try:
            await again.have(0)
            assert total(again.metrics.journal_dropped_posts) == 3
            assert await seqs(again.outlets[0]) == [4, 5]
        finally:
            await again.close()
