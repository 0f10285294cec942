"""Topics of a Kafka cluster: legal names, whether topics exist and may be written to, and creating them."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateTopicsRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest

from sinks.base import BatchRefused, Misconfigured, SinkError, Unavailable
from sinks.shared.clock import Clock

log = structlog.get_logger()

MAX_NAME_LENGTH = 249
"""Characters of a topic's name."""
CREATION_POLL_INTERVAL = 0.1
"""Seconds between checks whether a topic that is being created exists."""
CREATION_TIMEOUT_MS = 10_000
"""Milliseconds that a broker may take to create topics."""
INTERNAL = ("__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata")
"""Topics of Kafka's own, to which brokers let no client write."""
_BROKER_DEFAULT = -1


class TopicUnusable(Misconfigured):
    """A topic takes nothing until a person acts. Others may."""

    def __init__(self, topic: str, message: str) -> None:
        super().__init__(message)
        self.topic = topic


class NotAuthorized(TopicUnusable):
    """A right on a topic is missing."""

    def __init__(self, topic: str) -> None:
        super().__init__(topic, f"not authorized for topic {topic}")


class TopicMissing(TopicUnusable):
    """A topic does not exist."""

    def __init__(self, topic: str) -> None:
        super().__init__(topic, missing_topics_message([topic]))


Faults = dict[str, SinkError]
"""Topic -> why it can't be written to: TopicUnusable, Unavailable, or BatchRefused if there can be no such topic."""


def legal_topic_name(name: str) -> str:
    """`name` with every character that is illegal in a topic's name replaced by `_`, cut to MAX_NAME_LENGTH. The name of an
    internal topic loses its first character."""
    name = re.sub(r"[^a-zA-Z0-9._-]", "_", name)[:MAX_NAME_LENGTH]
    if name in INTERNAL:
        return name[1:]
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
    """How to create topics. None: with the broker's default. config: what else differs from that, by Kafka's names."""

    partitions: int | None
    replication_factor: int | None
    config: Mapping[str, str] = field(default_factory=dict)


class Topics:
    """The topics that `client` sees. new_topics: how to create missing ones, or None to create none."""

    def __init__(self, client: AIOKafkaClient, new_topics: NewTopics | None, clock: Clock) -> None:
        self._client = client
        self._new_topics = new_topics
        self._clock = clock

    async def missing(self, names: Iterable[str]) -> tuple[list[str], Faults]:
        """Those of `names` that don't exist, and why others can't be used. Raises Unavailable."""
        found = await self.describe(names)
        faults = {}
        for name, topic in found.items():
            error = errors.for_code(topic["error_code"])
            if error not in (errors.NoError, errors.UnknownTopicOrPartitionError, errors.LeaderNotAvailableError):
                faults[name] = topic_error(error, name)
        return sorted(name for name in found.keys() - faults.keys() if not found[name]["partitions"]), faults

    async def ensure(self, names: Collection[str]) -> Faults:
        """Create missing topics if that is configured. Returns why topics can't be used. Raises Unavailable."""
        missing, faults = await self.missing(names)
        if self._new_topics is None:
            return faults | {name: TopicMissing(name) for name in missing}
        if missing:
            refused = await self._create(missing, self._new_topics, validate_only=False)
            faults |= refused
            missing = [name for name in missing if name not in refused]
        while missing and (await self.missing(missing))[0]:
            await self._clock.sleep(CREATION_POLL_INTERVAL)
        return faults

    async def check(self, names: Collection[str], writes: bool = True) -> Faults:
        """Why topics can't be used, or created if that is configured. Changes nothing. Raises Unavailable.

        writes: whether they will be written to
        """
        missing, faults = await self.missing(names)
        if self._new_topics is None:
            faults |= {name: TopicMissing(name) for name in missing}
        elif missing:
            faults |= await self._create(missing, self._new_topics, validate_only=True)
        return faults | (await self._unwritable(set(names).difference(missing, faults)) if writes else {})

    async def _unwritable(self, names: Collection[str]) -> Faults:
        """Which topics may not be written to.

        Produces an empty batch, which brokers refuse after they have checked the privileges.
        """
        nothing = [(name, [(0, b"")]) for name in names]
        answer = await self.ask(ProduceRequest(None, -1, 1000, nothing))
        found = {name: errors.for_code(partitions[0][1]) for name, partitions in answer.topics}
        denied = errors.TopicAuthorizationFailedError
        return {name: topic_error(error, name) for name, error in found.items() if error is denied}

    async def diagnose(self, name: str, partition: int) -> str:
        """Why a partition may accept nothing, or an empty string."""
        try:
            topic = (await self.describe([name]))[name]
        except Unavailable as error:
            return str(error)
        for one in topic["partitions"]:
            if one["partition"] == partition and one["leader"] == -1:
                return "the partition has no leader"
            if one["partition"] == partition and len(one["isr"]) < len(one["replicas"]):
                return f"{len(one['isr'])} of its {len(one['replicas'])} replicas are in sync"
        return "" if topic["partitions"] else "the topic no longer exists"

    async def describe(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Metadata of each topic. Does not create missing ones, even if the broker creates topics automatically."""
        answer = await self.ask(MetadataRequest(sorted(names), allow_auto_topic_creation=False))
        return {topic["topic"]: topic for topic in answer.to_object()["topics"]}

    async def ask(self, request: Any) -> Any:
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

    async def _create(self, names: Iterable[str], new_topics: NewTopics, validate_only: bool) -> Faults:
        partitions = new_topics.partitions or _BROKER_DEFAULT
        factor = new_topics.replication_factor or _BROKER_DEFAULT
        wanted: list[Any] = [(name, partitions, factor, [], list(new_topics.config.items())) for name in names]
        answer = await self.ask(CreateTopicsRequest(wanted, CREATION_TIMEOUT_MS, validate_only=validate_only))
        created = (errors.NoError, errors.TopicAlreadyExistsError)
        found = {name: (errors.for_code(code), message) for name, code, *message in answer.topic_errors}
        for name, (error, _) in found.items():
            if error is errors.NoError and not validate_only:
                log.info("topic made", topic=name, partitions=new_topics.partitions, replicas=new_topics.replication_factor)
        return {name: topic_error(error, name, *more) for name, (error, more) in found.items() if error not in created}


def missing_topics_message(names: Collection[str]) -> str:
    """What to tell a person about missing topics."""
    noun = "topic does" if len(names) == 1 else "topics do"
    return f"{noun} not exist: {', '.join(names)}; create with Kafka's tools, or set create_topics = true"


def topic_error(error: type[Exception], topic: str, message: str | None = None) -> SinkError:
    """The sink error for an error of a request about a topic."""
    if error is errors.TopicAuthorizationFailedError or error is errors.ClusterAuthorizationFailedError:
        return NotAuthorized(topic)
    text = f"topic {topic}: {message or getattr(error, 'description', '') or error.__name__}"
    if error is errors.InvalidTopicError:
        return BatchRefused(text)
    return Unavailable(text) if getattr(error, "retriable", False) else TopicUnusable(topic, text)
