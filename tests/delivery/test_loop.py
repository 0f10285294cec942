"""Delivery to a sink that works: order, cursors, partitions, and the figures shown of it."""

import asyncio
import time
from pathlib import Path

import pytest

from btfeed.delivery.loop import Delivery
from btfeed.delivery.mapped_posts import MappedPosts
from btfeed.delivery.settings import DeliverySettings, FilterSettings
from btfeed.journal.base import Cursor, OutletGone, Selection
from btfeed.journal.memory import MemoryJournal
from btfeed.journal.sqlite.dead_letters import open_dead_letters
from btfeed.journal.sqlite.journal import SqliteJournal
from btfeed.journal.sqlite.settings import SqliteSettings
from btfeed.telemetry.metrics import Metrics
from sinks.base import WriteResult
from sinks.batch import Batch
from tests.support import posts
from tests.support.clock import FakeClock, FastClock, settle
from tests.support.fakes import FakeSink, Rig, SerialFakeSink, mapper, post
from tests.support.harness import DEADLINE, until_async


async def test_every_record_is_written_once_and_the_cursor_is_behind_it() -> None:
    """Posts are delivered in order and counted, and the cursor ends behind the last one."""
    sink = FakeSink()
    async with Rig(sink) as rig:
        bodies = [body for seed in range(5) for body in await rig.post(7, seed)]
        await rig.saved(6)
        assert rig.delivery.status.state == "running"
    assert sink.bodies == bodies
    assert rig.sample("sink_delivered_total") == rig.delivery.status.delivered == 35
    assert rig.sample("sink_delivered_bytes_total") == sum(len(body) + 1 for body in bodies)
    assert rig.sample("sink_batch_seconds_count") == len(sink.writes)
    assert rig.sample("sink_delivery_seconds_count") == len(sink.writes)
    assert (rig.delivery.status.state, sink.closed) == ("stopped", 1)


async def test_the_cursor_waits_for_the_first_batch_in_flight() -> None:
    """Batches that finish out of order move the cursor only over the contiguous run that is settled."""
    first = asyncio.Event()

    async def slow(batch: Batch) -> WriteResult:
        await first.wait()
        return WriteResult()

    sink = FakeSink(slow)
    async with Rig(sink, in_flight=3, max_records=5) as rig:
        bodies = await rig.post(5, 0) + await rig.post(5, 1) + await rig.post(5, 2)
        await until_async(lambda: len(sink.bodies) == 10, "the two others are written")
        assert rig.outlet.commits == []
        first.set()
        await rig.saved(4)
    assert sorted(sink.bodies) == sorted(bodies)
    assert sink.most_at_once > 1


async def test_a_stuck_batch_holds_up_the_others_after_a_window() -> None:
    """What is delivered again after a crash is limited to two batches per batch in flight, however long one is stuck."""
    first = asyncio.Event()

    async def stuck(batch: Batch) -> WriteResult:
        await first.wait()
        return WriteResult()

    sink = FakeSink(stuck)
    async with Rig(sink, in_flight=2, max_records=1) as rig:
        await rig.post(20)
        await until_async(lambda: len(sink.writes) == 4, "the window is full")
        await rig.post(1, 1)
        await settle()
        assert len(sink.writes) == 4
        first.set()
        await rig.saved(3)
    assert len(sink.bodies) == 21


async def test_a_serial_sinks_state_is_saved_before_each_write() -> None:
    """One batch at a time, each after the commit with the state of the one before."""
    seen: list[tuple[int, str | None]] = []

    def look(batch: Batch) -> WriteResult:
        seen.append((len(sink.bodies), rig.state))
        return WriteResult()

    sink = SerialFakeSink(always=look)
    rig = Rig(sink, serial=True, max_records=3)
    async with rig:
        await rig.post(30)
        await rig.saved(2)
    assert len(seen) >= 11
    assert all(state == (str(written) if write else None) for write, (written, state) in enumerate(seen))


async def test_the_first_batch_of_a_serial_sink_is_empty() -> None:
    """It saves a state before there is any record, which tells a crash in the first write from a new journal."""
    sink = SerialFakeSink()
    async with Rig(sink, serial=True) as rig:
        await until_async(lambda: rig.outlet.commits, "a state is saved before any post came")
        assert (rig.cursor, rig.state) == (Cursor(1), "0")
        bodies = await rig.post(3)
        await rig.saved(2)
    assert [len(batch) for batch in sink.writes] == [0, 3]
    assert sink.bodies == bodies


