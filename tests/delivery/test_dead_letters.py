"""Records that become dead letters: what keeping them costs, what is said of it, and how they are retried."""

import asyncio
from collections.abc import Sequence
from typing import Any, overload

import pytest
from structlog.testing import capture_logs

from btfeed.delivery.offsets import OffsetTracker
from btfeed.delivery.outcome import FEW, Outcome
from btfeed.delivery.report import REJECTED_IN_A_ROW, SinkReport
from btfeed.delivery.retry import RetryPause
from btfeed.delivery.writer import BatchWriter
from btfeed.journal.base import Commit, Cursor, DeadLetter
from btfeed.journal.memory import MemoryJournal, MemoryOutlet
from btfeed.telemetry.metrics import Metrics
from btfeed.telemetry.sink_status import SinkStatus
from btfeed.telemetry.warnings import INTERVAL
from sinks.base import BatchRefused, WriteResult
from sinks.batch import Batch, Transaction
from tests.support.clock import FakeClock
from tests.support.fakes import FakeSink, Rig
from tests.support.harness import until_async

TRANSACTION = Transaction("name", "application", "profile", "server", "purepath")
OLD, NEW = 0, 2_000_000_000_000
"""Timestamps that are older and newer than any age."""


class Counted(Sequence[Any]):
    """A column that counts how many of its items were looked at."""

    def __init__(self, items: list[Any], work: list[int]) -> None:
        self.items = items
        self.work = work

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Any:
        self.work[0] += len(self.items)
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "Counted": ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            found = self.items[index]
            self.work[0] += len(found)
            return Counted(found, self.work)
        self.work[0] += 1
        return self.items[index]


def _batch(number: int, work: list[int], timestamps: list[int]) -> Batch:
    """Records in parts of three, as they come from small posts."""
    lines = [b'{"n":%d}\n' % each for each in range(number)]
    parts = [memoryview(b"".join(lines[first : first + 3])) for first in range(0, number, 3)]

    def column(items: list[Any]) -> Counted:
        return Counted(items, work)

    ids = column([f"id-{each}" for each in range(number)])
    transactions, sizes = column([TRANSACTION] * number), column([len(line) for line in lines])
    return Batch(ids, column(["key"] * number), column(timestamps), transactions, sizes, column(parts))


class Judge:
    """A sink that refuses what `refuses` says, by the record's number, and takes the rest; or raises BatchRefused if it is
    to take the batch as a whole or not at all."""

    def __init__(self, refuses: Any, whole: bool = False, retries: bool = False) -> None:
        self.refuses = refuses
        self.whole = whole
        self.retries = retries
        self.taken: list[int] = []

    async def open(self, state: str | None) -> None: ...

    async def check(self) -> None: ...

    async def close(self) -> None: ...

    async def write(self, batch: Batch) -> WriteResult:
        numbers = [int(line[5:-1]) for line in batch.ndjson.splitlines()]
        named = {index: f"no {number}" for index, number in enumerate(numbers) if self.refuses(number)}
        if named and self.whole:
            raise BatchRefused("no")
        self.taken += [number for index, number in enumerate(numbers) if index not in named]
        if self.retries:
            self.retries = False
            return WriteResult(retry=list(named))
        return WriteResult(refused=named)


async def _buried(judge: Judge, number: int, timestamps: list[int]) -> tuple[Outcome, int]:
    """The outcome of a batch, and how many items of its columns were looked at."""
    clock = FakeClock()
    report = SinkReport("sink", SinkStatus(), Metrics(), clock)
    pause = RetryPause(0.0, 0.0, asyncio.Event(), clock)
    work = [0]
    writer = BatchWriter("sink", judge, 3600.0, pause, report, clock)
    outcome = await writer.write(_batch(number, work, timestamps), {})
    report.stopped()
    assert outcome
    return outcome, work[0]


CASES: dict[str, tuple[Any, Any]] = {
    "all refused": (lambda: Judge(lambda _: True), lambda _: NEW),
    "every second refused": (lambda: Judge(lambda number: number % 2), lambda _: NEW),
    "every second tried again and refused": (lambda: Judge(lambda number: number % 2, retries=True), lambda _: NEW),
    "all expired": (lambda: Judge(lambda _: False), lambda _: OLD),
    "every second expired": (lambda: Judge(lambda _: False), lambda number: NEW if number % 2 else OLD),
    "refused as a whole": (lambda: Judge(lambda _: True, whole=True), lambda _: NEW),
}


