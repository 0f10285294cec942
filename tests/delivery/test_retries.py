"""Dead letters that an operator marked for retry."""

from sinks.base import BatchRefused, WriteResult
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
    """The journal was asked before it saved that the record was delivered, and answers after that."""
    sink = FakeSink(WriteResult(refused={0: "no"}))
    async with Rig(sink) as rig:
        outlet = rig.outlet
        bodies = await rig.post(1)
        await rig.saved(2)
        outlet.held = {"commit"}
        assert rig.retry_dead_letters() == 1
        await until_async(lambda: sink.bodies, "it is delivered, but not saved")
        outlet.calls.clear()
        outlet.held = {"commit", "answer"}
        await until_async(lambda: "answer" in outlet.calls, "asked again")
        outlet.held = {"answer"}
        await until_async(lambda: not rig.dead_letters, "it is saved")
        outlet.calls.clear()
        outlet.held = set()
        await until_async(lambda: outlet.calls.count("answer") > 1, "asked twice more")
    assert sink.bodies == bodies


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
