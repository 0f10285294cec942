"""One delivery per sink and partition, as outlets come and go."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from btfeed.app import deliveries
from btfeed.app.deliveries import Deliveries
from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.journal.base import Backlog, Cursor, JournalUnavailable, Outlet
from btfeed.journal.memory import MemoryJournal, MemoryOutlet
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from sinks.base import WriteResult
from sinks.batch import Batch
from tests.support import posts
from tests.support.clock import FastClock, settle
from tests.support.fakes import FakeSink, mapper, post
from tests.support.harness import DEADLINE, until_async


class MovingOutlets:
    """Outlets of a sink that come and go as a test says."""

    begin: Callable[[Outlet], Awaitable[None]]
    end: Callable[[Collection[Outlet]], Awaitable[None]]
    problem: str | None = None
    conflict = False
    lost: Mapping[int, str] = {}
    cancelled = False

    async def run(
        self, begin: Callable[[Outlet], Awaitable[None]], end: Callable[[Collection[Outlet]], Awaitable[None]]
    ) -> None:
        self.begin, self.end = begin, end
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled = True

    async def left(self) -> Mapping[int, str]:
        return self.lost


class Case:
    """Deliveries of one sink over a journal with three partitions. sinks: by partition."""

    def __init__(self, always: Callable[[Batch], Awaitable[WriteResult]] | None = None, grace: float = 5.0) -> None:
        self.journal = MemoryJournal({}, partitions=3)
        self.journal.add_sink("sink")
        self.outlets = [MemoryOutlet(self.journal, "sink", partition) for partition in range(3)]
        self.moving = MovingOutlets()
        self.sinks: dict[int, FakeSink] = {}
        self.metrics = Metrics()
        self.mapped_posts = MappedPosts(mapper(), self.metrics, sinks=1)
        self.always = always
        self.deliveries = Deliveries(lambda name: self.moving, self._create, grace, FastClock())

    def _create(self, name: str, outlet: Outlet, status: SinkStatus) -> Delivery:
        sink = self.sinks[outlet.partition] = FakeSink(always=self.always)
        settings = DeliverySettings.model_validate({"linger": "5ms"})
        return Delivery(
            name,
            sink,
            False,
            settings,
            FilterSettings(),
            outlet,
            self.mapped_posts,
            self.metrics,
            status,
            clock=FastClock(),
        )

    async def __aenter__(self) -> "Case":
        self.deliveries.start_sink("sink")
        await settle()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.deliveries.stop()
        self.mapped_posts.close()

    async def post(self) -> None:
        """Fill all partitions."""
        for seed in range(20):
            await self.journal.append(post(posts.mixed(2, seed)))

    async def saved(self, partition: int) -> None:
        """Return when the cursor of a partition is behind all its posts."""
        end = Cursor(len(self.journal.entries[partition]) + 1)
        await until_async(lambda: self.journal.cursors["sink", partition][0] == end, "all of it is delivered")


class TwoSinks:
    """Deliveries of two sinks, "first" and "second". sinks: the newest of each."""

    def __init__(self) -> None:
        self.journal = MemoryJournal({"first": "oldest", "second": "oldest"})
        self.sinks: dict[str, FakeSink] = {}
        self.metrics = Metrics()
        self.mapped_posts = MappedPosts(mapper(), self.metrics, sinks=2)
        self.deliveries = Deliveries(self.journal.outlets, self._create, grace=5.0)

    def _create(self, name: str, outlet: Outlet, status: SinkStatus) -> Delivery:
        sink = self.sinks[name] = FakeSink()
        settings = DeliverySettings.model_validate({"linger": "5ms"})
        return Delivery(
            name, sink, False, settings, FilterSettings(), outlet, self.mapped_posts, self.metrics, status,
            clock=FastClock(),
        )  # fmt: skip

    async def __aenter__(self) -> "TwoSinks":
        await self.journal.open()
        for name in ("first", "second"):
            self.deliveries.start_sink(name)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.deliveries.stop()
        self.mapped_posts.close()

    async def delivered(self, **records: int) -> None:
        """Return when each sink has delivered this many records, all starts together."""
        statuses = self.deliveries.statuses
        await until_async(lambda: {name: statuses[name].delivered for name in records} == records, f"delivered {records}")


async def test_each_outlet_gets_a_delivery() -> None:
    """All of them show themselves in one status, and in one backlog."""
    async with Case() as case:
        await case.post()
        for outlet in case.outlets[:2]:
            await case.moving.begin(outlet)
        await case.saved(0)
        await case.saved(1)
        delivered = 2 * (len(case.journal.entries[0]) + len(case.journal.entries[1]))
        assert case.deliveries.statuses["sink"].delivered == delivered
        assert await case.deliveries.backlog("sink") == Backlog(0, 0.0)
    assert [sink.closed for sink in case.sinks.values()] == [1, 1]
    assert case.moving.cancelled


@asynccontextmanager
async def giving_up() -> AsyncIterator[tuple[Case, "asyncio.Future[None]", asyncio.Event]]:
    """Two outlets of a sink whose writes wait for the event. The first is given up, and the future is `end`."""
    gate = asyncio.Event()

    async def slow(batch: Batch) -> WriteResult:
        await gate.wait()
        return WriteResult()

    async with Case(slow) as case:
        await case.post()
        for outlet in case.outlets[:2]:
            await case.moving.begin(outlet)
        await until_async(lambda: all(sink.at_once for sink in case.sinks.values()), "writes are in progress")
        yield case, asyncio.ensure_future(case.moving.end([case.outlets[0]])), gate


async def test_an_outlet_that_is_given_up_is_drained_first() -> None:
    """`end` returns when its write is finished and saved. Other deliveries go on."""
    async with giving_up() as (case, ending, gate):
        await settle()
        assert not ending.done()
        gate.set()
        await ending
        assert case.journal.cursors["sink", 0][0] > Cursor(1)
        assert (case.sinks[0].closed, case.sinks[1].closed) == (1, 0)
        await case.saved(1)


async def test_an_outlet_comes_back() -> None:
    """Its new delivery goes on where the last one saved."""
    async with Case() as case:
        await case.post()
        await case.moving.begin(case.outlets[0])
        await case.saved(0)
        await case.moving.end([case.outlets[0]])
        delivered = case.deliveries.statuses["sink"].delivered
        before = len(case.journal.entries[0])
        await case.post()
        await case.moving.begin(case.outlets[0])
        await case.saved(0)
        assert case.deliveries.statuses["sink"].delivered == delivered + 2 * (len(case.journal.entries[0]) - before)


async def test_a_write_that_outlasts_the_grace_is_cancelled() -> None:
    """With a warning that names the sink."""

    async def hang(batch: Batch) -> WriteResult:
        await asyncio.Event().wait()
        raise AssertionError

    with capture_logs() as logs:
        async with Case(hang, grace=0.01) as case:
            await case.post()
            await case.moving.begin(case.outlets[0])
            await until_async(lambda: case.sinks[0].at_once, "a write is in progress")
    assert case.journal.cursors["sink", 0][0] == Cursor(1)
    said = [(entry["event"], entry["sink"]) for entry in logs if "write" in entry["event"]]
    assert said == [
        ("waiting for writes of the sink", "sink"),
        ("write cut off after its grace, its records may be delivered again", "sink"),
    ]


async def test_a_sink_is_closed_however_long_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its write was cut off: a close that were cancelled could leave files or connections open."""
    gate = asyncio.Event()

    async def close(sink: FakeSink) -> None:
        await gate.wait()
        sink.closed += 1

    async def hang(batch: Batch) -> WriteResult:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(FakeSink, "close", close)
    monkeypatch.setattr(deliveries, "SAVING", 0.01)
    async with Case(hang, grace=0.01) as case:
        await case.post()
        await case.moving.begin(case.outlets[0])
        await until_async(lambda: case.sinks[0].at_once, "a write is in progress")
        ending = asyncio.ensure_future(case.moving.end([case.outlets[0]]))
        await asyncio.sleep(0.1)
        gate.set()
        await ending
        assert case.sinks[0].closed == 1