@pytest.mark.parametrize("case", CASES)
async def test_keeping_records_costs_what_they_are(case: str) -> None:
    """Four times as many cost about four times the work, wherever in the batch they are. All have an outcome."""
    judge, timestamp = CASES[case]
    costs = []
    for number in (FEW, 4 * FEW):
        sink = judge()
        outcome, work = await _buried(sink, number, [timestamp(each) for each in range(number)])
        dead = {int(each.body[5:-1]) for each in outcome.dead_letters}
        assert dead.isdisjoint(sink.taken)
        assert sorted([*dead, *sink.taken]) == list(range(number))
        assert {(each.event_id, each.body) for each in outcome.dead_letters} == {
            (f"id-{each}", b'{"n":%d}' % each) for each in dead
        }
        costs.append(work)
    assert costs[1] < 6 * costs[0]


class SlowOutlet(MemoryOutlet):
    """Saves only once it may."""

    def __init__(self) -> None:
        journal = MemoryJournal({})
        journal.add_sink("sink")
        super().__init__(journal, "sink")
        self.may_save = asyncio.Event()
        self.commits: list[Commit] = []

    async def commit(self, commit: Commit) -> None:
        await self.may_save.wait()
        self.commits.append(commit)


async def test_waiting_to_be_saved_costs_what_there_is() -> None:
    """Batches that are settled while the journal is slow are put together once, and not with each one."""
    work, outlet, number = [0], SlowOutlet(), 2_000
    async with asyncio.TaskGroup() as group:
        tracker = OffsetTracker(outlet, Cursor(1), None, 1, None, lambda commit: None, group, FakeClock())
        for seq in range(number):
            dead = DeadLetter("record", "", "no", 1, b"{}", event_id=f"id-{seq}")
            await tracker.settle(await tracker.add(Batch(), Cursor(seq + 2), Counted([dead], work)))
        outlet.may_save.set()
    assert sum(len(commit.dead_letters) for commit in outlet.commits) == number
    assert outlet.commits[-1].cursor == Cursor(number + 1)
    assert work[0] <= 3 * number


async def test_a_dead_letter_that_expired_is_not_expired_again() -> None:
    """An operator who retries it wants it written, however old it is. Others expire as before."""
    sink = FakeSink()
    async with Rig(sink, max_age="1s") as rig:
        old = await rig.post(3)
        await rig.saved(2)
        assert {each.cause for each in rig.dead_letters} == {"expired"}
        assert (len(rig.dead_letters), sink.bodies) == (3, [])
        assert rig.retry_dead_letters() == 3
        await until_async(lambda: len(sink.bodies) == 3, "delivered")
        assert sorted(sink.bodies) == sorted(old)
        await until_async(lambda: not rig.dead_letters, "deleted")
        await rig.post(2, seed=1)
        await rig.saved(3)
        assert {each.cause for each in rig.dead_letters} == {"expired"}


async def test_what_is_kept_is_said_at_once_and_then_as_a_sum() -> None:
    """With the sink, the cause and one of the reasons, at warning."""
    clock = FakeClock()
    sink = FakeSink(always=WriteResult(refused={0: "far too large"}))
    with capture_logs() as logged:
        async with Rig(sink, clock=clock, linger="0s", max_records=3) as rig:
            for number in range(4):
                await rig.post(3, seed=number)
                await rig.saved(number + 2)
            await clock.advance(INTERVAL)
            await rig.post(3, seed=5)
            await rig.saved(6)
    lines = [line for line in logged if line["event"] == "kept as dead letters"]
    assert [line["count"] for line in lines] == [1, 3, 1]
    assert {(line["log_level"], line["sink"], line["cause"], line["reason"]) for line in lines} == {
        ("warning", "sink", "refused", "far too large")
    }


async def test_a_sink_that_rejects_everything_says_so() -> None:
    """In its state, its last error and the log, until it takes a record."""
    sink = FakeSink(always=lambda batch: WriteResult(refused=dict.fromkeys(range(len(batch)), "mapping conflict")))
    with capture_logs() as logged:
        async with Rig(sink) as rig:
            await rig.post(REJECTED_IN_A_ROW - 1)
            await rig.saved(2)
            assert rig.delivery.status.state == "running"
            await rig.post(5, seed=1)
            await rig.saved(3)
            status = rig.delivery.status
            assert (status.state, status.last_error) == ("rejecting", "mapping conflict")
            sink.always = WriteResult(refused={0: "one"})
            await rig.post(5, seed=2)
            await rig.saved(4)
            assert status.state == "running"
    lines = [line for line in logged if line["event"].startswith("sink rejects everything")]
    assert [(line["log_level"], line["reason"]) for line in lines] == [("error", "mapping conflict")]


async def test_a_sink_that_rejects_batches_as_a_whole_says_so() -> None:
    """Also if each record had to be found by halving."""
    sink = FakeSink(always=BatchRefused("no such schema"))
    async with Rig(sink) as rig:
        await rig.post(REJECTED_IN_A_ROW)
        await rig.saved(2)
        assert (rig.delivery.status.state, rig.delivery.status.last_error) == ("rejecting", "no such schema")
