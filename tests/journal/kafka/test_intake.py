"""Posts on their way into a real broker, and what can be wrong with its topics."""

import asyncio
import re
import socket

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from structlog.testing import capture_logs

from btfeed.journal.base import DeadLetter, JournalUnavailable, PostTooLarge
from btfeed.journal.kafka import intake as module
from btfeed.journal.kafka.intake import KafkaIntake
from btfeed.journal.kafka.messages import to_message
from btfeed.journal.kafka.names import Names
from btfeed.posts.post import Post, digest, parse
from btfeed.posts.source import server_name
from sinks.kafka.partitions import partition_of
from tests.journal.journals import post
from tests.journal.kafka.intakes import bodies_of, messages_of, opened, settings_for
from tests.servers.kafka import Kafka, shared
from tests.sinks.drivers.kafka import headers
from tests.support.harness import DEADLINE, until_async
from tests.support.ports import free_port
from tests.support.posts import mixed

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def kafka() -> Kafka:
    return shared()


async def test_a_post_is_a_message_with_all_that_is_known_of_it(kafka: Kafka) -> None:
    """In the partition that any client computes from its key."""
    async with opened(settings_for(kafka.bootstrap)) as intake:
        posts = [post(number) for number in range(20)]
        assert await intake.append_all(posts) == [digest(each.body) for each in posts]
        found = {message.value(): message for message in await messages_of(kafka, intake.names.posts)}
        assert len(found) == 20
        for each in posts:
            message = found[each.body]
            key, value, timestamp, wanted = to_message(each, digest(each.body))
            assert (message.key(), message.value(), message.timestamp()[1]) == (key, value, timestamp)
            assert headers(message) == dict(wanted)
            assert message.partition() == partition_of(key, 3)
        assert (intake.refusing, intake.count("producers"), intake.count("up")) == (None, 0, 1)


async def test_topics_are_made_as_the_journal_needs_them(kafka: Kafka) -> None:
    """With room for the largest post, and a bound for rejected ones."""
    async with opened(settings_for(kafka.bootstrap, refused_posts="8MiB"), max_body=2**20) as intake:
        states = await intake.cluster.topics([intake.names.posts, intake.names.refused])
        posts, refused = states[intake.names.posts], states[intake.names.refused]
        assert (len(posts.partitions), len(refused.partitions)) == (3, 1)
        assert posts.max_message == 2**20 + 64 * 2**10
        assert posts.number("retention.ms") == 7 * 86_400_000
        assert refused.number("retention.bytes") == 8 * 2**20
        assert intake.cluster.differences(states) == []
        assert len(await bodies_of(kafka, intake.names.posts)) == 0
        large = Post(bytes(2**20), 1_700_000_000_000, "10.0.0.1")
        await intake.append(large)
        assert (await bodies_of(kafka, intake.names.posts))[large.body] == 1


