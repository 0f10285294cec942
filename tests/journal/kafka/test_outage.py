"""The intake while brokers die and come back: three real ones, which it needs two of.

A client that never repeats a post appends all the time. Every append returns in time, and nothing that it was told to be
durable is lost. BTFEED_SEED repeats the choices of a run.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from confluent_kafka import Producer

from btfeed.journal.base import JournalError
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.posts.post import Post
from tests.journal.journals import seeded
from tests.journal.kafka.intakes import Intake, bodies_of, messages_of, opened, settings_for
from tests.servers.kafka import Kafka
from tests.support.harness import until, until_async
from tests.support.witness import Witness

pytestmark = pytest.mark.kafka
TIMEOUT = 2.0
SLACK = 0.5
"""Seconds that an append may take beyond its timeout if the machine is not busy."""
RECOVERY = 60.0
"""Seconds that the brokers may take to work again."""
NOTICED = 5.0
"""Seconds after which an intake has noticed that they do."""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Three brokers that notice within seconds when one is gone."""
    settings = {
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "300",
        "controller.quorum.fetch.timeout.ms": "1500",
        "auto.create.topics.enable": "false",
    }
    with Kafka(tmp_path_factory.mktemp("cluster") / "kafka", brokers=3, settings=settings) as running:
        yield running


def replicated(kafka: Kafka, spill: Path | None) -> KafkaJournalSettings:
    kept = {"directory": str(spill)} if spill else False
    return settings_for(
        kafka.bootstrap, replication_factor=3, min_insync_replicas=2, partitions=6, timeout=f"{TIMEOUT:g}s", spill=kept
    )


class Client:
    """Appends a post each 20 ms, and remembers what became of it."""

    def __init__(self, intake: Intake, witness: Witness) -> None:
        self._intake = intake
        self._witness = witness
        self._number = 0
        self.durable: list[bytes] = []
        self.refused = 0
        self._appends: list[tuple[float, float]] = []  # when each began and ended

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Client"]:
        appending: set[asyncio.Task[None]] = set()

        async def run() -> None:
            while True:
                appending.add(asyncio.create_task(self._append()))
                await asyncio.sleep(0.02)

        running = asyncio.create_task(run())
        try:
            yield self
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await asyncio.gather(*appending)

    async def _append(self) -> None:
        self._number += 1
        body = b"post %d of the client" % self._number
        started = time.monotonic()
        try:
            await self._intake.append(Post(body, round(time.time() * 1000), "10.0.0.1"))
        except JournalError:
            self.refused += 1
        else:
            self.durable.append(body)
        self._appends.append((started, time.monotonic()))

    def late(self) -> list[float]:
        """Seconds of the appends that took longer than their timeout, and longer than this machine held everybody up."""
        return [
            end - begin
            for begin, end in self._appends
            if end - begin > TIMEOUT + SLACK and end - begin > TIMEOUT + SLACK + self._witness.held_up(begin, end)
        ]


async def drained(intake: Intake) -> None:
    """Wait until all posts of the spill are in Kafka."""
    await until_async(lambda: intake.away is None and not intake.count("spill_posts"), "spill is empty", RECOVERY)


async def test_a_broker_that_is_killed_costs_no_post(kafka: Kafka, tmp_path: Path) -> None:
    """What it does not acknowledge goes to the spill, and from there to the others. The slowest append takes hardly longer
    than its timeout, though acknowledgements stall for seconds."""
    broker = seeded().choice(kafka.nodes)
    with Witness(tmp_path / "witness") as witness:
        async with opened(replicated(kafka, tmp_path / "spill")) as intake, Client(intake, witness).running() as client:
            await until_async(lambda: len(client.durable) > 50, "posts")
            await asyncio.to_thread(broker.kill)
            await until_async(lambda: intake.count("spilled_posts") > 50, "posts in the spill", RECOVERY)
            await drained(intake)
            appended = len(client.durable)
            await until_async(lambda: len(client.durable) > appended + 50, "posts again")
            broker.start()
            await asyncio.to_thread(broker.wait)
    await check(kafka, intake, client)


def send(kafka: Kafka, topic: str) -> None:
    """Send a message to a topic, and return when the brokers have taken it."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, b"of another client")
    assert producer.flush(RECOVERY) == 0


async def check(kafka: Kafka, intake: Intake, client: Client) -> None:
    """That all posts are in Kafka, and that no append took too long. What is there twice is in one partition."""
    messages = await messages_of(kafka, intake.names.posts)
    found = Counter(message.value() or b"" for message in messages)
    assert Counter(client.durable) - found == Counter()
    places = {(message.value(), message.partition()) for message in messages}
    assert len(places) == len(found)
    assert not client.refused
    assert client.late() == []
    assert intake.count("spilled_posts") == intake.count("forwarded_posts")


async def test_all_brokers_may_be_away(kafka: Kafka, tmp_path: Path) -> None:
    """With a spill every post is durable in time all the same, also if btfeed starts meanwhile. Without one, posts are
    refused in time, and not for longer than necessary: they are taken soon after those of another client."""
    until(lambda: all(len(each.isrs) == 3 for each in kafka.partitions("__consumer_offsets").values()), "all in sync")
    spilling, bare = replicated(kafka, tmp_path / "spill"), replicated(kafka, None)
    with Witness(tmp_path / "witness") as witness:
        async with opened(bare) as refusing, Client(refusing, witness).running() as refused:
            async with opened(spilling) as intake, Client(intake, witness).running() as client:
                await until_async(lambda: min(len(client.durable), len(refused.durable)) > 50, "posts")
                for broker in kafka.nodes:
                    await asyncio.to_thread(broker.kill)
                await until_async(lambda: intake.count("spilled_posts") > 50, "posts in the spill")
            assert not client.refused
            await until_async(lambda: refusing.refusing and refused.refused > 50, "posts refused")
            async with opened(spilling) as intake:
                await intake.append(Post(b"while all are away", 1, "10.0.0.1"))
                assert intake.refusing is None
                assert "can't connect" in (intake.away or "")
                for broker in kafka.nodes:
                    broker.start()
                await asyncio.gather(*(asyncio.to_thread(broker.wait) for broker in kafka.nodes))
                await asyncio.to_thread(send, kafka, refusing.names.posts)
                working, taken = time.monotonic(), len(refused.durable)
                await until_async(lambda: len(refused.durable) > taken, "a post", RECOVERY)
                noticed = time.monotonic()
                assert noticed - working < NOTICED + witness.held_up(working, noticed)
                await until_async(lambda: refusing.refusing is None, "the intake says so")
                await drained(intake)
    found = await bodies_of(kafka, intake.names.posts)
    assert Counter([*client.durable, b"while all are away"]) - found == Counter()
    assert Counter(refused.durable) - await bodies_of(kafka, refusing.names.posts) == Counter()
    assert client.late() == refused.late() == []
