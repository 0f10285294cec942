"""What `btfeed check` says of a journal in Kafka, and an intake whose user may not do everything."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from confluent_kafka.admin import AclOperation

from btfeed.journal.base import Found, JournalUnavailable
from btfeed.journal.kafka.cluster import checks
from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.settings import KafkaJournalSettings
from sinks.base import SinkError
from tests.journal.journals import post
from tests.journal.kafka.intakes import opened, settings_for
from tests.servers.kafka import PASSWORD, USER, Kafka, shared
from tests.support.harness import until_async
from tests.support.ports import free_port

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def kafka() -> Kafka:
    return shared()


def secured(kafka: Kafka, **more: object) -> KafkaJournalSettings:
    """A journal whose rights depend on the ACLs of its topics. They are made without security."""
    assert kafka.authority
    ca = str(kafka.authority.certificate)
    login = {"tls": True, "ca": ca, "sasl": "SCRAM-SHA-256", "username": USER, "password": PASSWORD}
    settings = settings_for(kafka.sasl, security=login, **more)
    for topic in ("posts", "dead-letters", "refused", "retries"):
        kafka.make_topic(f"{settings.prefix}.{topic}", cleanup_policy="compact" if topic == "dead-letters" else "delete")
    return settings


async def checked(settings: KafkaJournalSettings, **halves: bool) -> Mapping[str, str]:
    """Key -> what `check` says of it; empty if all is well."""
    found: dict[str, str] = {}
    for key, _, attempt in checks(settings, **halves):
        try:
            found[key] = await attempt
        except SinkError as error:
            found[key] = f"{type(error).__name__}: {error}"
    return found


async def test_each_missing_right_is_named(kafka: Kafka) -> None:
    """And what it is missing on. From the first ACL of a topic on, everything on it must be allowed."""
    settings = secured(kafka, strict=False)
    posts, retries = f"{settings.prefix}.posts", f"{settings.prefix}.retries"
    assert "Misconfigured" not in str(await checked(settings))
    kafka.allow(posts, "other", AclOperation.ALL)
    found = await checked(settings)
    assert found["prefix"] == f"Misconfigured: the right DESCRIBE on topic {posts} is missing"
    assert found["bootstrap_servers"] == ""
    kafka.allow(posts, USER, AclOperation.READ)
    found = await checked(settings)
    assert found["prefix"] == f"Misconfigured: the right WRITE on topic {posts} is missing"
    assert found["security"] == ""
    kafka.allow(posts, USER, AclOperation.WRITE)
    found = await checked(settings)
    assert (
        f"topic {posts}: its configuration is not checked, since the right DESCRIBE_CONFIGS is missing" in found["prefix"]
    )
    kafka.allow(retries, USER, AclOperation.WRITE)
    found = await checked(settings)
    assert found["security"] == f"Misconfigured: the right READ on topic {retries} is missing"


async def test_without_the_right_to_write_posts_are_refused(kafka: Kafka) -> None:
    """Also if it is withdrawn while posts come. They are taken once it is there again."""
    settings = secured(kafka)
    posts = f"{settings.prefix}.posts"
    async with opened(settings) as intake:
        await intake.append(post(1))
        kafka.allow(posts, USER, AclOperation.DESCRIBE)
        with pytest.raises(JournalUnavailable, match=f"TopicAuthorizationFailed|WRITE on topic {posts}"):
            await intake.append(post(2))
        assert "Kafka takes no posts since" in (intake.refusing or "")
        kafka.allow(posts, USER, AclOperation.WRITE)
        await until_async(lambda: intake.refusing is None, "the intake works")
        await intake.append(post(3))


async def test_check_says_what_is_wrong_with_topics(kafka: Kafka, tmp_path: Path) -> None:
    """What they would lose, what posts they refuse, and what is not as configured. It changes nothing."""
    settings = settings_for(kafka.bootstrap, spill={"directory": str(tmp_path / "spill")})
    found = await checked(settings)
    made = f"btfeed makes what does not exist yet: {', '.join(Names(settings.prefix).topics)}"
    assert found == {
        "bootstrap_servers": "", "prefix": made, "replication_factor": "", "security": "", "spill.directory": "",
    }  # fmt: skip
    assert isinstance(found["prefix"], Found)  # no warning
    assert kafka.partitions(f"{settings.prefix}.posts") == {}
    posts = kafka.make_topic(f"{settings.prefix}.posts")
    kafka.set_config(posts, max_message_bytes="100000", retention_ms="3600000", cleanup_policy="compact")
    found = await checked(settings)
    assert f"topic {posts}: it takes posts of 98976 bytes at most (max.message.bytes 100000)" in found["prefix"]
    assert f"topic {posts} keeps messages for 1h (retention.ms), less than configured (168h)" in found["prefix"]
    assert f"topic {posts} has cleanup.policy compact: messages are kept for ever; set it to delete" in found["prefix"]
    assert f"topic {posts} has 1 partitions, fewer than configured (3)" in found["prefix"]
    assert f"topic {posts} has 1 of 3 replicas" in found["replication_factor"]
    strict = await checked(settings.model_copy(update={"strict": True}))
    assert strict["replication_factor"].startswith("Misconfigured: ")
    kafka.set_config(posts, min_insync_replicas="2")
    assert (
        "has 1 replicas and min.insync.replicas 2: it takes nothing while"
        in (await checked(settings))["replication_factor"]
    )


async def test_more_replicas_than_there_are_are_not_needed(kafka: Kafka) -> None:
    """As brokers since Kafka 4.0 see it: a post is taken, and what the setting means is told."""
    settings = settings_for(kafka.bootstrap)
    kafka.set_config(kafka.make_topic(f"{settings.prefix}.posts"), min_insync_replicas="2")
    async with opened(settings) as intake:
        await intake.append(post(1))
        assert intake.refusing is None


async def test_check_says_that_topics_are_missing_or_cant_be_made(kafka: Kafka) -> None:
    """As serving would find."""
    missing = await checked(settings_for(kafka.bootstrap, create_topics=False))
    assert "create_topics = true in [journal]" in missing["prefix"]
    many = await checked(settings_for(kafka.bootstrap, replication_factor=3, min_insync_replicas=2))
    assert "target replication factor of 3 cannot be reached" in many["prefix"]
    nowhere = await checked(settings_for(f"127.0.0.1:{free_port()}"))
    assert list(nowhere) == ["bootstrap_servers"]  # that is said once
    assert nowhere["bootstrap_servers"].startswith("Unavailable: 127.0.0.1:")


async def test_halves_check_what_they_need(kafka: Kafka, tmp_path: Path) -> None:
    """A receiver reads nothing and has two topics; a deliverer has no spill, and writes no posts."""
    settings = secured(kafka, strict=False, spill={"directory": str(tmp_path / "spill")})
    kafka.allow(f"{settings.prefix}.posts", USER, AclOperation.DESCRIBE)
    kafka.allow(f"{settings.prefix}.retries", "other", AclOperation.ALL)
    receiver = await checked(settings, delivers=False)
    assert list(receiver) == ["bootstrap_servers", "prefix", "replication_factor", "spill.directory"]
    assert receiver["prefix"] == f"Misconfigured: the right WRITE on topic {settings.prefix}.posts is missing"
    deliverer = await checked(settings, receives=False)
    assert list(deliverer) == ["bootstrap_servers", "prefix", "replication_factor", "security"]
    assert deliverer["prefix"] == f"Misconfigured: the right DESCRIBE on topic {settings.prefix}.retries is missing"


async def test_wrong_credentials_are_misconfigured(kafka: Kafka) -> None:
    """The intake opens all the same, since posts would be lost, and says what is wrong."""
    settings = secured(kafka)
    wrong = settings.security.model_copy(update={"username": "somebody"})
    async with opened(settings.model_copy(update={"security": wrong})) as intake:
        assert "rejects user 'somebody'" in (intake.refusing or "")
        assert PASSWORD not in (intake.refusing or "")


async def test_the_strict_intake_does_not_open(kafka: Kafka) -> None:
    """If a person has to act."""
    settings = settings_for(kafka.bootstrap, strict=True, create_topics=False)
    with pytest.raises(JournalUnavailable, match="does not exist"):
        async with opened(settings):
            pass
    assert not [task for task in asyncio.all_tasks() if task.get_name() in ("producer", "spill")]