async def test_a_sink_is_called_again_after_the_time_it_asked_for() -> None:
    """With an empty batch, when that time has passed and not earlier."""
    clock = FakeClock()
    sink = SerialFakeSink(WriteResult(), WriteResult(again_after=20.0), WriteResult())
    async with Rig(sink, serial=True, clock=clock, linger="0s") as rig:
        await rig.post(1)
        await until_async(lambda: len(sink.writes) == 2, "the record is written")
        await clock.advance(19.9)
        assert len(sink.writes) == 2
        await clock.advance(0.2)
        assert [len(batch) for batch in sink.writes] == [0, 1, 0]
        await clock.advance(100)
        assert len(sink.writes) == 3


async def test_an_expired_batch_does_not_change_when_to_call_again() -> None:
    """A batch with nothing left to write does not count as a write."""
    sink = SerialFakeSink(WriteResult(again_after=20.0), WriteResult())
    async with Rig(sink, serial=True, max_age="1h") as rig:
        await rig.post(1)
        await rig.saved(2)
        await until_async(lambda: len(sink.writes) == 2, "the sink is called again")
    assert [len(batch) for batch in sink.writes] == [0, 0]


async def test_records_that_are_too_old_become_dead_letters() -> None:
    """By their own timestamp. The others of the batch are delivered."""
    sink = FakeSink()
    async with Rig(sink, max_age="1h") as rig:
        await rig.journal.append(post(posts.mixed(2)))
        await rig.journal.append(post(posts.mixed(3, start=round(time.time() * 1000) - 60_000)))
        await rig.saved(3)
    dead_letters = rig.dead_letters
    assert [len(sink.bodies), len(dead_letters)] == [3, 2]
    assert {dead_letter.reason for dead_letter in dead_letters} == {"expired: older than 3600 s"}
    assert dead_letters[0].sink == "sink"
    assert dead_letters[0].event_id
    assert rig.sample("dead_letters_total", reason="expired") == rig.delivery.status.dead_letters == 2


async def test_the_cursor_passes_records_that_a_filter_holds_back() -> None:
    """They are counted, not written, and not read again."""
    sink = FakeSink()
    async with Rig(sink, filter=FilterSettings(category=["visit"])) as rig:
        await rig.post(6)
        await rig.post(1, 1)
        await rig.saved(3)
    assert all(b'"event.category":"visit"' in body for body in sink.bodies)
    assert rig.sample("sink_filtered_total") == 7 - len(sink.bodies) > 0
    assert sum(map(len, sink.writes)) == len(sink.bodies)


async def test_a_sink_that_hangs_does_not_slow_another() -> None:
    """Two sinks share the journal and the mapped posts, and nothing else."""

    async def hang(batch: Batch) -> WriteResult:
        await asyncio.Event().wait()
        raise AssertionError

    journal, good = MemoryJournal({}), FakeSink()
    stuck = Rig(FakeSink(always=hang), journal=journal, name="stuck", max_records=1)
    async with Rig(good, journal=journal, name="good", mapped_posts=stuck.mapped_posts) as rig:
        task = asyncio.create_task(stuck.delivery.run())
        for seed in range(50):
            await rig.post(3, seed)
        await rig.saved(51)
        assert len(good.bodies) == 150
        assert stuck.outlet.commits == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_could_not_be_mapped_is_saved_with_the_cursor() -> None:
    """A post's dead letters are in the commit that passes it, and are kept once however many sinks there are."""
    journal = MemoryJournal({})
    async with (
        Rig(FakeSink(), journal=journal) as rig,
        Rig(FakeSink(), journal=journal, name="b", mapped_posts=rig.mapped_posts) as other,
    ):
        await journal.append(post(b"\x00 no post"))
        await rig.post(2)
        await rig.saved(3)
        await other.saved(3)
    assert [(dead_letter.kind, dead_letter.sink) for dead_letter in rig.dead_letters] == [("post", "")]
    saved_with = {commit.cursor for commit in rig.outlet.commits + other.outlet.commits if commit.dead_letters}
    assert saved_with <= {Cursor(2), Cursor(3)}


async def test_each_partition_is_delivered_by_itself() -> None:
    """Two deliveries of one sink share the mapped posts; each has a cursor of its own."""
    journal = MemoryJournal({}, partitions=2)
    sinks = FakeSink(), FakeSink()
    first = Rig(sinks[0], journal=journal, partition=0)
    async with first, Rig(sinks[1], journal=journal, partition=1, mapped_posts=first.mapped_posts) as second:
        bodies = [body for seed in range(20) for body in await first.post(2, seed)]
        await first.saved(len(journal.entries[0]) + 1)
        await second.saved(len(journal.entries[1]) + 1)
    assert all(sink.bodies for sink in sinks)
    assert sorted(sinks[0].bodies + sinks[1].bodies) == sorted(bodies)


