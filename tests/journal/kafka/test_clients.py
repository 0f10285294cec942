"""Whatever comes out of aiokafka, the journal is not available for a while: fakes raise what real brokers seldom cause."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition, errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.protocol.group import SyncGroupRequest
from aiokafka.protocol.metadata import MetadataResponse_v1

from btfeed.journal.base import JournalUnavailable
from btfeed.journal.kafka import clients, group_consumer, groupless
from btfeed.journal.kafka.commits import JoinedCommits
from btfeed.journal.kafka.consumer import ConsumerSettings, Saved
from btfeed.journal.kafka.group_consumer import GroupConsumer
from btfeed.journal.kafka.letter_log import LetterLog, Message
from btfeed.journal.kafka.letter_tail import LetterTail
from btfeed.journal.kafka.sending import Sending
from btfeed.telemetry.metrics import Metrics
from sinks.base import Unavailable
from sinks.kafka.access import ClusterAccess
from sinks.kafka.producer import Producer
from sinks.kafka.steady import steady
from sinks.shared.clock import SYSTEM_CLOCK
from tests.journal.kafka.fake_consumer import SETTINGS
from tests.support.clock import FastClock, settle
from tests.support.harness import DEADLINE, until_async

CLOSED = RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
UNEXPECTED = [CLOSED, ConnectionResetError("reset"), AssertionError("a state"), asyncio.CancelledError()]
"""What aiokafka raises beside its own errors."""
PLACE = TopicPartition("letters", 0)
BROKERS = MetadataResponse_v1([(1, "127.0.0.1", 1, None)], 1, [])


class FakeClient:
    """A consumer of aiokafka at the end of an empty topic, and its client, coordinator and fetcher.

    failing  raised by the next question, or by `stop` if `stubborn`
    """

    def __init__(self) -> None:
        self.failing: BaseException | None = None
        self.stubborn: BaseException | None = None
        self.stops = 0
        self.closed = False
        self._client = self._coordinator = self._fetcher = self
        self._fetch_task = asyncio.get_running_loop().create_future()
        self._sync_task = asyncio.get_running_loop().create_future()
        state = SimpleNamespace(has_valid_position=True, position=0)
        self._subscription = SimpleNamespace(
            subscription=SimpleNamespace(assignment=SimpleNamespace(state_value=lambda place: state))
        )

    def _fail(self) -> None:
        failing, self.failing = self.failing, None
        if failing:
            raise failing

    async def end_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        self._fail()
        return dict.fromkeys(places, 0)

    async def getmany(self, *places: TopicPartition, timeout_ms: int, max_records: int = 0) -> dict[TopicPartition, Any]:
        self._fail()
        await asyncio.sleep(0.001)
        return {}

    def check_errors(self) -> None:
        self._fail()

    async def ensure_coordinator_known(self) -> None:
        self._fail()

    async def stop(self) -> None:
        self.stops += 1
        if self.stubborn:
            raise self.stubborn

    async def close(self) -> None:
        self.closed = True
        if self.stubborn:
            raise self.stubborn

    def assign(self, places: list[TopicPartition]) -> None:
        pass

    def seek(self, place: TopicPartition, offset: int) -> None:
        pass

    def pause(self, *places: TopicPartition) -> None:
        pass


def access() -> ClusterAccess:
    return ClusterAccess("127.0.0.1:1", SETTINGS.security, 1.0, SYSTEM_CLOCK)


@asynccontextmanager
async def tail_of(started: list[FakeClient], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LetterTail]:
    """A tail of one topic. started: the clients that were, a reader first."""

    async def start(*arguments: Any, **more: Any) -> FakeClient:
        started.append(FakeClient())
        return started[-1]

    async def check_topics(*arguments: Any) -> None:
        pass

    monkeypatch.setattr(groupless, "start", start)
    monkeypatch.setattr(groupless, "check_topics", check_topics)
    tail = LetterTail(SETTINGS, access(), {PLACE.topic: lambda message: None}, FastClock())
    await tail.open()
    try:
        yield tail
    finally:
        await asyncio.wait_for(tail.close(), DEADLINE)


@pytest.mark.parametrize("failure", UNEXPECTED, ids=repr)
async def test_dead_letters_survive_whatever_their_clients_raise(
    failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that asks is told that the journal is not available, and the client is replaced, also that of the follower."""
    started: list[FakeClient] = []
    async with tail_of(started, monkeypatch) as tail:
        started[0].failing = failure
        with pytest.raises(JournalUnavailable):
            await tail.catch_up()
        assert await tail.catch_up() == {PLACE.topic: 0}
        assert (len(started), started[0].stops) == (3, 1)
        started[1].failing = failure
        await until_async(lambda: started[1].stops, "the follower's client is replaced")
        assert await tail.catch_up() == {PLACE.topic: 0}


async def test_a_client_that_follows_the_brokers_no_more_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fetch, but answer no question about offsets."""
    started: list[FakeClient] = []
    async with tail_of(started, monkeypatch) as tail:
        started[0]._sync_task.set_exception(CLOSED)
        assert await tail.catch_up() == {PLACE.topic: 0}
        assert started[0].stops == 1


@pytest.mark.parametrize("failure", UNEXPECTED, ids=repr)
async def test_a_stop_ends_whatever_the_client_raises(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is left is stopped as well."""
    started: list[FakeClient] = []
    async with tail_of(started, monkeypatch):
        for client in started:
            client.stubborn = failure
    assert [(client.stops, client.closed) for client in started] == [(1, True)] * 2
    group = FakeClient()
    group.stubborn = failure
    await grouped(group).stop()
    assert group.closed


