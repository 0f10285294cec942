"""What a journal asks its brokers besides taking and giving posts: its topics, their configuration, rights and lag.

A Cluster has one client, which connects when it is first used, and again after a failure. Its methods raise
sinks.base.Unavailable if no broker replies, and Misconfigured if a person has to act.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from btfeed.journal.base import Found
from btfeed.journal.kafka import clients
from btfeed.journal.kafka import overview as views
from btfeed.journal.kafka.names import Names
from btfeed.journal.kafka.settings import KafkaJournalSettings
from btfeed.journal.kafka.topics import TopicState, differences, durability, new_topics
from btfeed.journal.sqlite.check import check_journal
from sinks.base import Misconfigured, Unavailable
from sinks.kafka.access import ClusterAccess
from sinks.kafka.steady import steady
from sinks.kafka.topics import Faults, NewTopics, NotAuthorized, TopicMissing, Topics
from sinks.shared.clock import SYSTEM_CLOCK, Clock

MAX_BODY = 16 * 2**20
"""Bytes: the default of `receiver.max_body`."""
AT_A_TIME = 3
"""Brokers that get a question that any of them can answer."""
COORDINATOR_PAUSE = 0.2
"""Seconds until brokers that have no coordinator of a group yet are asked again."""
_TOPIC = 2
"""A topic, in requests about configuration."""
_ASKED = (
    "cleanup.policy",
    "max.message.bytes",
    "min.insync.replicas",
    "retention.bytes",
    "retention.ms",
    "unclean.leader.election.enable",
)
_NOT_ALLOWED = (errors.TopicAuthorizationFailedError, errors.ClusterAuthorizationFailedError)


async def _first_of(attempts: Iterable["asyncio.Task[Any]"]) -> "asyncio.Task[Any] | None":
    """The first attempt that succeeds, when it does; None if all fail."""
    waiting = set(attempts)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and not task.exception():
                return task
    return None


class Cluster:
    """max_body: `receiver.max_body`, in bytes."""

    def __init__(self, settings: KafkaJournalSettings, max_body: int = MAX_BODY, clock: Clock = SYSTEM_CLOCK) -> None:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it logs every attempt; we log what comes of it
        self.names = Names(settings.prefix)
        self.access = ClusterAccess(settings.bootstrap_servers, settings.security, settings.request_timeout, clock)
        self.wanted = new_topics(settings, max_body)
        self.max_body = max_body
        self._settings = settings
        self._clock = clock
        self._client: AIOKafkaClient | None = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        await self._disconnect()
        await self.access.close()

    # Requests

    async def connect(self) -> AIOKafkaClient:
        """The client. Raises Unavailable or Misconfigured with the reason."""
        async with self._connecting:
            if self._client is None:
                metadata = await self.access.verify()
                client = AIOKafkaClient(**self.access.client_arguments())
                steady(client, metadata)
                await client.bootstrap()
                self._client = client
            return self._client

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client:
            await clients.close(client)

    async def ask(self, request: Any, node: int | None = None) -> Any:
        """The reply of this broker; without `node`, of the first of several that replies."""
        client = await self.connect()
        nodes = [broker.nodeId for broker in client.cluster.brokers()] if node is None else [node]
        asked = [
            asyncio.create_task(client.send(each, request)) for each in random.sample(nodes, min(len(nodes), AT_A_TIME))
        ]
        try:
            first = await _first_of(asked)
        finally:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if first is None:
            await self._disconnect()  # brokers may have other addresses by now
            raise Unavailable("no broker replies" if node is None else f"broker {node} does not reply")
        return first.result()

    async def metadata(self, names: Collection[str]) -> dict[str, Any]:
        """What brokers say of themselves and of these topics. Makes no topic."""
        reply = await self.ask(MetadataRequest(sorted(names), allow_auto_topic_creation=False))
        found: dict[str, Any] = reply.to_object()
        return found

    async def offsets(
        self, topic: TopicState, time: int | Mapping[int, int], silent: set[int] | None = None
    ) -> dict[int, int]:
        """The offset in each partition that has a leader of the first message of this time or later, in milliseconds since
        the epoch; -1 where there are none.

        time    or overview.EARLIEST or LATEST, or one for each partition meant
        silent  leaders that do not reply are added to it, and their partitions are missing; None: Unavailable is raised
        """
        by_leader: dict[int, list[tuple[int, int]]] = {}
        for each in topic.partitions:
            at = time if isinstance(time, int) else time.get(each.number)
            if each.leader >= 0 and at is not None:
                by_leader.setdefault(each.leader, []).append((each.number, at))
        found: dict[int, int] = {}
        for leader, partitions in by_leader.items():
            if silent is not None and leader in silent:
                continue
            try:
                reply = await self.ask(OffsetRequest(-1, 0, [(topic.name, partitions)]), leader)
            except Unavailable:
                if silent is None:
                    raise
                silent.add(leader)
                continue
            for _, answers in reply.topics:
                found |= {number: offset for number, code, _, offset, *_ in answers if not code}
        return found

    async def coordinator(self, group: str, right: str = "DESCRIBE") -> int:
        """The broker that keeps a group. right: what is said to be missing if we may not know it. A new cluster has no such
        broker until it has made its topic of offsets."""
        deadline = self._clock.monotonic() + self._settings.request_timeout
        while True:
            reply = await self.ask(FindCoordinatorRequest(group, 0))
            if error := self.denied(reply.error_code, right, f"group {group}"):
                raise error
            if not reply.error_code:
                node: int = reply.coordinator_id
                return node
            if self._clock.monotonic() > deadline:
                raise Unavailable(f"group {group} has no coordinator: {errors.for_code(reply.error_code).__name__}")
            await self._clock.sleep(COORDINATOR_PAUSE)

    @staticmethod
    def denied(code: int, right: str, what: str) -> Misconfigured | None:
        """The error if this code says that a right is missing."""
        missing = (*_NOT_ALLOWED, errors.GroupAuthorizationFailedError)
        return Misconfigured(f"the right {right} on {what} is missing") if errors.for_code(code) in missing else None

    # Topics

    async def topics(self, names: Collection[str]) -> dict[str, TopicState]:
        """Those of these topics that exist. Raises Misconfigured if we may not know of one."""
        described = (await self.metadata(names))["topics"]
        for each in described:
            if error := self.denied(each["error_code"], "DESCRIBE", f"topic {each['topic']}"):
                raise error
        existing = {each["topic"]: each for each in described if each["partitions"]}
        configs = await self._configs(existing) if existing else {}
        return {name: TopicState.of(each, configs.get(name)) for name, each in existing.items()}

    async def _configs(self, names: Collection[str]) -> dict[str, Mapping[str, str]]:
        """The configuration of each topic of which we may know it. A broker may not know a new topic yet."""
        deadline = self._clock.monotonic() + self._settings.request_timeout
        while True:
            reply = await self.ask(DescribeConfigsRequest([(_TOPIC, name, list(_ASKED)) for name in sorted(names)]))
            unknown = any(code == errors.UnknownTopicOrPartitionError.errno for code, *_ in reply.resources)
            if not unknown or self._clock.monotonic() > deadline:
                return {
                    name: {entry[0]: entry[1] for entry in each} for code, _, _, name, each in reply.resources if not code
                }
            await self._clock.sleep(COORDINATOR_PAUSE)

    async def prepare(self, names: Collection[str]) -> dict[str, TopicState]:
        """These topics of the journal, made if necessary. Raises Misconfigured if one is missing."""
        client = await self.connect()
        for name in names:
            found = Topics(client, self._how(name), self._clock)
            try:
                faults = await found.ensure([name])
            except Unavailable:
                await self._disconnect()
                raise
            await self._raise_fault(name, faults)
        return await self.topics(names)

    def _how(self, name: str) -> NewTopics | None:
        return self.wanted[name] if self._settings.create_topics else None

    async def _raise_fault(self, name: str, faults: Faults) -> None:
        """Raise what is wrong with a topic, if anything."""
        fault = faults.get(name)
        if isinstance(fault, NotAuthorized):
            described = (await self.metadata([name]))["topics"]
            hidden = any(self.denied(each["error_code"], "", "") for each in described)
            right = "DESCRIBE" if hidden else "CREATE" if not described[0]["partitions"] else "WRITE"
            raise Misconfigured(f"the right {right} on topic {name} is missing")
        if isinstance(fault, TopicMissing):
            raise Misconfigured(f"{fault} in [journal]")
        if fault:
            raise fault

    def warnings(self, topics: Mapping[str, TopicState]) -> list[str]:
        """How topics may lose what they have acknowledged. Raises Misconfigured instead if `strict`."""
        found = [text for name in sorted(topics) for text in durability(topics[name])]
        if found and self._settings.strict:
            raise Misconfigured("; ".join(found) + " (strict = true in [journal])")
        return found

    def differences(self, topics: Mapping[str, TopicState]) -> list[str]:
        """What is not as configured in topics that exist."""
        return [text for name, state in topics.items() for text in differences(state, self.wanted[name], self.max_body)]

    # For `btfeed check` and `btfeed status`

    async def check_reachable(self) -> None:
        """Whether a broker replies."""
        await self.connect()

    async def check_topics(self, receives: bool, delivers: bool) -> str:
        """What is not as configured in topics that exist, or that some will be made. Changes nothing. Raises Misconfigured
        if one could not be used or made."""
        client = await self.connect()
        used = self._used(delivers)
        for name in used:
            writes = receives if name == self.names.posts else True
            await self._raise_fault(name, await Topics(client, self._how(name), self._clock).check([name], writes))
        states = await self.topics(used)
        missing = [name for name in used if name not in states]
        made = f"btfeed makes what does not exist yet: {', '.join(missing)}"
        if different := "; ".join(self.differences(states)):
            return f"{different}; {made}" if missing else different
        return Found(made) if missing else ""

    async def check_durability(self, delivers: bool) -> str:
        """How topics that exist may lose what they have acknowledged."""
        return "; ".join(self.warnings(await self.topics(self._used(delivers))))

    def _used(self, delivers: bool) -> Sequence[str]:
        """The topics that a process needs."""
        return [name for name in self.wanted if delivers or name in (self.names.posts, self.names.refused)]

    async def check_reading(self) -> None:
        """Whether deliveries could read. Raises Misconfigured with the first right that is missing."""
        for state in (await self.topics(self.names.topics)).values():
            first = next((each for each in state.partitions if each.leader >= 0), None)
            if first:
                at = (first.number, 0, 1)
                reply = await self.ask(FetchRequest(0, 0, 1, 0, [(state.name, [at])]), first.leader)
                for _, answers in reply.topics:
                    if error := self.denied(answers[0][1], "READ", f"topic {state.name}"):
                        raise error
        group = self.names.group("check")
        reply = await self.ask(HeartbeatRequest(group, -1, ""), await self.coordinator(group, "READ"))
        if error := self.denied(reply.error_code, "READ", f"group {group}, and on those of all sinks,"):
            raise error

    async def overview(self, sinks: Sequence[str]) -> views.Overview:
        """The journal as its brokers see it."""
        return await views.take(self, sinks)


def checks(
    settings: KafkaJournalSettings, max_body: int = MAX_BODY, *, receives: bool = True, delivers: bool = True
) -> Iterator[tuple[str, str, Awaitable[str]]]:
    """What `btfeed check` tries, see btfeed.journal.create.checks. If no broker replies, nothing else is asked of them."""
    replies = False

    async def ask(question: Callable[[Cluster], Awaitable[str | None]]) -> str:
        nonlocal replies
        cluster = Cluster(settings, max_body)
        try:
            found = await question(cluster) or ""
            replies = True
            return found
        finally:
            await cluster.close()

    names = Names(settings.prefix)
    yield "bootstrap_servers", "a broker replies", ask(Cluster.check_reachable)
    if replies:
        usable = f"topics {names.prefix}.* can be used"
        yield "prefix", usable, ask(lambda cluster: cluster.check_topics(receives, delivers))
        yield "replication_factor", "what is acknowledged is safe", ask(lambda cluster: cluster.check_durability(delivers))
    if replies and delivers:
        yield "security", f"topics and groups {names.prefix}.* can be read", ask(Cluster.check_reading)
    if settings.spill.enabled and receives:
        directory = Path(settings.spill.directory)
        yield "spill.directory", f"{directory} can be written", asyncio.to_thread(check_journal, directory)
