"""Delivery when something fails: retries, refusals, bugs, and the journal."""

import asyncio
import math
import random
from typing import Any

import pytest
from structlog.testing import capture_logs

from btfeed.journal.base import Cursor
from btfeed.journal.memory import MemoryJournal
from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, Unavailable, WriteResult
from sinks.batch import Batch
from tests.support.clock import FakeClock
from tests.support.fakes import FakeSink, Rig, SerialFakeSink
from tests.support.harness import until_async


@pytest.fixture
def ceilings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The upper limits of the random pauses; the pauses themselves are a thousandth of them."""
    asked: list[float] = []

    def uniform(low: float, high: float) -> float:
        assert low == 0
        asked.append(high)
        return high / 1000

    monkeypatch.setattr(random, "uniform", uniform)
    return asked


async def test_retries_wait_a_random_time_under_a_ceiling_that_doubles(ceilings: list[float]) -> None:
    """Full jitter from 0 to retry_initial, twice that, and so on up to retry_max. Tries are not limited."""
    sink = FakeSink(*[Unavailable("away")] * 12)
    async with Rig(sink, retry_initial="1s", retry_max="16s") as rig:
        bodies = await rig.post(3)
        await rig.saved(2)
    assert ceilings == [1, 2, 4, 8, 16, 16, 16, 16, 16, 16, 16, 16]
    assert sink.bodies == bodies
    assert rig.sample("sink_retried_total") == rig.delivery.status.retried == 36
    assert rig.sample("sink_errors_total", kind="unavailable") == 12
    assert rig.sample("sink_delivered_total") == 3


async def test_retry_after_is_the_shortest_pause() -> None:
    """The sink says how long to wait at least. Jitter only adds to it."""
    clock, sink = FakeClock(), FakeSink(Unavailable("busy", retry_after=30))
    async with Rig(sink, clock=clock, linger="0s", retry_initial="1ms") as rig:
        bodies = await rig.post(1)
        await until_async(lambda: sink.writes, "the first write")
        await clock.advance(29.9)
        assert len(sink.writes) == 1
        await clock.advance(0.2)
        assert sink.bodies == bodies


async def test_retry_after_holds_for_all_writers(ceilings: list[float]) -> None:
    """What one of them is told: those that are idle and those that are about to try again begin nothing before that."""
    clock, began = FakeClock(), []
    answers = [Unavailable("busy"), Unavailable("busy", retry_after=30)]

    def answer(batch: Batch) -> WriteResult:
        began.append(clock.now)
        if answers:
            raise answers.pop(0)
        return WriteResult()

    sink = FakeSink(always=answer)
    async with Rig(sink, clock=clock, linger="0s", in_flight=4, max_records=5, retry_initial="1s") as rig:
        bodies = await rig.post(10)
        await until_async(lambda: len(began) == 2, "two writes failed")
        bodies += await rig.post(10, 1)
        await clock.advance(1)
        await until_async(lambda: clock.due_at(30) == 4, "all writers wait")
        await clock.advance(28.9)
        assert len(began) == 2
        await clock.advance(0.2)
        await until_async(lambda: len(sink.bodies) == 20, "all delivered")
    assert began[2] == 30
    assert sorted(sink.bodies) == sorted(bodies)


async def test_progress_resets_the_pauses(ceilings: list[float]) -> None:
    """After a write that delivered something, the next pause is short again."""
    away = Unavailable("away")
    sink = FakeSink(away, away, WriteResult(retry=[0, 1]), WriteResult(retry=[0, 1]), away, WriteResult(retry=[1]))
    async with Rig(sink, retry_initial="1s", retry_max="1h") as rig:
        bodies = await rig.post(3)
        await rig.saved(2)
    assert ceilings == [1, 2, 1, 2, 4, 1]
    assert sorted(sink.bodies) == sorted(bodies)


@pytest.mark.parametrize("culprit", [0, 1, 2047, 2048, 4095])
async def test_halving_finds_the_refused_record(culprit: int) -> None:
    """A batch of 4,096 that is refused because of one record costs 2 log2 n more requests, and one dead letter."""
    guilty: list[bytes] = []

    def refuse(batch: Batch) -> WriteResult:
        if len(batch) == 4096:
            guilty.append(batch.body(culprit))
        if guilty[0] in batch.bodies:
            raise BatchRefused("one is odd")
        return WriteResult()

    sink = FakeSink(always=refuse)
    async with Rig(sink) as rig:
        bodies = await rig.post(4096)
        await rig.saved(2)
    assert sink.bodies == bodies[:culprit] + bodies[culprit + 1 :]
    assert [(dead_letter.body, dead_letter.reason) for dead_letter in rig.dead_letters] == [(guilty[0], "one is odd")]
    assert len(sink.writes) - 1 <= 2 * math.log2(4096) + 1
    assert rig.sample("sink_errors_total", kind="batch_refused") == 13


async def test_partial_results_count_by_index() -> None:
    """Refused records become dead letters, those to retry are written again alone, and the rest is delivered."""
    sink = FakeSink(WriteResult(retry=[4, 1], refused={0: "odd", 3: "big"}), WriteResult(refused={1: "late"}))
    async with Rig(sink) as rig:
        bodies = await rig.post(5)
        await rig.saved(2)
    assert sink.writes[1].bodies == [bodies[1], bodies[4]]
    assert sink.bodies == [bodies[2], bodies[1]]
    assert {dead_letter.body: dead_letter.reason for dead_letter in rig.dead_letters} == {
        bodies[0]: "odd", bodies[3]: "big", bodies[4]: "late",
    }  # fmt: skip
    assert rig.sample("sink_refused_total") == rig.sample("dead_letters_total", reason="refused") == 3
    assert (rig.sample("sink_delivered_total"), rig.sample("sink_retried_total")) == (2, 2)
    assert rig.sample("sink_delivered_bytes_total") == sum(len(body) + 1 for body in sink.bodies)


async def test_an_unknown_outcome_is_counted_and_tried_again() -> None:
    """By records, each time. The pause is that of an unavailable sink."""
    sink = FakeSink(OutcomeUnknown("no reply"), OutcomeUnknown("no reply"))
    async with Rig(sink) as rig:
        bodies = await rig.post(3)
        await rig.saved(2)
    assert sink.bodies == bodies
    assert rig.sample("sink_unknown_total") == rig.sample("sink_retried_total") == 6
    assert rig.sample("sink_errors_total", kind="unavailable") == 2
    assert rig.dead_letters == []


async def test_what_must_not_be_written_twice_becomes_dead_letters() -> None:
    """A batch of unknown outcome that the sink must not get twice. Older and newer batches are delivered."""
    sink = FakeSink(WriteResult(), OutcomeUnknown("no reply", again=False))
    async with Rig(sink, max_records=2) as rig:
        bodies = await rig.post(6)
        await rig.saved(2)
    assert sink.bodies == bodies[:2] + bodies[4:]
    assert [(dead_letter.body, dead_letter.reason) for dead_letter in rig.dead_letters] == [
        (body, "no reply") for body in bodies[2:4]
    ]
    assert len(sink.writes) == 3
    assert rig.sample("sink_unknown_total") == rig.sample("dead_letters_total", reason="unknown") == 2
    assert rig.delivery.status.dead_letters == 2


async def test_what_a_sink_flags_is_counted() -> None:
    """By the sink's own label, over all batches."""
    async with Rig(FakeSink(always=WriteResult(flagged={"far_future": 2})), max_records=2) as rig:
        await rig.post(4)
        await rig.saved(2)
    assert rig.sample("sink_flagged_total", what="far_future") == 4