def grouped(client: FakeClient) -> GroupConsumer:
    settings = ConsumerSettings("group", "one", 1.0, 6.0, 6.0)
    consumer: Any = client
    return GroupConsumer(consumer, settings, Metrics().kafka_journal, "a", SYSTEM_CLOCK)


@pytest.mark.parametrize("failure", UNEXPECTED, ids=repr)
async def test_every_question_of_a_group_says_that_the_journal_is_not_available(failure: BaseException) -> None:
    """Reading, looking and saving."""
    client = FakeClient()
    consumer = grouped(client)

    async def check() -> None:
        consumer.check()

    questions = (
        lambda: consumer.ends([PLACE]), lambda: consumer.read(PLACE, 1), lambda: consumer.saved([PLACE]), check,
    )  # fmt: skip
    for question in questions:
        client.failing = failure
        with pytest.raises(JournalUnavailable):
            await question()


async def test_a_member_whose_name_another_process_has_taken_joins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka does not know that error, and would end: it is told that its membership is gone."""
    group, codes = ConnectionGroup.COORDINATION, [82, 0]

    async def answer() -> Any:
        return SimpleNamespace(error_code=codes.pop(0))

    async def nothing(*arguments: Any, **more: Any) -> Any:
        return BROKERS

    client: Any = FakeClient()
    client.start = client.send = client.ready = nothing
    client._conns = {(1, group): SimpleNamespace(_request_timeout=1.0, send=lambda request: answer())}
    monkeypatch.setattr(group_consumer, "AIOKafkaConsumer", lambda **settings: client)
    monkeypatch.setattr(ClusterAccess, "verify", nothing)
    settings = ConsumerSettings("group", "one", 1.0, 6.0, 6.0)
    await GroupConsumer.start(access(), settings, Metrics().kafka_journal, "a", SYSTEM_CLOCK)
    request = SyncGroupRequest("group", 1, "one-1", "one", [])
    found = [(await client.send(1, request, group=group)).error_code for _ in range(2)]
    assert found == [errors.UnknownMemberIdError.errno, 0]


async def test_a_commit_that_fails_in_any_way_ends() -> None:
    """All that wait for it are told."""

    async def send(saved: object) -> None:
        raise CLOSED

    commits = JoinedCommits(send)
    for partition in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(commits.save(TopicPartition("posts", partition), Saved(1, "")), DEADLINE)


async def test_our_own_cancellation_is_one() -> None:
    """A stop must not look as if brokers were away."""

    async def ask() -> None:
        with clients.unavailable():
            await asyncio.Event().wait()

    asking = asyncio.create_task(ask())
    await settle()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("failure", UNEXPECTED, ids=repr)
async def test_producers_are_started_again_whatever_they_raise(
    failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intake's goes on trying; a write of dead letters fails, and the next one may work."""
    attempts = 0

    async def start(*arguments: Any, **more: Any) -> Producer:
        nonlocal attempts
        attempts += 1
        raise failure if attempts < 3 else Unavailable("brokers are away")

    monkeypatch.setattr(Producer, "start", start)
    sending = Sending(access(), "posts", 1.0, 1.0, "none", FastClock())
    running = asyncio.create_task(sending.run())
    await until_async(lambda: sending.down == "brokers are away", "producers started again")
    running.cancel()
    attempts = 0
    with pytest.raises(JournalUnavailable):
        await LetterLog(SETTINGS, access(), SYSTEM_CLOCK).write([Message("letters", b"", b"", 0)])


@pytest.mark.parametrize("failure", [CLOSED, ConnectionResetError("reset")], ids=repr)
async def test_a_broken_connection_is_an_error_that_aiokafka_expects(failure: Exception) -> None:
    """So that its tasks survive. The next request gets another connection."""
    closed = []

    async def send(node: int, request: object, **more: Any) -> str:
        if failures:
            raise failures.pop()
        return "reply"

    connection = SimpleNamespace(close=lambda reason: closed.append(reason))
    client = SimpleNamespace(send=send, _conns={(1, ConnectionGroup.DEFAULT): connection})
    steady(client, BROKERS)
    failures = [errors.NodeNotReadyError(), failure]
    with pytest.raises(errors.KafkaConnectionError, match="broker 1"):
        await client.send(1, "request")
    assert (len(closed), client._conns) == (1, {})
    with pytest.raises(errors.NodeNotReadyError):
        await client.send(1, "request")
    assert await client.send(1, "request") == "reply"


async def test_a_client_begins_with_the_brokers_that_are_known() -> None:
    """It opens no connection to ask for them. One would stay open if the start was cancelled."""
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    steady(client, BROKERS)
    await client.bootstrap()
    assert [(broker.nodeId, broker.port) for broker in client.cluster.brokers()] == [(1, 1)]
    assert client._conns == {}
    await client.close()


@pytest.mark.parametrize("failure", [CLOSED, ConnectionResetError("reset")], ids=repr)
async def test_a_client_is_closed_though_nobody_follows_the_brokers(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other connections do not stay open."""
    closed = asyncio.get_running_loop().create_future()

    def close(reason: object) -> "asyncio.Future[object]":
        closed.set_result(reason)
        return closed

    async def update(self: AIOKafkaClient, *asked: object) -> bool:
        raise failure

    monkeypatch.setattr(AIOKafkaClient, "_metadata_update", update)
    client = AIOKafkaClient()
    steady(client, BROKERS)
    await client.bootstrap()
    client.force_metadata_update()
    await asyncio.wait([client._sync_task], timeout=DEADLINE)
    client._conns[1, ConnectionGroup.DEFAULT] = SimpleNamespace(close=close)
    await clients.close(client)
    assert closed.done()