async def test_the_error_of_a_delivery_is_raised() -> None:
    """By `failed`, as it is."""
    async with Case() as case:

        async def broken() -> tuple[Cursor, None]:
            raise ZeroDivisionError("a bug")

        case.outlets[0].cursor = broken  # type: ignore[method-assign]
        await case.moving.begin(case.outlets[0])
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(case.deliveries.failed(), DEADLINE)


async def test_one_sink_stops_and_starts_while_another_goes_on() -> None:
    """It finishes its write, and goes on at its cursor. Its backlog is known meanwhile, and its counts go on."""
    async with TwoSinks() as case:
        await case.journal.append(post(posts.mixed(3)))
        await case.delivered(first=3, second=3)
        await case.deliveries.stop_sink("first")
        assert case.sinks["first"].closed == 1
        assert case.deliveries.statuses["first"].state == "stopped"
        await case.journal.append(post(posts.mixed(2, seed=1)))
        await case.delivered(first=3, second=5)
        assert (await case.deliveries.backlog("first")).posts == 1
        case.deliveries.start_sink("first")
        await case.delivered(first=5, second=5)
        assert case.sinks["second"].closed == 0
        assert len(case.sinks["first"].bodies) == 2  # a sink of its own, which got only what was missing


async def test_a_sink_that_is_forgotten_has_no_status() -> None:
    """Nor a backlog. It can be started again later."""
    async with TwoSinks() as case:
        await case.deliveries.stop_sink("first")
        case.deliveries.forget_sink("first")
        assert list(case.deliveries.statuses) == ["second"]
        assert await case.deliveries.backlog("first") == Backlog(0, 0.0)
        case.deliveries.start_sink("first")
        await case.journal.append(post(posts.mixed(3)))
        await case.delivered(first=3, second=3)