async def test_unknown_outcomes_of_single_records_are_counted() -> None:
    """Of the records to write again, as many as the sink says."""
    sink = FakeSink(WriteResult([1, 2], unknown=1))
    async with Rig(sink) as rig:
        bodies = await rig.post(3)
        await rig.saved(2)
    assert rig.sample("sink_unknown_total") == 1
    assert rig.sample("sink_retried_total") == 2
    assert sorted(sink.bodies) == sorted(bodies)


@pytest.mark.parametrize("where", ["open", "write"])
async def test_a_misconfigured_sink_shows_why_it_waits(where: str) -> None:
    """In its status. Once that is fixed it goes on, and nothing is lost."""
    wrong = [Misconfigured("no such topic")] * 20
    sink = FakeSink(opens=wrong) if where == "open" else FakeSink(*wrong)
    async with Rig(sink) as rig:
        bodies = await rig.post(2)
        await until_async(lambda: rig.delivery.status.state == "misconfigured", "misconfigured")
        assert rig.delivery.status.last_error == "no such topic"
        await rig.saved(2)
        assert rig.delivery.status.state == "running"
    assert sink.bodies == bodies
    assert rig.sample("sink_errors_total", kind="misconfigured") == 20


async def test_a_bug_in_a_sink_is_logged_once_and_its_batch_retried() -> None:
    """An exception that sinks should not raise is logged with one traceback, whatever its messages, and retried."""
    sink = FakeSink(*[KeyError(f"number {n}") for n in range(5)])
    with capture_logs() as logs:
        async with Rig(sink) as rig:
            bodies = await rig.post(2)
            await rig.saved(2)
    bugs = [entry for entry in logs if entry["event"].startswith("bug in the sink")]
    assert len(bugs) == 1
    assert isinstance(bugs[0]["exc_info"], KeyError)
    assert (rig.sample("sink_errors_total", kind="bug"), sink.bodies) == (5, bodies)
    assert rig.delivery.status.last_error == "bug: KeyError('number 4')"


