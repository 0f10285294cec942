"""Topics of a Kafka cluster: their names, whether they are there and may be written to, and how they are made."""

import asyncio
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

LONGEST = 249
"""Characters of a topic's name."""
POLL = 0.1
"""Seconds between looks for a topic that is being made."""
MAKING_TIMEOUT = 10_000
"""Milliseconds that a broker may take to make topics."""
_BROKER_DECIDES = -1


def legal(name: str) -> str:
    """The name of a topic, made of whatever is in a record: what may not be in one becomes `_`."""
    name = re.sub(r"[^a-zA-Z0-9._-]", "_", name)[:LONGEST]
    return name if name.strip(".") or len(name) > 2 else "_" * max(1, len(name))


@dataclass(frozen=True, slots=True)
class Making:
    """Missing topics are made like this. None: as the broker does by default."""

    partitions: int | None
    replication_factor: int | None


class Topics:
    """The topics that `client` sees. `making`: how to make missing ones, None where that is not wanted."""

    def __init__(self, client: AIOKafkaClient, making: Making | None) -> None:
        self._client = client
        self._making = making

    async def missing(self, names: Iterable[str]) -> list[str]:
        """Those that are not there. Raises Unavailable, or Misconfigured for one that may not be seen."""
        found = await self._describe(names)
        for topic in found.values():
            error = errors.for_code(topic["error_code"])
            if error not in (errors.NoError, errors.UnknownTopicOrPartitionError, errors.LeaderNotAvailableError):
                raise problem(error, topic["topic"])
        return sorted(name for name, topic in found.items() if not topic["partitions"])

    async def find(self, names: Collection[str]) -> None:
        """Make sure that all are there. Raises Unavailable or Misconfigured."""
        missing = await self.missing(names)
        if not missing:
            return
        if self._making is None:
            raise Misconfigured(absent(missing))
        await self._make(missing, self._making, only_ask=False)
        while await self.missing(missing):  # noqa: ASYNC110 - it is the brokers that we wait for
            await asyncio.sleep(POLL)

    async def could_make(self, names: Collection[str]) -> None:
        """Raises Unavailable, or Misconfigured where they may not be made, or not so."""
        await self._make(names, self._making or Making(None, None), only_ask=True)

    async def may_write(self, names: Collection[str]) -> None:
        """Ask by producing nothing: rights are looked at before that is refused. Raises Unavailable or Misconfigured."""
        nothing = [(name, [(0, b"")]) for name in names]
        answer = await self._ask(ProduceRequest(None, -1, 1000, nothing))
        for name, partitions in answer.topics:
            error = errors.for_code(partitions[0][1])
            if error is errors.TopicAuthorizationFailedError:
                raise problem(error, name)

    async def trouble(self, name: str, partition: int) -> str:
        """What seems to be wrong with a partition that takes nothing, in words."""
        try:
            topic = (await self._describe([name]))[name]
        except Unavailable as error:
            return str(error)
        for one in topic["partitions"]:
            if one["partition"] == partition and one["leader"] == -1:
                return "the partition has no leader"
            if one["partition"] == partition and len(one["isr"]) < len(one["replicas"]):
                return f"{len(one['isr'])} of its {len(one['replicas'])} replicas are in sync"
        return "" if topic["partitions"] else "the topic is gone"

    async def _describe(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """By name. Nothing is made of a topic that is not there, though the broker may do so for whoever asks."""
        answer = await self._ask(MetadataRequest(sorted(names), allow_auto_topic_creation=False))
        return {topic["topic"]: topic for topic in answer.to_object()["topics"]}

    async def _ask(self, request: Any) -> Any:
        """The answer of the first broker that gives one; the controller is asked first, which alone makes topics on older
        clusters."""
        nodes = [broker.nodeId for broker in self._client.cluster.brokers()]
        controller = self._client.cluster.controller
        failure: Exception = errors.NoBrokersAvailable()
        for node in sorted(nodes, key=lambda node: controller is None or node != controller.nodeId):
            try:
                return await self._client.send(node, request)
            except errors.KafkaError as error:
                failure = error
        raise Unavailable(f"no broker answers: {failure}") from failure

    async def _make(self, names: Iterable[str], making: Making, only_ask: bool) -> None:
        partitions = making.partitions or _BROKER_DECIDES
        factor = making.replication_factor or _BROKER_DECIDES
        wanted: list[Any] = [(name, partitions, factor, [], []) for name in names]
        answer = await self._ask(CreateTopicsRequest(wanted, MAKING_TIMEOUT, validate_only=only_ask))
        for name, code, *said in answer.topic_errors:
            error = errors.for_code(code)
            if error not in (errors.NoError, errors.TopicAlreadyExistsError):
                raise problem(error, name, *said)


def absent(names: Collection[str]) -> str:
    return f"there is no topic {', '.join(names)}; make it, or let it be made with create_topics = true"


def problem(error: type[Exception], topic: str, said: str | None = None) -> SinkError:
    """What an error says of a topic that is asked for or made."""
    if error is errors.TopicAuthorizationFailedError or error is errors.ClusterAuthorizationFailedError:
        return Misconfigured(f"not authorised for topic {topic}")
    message = f"topic {topic}: {said or getattr(error, 'description', '') or error.__name__}"
    return Unavailable(message) if getattr(error, "retriable", False) else Misconfigured(message)