async def test_a_post_larger_than_the_topic_takes_is_not_sent(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused with both numbers, and its partition takes the next post. So it is if the limit is lowered later, which
    the broker finds first."""
    monkeypatch.setattr(module, "PROBE", 60.0)
    settings = settings_for(kafka.bootstrap, partitions=1)
    topic = kafka.make_topic(f"{settings.prefix}.posts", max_message_bytes="100000")
    async with opened(settings) as intake:
        await intake.append(post(0, 90_000))
        with pytest.raises(PostTooLarge, match=r"has 99000 bytes, .* takes 98976 at most \(max.message.bytes 100000"):
            await intake.append(post(1, 99_000))
        taken = [post(0, 90_000), post(2, 90_000)]
        await intake.append(taken[1])
        kafka.set_config(topic, max_message_bytes="50000")
        with pytest.raises(PostTooLarge, match=r"has 60000 bytes, .* takes 48976 at most"):
            await append_until_refused(intake, taken)
        taken.append(post(1, 40_000))
        await intake.append(taken[-1])
        assert (intake.refusing, intake.count("producers")) == (None, 0)
        assert await bodies_of(kafka, topic) == {each.body: 1 for each in taken}


async def append_until_refused(intake: KafkaIntake, taken: list[Post]) -> None:
    """Append posts of 60,000 bytes, of which the broker may take some before it knows its new limit."""
    for number in range(100, 10_000):
        large = post(number, 60_000)
        await intake.append(large)
        taken.append(large)


async def test_batches_fit_the_topic(kafka: Kafka) -> None:
    """Though what waits for a partition together is more than it takes at a time."""
    settings = settings_for(kafka.bootstrap, partitions=1)
    topic = kafka.make_topic(f"{settings.prefix}.posts", max_message_bytes="100000")
    async with opened(settings) as intake:
        posts = [post(number, 40_000) for number in range(20)]
        await intake.append_all(posts)
        assert await bodies_of(kafka, topic) == {each.body: 1 for each in posts}
        assert intake.count("producers") == 0


async def test_a_partition_whose_sequence_is_broken_takes_the_next_post(kafka: Kafka) -> None:
    """aiokafka's producer would fail there for ever: another one begins, and sends the post again."""
    async with opened(settings_for(kafka.bootstrap, partitions=1, timeout="8s")) as intake:
        await intake.append(post(0))
        break_sequence(intake, 0)
        await intake.append_all([post(1), post(2)])
        assert intake.refusing is None
        assert intake.count("producers") >= 1
        assert await bodies_of(kafka, intake.names.posts) == {post(number).body: 1 for number in range(3)}


def break_sequence(intake: KafkaIntake, partition: int) -> None:
    """Let the producer number its next batch as if it had sent others before."""
    producer = intake._sending._producer
    assert producer
    place = TopicPartition(intake.cluster.names.posts, partition)
    producer._producer._txn_manager.increment_sequence_number(place, 1_000)


def from_server(name: str, seed: int) -> bytes:
    """A post of this AppMon server."""
    message = parse(mixed(2, seed))
    message.serverName = name
    return message.SerializeToString()


async def test_posts_of_one_server_keep_their_order(kafka: Kafka) -> None:
    """With partition_by = "source" they share a partition; posts without a server's name share one for each peer."""
    async with opened(settings_for(kafka.bootstrap, partition_by="source", partitions=7)) as intake:
        named = [Post(from_server(name, seed), seed, "10.0.0.1") for seed in range(6) for name in ("one", "two")]
        peers = [Post(b"%d" % number, number, f"10.0.0.{number % 2}") for number in range(12)]
        for each in (*named, *peers):
            await intake.append(each)
        found: dict[bytes, list[int]] = {}
        place: dict[bytes, int] = {}
        for message in await messages_of(kafka, intake.names.posts):
            body = message.value() or b""
            source = server_name(body) or headers(message)["peer"]
            assert place.setdefault(source, message.partition() or 0) == (message.partition() or 0)
            found.setdefault(source, []).append(message.timestamp()[1])
        assert found.keys() == {b"one", b"two", b"10.0.0.0", b"10.0.0.1"}
        assert all(times == sorted(times) for times in found.values())
        assert place == {source: partition_of(source, 7) for source in found}


async def test_rejected_posts_are_kept_apart(kafka: Kafka) -> None:
    """With their reason."""
    async with opened(settings_for(kafka.bootstrap)) as intake:
        letters = [
            DeadLetter("post", "", "malformed: ünd", 7, b"body %d" % number, cause="malformed") for number in range(3)
        ]
        for letter in letters:
            await intake.add_dead_letter(letter)
        found = await messages_of(kafka, intake.names.refused)
        assert [message.value() for message in found] == [letter.body for letter in letters]
        assert headers(found[0])["reason"].decode() == "malformed: ünd"
        assert await bodies_of(kafka, intake.names.posts) == {}


async def test_topics_that_may_lose_posts_are_told(kafka: Kafka) -> None:
    """Once each, when the intake opens; with `strict` it does not open."""
    settings = settings_for(kafka.bootstrap)
    with capture_logs() as logged:
        async with opened(settings) as intake:
            await intake._look(whole=True)
    reasons = [line["reason"] for line in logged if line["event"] == "topic of the journal is not as it should be"]
    assert len(reasons) == 4
    assert any("has 1 of 3 replicas" in reason and settings.prefix in reason for reason in reasons)
    assert any("min.insync.replicas 1" in reason for reason in reasons)
    strict = settings.model_copy(update={"strict": True})
    with pytest.raises(JournalUnavailable, match=r"has 1 of 3 replicas.*strict = true in \[journal\]"):
        async with opened(strict):
            pass


async def test_topics_that_are_made_are_logged(kafka: Kafka) -> None:
    """Once each, with how they were made. Those that are there are no news."""
    settings = settings_for(kafka.bootstrap)
    for expected in (2, 0):
        with capture_logs() as logs:
            async with opened(settings) as intake:
                posts = intake.names.posts
        made = {
            entry["topic"]: (entry["partitions"], entry["replicas"]) for entry in logs if entry["event"] == "topic made"
        }
        assert len(made) == expected
        assert made.get(posts, (3, 1)) == (3, 1)


async def test_a_missing_topic_is_a_matter_for_a_person(kafka: Kafka) -> None:
    """If the intake may not make it. It takes posts once somebody else has."""
    async with opened(settings_for(kafka.bootstrap, create_topics=False)) as intake:
        assert "misconfigured: topic does not exist" in (intake.refusing or "")
        with pytest.raises(JournalUnavailable, match=r"create_topics = true in \[journal\]"):
            await intake.append(post(1))
        for topic in (intake.names.posts, intake.names.refused):
            kafka.make_topic(topic)
        await until_async(lambda: intake.refusing is None, "Kafka in use")
        await intake.append(post(1))


async def test_a_factor_that_the_brokers_cant_have_is_misconfigured(kafka: Kafka) -> None:
    """They say so when a topic is made."""
    settings = settings_for(kafka.bootstrap, replication_factor=3, min_insync_replicas=2)
    async with opened(settings) as intake:
        assert "replication factor" in (intake.refusing or "").lower()


async def test_the_intake_opens_without_kafka() -> None:
    """It refuses posts at once then, and says since when and why."""
    nowhere = f"127.0.0.1:{free_port()}"
    async with opened(settings_for(nowhere)) as intake:
        assert re.match(r"Kafka takes no posts since \d{4}-.*: 127.0.0.1:\d+: can't connect", intake.refusing or "")
        with pytest.raises(JournalUnavailable, match="can't connect"):
            await intake.append(post(1))
        with pytest.raises(JournalUnavailable, match="can't connect"):
            await intake.add_dead_letter(DeadLetter("post", "", "malformed", 7, b"", cause="malformed"))
        await intake.answer()
    with pytest.raises(JournalUnavailable, match="closed"):
        await intake.append(post(1))
    with pytest.raises(JournalUnavailable, match="closed"):
        await intake.answer()


async def test_a_server_that_never_replies_keeps_nobody_waiting(kafka: Kafka) -> None:
    """If another one is there, as when one of several machines is down."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]},{kafka.bootstrap}"
        async with asyncio.timeout(DEADLINE), opened(settings_for(servers, request_timeout="5m")) as intake:
            await intake.append(post(1))
            assert intake.refusing is None


async def test_settings_can_change(kafka: Kafka) -> None:
    """While the intake is open: how long a post waits, and which partition it goes to."""
    settings = settings_for(kafka.bootstrap)
    async with opened(settings) as intake:
        intake.reconfigure(settings.model_copy(update={"partition_by": "source", "timeout": 7.0}))
        assert intake._sending.timeout == 7.0
        await intake.append_all([Post(b"%d" % number, number, "10.0.0.1") for number in range(12)])
        assert {message.partition() for message in await messages_of(kafka, intake.names.posts)} == {
            partition_of(b"10.0.0.1", 3)
        }


async def test_partitions_that_were_added_are_used(kafka: Kafka) -> None:
    """Without a restart."""
    async with opened(settings_for(kafka.bootstrap, partitions=1)) as intake:
        await intake.append(post(0))
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        await admin.create_partitions({intake.names.posts: NewPartitions(total_count=3)})
        await admin.close()
        await until_async(lambda: intake._sending._partitions == 3 and intake._sending.up, "more partitions")
        await intake.append_all([post(number) for number in range(1, 20)])
        messages = await messages_of(kafka, intake.names.posts)
        assert {message.partition() for message in messages} == {0, 1, 2}
        assert len(messages) == 20


async def test_a_topic_that_is_missing_is_made(kafka: Kafka) -> None:
    """Also while the intake is open: somebody may have deleted it."""
    async with opened(settings_for(kafka.bootstrap)) as intake:
        intake._names = Names(f"{intake.names.prefix}-2")
        intake.cluster.wanted = {name.replace(".", "-2.", 1): how for name, how in intake.cluster.wanted.items()}
        assert await intake._look(whole=False) == f"topic {intake._names.posts} does not exist"
        assert await intake._look(whole=False) is None
        assert len(kafka.partitions(intake._names.posts)) == 3