@pytest.mark.parametrize(
    "answer", [WriteResult(retry=[2]), WriteResult(refused={-1: ""}), WriteResult(retry=[0], refused={0: ""})]
)
async def test_a_result_that_contradicts_itself_is_a_bug_of_the_sink(answer: WriteResult) -> None:
    """It is not used, and the batch is written again."""
    sink = FakeSink(answer)
    async with Rig(sink) as rig:
        await rig.post(2)
        await rig.saved(2)
    assert len(sink.writes) == 2
    assert rig.sample("sink_errors_total", kind="bug") == 1


@pytest.mark.parametrize("where", ["open", "write"])
async def test_a_sink_that_cancels_itself_is_tried_again(where: str) -> None:
    """A cancellation from within would silently end the delivery. It counts as a bug."""

    class Cancelling(FakeSink):
        cancelled = 0

        async def _once(self, here: str) -> None:
            if here == where and not self.cancelled:
                self.cancelled += 1
                raise asyncio.CancelledError

        async def open(self, state: str | None) -> None:
            await self._once("open")

        async def write(self, batch: Batch) -> WriteResult:
            await self._once("write")
            return await super().write(batch)

    sink = Cancelling()
    async with Rig(sink) as rig:
        bodies = await rig.post(2)
        await rig.saved(2)
    assert (sink.cancelled, sink.bodies, rig.sample("sink_errors_total", kind="bug")) == (1, bodies, 1)


async def test_commits_that_fail_are_tried_again_and_lose_nothing() -> None:
    """Writes go on meanwhile. In the end, everything is saved, each dead letter once."""
    sink = FakeSink(always=lambda batch: WriteResult(refused={0: "odd"}))
    async with Rig(sink, max_records=2) as rig:
        rig.outlet.failing = {"commit"}
        bodies = await rig.post(10)
        await until_async(lambda: len(sink.writes) == 5, "a sink that is not serial goes on")
        rig.outlet.failing = set()
        await rig.saved(2)
    assert sink.bodies == bodies[1::2]
    assert [dead_letter.body for dead_letter in rig.dead_letters] == bodies[::2]
    assert "commit" in rig.outlet.failed


