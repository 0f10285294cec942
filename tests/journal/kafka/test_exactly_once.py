"""A Kafka sink with exactly_once on a journal in the same cluster: who reads committed messages gets each record once,
whatever fails between a write and the end of its transaction."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as ConfluentPartition

from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.journal.base import ALL, Commit, Cursor, DeadLetter, DeadLetters, Outlet
from btfeed.journal.kafka.journal import KafkaJournal
from btfeed.journal.kafka.letters import Letters
from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.outlet import KafkaOutlet
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.posts.post import Post
from btfeed.records.schema import MAPS, RECORD_FIELDS
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.samples import by_label
from sinks.base import Offsets, SinkContext, StartAgain
from sinks.kafka.settings import KafkaSettings
from sinks.kafka.sink import SINK, KafkaSink
from tests.journal.drivers import FAST
from tests.journal.journals import dead_letter, wanting
from tests.journal.kafka.intakes import settings_for
from tests.journal.kafka.keeping import open_transaction
from tests.servers.kafka import shared
from tests.support.fakes import mapped, mapper
from tests.support.harness import DEADLINE, until_async
from tests.support.posts import mixed

pytestmark = pytest.mark.kafka


class Sink(KafkaSink):
    """faults: what happens at the next commits: "before" the transaction ends, or "after" it, the process is told that it
    has failed; "stalled": it waits until `go` is set."""

    def __init__(self, settings: KafkaSettings, context: SinkContext, *faults: str) -> None:
        super().__init__(settings, context)
        self.faults = list(faults)
        self.stalled, self.go = asyncio.Event(), asyncio.Event()

    async def commit(self, saved: Offsets, deleted: Sequence[tuple[str, bytes]]) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "stalled":
            self.stalled.set()
            await self.go.wait()
        if fault != "before":
            await super().commit(saved, deleted)
        if fault in ("before", "after"):
            assert self._producer
            self._producer.failed = True
            raise StartAgain(fault)


class Process:
    """Delivers from its own journal's topics to its own topic, exactly once."""

    def __init__(self, *faults: str) -> None:
        self.settings: KafkaJournalSettings = settings_for(shared().bootstrap, partitions=1, retention="36500d")
        self.names = Names(self.settings.prefix)
        self.topic = f"{self.settings.prefix}.records"
        self.metrics = Metrics()
        self.journal = KafkaJournal(self.settings, {"once": "oldest"}, self.metrics, 1_000, tuning=FAST)
        self.sink = self.new_sink(*faults)
        self.mapped = MappedPosts(mapper(), self.metrics)
        self.running: dict[int, tuple[Delivery, asyncio.Task[None]]] = {}
        self.outlets: dict[int, Outlet] = {}
        self.sinks: dict[int, Sink] = {}
        self.sent: list[bytes] = []

    def new_sink(self, *faults: str, partition: int = 0) -> Sink:
        given = {"cluster": "journal", "exactly_once": True, "topic": self.topic, "create_topics": True, "key": "id"}
        found = KafkaSettings.model_validate(given).with_journal(shared().bootstrap, self.settings.security)
        owner = self.names.transactional_id("once", partition)
        return Sink(found, SinkContext("once", RECORD_FIELDS, MAPS, transactional_id=owner), *faults)

    async def begin(self, outlet: Outlet) -> None:
        self.outlets[outlet.partition] = outlet
        sink = self.sink if outlet.partition == 0 else self.new_sink(partition=outlet.partition)
        self.sinks[outlet.partition] = sink
        settings = DeliverySettings.model_validate({"linger": "0s", "max_records": 25, "retry_initial": "10ms"})
        delivery = Delivery(
            "once", sink, False, settings, FilterSettings(), outlet, self.mapped, self.metrics, transactional=True
        )
        self.running[outlet.partition] = delivery, asyncio.create_task(delivery.run())

    async def end(self, outlets: Collection[Outlet]) -> None:
        await asyncio.gather(*(self.stop(outlet.partition) for outlet in outlets))

    async def stop(self, partition: int) -> None:
        delivery, task = self.running.pop(partition)
        delivery.stop()
        await task

    async def post(self, posts: int) -> None:
        """Append posts of 20 records each."""
        for seed in range(len(self.sent), len(self.sent) + posts):
            self.sent.append(mixed(20, seed))
            await self.journal.append(Post(self.sent[-1], 1_700_000_000_000 + seed, "10.0.0.1"))

    async def records(self, isolation: str) -> Counter[bytes]:
        """How often each record is in the topic."""
        consumer = AIOKafkaConsumer(bootstrap_servers=shared().bootstrap, isolation_level=isolation)
        await consumer.start()
        try:
            place = TopicPartition(self.topic, 0)
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            (end,) = (await consumer.end_offsets([place])).values()
            found: Counter[bytes] = Counter()
            while await consumer.position(place) < end:
                read = await consumer.getmany(place, timeout_ms=100)
                found.update(message.key for message in read.get(place, ()))
            return found
        finally:
            await consumer.stop()

    async def delivered(self, records: int) -> Counter[bytes]:
        """The committed records, once there are that many different ones."""
        async with asyncio.timeout(DEADLINE):
            while True:
                if len(found := await self.records("read_committed")) >= records:
                    return found
                await asyncio.sleep(0.05)

    def transactions(self, outcome: str) -> int:
        return by_label(self.metrics.kafka_journal.transactions, "outcome").get(outcome, 0)


