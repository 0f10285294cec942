"""Delivery when something fails: retries, refusals, bugs, and the journal."""

import asyncio
import math
import random
from typing import Any

import pytest
from structlog.testing import capture_logs

from btfeed.journal.base import Cursor
from sinks.base import BatchRefused, Misconfigured, OutcomeUnknown, Unavailable, WriteResult
from sinks.batch import Batch
from tests.support.fakes import FakeJournal, FakeSink, Rig, SerialFakeSink
from tests.support.harness import until_async

pytestmark = pytest.mark.usefixtures("quickly")


@pytest.fixture
def ceilings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The ceilings that random times were asked for; the times are a thousandth of them."""
    asked: list[float] = []

    def uniform(low: float, high: float) -> float:
        assert low == 0
        asked.append(high)
        return high / 1000

    monkeypatch.setattr(random, "uniform", uniform)
    return asked


async def test_retries_wait_a_random_time_under_a_ceiling_that_doubles(ceilings: list[float]) -> None:
    """Full jitter from 0 to retry_initial, twice that, and so on up to retry_max; there is no last try."""
    sink = FakeSink(*[Unavailable("away")] * 12)
    async with Rig(sink, retry_initial="1s", retry_max="16s") as rig:
        bodies = await rig.post(3)
        await rig.saved(2)
    assert ceilings == [1, 2, 4, 8, 16, 16, 16, 16, 16, 16, 16, 16]
    assert sink.bodies == bodies
    assert rig.sample("sink_retried_total") == rig.delivery.status.retried == 36
    assert rig.sample("sink_errors_total", kind="unavailable") == 12
    assert rig.sample("sink_delivered_total") == 3


async def test_retry_after_is_a_floor() -> None:
    """The sink says how long to wait at least; jitter only adds to it."""
    times: list[float] = []

    def note(batch: Batch) -> WriteResult:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise Unavailable("busy", retry_after=0.25)
        return WriteResult()

    async with Rig(FakeSink(always=note)) as rig:
        await rig.post(1)
        await rig.saved(2)
    assert times[1] - times[0] >= 0.25


async def test_progress_starts_the_waiting_anew(ceilings: list[float]) -> None:
    """After a try that delivered something, the next pause is a short one again."""
    away = Unavailable("away")
    sink = FakeSink(away, away, WriteResult(retry=[0, 1]), WriteResult(retry=[0, 1]), away, WriteResult(retry=[1]))
    async with Rig(sink, retry_initial="1s", retry_max="1h") as rig:
        bodies = await rig.post(3)
        await rig.saved(2)
    assert ceilings == [1, 2, 1, 2, 4, 1]
    assert sorted(sink.bodies) == sorted(bodies)


@pytest.mark.parametrize("culprit", [0, 1, 2047, 2048, 4095])
async def test_halving_finds_the_one_culprit(culprit: int) -> None:
    """A batch of 4,096 that is refused for one record costs 2 log2 n more requests, and one dead letter."""
    guilty: list[bytes] = []

    def refuse(batch: Batch) -> WriteResult:
        if len(batch) == 4096:
            guilty.append(batch.body(culprit))
        if guilty[0] in batch.bodies:
            raise BatchRefused("somebody is odd")
        return WriteResult()

    sink = FakeSink(always=refuse)
    async with Rig(sink) as rig:
        bodies = await rig.post(4096)
        await rig.saved(2)
    assert sink.bodies == bodies[:culprit] + bodies[culprit + 1 :]
    assert [(letter.body, letter.reason) for letter in rig.journal.letters.values()] == [(guilty[0], "somebody is odd")]
    assert len(sink.writes) - 1 <= 2 * math.log2(4096) + 1
    assert rig.sample("sink_errors_total", kind="batch_refused") == 13


async def test_partial_results_count_by_index() -> None:
    """Refused records become dead letters with their reasons, those to retry come again alone, the rest is delivered."""
    sink = FakeSink(WriteResult(retry=[4, 1], refused={0: "odd", 3: "big"}), WriteResult(refused={1: "late"}))
    async with Rig(sink) as rig:
        bodies = await rig.post(5)
        await rig.saved(2)
    assert sink.writes[1].bodies == [bodies[1], bodies[4]]
    assert sink.bodies == [bodies[2], bodies[1]]
    assert {letter.body: letter.reason for letter in rig.journal.letters.values()} == {
        bodies[0]: "odd", bodies[3]: "big", bodies[4]: "late",
    }  # fmt: skip
    assert rig.sample("sink_refused_total") == rig.sample("dead_letters_total", reason="refused") == 3
    assert (rig.sample("sink_delivered_total"), rig.sample("sink_retried_total")) == (2, 2)
    assert rig.sample("sink_delivered_bytes_total") == sum(len(body) + 1 for body in sink.bodies)


async def test_an_unknown_outcome_is_counted_and_tried_again() -> None:
    """By records, each time; the wait is that of a sink that is unavailable."""
    sink = FakeSink(OutcomeUnknown("no reply"), OutcomeUnknown("no reply"))
    async with Rig(sink) as rig:
        bodies = await rig.post(3)
        await rig.saved(2)
    assert sink.bodies == bodies
    assert rig.sample("sink_unknown_total") == rig.sample("sink_retried_total") == 6
    assert rig.sample("sink_errors_total", kind="unavailable") == 2
    assert rig.journal.letters == {}


async def test_what_must_not_come_again_is_kept_as_dead_letters() -> None:
    """A batch of unknown outcome that the sink does not want twice; its neighbours, older and newer, are delivered."""
    sink = FakeSink(WriteResult(), OutcomeUnknown("no reply", again=False))
    async with Rig(sink, max_records=2) as rig:
        bodies = await rig.post(6)
        await rig.saved(2)
    assert sink.bodies == bodies[:2] + bodies[4:]
    assert [(letter.body, letter.reason) for letter in rig.journal.letters.values()] == [
        (body, "no reply") for body in bodies[2:4]
    ]
    assert len(sink.writes) == 3
    assert rig.sample("sink_unknown_total") == rig.sample("dead_letters_total", reason="unknown") == 2
    assert rig.delivery.status.dead_letters == 2


async def test_what_a_sink_notes_is_counted() -> None:
    """By the sink's own word for it, batch after batch."""
    async with Rig(FakeSink(always=WriteResult(flagged={"far_future": 2})), max_records=2) as rig:
        await rig.post(4)
        await rig.saved(2)
    assert rig.sample("sink_flagged_total", what="far_future") == 4


