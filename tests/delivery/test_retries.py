"""Dead letters that an operator marked for retry."""

import asyncio

from btfeed.delivery.loop import RETRIES_INTERVAL
from btfeed.delivery.offsets import OffsetTracker
from btfeed.delivery.outcome import Outcome
from btfeed.delivery.report import SinkReport
from btfeed.telemetry.sink_status import SinkStatus
from sinks.base import BatchRefused, WriteResult
from sinks.batch import Batch
from tests.support.clock import FakeClock
from tests.support.fakes import FakeSink, Rig
from tests.support.harness import until_async


async def test_dead_letters_are_retried_once() -> None:
    """Delivered ones are deleted when that is saved. Those refused again stay, with the new reason."""
    sink = FakeSink(WriteResult(refused={0: "too big", 2: "odd"}), WriteResult(refused={1: "still odd"}))
    async with Rig(sink) as rig:
        bodies = await rig.post(4)
        await rig.saved(2)
        assert rig.retry_dead_letters() == 2
        await until_async(lambda: not rig.journal.dead_letters.marked, "they were retried")
    assert sink.bodies == [bodies[1], bodies[3], bodies[0]]
    assert [(dead_letter.reason, dead_letter.tries) for dead_letter in rig.dead_letters] == [("still odd", 2)]
    assert rig.cursor.seq == 2
    assert rig.sample("dead_letters_total", reason="refused") == 2


async def test_a_dead_letter_is_not_retried_again_before_its_success_is_saved() -> None:
    """However long the commit takes."""
    sink = FakeSink(WriteResult(refused={0: "no"}))
    async with Rig(sink) as rig:
        bodies = await rig.post(1)
        await rig.saved(2)
        rig.outlet.failing = {"commit"}
        assert rig.retry_dead_letters() == 1
        await until_async(lambda: len(rig.outlet.failed) >= 3, "the commit failed")
        rig.outlet.failing = set()
        await until_async(lambda: not rig.dead_letters, "the dead letter is gone")
    assert sink.bodies == bodies


async def test_an_answer_that_is_older_than_a_commit_does_not_repeat_a_retry() -> None:
    """A dead letter may be marked and wait for a destination. The journal was asked before it saved that the record was
    delivered, and answers after that."""
    async with Rig(FakeSink(WriteResult(refused={0: "no"}))) as rig:
        await rig.post(1)
        await rig.saved(2)
    rig.retry_dead_letters()
    async with asyncio.TaskGroup() as group:
        tracker = OffsetTracker(rig.outlet, rig.cursor, None, 1, None, lambda commit: None, group, rig.clock)
        (letter,) = await tracker.retries(10)
        batch = await tracker.add_retry(Batch(), {"": letter})
        rig.outlet.held = {"answer"}
        late = group.create_task(tracker.retries(10))
        await until_async(lambda: rig.outlet.calls[-1] == "answer", "asked")
        outcome = Outcome("sink", {}, SinkReport("sink", SinkStatus(), rig.metrics, rig.clock), rig.clock)
        outcome.redelivered = [letter.id]
        await tracker.settle(batch, outcome)
        await tracker.retries_saved(batch)
        rig.outlet.held = set()
        assert await late == []


async def test_many_dead_letters_are_retried_without_pauses() -> None:
    """Each batch once the one before is saved."""
    clock = FakeClock()
    sink = FakeSink(always=WriteResult(refused=dict.fromkeys(range(10), "no")))
    async with Rig(sink, clock=clock, max_records=10) as rig:
        await rig.post(40)
        await until_async(lambda: len(rig.dead_letters) == 40, "all are dead letters")
        sink.always = WriteResult()
        assert rig.retry_dead_letters() == 40
        await clock.advance(RETRIES_INTERVAL)
        await until_async(lambda: not rig.dead_letters, "all were delivered")


async def test_dead_letters_are_retried_in_batches_that_fit() -> None:
    """max_bytes and max_records apply to them too."""
    sink = FakeSink(always=BatchRefused("all of it"))
    async with Rig(sink, max_bytes="1500B") as rig:
        bodies = await rig.post(4)
        await until_async(lambda: len(rig.dead_letters) == 4, "all are dead letters")
        sink.always, written = WriteResult(), len(sink.writes)
        assert rig.retry_dead_letters() == 4
        await until_async(lambda: not rig.dead_letters, "all were delivered")
    assert sorted(sink.bodies) == sorted(bodies)
    assert all(batch.nbytes <= 1500 for batch in sink.writes[written:])
