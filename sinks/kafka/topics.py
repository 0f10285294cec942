"""Topics of a Kafka cluster: legal names, whether topics exist and may be written to, and creating them."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateTopicsRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest

from sinks.base import Misconfigured, SinkError, Unavailable
from sinks.shared.clock import Clock

MAX_NAME_LENGTH = 249
"""Characters of a topic's name."""
CREATION_POLL_INTERVAL = 0.1
"""Seconds between checks whether a topic that is being created exists."""
CREATION_TIMEOUT_MS = 10_000
"""Milliseconds that a broker may take to create topics."""
_BROKER_DEFAULT = -1


def legal_topic_name(name: str) -> str:
    """`name` with every character that is illegal in a topic's name replaced by `_`, cut to MAX_NAME_LENGTH."""
    name = re.sub(r"[^a-zA-Z0-9._-]", "_", name)[:MAX_NAME_LENGTH]
    return name if name.strip(".") or len(name) > 2 else "_" * max(1, len(name))


def check_topic(text: str) -> str:
    """`text` if it is a usable template of topics' names. Raises ValueError."""
    placeholders = re.findall(r"\{[^{}]*\}", text)
    if not text:
        raise ValueError("must not be empty")
    if len(text) - len("".join(placeholders)) > MAX_NAME_LENGTH - 32 * len(placeholders):
        raise ValueError(f"is too long: a name has at most {MAX_NAME_LENGTH} characters; each placeholder needs 32 of them")
    return text


@dataclass(frozen=True, slots=True)
class NewTopics:
    """How to create topics. None: with the broker's default."""

    partitions: int | None
    replication_factor: int | None


class Topics:
    """The topics that `client` sees. new_topics: how to create missing ones, or None to create none."""

    def __init__(self, client: AIOKafkaClient, new_topics: NewTopics | None, clock: Clock) -> None:
        self._client = client
        self._new_topics = new_topics
        self._clock = clock

    async def missing(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that don't exist. Raises Unavailable, or Misconfigured if one may not be seen."""
        found = await self._describe(names)
        for topic in found.values():
            error = errors.for_code(topic["error_code"])
            if error not in (errors.NoError, errors.UnknownTopicOrPartitionError, errors.LeaderNotAvailableError):
                raise topic_error(error, topic["topic"])
        return sorted(name for name, topic in found.items() if not topic["partitions"])

    async def ensure(self, names: Collection[str]) -> None:
        """Create missing topics if that is configured. Raises Unavailable or Misconfigured unless all exist afterwards."""
        missing = await self.missing(names)
        if not missing:
            return
        if self._new_topics is None:
            raise Misconfigured(missing_topics_message(missing))
        await self._create(missing, self._new_topics, validate_only=False)
        while await self.missing(missing):
            await self._clock.sleep(CREATION_POLL_INTERVAL)

    async def check_creatable(self, names: Collection[str]) -> None:
        """Raises Unavailable, or Misconfigured if the topics could not be created as configured. Creates nothing."""
        await self._create(names, self._new_topics or NewTopics(None, None), validate_only=True)

    async def check_writable(self, names: Collection[str]) -> None:
        """Raises Unavailable, or Misconfigured if a topic may not be written to.

        Produces an empty batch, which brokers refuse after they have checked the privileges.
        """
        nothing = [(name, [(0, b"")]) for name in names]
        answer = await self._ask(ProduceRequest(None, -1, 1000, nothing))
        for name, partitions in answer.topics:
            error = errors.for_code(partitions[0][1])
            if error is errors.TopicAuthorizationFailedError:
                raise topic_error(error, name)

    async def diagnose(self, name: str, partition: int) -> str:
        """Why a partition may accept nothing, or an empty string."""
        try:
            topic = (await self._describe([name]))[name]
        except Unavailable as error:
            return str(error)
        for one in topic["partitions"]:
            if one["partition"] == partition and one["leader"] == -1:
                return "the partition has no leader"
            if one["partition"] == partition and len(one["isr"]) < len(one["replicas"]):
                return f"{len(one['isr'])} of its {len(one['replicas'])} replicas are in sync"
        return "" if topic["partitions"] else "the topic no longer exists"

    async def _describe(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Metadata of each topic. Does not create missing ones, even if the broker creates topics automatically."""
        answer = await self._ask(MetadataRequest(sorted(names), allow_auto_topic_creation=False))
        return {topic["topic"]: topic for topic in answer.to_object()["topics"]}

    async def _ask(self, request: Any) -> Any:
        """The reply of the first broker that replies. Asks the controller first: in old clusters only it creates topics."""
        nodes = [broker.nodeId for broker in self._client.cluster.brokers()]
        controller = self._client.cluster.controller
        failure: Exception = errors.NoBrokersAvailable()
        for node in sorted(nodes, key=lambda node: controller is None or node != controller.nodeId):
            try:
                return await self._client.send(node, request)
            except errors.KafkaError as error:
                failure = error
        raise Unavailable(f"no broker replies: {failure}") from failure

    async def _create(self, names: Iterable[str], new_topics: NewTopics, validate_only: bool) -> None:
        partitions = new_topics.partitions or _BROKER_DEFAULT
        factor = new_topics.replication_factor or _BROKER_DEFAULT
        wanted: list[Any] = [(name, partitions, factor, [], []) for name in names]
        answer = await self._ask(CreateTopicsRequest(wanted, CREATION_TIMEOUT_MS, validate_only=validate_only))
        for name, code, *message in answer.topic_errors:
            error = errors.for_code(code)
            if error not in (errors.NoError, errors.TopicAlreadyExistsError):
                raise topic_error(error, name, *message)


def missing_topics_message(names: Collection[str]) -> str:
    """What to tell a person about missing topics."""
    noun = "topic does" if len(names) == 1 else "topics do"
    return f"{noun} not exist: {', '.join(names)}; create with Kafka's tools, or set create_topics = true"


def topic_error(error: type[Exception], topic: str, message: str | None = None) -> SinkError:
    """The sink error for an error of a request about a topic."""
    if error is errors.TopicAuthorizationFailedError or error is errors.ClusterAuthorizationFailedError:
        return Misconfigured(f"not authorized for topic {topic}")
    text = f"topic {topic}: {message or getattr(error, 'description', '') or error.__name__}"
    return Unavailable(text) if getattr(error, "retriable", False) else Misconfigured(text)