async def test_what_may_have_been_taken_is_counted_though_others_were() -> None:
    """Of a batch whose records fared differently: those to write again, as far as their outcome is unknown."""
    sink = FakeSink(WriteResult([1, 2], unknown=1))
    async with Rig(sink) as rig:
        bodies = await rig.post(3)
        await rig.saved(2)
    assert rig.sample("sink_unknown_total") == 1
    assert rig.sample("sink_retried_total") == 2
    assert sorted(sink.bodies) == sorted(bodies)


@pytest.mark.parametrize("where", ["open", "write"])
async def test_a_misconfigured_sink_waits_where_people_can_see_it(where: str) -> None:
    """Status and sink_up say so and why; when it is mended, it goes on, and nothing was lost."""
    wrong = [Misconfigured("no such topic")] * 20
    sink = FakeSink(opens=wrong) if where == "open" else FakeSink(*wrong)
    async with Rig(sink) as rig:
        bodies = await rig.post(2)
        await until_async(lambda: rig.delivery.status.state == "misconfigured", "misconfigured")
        assert (rig.delivery.status.last_error, rig.sample("sink_up")) == ("no such topic", 0)
        await rig.saved(2)
        assert (rig.delivery.status.state, rig.sample("sink_up")) == ("running", 1)
    assert sink.bodies == bodies
    assert rig.sample("sink_errors_total", kind="misconfigured") == 20


async def test_a_bug_in_a_sink_is_logged_once_and_its_batch_retried() -> None:
    """Whatever else a write raises, with another message each time: one traceback, counted, tried again."""
    sink = FakeSink(*[KeyError(f"number {n}") for n in range(5)])
    with capture_logs() as logs:
        async with Rig(sink) as rig:
            bodies = await rig.post(2)
            await rig.saved(2)
    bugs = [entry for entry in logs if entry["event"].startswith("a bug in the sink")]
    assert len(bugs) == 1
    assert isinstance(bugs[0]["exc_info"], KeyError)
    assert (rig.sample("sink_errors_total", kind="bug"), sink.bodies) == (5, bodies)
    assert rig.delivery.status.last_error == "bug: KeyError('number 4')"


