"""What brokers must allow: with these rights everything works, and each one that is missing is named."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from btfeed.journal import create as journals
from btfeed.journal.base import JournalError
from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.records.schema import MAPS, RECORD_FIELDS
from sinks.base import Misconfigured, SinkContext, SinkError
from sinks.kafka.settings import KafkaSettings
from sinks.kafka.sink import KafkaSink
from tests.journal.kafka.intakes import settings_for
from tests.servers.kafka import PASSWORD, READY, USER, Kafka, shared

pytestmark = pytest.mark.kafka

Right = tuple[str, ResourceType, str]
"""An operation, what kind of thing it is for, and the thing's name after the prefix; "*" for all with the prefix."""
TOPIC, GROUP, TRANSACTIONAL_ID = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID
CHECK: Sequence[Right] = [("DESCRIBE_CONFIGS", TOPIC, "*")]
RECEIVE: Sequence[Right] = [("WRITE", TOPIC, ".posts"), ("WRITE", TOPIC, ".refused")]
DELIVER: Sequence[Right] = [
    ("READ", TOPIC, ".posts"),
    ("READ", TOPIC, ".retries"),
    ("READ", TOPIC, ".dead-letters"),
    ("READ", TOPIC, ".refused"),
    ("READ", GROUP, "*"),
    ("WRITE", TOPIC, ".dead-letters"),
    ("WRITE", TOPIC, ".retries"),
]
ALL = [*CHECK, *RECEIVE, *DELIVER]


def secured(kafka: Kafka) -> KafkaJournalSettings:
    """The journal of a user who may do nothing yet with what has its prefix: somebody else may, so brokers ask."""
    assert kafka.authority
    login = {"sasl": "PLAIN", "username": USER, "password": PASSWORD}
    settings = settings_for(kafka.sasl, security={"tls": True, "ca": str(kafka.authority.certificate)} | login)
    allow(kafka, settings.prefix, [("READ", TOPIC, "*"), ("READ", GROUP, "*")], "somebody")
    return settings


def allow(kafka: Kafka, prefix: str, rights: Sequence[Right], user: str = USER) -> None:
    """Returns when the brokers know."""
    admin = kafka.admin()
    for done in admin.create_acls([_binding(prefix, right, user) for right in rights]).values():
        done.result(READY)


def _binding(prefix: str, right: Right, user: str) -> AclBinding:
    operation, kind, name = right
    pattern = ResourcePatternType.PREFIXED if name == "*" else ResourcePatternType.LITERAL
    named = (kind, prefix + name.rstrip("*"), pattern, f"User:{user}", "*")
    return AclBinding(*named, AclOperation[operation], AclPermissionType.ALLOW)


@contextmanager
def denied(kafka: Kafka, operation: AclOperation) -> Iterator[None]:
    """The user may not do this with the cluster."""
    named = (ResourceType.BROKER, "kafka-cluster", ResourcePatternType.LITERAL, f"User:{USER}", "*", operation)
    admin = kafka.admin()
    (made,) = admin.create_acls([AclBinding(*named, AclPermissionType.DENY)]).values()
    made.result(READY)
    try:
        yield
    finally:
        (gone,) = admin.delete_acls([AclBindingFilter(*named, AclPermissionType.DENY)]).values()
        assert len(gone.result(READY)) == 1


def make_topics(kafka: Kafka, prefix: str) -> None:
    """As an administrator makes them for a btfeed that may not."""
    names = Names(prefix)
    for name in (names.posts, names.refused, names.retries):
        kafka.make_topic(name)
    kafka.make_topic(names.dead_letters, cleanup_policy="compact")


async def said(settings: KafkaJournalSettings) -> dict[str, str]:
    """What `btfeed check` says: the key in [journal] -> what fails, or is not checked for lack of a right."""
    found = {}
    for key, _, attempt in journals.checks(settings):
        try:
            note = await attempt
            if "right" in note:
                found[key] = note
        except (JournalError, SinkError) as error:
            found[key] = str(error)
    return found


@pytest.mark.slow
async def test_nothing_else_is_needed() -> None:
    """With all of these rights, nothing is missing."""
    settings = secured(shared())
    make_topics(shared(), settings.prefix)
    allow(shared(), settings.prefix, ALL)
    assert await said(settings) == {}


@pytest.mark.parametrize("right", ALL, ids=lambda right: f"{right[0]}-{right[1].name}{right[2]}")
async def test_a_right_that_is_missing_is_named(right: Right) -> None:
    """With its operation and what it is for."""
    settings = secured(shared())
    make_topics(shared(), settings.prefix)
    allow(shared(), settings.prefix, [other for other in ALL if other is not right])
    told = " ".join((await said(settings)).values())
    assert right[0] in told
    assert settings.prefix + right[2].rstrip("*") in told


async def test_a_sink_needs_its_transactional_id() -> None:
    """With exactly_once. It is named when the sink opens, and by a check, which takes no other sink's place."""
    settings = secured(shared())
    allow(shared(), settings.prefix, [("WRITE", TRANSACTIONAL_ID, "*")], "somebody")
    topic = shared().make_topic(f"{settings.prefix}.records")
    allow(shared(), settings.prefix, [("WRITE", TOPIC, ".records")])
    given = {"cluster": "journal", "exactly_once": True, "topic": topic}
    found = KafkaSettings.model_validate(given).with_journal(settings.bootstrap_servers, settings.security)

    async def attempt(owner: str, method: str) -> None:
        sink = KafkaSink(found, SinkContext("once", RECORD_FIELDS, MAPS, transactional_id=owner))
        try:
            await (sink.open(None) if method == "open" else sink.check())
        finally:
            await sink.close()

    partition, check = journals.transactional_id(settings, "once", 3), journals.transactional_id(settings, "once")
    assert partition != check
    for owner, method in ((partition, "open"), (check, "check")):
        with pytest.raises(Misconfigured, match=f"^the right WRITE on transactional id {re.escape(owner)} is missing"):
            await attempt(owner, method)
    allow(shared(), settings.prefix, [("WRITE", TRANSACTIONAL_ID, "*")])
    await attempt(partition, "open")
    await attempt(check, "check")


async def test_topics_that_may_not_be_made_are_named() -> None:
    """If they are missing, and the user may neither make topics nor these."""
    settings = secured(shared())
    allow(shared(), settings.prefix, ALL)
    with denied(shared(), AclOperation.CREATE):
        told = await said(settings)
    assert f"the right CREATE on topic {settings.prefix}.posts is missing" in told["prefix"]
    allow(shared(), settings.prefix, [("CREATE", TOPIC, "*")])
    assert await said(settings) == {}
