"""One sink object for the deliveries of several partitions: the far end sees one sink."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from btfeed.delivery.shared_sink import SharedSink, SharedSinks
from btfeed.journal.memory import MemoryJournal
from sinks.base import BatchRefused, Unavailable, WriteResult
from sinks.batch import Batch
from tests.support import posts
from tests.support.clock import settle
from tests.support.fakes import FakeSink, ManyFakeSink, Rig, mapped, post
from tests.support.harness import until_async

PARTITIONS = 4
AWAY = Unavailable("away")


@asynccontextmanager
async def rigs(shared: SharedSink, **settings: Any) -> AsyncIterator[Sequence[Rig]]:
    """A delivery for each partition of a journal whose partitions all have posts."""
    journal = MemoryJournal({"sink": "oldest"}, PARTITIONS)
    await journal.open()
    for seed in range(40):
        await journal.append(post(posts.mixed(2, seed)))
    assert all(journal.entries)
    async with AsyncExitStack() as stack:
        made = [Rig(shared, journal=journal, partition=number, **settings) for number in range(PARTITIONS)]
        yield [await stack.enter_async_context(rig) for rig in made]


async def all_saved(found: Sequence[Rig]) -> None:
    for rig in found:
        await rig.saved(len(rig.journal.entries[rig.outlet.partition]) + 1)


async def test_it_is_opened_once_and_closed_with_the_last_delivery() -> None:
    """Writes of all partitions together are `in_flight` at most."""
    turn = asyncio.Semaphore(0)

    async def slow(batch: Batch) -> WriteResult:
        await turn.acquire()
        return WriteResult()

    sink = FakeSink(always=slow)
    shared = SharedSink(sink, in_flight=2)
    async with rigs(shared, in_flight=2) as found:
        await until_async(lambda: sink.at_once == 2, "two writes")
        await settle()
        assert sink.at_once == 2
        found[0].delivery.stop()
        for _ in range(100):
            turn.release()
        await all_saved(found[1:])
        assert (sink.opened_with, sink.closed, shared.used) == ([None], 0, True)
    assert (len(sink.opened_with), sink.closed, shared.used) == (1, 1, False)
    assert sink.most_at_once == 2


async def test_one_delivery_tries_while_the_sink_is_away() -> None:
    """At first all that are under way fail. From then on it is one at a time, and one pause before each try."""
    there = asyncio.Event()
    tries: list[asyncio.Task[object] | None] = []

    async def away(batch: Batch) -> WriteResult:
        if there.is_set():
            return WriteResult()
        tries.append(asyncio.current_task())
        await asyncio.sleep(0)
        raise AWAY

    sink = FakeSink(always=away)
    async with rigs(SharedSink(sink, in_flight=PARTITIONS)) as found:
        await until_async(lambda: len(tries) >= PARTITIONS + 20, "tries")
        assert len(set(tries[PARTITIONS:])) == 1
        assert found[0].delivery.status.state in ("unavailable", "running")
        there.set()
        await all_saved(found)
        await until_async(lambda: all(rig.delivery.status.state == "running" for rig in found), "all work")


async def test_another_delivery_tries_when_the_one_that_did_stops() -> None:
    """As when its partition goes to another process."""
    there = asyncio.Event()
    tries: list[asyncio.Task[object] | None] = []

    async def away(batch: Batch) -> WriteResult:
        tries.append(asyncio.current_task())
        if there.is_set():
            return WriteResult()
        raise AWAY

    async with rigs(SharedSink(FakeSink(always=away), in_flight=1)) as found:
        for rig in found[:-1]:
            await until_async(lambda: len(tries) >= 5, "tries")
            rig.delivery.stop()
            await rig.task
            tries.clear()
        there.set()
        await all_saved(found[-1:])


async def test_one_delivery_opens_it() -> None:
    """The others wait until it is open, or try themselves if that one stops."""
    sink = FakeSink(opens=[AWAY] * 10)
    async with rigs(SharedSink(sink, in_flight=1)) as found:
        await all_saved(found)
    assert len(sink.opened_with) == 11


async def test_what_a_destination_asks_for_holds_for_all() -> None:
    """One answer to wait is enough."""
    sink = FakeSink(Unavailable("busy", retry_after=3600.0))
    async with rigs(SharedSink(sink, in_flight=1)) as found:
        await until_async(lambda: sink.writes, "a write")
        await settle(200)
        assert len(sink.writes) == 1
        for rig in found:
            rig.delivery.stop()


async def test_a_refused_batch_proves_that_it_works() -> None:
    """It is halved, and the others go on without a pause."""
    sink = FakeSink(BatchRefused("no"))
    async with rigs(SharedSink(sink, in_flight=1)) as found:
        await all_saved(found)
    assert sum(rig.sample("sink_retried_total") for rig in found) == 0


async def test_a_delivery_sees_what_the_sink_can() -> None:
    """Its destinations, for one."""
    sink = ManyFakeSink()
    use = SharedSink(sink, in_flight=1).use()
    batch = mapped(3)
    assert getattr(use, "destinations")(batch) == sink.destinations(batch)  # noqa: B009 - as the writer asks
    assert not hasattr(SharedSink(FakeSink(), in_flight=1).use(), "destinations")
    await use.check()


async def test_the_next_deliveries_get_another_object() -> None:
    """Once the last one has closed it, since a sink is not opened again after that."""
    made: list[FakeSink] = []

    def create() -> FakeSink:
        made.append(FakeSink())
        return made[-1]

    sinks = SharedSinks()
    one, two = sinks.get("a", create, 1).use(), sinks.get("a", create, 1).use()
    await one.close()
    await one.close()
    assert (len(made), made[0].closed) == (1, 0)
    await two.close()
    assert made[0].closed == 1
    sinks.get("a", create, 1).use()
    assert len(made) == 2
