"""Delivery to a sink that writes in transactions: what fails in one is written again, from where the journal says."""

import asyncio
from collections.abc import Sequence

from btfeed.journal.base import JournalUnavailable, OutletGone
from btfeed.telemetry.samples import by_label
from sinks.base import Offsets, StartAgain, Unavailable, WriteResult
from sinks.batch import Batch
from tests.support.clock import settle
from tests.support.fakes import FakeSink, Rig
from tests.support.harness import DEADLINE, until_async


class TransactionalFakeSink(FakeSink):
    """committed: the records of transactions that have ended. failing: raised by the next commits. order: what was
    called."""

    def __init__(self, *answers: WriteResult | Exception, failing: Sequence[Exception] = ()) -> None:
        super().__init__(*answers)
        self.failing = list(failing)
        self.committed: list[bytes] = []
        self.order: list[str] = []

    async def open(self, state: str | None) -> None:
        self.order.append("open")
        self.bodies.clear()  # of a transaction that was not ended
        await super().open(state)

    async def write(self, batch: Batch) -> WriteResult:
        self.order.append("write")
        return await super().write(batch)

    async def commit(self, saved: Offsets, deleted: Sequence[tuple[str, bytes]]) -> None:
        self.order.append("commit")
        if self.failing:
            raise self.failing.pop(0)
        self.committed += self.bodies
        self.bodies.clear()


def transactions(rig: Rig) -> dict[str, int]:
    return by_label(rig.metrics.kafka_journal.transactions, "outcome")


async def test_each_write_is_committed_before_the_next() -> None:
    """One at a time, however many may be in flight. The cursor is read after the sink was opened."""
    sink = TransactionalFakeSink()
    async with Rig(sink, transactional=True, in_flight=4, max_records=2) as rig:
        bodies = await rig.post(6)
        await until_async(lambda: len(sink.committed) == 6, "all is committed")
        assert rig.outlet.calls.index("refresh") < rig.outlet.calls.index("cursor")
    assert sink.committed == bodies
    assert sink.order == ["open", *["write", "commit"] * 3]
    assert transactions(rig) == {"committed": 3}


async def test_a_transaction_that_fails_is_written_again() -> None:
    """As a whole: in a commit, or in a write behind others of the same transaction."""
    sink = TransactionalFakeSink(WriteResult(), WriteResult(), StartAgain("fenced"), failing=[StartAgain("no reply")])
    async with Rig(sink, transactional=True, max_records=4) as rig:
        bodies = await rig.post(8)
        await until_async(lambda: len(sink.committed) == 8, "all is committed")
        assert (await rig.outlet.cursor())[0].seq == 2
    assert sink.committed == bodies
    assert sink.order.count("open") == 3
    assert sink.closed == 3
    assert transactions(rig) == {"aborted": 2, "committed": 2}


async def test_what_fails_without_the_transaction_is_only_retried() -> None:
    """The rest of the batch is still part of it."""
    sink = TransactionalFakeSink(Unavailable("no leader"), WriteResult(retry=[1]))
    async with Rig(sink, transactional=True) as rig:
        bodies = await rig.post(3)
        await until_async(lambda: len(sink.committed) == 3, "all is committed")
    assert sorted(sink.committed) == sorted(bodies)
    assert sink.order == ["open", "write", "write", "write", "commit"]


async def test_a_transaction_that_fails_with_its_partition_gone_is_no_bug() -> None:
    """A process that was paused for longer than its session meets both at the same time."""
    sink = TransactionalFakeSink()

    async def write(batch: Batch) -> WriteResult:
        try:
            await asyncio.Event().wait()
        finally:
            raise StartAgain("fenced")

    sink.always = write
    async with Rig(sink, transactional=True) as rig:
        await rig.post(1)
        await until_async(lambda: sink.at_once == 1, "a write is in progress")
        rig.outlet.error, rig.outlet.failing = OutletGone("another process has it"), {"retries"}
        await asyncio.wait_for(rig.task, DEADLINE)
    assert (sink.committed, sink.closed) == ([], 1)


async def test_nothing_is_written_while_a_commit_is_tried_again() -> None:
    """The journal can't keep the dead letters of the batch: they come before the transaction ends."""
    sink = TransactionalFakeSink()
    async with Rig(sink, transactional=True, max_records=2, failing=["commit_in"]) as rig:
        rig.outlet.error = JournalUnavailable("the brokers are away")
        await rig.post(4)
        await until_async(lambda: rig.outlet.failed.count("commit_in") > 2, "several tries")
        await settle()
        assert sink.order == ["open", "write"]
        rig.outlet.failing.clear()
        await until_async(lambda: len(sink.committed) == 4, "all is committed")


async def test_posts_without_records_move_the_cursor() -> None:
    """In a transaction of their own, and not in the middle of another write's."""
    sink = TransactionalFakeSink()
    async with Rig(sink, transactional=True, max_records=3) as rig:
        await rig.post(3)
        await rig.post(0, 1)
        await rig.post(3, 2)
        await rig.saved(4)
    assert len(sink.committed) == 6
    assert "write write" not in " ".join(sink.order)
