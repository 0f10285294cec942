"""Topics of the Kafka sink with a real broker: their names, missing ones, and those that take nothing."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from btfeed.posts.post import digest
from sinks.base import Misconfigured
from sinks.batch import Batch
from sinks.kafka.topics import legal_topic_name
from tests.servers.kafka import Kafka
from tests.sinks.drivers import opened
from tests.sinks.drivers.kafka import kafka_sink, new_topic, read_topic, values
from tests.support.fakes import TRANSACTION, Rig, batch_of, mapped, mapper, post
from tests.support.harness import until_async
from tests.support.posts import untyped


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("appmon.visit", "appmon.visit"), ("a b/c:d", "a_b_c_d"), ("Zürich", "Z_rich"), ("", "_"), (".", "_"), ("..", "__"),
        ("...", "..."), ("a\n", "a_"), ("x" * 300, "x" * 249), ("__consumer_offsets", "_consumer_offsets"),
        ("__transaction_state", "_transaction_state"), ("__mine", "__mine"),
    ],
)  # fmt: skip
def test_topics_get_legal_names(name: str, topic: str) -> None:
    """Letters, digits and `._-`, at most 249 of them, neither `.` nor `..`, nor an internal topic."""
    assert legal_topic_name(name) == topic


async def test_a_topic_for_each_category(kafka: Kafka) -> None:
    """Created as configured. Illegal characters in the template are replaced."""
    prefix = new_topic()
    settings = {"topic": prefix + "/{category}", "create_topics": True, "partitions": 5, "replication_factor": 1}
    batch = mapped(60)
    async with opened(kafka_sink(kafka.bootstrap, settings)) as sink:
        assert kafka.partitions(f"{prefix}_visit") == {}
        await sink.write(batch)
    for category in ("purepath", "user_action", "visit"):
        topic = f"{prefix}_{category}"
        assert len(kafka.partitions(topic)) == 5
        expected = [body for body, one in zip(batch.bodies, batch.transactions, strict=True) if one.category == category]
        assert sorted(values(read_topic(kafka, topic))) == sorted(expected)


async def test_missing_topics_are_misconfigured_if_there_is_no_other(kafka: Kafka) -> None:
    """They are named at the start. They are not created, although this broker creates topics automatically."""
    missing = new_topic()
    for topic in (missing, missing + "-{category}"):
        with pytest.raises(Misconfigured, match=rf"not exist: {missing}.*create_topics"):
            await opened(kafka_sink(kafka.bootstrap, {"topic": topic})).__aenter__()
    assert kafka.partitions(missing) == {}


async def test_records_for_a_missing_topic_are_blocked(kafka: Kafka) -> None:
    """The others are sent. `check` and `open` name the topic."""
    here = kafka.make_topic(new_topic() + ".purepath")
    prefix = here.removesuffix("purepath")
    batch = mapped(60)
    with capture_logs() as logs:
        async with opened(kafka_sink(kafka.bootstrap, {"topic": prefix + "{category}"})) as sink:
            await sink.check()
            result = await sink.write(batch)
    assert [line["log_level"] for line in logs if f"{prefix}visit" in line.get("reason", "")] == ["warning", "warning"]
    categories = [transaction.category for transaction in batch.transactions]
    assert sorted(result.blocked) == [place for place, category in enumerate(categories) if category != "purepath"]
    for place, blocked in result.blocked.items():
        assert blocked.destination == f"topic {prefix}{categories[place]}"
        assert blocked.reason.startswith(f"topic does not exist: {prefix}{categories[place]}; create")
    destinations = sink.destinations(batch)
    assert [destinations[place] for place in result.blocked] == [each.destination for each in result.blocked.values()]
    assert sorted(values(read_topic(kafka, here))) == sorted(
        body for place, body in enumerate(batch.bodies) if place not in result.blocked
    )
    assert kafka.partitions(f"{prefix}visit") == {}


async def test_delivery_goes_on_once_a_topic_is_created(kafka: Kafka) -> None:
    """Three topics are there, and one occurrence has no type: all others are delivered at once, and it waits aside."""
    prefix = new_topic()
    for category in ("purepath", "user_action", "visit"):
        kafka.make_topic(f"{prefix}.{category}")
    async with Rig(kafka_sink(kafka.bootstrap, {"topic": prefix + ".{category}"})) as rig:
        before, odd = await rig.post(120), []
        for body in map(untyped, range(3)):
            await rig.journal.append(post(body))
            odd += mapper().map(body, digest(body)).batch.bodies
        after = await rig.post(120, 1)
        await rig.saved(6)
        topics = [f"{prefix}.{category}" for category in ("purepath", "user_action", "visit")]
        assert sorted(values(read_topic(kafka, *topics))) == sorted(before + after)
        assert [letter.body for letter in rig.dead_letters] == odd
        assert rig.delivery.status.state == "running"
        assert [*rig.delivery.status.blocked] == [f"topic {prefix}.unknown"]
        kafka.make_topic(f"{prefix}.unknown")
        await until_async(lambda: not rig.delivery.status.blocked, "open")
    assert values(read_topic(kafka, f"{prefix}.unknown")) == odd
    assert rig.dead_letters == []


async def test_names_that_can_be_no_topics_stop_no_other(kafka: Kafka) -> None:
    """Internal topics get another name. A name that collides with a topic can't be created: its records are refused."""
    prefix = new_topic().replace("-", ".")
    names = ["__consumer_offsets", f"{prefix}.a", f"{prefix}_a", f"{prefix}.b"]
    parts = [batch_of([b"{}"] * 2, name, replace(TRANSACTION, name=name)) for name in names]
    batch = Batch.concat(parts)
    kafka.make_topic(names[1])
    async with opened(kafka_sink(kafka.bootstrap, {"topic": "{name}", "create_topics": True})) as sink:
        result = await sink.write(batch)
        assert [*result.refused] == [4, 5]
        assert "collides" in result.refused[4]
        assert (list(result.retry), result.blocked) == ([], {})
    for topic in ("_consumer_offsets", names[1], names[3]):
        assert len(read_topic(kafka, topic)) == 2