@asynccontextmanager
async def process(*faults: str) -> AsyncIterator[Process]:
    found = Process(*faults)
    await found.journal.open()
    running = asyncio.create_task(found.journal.outlets("once").run(found.begin, found.end))
    try:
        await until_async(lambda: 0 in found.running, "a delivery")
        yield found
        await asyncio.gather(*map(found.stop, list(found.running)))
    finally:
        await found.journal.close()
        await asyncio.wait_for(running, DEADLINE)
        found.mapped.close()


async def test_each_record_is_committed_once() -> None:
    """Also where a transaction fails before its end, and where only its reply is lost. Copies that were aborted are in the
    topic, which shows that the faults were there."""
    async with process("before", "", "after") as it:
        await it.post(4)
        assert set((await it.delivered(80)).values()) == {1}
        assert (await it.records("read_uncommitted")).total() > 80
        assert it.transactions("aborted") == 2
        await it.post(1)
        assert set((await it.delivered(100)).values()) == {1}


async def test_an_earlier_owner_of_the_transactions_commits_nothing() -> None:
    """It slept between its write and its commit, while another process took the partition."""
    async with process("stalled") as it:
        await it.post(3)
        await asyncio.wait_for(it.sink.stalled.wait(), DEADLINE)
        other = it.new_sink()
        await other.open(None)
        assert (await it.records("read_committed")).total() == 0
        it.sink.go.set()
        assert set((await it.delivered(60)).values()) == {1}
        assert it.transactions("aborted") == 1
        await other.close()


async def test_an_earlier_owner_is_told_once() -> None:
    """By what its sink raises. asyncio has no errors to log that aiokafka left behind."""
    left: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: left.append(context))
    it = Process()
    earlier, later = it.new_sink(), it.new_sink()
    await earlier.open(None)
    await later.open(None)
    with pytest.raises(StartAgain):
        await earlier.write(mapped(3))
    await earlier.close()
    await later.close()
    gc.collect()
    await asyncio.sleep(0)
    assert left == []


@pytest.mark.parametrize("committed", [True, False])
async def test_a_cursor_is_read_after_the_transaction_that_moves_it(committed: bool) -> None:
    """Brokers tell the offset of before for a moment, although the transaction is said to be committed."""
    async with process() as it:
        await until_async(lambda: 0 in it.outlets, "an outlet")
        outlet = it.outlets[0]
        assert isinstance(outlet, KafkaOutlet)
        group, producer = (
            it.names.group("once"),
            Producer({"bootstrap.servers": shared().bootstrap, "transactional.id": "other"}),
        )
        member = Consumer({"bootstrap.servers": shared().bootstrap, "group.id": group})
        await asyncio.to_thread(producer.init_transactions, DEADLINE)
        producer.begin_transaction()
        moved = [ConfluentPartition(it.names.posts, 0, 7)]
        await asyncio.to_thread(producer.send_offsets_to_transaction, moved, member.consumer_group_metadata(), DEADLINE)
        refreshing = asyncio.create_task(outlet.refresh())
        await asyncio.sleep(0.3)
        assert not refreshing.done()
        await asyncio.to_thread(producer.commit_transaction if committed else producer.abort_transaction, DEADLINE)
        await asyncio.wait_for(refreshing, DEADLINE)
        assert (await outlet.cursor())[0] == Cursor(7 if committed else 0)
        member.close()