@pytest.mark.parametrize(
    "answer", [WriteResult(retry=[2]), WriteResult(refused={-1: ""}), WriteResult(retry=[0], refused={0: ""})]
)
async def test_an_answer_that_makes_no_sense_is_a_bug_of_the_sink(answer: WriteResult) -> None:
    """It is not taken at its word; the batch is written again, and no other sink is bothered."""
    sink = FakeSink(answer)
    async with Rig(sink) as rig:
        await rig.post(2)
        await rig.saved(2)
    assert len(sink.writes) == 2
    assert rig.sample("sink_errors_total", kind="bug") == 1


@pytest.mark.parametrize("where", ["open", "write"])
async def test_a_sink_that_cancels_itself_is_tried_again(where: str) -> None:
    """A cancellation that nobody asked for would end the loop in silence; it counts as a bug."""

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
    """Others go on meanwhile; what they did is saved in the end, dead letters too, each once."""
    sink = FakeSink(always=lambda batch: WriteResult(refused={0: "odd"}))
    async with Rig(sink, max_records=2) as rig:
        rig.journal.failing = {"commit"}
        bodies = await rig.post(10)
        await until_async(lambda: len(sink.writes) == 5, "a sink that is not serial goes on")
        rig.journal.failing = set()
        await rig.saved(2)
    assert sink.bodies == bodies[1::2]
    assert [letter.body for letter in rig.journal.letters.values()] == bodies[::2]
    assert "commit" in rig.journal.failed


async def test_a_serial_sink_goes_on_while_commits_fail() -> None:
    """It is told of no state that is not saved; when the journal can save again, of the last one."""
    sink = SerialFakeSink()
    async with Rig(sink, serial=True, max_records=2) as rig:
        await until_async(lambda: rig.journal.saved, "opened")
        rig.journal.failing = {"commit"}
        bodies = await rig.post(4)
        await until_async(lambda: len(rig.journal.failed) >= 2, "the commit failed twice")
        await until_async(lambda: sink.bodies == bodies, "all is written")
        assert (sink.told, rig.journal.saved["sink"]) == (["0"], (Cursor(1), "0"))
        rig.journal.failing = set()
        await rig.saved(2)
    assert (sink.bodies, sink.told) == (bodies, ["0", "4"])


async def test_a_serial_sink_gets_no_record_before_a_state_is_saved() -> None:
    """However long the journal can't save it."""
    sink = SerialFakeSink()
    journal = FakeJournal()
    journal.failing = {"commit"}
    async with Rig(sink, serial=True, journal=journal) as rig:
        bodies = await rig.post(4)
        await until_async(lambda: len(journal.failed) >= 2, "the commit failed twice")
        assert [len(batch) for batch in sink.writes] == [0]
        journal.failing = set()
        await rig.saved(2)
    assert sink.bodies == bodies


async def test_a_journal_that_cannot_be_read_is_read_again() -> None:
    """One warning for the outage; then it goes on where it was."""
    sink = FakeSink()
    with capture_logs() as logs:
        async with Rig(sink) as rig:
            rig.journal.failing = {"read", "retries"}
            bodies = await rig.post(2)
            await until_async(lambda: len(rig.journal.failed) >= 2, "reading failed twice")
            rig.journal.failing = set()
            await rig.saved(2)
    assert sink.bodies == bodies
    assert len([entry for entry in logs if "can't read the journal" in entry["event"]]) == 1


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_every_record_ends_in_one_place(seed: int) -> None:
    """Random answers, failing commits and restarts: each record is delivered or a dead letter; once, to a serial sink."""
    rng = random.Random(seed)
    serial = seed % 2 == 0
    journal = FakeJournal()

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
            journal.failing = {"commit"} if rng.random() < 0.3 else set()
            if not journal.failing:
                await until_async(lambda: len(sink.bodies) + len(journal.letters) > len(expected) // 2, "some are settled")
            journal.failing = set()
    sink.always = WriteResult()
    async with Rig(sink, serial=serial, journal=journal) as rig:
        await rig.saved(5)
    buried = [letter.body for letter in journal.letters.values()]
    assert sorted(set(sink.bodies) | set(buried)) == sorted(expected)
    if serial:
        assert sorted(sink.bodies + buried) == sorted(expected)
