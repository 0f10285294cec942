"""Stops in the middle of delivery: what only waits ends at once, what is under way is finished, nothing is lost."""

import asyncio

import pytest

from btfeed.journal.base import Cursor
from sinks.base import OutcomeUnknown, Unavailable, WriteResult
from sinks.batch import Batch
from tests.support.fakes import FakeSink, Rig, SerialFakeSink
from tests.support.harness import until_async

pytestmark = pytest.mark.usefixtures("quickly")


async def hang(batch: Batch) -> WriteResult:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("stage", ["opening", "pause", "idle"])
async def test_a_stop_ends_what_only_waits(stage: str) -> None:
    """A pause of a minute before the next opening or write, and waiting for posts, end at once."""
    away: list[Exception] = [Unavailable("away", retry_after=60)] * 3
    sink = FakeSink(opens=away) if stage == "opening" else FakeSink(*away if stage == "pause" else ())
    async with Rig(sink) as rig:
        if stage != "idle":
            await rig.post(2)
            await until_async(lambda: rig.delivery.status.state == "unavailable", "a pause")
        rig.delivery.stop()
        await asyncio.wait_for(rig.task, 5)
    assert sink.closed == 1
    assert all(commit.cursor == Cursor(1) for commit in rig.journal.commits)


@pytest.mark.parametrize("serial", [False, True])
async def test_after_a_stop_nothing_new_is_written(serial: bool) -> None:
    """The batch behind one that a stop caught in its pause is left for the next start, not written before it."""
    sink: FakeSink = (SerialFakeSink if serial else FakeSink)(*[WriteResult()] * serial, Unavailable("away", 60))
    async with Rig(sink, serial=serial, max_records=1) as rig:
        await rig.post(5)
        await until_async(lambda: rig.delivery.status.state == "unavailable", "a pause")
        rig.delivery.stop()
        await asyncio.wait_for(rig.task, 5)
    assert len(sink.writes) == 1 + serial
    assert sink.bodies == []


async def test_a_write_that_hangs_is_given_up_when_it_is_cancelled() -> None:
    """stop waits for it; cancelling the loop ends it, and the sink is closed. Its batch is not settled."""
    sink = FakeSink(always=hang)
    async with Rig(sink) as rig:
        await rig.post(2)
        await until_async(lambda: sink.at_once == 1, "the write hangs")
        rig.delivery.stop()
        assert not (await asyncio.wait([rig.task], timeout=0.1))[0]
        rig.task.cancel()
        await asyncio.gather(rig.task, return_exceptions=True)
        assert (sink.closed, rig.journal.saved) == (1, {})
        rig.task = asyncio.create_task(asyncio.sleep(0))


async def test_a_stop_while_the_journal_fails_ends_when_it_is_cancelled() -> None:
    """The saving goes on until then, and no longer."""
    sink = SerialFakeSink()
    async with Rig(sink, serial=True) as rig:
        rig.journal.failing = {"commit"}
        await until_async(lambda: rig.journal.failed, "the commit failed")
        rig.delivery.stop()
        rig.task.cancel()
        await asyncio.gather(rig.task, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        rig.task = asyncio.create_task(asyncio.sleep(0))


async def test_a_write_under_way_at_a_stop_is_finished_and_saved() -> None:
    """Its records are delivered once, and the cursor is behind them at the next start."""
    let_go = asyncio.Event()

    async def slow(batch: Batch) -> WriteResult:
        await let_go.wait()
        return WriteResult()

    sink = FakeSink(slow)
    async with Rig(sink) as rig:
        bodies = await rig.post(2)
        await until_async(lambda: sink.at_once == 1, "the write is under way")
        rig.delivery.stop()
        let_go.set()
    assert (sink.bodies, rig.journal.saved["sink"][0]) == (bodies, Cursor(2))


async def test_a_stop_while_waiting_does_not_bring_again_what_must_not_come() -> None:
    """The dead letters of an unknown outcome are saved with the cursor, though the loop was in its pause."""
    sink = FakeSink(OutcomeUnknown("no reply", retry_after=60, again=False))
    async with Rig(sink) as rig:
        await rig.post(2)
        await until_async(lambda: rig.delivery.status.state == "unavailable", "a pause")
        rig.delivery.stop()
        await asyncio.wait_for(rig.task, 5)
    assert rig.journal.saved["sink"][0] == Cursor(2)
    assert len(rig.journal.letters) == 2