async def test_a_stop_leaves_no_transaction_open() -> None:
    """Readers of committed messages would wait for its timeout, which is a minute."""
    async with process("stalled") as it:
        await it.post(1)
        await asyncio.wait_for(it.sink.stalled.wait(), DEADLINE)
        delivery, task = it.running.pop(0)
        delivery.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(DEADLINE):
            while True:
                if (await it.records("read_uncommitted")).total() == 20 < await _end(it):
                    break
                await asyncio.sleep(0.05)
        assert (await it.records("read_committed")).total() == 0


async def _end(it: Process) -> int:
    """The offset behind what readers of committed messages can get."""
    consumer = AIOKafkaConsumer(bootstrap_servers=shared().bootstrap, isolation_level="read_committed")
    await consumer.start()
    try:
        place = TopicPartition(it.topic, 0)
        return int((await consumer.end_offsets([place]))[place])
    finally:
        await consumer.stop()


async def test_a_retried_dead_letter_is_committed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is deleted in the transaction that delivers it. Brokers show that later, here when another one ends; meanwhile the
    delivery asks for what is still to be retried. It is tried again if its transaction fails."""
    asked, given, settled, begun = asyncio.Event(), Letters.retries, Letters.settled, []

    async def begin(self: Letters) -> None:
        await settled(self)
        begun.append(self)

    async def retries(self: Letters, sink: str, limit: int) -> Sequence[DeadLetter]:
        if it.transactions("committed"):
            asked.set()
        return await given(self, sink, limit)

    monkeypatch.setattr(Letters, "settled", begin)
    async with process() as it:
        monkeypatch.setattr(Letters, "retries", retries)
        await until_async(lambda: len(begun) == 2, "no delivery waits for transactions of others any more")
        with it.journal.dead_letters() as letters:
            await it.outlets[0].commit(Commit(Cursor(0), dead_letters=[dead_letter(1, "once")]))
            with open_transaction(shared().bootstrap, it.names.dead_letters):
                assert await asyncio.to_thread(letters.retry, ALL, wanting("once")) == 1
                assert await it.delivered(1) == {b"id-1": 1}
                await asyncio.wait_for(asked.wait(), DEADLINE)
                await _until_kept(letters, 1)  # a reply behind that to the delivery
            await _until_kept(letters, 0)
            await it.outlets[0].commit(Commit(Cursor(0), dead_letters=[dead_letter(2, "once")]))
            await _until_kept(letters, 1)
            it.sinks[-1].faults += ["before", "after"]
            assert await asyncio.to_thread(letters.retry, ALL, wanting("once")) == 1
            assert await it.delivered(2) == {b"id-1": 1, b"id-2": 1}
            await _until_kept(letters, 0)
            await until_async(lambda: it.transactions("aborted") == 2, "both faults")


async def _until_kept(letters: DeadLetters, number: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            if await asyncio.to_thread(letters.count) == number:
                return
            await asyncio.sleep(0.05)


def test_it_needs_the_journals_cluster() -> None:
    """A transaction can't span two clusters. Without exactly_once the sink has no transactions."""
    with pytest.raises(ValueError, match='exactly_once needs cluster = "journal"'):
        KafkaSettings.model_validate({"bootstrap_servers": "k:9092", "exactly_once": True})
    assert not SINK.transactional(KafkaSettings.model_validate({"bootstrap_servers": "k:9092"}))
    assert SINK.transactional(KafkaSettings.model_validate({"cluster": "journal", "exactly_once": True}))
