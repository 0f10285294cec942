"""Stops in the middle of delivery: pauses end at once, writes in progress are finished, and nothing is lost."""

import asyncio

import pytest

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