@pytest.mark.parametrize("method", ["cursor", "wait", "read", "retries", "commit"])
async def test_a_delivery_ends_when_its_partition_is_gone(method: str) -> None:
    """Whichever call says so: nothing more is saved, the sink is closed, and no error is raised."""
    sink = FakeSink()
    rig = Rig(sink, failing=[method])
    rig.outlet.error = OutletGone("another process has it")
    async with rig:
        await rig.post(3)
        await asyncio.wait_for(rig.task, DEADLINE)
        assert (rig.outlet.commits, sink.closed, rig.delivery.status.state) == ([], 1, "stopped")


async def test_a_delivery_whose_partition_goes_in_the_middle_of_a_write_ends() -> None:
    """It does not wait for the write."""

    async def hang(batch: Batch) -> WriteResult:
        await asyncio.Event().wait()
        raise AssertionError

    sink = FakeSink(always=hang)
    async with Rig(sink) as rig:
        await rig.post(3)
        await until_async(lambda: sink.at_once == 1, "a write is in progress")
        rig.outlet.error, rig.outlet.failing = OutletGone("another process has it"), {"retries"}
        await asyncio.wait_for(rig.task, DEADLINE)
    assert (rig.outlet.commits, sink.closed) == ([], 1)


async def test_delivery_from_a_real_journal(tmp_path: Path) -> None:
    """Over SQLite, from a refused record to its retry."""
    settings = SqliteSettings(directory=str(tmp_path))
    metrics, sink = Metrics(), FakeSink(WriteResult(refused={1: "no"}))
    journal = SqliteJournal(settings, {"sink": "oldest"}, metrics, 1000)
    await journal.open()
    mapped_posts = MappedPosts(mapper(), metrics, sinks=1)
    delivery = Delivery(
        "sink", sink, False, DeliverySettings(), FilterSettings(), journal.outlet("sink"), mapped_posts, metrics,
        clock=FastClock(),
    )  # fmt: skip
    running = asyncio.create_task(delivery.run())
    await journal.append(post(posts.mixed(3)))
    await until_async(lambda: len(sink.bodies) == 2, "two are delivered")
    with open_dead_letters(tmp_path) as dead_letters:
        await until_async(lambda: dead_letters.count() == 1, "one is a dead letter")
        assert dead_letters.retry(Selection("sink"), {"sink": lambda _: True}) == 1
        await until_async(lambda: len(sink.bodies) == 3, "the third is delivered")
        await until_async(lambda: dead_letters.count() == 0, "the dead letter is deleted")
    delivery.stop()
    await running
    mapped_posts.close()
    await journal.close()


@pytest.mark.parametrize("serial", [False, True])
async def test_a_restart_goes_on_where_the_last_one_saved(serial: bool) -> None:
    """Stopped between any two writes, nothing is lost, and nothing settled is delivered again."""
    journal = MemoryJournal({})
    sink = SerialFakeSink() if serial else FakeSink()
    expected: list[bytes] = []
    for seed in range(8):
        async with Rig(sink, serial=serial, journal=journal, max_records=3) as rig:
            expected.extend(await rig.post(10, seed))
            await until_async(lambda: len(sink.bodies) >= len(expected) - 5, "half of it is written")
    async with Rig(sink, serial=serial, journal=journal) as rig:
        await rig.saved(9)
    assert sink.bodies == expected


async def test_the_time_to_delivery_runs_from_the_receipt_of_the_oldest_post() -> None:
    """Also while the sink is slow. A batch counts once, however many posts it has."""
    written = asyncio.Event()

    async def slow(batch: Batch) -> WriteResult:
        await written.wait()
        return WriteResult()

    sink, clock = FakeSink(slow), FakeClock()
    async with Rig(sink, clock=clock, linger="5s") as rig:
        await rig.post(2)
        await clock.advance(3)
        await rig.post(2, seed=1)
        await clock.advance(2)
        await until_async(lambda: sink.writes, "written")
        await clock.advance(10)
        written.set()
        await rig.saved(3)
        assert rig.sample("sink_delivery_seconds_count") == 1
        assert rig.sample("sink_delivery_seconds_sum") == pytest.approx(15, abs=0.1)


async def test_only_batches_of_which_something_was_delivered_have_a_time_to_delivery() -> None:
    """One that became dead letters as a whole would make a sink that takes nothing look fast, or slow."""
    sink = FakeSink(WriteResult(refused={0: "odd", 1: "odd"}), WriteResult(refused={0: "odd"}))
    async with Rig(sink, linger="0s") as rig:
        await rig.post(2)
        await rig.saved(2)
        assert rig.sample("sink_delivery_seconds_count") == 0
        await rig.post(2, seed=1)
        await rig.saved(3)
        assert rig.sample("sink_delivery_seconds_count") == 1
