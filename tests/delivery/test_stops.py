"""Stops in the middle of delivery: pauses end at once, writes in progress are finished, and nothing is lost."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from btfeed.delivery.shared_sink import SharedSink
from btfeed.journal.base import Cursor
from sinks.base import OutcomeUnknown, Unavailable, WriteResult
from sinks.batch import Batch
from tests.support.clock import FakeClock, settle
from tests.support.fakes import FakeSink, Rig, SerialFakeSink
from tests.support.harness import DEADLINE, until_async


async def hang(batch: Batch) -> WriteResult:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("stage", ["opening", "pause", "idle"])
async def test_a_stop_ends_pauses(stage: str) -> None:
    """The pause before the next open or write, and the wait for posts. The clock stands still, so only the stop can."""
    away: list[Exception] = [Unavailable("away", retry_after=60)] * 3
    sink = FakeSink(opens=away) if stage == "opening" else FakeSink(*away if stage == "pause" else ())
    async with Rig(sink, clock=FakeClock(), linger="0s") as rig:
        if stage != "idle":
            await rig.post(2)
            await until_async(lambda: rig.delivery.status.state == "unavailable", "a pause")
        rig.delivery.stop()
        await asyncio.wait_for(rig.task, DEADLINE)
    assert sink.closed == 1
    assert all(commit.cursor == Cursor(1) for commit in rig.outlet.commits)


@pytest.mark.parametrize("serial", [False, True])
async def test_nothing_new_is_written_after_a_stop(serial: bool) -> None:
    """The batch behind one that is in its pause is left for the next start, not written before it."""
    sink: FakeSink = (SerialFakeSink if serial else FakeSink)(*[WriteResult()] * serial, Unavailable("away", 60))
    async with Rig(sink, serial=serial, clock=FakeClock(), linger="0s", max_records=1) as rig:
        await rig.post(5)
        await until_async(lambda: rig.delivery.status.state == "unavailable", "a pause")
        rig.delivery.stop()
        await asyncio.wait_for(rig.task, DEADLINE)
    assert len(sink.writes) == 1 + serial
    assert sink.bodies == []


async def test_a_stop_before_the_start() -> None:
    """The sink is not opened, but closed."""
    sink = FakeSink()
    rig = Rig(sink)
    rig.delivery.stop()
    async with rig:
        await asyncio.wait_for(rig.task, DEADLINE)
    assert (sink.opened_with, sink.closed) == ([], 1)


async def test_a_write_that_hangs_is_given_up_when_it_is_cancelled() -> None:
    """A stop waits for it. Cancelling ends it, closes the sink, and leaves its batch unsettled."""
    sink = FakeSink(always=hang)
    async with Rig(sink) as rig:
        await rig.post(2)
        await until_async(lambda: sink.at_once == 1, "the write hangs")
        rig.delivery.stop()
        await settle()
        assert not rig.task.done()
        rig.task.cancel()
        await asyncio.gather(rig.task, return_exceptions=True)
        assert (sink.closed, rig.outlet.commits) == (1, [])
        rig.task = asyncio.create_task(asyncio.sleep(0))


def cut_off(again: bool) -> Callable[[Batch], Awaitable[WriteResult]]:
    """A write that hangs until it is cancelled. What it sent then may have been taken."""

    async def write(batch: Batch) -> WriteResult:
        try:
            return await hang(batch)
        except asyncio.CancelledError:
            raise OutcomeUnknown("cut off", again=again) from None

    return write


@pytest.mark.parametrize("again", [True, False])
async def test_a_write_that_is_cut_off_has_the_outcome_that_its_sink_says(again: bool) -> None:
    """It is counted as unknown. What must not be written twice is saved as dead letters before the delivery ends. The sink
    is not reported as unavailable."""
    sink = FakeSink(always=cut_off(again))
    async with Rig(sink, max_records=1, in_flight=3) as rig:
        bodies = await rig.post(3)
        await until_async(lambda: sink.at_once == 3, "the writes hang")
        rig.delivery.stop()
        assert rig.delivery.cut_off()
    assert rig.sample("sink_unknown_total") == 3
    assert rig.cursor == (Cursor(1) if again else Cursor(2))
    assert sorted(letter.body for letter in rig.dead_letters) == ([] if again else sorted(bodies))
    assert rig.delivery.status.last_error is None
    assert (len(sink.writes), sink.closed) == (3, 1)


async def test_nothing_is_written_after_a_cut_off() -> None:
    """What waits for its turn is left for the next start."""
    sink = FakeSink(always=hang)
    async with Rig(SharedSink(sink, in_flight=1), max_records=1, in_flight=2) as rig:
        await rig.post(2)
        await until_async(lambda: sink.at_once == 1 and rig.delivery.status.state == "running", "one write hangs")
        await settle()
        rig.delivery.stop()
        assert rig.delivery.cut_off()
    assert (len(sink.writes), sink.closed, rig.cursor) == (1, 1, Cursor(1))
    assert rig.sample("sink_unknown_total") == 0


async def test_a_delivery_that_is_cancelled_ends_whatever_its_sink_says() -> None:
    """Nothing can be saved any more, so nothing counts as settled."""
    sink = FakeSink(always=cut_off(again=False))
    async with Rig(sink) as rig:
        await rig.post(2)
        await until_async(lambda: sink.at_once == 1, "the write hangs")
        rig.task.cancel()
        (ended,) = await asyncio.gather(rig.task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError)
        assert (sink.closed, rig.outlet.commits, rig.sample("sink_unknown_total")) == (1, [], 0)
        rig.task = asyncio.create_task(asyncio.sleep(0))


async def test_a_stop_while_the_journal_fails_ends_when_it_is_cancelled() -> None:
    """Saving is tried until then, and no longer."""
    sink = SerialFakeSink()
    async with Rig(sink, serial=True) as rig:
        rig.outlet.failing = {"commit"}
        await until_async(lambda: rig.outlet.failed, "the commit failed")
        rig.delivery.stop()
        rig.task.cancel()
        await asyncio.gather(rig.task, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        rig.task = asyncio.create_task(asyncio.sleep(0))


async def test_a_write_in_progress_at_a_stop_is_finished_and_saved() -> None:
    """The cursor is behind its records at the next start, so they are delivered once."""
    let_go = asyncio.Event()

    async def slow(batch: Batch) -> WriteResult:
        await let_go.wait()
        return WriteResult()

    sink = FakeSink(slow)
    async with Rig(sink) as rig:
        bodies = await rig.post(2)
        await until_async(lambda: sink.at_once == 1, "the write is in progress")
        rig.delivery.stop()
        let_go.set()
    assert (sink.bodies, rig.cursor) == (bodies, Cursor(2))


async def test_a_stop_in_a_pause_saves_what_must_not_be_written_twice() -> None:
    """The dead letters of an unknown outcome are saved with the cursor."""
    sink = FakeSink(OutcomeUnknown("no reply", retry_after=60, again=False))
    async with Rig(sink) as rig:
        await rig.post(2)
        await until_async(lambda: rig.delivery.status.state == "unavailable", "a pause")
        rig.delivery.stop()
        await asyncio.wait_for(rig.task, DEADLINE)
    assert rig.cursor == Cursor(2)
    assert len(rig.dead_letters) == 2