async def test_an_error_while_a_sink_stops_does_not_stop_the_server() -> None:
    """It is logged: what the sink had saved is where it goes on."""

    async def broken() -> None:
        raise ZeroDivisionError("a bug")

    async with TwoSinks() as case:
        await until_async(lambda: case.deliveries.statuses["first"].state == "running", "open")
        case.sinks["first"].close = broken  # type: ignore[method-assign]
        with capture_logs() as logs:
            await case.deliveries.stop_sink("first")
        assert [entry["sink"] for entry in logs if entry["event"] == "delivery failed"] == ["first"]
        failed = asyncio.create_task(case.deliveries.failed())
        await settle()
        assert not failed.done()
        failed.cancel()


async def test_an_outlet_that_is_given_up_does_not_begin_again() -> None:
    """Although an operator lets the sink go on while its last write is under way."""
    async with giving_up() as (case, ending, gate):
        holding = asyncio.ensure_future(case.deliveries.hold_sink("sink"))
        await settle()
        assert [outlet.partition for outlet in case.deliveries.outlets("sink")] == [1]
        gate.set()
        await asyncio.gather(ending, holding)
        first = case.sinks[0]
        case.deliveries.release_sink("sink")
        await case.saved(1)
        assert case.sinks[0] is first
        assert case.deliveries.statuses["sink"].partitions == 1


async def test_an_outlet_that_comes_while_the_sink_is_held_waits() -> None:
    """One that comes while it stops is not used at all."""
    async with Case() as case:
        await case.post()
        await case.deliveries.hold_sink("sink")
        await case.moving.begin(case.outlets[0])
        assert case.sinks == {}
        status = case.deliveries.statuses["sink"]
        states = [status.state]
        case.deliveries.release_sink("sink")
        await case.saved(0)
        stopping = asyncio.ensure_future(case.deliveries.stop_sink("sink"))
        await asyncio.sleep(0)
        await case.moving.begin(case.outlets[1])
        await case.moving.end([case.outlets[0]])
        await stopping
        assert list(case.sinks) == [0]
        assert [*states, status.state] == ["paused", "stopped"]


async def test_a_sink_without_outlets_says_why() -> None:
    """Because other processes have them all, or because something is wrong."""
    async with Case() as case:
        status = case.deliveries.statuses["sink"]
        assert (status.state, status.last_error) == ("idle", None)
        case.moving.problem = "no broker replies"
        assert (status.state, status.last_error) == ("unavailable", "no broker replies")
        case.moving.conflict = True
        assert status.state == "misconfigured"


async def test_a_journal_that_gives_no_outlets_is_asked_again() -> None:
    """The server goes on, and what was delivered from before has ended."""
    case = Case()
    broken = asyncio.Event()
    run = case.moving.run

    async def breaks(*arguments: Any) -> None:
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(run(*arguments))
            await broken.wait()
            serving.cancel()
        broken.clear()
        raise JournalUnavailable("no broker replies")

    case.moving.run = breaks  # type: ignore[assignment,method-assign]
    with capture_logs() as logs:
        async with case:
            await case.post()
            await case.moving.begin(case.outlets[0])
            await case.saved(0)
            broken.set()
            await until_async(lambda: case.sinks[0].closed, "the delivery has ended")
            del case.moving.begin
            await until_async(lambda: hasattr(case.moving, "begin"), "asked again")
            await case.moving.begin(case.outlets[1])
            await case.saved(1)
    assert [entry["error"] for entry in logs if entry["event"] == "no partitions for the sink, trying again"] == [
        "no broker replies"
    ]


async def test_lost_partitions_are_finished_while_none_of_them_begins() -> None:
    """Those that this process has now are not concerned, nor one whose delivery has not ended yet."""
    gate, finishing = asyncio.Event(), asyncio.Event()
    finished: list[tuple[int, str]] = []

    async def finish(partition: int, state: str) -> None:
        finishing.set()
        await gate.wait()
        finished.append((partition, state))

    async with Case() as case:
        await case.post()
        case.moving.lost = {0: "zero", 1: "one", 2: "two"}
        await case.moving.begin(case.outlets[0])
        await case.saved(0)
        task = asyncio.ensure_future(case.deliveries.finish_left("sink", finish))
        await finishing.wait()
        beginning = asyncio.ensure_future(case.moving.begin(case.outlets[1]))
        await settle()
        assert list(case.sinks) == [0]
        gate.set()
        await task
        assert finished == [(1, "one"), (2, "two")]
        await beginning
        await case.saved(1)