async def test_a_serial_sink_goes_on_while_commits_fail() -> None:
    """It is told only saved states: the last one, once the journal can save again."""
    sink = SerialFakeSink()
    async with Rig(sink, serial=True, max_records=2) as rig:
        await until_async(lambda: rig.outlet.commits, "opened")
        rig.outlet.failing = {"commit"}
        bodies = await rig.post(4)
        await until_async(lambda: len(rig.outlet.failed) >= 2, "the commit failed twice")
        await until_async(lambda: sink.bodies == bodies, "all is written")
        assert (sink.told, rig.cursor, rig.state) == (["0"], Cursor(1), "0")
        rig.outlet.failing = set()
        await rig.saved(2)
    assert (sink.bodies, sink.told) == (bodies, ["0", "4"])


async def test_a_serial_sink_gets_no_record_before_a_state_is_saved() -> None:
    """However long the journal can't save it."""
    sink = SerialFakeSink()
    async with Rig(sink, serial=True, failing=["commit"]) as rig:
        bodies = await rig.post(4)
        await until_async(lambda: len(rig.outlet.failed) >= 2, "the commit failed twice")
        assert [len(batch) for batch in sink.writes] == [0]
        rig.outlet.failing = set()
        await rig.saved(2)
    assert sink.bodies == bodies


async def test_a_journal_that_cannot_be_read_is_read_again() -> None:
    """One warning per outage. Then delivery goes on where it was."""
    sink = FakeSink()
    with capture_logs() as logs:
        async with Rig(sink) as rig:
            rig.outlet.failing = {"read", "retries"}
            bodies = await rig.post(2)
            await until_async(lambda: len(rig.outlet.failed) >= 2, "reading failed twice")
            rig.outlet.failing = set()
            await rig.saved(2)
    assert sink.bodies == bodies
    assert len([entry for entry in logs if "can't read the journal" in entry["event"]]) == 1


@pytest.mark.parametrize("seed", range(10))
async def test_every_record_is_delivered_or_a_dead_letter(seed: int) -> None:
    """With random results, failing commits and restarts. A serial sink gets each record once."""
    rng = random.Random(seed)
    serial = seed % 2 == 0
    journal = MemoryJournal({})

    async def anything(batch: Batch) -> WriteResult:
        await asyncio.sleep(rng.choice((0, 0, 0.003)))
        kinds: list[Any] = [Unavailable("u"), Misconfigured("m"), KeyError("k"), None, None, None]
        error = rng.choice([*kinds, *([] if serial else [BatchRefused("b")])])
        if error:
            raise error
        names = rng.sample(range(len(batch)), rng.randrange(len(batch) + 1) // 2)
        half = 0 if serial else len(names) // 2
        return WriteResult(retry=names[:half], refused=dict.fromkeys(names[half:], "refused"))

    sink: FakeSink = (SerialFakeSink if serial else FakeSink)(always=anything)
    expected: list[bytes] = []
    for number in range(4):
        in_flight = 1 if serial else 3
        async with Rig(sink, serial=serial, journal=journal, in_flight=in_flight, max_records=7) as rig:
            expected.extend(await rig.post(40, number))
            if rng.random() < 0.3:
                rig.outlet.failing = {"commit"}
            else:
                settled = lambda: len(sink.bodies) + journal.dead_letters.count() > len(expected) // 2  # noqa: E731
                await until_async(settled, "some are settled")
            rig.outlet.failing = set()
    sink.always = WriteResult()
    async with Rig(sink, serial=serial, journal=journal) as rig:
        await rig.saved(5)
    refused = [dead_letter.body for dead_letter in rig.dead_letters]
    assert sorted(set(sink.bodies) | set(refused)) == sorted(expected)
    if serial:
        assert sorted(sink.bodies + refused) == sorted(expected)
