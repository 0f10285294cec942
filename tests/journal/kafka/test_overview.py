"""What a real broker says of a journal: topics, members and lag."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.protocol.offset import OffsetRequest

from btfeed.journal.kafka.cluster import Cluster
from btfeed.journal.kafka.overview import GroupView, MemberView, Overview, away
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.posts.post import Post
from sinks.base import Unavailable
from tests.journal.kafka.intakes import Intake, delete_before, opened, settings_for
from tests.servers.kafka import Kafka, shared
from tests.support.harness import until_async

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def kafka() -> Kafka:
    return shared()


async def overview(settings: KafkaJournalSettings, *sinks: str) -> Overview:
    cluster = Cluster(settings)
    try:
        return await cluster.overview(sinks)
    finally:
        await cluster.close()


@asynccontextmanager
async def member(kafka: Kafka, intake: Intake, sink: str, partitions: int = 3) -> AsyncIterator[AIOKafkaConsumer]:
    """A static member of a sink's group that has all partitions."""
    group = intake.names.group(sink)
    consumer = AIOKafkaConsumer(
        intake.names.posts, bootstrap_servers=kafka.bootstrap, group_id=group, group_instance_id="host-1",
        enable_auto_commit=False,
    )  # fmt: skip
    await consumer.start()
    try:
        await until_async(lambda: len(consumer.assignment()) == partitions, "all partitions")
        yield consumer
    finally:
        await consumer.stop()


def posts_of(intake: Intake, ages: list[float]) -> list[Post]:
    """Posts of one peer. ages: seconds since each was received."""
    now = time.time()
    return [Post(b"%d" % number, round((now - age) * 1000), "10.0.0.1") for number, age in enumerate(ages)]


async def test_it_tells_who_delivers_what_and_how_far_behind_they_are(kafka: Kafka) -> None:
    """For each partition of each sink, with the time until the oldest undelivered post is deleted."""
    settings = settings_for(kafka.bootstrap, partition_by="source", retention="1h")
    async with opened(settings) as intake, member(kafka, intake, "files") as consumer:
        for each in posts_of(intake, [3_000.0, 1_800.0, 60.0]):
            await intake.append(each)
        (number,) = {each.partition for each in consumer.assignment() if (await consumer.end_offsets([each]))[each]}
        await consumer.commit({TopicPartition(intake.names.posts, number): 1})
        found = await overview(settings, "files", "other")
    files, other = found.groups
    assert files.members == [MemberView("host-1", "127.0.0.1", [0, 1, 2])]
    assert (files.state, files.lag, files.error) == ("Stable", 2, "")
    view = files.partitions[number]
    assert (view.instance, view.offset, view.lag, view.dropped) == ("host-1", 1, 2, 0)
    assert view.retention_left == pytest.approx(1_800, abs=20)
    assert files.retention_left == view.retention_left
    assert view.waits == pytest.approx(1_800, abs=20)
    assert [each.offset for each in files.partitions if each.partition != number] == [None, None]
    assert other == GroupView("other", intake.names.group("other"), "Dead", [], other.partitions)
    assert [(each.instance, each.offset, each.lag, each.retention_left) for each in other.partitions] == [
        ("", None, 0, None)
    ] * 3


async def test_it_tells_what_a_sink_has_missed(kafka: Kafka) -> None:
    """Posts that the brokers deleted before they were delivered."""
    settings = settings_for(kafka.bootstrap, partitions=1)
    async with opened(settings) as intake:
        for each in posts_of(intake, [3.0, 2.0, 1.0]):
            await intake.append(each)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka.bootstrap, group_id=intake.names.group("files"), enable_auto_commit=False
        )
        await consumer.start()
        place = TopicPartition(intake.names.posts, 0)
        consumer.assign([place])
        await consumer.commit({place: 0})
        await consumer.stop()
        await delete_before(kafka, intake.names.posts, 2)
        (files,) = (await overview(settings, "files")).groups
    assert [(each.offset, each.lag, each.dropped) for each in files.partitions] == [(0, 1, 2)]
    assert (files.state, files.members) == ("Empty", [])


async def test_a_sink_that_has_passed_the_end_is_not_behind(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load it delivers posts that came after the end of a partition was asked for."""
    settings = settings_for(kafka.bootstrap, partitions=1)
    async with opened(settings) as intake, member(kafka, intake, "files", partitions=1) as consumer:
        place, coordinator = TopicPartition(intake.names.posts, 0), Cluster.coordinator

        async def meanwhile(cluster: Cluster, group: str) -> int:
            await intake.append(posts_of(intake, [0.0])[0])
            await consumer.commit({place: 1})
            return await coordinator(cluster, group)

        monkeypatch.setattr(Cluster, "coordinator", meanwhile)
        (files,) = (await overview(settings, "files")).groups
    assert [(each.offset, each.lag, each.retention_left) for each in files.partitions] == [(1, 0, None)]
    assert files.lag == 0


class Halting(Cluster):
    """Its brokers do not say which offsets there are."""

    async def ask(self, request: Any, node: int | None = None) -> Any:
        if isinstance(request, OffsetRequest):
            raise Unavailable(f"broker {node} does not reply")
        return await super().ask(request, node)


async def test_a_broker_that_does_not_reply_hides_only_what_it_has(kafka: Kafka) -> None:
    """The others tell the rest, and it is named."""
    settings = settings_for(kafka.bootstrap)
    async with opened(settings) as intake:
        await intake.append(posts_of(intake, [1.0])[0])
        cluster = Halting(settings)
        try:
            found = await cluster.overview(["files"])
        finally:
            await cluster.close()
    assert [list(found.away), len(found.silent)] == [[], 1]
    assert found.topics[0].partitions == 3
    assert (found.groups[0].error, found.groups[0].partitions) == ("", [])


def test_brokers_that_have_replicas_and_are_not_up_are_away() -> None:
    """Whatever they have replicas of."""
    partitions = [{"replicas": [1, 2]}, {"replicas": [3, 1]}]
    described = {"topics": [{"partitions": partitions}, {"partitions": []}], "brokers": [{"node_id": 1}, {"node_id": 3}]}
    assert away(described) == [2]


async def test_it_tells_of_topics_against_what_they_should_be(kafka: Kafka) -> None:
    """Also of those that do not exist."""
    settings = settings_for(kafka.bootstrap)
    async with opened(settings) as intake:
        names = intake.names
    found = await overview(settings)
    assert found.cluster_id
    assert found.brokers == [kafka.bootstrap]
    topics = {each.name: each for each in found.topics}
    posts = topics[names.posts]
    assert (posts.partitions, posts.replicas, posts.leaderless, posts.behind) == (3, 1, 0, 0)
    assert any("1 of 3 replicas" in problem for problem in posts.problems)
    assert topics[names.retries].problems == [f"topic {names.retries} does not exist"]
    nothing = await overview(settings_for(kafka.bootstrap), "files")
    assert [each.partitions for each in nothing.topics] == [0, 0, 0, 0]
    assert nothing.groups[0].partitions == []
